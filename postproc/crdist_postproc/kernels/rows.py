"""Interpolate all samples along rows of points, and reduce them on the way.

A row is a start and a step; a row of voxels along any axis of any frame is one, and so is a line of sight. No volume is
made unless it is asked for: a projection needs the memory of 64 points.

Every function takes ``starts``, shape (n_row, 3), and ``step``, shape (3,), heliocentric kpc, and ``n`` points a row. A
point outside the grid, or whose value is NaN (masked), is NaN in values and is left out of sums and counts.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from crdist_postproc.kernels.approx import FASTMATH, exp
from crdist_postproc.kernels.field import LOG, N_PADDED, N_SHELL, Field
from crdist_postproc.kernels.lanes import add_vector, blend_vector
from crdist_postproc.kernels.locate import FRACTION, SCRATCH_ROWS, SHELL, TILE, locate_tile

__all__ = ["bin_rows", "fill_rows", "statistics_rows", "sum_rows"]

Points = npt.NDArray[np.float64]


def fill_rows(field: Field, starts: Points, step: Points, n: int, first: int = 0) -> npt.NDArray[np.float32]:
    """The samples at each point.

    Parameters
    ----------
    first : int
        Index of the first point: the points are start + k step for k = first .. first + n - 1. A row cut in pieces
        this way gives the same bits.

    Returns
    -------
    ndarray of float32, shape (n_row, n, n_sample), unit of the samples
    """
    out = np.empty((len(starts), n, field.n_sample), dtype=np.float32)
    _fill(*_arguments(field, starts, step), first, n, field.n_sample, out)
    return out


def sum_rows(
    field: Field, starts: Points, step: Points, n: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Sum over the points of each row, sample by sample.

    Returns
    -------
    total : ndarray of float64, shape (n_row, n_sample), unit of the samples
        Sum over the points inside the grid, in order.
    count : ndarray of int64, shape (n_row,)
        Number of points inside the grid.
    """
    total = np.zeros((len(starts), field.values.shape[2]))
    count = np.zeros(len(starts), dtype=np.int64)
    _sum(*_arguments(field, starts, step), n, total, count)
    return total[:, : field.n_sample], count


