"""A run on a batch system, seen and ended from outside its driver."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crdist.commands.options import Json
from crdist.errors import RunError

if TYPE_CHECKING:
    from crdist_cluster.ledger import JobLedger, JobRecord
    from crdist_cluster.queue import BatchSystem

__all__ = ["cancel", "status"]

FOLDER = typer.Argument(
    help="Folder of a 'crdist run' or 'crdist infer', or products store of a 'crdist post'.", metavar="FOLDER"
)

DRIVER_SECONDS = 60.0
JOBS_SECONDS = 60.0
POLL_SECONDS = 0.5
ALIVE_SECONDS = 20.0
"""A driver that wrote its state within this time is given the chance to end by itself."""


def status(
    folder: Annotated[Path, FOLDER],
    lines: Annotated[int, typer.Option(min=0, help="Lines of the log to show.")] = 5,
    as_json: Json = False,
) -> None:
    """Say where a run stands: queue, progress, time left, last lines of its log. Reads files only."""
    from crdist_cluster.report import report_of

    report = report_of(folder, lines)
    print(json.dumps(report.to_dict(), indent=1) if as_json else "\n".join(report.lines()))


def cancel(folder: Annotated[Path, FOLDER]) -> None:
    """End a run and exactly the jobs that it submitted. What is finished is kept."""
    from crdist.durable import write_durably
    from crdist_cluster.ledger import ClusterStatus, JobLedger, cluster_folder
    from crdist_cluster.report import find_run

    run = find_run(folder)
    here = cluster_folder(run)
    if not here.is_dir():
        raise RunError(f"{folder}: no jobs were submitted for it; a run on this machine ends with Ctrl-C or SIGTERM")
    ledger = JobLedger(run)
    jobs = ledger.open_jobs()
    for scheduler in {job.scheduler for job in jobs}:
        _system(scheduler).check_commands()
    now = ClusterStatus.read(run)
    alive = now is not None and not _over(now) and time.time() - now.updated < ALIVE_SECONDS
    if not jobs and not alive:
        print(f"{folder}: no job of it is left, and its driver has ended")
        return
    # a driver that is at work ends its own jobs and says so; a later one knows that this is not meant for it
    write_durably(here / "cancel", b"")
    deadline = time.monotonic() + DRIVER_SECONDS
    while alive and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        now = ClusterStatus.read(run)
        alive = now is not None and not _over(now)
    # the driver puts down its own job's end a moment before it comes
    left = _end(ledger, list({job.id: job for job in (*jobs, *ledger.open_jobs())}.values()))
    if left:
        raise RunError(f"{folder}: jobs {', '.join(left)} are still in the queue; cancel them by hand")
    if alive:
        raise RunError(
            f"{folder}: its jobs have ended, its driver has not answered; see that its process has ended, too"
        )
    print(f"{folder}: cancelled, {len(jobs)} job{'' if len(jobs) == 1 else 's'} ended; what is finished is kept")


def _over(status: object) -> bool:
    return bool(getattr(status, "finished", False)) or getattr(status, "error", None) is not None


def _end(ledger: JobLedger, jobs: list[JobRecord]) -> list[str]:
    """Cancel jobs and see them gone; the ids of those that are not, after a while."""
    from crdist_cluster.queue import JobState

    left: list[str] = []
    for scheduler in sorted({job.scheduler for job in jobs}):
        system = _system(scheduler)
        mine = [job.id for job in jobs if job.scheduler == scheduler]
        deadline = time.monotonic() + JOBS_SECONDS
        told = False
        while mine:
            for seen in system.states(mine).values():
                if seen.state is JobState.gone:
                    ledger.ended(seen.id)
                    mine.remove(seen.id)
            if mine and not told:
                system.cancel(mine)
                told = True
            if not mine or time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
        left += mine
    return left


def _system(name: str) -> BatchSystem:
    from crdist_cluster.kinds import CLUSTER_KINDS
    from crdist_cluster.queue import batch_system

    if name not in CLUSTER_KINDS:
        raise RunError(f"the ledger of jobs names a batch system {name!r}, which is none; cancel its jobs by hand")
    return batch_system(name)
