"""Where points lie among the cells of a spherical grid, and how much each cell around them counts.

A row of points needs no list of them (`crdist_postproc.kernels.locate`). Points that somebody asks for are a list; they
are in the order of the store's own pixels here, and between shells the way may be measured in r as well as in ln r.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import healpy
import numpy as np
import numpy.typing as npt
from numba import njit

from crdist.errors import GridError
from crdist.grids import SphericalGrid
from crdist_postproc.kernels.approx import FASTMATH, angle_of_half, log, sin_small
from crdist_postproc.kernels.field import Inner, Method, ValueSpace
from crdist_postproc.kernels.lanes import prefer_wide_vectors

__all__ = ["TILE", "Interpolation", "Locator", "Places", "Radial", "integral_edges", "locate"]

Radial = Literal["log", "linear"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

TILE = 64
"""Points handled at once; what is known of them stays in the first-level cache."""

MAX_BINS = 1 << 20
MAX_TABLE = 12 * 512**2
"""Pixels of a table from RING to NESTED order, beyond which healpy converts those that are needed."""

SQRT_6 = math.sqrt(6.0)
TINY = 1e-100
"""Added to lengths in kpc, so that the Sun itself divides by no zero."""


@dataclass(frozen=True, slots=True)
class Interpolation:
    """How to get from cells to points; the words of `crdist_postproc.query.query`."""

    method: Method = "linear"
    value_space: ValueSpace = "linear"
    radial: Radial = "log"
    inner: Inner = "extend"
    integrated: bool = False


class Places(NamedTuple):
    """Where points lie among the cells."""

    pixels: Integers
    """Pixels around each point in the grid's order, shape (n, 4)."""
    weights: npt.NDArray[np.float32]
    """Their weights, shape (n, 4)."""
    shell: Integers
    """Shell at or below each point, shape (n,); -1 for a point that is NaN or outside the grid."""
    part: Floats
    """Part of the way to the next shell's centre; of an integral, kpc from the shell's edge to the point."""


class _Shells(NamedTuple):
    knots: Floats
    """Distances that separate shells, kpc."""
    origins: Floats
    """Where the parts of the way begin, kpc or ln(kpc)."""
    inverse: Floats
    """One over the length of the way."""
    lookup: Integers
    """The shell at the beginning of each of some equal bins of ln(distance)."""
    numbers: Floats
    """ln of the first knot; bins per unit; squares of the inner and the outer edge; 1 where parts are of ln r."""


class Locator:
    """Finds the cells around points, with what is known of a grid looked up once.

    Parameters
    ----------
    grid : SphericalGrid
    how : Interpolation
        From the first edge to the first centre the first shell alone counts, beyond the last centre the last; inside
        the first edge the first or none.
    n_point : int, optional
        How many points will come: for few of them no table of all pixels is made.
    """

    def __init__(self, grid: SphericalGrid, how: Interpolation, n_point: int | None = None) -> None:
        self._grid, self._how = grid, how
        self._is_nested = grid.ordering == "nested"
        self._table = np.empty(0, dtype=np.int32)
        is_worth_it = n_point is None or 4 * n_point >= grid.n_pixel
        if self._is_nested and is_worth_it and grid.n_pixel <= MAX_TABLE:
            self._table = _nested(grid.nside)
        self._shells, self._rings = _shell_table(grid, how), _ring_table(grid.nside)

    def __call__(self, points: Floats, *, spherical: bool = False) -> Places:
        """The cells around points.

        Parameters
        ----------
        points : ndarray of float64, shape (n, 3)
            Heliocentric kpc; or, if ``spherical``, longitude and latitude in radian, and the distance in kpc.
        spherical : bool
        """
        n, nside = len(points), self._grid.nside
        places = Places(
            np.empty((n, 4), dtype=np.int64), np.empty((n, 4), dtype=np.float32), np.empty(n, np.int64), np.empty(n)
        )
        points = np.ascontiguousarray(points)
        _locate(points, spherical, nside, self._rings, self._shells, self._table, *places)
        if self._how.method == "nearest":
            inside = places.shell >= 0
            if spherical:
                longitude, latitude = points[inside, :2].T
                pixels = healpy.ang2pix(nside, 0.5 * math.pi - latitude, longitude, nest=self._is_nested)
            else:
                vectors = points[inside]
                # the Sun itself lies north of the Sun
                vectors[~vectors.any(axis=1), 2] = 1.0
                pixels = healpy.vec2pix(nside, *vectors.T, nest=self._is_nested)
            places.pixels[inside] = np.asarray(pixels)[:, None]
            places.weights[:] = 0.25
        elif self._is_nested and not self._table.size:
            places.pixels[:] = healpy.ring2nest(nside, places.pixels)
        return places


def locate(points_kpc: Floats, grid: SphericalGrid, how: Interpolation) -> Places:
    """Find the cells around heliocentric points of shape (n, 3), kpc; see `Locator`."""
    return Locator(grid, how, len(points_kpc))(points_kpc)


