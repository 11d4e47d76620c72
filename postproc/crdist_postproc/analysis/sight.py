"""Integrals along the lines of sight of the native grid, lazily: sums over the source's own shells, no regrid."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import xarray as xr

from crdist.errors import RecipeError
from crdist.grids import SphericalGrid
from crdist.units import integral_unit
from crdist_postproc.analysis.samples import long_name_of, units_of
from crdist_postproc.kernels.field import Inner
from crdist_postproc.lazy import spherical_grid_of

__all__ = ["shell", "sky", "sky_coverage"]

LINES_BYTES = 32 * 1024**2
"""Samples that one task integrates."""


def sky(samples: xr.DataArray, distance: tuple[float, float] | None = None, *, inner: Inner = "extend") -> xr.DataArray:
    """The samples integrated along the line of sight of each pixel.

    Parameters
    ----------
    samples : DataArray, dims (pixel, shell[, sample])
        A variable of ``crdist.open_posterior``, or anything computed from one that keeps its coordinates.
    distance : tuple of float, kpc, optional
        Heliocentric distances to integrate between; default: from the Sun to the outermost edge.
    inner : {"extend", "exclude"}
        Whether the first shell stands for the space inside it, too.

    Returns
    -------
    DataArray of float64, dims (pixel[, sample]), lazy
        In the integral's unit: cm-2 for a density in cm-3. Masked cells add nothing; a line of sight that is masked
        all along is NaN. The coordinates ``l`` and ``b`` [deg] are the Galactic ones of the pixels' centres.

    Raises
    ------
    RecipeError
        If the distances are not in order or lie wholly outside the data.
    GridError, SchemaError
        If the samples lack the coordinates that tell their grid.
    """
    grid = spherical_grid_of(samples)
    (near, far), lengths = _lengths(grid, distance, inner)
    units, factor = integral_unit(units_of(samples))
    text = f"{long_name_of(samples)} integrated along the line of sight from {near:g} to {far:g} kpc"
    attrs = {"units": units, "long_name": text, "distance_kpc": [near, far]}
    dims = ["sample"] if "sample" in samples.dims else []
    total = _along_lines(samples, lengths, _integrals, {"factor": factor}, dims)
    return _on_sky(total, grid).rename(samples.name).assign_attrs(attrs)


def shell(samples: xr.DataArray, at_kpc: float) -> xr.DataArray:
    """The samples in the shell that contains a distance from the Sun.

    Parameters
    ----------
    samples : DataArray, dims (pixel, shell[, sample])
    at_kpc : float, kpc
        A distance that is an edge belongs to the shell outside it, the outermost to the last shell.

    Returns
    -------
    DataArray, dims (pixel[, sample]), lazy
        In the samples' unit, with the shell's ``distance``, ``distance_lower`` and ``distance_upper``.

    Raises
    ------
    RecipeError
        If the distance lies outside the data.
    """
    grid = spherical_grid_of(samples)
    inner, outer = grid.edges_kpc[0], grid.edges_kpc[-1]
    if not inner <= at_kpc <= outer:
        raise RecipeError(f"at_kpc must lie inside the data, {inner:g} to {outer:g} kpc, got {at_kpc:g} kpc")
    index = min(int(np.searchsorted(grid.edges, at_kpc, side="right")) - 1, grid.n_shell - 1)
    return _on_sky(samples.isel(shell=index), grid)


def sky_coverage(
    samples: xr.DataArray, distance: tuple[float, float] | None = None, *, inner: Inner = "extend"
) -> xr.DataArray:
    """The part of each line of sight, 0 to 1, that lies in cells which are not masked in any sample.

    Parameters
    ----------
    samples, distance, inner
        As for `sky`.

    Returns
    -------
    DataArray of float64, dims (pixel,), lazy
    """
    grid = spherical_grid_of(samples)
    (near, far), lengths = _lengths(grid, distance, inner)
    part = _along_lines(samples, lengths, _parts_known, {"whole": far - near}, [])
    attrs = {"units": "", "long_name": "part of the line of sight inside the data", "distance_kpc": [near, far]}
    return _on_sky(part, grid).rename("coverage").assign_attrs(attrs)


def _lengths(
    grid: SphericalGrid, distance: tuple[float, float] | None, inner: Inner
) -> tuple[tuple[float, float], npt.NDArray[np.float64]]:
    """The limits, and the length of the way between them that each shell stands for, kpc."""
    edges = grid.edges
    if inner == "extend":
        edges[0] = 0.0
    near, far = (0.0, float(edges[-1])) if distance is None else (float(distance[0]), float(distance[1]))
    if not (math.isfinite(near) and math.isfinite(far) and 0 <= near < far):
        raise RecipeError(f"distance must be two distances from near to far, kpc, got [{near:g}, {far:g}]")
    if near >= edges[-1] or far <= edges[0]:
        raise RecipeError(
            f"distance [{near:g}, {far:g}] kpc lies wholly outside the data, which reach from {edges[0]:g} to "
            f"{edges[-1]:g} kpc"
        )
    return (near, far), np.diff(np.clip(edges, near, far))


def _along_lines(
    samples: xr.DataArray,
    lengths: npt.NDArray[np.float64],
    compute: Callable[..., npt.NDArray[np.float64]],
    options: dict[str, float],
    dims: list[str],
) -> xr.DataArray:
    """``compute(lines, lengths, **options)`` of the lines of sight of some pixels at a time, lazily."""
    used = np.flatnonzero(lengths > 0)
    reached = slice(int(used[0]), int(used[-1]) + 1)
    dim_names = ["pixel", "shell", *(["sample"] if "sample" in samples.dims else [])]
    lines = samples.transpose(*dim_names).isel(shell=reached)
    data = lines.chunk().data
    per_pixel = 4 * int(np.prod(lines.shape[1:]))
    pixels = max(1, min(max(data.chunks[0]), LINES_BYTES // per_pixel))
    # one task for some whole lines: a task for each operation on each block would be hundreds of thousands
    data = data.rechunk((pixels, *lines.shape[1:]))
    found = data.map_blocks(
        compute,
        lengths[reached],
        **options,
        dtype=np.float64,
        drop_axis=[1] if dims or "sample" not in samples.dims else [1, 2],
        meta=np.empty((0,) * (1 + len(dims))),
    )
    kept = {name: coord for name, coord in lines.coords.items() if "shell" not in coord.dims}
    if not dims:
        kept = {name: coord for name, coord in kept.items() if "sample" not in coord.dims}
    return xr.DataArray(found, dims=("pixel", *dims), coords=kept)


def _integrals(
    lines: npt.NDArray[np.floating], lengths: npt.NDArray[np.float64], factor: float
) -> npt.NDArray[np.float64]:
    masked = _masked(lines)
    values = np.where(masked.reshape(masked.shape + (1,) * (lines.ndim - 2)), 0, lines)
    total: npt.NDArray[np.float64] = np.einsum("ps...,s->p...", values, lengths * factor, dtype=np.float64)
    total[~masked @ lengths == 0] = np.nan
    return total


def _parts_known(
    lines: npt.NDArray[np.floating], lengths: npt.NDArray[np.float64], whole: float
) -> npt.NDArray[np.float64]:
    return np.asarray(~_masked(lines) @ lengths / whole)


def _masked(lines: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Cells that are masked in one sample, and so in all."""
    unknown = np.isnan(lines)
    return np.asarray(unknown.any(axis=2) if lines.ndim == 3 else unknown)


def _on_sky(array: xr.DataArray, grid: SphericalGrid) -> xr.DataArray:
    import healpy

    lon, lat = healpy.pix2ang(grid.nside, np.arange(grid.n_pixel), nest=grid.ordering == "nested", lonlat=True)
    text = "Galactic {} of the pixel's centre"
    return array.assign_coords(
        l=("pixel", lon, {"units": "deg", "long_name": text.format("longitude")}),
        b=("pixel", lat, {"units": "deg", "long_name": text.format("latitude")}),
    )
