"""Progress on a terminal as a bar with the time left, elsewhere as one plain line a minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Update", "reporting"]

LINE_SECONDS = 60.0


class Update(Protocol):
    """Tell how far the work is."""

    def __call__(self, done: float, total: float, text: str = "") -> None:
        """Report ``done`` of ``total``."""


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

        def update(done: float, total: float, text: str = "") -> None:
            progress.update(task, completed=done, total=total, text=text)

        yield update


def _lines(what: str) -> Update:
    started = time.monotonic()
    last = started
    before: float | None = None

    def update(done: float, total: float, text: str = "") -> None:
        nonlocal last, before
        now = time.monotonic()
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
