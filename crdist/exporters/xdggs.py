"""A Zarr store of HEALPix cells as xdggs decodes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crdist.exporters.exporter import Exporter, ExportOptions, Tell
from crdist.exporters.provenance import comments_of, provenance_of
from crdist.exporters.samples import Samples, SkyMap, open_samples, significance, statistics_of
from crdist.exporters.trees import WriteRegion, ZarrTree, put

__all__ = ["XDGGS"]


def write_xdggs(source: Path, target: Path, options: ExportOptions, tell: Tell) -> str:
    """Write all shells of a posterior, or a map made of it.

    Raises
    ------
    RecipeError
        If the options do not fit.
    SchemaError
        If the store is no posterior, or has no such quantity.
    """
    samples = open_samples(source, options.quantity)
    chosen = SkyMap.chosen(samples, options)
    tree = ZarrTree(target)
    tree.describe("", attributes_of(samples))
    _write_coordinates(tree, samples, with_shells=chosen is None)
    if options.values == "samples":
        put(tree, "", "sample", ("sample",), np.arange(samples.n_sample), {"long_name": "posterior sample"})
    if chosen is None:
        _write_shells(tree, samples, options, tell)
    else:
        _write_map(tree, chosen, options, tell)
    tree.close()
    what = f"{samples.quantity.name} [{samples.quantity.units}]" if chosen is None else chosen.long_name
    return f"{what} on HEALPix cells as xdggs decodes them"


def attributes_of(samples: Samples) -> dict[str, Any]:
    """What the root of a store or file says: quantity, frame, number and nature of the samples, provenance."""
    return {
        "quantity": samples.quantity.name,
        "n_sample": samples.n_sample,
        "frame": samples.header.frame.to_dict(),
        "notes": comments_of(samples),
        "provenance": provenance_of(samples),
    }


def _write_shells(tree: ZarrTree, samples: Samples, options: ExportOptions, tell: Tell) -> None:
    grid, quantity = samples.header.grid, samples.quantity
    piece = samples.piece
    dims, shape = ("cells", "shell"), (grid.n_pixel, grid.n_shell)
    writers: list[WriteRegion]
    if options.values == "samples":
        attributes = {"units": quantity.units, "long_name": quantity.long_name}
        whole = (*shape, samples.n_sample)
        writers = [tree.create("", quantity.name, (*dims, "sample"), whole, "f4", attributes, piece)]
    else:
        writers = _statistics(tree, samples, quantity.units, quantity.long_name, dims, shape, piece[:2])
    regions = samples.regions()
    for done, region in enumerate(regions, 1):
        where = (region.pixels, region.shells)
        if options.values == "samples":
            for some, values in samples.parts(region):
                writers[0]((*where, some), values)
        else:
            mean, std = samples.statistics(region)
            for write, values64 in zip(writers, (mean, std, significance(mean, std)), strict=True):
                write(where, values64.astype(np.float32))
        tell(done, len(regions))


def _write_map(tree: ZarrTree, chosen: SkyMap, options: ExportOptions, tell: Tell) -> None:
    samples = chosen.samples
    n_pixel, n_sample, step = samples.header.grid.n_pixel, samples.n_sample, samples.piece[0]
    extra: Mapping[str, Any] = {"distance_kpc": list(chosen.limits_kpc)}
    attributes = {"units": chosen.units, "long_name": chosen.long_name, **extra}
    integral = chosen.shell is None
    if options.values == "samples":
        dims, whole, chunks = ("cells", "sample"), (n_pixel, n_sample), (step, n_sample)
        writers = [tree.create("", samples.quantity.name, dims, whole, "f4", attributes, chunks)]
    else:
        writers = _statistics(tree, samples, chosen.units, chosen.long_name, ("cells",), (n_pixel,), (step,), extra)
    covered = None
    if integral:
        text = f"{chosen.long_name}, part of the integral that lies inside the source grid"
        about = {"units": "", "long_name": text}
        covered = tree.create("", "coverage", ("cells",), (n_pixel,), "f4", about, (step,))
    for done, (pixels, values, coverage) in enumerate(chosen.pieces(), 1):
        if options.values == "samples":
            writers[0]((pixels, slice(0, n_sample)), values.astype(np.float32))
        else:
            mean, std = statistics_of(values)
            for write, statistic in zip(writers, (mean, std, significance(mean, std)), strict=True):
                write((pixels,), statistic.astype(np.float32))
        if covered is not None:
            covered((pixels,), coverage.astype(np.float32))
        tell(done, chosen.n_piece())


def _statistics(
    tree: ZarrTree,
    samples: Samples,
    units: str,
    long_name: str,
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    extra: Mapping[str, Any] | None = None,
) -> list[WriteRegion]:
    n_sample = samples.n_sample
    named = (
        ("mean", units, f"{long_name}, mean over {n_sample} samples"),
        ("std", units, f"{long_name}, standard deviation over {n_sample} samples (ddof=1)"),
        ("significance", "", f"{long_name}, mean / std over {n_sample} samples"),
    )
    return [
        tree.create("", name, dims, shape, "f4", {"units": unit, "long_name": text, **(extra or {})}, chunks)
        for name, unit, text in named
    ]


def _write_coordinates(tree: ZarrTree, samples: Samples, *, with_shells: bool) -> None:
    grid = samples.header.grid
    # xdggs takes every attribute of the cells for a parameter of their grid: the sky's frame stands at the root
    scheme = {"grid_name": "healpix", "level": grid.level, "indexing_scheme": grid.ordering}
    put(tree, "", "cell_ids", ("cells",), np.arange(grid.n_pixel), scheme)
    coordinates = "cell_ids"
    if with_shells:
        for name, values, text in (
            ("distance", grid.centres, "heliocentric distance of shell centre"),
            ("distance_lower", grid.edges[:-1], "inner edge of the shell"),
            ("distance_upper", grid.edges[1:], "outer edge of the shell"),
        ):
            put(tree, "", name, ("shell",), values, {"units": "kpc", "long_name": text})
            coordinates += f" {name}"
    tree.describe("", {"coordinates": coordinates, "sky_frame": "galactic"})


XDGGS = Exporter(
    name="xdggs",
    reads=("posterior",),
    suffixes=(".zarr",),
    options=frozenset({"quantity", "values", "shell", "distance_kpc", "inner"}),
    summary="a Zarr store of HEALPix cells, of all shells, one, or an integral; xdggs, xarray",
    write=write_xdggs,
)
