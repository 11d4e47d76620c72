"""Samples of one native grid as means over the cells of another: what fields on different grids need to be combined.

Both grids have the Sun as their centre and HEALPix pixels that nest, so that a mean over a cell is one over pixels and
one along the line of sight, and columns are conserved.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from crdist.grids import SphericalGrid
from crdist.schema import POSTERIOR_DIMS
from crdist_postproc.kernels.field import Inner
from crdist_postproc.lazy import spherical_grid_of

__all__ = ["on_grid_of", "shell_weights"]

LEAST_INSIDE = 0.5
"""A cell of which less than this part of the way through it lies inside the data has no value."""

BLOCK_BYTES = 32 * 1024**2
"""Size of the blocks, as float64."""


def on_grid_of(samples: xr.DataArray, other: xr.DataArray, *, inner: Inner = "extend") -> xr.DataArray:
    """The samples as means over the cells of another native grid, lazily.

    Parameters
    ----------
    samples, other : DataArray, dims (pixel, shell[, sample])
        Of ``other`` only the grid counts.
    inner : {"extend", "exclude"}
        Whether the samples' first shell stands for the space inside it, too.

    Returns
    -------
    DataArray, dims (pixel, shell[, sample]), lazy, of the samples' type
        On the other's grid. A column between two distances that are edges of the other's shells is what it was in the
        samples, averaged over the other's pixels; pixels smaller than the samples' repeat their values. NaN where a
        masked cell takes part, and where less than half of the way through a cell lies inside the samples' range;
        where more does, the mean is that of the part inside.

    Raises
    ------
    GridError, SchemaError
        If either lacks the coordinates that tell its grid.
    """
    source, target = spherical_grid_of(samples), spherical_grid_of(other)
    if source == target:
        return samples
    dims = [name for name in POSTERIOR_DIMS if name in samples.dims]
    nested = _in_order(samples.transpose(*dims, ...), source, to="nested")
    weights = shell_weights(source, target, inner)
    n_source, n_target = source.n_pixel, target.n_pixel
    # pixels of the source that make one of the target's, or the other way round
    join, repeat = max(1, n_source // n_target), max(1, n_target // n_source)
    per_pixel = (
        8 * max(source.n_shell, target.n_shell * repeat) * int(np.prod(samples.shape) // (n_source * source.n_shell))
    )
    pixels = join * min(max(1, BLOCK_BYTES // (per_pixel * join)), n_source // join)
    blocks = nested.chunk(pixel=pixels, shell=-1).data
    chunks = (tuple(n // join * repeat for n in blocks.chunks[0]), (target.n_shell,), *blocks.chunks[2:])
    data = blocks.map_blocks(_means, join, repeat, weights, chunks=chunks, dtype=blocks.dtype, meta=blocks._meta)
    kept: dict[str, Any] = {name: samples.coords[name] for name in samples.coords if name == "sample"}
    at_target = xr.DataArray(data, dims=nested.dims, coords=kept, name=samples.name, attrs=samples.attrs)
    coordinates = ("cell_ids", "distance", "distance_lower", "distance_upper")
    ordered = _in_order(at_target, target, to=target.ordering)
    return ordered.assign_coords({name: other.coords[name].variable for name in coordinates})


def shell_weights(source: SphericalGrid, target: SphericalGrid, inner: Inner = "extend") -> npt.NDArray[np.float64]:
    """Part that each shell of a grid has in the mean along the line of sight over each shell of another.

    Returns
    -------
    ndarray, shape (n_shell of target, n_shell of source)
        Rows add up to 1; NaN where less than half of a shell lies inside the source's range.

    Examples
    --------
    >>> fine, coarse = SphericalGrid(1, (1.0, 2.0, 4.0)), SphericalGrid(1, (1.0, 4.0, 8.0))
    >>> shell_weights(fine, coarse).round(3)
    array([[0.333, 0.667],
           [  nan,   nan]])
    """
    edges, wanted = source.edges, target.edges
    if inner == "extend":
        edges[0] = min(edges[0], wanted[0])
    upper = np.minimum(edges[1:], wanted[1:, None])
    lower = np.maximum(edges[:-1], wanted[:-1, None])
    overlap = np.maximum(upper - lower, 0.0)
    inside = overlap.sum(axis=1)
    weights = np.full(overlap.shape, np.nan)
    np.divide(overlap, inside[:, None], out=weights, where=(inside >= LEAST_INSIDE * np.diff(wanted))[:, None])
    return weights


def _means(
    block: npt.NDArray[np.floating], join: int, repeat: int, weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.floating]:
    """Means of a block of whole lines of sight, shape (pixel, shell, ...)."""
    values = block.reshape(block.shape[0] // join, join, block.shape[1], -1).mean(axis=1, dtype=np.float64)
    masked = np.isnan(values)
    result = np.matmul(weights, np.where(masked, 0.0, values))
    if masked.any():
        touched = np.matmul((weights > 0).astype(np.float32), masked.astype(np.float32)) > 0
        result[touched] = np.nan
    result = np.repeat(result, repeat, axis=0).astype(block.dtype)
    return result.reshape(result.shape[0], weights.shape[0], *block.shape[2:])


def _in_order(samples: xr.DataArray, grid: SphericalGrid, to: str) -> xr.DataArray:
    """Pixels from nested order to the grid's, or from the grid's to nested order."""
    if grid.ordering == "nested":
        return samples
    import healpy

    turn = healpy.nest2ring if to == "nested" else healpy.ring2nest
    return samples.isel(pixel=turn(grid.nside, np.arange(grid.n_pixel)))
