"""Integrals of all samples from the Sun to any points, read where they lie in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from numba import njit

from crdist.grids import SphericalGrid
from crdist_postproc.kernels.approx import FASTMATH
from crdist_postproc.kernels.lanes import add_vector, prefer_wide_vectors
from crdist_postproc.kernels.pieces import (
    FINE,
    INFINITE,
    MISSING,
    NOT_POSITIVE,
    Cuts,
    Pieces,
    address_of,
    addresses_of,
    complain,
    finish,
    lanes_of,
    number_of_samples,
    piece_of,
)
from crdist_postproc.kernels.points import TILE, Interpolation, Places, integral_edges

__all__ = ["column_sums", "integrals_at"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

EVERY = 16
"""Shells between two stored sums of a column: an integral adds up no more than so many."""


def integrals_at(
    pieces: Pieces,
    before: Mapping[tuple[int, int], Floats],
    cuts: Cuts,
    places: Places,
    grid: SphericalGrid,
    how: Interpolation,
    *,
    each: bool,
) -> tuple[Floats, ...]:
    """The samples integrated along the line of sight to points, in each pixel around it, then interpolated.

    Parameters
    ----------
    pieces, cuts, places, how, each
        As for `samples_at`. Of a column of pieces the one that holds a point is enough.
    before : mapping
        By the same places, what `column_sums` gives for the pieces nearer to the Sun: shape (n_pixel, n_sample),
        or nothing for the nearest.
    grid : SphericalGrid

    Returns
    -------
    tuple of ndarray of float64
        As from `samples_at`, in the samples' unit times kpc.

    Notes
    -----
    The density is constant in a cell, so that the integral to a shell's edge is the sum over the shells up to it.
    """
    n, n_sample = len(places.shell), number_of_samples(pieces)
    lanes, widths = lanes_of(n_sample), np.diff(integral_edges(grid, how))
    values, moments = np.empty((n if each else 0, n_sample)), np.empty((0 if each else n, 2))
    columns, rows, used = _pixels_in_use({i for i, _ in pieces}, cuts, places)
    begins = np.zeros((len(cuts.pixels) - 1, len(cuts.shells) - 1), dtype=np.int64)
    sums = []
    filled = 0
    for (i, j), piece in pieces.items():
        start = np.zeros((len(used[i]), n_sample))
        if before.get((i, j)) is not None:
            start = before[i, j][used[i]]
        part = _sums(lanes, piece, used[i], widths[cuts.shells[j] : cuts.shells[j + 1]], start)
        begins[i, j] = filled
        filled += part.size
        sums.append(part.ravel())
    known = np.concatenate(sums) if sums else np.empty(0)
    wrong = np.zeros(1)
    table, logarithms = addresses_of(pieces, cuts), how.value_space == "log"
    kind = _integrals(
        lanes,
        n_sample,
        table,
        cuts,
        places,
        (known, begins, columns, rows),
        widths,
        logarithms,
        values,
        moments,
        wrong,
    )
    complain(kind, wrong[0])
    return (values,) if each else (moments[:, 0], moments[:, 1])


def column_sums(
    piece: npt.NDArray[np.float32],
    shells: slice,
    start: Floats | None,
    grid: SphericalGrid,
    how: Interpolation,
) -> Floats:
    """Integrals to the outer edge of a piece.

    Parameters
    ----------
    piece : ndarray of float32, shape (n_pixel, n_shell, n_sample)
    shells : slice
        Which shells of the grid these are.
    start : ndarray of float64, shape (n_pixel, n_sample), optional
        The integrals to the inner edge.

    Returns
    -------
    ndarray of float64, shape (n_pixel, n_sample), the samples' unit times kpc
    """
    widths = np.diff(integral_edges(grid, how))[shells]
    begun = np.zeros((piece.shape[0], piece.shape[2])) if start is None else start
    return np.ascontiguousarray(_sums(lanes_of(piece.shape[2]), piece, np.arange(len(piece)), widths, begun)[:, -1])


def _pixels_in_use(columns: set[int], cuts: Cuts, places: Places) -> tuple[Integers, Integers, dict[int, Integers]]:
    """Which pixels of each column of pieces the points need, and the row of each among them.

    The row of pixel p in column i is rows[begins[i] + p - first pixel of the column].
    """
    begins = np.zeros(len(cuts.pixels) - 1, dtype=np.int64)
    filled = 0
    for i in sorted(columns):
        begins[i] = filled
        filled += cuts.pixels[i + 1] - cuts.pixels[i]
    rows = np.full(filled, -1, dtype=np.int64)
    pixels = places.pixels[places.shell >= 0].ravel()
    column = np.searchsorted(cuts.pixels, pixels, side="right") - 1
    rows[begins[column] + pixels - cuts.pixels[column]] = 0
    used = {}
    for i in sorted(columns):
        own = rows[begins[i] : begins[i] + cuts.pixels[i + 1] - cuts.pixels[i]]
        used[i] = np.flatnonzero(own == 0)
        own[used[i]] = np.arange(used[i].size)
    return begins, rows, used


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def _sums(lanes, piece, pixels, widths, start):
    """Integrals through every 16th shell of a piece, and through all, in some of its pixels.

    Shape (pixel, 1 + ceil(n_shell / 16), sample); the first are ``start``.
    """
    n_shell, n_sample = piece.shape[1], piece.shape[2]
    out = np.empty((pixels.size, (n_shell + EVERY - 1) // EVERY + 1, n_sample))
    total = np.empty(n_sample)
    begin, per_pixel, per_shell = np.int64(piece.ctypes.data), piece.strides[0], piece.strides[1]
    for row in range(pixels.size):
        address = begin + per_pixel * pixels[row]
        for s in range(n_sample):
            out[row, 0, s] = total[s] = start[row, s]
        for shell in range(n_shell):
            _add_cell(lanes, n_sample, total, address, widths[shell])
            address += per_shell
            if (shell + 1) % EVERY == 0 or shell + 1 == n_shell:
                out[row, (shell + EVERY) // EVERY] = total
    return out


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def _integrals(lanes, n_sample, table, cuts, places, before, widths, logarithms, values, moments, wrong):
    prefer_wide_vectors()
    pixels, weights, shell, part = places
    known, begins, columns, rows = before
    tile, corner = np.empty(TILE * n_sample), np.empty(n_sample)
    scales = np.ones(TILE)
    n = shell.size
    for base in range(0, n, TILE):
        count = min(TILE, n - base)
        for k in range(count):
            s_last = shell[base + k]
            each = tile[k * n_sample : (k + 1) * n_sample]
            scales[k] = 0.0 if s_last < 0 else 1.0
            if s_last < 0:
                each[:] = np.nan
                continue
            each[:] = 0.0
            j = piece_of(cuts.shells, s_last)
            n_stored = (cuts.shells[j + 1] - cuts.shells[j] + EVERY - 1) // EVERY + 1
            stored = (s_last - cuts.shells[j]) // EVERY
            first = cuts.shells[j] + EVERY * stored
            for c in range(4):
                pixel = pixels[base + k, c]
                i = piece_of(cuts.pixels, pixel)
                address = address_of(table, cuts, i, pixel, first)
                if address == 0:
                    return MISSING
                row = rows[columns[i] + pixel - cuts.pixels[i]]
                begin = begins[i, j] + (row * n_stored + stored) * n_sample
                for s in range(n_sample):
                    corner[s] = known[begin + s]
                for shell_ in range(first, s_last + 1):
                    through = part[base + k] if shell_ == s_last else widths[shell_]
                    _add_cell(lanes, n_sample, corner, address, through)
                    address += table[i, j, 2]
                w = np.float64(weights[base + k, c])
                for s in range(n_sample):
                    integral = corner[s]
                    if math.isinf(integral) or (logarithms and integral < 0.0):
                        wrong[0] = integral
                        return INFINITE if math.isinf(integral) else NOT_POSITIVE
                    if not logarithms:
                        each[s] += w * integral
                    elif integral != 0.0 or w != 0.0:
                        # the logarithm of nothing is -infinity, and what is interpolated with it is nothing
                        each[s] += w * math.log(integral)
            if logarithms:
                for s in range(n_sample):
                    each[s] = math.exp(each[s])
        finish(tile, n_sample, scales, base, count, values, moments)
    return FINE


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def _add_cell(lanes, n_sample, total, address, weight):
    width = len(lanes)
    to = np.int64(total.ctypes.data)
    whole = n_sample - n_sample % width
    for s in range(0, whole, width):
        add_vector(lanes, to + 8 * s, address + 4 * s, weight)
    for s in range(whole, n_sample):
        add_vector((0.0,), to + 8 * s, address + 4 * s, weight)
