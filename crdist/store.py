"""Create, fill and open posterior stores.

One schema, two chunkings. *Packed*: a chunk holds all samples of some neighbouring (nested) pixels and shells, which
is what a regrid reads. *Appended*: a chunk holds part of one sample, and a sample becomes visible when it is complete,
which is what an inference writes. Both are sharded, checksummed and read alike.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec

from crdist.durable import PARTIAL_SUFFIX, DurableStore, new_store, remove_partial_files, write_durably
from crdist.errors import SchemaError, StoreExistsError
from crdist.frames import Frame
from crdist.grids import SphericalGrid
from crdist.opening import open_inference, open_posterior, open_products
from crdist.schema import (
    INFERENCE_GROUP,
    POSTERIOR_DIMS,
    POSTERIOR_SCHEMA,
    SCHEMA_VERSION,
    Derived,
    Layout,
    PosteriorHeader,
    Variable,
    open_group,
    read_posterior_header,
    versions,
)
from crdist.units import parse_unit

__all__ = [
    "Shard",
    "append_sample",
    "consolidate",
    "create_posterior",
    "new_store",
    "open_for_reading",
    "open_for_writing",
    "open_inference",
    "open_posterior",
    "open_products",
    "pack",
    "posterior_shards",
    "set_provenance",
    "write_shard",
]

CHUNK_SHELLS = 32
"""Shells in a chunk: with nested pixels, the size that reads least for local boxes and whole grids alike."""
CHUNK_BYTES_MIN, CHUNK_BYTES_MAX = 256 * 1024, 2 * 1024**2
SHARD_BYTES_MAX = 32 * 1024**2
SAMPLE_CHUNK = 4096

_opening = threading.Lock()
"""Which codecs an array gets is a setting of the process when it is opened; writers must get zarr's own."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A rectangle of a posterior variable that one file holds: what a writer writes at once."""

    pixels: slice
    shells: slice
    samples: slice

    @property
    def region(self) -> tuple[slice, slice, slice]:
        """Where it lies in the variable."""
        return self.pixels, self.shells, self.samples


def create_posterior(
    path: str | Path,
    grid: SphericalGrid,
    variables: Sequence[Variable],
    *,
    n_sample: int,
    layout: Layout,
    provenance: Mapping[str, Any],
    derived: Sequence[Derived] = (),
    main: str | None = None,
    frame: Frame | None = None,
) -> PosteriorHeader:
    """Create an empty posterior store.

    Parameters
    ----------
    path : path
        Folder to create; it must not exist.
    grid : SphericalGrid
        Grid of the samples. Packed stores are nested.
    variables : sequence of Variable
        What each sample holds.
    n_sample : int
        Number of samples; 0 for an appended store, which grows.
    layout : {"packed", "appended"}
        Chunking, see the module's text.
    provenance : mapping
        Versions, configuration and digest of the source; plain data.
    derived : sequence of Derived
        Weighted sums of the variables that readers may ask for.
    main : str, optional
        The quantity that ``density`` means; default: the first variable.
    frame : Frame, optional
        The heliocentric frame of the grid; default: ``Frame(name="heliocentric")``.

    Raises
    ------
    SchemaError
        If a unit cannot be read or the layout and the grid do not go together.
    StoreExistsError
        If the folder exists.
    """
    folder = Path(path)
    if folder.exists():
        raise StoreExistsError(f"{folder}: exists already; choose another name or remove it")
    for units in [item.units for item in variables] + [item.units for item in derived]:
        parse_unit(units)
    if layout == "packed" and grid.ordering != "nested":
        raise SchemaError(f"{folder}: a packed posterior is nested, got a grid in {grid.ordering} order")
    if layout == "appended" and n_sample != 0:
        raise SchemaError(f"{folder}: an appended posterior starts empty, got n_sample = {n_sample}")
    frame = frame or Frame(name="heliocentric")
    if frame.name != "heliocentric":
        raise SchemaError(f"{folder}: the native grid is heliocentric, got a {frame.name} frame")
    chunks, shards = _chunks_and_shards(grid, n_sample, layout)
    root = zarr.create_group(
        DurableStore(folder),
        attributes={
            "schema": POSTERIOR_SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "layout": layout,
            "grid": grid.to_dict(),
            "frame": frame.to_dict(),
            "variables": [variable.name for variable in variables],
            "derived": [item.to_dict() for item in derived],
            "main_quantity": main or variables[0].name,
            "coordinates": "cell_ids distance distance_edges",
            "provenance": dict(provenance),
        },
    )
    for variable in variables:
        root.create_array(
            variable.name,
            shape=(grid.n_pixel, grid.n_shell, n_sample),
            dtype="float32",
            chunks=chunks,
            shards=shards,
            compressors=[Crc32cCodec()],
            fill_value=np.nan,
            dimension_names=POSTERIOR_DIMS,
            attributes={"units": variable.units, "long_name": variable.long_name},
            # a chunk that is missing is then always one that was lost
            config={"write_empty_chunks": True},
        )
    _write_coordinates(root, grid, n_sample)
    consolidate(folder)
    return read_posterior_header(folder)


