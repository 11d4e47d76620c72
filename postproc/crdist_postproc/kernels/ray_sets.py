"""The rays of a spherical grid, as a grid of voxels sees them.

A pixel is cut into m x m equal parts, and a part's centre is a ray that stands for all of the part's solid angle. Far
from the Sun a pixel needs more rays than near it: each range of distances has its own m.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from crdist.errors import GridError
from crdist.grids import CartesianGrid, SphericalGrid
from crdist_postproc.kernels.field import Inner

__all__ = ["Box", "Floats", "Integers", "Pixels", "Rays", "Tables", "ray_levels"]

MAX_PARTS = 1 << 10
"""Rays along a pixel's side, at most: a million a pixel."""

FEW = 64
"""Of all pixels at this nside, and of fewer, places are kept: 3 MB."""

RATIO = 1.25
"""Steps from one number of rays to the next, at most, once there are several: fine steps mean rays that start anew."""

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class Box(NamedTuple):
    """Voxels of a grid, by their places along x, y and z; the grid goes on beyond its ends."""

    lower: tuple[int, int, int]
    shape: tuple[int, int, int]


class Tables(NamedTuple):
    """What the compiled code knows of both grids."""

    sun: Floats
    """The Sun, in voxels from the grid's corner."""
    turn: Floats
    """From heliocentric kpc to voxels."""
    per_kpc: Floats
    """Voxels per kpc along x, y and z."""
    parts: Integers
    """Rays along a pixel's side, range after range of distances."""
    bounds: Floats
    """Ends of those ranges, kpc."""
    edges: Floats
    """Shell edges, kpc, the first zero where the first shell stands for all inside it; then two that no ray reaches."""
    per_pixel: float
    """Solid angle of a pixel over three voxel volumes, kpc^-3."""
    pixel_radius: float
    """No point of a pixel is farther from its centre, radian."""
    nside: int


class Pixels(NamedTuple):
    """Pixels whose rays may meet a box."""

    rows: Integers
    """RING indices."""
    places: Integers
    """Along x and y on a face of HEALPix, and the face."""
    directions: Floats
    """To the centres, in voxels per kpc."""
    neighbours: Integers
    """RING indices of the pixels before and after along the face's two axes, shape (n, 4); none for first order."""

    def some(self, places: slice | Integers) -> Pixels:
        """Those at some places in the list."""
        sides = self.neighbours[places] if len(self.neighbours) else self.neighbours
        return Pixels(self.rows[places], self.places[places], self.directions[places], sides)


