import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import healpy
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import crdist.store
import strategies
from crdist.durable import write_durably
from crdist.errors import SchemaError, StoreExistsError
from crdist.frames import Frame
from crdist.grids import SphericalGrid
from crdist.schema import Derived, Variable, open_group, read_posterior_header, versions
from crdist.store import (
    Shard,
    append_sample,
    create_posterior,
    new_store,
    open_posterior,
    pack,
    posterior_shards,
    set_provenance,
    write_shard,
)

GRID = SphericalGrid.log_spaced(4, 5, 0.05, 30.0)
GAS = (Variable("n_hi", "cm-3", "atomic hydrogen"), Variable("n_h2", "cm-3", "molecular hydrogen"))
NUCLEI = Derived("n_h", "cm-3", "hydrogen nuclei", (("n_hi", 1.0), ("n_h2", 2.0)))


def sample(index, variable="n_hi", grid=GRID):
    """Values of one sample, every one different from every other sample's."""
    seed = [index, len(variable), sum(map(ord, variable))]
    return np.random.default_rng(seed).random((grid.n_pixel, grid.n_shell), dtype=np.float32) + index


def samples(n, variable="n_hi", grid=GRID):
    return np.stack([sample(i, variable, grid) for i in range(n)], axis=-1)


def create(path, *, layout="appended", n_sample=0, grid=GRID, variables=GAS, **options):
    return create_posterior(
        path, grid, variables, n_sample=n_sample, layout=layout, provenance={"test": True}, **options
    )


def appended(path, n, *, grid=GRID, **options):
    create(path, grid=grid, derived=[NUCLEI], main="n_h", **options)
    for index in range(n):
        append_sample(path, {variable.name: sample(index, variable.name, grid) for variable in GAS})
    return path


def packed(path, n, *, grid=GRID):
    header = create(path, layout="packed", n_sample=n, grid=grid, derived=[NUCLEI], main="n_h")
    for variable in GAS:
        values = samples(n, variable.name, grid)
        for shard in posterior_shards(header):
            write_shard(header, variable.name, shard, values[shard.region])
    return path


MAKERS = {"appended": appended, "packed": packed}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of each layout with two samples, made once; tests that change one take a copy."""
    folder = tmp_path_factory.mktemp("made")
    return {layout: maker(folder / f"{layout}.zarr", 2) for layout, maker in MAKERS.items()}


@pytest.fixture
def growing(made, tmp_path):
    return shutil.copytree(made["appended"], tmp_path / "gas.zarr")


@pytest.fixture
def whole(made, tmp_path):
    return shutil.copytree(made["packed"], tmp_path / "gas.zarr")


READ_WITHOUT_CRDIST = """
import importlib.abc, json, sys, warnings
warnings.simplefilter("error")

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0].startswith("crdist"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, Absent())
try:
    import crdist
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("crdist is there, so this proves nothing")

import numpy as np
import xarray as xr

described = {}
for store in sys.argv[1:]:
    dataset = xr.open_zarr(store)
    np.savez(f"{store}.npz", **{name: dataset[name].values for name in dataset.variables})
    variables = {name: {"dims": list(v.dims), **v.attrs} for name, v in dataset.variables.items()}
    described[store] = {"variables": variables, "coords": sorted(dataset.coords), "attrs": dataset.attrs}
