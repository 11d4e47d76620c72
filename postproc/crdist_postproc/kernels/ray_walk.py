"""Where rays cross the planes between voxels and the edges of shells, many rays abreast, as SIMD code.

Rays are the lanes of arrays that have a row for each thing known of them. A ray's crossings, to the bit, do not depend
on the box of voxels that is asked for.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from crdist_postproc.kernels.approx import FASTMATH, UNCOUNTED
from crdist_postproc.kernels.lanes import look_up, prefer_wide_vectors

__all__ = ["ABREAST", "STEP", "set_up", "walk"]

ABREAST = 32
"""Rays that are set up, or walk, together."""

EIGHT = (0.0,) * 8

STEPS = 4
"""Steps between two looks whether all rays have come to their end."""

IN_PLANE = 1e-9
"""A ray this close to a plane of voxel faces runs beside it, on alternating sides: in it, it would be in no voxel."""

# Rows of what is known of the rays of a batch: what they are, then how they walk
U, V, FACE_ROW, FACE_COLUMN, PIXEL, SLOT, ALONG_X, ALONG_Y = range(8)
AT, END, CUBE, COUNT, SHELL, NEXT_SHELL, BEHIND, BEGIN = range(8, 16)
NEXT_X, NEXT_Y, NEXT_Z, PLANE_X, PLANE_Y, PLANE_Z, PER_X, PER_Y, PER_Z = range(16, 25)
N_KNOWN = 25

# Rows of the segments that walking rays leave behind: volume per solid angle, three times; and whose it is
VOLUME, PLACE = range(2)
STEP = 2 * ABREAST + 8
"""Numbers of a step: a cache line more than they are, or the steps of a ray would compete for the same few lines."""

SHELL_BITS = 20
"""A place is a voxel and a shell, of which there are fewer than two to this."""

PLACES = float(1 << SHELL_BITS)
HALF_PI = 0.5 * math.pi

# Row and column of a face's middle: Gorski et al. 2005, ApJ 622, 759, section 5
FACE_ROWS = np.array([2.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0, 4.0, 4.0, 4.0, 4.0])
FACE_COLUMNS = np.array([1.0, 3.0, 5.0, 7.0, 0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0])


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", **UNCOUNTED)
def set_up(f, tables, m, lower, shape, begin, end):
    """Where rays enter and leave a box, and the planes they cross first; one that misses it ends where it begins."""
    prefer_wide_vectors()
    finest = 1.0 / np.float64(m * tables.nside)
    xx, xy, xz = tables.turn[0, 0], tables.turn[0, 1], tables.turn[0, 2]
    yx, yy, yz = tables.turn[1, 0], tables.turn[1, 1], tables.turn[1, 2]
    zx, zy, zz = tables.turn[2, 0], tables.turn[2, 1], tables.turn[2, 2]
    sun_x, sun_y, sun_z = tables.sun[0], tables.sun[1], tables.sun[2]
    low_x, low_y, low_z = lower[0] - sun_x, lower[1] - sun_y, lower[2] - sun_z
    # not low + shape: a plane has one distance, whichever box it ends
    high_x = np.float64(lower[0] + shape[0]) - sun_x
    high_y = np.float64(lower[1] + shape[1]) - sun_y
    high_z = np.float64(lower[2] + shape[2]) - sun_z
    first_x, first_y, first_z = np.float64(lower[0]), np.float64(lower[1]), np.float64(lower[2])
    n_y, n_z = np.float64(shape[1]), np.float64(shape[2])
    for k in range(ABREAST):
        u, v = f[U * ABREAST + k], f[V * ABREAST + k]
        along_x, along_y = (u + 0.5) * finest, (v + 0.5) * finest
        # direction of a place on a face, which is equal-area
        row = f[FACE_ROW * ABREAST + k] - along_x - along_y
        north, south = row < 1.0, row > 3.0
        ring = row if north else 1.0
        ring = 4.0 - row if south else ring
        cap = ring * ring * (1.0 / 3.0)
        height = (2.0 - row) * (2.0 / 3.0)
        height = 1.0 - cap if north else height
        height = cap - 1.0 if south else height
        width2 = cap * (2.0 - cap) if north or south else 1.0 - height * height
        width = math.sqrt(width2)
        quarters = 0.5 * (f[FACE_COLUMN * ABREAST + k] + (along_x - along_y) / ring)
        quarter = np.floor(quarters + 0.5)
        sine, cosine = _sine_cosine((quarters - quarter) * HALF_PI)
        quarter = quarter - 4.0 * np.floor(0.25 * quarter)
        odd = quarter == 1.0 or quarter == 3.0
        cos_, sin_ = sine if odd else cosine, cosine if odd else sine
        cos_ = -cos_ if quarter == 1.0 or quarter == 2.0 else cos_
        sin_ = -sin_ if quarter >= 2.0 else sin_
        h_x, h_y = width * cos_, width * sin_
        u_x = xx * h_x + xy * h_y + xz * height
        u_y = yx * h_x + yy * h_y + yz * height
        u_z = zx * h_x + zy * h_y + zz * height
        # along the equator as along a meridian, from one ray to the next u grows by one
        aside = IN_PLANE if u - 2.0 * np.floor(0.5 * u) > 0.5 else -IN_PLANE
        u_x = aside if abs(u_x) < IN_PLANE else u_x
        u_y = aside if abs(u_y) < IN_PLANE else u_y
        u_z = aside if abs(u_z) < IN_PLANE else u_z
        per_x, per_y, per_z = 1.0 / u_x, 1.0 / u_y, 1.0 / u_z
        one_x, other_x = low_x * per_x, high_x * per_x
        one_y, other_y = low_y * per_y, high_y * per_y
        one_z, other_z = low_z * per_z, high_z * per_z
        at = max(max(min(one_x, other_x), min(one_y, other_y)), max(min(one_z, other_z), begin))
        # a ray in a plane may miss the box by a billion kpc, whose cubes do not cancel to the last bit
        at = min(at, end)
        stop = min(min(max(one_x, other_x), max(one_y, other_y)), min(max(one_z, other_z), end))
        f[AT * ABREAST + k] = at
        f[END * ABREAST + k] = max(stop, at)
        f[CUBE * ABREAST + k] = at * at * at
        f[BEGIN * ABREAST + k] = at
        f[COUNT * ABREAST + k] = 0.0
        # a voxel has the number of the plane that a ray crosses next, or of the one before
        before_x = first_x + (1.0 if per_x > 0.0 else 0.0)
        before_y = first_y + (1.0 if per_y > 0.0 else 0.0)
        before_z = first_z + (1.0 if per_z > 0.0 else 0.0)
        f[BEHIND * ABREAST + k] = (before_x * n_y + before_y) * n_z + before_z
        f[PER_X * ABREAST + k] = per_x
        f[PER_Y * ABREAST + k] = per_y
        f[PER_Z * ABREAST + k] = per_z
        f[PLANE_X * ABREAST + k] = _next_plane(sun_x, u_x, per_x, at)
        f[PLANE_Y * ABREAST + k] = _next_plane(sun_y, u_y, per_y, at)
        f[PLANE_Z * ABREAST + k] = _next_plane(sun_z, u_z, per_z, at)
    for k in range(ABREAST):
        f[NEXT_X * ABREAST + k] = (f[PLANE_X * ABREAST + k] - sun_x) * f[PER_X * ABREAST + k]
        f[NEXT_Y * ABREAST + k] = (f[PLANE_Y * ABREAST + k] - sun_y) * f[PER_Y * ABREAST + k]
        f[NEXT_Z * ABREAST + k] = (f[PLANE_Z * ABREAST + k] - sun_z) * f[PER_Z * ABREAST + k]


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def _next_plane(sun, u, per, at):
    """The first plane that a ray crosses after a distance: the one a walk from the Sun would have come to."""
    onward = 1.0 if u > 0.0 else -1.0
    plane = np.floor(sun + u * at) + (1.0 if u > 0.0 else 0.0)
    # rounding may have put the place on the wrong side of a plane
    plane = plane + onward if (plane - sun) * per <= at else plane
    return plane - onward if (plane - onward - sun) * per > at else plane


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def _sine_cosine(x):
    """Both of an angle in [-pi/4, pi/4], to rounding: their Taylor series."""
    s = x * x
    p = -1.0 / 1307674368000.0
    p = p * s + 1.0 / 6227020800.0
    p = p * s - 1.0 / 39916800.0
    p = p * s + 1.0 / 362880.0
    p = p * s - 1.0 / 5040.0
    p = p * s + 1.0 / 120.0
    p = p * s - 1.0 / 6.0
    c = 1.0 / 20922789888000.0
    c = c * s - 1.0 / 87178291200.0
    c = c * s + 1.0 / 479001600.0
    c = c * s - 1.0 / 3628800.0
    c = c * s + 1.0 / 40320.0
    c = c * s - 1.0 / 720.0
    c = c * s + 1.0 / 24.0
    c = c * s - 0.5
    return x + x * s * p, 1.0 + s * c


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", **UNCOUNTED)
def walk(rays, n, sun, edges, shell, shape, segments):
    """Cut rays at the planes and shell edges that they cross."""
    for k in range(n):
        at = rays[AT * ABREAST + k]
        if at < rays[END * ABREAST + k]:
            # neighbours start in the same shell, or nearly
            while edges[shell + 1] <= at:
                shell += 1
            while edges[shell] > at:
                shell -= 1
        rays[SHELL * ABREAST + k] = shell
        rays[NEXT_SHELL * ABREAST + k] = edges[shell + 1]
    base = 0
    walking = True
    while walking:
        for _ in range(STEPS):
            # a slice: an index that might be negative keeps a loop scalar
            _step(rays, sun, edges, shape, segments[base : base + STEP])
            base += STEP
        walking = False
        for k in range(n):
            walking |= rays[AT * ABREAST + k] < rays[END * ABREAST + k]


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", **UNCOUNTED)
def _step(f, sun, edges, shape, out):
    """Take all rays in line to the next plane or shell edge each."""
    prefer_wide_vectors()
    sun_x, sun_y, sun_z = sun[0], sun[1], sun[2]
    per_plane, per_row = np.float64(shape[1] * shape[2]), np.float64(shape[2])
    for k in range(ABREAST):
        at, end = f[AT * ABREAST + k], f[END * ABREAST + k]
        next_x, next_y, next_z = f[NEXT_X * ABREAST + k], f[NEXT_Y * ABREAST + k], f[NEXT_Z * ABREAST + k]
        next_shell, shell = f[NEXT_SHELL * ABREAST + k], f[SHELL * ABREAST + k]
        plane_x, plane_y, plane_z = f[PLANE_X * ABREAST + k], f[PLANE_Y * ABREAST + k], f[PLANE_Z * ABREAST + k]
        per_x, per_y, per_z = f[PER_X * ABREAST + k], f[PER_Y * ABREAST + k], f[PER_Z * ABREAST + k]
        before = f[CUBE * ABREAST + k]
        # a ray that never was in the box stays where it is
        to = max(min(min(min(next_x, next_y), min(next_z, next_shell)), end), at)
        cube = to * to * to
        out[VOLUME * ABREAST + k] = cube - before
        voxel = plane_x * per_plane + plane_y * per_row + plane_z - f[BEHIND * ABREAST + k]
        out[PLACE * ABREAST + k] = voxel * PLACES + shell
        more = 1.0 if at < end else 0.0
        f[COUNT * ABREAST + k] = f[COUNT * ABREAST + k] + more
        f[AT * ABREAST + k] = to
        f[CUBE * ABREAST + k] = cube
        plane_x = plane_x + (1.0 if per_x > 0.0 else -1.0) if next_x <= to else plane_x
        plane_y = plane_y + (1.0 if per_y > 0.0 else -1.0) if next_y <= to else plane_y
        plane_z = plane_z + (1.0 if per_z > 0.0 else -1.0) if next_z <= to else plane_z
        shell = shell + 1.0 if next_shell <= to else shell
        f[PLANE_X * ABREAST + k] = plane_x
        f[PLANE_Y * ABREAST + k] = plane_y
        f[PLANE_Z * ABREAST + k] = plane_z
        f[SHELL * ABREAST + k] = shell
        f[NEXT_X * ABREAST + k] = (plane_x - sun_x) * per_x
        f[NEXT_Y * ABREAST + k] = (plane_y - sun_y) * per_y
        f[NEXT_Z * ABREAST + k] = (plane_z - sun_z) * per_z
    at = np.int64(f.ctypes.data)
    for k in range(0, ABREAST, len(EIGHT)):
        look_up(
            EIGHT,
            at + 8 * (NEXT_SHELL * ABREAST + k),
            np.int64(edges.ctypes.data) + 8,
            at + 8 * (SHELL * ABREAST + k),
        )
