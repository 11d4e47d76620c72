"""The jobs of a run: submitted as long as there is work, replaced when they are lost, ended when nothing is left to do.

dask-jobqueue writes the job scripts and calls the batch system; which jobs there shall be is decided here. Its own
ways do not fit: ``scale`` never replaces a job that was lost, and both it and ``adapt`` forget one whose submission
failed (dask-jobqueue issues 611 and 691, distributed issue 5919).
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crdist_cluster.ledger import JobLedger
from crdist_cluster.queue import BatchSystem, JobState, QueuedJob
from crdist_cluster.watch import Sight, backoff_seconds

__all__ = ["Fleet", "FleetJob"]

log = logging.getLogger("crdist.cluster")

POLL_SECONDS = 5.0
SOON_SECONDS = 1.0
"""Time between two looks at the queue: as a rule, and after something has changed."""

SUBMIT_SECONDS = 120.0
SUBMIT_TOGETHER = 8

ABSENT_SECONDS = 60.0
"""A nanny starts a new worker in a few seconds; after this long the job is of no use."""

ANSWER_SECONDS = 240.0
"""Time for a job that runs to bring up its worker; slow shared disks included."""

SURPLUS_SECONDS = 5.0
"""Jobs are too many only after this long: between two products there is a moment without tasks."""

OVER = ("memory", "erred", "released", "forgotten")
"""States of Dask tasks that need no thread any more."""

_submitting: contextvars.ContextVar[str] = contextvars.ContextVar("crdist_submitting")


@dataclass(slots=True)
class FleetJob:
    """A job, from its submission until it is gone from the queue."""

    name: str
    """Of its worker."""
    id: str
    process: Any
    """dask-jobqueue's record of it."""
    submitted: float
    connected: bool = False
    """Whether its worker is there now."""
    answered: bool = False
    """Whether its worker has ever been there."""
    absent_since: float | None = None
    running_since: float | None = None
    seen: QueuedJob | None = None
    """As the queue last showed it."""
    times_gone: int = 0
    ending: bool = False
    """Whether it was told to end."""
    surplus: bool = False
    """Whether it was told so because it is not needed."""

    @property
    def over(self) -> bool:
        """Whether the batch system is clearing it away, which may take minutes."""
        return not self.connected and self.seen is not None and self.seen.state is JobState.ending


