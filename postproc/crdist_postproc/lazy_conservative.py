"""The conservative regrid, lazily: blocks of whole tiles, each a task that needs the field and the plan alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from crdist.grids import CartesianGrid, SphericalGrid
from crdist_postproc.conservative import TILE, ConservativePlan, conservative_plan, deposit_tile
from crdist_postproc.kernels.field import Field, Inner
from crdist_postproc.products.base import BLOCK_WORK

__all__ = ["project_conservatively", "regrid_conservatively"]

COST = 8
"""A voxel-sample costs so many times what it does by interpolation."""

Range = tuple[int, int]


def regrid_conservatively(field: Any, native: SphericalGrid, grid: CartesianGrid, inner: Inner, n_sample: int) -> Any:
    """The means over voxels.

    Parameters
    ----------
    field : Delayed of Field
    native : SphericalGrid
        What the field is laid out on.
    grid : CartesianGrid
    inner : {"extend", "exclude"}
    n_sample : int

    Returns
    -------
    dask Array of float32, shape (x, y, z, sample)
    """
    import dask

    plan = dask.delayed(conservative_plan, pure=True)(native, grid, inner=inner)
    task = dask.delayed(regrid_block, pure=True)
    ranges = _ranges(grid, "z", n_sample)
    return _joined(ranges, lambda block: task(field, plan, block), (grid.z.n, n_sample), np.float32)


def project_conservatively(
    field: Any,
    native: SphericalGrid,
    grid: CartesianGrid,
    inner: Inner,
    n_sample: int,
    axis: str,
    factor: float,
) -> Any:
    """Integrals along an axis; ``factor`` makes kpc the unit of length of the samples.

    Parameters
    ----------
    field, native, grid, inner, n_sample
        As for `regrid_conservatively`.

    Returns
    -------
    dask Array of float64, shape (the two other axes, sample)
    """
    import dask

    plan = dask.delayed(conservative_plan, pure=True)(native, grid, inner=inner)
    task = dask.delayed(project_block, pure=True)
    ranges = _ranges(grid, axis, n_sample)
    step = grid.axis(axis).step * factor
    return _joined(ranges, lambda block: task(field, plan, block, "xyz".index(axis), step), (n_sample,), np.float64)


def regrid_block(field: Field, plan: ConservativePlan, block: tuple[Range, Range]) -> npt.NDArray[np.float32]:
    """The means over columns of voxels along z: all tiles between two ranges along x and y.

    Returns
    -------
    ndarray of float32, shape (x, y, z, sample)
    """
    (x0, x1), (y0, y1) = block
    tiles = [tile for tile in plan.tiles() if _within(plan.region(tile)[:2], block)]
    depth = max(plan.region(tile)[2].stop for tile in tiles)
    values = np.empty((x1 - x0, y1 - y0, depth, field.n_sample), dtype=np.float32)
    for tile in tiles:
        x, y, z = plan.region(tile)
        values[x.start - x0 : x.stop - x0, y.start - y0 : y.stop - y0, z], _ = deposit_tile(field, plan, tile)
    return values


def project_block(
    field: Field, plan: ConservativePlan, block: tuple[Range, Range], axis: int, step: float
) -> npt.NDArray[np.float64]:
    """Integrals along an axis: all tiles between two ranges along the two others.

    Returns
    -------
    ndarray of float64, shape (the two other axes, sample)
        NaN where no voxel of a column holds anything.
    """
    (a0, a1), (b0, b1) = block
    total = np.zeros((a1 - a0, b1 - b0, field.n_sample))
    covered = np.zeros((a1 - a0, b1 - b0))
    for tile in plan.tiles():
        region = plan.region(tile)
        across = [part for other, part in enumerate(region) if other != axis]
        if not _within(across, block):
            continue
        values, coverage = deposit_tile(field, plan, tile)
        values[coverage == 0] = 0.0
        place = slice(across[0].start - a0, across[0].stop - a0), slice(across[1].start - b0, across[1].stop - b0)
        # sums over float64: coverage is one
        total[place] += (values * coverage[..., None]).sum(axis=axis)
        covered[place] += coverage.sum(axis=axis)
    total[covered == 0] = np.nan
    return total * step


def _within(parts: Any, block: tuple[Range, Range]) -> bool:
    return all(low <= part.start < high for part, (low, high) in zip(parts, block, strict=True))


def _ranges(grid: CartesianGrid, along: str, n_sample: int) -> tuple[list[Range], list[Range]]:
    """Blocks of whole tiles across an axis, about as much work each as any other block."""
    column = COST * TILE * TILE * grid.axis(along).n * n_sample
    side = TILE * max(1, math.isqrt(BLOCK_WORK // column))
    first, second = (
        [(low, min(low + side, n)) for low in range(0, n, side)]
        for n in (grid.axis(name).n for name in "xyz" if name != along)
    )
    return first, second


def _joined(ranges: tuple[list[Range], list[Range]], task: Any, depth: tuple[int, ...], dtype: Any) -> Any:
    import dask.array as da

    columns = [
        [
            da.from_delayed(task((first, second)), (first[1] - first[0], second[1] - second[0], *depth), dtype=dtype)
            for second in ranges[1]
        ]
        for first in ranges[0]
    ]
    return da.concatenate([da.concatenate(parts, axis=1) for parts in columns], axis=0)
