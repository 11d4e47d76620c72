"""Samples that are not in memory as a whole: rows of points are cut into parts whose chunks are.

A part is some rows, or a piece of each, with a field that holds what its points read. Where the chunks that it reaches
do not fit, it is halved. Parts of the same rows come in the order of their points, so that sums along rows give the
same bits however they are cut.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from crdist.errors import GridError, PlanTooLargeError
from crdist.grids import SphericalGrid
from crdist_postproc.kernels.field import N_PADDED, Field, ValueSpace, ring_rows
from crdist_postproc.kernels.gather import POINTWISE, Splitting
from crdist_postproc.kernels.locate import TILE
from crdist_postproc.reach import Lattice, Reach
from crdist_postproc.sparse import Chunks, committed_bytes, committed_bytes_in_slabs, fill_sparsely

__all__ = ["EXACT_POINTS", "SUMMED_TOGETHER", "ChunkReader", "FieldInParts", "Part", "Room", "Samples"]

EXACT_POINTS = 1 << 21
"""Points that are located one by one to see what they read: some 25 ns each, less than chunks read in vain take."""

SQUARE = 8
"""Rows side by side that read the same cells: see `crdist_postproc.products.tiling.tile_rows`."""

SUMMED_TOGETHER = 4
"""Points that a sum along a row takes at once: see `crdist_postproc.kernels.rows.sum_rows`. Rows
are cut between them as long as possible."""

Results = Mapping[Any, Any]
Floats = npt.NDArray[np.float64]
Bounds = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


class ChunkReader(Protocol):
    """Where chunks come from."""

    def read(self, pixel: int, shell: int, results: Results) -> npt.NDArray[Any]:
        """All samples of a chunk, shape (pixel, shell, sample); ``results`` is what Dask has computed for it."""


class Room:
    """Memory that threads share: who needs more than is free waits, in turn.

    Parameters
    ----------
    n_bytes : int
        All there is.
    """

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self._free = n_bytes
        self._change = threading.Condition()
        self._turn = threading.Lock()

    @contextmanager
    def taking(self, n_bytes: int) -> Iterator[None]:
        """Hold some of it.

        Raises
        ------
        PlanTooLargeError
            If there is less than that in all.
        """
        if n_bytes > self.n_bytes:
            raise PlanTooLargeError(
                f"the smallest part of a block reads {n_bytes / 2**20:,.1f} MiB of samples at once, but may hold "
                f"{self.n_bytes / 2**20:,.1f} MiB; give more memory, or sample by points (sampling: point)"
            )
        with self._turn, self._change:
            self._change.wait_for(lambda: self._free >= n_bytes)
            self._free -= n_bytes
        try:
            yield
        finally:
            with self._change:
                self._free += n_bytes
                self._change.notify_all()


@dataclass(slots=True, eq=False)
class Part:
    """Some points of rows, and a field that holds what they read, until the next part is asked for."""

    rows: npt.NDArray[np.int64] | slice
    """Which of the rows."""
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
    reader: ChunkReader
    chunks: Chunks
    reach: Reach
    memory_bytes: int
    """Most that a part may take."""
    elsewhere: float | None = field(default=None)
    """As for `fill_sparsely`."""
    room: Room | None = field(default=None)
    """Where parts of several threads must fit together."""
    name: str = field(default="")
    """Of the source, for messages."""
    results: Results = field(default_factory=dict)
    """What Dask has computed for the reader."""

    @property
    def n_sample(self) -> int:
        """Number of samples."""
        return self.template.n_sample

    @property
    def n_padded(self) -> int:
        """Number of samples as the kernels hold them."""
        return int(self.template.layout[N_PADDED])

    def parts(
        self,
        lattice: Lattice,
        starts: Floats,
        step: Floats,
        *,
        first: int = 0,
        splits: Splitting = POINTWISE,
    ) -> Iterator[Part]:
        """Cut the rows of a tile; of the parts of a row those with the first points come first.

        Parameters
        ----------
        lattice : Lattice
            The points of the tile, those of a row along its last axis.
        starts, step, first
            The rows, as `crdist_postproc.kernels.rows.fill_rows` takes them, in any order.
        splits : Splitting
            Where points stand for voxels that are split; the steps of the lattice are the voxels' sides.

        Yields
        ------
        Part
            Points outside the source are in none.
        """
        i, j = (_places(lattice, starts, axis) for axis in range(2))
        # the rows may be some of the tile's
        i_all, j_all = ((int(at.min()), int(at.max()) + 1) for at in (i, j))
        waiting: list[Bounds] = [(i_all, j_all, (0, lattice.shape[2]))]
        while waiting:
            bounds = waiting.pop()
            (i_first, i_stop), (j_first, j_stop), (k_first, k_stop) = bounds
            rows = np.flatnonzero((i >= i_first) & (i < i_stop) & (j >= j_first) & (j < j_stop))
            if not rows.size:
                continue
            halves = _halves(lattice, bounds)
            at = first + k_first
            most = self.most_chunks if halves else None
            wanted = self.reached(lattice.part(bounds), starts[rows], step, at, most, splits)
            n_bytes, in_slabs = self.bytes_of(wanted)
            if halves and n_bytes > self.memory_bytes:
                waiting.extend(reversed(halves))
            elif wanted.any():
                yield from self._part(wanted, rows, at, k_stop - k_first, n_bytes, in_slabs)

    def row_parts(self, starts: Floats, step: Floats, n: int, first: int = 0) -> Iterator[Part]:
        """Cut rows of points, wherever they lie, into groups that follow one another.

        Parameters
        ----------
        starts, step, n, first
            As `crdist_postproc.kernels.rows.fill_rows` takes them.

        Yields
        ------
        Part
            Whole rows, or pieces of one that reads too much, in the order of its points; those outside the source are
            in none.
        """
        waiting = [(0, len(starts), 0, n)]
        while waiting:
            begin, end, k_first, k_stop = waiting.pop()
            whole, count, at = end - begin > 1, k_stop - k_first, first + k_first
            rows, most = slice(begin, end), self.most_chunks if whole or count > 1 else None
            wanted = self.reach.chunks_of_rows(self.template, starts[rows], step, count, at, most)
            n_bytes, in_slabs = self.bytes_of(wanted)
            if n_bytes > self.memory_bytes and whole:
                middle = (begin + end) // 2
                waiting += [(middle, end, k_first, k_stop), (begin, middle, k_first, k_stop)]
            elif n_bytes > self.memory_bytes and count > 1:
                grain = TILE if count > TILE else 1
                middle = k_first + max(grain, count // 2 // grain * grain)
                waiting += [(begin, end, middle, k_stop), (begin, end, k_first, middle)]
            elif wanted.any():
                yield from self._part(wanted, rows, at, count, n_bytes, in_slabs)

    def pixel_parts(self, rows: npt.NDArray[np.integer], shells: slice) -> Iterator[Part]:
        """Cut a list of pixels into groups that follow one another.

        Parameters
        ----------
        rows : ndarray of int, shape (n,)
            RING indices.
        shells : slice
            Shells that are read.

        Yields
        ------
        Part
            Its ``rows`` are places in the list.
        """
        wanted = np.zeros(self.reach.shape, dtype=np.bool_)
        wanted[:, np.unique(self.reach.chunk_of_shell[shells])] = True
        return self.chunk_parts(rows[:, None], wanted)

    def chunk_parts(self, rows: npt.NDArray[np.integer], wanted: npt.NDArray[np.bool_]) -> Iterator[Part]:
        """Cut a list of pixels into groups that follow one another.

        Parameters
        ----------
        rows : ndarray of int, shape (n, m)
            RING indices of the pixels, and of others that are read with them.
        wanted : ndarray of bool, shape (n_pixel_chunk, n_shell_chunk)
            Which chunks are read, of those that hold the pixels.

        Yields
        ------
        Part
            Its ``rows`` are places in the list.
        """
        chunks = self.reach.chunk_of_row[rows]
        waiting = [(0, len(rows))]
        while waiting:
            begin, end = waiting.pop()
            here = np.zeros(self.reach.shape, dtype=np.bool_)
            some = np.unique(chunks[begin:end])
            here[some] = wanted[some]
            n_bytes = committed_bytes(here, self.chunks, self.n_padded)
            if end - begin > 1 and n_bytes > self.memory_bytes:
                middle = (begin + end) // 2
                waiting += [(middle, end), (begin, middle)]
            elif here.any():
                yield from self._part(here, slice(begin, end), 0, 0, n_bytes, False)

    def reached(
        self,
        lattice: Lattice,
        starts: Floats,
        step: Floats,
        first: int = 0,
        most: int | None = None,
        splits: Splitting = POINTWISE,
    ) -> npt.NDArray[np.bool_]:
        """The chunks that points read, shape (n_pixel_chunk, n_shell_chunk); ``most`` as for `Reach.chunks`."""
        n = lattice.shape[2]
        if splits.radii2.size:
            return self.reach.chunks(lattice, most, boxes=True)
        if len(starts) * n <= EXACT_POINTS:
            return self.reach.chunks_of_rows(self.template, starts, step, n, first, most)
        return self.reach.chunks(lattice, most)

    @property
    def most_chunks(self) -> int:
        """More chunks than this do not fit in memory."""
        smallest = np.diff(self.chunks.pixels).min() * np.diff(self.chunks.shells).min()
        return int(self.memory_bytes // (4 * int(smallest) * self.n_padded))

    def bytes_of(self, wanted: npt.NDArray[np.bool_]) -> tuple[int, bool]:
        """Memory of a field with some chunks filled in, and whether that is in slabs of shells."""
        by_pixel = committed_bytes(wanted, self.chunks, self.n_padded)
        # pixels together are quicker to read, and nearly always as good
        if by_pixel <= self.memory_bytes:
            return by_pixel, False
        by_slab = committed_bytes_in_slabs(wanted, self.chunks, self.n_padded, self.reach.chunk_of_row)
        return min((by_pixel, False), (by_slab, True))

    def filled(self, wanted: npt.NDArray[np.bool_], *, in_slabs: bool = False) -> Field:
        """A field with some chunks filled in; ``in_slabs`` as for `fill_sparsely`.

        Raises
        ------
        GridError
            If a sample is infinite, or not positive where its logarithm is asked for.
        """

        def rows_of(pixel: int) -> npt.NDArray[np.integer]:
            return ring_rows(self.grid, np.arange(*self.chunks.pixels[pixel : pixel + 2]))

        def read(pixel: int, shell: int) -> npt.NDArray[Any]:
            return self.reader.read(pixel, shell, self.results)

        try:
            return fill_sparsely(
                self.template,
                wanted,
                self.chunks,
                self.grid.n_pixel,
                rows_of,
                read,
                self.value_space,
                elsewhere=self.elsewhere,
                in_slabs=in_slabs,
            )
        except GridError as error:
            if not self.name:
                raise
            raise GridError(f"{self.name}: {error}") from error

    def _part(
        self,
        wanted: npt.NDArray[np.bool_],
        rows: npt.NDArray[np.int64] | slice,
        first: int,
        n: int,
        n_bytes: int,
        in_slabs: bool,
    ) -> Iterator[Part]:
        with nullcontext() if self.room is None else self.room.taking(n_bytes):
            part = Part(rows, first, n, self.filled(wanted, in_slabs=in_slabs))
            yield part
            # whoever still holds the part must not hold its memory
            del part.field


Samples = Field | FieldInParts
"""What products are computed from."""


def _places(lattice: Lattice, starts: Floats, axis: int) -> npt.NDArray[np.int64]:
    """Which place along an axis of the lattice each row has."""
    side = lattice.steps[axis]
    return np.asarray(np.rint((starts - lattice.origin) @ side / (side @ side)), dtype=np.int64)


def _halves(lattice: Lattice, bounds: Bounds) -> list[Bounds]:
    """Both halves of a box along its longest side that can be cut; none of a single point."""
    best, longest, cut = -1, 0.0, 0
    lengths = np.linalg.norm(lattice.steps, axis=1)
    for axis, (start, stop) in enumerate(bounds):
        n = stop - start
        grains = (SQUARE, 1) if axis < 2 else (TILE, SUMMED_TOGETHER, 1)
        grain = next((grain for grain in grains if n > grain), 1)
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
