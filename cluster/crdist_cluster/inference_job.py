"""A long inference as one task of a Dask worker in a batch job: a program of its own, which outlives no job.

The program runs beside Dask and not in it: neither its memory nor a crash of it touches the worker. It ends before the
job does, with its last checkpoint kept, and the next job goes on from there.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crdist.errors import RunError
from crdist.progress import PROGRESS_FILE, RecordedProgress, read_progress

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Allowance", "Outcome", "drive_program", "run_program"]

WAKE_SECONDS = 1.0
ERROR = "crdist: error: "
LOCKED = "another process is running it"

LOCK_PATIENCE_SECONDS = 120.0
"""The program of a job that was lost may still hold the run, on a node that is out of reach for a while."""

LEAST_LEAD_SECONDS = 2.0
LONGEST_LEAD_SHARE = 0.3
LEAD_FACTOR = 1.2
"""A program is asked to end this many times its longest step before its time is up, and this share of it at most."""

RETIRE_SECONDS = 60.0
TAIL_BYTES = 65536

FRUITLESS_JOBS = 3
"""So many jobs in a row in which no step was finished, and there is no hope."""

# Runs before the program, in its process: exec keeps what prctl set. A thread of the worker forks, which must do
# nothing but exec, so this cannot be done between the two. 1 is PR_SET_PDEATHSIG of <sys/prctl.h>. SIGKILL because the
# next job may be at work already: checkpoints are whole at any moment.
LEASH = """import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]): sys.exit(1)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"""


@dataclass(frozen=True, slots=True)
class Allowance:
    """The time that a job may use."""

    walltime_seconds: float
    margin_seconds: float
    """The program has ended this long before the walltime."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended."""

    finished: bool
    """Whether it is done; otherwise it is to be continued, unless there is an error."""
    words: str
    """What it printed, or why it stopped."""
    error: bool = False
    worker: str = ""
    """Address of the worker that ran it."""
    host: str = ""


def run_program(arguments: Sequence[str], folder: Path, log: Path, allowance: Allowance | None) -> Outcome:
    """The task: run a Python program that works in ``folder``, and stop it before the job's time is up.

    Parameters
    ----------
    arguments : sequence of str
        What follows the name of the interpreter.
    folder : Path
        Folder of the run, on a disk that this node shares; holds the program's progress file.
    log : Path
        What the program says on standard error is appended to this.
    allowance : Allowance, optional
        Time of this job, counted from the start of the worker's nanny. Default: unlimited.

    Returns
    -------
    Outcome
    """
    from distributed import get_worker

    where: dict[str, Any] = {"worker": get_worker().address, "host": socket.gethostname()}
    if not folder.is_dir():
        words = f"{folder}: {where['host']} does not see it; choose a folder on a disk that all nodes share"
        return Outcome(False, words, error=True, **where)
    end = None if allowance is None else _job_began() + allowance.walltime_seconds - allowance.margin_seconds
    margin = 0.0 if allowance is None else allowance.margin_seconds
    patience = time.time() + LOCK_PATIENCE_SECONDS
    while True:
        code, out, err = _run_once(arguments, folder, log, end, margin)
        last = next((line for line in reversed(err.splitlines()) if line.strip()), "")
        if code == 0:
            return Outcome(True, out, **where)
        if last.startswith(ERROR) and LOCKED in last and time.time() < patience and _left(end) > 0:
            time.sleep(5 * WAKE_SECONDS)
            continue
        break
    if code in (128 + signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGHUP, -signal.SIGTERM) or _left(end) <= 0:
        return Outcome(False, "stopped before the job's time was up", **where)
    if code == -signal.SIGKILL:
        return Outcome(False, f"killed on {where['host']}, out of memory?", **where)
    words = last.removeprefix(ERROR) or f"ended with exit code {code}"
    return Outcome(False, words if last.startswith(ERROR) else f"{words} (see {log})", error=True, **where)


