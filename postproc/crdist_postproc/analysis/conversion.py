"""The same field in other units, at another energy, as astropy's quantities, and with coordinates in another frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from astropy import units as u

from crdist import emission
from crdist.errors import RecipeError, SchemaError
from crdist.frames import Frame
from crdist.units import parse_unit
from crdist_postproc.analysis.samples import units_of, with_attributes
from crdist_postproc.lazy import spherical_grid_of

__all__ = ["convert", "quantity", "to_frame"]

AXES = ("x", "y", "z")


def convert(
    array: xr.DataArray,
    units: str | None = None,
    *,
    kinetic_energy_gev: float | None = None,
    from_energy_gev: float | None = None,
    alpha: float = emission.ALPHA,
) -> xr.DataArray:
    """The array in another unit, or protons at another energy; lazily, in float64.

    Parameters
    ----------
    array : DataArray with the attribute ``units``
    units : str, optional
        Unit of the result as astropy writes it, such as ``"kpc-3"``; default: as given, or of the density asked for.
    kinetic_energy_gev : float, GeV, optional
        Make it the density of protons per energy n at this kinetic energy [GeV-1 cm-3].
    from_energy_gev : float, GeV, optional
        What is given is n at this kinetic energy. Without it, where ``kinetic_energy_gev`` is given, what is given is
        the normalisation C of the proton spectrum [cm-3]; alone, it makes the result C.
    alpha : float
        Slope of the proton spectrum in momentum.

    Raises
    ------
    RecipeError
        If astropy cannot convert the units, or the array's own are not those of what it is said to be.
    SchemaError
        If the array has no units or they cannot be read.

    Examples
    --------
    >>> density = xr.DataArray([1.0, 2.0], dims="shell", attrs={"units": "cm-3"})
    >>> print(f"{convert(density, 'pc-3').values[0]:.6e}")
    2.937999e+55
    >>> round(float(convert(density, kinetic_energy_gev=30.0)[0]), 10)
    8.49883e-05
    """
    factor, now = 1.0, units_of(array)
    attributes: dict[str, Any] = {}
    if from_energy_gev is not None:
        factor *= _factor(now, "GeV-1 cm-3", "the density of protons at an energy")
        factor *= float(emission.normalisation_from_density(1.0, from_energy_gev, alpha))
        now, attributes = "cm-3", {"long_name": "normalisation C of the proton spectrum"}
    if kinetic_energy_gev is not None:
        factor *= _factor(now, "cm-3", "the normalisation C")
        factor *= float(emission.density_at_energy(1.0, kinetic_energy_gev, alpha))
        text = f"density of protons at {kinetic_energy_gev:g} GeV kinetic energy"
        now, attributes = "GeV-1 cm-3", {"long_name": text, "kinetic_energy_gev": kinetic_energy_gev}
    if units is not None:
        factor *= _factor(now, units, "the array")
        now = units
    # a density per kpc3 is beyond single precision
    return with_attributes(array.astype(np.float64) * factor, array, **attributes, units=now)


def quantity(array: xr.DataArray) -> u.Quantity:
    """The values as an astropy Quantity of float64; computes them."""
    return np.asarray(array, dtype=np.float64) * parse_unit(units_of(array))


def to_frame(array: xr.DataArray, frame: Frame) -> xr.DataArray:
    """The array with the Cartesian coordinates of its places in a frame, lazily.

    Parameters
    ----------
    array : DataArray
        On the native grid, dims (pixel, shell, ...), or on a Cartesian one of `crdist.regrid`, `slice_plane` or a
        product, whose ``x``, ``y``, ``z`` and attribute ``frame`` say where it lies.
    frame : Frame
        What the coordinates are to be in.

    Returns
    -------
    DataArray
        With the further coordinates ``x_galactocentric`` ... or ``x_heliocentric`` ... [kpc], along the dimensions of
        the array's places. The values and their order stay: no regrid is made.

    Raises
    ------
    SchemaError
        If the array does not say where it lies, or its frame has another Sun than the one asked for.
    """
    if {"pixel", "shell"} <= set(array.dims):
        places = _native_places(array, frame)
    else:
        places = _cartesian_places(array, frame)
    sun = f"R0 = {frame.r0_kpc:g} kpc, z_sun = {frame.z_sun_kpc:g} kpc, roll = {frame.roll_deg:g} deg"
    coords = {
        f"{name}_{frame.name}": place.assign_attrs(units="kpc", long_name=f"{frame.name} {name}, {sun}")
        for name, place in places.items()
    }
    return array.assign_coords(coords)


def _native_places(array: xr.DataArray, frame: Frame) -> dict[str, xr.DataArray]:
    import healpy

    grid = spherical_grid_of(array)
    towards = np.stack(healpy.pix2vec(grid.nside, np.arange(grid.n_pixel), nest=grid.ordering == "nested"), axis=-1)
    # a rotation and a shift: so is each sum of a part along the pixels and one along the shells
    turned, origin = towards @ frame.rotation.T, frame.sun_kpc
    chunks = {name: size for name, size in array.chunksizes.items() if name in ("pixel", "shell")}
    radius = xr.DataArray(grid.centres, dims="shell").chunk({k: v for k, v in chunks.items() if k == "shell"})
    places = {}
    for axis, name in enumerate(AXES):
        along = xr.DataArray(turned[:, axis], dims="pixel").chunk({k: v for k, v in chunks.items() if k == "pixel"})
        places[name] = along * radius + origin[axis]
    return places


def _cartesian_places(array: xr.DataArray, frame: Frame) -> dict[str, xr.DataArray]:
    given = array.attrs.get("frame")
    missing = [name for name in AXES if name not in array.coords]
    if not isinstance(given, Mapping) or missing:
        raise SchemaError(
            f"{array.name!r} does not say where it lies: it needs the attribute 'frame' and the coordinates x, y and z"
            + (f" (it has no {', '.join(missing)})" if missing else "")
        )
    own = Frame.from_dict(given)
    if own.galactocentric != frame.galactocentric:
        raise SchemaError(
            f"the Sun's place differs between the frames: {own.galactocentric} and {frame.galactocentric}; regrid the "
            "posterior in the frame you want"
        )
    rotation = frame.rotation @ own.rotation.T
    origin = frame.from_heliocentric(own.to_heliocentric(np.zeros(3)))
    here = [array.coords[name].astype(np.float64) for name in AXES]
    return {
        # + 0.0 turns a negative zero into a zero
        name: sum((here[k] * rotation[axis, k] for k in range(3)), start=xr.DataArray(origin[axis])) + 0.0
        for axis, name in enumerate(AXES)
    }


def _factor(given: str, wanted: str, what: str) -> float:
    try:
        return float(parse_unit(given).to(parse_unit(wanted)))
    except u.UnitConversionError as error:
        raise RecipeError(f"{what} in {given!r} cannot be converted to {wanted!r}: {error}") from error
