"""Two posteriors of one field on a common grid, compared in standard deviations."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from astropy import units as u

from crdist.errors import RecipeError
from crdist.units import parse_unit
from crdist_postproc.analysis.over_samples import mean, std
from crdist_postproc.analysis.samples import long_name_of, require_samples, units_of
from crdist_postproc.kernels.points import Interpolation
from crdist_postproc.lazy import spherical_grid_of
from crdist_postproc.query import Mode, query_heliocentric

__all__ = ["at_cells_of", "compare", "summary_of"]

GRID_COORDINATES = ("cell_ids", "distance", "distance_lower", "distance_upper")


def at_cells_of(samples: xr.DataArray, other: xr.DataArray, **interpolation: Any) -> xr.DataArray:
    """The samples at the centres of the cells of another native grid, lazily.

    Parameters
    ----------
    samples, other : DataArray, dims (pixel, shell[, sample])
    **interpolation
        ``method``, ``value_space``, ``inner`` as for `crdist.regrid`.

    Returns
    -------
    DataArray, dims (pixel, shell[, sample]), lazy
        On the other's grid; NaN outside the samples' own. A value at each centre: where the other's cells are larger,
        structure between their centres is not seen. The centres are kept in memory, 24 bytes a cell.
    """
    import healpy

    grid = spherical_grid_of(other)
    if spherical_grid_of(samples) == grid:
        return samples
    towards = np.stack(healpy.pix2vec(grid.nside, np.arange(grid.n_pixel), nest=grid.ordering == "nested"), axis=-1)
    places = towards[:, None, :] * grid.centres[:, None]
    kept = {name: other.coords[name] for name in GRID_COORDINATES}
    how = Interpolation(**interpolation)
    mode: Mode = "samples" if "sample" in samples.dims else "mean"
    found = query_heliocentric(samples, places, ("pixel", "shell"), kept, how, mode)
    return found.assign_attrs(samples.attrs)


def compare(a: xr.DataArray, b: xr.DataArray, **interpolation: Any) -> xr.Dataset:
    """The difference of two posteriors' means in standard deviations, in the cells of the first, lazily.

    Parameters
    ----------
    a, b : DataArray, dims (pixel, shell, sample)
        Of one kind of unit. Their samples are taken for independent.
    **interpolation
        As for `at_cells_of`, which brings ``b`` to the cells of ``a``.

    Returns
    -------
    Dataset of float64, dims (pixel, shell)
        ``mean_a``, ``std_a``, ``mean_b``, ``std_b`` in a's unit and ``difference`` = (mean_a - mean_b) /
        sqrt(std_a^2 + std_b^2), NaN where one is not known or neither varies.

    Raises
    ------
    RecipeError
        If the units do not convert.
    """
    n = require_samples(a), require_samples(b)
    try:
        factor = float(parse_unit(units_of(b)).to(parse_unit(units_of(a))))
    except u.UnitConversionError as error:
        raise RecipeError(f"the two fields cannot be compared: {error}") from error
    there = at_cells_of(b, a, **interpolation)
    mean_a, std_a, mean_b, std_b = mean(a), std(a), mean(there) * factor, std(there) * factor
    variance = std_a**2 + std_b**2
    difference = (mean_a - mean_b) / variance.where(variance > 0) ** 0.5
    units = units_of(a)
    result = xr.Dataset(
        {
            "mean_a": mean_a,
            "std_a": std_a,
            "mean_b": mean_b.assign_attrs(units=units, long_name=f"{long_name_of(b)}, mean over {n[1]} samples"),
            "std_b": std_b.assign_attrs(units=units, long_name=f"{long_name_of(b)}, standard deviation"),
            "difference": difference.assign_attrs(
                units="", long_name="difference of the means / sqrt(std^2 + std^2), samples taken for independent"
            ),
        }
    )
    return result.assign_attrs(n_sample_a=n[0], n_sample_b=n[1])


def summary_of(compared: xr.Dataset, distances: Sequence[float] | None = None) -> xr.Dataset:
    """How two posteriors agree, by distance and in all; computes, one pass.

    Parameters
    ----------
    compared : Dataset
        Of `compare`.
    distances : sequence of float, kpc, optional
        Edges of the ranges of heliocentric distance; default: six ranges, equal in ln(distance). Shells count where
        their centre lies.

    Returns
    -------
    Dataset, dims (range,)
        The last range is all. Volume-weighted over the cells that both know: ``rms`` and ``mean`` of the difference in
        standard deviations, ``within_1`` and ``within_2``, the parts with a difference of less than 1 and 2, ``ratio``,
        the first's mean over the second's, each integrated over the range, and ``known``, the part of the range's
        volume that both know.

    Raises
    ------
    RecipeError
        If the ranges are not in order.
    """
    grid = spherical_grid_of(compared["difference"])
    sixths = np.geomspace(grid.edges_kpc[0], grid.edges_kpc[-1], 7)
    edges = sixths if distances is None else np.asarray(distances, dtype=np.float64)
    if edges.ndim != 1 or edges.size < 2 or not (np.diff(edges) > 0).all():
        raise RecipeError(f"distances must be edges in rising order, kpc, got {distances}")
    difference = compared["difference"]
    known = difference.notnull()
    volume = xr.DataArray(grid.cell_volumes, dims="shell")
    per_shell = xr.Dataset(
        {
            "volume": known.sum("pixel") * volume,
            "sum": difference.sum("pixel") * volume,
            "square": (difference**2).sum("pixel") * volume,
            "within_1": (abs(difference) < 1).sum("pixel") * volume,
            "within_2": (abs(difference) < 2).sum("pixel") * volume,
            "a": compared["mean_a"].where(known).sum("pixel") * volume,
            "b": compared["mean_b"].where(known).sum("pixel") * volume,
        }
    ).compute()
    centres = grid.centres
    members = [(centres >= low) & (centres < high) for low, high in itertools.pairwise(edges)]
    members.append((centres >= edges[0]) & (centres < edges[-1]))
    rows = [per_shell.isel(shell=member).sum("shell") for member in members]
    whole = np.array([grid.cell_volumes[member].sum() * grid.n_pixel for member in members])
    table = xr.concat([row.drop_vars(list(row.coords)) for row in rows], dim="range")
    with np.errstate(invalid="ignore", divide="ignore"):
        result = xr.Dataset(
            {
                "rms": np.sqrt(table["square"] / table["volume"]),
                "mean": table["sum"] / table["volume"],
                "within_1": table["within_1"] / table["volume"],
                "within_2": table["within_2"] / table["volume"],
                "ratio": table["a"] / table["b"],
                "known": table["volume"] / xr.DataArray(whole, dims="range"),
            }
        )
    lower, upper = [*edges[:-1], edges[0]], [*edges[1:], edges[-1]]
    return result.assign_coords(lower=("range", lower, {"units": "kpc"}), upper=("range", upper, {"units": "kpc"}))
