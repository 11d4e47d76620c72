"""All samples at any points, read where they lie in memory.

The samples stay in the pieces in which they were read, in the order of the store: each value is found by its address.
The sample is the last axis of a piece.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import extending, njit
from numba.core import types

from crdist.errors import GridError
from crdist_postproc.kernels.approx import FASTMATH, exp
from crdist_postproc.kernels.lanes import blend_vector, prefer_wide_vectors
from crdist_postproc.kernels.points import TILE, Interpolation, Places

__all__ = [
    "Cuts",
    "Pieces",
    "address_of",
    "addresses_of",
    "complain",
    "finish",
    "lanes_of",
    "number_of_samples",
    "piece_of",
    "samples_at",
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Pieces = Mapping[tuple[int, int], npt.NDArray[np.float32]]
"""Pieces of the samples, shape (pixel, shell, sample), by their places among the cuts."""

LN_2 = math.log(2.0)
SMALLEST_NORMAL = np.float32(2.0**-126)
# What is wrong with a cell
FINE, NOT_POSITIVE, INFINITE, MISSING = range(4)
# In place of the bytes to the next shell
COPIED = -1

intrinsic: Any = extending.intrinsic
"""By its type a call never returns, which holds for calls from Python alone."""


class Cuts(NamedTuple):
    """Where the samples are cut into pieces."""

    pixels: Integers
    """First pixel of each piece, and the number of pixels."""
    shells: Integers
    """First shell of each piece, and the number of shells."""


def samples_at(
    pieces: Pieces, cuts: Cuts, places: Places, how: Interpolation, *, each: bool
) -> tuple[npt.NDArray[Any], ...]:
    """The samples at points, or their mean and standard deviation.

    Parameters
    ----------
    pieces, cuts
        The samples, at least those pieces that the points need.
    places, how
        Of `locate`.
    each : bool
        Whether every sample is wanted.

    Returns
    -------
    tuple of ndarray
        The samples, float32, shape (n, n_sample); or mean and standard deviation (ddof = 1; NaN for one sample),
        float64, shape (n,). NaN at a point outside the grid, or to which a cell contributes that is NaN in one sample.

    Raises
    ------
    GridError
        If a sample is infinite, or not positive where its logarithm is asked for.
    """
    n, n_sample = len(places.shell), number_of_samples(pieces)
    values = np.empty((n if each else 0, n_sample), dtype=np.float32)
    moments = np.empty((0 if each else n, 2))
    table = addresses_of(pieces, cuts)
    logarithms = how.value_space == "log"
    wrong = np.zeros(1)
    kind = _samples(lanes_of(n_sample), n_sample, table, cuts, places, logarithms, values, moments, wrong)
    complain(kind, wrong[0])
    return (values,) if each else (moments[:, 0], moments[:, 1])


def number_of_samples(pieces: Pieces) -> int:
    """Samples of a cell; 0 where there are no pieces."""
    return next(iter(pieces.values())).shape[2] if pieces else 0


def lanes_of(n_sample: int) -> tuple[float, ...]:
    """As many numbers as samples go through one instruction; fewer than there are samples, for memory ends there."""
    widths = [width for width in (4, 8, 12, 16) if width <= n_sample] or [1]
    return (0.0,) * min(widths, key=lambda width: -(-n_sample // width) * (width + 6))


def addresses_of(pieces: Pieces, cuts: Cuts) -> Integers:
    """Of each piece the address and the bytes from a pixel and from a shell to the next; zero where there is none."""
    table = np.zeros((len(cuts.pixels) - 1, len(cuts.shells) - 1, 3), dtype=np.int64)
    for place, piece in pieces.items():
        if piece.dtype != np.float32 or (piece.shape[2] > 1 and piece.strides[2] != 4):
            raise TypeError("a piece must be float32 with the samples of a cell side by side")
        table[place] = piece.ctypes.data, *piece.strides[:2]
    return table


def complain(kind: int, value: float) -> None:
    """Raise what a kernel has found to be wrong with a value; nothing if it is `FINE`."""
    if kind == NOT_POSITIVE:
        raise GridError(f"value_space 'log' needs positive samples, got {value:g}; use value_space 'linear'")
    if kind == INFINITE:
        raise GridError(f"samples must be finite (or NaN where masked), got {value:g}")
    if kind == MISSING:
        raise RuntimeError("a piece of the samples that a point needs was not given")


@njit(cache=True, error_model="numpy", inline="always")
def piece_of(starts, index):
    """The piece that holds a pixel or shell; the inner pieces are about equally large, so the first guess is near."""
    last = starts.size - 2
    if last == 0:
        return 0
    i = min(index * (last + 1) // starts[last + 1], last)
    while index < starts[i]:
        i -= 1
    while index >= starts[i + 1]:
        i += 1
    return i


@njit(cache=True, error_model="numpy", inline="always")
def address_of(table, cuts, i, pixel, shell):
    """Address of the samples of a cell in column i of pieces, 0 if the piece is not there."""
    j = piece_of(cuts.shells, shell)
    begin = table[i, j, 0]
    cell = table[i, j, 1] * (pixel - cuts.pixels[i]) + table[i, j, 2] * (shell - cuts.shells[j])
    return begin + cell if begin else 0


@intrinsic
def _copy(typing_context: Any, lanes: Any, target: Any, source: Any) -> Any:
    """Copy a vector of float32 from an address to another."""
    width = lanes.count

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        _, to, from_ = arguments
        vector = ir.VectorType(ir.FloatType(), width).as_pointer()
        value = builder.load(builder.inttoptr(from_, vector), align=4)
        builder.store(value, builder.inttoptr(to, vector), align=4)
        return context.get_dummy_value()

    return types.void(lanes, types.int64, types.int64), generate


@njit(cache=True, error_model="numpy", inline="always")
def _copy_cells(lanes, n_sample, addresses, cells):
    width = len(lanes)
    target = np.int64(cells.ctypes.data)
    for c in range(addresses.size):
        for s in range(0, n_sample, width):
            # the last vector may overlap the one before: behind the samples memory may end
            offset = 4 * min(s, n_sample - width)
            _copy(lanes, target + 4 * c * n_sample + offset, addresses[c] + offset)


@njit(cache=True, fastmath=FASTMATH, error_model="numpy")
def _logarithms(cells):
    """Replace values by log2 of value / 2^e; return e. What has no logarithm becomes NaN.

    A power of two near the values keeps the logarithms small, so that single precision does for their differences.
    """
    prefer_wide_vectors()
    first = cells[0]
    exponent = np.float32(((np.float32(first).view(np.int32) >> 23) & 0xFF) - 127)
    for i in range(cells.size):
        x = cells[i]
        small = x < SMALLEST_NORMAL
        y = x * np.float32(16777216.0) if small else x
        bits = np.float32(y).view(np.int32)
        # through int32, or the vectors would be of 64 bits
        power = np.float32(np.int32(((bits >> 23) & 0xFF) - 127))
        m = np.int32((bits & 0x7FFFFF) | 0x3F800000).view(np.float32)
        large = m > np.float32(1.4142135)
        m = np.float32(0.5) * m if large else m
        power = power + np.float32(1.0) if large else power
        power = power - np.float32(24.0) if small else power
        t = (m - np.float32(1.0)) / (m + np.float32(1.0))
        t2 = t * t
        # 2 / ln 2 times atanh(t)
        p = np.float32(0.32059889797532520)
        p = p * t2 + np.float32(0.41219858311113238)
        p = p * t2 + np.float32(0.57707801635558534)
        p = p * t2 + np.float32(0.96179669392597560)
        p = p * t2 + np.float32(2.8853900817779268)
        value = (power - exponent) + t * p
        cells[i] = value if x > np.float32(0.0) and x < np.float32(math.inf) else np.float32(math.nan)
    return exponent


@njit(cache=True, error_model="numpy")
def _fault(cells, logarithms, wrong):
    """What is wrong with samples that gave no number, if they are not just masked."""
    for i in range(cells.size):
        if math.isinf(cells[i]):
            wrong[0] = cells[i]
            return INFINITE
        if logarithms and cells[i] <= 0.0:
            wrong[0] = cells[i]
            return NOT_POSITIVE
    return FINE


@njit(cache=True, error_model="numpy", inline="always")
def finish(tile, n_sample, scales, base, count, values, moments):
    """Write a tile's samples, or their moments; return the first point that has none, or -1."""
    odd = -1
    for k in range(count):
        each = tile[k * n_sample : (k + 1) * n_sample]
        total = 0.0
        for s in range(n_sample):
            each[s] *= scales[k]
            total += each[s]
        mean = total / n_sample
        if not math.isfinite(total):
            mean = math.nan
            each[:] = math.nan
            if scales[k] != 0.0 and odd < 0:
                odd = k
        if values.shape[0]:
            for s in range(n_sample):
                values[base + k, s] = each[s]
        else:
            spread = 0.0
            for s in range(n_sample):
                spread += (each[s] - mean) ** 2
            moments[base + k, 0] = mean
            # 0 / 0 is NaN: one sample has no spread
            moments[base + k, 1] = math.sqrt(spread / (n_sample - 1))
    return odd


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def _samples(lanes, n_sample, table, cuts, places, logarithms, values, moments, wrong):
    prefer_wide_vectors()
    pixels, weights, shell, part = places
    width = len(lanes)
    cells = np.empty((TILE, 8 * n_sample), dtype=np.float32)
    blended = np.empty(TILE * n_sample, dtype=np.float32)
    tile = np.empty(TILE * n_sample)
    scales, weight = np.empty(TILE), np.empty(6, dtype=np.float32)
    addresses, steps = np.empty((TILE, 8), dtype=np.int64), np.empty(TILE, dtype=np.int64)
    target, source = np.int64(blended.ctypes.data), np.int64(cells.ctypes.data)
    weight_at = np.int64(weight.ctypes.data)
    n = shell.size
    for base in range(0, n, TILE):
        count = min(TILE, n - base)
        for k in range(count):
            s = shell[base + k]
            up = part[base + k]
            # Where one shell alone counts, the other must not be read: it may be masked, and 0 x NaN is NaN.
            here = s + 1 if up >= 1.0 else s
            there = s if up == 0.0 else s + 1
            for c in range(4):
                if s < 0:
                    break
                pixel = pixels[base + k, c]
                i = piece_of(cuts.pixels, pixel)
                addresses[k, c] = address_of(table, cuts, i, pixel, here)
                addresses[k, 4 + c] = address_of(table, cuts, i, pixel, there)
                if addresses[k, c] == 0 or addresses[k, 4 + c] == 0:
                    return MISSING
        # Copies, logarithms and blends in turns: what is read right after it was written must wait.
        for k in range(count):
            scales[k] = 1.0 if shell[base + k] >= 0 else 0.0
            steps[k] = addresses[k, 4] - addresses[k, 0]
            apart = False
            for c in range(1, 4):
                apart = apart or addresses[k, 4 + c] - addresses[k, c] != steps[k]
            if scales[k] != 0.0 and (logarithms or apart):
                _copy_cells(lanes, n_sample, addresses[k], cells[k])
                steps[k] = COPIED
        if logarithms:
            for k in range(count):
                if scales[k] != 0.0:
                    exponent = np.int64(_logarithms(cells[k]))
                    scales[k] = np.int64((exponent + 1023) << 52).view(np.float64)
        for k in range(count):
            if scales[k] == 0.0:
                blended[k * n_sample : (k + 1) * n_sample] = np.nan
                continue
            up = min(part[base + k], 1.0)
            for c in range(4):
                weight[c] = weights[base + k, c]
            weight[4], weight[5] = 1.0 - up, up
            a, b, c, d = addresses[k, 0], addresses[k, 1], addresses[k, 2], addresses[k, 3]
            step = steps[k]
            if step == COPIED:
                row = 4 * n_sample
                a = source + 4 * k * cells.shape[1]
                b, c, d, step = a + row, a + 2 * row, a + 3 * row, 4 * row
            to = target + 4 * k * n_sample
            for s in range(0, n_sample, width):
                at = 4 * min(s, n_sample - width)
                blend_vector(lanes, to + at, a + at, b + at, c + at, d + at, step, weight_at, 4)
        if logarithms:
            for i in range(count * n_sample):
                tile[i] = exp(LN_2 * np.float64(blended[i]))
        else:
            for i in range(count * n_sample):
                tile[i] = blended[i]
        odd = finish(tile, n_sample, scales, base, count, values, moments)
        if odd >= 0:
            for k in range(odd, count):
                if scales[k] != 0.0 and math.isnan(tile[k * n_sample]):
                    _copy_cells(lanes, n_sample, addresses[k], cells[k])
                    kind = _fault(cells[k], logarithms, wrong)
                    if kind != FINE:
                        return kind
    return FINE
