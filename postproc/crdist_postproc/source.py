"""Read samples out of a posterior store into the kernels' layout: once in each process, or part by part."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from crdist.errors import GridError, SchemaError
from crdist.schema import PosteriorHeader, read_posterior_header
from crdist.sharded_array import ShardedArray, sharded_array
from crdist.store import open_for_reading
from crdist_postproc.kernels.field import Field, Inner, Method, ValueSpace, padded_samples, ring_rows
from crdist_postproc.parts import FieldInParts, Room, Samples
from crdist_postproc.reach import Reach
from crdist_postproc.sparse import Chunks
from crdist_postproc.stored_chunks import StoredChunks

__all__ = ["InParts", "Source", "chunks_of", "drop_fields", "field_bytes", "load_field", "store_digest", "unfilled"]

READ_BYTES = 32 * 1024**2
"""How much of a variable is read at once."""


@dataclass(frozen=True, slots=True)
class InParts:
    """Memory of a process for samples that are read part by part."""

    room_bytes: int
    """For the parts of all threads together: one that takes more is halved. Around the Sun halves take nearly as much,
    so that it is better to let other threads wait than to cut parts for each."""
    kept_bytes: int
    """For chunks as they were read, which the next parts read, too."""

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.room_bytes + self.kept_bytes


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
    n_sample: int = 0
    """Number of samples to read, the first ones; 0 for all. A store may grow while a run goes on."""
    digest: str = ""
    """What `store_digest` said when the run was planned."""
    in_parts: InParts | None = None
    """How much of it to hold at once; None: all. The numbers do not depend on it."""


_fields: dict[Source, Samples] = {}
_lock = threading.Lock()


def load_field(source: Source, keep: Collection[Source] = ()) -> Samples:
    """The samples of a source as the kernels read them; read once, then kept in this process, or read part by part.

    Parameters
    ----------
    source : Source
    keep : collection of Source
        Those that the run needs besides; all others are dropped before anything is read, so that memory is what the
        plan of this run says.

    Raises
    ------
    SchemaError
        If the store cannot be read, or its content is not what the run was planned for.
    GridError
        If the samples are infinite, or a logarithm is asked of samples that are not positive.
    """
    with _lock:
        for other in set(_fields) - {source, *keep}:
            del _fields[other]
        if source not in _fields:
            _fields[source] = (
                _read_field(source) if source.in_parts is None else _open_in_parts(source, source.in_parts)
            )
        return _fields[source]


def drop_fields() -> None:
    """Forget all that this process has read."""
    with _lock:
        _fields.clear()


def field_bytes(header: PosteriorHeader, source: Source) -> int:
    """Upper bound on the memory of the field of a source, with what reading it takes besides."""
    grid = header.grid
    n_sample = source.n_sample or header.n_sample
    held = 4 * grid.n_pixel * grid.n_shell * padded_samples(1 if source.reduce else n_sample)
    sums = 8 * grid.n_pixel * grid.n_shell if source.reduce else 0
    array = zarr.open_array(str(header.path), path=header.resolve(source.quantity).terms[0][0], mode="r")
    pixels, shells, samples = _slab_shape(header, array, n_sample)
    # what is read, the encoded files, zarr's copies (it reads several files at once), the sum over terms: measured
    return held + sums + 7 * 4 * pixels * shells * samples


def store_digest(path: str | Path, quantity: str = "density", n_sample: int = 0) -> str:
    """SHA-256 over what decides the numbers of a quantity: grid, names, units and every chunk's checksum.

    The chunks' own CRC-32C are read, not the samples, so that it is quick for large stores. Of a growing store the
    first ``n_sample`` samples count.
    """
    header = read_posterior_header(path)
    n_sample = n_sample or header.n_sample
    resolved = header.resolve(quantity)
    digest = hashlib.sha256()
    content = {"grid": header.grid.to_dict(), "frame": header.frame.to_dict(), "quantity": resolved.to_dict()}
    digest.update(json.dumps({**content, "n_sample": n_sample}, sort_keys=True).encode())
    for name, _ in resolved.terms:
        array = zarr.open_array(str(header.path), path=name, mode="r")
        for key in _shard_keys(array, n_sample):
            digest.update(key.encode())
            digest.update(_shard_checksums(header.path / name / key, array))
    return digest.hexdigest()


def chunks_of(header: PosteriorHeader, source: Source) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes of the chunks along pixel and along shell in which samples are read part by part."""
    array = open_for_reading(header.path, header.resolve(source.quantity).terms[0][0])
    pixels, shells = (
        tuple(min(size, n - start) for start in range(0, n, size))
        for n, size in zip((header.grid.n_pixel, header.grid.n_shell), array.chunks[:2], strict=True)
    )
    return pixels, shells


def unfilled(header: PosteriorHeader, source: Source) -> Field:
    """The tables of a source's field, without samples."""
    n_sample = 1 if source.reduce else source.n_sample or header.n_sample
    # ones have logarithms
    one = np.ones((1, header.grid.n_shell, padded_samples(n_sample)), dtype=np.float32)
    return Field.from_values(
        one, n_sample, header.grid, method=source.method, value_space=source.value_space, inner=source.inner
    )


