"""Progress: on a terminal a bar with the time left, elsewhere one plain line a minute; and in a file, for others."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from crdist.durable import write_durably

__all__ = ["PROGRESS_FILE", "ProgressFile", "RecordedProgress", "Update", "read_progress", "reporting"]

LINE_SECONDS = 60.0

PROGRESS_FILE = "progress.json"
"""Name of the file in a run's folder that says how far its inference is."""

FILE_SECONDS = 2.0
"""A progress file is written this often at most."""


class Update(Protocol):
    """Tell how far the work is."""

    def __call__(self, done: float, total: float, text: str = "") -> None:
        """Report ``done`` of ``total``; another total, or less done, begins another stage with a time of its own."""


@contextmanager
def reporting(what: str) -> Iterator[Update]:
    """A function that reports progress on standard error.

    Parameters
    ----------
    what : str
        What is being done, such as ``"post"``.
    """
    if sys.stderr.isatty():
        with _bar(what) as update:
            yield update
    else:
        yield _lines(what)


@contextmanager
def _bar(what: str) -> Iterator[Update]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=None, text="")
        stage = _Stages()

        def update(done: float, total: float, text: str = "") -> None:
            if stage.begins(done, total):
                progress.reset(task)
            progress.update(task, completed=done, total=total, text=text)

        yield update


class _Stages:
    """Tells where work of several stages begins with the next one."""

    def __init__(self) -> None:
        self._seen: tuple[float, float] | None = None

    def begins(self, done: float, total: float) -> bool:
        seen, self._seen = self._seen, (done, total)
        return seen is not None and (total != seen[1] or done < seen[0])


def _lines(what: str) -> Update:
    started = time.monotonic()
    last = started
    before: float | None = None
    stage = _Stages()

    def update(done: float, total: float, text: str = "") -> None:
        nonlocal started, last, before
        now = time.monotonic()
        if stage.begins(done, total):
            started, before = now, None
        if before is None:
            # work that an earlier run has done says nothing of this one's speed
            before = done
        if now - last < LINE_SECONDS and done < total:
            return
        last = now
        speed = (done - before) / (now - started) if now > started else 0.0
        left = f", {(total - done) / speed:.0f} s left" if speed > 0 and done < total else ""
        share = done / total if total else 1.0
        print(f"{what}: {share:.0%} after {now - started:.0f} s{left}  {text}", file=sys.stderr, flush=True)

    return update


@dataclass(frozen=True, slots=True)
class RecordedProgress:
    """How far some work was when it last said so."""

    part: str
    """What is being done, such as ``"iterations"``."""
    done: int
    total: int
    before: int
    """Done when this process began with the part: says nothing of its speed."""
    started: float
    """When this process began with the part, seconds since the epoch."""
    updated: float
    """When this was recorded, seconds since the epoch."""
    longest_seconds: float
    """The longest time between two steps, seconds."""

    def seconds_left(self, now: float) -> float | None:
        """What is left at the speed so far, seconds; None where that is not known yet.

        A step that takes long counts before it is done, so that the time left does not run out meanwhile.

        Parameters
        ----------
        now : float
            Seconds since the epoch.

        Examples
        --------
        >>> RecordedProgress("iterations", 6, 10, 2, 100.0, 120.0, 7.0).seconds_left(now=124.0)
        24.0
        """
        if self.done >= self.total:
            return 0.0
        if self.done <= self.before or now <= self.started:
            return None
        return (self.total - self.done) * (now - self.started) / (self.done - self.before)


class ProgressFile:
    """Records progress in a file, durably and not more often than every two seconds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last: RecordedProgress | None = None
        self._written = 0.0
        self._later: threading.Timer | None = None
        self._lock = threading.Lock()

    def begin(self, part: str, done: int, total: int) -> None:
        """Say that a part begins, with what of it is done already."""
        now = time.time()
        with self._lock:
            self._last = RecordedProgress(part, done, total, done, now, now, 0.0)
            self._write()

    def tell(self, part: str, done: int, total: int) -> None:
        """Say that a step of a part is done."""
        now = time.time()
        with self._lock:
            last = self._last
            new = last is None or last.part != part
            if last is None or new:
                last = RecordedProgress(part, done, total, max(0, done - 1), now, now, 0.0)
            longest = max(last.longest_seconds, now - last.updated)
            self._last = RecordedProgress(part, done, total, last.before, last.started, now, longest)
            if new or done >= total or now - self._written >= FILE_SECONDS:
                self._write()
            elif self._later is None:
                # the next step may be long: this one must be known before
                self._later = threading.Timer(FILE_SECONDS, self._write_later)
                self._later.daemon = True
                self._later.start()

    def _write_later(self) -> None:
        with self._lock, suppress(OSError):
            # what a disk complains of is said by the next step, in the thread that does the work
            self._later = None
            self._write()

    def _write(self) -> None:
        assert self._last is not None
        write_durably(self.path, json.dumps(asdict(self._last)).encode())
        self._written = time.time()


def read_progress(path: Path) -> RecordedProgress | None:
    """What a progress file says; None where there is none, or none that can be read."""
    try:
        return RecordedProgress(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
