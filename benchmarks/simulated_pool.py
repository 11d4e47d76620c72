"""A pool of workers of which only the clock exists, to which the driver's own loop hands out blocks.

Time passes in two ways: by what each turn of the loop costs in the process of driver and scheduler, a measured number,
and by waiting, which is skipped. So hours of a thousand workers take a minute.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty
from typing import Any

import numpy as np

from crdist_postproc.books import Token

__all__ = ["Costs", "SimulatedPool"]

LEAST_PART = 0.5
"""Blocks take between this part of the mean time and twice it less that."""


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU time of the process that holds driver and scheduler, and what comes between a message and its effect."""

    turn_seconds: float
    """Of each turn of the driver's loop, however many blocks it settles and sends."""
    block_seconds: float
    """Of each block."""
    worker_seconds: float
    """Of a worker's thread for each block, beside computing and writing."""
    rest_share: float = 0.0
    """Part of a core that the driver's process takes with so many workers and nothing to do."""
    latency_seconds: float = 0.001
    """From the driver to a worker, or back."""


class _Task:
    """What stands for a future."""

    status = "finished"

    def __init__(self, tokens: Any) -> None:
        self.tokens = tokens

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """The pool says itself what has ended."""

    def release(self) -> None:
        """Nothing is held."""


class SimulatedPool:
    """Workers, the client that talks to them and the queue of what has ended, in one.

    Parameters
    ----------
    n_thread : int
        Threads of all workers.
    block_seconds : float
        Mean time of a block.
    costs : Costs
    """

    status = "running"

    def __init__(self, n_thread: int, block_seconds: float, costs: Costs) -> None:
        self.n_thread = n_thread
        self.now = 0.0
        self.busy_seconds = 0.0
        self._costs, self._block_seconds = costs, block_seconds
        self._free = [0.0] * n_thread
        self._ending: list[tuple[float, int, _Task]] = []
        self._number = itertools.count()
        self._rng = np.random.default_rng(1)

    # the client, as far as the driver's loop uses it

    def nthreads(self) -> dict[str, int]:
        """Threads of each worker."""
        return {"simulated": self.n_thread}

    def map(self, function: Any, *arguments: Sequence[Any], key: Sequence[str], pure: bool) -> list[_Task]:
        """Take blocks: each begins when it has come and a thread is free."""
        cpu_seconds = self._costs.turn_seconds + len(key) * self._costs.block_seconds
        self.now += cpu_seconds / (1 - self._costs.rest_share)
        seconds = self._block_seconds * self._rng.uniform(LEAST_PART, 2 - LEAST_PART, len(key))
        # each is a task of one block
        return [self._taken(float(each), (Token(self._block_seconds, 0),)) for each in seconds]

    def submit(self, function: Any, *arguments: Any, key: str, pure: bool) -> _Task:
        """Take the last step."""
        return self._taken(0.0, Token(0.0, 0))

    def sync(self, function: Any, tasks: Sequence[_Task], **options: Any) -> list[Any]:
        """Their tokens."""
        return [task.tokens for task in tasks]

    _gather = None

    # the queue of what has ended

    def put(self, task: _Task) -> None:
        """The pool says itself what has ended."""

    def get(self, timeout: float) -> _Task:
        """The next task that ends, whenever that is."""
        if not self._ending:
            raise Empty
        end, _, task = heapq.heappop(self._ending)
        self.now = max(self.now, end)
        return task

    def get_nowait(self) -> _Task:
        """A task that has ended by now."""
        if not self._ending or self._ending[0][0] > self.now:
            raise Empty
        return heapq.heappop(self._ending)[2]

    def _taken(self, seconds: float, tokens: Any) -> _Task:
        task = _Task(tokens)
        begin = max(self.now + self._costs.latency_seconds, self._free[0])
        end = begin + seconds + self._costs.worker_seconds
        heapq.heapreplace(self._free, end)
        self.busy_seconds += seconds
        heapq.heappush(self._ending, (end + self._costs.latency_seconds, next(self._number), task))
        return task