print(json.dumps(described))
"""


def test_plain_xarray_reads_the_same_numbers_without_crdist(tmp_path, made):
    stores = [str(store) for store in made.values()]
    done = subprocess.run(
        [sys.executable, "-I", "-c", READ_WITHOUT_CRDIST, *stores],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    for store, described in json.loads(done.stdout).items():
        plain = np.load(f"{store}.npz")
        ours = open_posterior(store)
        for variable in GAS:
            np.testing.assert_array_equal(plain[variable.name], samples(2, variable.name))
            np.testing.assert_array_equal(ours[variable.name].values, samples(2, variable.name))
            assert plain[variable.name].dtype == np.float32
            assert described["variables"][variable.name] == {
                "dims": ["pixel", "shell", "sample"],
                "units": variable.units,
                "long_name": variable.long_name,
            }
        np.testing.assert_array_equal(plain["distance"], GRID.centres)
        np.testing.assert_array_equal(plain["distance_edges"], GRID.edges)
        np.testing.assert_array_equal(plain["sample"], np.arange(2))
        assert described["coords"] == ["cell_ids", "distance", "distance_edges", "sample"]
        assert described["variables"]["distance"]["units"] == "kpc"
        assert described["attrs"]["schema"] == "crdist.posterior"


@pytest.mark.parametrize("ordering", ["nested", "ring"])
def test_xdggs_reads_the_cells(tmp_path, ordering):
    import xdggs

    grid = SphericalGrid(8, (1.0, 2.0), ordering=ordering)
    plain = xr.open_zarr(appended(tmp_path / "gas.zarr", 1, grid=grid))
    assert plain["cell_ids"].dims == ("pixel",)
    cells = xdggs.decode(plain.set_coords("cell_ids"))
    assert (cells.dggs.grid_info.level, cells.dggs.grid_info.indexing_scheme) == (3, ordering)
    centres = cells.dggs.cell_centers()
    lon, lat = healpy.pix2ang(8, np.arange(grid.n_pixel), nest=ordering == "nested", lonlat=True)
    np.testing.assert_allclose(centres["longitude"] % 360, lon, atol=1e-9)
    np.testing.assert_allclose(centres["latitude"], lat, atol=1e-9)


def test_derived_variables_are_summed_sample_by_sample(made):
    dataset = open_posterior(made["packed"])
    expected = samples(2, "n_hi") + 2 * samples(2, "n_h2")
    np.testing.assert_array_equal(dataset["n_h"].values, expected)
    assert dataset["n_h"].attrs == {"units": "cm-3", "long_name": "hydrogen nuclei"}
    assert dataset["n_h"].dtype == np.float32


@pytest.mark.parametrize("ordering", ["nested", "ring"])
def test_what_tells_the_grid_is_in_memory_and_as_stored(tmp_path, ordering):
    grid = SphericalGrid(2, (1.0, 2.0, 4.0), ordering=ordering)
    store = appended(tmp_path / "gas.zarr", 1, grid=grid)
    ours, plain = open_posterior(store), xr.open_zarr(store)
    for name in ("cell_ids", "distance"):
        assert isinstance(ours[name].variable.data, np.ndarray)
        np.testing.assert_array_equal(ours[name], plain[name])
        assert ours[name].attrs == plain[name].attrs
        assert ours[name].dtype == plain[name].dtype


def test_edges_stay_with_a_variable(made):
    variable = open_posterior(made["appended"])["n_hi"]
    np.testing.assert_array_equal(variable["distance_lower"], GRID.edges[:-1])
    np.testing.assert_array_equal(variable["distance_upper"], GRID.edges[1:])


def test_header_says_what_was_created(tmp_path):
    frame = Frame("heliocentric", 8.3, 0.02, 1.0)
    header = create(tmp_path / "gas.zarr", derived=[NUCLEI], main="n_h", frame=frame)
    assert header == read_posterior_header(tmp_path / "gas.zarr")
    assert (header.grid, header.frame, header.layout, header.n_sample) == (GRID, frame, "appended", 0)
    assert (header.variables, header.derived, header.main) == (GAS, (NUCLEI,), "n_h")
    assert header.provenance == {"test": True}


def test_quantities_are_resolved_to_what_is_stored(tmp_path):
    header = create(tmp_path / "gas.zarr", derived=[NUCLEI], main="n_h")
    assert header.resolve("density") == header.resolve("n_h") == NUCLEI
    assert header.resolve("n_h2").terms == (("n_h2", 1.0),)
    with pytest.raises(SchemaError, match=r"no quantity 'n_e'; it has n_hi, n_h2, n_h \(and 'density'"):
        header.resolve("n_e")


@settings(max_examples=3, deadline=None)
@given(strategies.spherical_grids(max_level=3, max_shell=40), st.integers(1, 2))
def test_packing_keeps_every_number(tmp_path_factory, grid, n_sample):
    folder = tmp_path_factory.mktemp("pack")
    source = appended(folder / "source.zarr", n_sample, grid=grid)
    header = pack(source, folder / "packed.zarr")
    assert (header.layout, header.grid.ordering) == ("packed", "nested")
    assert header.grid.edges_kpc == grid.edges_kpc
    assert header.grid.centres_kpc == grid.centres_kpc
    assert (header.main, header.derived, header.n_sample) == ("n_h", (NUCLEI,), n_sample)
    dataset = open_posterior(folder / "packed.zarr")
    for variable in GAS:
        expected = samples(n_sample, variable.name, grid)
        if grid.ordering == "ring":
            expected = expected[healpy.nest2ring(grid.nside, np.arange(grid.n_pixel))]
        np.testing.assert_array_equal(dataset[variable.name].values, expected)


def test_packing_adds_to_the_provenance(tmp_path, growing):
    shutil.copytree(growing, tmp_path / "a.zarr")
    once = {"versions": versions(), "from": "a.zarr"}
    assert pack(tmp_path / "a.zarr", tmp_path / "b.zarr").provenance == {"test": True, "packed": once}
    twice = {"versions": versions(), "from": "b.zarr", "packed": once}
    assert pack(tmp_path / "b.zarr", tmp_path / "c.zarr").provenance == {"test": True, "packed": twice}


def test_provenance_is_replaced_and_nothing_else(tmp_path, growing):
    store = growing
    before = json.loads((store / "zarr.json").read_text())
    set_provenance(store, {"n_nan": {"n_hi": 0}})
    after = json.loads((store / "zarr.json").read_text())
    assert after.pop("attributes") == {**before.pop("attributes"), "provenance": {"n_nan": {"n_hi": 0}}}
    assert after == before
    assert after["consolidated_metadata"]["metadata"]["n_hi"]["shape"] == [192, 5, 2]
    assert assert_whole_samples(store) == 2
    with pytest.raises(SchemaError, match="not a Zarr store"):
        set_provenance(tmp_path, {})


@settings(max_examples=6, deadline=None)
@given(strategies.spherical_grids(max_level=5, max_shell=100, ordering="nested"), st.integers(1, 12))
def test_shards_tile_a_variable(tmp_path_factory, grid, n_sample):
    folder = tmp_path_factory.mktemp("shards")
    header = create(folder / "gas.zarr", layout="packed", n_sample=n_sample, grid=grid)
    times = np.zeros((grid.n_pixel, grid.n_shell, n_sample), dtype=np.int8)
    for shard in posterior_shards(header):
        times[shard.region] += 1
    assert np.all(times == 1)
    stored = zarr.open_array(str(folder / "gas.zarr"), path="n_hi", mode="r")
    starts = {(s.pixels.start, s.shells.start, s.samples.start) for s in posterior_shards(header)}
    assert {tuple(np.mod(start, stored.shards)) for start in starts} == {(0, 0, 0)}


def test_every_shard_is_written_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(crdist.store, "SHARD_BYTES_MAX", 4096)
    monkeypatch.setattr(crdist.store, "CHUNK_BYTES_MAX", 1024)
    header = create(tmp_path / "gas.zarr", layout="packed", n_sample=3)
    values = samples(3)
    shards = list(posterior_shards(header))
    assert len(shards) > 4
    for shard in reversed(shards):
        write_shard(header, "n_hi", shard, values[shard.region])
    np.testing.assert_array_equal(open_posterior(tmp_path / "gas.zarr")["n_hi"].values, values)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: Shard(slice(s.pixels.start, s.pixels.stop - 1), s.shells, s.samples),
        lambda s: Shard(slice(s.pixels.start + 1, s.pixels.stop), s.shells, s.samples),
        lambda s: Shard(s.pixels, slice(0, 1), s.samples),
        lambda s: Shard(s.pixels, s.shells, slice(0, 1)),
        lambda s: Shard(slice(0, 2 * s.pixels.stop), s.shells, s.samples),
    ],
)
def test_a_part_of_a_shard_is_refused_and_nothing_is_lost(whole, change):
    header = read_posterior_header(whole)
    shard = change(next(posterior_shards(header)))
    with pytest.raises(SchemaError, match="is not one whole shard of 'n_hi'"):
        write_shard(header, "n_hi", shard, np.zeros((1, 1, 1)))
    np.testing.assert_array_equal(open_posterior(header.path)["n_hi"].values, samples(2))


def test_a_reader_keeps_its_samples_while_another_is_appended(growing):
    readers = open_posterior(growing), xr.open_zarr(growing)
    assert append_sample(growing, {v.name: sample(2, v.name) for v in GAS}) == 2
    for reader in readers:
        assert reader.sizes["sample"] == 2
        np.testing.assert_array_equal(reader["n_hi"].values, samples(2))
    np.testing.assert_array_equal(open_posterior(growing)["n_h2"].values, samples(3, "n_h2"))


WRITERS = """
import os, sys
import numpy as np
from crdist.schema import read_posterior_header
from crdist.store import append_sample
{sample}

