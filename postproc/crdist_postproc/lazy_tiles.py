"""Compute a tile of a lazy result, from a whole field or from one that is read part by part.

A tile is a box of points. Where the chunks that it reaches do not fit in memory together, it is halved until those of a
part do, and the parts are computed one after the other. Halves along the rows are added to the same sums, so that any
cut gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from crdist.grids import CartesianGrid, SphericalGrid
from crdist_postproc.kernels.field import N_PADDED, Field, ValueSpace, ring_rows
from crdist_postproc.kernels.locate import TILE
from crdist_postproc.kernels.rows import fill_rows, sum_rows
from crdist_postproc.lazy_blocks import BlockReader
from crdist_postproc.products.base import Block, in_tile, tile_rows
from crdist_postproc.reach import Lattice, Reach
from crdist_postproc.sparse import Chunks, committed_bytes, fill_sparsely

__all__ = ["FieldInParts", "Part", "lattice_of", "project_tile", "regrid_tile"]

EXACT_POINTS = 1 << 21
"""Points that are located one by one to see what they read: some 25 ns each, less than chunks read in vain take."""

SQUARE = 8
"""Rows side by side that read the same cells: see `tile_rows`."""

SUMMED_TOGETHER = 4
"""Points that a sum along a row takes at once: see `sum_rows`."""

SUMMED_BYTES = 16 * 1024**2

Results = Mapping[Any, Any]
Bounds = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some points of a tile, and a field that holds what they read."""

    rows: npt.NDArray[np.int64]
    """Which rows of the tile."""
    first: int
    """The first point along these rows."""
    n: int
    """Number of points along these rows."""
    field: Field


