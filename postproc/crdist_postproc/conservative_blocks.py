"""Blocks of whole tiles of a conservative regrid, which lazy functions and runs compute from."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from crdist.grids import CartesianGrid, SphericalGrid
from crdist_postproc.conservative import (
    TILE,
    ConservativePlan,
    conservative_plan,
    deposit_tiles,
    tile_box,
    tile_region,
    waiting_bytes,
)
from crdist_postproc.kernels.field import EXTEND, Inner
from crdist_postproc.kernels.ray_sets import Rays
from crdist_postproc.parts import FieldInParts, Samples
from crdist_postproc.rows import deposited_chunks

__all__ = [
    "COST",
    "Bounds",
    "block_chunks",
    "block_integrals",
    "block_means",
    "block_tiles",
    "plan_for",
    "tiles_at_once",
]

COST = 8
"""A voxel-sample costs so many times what it does by interpolation."""

MOST_PLANS = 16

WAITING_BYTES = 192 * 1024**2
"""Tiles of a block that take this much together share what is read of samples that are read part by part."""

Bounds = tuple[tuple[int, int], ...]
"""Start and stop along the two axes that a block is cut along: multiples of `TILE`, or the grid's end."""

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Region = tuple[slice, slice, slice]

_plans: OrderedDict[tuple[SphericalGrid, CartesianGrid, Inner], ConservativePlan] = OrderedDict()
_lock = threading.Lock()


def plan_for(samples: Samples, native: SphericalGrid, target: CartesianGrid) -> ConservativePlan:
    """The plan between two grids, made once in each process: it takes about as long as interpolating one sample.

    Raises
    ------
    GridError
        As `crdist_postproc.conservative.conservative_plan` does.
    """
    template = samples.template if isinstance(samples, FieldInParts) else samples
    inner: Inner = "extend" if template.layout[EXTEND] else "exclude"
    key = native, target, inner
    # other threads that want it wait: they have nothing to do without it
    with _lock:
        if key not in _plans:
            _plans[key] = conservative_plan(native, target, inner=inner)
            while len(_plans) > MOST_PLANS:
                _plans.popitem(last=False)
        _plans.move_to_end(key)
        return _plans[key]


def block_tiles(target: CartesianGrid, axis: int, bounds: Bounds) -> Iterator[tuple[tuple[int, int, int], Region]]:
    """The tiles of a block, which goes from one end of the grid to the other along an axis.

    Yields
    ------
    tile : tuple of int
    place : tuple of slice
        Its voxels, counted from the block's corner, along x, y and z.

    Raises
    ------
    ValueError
        If the block cuts tiles.
    """
    shape = target.shape
    whole = list(bounds)
    whole.insert(axis, (0, shape[axis]))
    for (start, stop), n in zip(whole, shape, strict=True):
        if start % TILE or (stop % TILE and stop != n):
            raise ValueError(f"bounds {start} and {stop} cut tiles of {TILE} voxels")
    first = [start // TILE for start, _ in whole]
    count = [-(-stop // TILE) - begin for begin, (_, stop) in zip(first, whole, strict=True)]
    for offset in np.ndindex(*count):
        i, j, k = (begin + n for begin, n in zip(first, offset, strict=True))
        x, y, z = (
            slice(part.start - start, part.stop - start)
            for part, (start, _) in zip(tile_region(target, (i, j, k)), whole, strict=True)
        )
        yield (i, j, k), (x, y, z)


def block_chunks(samples: FieldInParts, rays: Rays, axis: int, bounds: Bounds) -> npt.NDArray[np.bool_]:
    """The chunks that the tiles of a block read, shape (n_pixel_chunk, n_shell_chunk)."""
    wanted = np.zeros(samples.reach.shape, dtype=np.bool_)
    for tile, _ in block_tiles(rays.target, axis, bounds):
        wanted |= deposited_chunks(rays, samples, tile_box(rays.target, tile))
    return wanted


def block_means(
    samples: Samples, plan: ConservativePlan, axis: int, bounds: Bounds, *, order: int = 1
) -> Iterator[tuple[Region, Singles, Floats]]:
    """The means over the voxels of a block, tile after tile.

    Yields
    ------
    place : tuple of slice
        Of a tile, as `block_tiles` gives it.
    values, coverage
        As of `crdist_postproc.conservative.deposit_tile`.
    """
    found = list(block_tiles(plan.rays.target, axis, bounds))
    at_once = tiles_at_once(samples.n_padded) if isinstance(samples, FieldInParts) else len(found)
    for first in range(0, len(found), at_once):
        some = found[first : first + at_once]
        results = deposit_tiles(samples, plan, [tile for tile, _ in some], order=order)
        for (_, place), (values, coverage) in zip(some, results, strict=True):
            yield place, values, coverage


def tiles_at_once(n_padded: int) -> int:
    """How many tiles of a block share what is read of samples that are read part by part."""
    return max(1, WAITING_BYTES // waiting_bytes(n_padded))


def block_integrals(
    samples: Samples, plan: ConservativePlan, axis: int, bounds: Bounds, *, order: int = 1
) -> tuple[Floats, Floats]:
    """Sums along an axis of the means over voxels, each times its coverage.

    Returns
    -------
    total : ndarray, shape (a, b, n_sample), voxels times the samples' unit
        For the two other axes, within the bounds.
    covered : ndarray, shape (a, b), voxels
        What lies inside the grid and is not masked.
    """
    plane = tuple(stop - start for start, stop in bounds)
    total = np.zeros((*plane, samples.n_sample))
    covered = np.zeros(plane)
    for place, values, coverage in block_means(samples, plan, axis, bounds, order=order):
        values[coverage == 0] = 0.0
        across = tuple(part for other, part in enumerate(place) if other != axis)
        # sums over float64: coverage is one
        total[across] += (values * coverage[..., None]).sum(axis=axis)
        covered[across] += coverage.sum(axis=axis)
    return total, covered
