"""An inference from its run file to a posterior store, in one folder, resumable after any kill."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crdist.durable import make_folder, remove_partial_files, write_durably
from crdist.errors import CheckpointError, CrdistError, GridError, InferenceError
from crdist.progress import PROGRESS_FILE, ProgressFile
from crdist_inference.assemble import Assembled, assemble, input_files
from crdist_inference.prior import Prior
from crdist_inference.records import IterationReport, Start
from crdist_inference.run_folder import RunFolder, explained, identify, locked, logged, refuse_other
from crdist_inference.runfile import RunFile
from crdist_inference.writing import MAIN, PosteriorWriter, create_store

__all__ = ["InferenceRun", "Listener", "describe_iteration", "joint_starts", "run_inference"]

log = logging.getLogger("crdist.inference")


class Listener:
    """What a run tells while it works; this one says nothing."""

    def say(self, text: str) -> None:
        """A line on what is done now."""

    def evidence(self, done: int, total: int) -> None:
        """Points of the evidence grid."""

    def iteration(self, report: IterationReport, done: int, total: int) -> None:
        """An iteration that is finished, and how many of all are."""

    def stopping(self) -> AbstractContextManager[Callable[[], bool]]:
        """While the inference runs: a function that turns true where it shall end after its iteration."""
        return nullcontext(lambda: False)


@dataclass(frozen=True, eq=False)
class InferenceRun:
    """What a run did.

    Parameters
    ----------
    folder : RunFolder
    finished : bool
        False if it was stopped; it can be resumed.
    n_sample : int
        Samples in the store.
    warnings : tuple of str
        What a reader of the samples must know.
    seconds : float
    validation : tuple of str
        Lines that compare the samples with the truth of a synthetic sky.
    """

    folder: RunFolder
    finished: bool
    n_sample: int
    warnings: tuple[str, ...]
    seconds: float
    validation: tuple[str, ...] = ()


def run_inference(run: RunFile, path: Path, *, resume: bool = False, listener: Listener | None = None) -> InferenceRun:
    """Infer what a run file asks for, into a folder.

    Parameters
    ----------
    run : RunFile
    path : Path
        Folder of the run; new, or with ``resume`` that of a run of the same settings and inputs.
    resume : bool
        Continue a run; where there is none yet, start one.
    listener : Listener, optional
        Is told what happens.

    Returns
    -------
    InferenceRun

    Raises
    ------
    InputFileError
        If input files are missing or cannot be used; nothing is left behind.
    StoreExistsError
        If the folder exists and ``resume`` is not set, or is none of a run.
    CheckpointError
        If the run in the folder is of other settings or inputs.
    InferenceError
        If a number is none, or a device is full; what is finished is kept.
    RunError
        If another process runs it, or the disk is full.
    """
    listener = listener or Listener()
    folder = RunFolder(path)
    # files that are missing are said before a folder is made
    input_files(run)
    refuse_other(folder, run, resume)
    started = time.monotonic()
    new = not path.exists()
    with explained(folder):
        make_folder(path)
        try:
            with locked(folder), logged(folder):
                remove_partial_files(path)
                write_durably(folder.settings, run.to_yaml().encode())
                result = _infer(run, folder, listener)
                log.info("%s after %.1f s", "complete" if result.finished else "stopped", time.monotonic() - started)
        except CrdistError:
            if new and not folder.posterior.exists():
                # inputs that cannot be used leave nothing behind
                shutil.rmtree(path, ignore_errors=True)
            raise
    return InferenceRun(
        folder, result.finished, result.n_sample, result.warnings, time.monotonic() - started, result.validation
    )


def _infer(run: RunFile, folder: RunFolder, listener: Listener) -> InferenceRun:
    def say(text: str) -> None:
        log.info(text)
        listener.say(text)

    assembled = assemble(run, folder.path, say=say)
    identify(folder, assembled.fingerprint)
    problem = assembled.problem
    say(
        f"{problem.n_used} of {problem.grid.n_pixel} pixels, {problem.grid.n_shell} shells, "
        f"{problem.grid.n_pixel * problem.grid.n_shell} cells"
    )
    if not folder.posterior.exists():
        create_store(folder.posterior, run, assembled)
    writer = PosteriorWriter(folder.posterior, latents=run.output.latents)

    # JAX takes seconds to load, and what is asked for may have been refused by now
    from crdist_inference.compiled import keep_compiled
    from crdist_inference.geovi import Settings, infer
    from crdist_inference.refinement import Refinement

    keep_compiled()

    settings = Settings(**run.inference.schedule.model_dump(), n_pairs=run.inference.n_pairs)
    progress = ProgressFile(folder.path / PROGRESS_FILE)
    draws = _draws(run, assembled, folder, writer, listener, progress)
    name = "draw" if run.inference.mode == "evidence" else "start"
    for number, draw in enumerate(draws):
        scale = "" if draw.scale is None else f", scale {draw.scale:.3g} to start with"
        say(f"{name} {number + 1}: length {draw.length:.3g} kpc, slope {draw.slope:.3g}{scale}")
    total = sum(settings.iterations(draw) for draw in range(len(draws)))
    reports: list[IterationReport] = []

    def report(own: IterationReport) -> None:
        reports.append(own)
        done = sum(settings.iterations(draw) for draw in range(own.draw)) + own.iteration + 1
        progress.tell("iterations", done, total)
        log.info(describe_iteration(own))
        for warning in own.warnings:
            log.warning("draw %d, iteration %d: %s", own.draw + 1, own.iteration + 1, warning)
        listener.iteration(own, done, total)

    with _device_errors(run), listener.stopping() as stopping:
        field = Refinement(
            problem.grid,
            base_nside=run.inference.base_nside,
            window=run.inference.window,
            dtype=np.dtype(run.inference.dtype),
        )
        make_folder(folder.checkpoint)
        summary = infer(
            problem,
            field,
            draws,
            settings,
            mode=run.inference.mode,
            seed=run.inference.seed,
            folder=folder.checkpoint,
            resume=True,
            fingerprint=assembled.fingerprint,
            report=report,
            on_sample=writer.add,
            stopping=stopping,
        )
    writer.write_reports(summary.reports)
    if not summary.finished:
        return InferenceRun(folder, False, writer.n_stored, (), 0.0)
    for warning in summary.warnings:
        log.warning(warning)
    lines = _validate(folder, assembled, writer)
    writer.finish(summary.warnings)
    return InferenceRun(folder, True, writer.n_stored, summary.warnings, 0.0, lines)


def describe_iteration(report: IterationReport) -> str:
    """One line on an iteration.

    Examples
    --------
    >>> describe_iteration(IterationReport(0, 2, 3, 8, 4, 512.34, 1.02, {"scale": (0.7, 0.1)}, (3, 4), 5, 0.2, 7.5))
    'draw 1/2 iteration 4/8: KL 512.3, chi2 1.020, scale 0.7+-0.1, change 0.20, 4 samples, 7.5 s'
    """
    # those that a draw holds fixed were said when it began
    scalars = [f"{name} {mean:.4g}+-{std:.2g}" for name, (mean, std) in report.hyperparameters.items() if std > 0]
    change = [] if math.isnan(report.change) else [f"change {report.change:.2f}"]
    parts = [
        f"KL {report.energy:.1f}",
        f"chi2 {report.reduced_chi2:.3f}",
        *scalars,
        *change,
        f"{report.n_sample} samples",
        f"{report.seconds:.1f} s",
    ]
    where = f"draw {report.draw + 1}/{report.n_draw} iteration {report.iteration + 1}/{report.n_iteration}"
    return f"{where}: {', '.join(parts)}"


def joint_starts(prior: Prior, n: int) -> list[Start]:
    """Lengths [kpc] and slopes to start the joint mode from, at opposite ends of the ridge along which they trade off.

    Length and slope are anticorrelated given data, so the ends are long and shallow, and short and steep: one standard
    deviation of the prior either way. One start is the prior's median.

    Examples
    --------
    >>> [(round(start.length, 2), round(start.slope, 2)) for start in joint_starts(Prior(), 2)]
    [(3.35, 7.87), (8.61, 4.11)]
    """
    at = np.linspace(-1.0, 1.0, n) if n > 1 else np.zeros(1)
    lengths = np.exp(prior.length.log_mean + prior.length.log_std * at)
    slopes = np.exp(prior.slope.log_mean - prior.slope.log_std * at)
    return [Start(float(length), float(slope)) for length, slope in zip(lengths, slopes, strict=True)]


def _draws(
    run: RunFile,
    assembled: Assembled,
    folder: RunFolder,
    writer: PosteriorWriter,
    listener: Listener,
    progress: ProgressFile,
) -> list[Start]:
    """Where geoVI runs, or starts from; as an earlier run of the folder drew it."""
    inference = run.inference
    if inference.mode == "joint":
        return joint_starts(assembled.problem.prior, inference.draws)
    from crdist_inference.covariance import Covariance
    from crdist_inference.evidence import EvidenceGrid, evidence_grid
    from crdist_inference.laplace import laplace

    if folder.evidence.exists():
        try:
            kept = json.loads(folder.evidence.read_text())
            grid = EvidenceGrid.from_dict(kept["grid"])
            draws = [Start(**draw) for draw in kept["draws"]]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder.evidence}: is damaged ({error}); remove it to compute it again") from error
    else:
        of = inference.evidence
        fine = assembled.problem
        nside, n_shell = min(of.nside, fine.grid.nside), min(of.n_shell, fine.grid.n_shell)
        coarse = fine
        if (nside, n_shell) != (fine.grid.nside, fine.grid.n_shell):
            coarse = fine.coarsened(nside, n_shell)
        log.info("evidence of length and slope at nside %d x %d shells", nside, n_shell)

        def point(done: int, total: int) -> None:
            progress.tell("points of the evidence", done, total)
            listener.evidence(done, total)

        grid = evidence_grid(coarse, fine=fine.grid, n_length=of.n_length, n_slope=of.n_slope, progress=point)
        (length, slope), (length_std, slope_std) = grid.mean, grid.std
        found = (
            f"evidence: length {length:.3g}+-{length_std:.2g} kpc, slope {slope:.3g}+-{slope_std:.2g}, "
            f"correlation {grid.correlation:.2f}"
        )
        log.info(found)
        listener.say(found)
        if grid.n_unconverged:
            log.warning("the evidence did not converge at %d points of its grid", grid.n_unconverged)
        drawn = grid.draw(inference.draws, np.random.default_rng(inference.seed))
        covariance = Covariance(coarse.grid, coarse.used, fine=fine.grid)
        points = [laplace(coarse, *draw, covariance=covariance) for draw in drawn]
        draws = [Start(at.length, at.slope, math.exp(at.log_scale), at.offset) for at in points]
        kept = {"grid": grid.to_dict(), "draws": [asdict(draw) for draw in draws]}
        write_durably(folder.evidence, json.dumps(kept).encode())
    writer.write_evidence(grid.lengths, grid.slopes, grid.log_posterior)
    return draws


def _validate(folder: RunFolder, assembled: Assembled, writer: PosteriorWriter) -> tuple[str, ...]:
    """Compare the samples with the truth, where there is one."""
    if assembled.truth is None:
        return ()
    import zarr

    from crdist_inference.validation import validate

    group: Any = zarr.open_group(str(folder.posterior), mode="r")
    beside = {name: np.asarray(group[f"inference/{name}"][...]) for name in ("sky", "draw", "scale")}
    try:
        report = validate(
            np.moveaxis(np.asarray(group[MAIN][...], dtype=np.float64), -1, 0),
            assembled.truth.density,
            assembled.problem,
            beside["sky"].T,
            groups=beside["draw"],
            scale=beside["scale"],
        )
    except GridError as error:
        return (f"not compared with the truth: {error}",)
    content = report.to_dict()
    write_durably(folder.validation, json.dumps(content, indent=1).encode())
    writer.set_attributes({"validation": content})
    lines = tuple(report.lines())
    for line in lines:
        log.info(line)
    return lines


@contextmanager
def _device_errors(run: RunFile) -> Iterator[None]:
    """Say in a line what to lower where a device's memory is full."""
    try:
        yield
    except MemoryError as error:
        raise _too_large(run) from error
    except RuntimeError as error:
        # XLA's own error class has had several names and homes
        if isinstance(error, CrdistError) or not any(
            words in str(error) for words in ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")
        ):
            raise
        raise _too_large(run) from error


def _too_large(run: RunFile) -> InferenceError:
    inference, grid = run.inference, run.grid
    ways = ["more inference.draws (fewer samples at once)" if inference.n_pairs > 1 else "fewer inference.samples"]
    if inference.dtype == "float64":
        ways.insert(0, "inference.dtype=float32")
    return InferenceError(
        f"the device's memory is full at nside {grid.nside} x {grid.n_shell} shells, {2 * inference.n_pairs} samples a "
        f"draw in {inference.dtype}; finished iterations are kept: in a new folder, try {', '.join(ways)}, or a "
        "smaller grid"
    )
