"""What the functions of this package need to know of an array of samples."""

from __future__ import annotations

from typing import Any

import xarray as xr

from crdist.errors import SchemaError

__all__ = ["long_name_of", "require_samples", "units_of", "with_attributes"]


def units_of(array: xr.DataArray) -> str:
    """The attribute ``units``.

    Raises
    ------
    SchemaError
        If there is none.
    """
    if "units" not in array.attrs:
        raise SchemaError(
            f"{_name(array)} has no attribute 'units'; set array.attrs['units'], such as 'cm-3' (arithmetic may drop "
            "attributes, or keep those of one side; crdist.derive makes them right)"
        )
    return str(array.attrs["units"])


def long_name_of(array: xr.DataArray) -> str:
    """What the array is, in words."""
    return str(array.attrs.get("long_name", array.name or "density"))


def require_samples(array: xr.DataArray) -> int:
    """Number of samples.

    Raises
    ------
    SchemaError
        If the array has no dimension ``sample``.
    """
    if "sample" not in array.dims:
        raise SchemaError(f"{_name(array)} has no dimension 'sample' (it has {', '.join(map(str, array.dims))})")
    return int(array.sizes["sample"])


def with_attributes(array: xr.DataArray, like: xr.DataArray, **attributes: Any) -> xr.DataArray:
    """The array with the attributes of another, and further ones."""
    return array.assign_attrs({**like.attrs, **attributes})


def _name(array: xr.DataArray) -> str:
    return repr(str(array.name)) if array.name is not None else "the array"
