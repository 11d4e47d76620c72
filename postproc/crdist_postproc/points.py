"""Points in any of the ways in which people write them, as heliocentric Cartesian coordinates.

Nothing is guessed: numbers have a unit, Galactocentric coordinates the Sun's place, directions a distance. A coordinate
that is NaN makes the point NaN; it is no error, because catalogues have such rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from astropy import units as u
from astropy.coordinates import (
    BaseCoordinateFrame,
    Galactic,
    Galactocentric,
    SkyCoord,
    galactocentric_frame_defaults,
)

from crdist.errors import GridError, SchemaError
from crdist.frames import Frame
from crdist.units import parse_unit

__all__ = ["dims_and_coords", "galactic", "heliocentric_points", "read_points"]

Floats = npt.NDArray[np.float64]

CARTESIAN, SPHERICAL = ("x", "y", "z"), ("l", "b", "distance")
SAME_PLACE = 1e-6
"""By how much two frames' Suns may differ, kpc or degree, and still be the same."""


def heliocentric_points(
    coords: Any, frame: Frame | None = None, units: str | Mapping[str, str] | None = None
) -> tuple[Floats, tuple[int, ...]]:
    """Points as heliocentric Cartesian coordinates.

    Parameters
    ----------
    coords : SkyCoord, mapping, Dataset or tuple
        Either ``astropy.coordinates.SkyCoord`` with distances, in any frame that astropy converts to Galactic; a
        Galactocentric one must say where the Sun is (``galcen_distance``, ``z_sun``, ``roll``), as
        ``frame.to_astropy()`` does. Or x, y and z as a tuple, or by name in a mapping or an xarray Dataset: then
        ``frame`` is needed. Or l, b and distance by name.
    frame : Frame, optional
        Frame of x, y and z. Galactocentric coordinates of astropy must agree with it: distance of the centre, height
        of the Sun and roll.
    units : str or mapping, optional
        Of numbers that are no Quantities and have no attribute ``units``: a length, or by name, such as
        ``{"l": "deg", "b": "deg", "distance": "pc"}``.

    Returns
    -------
    points_kpc : ndarray of float64, shape (n, 3), kpc
        x towards the Galactic centre, y towards l = 90 deg, z towards the north Galactic pole. NaN where a coordinate
        is NaN or masked.
    shape : tuple of int
        Shape of the coordinates, whose points come in C order.

    Raises
    ------
    GridError
        If a distance, a unit or a frame is missing, a distance is negative, shapes do not go together, or two frames
        do not agree.

    Examples
    --------
    >>> points, shape = heliocentric_points({"l": [90.0], "b": [0.0], "distance": [500.0]}, units={
    ...     "l": "deg", "b": "deg", "distance": "pc"})
    >>> points.round(9), shape
    (array([[0. , 0.5, 0. ]]), (1,))
    >>> heliocentric_points(([0.0], [0.0], [0.0]))
    Traceback (most recent call last):
        ...
    crdist.errors.GridError: x, y and z need a frame; give frame=crdist.Frame(...)
    """
    points, shape, spherical = read_points(coords, frame, units)
    return _cartesian(points) if spherical else points, shape


def read_points(
    coords: Any, frame: Frame | None = None, units: str | Mapping[str, str] | None = None
) -> tuple[Floats, tuple[int, ...], bool]:
    """Points as they are given, without a change between angles and Cartesian coordinates.

    Parameters
    ----------
    coords, frame, units
        As for `heliocentric_points`.

    Returns
    -------
    points : ndarray of float64, shape (n, 3)
        Heliocentric x, y, z in kpc; or Galactic longitude and latitude, radian, and distance, kpc.
    shape : tuple of int
        Shape of the coordinates.
    spherical : bool
        Whether it is the latter.

    Raises
    ------
    GridError
        As `heliocentric_points`.
    """
    if isinstance(coords, SkyCoord | BaseCoordinateFrame):
        return _from_astropy(coords, frame)
    names, values = _by_name(coords)
    if names == CARTESIAN:
        if frame is None:
            raise GridError("x, y and z need a frame; give frame=crdist.Frame(...)")
        parts = _broadcast(names, [_plain(n, v, units, u.kpc) for n, v in zip(names, values, strict=True)])
        points = np.stack([part.ravel() for part in parts], axis=-1)
        return frame.to_heliocentric(points), parts[0].shape, False
    wanted = (u.rad, u.rad, u.kpc)
    longitude, latitude, distance = _broadcast(
        names, [_plain(n, v, units, unit) for n, v, unit in zip(names, values, wanted, strict=True)]
    )
    if np.any(np.abs(latitude) > 0.5 * np.pi * (1 + 1e-12)):
        raise GridError(f"b must be between -90 and 90 deg, got {np.degrees(np.nanmax(np.abs(latitude))):g} deg")
    return _spherical(longitude, latitude, distance), longitude.shape, True


