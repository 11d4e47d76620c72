"""The samples along lines through the Galaxy: a line of sight, a line between two places, or a path of many.

A path is a list of points whose distance from its beginning is known; its values are a query at them. Its integral is
the trapezoidal rule over them, sample by sample.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr
from astropy import units as u
from astropy.coordinates import BaseCoordinateFrame, SkyCoord

from crdist.errors import GridError, RecipeError, SchemaError
from crdist.frames import Frame
from crdist.units import integral_unit
from crdist_postproc.kernels.field import Inner, Method, ValueSpace
from crdist_postproc.kernels.points import Interpolation, Radial
from crdist_postproc.lazy import spherical_grid_of
from crdist_postproc.points import galactic, heliocentric_points
from crdist_postproc.query import check_options, query_heliocentric

__all__ = ["along"]

Floats = npt.NDArray[np.float64]

MAX_POINTS = 10_000_000
"""A path of more points is a step in the wrong unit."""


class _Path(NamedTuple):
    points_kpc: Floats
    along_kpc: Floats


def along(
    samples: xr.DataArray,
    start: Any,
    stop_or_direction: Any = None,
    *,
    step_kpc: float | None = None,
    n: int | None = None,
    integrate: bool = False,
    frame: Frame | None = None,
    units: str | Mapping[str, str] | None = None,
    method: Method = "linear",
    value_space: ValueSpace = "linear",
    radial: Radial = "log",
    inner: Inner = "extend",
) -> xr.DataArray:
    """All samples along a path, lazily.

    Parameters
    ----------
    samples : DataArray, dims (pixel, shell[, sample])
        A variable of ``crdist.open_posterior``, or anything computed from one that keeps its coordinates.
    start, stop_or_direction
        Two points between which to go straight, each as for `crdist_postproc.points.heliocentric_points`. Or
        ``"sun"`` and where to: a point, or a direction without a distance, ``SkyCoord(l, b)`` or l and b by name, in
        which the path goes on to the outer edge of the grid. Or one list of points, between which it goes straight
        from each to the next.
    step_kpc : float, kpc, optional
        Distance from a point of the path to the next, at most; a straight path is cut in equal steps.
    n : int, optional
        Number of points, at equal distances from the first to the last. Without it and ``step_kpc`` a list of points
        is taken as it is.
    integrate : bool
        Give the integral from the beginning of the path to each point instead, sample by sample.
    frame, units
        Of coordinates that are x, y and z, or plain numbers; as for `query`. ``frame`` is also that of the
        coordinates x, y, z of the result, heliocentric ones where it is not given.
    method, value_space, radial, inner
        As for `crdist_postproc.query.query`.

    Returns
    -------
    DataArray, lazy, dims (path[, sample])
        float32, integrals float64. The coordinate ``path`` is the distance from the beginning [kpc]; x, y, z [kpc],
        l, b [deg] and distance [kpc] from the Sun go along it. NaN outside the grid and where a masked cell counts;
        an integral leaves out what lies outside the grid, and is NaN from a masked cell on.

    Raises
    ------
    GridError, SchemaError
        As from `query`, and if the path has no length.
    RecipeError
        If neither or both of ``step_kpc`` and ``n`` are given, or give no points.

    Notes
    -----
    The integral is the trapezoidal rule through the points of the path: choose a step below the size of the cells. To
    integrate lines of sight cell by cell use ``query(..., integrated=True)``.
    """
    how = Interpolation(method, value_space, radial, inner)
    check_options(how, "samples", None, None)
    grid = spherical_grid_of(samples)
    corners = _corners(start, stop_or_direction, grid.edges[-1], frame, units)
    path = _path(corners, step_kpc, n)
    shown = frame if frame is not None else Frame("heliocentric")
    values = query_heliocentric(samples, path.points_kpc, ("path",), _coordinates(path, shown), how, "samples")
    values.attrs["frame"] = shown.to_dict()
    if not integrate:
        return values
    if "units" not in values.attrs:
        raise SchemaError(
            f"samples {samples.name!r} have no attribute 'units'; set samples.attrs['units'], such as 'cm-3'"
        )
    integral_units, factor = integral_unit(values.attrs["units"])
    radius = np.linalg.norm(path.points_kpc, axis=1)
    inside = (radius <= grid.edges[-1]) & ((radius >= grid.edges[0]) | (inner == "extend"))
    whole = values.data.rechunk({0: -1})
    data = whole.map_blocks(_cumulative, path.along_kpc, inside, factor, dtype=np.float64)
    attrs = {**values.attrs, "units": integral_units, "long_name": f"{values.attrs['long_name']} integrated on the way"}
    return values.copy(data=data).assign_attrs(attrs)


def _cumulative(
    values: npt.NDArray[np.floating], along_kpc: Floats, inside: npt.NDArray[np.bool_], factor: float
) -> Floats:
    """Trapezoidal integrals to each point; a point outside the grid holds nothing, a masked one nobody knows what."""
    each = values.astype(np.float64)
    each[~inside] = 0.0
    width = np.diff(along_kpc).reshape(-1, *(1,) * (each.ndim - 1))
    result = np.zeros_like(each)
    np.cumsum(0.5 * width * (each[1:] + each[:-1]), axis=0, out=result[1:])
    return result * factor


def _corners(start: Any, stop: Any, reach_kpc: float, frame: Frame | None, units: Any) -> Floats:
    """The points between which the path goes straight, heliocentric kpc, shape (n, 3)."""
    if isinstance(start, str):
        if start != "sun":
            raise GridError(f"a path starts at a point or at 'sun', got {start!r}")
        if stop is None:
            raise GridError("a path from the Sun needs a point or a direction to go to")
        end = _direction(stop, units)
        there = heliocentric_points(stop, frame, units)[0] if end is None else end * reach_kpc
        corners = np.concatenate([np.zeros((1, 3)), there])
        _check_number(len(there), "one point or direction to go to")
    elif stop is None:
        corners, shape = heliocentric_points(start, frame, units)
        if len(shape) != 1 or len(corners) < 2:
            raise GridError(
                f"a path is a list of two points at least, got the shape {shape}; from one point give another to go to"
            )
    else:
        ends = [heliocentric_points(point, frame, units)[0] for point in (start, stop)]
        for end in ends:
            _check_number(len(end), "two points, or one list of points")
        corners = np.concatenate(ends)
    if not np.isfinite(corners).all():
        raise GridError("a path's points must be finite, got a coordinate that is not a number or infinite")
    return corners


def _check_number(n: int, wanted: str) -> None:
    if n != 1:
        raise GridError(f"a path is given by {wanted}, got {n} points at one end")


def _direction(coords: Any, units: Any) -> Floats | None:
    """The unit vector of a direction without a distance, shape (1, 3), or nothing for a point."""
    if isinstance(coords, SkyCoord | BaseCoordinateFrame):
        own = coords.frame if isinstance(coords, SkyCoord) else coords
        if own.has_data and own.data.norm().unit.physical_type == "dimensionless":
            there = coords.transform_to("galactic") if isinstance(coords, SkyCoord) else SkyCoord(coords).galactic
            one_away = SkyCoord(there.l, there.b, distance=1.0 * u.kpc, frame="galactic")
            return heliocentric_points(one_away)[0]
    elif isinstance(coords, Mapping) and {"l", "b"} <= set(coords) and "distance" not in coords:
        return heliocentric_points({**coords, "distance": 1.0 * u.kpc}, units=units)[0]
    return None


def _path(corners: Floats, step_kpc: float | None, n: int | None) -> _Path:
    lengths = np.linalg.norm(np.diff(corners, axis=0), axis=1)
    at_corners = np.concatenate([[0.0], np.cumsum(lengths)])
    total = float(at_corners[-1])
    if not total > 0:
        raise GridError("a path must have a length, got points that are all the same")
    if step_kpc is not None and n is not None:
        raise RecipeError("give step_kpc or n, not both")
    if step_kpc is None and n is None:
        if len(corners) == 2:
            raise RecipeError("a straight path needs step_kpc or n")
        return _Path(corners, at_corners)
    if n is not None:
        if not 2 <= n <= MAX_POINTS:
            raise RecipeError(f"a path has between 2 and {MAX_POINTS} points, got n = {n}")
        places = np.linspace(0.0, total, n)
    else:
        assert step_kpc is not None
        if not step_kpc > 0:
            raise RecipeError(f"step_kpc must be positive, got {step_kpc:g} kpc")
        if total / step_kpc > MAX_POINTS:
            raise RecipeError(f"step_kpc = {step_kpc:g} kpc makes more than {MAX_POINTS} points of {total:g} kpc")
        # a corner is always a point of the path: the way around it would be shorter
        pieces = [
            np.linspace(begin, end, max(1, int(np.ceil((end - begin) / step_kpc - 1e-9))), endpoint=False)
            for begin, end in itertools.pairwise(at_corners)
            if end > begin
        ]
        places = np.concatenate([*pieces, [total]])
    points = np.stack([np.interp(places, at_corners, corners[:, axis]) for axis in range(3)], axis=-1)
    return _Path(points, places)


def _coordinates(path: _Path, frame: Frame) -> dict[str, Any]:
    longitude, latitude, distance = galactic(path.points_kpc)
    found: dict[str, Any] = {"path": ("path", path.along_kpc, {"units": "kpc", "long_name": "distance along the path"})}
    for name, values in zip("xyz", frame.from_heliocentric(path.points_kpc).T, strict=True):
        found[name] = ("path", values, {"units": "kpc", "long_name": f"{frame.name} {name}"})
    found["l"] = ("path", longitude, {"units": "deg", "long_name": "Galactic longitude"})
    found["b"] = ("path", latitude, {"units": "deg", "long_name": "Galactic latitude"})
    found["distance"] = ("path", distance, {"units": "kpc", "long_name": "distance from the Sun"})
    return found
