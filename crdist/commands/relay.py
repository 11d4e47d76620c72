"""A driver that is a batch job hands its run over to another before its own walltime ends it."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crdist.errors import RunError

if TYPE_CHECKING:
    from crdist_cluster.recipe import ClusterRecipe

__all__ = ["SCRIPT", "relayed", "submit_driver"]

SCRIPT = "driver.sh"
"""Name of the driver's job script in the cluster part of a run's folder."""


class _OutOfTime(BaseException):
    """The driver's walltime is near; nothing between its timer and `relayed` may catch it."""


def submit_driver(recipe: ClusterRecipe, folder: Path) -> str:
    """Submit the job that drives a run, put it in the ledger, and return its id.

    Raises
    ------
    SubmitError
        If the batch system refuses it, with its words.
    """
    from crdist_cluster.ledger import JobLedger, cluster_folder
    from crdist_cluster.queue import batch_system

    job = batch_system(recipe.scheduler).submit(cluster_folder(folder) / SCRIPT)
    JobLedger(folder).add(job, "driver", recipe.scheduler, "driver")
    return job


@contextmanager
def relayed(recipe: ClusterRecipe, folder: Path) -> Iterator[None]:
    """Drive a run until shortly before this job's walltime; then come to an end and submit the next driver.

    Jobs of the run end with their driver; what they had finished is kept, and the next driver goes on from there.

    Parameters
    ----------
    recipe : ClusterRecipe
        Tells the walltime of the driver's job and its margin.
    folder : Path
        Folder of the run.

    Raises
    ------
    RunError
        If nothing was finished in all that time, which the next driver would only repeat.
    """
    import psutil  # type: ignore[import-untyped]

    spec = recipe.job("driver")
    # the process took the place of the job's shell, so it is as old as the job
    age = time.time() - psutil.Process().create_time()
    before = _finished(folder)
    own_handler = signal.signal(signal.SIGALRM, _stop)
    signal.setitimer(signal.ITIMER_REAL, max(spec.walltime_seconds - spec.margin_seconds - age, 1.0))
    try:
        yield
    except _OutOfTime:
        _hand_over(recipe, folder, before)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, own_handler)


def _stop(*_: Any) -> None:
    raise _OutOfTime


def _hand_over(recipe: ClusterRecipe, folder: Path, before: tuple[object, ...]) -> None:
    from crdist_cluster.ledger import cluster_folder
    from crdist_cluster.recipe import walltime_text

    if (cluster_folder(folder) / "cancel").exists():
        raise RunError(f"{folder}: cancelled; what is finished is kept: the same command goes on from there")
    walltime = walltime_text(recipe.job("driver").walltime_seconds)
    if _finished(folder) == before:
        raise RunError(
            f"{folder}: no iteration and no block was finished in the driver's walltime of {walltime}; give 'driver: "
            "{walltime: ...}' more in the cluster recipe and submit it again with --resume"
        )
    job = submit_driver(recipe, folder)
    print(f"crdist: the driver's walltime of {walltime} is near: job {job} drives the run now", file=sys.stderr)


def _finished(folder: Path) -> tuple[object, ...]:
    """What grows with every iteration, product block and stage that is finished."""
    from crdist.progress import PROGRESS_FILE, read_progress

    seen = read_progress(folder / PROGRESS_FILE)
    blocks = sum(1 for _ in folder.glob("*.run/done/*/*"))
    return (None if seen is None else (seen.part, seen.done), blocks)
