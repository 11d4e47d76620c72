"""Open stores lazily with xarray, checked against the schema; read-only, from a folder or from a URL.

What is read later is read from the store as it is then. Samples that are appended meanwhile do not count, and a store
that is gone, or is another one by then, is an error: zarr itself would take what is missing for cells without a value.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from crdist.errors import DependencyError, SchemaError
from crdist.schema import (
    INFERENCE_GROUP,
    POSTERIOR_SCHEMA,
    PRODUCTS_SCHEMA,
    PosteriorHeader,
    is_url,
    open_group,
    read_posterior_header,
)

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["open_inference", "open_posterior", "open_products"]


def open_posterior(path: str | Path) -> xr.Dataset:
    """Open a posterior lazily as an xarray Dataset, checked against the schema; read-only.

    Beside what plain ``xarray.open_zarr`` gives, it holds the derived variables and, along ``shell``, the
    coordinates ``distance_lower`` and ``distance_upper`` [kpc], which stay with a variable taken out of the dataset.
    The coordinates that tell the grid are in memory, so that nothing computes where they are looked at. The coordinate
    ``sample`` has the attributes ``path`` and ``store``; the latter is the same for all stores of the same draws,
    such as one that an inference wrote and the one it was packed into, and tells `crdist.derive` what belongs together.

    Parameters
    ----------
    path : path or str
        The store: a folder, or a URL that fsspec reads, such as ``s3://...``, ``https://...`` or ``memory://...``.

    Returns
    -------
    xarray.Dataset
        Of a store that grows, the samples that were complete when it was opened. Computing raises SchemaError if the
        folder has been removed or replaced since; behind a URL this is not known.

    Raises
    ------
    SchemaError
        If the store is not a posterior of this schema version, or cannot be reached.
    DependencyError
        If the package with which fsspec reads such a URL is not installed.
    """
    import xarray as xr

    import crdist.accessor  # noqa: F401  gives what is opened its accessor

    place = _reachable(path)
    header = read_posterior_header(place)
    dataset: xr.Dataset = xr.open_zarr(place, consolidated=True)
    if dataset.sizes["sample"] > header.n_sample:
        # one was appended since the header was read
        dataset = dataset.isel(sample=slice(header.n_sample))
    if isinstance(place, Path):
        opened = _Opened.of(place, header)
        for variable in header.variables:
            blocks = dataset[variable.name].data
            checked = blocks.map_blocks(_from_the_same_store, opened, dtype=blocks.dtype, meta=blocks._meta)
            dataset[variable.name] = dataset[variable.name].copy(data=checked)
    for derived in header.derived:
        first, *rest = (np.float32(weight) * dataset[name] for name, weight in derived.terms)
        dataset[derived.name] = sum(rest, start=first).assign_attrs(units=derived.units, long_name=derived.long_name)
    kpc = {"units": "kpc"}
    path_or_url = str(place.absolute()) if isinstance(place, Path) else place
    named = {"store": _draws(header.provenance, path_or_url), "path": path_or_url}
    return dataset.assign_coords(
        sample=("sample", np.arange(header.n_sample), {**dataset["sample"].attrs, **named}),
        # known from the attributes: reading them would be a computation
        cell_ids=("pixel", np.arange(header.grid.n_pixel), dataset["cell_ids"].attrs),
        distance=("shell", header.grid.centres, dataset["distance"].attrs),
        distance_lower=("shell", header.grid.edges[:-1], {**kpc, "long_name": "inner edge of the shell"}),
        distance_upper=("shell", header.grid.edges[1:], {**kpc, "long_name": "outer edge of the shell"}),
    )


def open_inference(path: str | Path) -> xr.Dataset:
    """Open what an inference stored beside its samples: hyperparameters, skies, data, iterations; lazily.

    Parameters
    ----------
    path : path or str
        A posterior store: a folder, or a URL as for `open_posterior`.

    Returns
    -------
    xarray.Dataset
        With the variables of `crdist.schema.INFERENCE_VARIABLES` that the store has.

    Raises
    ------
    SchemaError
        If the store is not a posterior of this schema version, or comes from no inference.
    """
    import xarray as xr

    place = _reachable(path)
    if INFERENCE_GROUP not in open_group(place, POSTERIOR_SCHEMA):
        raise SchemaError(f"{place}: has no group {INFERENCE_GROUP!r}; its samples do not come from an inference")
    # through the root, whose copy of the metadata is one moment's
    tree = xr.open_datatree(place, engine="zarr", chunks={})
    return tree.children[INFERENCE_GROUP].to_dataset(inherit=False)


def open_products(path: str | Path, *, allow_partial: bool = False) -> xr.DataTree:
    """Open a products store lazily as an xarray DataTree, checked against the schema.

    Parameters
    ----------
    path : path or str
        The store: a folder, or a URL as for `open_posterior`.
    allow_partial : bool
        Also open a store whose run is not complete; what is missing is NaN.

    Raises
    ------
    SchemaError
        If the store is not one of products of this schema version, or its run is not complete.
    """
    import xarray as xr

    import crdist.accessor  # noqa: F401  gives what is opened its accessor

    place = _reachable(path)
    status = open_group(place, PRODUCTS_SCHEMA).attrs.get("status")
    if status != "complete" and not allow_partial:
        raise SchemaError(
            f"{path}: its run is not complete; run the same 'crdist post' again to finish it, "
            "or open it with allow_partial=True"
        )
    return xr.open_datatree(place, engine="zarr", chunks={})


@dataclass(frozen=True, slots=True)
class _Opened:
    """What a folder was when it was opened."""

    path: str
    host: str
    inode: int
    content: str
    """Digest of what the root says; the number of samples, which may grow, is not in it."""
    n_sample: int

    @classmethod
    def of(cls, path: Path, header: PosteriorHeader) -> _Opened:
        folder = path.absolute()
        return cls(str(folder), socket.gethostname(), folder.stat().st_ino, _content(folder), header.n_sample)

    def check(self) -> None:
        """Raise SchemaError if the folder is gone or holds something else."""
        try:
            inode, root = os.stat(self.path).st_ino, os.stat(os.path.join(self.path, "zarr.json"))
        except FileNotFoundError as error:
            raise SchemaError(f"{self.path}: is no longer there; it was when it was opened") from error
        # a file system that several machines mount need not give a folder one number on all of them
        replaced = self.host == socket.gethostname() and inode != self.inode
        seen = (root.st_ino, root.st_mtime_ns)
        if not replaced and _sound.get(self) != seen:
            header = read_posterior_header(self.path)
            replaced = _content(Path(self.path)) != self.content or header.n_sample < self.n_sample
        if replaced:
            raise SchemaError(f"{self.path}: has been replaced by another store since it was opened; open it again")
        _sound[self] = seen


_sound: dict[_Opened, tuple[int, int]] = {}
"""Which file held a root that was looked at and found to be the same: it is read again only when it is another."""


def _from_the_same_store(block: npt.NDArray[np.float32], opened: _Opened) -> npt.NDArray[np.float32]:
    # after the block was read: what was there then is there now
    opened.check()
    return block


def _draws(provenance: Mapping[str, Any], path_or_url: str) -> str:
    """A short text that stands for a set of draws."""
    computed = provenance.get("computed")
    if isinstance(computed, Mapping) and isinstance(computed.get("samples_of"), str):
        return str(computed["samples_of"])
    source = provenance.get("source")
    checksum = source.get("sha256") if isinstance(source, Mapping) else None
    if "run" in provenance:
        # an inference: its settings, its data and its seed
        made_by: Any = {key: value for key, value in provenance.items() if key != "packed"}
    elif checksum:
        # a published file, in whatever variables and units it was imported
        made_by = checksum
    else:
        made_by = path_or_url
    return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:16]


def _content(folder: Path) -> str:
    attributes = open_group(folder).attrs.asdict()
    return hashlib.sha256(json.dumps(attributes, sort_keys=True).encode()).hexdigest()


def _reachable(path: str | Path) -> str | Path:
    """A folder as a path, a URL as it is if there is a package that reads it."""
    if not (isinstance(path, str) and is_url(path)):
        return Path(path)
    if path.startswith("file://"):
        return Path(path.removeprefix("file://"))
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    try:
        files, place = url_to_fs(path)
        if path.startswith(("http://", "https://")):
            _check_server(path, files, place)
    except SchemaError:
        raise
    except ImportError as error:
        raise DependencyError(f"{path}: cannot be read here: {error}") from error
    except (ValueError, OSError) as error:
        words = str(error) or type(error).__name__
        raise SchemaError(f"{path}: cannot be reached: {words}") from error
    return path


def _check_server(url: str, files: Any, place: str) -> None:
    """Refuse a server that sends whole files alone: parts of shards would be taken for what they are not."""
    metadata = f"{place.rstrip('/')}/zarr.json"
    try:
        part = files.cat_file(metadata, start=0, end=1)
    except FileNotFoundError as error:
        raise SchemaError(f"{url}: not a Zarr store: there is no {metadata}") from error
    if len(part) != 1:
        raise SchemaError(
            f"{url}: the server does not send parts of files (range requests); download the store, or serve "
            "it by a server that does, such as nginx, Apache or an object store"
        )
