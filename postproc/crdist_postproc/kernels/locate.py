"""Where points lie on a spherical grid: pixels, shells and interpolation weights, 64 points at a time.

The weights are those of HEALPix' bilinear interpolation: on the two rings around a point the two nearest pixels each,
linear in colatitude between the rings and in longitude along them; times linear interpolation in ln(distance)
between shell centres. The steps run as separate loops of constant length, which compilers turn into SIMD code, and
which give a point the same bits wherever it stands in a row. Loops that look something up in a table stay scalar, so
they do nothing else.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from crdist_postproc.kernels.approx import FASTMATH, angle_of_half, log, sin_small
from crdist_postproc.kernels.field import (
    EXTEND,
    FIRST_KNOT,
    LAST_KNOT,
    LOOKUP,
    N_BIN,
    N_KNOT,
    NEAREST,
    NSIDE,
    PER_UNIT,
    R2_INNER,
    R2_OUTER,
    SHELL_TABLE,
    UNIFORM,
)

__all__ = ["FRACTION", "SCRATCH_ROWS", "SHELL", "TILE", "locate_tile"]

TILE = 64
"""Points located at once; the scratch of a tile stays in the first-level cache."""

TWO_PI = 2.0 * math.pi
SQRT_6 = math.sqrt(6.0)
TINY = 1e-100
"""Added to lengths in kpc, so that the Sun itself divides by no zero."""
# Rows of the float64 scratch
COLATITUDE, TURN, LN_R, ACROSS, FRACTION, RING, NORTH, PER_RING = range(8)
SCRATCH_ROWS = 8
# Row of the int32 cells that holds the shell, behind the four pixels
SHELL = 4


@njit(cache=True, fastmath=FASTMATH, error_model="numpy")
def locate_tile(
    start: npt.NDArray[np.float64],
    step: npt.NDArray[np.float64],
    first: int,
    tables: npt.NDArray[np.float64],
    layout: npt.NDArray[np.int64],
    radial: npt.NDArray[np.float64],
    scratch: npt.NDArray[np.float64],
    cells: npt.NDArray[np.int32],
    weights: npt.NDArray[np.float32],
) -> None:
    """Locate the points start + (first + k) step for k = 0 .. 63.

    Parameters
    ----------
    start, step : ndarray, shape (3,), kpc
        Heliocentric row of points.
    tables, layout, radial
        Of the `Field`.
    scratch : ndarray of float64, shape (SCRATCH_ROWS * TILE,)
    cells : ndarray of int32, shape (5 * TILE,)
        Result: rows 0-3 the pixels (RING), row 4 the shell, -1 where the point is outside the grid.
    weights : ndarray of float32, shape (8 * TILE,)
        Result: rows 0-3 the weights of the pixels at the shell, rows 4-7 at the next one.
    """
    _spherical_coordinates(start, step, first, layout, radial, scratch, cells)
    if layout[UNIFORM]:
        _uniform_shells(layout, radial, scratch, cells)
    else:
        _find_shells(tables, layout, radial, scratch, cells)
    if layout[NEAREST]:
        _nearest_pixels(layout, scratch, cells, weights)
    else:
        _neighbour_pixels(tables, layout, scratch, cells, weights)


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def _spherical_coordinates(start, step, first, layout, radial, scratch, cells):
    # 1. Spherical coordinates, and the ring north of the point.
    x0, y0, z0 = start[0], start[1], start[2]
    dx, dy, dz = step[0], step[1], step[2]
    nside = np.float64(layout[NSIDE])
    r2_inner, r2_outer = radial[R2_INNER], radial[R2_OUTER]
    if layout[EXTEND]:
        r2_inner = -1.0
    for k in range(TILE):
        along = np.float64(first + k)
        x = x0 + along * dx
        y = y0 + along * dy
        z = z0 + along * dz
        ax, ay, az = abs(x), abs(y), abs(z)
        rho2 = x * x + y * y
        r2 = rho2 + z * z
        rho, r = math.sqrt(rho2), math.sqrt(r2) + TINY
        # Tangents of the halves of both angles and 1 / r from one division: divisions take most of this loop.
        around = max(ax, ay) + rho + TINY
        upward = max(az, rho) + r
        inverse = 1.0 / (around * upward * r)
        turn = angle_of_half(min(ax, ay) * (upward * r * inverse))
        turn = 0.5 * math.pi - turn if ay > ax else turn
        turn = math.pi - turn if x < 0.0 else turn
        turn = TWO_PI - turn if y < 0.0 else turn
        polar = angle_of_half(min(az, rho) * (around * r * inverse))
        polar = 0.5 * math.pi - polar if rho > az else polar
        scratch[COLATITUDE * TILE + k] = math.pi - polar if z < 0.0 else polar
        scratch[TURN * TILE + k] = turn * (1.0 / TWO_PI)
        scratch[LN_R * TILE + k] = 0.5 * log(r2 + 1e-200)
        cos = z * (around * upward * inverse)
        # In the caps nside sqrt(3 (1 - |cos|)), written without the cancellation near the poles.
        cap = SQRT_6 * nside * sin_small(0.5 * polar)
        ring = cap if z > 0.0 else 4.0 * nside - cap
        scratch[RING * TILE + k] = nside * (2.0 - 1.5 * cos) if abs(cos) <= 2.0 / 3.0 else ring
        cells[SHELL * TILE + k] = np.int32(-1) if r2 > r2_outer or r2 < r2_inner else np.int32(0)


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def _uniform_shells(layout, radial, scratch, cells):
    # 2. The shell at or below, and the fraction of the way to the next centre, where those are evenly spaced in ln(r).
    last = np.int32(layout[LAST_KNOT])
    first_knot, per_unit = radial[FIRST_KNOT], radial[PER_UNIT]
    most = np.float64(layout[LAST_KNOT]) + 1.0
    nearest = layout[NEAREST] != 0
    for k in range(TILE):
        position = min(max((scratch[LN_R * TILE + k] - first_knot) * per_unit, 0.0), most)
        shell = min(np.int32(position), last)
        scratch[FRACTION * TILE + k] = 0.0 if nearest else position - np.float64(shell)
        cells[SHELL * TILE + k] = np.int32(-1) if cells[SHELL * TILE + k] < 0 else shell


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def _find_shells(tables, layout, radial, scratch, cells):
    # 2'. The same for any shells: a look-up that is at most one shell too low.
    shells, lookup, last_bin = layout[SHELL_TABLE], layout[LOOKUP], np.float64(layout[N_BIN] - 1)
    last = np.int32(layout[LAST_KNOT])
    n_knot = np.int32(layout[N_KNOT])
    first_knot, per_unit = radial[FIRST_KNOT], radial[PER_UNIT]
    for k in range(TILE):
        ln_r = scratch[LN_R * TILE + k]
        position = min(max((ln_r - first_knot) * per_unit, 0.0), last_bin)
        shell = np.int32(tables[lookup + np.int32(position)])
        following = min(shell + np.int32(1), n_knot - np.int32(1))
        shell = following if ln_r >= tables[shells + 2 * following] else shell
        shell = min(shell, last)
        fraction = (ln_r - tables[shells + 2 * shell]) * tables[shells + 2 * shell + 1]
        scratch[FRACTION * TILE + k] = min(max(fraction, 0.0), 1.0)
        cells[SHELL * TILE + k] = np.int32(-1) if cells[SHELL * TILE + k] < 0 else shell


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def _neighbour_pixels(tables, layout, scratch, cells, weights):
    nside = np.float64(layout[NSIDE])
    n_ring = 4.0 * nside
    n_pixel = 12.0 * nside * nside
    # 3. Colatitude of the ring north of the point and inverse distance to the next. A rounding error may choose the
    # neighbouring pair; interpolation is continuous there.
    for k in range(TILE):
        ring = min(np.int64(scratch[RING * TILE + k]), layout[NSIDE] * 4 - 1)
        scratch[NORTH * TILE + k] = tables[2 * ring]
        scratch[PER_RING * TILE + k] = tables[2 * ring + 1]

    # 4. Two pixels on each of the two rings. Ring 0 and ring 4 nside stand for the poles and are mended below. Whole
    # numbers are kept as float64, exact far beyond any pixel: mixed widths would cost the SIMD code its speed.
    cap_pixels = 2.0 * nside * (nside - 1.0)
    for k in range(TILE):
        ring = min(np.floor(scratch[RING * TILE + k]), n_ring - 1.0)
        across = (scratch[COLATITUDE * TILE + k] - scratch[NORTH * TILE + k]) * scratch[PER_RING * TILE + k]
        across = min(max(across, 0.0), 1.0)
        scratch[ACROSS * TILE + k] = across
        turn = scratch[TURN * TILE + k]
        up = scratch[FRACTION * TILE + k]
        down = 1.0 - up
        for side in range(2):
            here = min(max(ring + side, 1.0), n_ring - 1.0)
            polar = min(here, n_ring - here)
            in_cap = polar < nside
            count = 4.0 * min(polar, nside)
            cap_first = 2.0 * polar * (polar - 1.0)
            cap_first = cap_first if here < 2.0 * nside else n_pixel - 2.0 * polar * (polar + 1.0)
            first = cap_first if in_cap else cap_pixels + (here - nside) * n_ring
            # every other ring of the belt starts at longitude 0, all others half a pixel on
            half = 0.5 * (here - nside)
            shift = 0.0 if (not in_cap) and half != np.floor(half) else 0.5
            place = turn * count - shift
            west = np.floor(place)
            along = place - west
            west = west + count if west < 0.0 else west
            west = west - count if west >= count else west
            east = west + 1.0
            east = 0.0 if east >= count else east
            share = across if side else 1.0 - across
            w_east = along * share
            w_west = share - w_east
            cells[2 * side * TILE + k] = np.int32(first + west)
            cells[(2 * side + 1) * TILE + k] = np.int32(first + east)
            weights[2 * side * TILE + k] = w_west * down
            weights[(2 * side + 1) * TILE + k] = w_east * down
            weights[(2 * side + 4) * TILE + k] = w_west * up
            weights[(2 * side + 5) * TILE + k] = w_east * up

    # 5. Beyond the outermost rings the pole is the mean of the four pixels around it.
    for k in range(TILE):
        ring = scratch[RING * TILE + k]
        if ring >= 1.0 and ring < n_ring - 1.0:
            continue
        across = scratch[ACROSS * TILE + k]
        up = scratch[FRACTION * TILE + k]
        # the pair on the ring that exists, the pair across the pole, and the weight of the pole
        if ring < 1.0:
            near, far, pole, first = 2, 0, 1.0 - across, np.int32(0)
        else:
            near, far, pole, first = 0, 2, across, np.int32(n_pixel - 4.0)
        quarter = 0.25 * pole
        for side in range(2):
            opposite = (cells[(near + side) * TILE + k] - first + np.int32(2)) & np.int32(3)
            cells[(far + side) * TILE + k] = first + opposite
            weights[(far + side) * TILE + k] = quarter * (1.0 - up)
            weights[(far + side + 4) * TILE + k] = quarter * up
            weights[(near + side) * TILE + k] += np.float32(quarter * (1.0 - up))
            weights[(near + side + 4) * TILE + k] += np.float32(quarter * up)


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def _nearest_pixels(layout, scratch, cells, weights):
    # The pixel that contains the point: Gorski et al. 2005, ApJ 622, 759, section 5.2.
    nside = layout[NSIDE]
    for k in range(TILE):
        cos = math.cos(scratch[COLATITUDE * TILE + k])
        quarters = 4.0 * scratch[TURN * TILE + k]
        quarters = quarters if quarters < 4.0 else 0.0
        if abs(cos) <= 2.0 / 3.0:
            middle = nside * (0.5 + quarters)
            slope = nside * 0.75 * cos
            ascending = np.int64(math.floor(middle - slope))
            descending = np.int64(math.floor(middle + slope))
            ring = nside + 1 + ascending - descending
            shift = 1 - (ring & 1)
            along = (ascending + descending - nside + shift + 1) >> 1
            along = along % (4 * nside)
            pixel = 2 * nside * (nside - 1) + (ring - 1) * 4 * nside + along
        else:
            inside = quarters - math.floor(quarters)
            # the distance from the pole as in the rings, without the cancellation of 1 - |cos|
            cap = scratch[RING * TILE + k]
            cap = cap if cos > 0.0 else 4.0 * nside - cap
            ascending = np.int64(inside * cap)
            descending = np.int64((1.0 - inside) * cap)
            ring = ascending + descending + 1
            along = min(np.int64(quarters * ring), 4 * ring - 1)
            pixel = 2 * ring * (ring - 1) + along if cos > 0.0 else 12 * nside * nside - 2 * ring * (ring + 1) + along
        for side in range(4):
            cells[side * TILE + k] = np.int32(pixel)
            weights[side * TILE + k] = 0.0
            weights[(4 + side) * TILE + k] = 0.0
        weights[k] = 1.0