def _run_once(
    arguments: Sequence[str], folder: Path, log: Path, end: float | None, margin: float
) -> tuple[int, str, str]:
    """Run the program to its end, or to that of its time; exit code, standard output, end of standard error."""
    if _left(end) <= 0:
        return -signal.SIGTERM, "", ""
    with log.open("ab") as errors:
        began = errors.tell()
        process = subprocess.Popen(
            [sys.executable, "-c", LEASH, str(os.getpid()), *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            process_group=0,
        )
    try:
        out = _await(process, folder, end, margin)
    finally:
        if process.poll() is None:
            _signal(process, signal.SIGKILL)
            process.wait()
    with log.open("rb") as errors:
        errors.seek(max(began, errors.seek(0, os.SEEK_END) - TAIL_BYTES))
        err = errors.read().decode(errors="replace")
    return process.returncode, out.decode(errors="replace"), err


def _await(process: subprocess.Popen[bytes], folder: Path, end: float | None, margin: float) -> bytes:
    """Wait for the program; ask it to end, then tell it, then kill it, as its time runs out."""
    asked = told = False
    began = time.time()
    while True:
        try:
            return process.communicate(timeout=WAKE_SECONDS)[0]
        except subprocess.TimeoutExpired:
            left = _left(end)
        if end is None:
            continue
        if not asked and left <= _lead(folder, began, end):
            _signal(process, signal.SIGTERM)
            asked = True
        elif not told and left <= 0:
            _signal(process, signal.SIGTERM)
            told = True
        elif left < -0.3 * margin:
            _signal(process, signal.SIGKILL)


def _lead(folder: Path, began: float, end: float) -> float:
    """How long before its end a program is asked to come to one: time enough for the step that it is at."""
    progress = read_progress(folder / PROGRESS_FILE)
    step = 0.0 if progress is None or progress.updated < began else LEAD_FACTOR * progress.longest_seconds
    return max(LEAST_LEAD_SECONDS, min(step, LONGEST_LEAD_SHARE * (end - began)))


def _job_began() -> float:
    """When this job began, seconds since the epoch: its nanny became the job's process, by exec."""
    import psutil  # type: ignore[import-untyped]

    own = psutil.Process()
    parent = own.parent()
    return float(own.create_time() if parent is None else parent.create_time())


def _left(end: float | None) -> float:
    return float("inf") if end is None else end - time.time()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    # the group has the program's own children, too
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        process.send_signal(number)


def drive_program(
    client: Client,
    arguments: Sequence[str],
    folder: Path,
    log: Path,
    *,
    allowance: Allowance | None = None,
    watch: Callable[[float], None],
    progress: Callable[[RecordedProgress], None],
) -> str:
    """Run a program in one job after the other until it is done.

    Parameters
    ----------
    client : distributed.Client
        Of a cluster whose workers may come and go. Workers with a resource ``GPU`` are used, where there are such.
    arguments, folder, log, allowance
        As `run_program`.
    watch : callable
        Called about every second with a number that grows with each step of the program; what it raises ends this.
    progress : callable
        Called with what the program's progress file says when that changes.

    Returns
    -------
    str
        What the program printed.

    Raises
    ------
    RunError
        If the program ended with an error, its own words; or if several jobs in a row did not finish a single step.
    """
    steps = _Steps(folder / PROGRESS_FILE, progress)
    fruitless = 0
    while True:
        before = steps.count
        future = client.submit(
            run_program,
            tuple(arguments),
            folder,
            log,
            allowance,
            key=f"program-{os.urandom(4).hex()}",
            pure=False,
            # a cluster that is there already may know of no such resource
            resources={"GPU": 1} if _has_gpu(client, allowance) else None,
        )
        try:
            outcome = _result(client, future, steps, watch)
        finally:
            future.release()
            del future
        if outcome.finished:
            return outcome.words
        if outcome.error:
            raise RunError(outcome.words)
        fruitless = 0 if steps.count > before else fruitless + 1
        if fruitless >= FRUITLESS_JOBS:
            raise RunError(
                f"{folder}: {fruitless} jobs in a row ended before one step was finished (the last: {outcome.words}); "
                "is the walltime shorter than a step, or the memory too small? what is finished is kept: change the "
                "cluster recipe and run the same command again with --resume"
            )
        if allowance is not None:
            # its time is up: the next one is to begin in a new job
            _retire(client, outcome.worker, lambda: watch(steps.look()))


class _Steps:
    """Counts the changes of a progress file."""

    def __init__(self, path: Path, progress: Callable[[RecordedProgress], None]) -> None:
        self._path, self._progress = path, progress
        self._last = read_progress(path)
        self.count = 0
        if self._last is not None:
            progress(self._last)

    def look(self) -> int:
        now = read_progress(self._path)
        if now is not None and now != self._last:
            same = self._last is not None and (now.part, now.done) == (self._last.part, self._last.done)
            self._last = now
            self.count += not same
            self._progress(now)
        return self.count


def _result(client: Client, future: Future[Outcome], steps: _Steps, watch: Callable[[float], None]) -> Outcome:
    from distributed import wait
    from distributed.scheduler import KilledWorker

    while not future.done():
        with suppress(TimeoutError), client.as_current():
            wait([future], timeout=WAKE_SECONDS)
        watch(steps.look())
    steps.look()
    try:
        outcome: Outcome = future.result()
    except KilledWorker as error:
        raise RunError(f"the worker of the inference was lost again and again: {error}; see the jobs' logs") from error
    return outcome


def _retire(client: Client, worker: str, watch: Callable[[], None]) -> None:
    """End a worker, and see it gone: else it would be given the next task."""
    deadline = time.monotonic() + RETIRE_SECONDS
    while worker in client.nthreads() and time.monotonic() < deadline:
        # is refused as long as the scheduler has not heard that nobody needs the task's result any more
        client.retire_workers([worker], close_workers=True, remove=True)
        time.sleep(WAKE_SECONDS)
        watch()


def _has_gpu(client: Client, allowance: Allowance | None) -> bool:
    """Workers in jobs of ours have the resource; others may."""
    if allowance is not None:
        return True
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return any("GPU" in worker.get("resources", {}) for worker in workers)
