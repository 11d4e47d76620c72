"""Which chunks of the source the interpolation at a box of points reads: never too few, seldom too many.

The points of a box lie in a ball about its middle: in a range of distances and in a cone of directions. A pixel that
interpolation reads is within `LINEAR_PADDING` / nside of the point. HEALPix' tree of pixels finds all pixels near the
cone from the coarse ones downward. Where a ball is too large to tell, its box is halved, down to single points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crdist.errors import GridError
from crdist.grids import SphericalGrid
from crdist_postproc.kernels.chunks import mark_box, mark_rows
from crdist_postproc.kernels.field import UNIFORM_TOLERANCE, Field, Inner, Method, ring_rows
from crdist_postproc.kernels.locate import PLACE_ROWS, SCRATCH_ROWS, TILE, WEIGHT_ROWS

__all__ = ["Lattice", "Reach"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LINEAR_PADDING = 2.4
"""Bilinear neighbours are at most a ring and the width of a pixel along a ring away: (2/3 + pi/2) / nside = 2.24 /
nside at the equator, 2.3 for nside 1, less elsewhere (Gorski et al. 2005, ApJ 622, 759, section 5)."""

NEAREST_PADDING = 1.1
"""The centre of the pixel that holds a point is at most 1.07 / nside away."""

PART = 8
"""A box is not halved on for less than this part of a chunk."""

PARTS_OF_VOXEL = 4

FINER = 3
"""Levels of the tree below pixels as large as a chunk."""

MAX_TREE_LEVEL = 7


@dataclass(frozen=True, slots=True, eq=False)
class Lattice:
    """A box of points: origin + i steps[0] + j steps[1] + k steps[2], the steps at right angles."""

    origin: Floats
    """The first point, shape (3,), heliocentric kpc."""
    steps: Floats
    """From a point to the next along each axis, shape (3, 3), heliocentric kpc."""
    shape: tuple[int, int, int]
    """Number of points along each axis."""

    def part(self, bounds: tuple[tuple[int, int], ...]) -> Lattice:
        """The points from start to stop along each axis."""
        starts = np.array([start for start, _ in bounds], dtype=np.float64)
        n_i, n_j, n_k = (stop - start for start, stop in bounds)
        return Lattice(self.origin + starts @ self.steps, self.steps, (n_i, n_j, n_k))

    def finer(self, n: int) -> Lattice:
        """The middles of parts of the boxes around the points, n of them along each axis."""
        steps = self.steps / n
        origin = self.origin - 0.5 * (n - 1) * steps.sum(axis=0)
        n_i, n_j, n_k = (n * size for size in self.shape)
        return Lattice(origin, steps, (n_i, n_j, n_k))

    @property
    def lengths(self) -> Floats:
        """Size of the box along its axes from the first point to the last, kpc, shape (3,)."""
        extent = (np.array(self.shape) - 1) * np.linalg.norm(self.steps, axis=1)
        return np.asarray(extent, dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Reach:
    """The chunks of a source, arranged so that those near a place are found fast. Build it with `Reach.of`."""

    vectors: Floats
    """Directions of the tree's nodes, coarse levels first, each level nested, shape (n_node, 3)."""
    cones: Floats
    """For each level the angle within which everything lies that reads a pixel of a node, shape (n_level,)."""
    first: Integers
    """Where the chunks of each node begin in ``members``, shape (n_node + 1,)."""
    members: Integers
    """Chunks along pixel that hold a pixel of the node, node after node."""
    knots: Floats
    """Distances between which two shells count, or from which on a shell does, kpc."""
    chunk_of_row: Integers
    """Chunk along pixel that holds each pixel, in RING order."""
    chunk_of_shell: Integers
    """Chunk along shell that holds each shell."""
    following: int
    """1 where the shell beyond a point is read, too, else 0."""
    radial: Floats
    """First and last edge [kpc], tolerance of distances, and sizes below which no box is halved."""
    shape: tuple[int, int]
    """Number of chunks along pixel and along shell."""
    made_from: tuple[SphericalGrid, tuple[int, ...], tuple[int, ...], Method, Inner]
    """The arguments of `of`."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The tables are megabytes and made in a fraction of a second: only what they are made from travels.
        return _made_again, self.made_from

    @classmethod
    def of(
        cls,
        grid: SphericalGrid,
        pixel_chunks: tuple[int, ...],
        shell_chunks: tuple[int, ...],
        *,
        method: Method = "linear",
        inner: Inner = "extend",
    ) -> Reach:
        """Arrange the chunks of samples on a grid.

        Parameters
        ----------
        grid : SphericalGrid
        pixel_chunks, shell_chunks : tuple of int
            Sizes of the chunks, as Dask gives them; pixels in the grid's order.
        method, inner
            Of the interpolation.

        Raises
        ------
        GridError
            If the chunks do not add up to the grid.
        """
        if (sum(pixel_chunks), sum(shell_chunks)) != (grid.n_pixel, grid.n_shell):
            raise GridError(
                f"chunks must add up to {grid.n_pixel} pixels and {grid.n_shell} shells, "
                f"got {sum(pixel_chunks)} and {sum(shell_chunks)}"
            )
        chunk_level = math.log(max(len(pixel_chunks) / 12.0, 1.0), 4.0)
        last = min(grid.level, math.ceil(chunk_level) + FINER, MAX_TREE_LEVEL)
        padding = (LINEAR_PADDING if method == "linear" else NEAREST_PADDING) / grid.nside
        vectors, cones = _tree(last, grid.level, padding)
        first, members = _members(grid, pixel_chunks, last)
        ln_edges = np.log(grid.edges)
        knots = grid.centres if method == "linear" else grid.edges[:-1]
        widest = float(np.diff(ln_edges).max())
        return cls(
            vectors=vectors,
            cones=cones,
            first=first,
            members=members,
            knots=knots,
            chunk_of_row=_chunk_of_row(grid, pixel_chunks),
            chunk_of_shell=np.repeat(np.arange(len(shell_chunks)), shell_chunks),
            following=int(method == "linear"),
            radial=np.array(
                [
                    grid.edges[0] if inner == "exclude" else 0.0,
                    grid.edges[-1],
                    # shells that count as evenly spaced may each be off by the tolerance
                    math.exp(1e-9 + UNIFORM_TOLERANCE * grid.n_shell * widest),
                    math.sqrt(math.pi / 3.0) / 2.0**chunk_level / PART,
                    (ln_edges[-1] - ln_edges[0]) / len(shell_chunks) / PART,
                ]
            ),
            shape=(len(pixel_chunks), len(shell_chunks)),
            made_from=(grid, pixel_chunks, shell_chunks, method, inner),
        )

    def chunks(self, lattice: Lattice, most: int | None = None, *, boxes: bool = False) -> npt.NDArray[np.bool_]:
        """The chunks that interpolation at the points of a lattice reads.

        Parameters
        ----------
        lattice : Lattice
        most : int, optional
            Look no further when there are more chunks than this.
        boxes : bool
            Every place in the boxes around the points counts, as in voxels that are split.

        Returns
        -------
        ndarray of bool, shape (n_pixel_chunk, n_shell_chunk)
            True for every chunk that is read, and for few others.
        """
        reached = np.zeros(self.shape, dtype=np.bool_)
        around = 0.0
        if boxes:
            # balls about parts of a voxel keep closer to it than one about the whole
            lattice = lattice.finer(PARTS_OF_VOXEL)
            around = 0.5 * float(np.linalg.norm(lattice.steps))
        mark_box(
            np.ascontiguousarray(lattice.origin, dtype=np.float64),
            np.ascontiguousarray(lattice.steps, dtype=np.float64),
            np.array(lattice.shape, dtype=np.int64),
            around,
            self.vectors,
            self.cones,
            self.first,
            self.members,
            self.knots,
            self.chunk_of_shell,
            self.following,
            self.radial,
            reached.size if most is None else most,
            reached,
        )
        return reached

    def chunks_of_rows(
        self, field: Field, starts: Floats, step: Floats, n: int, first: int = 0, most: int | None = None
    ) -> npt.NDArray[np.bool_]:
        """The chunks that the kernels read at rows of points, exactly: they are located as the kernels do it.

        Parameters
        ----------
        field : Field
            With the tables of the interpolation; its values are not looked at.
        starts, step, n, first
            As for `crdist_postproc.kernels.rows.fill_rows`.
        most : int, optional
            Look no further when there are more chunks than this.

        Returns
        -------
        ndarray of bool, shape (n_pixel_chunk, n_shell_chunk)
        """
        reached = np.zeros(self.shape, dtype=np.bool_)
        mark_rows(
            np.ascontiguousarray(starts, dtype=np.float64),
            np.ascontiguousarray(step, dtype=np.float64),
            first,
            n,
            field.tables,
            field.layout,
            field.radial,
            np.empty(SCRATCH_ROWS * TILE),
            np.empty(PLACE_ROWS * TILE, dtype=np.int64),
            np.empty(WEIGHT_ROWS * TILE, dtype=np.float32),
            self.chunk_of_row,
            self.chunk_of_shell,
            reached.size if most is None else most,
            reached,
        )
        return reached


def _made_again(
    grid: SphericalGrid, pixel_chunks: tuple[int, ...], shell_chunks: tuple[int, ...], method: Method, inner: Inner
) -> Reach:
    return Reach.of(grid, pixel_chunks, shell_chunks, method=method, inner=inner)


def _tree(last: int, finest: int, padding: float) -> tuple[Floats, Floats]:
    """Directions of the pixels of levels 0 .. last, and for each level the cone of what reads one of its pixels."""
    import healpy

    levels = range(last + 1)
    vectors = [
        np.column_stack(healpy.pix2vec(2**level, np.arange(12 * 4**level), nest=True)).astype(np.float64)
        for level in levels
    ]
    # on the finest level a node is the centre of a pixel
    cones = [padding + (healpy.max_pixrad(2**level) if level < finest else 0.0) for level in levels]
    return np.concatenate(vectors), np.array(cones)


def _chunk_of_row(grid: SphericalGrid, pixel_chunks: tuple[int, ...]) -> Integers:
    chunk_of = np.empty(grid.n_pixel, dtype=np.int64)
    chunk_of[ring_rows(grid, np.arange(grid.n_pixel))] = np.repeat(np.arange(len(pixel_chunks)), pixel_chunks)
    return chunk_of


def _members(grid: SphericalGrid, pixel_chunks: tuple[int, ...], last: int) -> tuple[Integers, Integers]:
    """The chunks along pixel that share pixels with each node of the tree, node after node."""
    n_chunk = len(pixel_chunks)
    nested = np.arange(grid.n_pixel)
    chunk_of = _chunk_of_row(grid, pixel_chunks)[ring_rows(SphericalGrid(grid.nside, grid.edges_kpc), nested)]
    # one number for a node and a chunk
    pairs = (nested >> 2 * (grid.level - last)) * n_chunk + chunk_of
    pairs = np.unique(pairs[np.append(True, pairs[1:] != pairs[:-1])])
    counts, members = [], []
    for level in range(last, -1, -1):
        node, chunk = np.divmod(pairs, n_chunk)
        counts.append(np.bincount(node, minlength=12 * 4**level))
        members.append(chunk)
        pairs = np.unique((node >> 2) * n_chunk + chunk)
    first = np.concatenate([[0], np.cumsum(np.concatenate(counts[::-1]))])
    return first.astype(np.int64), np.concatenate(members[::-1]).astype(np.int64)