@dataclass(frozen=True, slots=True, eq=False)
class Rays:
    """Rays from a spherical grid through a Cartesian one.

    Parameters
    ----------
    native : SphericalGrid
    target : CartesianGrid
    inner : {"extend", "exclude"}
        Whether the first shell stands for the space inside it.
    per_voxel : float
        Rays are no farther apart than a voxel's smallest side over this.
    """

    native: SphericalGrid
    target: CartesianGrid
    inner: Inner
    per_voxel: float

    @property
    def radii(self) -> tuple[float, float]:
        """Inner and outer edge of the space that has values, kpc."""
        return (0.0 if self.inner == "extend" else self.native.edges_kpc[0]), self.native.edges_kpc[-1]

    def tables(self) -> Tables:
        """What the compiled code knows of both grids."""
        import healpy

        axes, frame = self.target.axes, self.target.frame
        steps = np.array([axis.step for axis in axes])
        sun = (np.array(frame.sun_kpc) - [axis.lower_kpc for axis in axes]) / steps
        # with the voxels around the grid
        far = np.maximum(sun, np.array(self.target.shape) - sun) + 1.0
        reach = min(self.native.edges_kpc[-1], float(np.linalg.norm(far * steps)))
        parts, bounds = ray_levels(self.native.nside, float(steps.min()) / self.per_voxel, reach)
        edges = np.append(self.native.edges, [np.inf, np.inf])
        edges[0] = self.radii[0]
        return Tables(
            sun=sun,
            turn=np.ascontiguousarray(frame.rotation / steps[:, None]),
            per_kpc=1.0 / steps,
            parts=parts,
            bounds=bounds,
            edges=edges,
            per_pixel=4.0 * math.pi / (3.0 * self.native.n_pixel * self.target.voxel_volume),
            pixel_radius=float(healpy.max_pixrad(self.native.nside)) * (1.0 + 1e-6),
            nside=self.native.nside,
        )

    def nested(self, box: Box, tables: Tables) -> Integers:
        """NESTED indices of the pixels whose rays may meet a box, in order."""
        import healpy

        steps = np.array([axis.step for axis in self.target.axes])
        centre = (np.array(box.lower) + 0.5 * np.array(box.shape) - tables.sun) * steps
        radius = 0.5 * float(np.linalg.norm(box.shape * steps))
        distance = float(np.linalg.norm(centre))
        angle = math.pi if distance <= radius else math.asin(radius / distance) + tables.pixel_radius
        if angle >= math.pi:
            return np.arange(self.native.n_pixel)
        towards = centre @ self.target.frame.rotation
        return np.sort(healpy.query_disc(self.native.nside, towards, angle, nest=True)).astype(np.int64)

    def pixels(self, box: Box, tables: Tables, *, second_order: bool) -> Pixels:
        """Pixels whose rays may meet a box, in NESTED order."""
        return self.pixels_at(self.nested(box, tables), tables, second_order=second_order)

    def pixels_at(self, nested: Integers, tables: Tables, *, second_order: bool) -> Pixels:
        """Pixels by their NESTED indices."""
        import healpy

        nside = self.native.nside
        if nside <= FEW:
            every = _sky(nside)
            rows, places, directions = every[0][nested], every[1][nested], every[2][nested]
        else:
            rows, places, directions = _sky_at(nside, nested)
        sides = np.zeros((0, 4), dtype=np.int64)
        if second_order:
            around = healpy.get_all_neighbours(nside, nested, nest=True)
            # x grows towards the north-east, y towards the north-west
            sides = np.ascontiguousarray(healpy.nest2ring(nside, around[[0, 4, 6, 2]].T), dtype=np.int64)
        return Pixels(rows, places, np.ascontiguousarray(directions @ tables.turn.T), sides)


@lru_cache(maxsize=2)
def _sky(nside: int) -> tuple[Integers, Integers, Floats]:
    """`_sky_at` for all pixels."""
    return _sky_at(nside, np.arange(12 * nside**2))


def _sky_at(nside: int, nested: Integers) -> tuple[Integers, Integers, Floats]:
    """RING indices, places on faces and directions of pixels."""
    import healpy

    return (
        np.asarray(healpy.nest2ring(nside, nested), dtype=np.int64),
        np.stack(healpy.pix2xyf(nside, nested, nest=True), axis=-1).astype(np.int64),
        np.stack(healpy.pix2vec(nside, nested, nest=True), axis=-1),
    )


def ray_levels(nside: int, apart_kpc: float, outer_kpc: float) -> tuple[Integers, Floats]:
    """How many rays along a pixel's side keep them close enough, by distance.

    Parameters
    ----------
    apart_kpc : float, kpc
        Largest distance between rays, taken as the side of a square as large as what each stands for.
    outer_kpc : float, kpc
        Where rays end.

    Returns
    -------
    parts : ndarray of int64, shape (n,)
    bounds : ndarray, shape (n + 1,), kpc
        parts[i] rays are needed between bounds[i] and bounds[i + 1].

    Raises
    ------
    GridError
        If there would be too many.

    Examples
    --------
    >>> parts, bounds = ray_levels(32, 0.05, 10.0)
    >>> parts.tolist(), bounds.round(2).tolist()
    ([1, 2, 3, 4, 5, 6, 7], [0.0, 1.56, 3.13, 4.69, 6.25, 7.82, 9.38, 10.0])
    """
    across = math.sqrt(math.pi / 3.0) / nside
    parts, bounds = [1], [0.0]
    while True:
        end = apart_kpc * parts[-1] / across
        if end >= outer_kpc:
            return np.array(parts), np.array([*bounds, outer_kpc])
        if parts[-1] >= MAX_PARTS:
            raise GridError(
                f"voxels are so much smaller than the source's cells, {across * outer_kpc:g} kpc wide "
                f"at {outer_kpc:g} kpc, that a pixel would need more than {MAX_PARTS} x {MAX_PARTS} rays; "
                "choose larger voxels"
            )
        bounds.append(end)
        parts.append(max(parts[-1] + 1, int(parts[-1] * RATIO)))
