"""Is a run on a batch system at work, waiting in the queue, stuck or past hope? Decided from what its driver sees.

Nothing here asks a scheduler or a clock: a `Sight` comes in, a `Verdict` goes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Patience", "Sight", "Verdict", "Watch", "backoff_seconds", "span"]

State = Literal["working", "waiting", "starting", "stuck", "failing", "idle"]

LONGEST_STEP_SECONDS = 30.0
"""More than this between two looks, and the driver itself was stopped: the rest of that time says nothing."""

FIRST_BACKOFF_SECONDS = 2.0
LONGEST_BACKOFF_SECONDS = 60.0

SUSPECT_SHARE = 0.1
"""Share of the patience after which the absence of progress is worth a word."""

LOSSES_A_BLOCK = 3
"""A block that ends its jobs is tried in company, then alone; a little more, and it cannot be the blocks."""

KEPT = "what is finished is kept: the same command goes on from there"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a run is given."""

    queue_seconds: float
    """Without a worker, while jobs wait in the queue."""
    stall_seconds: float
    """With workers, while nothing is finished."""
    attempts: int
    """Submissions that fail in a row, and jobs in a row that end before their worker has answered."""
    losses: int
    """As often may a block lose its worker before it is put aside."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What the driver sees at one moment."""

    now: float
    """Any clock that does not go back, seconds."""
    done: float
    """Progress so far; more is further."""
    wanted: int
    """Jobs that should be there."""
    workers: int
    """Workers that the Dask scheduler knows."""
    paused: int = 0
    """Those of them that take no task because memory or scratch is full."""
    pending: int = 0
    """Jobs that wait in the queue."""
    held: int = 0
    """Jobs that the batch system holds back until a person acts."""
    running: int = 0
    """Jobs that run, with a worker or not yet."""
    reasons: tuple[str, ...] = ()
    """Why the queue says that jobs wait."""
    submit_failures: int = 0
    """Failed submissions since the last that went well."""
    failure: str = ""
    """The last failed submission: command and what it said."""
    barren: int = 0
    """Jobs that ended before their worker answered, since the last worker that did."""
    barren_log: str = ""
    """What the last of them left in its log."""
    lost: int = 0
    """Workers lost so far against expectation."""
    queue_error: str = ""
    """Why the queue could not be read just now."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a sight means."""

    state: State
    words: str
    error: str | None = None
    """Set when there is no hope left: one line for the user."""