def statistics_rows(
    field: Field, starts: Points, step: Points, n: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean and standard deviation (ddof = 1) over the samples at each point.

    Returns
    -------
    mean, std : ndarray of float32, shape (n_row, n), unit of the samples
        ``std`` is NaN for a single sample.
    """
    mean = np.empty((len(starts), n), dtype=np.float32)
    std = np.empty((len(starts), n), dtype=np.float32)
    _statistics(*_arguments(field, starts, step), n, field.n_sample, mean, std)
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
    extra = np.empty((0, 0), dtype=np.float32) if point_weights is None else point_weights
    _bin(*_arguments(field, starts, step), n, row_bins, point_bins, row_weights, extra, total, weight)
    return total[:, :, : field.n_sample], weight[:, :, 0], weight[:, :, 1]


def _arguments(field: Field, starts: Points, step: Points) -> tuple[object, ...]:
    starts = np.ascontiguousarray(starts, dtype=np.float64)
    step = np.ascontiguousarray(step, dtype=np.float64)
    return field.lanes, field.values, field.tables, field.layout, field.radial, starts, step


@njit(cache=True, error_model="numpy", inline="always")
def _scratch(n_padded):
    return (
        np.empty(SCRATCH_ROWS * TILE),
        np.zeros(5 * TILE, dtype=np.int32),
        np.zeros(8 * TILE, dtype=np.float32),
        np.empty(TILE * n_padded, dtype=np.float32),
    )


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def _gather_tile(lanes, values, tables, layout, radial, start, step, first, n, scratch):
    """Put the samples at points first .. first + n - 1 into the tile's buffer; the shell is -1 where there are none."""
    floats, cells, weights, buffer = scratch
    locate_tile(start, step, first, tables, layout, radial, floats, cells, weights)
    n_shell, n_padded = layout[N_SHELL], layout[N_PADDED]
    width = len(lanes)
    source = np.int64(values.ctypes.data)
    target = np.int64(buffer.ctypes.data)
    weight = np.int64(weights.ctypes.data)
    per_shell = 4 * n_padded
    per_pixel = n_shell * per_shell
    for k in range(n):
        shell = np.int64(cells[SHELL * TILE + k])
        if shell < 0:
            continue
        # Where one shell alone counts, the other must not be read: it may be masked, and 0 x NaN is NaN.
        fraction = floats[FRACTION * TILE + k]
        following = 0 if fraction == 0.0 or fraction == 1.0 else per_shell
        at = source + (shell + np.int64(fraction)) * per_shell
        a = at + np.int64(cells[k]) * per_pixel
        b = at + np.int64(cells[TILE + k]) * per_pixel
        c = at + np.int64(cells[2 * TILE + k]) * per_pixel
        d = at + np.int64(cells[3 * TILE + k]) * per_pixel
        for offset in range(0, 4 * n_padded, 4 * width):
            blend_vector(
                lanes,
                target + 4 * k * n_padded + offset,
                a + offset,
                b + offset,
                c + offset,
                d + offset,
                following,
                weight + 4 * k,
                4 * TILE,
            )
        if buffer[k * n_padded] != buffer[k * n_padded]:
            cells[SHELL * TILE + k] = -1
    if layout[LOG]:
        for i in range(n * n_padded):
            buffer[i] = exp(np.float64(buffer[i]))


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def _fill(lanes, values, tables, layout, radial, starts, step, first, n, n_sample, out):
    scratch = _scratch(layout[N_PADDED])
    cells, buffer = scratch[1], scratch[3]
    n_padded = layout[N_PADDED]
    for row in range(starts.shape[0]):
        for base in range(0, n, TILE):
            size = min(TILE, n - base)
            _gather_tile(lanes, values, tables, layout, radial, starts[row], step, first + base, size, scratch)
            if n_padded == n_sample:
                # without padding a tile is one piece of the result
                flat = out[row, base : base + size].reshape(size * n_sample)
                for i in range(size * n_sample):
                    flat[i] = buffer[i]
            else:
                for k in range(size):
                    for s in range(n_sample):
                        out[row, base + k, s] = buffer[k * n_padded + s]
            for k in range(size):
                if cells[SHELL * TILE + k] < 0:
                    for s in range(n_sample):
                        out[row, base + k, s] = np.nan


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def _sum(lanes, values, tables, layout, radial, starts, step, n, total, count):
    scratch = _scratch(layout[N_PADDED])
    cells, buffer = scratch[1], scratch[3]
    width, n_padded = len(lanes), layout[N_PADDED]
    source = np.int64(buffer.ctypes.data)
    for row in range(starts.shape[0]):
        target = np.int64(total.ctypes.data) + 8 * row * n_padded
        inside = 0
        for base in range(0, n, TILE):
            size = min(TILE, n - base)
            _gather_tile(lanes, values, tables, layout, radial, starts[row], step, base, size, scratch)
            for k in range(size):
                if cells[SHELL * TILE + k] < 0:
                    continue
                inside += 1
                for offset in range(0, n_padded, width):
                    add_vector(lanes, target + 8 * offset, source + 4 * (k * n_padded + offset), 1.0)
        count[row] = inside


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def _statistics(lanes, values, tables, layout, radial, starts, step, n, n_sample, mean, std):
    scratch = _scratch(layout[N_PADDED])
    cells, buffer = scratch[1], scratch[3]
    n_padded = layout[N_PADDED]
    # 64 points side by side, so that sums over samples run in the order of the samples and yet as vectors
    across = np.empty(n_sample * TILE)
    centre = np.empty(TILE)
    spread = np.empty(TILE)
    # 0 x infinity is NaN: one sample has no spread
    per_freedom = 1.0 / np.float64(n_sample - 1)
    for row in range(starts.shape[0]):
        for base in range(0, n, TILE):
            size = min(TILE, n - base)
            _gather_tile(lanes, values, tables, layout, radial, starts[row], step, base, size, scratch)
            for k in range(TILE):
                centre[k] = 0.0
                spread[k] = 0.0
            for s in range(n_sample):
                for k in range(TILE):
                    across[s * TILE + k] = np.float64(buffer[k * n_padded + s])
                for k in range(TILE):
                    centre[k] += across[s * TILE + k]
            for k in range(TILE):
                centre[k] /= n_sample
            for s in range(n_sample):
                for k in range(TILE):
                    deviation = across[s * TILE + k] - centre[k]
                    spread[k] += deviation * deviation
            for k in range(TILE):
                spread[k] = math.sqrt(spread[k] * per_freedom)
            for k in range(size):
                outside = cells[SHELL * TILE + k] < 0
                mean[row, base + k] = np.nan if outside else centre[k]
                std[row, base + k] = np.nan if outside else spread[k]


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def _bin(
    lanes,
    values,
    tables,
    layout,
    radial,
    starts,
    step,
    n,
    row_bins,
    point_bins,
    row_weights,
    extra,
    total,
    weight,
):
    scratch = _scratch(layout[N_PADDED])
    cells, buffer = scratch[1], scratch[3]
    width, n_padded = len(lanes), layout[N_PADDED]
    source = np.int64(buffer.ctypes.data)
    for row in range(starts.shape[0]):
        i = row_bins[row]
        if i < 0:
            continue
        for base in range(0, n, TILE):
            size = min(TILE, n - base)
            _gather_tile(lanes, values, tables, layout, radial, starts[row], step, base, size, scratch)
            for k in range(size):
                j = point_bins[base + k]
                if j < 0 or cells[SHELL * TILE + k] < 0:
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
