"""Interpolate all samples along rows of points, and reduce them on the way.

A row is a start and a step; a row of voxels along any axis of any frame is one, and so is a line of sight. No volume is
made unless it is asked for: a projection needs the memory of 64 points.

Every function takes ``starts``, shape (n_row, 3), and ``step``, shape (3,), heliocentric kpc, and ``n`` points a row. A
point outside the grid, or whose value is NaN (masked), is NaN in values and is left out of sums and counts.

With a `Splitting` a point is the centre of a voxel, and what counts is the mean over the voxel, taken at as many places
as the source's cells there ask for; of a voxel that lies partly outside, over what lies inside.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from crdist_postproc.kernels.approx import FASTMATH, UNCOUNTED
from crdist_postproc.kernels.field import N_PADDED, Field
from crdist_postproc.kernels.gather import POINTWISE, Scratch, Splitting, gather_tile, gather_voxels
from crdist_postproc.kernels.lanes import add_four_vectors, add_moments, add_vector
from crdist_postproc.kernels.locate import TILE

__all__ = ["add_bins", "add_rows", "bin_rows", "fill_rows", "statistics_rows", "sum_rows", "summed_rows"]

# Rows of the moments, behind the pairs of sums
ORIGIN, CENTRE, SPREAD = 2, 3, 4

NOT_WANTED = np.empty((0, 0), dtype=np.float32)

Points = npt.NDArray[np.float64]


def fill_rows(
    field: Field,
    starts: Points,
    step: Points,
    n: int,
    first: int = 0,
    *,
    splits: Splitting = POINTWISE,
    coverage: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """The samples at each point.

    Parameters
    ----------
    first : int
        Index of the first point: the points are start + k step for k = first .. first + n - 1. A row cut in pieces
        this way gives the same bits.
    splits : Splitting
        Where points stand for voxels that are split.
    coverage : ndarray of float32, shape (n_row, n), optional
        Gets the part of each voxel that lies inside the grid; of a point, 0 or 1.

    Returns
    -------
    ndarray of float32, shape (n_row, n, n_sample), unit of the samples
    """
    out = np.empty((len(starts), n, field.n_sample), dtype=np.float32)
    covered = NOT_WANTED if coverage is None else coverage
    _fill(*row_arguments(field, starts, step), splits, first, n, field.n_sample, out, covered)
    return out


def sum_rows(
    field: Field, starts: Points, step: Points, n: int, splits: Splitting = POINTWISE
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sum over the points of each row, sample by sample.

    Returns
    -------
    total : ndarray of float64, shape (n_row, n_sample), unit of the samples
        Sum over the points inside the grid, by fours.
    count : ndarray of float64, shape (n_row,)
        Number of points inside the grid; parts of voxels count as such.
    """
    total = np.zeros((len(starts), field.values.shape[2]))
    count = np.zeros(len(starts))
    add_rows(field, starts, step, n, total, count, splits=splits)
    return total[:, : field.n_sample], count


def add_rows(
    field: Field,
    starts: Points,
    step: Points,
    n: int,
    total: npt.NDArray[np.float64],
    count: npt.NDArray[np.float64],
    first: int = 0,
    *,
    splits: Splitting = POINTWISE,
) -> None:
    """Add points to sums along rows: of rows that are cut at multiples of four, piece after piece gives the same bits.

    Of a piece that is not, `summed_rows` gives what to add, four points at a time.

    Parameters
    ----------
    total : ndarray of float64, shape (n_row, n_padded), unit of the samples
    count : ndarray of float64, shape (n_row,)
        As `sum_rows` gives them, with room for the padding.
    first : int
        Index of the first point.
    """
    _sum(*row_arguments(field, starts, step), splits, first, n, total, count)


def summed_rows(
    field: Field,
    starts: Points,
    step: Points,
    n: int,
    count: npt.NDArray[np.float64],
    first: int = 0,
    *,
    splits: Splitting = POINTWISE,
) -> npt.NDArray[np.float32]:
    """What each point adds to the sum along its row.

    Parameters
    ----------
    count : ndarray of float64, shape (n_row,)
        As for `add_rows`, and added to.

    Returns
    -------
    ndarray of float32, shape (n_row, n, n_padded), unit of the samples
        Zero outside the grid; times the part of the voxel that lies inside.
    """
    out = np.empty((len(starts), n, field.values.shape[2]), dtype=np.float32)
    _summed(*row_arguments(field, starts, step), splits, first, n, out, count)
    return out


