"""A cache of arrays, bounded in bytes, that all sessions of a process share."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_BYTES", "PLANES", "ArrayCache"]

Array = npt.NDArray[Any]

MAX_BYTES = 256 * 1024**2
"""Memory of `PLANES`: some sixty planes of 1024 x 1024."""


@dataclass(slots=True)
class _Entry:
    array: Array
    expires: float


@dataclass(slots=True)
class ArrayCache:
    """The arrays that were used last, read-only, at most `max_bytes` of them.

    Threads that want the same array at the same time wait for one of them to read it.
    """

    max_bytes: int = MAX_BYTES
    n_bytes: int = 0
    hits: int = 0
    misses: int = 0
    _entries: OrderedDict[Hashable, _Entry] = field(default_factory=OrderedDict, repr=False)
    _reading: dict[Hashable, Future[Array]] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def get(self, key: Hashable, read: Callable[[], Array], *, seconds: float = float("inf")) -> Array:
        """The array of a key, read if it is not here.

        Parameters
        ----------
        key : hashable
        read : callable
            Makes the array; what it raises is raised here and not kept.
        seconds : float, s
            How long it may be kept.

        Returns
        -------
        ndarray
            Read-only, shared with others.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and entry.expires > time.monotonic():
                self._entries.move_to_end(key)
                self.hits += 1
                return entry.array
            waiting = self._reading.get(key)
            if waiting is None:
                mine: Future[Array] = Future()
                self._reading[key] = mine
                self.misses += 1
        if waiting is not None:
            return waiting.result()
        try:
            array = np.asarray(read())
            array.flags.writeable = False
        except BaseException as error:
            with self._lock:
                del self._reading[key]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._reading[key]
            self._keep(key, _Entry(array, time.monotonic() + seconds))
        mine.set_result(array)
        return array

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self.n_bytes = 0

    def _keep(self, key: Hashable, entry: _Entry) -> None:
        old = self._entries.pop(key, None)
        if old is not None:
            self.n_bytes -= old.array.nbytes
        if entry.array.nbytes > self.max_bytes:
            return
        self._entries[key] = entry
        self.n_bytes += entry.array.nbytes
        while self.n_bytes > self.max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.n_bytes -= oldest.array.nbytes


PLANES = ArrayCache()
"""The cache of this process."""