class Fleet:
    """The jobs of one kind. `tick` runs on the cluster's event loop, the queue is read in a thread.

    Parameters
    ----------
    cluster : dask_jobqueue.JobQueueCluster
        Its scheduler runs in this process; none of its own ways to scale is used.
    system : BatchSystem
    ledger : JobLedger
    kind, scheduler : str
        For the ledger.
    limits : tuple of int
        The least and the greatest number of jobs.
    threads : int
        Of each job's worker.
    logs : Path
        Where the jobs' logs appear.
    prefix : str
        Of the workers' names.
    """

    def __init__(
        self,
        cluster: Any,
        system: BatchSystem,
        ledger: JobLedger,
        *,
        kind: str,
        scheduler: str,
        limits: tuple[int, int],
        threads: int,
        logs: Path,
        prefix: str,
    ) -> None:
        self._cluster, self._system, self._ledger = cluster, system, ledger
        self._kind, self._scheduler = kind, scheduler
        self._limits, self._threads = limits, threads
        self._logs, self._prefix = logs, prefix
        self.jobs: dict[str, FleetJob] = {}
        self.left: int | None = None
        """Pieces of work that are left, where the driver has said so."""
        self.at_least_one = False
        """Whether a worker is wanted though no task was sent yet."""
        self._number = 0
        self._submit_failures = 0
        self._failure = ""
        self._told = 0
        self._next_attempt = 0.0
        self._barren = 0
        self._barren_log = ""
        self._lost = 0
        self._surplus_since: float | None = None
        self._polled_at = 0.0
        self._states: dict[str, QueuedJob] = {}
        self._queue_error = ""
        self._soon = threading.Event()
        self._stopped = threading.Event()
        self._met: set[str] = set()
        cluster.scheduler.add_plugin(_greeter(self._met), name=f"{prefix}-met")
        self._poller = threading.Thread(target=self._poll, name="crdist-queue", daemon=True)
        self._poller.start()

    # what dask-jobqueue reports while it submits

    def submitted(self, job_id: str) -> None:
        """Put a job into the ledger, before anything else can happen to it."""
        self._ledger.add(job_id, self._kind, self._scheduler, _submitting.get(""))
        log.info("job %s submitted", job_id)

    def failed(self, command: str, stderr: str) -> None:
        """Keep what a failed submission said."""
        self._told += 1
        self._failure = f"command: {command}; stderr: {' '.join(stderr.split()) or 'nothing'}"
        log.warning("submission failed; %s", self._failure)

    # the loop's part

    async def tick(self) -> None:
        """Take note of what came and went, and bring the number of jobs to what it should be."""
        if self._stopped.is_set():
            return
        now = time.monotonic()
        self._meet_workers(now)
        for job in list(self.jobs.values()):
            self._judge(job, now)
        await self._end([job for job in self.jobs.values() if not job.ending and self._useless(job, now)])
        target = self.wanted()
        staying = [job for job in self.jobs.values() if not (job.ending or job.over)]
        if len(staying) < target and now >= self._next_attempt:
            await self._submit(min(target - len(staying), 1 if self._submit_failures else SUBMIT_TOGETHER))
        if len(staying) <= target:
            self._surplus_since = None
        elif self._surplus_since is None:
            self._surplus_since = now
        elif now - self._surplus_since > SURPLUS_SECONDS:
            await self._shrink(staying, len(staying) - target)

    def wanted(self) -> int:
        """The number of jobs that there should be."""
        least, most = self._limits
        if self.left is not None:
            needed = math.ceil(self.left / self._threads)
        else:
            waiting = sum(task.state not in OVER for task in list(self._cluster.scheduler.tasks.values()))
            there = self._threads * sum(job.connected for job in self.jobs.values())
            # the driver sends a little more than fits: more tasks than threads mean that there may be many more
            needed = most if waiting > there else math.ceil(waiting / self._threads)
        return min(max(needed, least, int(self.at_least_one)), most)

    def sight(self, done: float) -> Sight:
        """What there is to see, for the watch."""
        jobs = list(self.jobs.values())
        states = [job.seen.state if job.seen is not None else JobState.pending for job in jobs if not job.connected]
        workers = list(self._cluster.scheduler.workers.values())
        reasons = {job.seen.reason for job in jobs if job.seen is not None and job.seen.state is JobState.pending}
        return Sight(
            now=time.monotonic(),
            done=done,
            wanted=self.wanted(),
            workers=len(workers),
            paused=sum(worker.status.name == "paused" for worker in workers),
            pending=states.count(JobState.pending),
            held=states.count(JobState.held),
            running=states.count(JobState.running),
            reasons=tuple(sorted(reason for reason in reasons if reason)),
            submit_failures=self._submit_failures,
            failure=self._failure,
            barren=self._barren,
            barren_log=self._barren_log,
            lost=self._lost,
            queue_error=self._queue_error,
        )

    def stop(self) -> None:
        """Submit and replace nothing any more, and leave the queue alone."""
        self._stopped.set()
        self._soon.set()

    def _meet_workers(self, now: float) -> None:
        names = {str(worker.name) for worker in self._cluster.scheduler.workers.values()}
        for job in self.jobs.values():
            there = job.name in names
            if there and not job.connected:
                job.answered, job.absent_since = True, None
                self._barren, self._barren_log = 0, ""
            elif job.connected and not there:
                job.absent_since = now
                self._soon.set()
            job.connected = there

    def _judge(self, job: FleetJob, now: float) -> None:
        """Compare a job with what the queue says of it."""
        seen = self._states.get(job.id)
        # what the queue said before the job was there says nothing of it
        if seen is None or self._polled_at <= job.submitted or seen is job.seen:
            return
        job.seen = seen
        if seen.state is JobState.running and job.running_since is None:
            job.running_since = now
        job.times_gone = job.times_gone + 1 if seen.state is JobState.gone else 0
        # some systems list a job only some time after they have taken it
        if job.times_gone == 1:
            self._soon.set()
        if job.times_gone < 2 or job.connected:
            return
        del self.jobs[job.name]
        self._ledger.ended(job.id)
        if job.surplus:
            return
        # a worker may come and go between two ticks
        if job.answered or job.name in self._met:
            self._lost += 1
            log.info("job %s ended; it is replaced where there is work left", job.id)
        else:
            self._barren += 1
            self._barren_log = _last_words(self._logs, job.id)
            # a set-up that fails at once must not fill the queue
            self._next_attempt = max(self._next_attempt, now + backoff_seconds(self._barren))
            log.warning("job %s ended before its worker answered; %s", job.id, self._barren_log)

    def _useless(self, job: FleetJob, now: float) -> bool:
        """Whether a job runs without its worker for too long: stopped, unreachable, or never come up."""
        if job.connected or job.seen is None or job.seen.state is not JobState.running:
            return False
        if job.absent_since is not None:
            return now - job.absent_since > ABSENT_SECONDS
        return job.running_since is not None and now - job.running_since > ANSWER_SECONDS

    async def _submit(self, n: int) -> None:
        done = await asyncio.gather(*(self._submit_one() for _ in range(n)))
        if any(done):
            self._submit_failures, self._failure = 0, ""
            self._soon.set()
        else:
            self._submit_failures += 1
            self._next_attempt = time.monotonic() + backoff_seconds(self._submit_failures)

    async def _submit_one(self) -> bool:
        self._number += 1
        name = f"{self._prefix}-{self._number}"
        _submitting.set(name)
        spec = self._cluster.new_spec
        scheduler = self._cluster.scheduler
        address = scheduler.contact_address or scheduler.address
        process = spec["cls"](address, name=name, **spec["options"])
        told = self._told
        try:
            await asyncio.wait_for(process.start(), SUBMIT_SECONDS)
        except TimeoutError:
            self.failed(process.submit_command, f"no answer in {SUBMIT_SECONDS:.0f} s")
            return False
        except Exception as error:
            if self._told == told:
                # it failed before the command was run, or after: the file, the job's id
                self.failed(process.submit_command, f"{type(error).__name__}: {error}")
            return False
        self.jobs[name] = FleetJob(name, str(process.job_id), process, time.monotonic())
        return True

    async def _shrink(self, staying: list[FleetJob], surplus: int) -> None:
        """End jobs that are not needed: those still in the queue first, then those whose workers have nothing to do."""
        waiting = [job for job in reversed(staying) if not job.connected][:surplus]
        workers = {str(worker.name): worker for worker in self._cluster.scheduler.workers.values()}
        idle = [job for job in reversed(staying) if job.connected and not workers[job.name].processing]
        idle = idle[: surplus - len(waiting)]
        if idle:
            scheduler = self._cluster.scheduler
            with suppress(Exception):
                await asyncio.wait_for(scheduler.retire_workers(names=[job.name for job in idle]), ABSENT_SECONDS)
        for job in waiting + idle:
            job.surplus = True
        await self._end(waiting + idle)

    async def _end(self, jobs: list[FleetJob]) -> None:
        if not jobs:
            return
        for job in jobs:
            job.ending = True
        log.info("ending jobs %s", ", ".join(job.id for job in jobs))
        try:
            await asyncio.to_thread(self._system.cancel, [job.id for job in jobs])
        except Exception as error:
            log.warning("jobs could not be cancelled now: %s", error)
            for job in jobs:
                # tried again at the next tick, or at the end
                job.ending = False
        self._soon.set()

    # the queue's part

    def _poll(self) -> None:
        while not self._stopped.is_set():
            asked = time.monotonic()
            ids = [job.id for job in list(self.jobs.values())]
            if ids:
                try:
                    self._states = self._system.states(ids)
                    self._polled_at, self._queue_error = asked, ""
                except Exception as error:
                    self._queue_error = " ".join(str(error).split())
            if not self._stopped.wait(SOON_SECONDS):
                self._soon.wait(POLL_SECONDS - SOON_SECONDS)
                self._soon.clear()


def _greeter(met: set[str]) -> Any:
    """A plugin of the scheduler that notes the name of every worker that registers."""
    from distributed.diagnostics.plugin import SchedulerPlugin

    class Greeter(SchedulerPlugin):  # type: ignore[misc]
        def add_worker(self, scheduler: Any, worker: str) -> None:
            met.add(str(scheduler.workers[worker].name))

    return Greeter()


def _last_words(logs: Path, job_id: str) -> str:
    """The last line that a job left in its logs, with the file's name."""
    for path in sorted(logs.glob(f"*{job_id}*")):
        with suppress(OSError):
            lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
            if lines:
                return f"last line of {path}: {lines[-1][-300:]}"
    return f"nothing in its logs below {logs}"