def statistics_rows(
    field: Field,
    starts: Points,
    step: Points,
    n: int,
    first: int = 0,
    *,
    splits: Splitting = POINTWISE,
    coverage: npt.NDArray[np.float32] | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean and standard deviation (ddof = 1) over the samples at each point.

    Parameters
    ----------
    first, splits, coverage
        As for `fill_rows`.

    Returns
    -------
    mean, std : ndarray of float32, shape (n_row, n), unit of the samples
        ``std`` is NaN for a single sample.
    """
    mean = np.empty((len(starts), n), dtype=np.float32)
    std = np.empty((len(starts), n), dtype=np.float32)
    covered = NOT_WANTED if coverage is None else coverage
    _statistics(*row_arguments(field, starts, step), splits, first, n, field.n_sample, mean, std, covered)
    return mean, std


def bin_rows(
    field: Field,
    starts: Points,
    step: Points,
    n: int,
    row_bins: npt.NDArray[np.int64],
    point_bins: npt.NDArray[np.int64],
    row_weights: Points,
    point_weights: npt.NDArray[np.float32] | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Weighted sums over the points in each bin, sample by sample.

    Parameters
    ----------
    row_bins : ndarray of int64, shape (n_row,)
        First bin index of each row, -1 for none.
    point_bins : ndarray of int64, shape (n,)
        Second bin index of each point of a row, -1 for none.
    row_weights : ndarray of float64, shape (n_row,)
        Weight of the points of each row, such as their volume.
    point_weights : ndarray of float32, shape (n_row, n), optional
        A further weight of each point; a point where it is NaN is left out.

    Returns
    -------
    total : ndarray of float64, shape (n_bin, m_bin, n_sample)
        Sum of weight x sample over the points inside the grid.
    weight : ndarray of float64, shape (n_bin, m_bin)
        Sum of the weights over the same points.
    inside : ndarray of float64, shape (n_bin, m_bin)
        Sum of the row weights alone over the same points.
    """
    shape = (int(row_bins.max(initial=-1)) + 1, int(point_bins.max(initial=-1)) + 1)
    total = np.zeros((*shape, field.values.shape[2]))
    weight = np.zeros((*shape, 2))
    add_bins(field, starts, step, n, row_bins, point_bins, row_weights, point_weights, total, weight)
    return total[:, :, : field.n_sample], weight[:, :, 0], weight[:, :, 1]


def add_bins(
    field: Field,
    starts: Points,
    step: Points,
    n: int,
    row_bins: npt.NDArray[np.int64],
    point_bins: npt.NDArray[np.int64],
    row_weights: Points,
    point_weights: npt.NDArray[np.float32] | None,
    total: npt.NDArray[np.float64],
    weight: npt.NDArray[np.float64],
    first: int = 0,
) -> None:
    """Add the points of rows to sums in bins: some rows, or pieces of rows, after the others give the same bits.

    Parameters
    ----------
    starts, step, n, row_bins, point_bins, row_weights, point_weights
        As for `bin_rows`; ``point_bins`` and ``point_weights`` of the n points.
    first : int
        Index of the first point.
    total : ndarray of float64, shape (n_bin, m_bin, n_padded)
        Sums of weight x sample, with room for the padding.
    weight : ndarray of float64, shape (n_bin, m_bin, 2)
        Sums of the weights, and of the row weights alone.
    """
    extra = NOT_WANTED if point_weights is None else point_weights
    _bin(*row_arguments(field, starts, step), first, n, row_bins, point_bins, row_weights, extra, total, weight)


def row_arguments(field: Field, starts: Points, step: Points) -> tuple[object, ...]:
    """What every kernel takes first."""
    starts = np.ascontiguousarray(starts, dtype=np.float64)
    step = np.ascontiguousarray(step, dtype=np.float64)
    scratch = Scratch.empty(field.values.shape[2])
    return field.lanes, field.values, field.tables, field.layout, field.radial, starts, step, scratch


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", **UNCOUNTED)
def note_coverage(buffer, n_padded, split, covered, coverage):
    for k in range(coverage.size):
        coverage[k] = covered[k] if split else (0.0 if np.isnan(buffer[k * n_padded]) else 1.0)


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True, **UNCOUNTED)
def _fill(lanes, values, tables, layout, radial, starts, step, scratch, splits, first, n, n_sample, out, coverage):
    buffer = scratch.buffer
    n_padded = layout[N_PADDED]
    for row in range(starts.shape[0]):
        for base in range(0, n, TILE):
            size = min(TILE, n - base)
            at = first + base
            # without padding a tile is one piece of the result
            whole = n_padded == n_sample
            piece = out[row, base : base + size].reshape(size * n_sample) if whole else buffer
            split = gather_voxels(
                lanes, values, tables, layout, radial, starts, row, step, at, size, scratch, splits, piece
            )
            if coverage.size:
                note_coverage(piece, n_padded, split, scratch.covered, coverage[row, base : base + size])
            if not whole:
                for k in range(size):
                    for s in range(n_sample):
                        out[row, base + k, s] = buffer[k * n_padded + s]


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True, **UNCOUNTED)
def _sum(lanes, values, tables, layout, radial, starts, step, scratch, splits, first, n, total, count):
    buffer, covered = scratch.buffer, scratch.covered
    width, n_padded = len(lanes), layout[N_PADDED]
    source = np.int64(buffer.ctypes.data)
    for row in range(starts.shape[0]):
        target = np.int64(total.ctypes.data) + 8 * row * n_padded
        inside = count[row]
        for base in range(0, n, TILE):
            size = min(TILE, n - base)
            split = gather_voxels(
                lanes, values, tables, layout, radial, starts, row, step, first + base, size, scratch, splits, buffer
            )
            inside = leave_out(buffer, n_padded, size, split, covered, inside)
            buffer[size * n_padded :] = 0.0
            for k in range(0, size, 4):
                for offset in range(0, n_padded, width):
                    add_four_vectors(lanes, target + 8 * offset, source + 4 * (k * n_padded + offset), 4 * n_padded)
        count[row] = inside


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True, **UNCOUNTED)
def _summed(lanes, values, tables, layout, radial, starts, step, scratch, splits, first, n, out, count):
    n_padded = layout[N_PADDED]
    for row in range(starts.shape[0]):
        inside = count[row]
        for base in range(0, n, TILE):
            size = min(TILE, n - base)
            piece = out[row, base : base + size].reshape(size * n_padded)
            split = gather_voxels(
                lanes, values, tables, layout, radial, starts, row, step, first + base, size, scratch, splits, piece
            )
            inside = leave_out(piece, n_padded, size, split, scratch.covered, inside)
        count[row] = inside


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", **UNCOUNTED)
def leave_out(buffer, n_padded, size, split, covered, inside):
    """Put zero where points lie outside, and less where voxels do in part; return the number inside."""
    for k in range(size):
        if np.isnan(buffer[k * n_padded]):
            buffer[k * n_padded : (k + 1) * n_padded] = 0.0
        elif split and covered[k] < 1.0:
            inside += covered[k]
            for s in range(k * n_padded, (k + 1) * n_padded):
                buffer[s] *= covered[k]
        else:
            inside += 1.0
    return inside


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True, **UNCOUNTED)
def _statistics(
    lanes, values, tables, layout, radial, starts, step, scratch, splits, first, n, n_sample, mean, std, coverage
):
    buffer = scratch.buffer
    n_padded = layout[N_PADDED]
    for row in range(starts.shape[0]):
        for base in range(0, n, TILE):
            size = min(TILE, n - base)
            split = gather_voxels(
                lanes, values, tables, layout, radial, starts, row, step, first + base, size, scratch, splits, buffer
            )
            if coverage.size:
                note_coverage(buffer, n_padded, split, scratch.covered, coverage[row, base : base + size])
            means, stds = mean[row, base : base + size], std[row, base : base + size]
            note_statistics(lanes, buffer, scratch.moments, n_padded, n_sample, size, means, stds)


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", **UNCOUNTED)
def note_statistics(lanes, buffer, moments, n_padded, n_sample, size, means, stds):
    """Mean and standard deviation at the points of a tile, whose padding is overwritten."""
    width = len(lanes)
    source = np.int64(buffer.ctypes.data)
    target = np.int64(moments.ctypes.data)
    # 0 x infinity is NaN: one sample has no spread
    per_freedom = 1.0 / np.float64(n_sample - 1)
    # Deviations are taken from the first sample, which is as good as the mean: it is within sqrt(n_sample)
    # standard deviations of it. In place of the padding it deviates by nothing.
    for k in range(size):
        for s in range(n_sample, n_padded):
            buffer[k * n_padded + s] = buffer[k * n_padded]
    moments[: 2 * TILE] = 0.0
    for k in range(size):
        origin = np.float64(buffer[k * n_padded])
        moments[ORIGIN * TILE + k] = origin
        for offset in range(0, n_padded, width):
            add_moments(lanes, target + 16 * k, source + 4 * (k * n_padded + offset), origin)
    for k in range(TILE):
        total = moments[2 * k]
        deviation = total / n_sample
        spread = moments[2 * k + 1] - total * deviation
        spread = 0.0 if spread < 0.0 else spread
        moments[CENTRE * TILE + k] = moments[ORIGIN * TILE + k] + deviation
        moments[SPREAD * TILE + k] = math.sqrt(spread * per_freedom)
    for k in range(size):
        means[k] = moments[CENTRE * TILE + k]
        stds[k] = moments[SPREAD * TILE + k]


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True, **UNCOUNTED)
def _bin(
    lanes,
    values,
    tables,
    layout,
    radial,
    starts,
    step,
    scratch,
    first,
    n,
    row_bins,
    point_bins,
    row_weights,
    extra,
    total,
    weight,
):
    buffer = scratch.buffer
    width, n_padded = len(lanes), layout[N_PADDED]
    source = np.int64(buffer.ctypes.data)
    for row in range(starts.shape[0]):
        i = row_bins[row]
        if i < 0:
            continue
        for base in range(0, n, TILE):
            size = min(TILE, n - base)
            gather_tile(lanes, values, tables, layout, radial, starts, row, step, first + base, size, scratch, buffer)
            for k in range(size):
                j = point_bins[base + k]
                if j < 0 or np.isnan(buffer[k * n_padded]):
                    continue
                volume = row_weights[row]
                w = volume
                if extra.size:
                    w = volume * np.float64(extra[row, base + k])
                    if w != w:
                        continue
                weight[i, j, 0] += w
                weight[i, j, 1] += volume
                target = np.int64(total.ctypes.data) + 8 * (i * total.shape[1] + j) * n_padded
                for offset in range(0, n_padded, width):
                    add_vector(lanes, target + 8 * offset, source + 4 * (k * n_padded + offset), w)
