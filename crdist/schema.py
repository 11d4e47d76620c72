"""Names, dimensions and attributes of every Zarr store: the contract that all stages share.

A *posterior* holds samples on a spherical grid; a *products* store holds what was computed from one. Both are Zarr v3,
open with plain xarray, and say in their root attributes what they are (``schema``, ``schema_version``).
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import zarr

from crdist.errors import SchemaError
from crdist.frames import Frame
from crdist.grids import SphericalGrid

__all__ = [
    "COORDINATES",
    "INFERENCE_GROUP",
    "INFERENCE_VARIABLES",
    "POSTERIOR_DIMS",
    "POSTERIOR_SCHEMA",
    "PRODUCTS_SCHEMA",
    "SCHEMA_VERSION",
    "BesideVariable",
    "Derived",
    "PosteriorHeader",
    "Variable",
    "is_url",
    "open_group",
    "read_posterior_header",
    "versions",
]

POSTERIOR_SCHEMA = "crdist.posterior"
PRODUCTS_SCHEMA = "crdist.products"
SCHEMA_VERSION = 1

POSTERIOR_DIMS = ("pixel", "shell", "sample")
"""Sample last: one interpolation weight serves all samples of a cell, which lie side by side."""

COORDINATES = ("cell_ids", "distance", "distance_edges", "sample")

COMPUTING = ("numpy", "zarr", "xarray", "healpy", "astropy", "numba", "llvmlite", "dask", "distributed")
"""Packages that take part in a number."""

MAIN_QUANTITY = "density"
"""The name by which a recipe asks for a store's main variable, whatever that is called."""

Layout = Literal["packed", "appended"]


@dataclass(frozen=True, slots=True)
class Variable:
    """A stored variable: its name, unit and description."""

    name: str
    units: str
    long_name: str


@dataclass(frozen=True, slots=True)
class BesideVariable:
    """A variable that an inference stores beside the density, in the group `INFERENCE_GROUP`."""

    dims: tuple[str, ...]
    units: str
    long_name: str
    dtype: str = "float64"


INFERENCE_GROUP = "inference"
"""Group of a posterior store for what an inference knows beside its main variables; stores without one are whole, too.

Its attributes are ``status`` ("running" or "complete"), ``warnings`` and ``settings``, and what the inference adds.
"""

_INTENSITY = "m-2 s-1 sr-1"

INFERENCE_VARIABLES: Mapping[str, BesideVariable] = {
    "length": BesideVariable(("sample",), "kpc", "correlation length"),
    "slope": BesideVariable(("sample",), "", "slope of the spectrum"),
    "scale": BesideVariable(("sample",), "", "standard deviation of the prior's ln(density)"),
    "offset": BesideVariable(("sample",), "", "mean of the prior's ln(density / cm-3)"),
    "draw": BesideVariable(("sample",), "", "draw of (length, slope), or start, that a sample belongs to", "int64"),
    "pair": BesideVariable(("sample",), "", "mirrored pair of that draw", "int64"),
    "sky": BesideVariable(("pixel", "sample"), _INTENSITY, "intensity that a sample predicts, masked pixels too"),
    "data": BesideVariable(("pixel",), _INTENSITY, "measured intensity"),
    "sigma": BesideVariable(("pixel",), _INTENSITY, "standard deviation of the measured intensity"),
    "used": BesideVariable(("pixel",), "", "pixels that were fitted", "bool"),
    "hydrogen_density": BesideVariable(("pixel", "shell"), "cm-3", "density of hydrogen nuclei", "float32"),
    "truth": BesideVariable(("pixel", "shell"), "cm-3", "density that made a synthetic sky", "float32"),
    "evidence_length": BesideVariable(("evidence_length",), "kpc", "correlation lengths of the evidence grid"),
    "evidence_slope": BesideVariable(("evidence_slope",), "", "slopes of the evidence grid"),
    "evidence": BesideVariable(
        ("evidence_length", "evidence_slope"), "", "logarithm of the posterior density of (ln length, ln slope)"
    ),
    "iteration_draw": BesideVariable(("iteration",), "", "draw, or start, of an iteration", "int64"),
    "iteration_energy": BesideVariable(("iteration",), "", "variational energy up to a constant"),
    "iteration_reduced_chi2": BesideVariable(("iteration",), "", "chi^2 per used pixel, mean over samples"),
    "iteration_change": BesideVariable(("iteration",), "", "change of the mean in posterior standard deviations"),
    "iteration_n_sample": BesideVariable(("iteration",), "", "samples that an iteration drew", "int64"),
    "iteration_kl_steps": BesideVariable(("iteration",), "", "Newton steps of the mean", "int64"),
    "iteration_newton_steps": BesideVariable(("iteration",), "", "Newton steps that bent a sample, at most", "int64"),
    "iteration_seconds": BesideVariable(("iteration",), "s", "duration of an iteration"),
    **{
        f"iteration_{name}{suffix}": BesideVariable(("iteration",), units, f"{name}, {what} over samples")
        for name, units in (("length", "kpc"), ("slope", ""), ("scale", ""), ("offset", ""))
        for suffix, what in (("", "mean"), ("_std", "standard deviation"))
    },
}
"""What the group may hold; latent excitations, ``latent_0`` and on, too, whose last axis is the sample."""


