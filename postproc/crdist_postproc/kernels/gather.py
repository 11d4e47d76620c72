"""Take all samples at the points of a row, 64 points at a time; or the mean over voxels, near the Sun of many points.

A source's cells are as small as their distance: where they are smaller than a voxel, one point in it would miss most of
them. Such a voxel is halved in all directions until its parts are no larger than the cells there. The parts of a row of
voxels lie in rows, too, and those small enough are neighbours, so that they are located 64 at a time like whole voxels.
What a voxel gets depends on the voxel alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from crdist.errors import GridError
from crdist.grids import SphericalGrid
from crdist_postproc.kernels.approx import FASTMATH, UNCOUNTED, exp
from crdist_postproc.kernels.field import LOG, N_PADDED
from crdist_postproc.kernels.lanes import add_vector, blend_vector
from crdist_postproc.kernels.locate import FOLLOWING, PLACE_ROWS, SCRATCH_ROWS, TILE, WEIGHT_ROWS, locate_tile

__all__ = ["POINTWISE", "Scratch", "Splitting", "gather_tile", "gather_voxels", "split_voxels", "splitting"]

MOMENT_ROWS = 5
"""Rows of the moments that the statistics need."""

MAX_LEVEL = 24
"""A voxel is halved so often at most: 16 million parts along each side."""

Points = npt.NDArray[np.float64]


class Splitting(NamedTuple):
    """Where voxels are split."""

    radii2: Points
    """For each number of halvings, kpc^2: a part so small is halved again if its centre is closer to the Sun."""
    across: Points
    """Sides of a voxel across the row, shape (2, 3), heliocentric kpc."""


POINTWISE = Splitting(np.empty(0), np.zeros((2, 3)))
"""One point a voxel."""


class Scratch(NamedTuple):
    """Room for a tile of 64 points."""

    floats: Points
    places: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    """As `locate_tile` wants them."""
    buffer: npt.NDArray[np.float32]
    """Samples, point after point."""
    moments: Points
    """64 pairs of sums, then rows of 64."""
    parts: npt.NDArray[np.float32]
    """Samples at parts of voxels."""
    sums: Points
    """Sums over the parts of 64 voxels, sample by sample."""
    covered: Points
    """Part of each of 64 voxels that lies inside the grid."""
    stack: npt.NDArray[np.int64]
    """Rows of parts that are left to look at."""
    origin: Points
    """First part of a row, shape (1, 3), and the way to the next, shape (1, 3)."""

    @classmethod
    def empty(cls, n_padded: int) -> Scratch:
        """Room for samples padded to a number."""
        return cls(
            np.empty(SCRATCH_ROWS * TILE),
            np.empty(PLACE_ROWS * TILE, dtype=np.int64),
            np.empty(WEIGHT_ROWS * TILE, dtype=np.float32),
            np.zeros(n_padded * TILE, dtype=np.float32),
            np.empty(MOMENT_ROWS * TILE),
            np.zeros(n_padded * TILE, dtype=np.float32),
            np.empty(n_padded * TILE),
            np.empty(TILE),
            np.empty((4 * MAX_LEVEL, 5), dtype=np.int64),
            np.empty((2, 3)),
        )


def splitting(grid: SphericalGrid, along_kpc: float, across_kpc: Points, parts_per_cell: float = 1.0) -> Splitting:
    """Where voxels are split so that their parts are no larger than the source's cells.

    Parameters
    ----------
    grid : SphericalGrid
        The source's.
    along_kpc : float, kpc
        Side of a voxel along the row.
    across_kpc : ndarray, shape (2, 3), heliocentric kpc
        The two other sides.
    parts_per_cell : float
        How many parts a cell's size is to hold, at least.

    Raises
    ------
    GridError
        If a voxel would be halved too often.

    Notes
    -----
    The size of a cell is the smaller of its width, sqrt(pi / 3) / nside times the distance, and its depth. Space
    inside the first edge counts as if it were at that edge.
    """
    side = max(along_kpc, float(np.sqrt((across_kpc**2).sum(axis=1)).max()))
    angle = np.sqrt(np.pi / 3.0) / grid.nside
    edges, widths = grid.edges, grid.widths
    radii: list[float] = []
    while True:
        needed = parts_per_cell * side / 2.0 ** len(radii)
        thin = widths < needed
        radius = max(needed / angle, float(edges[1:][thin].max()) if thin.any() else 0.0)
        if radius <= edges[0]:
            return Splitting(np.array(radii) ** 2, np.ascontiguousarray(across_kpc, dtype=np.float64))
        if len(radii) == MAX_LEVEL:
            raise GridError(
                f"voxels of {side:g} kpc are too large for cells that start at {edges[0]:g} kpc; choose smaller voxels"
            )
        # a part that lies wholly outside needs no halving, one that reaches in from outside does
        radii.append(min(radius, float(edges[-1]) + np.sqrt(0.75) * side / 2.0 ** len(radii)))


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", **UNCOUNTED)
def gather_voxels(lanes, values, tables, layout, radial, starts, row, step, first, n, scratch, splits, out):
    """Put the samples' means over voxels first .. first + n - 1 of a row, at most 64, into ``out``.

    Returns whether any of them was split; only then ``scratch.covered`` says which part of each lies inside the grid.
    """
    gather_tile(lanes, values, tables, layout, radial, starts, row, step, first, n, scratch, out)
    return split_voxels(lanes, values, tables, layout, radial, starts, row, step, first, n, scratch, splits, out)


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", **UNCOUNTED)
def split_voxels(lanes, values, tables, layout, radial, starts, row, step, first, n, scratch, splits, out):
    """Put the means over those voxels that are split in place of the samples at their centres; see `gather_voxels`."""
    radii2, across = splits
    if radii2.size == 0:
        return False
    origin, stack = scratch.origin, scratch.stack
    begin, end = _interval(starts, row, step, across, 0, 0, 0, first, first + n, radii2[0], origin)
    if begin == end:
        return False
    n_padded = layout[N_PADDED]
    sums, covered, parts = scratch.sums, scratch.covered, scratch.parts
    width = len(lanes)
    source, target = np.int64(parts.ctypes.data), np.int64(sums.ctypes.data)
    for k in range(n):
        covered[k] = 0.0 if np.isnan(out[k * n_padded]) else 1.0
    covered[begin - first : end - first] = 0.0
    sums[: n * n_padded] = 0.0
    depth = _push(stack, 0, 0, 0, 0, begin, end)
    while depth > 0:
        depth -= 1
        level, i, j, a, b = stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3], stack[depth, 4]
        begin_finer, end_finer = a, a
        if level < radii2.size:
            begin_finer, end_finer = _interval(starts, row, step, across, level, i, j, a, b, radii2[level], origin)
        else:
            _set_origin(starts, row, step, across, level, i, j, origin)
        weight = 0.125**level
        for side in range(2):
            low, high = (a, begin_finer) if side == 0 else (end_finer, b)
            for base in range(low, high, TILE):
                size = min(TILE, high - base)
                gather_tile(lanes, values, tables, layout, radial, origin, 0, origin[1], base, size, scratch, parts)
                for k in range(size):
                    if np.isnan(parts[k * n_padded]):
                        continue
                    voxel = ((base + k) >> level) - first
                    covered[voxel] += weight
                    for offset in range(0, n_padded, width):
                        add_vector(
                            lanes,
                            target + 8 * (voxel * n_padded + offset),
                            source + 4 * (k * n_padded + offset),
                            weight,
                        )
        if begin_finer < end_finer:
            depth = _push(stack, depth, level, i, j, begin_finer, end_finer)
    for voxel in range(begin - first, end - first):
        for s in range(voxel * n_padded, (voxel + 1) * n_padded):
            # 0 / 0 is NaN: no part of the voxel lies inside
            out[s] = sums[s] / covered[voxel]
    return True


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", **UNCOUNTED)
def _push(stack, depth, level, i, j, begin, end):
    """The four rows of halves of parts begin .. end - 1 of a row; return how many rows are left now."""
    for side in range(4):
        stack[depth, 0] = level + 1
        stack[depth, 1] = 2 * i + side // 2
        stack[depth, 2] = 2 * j + side % 2
        stack[depth, 3] = 2 * begin
        stack[depth, 4] = 2 * end
        depth += 1
    return depth


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", **UNCOUNTED)
def _set_origin(starts, row, step, across, level, i, j, origin):
    """Where part 0 of a row of parts lies, and the way to the next."""
    size = 1.0 / np.float64(1 << level)
    u, v, back = (i + 0.5) * size - 0.5, (j + 0.5) * size - 0.5, 0.5 * size - 0.5
    for axis in range(3):
        origin[0, axis] = starts[row, axis] + u * across[0, axis] + v * across[1, axis] + back * step[axis]
        origin[1, axis] = size * step[axis]


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", **UNCOUNTED)
def _interval(starts, row, step, across, level, i, j, begin, end, radius2, origin):
    """Those of the parts begin .. end - 1 of a row that lie within a radius: neighbours, for a row is straight."""
    _set_origin(starts, row, step, across, level, i, j, origin)
    x0, y0, z0 = origin[0, 0], origin[0, 1], origin[0, 2]
    dx, dy, dz = origin[1, 0], origin[1, 1], origin[1, 2]
    # the closest point of the row, whether there is a part's centre or not: most rows are too far away
    nearest = -(x0 * dx + y0 * dy + z0 * dz) / (dx * dx + dy * dy + dz * dz)
    nearest = min(max(nearest, np.float64(begin)), np.float64(end - 1))
    x, y, z = x0 + nearest * dx, y0 + nearest * dy, z0 + nearest * dz
    if x * x + y * y + z * z > radius2 * (1.0 + 1e-9):
        return begin, begin
    low, high = begin, begin
    for k in range(begin, end):
        x, y, z = x0 + k * dx, y0 + k * dy, z0 + k * dz
        if x * x + y * y + z * z < radius2:
            low = k if high == begin else low
            high = k + 1
    return low, max(low, high)


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", **UNCOUNTED)
def gather_tile(lanes, values, tables, layout, radial, starts, row, step, first, n, scratch, out):
    """Put the samples at points first .. first + n - 1, NaN where there are none, into ``out``, point after point."""
    places, weights = scratch.places, scratch.weights
    locate_tile(starts, row, step, first, tables, layout, radial, scratch.floats, places, weights)
    n_padded = layout[N_PADDED]
    width = len(lanes)
    source = np.int64(values.ctypes.data)
    target = np.int64(out.ctypes.data)
    weight = np.int64(weights.ctypes.data)
    for k in range(n):
        following = places[FOLLOWING * TILE + k]
        if following < 0:
            out[k * n_padded : (k + 1) * n_padded] = np.nan
            continue
        to = target + 4 * k * n_padded
        a = source + places[k]
        b = source + places[TILE + k]
        c = source + places[2 * TILE + k]
        d = source + places[3 * TILE + k]
        w = weight + 4 * k
        # the first, and often the only, vector of samples: the loop costs a third of the time that the vector does
        blend_vector(lanes, to, a, b, c, d, following, w, 4 * TILE)
        for at in range(4 * width, 4 * n_padded, 4 * width):
            blend_vector(lanes, to + at, a + at, b + at, c + at, d + at, following, w, 4 * TILE)
    if layout[LOG]:
        for i in range(n * n_padded):
            out[i] = exp(np.float64(out[i]))
