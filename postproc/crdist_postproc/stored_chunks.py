"""The chunks of a stored quantity, of which some are kept for the next part that reads them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt

from crdist_postproc.sparse import Chunks

__all__ = ["StoredChunks"]

Array = npt.NDArray[np.float32]


class StoredChunks:
    """Chunks that threads read together: each reads a chunk once, and those used last are kept.

    Parameters
    ----------
    chunks : Chunks
        Where they lie.
    load : callable
        Of slices of pixels and shells, all samples, shape (pixel, shell, sample).
    memory_bytes : int
        Most that is kept.
    """

    def __init__(self, chunks: Chunks, load: Callable[[slice, slice], Array], memory_bytes: int) -> None:
        self.chunks = chunks
        self.memory_bytes = memory_bytes
        self.bytes_read = 0
        """All that was loaded so far, some of it again."""
        self._load = load
        self._kept: OrderedDict[tuple[int, int], Array] = OrderedDict()
        self._kept_bytes = 0
        self._coming: dict[tuple[int, int], Future[Array]] = {}
        self._lock = threading.Lock()

    def read(self, pixel: int, shell: int, results: Any = None) -> Array:
        """All samples of a chunk; they must not be changed.

        Parameters
        ----------
        pixel, shell : int
            Index of the chunk along these dimensions.
        """
        key = pixel, shell
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            coming = self._coming.get(key)
            if coming is None:
                mine = self._coming[key] = Future()
        if coming is not None:
            return coming.result()
        try:
            values = self._load(self._range(self.chunks.pixels, pixel), self._range(self.chunks.shells, shell))
        except BaseException as error:
            with self._lock:
                del self._coming[key]
            mine.set_exception(error)
            raise
        with self._lock:
            self._keep(key, values)
            del self._coming[key]
        mine.set_result(values)
        return values

    def _keep(self, key: tuple[int, int], values: Array) -> None:
        self.bytes_read += values.nbytes
        if values.nbytes > self.memory_bytes:
            return
        self._kept[key] = values
        self._kept_bytes += values.nbytes
        while self._kept_bytes > self.memory_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= oldest.nbytes

    @staticmethod
    def _range(bounds: npt.NDArray[np.int64], index: int) -> slice:
        return slice(int(bounds[index]), int(bounds[index + 1]))
