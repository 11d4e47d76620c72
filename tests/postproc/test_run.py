"""How a run keeps its books: records, completeness, growing sources, memory."""

import json
import multiprocessing
from importlib.util import find_spec

import healpy
import numpy as np
import pytest

import crdist
from command import fingerprint
from crdist.errors import RunError, SchemaError
from crdist.grids import SphericalGrid
from crdist.schema import Variable
from crdist.store import append_sample, create_posterior
from crdist_postproc import driving
from crdist_postproc.kernels.field import Field
from crdist_postproc.output import RunFolder, declare_complete
from crdist_postproc.plan import plan_run
from crdist_postproc.recipe import Recipe
from crdist_postproc.source import Source, drop_fields, field_bytes, load_field, store_digest
from galaxies import SMALL_RECIPE, small_posterior, smooth_samples, write_posterior


@pytest.fixture
def stop_after(monkeypatch):
    """Make a run fail after a number of blocks."""

    def arrange(n):
        original = driving.run_piece
        left = iter(range(n))

        def run_piece(*arguments):
            if next(left, None) is None:
                raise RunError("stopped")
            return original(*arguments)

        monkeypatch.setattr(driving, "run_piece", run_piece)

    return arrange


def test_completeness_is_declared_in_one_write(tmp_path, monkeypatch):
    small_posterior(tmp_path / "p.zarr")
    crdist.run_products(tmp_path / "p.zarr", tmp_path / "o.zarr", SMALL_RECIPE)
    expected = fingerprint(tmp_path / "o.zarr")
    root = tmp_path / "o.zarr" / "zarr.json"
    root.write_text(root.read_text().replace('"status": "complete"', '"status": "running"'))
    writes = []
    monkeypatch.setattr("crdist_postproc.output.write_durably", lambda path, data: writes.append((path, data)))
    declare_complete(tmp_path / "o.zarr")
    (path, data), *others = writes
    assert path == root
    assert not others
    assert "consolidated_metadata" in json.loads(data)
    root.write_bytes(data)
    assert fingerprint(tmp_path / "o.zarr") == expected


def test_an_unfinished_store_is_not_taken_for_a_result(tmp_path, stop_after):
    small_posterior(tmp_path / "p.zarr")
    stop_after(1)
    with pytest.raises(RunError, match="stopped"):
        crdist.run_products(tmp_path / "p.zarr", tmp_path / "o.zarr", SMALL_RECIPE)
    with pytest.raises(SchemaError, match="its run is not complete"):
        crdist.open_products(tmp_path / "o.zarr")
    partial = crdist.open_products(tmp_path / "o.zarr", allow_partial=True)
    assert np.isfinite(partial["midplane"]["mean"]).any()
    assert np.isnan(partial["volume"]["mean"]).all()


@pytest.mark.parametrize(
    "lost",
    [
        "radial/mean/c/0",
        "projection_z/mass_residual/c/0",
        "projection_x/std/c/0/0",
        "vertical/fit_n0_of_mean/c",
        "sky/std/c/0",
        "volume/std_by_plane/c/0/0/0",
    ],
)
def test_any_lost_file_is_made_again(tmp_path, lost):
    small_posterior(tmp_path / "p.zarr")
    crdist.run_products(tmp_path / "p.zarr", tmp_path / "o.zarr", SMALL_RECIPE)
    expected = fingerprint(tmp_path / "o.zarr")
    (tmp_path / "o.zarr" / lost).write_bytes(b"")
    crdist.run_products(tmp_path / "p.zarr", tmp_path / "o.zarr", SMALL_RECIPE)
    assert fingerprint(tmp_path / "o.zarr") == expected


def test_records_of_another_run_of_the_same_name_do_not_count(tmp_path):
    small_posterior(tmp_path / "p.zarr")
    small_posterior(tmp_path / "q.zarr", seed=3)
    crdist.run_products(tmp_path / "p.zarr", tmp_path / "o.zarr", SMALL_RECIPE)
    (tmp_path / "o.zarr").rename(tmp_path / "kept.zarr")
    report = crdist.run_products(tmp_path / "q.zarr", tmp_path / "o.zarr", SMALL_RECIPE)
    assert report.blocks_found == 0
    first, second = (crdist.open_products(tmp_path / name)["sky"]["mean"] for name in ("kept.zarr", "o.zarr"))
    assert not np.array_equal(first, second)


def test_a_run_is_continued_though_its_source_grows(tmp_path, monkeypatch, stop_after):
    grid = SphericalGrid.log_spaced(4, 8, 0.05, 25.0)
    samples = smooth_samples(grid, 4)
    variables = [Variable("density", "cm-3", "number density")]
    create_posterior(tmp_path / "p.zarr", grid, variables, n_sample=0, layout="appended", provenance={})
    for k in range(3):
        append_sample(tmp_path / "p.zarr", {"density": samples[..., k]})
    crdist.run_products(tmp_path / "p.zarr", tmp_path / "whole.zarr", SMALL_RECIPE)
    with monkeypatch.context():
        stop_after(4)
        with pytest.raises(RunError, match="stopped"):
            crdist.run_products(tmp_path / "p.zarr", tmp_path / "o.zarr", SMALL_RECIPE)
    monkeypatch.undo()
    append_sample(tmp_path / "p.zarr", {"density": samples[..., 3]})
    crdist.run_products(tmp_path / "p.zarr", tmp_path / "o.zarr", SMALL_RECIPE)
    assert fingerprint(tmp_path / "o.zarr") == fingerprint(tmp_path / "whole.zarr")
    # a complete one is of another source now, and says so
    with pytest.raises(FileExistsError, match="was made from another source"):
        crdist.run_products(tmp_path / "p.zarr", tmp_path / "whole.zarr", SMALL_RECIPE)