@dataclass(frozen=True, slots=True, eq=False)
class FieldInParts:
    """A source of which one part at a time is in memory."""

    template: Field
    """The tables of the interpolation, without values."""
    grid: SphericalGrid
    value_space: ValueSpace
    reader: BlockReader
    chunks: Chunks
    reach: Reach
    memory_bytes: int
    """Most that a part may take."""
    elsewhere: float | None = field(default=None)
    """As for `fill_sparsely`."""

    def parts(
        self,
        lattice: Lattice,
        starts: npt.NDArray[np.float64],
        step: npt.NDArray[np.float64],
        order: npt.NDArray[np.int64],
        results: Results,
    ) -> Iterator[Part]:
        """Cut a tile; of the parts of a row those with the first points come first.

        Parameters
        ----------
        lattice : Lattice
            The points of the tile, those of a row along its last axis.
        starts, step, order
            The rows, as `tile_rows` gives them.
        results : mapping
            What Dask has computed for the reader.

        Yields
        ------
        Part
            Points outside the source are in none.
        """
        n_padded = int(self.template.layout[N_PADDED])
        i, j = np.divmod(order, lattice.shape[1])
        waiting: list[Bounds] = [((0, lattice.shape[0]), (0, lattice.shape[1]), (0, lattice.shape[2]))]
        while waiting:
            bounds = waiting.pop()
            (i_first, i_stop), (j_first, j_stop), (first, stop) = bounds
            rows = np.flatnonzero((i >= i_first) & (i < i_stop) & (j >= j_first) & (j < j_stop))
            part = lattice.part(bounds)
            halves = _halves(lattice, bounds)
            wanted = self.reached(part, starts[rows], step, first, self.most_chunks if halves else None)
            if halves and committed_bytes(wanted, self.chunks, n_padded) > self.memory_bytes:
                waiting.extend(reversed(halves))
            elif wanted.any():
                yield Part(rows, first, stop - first, self._filled(wanted, results))

    def reached(
        self,
        lattice: Lattice,
        starts: npt.NDArray[np.float64],
        step: npt.NDArray[np.float64],
        first: int = 0,
        most: int | None = None,
    ) -> npt.NDArray[np.bool_]:
        """The chunks that points read, shape (n_pixel_chunk, n_shell_chunk); ``most`` as for `Reach.chunks`."""
        n = lattice.shape[2]
        if len(starts) * n <= EXACT_POINTS:
            return self.reach.chunks_of_rows(self.template, starts, step, n, first, most)
        return self.reach.chunks(lattice, most)

    @property
    def most_chunks(self) -> int:
        """More chunks than this do not fit in memory."""
        smallest = np.diff(self.chunks.pixels).min() * np.diff(self.chunks.shells).min()
        return int(self.memory_bytes // (4 * int(smallest) * int(self.template.layout[N_PADDED])))

    def _filled(self, wanted: npt.NDArray[np.bool_], results: Results) -> Field:
        def rows_of(pixel: int) -> npt.NDArray[np.integer]:
            return ring_rows(self.grid, np.arange(*self.chunks.pixels[pixel : pixel + 2]))

        def read(pixel: int, shell: int) -> npt.NDArray[Any]:
            return self.reader.read(pixel, shell, results)

        return fill_sparsely(
            self.template,
            wanted,
            self.chunks,
            self.grid.n_pixel,
            rows_of,
            read,
            self.value_space,
            elsewhere=self.elsewhere,
        )


def regrid_tile(samples: Field | FieldInParts, results: Results, block: Block, grid: CartesianGrid) -> npt.NDArray[Any]:
    """Every sample at every voxel of a tile of columns along z.

    Returns
    -------
    ndarray of float32, shape (*block.shape, grid.z.n, n_sample)
    """
    starts, step, order = tile_rows(grid, "z", block)
    if isinstance(samples, Field):
        return in_tile(fill_rows(samples, starts, step, grid.z.n), order, block.shape)
    lattice = lattice_of(grid, "z", block)
    values = np.full((len(starts), grid.z.n, samples.template.n_sample), np.nan, dtype=np.float32)
    for part in samples.parts(lattice, starts, step, order, results):
        filled = fill_rows(part.field, starts[part.rows], step, part.n, part.first)
        values[part.rows, part.first : part.first + part.n] = filled
        # before the next part is read, or two would be in memory
        del part
    return in_tile(values, order, block.shape)


def project_tile(
    samples: Field | FieldInParts, results: Results, block: Block, grid: CartesianGrid, axis: str, factor: float
) -> npt.NDArray[Any]:
    """Every sample integrated along the rows of a tile; ``factor`` makes kpc the unit of length of the samples.

    Returns
    -------
    ndarray of float64, shape (*block.shape, n_sample)
    """
    starts, step, order = tile_rows(grid, axis, block)
    if isinstance(samples, Field):
        total, count = sum_rows(samples, starts, step, grid.axis(axis).n)
    else:
        lattice = lattice_of(grid, axis, block)
        total, count = np.zeros((len(starts), samples.template.n_sample)), np.zeros(len(starts))
        for part in samples.parts(lattice, starts, step, order, results):
            _add_up(part, starts, step, total, count)
            del part  # as above
    total[count == 0] = np.nan
    return in_tile(total * (grid.axis(axis).step * factor), order, block.shape)


def lattice_of(grid: CartesianGrid, along: str, block: Block) -> Lattice:
    """The voxel centres of a tile, those along one axis last."""
    names = [*(name for name in "xyz" if name != along), along]
    starts = dict(zip(names, (*(start for start, _ in block.bounds), 0), strict=True))
    origin = np.array([grid.axis(name).centres[starts[name]] for name in "xyz"])
    steps = np.zeros((3, 3))
    for row, name in enumerate(names):
        steps[row, "xyz".index(name)] = grid.axis(name).step
    n_i, n_j = block.shape
    return Lattice(grid.frame.to_heliocentric(origin), steps @ grid.frame.rotation, (n_i, n_j, grid.axis(along).n))


def _add_up(
    part: Part,
    starts: npt.NDArray[np.float64],
    step: npt.NDArray[np.float64],
    total: npt.NDArray[np.float64],
    count: npt.NDArray[np.float64],
) -> None:
    """Add the points of a part to the sums along their rows, in the order in which `sum_rows` does it."""
    n_sample = part.field.n_sample
    n = -(-part.n // SUMMED_TOGETHER) * SUMMED_TOGETHER
    at_once = max(1, SUMMED_BYTES // (8 * n * n_sample))
    for first in range(0, part.rows.size, at_once):
        rows = part.rows[first : first + at_once]
        filled = fill_rows(part.field, starts[rows], step, part.n, part.first)
        outside = np.isnan(filled[:, :, 0])
        values = np.zeros((len(rows), n, n_sample))
        values[:, : part.n] = np.where(outside[:, :, None], np.float32(0.0), filled)
        count[rows] += np.count_nonzero(~outside, axis=1)
        fours = values.reshape(len(rows), n // SUMMED_TOGETHER, SUMMED_TOGETHER, n_sample)
        terms = (fours[:, :, 0] + fours[:, :, 1]) + (fours[:, :, 2] + fours[:, :, 3])
        sums = total[rows]
        for place in range(terms.shape[1]):
            sums += terms[:, place]
        total[rows] = sums


def _halves(lattice: Lattice, bounds: Bounds) -> list[Bounds]:
    """Both halves of a box along its longest side that can be cut; none where a single row of four points is left."""
    best, longest, cut = -1, 0.0, 0
    lengths = np.linalg.norm(lattice.steps, axis=1)
    for axis, (start, stop) in enumerate(bounds):
        n = stop - start
        large, small = (SQUARE, 1) if axis < 2 else (TILE, SUMMED_TOGETHER)
        grain = large if n > large else small
        if n <= grain or (n - 1) * lengths[axis] <= longest:
            continue
        best, longest = axis, (n - 1) * lengths[axis]
        cut = start + max(grain, n // 2 // grain * grain)
    if best < 0:
        return []
    start, stop = bounds[best]
    halves: list[Bounds] = []
    for half in ((start, cut), (cut, stop)):
        sides = [*bounds]
        sides[best] = half
        halves.append((sides[0], sides[1], sides[2]))
    return halves
