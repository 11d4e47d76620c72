"""The tasks that compute values at points: which points share a task, and what of the samples it reads.

Points are grouped by the Dask chunk of the samples, here a piece, in which they lie. A group is a task; it depends on
the pieces that its points read, and a piece is read once for all groups around it.
"""

from __future__ import annotations

import functools
import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from crdist.errors import SchemaError
from crdist.grids import SphericalGrid
from crdist.schema import POSTERIOR_DIMS
from crdist_postproc.kernels.pieces import Cuts, column_sums, integrals_at, samples_at
from crdist_postproc.kernels.points import Interpolation, locate
from crdist_postproc.statistics import significance_and_error

__all__ = ["Source", "Task", "values_at_points"]

Floats = npt.NDArray[np.float64]

BLOCK_POINTS = 1 << 16
"""Points of a block of the result, and of a task, about."""
GROUP_BYTES = 64 * 1024**2
"""Chunks of the samples that a task holds, about."""
PIECE_BYTES = 4 * 1024**2
"""Samples in memory are cut so for integrals, which add up whole columns of pixels."""


@dataclass(frozen=True)
class Task:
    """What to compute at points."""

    grid: SphericalGrid
    how: Interpolation
    mode: str
    q: tuple[float, ...]
    factor: float

    @property
    def each(self) -> bool:
        """Whether the values follow from all samples, not from their moments."""
        return self.mode in ("samples", "quantile")

    @property
    def dtype(self) -> Any:
        """Type of the values."""
        return np.dtype(np.float32 if self.mode == "samples" and not self.how.integrated else np.float64)

    def tail(self, n_sample: int) -> tuple[int, ...]:
        """Shape of what there is at each point."""
        return {"samples": (n_sample,), "quantile": (len(self.q),)}.get(self.mode, ())

    def evaluate(
        self,
        pieces: Sequence[npt.NDArray[Any]],
        before: Sequence[Floats | None],
        points_kpc: Floats,
        cuts: Cuts,
        where: Sequence[tuple[int, int]],
    ) -> npt.NDArray[Any]:
        """Values at points, from the pieces of the samples that they need and their places among the cuts."""
        given = {place: _fit(piece) for place, piece in zip(where, pieces, strict=True)}
        places = locate(points_kpc, self.grid, self.how)
        if self.how.integrated:
            sums = {place: part for place, part in zip(where, before, strict=True) if part is not None}
            found = integrals_at(given, sums, cuts, places, self.grid, self.how, each=self.each)
        else:
            found = samples_at(given, cuts, places, self.how, each=self.each)
        if self.mode == "samples":
            value: npt.NDArray[Any] = found[0]
        elif self.mode == "quantile":
            value = np.moveaxis(np.quantile(found[0].astype(np.float64), self.q, axis=-1), 0, -1)
        elif self.mode == "significance":
            value = significance_and_error(found[0], found[1], len(next(iter(given.values()))[0, 0]))[0]
        else:
            value = found[0] if self.mode == "mean" else found[1]
        if self.factor != 1.0:
            value *= self.factor
        return value

    def sums(self, piece: npt.NDArray[Any], start: Floats | None, shells: slice) -> Floats:
        """Integrals to the outer edge of a piece from those to its inner edge."""
        return column_sums(_fit(piece), shells, start, self.grid, self.how)


