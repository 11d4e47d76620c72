"""Stores opened from folders and URLs, and what happens to an open one when the store changes."""

import contextlib
import functools
import http.server
import io
import re
import shutil
import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest

import crdist
from crdist.errors import DependencyError, SchemaError
from crdist.grids import SphericalGrid
from crdist.schema import Variable
from crdist.store import append_sample, create_posterior, open_inference, pack
from galaxies import SMALL_RECIPE, small_posterior, smooth_samples

GRID = SphericalGrid.log_spaced(2, 6, 0.05, 25.0)
SAMPLES = smooth_samples(GRID, 3)
STORES = ("growing", "packed", "copy")


@pytest.fixture
def growing(tmp_path):
    path = tmp_path / "growing.zarr"
    create_posterior(
        path, GRID, [Variable("c", "cm-3", "normalisation")], n_sample=0, layout="appended", provenance={"run": 1}
    )
    append_sample(path, {"c": SAMPLES[..., 0]})
    return path


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    yield files
    files.rm("/opening", recursive=True)


@pytest.mark.parametrize("scheme", ["file://", "memory://"])
def test_a_url_gives_what_the_folder_gives(tmp_path, memory, scheme):
    small_posterior(tmp_path / "p.zarr")
    memory.put(str(tmp_path / "p.zarr"), "/opening/p.zarr", recursive=True)
    url = f"file://{tmp_path}/p.zarr" if scheme == "file://" else "memory://opening/p.zarr"
    remote, local = crdist.open_posterior(url), crdist.open_posterior(tmp_path / "p.zarr")
    assert remote["density"].chunks is not None
    np.testing.assert_array_equal(remote["density"], local["density"])
    assert remote["density"].attrs == local["density"].attrs
    assert crdist.regrid(remote["density"], crdist.CartesianGrid.from_extent((-1, 1), (-1, 1), (-1, 1), voxel=1)).shape


def test_products_open_from_a_url_too(tmp_path, memory):
    small_posterior(tmp_path / "p.zarr")
    recipe = {**SMALL_RECIPE, "products": ["midplane"]}
    crdist.run_products(tmp_path / "p.zarr", tmp_path / "o.zarr", recipe)
    memory.put(str(tmp_path / "o.zarr"), "/opening/o.zarr", recursive=True)
    remote, local = crdist.open_products("memory://opening/o.zarr"), crdist.open_products(tmp_path / "o.zarr")
    np.testing.assert_array_equal(remote["midplane"]["mean"], local["midplane"]["mean"])


class WholeFiles(http.server.SimpleHTTPRequestHandler):
    """As Python's own server: parts of files are not to be had."""

    def log_message(self, *_):
        pass


class PartsOfFiles(WholeFiles):
    """As the servers that people use."""

    def send_head(self):
        self.part = None
        wanted = self.headers.get("Range")
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return super().send_head()
        content = path.read_bytes()
        if wanted:
            first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted).groups()
            start = int(first) if first else max(0, len(content) - int(last))
            stop = min(int(last) + 1, len(content)) if first and last else len(content)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
            content = content[start:stop]
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return io.BytesIO(content)


@contextlib.contextmanager
def served(folder, kind):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(kind, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_store_on_a_web_server(tmp_path):
    pytest.importorskip("aiohttp", reason="fsspec reads http:// with aiohttp")
    small_posterior(tmp_path / "p.zarr")
    crdist.run_products(tmp_path / "p.zarr", tmp_path / "o.zarr", {**SMALL_RECIPE, "products": ["midplane"]})
    with served(tmp_path, PartsOfFiles) as url:
        remote = crdist.open_posterior(f"{url}/p.zarr")["density"]
        local = crdist.open_posterior(tmp_path / "p.zarr")["density"]
        np.testing.assert_array_equal(remote, local)
        np.testing.assert_array_equal(remote.crdist.mean()[3:9, 2], local.crdist.mean()[3:9, 2])
        products = crdist.open_products(f"{url}/o.zarr")
        np.testing.assert_array_equal(
            products["midplane"]["mean"], crdist.open_products(tmp_path / "o.zarr")["midplane"]["mean"]
        )
        with pytest.raises(SchemaError, match=f"{url}/none.zarr: not a Zarr store: there is no .*zarr.json"):
            crdist.open_posterior(f"{url}/none.zarr")
    with pytest.raises(SchemaError, match=r"p.zarr: cannot be reached: Cannot connect"):
        crdist.open_posterior(f"{url}/p.zarr")
    with served(tmp_path, WholeFiles) as url, pytest.raises(SchemaError, match="does not send parts of files"):
        crdist.open_posterior(f"{url}/p.zarr")


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("s3://bucket/p.zarr", DependencyError, r"s3://bucket/p.zarr: cannot be read here: .*s3fs"),
        ("zzz://p.zarr", SchemaError, "zzz://p.zarr: cannot be reached: Protocol not known: zzz"),
        ("memory://nowhere.zarr", SchemaError, "memory://nowhere.zarr: not a Zarr store"),
        ("file:///nowhere/p.zarr", SchemaError, "/nowhere/p.zarr: no such store"),
    ],
)
def test_urls_that_cannot_be_read_say_why(url, error, message):
    with pytest.raises(error, match=message):
        crdist.open_posterior(url)


