"""Shards written and read without zarr are what zarr itself would read and write."""

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec

from crdist.errors import SchemaError
from crdist.shard_files import has_plain_shards, shard_bytes
from crdist.sharded_array import sharded_array


def array_at(path, shape, chunks, shards, **options):
    return zarr.create_array(
        str(path),
        shape=shape,
        dtype="float32",
        chunks=chunks,
        shards=shards,
        **{"compressors": [Crc32cCodec()], "fill_value": np.nan, **options},
        config={"write_empty_chunks": True},
    )


def write(array, path, values):
    """Shard by shard."""
    for index in np.ndindex(*(-(-n // size) for n, size in zip(array.shape, array.shards, strict=True))):
        region = tuple(slice(i * size, (i + 1) * size) for i, size in zip(index, array.shards, strict=True))
        file = path.joinpath("c", *map(str, index))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(shard_bytes(array, values[region]))


@given(data=st.data())
def test_zarr_reads_what_is_written(tmp_path_factory, data):
    n_dim = data.draw(st.integers(1, 4))
    chunks = [data.draw(st.integers(1, 4)) for _ in range(n_dim)]
    shards = [size * data.draw(st.integers(1, 3)) for size in chunks]
    shape = [data.draw(st.integers(1, 2 * size)) for size in shards]
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    # all of a chunk may be the fill value
    values[: chunks[0]] = np.nan
    if data.draw(st.booleans()):
        values = np.asfortranarray(values)
    path = tmp_path_factory.mktemp("shards")
    mine = array_at(path / "a", shape, chunks, shards)
    assert has_plain_shards(mine)
    write(mine, path / "a", values)
    np.testing.assert_array_equal(mine[...], values)
    theirs = array_at(path / "b", shape, chunks, shards)
    theirs[...] = values
    files = [file.relative_to(path / "b") for file in (path / "b").rglob("c/**/*") if file.is_file()]
    # the same chunks, though in another order
    assert {(file, (path / "b" / file).stat().st_size) for file in files} == {
        (file, (path / "a" / file).stat().st_size) for file in files
    }


def test_a_flipped_bit_is_found(tmp_path):
    array = array_at(tmp_path / "a", (4, 6), (2, 2), (4, 6))
    write(array, tmp_path / "a", np.ones((4, 6)))
    file = tmp_path / "a" / "c" / "0" / "0"
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        array[...]


@pytest.mark.parametrize(
    "options",
    [
        {"shards": None},
        {"compressors": [BloscCodec(), Crc32cCodec()]},
        {"compressors": []},
        {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "/"}}},
    ],
)
def test_other_layouts_are_left_to_zarr(tmp_path, options):
    assert not has_plain_shards(array_at(tmp_path / "a", (4, 4), (2, 2), **{"shards": (4, 4), **options}))


@given(data=st.data())
def test_any_region_is_read(tmp_path_factory, data):
    n_dim = data.draw(st.integers(1, 3))
    chunks = [data.draw(st.integers(1, 4)) for _ in range(n_dim)]
    shards = [size * data.draw(st.integers(1, 3)) for size in chunks]
    shape = [data.draw(st.integers(1, 2 * size)) for size in shards]
    path = tmp_path_factory.mktemp("shards")
    array = array_at(path, shape, chunks, shards)
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    write(array, path, values)
    lost = data.draw(st.booleans())
    if lost:
        path.joinpath("c", *("0" for _ in shape)).unlink()
        values[tuple(map(slice, shards))] = np.nan
    reader = sharded_array(array, path, "send for help")
    region = []
    for n in shape:
        start = data.draw(st.integers(0, n - 1))
        region.append(data.draw(st.sampled_from([start, slice(start, data.draw(st.integers(start, n)))])))
    np.testing.assert_array_equal(reader.read(region), values[tuple(region)])
    if lost:
        with pytest.raises(SchemaError, match=r"c/0.* is missing from a complete store; send for help"):
            reader.read([slice(0, 1)] * n_dim, complete=True)
