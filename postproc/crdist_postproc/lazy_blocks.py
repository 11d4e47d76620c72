"""The blocks of a Dask array, computed one by one where they are needed.

Dask computes a block once and keeps it until the last task that needs it is done. Of a source larger than memory most
blocks would wait for such a task. A `BlockReader` travels to the task with the graph of all blocks instead, and
computes there those that the task asks for: some twice, none kept. What many blocks share, such as a mean over all of
them, is left to Dask and handed to the task.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["BlockReader", "largest_block_bytes"]

SHARED_BY = 8
"""What more tasks than this need is computed once, by Dask."""

Key = Any
"""What Dask names a task by: a text, or a tuple that begins with one."""


@dataclass(frozen=True, slots=True, eq=False)
class BlockReader:
    """The graph of an array of dims (pixel, shell, sample). Build it with `BlockReader.of`."""

    name: str
    """Of the array, as in the keys of its blocks."""
    numblocks: tuple[int, ...]
    """Number of blocks along each dimension."""
    graph: Mapping[Key, Any]
    """All tasks of the array."""
    shared: frozenset[Key]
    """Tasks that many others need, or that a cluster has computed already: their results are handed in."""

    @classmethod
    def of(cls, array: Any) -> BlockReader:
        """Take the graph of a Dask array; nothing computes."""
        from dask._task_spec import DataNode, convert_legacy_graph

        tasks = dict(array.__dask_graph__())
        graph = convert_legacy_graph(tasks)
        needed_by = Counter(itertools.chain.from_iterable(task.dependencies for task in graph.values()))
        often = {key for key, n in needed_by.items() if n > SHARED_BY and not isinstance(graph.get(key), DataNode)}
        # What a cluster has computed already is no task any more: Dask leaves it out.
        shared = frozenset(often | (tasks.keys() - graph.keys()))
        return cls(array.name, array.numblocks, graph, shared)

    def read(self, pixel: int, shell: int, results: Mapping[Key, Any]) -> npt.NDArray[Any]:
        """All samples of the block at some pixels and shells.

        Parameters
        ----------
        pixel, shell : int
            Index of the block along these dimensions.
        results : mapping
            What Dask computed of ``shared``.

        Returns
        -------
        ndarray, shape (pixel, shell, sample)
        """
        # Dask's own schedulers take longer to order three tasks than these take.
        keys = self._keys(pixel, shell)
        values = {key: results[key] for key in self._tasks(keys)[1]}
        waiting = list(keys)
        while waiting:
            if waiting[-1] in values:
                waiting.pop()
                continue
            task = self.graph[waiting[-1]]
            missing = [key for key in task.dependencies if key not in values]
            waiting.extend(missing)
            if not missing:
                values[waiting.pop()] = task(values)
        parts = [np.asarray(values[key]) for key in keys]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)

    def shared_by(self, pixel: int, shell: int) -> set[Key]:
        """Those tasks among ``shared`` whose results a block needs."""
        return self._tasks(self._keys(pixel, shell))[1]

    def _keys(self, pixel: int, shell: int) -> list[Key]:
        return [(self.name, pixel, shell, sample) for sample in range(self.numblocks[2])]

    def _tasks(self, keys: Sequence[Key]) -> tuple[set[Key], set[Key]]:
        """The tasks to compute for some keys, and those whose results they take from Dask."""
        inner: set[Key] = set()
        outer: set[Key] = set()
        waiting = list(keys)
        while waiting:
            key = waiting.pop()
            if key in self.shared:
                outer.add(key)
            elif key not in inner:
                inner.add(key)
                waiting.extend(self.graph[key].dependencies)
        return inner, outer


def largest_block_bytes(array: Any) -> int:
    """Size of the largest block along pixel and shell, all its samples, as float32."""
    pixels, shells, samples = array.chunks
    return 4 * int(math.prod((max(pixels), max(shells), sum(samples))))