def test_a_url_of_something_else_says_so(tmp_path, memory, growing):
    memory.put(str(growing), "/opening/g.zarr", recursive=True)
    with pytest.raises(SchemaError, match="has no group 'inference'"):
        open_inference("memory://opening/g.zarr")
    with pytest.raises(SchemaError, match="holds posterior samples, expected products"):
        crdist.open_products("memory://opening/g.zarr")


def test_samples_that_are_appended_later_do_not_count(growing):
    posterior = crdist.open_posterior(growing)
    append_sample(growing, {"c": SAMPLES[..., 1]})
    assert posterior.sizes["sample"] == 1
    np.testing.assert_array_equal(posterior["c"].values[..., 0], SAMPLES[..., 0])
    assert crdist.open_posterior(growing).sizes["sample"] == 2


def test_a_store_that_is_removed_is_an_error_and_no_field_of_nan(growing):
    posterior = crdist.open_posterior(growing)
    shutil.rmtree(growing)
    with pytest.raises(SchemaError, match=r"growing.zarr: is no longer there"):
        posterior["c"].compute()


def test_a_store_that_is_replaced_is_an_error(tmp_path, growing):
    pack(growing, tmp_path / "packed.zarr")
    posterior = crdist.open_posterior(tmp_path / "packed.zarr")
    posterior["c"].compute()
    small_posterior(tmp_path / "other.zarr")
    (tmp_path / "packed.zarr").rename(tmp_path / "old.zarr")
    (tmp_path / "other.zarr").rename(tmp_path / "packed.zarr")
    for _ in range(2):
        with pytest.raises(SchemaError, match=r"packed.zarr: has been replaced by another store"):
            posterior["c"].compute()


def test_a_store_that_is_rewritten_in_its_folder_is_an_error(growing):
    append_sample(growing, {"c": SAMPLES[..., 1]})
    posterior = crdist.open_posterior(growing)
    kept = growing.stat().st_ino
    for item in growing.iterdir():
        shutil.rmtree(item) if item.is_dir() else item.unlink()
    beside = growing.parent / "beside.zarr"
    create_posterior(
        beside, GRID, [Variable("c", "cm-3", "normalisation")], n_sample=0, layout="appended", provenance={"run": 1}
    )
    append_sample(beside, {"c": SAMPLES[..., 2]})
    for item in beside.iterdir():
        item.rename(growing / item.name)
    assert growing.stat().st_ino == kept
    # the same run, begun anew: it has fewer samples than were there
    with pytest.raises(SchemaError, match="has been replaced by another store"):
        posterior["c"].compute()


def test_equal_openings_share_their_tasks(growing):
    first, second = (crdist.open_posterior(growing)["c"] for _ in range(2))
    assert first.data.name == second.data.name


def test_stores_of_the_same_draws_are_known(tmp_path, growing):
    pack(growing, tmp_path / "packed.zarr")
    shutil.copytree(growing, tmp_path / "copy.zarr")
    first, *same = (crdist.open_posterior(tmp_path / f"{name}.zarr")["sample"].attrs for name in STORES)
    assert [attrs["store"] for attrs in same] == [first["store"]] * 2
    assert [attrs["path"] for attrs in (first, *same)] == [str(tmp_path / f"{name}.zarr") for name in STORES]
    for path, provenance in (("b", {"run": 2}), ("c", {"source": {"name": "x", "sha256": "ab"}}), ("d", {}), ("e", {})):
        variable = Variable("c", "cm-3", "normalisation")
        create_posterior(tmp_path / path, GRID, [variable], n_sample=0, layout="appended", provenance=provenance)
    others = [crdist.open_posterior(tmp_path / path)["sample"].attrs["store"] for path in "bcde"]
    assert len({first["store"], *others}) == 5
