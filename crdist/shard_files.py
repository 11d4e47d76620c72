"""Shards of Zarr arrays written in one go: zarr itself takes some 0.2 ms for each of the hundreds of chunks in one.

Only for arrays laid out as crdist's own: chunks and index as plain little-endian numbers, each with a CRC-32C, the
index at the end. The format is that of the specification of the Zarr codec "sharding_indexed", version 1.0.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

__all__ = ["has_plain_shards", "shard_bytes"]

ABSENT = 2**64 - 1
"""Offset and length of a chunk that is not there, as it lies beyond the array."""

CHECKSUM = 4
"""Bytes of a CRC-32C."""


def has_plain_shards(array: zarr.Array[Any]) -> bool:
    """Whether an array is laid out as this module writes it."""
    if array.shards is None:
        return False
    metadata: Any = array.metadata.to_dict()
    plain = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    codecs, keys = metadata.get("codecs", ()), metadata.get("chunk_key_encoding")
    if len(codecs) != 1 or codecs[0].get("name") != "sharding_indexed":
        return False
    settings = codecs[0]["configuration"]
    if any([dict(codec) for codec in settings.get(key, ())] != plain for key in ("codecs", "index_codecs")):
        return False
    if settings.get("index_location", "end") != "end":
        return False
    return bool(keys == {"name": "default", "configuration": {"separator": "/"}})


def shard_bytes(array: zarr.Array[Any], values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """What the file of a shard holds.

    Parameters
    ----------
    array : zarr.Array
        One that `has_plain_shards`.
    values : ndarray
        Of the whole shard; those of a shard at the array's end may end there, too.

    Returns
    -------
    ndarray of uint8
        Chunks in C order, then the index.
    """
    import google_crc32c

    assert array.shards is not None
    dtype = np.dtype(array.dtype).newbyteorder("<")
    grid = [shard // chunk for shard, chunk in zip(array.shards, array.chunks, strict=True)]
    held = [-(-n // chunk) for n, chunk in zip(values.shape, array.chunks, strict=True)]
    if any(n % chunk for n, chunk in zip(values.shape, array.chunks, strict=True)):
        whole = np.full([n * chunk for n, chunk in zip(held, array.chunks, strict=True)], array.fill_value, dtype)
        whole[tuple(map(slice, values.shape))] = values
        values = whole
    n_chunk, length = math.prod(held), math.prod(array.chunks) * dtype.itemsize
    file = np.empty(n_chunk * (length + CHECKSUM) + 16 * math.prod(grid) + CHECKSUM, dtype=np.uint8)
    chunks = file[: n_chunk * (length + CHECKSUM)].reshape(n_chunk, length + CHECKSUM)
    # the axes of the chunks, then those within a chunk; a view, so that every value is moved once
    target = chunks[:, :length].view(dtype).reshape(*held, *array.chunks)
    cut = values.reshape(*itertools.chain(*zip(held, array.chunks, strict=True)))
    n_dim = values.ndim
    target[...] = cut.transpose(*range(0, 2 * n_dim, 2), *range(1, 2 * n_dim, 2))
    sums = np.array([google_crc32c.value(chunk[:length]) for chunk in chunks], dtype="<u4")
    chunks[:, length:] = sums.view(np.uint8).reshape(n_chunk, CHECKSUM)
    index = np.full((*grid, 2), ABSENT, dtype="<u8")
    places = np.arange(n_chunk, dtype="<u8").reshape(held) * np.uint64(length + CHECKSUM)
    index[tuple(map(slice, held))] = np.stack([places, np.full_like(places, length + CHECKSUM)], axis=-1)
    end = index.reshape(-1).view(np.uint8)
    file[n_chunk * (length + CHECKSUM) : -CHECKSUM] = end
    file[-CHECKSUM:] = np.array([google_crc32c.value(end)], dtype="<u4").view(np.uint8)
    return file
