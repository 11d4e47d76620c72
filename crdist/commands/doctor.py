"""Doctor: what works on this machine, what does not and why, and what to do."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crdist.commands.options import Json

if TYPE_CHECKING:
    from crdist.doctor import Finding

__all__ = ["check_batch_systems", "check_machine", "doctor"]

# the first asks nobody, the second asks the batch system itself
QUESTIONS: dict[str, tuple[tuple[str, ...], ...]] = {
    "slurm": (("sbatch", "--version"), ("squeue", "--noheader", "--me")),
    "pbs or sge": (("qstat",),),
    "lsf": (("bsub", "-V"), ("bjobs",)),
    "oar": (("oarsub", "--version"), ("oarstat",)),
    "htcondor": (("condor_submit", "-version"), ("condor_q",)),
}
"""By batch system: what it is asked. Nothing is submitted."""

SUBMIT = {"slurm": "sbatch", "pbs or sge": "qsub", "lsf": "bsub", "oar": "oarsub", "htcondor": "condor_submit"}
SMALL_MEMORY_BYTES = 2 * 1024**3


def doctor(
    scratch: Annotated[
        Path | None, typer.Option(help="Folder to try the disk in. Default: that of temporary files.", metavar="DIR")
    ] = None,
    patience: Annotated[
        float, typer.Option(help="Seconds that one program may take to answer.", min=1.0, metavar="SECONDS")
    ] = 60.0,
    as_json: Json = False,
) -> None:
    """Say what works on this machine, what does not and why, and what to do.

    Exit status 0: all that is installed works. 1: something is broken. Nothing is sent anywhere and nothing is kept.
    """
    from crdist import doctor as checks

    folder = (scratch or Path(tempfile.gettempdir())).absolute()
    runs: list[Callable[[], Iterable[Finding]]] = [
        checks.check_software,
        lambda: checks.check_imports(patience),
        lambda: checks.check_plugins(patience),
        lambda: [checks.check_devices(patience)],
        lambda: [checks.check_threading(patience)],
        check_machine,
        lambda: _disk(folder),
        lambda: checks.check_network(Path(tempfile.gettempdir())),
        lambda: check_batch_systems(min(patience, 20.0)),
    ]
    # most of the time is spent in waiting for other programs
    with ThreadPoolExecutor(4) as pool:
        findings = [finding for found in pool.map(lambda run: list(run()), runs) for finding in found]
    sound = checks.is_sound(findings)
    if as_json:
        print(json.dumps({"sound": sound, "findings": [finding.to_dict() for finding in findings]}, indent=1))
    else:
        for finding in findings:
            print(finding)
        n_broken = sum(finding.state == "broken" for finding in findings)
        print("all that is installed works" if sound else f"{n_broken} broken: see the lines that begin so")
    if not sound:
        raise typer.Exit(1)


def check_machine() -> list[Finding]:
    """Cores and memory that this process may use, the limits of containers and batch jobs included."""
    import psutil  # type: ignore[import-untyped]

    from crdist.doctor import Finding
    from crdist_cluster.local import available_cores, available_memory

    cores, all_cores = available_cores(), os.cpu_count() or 1
    memory, all_memory = available_memory(), int(psutil.virtual_memory().total)
    of_cores = f" of {all_cores}, by affinity or a container's limit" if cores < all_cores else ""
    of_memory = f" of {all_memory / 1024**3:.1f}, by a limit of this process" if memory < all_memory else ""
    findings = [
        Finding("cores", "ok", f"{cores}{of_cores}"),
        Finding("memory", "ok", f"{memory / 1024**3:.1f} GiB{of_memory}"),
    ]
    if memory < SMALL_MEMORY_BYTES:
        text = f"{memory / 1024**3:.1f} GiB are little: a run takes about 1 GiB and the source"
        findings.append(Finding("memory", "note", text, "ask for a larger job; 'crdist post --plan' says how much"))
    return findings


def check_batch_systems(seconds: float) -> list[Finding]:
    """Which batch systems' commands this machine has, and whether these answer.

    Parameters
    ----------
    seconds : float
        Time for each answer.
    """
    from crdist.doctor import Finding, run_bounded

    present = [name for name, command in SUBMIT.items() if shutil.which(command) is not None]
    if not present:
        text = f"no batch system's commands here ({', '.join(SUBMIT.values())})"
        return [
            Finding("cluster", "note", text, "log in to a login node to submit jobs; runs on this machine need none")
        ]
    findings = []
    for name in present:
        answers = [(words, run_bounded(words, seconds)) for words in QUESTIONS[name]]
        faults = [f"'{' '.join(words)}' {answer.how}" for words, answer in answers if answer.code != 0]
        if faults:
            advice = f"ask who runs {name} here, or compute on this machine with --cluster local"
            findings.append(Finding("cluster", "broken", f"{name}: {'; '.join(faults)}", advice))
        else:
            asked = " and ".join(f"'{' '.join(words)}'" for words in QUESTIONS[name])
            findings.append(Finding("cluster", "ok", f"{name}: {SUBMIT[name]} is here, {asked} answered"))
    return findings


def _disk(folder: Path) -> list[Finding]:
    from crdist.doctor import check_scratch, check_store_in

    found = check_scratch(folder)
    # where not even a file can be written, a store says nothing more
    return found if found[0].state == "broken" else [*found, check_store_in(folder)]