def posterior_shards(header: PosteriorHeader) -> Iterator[Shard]:
    """The shards of a packed store's variables, pixels slowest; no two overlap and together they cover all."""
    _, (pixels, shells, _) = _chunks_and_shards(header.grid, header.n_sample, "packed")
    for first_pixel in range(0, header.grid.n_pixel, pixels):
        for first_shell in range(0, header.grid.n_shell, shells):
            yield Shard(
                slice(first_pixel, min(first_pixel + pixels, header.grid.n_pixel)),
                slice(first_shell, min(first_shell + shells, header.grid.n_shell)),
                slice(0, header.n_sample),
            )


def write_shard(header: PosteriorHeader, variable: str, shard: Shard, values: npt.NDArray[np.floating]) -> None:
    """Write one whole shard of a packed store.

    Raises
    ------
    SchemaError
        If the region is not exactly one shard: a part of one would erase the rest.
    """
    sizes = _chunks_and_shards(header.grid, header.n_sample, "packed")[1]
    whole = (header.grid.n_pixel, header.grid.n_shell, header.n_sample)
    for part, size, most in zip(shard.region, sizes, whole, strict=True):
        if part.start % size or not part.start < part.stop == min(part.start + size, most):
            raise SchemaError(f"{header.path}: {shard} is not one whole shard of {variable!r}")
    array = open_for_writing(header.path, variable)
    array[shard.region] = np.ascontiguousarray(values, dtype=np.float32)


def append_sample(path: str | Path, values: Mapping[str, npt.NDArray[np.floating]]) -> int:
    """Append one sample to an appended store; return its index.

    The data are written beside what readers see, then the store's metadata are replaced in one rename: a reader sees
    the sample whole or not at all, and a killed writer leaves nothing that counts. One writer at a time.

    Parameters
    ----------
    path : path
        The store.
    values : mapping of str to ndarray, shape (n_pixel, n_shell)
        One array for each variable of the store, in the store's pixel order and units.

    Raises
    ------
    SchemaError
        If the store is packed, names or shapes differ from the store's, or a value is infinite or beyond single
        precision. NaN marks a value that is unknown.
    """
    header = read_posterior_header(path)
    if header.layout != "appended":
        raise SchemaError(f"{header.path}: a packed posterior cannot grow; append to the store it was packed from")
    names = {variable.name for variable in header.variables}
    if set(values) != names:
        raise SchemaError(f"{header.path}: a sample has {sorted(names)}, got {sorted(values)}")
    expected = (header.grid.n_pixel, header.grid.n_shell)
    single = {}
    for name, array in values.items():
        if array.shape != expected:
            raise SchemaError(f"{header.path}: {name!r} of a sample has shape {expected}, got {array.shape}")
        with np.errstate(over="ignore"):
            single[name] = np.asarray(array, dtype=np.float32)
        n_infinite = np.count_nonzero(np.isinf(single[name]))
        if n_infinite:
            raise SchemaError(
                f"{header.path}: {name!r} of a sample is infinite, or beyond single precision, in {n_infinite} of "
                f"{array.size} cells; mark unknown values as NaN"
            )
    remove_partial_files(header.path)
    index = header.n_sample
    for name, array in single.items():
        stored = open_for_writing(header.path, name)
        # An earlier writer may have died after resizing: what readers see is the root's record, so start from that.
        stored = _with_samples(stored, index + 1)
        stored[:, :, index : index + 1] = array[:, :, None]
    labels = _with_samples(open_for_writing(header.path, "sample"), index + 1)
    labels[: index + 1] = np.arange(index + 1)
    for name in (*values, "sample"):
        stored = open_for_writing(header.path, name)
        stored.resize((*stored.shape[:-1], index + 1))
    consolidate(header.path)
    return index


