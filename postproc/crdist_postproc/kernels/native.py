"""Sums over the native cells, with no regrid: lines of sight and the mass inside a box.

These are the reference that a regridded product is measured against.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from crdist_postproc.kernels.approx import FASTMATH
from crdist_postproc.kernels.field import LOG, N_SHELL, Field

__all__ = ["SUBCELLS", "box_totals", "sight_lines"]

SUBCELLS = 8
"""A cell that a face of the box cuts is split into SUBCELLS^3 points to find the part inside."""


def sight_lines(
    field: Field, rows: npt.NDArray[np.integer], lengths: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Integrate along the lines of sight of some pixels.

    Parameters
    ----------
    field : Field
    rows : ndarray of int, shape (n,)
        RING indices of the pixels.
    lengths : ndarray of float64, shape (n_shell,), kpc
        Length of the line of sight that each shell stands for.

    Returns
    -------
    total : ndarray of float64, shape (n, n_sample), unit of the samples times kpc
        Masked cells are left out.
    covered : ndarray of float64, shape (n,), kpc
        Length that is not masked.
    """
    total = np.zeros((len(rows), field.n_sample))
    covered = np.zeros(len(rows))
    _sight_lines(field.values, field.layout, np.asarray(rows, dtype=np.int64), lengths, total, covered)
    return total, covered


def box_totals(
    field: Field,
    rows: npt.NDArray[np.integer],
    directions: npt.NDArray[np.float64],
    subdirections: npt.NDArray[np.float64],
    edges: npt.NDArray[np.float64],
    rotation: npt.NDArray[np.float64],
    sun: npt.NDArray[np.float64],
    lower: npt.NDArray[np.float64],
    upper: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Integrate the native cells of some pixels over the part of them inside a box.

    Parameters
    ----------
    rows : ndarray of int, shape (n,)
        RING indices of the pixels.
    directions : ndarray, shape (n, 3)
        Unit vectors to the pixel centres, heliocentric.
    subdirections : ndarray, shape (n, SUBCELLS^2, 3)
        Unit vectors to the centres of equal parts of each pixel.
    edges : ndarray, shape (n_shell + 1,), kpc
        Shell edges; a first edge of 0 gives the first shell the inner sphere as well.
    rotation, sun : ndarray, shape (3, 3) and (3,)
        From heliocentric axes to those of the box; the Sun's place there, kpc.
    lower, upper : ndarray, shape (3,), kpc
        Corners of the box.

    Returns
    -------
    ndarray of float64, shape (n_sample,), unit of the samples times kpc^3
    """
    total = np.zeros(field.n_sample)
    _box_totals(
        field.values,
        field.layout,
        np.asarray(rows, dtype=np.int64),
        directions @ rotation.T,
        subdirections @ rotation.T,
        edges,
        sun,
        lower,
        upper,
        math.sqrt(math.pi / (3.0 * field.values.shape[0] / 12)),
        4.0 * math.pi / (3.0 * field.values.shape[0]),
        total,
    )
    return total


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def _sight_lines(values, layout, rows, lengths, total, covered):
    n_sample = total.shape[1]
    for i in range(rows.size):
        for shell in range(layout[N_SHELL]):
            length = lengths[shell]
            cell = values[rows[i], shell]
            if length == 0.0 or cell[0] != cell[0]:
                continue
            covered[i] += length
            for s in range(n_sample):
                value = np.float64(cell[s])
                total[i, s] += length * (math.exp(value) if layout[LOG] else value)


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def _box_totals(values, layout, rows, directions, subdirections, edges, sun, lower, upper, width, volume, total):
    n_sample = total.size
    for i in range(rows.size):
        for shell in range(layout[N_SHELL]):
            cell = values[rows[i], shell]
            if cell[0] != cell[0]:
                continue
            inner, outer = edges[shell], edges[shell + 1]
            middle = 0.5 * (inner + outer)
            # no point of the cell is farther than this from its middle: a pixel reaches at most 1.3 widths from its
            # centre
            reach = 0.5 * (outer - inner) + 1.3 * width * outer
            contained, apart = True, False
            for axis in range(3):
                place = sun[axis] + middle * directions[i, axis]
                contained = contained and lower[axis] + reach <= place <= upper[axis] - reach
                apart = apart or place + reach < lower[axis] or place - reach > upper[axis]
            if apart:
                continue
            cube = outer**3 - inner**3
            part = volume * cube
            if not contained:
                hits = 0
                for step in range(SUBCELLS):
                    # radii that halve equal volumes
                    r = (inner**3 + cube * (step + 0.5) / SUBCELLS) ** (1.0 / 3.0)
                    for sub in range(subdirections.shape[1]):
                        inside = True
                        for axis in range(3):
                            place = sun[axis] + r * subdirections[i, sub, axis]
                            inside = inside and lower[axis] <= place <= upper[axis]
                        hits += inside
                part *= hits / (SUBCELLS * subdirections.shape[1])
            for s in range(n_sample):
                value = np.float64(cell[s])
                total[s] += part * (math.exp(value) if layout[LOG] else value)