def test_a_source_that_changes_under_a_run_is_noticed(tmp_path):
    small_posterior(tmp_path / "p.zarr")
    source = Source(tmp_path / "p.zarr", digest=store_digest(tmp_path / "p.zarr"))
    load_field(source)
    drop_fields()
    shard = tmp_path / "p.zarr" / "density" / "c" / "0" / "0" / "0"
    small_posterior(tmp_path / "q.zarr", seed=9)
    shard.write_bytes((tmp_path / "q.zarr" / "density" / "c" / "0" / "0" / "0").read_bytes())
    with pytest.raises(SchemaError, match="has changed since this run was planned"):
        load_field(source)


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        ("own", r"density/c/0/0/0 is damaged \(its checksum is wrong\); 'crdist check"),
        ("zarrs", r"density, pixels 0 to .* cannot be read .*'crdist check"),
        ("zarr", r"density, pixels 0 to .* cannot be read .*'crdist check"),
    ],
)
def test_all_readers_read_the_same_and_find_damage(tmp_path, monkeypatch, reader, message):
    assert find_spec("zarrs"), "the tests need the extra 'fast'"
    if reader != "own":
        monkeypatch.setattr("crdist_postproc.source.sharded_array", lambda *_: None)
    if reader == "zarr":
        monkeypatch.setattr("crdist.store.find_spec", lambda name: None)
    grid = SphericalGrid.log_spaced(4, 10, 0.05, 25.0)
    samples = smooth_samples(grid, 4)
    write_posterior(tmp_path / "p.zarr", grid, samples)
    drop_fields()
    field = load_field(Source(tmp_path / "p.zarr"))
    np.testing.assert_array_equal(field.values[healpy.nest2ring(4, np.arange(192))], samples)
    drop_fields()
    shard = tmp_path / "p.zarr" / "density" / "c" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    with pytest.raises(SchemaError, match=message):
        load_field(Source(tmp_path / "p.zarr"))


def test_a_lost_file_of_a_source_is_no_masked_one(tmp_path):
    small_posterior(tmp_path / "p.zarr")
    (tmp_path / "p.zarr" / "density" / "c" / "0" / "0" / "0").unlink()
    drop_fields()
    with pytest.raises(SchemaError, match=r"density/c/0/0/0 is missing from a complete store; 'crdist check"):
        load_field(Source(tmp_path / "p.zarr"))


def test_only_what_a_run_needs_is_kept(tmp_path):
    sources = []
    for seed in range(3):
        small_posterior(tmp_path / f"{seed}.zarr", seed=seed)
        sources.append(Source(tmp_path / f"{seed}.zarr"))
    first = load_field(sources[0], sources[:2])
    assert load_field(sources[1], sources[:2]) is not first
    assert load_field(sources[0], sources[:2]) is first
    load_field(sources[2], sources[2:])
    assert load_field(sources[0], sources) is not first
    drop_fields()


def test_records_name_the_run(tmp_path):
    folder = RunFolder(tmp_path / "o.zarr", "abc")
    assert folder.record("sky", "sky-00000") == tmp_path / "o.zarr.run" / "done" / "abc" / "sky--sky-00000.npz"


# Memory: measured in a process of its own, against what the plan promised


def _peak_of(work, warm, *arguments):
    """Memory that ``work`` takes at most beyond what the process has, once it has loaded its code on ``warm``."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (work, warm, arguments))


def _measure(work, warm, arguments):
    state = work(*warm)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = _status("VmRSS")
    work(*arguments)
    del state
    return _status("VmHWM") - before


def _status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))


def _load(source):
    return load_field(source)


def _compute(job, grid, n_sample, n_block):
    samples = np.random.default_rng(0).random((grid.n_pixel, grid.n_shell, n_sample), dtype=np.float32)
    field = Field.from_samples(samples, grid)
    for block in job.product.blocks()[:n_block]:
        job.product.compute(block, field, None)


@pytest.mark.parametrize(("n_sample", "reduce"), [(12, False), (40, True)])
def test_reading_stays_within_what_the_plan_says(tmp_path, n_sample, reduce):
    small_posterior(tmp_path / "small.zarr")
    grid = SphericalGrid.log_spaced(32, 60, 0.05, 25.0)
    samples = np.random.default_rng(0).random((grid.n_pixel, grid.n_shell, n_sample), dtype=np.float32)
    header = write_posterior(tmp_path / "p.zarr", grid, samples)
    source = Source(tmp_path / "p.zarr", reduce=reduce)
    # 16 MiB for what the allocator keeps
    assert _peak_of(_load, (Source(tmp_path / "small.zarr"),), source) < field_bytes(header, source) + 16 * 1024**2


def test_blocks_stay_within_what_the_plan_says(tmp_path):
    header = small_posterior(tmp_path / "p.zarr", nside=8, n_shell=20, n_sample=40)
    settings = ["grid.voxel=0.2", "quantiles=[0.5]"]
    wide, narrow = (
        plan_run(tmp_path / "p.zarr", Recipe.default().with_overrides([*settings, *more]))
        for more in ([], ["grid={x: [-2, 2], y: [-2, 2], z: [-1, 1], voxel: 0.5}", "products.local_z.voxel=0.5"])
    )
    arguments = (header.grid, header.n_sample, 2)
    samples = 4 * header.grid.n_pixel * header.grid.n_shell * header.n_sample
    for job, small in zip(wide.jobs, narrow.jobs, strict=True):
        peak = _peak_of(_compute, (small, *arguments), job, *arguments)
        # beside the block: the samples, twice, and 16 MiB for what the allocator keeps
        assert peak < job.product.block_bytes() + 2 * samples + 16 * 1024**2, job.product.name