def _open_in_parts(source: Source, memory: InParts) -> FieldInParts:
    header, n_stored = _planned_for(source)
    arrays = _open_terms(header, source)
    at_once = _slab_shape(header, arrays[0].array, n_stored)[2] if source.reduce else n_stored

    def load(pixels: slice, shells: slice) -> npt.NDArray[np.float32]:
        total = np.zeros((pixels.stop - pixels.start, shells.stop - shells.start))
        for first in range(0, n_stored, at_once):
            part = _combine(arrays, (pixels, shells, slice(first, min(first + at_once, n_stored))), header.path)
            if not source.reduce:
                return part
            total += part.sum(axis=-1, dtype=np.float64)
        return (total / n_stored).astype(np.float32)[..., None]

    sizes = chunks_of(header, source)
    chunks = Chunks(*sizes)
    return FieldInParts(
        template=unfilled(header, source),
        grid=header.grid,
        value_space=source.value_space,
        reader=StoredChunks(chunks, load, memory.kept_bytes),
        chunks=chunks,
        reach=Reach.of(header.grid, *sizes, method=source.method, inner=source.inner),
        memory_bytes=memory.room_bytes,
        room=Room(memory.room_bytes),
        name=f"{header.path}, {source.quantity}",
    )


def _planned_for(source: Source) -> tuple[PosteriorHeader, int]:
    """The store's header and how many of its samples to read; refused where it is not what the run was planned for."""
    header = read_posterior_header(source.path)
    n_stored = source.n_sample or header.n_sample
    if n_stored == 0 or n_stored > header.n_sample:
        raise SchemaError(f"{header.path}: holds {header.n_sample} samples, {max(n_stored, 1)} are needed")
    if source.digest and store_digest(source.path, source.quantity, n_stored) != source.digest:
        raise SchemaError(f"{header.path}: has changed since this run was planned; start the run again")
    return header, n_stored


def _read_field(source: Source) -> Field:
    header, n_stored = _planned_for(source)
    n_sample = 1 if source.reduce else n_stored
    values = Field.empty_values(header.grid, n_sample)
    total = np.zeros(values.shape[:2] if source.reduce else (0, 0))
    arrays = _open_terms(header, source)
    for pixels, shells, samples in _slabs(header, arrays[0].array, n_stored):
        part = _combine(arrays, (pixels, shells, samples), header.path)
        rows = ring_rows(header.grid, np.arange(pixels.start, pixels.stop))
        if source.reduce:
            # slabs of different samples of the same cells add up
            total[rows, shells] += part.sum(axis=-1, dtype=np.float64)
        else:
            values[rows, shells, samples] = part
    if source.reduce:
        values[:, :, 0] = total / n_stored
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


def _slab_shape(header: PosteriorHeader, array: zarr.Array[Any], n_sample: int) -> tuple[int, int, int]:
    """Pixels, shells and samples to read at once: whole files, or whole chunks of files that are too large."""
    packed = header.layout == "packed"
    pixels, shells, samples = (array.shards or array.chunks) if packed else array.chunks
    samples = min(samples, n_sample)
    grid = header.grid
    while shells < grid.n_shell and 4 * pixels * 2 * shells * samples <= READ_BYTES:
        shells *= 2
    while pixels < grid.n_pixel and 4 * 2 * pixels * shells * samples <= READ_BYTES:
        pixels *= 2
    return min(pixels, grid.n_pixel), min(shells, grid.n_shell), samples


def _slabs(header: PosteriorHeader, array: zarr.Array[Any], n_sample: int) -> Iterator[tuple[slice, slice, slice]]:
    """Ranges of pixels, shells and samples that together are all."""
    whole = (header.grid.n_pixel, header.grid.n_shell, n_sample)
    steps = _slab_shape(header, array, n_sample)
    for starts in itertools.product(*(range(0, n, step) for n, step in zip(whole, steps, strict=True))):
        pixels, shells, samples = (
            slice(start, min(start + step, n)) for start, step, n in zip(starts, steps, whole, strict=True)
        )
        yield pixels, shells, samples


@dataclass(frozen=True, slots=True)
class _Term:
    """A variable of a quantity, and what it is multiplied by."""

    array: zarr.Array[Any]
    weight: float
    quick: ShardedArray | None
    """The same array, if it is laid out as crdist's own."""

    def read(self, region: tuple[slice, slice, slice]) -> npt.NDArray[np.float32]:
        if self.quick is None:
            return np.asarray(self.array[region], dtype=np.float32)
        return np.asarray(self.quick.read(region, complete=True), dtype=np.float32)


def _open_terms(header: PosteriorHeader, source: Source) -> list[_Term]:
    advice = f"'crdist check {header.path}' names the bad chunks"
    terms = []
    for name, weight in header.resolve(source.quantity).terms:
        array = open_for_reading(header.path, name)
        terms.append(_Term(array, weight, sharded_array(array, header.path / name, advice)))
    return terms


def _combine(terms: Sequence[_Term], region: tuple[slice, slice, slice], path: Path) -> npt.NDArray[np.float32]:
    total: npt.NDArray[np.float32] | None = None
    for term in terms:
        try:
            part = term.read(region)
        except SchemaError:
            raise
        except (ValueError, RuntimeError) as error:  # zarr's and zarrs' words for a checksum that does not fit
            pixels = region[0]
            raise SchemaError(
                f"{path}: {term.array.basename}, pixels {pixels.start} to {pixels.stop - 1} cannot be read ({error}); "
                f"'crdist check {path}' names the bad chunks"
            ) from error
        if term.weight != 1.0:
            part *= np.float32(term.weight)
        if total is None:
            total = part
        else:
            total += part
    assert total is not None
    return total


def _shard_keys(array: zarr.Array[Any], n_sample: int) -> Iterator[str]:
    # not the array's own number of samples: a writer that died may have left more than count
    shape = (*array.shape[:-1], n_sample)
    counts = [-(-size // part) for size, part in zip(shape, array.shards or array.chunks, strict=True)]
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
