"""What is done when a run on a batch system ends, however it ends: each step is bounded in time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from crdist.errors import CrdistError
from crdist_cluster.ledger import JobLedger
from crdist_cluster.queue import BatchSystem, JobState
from crdist_cluster.watch import span

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["bounded", "end_jobs", "end_left_over", "performance_report"]

log = logging.getLogger("crdist.cluster")

CLEANUP_SECONDS = 15.0
REPORT_SECONDS = 30.0
CANCEL_SECONDS = 60.0

Tell = Callable[[str], None]


def bounded(seconds: float, act: Callable[[], object], what: str) -> bool:
    """Do something that may fail or hang, for so long at most; whether it was done."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name=f"crdist: {what}", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        log.warning("%s: given up after %s", what, span(seconds))
        return False
    if failures:
        log.warning("%s failed: %r", what, failures[0])
    return not failures


def end_left_over(system: BatchSystem, ledger: JobLedger, scheduler: str, tell: Tell) -> None:
    """End what a driver that was killed has left in the queue: jobs that wait, and would find nobody."""
    mine = [job.id for job in ledger.open_jobs() if job.scheduler == scheduler and job.kind != "driver"]
    if not mine:
        return
    left = end_jobs(system, ledger, mine, tell)
    log.info("%d jobs of an earlier driver ended, %d could not be", len(mine) - len(left), len(left))


def end_jobs(system: BatchSystem, ledger: JobLedger, ids: list[str], tell: Tell) -> list[str]:
    """Cancel jobs and see them gone; the ids of those that are not, after a while."""
    left = list(ids)
    began = time.monotonic()

    def end() -> None:
        told = False
        while left and (passed := time.monotonic() - began) < CANCEL_SECONDS:
            # a job that is being cleared away has ended, though it may be listed for minutes
            over = {JobState.gone, JobState.ending} if passed > CLEANUP_SECONDS else {JobState.gone}
            try:
                for job_id, job in system.states(list(left)).items():
                    if job.state in over:
                        ledger.ended(job_id)
                        left.remove(job_id)
                if left and not told:
                    system.cancel(list(left))
                    told = True
            except CrdistError as error:
                # a batch system that does not answer just now
                log.warning("jobs cannot be cancelled yet: %s", error)
            if left:
                time.sleep(0.5)

    if left:
        bounded(CANCEL_SECONDS, end, "cancelling jobs")
    if left:
        tell(f"jobs {', '.join(left)} could not be seen to end; cancel them by hand if they are still in the queue")
    return list(left)


@contextmanager
def performance_report(client: Client, path: Path) -> Iterator[None]:
    """Save Dask's report of what the workers did; where it cannot be made the run goes on without."""
    import distributed

    report = distributed.performance_report(filename=str(path))

    def enter() -> None:
        with client.as_current():
            report.__enter__()

    def leave() -> None:
        with client.as_current():
            report.__exit__(None, None, None)

    begun = bounded(CLEANUP_SECONDS, enter, "starting the performance report")
    try:
        yield
    finally:
        if begun:
            bounded(REPORT_SECONDS, leave, "writing the performance report")
