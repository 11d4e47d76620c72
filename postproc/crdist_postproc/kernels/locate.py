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

from crdist_postproc.kernels.approx import FASTMATH, UNCOUNTED, angle_of_half, log, sin_small, whole
from crdist_postproc.kernels.field import (
    BEYOND,
    EXTEND,
    FIRST_KNOT,
    LAST_KNOT,
    LOOKUP,
    N_BIN,
    N_KNOT,
    NEAREST,
    NSIDE,
    PER_PIXEL,
    PER_SHELL,
    PER_UNIT,
    R2_INNER,
    R2_OUTER,
    SHELL_TABLE,
    SLAB,
    UNIFORM,
)
from crdist_postproc.kernels.lanes import prefer_wide_vectors

__all__ = ["FOLLOWING", "PLACE_ROWS", "SCRATCH_ROWS", "TILE", "WEIGHT_ROWS", "locate_tile"]

TILE = 64
"""Points located at once; the scratch of a tile stays in the first-level cache."""

TWO_PI = 2.0 * math.pi
SQRT_6 = math.sqrt(6.0)
TINY = 1e-100
"""Added to lengths in kpc, so that the Sun itself divides by no zero."""
# Rows of the float64 scratch
COLATITUDE, TURN, LN_R, SHELL, FRACTION, RING, NORTH, PER_RING = range(8)
SCRATCH_ROWS = 8
# Row of the int64 places that leads to the next shell, behind the four pixels
FOLLOWING = 4
PLACE_ROWS = 5
WEIGHT_ROWS = 6


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", **UNCOUNTED)
def locate_tile(
    starts: npt.NDArray[np.float64],
    row: int,
    step: npt.NDArray[np.float64],
    first: int,
    tables: npt.NDArray[np.float64],
    layout: npt.NDArray[np.int64],
    radial: npt.NDArray[np.float64],
    scratch: npt.NDArray[np.float64],
    places: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float32],
) -> None:
    """Locate the points starts[row] + (first + k) step for k = 0 .. 63.

    Parameters
    ----------
    starts, row, step : ndarray, shape (n_row, 3); int; ndarray, shape (3,); kpc
        Heliocentric row of points.
    tables, layout, radial
        Of the `Field`.
    scratch : ndarray of float64, shape (SCRATCH_ROWS * TILE,)
    places : ndarray of int64, shape (PLACE_ROWS * TILE,)
        Result: rows 0-3 where the samples of the four pixels at the shell begin, in bytes from the first of all; row 4
        how many bytes on those of the next shell do, 0 where one shell alone counts, -1 where the point is outside the
        grid.
    weights : ndarray of float32, shape (WEIGHT_ROWS * TILE,)
        Result: rows 0-3 the weights of the pixels, rows 4 and 5 those of the shell and of the next one.
    """
    prefer_wide_vectors()
    _spherical_coordinates(starts, row, step, first, layout, radial, scratch)
    if layout[UNIFORM]:
        _uniform_shells(layout, radial, scratch)
    else:
        _find_shells(tables, layout, radial, scratch)
    if layout[NEAREST]:
        _nearest_pixels(layout, scratch, places, weights)
    else:
        _neighbour_pixels(tables, layout, scratch, places, weights)


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def _spherical_coordinates(starts, row, step, first, layout, radial, scratch):
    # 1. Spherical coordinates, and the ring north of the point.
    x0, y0, z0 = starts[row, 0], starts[row, 1], starts[row, 2]
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
        # the Sun itself lies north of the Sun, as its colatitude says, too
        cos = (z + TINY) * (around * upward * inverse)
        # In the caps nside sqrt(3 (1 - |cos|)), written without the cancellation near the poles.
        cap = SQRT_6 * nside * sin_small(0.5 * polar)
        ring = cap if z >= 0.0 else 4.0 * nside - cap
        scratch[RING * TILE + k] = nside * (2.0 - 1.5 * cos) if abs(cos) <= 2.0 / 3.0 else ring
        scratch[SHELL * TILE + k] = -1.0 if r2 > r2_outer or r2 < r2_inner else 0.0


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def _uniform_shells(layout, radial, scratch):
    # 2. The shell at or below, and the fraction of the way to the next centre, where those are evenly spaced in ln(r).
    last = np.float64(layout[LAST_KNOT])
    first_knot, per_unit = radial[FIRST_KNOT], radial[PER_UNIT]
    nearest = layout[NEAREST] != 0
    for k in range(TILE):
        position = min(max((scratch[LN_R * TILE + k] - first_knot) * per_unit, 0.0), last + 1.0)
        shell = min(np.floor(position), last)
        scratch[FRACTION * TILE + k] = 0.0 if nearest else position - shell
        scratch[SHELL * TILE + k] = -1.0 if scratch[SHELL * TILE + k] < 0.0 else shell


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def _find_shells(tables, layout, radial, scratch):
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
        scratch[SHELL * TILE + k] = -1.0 if scratch[SHELL * TILE + k] < 0.0 else np.float64(shell)


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def _neighbour_pixels(tables, layout, scratch, places, weights):
    nside = np.float64(layout[NSIDE])
    n_ring = 4.0 * nside
    n_pixel = 12.0 * nside * nside
    per_shell, to_slab = np.float64(layout[PER_SHELL]), np.float64(layout[BEYOND])
    per_pixel = np.float64(layout[PER_PIXEL])
    # half a shell keeps quotients of whole numbers away from the next one
    per_slab = 1.0 / np.float64(layout[SLAB])
    # 3. Colatitude of the ring north of the point and inverse distance to the next. A rounding error may choose the
    # neighbouring pair; interpolation is continuous there.
    last = n_ring - 1.0
    for k in range(TILE):
        # unsigned, so that no index counts from the end
        entry = np.uint64(2) * np.uint64(min(scratch[RING * TILE + k], last))
        scratch[NORTH * TILE + k] = tables[entry]
        scratch[PER_RING * TILE + k] = tables[entry + np.uint64(1)]

    # 4. Two pixels on each of the two rings. Whole numbers are kept as float64, exact far beyond any pixel: mixed
    # widths would cost the SIMD code its speed.
    cap_pixels = 2.0 * nside * (nside - 1.0)
    for k in range(TILE):
        ring = min(np.floor(scratch[RING * TILE + k]), last)
        across = (scratch[COLATITUDE * TILE + k] - scratch[NORTH * TILE + k]) * scratch[PER_RING * TILE + k]
        across = min(max(across, 0.0), 1.0)
        # Rings 0 and 4 nside stand for the poles, each the mean of the four pixels around it: the pair on the ring
        # beyond the pole is the one opposite on the ring before it, and all four share the pole's weight.
        north, south = ring < 1.0, ring >= last
        quarter = 0.25 * (1.0 - across) if north else 0.0
        quarter = 0.25 * across if south else quarter
        shell = scratch[SHELL * TILE + k]
        up = scratch[FRACTION * TILE + k]
        # Where one shell alone counts, the other must not be read: it may be masked, and 0 x NaN is NaN.
        here = shell + 1.0 if up == 1.0 else max(shell, 0.0)
        slab = np.floor((here + 0.5) * per_slab)
        only = here * per_shell + slab * to_slab
        step = per_shell + (np.floor((here + 1.5) * per_slab) - slab) * to_slab
        step = 0.0 if up == 0.0 or up == 1.0 else step
        places[FOLLOWING * TILE + k] = np.int64(-1) if shell < 0.0 else whole(step)
        weights[4 * TILE + k] = 1.0 - up
        weights[5 * TILE + k] = up
        # first pixel of the ring
        here = max(ring, 1.0)
        polar = min(here, n_ring - here)
        cap_first = 2.0 * polar * (polar - 1.0)
        cap_first = cap_first if here < nside else n_pixel - cap_first - 4.0 * polar
        first = cap_first if polar < nside else cap_pixels + (here - nside) * n_ring
        for side in range(2):
            here = min(max(ring + side, 1.0), last)
            beyond = south if side else north
            polar = min(here, n_ring - here)
            count = 4.0 * min(polar, nside)
            # every other ring of the belt starts at longitude 0, all others half a pixel on
            half = 0.5 * (here - nside)
            shift = 0.0 if polar >= nside and half != np.floor(half) else 0.5
            place = scratch[TURN * TILE + k] * count - shift
            west = np.floor(place)
            along = place - west
            west = west + count if west < 0.0 else west
            west = west + 2.0 if beyond else west
            west = west - count if west >= count else west
            east = west + 1.0
            east = 0.0 if east >= count else east
            share = across if side else 1.0 - across
            share = 0.0 if beyond else share
            w_east = along * share
            weights[2 * side * TILE + k] = share - w_east + quarter
            weights[(2 * side + 1) * TILE + k] = w_east + quarter
            at = first * per_pixel + only
            places[2 * side * TILE + k] = whole(west * per_pixel + at)
            places[(2 * side + 1) * TILE + k] = whole(east * per_pixel + at)
            first = first if north or south else first + count


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def _nearest_pixels(layout, scratch, places, weights):
    # The pixel that contains the point: Gorski et al. 2005, ApJ 622, 759, section 5.2.
    nside = layout[NSIDE]
    per_shell, per_pixel = layout[PER_SHELL], layout[PER_PIXEL]
    slab, to_slab = layout[SLAB], layout[BEYOND]
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
        shell = np.int64(scratch[SHELL * TILE + k])
        places[FOLLOWING * TILE + k] = min(shell, 0)
        for side in range(4):
            places[side * TILE + k] = pixel * per_pixel + shell * per_shell + shell // slab * to_slab
            weights[side * TILE + k] = 0.25
        weights[4 * TILE + k] = 1.0
        weights[5 * TILE + k] = 0.0
