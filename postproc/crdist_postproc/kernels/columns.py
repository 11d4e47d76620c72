"""Go once through the columns of a tile of voxels, for all that is made of them.

Columns are rows along z. To find and blend the cells around a point takes four fifths of the time of a sum: sums along
all three axes, mean and standard deviation from one pass take half as long again as one of them.

A tile is ``n_i`` x ``n_j`` columns of ``n`` voxels. Sums along z are those of `crdist_postproc.kernels.rows.sum_rows`,
to the bit. Those across the columns grow voxel by voxel in the order in which columns come: along x and along y each
voxel after the one before, if the rows do so.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
from numba import njit

from crdist_postproc.kernels.approx import FASTMATH, UNCOUNTED
from crdist_postproc.kernels.field import N_PADDED, Field
from crdist_postproc.kernels.gather import Splitting, gather_tile, split_voxels
from crdist_postproc.kernels.lanes import add_four_vectors, add_vector
from crdist_postproc.kernels.locate import TILE
from crdist_postproc.kernels.rows import leave_out, note_coverage, note_statistics, row_arguments

__all__ = ["ColumnSums", "add_columns"]

Doubles = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]


class ColumnSums(NamedTuple):
    """What is made of the columns of a tile; an array without elements is not wanted."""

    along_x: Doubles
    """Sums over x, shape (n_j, n, n_padded), unit of the samples."""
    count_x: Doubles
    """Number of voxels in them, parts of voxels as such, shape (n_j, n)."""
    along_y: Doubles
    """Sums over y, shape (n_i, n, n_padded)."""
    count_y: Doubles
    along_z: Doubles
    """Sums over z, shape (n_column, n_padded), columns in the order of the rows."""
    count_z: Doubles
    """With ``along_z`` or ``terms``, shape (n_column,)."""
    terms: Singles
    """What each voxel adds to the sum over z, in its place, shape (n_column, n, n_padded)."""
    mean: Singles
    """Mean over the samples, shape (n_column, n)."""
    std: Singles
    """Standard deviation over the samples (ddof = 1), shape (n_column, n)."""
    coverage: Singles
    """Part of each voxel that lies inside the grid, with mean and std; of a centre 0 or 1."""

    @classmethod
    def none(cls) -> Self:
        """Nothing is wanted."""
        cube, plane, line = (np.empty((0,) * n) for n in (3, 2, 1))
        single = np.empty((0, 0), dtype=np.float32)
        return cls(cube, plane, cube, plane, plane, line, cube.astype(np.float32), single, single, single)


def add_columns(
    field: Field,
    starts: Doubles,
    step: Doubles,
    n: int,
    places: npt.NDArray[np.int64],
    sums: ColumnSums,
    first: int = 0,
    *,
    splits: Splitting,
    of_centres: bool = False,
) -> None:
    """Add points to the sums of a tile, and note the statistics at each.

    Parameters
    ----------
    starts, step, n, first
        As `crdist_postproc.kernels.rows.fill_rows` takes them. Columns that are cut at multiples of four, piece after
        piece, give the same bits.
    places : ndarray of int64, shape (n_column, 2)
        Where in the tile each column stands.
    sums : ColumnSums
        Added to. ``along_x`` and ``along_y`` are those of whole columns, from point 0 on; ``mean``, ``std``,
        ``coverage`` and ``terms`` hold ``n`` points.
    splits : Splitting
        Where voxels are split.
    of_centres : bool
        Whether mean, std and coverage are those at the voxels' centres, though sums are of voxels that are split.
    """
    _columns(*row_arguments(field, starts, step), splits, first, n, field.n_sample, places, sums, of_centres)


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True, **UNCOUNTED)
def _columns(
    lanes,
    values,
    tables,
    layout,
    radial,
    starts,
    step,
    scratch,
    splits,
    first,
    n,
    n_sample,
    places,
    sums,
    of_centres,
):
    buffer, covered, moments = scratch.buffer, scratch.covered, scratch.moments
    width, n_padded = len(lanes), layout[N_PADDED]
    source = np.int64(buffer.ctypes.data)
    of_x, of_y = np.int64(sums.along_x.ctypes.data), np.int64(sums.along_y.ctypes.data)
    with_x, with_y, with_z = sums.along_x.size > 0, sums.along_y.size > 0, sums.along_z.size > 0
    with_terms, with_count, with_statistics = sums.terms.size > 0, sums.count_z.size > 0, sums.mean.size > 0
    with_sums = with_x or with_y or with_z or with_terms
    for row in range(starts.shape[0]):
        i, j = places[row, 0], places[row, 1]
        for base in range(0, n, TILE):
            size = min(TILE, n - base)
            at = first + base
            gather_tile(lanes, values, tables, layout, radial, starts, row, step, at, size, scratch, buffer)
            split = False
            if with_statistics and of_centres:
                piece = sums.coverage[row, base : base + size]
                note_coverage(buffer, n_padded, False, covered, piece)
                means, stds = sums.mean[row, base : base + size], sums.std[row, base : base + size]
                note_statistics(lanes, buffer, moments, n_padded, n_sample, size, means, stds)
            if with_sums or not of_centres:
                split = split_voxels(
                    lanes, values, tables, layout, radial, starts, row, step, at, size, scratch, splits, buffer
                )
            if with_statistics and not of_centres:
                piece = sums.coverage[row, base : base + size]
                note_coverage(buffer, n_padded, split, covered, piece)
                means, stds = sums.mean[row, base : base + size], sums.std[row, base : base + size]
                note_statistics(lanes, buffer, moments, n_padded, n_sample, size, means, stds)
            if not with_sums:
                continue
            if with_x or with_y:
                for k in range(size):
                    inside = 1.0
                    if np.isnan(buffer[k * n_padded]):
                        inside = 0.0
                    elif split:
                        inside = covered[k]
                    if with_x:
                        sums.count_x[j, at + k] += inside
                    if with_y:
                        sums.count_y[i, at + k] += inside
            inside = leave_out(buffer, n_padded, size, split, covered, sums.count_z[row] if with_count else 0.0)
            if with_count:
                sums.count_z[row] = inside
            if with_terms:
                for k in range(size):
                    for s in range(n_padded):
                        sums.terms[row, base + k, s] = buffer[k * n_padded + s]
            if with_x:
                target = of_x + 8 * (j * sums.along_x.shape[1] + at) * n_padded
                for offset in range(0, size * n_padded, width):
                    add_vector(lanes, target + 8 * offset, source + 4 * offset, 1.0)
            if with_y:
                target = of_y + 8 * (i * sums.along_y.shape[1] + at) * n_padded
                for offset in range(0, size * n_padded, width):
                    add_vector(lanes, target + 8 * offset, source + 4 * offset, 1.0)
            if with_z:
                target = np.int64(sums.along_z.ctypes.data) + 8 * row * n_padded
                buffer[size * n_padded :] = 0.0
                for k in range(0, size, 4):
                    for offset in range(0, n_padded, width):
                        add_four_vectors(lanes, target + 8 * offset, source + 4 * (k * n_padded + offset), 4 * n_padded)