def galactic(points_kpc: Floats) -> tuple[Floats, Floats, Floats]:
    """Galactic longitude in [0, 360) and latitude, degree, and distance, kpc, of heliocentric points (..., 3)."""
    x, y, z = np.moveaxis(points_kpc, -1, 0)
    across = np.hypot(x, y)
    longitude = np.degrees(np.arctan2(y, x)) % 360.0
    return np.where(longitude == 360.0, 0.0, longitude), np.degrees(np.arctan2(z, across)), np.hypot(across, z)


def dims_and_coords(coords: Any, shape: tuple[int, ...]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Names of the dimensions of points, and what a Dataset knows along them.

    A Dataset keeps its own; other points have the dimension ``point``, or ``point_0``, ``point_1``, ... .
    """
    if isinstance(coords, xr.Dataset) or (
        isinstance(coords, Mapping) and any(isinstance(value, xr.DataArray) for value in coords.values())
    ):
        names, values = _by_name(coords)
        arrays = xr.broadcast(*(value for value in values if isinstance(value, xr.DataArray)))
        if arrays[0].shape == shape:
            dims = tuple(str(dim) for dim in arrays[0].dims)
            return dims, {str(key): value.variable for key, value in arrays[0].coords.items() if key not in names}
    if len(shape) == 1:
        return ("point",), {}
    return tuple(f"point_{axis}" for axis in range(len(shape))), {}


def _by_name(coords: Any) -> tuple[tuple[str, str, str], list[Any]]:
    if isinstance(coords, xr.Dataset | Mapping):
        for names in (CARTESIAN, SPHERICAL):
            if all(name in coords for name in names):
                values = [coords[name] for name in names]
                if all(isinstance(value, xr.DataArray) for value in values):
                    values = list(xr.broadcast(*values))
                return names, values
        found = ", ".join(str(name) for name in coords) or "nothing"
        missing = " (l and b have no distance)" if "l" in coords and "b" in coords else ""
        raise GridError(f"points need x, y, z or l, b, distance, got {found}{missing}")
    if isinstance(coords, tuple) and len(coords) == 3:
        return CARTESIAN, list(coords)
    raise GridError(
        f"points are a SkyCoord, a tuple (x, y, z), or x, y, z or l, b, distance by name, got {type(coords).__name__}"
    )


def _plain(name: str, value: Any, units: str | Mapping[str, str] | None, wanted: Any) -> Floats:
    """Numbers in the unit wanted; NaN where masked."""
    unit: Any = None
    if isinstance(value, xr.DataArray):
        unit = value.attrs.get("units")
        value = value.data if isinstance(value.data, u.Quantity) else value.values
    if isinstance(value, u.Quantity):
        unit, value = value.unit, value.value
    if unit is None and isinstance(units, Mapping):
        unit = units.get(name)
    elif unit is None and wanted.is_equivalent(u.kpc):
        unit = units
    if unit is None:
        example = "'kpc'" if wanted.is_equivalent(u.kpc) else "{'l': 'deg', 'b': 'deg', 'distance': 'kpc'}"
        raise GridError(f"{name} has no unit; give a Quantity, or units={example}")
    try:
        found = parse_unit(unit) if isinstance(unit, str) else unit
        factor = found.to(wanted)
    except (SchemaError, u.UnitConversionError) as error:
        raise GridError(f"{name} must be in {_kind(wanted)}, got units {str(unit)!r}") from error
    try:
        plain = np.ma.filled(np.ma.asarray(value, dtype=np.float64), np.nan)
    except (TypeError, ValueError) as error:
        raise GridError(f"{name} must be numbers, got {type(value).__name__}: {error}") from error
    return np.asarray(plain * factor, dtype=np.float64)


def _kind(unit: Any) -> str:
    return "a length such as kpc" if unit.is_equivalent(u.kpc) else "an angle such as deg"


def _broadcast(names: tuple[str, ...], values: list[Floats]) -> tuple[Floats, ...]:
    try:
        return tuple(np.broadcast_arrays(*values))
    except ValueError as error:
        shapes = ", ".join(f"{name} {value.shape}" for name, value in zip(names, values, strict=True))
        raise GridError(f"coordinates must have shapes that go together, got {shapes}") from error


def _from_astropy(coords: Any, frame: Frame | None) -> tuple[Floats, tuple[int, ...], bool]:
    own = coords.frame if isinstance(coords, SkyCoord) else coords
    if not own.has_data:
        raise GridError("coordinates hold no points, only a frame")
    if isinstance(own, Galactocentric):
        _check_galactocentric(own, frame)
    else:
        data = own.spherical if own.name == "galactic" else own.data
        if getattr(data, "distance", data.norm()).unit.physical_type == "dimensionless":
            raise GridError("coordinates have no distance; give SkyCoord(..., distance=...)")
        if own.name == "galactic":
            longitude, latitude = data.lon.to_value(u.rad), data.lat.to_value(u.rad)
            distance = data.distance.to_value(u.kpc)
            return _spherical(_filled(longitude), _filled(latitude), _filled(distance)), coords.shape, True
    try:
        there = own.transform_to(Galactic()).cartesian
    except Exception as error:  # astropy's ConvertError, and what its frames raise where an attribute is missing
        raise GridError(f"coordinates in the frame {own.name!r} cannot be made Galactic: {error}") from error
    axes = [_filled(getattr(there, name).to_value(u.kpc)).ravel() for name in "xyz"]
    return np.stack(axes, axis=-1), coords.shape, False


def _filled(values: Any) -> Floats:
    """Plain numbers; astropy masks what is missing in newer versions."""
    unmasked = getattr(values, "unmasked", None)
    if unmasked is not None:
        return np.where(values.mask, np.nan, np.asarray(unmasked))
    return np.asarray(np.ma.filled(values, np.nan), dtype=np.float64)


def _spherical(longitude: Floats, latitude: Floats, distance: Floats) -> Floats:
    if np.any(distance < 0):
        raise GridError(f"a distance must not be negative, got {np.nanmin(distance):g} kpc")
    return np.stack([longitude.ravel(), latitude.ravel(), distance.ravel()], axis=-1)


def _cartesian(points: Floats) -> Floats:
    """Heliocentric x, y, z of longitudes, latitudes and distances."""
    longitude, latitude, distance = points.T
    found = np.empty(points.shape)
    across = distance * np.cos(latitude)
    found[:, 0] = across * np.cos(longitude)
    found[:, 1] = across * np.sin(longitude)
    found[:, 2] = distance * np.sin(latitude)
    return found


def _check_galactocentric(own: Galactocentric, frame: Frame | None) -> None:
    """Refuse astropy's defaults, which change with its versions, and a Sun elsewhere than the frame's."""
    if frame is None:
        # astropy writes its defaults into the frame, so that only the values tell
        default = galactocentric_frame_defaults.get()
        if all(getattr(own, name) == default[name] for name in ("galcen_distance", "z_sun", "roll")):
            raise GridError(
                f"Galactocentric coordinates with the Sun where astropy's defaults have it (galcen_distance = "
                f"{own.galcen_distance}, z_sun = {own.z_sun}), which its versions change; confirm it by frame="
                "crdist.Frame(...), or give SkyCoord(..., frame=crdist.Frame(...).to_astropy())"
            )
        return
    expected = frame.galactocentric.to_astropy()
    for name, unit in (("galcen_distance", u.kpc), ("z_sun", u.kpc), ("roll", u.deg)):
        theirs, ours = (getattr(each, name).to_value(unit) for each in (own, expected))
        # the orientation that astropy measures the roll from is rounded to 3e-5 deg
        if abs(theirs - ours) > (1e-4 if name == "roll" else SAME_PLACE):
            raise GridError(
                f"Galactocentric coordinates have {name} = {theirs:g} {unit}, the frame {ours:g} {unit}; "
                "leave the frame out or make them with frame.to_astropy()"
            )