def append_for_ever(path):
    header = read_posterior_header(path)
    index = header.n_sample
    while True:
        append_sample(path, {{v.name: sample(index, v.name, header.grid) for v in header.variables}})
        index += 1

# The imports take longest: each writer is a fork of this process, which itself never opens a store.
for store in sys.stdin:
    writer = os.fork()
    if not writer:
        append_for_ever(store.strip())
    print(writer, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]), flush=True)
"""


def test_killed_writers_leave_whole_samples_and_the_next_goes_on(tmp_path, made, rng):
    code = "GRID = None\n" + WRITERS.format(sample=inspect.getsource(sample))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    written = 0
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as writers:
        try:
            for i, seconds in enumerate(rng.uniform(0.05, 0.3, size=3)):
                store = shutil.copytree(made["appended"], tmp_path / f"{i}.zarr")
                print(store, file=writers.stdin, flush=True)
                writer = int(writers.stdout.readline())
                end = time.monotonic() + seconds
                # Readers that come while it writes see whole samples too.
                while time.monotonic() < end:
                    assert_whole_samples(store)
                os.kill(writer, signal.SIGKILL)
                assert int(writers.stdout.readline()) == -signal.SIGKILL
                n = assert_whole_samples(store)
                assert append_sample(store, {v.name: sample(n, v.name) for v in GAS}) == n
                assert assert_whole_samples(store) == n + 1
                assert not list(store.rglob("*.partial"))
                written += n - 2
        finally:
            os.killpg(writers.pid, signal.SIGKILL)
    assert written > 0


def assert_whole_samples(store):
    """The number of samples that readers see, after comparing every number of them."""
    dataset = open_posterior(store)
    n = dataset.sizes["sample"]
    for variable in GAS:
        np.testing.assert_array_equal(dataset[variable.name].values, samples(n, variable.name))
    np.testing.assert_array_equal(dataset["sample"].values, np.arange(n))
    return n


@pytest.mark.parametrize("layout", MAKERS)
@pytest.mark.parametrize("place", [0, 0.5, -8, -1], ids=["first", "middle", "index", "last"])
def test_a_flipped_byte_is_noticed(tmp_path, made, layout, place):
    store = shutil.copytree(made[layout], tmp_path / "gas.zarr")
    shard = sorted((store / "n_hi" / "c").rglob("0"))[-1]
    data = bytearray(shard.read_bytes())
    data[place if isinstance(place, int) else int(place * len(data))] ^= 0x10
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"checksum"):
        open_posterior(store)["n_hi"].load()
    np.testing.assert_array_equal(open_posterior(store)["n_h2"].values, samples(2, "n_h2"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"layout": "packed", "n_sample": 2, "grid": SphericalGrid(1, (1, 2), ordering="ring")},
            "a packed posterior is nested, got a grid in ring order",
        ),
        ({"n_sample": 3}, "an appended posterior starts empty, got n_sample = 3"),
        ({"variables": [Variable("a", "bananas", "a")]}, "units 'bananas' cannot be read"),
        ({"derived": [Derived("a", "bananas", "a", ())]}, "units 'bananas' cannot be read"),
        ({"frame": Frame()}, "the native grid is heliocentric, got a galactocentric frame"),
    ],
)
def test_impossible_stores_are_refused_before_anything_is_made(tmp_path, options, message):
    with pytest.raises(SchemaError, match=message):
        create(tmp_path / "gas.zarr", **options)
    assert not (tmp_path / "gas.zarr").exists()


def test_an_existing_store_is_not_overwritten(made, growing):
    store = growing
    with pytest.raises(StoreExistsError, match=r"gas\.zarr: exists already; choose another name"):
        create(store)
    with pytest.raises(StoreExistsError, match="exists already"):
        pack(made["appended"], store)
    assert assert_whole_samples(store) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_hi": sample(0)}, r"a sample has \['n_h2', 'n_hi'\], got \['n_hi'\]"),
        (
            {"n_hi": sample(0).T, "n_h2": sample(0)},
            r"'n_hi' of a sample has shape \(192, 5\), got \(5, 192\)",
        ),
    ],
)
def test_a_sample_that_does_not_fit_is_refused(growing, values, message):
    with pytest.raises(SchemaError, match=message):
        append_sample(growing, values)
    assert assert_whole_samples(growing) == 2


def test_a_sample_with_infinite_values_is_refused(growing):
    store = growing
    values = {v.name: sample(2, v.name).astype(np.float64) for v in GAS}
    values["n_h2"][3, 1:4] = np.inf, -np.inf, 1e39
    match = r"gas\.zarr: 'n_h2' of a sample is infinite, or beyond single precision, in 3 of 960 cells; mark .* NaN"
    with pytest.raises(SchemaError, match=match):
        append_sample(store, values)
    assert assert_whole_samples(store) == 2
    values["n_h2"][3, 1:4] = np.nan
    assert append_sample(store, values) == 2
    np.testing.assert_array_equal(open_posterior(store)["n_h2"].values[..., 2], values["n_h2"].astype(np.float32))


def test_packed_stores_do_not_grow_and_empty_ones_are_not_packed(tmp_path, made):
    with pytest.raises(SchemaError, match="a packed posterior cannot grow"):
        append_sample(made["packed"], {v.name: sample(2, v.name) for v in GAS})
    create(tmp_path / "empty.zarr")
    with pytest.raises(SchemaError, match="holds no sample yet"):
        pack(tmp_path / "empty.zarr", tmp_path / "packed.zarr")
    assert not (tmp_path / "packed.zarr").exists()


def test_a_store_that_fails_to_be_made_leaves_nothing(tmp_path):
    target = tmp_path / "gas.zarr"

    def interrupted():
        with new_store(target) as folder:
            create(folder)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    with new_store(target) as folder:
        create(folder)
        assert not target.exists()
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("there", ["", "a"])
def test_a_store_that_fails_to_be_made_takes_its_new_folders_along(tmp_path, there):
    (tmp_path / there).mkdir(exist_ok=True)

    def interrupted(also):
        with new_store(tmp_path / "a" / "b" / "gas.zarr") as folder:
            create(folder)
            if also:
                also.write_text("another's")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(None)
    assert [path.name for path in tmp_path.rglob("*")] == [there][: len(there)]
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "a" / "note")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "note"]


def test_what_a_dead_process_of_this_host_was_building_is_cleared(tmp_path):
    with subprocess.Popen(["true"]) as done:
        done.wait()
    target = tmp_path / "gas[1].zarr"
    with new_store(target) as folder:
        create(folder)
        mine = str(folder)
    target.rename(tmp_path / "earlier.zarr")
    dead, alive = (Path(mine.replace(f"-{os.getpid()}-", f"-{pid}-")) for pid in (done.pid, os.getppid()))
    elsewhere = dead.with_name(dead.name.replace("@", "@another-"))
    others = dead.with_name(dead.name.replace("gas", "star"))
    assert len({Path(mine), dead, alive, elsewhere, others}) == 5
    for left in (dead, alive, elsewhere, others):
        (left / "n_hi").mkdir(parents=True)
    with new_store(target) as folder, new_store(target.with_name("b.zarr")) as second:
        create(folder)
        create(second)
    assert not dead.exists()
    assert all(left.exists() for left in (alive, elsewhere, others))


@pytest.fixture
def flushed(monkeypatch):
    """Names of what is flushed, in order; it is flushed all the same."""
    names, fsync = [], os.fsync

    def noted(descriptor):
        names.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return names


def test_every_file_and_folder_that_a_write_makes_is_flushed(tmp_path, flushed):
    header = read_posterior_header(packed(tmp_path / "new" / "gas.zarr", 1))
    for path in (tmp_path, *tmp_path.rglob("*")):
        if path.is_dir():
            assert path in flushed
        else:
            # under the name that it had until it was whole
            assert any(aside.name.startswith(f"{path.name}.") for aside in flushed if aside.parent == path.parent)
    flushed.clear()
    shard = next(posterior_shards(header))
    write_shard(header, "n_hi", shard, samples(1)[shard.region])
    assert [path for path in flushed if path.is_dir()] == [header.path / "n_hi" / "c" / "0" / "0"]


def test_the_name_that_a_store_takes_is_flushed(tmp_path, flushed):
    with new_store(tmp_path / "a" / "b" / "gas.zarr") as folder:
        assert set(flushed) == {tmp_path / "a", tmp_path}
        create(folder)
        flushed.clear()
    assert flushed == [tmp_path / "a" / "b"]


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path):
    write_durably(tmp_path / "new" / "file", b"old")
    with pytest.raises(TypeError):
        write_durably(tmp_path / "new" / "file", "no bytes")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]
    assert (tmp_path / "new" / "file").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("schema", None, r"a Zarr store, but not one of crdist \(attribute schema = None\)"),
        ("schema", "crdist.products", "holds products, expected posterior samples"),
        ("schema_version", 99, "schema version 99, but this crdist reads version 1"),
        ("grid", None, "the root attributes lack or garble"),
        ("variables", ["n_e"], "array 'n_e' is missing"),
    ],
)
def test_stores_that_are_something_else_say_so(growing, attribute, value, message):
    store = growing
    document = store / "zarr.json"
    metadata = json.loads(document.read_text())
    metadata["attributes"][attribute] = value
    document.write_text(json.dumps(metadata))
    with pytest.raises(SchemaError, match=message):
        read_posterior_header(store)


def test_folders_that_are_no_store_say_so(tmp_path):
    with pytest.raises(SchemaError, match=r"none\.zarr: no such store"):
        open_group(tmp_path / "none.zarr")
    with pytest.raises(SchemaError, match="not a Zarr store"):
        open_group(tmp_path)


def test_arrays_that_do_not_fit_the_grid_say_so(growing):
    store = growing
    document = store / "zarr.json"
    text = document.read_text()
    metadata = json.loads(text)
    array = metadata["consolidated_metadata"]["metadata"]["n_hi"]
    array["shape"] = [192, 4, 2]
    document.write_text(json.dumps(metadata))
    with pytest.raises(SchemaError, match=r"'n_hi' has shape \(192, 4, 2\), expected \(192, 5, 2\)"):
        read_posterior_header(store)
    array["shape"], array["dimension_names"] = [192, 5, 2], ["sample", "shell", "pixel"]
    document.write_text(json.dumps(metadata))
    with pytest.raises(SchemaError, match="'n_hi' has dims"):
        read_posterior_header(store)
