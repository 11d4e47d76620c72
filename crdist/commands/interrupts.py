"""What Ctrl-C, SIGTERM and SIGHUP do: end a command, or first ask it to come to a good end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Interrupted", "asked_to_stop", "catch_signals", "stoppable", "way_on", "way_on_text", "whole_or_nothing"]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Ctrl-C, or a batch system's wish to end; nothing between here and ``main`` may catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Signals:
    """What a signal does: end the command, or, where work can be brought to a good end first, ask for that."""

    asking = False
    """Whether the first signal is a question, whose answer is awaited, and the second the end."""
    number: int | None = None
    way_on = "what is finished is kept: run the same command again to go on"


_signals = _Signals()


def catch_signals() -> None:
    """Turn the signals that end a process into `Interrupted`."""
    for number in SIGNALS:
        signal.signal(number, _interrupt)


def asked_to_stop() -> int:
    """The signal that asked for an end."""
    return _signals.number or signal.SIGTERM


def way_on_text() -> str:
    """What a user whose command was interrupted is told: what is kept, and what to do."""
    return _signals.way_on


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """While this lasts a first signal only turns the function true."""
    _signals.asking = True
    try:
        yield lambda: _signals.number is not None
    finally:
        _signals.asking = False


@contextmanager
def way_on(command: str) -> Iterator[None]:
    """What the user is told to run after an interrupt."""
    before, _signals.way_on = _signals.way_on, f"what is finished is kept: run '{command}' to go on"
    yield
    _signals.way_on = before


@contextmanager
def whole_or_nothing() -> Iterator[None]:
    """While this lasts an interrupt leaves nothing behind."""
    before, _signals.way_on = _signals.way_on, "nothing is kept"
    yield
    _signals.way_on = before


def _interrupt(number: int, _: Any) -> None:
    if _signals.asking and _signals.number is None:
        _signals.number = number
        print("crdist: stopping after this iteration; once more to stop at once", file=sys.stderr, flush=True)
        return
    # once is enough: a second signal must not cut the tidying up short
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise Interrupted(number)
