"""Reading pieces out of shards: a few of many for a plane of a volume, whole ones for samples.

Zarr reads the index of a shard anew for every request and runs each piece through a chain of tasks, about a millisecond
a shard. crdist writes its shards without compression, so a piece is one read at a known place and one checksum: here
the indices are kept, a plane across some forty shards takes a few milliseconds, and samples are read several times as
fast. Arrays of any other layout are left to Zarr.
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
    advice: str = "restore the file"
    """What to do about a file that is damaged or missing, for messages."""
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
        result = np.empty([max(0, stop - start) for start, stop in bounds], dtype=self.dtype)
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
        # what the shard has of the region, along each axis
        spans = [
            (max(start, p * shard), min(stop, (p + 1) * shard))
            for p, shard, (start, stop) in zip(place, self.shards, bounds, strict=True)
        ]
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            if complete:
                raise SchemaError(f"{path} is missing from a complete store; {self.advice}") from None
            result[_within(spans, bounds)] = self.fill_value
            return
        except OSError as error:
            raise SchemaError(f"{path} cannot be read ({error.strerror}); {self.advice}") from error
        try:
            offsets = self._index(file, path, place)
            corner = [p * shard for p, shard in zip(place, self.shards, strict=True)]
            ranges = [
                range((low - first) // piece, -(-(high - first) // piece))
                for (low, high), first, piece in zip(spans, corner, self.pieces, strict=True)
            ]
            for inner in itertools.product(*ranges):
                starts = [first + k * size for first, k, size in zip(corner, inner, self.pieces, strict=True)]
                ends = [first + size for first, size in zip(starts, self.pieces, strict=True)]
                here = [
                    (max(low, first), min(high, end))
                    for (low, high), first, end in zip(spans, starts, ends, strict=True)
                ]
                offset, length = (int(value) for value in offsets[inner])
                if offset == ABSENT:
                    result[_within(here, bounds)] = self.fill_value
                    continue
                values = self._piece(file, path, offset, length)
                result[_within(here, bounds)] = values[_within(here, list(zip(starts, ends, strict=True)))]
        except OSError as error:
            raise SchemaError(f"{path} cannot be read ({error.strerror}); {self.advice}") from error
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
        data = self._checked(file, path, found.st_size - n_bytes - 4, n_bytes + 4)
        offsets = data.view("<u8").reshape(*grid, 2)
        with self._lock:
            if len(self._indices) >= MAX_INDICES:
                self._indices.clear()
            self._indices[place] = (identity, offsets)
        return offsets

    def _piece(self, file: int, path: str, offset: int, length: int) -> Array:
        data = self._checked(file, path, offset, length)
        if data.size != int(np.prod(self.pieces)) * self.dtype.itemsize:
            raise SchemaError(f"{path} is damaged (a piece of it has the wrong length); {self.advice}")
        return data.view(self.dtype).reshape(self.pieces)

    def _checked(self, file: int, path: str, offset: int, length: int) -> Array:
        """What comes before a CRC-32C, if it is right."""
        import google_crc32c

        data = os.pread(file, length, offset) if offset >= 0 else b""
        if len(data) != length or length < 4:
            raise SchemaError(f"{path} is damaged (it is cut short); {self.advice}")
        body = np.frombuffer(data, dtype=np.uint8)[:-4]
        if google_crc32c.value(body) != int.from_bytes(data[-4:], "little"):
            raise SchemaError(f"{path} is damaged (its checksum is wrong); {self.advice}")
        return body


def sharded_array(array: zarr.Array[Any], folder: Path, advice: str) -> ShardedArray | None:
    """A quick reader of an array, or None where its layout is another than crdist's.

    Parameters
    ----------
    array : zarr.Array
    folder : Path
        Where it lies.
    advice : str
        What to do about a file that is damaged or missing.
    """
    if array.shards is None or not has_plain_shards(array):
        return None
    dtype = np.dtype(array.dtype).newbyteorder("<")
    return ShardedArray(
        folder, tuple(array.shape), tuple(array.shards), tuple(array.chunks), dtype, array.fill_value, advice
    )


def _within(spans: Sequence[tuple[int, int]], bounds: Sequence[tuple[int, int]]) -> tuple[slice, ...]:
    """Ranges as slices of a region."""
    return tuple(slice(low - start, high - start) for (low, high), (start, _) in zip(spans, bounds, strict=True))