def integral_edges(grid: SphericalGrid, how: Interpolation) -> Floats:
    """The edges between which shells are summed: the first shell begins at the Sun where it is extended."""
    edges = grid.edges
    if how.inner == "extend":
        edges[0] = 0.0
    return edges


def _shell_table(grid: SphericalGrid, how: Interpolation) -> _Shells:
    edges = integral_edges(grid, how)
    knots = grid.edges[:-1] if how.integrated or how.method == "nearest" else grid.centres
    logarithmic = how.radial == "log" and not how.integrated
    origins = edges[:-1] if how.integrated else np.log(knots) if logarithmic else knots
    inverse = np.zeros(knots.size)
    if how.integrated:
        inverse[:] = 1.0
    elif how.method == "linear":
        inverse[:-1] = 1.0 / np.diff(origins)
    lookup, per_unit = np.zeros(1, dtype=np.int64), 0.0
    if knots.size > 1:
        # Bins narrower than the closest two knots, so that one comparison finishes the search.
        ln_knots = np.log(knots)
        span = ln_knots[-1] - ln_knots[0]
        n_bin = int(span / np.diff(ln_knots).min() * 1.001) + 2
        if n_bin > MAX_BINS:
            raise GridError("the thinnest shell is less than a millionth of the radial range; merge thin shells")
        per_unit = n_bin / span
        starts = ln_knots[0] + np.arange(n_bin + 1) / per_unit
        lookup = (np.searchsorted(ln_knots, starts, side="right") - 1).clip(0).astype(np.int64)
    inner = grid.edges[0] ** 2 if how.inner == "exclude" else -1.0
    numbers = [math.log(knots[0]), per_unit, inner, grid.edges[-1] ** 2, float(logarithmic)]
    return _Shells(knots, origins, inverse, lookup, np.array(numbers))


def _ring_table(nside: int) -> Floats:
    """Colatitude of the rings 0 .. 4 nside, the poles being the first and the last.

    Ring geometry of Gorski et al. 2005, ApJ 622, 759, section 5.
    """
    ring = np.arange(2 * nside + 1)
    # by the sine of the half, which is exact near the pole where the cosine is not
    cap = 2.0 * np.arcsin(np.minimum(ring, nside) / (SQRT_6 * nside))
    belt = np.arccos(np.clip((2 * nside - ring) / (1.5 * nside), -1.0, 1.0))
    north = np.where(ring < nside, cap, belt)
    return np.concatenate([north, math.pi - north[-2::-1]])


@functools.lru_cache(maxsize=2)
def _nested(nside: int) -> npt.NDArray[np.int32]:
    table = healpy.ring2nest(nside, np.arange(12 * nside**2)).astype(np.int32)
    table.flags.writeable = False
    return np.asarray(table)


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")
def _ring_of(polar, cos, is_north, size):
    """Place between rings, from the angle to the nearest pole and the cosine of the colatitude."""
    # In the caps nside sqrt(3 (1 - |cos|)), written without the cancellation near the poles.
    cap = SQRT_6 * size * sin_small(0.5 * polar)
    cap = cap if is_north else 4.0 * size - cap
    return size * (2.0 - 1.5 * cos) if abs(cos) <= 2.0 / 3.0 else cap