def pack(source: str | Path, target: str | Path) -> PosteriorHeader:
    """Rewrite a posterior with all samples in a chunk, shard by shard.

    The provenance is the source's, and under ``packed`` the source's name and the versions that packed it; there is
    the source's own ``packed``, too, if it has one. What an inference stored beside nested samples is copied.

    Raises
    ------
    SchemaError
        If the source is not a posterior or holds no sample yet.
    StoreExistsError
        If the target exists.
    """
    import healpy

    header = read_posterior_header(source)
    if header.n_sample == 0:
        raise SchemaError(f"{header.path}: holds no sample yet")
    grid = SphericalGrid(header.grid.nside, header.grid.edges_kpc, header.grid.centres_kpc, "nested")
    record: dict[str, Any] = {"versions": versions(), "from": header.path.absolute().name}
    if "packed" in header.provenance:
        record["packed"] = header.provenance["packed"]
    with new_store(target) as folder:
        packed = create_posterior(
            folder,
            grid,
            header.variables,
            n_sample=header.n_sample,
            layout="packed",
            provenance={**header.provenance, "packed": record},
            derived=header.derived,
            main=header.main,
            frame=header.frame,
        )
        for variable in header.variables:
            array = zarr.open_array(str(header.path), path=variable.name, mode="r")
            for shard in posterior_shards(packed):
                pixels = np.arange(shard.pixels.start, shard.pixels.stop)
                if header.grid.ordering == "ring":
                    pixels = healpy.nest2ring(grid.nside, pixels)
                    values = array.oindex[pixels, shard.shells, shard.samples]
                else:
                    values = array[shard.region]
                write_shard(packed, variable.name, shard, np.asarray(values))
        if header.grid.ordering == "nested" and INFERENCE_GROUP in open_group(header.path):
            _copy_inference(header, folder)
    return read_posterior_header(target)


def _copy_inference(header: PosteriorHeader, target: Path) -> None:
    """Copy what an inference stored beside the samples, of those samples that the header counts."""
    for path in (header.path / INFERENCE_GROUP).rglob("*"):
        if path.is_file() and not path.name.endswith(PARTIAL_SUFFIX):
            write_durably(target / path.relative_to(header.path), path.read_bytes())
    for name, array in zarr.open_group(str(target), path=INFERENCE_GROUP, mode="r", use_consolidated=False).arrays():
        dims: Any = array.metadata.to_dict().get("dimension_names") or ()
        if "sample" in dims:
            stored = open_for_writing(target, f"{INFERENCE_GROUP}/{name}")
            stored.resize(
                tuple(header.n_sample if d == "sample" else n for d, n in zip(dims, array.shape, strict=True))
            )
    consolidate(target)


def set_provenance(folder: str | Path, provenance: Mapping[str, Any]) -> None:
    """Replace the provenance of a store, in one rename.

    Parameters
    ----------
    folder : path
        The store.
    provenance : mapping
        Plain data, all of it: what the store has is not kept.

    Raises
    ------
    SchemaError
        If the folder is no store of this schema version.
    """
    open_group(folder)
    # zarr writes the consolidated metadata that it read back with the attributes.
    zarr.open_group(DurableStore(Path(folder)), mode="r+").update_attributes({"provenance": dict(provenance)})


