"""Reading a few pieces out of many shards: what a plane of a volume needs.

Zarr reads the index of a shard anew for every request and runs each piece through a chain of tasks, about a millisecond
a shard. crdist writes its shards without compression, so a piece is one read at a known place and one checksum: here
the indices are kept, and a plane across some forty shards takes a few milliseconds. Arrays of any other layout are left
to Zarr.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from crdist.errors import SchemaError
from crdist.shard_files import has_plain_shards

__all__ = ["ShardedArray", "sharded_array"]

Array = npt.NDArray[Any]

ABSENT = 2**64 - 1
"""Offset and length, in a shard's index, of a piece that it does not hold."""

MISSING = "{} is missing from a complete store; restore it, or run the product again"

MAX_INDICES = 4096
"""Indices that are kept of an array; each has 16 bytes a piece."""


@dataclass(slots=True)
class ShardedArray:
    """An array in shards of uncompressed pieces, each followed by its CRC-32C."""

    folder: Path
    shape: tuple[int, ...]
    shards: tuple[int, ...]
    pieces: tuple[int, ...]
    dtype: np.dtype[Any]
    fill_value: Any
    _indices: dict[tuple[int, ...], tuple[tuple[int, ...], Array]] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def read(self, index: Sequence[int | slice], *, complete: bool = False) -> Array:
        """Part of the array.

        Parameters
        ----------
        index : sequence of int or slice
            One for each dimension; slices with a step of 1.
        complete : bool
            Whether a shard that is not there is an error, or else holds the fill value.

        Raises
        ------
        SchemaError
            If a file is damaged or missing.
        """
        bounds = [
            (item, item + 1) if isinstance(item, int) else item.indices(n)[:2]
            for item, n in zip(index, self.shape, strict=True)
        ]
        result = np.full([max(0, stop - start) for start, stop in bounds], self.fill_value, dtype=self.dtype)
        if result.size:
            ranges = [
                range(start // size, -(-stop // size)) for (start, stop), size in zip(bounds, self.shards, strict=True)
            ]
            for place in itertools.product(*ranges):
                self._read_shard(place, bounds, result, complete)
        return np.asarray(result[tuple(0 if isinstance(item, int) else slice(None) for item in index)])

    def _read_shard(
        self, place: tuple[int, ...], bounds: Sequence[tuple[int, int]], result: Array, complete: bool
    ) -> None:
        path = f"{self.folder}/c/{'/'.join(map(str, place))}"
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            if complete:
                raise SchemaError(MISSING.format(path)) from None
            return
        except OSError as error:
            raise SchemaError(f"{path} cannot be read ({error.strerror})") from error
        try:
            offsets = self._index(file, path, place)
            ranges = []
            for p, shard, piece, (start, stop) in zip(place, self.shards, self.pieces, bounds, strict=True):
                low, high = max(start, p * shard) - p * shard, min(stop, (p + 1) * shard) - p * shard
                ranges.append(range(low // piece, -(-high // piece)))
            for inner in itertools.product(*ranges):
                offset, length = (int(value) for value in offsets[inner])
                if offset == ABSENT:
                    continue
                values = self._piece(file, path, offset, length)
                source, target = [], []
                for p, k, shard, size, (start, stop) in zip(
                    place, inner, self.shards, self.pieces, bounds, strict=True
                ):
                    first = p * shard + k * size
                    low, high = max(start, first), min(stop, first + size)
                    source.append(slice(low - first, high - first))
                    target.append(slice(low - start, high - start))
                result[tuple(target)] = values[tuple(source)]
        except OSError as error:
            raise SchemaError(f"{path} cannot be read ({error.strerror})") from error
        finally:
            os.close(file)

    def _index(self, file: int, path: str, place: tuple[int, ...]) -> Array:
        found = os.fstat(file)
        # a running store replaces its files
        identity = (found.st_ino, found.st_mtime_ns, found.st_size)
        with self._lock:
            kept = self._indices.get(place)
        if kept is not None and kept[0] == identity:
            return kept[1]
        grid = [shard // piece for shard, piece in zip(self.shards, self.pieces, strict=True)]
        n_bytes = 16 * int(np.prod(grid))
        data = _checked(_bytes(file, path, found.st_size - n_bytes - 4, n_bytes + 4), path)
        offsets = data.view("<u8").reshape(*grid, 2)
        with self._lock:
            if len(self._indices) >= MAX_INDICES:
                self._indices.clear()
            self._indices[place] = (identity, offsets)
        return offsets

    def _piece(self, file: int, path: str, offset: int, length: int) -> Array:
        data = _checked(_bytes(file, path, offset, length), path)
        if data.size != int(np.prod(self.pieces)) * self.dtype.itemsize:
            raise SchemaError(f"{path} is damaged (a piece of it has the wrong length); run the product again")
        return data.view(self.dtype).reshape(self.pieces)


def sharded_array(array: zarr.Array[Any], folder: Path) -> ShardedArray | None:
    """A quick reader of an array, or None where its layout is another than crdist's.

    Parameters
    ----------
    array : zarr.Array
    folder : Path
        Where it lies.
    """
    if array.shards is None or not has_plain_shards(array):
        return None
    dtype = np.dtype(array.dtype).newbyteorder("<")
    return ShardedArray(folder, tuple(array.shape), tuple(array.shards), tuple(array.chunks), dtype, array.fill_value)


def _bytes(file: int, path: str, offset: int, length: int) -> bytes:
    data = os.pread(file, length, offset) if offset >= 0 else b""
    if len(data) != length or length < 4:
        raise SchemaError(f"{path} is damaged (it is cut short); run the product again or restore the file")
    return data


def _checked(data: bytes, path: str) -> Array:
    """What comes before a CRC-32C, if it is right."""
    import google_crc32c

    body = np.frombuffer(data, dtype=np.uint8)[:-4]
    if google_crc32c.value(body) != int.from_bytes(data[-4:], "little"):
        raise SchemaError(f"{path} is damaged (its checksum is wrong); run the product again or restore the file")
    return body
