"""Which chunks of a source hold the cells that points read."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from crdist_postproc.kernels.field import N_PADDED, N_SHELL
from crdist_postproc.kernels.locate import FOLLOWING, TILE, locate_tile

__all__ = ["INNER", "OUTER", "PART_OF_CHUNK", "PART_OF_LN_R", "STRETCH", "mark_box", "mark_rows"]

# Places in Reach.radial
INNER, OUTER, STRETCH, PART_OF_CHUNK, PART_OF_LN_R = range(5)

DEEPEST = 256
"""Room for boxes that wait, more than halving three axes of 2^31 points needs."""

ROUNDING = 1e-12
"""Points may lie this far from where they are said to be, kpc: in the Sun itself, all directions are as good."""


@njit(cache=True, nogil=True)
def mark_box(
    origin,
    steps,
    shape,
    around,
    vectors,
    cones,
    first,
    members,
    knots,
    chunk_of_shell,
    following,
    radial,
    most,
    reached,
):
    """Mark the chunks that the points of a box may read, from the balls about its parts.

    Parameters
    ----------
    origin, steps, shape : ndarray, shapes (3,), (3, 3) and (3,)
        The points origin + i steps[0] + j steps[1] + k steps[2], heliocentric kpc.
    around : float
        What is this close to a point may be read as well, kpc.
    vectors, cones, first, members, knots, chunk_of_shell, following, radial
        Of the `crdist_postproc.reach.Reach`.
    most : int
        Stop when more chunks than this are marked.
    reached : ndarray of bool, shape (n_pixel_chunk, n_shell_chunk)
        Result: True is put where a chunk may be read.
    """
    n_shell = chunk_of_shell.size
    lengths = np.empty(3)
    for axis in range(3):
        lengths[axis] = math.sqrt(steps[axis, 0] ** 2 + steps[axis, 1] ** 2 + steps[axis, 2] ** 2)
    found = np.empty(reached.shape[0], dtype=np.int64)
    stamps = np.zeros(reached.shape[0], dtype=np.int64)
    nodes = np.empty((64 + 4 * cones.size, 2), dtype=np.int64)
    boxes = np.empty((DEEPEST, 3, 2), dtype=np.int64)
    boxes[0, :, 0] = 0
    boxes[0, :, 1] = shape
    n_box, stamp, n_reached = 1, 0, 0
    while n_box > 0 and n_reached <= most:
        n_box -= 1
        box = boxes[n_box].copy()
        # 1. The ball that holds the box.
        x, y, z = origin
        radius = 0.0
        for axis in range(3):
            middle = 0.5 * (box[axis, 0] + box[axis, 1] - 1)
            x += middle * steps[axis, 0]
            y += middle * steps[axis, 1]
            z += middle * steps[axis, 2]
            radius += (0.5 * (box[axis, 1] - box[axis, 0] - 1) * lengths[axis]) ** 2
        radius = math.sqrt(radius) + around + ROUNDING
        distance = math.sqrt(x * x + y * y + z * z)
        near = max(distance - radius, 0.0) / radial[STRETCH]
        far = (distance + radius) * radial[STRETCH]
        if near > radial[OUTER] or far < radial[INNER]:
            continue
        # 2. The shells that its distances reach.
        low = min(max(np.searchsorted(knots, near, side="right") - 1, 0), n_shell - 1)
        high = min(max(np.searchsorted(knots, far, side="right") - 1 + following, 0), n_shell - 1)
        low, high = chunk_of_shell[low], chunk_of_shell[high]
        # 3. The pixels that its directions reach. Around the Sun they are all.
        cone = math.asin(radius / distance) if radius < distance else math.pi
        stamp += 1
        n_found = _chunks_in_cone(x, y, z, distance, cone, vectors, cones, first, members, stamp, stamps, found, nodes)
        news = False
        for i in range(n_found):
            for shell in range(low, high + 1):
                news = news or not reached[found[i], shell]
        if not news:
            continue
        # 4. Halve the box where halves would tell more.
        tells_pixels = n_found == 1 or radius <= radial[PART_OF_CHUNK] * distance
        tells_shells = low == high or (near > 0.0 and math.log(far / near) <= radial[PART_OF_LN_R])
        longest, size = 0, 0.0
        for axis in range(3):
            length = (box[axis, 1] - box[axis, 0] - 1) * lengths[axis]
            if length > size:
                longest, size = axis, length
        if size == 0.0 or (tells_pixels and tells_shells):
            for i in range(n_found):
                for shell in range(low, high + 1):
                    n_reached += not reached[found[i], shell]
                    reached[found[i], shell] = True
            continue
        half = (box[longest, 0] + box[longest, 1]) // 2
        for side in range(2):
            boxes[n_box] = box
            boxes[n_box, longest, 1 - side] = half
            n_box += 1


@njit(cache=True, nogil=True)
def mark_rows(
    starts,
    step,
    first,
    n,
    tables,
    layout,
    radial,
    scratch,
    places,
    weights,
    chunk_of_row,
    chunk_of_shell,
    most,
    reached,
):
    """Mark the chunks of the cells where the kernels find the points of rows.

    Parameters
    ----------
    starts, step, first, n
        As for `crdist_postproc.kernels.rows.fill_rows`.
    tables, layout, radial
        Of a `Field` with room for all shells.
    scratch, places, weights
        Room, as `locate_tile` wants it.
    chunk_of_row : ndarray of int64, shape (n_pixel,)
        Chunk along pixel that holds each pixel, in RING order.
    chunk_of_shell : ndarray of int64, shape (n_shell,)
    most : int
        Stop when more chunks than this are marked.
    reached : ndarray of bool, shape (n_pixel_chunk, n_shell_chunk)
        Result: True is put where a chunk is read.
    """
    per_shell = 4 * layout[N_PADDED]
    n_shell = layout[N_SHELL]
    n_reached = 0
    for row in range(starts.shape[0]):
        for base in range(0, n, TILE):
            locate_tile(starts, row, step, first + base, tables, layout, radial, scratch, places, weights)
            for k in range(min(TILE, n - base)):
                following = places[FOLLOWING * TILE + k]
                if following < 0:
                    continue
                for side in range(4):
                    cell = places[side * TILE + k] // per_shell
                    chunk, shell = chunk_of_row[cell // n_shell], cell % n_shell
                    low, high = chunk_of_shell[shell], chunk_of_shell[shell + following // per_shell]
                    n_reached += not reached[chunk, low]
                    reached[chunk, low] = True
                    n_reached += not reached[chunk, high]
                    reached[chunk, high] = True
            if n_reached > most:
                return


@njit(cache=True, nogil=True)
def _chunks_in_cone(x, y, z, distance, cone, vectors, cones, first, members, stamp, stamps, found, nodes):
    """Put the chunks of pixels that a cone of directions reads into ``found``; return how many."""
    n_found = 0
    n_node = 12
    for pixel in range(12):
        nodes[pixel, 0] = 0
        nodes[pixel, 1] = pixel
    last = cones.size - 1
    while n_node > 0:
        n_node -= 1
        level, pixel = nodes[n_node]
        node = 4 * ((1 << 2 * level) - 1) + pixel
        every = cone >= math.pi
        if not every:
            along = (vectors[node, 0] * x + vectors[node, 1] * y + vectors[node, 2] * z) / distance
            angle = math.acos(min(max(along, -1.0), 1.0))
            if angle > cone + cones[level]:
                continue
            every = angle + cones[level] <= cone
        known = True
        for i in range(first[node], first[node + 1]):
            known = known and stamps[members[i]] == stamp
        if known:
            continue
        if every or level == last:
            for i in range(first[node], first[node + 1]):
                chunk = members[i]
                if stamps[chunk] != stamp:
                    stamps[chunk] = stamp
                    found[n_found] = chunk
                    n_found += 1
            continue
        for child in range(4):
            nodes[n_node, 0] = level + 1
            nodes[n_node, 1] = 4 * pixel + child
            n_node += 1
    return n_found
