"""Hand the cells of a spherical grid out to the voxels that they overlap, to the last of them.

What a ray spends in a voxel and a shell is a volume, and the volumes of a cell's rays add up to the cell's whatever the
voxels are. Many rays walk abreast; what they meet is added up afterwards, ray after ray: the order in which a voxel
gets its parts does not depend on the box of voxels that is asked for.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from crdist_postproc.kernels.approx import FASTMATH, UNCOUNTED, whole
from crdist_postproc.kernels.field import Field
from crdist_postproc.kernels.lanes import add_sloped_vector, add_vector, prefer_wide_vectors
from crdist_postproc.kernels.ray_sets import Box, Floats, Pixels, Rays, Tables
from crdist_postproc.kernels.ray_walk import (
    ABREAST,
    ALONG_X,
    ALONG_Y,
    AT,
    BEGIN,
    COUNT,
    END,
    FACE_COLUMN,
    FACE_COLUMNS,
    FACE_ROW,
    FACE_ROWS,
    N_KNOWN,
    PIXEL,
    PLACE,
    SHELL_BITS,
    SLOT,
    STEP,
    STEPS,
    VOLUME,
    U,
    V,
    set_up,
    walk,
)
from crdist_postproc.kernels.slopes import ROWS as SLOPE_ROWS
from crdist_postproc.kernels.slopes import limited_slopes

__all__ = ["add_level", "box_volume", "deposit", "empty_rows", "level_shells", "row_length"]


def deposit(rays: Rays, field: Field, box: Box, *, second_order: bool = False) -> Floats:
    """Hand the cells out to the voxels of a box.

    Parameters
    ----------
    field : Field
        Samples on the rays' native grid, not their logarithms.
    second_order : bool
        Whether values change within a cell, by slopes that make no new extremes, or are the cell's own throughout.

    Returns
    -------
    ndarray of float64, shape (nx, ny, nz, row_length(n_padded))
        In units of a voxel: the integral of each sample over the rays in the voxel; their volume inside the grid; and
        what part of that is masked, which adds to no integral.
    """
    tables = rays.tables()
    rows = empty_rows(box, field.values.shape[2])
    pixels = rays.pixels(box, tables, second_order=second_order)
    for level in range(tables.parts.size):
        add_level(field, tables, pixels, level, box, rows, second_order=second_order)
    return rows


def empty_rows(box: Box, n_padded: int) -> Floats:
    """Room for what `deposit` returns, zero, aligned to cache lines."""
    length = row_length(n_padded)
    size = math.prod(box.shape) * length
    room = np.zeros(size + 8)
    begin = -(room.ctypes.data // 8) % 8
    return room[begin : begin + size].reshape(*box.shape, length)


def add_level(
    field: Field,
    tables: Tables,
    pixels: Pixels,
    level: int,
    box: Box,
    rows: Floats,
    *,
    second_order: bool = False,
) -> None:
    """Add the cells of some pixels within a range of distances.

    Sums have the same bits if levels follow one another, and of each the pixels in their order, however those are cut.

    Parameters
    ----------
    tables : Tables
        Of the rays.
    pixels : Pixels
        Those of the rays for this box, or some of them.
    level : int
        Which of the ranges of distances.
    rows : ndarray
        What `empty_rows` gives, to which is added.
    """
    _run(
        field.lanes,
        field.values,
        tables,
        pixels,
        level,
        np.array(box.lower),
        np.array(box.shape),
        rows.reshape(-1, rows.shape[-1]),
        second_order,
    )


def level_shells(tables: Tables, level: int, box: Box) -> slice:
    """The shells that `add_level` reads, without the neighbours that slopes need; none where the box lies elsewhere."""
    nearest, farthest = _reach(tables, np.array(box.lower), np.array(box.shape))
    begin, end = max(tables.bounds[level], tables.edges[0]), tables.bounds[level + 1]
    if begin >= min(end, farthest) or end <= nearest:
        return slice(0, 0)
    return slice(*_shells(tables.edges, max(begin, nearest), min(end, farthest)))


def row_length(n_padded: int) -> int:
    """Numbers of a voxel: its samples, its volume and what is masked of that, in whole cache lines."""
    return -(-(n_padded + 2) // 8) * 8


def box_volume(rays: Rays, box: Box) -> float:
    """Volume of the rays in a box, in voxels: what `deposit` hands out there, without its voxels."""
    tables = rays.tables()
    nothing = np.zeros((1, 1, 4), dtype=np.float32)
    rows = np.zeros((0, 8))
    pixels = rays.pixels(box, tables, second_order=False)
    lower, shape, lanes = np.array(box.lower), np.array(box.shape), (0.0,) * 4
    levels = range(tables.parts.size)
    return float(sum(_run(lanes, nothing, tables, pixels, level, lower, shape, rows, False) for level in levels))


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def _run(lanes, values, tables, pixels, level, lower, shape, voxels, second_order):
    """Send the rays of a range of distances through a box; return their volume there, in voxels."""
    edges = tables.edges
    n_shell = edges.size - 3
    nearest, farthest = _reach(tables, lower, shape)
    begin, end = max(tables.bounds[level], edges[0]), tables.bounds[level + 1]
    if begin >= min(end, farthest) or end <= nearest:
        return 0.0
    walking = voxels.size > 0
    # lanes that no ray has taken yet hold one that is none, too
    rays = np.ones(N_KNOWN * ABREAST)
    n_step = (shape[0] + shape[1] + shape[2] + n_shell) // STEPS * STEPS + 3 * STEPS
    segments = np.empty(STEP * n_step if walking else 0)
    # as many pixels as a batch may have
    slopes = np.zeros((ABREAST if second_order else 0, n_shell, SLOPE_ROWS, values.shape[2]), dtype=np.float32)
    m = tables.parts[level]
    share = tables.per_pixel / np.float64(m * m)
    margin = min(end, farthest) * tables.pixel_radius
    first, last = _shells(edges, max(begin, nearest), min(end, farthest))
    total, n, slot = 0.0, 0, 0
    for i in range(pixels.rows.size):
        near, far = _meeting(tables, pixels.directions, i, lower, shape, begin, end, margin)
        if not near < far:
            continue
        pixel = pixels.rows[i]
        if second_order:
            slot = (slot + 1) % ABREAST
            first, last = _shells(edges, near * (1.0 - 1e-9), far * (1.0 + 1e-9))
            limited_slopes(values, pixel, pixels.neighbours[i], edges, first, last, slopes[slot])
        face = pixels.places[i, 2]
        for a in range(m):
            for b in range(m):
                rays[U * ABREAST + n] = pixels.places[i, 0] * m + a
                rays[V * ABREAST + n] = pixels.places[i, 1] * m + b
                rays[FACE_ROW * ABREAST + n] = FACE_ROWS[face]
                rays[FACE_COLUMN * ABREAST + n] = FACE_COLUMNS[face]
                rays[PIXEL * ABREAST + n] = pixel
                if second_order:
                    rays[SLOT * ABREAST + n] = slot
                    rays[ALONG_X * ABREAST + n] = (a + 0.5) / m - 0.5
                    rays[ALONG_Y * ABREAST + n] = (b + 0.5) / m - 0.5
                n += 1
                if n == ABREAST:
                    set_up(rays, tables, m, lower, shape, begin, end)
                    if walking:
                        walk(rays, n, tables.sun, edges, first, shape, segments)
                        _add(lanes, values, slopes, rays, segments, n, share, edges, voxels, second_order)
                    else:
                        total += share * _volume(rays, n)
                    n = 0
    if n > 0:
        set_up(rays, tables, m, lower, shape, begin, end)
        if walking:
            walk(rays, n, tables.sun, edges, first, shape, segments)
            _add(lanes, values, slopes, rays, segments, n, share, edges, voxels, second_order)
        else:
            total += share * _volume(rays, n)
    return total


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", **UNCOUNTED)
def _volume(rays, n):
    total = 0.0
    for k in range(n):
        at, end = rays[AT * ABREAST + k], rays[END * ABREAST + k]
        # one that misses the box is somewhere far away, and the difference of its cubes a rounding error
        if at < end:
            total += end * end * end - at * at * at
    return total


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", **UNCOUNTED)
def _reach(tables, lower, shape):
    """The smallest and largest distance of a box from the Sun, kpc."""
    near2 = far2 = 0.0
    for axis in range(3):
        low = lower[axis] - tables.sun[axis]
        high = low + shape[axis]
        near2 += (max(low, -high, 0.0) / tables.per_kpc[axis]) ** 2
        far2 += (max(-low, high) / tables.per_kpc[axis]) ** 2
    return math.sqrt(near2) * (1.0 - 1e-12), math.sqrt(far2) * (1.0 + 1e-12)


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", **UNCOUNTED)
def _shells(edges, begin, end):
    """The shells between two distances: the first, and the one behind the last."""
    n_shell = edges.size - 3
    first = min(max(np.searchsorted(edges, begin, side="right") - 1, 0), n_shell - 1)
    last = max(min(np.searchsorted(edges, end), n_shell), first + 1)
    return first, last


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", **UNCOUNTED)
def _meeting(tables, directions, i, lower, shape, begin, end, margin):
    """Where a pixel's central ray enters and leaves a box that is wider by a margin, kpc, between two distances, kpc.

    At any distance a point of the pixel is within the margin of its centre: if that misses, all rays do.
    """
    near, far = begin, end
    for axis in range(3):
        along = directions[i, axis]
        wider = margin * tables.per_kpc[axis]
        low = lower[axis] - tables.sun[axis] - wider
        high = low + shape[axis] + 2.0 * wider
        if abs(along) < 1e-12:
            if low > 0.0 or high < 0.0:
                return end, begin
            continue
        one, other = low / along, high / along
        near = max(near, min(one, other))
        far = min(far, max(one, other))
    return near, far


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", **UNCOUNTED)
def _add(lanes, values, slopes, rays, segments, n, share, edges, voxels, second_order):
    """Add what rays have met to the voxels, ray after ray."""
    prefer_wide_vectors()
    width, n_padded = len(lanes), values.shape[2]
    n_column = voxels.shape[1]
    cells = np.int64(values.ctypes.data)
    sloped = np.int64(slopes.ctypes.data)
    target = np.int64(voxels.ctypes.data)
    for k in range(n):
        pixel, slot = np.int64(rays[PIXEL * ABREAST + k]), np.int64(rays[SLOT * ABREAST + k])
        along_x, along_y = rays[ALONG_X * ABREAST + k], rays[ALONG_Y * ABREAST + k]
        column = slopes[slot, :, 0] if second_order else values[pixel]
        if second_order:
            source, per_shell = sloped + slot * slopes.strides[0], slopes.strides[1]
        else:
            source, per_shell = cells + pixel * values.strides[0], values.strides[1]
        cube = rays[BEGIN * ABREAST + k] ** 3
        for step in range(np.int64(rays[COUNT * ABREAST + k])):
            base = step * STEP + k
            part = segments[base + VOLUME * ABREAST]
            volume = share * part
            if not volume > 0.0:
                continue
            place = whole(segments[base + PLACE * ABREAST])
            voxel, shell = place >> SHELL_BITS, place & ((1 << SHELL_BITS) - 1)
            voxels[voxel, n_padded] += volume
            if np.isnan(column[shell, 0]):
                voxels[voxel, n_padded + 1] += volume
                cube += part
                continue
            to, from_ = target + 8 * voxel * n_column, source + shell * per_shell
            if not second_order:
                # the first, and often the only, vector of samples: the loop costs as much as that
                add_vector(lanes, to, from_, volume)
                for offset in range(width, n_padded, width):
                    add_vector(lanes, to + 8 * offset, from_ + 4 * offset, volume)
                continue
            inner, outer = edges[shell] ** 3, edges[shell + 1] ** 3
            depth = (cube + 0.5 * part - 0.5 * (inner + outer)) / (outer - inner)
            cube += part
            x, y, z = volume * along_x, volume * along_y, volume * depth
            for offset in range(0, n_padded, width):
                add_sloped_vector(lanes, to + 8 * offset, from_ + 4 * offset, 4 * n_padded, volume, x, y, z)
