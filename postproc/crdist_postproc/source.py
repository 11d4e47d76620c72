"""Read samples out of a posterior store into the kernels' layout, once in each process."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from crdist.errors import GridError, SchemaError
from crdist.schema import PosteriorHeader, read_posterior_header
from crdist_postproc.kernels.field import Field, Inner, Method, ValueSpace, padded_samples, ring_rows

__all__ = ["Source", "field_bytes", "load_field", "store_digest"]

CACHED_FIELDS = 2
"""Fields that a process keeps: the samples and the gas that weights them."""

READ_BYTES = 64 * 1024**2
"""How much of a store is read at once."""


@dataclass(frozen=True, slots=True)
class Source:
    """What to read and how to interpolate it."""

    path: Path
    quantity: str = "density"
    method: Method = "linear"
    value_space: ValueSpace = "linear"
    inner: Inner = "extend"
    reduce: bool = False
    """Read the mean over the samples, as a single sample."""
    digest: str = ""
    """What `store_digest` said when the run was planned."""


_fields: OrderedDict[Source, Field] = OrderedDict()
_lock = threading.Lock()


def load_field(source: Source) -> Field:
    """The samples of a source as the kernels read them; read once, then kept in this process.

    Raises
    ------
    SchemaError
        If the store cannot be read, or its content is not what the run was planned for.
    GridError
        If a logarithm is asked of samples that are not positive.
    """
    with _lock:
        field = _fields.get(source)
        if field is None:
            while len(_fields) >= CACHED_FIELDS:
                _fields.popitem(last=False)
            field = _fields[source] = _read_field(source)
        _fields.move_to_end(source)
        return field


def field_bytes(header: PosteriorHeader, source: Source) -> int:
    """Memory of the field of a source, with what reading it takes besides."""
    n_sample = 1 if source.reduce else header.n_sample
    cells = header.grid.n_pixel * header.grid.n_shell
    return 4 * cells * padded_samples(n_sample) + 3 * READ_BYTES


def store_digest(path: str | Path, quantity: str = "density") -> str:
    """SHA-256 over what decides the numbers of a quantity: grid, names, units and every chunk's checksum.

    The chunks' own CRC-32C are read, not the samples, so that it is quick for large stores.
    """
    header = read_posterior_header(path)
    resolved = header.resolve(quantity)
    digest = hashlib.sha256()
    content = {"grid": header.grid.to_dict(), "frame": header.frame.to_dict(), "quantity": resolved.to_dict()}
    digest.update(json.dumps({**content, "n_sample": header.n_sample}, sort_keys=True).encode())
    for name, _ in resolved.terms:
        array = zarr.open_array(str(header.path), path=name, mode="r")
        for key in _shard_keys(array):
            digest.update(key.encode())
            digest.update(_shard_checksums(header.path / name / key, array))
    return digest.hexdigest()


def _read_field(source: Source) -> Field:
    header = read_posterior_header(source.path)
    if header.n_sample == 0:
        raise SchemaError(f"{header.path}: holds no sample yet")
    if source.digest and store_digest(source.path, source.quantity) != source.digest:
        raise SchemaError(f"{header.path}: has changed since this run was planned; start the run again")
    n_sample = 1 if source.reduce else header.n_sample
    values = Field.empty_values(header.grid, n_sample)
    total = np.zeros(values.shape[:2] if source.reduce else (0, 0))
    terms = header.resolve(source.quantity).terms
    arrays = [(zarr.open_array(str(header.path), path=name, mode="r"), weight) for name, weight in terms]
    for pixels, samples in _slabs(header, arrays[0][0]):
        part = _combine(arrays, pixels, samples, header.path)
        rows = ring_rows(header.grid, np.arange(pixels.start, pixels.stop))
        if source.reduce:
            # slabs of different samples of the same pixels add up
            total[rows] += part.sum(axis=-1, dtype=np.float64)
        else:
            values[rows, :, samples] = part
    if source.reduce:
        values[:, :, 0] = total / header.n_sample
    try:
        return Field.from_values(
            values,
            n_sample,
            header.grid,
            method=source.method,
            value_space=source.value_space,
            inner=source.inner,
        )
    except GridError as error:
        raise GridError(f"{header.path}, {source.quantity}: {error}") from error


def _slabs(header: PosteriorHeader, array: zarr.Array[Any]) -> Iterator[tuple[slice, slice]]:
    """Ranges of pixels (whole shards) and samples to read at once."""
    shard_pixels, _, shard_samples = array.shards or array.chunks
    samples = min(shard_samples, header.n_sample) if header.layout == "appended" else header.n_sample
    pixels = shard_pixels
    while pixels < header.grid.n_pixel and 8 * pixels * header.grid.n_shell * samples < READ_BYTES:
        pixels *= 2
    for first_sample in range(0, header.n_sample, samples):
        for first in range(0, header.grid.n_pixel, pixels):
            yield (
                slice(first, min(first + pixels, header.grid.n_pixel)),
                slice(first_sample, min(first_sample + samples, header.n_sample)),
            )


def _combine(
    arrays: list[tuple[zarr.Array[Any], float]], pixels: slice, samples: slice, path: Path
) -> npt.NDArray[np.float32]:
    total: npt.NDArray[np.float32] | None = None
    for array, weight in arrays:
        try:
            part = np.asarray(array[pixels, :, samples], dtype=np.float32)
        except ValueError as error:  # zarr's word for a checksum that does not fit
            raise SchemaError(
                f"{path}: {array.basename}, pixels {pixels.start} to {pixels.stop - 1} cannot be read ({error}); "
                f"'crdist check {path}' names the bad chunks"
            ) from error
        if weight != 1.0:
            part = part * np.float32(weight)
        total = part if total is None else total + part
    assert total is not None
    return total


def _shard_keys(array: zarr.Array[Any]) -> Iterator[str]:
    shape = array.shards or array.chunks
    counts = [-(-size // part) for size, part in zip(array.shape, shape, strict=True)]
    for index in np.ndindex(*counts):
        yield "/".join(["c", *map(str, index)])


def _shard_checksums(path: Path, array: zarr.Array[Any]) -> bytes:
    """The CRC-32C of each chunk of a shard: the last four bytes of each, found by the index at the shard's end."""
    if not path.exists():
        raise SchemaError(f"{path}: is missing; 'crdist check' lists all that is")
    n_chunk = int(np.prod([s // c for s, c in zip(array.shards or array.chunks, array.chunks, strict=True)]))
    with path.open("rb") as file:
        size = file.seek(0, 2)
        length = 16 * n_chunk
        if size < length + 4:
            raise SchemaError(f"{path}: is cut short; 'crdist check' lists all that is")
        file.seek(size - length - 4)
        index = np.frombuffer(file.read(length), dtype="<u8").reshape(n_chunk, 2)
        sums = []
        for offset, n_bytes in index.tolist():
            if offset == 2**64 - 1:  # a chunk that lies wholly outside the array
                continue
            file.seek(offset + n_bytes - 4)
            sums.append(file.read(4))
    return b"".join(sums)
