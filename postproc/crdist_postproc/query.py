"""The samples, or their integrals along the line of sight, at any points; lazily.

A query depends on those Dask chunks of the samples that its points need, and on no others. Samples in memory are read
where they lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from crdist.errors import RecipeError, SchemaError
from crdist.frames import Frame
from crdist.units import integral_unit
from crdist_postproc.kernels.field import Inner, Method, ValueSpace
from crdist_postproc.kernels.points import Interpolation, Radial
from crdist_postproc.lazy import spherical_grid_of
from crdist_postproc.point_tasks import Source, Task, values_at_points
from crdist_postproc.points import dims_and_coords, heliocentric_points

__all__ = ["Mode", "check_options", "factor_and_attributes", "labelled", "query", "query_heliocentric"]

Mode = Literal["mean", "std", "samples", "random_sample", "quantile", "significance"]
MODES = ("mean", "std", "samples", "random_sample", "quantile", "significance")

Floats = npt.NDArray[np.float64]


def query(
    samples: xr.DataArray,
    coords: Any,
    *,
    mode: Mode = "mean",
    integrated: bool = False,
    q: float | Sequence[float] | None = None,
    seed: int | None = None,
    frame: Frame | None = None,
    units: str | Mapping[str, str] | None = None,
    method: Method = "linear",
    value_space: ValueSpace = "linear",
    radial: Radial = "log",
    inner: Inner = "extend",
) -> xr.DataArray:
    """The samples at points, or what they integrate to between the Sun and the points, lazily.

    Parameters
    ----------
    samples : DataArray, dims (pixel, shell[, sample])
        A variable of ``crdist.open_posterior``, or anything computed from one that keeps its coordinates.
    coords, frame, units
        The points, as for `crdist_postproc.points.heliocentric_points`: a SkyCoord with distances in any frame;
        x, y, z with a `Frame`; or l, b, distance.
    mode : {"mean", "std", "samples", "random_sample", "quantile", "significance"}
        Over the samples at each point: their mean, standard deviation (ddof = 1), all of them, one and the same of
        them everywhere, quantiles, or mean / std.
    integrated : bool
        Integrate along the line of sight from the Sun to each point, sample by sample; the statistics come after.
    q : float or sequence of float
        Probabilities in [0, 1], for quantiles.
    seed : int, optional
        Of the choice of the random sample.
    method : {"linear", "nearest"}
        ``linear``: HEALPix' bilinear interpolation times linear interpolation between shell centres; ``nearest``: the
        cell that contains the point.
    value_space : {"linear", "log"}
        Interpolate the values, or their logarithms. Integrals are summed as they are and then interpolated between
        pixels.
    radial : {"log", "linear"}
        Interpolate between shells in ln(distance) or in the distance. Integrals need neither: the density is constant
        in a cell.
    inner : {"extend", "exclude"}
        Inside the first edge: the first shell's value, or nothing, also in integrals.

    Returns
    -------
    DataArray, lazy, dims those of the points, with ``sample`` or ``quantile`` last where there are several
        float64, the samples themselves float32. In the samples' unit, or an integral's, such as cm-2 for a density in
        cm-3. NaN at a point that is NaN or outside the grid, and where a cell counts that is masked in one sample.

    Raises
    ------
    GridError, SchemaError
        If the samples lack the coordinates that tell their grid, or points are not as described. When computed: if
        a sample is infinite, or not positive where its logarithm is asked for.
    RecipeError
        If an option is unknown, missing or of no use to the mode.

    Notes
    -----
    ``value_space="log", radial="linear"`` is how dustmaps interpolates the map of Edenhofer et al. 2024, A&A 685, A82.
    """
    how = Interpolation(method, value_space, radial, inner, bool(integrated))
    check_options(how, mode, q, seed)
    points, shape = heliocentric_points(coords, frame, units)
    dims, kept = dims_and_coords(coords, shape)
    return query_heliocentric(samples, points.reshape(*shape, 3), dims, kept, how, mode, q=q, seed=seed)


def query_heliocentric(
    samples: xr.DataArray,
    points_kpc: Floats,
    dims: tuple[str, ...],
    coords: Mapping[str, Any],
    how: Interpolation,
    mode: Mode,
    *,
    q: float | Sequence[float] | None = None,
    seed: int | None = None,
) -> xr.DataArray:
    """As `query`, at heliocentric points of shape (..., 3), kpc, whose dimensions and coordinates are given."""
    grid = spherical_grid_of(samples)
    several = "sample" in samples.dims
    n_sample = int(samples.sizes.get("sample", 1))
    if n_sample < 2 and mode in ("std", "significance"):
        raise RecipeError(f"mode {mode!r} needs two samples at least, got {n_sample}")
    if mode == "random_sample" and several:
        samples = samples.isel(sample=[int(np.random.default_rng(seed).choice(n_sample))])
    probabilities = tuple(np.atleast_1d(np.asarray(q, dtype=np.float64)).tolist()) if q is not None else ()
    factor, attrs = factor_and_attributes(samples, how, mode)
    task = Task(grid, how, "samples" if mode == "random_sample" else mode, probabilities, factor)
    source = Source.of(samples, how, grid)
    data = values_at_points(source, task, points_kpc)
    numbers = samples.coords["sample"].variable if "sample" in samples.coords and several else None
    return labelled(data, samples.name, attrs, dims, coords, mode, q=q, several=several, numbers=numbers)


def labelled(
    data: Any,
    name: Any,
    attrs: Mapping[str, Any],
    dims: tuple[str, ...],
    coords: Mapping[str, Any],
    mode: Mode,
    *,
    q: float | Sequence[float] | None,
    several: bool,
    numbers: Any,
) -> xr.DataArray:
    """Values at points as a DataArray.

    Parameters
    ----------
    data : array, shape (..., k)
        With the samples, or quantiles, last where the mode gives them.
    name, attrs, dims, coords
        Of the DataArray; dims and coords those of the points.
    several : bool
        Whether there is a dimension ``sample``.
    numbers : Variable, optional
        Names of the samples, or of the one that was chosen.
    """
    found = dict(coords)
    tail: tuple[str, ...] = ()
    if mode == "quantile":
        if np.isscalar(q):
            data, found["quantile"] = data[..., 0], q
        else:
            tail, found["quantile"] = ("quantile",), ("quantile", np.asarray(q, dtype=np.float64))
    elif mode == "samples" and several:
        tail = ("sample",)
        if numbers is not None:
            found["sample"] = numbers
    elif mode in ("samples", "random_sample"):
        data = data[..., 0]
        if mode == "random_sample" and numbers is not None:
            found["sample"] = numbers[0]
    return xr.DataArray(data, dims=(*dims, *tail), coords=found, name=name, attrs=attrs)


def check_options(how: Interpolation, mode: str, q: Any, seed: Any) -> None:
    """Refuse options that are unknown, missing or of no use to the mode.

    Raises
    ------
    RecipeError
    """
    known = {
        "mode": (mode, MODES),
        "method": (how.method, ("linear", "nearest")),
        "value_space": (how.value_space, ("linear", "log")),
        "radial": (how.radial, ("log", "linear")),
        "inner": (how.inner, ("extend", "exclude")),
    }
    for name, (given, words) in known.items():
        if given not in words:
            raise RecipeError(f"{name} is one of {', '.join(map(repr, words))}, got {given!r}")
    if (q is not None) != (mode == "quantile"):
        needed = "mode 'quantile' needs q, such as q=[0.16, 0.5, 0.84]"
        raise RecipeError(needed if q is None else f"q is for the mode 'quantile', not {mode!r}")
    if q is not None and not all(0 <= probability <= 1 for probability in np.atleast_1d(np.asarray(q)).tolist()):
        raise RecipeError(f"q must be between 0 and 1, got {q}")
    if seed is not None and mode != "random_sample":
        raise RecipeError(f"seed is for the mode 'random_sample', not {mode!r}")


def factor_and_attributes(samples: xr.DataArray, how: Interpolation, mode: str) -> tuple[float, dict[str, Any]]:
    """What integrals are multiplied by for the unit that is written, and the attributes of the result.

    Raises
    ------
    SchemaError
        If integrals are asked for of samples without a unit.
    """
    units, factor = samples.attrs.get("units"), 1.0
    name = str(samples.attrs.get("long_name", samples.name or "density"))
    if how.integrated:
        if units is None:
            raise SchemaError(
                f"samples {samples.name!r} have no attribute 'units'; set samples.attrs['units'], such as 'cm-3'"
            )
        units, factor = integral_unit(str(units))
        name = f"{name} integrated along the line of sight"
    if mode == "significance":
        units, factor = "", 1.0
    attrs: dict[str, Any] = {"long_name": name, "mode": mode, "method": how.method, "value_space": how.value_space}
    if how.method == "linear" and not how.integrated:
        attrs["radial"] = how.radial
    attrs["inner"] = how.inner
    return factor, attrs if units is None else {"units": str(units), **attrs}
