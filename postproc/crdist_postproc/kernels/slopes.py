"""Slopes of the samples within the cells of a pixel, so small that no value passes those of the cells around it."""

from __future__ import annotations

import numpy as np
from numba import njit

from crdist_postproc.kernels.approx import FASTMATH, UNCOUNTED

__all__ = ["ROWS", "limited_slopes"]

ROWS = 4
"""Value at the cell's middle; change across the cell along the face's x, y, and along the cube of the distance."""


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", **UNCOUNTED)
def limited_slopes(values, pixel, neighbours, edges, first, last, slopes):
    """Values and slopes of the shells first .. last - 1 of a pixel.

    Parameters
    ----------
    values : ndarray of float32, shape (n_pixel, n_shell, n_padded)
    pixel : int
    neighbours : ndarray of int64, shape (4,)
        Pixels before and after along the face's x, and along its y.
    edges : ndarray, shape (n_shell + 1 or more,), kpc
    slopes : ndarray of float32, shape (n_shell, 4, n_padded)
        Where they are put.

    Notes
    -----
    Each slope is the monotonised central difference (van Leer 1977, J. Comput. Phys. 23, 263); all three are then made
    smaller together until no corner passes the extremes of the six neighbours. Where a neighbour is masked or missing,
    there is no slope towards it.
    """
    n_shell = slopes.shape[0]
    for shell in range(first, last):
        inner, outer = edges[shell] ** 3, edges[shell + 1] ** 3
        depth = outer - inner
        # half a cell's depth, and half the neighbour's, lie between the middles; the ends are their own neighbours
        under, over = max(shell - 1, 0), min(shell + 1, n_shell - 1)
        below, above = 2.0 * depth / (outer - edges[under] ** 3), 2.0 * depth / (edges[over + 1] ** 3 - inner)
        here = values[pixel, shell]
        west, east = values[neighbours[0], shell], values[neighbours[1], shell]
        south, north = values[neighbours[2], shell], values[neighbours[3], shell]
        down, up = values[pixel, under], values[pixel, over]
        middle, along_x, along_y, outward = slopes[shell, 0], slopes[shell, 1], slopes[shell, 2], slopes[shell, 3]
        for s in range(values.shape[2]):
            value = np.float64(here[s])
            low_x, high_x = _known(west[s], value) - value, _known(east[s], value) - value
            low_y, high_y = _known(south[s], value) - value, _known(north[s], value) - value
            low_z, high_z = _known(down[s], value) - value, _known(up[s], value) - value
            lowest = min(min(min(low_x, high_x), min(low_y, high_y)), min(min(low_z, high_z), 0.0))
            highest = max(max(max(low_x, high_x), max(low_y, high_y)), max(max(low_z, high_z), 0.0))
            slope_x = _limited(-low_x, high_x)
            slope_y = _limited(-low_y, high_y)
            slope_z = _limited(-below * low_z, above * high_z)
            reach = 0.5 * (abs(slope_x) + abs(slope_y) + abs(slope_z))
            room = min(highest, -lowest)
            scale = room / reach if reach > room else 1.0
            middle[s] = value
            along_x[s] = scale * slope_x
            along_y[s] = scale * slope_y
            outward[s] = scale * slope_z


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def _known(other, value):
    """A neighbour's value, or the cell's own where that is masked."""
    return value if other != other else np.float64(other)


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def _limited(before, after):
    """The central difference, no larger than twice either side's, and nothing where those are of different signs."""
    size = min(0.5 * abs(before + after), 2.0 * min(abs(before), abs(after)))
    size = size if before > 0.0 else -size
    return size if before * after > 0.0 else 0.0
