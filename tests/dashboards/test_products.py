"""Products stores as the dashboard reads them: equal to other readers, current, bounded, and hard to hurt."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr
import zarr

from crdist.errors import SchemaError
from crdist.frames import Frame
from crdist.sharded_array import ShardedArray
from crdist_dashboards import open_stores
from crdist_dashboards import products as module
from crdist_dashboards.lru import PLANES, ArrayCache
from crdist_dashboards.products import ProductsSource
from crdist_postproc.output import declare_complete
from written import N_SAMPLE, SHAPE, products_of, smaller_blocks, write_blocks, write_products

PRODUCTS = products_of(Frame(), quantiles=(0.16, 0.84))
VOLUME = [item for item in PRODUCTS if item.kind == "volume"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_products(tmp_path_factory.mktemp("products") / "p.zarr", PRODUCTS)


@pytest.fixture
def own(store, tmp_path):
    """A copy that a test may spoil."""
    shutil.copytree(store, tmp_path / "own.zarr")
    return tmp_path / "own.zarr"


@pytest.fixture(autouse=True)
def fresh():
    PLANES.clear()


def test_a_source_says_what_the_store_holds(store):
    source = ProductsSource(store)
    assert [info.name for info in source.products] == ["midplane", *(f"projection_{a}" for a in "xyz"), "volume"]
    assert (source.frame, source.n_sample, source.status) == (Frame(), N_SAMPLE, "complete")
    assert (source.quantity.units, source.quantity.long_name) == ("cm-3", "number density")
    volume = source.info("volume")
    assert (volume.kind, volume.shape, volume.has_samples, volume.at_kpc) == ("volume", SHAPE, False, None)
    assert volume.extents == {"x": (-20.0, 20.0), "y": (-20.0, 20.0), "z": (-3.0, 3.0)}
    midplane = source.info("midplane")
    assert {"mean", "std", "significance", "coverage", "q16", "q84", "sample"} <= set(midplane.statistics)
    assert (midplane.axis, midplane.at_kpc) == ("z", 0.0)


@pytest.mark.parametrize("laid_out", [True, False])
@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_planes_are_those_that_xarray_reads(own, axis, laid_out):
    if not laid_out:
        # a store of before there were arrays laid out by plane
        for name in ("mean", "std"):
            shutil.rmtree(own / "volume" / f"{name}_by_plane")
        forget_by_plane(own)
    source = ProductsSource(own)
    assert ("mean_by_plane" in source.info("volume").variables) is laid_out
    with xr.open_datatree(own, engine="zarr") as tree:
        for name in ("mean", "std", "coverage"):
            for index in (0, 13, source.info("volume").grid_axis(axis).n - 1):
                expected = tree["volume"][name].isel({axis: index}).values
                np.testing.assert_array_equal(source.plane("volume", name, axis, index), expected)
        projection = tree[f"projection_{axis}"]
        np.testing.assert_array_equal(source.plane(f"projection_{axis}", "std"), projection["std"].values)
        sample = projection["per_sample"].isel(sample=4).values
        np.testing.assert_array_equal(source.sample_plane(f"projection_{axis}", 4), sample)
        np.testing.assert_array_equal(source.read("volume", "mean", x=3, y=39), tree["volume"]["mean"][3, 39].values)
        part = source.read("volume", "mean", x=slice(5, 21), y=slice(15, 17), z=slice(23, 40))
        np.testing.assert_array_equal(part, tree["volume"]["mean"].values[5:21, 15:17, 23:40])


def forget_by_plane(path):
    root = json.loads((path / "zarr.json").read_text())
    known = root["consolidated_metadata"]["metadata"]
    for name in [key for key in known if key.endswith("_by_plane")]:
        del known[name]
    (path / "zarr.json").write_text(json.dumps(root))


def test_a_plane_reads_few_pieces(store, monkeypatch):
    reads = []
    original = ShardedArray._piece

    def counting(self, *arguments):
        reads.append(self.folder.name)
        return original(self, *arguments)

    monkeypatch.setattr(ShardedArray, "_piece", counting)
    source = ProductsSource(store)
    files = len(list((store / "volume" / "mean" / "c").glob("*/*/*")))
    assert files == 9
    source.plane("volume", "mean", "z", 12)
    # one piece of each file
    assert reads == ["mean_by_plane"] * files
    reads.clear()
    source.read("volume", "mean", x=20, y=20)
    assert reads == ["mean"]
    reads.clear()
    source.plane("volume", "std", "x", 20)
    assert reads == ["std"] * 3
    reads.clear()
    source.plane("volume", "std", "x", 20)
    assert not reads, "it is in the cache"


def test_no_dask_and_no_xarray_to_read_a_plane(store):
    code = (
        "import sys; from crdist_dashboards.views import maps, samples, compare\n"
        "from crdist_dashboards.products import ProductsSource\n"
        f"maps.slice_view(ProductsSource({str(store)!r}), 'volume', 'mean')\n"
        "sys.exit(bool({'dask', 'xarray', 'panel', 'matplotlib'} & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0


def test_a_store_is_opened_once(store, monkeypatch):
    opened = []
    original = open_stores._open
    monkeypatch.setattr(open_stores, "_open", lambda *a: opened.append(a) or original(*a))
    monkeypatch.setattr(open_stores, "_STORES", type(open_stores._STORES)())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: ProductsSource(store).plane("volume", "mean", "z", 3), range(16)))
    assert len(opened) == 1


@pytest.mark.parametrize("name", ["../own.zarr/midplane", "/etc", "", "volume/mean", "midplan"])
def test_only_products_that_are_listed_are_read(store, name):
    with pytest.raises(SchemaError, match="no product") as caught:
        ProductsSource(store).plane(name, "mean")
    assert "\n" not in str(caught.value)
    assert ("did you mean midplane?" in str(caught.value)) == (name == "midplan")


@pytest.fixture
def growing(tmp_path, monkeypatch):
    """A volume of which a third is there."""
    for name, value in smaller_blocks(40_000).items():
        monkeypatch.setattr(f"crdist_postproc.products.tiling.{name}", value)
    return write_products(tmp_path / "g.zarr", VOLUME, n_block=3)


def test_a_growing_store_is_seen_to_grow(growing):
    source = ProductsSource(growing)
    assert source.status == "running"
    before = source.plane("volume", "mean", "z", 12)
    assert np.isfinite(before[:16]).any()
    assert np.isnan(before[16:]).all()
    assert not source.refresh()
    write_blocks(growing, VOLUME, range(3, 9))
    assert source.refresh()
    assert not source.refresh()
    assert np.isfinite(source.plane("volume", "mean", "z", 12)[16:]).any()
    other = ProductsSource(growing)
    declare_complete(growing)
    assert source.refresh()
    assert (source.status, other.refresh(), other.status) == ("complete", True, "complete")


def test_planes_of_a_growing_store_expire(growing, monkeypatch):
    monkeypatch.setattr(module, "RUNNING_SECONDS", 0.2)
    source = ProductsSource(growing)
    before = source.plane("volume", "std", "z", 12)
    write_blocks(growing, VOLUME, range(3, 9))
    time.sleep(0.25)
    assert np.isfinite(source.plane("volume", "std", "z", 12)).sum() > np.isfinite(before).sum()


def test_a_store_that_is_made_anew_is_read_anew(tmp_path):
    path = write_products(tmp_path / "n.zarr", PRODUCTS[:1])
    source = ProductsSource(path)
    first = source.plane("midplane", "mean")
    shutil.rmtree(path)
    write_products(path, PRODUCTS[:1], seed=5)
    assert not np.array_equal(first, source.plane("midplane", "mean"), equal_nan=True)
    assert source.refresh()


@pytest.mark.parametrize(
    ("damage", "product", "variable", "file"),
    [
        ("flipped", "volume", "mean", "volume/mean_by_plane/c/0/1/1"),
        ("cut", "volume", "mean", "volume/mean_by_plane/c/0/1/1"),
        ("lost", "volume", "mean", "volume/mean_by_plane/c/0/1/1"),
        ("a folder", "volume", "mean", "volume/mean_by_plane/c/0/1/1"),
        ("flipped", "volume", "coverage", "volume/coverage/c/1/1/0"),
        ("flipped", "midplane", "mean", "midplane/mean/c/0/0"),
        ("lost", "midplane", "mean", "midplane/mean/c/0/0"),
    ],
)
def test_damage_is_one_line_and_hurts_nothing_else(own, damage, product, variable, file):
    data = bytearray((own / file).read_bytes())
    if damage == "flipped":
        data[len(data) // 4] ^= 16
    (own / file).write_bytes(data[: -len(data) // 3] if damage == "cut" else data)
    if damage in ("lost", "a folder"):
        (own / file).unlink()
    if damage == "a folder":
        (own / file).mkdir()
    source = ProductsSource(own)

    def read_all():
        for index in range(SHAPE[2]):
            source.plane(product, variable, "z", index)

    with pytest.raises(SchemaError, match=r"damaged|cannot be read|missing") as caught:
        read_all()
    message = str(caught.value)
    assert f"{product}/" in message
    assert variable in message
    assert "\n" not in message
    assert np.isfinite(source.plane("projection_y", "mean")).any()
    assert np.isfinite(source.plane(product, "std", "z", 12)).any()


def test_a_store_that_vanishes_is_one_line(own, store):
    source = ProductsSource(own)
    source.plane("midplane", "mean")
    shutil.rmtree(own)
    for act in (lambda: source.plane("midplane", "mean"), source.refresh, lambda: ProductsSource(own)):
        with pytest.raises(SchemaError, match="no such store"):
            act()
    assert np.isfinite(ProductsSource(store).plane("midplane", "mean")).any()


def test_what_is_no_products_store_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SchemaError, match="not a Zarr store"):
        ProductsSource(tmp_path / "empty")
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(SchemaError, match="not one of crdist"):
        ProductsSource(tmp_path / "other.zarr")


def test_the_cache_is_bounded_and_forgets_the_oldest():
    cache = ArrayCache(max_bytes=1000)
    for key in range(10):
        cache.get(key, lambda key=key: np.full(50, float(key)))
        assert cache.n_bytes <= 1000
    assert cache.get(9, lambda: np.zeros(1))[0] == 9.0
    assert cache.get(0, lambda: np.zeros(1))[0] == 0.0
    assert cache.misses == 11
    large = cache.get("large", lambda: np.zeros(500))
    assert large.size == 500
    assert cache.n_bytes <= 1000
    with pytest.raises(ValueError, match="read-only"):
        large[0] = 1.0


def test_threads_that_want_the_same_wait_for_one_read():
    cache, started, reads = ArrayCache(), threading.Event(), []

    def slow():
        reads.append(1)
        started.wait(5)
        return np.arange(3)

    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(cache.get, "key", slow) for _ in range(8)]
        started.set()
        found = [item.result() for item in waiting]
    assert len(reads) == 1
    assert all(item is found[0] for item in found)


def test_a_read_that_fails_is_tried_again():
    cache = ArrayCache()

    def fail():
        raise SchemaError("damaged")

    for _ in range(2):
        with pytest.raises(SchemaError, match="damaged"):
            cache.get("key", fail)
    assert cache.get("key", lambda: np.ones(2)).sum() == 2


def test_many_threads_read_the_same_values(store):
    source = ProductsSource(store)
    expected = [source.plane("volume", "mean", "z", k).copy() for k in range(SHAPE[2])]
    PLANES.clear()

    def read(k):
        return np.array_equal(ProductsSource(store).plane("volume", "mean", "z", k % 24), expected[k % 24], True)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(96)))
