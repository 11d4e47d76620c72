"""The conservative regrid: exact on mass, and on constants, at once.

Every cell is handed out to voxels along rays, which keeps its mass. Then volume flows between voxels, and carries along
what is in it, until each holds as much as lies inside the data: which keeps constants. The fluxes follow from the two
grids alone, and so does a `ConservativePlan`; the tiles of the target can then be computed apart, in any order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crdist.errors import GridError
from crdist.grids import CartesianGrid, SphericalGrid
from crdist_postproc.kernels.ball import ball_volumes
from crdist_postproc.kernels.deposit import box_volume, row_length
from crdist_postproc.kernels.field import EXTEND, LOG, N_PADDED, NSIDE, Field, Inner
from crdist_postproc.kernels.ray_sets import Box, Rays
from crdist_postproc.kernels.ray_walk import ABREAST
from crdist_postproc.kernels.upwind import move
from crdist_postproc.parts import FieldInParts, Samples
from crdist_postproc.rows import deposit
from crdist_postproc.volume_flux import Floats, Interfaces, face_areas, inner_fluxes, interface_fluxes, spread

__all__ = [
    "ConservativePlan",
    "conservative_plan",
    "deposit_tile",
    "deposit_tiles",
    "rays_between",
    "tile_box",
    "tile_bytes",
    "tile_region",
    "waiting_bytes",
]

TILE = 32
"""Voxels along a tile's side. Tiles are laid from the grid's first voxel on: another number gives other roundings."""

MAX_TILES = 1 << 18
"""Tiles of a plan, at most: 8.6 thousand million voxels."""

RAYS_PER_VOXEL = 2.0

Tile = tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class ConservativePlan:
    """What the tiles of a conservative regrid have in common: it depends on the grids alone.

    Make it with `conservative_plan`. It is small, and may be sent to where tiles are computed.
    """

    rays: Rays
    """Both grids, and the rays between them."""
    fluxes: Interfaces
    """Volume that flows through each face between tiles, in voxels, towards larger coordinates."""

    @property
    def shape(self) -> Tile:
        """Number of tiles along x, y and z."""
        nx, ny, nz = (-(-n // TILE) for n in self.rays.target.shape)
        return nx, ny, nz

    def tiles(self) -> Iterator[Tile]:
        """The tiles, by their places."""
        yield from np.ndindex(self.shape)

    def region(self, tile: Tile) -> tuple[slice, slice, slice]:
        """The voxels of a tile.

        Raises
        ------
        GridError
            If there is no such tile.
        """
        return tile_region(self.rays.target, tile)


def conservative_plan(
    native: SphericalGrid,
    target: CartesianGrid,
    *,
    inner: Inner = "extend",
    rays_per_voxel: float = RAYS_PER_VOXEL,
) -> ConservativePlan:
    """Prepare a conservative regrid: rays, and the volume that flows between tiles.

    Parameters
    ----------
    native : SphericalGrid
    target : CartesianGrid
    inner : {"extend", "exclude"}
        Inside the first edge: the first shell's values, or none.
    rays_per_voxel : float
        Rays are no farther apart than the smallest side of a voxel over this; 1.5 is quicker and less sharp.

    Returns
    -------
    ConservativePlan

    Raises
    ------
    GridError
        If rays_per_voxel is less than 1: voxels would be missed. If the target has too many voxels, or too small ones.

    Examples
    --------
    >>> native = SphericalGrid.log_spaced(nside=4, n_shell=8, inner_kpc=0.1, outer_kpc=2.0)
    >>> target = CartesianGrid.from_extent(x=(-11, -5), y=(-3, 3), z=(-3, 3), voxel=0.1)
    >>> plan = conservative_plan(native, target)
    >>> plan.shape
    (2, 2, 2)
    """
    plan = _without_fluxes(native, target, inner, rays_per_voxel)
    rays = plan.rays
    missing = np.zeros(plan.shape)
    for tile in plan.tiles():
        region = plan.region(tile)
        planes = _planes(rays, tuple(slice(part.start, part.stop, part.stop - part.start) for part in region))
        volume = _volumes(rays, planes).item()
        if volume > 0.0:
            missing[tile] = volume - box_volume(rays, _box(region))
    cuts = [np.append(np.arange(0, n, TILE), n) for n in target.shape]
    steps = [axis.step for axis in target.axes]
    places = [(cut - sun) * step for cut, sun, step in zip(cuts, _sun(rays), steps, strict=True)]
    sides = [np.diff(place) for place in places]
    areas = face_areas(places, rays.radii)
    return ConservativePlan(rays, interface_fluxes(missing, areas, sides))


def rays_between(native: SphericalGrid, target: CartesianGrid, inner: Inner = "extend") -> Rays:
    """The rays of `conservative_plan`, without a plan; raises the same errors."""
    rays = _without_fluxes(native, target, inner, RAYS_PER_VOXEL).rays
    rays.tables()
    return rays


def tile_region(target: CartesianGrid, tile: Tile) -> tuple[slice, slice, slice]:
    """The voxels of a tile.

    Raises
    ------
    GridError
        If there is no such tile.
    """
    if len(tile) != 3 or not all(0 <= TILE * place < n for place, n in zip(tile, target.shape, strict=True)):
        tiles = " x ".join(str(-(-n // TILE)) for n in target.shape)
        raise GridError(f"tile {tuple(tile)} is not one of {tiles}")
    x, y, z = (slice(TILE * place, min(TILE * (place + 1), n)) for place, n in zip(tile, target.shape, strict=True))
    return x, y, z


def tile_box(target: CartesianGrid, tile: Tile) -> Box:
    """The voxels of a tile and those around it: what cells are handed out to."""
    return _box(tile_region(target, tile), 1)


def tile_bytes(native: SphericalGrid, n_padded: int) -> int:
    """Upper bound on the memory of `deposit_tile`, beside the samples and the plan.

    Parameters
    ----------
    native : SphericalGrid
    n_padded : int
        Samples, rounded up as in the field.
    """
    voxels = (TILE + 2) ** 3
    # the pixels that rays come from, all of them where the Sun is in the tile; second order needs their neighbours
    pixels = 320 * native.n_pixel
    slopes = 16 * ABREAST * n_padded * native.n_shell
    segments = 32 * ABREAST * (native.n_shell + 3 * TILE + 64)
    return voxels * (8 * row_length(n_padded) + 4 * n_padded + 20 * 8) + pixels + slopes + segments


def deposit_tile(
    samples: Samples,
    plan: ConservativePlan,
    tile: Tile,
    *,
    order: int = 1,
) -> tuple[npt.NDArray[np.float32], Floats]:
    """The means over the voxels of a tile.

    Parameters
    ----------
    samples : Field or FieldInParts
        On the plan's native grid, not their logarithms, laid out with its ``inner``.
    plan : ConservativePlan
    tile : tuple of int
        Place of the tile along x, y and z.
    order : {1, 2}
        1: values are constant in a cell. 2: they have slopes, limited so that no value passes those of the cells
        around; sharper voxels where cells are large, at about twice the cost.

    Returns
    -------
    values : ndarray of float32, shape (nx, ny, nz, n_sample), unit of the samples
        NaN where a voxel holds nothing.
    coverage : ndarray of float64, shape (nx, ny, nz)
        Part of each voxel that lies inside the grid and is not masked. Values times coverage times a voxel's volume
        add up to the samples' volume integral.

    Raises
    ------
    GridError
        If the samples are of another grid than the plan, or logarithms.

    Notes
    -----
    What a tile gets does not depend on others, nor on what part of the samples is in memory at a time. Memory:
    `tile_bytes`.
    """
    return next(deposit_tiles(samples, plan, [tile], order=order))


def deposit_tiles(
    samples: Samples, plan: ConservativePlan, tiles: Sequence[Tile], *, order: int = 1
) -> Iterator[tuple[npt.NDArray[np.float32], Floats]]:
    """`deposit_tile` of several tiles; samples that are read part by part are read once for all of them.

    Notes
    -----
    For such samples `waiting_bytes` of memory are taken besides for each tile.
    """
    rays = plan.rays
    template = samples.template if isinstance(samples, FieldInParts) else samples
    n_shell = samples.grid.n_shell if isinstance(samples, FieldInParts) else samples.values.shape[1]
    _check(template, n_shell, rays, order)
    volumes = [_volumes(rays, _planes(rays, plan.region(tile))) for tile in tiles]
    boxes = [tile_box(rays.target, tile) for tile, volume in zip(tiles, volumes, strict=True) if volume.any()]
    rows = deposit(rays, samples, boxes, second_order=order == 2)
    for tile, volume in zip(tiles, volumes, strict=True):
        yield _balanced(next(rows) if volume.any() else None, template, plan, tile, volume)


def waiting_bytes(n_padded: int) -> int:
    """Memory of a tile among several of `deposit_tiles`."""
    return int((TILE + 2) ** 3 * 8 * row_length(n_padded) + 8 * TILE**3)


def _balanced(
    rows: Floats | None, field: Field, plan: ConservativePlan, tile: Tile, volumes: Floats
) -> tuple[npt.NDArray[np.float32], Floats]:
    """Move what rays have left in a tile until each voxel holds as much as lies inside the grid."""
    n_sample, n_padded = field.n_sample, int(field.layout[N_PADDED])
    shape = volumes.shape
    values = np.empty((*shape, n_padded), dtype=np.float32)
    coverage = np.zeros(shape)
    if rows is None:
        values[...] = np.nan
        return values[..., :n_sample], coverage
    whole = bool((volumes == 1.0).all())
    held = np.ascontiguousarray(rows[..., n_padded])
    faces = []
    for axis in range(3):
        pair = []
        for end, (outside, inside) in enumerate(((0, 1), (-1, -2))):
            at: list[Any] = [slice(1, -1)] * 3
            beyond = list(at)
            at[axis], beyond[axis] = inside, outside
            place = list(tile)
            place[axis] += end
            total = float(plan.fluxes[axis][tuple(place)])
            pair.append(spread(total, held[tuple(at)], held[tuple(beyond)]))
        faces.append((pair[0], pair[1]))
    fluxes, potential = inner_fluxes(None if whole else volumes, held[1:-1, 1:-1, 1:-1], faces)
    move(field.lanes, rows, *fluxes, potential, values, coverage)
    return values[..., :n_sample], coverage


def _without_fluxes(
    native: SphericalGrid, target: CartesianGrid, inner: Inner, rays_per_voxel: float
) -> ConservativePlan:
    if not rays_per_voxel >= 1.0:
        raise GridError(f"rays_per_voxel must be at least 1, got {rays_per_voxel:g}; give 2, or 1.5 to be quicker")
    nothing = np.zeros(0)
    plan = ConservativePlan(Rays(native, target, inner, float(rays_per_voxel)), (nothing, nothing, nothing))
    n_tile = math.prod(plan.shape)
    if n_tile > MAX_TILES:
        raise GridError(
            f"{' x '.join(map(str, target.shape))} voxels are {n_tile:,} tiles, more than the {MAX_TILES:,} that a "
            "conservative regrid takes at once; choose larger voxels or a smaller box"
        )
    return plan


def _check(field: Field, n_shell: int, rays: Rays, order: int) -> None:
    if order not in (1, 2):
        raise GridError(f"order must be 1 or 2, got {order}")
    if field.layout[LOG]:
        raise GridError("a conservative regrid takes the samples themselves; lay the field out in value_space 'linear'")
    native = rays.native
    if field.layout[NSIDE] != native.nside or n_shell != native.n_shell:
        raise GridError(
            f"the field has nside {field.layout[NSIDE]} and {n_shell} shells, "
            f"the plan nside {native.nside} and {native.n_shell}"
        )
    if bool(field.layout[EXTEND]) != (rays.inner == "extend"):
        raise GridError(f"the plan has inner {rays.inner!r}, the field has not; lay both out alike")


def _box(region: tuple[slice, ...], around: int = 0) -> Box:
    x, y, z = region
    return Box(
        (x.start - around, y.start - around, z.start - around),
        (x.stop - x.start + 2 * around, y.stop - y.start + 2 * around, z.stop - z.start + 2 * around),
    )


def _sun(rays: Rays) -> Floats:
    """The Sun, in voxels."""
    return rays.tables().sun


def _planes(rays: Rays, region: tuple[slice, ...]) -> list[Floats]:
    """Places of planes from the Sun, kpc: first of a region, every so many, and last."""
    return [
        (np.arange(part.start, part.stop + 1, part.step or 1) - sun) * axis.step
        for part, sun, axis in zip(region, _sun(rays), rays.target.axes, strict=True)
    ]


def _volumes(rays: Rays, planes: list[Floats]) -> Floats:
    """What of each box between planes lies inside the grid, in voxels; of a voxel that lies inside, 1 exactly."""
    inner, outer = rays.radii
    per_voxel = 1.0 / rays.target.voxel_volume
    volumes = ball_volumes(outer, *planes)
    if inner > 0.0:
        volumes -= ball_volumes(inner, *planes)
    volumes *= per_voxel
    volumes[np.abs(volumes - 1.0) < 1e-11] = 1.0
    return np.maximum(volumes, 0.0)
