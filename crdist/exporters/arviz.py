"""A posterior in ArviZ's schema: groups with the dimensions chain and draw, as a Zarr store or a NetCDF file.

The samples are those of a variational inference, or as published; there is one chain because ArviZ wants a chain, and
every group says that they are no Markov chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from crdist import __version__
from crdist.exporters.exporter import Exporter, ExportOptions, Tell
from crdist.exporters.provenance import nature_of
from crdist.exporters.samples import Samples, SkyMap, open_samples
from crdist.exporters.trees import NetcdfTree, Tree, ZarrTree, put
from crdist.exporters.xdggs import attributes_of
from crdist.schema import INFERENCE_GROUP, open_group

__all__ = ["ARVIZ"]

HYPERPARAMETERS = ("length", "slope", "scale", "offset")
SAMPLE_FACTS = {"pair": "pair", "draw": "hyperparameter_draw"}
"""What an inference says of each sample, and its name here: a draw is something else in ArviZ."""
CONSTANTS = ("sigma", "used", "hydrogen_density", "truth")


def write_arviz(source: Path, target: Path, options: ExportOptions, tell: Tell) -> str:
    """Write the samples, and what an inference stored beside them.

    The field, or a map made of it, and the hyperparameters are the group ``posterior``; which pair a sample belongs
    to, ``sample_stats``; the predicted sky, ``posterior_predictive``; the data, ``observed_data``; their errors and
    the gas, ``constant_data``.

    Raises
    ------
    RecipeError
        If the options do not fit.
    SchemaError
        If the store is no posterior, or has no such quantity.
    DependencyError
        If what writes NetCDF is not installed.
    """
    samples = open_samples(source, options.quantity)
    chosen = SkyMap.chosen(samples, options)
    tree: Tree = NetcdfTree(target) if options.suffix == ".nc" else ZarrTree(target)
    try:
        tree.describe("", {**attributes_of(samples), **_library(samples)})
        _begin(tree, samples, "posterior", with_shells=chosen is None)
        group = _inference(samples)
        if group is not None:
            _write_inference(tree, samples, group)
        if chosen is None:
            _write_field(tree, samples, tell)
        else:
            _write_map(tree, chosen, tell)
    finally:
        tree.close()
    beside = "" if group is None else ", hyperparameters, predicted sky and data"
    return f"{samples.n_sample} samples of {samples.quantity.name} [{samples.quantity.units}]{beside} for ArviZ"


def _library(samples: Samples) -> dict[str, Any]:
    return {
        "inference_library": "crdist",
        "inference_library_version": __version__,
        "sampling": nature_of(samples),
    }


def _begin(tree: Tree, samples: Samples, group: str, *, with_shells: bool = False, with_pixels: bool = True) -> None:
    """Make a group with the coordinates that ArviZ selects by."""
    grid, n_sample = samples.header.grid, samples.n_sample
    tree.describe(group, _library(samples))
    if group not in ("observed_data", "constant_data"):
        put(tree, group, "chain", ("chain",), np.zeros(1, dtype=np.int64), {"long_name": "no Markov chain"})
        put(tree, group, "draw", ("draw",), np.arange(n_sample), {"long_name": "posterior sample"})
    if with_pixels:
        attributes = {"long_name": f"HEALPix cell, nside {grid.nside}, {grid.ordering}, Galactic coordinates"}
        put(tree, group, "pixel", ("pixel",), np.arange(grid.n_pixel), attributes)
    if with_shells:
        put(tree, group, "shell", ("shell",), np.arange(grid.n_shell), {"long_name": "distance shell"})
        for name, values, text in (
            ("distance", grid.centres, "heliocentric distance of shell centre"),
            ("distance_lower", grid.edges[:-1], "inner edge of the shell"),
            ("distance_upper", grid.edges[1:], "outer edge of the shell"),
        ):
            put(tree, group, name, ("shell",), values, {"units": "kpc", "long_name": text})
        tree.describe(group, {"coordinates": "distance distance_lower distance_upper"})


def _write_field(tree: Tree, samples: Samples, tell: Tell) -> None:
    grid, quantity = samples.header.grid, samples.quantity
    n_pixel, n_shell, at_once = samples.piece
    attributes = {"units": quantity.units, "long_name": quantity.long_name}
    write = tree.create(
        "posterior",
        quantity.name,
        ("chain", "draw", "pixel", "shell"),
        (1, samples.n_sample, grid.n_pixel, grid.n_shell),
        "f4",
        attributes,
        (1, at_once, n_pixel, n_shell),
    )
    regions = samples.regions()
    for done, region in enumerate(regions, 1):
        for some, values in samples.parts(region):
            write((slice(0, 1), some, region.pixels, region.shells), np.moveaxis(values, -1, 0)[None])
        tell(done, len(regions))


def _write_map(tree: Tree, chosen: SkyMap, tell: Tell) -> None:
    samples = chosen.samples
    n_pixel, n_sample = samples.header.grid.n_pixel, samples.n_sample
    attributes = {"units": chosen.units, "long_name": chosen.long_name}
    write = tree.create(
        "posterior",
        samples.quantity.name,
        ("chain", "draw", "pixel"),
        (1, n_sample, n_pixel),
        "f4",
        attributes,
        (1, n_sample, samples.piece[0]),
    )
    for done, (pixels, values, _) in enumerate(chosen.pieces(), 1):
        write((slice(0, 1), slice(0, n_sample), pixels), values.T[None].astype(np.float32))
        tell(done, chosen.n_piece())


def _inference(samples: Samples) -> zarr.Group | None:
    root = open_group(samples.header.path)
    if INFERENCE_GROUP not in root:
        return None
    group = root[INFERENCE_GROUP]
    assert isinstance(group, zarr.Group)
    return group


def _write_inference(tree: Tree, samples: Samples, group: zarr.Group) -> None:
    """Copy what there is of the hyperparameters, the predicted sky and the data."""
    stored: Mapping[str, Any] = dict(group.arrays())
    n = samples.n_sample

    def of_samples(where: str, names: Mapping[str, str]) -> None:
        for name, here in names.items():
            if name in stored:
                values = np.asarray(stored[name][:n])[None]
                put(tree, where, here, ("chain", "draw"), values, _attributes(stored[name]))

    of_samples("posterior", {name: name for name in HYPERPARAMETERS})
    if any(name in stored for name in SAMPLE_FACTS):
        _begin(tree, samples, "sample_stats", with_pixels=False)
        of_samples("sample_stats", SAMPLE_FACTS)
    if "sky" in stored:
        _begin(tree, samples, "posterior_predictive")
        sky = np.asarray(stored["sky"][:, :n]).T[None]
        put(tree, "posterior_predictive", "intensity", ("chain", "draw", "pixel"), sky, _attributes(stored["sky"]))
    if "data" in stored:
        _begin(tree, samples, "observed_data")
        values = np.asarray(stored["data"][...])
        put(tree, "observed_data", "intensity", ("pixel",), values, _attributes(stored["data"]))
    constants = [name for name in CONSTANTS if name in stored]
    if constants:
        _begin(tree, samples, "constant_data", with_shells=True)
        for name in constants:
            dims = ("pixel", "shell")[: stored[name].ndim]
            put(tree, "constant_data", name, dims, np.asarray(stored[name][...]), _attributes(stored[name]))


def _attributes(array: zarr.Array[Any]) -> dict[str, Any]:
    return {key: array.attrs[key] for key in ("units", "long_name") if key in array.attrs}


ARVIZ = Exporter(
    name="arviz",
    reads=("posterior",),
    suffixes=(".nc", ".zarr"),
    options=frozenset({"quantity", "shell", "distance_kpc", "inner"}),
    summary="samples and hyperparameters in ArviZ's schema, NetCDF or Zarr; arviz, xarray.open_datatree",
    write=write_arviz,
)
