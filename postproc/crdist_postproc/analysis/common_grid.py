"""Two posteriors compared at the voxels of one Cartesian grid, summed up by region, and written."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from astropy import units as u

from crdist.durable import DurableStore, new_store
from crdist.errors import RecipeError, SchemaError
from crdist.grids import CartesianGrid
from crdist.schema import versions
from crdist.store import consolidate
from crdist.units import parse_unit
from crdist_postproc.analysis.over_samples import mean, std
from crdist_postproc.analysis.samples import long_name_of, require_samples, units_of
from crdist_postproc.lazy import regrid

__all__ = ["REGIONS", "compare_on_grid", "summary_by_region", "write_comparison"]

Array = npt.NDArray[Any]

REGIONS: Mapping[str, tuple[float, ...]] = {
    "distance": (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0),
    "radius": (0.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0, 32.0),
    "height": (0.0, 0.3, 1.0, 3.0, 10.0),
}
"""Edges of the ranges of the distance from the Sun, the Galactocentric radius and the height |z|, kpc."""

SUMS = ("known", "sum", "square", "within_1", "within_2", "a", "b")


def compare_on_grid(a: xr.DataArray, b: xr.DataArray, grid: CartesianGrid, **interpolation: Any) -> xr.Dataset:
    """The difference of two posteriors' means in standard deviations at the voxels of a grid, lazily.

    Parameters
    ----------
    a, b : DataArray, dims (pixel, shell, sample)
        Of one kind of unit, on any native grids. Their samples are taken for independent.
    grid : CartesianGrid
        Voxels and frame.
    **interpolation
        As for `crdist.regrid`.

    Returns
    -------
    Dataset of float64, dims (x, y, z)
        ``mean_a``, ``std_a``, ``mean_b``, ``std_b`` in a's unit and ``difference`` = (mean_a - mean_b) /
        sqrt(std_a^2 + std_b^2), NaN where one is not known or neither varies.

    Raises
    ------
    RecipeError
        If the units do not convert, or there is a single sample.
    """
    n = require_samples(a), require_samples(b)
    for array, count in zip((a, b), n, strict=True):
        if count < 2:
            raise RecipeError(f"{array.name!r} has a single sample, so no standard deviation to compare by")
    try:
        factor = float(parse_unit(units_of(b)).to(parse_unit(units_of(a))))
    except u.UnitConversionError as error:
        raise RecipeError(f"the two fields cannot be compared: {error}") from error
    units = units_of(a)
    one, other = (regrid(samples, grid, **interpolation) for samples in (a, b))
    fields = {"mean_a": mean(one), "std_a": std(one), "mean_b": mean(other) * factor, "std_b": std(other) * factor}
    spread = np.sqrt(fields["std_a"] ** 2 + fields["std_b"] ** 2)
    difference = ((fields["mean_a"] - fields["mean_b"]) / spread).where(spread > 0)
    texts = {"mean": "mean over {} samples", "std": "standard deviation over {} samples (ddof=1)"}
    for name, field in fields.items():
        statistic, _, which = name.partition("_")
        source, count = (a, n[0]) if which == "a" else (b, n[1])
        field.attrs = {"units": units, "long_name": f"{long_name_of(source)}, {texts[statistic].format(count)}"}
    text = "difference of the means / sqrt(std^2 + std^2), samples taken for independent"
    difference.attrs = {"units": "", "long_name": text}
    attrs = {"frame": grid.frame.to_dict(), "n_sample_a": n[0], "n_sample_b": n[1]}
    return xr.Dataset({**fields, "difference": difference}, attrs=attrs)


def summary_by_region(
    compared: xr.Dataset, grid: CartesianGrid, regions: Mapping[str, Sequence[float]] = REGIONS
) -> xr.Dataset:
    """How two posteriors agree by distance, radius and height, and in all; computes, in one pass over the voxels.

    Parameters
    ----------
    compared : Dataset
        Of `compare_on_grid`.
    grid : CartesianGrid
        The one it was made on.
    regions : mapping of str to sequence of float, kpc
        Edges of the ranges of ``distance`` (from the Sun), ``radius`` (Galactocentric) and ``height`` (|z|).

    Returns
    -------
    Dataset, dims (region,)
        First all voxels, then those ranges that hold voxels. Over the voxels that both know: ``rms`` and ``mean`` of
        the difference in standard deviations, ``within_1`` and ``within_2``, the parts with a difference of less than
        1 and 2, ``ratio``, the first's sum over the second's, and ``known``, the part of all voxels that both know.
        Coordinates ``kind``, ``lower`` and ``upper`` tell the regions.

    Raises
    ------
    RecipeError
        If a kind of region is not known, or its edges are not in rising order.
    """
    import dask

    for kind, edges in regions.items():
        if kind not in REGIONS or len(edges) < 2 or not (np.diff(edges) > 0).all():
            raise RecipeError(
                f"regions are edges in rising order, kpc, of {', '.join(REGIONS)}; got {kind}: {list(edges)}"
            )
    fields = [compared[name].transpose("x", "y", "z").chunk() for name in ("difference", "mean_a", "mean_b")]
    # mean_a is cut as its own tiles are; the others follow
    fields = [field.chunk(dict(zip("xyz", fields[1].data.chunks, strict=True))) for field in fields]
    bounds = [np.concatenate([[0], np.cumsum(sizes)]) for sizes in fields[0].data.chunks]
    blocks = [field.data.to_delayed() for field in fields]
    task = dask.delayed(_block_sums, pure=True)
    parts = []
    for place in np.ndindex(blocks[0].shape):
        spans = tuple((int(bounds[k][i]), int(bounds[k][i + 1])) for k, i in enumerate(place))
        parts.append(task(*(block[place] for block in blocks), grid, spans, dict(regions)))
    totals = np.sum(dask.compute(*parts), axis=0)
    kinds = ["all", *(kind for kind, edges in regions.items() for _ in itertools.pairwise(edges))]
    pairs = [(0.0, np.inf), *(pair for edges in regions.values() for pair in itertools.pairwise(edges))]
    there = np.flatnonzero(totals[:, 0] > 0)
    count, values = totals[there, 0], dict(zip(SUMS, totals[there, 1:].T, strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        known = values["known"]
        columns = {
            "rms": np.sqrt(values["square"] / known),
            "mean": values["sum"] / known,
            "within_1": values["within_1"] / known,
            "within_2": values["within_2"] / known,
            "ratio": values["a"] / values["b"],
            "known": known / count,
        }
    return xr.Dataset(
        {name: ("region", column, {"units": ""}) for name, column in columns.items()},
        coords={
            "kind": ("region", [kinds[k] for k in there]),
            "lower": ("region", [pairs[k][0] for k in there], {"units": "kpc"}),
            "upper": ("region", [pairs[k][1] for k in there], {"units": "kpc"}),
        },
    )


def write_comparison(compared: xr.Dataset, path: str | Path, provenance: Mapping[str, Any]) -> None:
    """Write a comparison as a Zarr store that plain xarray opens; computes it, block by block.

    Parameters
    ----------
    compared : Dataset
        Of `compare_on_grid` or of `crdist_postproc.analysis.comparison.compare`.
    path : path
        Folder to create.
    provenance : mapping
        Plain data: which two stores and quantities.

    Raises
    ------
    StoreExistsError
        If the folder exists.
    SchemaError
        If the comparison is empty.
    """
    if not all(compared.sizes.values()):
        raise SchemaError(f"{path}: nothing to write: the comparison has no cells")
    single = compared.astype(np.float32)
    for name, variable in single.variables.items():
        variable.encoding = {}
        variable.attrs = dict(compared.variables[name].attrs)
    single.attrs = {
        **compared.attrs,
        "schema": "crdist.comparison",
        "provenance": {**provenance, "versions": versions()},
    }
    with new_store(path) as folder:
        single.to_zarr(DurableStore(folder), mode="w", zarr_format=3, consolidated=False)
        consolidate(folder)


def _block_sums(
    difference: Array,
    mean_a: Array,
    mean_b: Array,
    grid: CartesianGrid,
    spans: tuple[tuple[int, int], ...],
    regions: Mapping[str, Sequence[float]],
) -> Array:
    """Number of voxels and `SUMS` over those of a block that lie in each region, all voxels first."""
    known = np.isfinite(difference)
    clean = np.where(known, difference, 0.0)
    terms = [
        np.ones(known.shape),
        known,
        clean,
        clean**2,
        known & (np.abs(clean) < 1),
        known & (np.abs(clean) < 2),
        np.where(known, mean_a, 0.0),
        np.where(known, mean_b, 0.0),
    ]
    flat = [np.ravel(term).astype(np.float64) for term in terms]
    rows = [[float(term.sum()) for term in flat]]
    places = _places(grid, spans)
    for kind, edges in regions.items():
        bins = np.searchsorted(edges, places[kind].ravel(), side="right")
        sums = [np.bincount(bins, term, minlength=len(edges) + 1)[1 : len(edges)] for term in flat]
        rows.extend(np.stack(sums, axis=-1).tolist())
    return np.array(rows)


def _places(grid: CartesianGrid, spans: tuple[tuple[int, int], ...]) -> dict[str, Array]:
    """Distance from the Sun, Galactocentric radius and height of the voxels of a block."""
    centres = [axis.centres[slice(*span)] for axis, span in zip(grid.axes, spans, strict=True)]
    points = np.stack(np.meshgrid(*centres, indexing="ij"), axis=-1)
    heliocentric = grid.frame.to_heliocentric(points)
    x, y, z = np.moveaxis(grid.frame.galactocentric.from_heliocentric(heliocentric), -1, 0)
    return {"distance": np.linalg.norm(heliocentric, axis=-1), "radius": np.hypot(x, y), "height": np.abs(z)}
