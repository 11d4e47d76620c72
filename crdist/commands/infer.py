"""Inference from a run file, here or in a batch job; and the demonstration, which begins with one."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crdist.commands.interrupts import Interrupted, asked_to_stop, stoppable, way_on
from crdist.commands.options import RESUME, RUN_FILE, RUN_FOLDER, RUN_SETTINGS
from crdist.commands.preflight import check_inputs
from crdist.commands.where import Cluster, Place, batch_of, local_workers, place_of
from crdist.errors import RecipeError

if TYPE_CHECKING:
    from crdist.progress import RecordedProgress
    from crdist_inference.run_folder import RunFolder
    from crdist_inference.runfile import RunFile

__all__ = ["demo", "infer", "infer_at", "prepare", "read_run_file", "resume_command"]


def infer(
    run_file: Annotated[Path | None, RUN_FILE] = None,
    folder: Annotated[Path | None, RUN_FOLDER] = None,
    settings: Annotated[list[str] | None, RUN_SETTINGS] = None,
    cluster: Cluster = "local",
    resume: Annotated[bool, RESUME] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Print every setting of a run file, and stop.")] = False,
) -> None:
    """Infer the cosmic-ray density from a gamma-ray map and a gas map: FOLDER/posterior.zarr grows sample by sample."""
    from crdist_inference.runfile import RunFile

    if explain:
        print(RunFile.explained(), end="")
        return
    if run_file is None:
        raise RecipeError("which run file? 'crdist infer RUN.yaml [FOLDER]'; --explain prints all settings")
    run = read_run_file(run_file, settings)
    with way_on(resume_command()):
        infer_at(place_of(cluster), run, folder or Path(run_file.stem), resume)


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder to create.")] = Path("demo"),
    gas: Annotated[
        bool, typer.Option("--gas", help="Instead of an inference, import a synthetic gas map: half a minute.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; default: all cores.")] = None,
    memory: Annotated[str, typer.Option(help="Memory of the products.")] = "3GiB",
) -> None:
    """A synthetic sky goes the whole way: inference, products, and a figure of the result. A model, not data."""
    from crdist.demo import run_demo, run_gas_demo

    workers = local_workers(1, threads, memory)
    if gas:
        figure = run_gas_demo(folder, workers)
    else:
        with way_on(f"crdist demo {folder}"):
            figure = run_demo(folder, workers, _infer_here)
    print(f"figure: {figure}")
    stores = f"{folder}/products.zarr" if gas else f"{folder}/run/products.zarr --posterior {folder}/run/posterior.zarr"
    # as it can be typed where the environment is not activated
    print(f"look around in it: {Path(sys.argv[0])} serve {stores}")


def read_run_file(path: Path, settings: list[str] | None) -> RunFile:
    """A run file with what the command line overrides.

    Raises
    ------
    RecipeError
        If it cannot be read or followed.
    """
    from crdist_inference.runfile import RunFile

    run = RunFile.from_yaml(path)
    return run.with_overrides(settings, folder=Path.cwd()) if settings else run


def resume_command() -> str:
    """This command, as it is to be run to go on."""
    words = [*(word for word in sys.argv[1:] if word not in ("--debug", "--resume")), "--resume"]
    return f"crdist {shlex.join(words)}"


def infer_at(place: Place, run: RunFile, folder: Path, resume: bool) -> RunFolder:
    """Run an inference where it is to run, with its progress on the terminal.

    Raises
    ------
    CrdistError
        As `crdist_inference.run.run_inference`; `RunError` also if no job can run it.
    """
    from crdist_inference.run_folder import RunFolder

    if place.local:
        done = _infer_here(run, folder, resume)
        print(f"{done.folder.posterior}: {done.n_sample} samples in {done.seconds:.1f} s")
    else:
        if place.recipe is not None:
            from crdist_cluster.queue import check_recipe

            check_recipe(place.recipe, ["gpu"])
        made = prepare(run, folder, resume)
        if _is_complete(made.posterior):
            # a job would wait in the queue to find that out
            print(f"{folder / made.posterior.name}: complete already")
        else:
            print(_infer_there(place, run, made), end="")
    return RunFolder(folder)


def prepare(run: RunFile, folder: Path, resume: bool) -> RunFolder:
    """Refuse what cannot be inferred, and make the folder of a run that another process is to run.

    Raises
    ------
    InputFileError, SchemaError, RecipeError, StoreExistsError, CheckpointError
        If inputs are missing or cannot be used, or the folder is of something else; nothing is left behind.
    """
    from crdist.durable import make_folder, write_durably
    from crdist_inference.run_folder import RunFolder, refuse_other

    place = RunFolder(folder.absolute())
    check_inputs(run)
    refuse_other(RunFolder(folder), run, resume)
    make_folder(place.path)
    # with its settings in it the folder is one of a run
    write_durably(place.settings, run.to_yaml().encode())
    return place


def _is_complete(posterior: Path) -> bool:
    from crdist.store import open_inference

    return posterior.exists() and open_inference(posterior).attrs.get("status") == "complete"


def _infer_here(run: Any, folder: Path, resume: bool) -> Any:
    """Run an inference in this process and report it."""
    from crdist.progress import reporting
    from crdist_inference.run import Listener, describe_iteration, run_inference

    with reporting("infer") as update:

        class Terminal(Listener):
            """Lines on standard error, and a bar where that is a terminal."""

            def say(self, text: str) -> None:
                print(text, file=sys.stderr, flush=True)

            def evidence(self, done: int, total: int) -> None:
                update(done, total, "evidence of length and slope")

            def iteration(self, report: Any, done: int, total: int) -> None:
                self.say(describe_iteration(report))
                update(done, total, "iterations")

            stopping = staticmethod(stoppable)

        done = run_inference(run, folder, resume=resume, listener=Terminal())
    if not done.finished:
        raise Interrupted(asked_to_stop())
    for line in done.validation:
        print(line)
    for warning in done.warnings:
        print(f"warning: {warning}")
    return done


def _infer_there(place: Place, run: RunFile, folder: RunFolder) -> str:
    """Run an inference as a task of a worker elsewhere; return what it printed."""
    from crdist.durable import make_folder
    from crdist.progress import reporting
    from crdist_cluster import connect
    from crdist_cluster.inference_job import Allowance, drive_program
    from crdist_cluster.ledger import cluster_folder

    arguments = ["-m", "crdist.cli", "infer", str(folder.settings), str(folder.path), "--resume"]
    logs = cluster_folder(folder.path) / "logs"
    make_folder(logs)
    log = logs / f"inference-{time.strftime('%Y%m%d-%H%M%S')}.log"
    with reporting("infer") as update:

        def show(seen: RecordedProgress) -> None:
            update(seen.done, seen.total, seen.part)

        if place.recipe is None:
            assert place.address is not None
            with connect(place.address) as client:
                return drive_program(client, arguments, folder.path, log, watch=lambda _: None, progress=show)
        spec = place.recipe.job("gpu")
        allowance = Allowance(spec.walltime_seconds, spec.margin_seconds)
        with batch_of(place.recipe, folder.path, "gpu") as batch:

            def tell(seen: RecordedProgress) -> None:
                show(seen)
                batch.report(seen.done, seen.total, seen.part)

            def watch(steps: float) -> None:
                batch.watch(steps, 1)

            return drive_program(
                batch.client, arguments, folder.path, log, allowance=allowance, watch=watch, progress=tell
            )
