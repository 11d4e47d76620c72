"""All samples at any points, from one array in memory that was made ready for it: logarithms, or integrals to edges.

The points come in any order, so that most of their cells are far away in memory: those of a tile are asked for before
the first of them is used.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from crdist_postproc.kernels.approx import FASTMATH, exp2_single, log2_single
from crdist_postproc.kernels.lanes import add_moments, blend_vector, mix_vector, prefer_wide_vectors, prefetch
from crdist_postproc.kernels.pieces import lanes_of
from crdist_postproc.kernels.points import TILE, Places

__all__ = ["BETWEEN_PIXELS", "LOGARITHMS", "VALUES", "held_samples_at"]

VALUES, LOGARITHMS, BETWEEN_PIXELS = range(3)
"""What is interpolated: values; logarithms, which are held; between shells values, and between pixels logarithms."""

SMALLEST_NORMAL = np.float32(2.0**-126)
LOG_OF_ZERO = np.float32(-1e30)
"""Nothing that it has a share in is more than nothing."""
LINE = 64
"""Bytes that are read from memory at once."""


def held_samples_at(
    held: npt.NDArray[np.float32], places: Places, space: int, exponent: int, *, each: bool
) -> tuple[npt.NDArray[Any], ...]:
    """The samples at points, or their mean and standard deviation.

    Parameters
    ----------
    held : ndarray of float32, shape (pixel, shell, sample)
        Values or, for the space `LOGARITHMS`, binary logarithms of values / 2^exponent; NaN where there is none. The
        samples of a cell lie side by side.
    places : Places
        Of `crdist_postproc.kernels.points.Locator`.
    space : int
        `VALUES`, `LOGARITHMS` or `BETWEEN_PIXELS`.
    exponent : int
        Of a power of two near the values, relative to which logarithms are small.
    each : bool
        Whether every sample is wanted.

    Returns
    -------
    tuple of ndarray
        The samples, float32, shape (n, n_sample); or mean and standard deviation (ddof = 1; NaN for one sample),
        float64, shape (n,). NaN at a point outside the grid, or to which a cell contributes that is NaN in one sample.
    """
    n, n_sample = len(places.shell), held.shape[2]
    if held.dtype != np.float32 or (n_sample > 1 and held.strides[2] != 4):
        raise TypeError("samples must be float32 and those of a cell side by side")
    values = np.empty((n if each else 0, n_sample), dtype=np.float32)
    moments = np.empty((0 if each else n, 2))
    lanes = lanes_of(n_sample)
    where = (held.ctypes.data, *held.strides[:2])
    _held_samples(lanes, n_sample, where, places, space, exponent, values, moments)
    return (values,) if each else (moments[:, 0], moments[:, 1])


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def _take_logarithms(values, exponent):
    for i in range(values.size):
        x = values[i]
        # below lies nothing but zero: integrals are far from the smallest number
        y = x if x >= SMALLEST_NORMAL else SMALLEST_NORMAL
        value = log2_single(y, exponent)
        value = value if x < np.float32(math.inf) else np.float32(math.nan)
        values[i] = LOG_OF_ZERO if x < SMALLEST_NORMAL else value


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def _held_samples(lanes, n_sample, where, places, space, exponent, values, moments):
    prefer_wide_vectors()
    begin, per_pixel, per_shell = where
    pixels, weights, shell, part = places
    width = len(lanes)
    scale = 2.0**exponent if space != VALUES else 1.0
    relative_to = np.float32(exponent)
    row, bytes_ = 4 * n_sample, 4 * n_sample + per_shell
    addresses, steps = np.zeros((TILE, 4), dtype=np.int64), np.zeros(TILE, dtype=np.int64)
    corners = np.zeros(TILE * row if space == BETWEEN_PIXELS else 0, dtype=np.float32)
    blended, weight, both = np.zeros(TILE * n_sample, dtype=np.float32), np.empty(6, dtype=np.float32), np.empty(2)
    corner_at, target = np.int64(corners.ctypes.data), np.int64(blended.ctypes.data)
    weight_at, both_at = np.int64(weight.ctypes.data), np.int64(both.ctypes.data)
    n = shell.size
    for base in range(0, n, TILE):
        count = min(TILE, n - base)
        for k in range(count):
            s, up = shell[base + k], part[base + k]
            if s < 0:
                continue
            # Where one shell alone counts, the other must not be read: it may be masked, and 0 x NaN is NaN.
            first = begin + per_shell * (s + 1 if up >= 1.0 else s)
            steps[k] = 0 if up == 0.0 or up >= 1.0 else per_shell
            for c in range(4):
                addresses[k, c] = first + per_pixel * pixels[base + k, c]
                for ahead in range(0, bytes_, LINE):
                    prefetch(addresses[k, c] + ahead)
        if space == BETWEEN_PIXELS:
            for k in range(count):
                if shell[base + k] >= 0:
                    for c in range(4):
                        to = corner_at + 4 * (k * row + c * n_sample)
                        for s in range(0, n_sample, width):
                            # the last vector may overlap the one before: behind the samples memory may end
                            at = 4 * min(s, n_sample - width)
                            mix_vector(lanes, to + at, addresses[k, c] + at, steps[k], np.float32(part[base + k]))
                        addresses[k, c] = to
                steps[k] = 0
            _take_logarithms(corners[: count * row], relative_to)
        for k in range(count):
            if shell[base + k] < 0:
                blended[k * n_sample : (k + 1) * n_sample] = np.float32(math.nan)
                continue
            up = min(part[base + k], 1.0)
            for c in range(4):
                weight[c] = weights[base + k, c]
            weight[4], weight[5] = 1.0 - up, up
            to = target + 4 * k * n_sample
            a, b, c_, d = addresses[k, 0], addresses[k, 1], addresses[k, 2], addresses[k, 3]
            for s in range(0, n_sample, width):
                at = 4 * min(s, n_sample - width)
                blend_vector(lanes, to + at, a + at, b + at, c_ + at, d + at, steps[k], weight_at, 4)
        if space != VALUES:
            for i in range(count * n_sample):
                blended[i] = exp2_single(blended[i])
        whole = n_sample - n_sample % width if width >= 4 else 0
        for k in range(count):
            # deviations from one of the samples: their sums are small, and nothing cancels
            origin = np.float64(blended[k * n_sample])
            both[0] = both[1] = 0.0
            for s in range(0, whole, width):
                add_moments(lanes, both_at, target + 4 * (k * n_sample + s), origin)
            for s in range(whole, n_sample):
                deviation = blended[k * n_sample + s] - origin
                both[0] += deviation
                both[1] += deviation * deviation
            shift = both[0] / n_sample
            mean = origin + shift
            if values.shape[0]:
                known = np.float32(0.0) if math.isfinite(mean) else np.float32(math.nan)
                for s in range(n_sample):
                    values[base + k, s] = np.float32(scale * blended[k * n_sample + s]) + known
            else:
                moments[base + k, 0] = scale * mean if math.isfinite(mean) else math.nan
                # 0 / 0 is NaN: one sample has no spread
                spread = max(both[1] - both[0] * shift, 0.0) / (n_sample - 1)
                moments[base + k, 1] = scale * math.sqrt(spread) if n_sample > 1 else math.nan
