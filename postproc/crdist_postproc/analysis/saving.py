"""Write computed samples as a posterior store, shard by shard, so that everything else can be done with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from crdist.errors import SchemaError
from crdist.frames import Frame
from crdist.grids import SphericalGrid
from crdist.schema import PosteriorHeader, Variable, read_posterior_header, versions
from crdist.store import create_posterior, new_store, posterior_shards, write_shard
from crdist_postproc.analysis.samples import long_name_of, require_samples, units_of
from crdist_postproc.lazy import spherical_grid_of

__all__ = ["save"]


def save(
    samples: xr.DataArray, path: str | Path, *, frame: Frame | None = None, provenance: Mapping[str, Any] | None = None
) -> PosteriorHeader:
    """Write samples on a native grid as a packed posterior store; computes them, one shard at a time.

    Parameters
    ----------
    samples : DataArray, dims (pixel, shell, sample)
        With a name and units; of `derive`, of a posterior, or computed from one.
    path : path
        Folder to create.
    frame : Frame, optional
        The heliocentric frame of the grid; default: ``Frame(name="heliocentric")``.
    provenance : mapping, optional
        Plain data: where the samples come from. The array's attributes and the versions that computed are added.

    Raises
    ------
    SchemaError
        If the array has no name, units or samples, or values are infinite.
    StoreExistsError
        If the folder exists.
    """
    n_sample = require_samples(samples)
    units, name = units_of(samples), samples.name
    if not isinstance(name, str) or not name.isidentifier():
        raise SchemaError(f"samples need a name that a variable can have, got {name!r}; use samples.rename('...')")
    grid = spherical_grid_of(samples)
    nested = SphericalGrid(grid.nside, grid.edges_kpc, grid.centres_kpc, "nested")
    ordered = samples.transpose("pixel", "shell", "sample")
    attributes = {key: value for key, value in samples.attrs.items() if key not in ("units", "long_name")}
    record = {**(provenance or {}), "computed": {**attributes, "versions": versions()}}
    if "sample" in samples.coords and "store" in samples["sample"].attrs:
        # so that what is made from one draw still counts as such
        record["computed"]["samples_of"] = samples["sample"].attrs["store"]
    with new_store(path) as folder:
        header = create_posterior(
            folder,
            nested,
            [Variable(name, units, long_name_of(samples))],
            n_sample=n_sample,
            layout="packed",
            provenance=record,
            frame=frame,
        )
        for shard in posterior_shards(header):
            pixels: Any = shard.pixels
            if grid.ordering == "ring":
                import healpy

                pixels = healpy.nest2ring(grid.nside, np.arange(shard.pixels.start, shard.pixels.stop))
            computed = ordered.isel(pixel=pixels, shell=shard.shells).values
            with np.errstate(over="ignore"):
                values = computed.astype(np.float32, copy=False)
            n_infinite = int(np.isinf(values).sum())
            if n_infinite:
                raise SchemaError(
                    f"{path}: {n_infinite} values of {name!r} are infinite or beyond single precision; mask them "
                    "first with samples.where(...), or choose another unit with samples.crdist.convert(...)"
                )
            write_shard(header, name, shard, values)
    return read_posterior_header(path)
