"""Interpolate all samples along rows of points, and reduce them on the way.

A row is a start and a step; a row of voxels along any axis of any frame is one, and so is a line of sight. No volume is
made unless it is asked for: a projection needs the memory of 64 points.

Every function takes ``starts``, shape (n_row, 3), and ``step``, shape (3,), heliocentric kpc, and ``n`` points a row. A
point outside the grid, or whose value is NaN (masked), is NaN in values and is left out of sums and counts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from crdist_postproc.kernels.approx import FASTMATH, UNCOUNTED, exp
from crdist_postproc.kernels.field import LOG, N_PADDED, Field
from crdist_postproc.kernels.lanes import add_four_vectors, add_moments, add_vector, blend_vector
from crdist_postproc.kernels.locate import FOLLOWING, PLACE_ROWS, SCRATCH_ROWS, TILE, WEIGHT_ROWS, locate_tile

__all__ = ["bin_rows", "fill_rows", "statistics_rows", "sum_rows"]

# Rows of the moments, behind the pairs of sums
ORIGIN, CENTRE, SPREAD = 2, 3, 4
MOMENT_ROWS = 5

Points = npt.NDArray[np.float64]


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
        Sum over the points inside the grid, by fours.
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
    scratch = Scratch(
        np.empty(SCRATCH_ROWS * TILE),
        np.empty(PLACE_ROWS * TILE, dtype=np.int64),
        np.empty(WEIGHT_ROWS * TILE, dtype=np.float32),
        np.zeros(field.values.shape[2] * TILE, dtype=np.float32),
        np.empty(MOMENT_ROWS * TILE),
    )
    return field.lanes, field.values, field.tables, field.layout, field.radial, starts, step, scratch


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", **UNCOUNTED)
def _gather_tile(lanes, values, tables, layout, radial, starts, row, step, first, n, scratch, out):
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


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True, **UNCOUNTED)
def _fill(lanes, values, tables, layout, radial, starts, step, scratch, first, n, n_sample, out):
    buffer = scratch.buffer
    n_padded = layout[N_PADDED]
    for row in range(starts.shape[0]):
        for base in range(0, n, TILE):
            size = min(TILE, n - base)
            if n_padded == n_sample:
                # without padding a tile is one piece of the result
                piece = out[row, base : base + size].reshape(size * n_sample)
                _gather_tile(
                    lanes, values, tables, layout, radial, starts, row, step, first + base, size, scratch, piece
                )
            else:
                _gather_tile(
                    lanes, values, tables, layout, radial, starts, row, step, first + base, size, scratch, buffer
                )
                for k in range(size):
                    for s in range(n_sample):
                        out[row, base + k, s] = buffer[k * n_padded + s]


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True, **UNCOUNTED)
def _sum(lanes, values, tables, layout, radial, starts, step, scratch, n, total, count):
    buffer = scratch.buffer
    width, n_padded = len(lanes), layout[N_PADDED]
    source = np.int64(buffer.ctypes.data)
    for row in range(starts.shape[0]):
        target = np.int64(total.ctypes.data) + 8 * row * n_padded
        inside = 0
        for base in range(0, n, TILE):
            size = min(TILE, n - base)
            _gather_tile(lanes, values, tables, layout, radial, starts, row, step, base, size, scratch, buffer)
            for k in range(size):
                if np.isnan(buffer[k * n_padded]):
                    buffer[k * n_padded : (k + 1) * n_padded] = 0.0
                else:
                    inside += 1
            buffer[size * n_padded :] = 0.0
            for k in range(0, size, 4):
                for offset in range(0, n_padded, width):
                    add_four_vectors(lanes, target + 8 * offset, source + 4 * (k * n_padded + offset), 4 * n_padded)
        count[row] = inside


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True, **UNCOUNTED)
def _statistics(lanes, values, tables, layout, radial, starts, step, scratch, n, n_sample, mean, std):
    buffer, moments = scratch.buffer, scratch.moments
    width, n_padded = len(lanes), layout[N_PADDED]
    source = np.int64(buffer.ctypes.data)
    target = np.int64(moments.ctypes.data)
    # 0 x infinity is NaN: one sample has no spread
    per_freedom = 1.0 / np.float64(n_sample - 1)
    for row in range(starts.shape[0]):
        for base in range(0, n, TILE):
            size = min(TILE, n - base)
            _gather_tile(lanes, values, tables, layout, radial, starts, row, step, base, size, scratch, buffer)
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
            means, stds = mean[row, base : base + size], std[row, base : base + size]
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
            _gather_tile(lanes, values, tables, layout, radial, starts, row, step, base, size, scratch, buffer)
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
