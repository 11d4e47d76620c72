import json
import shutil
import warnings

import numpy as np
import pytest
import zarr
from zarr.codecs import Crc32cCodec

from crdist.check import check_store
from crdist.errors import SchemaError
from crdist.frames import Frame
from crdist.grids import SphericalGrid
from crdist.schema import PRODUCTS_SCHEMA, SCHEMA_VERSION, Derived, Variable
from crdist.store import append_sample, create_posterior, posterior_shards, write_shard


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A packed posterior whose shards hold several chunks."""
    path = tmp_path_factory.mktemp("check") / "posterior.zarr"
    grid = SphericalGrid.log_spaced(nside=16, n_shell=40, inner_kpc=0.1, outer_kpc=10.0)
    header = create_posterior(
        path,
        grid,
        [Variable("a", "cm-3", "atoms"), Variable("b", "cm-3", "molecules")],
        n_sample=4,
        layout="packed",
        provenance={},
        derived=[Derived("n", "cm-3", "nuclei", (("a", 1.0), ("b", 2.0)))],
    )
    rng = np.random.default_rng(0)
    for variable in ("a", "b"):
        for shard in posterior_shards(header):
            shape = tuple(part.stop - part.start for part in shard.region)
            write_shard(header, variable, shard, rng.random(shape))
    return path


@pytest.fixture
def store(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "posterior.zarr")


def shard_files(path, variable):
    return sorted(file for file in (path / variable / "c").rglob("*") if file.is_file())


def edit_root(path, **attributes):
    file = path / "zarr.json"
    root = json.loads(file.read_text())
    root["attributes"].update(attributes)
    file.write_text(json.dumps(root))


def flip(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 0x10
    file.write_bytes(data)


def test_sound_store(sound):
    seen = []
    assert check_store(sound, lambda done, total: seen.append((done, total))) == []
    done, total = zip(*seen, strict=True)
    assert done == tuple(range(1, total[0] + 1))
    assert set(total) == {len(seen)}


def test_flipped_bit_names_its_chunk(store):
    array = zarr.open_array(str(store), path="a", mode="r")
    assert array.shards[1] > array.chunks[1]
    file = shard_files(store, "a")[1]
    flip(file, 7)
    (problem,) = check_store(store)
    assert problem.array == "a"
    assert problem.file == str(file.relative_to(store))
    assert problem.inner is not None
    assert "checksum" in problem.what
    # the chunk that is named is the one, and the only one, that zarr cannot read
    index = tuple(int(part) for part in problem.file.split("/")[2:])
    grid = tuple(-(-n // size) for n, size in zip(array.shards, array.chunks, strict=True))
    broken = []
    for inner in np.ndindex(grid):
        start = [s * i + c * j for s, i, c, j in zip(array.shards, index, array.chunks, inner, strict=True)]
        if any(low >= n for low, n in zip(start, array.shape, strict=True)):
            continue
        region = tuple(slice(low, low + c) for low, c in zip(start, array.chunks, strict=True))
        try:
            array[region]
        except ValueError:
            broken.append(inner)
    assert broken == [problem.inner]


def test_two_damaged_chunks_in_one_shard_are_both_named(store):
    file = shard_files(store, "b")[0]
    array = zarr.open_array(str(store), path="b", mode="r")
    chunk_bytes = 4 * int(np.prod(array.chunks)) + 4
    flip(file, 10)
    flip(file, chunk_bytes + 10)
    problems = check_store(store)
    assert len({problem.inner for problem in problems}) == len(problems) == 2
    assert {problem.file for problem in problems} == {str(file.relative_to(store))}


def test_large_shards_are_read_in_parts(store, monkeypatch):
    array = zarr.open_array(str(store), path="a", mode="r")
    chunk_bytes = 4 * int(np.prod(array.chunks))
    monkeypatch.setattr("crdist.check.READ_BYTES_MAX", 3 * chunk_bytes)
    assert check_store(store) == []
    file = shard_files(store, "a")[0]
    flip(file, 10)
    (problem,) = check_store(store)
    assert problem.inner is not None


@pytest.mark.parametrize(("left", "message"), [(0, "is empty"), (3, "none of its"), (5000, "none of its")])
def test_truncated_shard_is_one_line(store, left, message):
    file = shard_files(store, "a")[0]
    file.write_bytes(file.read_bytes()[:left])
    (problem,) = check_store(store)
    assert (problem.array, problem.file, problem.inner) == ("a", str(file.relative_to(store)), None)
    assert message in problem.what


def test_deleted_shard(store):
    file = shard_files(store, "b")[2]
    file.unlink()
    (problem,) = check_store(store)
    assert str(problem) == f"b, file {file.relative_to(store)}: the file is missing"


def test_chunk_that_its_shard_left_out(store):
    array = zarr.open_array(str(store), path="a", mode="r+", config={"write_empty_chunks": False})
    # a writer that skips what equals the fill value leaves a hole that readers do not notice
    array[: array.chunks[0], : array.chunks[1]] = np.nan
    (problem,) = check_store(store)
    assert problem.inner == (0, 0, 0)
    assert "missing from its shard" in problem.what


def test_damaged_or_missing_metadata_of_an_array(store):
    (store / "a" / "zarr.json").write_text("{")
    (store / "b" / "zarr.json").unlink()
    problems = check_store(store)
    assert [(problem.array, problem.file) for problem in problems] == [
        ("a", "a/zarr.json"),
        ("b", "b/zarr.json"),
    ]


def test_coordinates_must_fit_the_grid(store):
    array = zarr.open_array(str(store), path="distance", mode="r+")
    array[3] = 2 * array[3]
    (problem,) = check_store(store)
    assert problem.array == "distance"
    assert "value 3 is" in problem.what


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"schema_version": 99}, "schema version 99"),
        ({"schema": "other"}, "not one of crdist"),
        ({"variables": ["a", "missing"]}, "array 'missing' is missing"),
        ({"grid": {"nside": 16}}, "lack or garble 'edges_kpc'"),
        ({"main_quantity": "nothing"}, "no quantity 'nothing'"),
        (
            {"derived": [{"name": "n", "units": "cm-3", "long_name": "n", "terms": [["c", 1]]}]},
            "no quantity 'c'",
        ),
        ({"derived": [{"name": "n", "units": "furlong?", "long_name": "n", "terms": [["a", 1]]}]}, "furlong"),
    ],
)
def test_edited_root_attributes(store, attributes, message):
    edit_root(store, **attributes)
    problems = check_store(store)
    assert len(problems) == 1
    assert message in str(problems[0])
    assert "\n" not in str(problems[0])


def test_variable_without_units(store):
    file = store / "zarr.json"
    root = json.loads(file.read_text())
    del root["consolidated_metadata"]["metadata"]["a"]["attributes"]["units"]
    file.write_text(json.dumps(root))
    (problem,) = check_store(store)
    assert "'a' has no attribute 'units'" in problem.what


def test_grown_posterior(tmp_path):
    path = tmp_path / "grown.zarr"
    grid = SphericalGrid.log_spaced(nside=4, n_shell=10, inner_kpc=0.1, outer_kpc=10.0, ordering="ring")
    variables = [Variable("C", "cm-3", "density")]
    create_posterior(path, grid, variables, n_sample=0, layout="appended", provenance={})
    assert check_store(path) == []
    for i in range(2):
        append_sample(path, {"C": np.full((192, 10), float(i))})
    assert check_store(path) == []
    flip(path / "C" / "c" / "0" / "0" / "1", 3)
    (problem,) = check_store(path)
    assert problem.file == "C/c/0/0/1"


def test_nothing_there_or_no_store(tmp_path):
    with pytest.raises(SchemaError, match="no such store"):
        check_store(tmp_path / "none")
    (problem,) = check_store(tmp_path)
    assert "not a Zarr store" in problem.what


def make_products(path, *, status="complete", kind="slice"):
    """A products store with one slice of 4 blocks for each statistic."""
    root = zarr.create_group(
        str(path),
        attributes={
            "schema": PRODUCTS_SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "status": status,
            "quantity": {"name": "C", "units": "cm-3", "long_name": "density"},
            "n_sample": 4,
            "frame": Frame().to_dict(),
            "recipe": {},
            "provenance": {},
        },
    )
    group = root.create_group("slice_z", attributes={"kind": kind, "long_name": "slice", "axis": "z"})
    for name, units in (("mean", "cm-3"), ("std", "cm-3"), ("significance", "")):
        array = group.create_array(
            name,
            shape=(8, 8),
            dtype="float32",
            chunks=(4, 4),
            fill_value=np.nan,
            compressors=[Crc32cCodec()],
            dimension_names=("x", "y"),
            attributes={"units": units, "long_name": name},
            config={"write_empty_chunks": True},
        )
        array[...] = np.arange(64.0).reshape(8, 8)
    number = group.create_array("total", shape=(), dtype="float64", attributes={"units": ""})
    number[...] = 1.0
    for dim in "xy":
        coordinate = group.create_array(
            dim, shape=(8,), dtype="float64", dimension_names=(dim,), attributes={"units": "kpc"}
        )
        coordinate[...] = np.arange(8) + 0.5
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(str(path))
    return path


def test_products(tmp_path):
    path = make_products(tmp_path / "p.zarr")
    assert check_store(path) == []
    file = path / "slice_z" / "mean" / "c" / "1" / "0"
    flip(file, 3)
    (path / "slice_z" / "std" / "c" / "0" / "0").unlink()
    damaged, missing = check_store(path)
    assert (damaged.array, damaged.file, damaged.inner) == ("slice_z/mean", "slice_z/mean/c/1/0", None)
    assert (missing.array, missing.file) == ("slice_z/std", "slice_z/std/c/0/0")


def test_running_products_are_summed_up(tmp_path):
    path = make_products(tmp_path / "p.zarr", status="running")
    (problem,) = check_store(path)
    assert "has not ended" in problem.what
    for name in ("0/0", "0/1", "1/1"):
        (path / "slice_z" / "std" / "c" / name).unlink()
    _, problem = check_store(path)
    assert str(problem) == "slice_z/std: incomplete: 1 of 4 blocks"


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"status": "done"}, "status = 'done'"),
        ({"frame": {"name": "elsewhere"}}, "frame name must be"),
        ({"frame": 3}, "attribute frame"),
        ({"n_sample": None}, None),
    ],
)
def test_edited_products_attributes(tmp_path, attributes, message):
    path = make_products(tmp_path / "p.zarr")
    edit_root(path, **attributes)
    problems = check_store(path)
    assert [message in str(problem) for problem in problems] == ([True] if message else [])


def test_product_parts_must_fit(tmp_path):
    path = make_products(tmp_path / "p.zarr", kind="picture")
    (problem,) = check_store(path)
    assert "kind = 'picture'" in problem.what
    path = make_products(tmp_path / "q.zarr")
    file = path / "zarr.json"
    root = json.loads(file.read_text())
    metadata = root["consolidated_metadata"]["metadata"]
    del metadata["slice_z/mean"]["attributes"]["units"]
    metadata["slice_z/significance"]["shape"] = [8, 4]
    del metadata["slice_z/std"]
    file.write_text(json.dumps(root))
    faults = [problem.what for problem in check_store(path)]
    assert faults == [
        "variable 'std' is missing",
        "attribute 'units' is missing",
        "has 4 along 'y', expected 8",
    ]