@dataclass(frozen=True, slots=True)
class Derived:
    """A variable that is a weighted sum of stored ones, formed sample by sample when it is read."""

    name: str
    units: str
    long_name: str
    terms: tuple[tuple[str, float], ...]
    """Stored variables and their weights, such as (("n_hi", 1.0), ("n_h2", 2.0))."""

    def to_dict(self) -> dict[str, Any]:
        """The record as plain data."""
        return {**asdict(self), "terms": [list(term) for term in self.terms]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Derived:
        """The record that `to_dict` wrote."""
        terms = tuple((str(name), float(weight)) for name, weight in data["terms"])
        return cls(data["name"], data["units"], data["long_name"], terms)


@dataclass(frozen=True, slots=True)
class PosteriorHeader:
    """What a posterior store says of itself, read without touching a sample."""

    path: Path
    grid: SphericalGrid
    frame: Frame
    layout: Layout
    variables: tuple[Variable, ...]
    derived: tuple[Derived, ...]
    main: str
    """The variable that ``density`` means in a recipe."""
    n_sample: int
    provenance: Mapping[str, Any] = field(hash=False)

    def resolve(self, quantity: str) -> Derived:
        """The stored variables and weights that make up a quantity.

        Parameters
        ----------
        quantity : str
            A stored or derived variable, or ``"density"`` for the store's main one.

        Raises
        ------
        SchemaError
            If the store has no such quantity.
        """
        names = {variable.name: variable for variable in self.variables}
        sums = {derived.name: derived for derived in self.derived}
        if quantity == MAIN_QUANTITY and quantity not in names and quantity not in sums:
            quantity = self.main
        if quantity in names:
            stored = names[quantity]
            return Derived(stored.name, stored.units, stored.long_name, ((stored.name, 1.0),))
        if quantity in sums:
            return sums[quantity]
        raise SchemaError(
            f"{self.path}: no quantity {quantity!r}; it has {', '.join([*names, *sums])} "
            f"(and {MAIN_QUANTITY!r}, which means {self.main})"
        )


def is_url(path: str | Path) -> bool:
    """Whether a place is a URL, such as ``s3://bucket/store.zarr``, and no path."""
    return isinstance(path, str) and "://" in path


def open_group(path: str | Path, expected: str | None = None) -> zarr.Group:
    """Open a store of crdist read-only and check what it says it is.

    Parameters
    ----------
    path : path or str
        Folder of the store, or its URL as fsspec reads it.
    expected : str, optional
        `POSTERIOR_SCHEMA` or `PRODUCTS_SCHEMA`; by default either.

    Raises
    ------
    SchemaError
        If it is no Zarr store, not crdist's, of another kind or of another schema version.
    """
    folder = str(path)
    if not is_url(path) and not Path(path).exists():
        raise SchemaError(f"{folder}: no such store")
    try:
        group = zarr.open_group(folder, mode="r")
    except Exception as error:  # zarr raises many kinds for a folder that is not a group, and fsspec its own
        if Path(folder).is_file():
            raise SchemaError(
                f"{folder}: a file, not a store; 'crdist import {folder} STORE' makes one of a map"
            ) from error
        raise SchemaError(f"{folder}: not a Zarr store ({error or type(error).__name__})") from error
    schema, version = group.attrs.get("schema"), group.attrs.get("schema_version")
    if schema not in (POSTERIOR_SCHEMA, PRODUCTS_SCHEMA):
        raise SchemaError(f"{folder}: a Zarr store, but not one of crdist (attribute schema = {schema!r})")
    if expected is not None and schema != expected:
        kinds = {POSTERIOR_SCHEMA: "posterior samples", PRODUCTS_SCHEMA: "products"}
        raise SchemaError(f"{folder}: holds {kinds[str(schema)]}, expected {kinds[expected]}")
    if version != SCHEMA_VERSION:
        raise SchemaError(
            f"{folder}: schema version {version}, but this crdist reads version {SCHEMA_VERSION}; "
            f"open it with the crdist that wrote it, or make it anew"
        )
    return group


def read_posterior_header(path: str | Path) -> PosteriorHeader:
    """Read what a posterior store says of itself.

    Parameters
    ----------
    path : path or str
        Folder of the store, or its URL as fsspec reads it; the header's ``path`` is then the URL without a scheme.

    Raises
    ------
    SchemaError
        If the store is not a posterior of this schema version, or its parts do not fit each other.
    """
    folder = Path(path.partition("://")[2] or "/") if isinstance(path, str) and is_url(path) else Path(path)
    group = open_group(path, POSTERIOR_SCHEMA)
    attrs: Mapping[str, Any] = group.attrs.asdict()
    try:
        grid = SphericalGrid.from_dict(attrs["grid"])
        frame = Frame.from_dict(attrs["frame"])
        variables = []
        n_sample = int(_array(group, "sample", folder).shape[0])
        for name in attrs["variables"]:
            array = _array(group, name, folder)
            _check_variable(array, name, grid, n_sample, folder)
            variables.append(Variable(name, str(array.attrs["units"]), str(array.attrs["long_name"])))
        return PosteriorHeader(
            path=folder,
            grid=grid,
            frame=frame,
            layout=attrs["layout"],
            variables=tuple(variables),
            derived=tuple(Derived.from_dict(item) for item in attrs["derived"]),
            main=attrs["main_quantity"],
            n_sample=n_sample,
            provenance=attrs["provenance"],
        )
    except (KeyError, TypeError) as error:
        raise SchemaError(f"{folder}: the root attributes lack or garble {error}; make the store anew") from error


def versions(
    packages: Sequence[str] = COMPUTING,
) -> dict[str, str]:
    """Versions of crdist and of what computes with it, for provenance."""
    from crdist import __version__

    return {
        "crdist": __version__,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in packages},
    }


def _array(group: zarr.Group, name: str, folder: Path) -> zarr.Array[Any]:
    item = group.get(name)
    if not isinstance(item, zarr.Array):
        raise SchemaError(f"{folder}: array {name!r} is missing")
    return item


def _check_variable(array: zarr.Array[Any], name: str, grid: SphericalGrid, n_sample: int, folder: Path) -> None:
    dims = array.metadata.to_dict().get("dimension_names")
    if dims is None or tuple(dims) != POSTERIOR_DIMS:  # type: ignore[arg-type]
        raise SchemaError(f"{folder}: variable {name!r} has dims {dims}, expected {POSTERIOR_DIMS}")
    expected = (grid.n_pixel, grid.n_shell, n_sample)
    if array.shape != expected:
        raise SchemaError(f"{folder}: variable {name!r} has shape {array.shape}, expected {expected}")
    for key in ("units", "long_name"):
        if key not in array.attrs:
            raise SchemaError(f"{folder}: variable {name!r} has no attribute {key!r}")
