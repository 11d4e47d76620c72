"""The tasks that compute values at points, and what of the samples each reads.

A Dask chunk of the samples is a piece here. It has one task, which gives the values at the points that need no other
piece, and the cells that the others need of it: then it is let go. So pieces are read once, and as many are in memory
as there are threads.
"""

from __future__ import annotations

import functools
import operator
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from crdist.errors import SchemaError
from crdist.grids import SphericalGrid
from crdist.schema import POSTERIOR_DIMS
from crdist_postproc.kernels.integrals import column_sums, integrals_at
from crdist_postproc.kernels.pieces import Cuts, samples_at
from crdist_postproc.kernels.points import Interpolation, locate
from crdist_postproc.point_shares import BLOCK_POINTS, Group, Shares, shares_of
from crdist_postproc.statistics import significance_and_error

__all__ = ["Source", "Task", "values_at_points"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

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

    def values(
        self, piece: npt.NDArray[Any], before: Floats | None, points_kpc: Floats, cuts: Cuts, place: tuple[int, int]
    ) -> npt.NDArray[Any]:
        """Values at points that need one piece alone, which stands at a place among the cuts.

        ``before`` are the integrals to the piece's inner edge, if it is not the nearest.
        """
        given, places = {place: _fit(piece)}, locate(points_kpc, self.grid, self.how)
        if self.how.integrated:
            sums = {} if before is None else {place: before}
            return self._reduced(integrals_at(given, sums, cuts, places, self.grid, self.how, each=self.each), piece)
        return self._reduced(samples_at(given, cuts, places, self.how, each=self.each), piece)

    def cells(
        self,
        piece: npt.NDArray[Any],
        before: Floats | None,
        points_kpc: Floats | None,
        cuts: Cuts,
        place: tuple[int, int],
        pixels: Integers,
        shells: Integers,
    ) -> npt.NDArray[Any]:
        """Samples of some cells of a piece, shape (n, n_sample); of integrals those to points in some pixels."""
        if points_kpc is None:
            i, j = place
            chosen: npt.NDArray[np.float32] = _fit(piece)[pixels - cuts.pixels[i], shells - cuts.shells[j]]
            return chosen
        places = locate(points_kpc, self.grid, self.how)
        places.pixels[:] = pixels[:, None]
        places.weights[:] = (1.0, 0.0, 0.0, 0.0)
        sums = {} if before is None else {place: before}
        how = replace(self.how, value_space="linear")
        return integrals_at({place: _fit(piece)}, sums, cuts, places, self.grid, how, each=True)[0]

    def together(
        self, handed: Sequence[npt.NDArray[Any]], group: Group, points_kpc: Floats, n_sample: int
    ) -> npt.NDArray[Any]:
        """Values at the points of a group, from the cells that pieces have handed over."""
        n, per_pixel = len(points_kpc), 1 if self.how.integrated else 2
        dtype = np.float64 if self.how.integrated else np.float32
        cells = np.full((4 * n * per_pixel, n_sample), np.nan, dtype=dtype)
        for rows, (_, chosen, slots) in zip(handed, group.parts, strict=True):
            cells[slots] = rows[chosen]
        places = locate(points_kpc, self.grid, self.how)
        # as if each point had four pixels of its own
        places.pixels[:] = np.arange(4 * n).reshape(n, 4)
        places.shell[:] = np.where(places.shell >= 0, 0, -1)
        cuts = Cuts(np.array([0, 4 * n]), np.array([0, per_pixel]))
        if not self.how.integrated:
            piece = cells.reshape(4 * n, 2, n_sample)
            return self._reduced(samples_at({(0, 0): piece}, cuts, places, self.how, each=self.each), piece)
        # the integrals are there: nothing is added to them
        piece = np.zeros((4 * n, 1, n_sample), dtype=np.float32)
        places.part[:] = 0.0
        found = integrals_at({(0, 0): piece}, {(0, 0): cells}, cuts, places, self.grid, self.how, each=self.each)
        return self._reduced(found, piece)

    def _reduced(self, found: tuple[npt.NDArray[Any], ...], piece: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What the mode asks for, of all samples or of their mean and standard deviation."""
        if self.mode == "samples":
            value: npt.NDArray[Any] = found[0]
        elif self.mode == "quantile":
            value = np.moveaxis(np.quantile(found[0].astype(np.float64), self.q, axis=-1), 0, -1)
        elif self.mode == "significance":
            value = significance_and_error(found[0], found[1], piece.shape[2])[0]
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
        blocks = _blocks_of_pieces(name, graph, source, task, points, firsts * per_first)
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
        values = functools.partial(task.values, points_kpc=points[first:last], cuts=source.cuts, place=(0, 0))
        graph[key] = (values, source.keys(0, 0), None)
        yield key


def _blocks_of_pieces(
    name: str, graph: dict[Any, Any], source: Source, task: Task, points: Floats, starts: npt.NDArray[Any]
) -> Iterator[str]:
    """Keys of the values at the points of each block, put together from what each piece gives."""
    shares = shares_of(points, task.grid, source.cuts, task.how)
    given = _add_pieces(name, graph, source, task, points, shares)
    for number, group in enumerate(shares.groups):
        key = f"{name}-group-{number}"
        together = functools.partial(
            task.together, group=group, points_kpc=points[group.points], n_sample=source.n_sample
        )
        graph[key] = (together, [f"{name}-cells-{piece}" for piece, _, _ in group.parts])
        order = np.argsort(group.points)
        graph[f"{key}-sorted"] = (operator.itemgetter(order), key)
        given[f"{key}-sorted"] = group.points[order]
    tail = task.tail(source.n_sample)
    for number, (first, last) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        keys, parts, targets = [], [], []
        for value, mine in given.items():
            begin, end = np.searchsorted(mine, (first, last)).tolist()
            if begin < end:
                keys.append(value)
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
    """The points of a block in their own order; those that no piece serves are outside the grid."""
    block = np.full(shape, np.nan, dtype=dtype)
    for value, (begin, end), target in zip(values, parts, targets, strict=True):
        block[target] = value[begin:end]
    return block


def _add_pieces(
    name: str, graph: dict[Any, Any], source: Source, task: Task, points: Floats, shares: Shares
) -> dict[str, Integers]:
    """Tasks of the pieces; by key of values, the numbers of their points."""
    furthest: dict[int, int] = {}
    given: dict[str, Integers] = {}
    for piece in shares.pieces:
        i, j = place = divmod(piece, source.n_shell_pieces)
        key = source.keys(i, j)
        before = None
        if task.how.integrated:
            furthest[i] = max(furthest.get(i, 0), j)
            before = f"{name}-sums-{i}-{j}" if j else None
        if piece in shares.alone:
            mine = shares.alone[piece]
            for part in np.array_split(mine, -(-mine.size // BLOCK_POINTS)):
                value = f"{name}-values-{piece}-{part[0]}"
                values = functools.partial(task.values, points_kpc=points[part], cuts=source.cuts, place=place)
                graph[value] = (values, key, before)
                given[value] = part
        if piece in shares.handed:
            pixels, last = shares.handed[piece]
            of = points[last] if task.how.integrated else None
            cells = functools.partial(
                task.cells, points_kpc=of, cuts=source.cuts, place=place, pixels=pixels, shells=last
            )
            graph[f"{name}-cells-{piece}"] = (cells, key, before)
    # the integrals up to the inner edge of a piece: each adds its own to those before it
    for i, last_piece in furthest.items():
        for j in range(1, last_piece + 1):
            shells = slice(int(source.cuts.shells[j - 1]), int(source.cuts.shells[j]))
            start = f"{name}-sums-{i}-{j - 1}" if j > 1 else None
            graph[f"{name}-sums-{i}-{j}"] = (
                functools.partial(task.sums, shells=shells),
                source.keys(i, j - 1),
                start,
            )
    return given