def consolidate(folder: Path) -> None:
    """Put the metadata of all arrays of a store into its root's, in one rename: what readers go by."""
    with warnings.catch_warnings():
        # zarr warns that other readers of Zarr v3 may not know consolidated metadata; they then read the arrays' own.
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        zarr.consolidate_metadata(DurableStore(folder))


def _chunks_and_shards(
    grid: SphericalGrid, n_sample: int, layout: Layout
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Shape of the chunks and of the shards that hold them."""
    samples = max(n_sample, 1) if layout == "packed" else 1
    groups = -(-grid.n_shell // CHUNK_SHELLS)
    shells = -(-grid.n_shell // groups)

    def n_bytes(n_pixel: int, n_shell: int) -> int:
        return 4 * n_pixel * n_shell * samples

    base = grid.nside**2
    pixels = 1
    while 4 * pixels <= base and n_bytes(4 * pixels, shells) <= CHUNK_BYTES_MAX:
        # Chunks no wider than a 64th of a base pixel waste little of what a local box reads; below a quarter
        # of a MiB the cost of finding a chunk outweighs that.
        if 4 * pixels > base // 64 and n_bytes(pixels, shells) >= CHUNK_BYTES_MIN:
            break
        pixels *= 4
    chunks = (pixels, shells, samples)
    if layout == "appended":
        return chunks, (12 * base, shells * groups, 1)
    shard_pixels, shard_shells = pixels, shells
    while 4 * shard_pixels <= base and n_bytes(4 * shard_pixels, shells) <= SHARD_BYTES_MAX:
        shard_pixels *= 4
    if n_bytes(shard_pixels, shells * groups) <= SHARD_BYTES_MAX:
        shard_shells = shells * groups
    return chunks, (shard_pixels, shard_shells, samples)


def _write_coordinates(root: zarr.Group, grid: SphericalGrid, n_sample: int) -> None:
    def coordinate(
        name: str, dim: str, values: npt.NDArray[Any], attributes: dict[str, Any], chunk: int | None = None
    ) -> None:
        array = root.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(chunk or max(1, min(values.size, 1024**2)),),
            dimension_names=(dim,),
            attributes=attributes,
            config={"write_empty_chunks": True},
        )
        if values.size:
            array[...] = values

    # these three and no more: xdggs takes each attribute for a parameter of the grid
    scheme = {"grid_name": "healpix", "level": grid.level, "indexing_scheme": grid.ordering}
    coordinate("cell_ids", "pixel", np.arange(grid.n_pixel), scheme)
    coordinate(
        "distance",
        "shell",
        grid.centres,
        {"units": "kpc", "long_name": "heliocentric distance of shell centre"},
    )
    coordinate("distance_edges", "shell_edge", grid.edges, {"units": "kpc", "long_name": "shell edges"})
    coordinate("sample", "sample", np.arange(n_sample), {"long_name": "posterior sample"}, chunk=SAMPLE_CHUNK)


def open_for_reading(folder: Path, name: str) -> zarr.Array[Any]:
    """An array of a store, read by the ``zarrs`` codecs where those are installed: about twice as fast."""
    fast = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"} if find_spec("zarrs") else {}
    with _opening, zarr.config.set(fast):
        return zarr.open_array(str(folder), path=name, mode="r")


def open_for_writing(folder: Path, name: str) -> zarr.Array[Any]:
    """An array of a store, such that every write is on the disk when it returns and no chunk is left out."""
    # Without this a chunk of fill values alone would not be written, and look like one that was lost. zarr.open_array
    # takes a config, too, but ignores it for an array that exists.
    with _opening:
        return zarr.open_array(DurableStore(folder), path=name, mode="r+").with_config({"write_empty_chunks": True})


def _with_samples(array: zarr.Array[Any], n_sample: int) -> zarr.Array[Any]:
    """The same array with room for more samples, in this process alone: its metadata on the disk stay."""
    inner = array.async_array
    metadata = inner.metadata.update_shape((*array.shape[:-1], n_sample))
    return zarr.Array(type(inner)(metadata=metadata, store_path=inner.store_path, config=inner.config))
