"""Compute a tile of a lazy result, from a whole field or from one that is read part by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from crdist.grids import CartesianGrid
from crdist_postproc.conservative import ConservativePlan
from crdist_postproc.conservative_blocks import block_integrals, block_means
from crdist_postproc.parts import FieldInParts, Samples
from crdist_postproc.products.base import Block
from crdist_postproc.products.tiling import in_tile, lattice_of, tile_rows
from crdist_postproc.rows import fill_rows, sum_rows

__all__ = ["project_conservative_tile", "project_tile", "regrid_conservative_tile", "regrid_tile", "with_results"]

Results = Mapping[Any, Any]


def regrid_tile(samples: Samples, results: Results, block: Block, grid: CartesianGrid) -> npt.NDArray[Any]:
    """Every sample at every voxel of a tile of columns along z.

    Returns
    -------
    ndarray of float32, shape (*block.shape, grid.z.n, n_sample)
    """
    starts, step, order = tile_rows(grid, "z", block)
    lattice = lattice_of(grid, "z", block)
    values = fill_rows(with_results(samples, results), starts, step, grid.z.n, lattice=lattice)
    return in_tile(values, order, block.shape)


def project_tile(
    samples: Samples, results: Results, block: Block, grid: CartesianGrid, axis: str, factor: float
) -> npt.NDArray[Any]:
    """Every sample integrated along the rows of a tile; ``factor`` makes kpc the unit of length of the samples.

    Returns
    -------
    ndarray of float64, shape (*block.shape, n_sample)
    """
    starts, step, order = tile_rows(grid, axis, block)
    lattice = lattice_of(grid, axis, block)
    total, count = sum_rows(with_results(samples, results), starts, step, grid.axis(axis).n, lattice=lattice)
    total[count == 0] = float("nan")
    return in_tile(total * (grid.axis(axis).step * factor), order, block.shape)


def regrid_conservative_tile(
    samples: Samples, results: Results, block: Block, grid: CartesianGrid, plan: ConservativePlan, order: int
) -> npt.NDArray[Any]:
    """The mean of every sample over every voxel of columns along z.

    Returns
    -------
    ndarray of float32, shape (*block.shape, grid.z.n, n_sample)
    """
    values = np.empty((*block.shape, grid.z.n, samples.n_sample), dtype=np.float32)
    for place, part, _ in block_means(with_results(samples, results), plan, 2, block.bounds, order=order):
        values[place] = part
    return values


def project_conservative_tile(
    samples: Samples,
    results: Results,
    block: Block,
    grid: CartesianGrid,
    axis: str,
    factor: float,
    plan: ConservativePlan,
    order: int,
) -> npt.NDArray[Any]:
    """The integral of every sample along columns of voxels; ``factor`` makes kpc the unit of length of the samples.

    Returns
    -------
    ndarray of float64, shape (*block.shape, n_sample)
    """
    total, covered = block_integrals(with_results(samples, results), plan, "xyz".index(axis), block.bounds, order=order)
    total[covered == 0] = float("nan")
    return total * (grid.axis(axis).step * factor)


def with_results(samples: Samples, results: Results) -> Samples:
    """Samples whose chunks are computed with what Dask has computed already."""
    return replace(samples, results=results) if isinstance(samples, FieldInParts) else samples
