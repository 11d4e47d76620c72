"""A Dask cluster made of batch jobs, for one run: started, watched, and ended without leaving anything behind."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from crdist.durable import make_folder
from crdist.errors import CrdistError, RunError
from crdist_cluster.ending import CLEANUP_SECONDS, bounded, end_jobs, end_left_over, performance_report
from crdist_cluster.fleet import Fleet
from crdist_cluster.jobscript import cluster_arguments, recorded_cluster_class
from crdist_cluster.ledger import ClusterStatus, JobLedger, cluster_folder
from crdist_cluster.local import COMMON_SETTINGS
from crdist_cluster.queue import batch_system, check_recipe
from crdist_cluster.recipe import ClusterRecipe
from crdist_cluster.security import temporary_security
from crdist_cluster.versions import breaking, differing
from crdist_cluster.watch import Patience, Verdict, Watch

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Batch", "batch_client"]

log = logging.getLogger("crdist.cluster")

LOOK_SECONDS = 0.5
STATUS_SECONDS = 2.0
START_SECONDS = 60.0

JOB_ID_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "OAR_JOB_ID", "JOB_ID")
"""Where batch systems tell a job its id; the driver may be one."""

Tell = Callable[[str], None]


def _tell(line: str) -> None:
    print(f"crdist: {line}", file=sys.stderr, flush=True)


@contextmanager
def batch_client(
    recipe: ClusterRecipe, folder: Path, *, kind: Literal["cpu", "gpu"] = "cpu", tell: Tell = _tell
) -> Iterator[Batch]:
    """A Dask cluster of batch jobs, and a client of it.

    Jobs are submitted as soon as there is work or `Batch.workers_needed` is called. At the end, however it comes,
    the jobs are ended and the keys removed; each step of that is bounded in time. If the driver is killed outright,
    its jobs end by themselves: they lose their scheduler.

    Parameters
    ----------
    recipe : ClusterRecipe
        Kind of batch system, and what to ask of it.
    folder : Path
        The run's folder, on a disk that the nodes share; ``folder/cluster`` holds the ledger of jobs, their logs, the
        state for onlookers, and Dask's performance report.
    kind : {"cpu", "gpu"}
        Which of the recipe's jobs; of ``gpu`` there is one at a time.
    tell : callable, optional
        Called with a line whenever the run's state changes; default: prints to standard error.

    Raises
    ------
    RecipeError, RunError
        Before anything is submitted, if the recipe cannot work here.
    """
    import dask
    from distributed import Client

    folder = folder.absolute()
    here = cluster_folder(folder)
    check_recipe(recipe, [kind])
    system = batch_system(recipe.scheduler)
    ledger = JobLedger(folder)
    logs = here / "logs"
    make_folder(logs)
    _forget_old_wish(here)
    end_left_over(system, ledger, recipe.scheduler, tell)
    settings = {
        **COMMON_SETTINGS,
        "distributed.scheduler.allowed-failures": recipe.allowed_losses,
        # a worker that was stopped, or whose node is out of reach
        "distributed.scheduler.worker-ttl": "60s",
    }
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    tls_folder = here / "tls"
    prefix = f"crdist-{os.urandom(3).hex()}"
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        security = stack.enter_context(temporary_security(tls_folder) if recipe.tls else nullcontext())
        late: list[Fleet] = []
        cluster_class = recorded_cluster_class(
            recipe.scheduler,
            lambda job_id: late[0].submitted(job_id),
            lambda command, stderr: late[0].failed(command, stderr),
        )
        arguments = cluster_arguments(recipe, kind, logs, security=security, tls_folder=tls_folder, name=prefix)
        try:
            cluster = cluster_class(**arguments)
        except (OSError, RuntimeError, ValueError) as error:
            raise RunError(f"the Dask scheduler could not start here: {_innermost(error)}") from error
        stack.callback(bounded, CLEANUP_SECONDS, cluster.close, "closing the Dask scheduler")
        client = Client(cluster, set_as_default=False, timeout=START_SECONDS)
        stack.callback(bounded, CLEANUP_SECONDS, client.close, "closing the Dask client")
        spec = recipe.job(kind)
        fleet = Fleet(
            cluster,
            system,
            ledger,
            kind=kind,
            scheduler=recipe.scheduler,
            limits=recipe.n_jobs if kind == "cpu" else (0, 1),
            threads=spec.cores if kind == "cpu" else 1,
            logs=logs,
            prefix=prefix,
        )
        late.append(fleet)
        stack.callback(fleet.stop)
        patience = Patience(
            recipe.queue_patience_seconds,
            recipe.stall_patience_seconds,
            recipe.submit_attempts,
            recipe.allowed_losses,
        )
        batch = Batch(client, fleet, folder, patience, stage="post" if kind == "cpu" else "infer", tell=tell)
        failure: BaseException | None = None
        try:
            with performance_report(client, here / "performance.html"):
                yield batch
        except BaseException as raised:
            failure = raised
            raise
        finally:
            fleet.stop()
            batch.settle()
            # workers that the scheduler closes end their jobs themselves, and tidy up on their nodes
            stack.close()
            left = end_jobs(system, ledger, [job.id for job in ledger.open_jobs() if job.kind == kind], tell)
            batch.close(failure, left)


class Batch:
    """A run's cluster of batch jobs, seen from its driver."""

    def __init__(
        self, client: Client, fleet: Fleet, folder: Path, patience: Patience, *, stage: str, tell: Tell
    ) -> None:
        self.client = client
        self.fleet = fleet
        self.folder = folder
        self.stage = stage
        self._tell = tell
        self._watch = Watch(patience)
        self._tick: concurrent.futures.Future[None] | None = None
        self._looked = self._written = float("-inf")
        self._verdict = Verdict("idle", "starting")
        self._told: tuple[object, ...] = ()
        self._progress = (0.0, 0.0, "")
        self._first: tuple[float, float] | None = None
        self._versions: threading.Thread | None = None
        self._hosts: set[str] = set()
        self._complaints: list[str] = []
        self._breaking: str | None = None

    def watch(self, done: float, left: int | None = None) -> None:
        """Look after the jobs; call it about every second, and after each piece of work.

        Parameters
        ----------
        done : float
            Progress so far, in any unit: what counts is that it grows.
        left : int, optional
            Pieces of work that are left. Where it is given no more jobs are kept than have something to do.

        Raises
        ------
        RunError
            If somebody cancelled the run, or there is no hope: nothing can be submitted, no job comes up, nothing is
            finished for too long. The message says which.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        self.fleet.left = left
        self._start_tick()
        if (cluster_folder(self.folder) / "cancel").exists():
            raise RunError(f"{self.folder}: cancelled; what is finished is kept: the same command goes on from there")
        self._check_versions()
        self._verdict = self._watch.look(self.fleet.sight(done))
        self._say()
        if now - self._written >= STATUS_SECONDS:
            self._written = now
            self._write_status()
        if self._breaking is not None:
            raise RunError(self._breaking)
        if self._verdict.error is not None:
            raise RunError(self._verdict.error)

    def workers_needed(self) -> None:
        """Wait for the first worker, with `watch`.

        Raises
        ------
        RunError
            As `watch`.
        """
        self.fleet.at_least_one = True
        try:
            while not any(job.connected for job in self.fleet.jobs.values()):
                self.watch(self._progress[0])
                time.sleep(LOOK_SECONDS)
        finally:
            self.fleet.at_least_one = False

    def report(self, done: float, total: float, text: str = "") -> None:
        """Note the progress that onlookers are shown."""
        now = time.monotonic()
        if self._first is None:
            # what an earlier run has done says nothing of this one's speed
            self._first = (now, done)
        self._progress = (done, total, text)

    def settle(self) -> None:
        """Wait for what is being done about the jobs just now: one that is being submitted shall be in the ledger."""
        if self._tick is not None:
            concurrent.futures.wait([self._tick], CLEANUP_SECONDS)

    def close(self, error: BaseException | None, left: list[str]) -> None:
        """Write the last state: how the run ended, and which jobs could not be ended."""
        text = None
        if error is not None:
            # a signal is no Exception, and its words are a number
            words = _innermost(error) if isinstance(error, Exception) else "interrupted"
            text = str(error) if isinstance(error, CrdistError) else words or type(error).__name__
        state = "stopped" if error is not None else "done"
        if left:
            state += f"; jobs {', '.join(left)} may still be in the queue"
        for name, job in list(self.fleet.jobs.items()):
            if job.id not in left:
                del self.fleet.jobs[name]
        self._verdict = Verdict("idle", state)
        self._write_status(finished=error is None, error=text)

    def _start_tick(self) -> None:
        if self._tick is not None:
            if not self._tick.done():
                return
            with suppress(Exception):
                self._tick.result()
            if (failed := self._tick.exception()) is not None:
                log.error("looking after the jobs failed", exc_info=failed)
        self._tick = asyncio.run_coroutine_threadsafe(self.fleet.tick(), self.client.loop.asyncio_loop)

    def _say(self) -> None:
        verdict = self._verdict
        sight = verdict.words if verdict.state in ("failing", "stuck") else ""
        told = (verdict.state, sight.partition(" for ")[0])
        if told != self._told:
            self._told = told
            log.info("%s: %s", verdict.state, verdict.words)
            self._tell(verdict.words)

    def _check_versions(self) -> None:
        """Compare the software of workers on new hosts with this process's, in a thread: a worker may be slow."""
        for line in self._complaints:
            self._tell(line)
        self._complaints.clear()
        if self._versions is not None and self._versions.is_alive():
            return
        scheduler: Any = self.client.cluster.scheduler
        new = {worker.address for worker in list(scheduler.workers.values()) if worker.host not in self._hosts}
        if not new:
            return
        self._hosts |= {worker.host for worker in list(scheduler.workers.values())}

        def compare() -> None:
            with suppress(OSError, TimeoutError):
                found = differing(self.client)
                self._breaking = breaking(found)
                self._complaints += found.values()

        self._versions = threading.Thread(target=compare, name="crdist-versions", daemon=True)
        self._versions.start()

    def _write_status(self, finished: bool = False, error: str | None = None) -> None:
        done, total, text = self._progress
        eta = None
        if self._first is not None and total:
            since, before = self._first
            speed = (done - before) / max(time.monotonic() - since, 1e-9)
            eta = (total - done) / speed if speed > 0 else None
        jobs = []
        for job in list(self.fleet.jobs.values()):
            seen = {} if job.seen is None else {key: str(value or "") for key, value in asdict(job.seen).items()}
            jobs.append({"state": "pending", **seen, "id": job.id, "name": job.name, "worker": job.connected})
        own = next((os.environ[name] for name in JOB_ID_VARIABLES if name in os.environ), None)
        status = ClusterStatus(
            stage=self.stage,
            done=done,
            total=total,
            text=text,
            eta_seconds=eta,
            state=self._verdict.words,
            jobs=jobs,
            driver={"host": socket.gethostname(), "pid": os.getpid(), "job_id": own},
            updated=time.time(),
            finished=finished,
            error=error,
        )
        # a full disk ends the run where its results cannot be written, not here
        with suppress(OSError):
            status.write(self.folder)


def _forget_old_wish(here: Path) -> None:
    """Remove the wish to cancel an earlier run; one that came after this process started is meant for it."""
    import psutil  # type: ignore[import-untyped]

    wish = here / "cancel"
    with suppress(FileNotFoundError):
        if wish.stat().st_mtime < psutil.Process().create_time():
            wish.unlink()


def _innermost(error: BaseException) -> str:
    """The words of the error that was first, without line breaks."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())