# Of a whole tile, for a point's bits must not depend on whether SIMD code handles it or what is left over.
@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def _directions(place, size, r2_inner, r2_outer, found):
    """Of a tile of points x, y, z in kpc."""
    prefer_wide_vectors()
    polar_angle, turns, distance, ln_distance, ring_at, inside = found
    for k in range(TILE):
        x, y, z = place[0, k], place[1, k], place[2, k]
        r2 = x * x + y * y + z * z
        # false for NaN, too
        held = r2 <= r2_outer and r2 >= r2_inner
        x, y, z = (x if held else 0.0), (y if held else 0.0), (z if held else 0.0)
        ax, ay, az = abs(x), abs(y), abs(z)
        rho2 = x * x + y * y
        r2 = rho2 + z * z
        rho, r = math.sqrt(rho2), math.sqrt(r2)
        # the tangent of half an angle is y / (x + sqrt(x^2 + y^2))
        turn = angle_of_half(min(ax, ay) / (max(ax, ay) + rho + TINY))
        turn = 0.5 * math.pi - turn if ay > ax else turn
        turn = math.pi - turn if x < 0.0 else turn
        turn = 2.0 * math.pi - turn if y < 0.0 else turn
        polar = angle_of_half(min(az, rho) / (max(az, rho) + r + TINY))
        polar = 0.5 * math.pi - polar if rho > az else polar
        # the Sun itself lies north of the Sun, as for the angles
        cos = z / r if r > 0.0 else 1.0
        polar_angle[k] = math.pi - polar if z < 0.0 else polar
        turns[k] = turn * (0.5 / math.pi)
        distance[k] = r
        ln_distance[k] = 0.5 * log(r2 + 1e-200)
        ring_at[k] = _ring_of(polar, cos, z >= 0.0, size)
        inside[k] = 1.0 if held else 0.0


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def _angles(place, size, r2_inner, r2_outer, found):
    """Of a tile of longitudes, latitudes, radian, and distances, kpc."""
    prefer_wide_vectors()
    polar_angle, turns, distance, ln_distance, ring_at, inside = found
    for k in range(TILE):
        longitude, latitude, r = place[0, k], place[1, k], place[2, k]
        # false for NaN, too; an infinite angle minus itself is NaN
        held = r * r <= r2_outer and r * r >= r2_inner and longitude - longitude == latitude - latitude
        longitude, latitude, r = (longitude if held else 0.0), (latitude if held else 0.0), (r if held else 0.0)
        turn = longitude * (0.5 / math.pi)
        height = abs(latitude)
        # right in the belt alone, where the latitude is below 0.73 and nothing else is needed
        half = sin_small(0.5 * height)
        cos = 2.0 * half * math.sqrt(max(1.0 - half * half, 0.0)) if height < 0.8 else 1.0
        polar = 0.5 * math.pi - height
        polar_angle[k] = 0.5 * math.pi - latitude
        turns[k] = turn - math.floor(turn)
        distance[k] = r
        ln_distance[k] = 0.5 * log(r * r + 1e-200)
        ring_at[k] = _ring_of(polar, -cos if latitude < 0.0 else cos, latitude >= 0.0, size)
        inside[k] = 1.0 if held else 0.0


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def _locate(points, spherical, nside, rings, shells, nested, pixels, weights, shell, part):
    prefer_wide_vectors()
    knots, origins, inverse, lookup, numbers = shells
    ln_first, per_unit, r2_inner, r2_outer, logarithmic = numbers
    last_shell, last_bin = knots.size - 1, np.float64(lookup.size - 1)
    n_ring = 4 * nside
    size = np.float64(nside)
    # colatitude, longitude in turns, distance, its logarithm, number of the ring, and whether the point is in the grid
    found = np.empty((6, TILE))
    polar_angle, turns, distance, ln_distance, ring_at, inside = found
    place = np.zeros((3, TILE))
    n = points.shape[0]
    for base in range(0, n, TILE):
        count = min(TILE, n - base)
        for k in range(count):
            for axis in range(3):
                place[axis, k] = points[base + k, axis]
        # 1. Spherical coordinates, and the place between rings
        if spherical:
            _angles(place, size, r2_inner, r2_outer, found)
        else:
            _directions(place, size, r2_inner, r2_outer, found)
        # 2. Shells and pixels.
        for k in range(count):
            i = base + k
            if inside[k] == 0.0:
                shell[i] = -1
                part[i] = 0.0
                pixels[i, :] = 0
                weights[i, :] = 0.0
                continue
            at = min(max((ln_distance[k] - ln_first) * per_unit, 0.0), last_bin)
            s = lookup[np.int64(at)]
            s = s + 1 if s < last_shell and distance[k] >= knots[s + 1] else s
            # the look-up rounds in ln(r), knots are compared in r
            s = s - 1 if s > 0 and distance[k] < knots[s] else s
            shell[i] = s
            along = ((ln_distance[k] if logarithmic else distance[k]) - origins[s]) * inverse[s]
            part[i] = max(along, 0.0)
            ring = min(np.int64(ring_at[k]), n_ring - 1)
            across = (polar_angle[k] - rings[ring]) / (rings[ring + 1] - rings[ring])
            across = min(max(across, 0.0), 1.0)
            for side in range(2):
                share = across if side else 1.0 - across
                pole = ring + side == 0 or ring + side == n_ring
                here = min(max(ring + side, 1), n_ring - 1)
                # first pixel of the ring, their number, and whether the first begins at longitude 0
                cap_ring = min(here, n_ring - here)
                if cap_ring < nside:
                    first, per_ring, shift = 2 * cap_ring * (cap_ring - 1), 4 * cap_ring, 0.5
                    first = 12 * nside * nside - first - per_ring if here > nside else first
                else:
                    first, per_ring = 2 * nside * (nside - 1) + (here - nside) * n_ring, n_ring
                    shift = 0.5 * ((here - nside + 1) & 1)
                along = turns[k] * per_ring - shift
                west = np.int64(math.floor(along))
                east_share = along - west
                west = west + per_ring if west < 0 else west
                west = west - per_ring if west >= per_ring else west
                if pole:
                    # beyond the pole lie the two pixels opposite; all four around it share its weight
                    west = (west + 2) % 4
                    weights[i, 2 * side] = weights[i, 2 * side + 1] = 0.25 * share
                else:
                    weights[i, 2 * side] = (1.0 - east_share) * share
                    weights[i, 2 * side + 1] = east_share * share
                east = west + 1 if west + 1 < per_ring else 0
                pixels[i, 2 * side] = first + west
                pixels[i, 2 * side + 1] = first + east
            if ring == 0:
                weights[i, 2] += np.float32(0.25 * (1.0 - across))
                weights[i, 3] += np.float32(0.25 * (1.0 - across))
            elif ring == n_ring - 1:
                weights[i, 0] += np.float32(0.25 * across)
                weights[i, 1] += np.float32(0.25 * across)
            if nested.size:
                for c in range(4):
                    pixels[i, c] = nested[pixels[i, c]]