def _fit(piece: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """A piece as the kernels read it: the same memory, if it is float32 with the samples side by side."""
    if piece.dtype == np.float32 and (piece.shape[2] == 1 or piece.strides[2] == 4):
        return piece
    return np.ascontiguousarray(piece, dtype=np.float32)


@dataclass(frozen=True)
class Source:
    """Where the tasks find the samples."""

    keys: Callable[[int, int], Any]
    """Key of a piece."""
    graph: dict[Any, Any]
    """Tasks that make the pieces, where Dask has none."""
    array: Any
    """The Dask array to which the keys belong, if they do."""
    cuts: Cuts
    n_sample: int
    token: str
    """Equal for equal samples."""

    @property
    def n_shell_pieces(self) -> int:
        """Pieces along a line of sight."""
        return len(self.cuts.shells) - 1

    def piece_bytes(self, place: tuple[int, int]) -> int:
        """Size of a piece."""
        i, j = place
        n_pixel = self.cuts.pixels[i + 1] - self.cuts.pixels[i]
        return int(n_pixel * (self.cuts.shells[j + 1] - self.cuts.shells[j]) * self.n_sample * 4)

    @classmethod
    def of(cls, samples: xr.DataArray, how: Interpolation, grid: SphericalGrid) -> Source:
        """The samples of a DataArray.

        Raises
        ------
        SchemaError
            If there are none.
        """
        ordered = samples if "sample" in samples.dims else samples.expand_dims("sample", axis=-1)
        ordered = ordered.transpose(*POSTERIOR_DIMS)
        n_sample = int(ordered.sizes["sample"])
        if not n_sample:
            raise SchemaError("there are no samples yet")
        if ordered.chunks is None:
            return cls._in_memory(ordered.values, how, grid)
        array: Any = ordered.data
        if array.dtype != np.float32:
            array = array.astype(np.float32)
        # one piece holds all samples of its cells
        array = array.rechunk({2: -1})
        pixels, shells, _ = array.chunks
        cuts = Cuts(np.cumsum([0, *pixels]).astype(np.int64), np.cumsum([0, *shells]).astype(np.int64))
        return cls(lambda i, j: (array.name, i, j, 0), {}, array, cuts, n_sample, array.name)

    @classmethod
    def _in_memory(cls, values: npt.NDArray[Any], how: Interpolation, grid: SphericalGrid) -> Source:
        # a name of its own: to hash the samples could take longer than to query them
        token = uuid.uuid4().hex
        whole = f"samples-{token}"
        n_pixel, n_shell, n_sample = values.shape
        size = n_pixel
        if how.integrated:
            size = max(1, min(n_pixel, PIECE_BYTES // (4 * n_shell * n_sample)))
        starts = np.arange(0, n_pixel + size - 1, size).clip(max=n_pixel).astype(np.int64)
        cuts = Cuts(starts, np.array([0, n_shell], dtype=np.int64))
        graph: dict[Any, Any] = {whole: (functools.partial(_fit, values),)}
        for i, (first, last) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
            graph[f"{whole}-{i}"] = (functools.partial(_part, first=first, last=last), whole)
        return cls(lambda i, j: f"{whole}-{i}", graph, None, cuts, n_sample, token)


def _part(values: npt.NDArray[Any], first: int, last: int) -> npt.NDArray[Any]:
    return values[first:last]


def values_at_points(source: Source, task: Task, points_kpc: Floats) -> Any:
    """The Dask array of values at points of shape (..., 3)."""
    import dask.array as da
    from dask.base import tokenize
    from dask.highlevelgraph import HighLevelGraph

    shape, tail = points_kpc.shape[:-1], task.tail(source.n_sample)
    points = np.ascontiguousarray(points_kpc, dtype=np.float64).reshape(-1, 3)
    n = len(points)
    if n == 0:
        return da.empty((*shape, *tail), dtype=task.dtype)
    # blocks are cut along the first dimension
    n_first = shape[0] if shape else 1
    per_first = n // n_first
    rows = max(1, min(n_first, BLOCK_POINTS // per_first))
    firsts = np.arange(0, n_first + rows, rows).clip(max=n_first)
    token = source.token
    if source.array is not None:
        token = tokenize(token, task.grid, task.how, task.mode, task.q, task.factor, points, shape)
    name = f"query-{token}"
    graph = dict(source.graph)
    if source.array is None and not task.how.integrated:
        blocks = _blocks_in_memory(name, graph, source, task, points, firsts * per_first)
    else:
        blocks = _blocks_of_groups(name, graph, source, task, points, firsts * per_first)
    ends = (0,) * (len(shape[1:]) + len(tail))
    for number, (block, count) in enumerate(zip(blocks, np.diff(firsts).tolist(), strict=True)):
        whole = (count, *shape[1:], *tail) if shape else tail
        key = (name, number, *ends) if shape else (name, *ends)
        graph[key] = (functools.partial(np.reshape, shape=whole), block)
    chunks = (
        *((tuple(np.diff(firsts).tolist()), *((size,) for size in shape[1:])) if shape else ()),
        *((k,) for k in tail),
    )
    dependencies = [] if source.array is None else [source.array]
    layers = HighLevelGraph.from_collections(name, graph, dependencies=dependencies)
    return da.Array(layers, name, chunks, dtype=task.dtype)


def _blocks_in_memory(
    name: str, graph: dict[Any, Any], source: Source, task: Task, points: Floats, starts: npt.NDArray[Any]
) -> Iterator[str]:
    """Keys of the values at the points of each block, which read the whole of the samples where they lie."""
    for number, (first, last) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        key = f"{name}-values-{number}"
        evaluate = functools.partial(
            task.evaluate, before=[None], points_kpc=points[first:last], cuts=source.cuts, where=[(0, 0)]
        )
        graph[key] = (evaluate, [source.keys(0, 0)])
        yield key


def _blocks_of_groups(
    name: str, graph: dict[Any, Any], source: Source, task: Task, points: Floats, starts: npt.NDArray[Any]
) -> Iterator[str]:
    """Keys of the values at the points of each block, put together from groups of points that share pieces."""
    homes, needs = _homes(points, source, task)
    order, bounds, groups = _groups(homes, needs, source)
    if task.how.integrated:
        _add_column_sums(name, graph, source, task, {place for places in groups for place in places})
    for number, places in enumerate(groups):
        mine = order[bounds[number] : bounds[number + 1]]
        evaluate = functools.partial(task.evaluate, points_kpc=points[mine], cuts=source.cuts, where=places)
        before: list[Any] = [None] * len(places)
        if task.how.integrated:
            before = [f"{name}-sums-{i}-{j}" if j else None for i, j in places]
        graph[f"{name}-group-{number}"] = (evaluate, [source.keys(i, j) for i, j in places], before)
    tail = task.tail(source.n_sample)
    for number, (first, last) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        keys, parts, targets = [], [], []
        for group in range(len(groups)):
            mine = order[bounds[group] : bounds[group + 1]]
            begin, end = np.searchsorted(mine, (first, last)).tolist()
            if begin < end:
                keys.append(f"{name}-group-{group}")
                parts.append((begin, end))
                targets.append(mine[begin:end] - first)
        key = f"{name}-block-{number}"
        put = functools.partial(
            _put_together, parts=parts, targets=targets, shape=(last - first, *tail), dtype=task.dtype
        )
        graph[key] = (put, keys)
        yield key


def _put_together(
    values: Sequence[npt.NDArray[Any]],
    parts: Sequence[tuple[int, int]],
    targets: Sequence[npt.NDArray[np.integer]],
    shape: tuple[int, ...],
    dtype: Any,
) -> npt.NDArray[Any]:
    """The points of a block in their own order; those that belong to no group are outside the grid."""
    block = np.full(shape, np.nan, dtype=dtype)
    for value, (begin, end), target in zip(values, parts, targets, strict=True):
        block[target] = value[begin:end]
    return block


def _add_column_sums(
    name: str, graph: dict[Any, Any], source: Source, task: Task, places: set[tuple[int, int]]
) -> None:
    """Tasks for the integrals up to the inner edge of pieces: each piece adds its own to those before it."""
    furthest: dict[int, int] = {}
    for i, j in places:
        furthest[i] = max(furthest.get(i, 0), j)
    for i, last in furthest.items():
        for j in range(1, last + 1):
            shells = slice(int(source.cuts.shells[j - 1]), int(source.cuts.shells[j]))
            sums = functools.partial(task.sums, shells=shells)
            start = f"{name}-sums-{i}-{j - 1}" if j > 1 else None
            graph[f"{name}-sums-{i}-{j}"] = (sums, source.keys(i, j - 1), start)


def _homes(points: Floats, source: Source, task: Task) -> tuple[npt.NDArray[np.int64], dict[int, set[int]]]:
    """The piece in which each point lies, -1 outside, and the pieces that the points of each piece read."""
    n_shell_pieces, n_shell = source.n_shell_pieces, int(source.cuts.shells[-1])
    homes = np.empty(len(points), dtype=np.int64)
    n_piece = (len(source.cuts.pixels) - 1) * n_shell_pieces
    pairs: set[int] = set()
    for first in range(0, len(points), BLOCK_POINTS):
        part = slice(first, first + BLOCK_POINTS)
        places = locate(points[part], task.grid, task.how)
        inside = places.shell >= 0
        columns = np.searchsorted(source.cuts.pixels, places.pixels, side="right") - 1
        here = np.searchsorted(source.cuts.shells, places.shell, side="right") - 1
        home = np.where(inside, columns[:, 0] * n_shell_pieces + here, -1)
        homes[part] = home
        shells = [(here, inside)]
        if not task.how.integrated:
            # as the kernel: where one shell alone counts, it alone is read
            above = np.searchsorted(source.cuts.shells, np.minimum(places.shell + 1, n_shell - 1), side="right") - 1
            shells = [(here, inside & (places.part < 1.0)), (above, inside & (places.part > 0.0))]
        for shell, reads in shells:
            for corner in range(4):
                needed = columns[reads, corner] * n_shell_pieces + shell[reads]
                pairs.update(_distinct(home[reads] * n_piece + needed))
    needs: dict[int, set[int]] = {}
    for pair in pairs:
        needs.setdefault(pair // n_piece, set()).add(pair % n_piece)
    return homes, needs


def _distinct(values: npt.NDArray[np.int64]) -> list[int]:
    # points beside each other often share their pieces, so that few are left to sort
    changes = values[np.append(True, values[1:] != values[:-1])] if values.size else values
    return np.unique(changes).tolist()  # type: ignore[no-any-return]


def _groups(
    homes: npt.NDArray[np.int64], needs: Mapping[int, set[int]], source: Source
) -> tuple[npt.NDArray[np.int64], list[int], list[list[tuple[int, int]]]]:
    """Points in the order of their groups, where each group begins, and the pieces that it reads."""
    occupied, counts = np.unique(homes[homes >= 0], return_counts=True)
    group_of: dict[int, int] = {}
    pieces: list[set[int]] = []
    filled = held = 0
    for home, count in zip(occupied.tolist(), counts.tolist(), strict=True):
        more = needs[home] - pieces[-1] if pieces else needs[home]
        size = sum(source.piece_bytes(divmod(piece, source.n_shell_pieces)) for piece in more)
        if not pieces or filled + count > BLOCK_POINTS or held + size > GROUP_BYTES:
            pieces.append(set())
            size = sum(source.piece_bytes(divmod(piece, source.n_shell_pieces)) for piece in needs[home])
            filled = held = 0
        pieces[-1] |= needs[home]
        group_of[home] = len(pieces) - 1
        filled, held = filled + count, held + size
    numbers = np.full(homes.size, len(pieces), dtype=np.int64)
    inside = homes >= 0
    places_of = np.array([group_of[home] for home in occupied.tolist()], dtype=np.int64)
    if occupied.size:
        numbers[inside] = places_of[np.searchsorted(occupied, homes[inside])]
    order = np.argsort(numbers, kind="stable")
    bounds = np.searchsorted(numbers[order], np.arange(len(pieces) + 1))
    # a piece with many points is several tasks, which run at once
    starts: list[int] = []
    groups: list[list[tuple[int, int]]] = []
    for number, read in enumerate(pieces):
        first, last = int(bounds[number]), int(bounds[number + 1])
        n_task = math.ceil((last - first) / BLOCK_POINTS)
        for k in range(n_task):
            starts.append(first + k * (last - first) // n_task)
            groups.append([divmod(piece, source.n_shell_pieces) for piece in sorted(read)])
    return order, [*starts, int(bounds[-1])], groups