class Watch:
    """The memory that a verdict needs: how long nothing has come, and what was lost meanwhile."""

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self._last: Sight | None = None
        self._waited = 0.0
        self._stalled = 0.0
        self._lost_before = 0

    def look(self, sight: Sight) -> Verdict:
        """Judge a sight, in the light of those before."""
        self._count(sight)
        words = self._words(sight)
        error = self._hopeless(sight)
        return Verdict(self._state(sight), words, error)

    def _count(self, sight: Sight) -> None:
        last = self._last
        self._last = sight
        if last is None:
            self._lost_before = sight.lost
            return
        step = min(max(sight.now - last.now, 0.0), LONGEST_STEP_SECONDS)
        if sight.done > last.done:
            self._stalled, self._lost_before = 0.0, sight.lost
        elif sight.workers:
            # workers that come, do nothing and go count as one that stays and does nothing
            self._stalled += step
        self._waited = 0.0 if sight.workers or not sight.wanted else self._waited + step

    def _state(self, sight: Sight) -> State:
        if sight.workers:
            return "stuck" if self._suspicious(sight) else "working"
        if sight.running:
            return "starting"
        if sight.pending or sight.held:
            return "waiting"
        if sight.submit_failures:
            return "failing"
        return "starting" if sight.wanted else "idle"

    def _suspicious(self, sight: Sight) -> bool:
        return self._stalled > SUSPECT_SHARE * self.patience.stall_seconds or sight.paused == sight.workers > 0

    def _words(self, sight: Sight) -> str:
        parts = []
        if sight.workers:
            parts.append(f"{_count_of(sight.workers, 'worker')} of {max(sight.wanted, sight.workers)} at work")
            if self._suspicious(sight):
                parts.append(f"nothing finished for {span(self._stalled)}")
            if sight.paused:
                parts.append(f"{_count_of(sight.paused, 'worker')} paused: memory or scratch is full")
        elif sight.running:
            parts.append(f"{_count_of(sight.running, 'job')} started, no worker has answered yet")
        elif not (sight.pending or sight.held or sight.submit_failures):
            parts.append("submitting jobs" if sight.wanted else "no job needed just now")
        if sight.pending:
            why = f" ({', '.join(sight.reasons)})" if sight.reasons else ""
            waited = f" for {span(self._waited)}" if not sight.workers and not sight.running else ""
            parts.append(f"{_count_of(sight.pending, 'job')} waiting in the queue{waited}{why}")
        if sight.held:
            parts.append(f"{_count_of(sight.held, 'job')} held by the batch system: release or cancel them")
        if sight.submit_failures:
            parts.append(f"{_count_of(sight.submit_failures, 'submission')} failed: {sight.failure}")
        if sight.barren:
            parts.append(f"{_count_of(sight.barren, 'job')} ended before their worker answered")
        if sight.queue_error:
            parts.append(f"the queue cannot be read: {sight.queue_error}")
        return "; ".join(parts)

    def _hopeless(self, sight: Sight) -> str | None:
        patience = self.patience
        alone = not sight.workers
        if alone and sight.submit_failures >= patience.attempts and not (sight.pending or sight.running or sight.held):
            return f"no job could be submitted, {sight.submit_failures} attempts failed: {sight.failure}; {KEPT}"
        if alone and sight.barren >= patience.attempts:
            log = f": {sight.barren_log}" if sight.barren_log else ""
            return (
                f"{sight.barren} jobs in a row ended before their worker answered{log}; see that the recipe's 'setup' "
                f"lines, 'python' and 'interface' are right on a compute node; {KEPT}"
            )
        lost = sight.lost - self._lost_before
        if lost >= LOSSES_A_BLOCK * (patience.losses + 1) * max(1, sight.wanted):
            return (
                f"{lost} workers were lost since something was last finished; is the walltime shorter than one piece "
                f"of work, or the memory too small (see the jobs' logs)? {KEPT}"
            )
        if alone and self._waited >= patience.queue_seconds:
            why = f" ({', '.join(sight.reasons)})" if sight.reasons else ""
            what = "held" if sight.held and not sight.pending else "waiting in the queue"
            return (
                f"no worker for {span(self._waited)}: {sight.pending + sight.held} jobs {what}{why}; "
                f"wait for a better time, or raise 'queue_patience' in the recipe; {KEPT}"
            )
        if self._stalled >= patience.stall_seconds:
            paused = f", {sight.paused} of them paused: memory or scratch is full" if sight.paused else ""
            return (
                f"stuck: nothing was finished for {span(self._stalled)} with {_count_of(sight.workers, 'worker')} "
                f"there{paused}; see the jobs' logs, or raise 'stall_patience' in the recipe; {KEPT}"
            )
        return None


def backoff_seconds(failures: int) -> float:
    """Time to wait before the next submission, after so many that failed in a row.

    Examples
    --------
    >>> [backoff_seconds(n) for n in (1, 2, 3, 9)]
    [2.0, 4.0, 8.0, 60.0]
    """
    return min(FIRST_BACKOFF_SECONDS * 2.0 ** min(max(failures - 1, 0), 30), LONGEST_BACKOFF_SECONDS)


def span(seconds: float) -> str:
    """A length of time in words.

    Examples
    --------
    >>> span(42.4), span(150.0), span(5400.0)
    ('42 s', '2.5 min', '1.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _count_of(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
