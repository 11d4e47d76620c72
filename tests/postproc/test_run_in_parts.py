"""Runs over a source larger than the memory they may take: the same store, and a bound that holds."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command import fingerprint
from crdist import store
from crdist.errors import PlanTooLargeError
from crdist.grids import SphericalGrid
from crdist_postproc import parts
from crdist_postproc.books import Books
from crdist_postproc.memory import least_memory
from crdist_postproc.output import RunFolder
from crdist_postproc.parts import Room
from crdist_postproc.plan import Workers, parse_bytes, plan_run
from crdist_postproc.recipe import Recipe
from crdist_postproc.run import execute, run_products
from crdist_postproc.source import InParts, drop_fields, load_field
from crdist_postproc.sparse import Chunks, committed_bytes, committed_bytes_in_slabs, fill_sparsely
from crdist_postproc.stored_chunks import StoredChunks
from galaxies import smooth_samples, write_posterior
from resident import linux_only, resident_bytes

KB, MIB = 1000, 1024**2
GRID = SphericalGrid.log_spaced(16, 36, 0.1, 15.0)
BOX = {"x": [-12, 4], "y": [-6, 6], "z": [-1, 1]}

PRODUCTS = [
    "midplane",
    {"kind": "slice", "name": "through_sun", "axis": "y", "at": 0.0, "sampling": "adaptive"},
    "projection_x",
    "projection_z",
    {"kind": "projection", "name": "points", "axis": "y", "sampling": "point"},
    {"kind": "sky", "name": "sky", "distance": [0.5, 3]},
    {"kind": "volume", "name": "volume"},
    {"kind": "volume", "name": "parts", "sampling": "adaptive", "quantiles": [0.5], "per_sample": True},
    {"kind": "projection", "name": "mass", "axis": "x", "sampling": "conservative", "voxel": 0.25},
    {"kind": "slice", "name": "means", "axis": "z", "sampling": "conservative", "voxel": 0.25, "order": 2},
    {"kind": "volume", "name": "all", "sampling": "conservative", "voxel": 0.25},
    {"kind": "radial", "name": "radial", "bins": [0, 14, 2], "z_cut": 0.5},
    {"kind": "vertical", "name": "vertical", "ring": [7, 9], "bins": [-1, 1, 0.5]},
]


@pytest.fixture(scope="module")
def posterior(tmp_path_factory):
    """Samples in some hundred chunks, part of the cells masked."""
    samples = smooth_samples(GRID, 3)
    samples[1000:1040, 10:20] = np.nan
    path = tmp_path_factory.mktemp("parts") / "p.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "CHUNK_BYTES_MIN", 4 * KB)
        patch.setattr(store, "CHUNK_SHELLS", 8)
        write_posterior(path, GRID, samples)
    return path


@pytest.fixture(scope="module")
def gas(tmp_path_factory):
    """Another store, to weight with."""
    path = tmp_path_factory.mktemp("gas") / "g.zarr"
    write_posterior(path, GRID, smooth_samples(GRID, 4))
    return path


def recipe_of(changes=None, products=PRODUCTS):
    return Recipe.from_mapping({"grid": {**BOX, "voxel": 0.5}, "products": products, **(changes or {})})


def in_parts(plan, times_least=1.0, kept=0):
    """The same plan with its sources read in parts, in little more memory than the least that works."""
    least = least_memory(plan.header, plan.jobs[0].source, plan.jobs, 1)
    memory = InParts(int(times_least * least.room_bytes), kept)
    jobs = tuple(
        replace(
            job,
            source=replace(job.source, in_parts=memory),
            weight=None if job.weight is None else replace(job.weight, in_parts=memory),
        )
        for job in plan.jobs
    )
    return replace(plan, jobs=jobs)


INTERPOLATED = [item for item in PRODUCTS if isinstance(item, str) or item.get("sampling") != "conservative"]


@pytest.mark.parametrize(
    ("changes", "kept"),
    [({}, 100 * KB), ({"method": "nearest", "inner": "exclude"}, 0), ({"value_space": "log"}, 300 * KB)],
)
def test_the_store_is_the_same_to_the_bit(posterior, gas, tmp_path, changes, kept):
    weighted = {"kind": "radial", "name": "weighted", "bins": [0, 14, 2], "z_cut": 0.5, "weight": {"store": str(gas)}}
    recipe = recipe_of(changes, [*(INTERPOLATED if "value_space" in changes else PRODUCTS), weighted])
    execute(plan_run(posterior, recipe), tmp_path / "whole.zarr")
    execute(in_parts(plan_run(posterior, recipe), kept=kept), tmp_path / "parts.zarr")
    assert fingerprint(tmp_path / "parts.zarr") == fingerprint(tmp_path / "whole.zarr")


@pytest.mark.parametrize("name", ["means", "radial", "vertical"])
def test_the_least_that_is_said_to_work_does(posterior, tmp_path, name):
    recipe = recipe_of(products=[item for item in PRODUCTS if isinstance(item, dict) and item["name"] == name])
    plan = plan_run(posterior, recipe)
    execute(plan, tmp_path / "whole.zarr")
    execute(in_parts(plan), tmp_path / "parts.zarr")
    assert fingerprint(tmp_path / "parts.zarr") == fingerprint(tmp_path / "whole.zarr")


@pytest.mark.slow
@settings(max_examples=8)
@given(
    times_least=st.floats(1.0, 2.0),
    kept=st.integers(0, 400),
    extend=st.booleans(),
    product=st.sampled_from(PRODUCTS),
)
def test_any_cut_gives_the_same_bits(posterior, tmp_path_factory, times_least, kept, extend, product):
    recipe = recipe_of({"inner": "extend" if extend else "exclude"}, [product])
    plan = plan_run(posterior, recipe)
    folder = tmp_path_factory.mktemp("cut")
    execute(plan, folder / "whole.zarr")
    execute(in_parts(plan, times_least, kept * KB), folder / "parts.zarr")
    assert fingerprint(folder / "parts.zarr") == fingerprint(folder / "whole.zarr")


def test_a_source_larger_than_the_memory_is_read_in_parts(posterior, tmp_path):
    # tiles of a conservative regrid take more memory than these few samples
    plan = plan_run(posterior, recipe_of(products=INTERPOLATED))
    beside = plan.peak_bytes(2) - plan.source_bytes
    workers = Workers(1, 2, beside + plan.source_bytes + 401 * MIB)
    assert plan.within(workers) is plan
    enough = replace(workers, memory_bytes=beside + plan.source_bytes * 3 // 4 + 400 * MIB)
    small = plan.within(enough)
    assert small.in_parts
    assert small.peak_bytes(2) <= enough.process_bytes
    small.check(enough)
    with pytest.raises(PlanTooLargeError, match=r"a worker needs .*; give at least --memory") as refused:
        plan.within(replace(workers, memory_bytes=beside + 400 * MIB))
    # the least that is named is enough
    least = str(refused.value).split("--memory ")[1].split(",")[0]
    plan.within(replace(workers, memory_bytes=parse_bytes(least))).check(workers)
    report = run_products(posterior, tmp_path / "o.zarr", recipe_of(products=["midplane"]), workers=enough)
    assert report.blocks_computed > 0


@linux_only
def test_parts_take_no_more_than_they_are_counted_for(posterior, monkeypatch):
    taken, ways = [], set()

    def fill(template, wanted, chunks, *arguments, **options):
        field = fill_sparsely(template, wanted, chunks, *arguments, **options)
        n_padded = field.values.shape[2]
        if options["in_slabs"]:
            counted = committed_bytes_in_slabs(wanted, chunks, n_padded, samples.reach.chunk_of_row)
        else:
            counted = committed_bytes(wanted, chunks, n_padded)
        taken.append((resident_bytes(field.values), counted))
        ways.add(options["in_slabs"])
        return field

    monkeypatch.setattr(parts, "fill_sparsely", fill)
    plan = in_parts(plan_run(posterior, recipe_of()))
    for job in plan.jobs:
        samples = load_field(job.source)
        for block in job.product.blocks()[:2]:
            job.product.compute(block, samples, None)
    drop_fields()
    assert len(taken) > 20
    assert ways == {False, True}
    over = [(resident, counted) for resident, counted in taken if resident > counted]
    assert not over
    assert max(counted for _, counted in taken) <= plan.jobs[0].source.in_parts.room_bytes


def test_blocks_that_read_the_same_samples_follow_each_other(posterior, tmp_path):
    plan = in_parts(plan_run(posterior, recipe_of({"grid": {**BOX, "voxel": 0.02}})))
    found = {job.product.name: (set(), False) for job in plan.jobs}
    books = Books(plan, RunFolder(tmp_path / "o.zarr", "key"), found, None)
    pieces = [
        piece for piece in books.missing if piece[0][1].kind != "native" and hasattr(piece[0][0].product, "along")
    ]
    assert len({piece[0][0].product.name for piece in pieces[: len(pieces) // 2]}) > 1
    assert any({job.product.name for job, _ in piece} >= {"projection_x", "points", "volume"} for piece in pieces)
    assert sum(map(len, books.missing)) == plan.n_block


def test_what_takes_hours_or_terabytes_is_asked_about(posterior):
    plan_run(posterior, recipe_of()).check_cost()
    vast = plan_run(posterior, recipe_of({"grid": {**BOX, "voxel": 0.0005}}, [{"kind": "volume", "name": "volume"}]))
    with pytest.raises(PlanTooLargeError, match=r"voxel-samples take about .* core hours.* begin with --yes"):
        vast.check_cost()


def test_chunks_are_read_once_by_all_threads_and_the_oldest_are_dropped():
    read, started = [], threading.Barrier(4)

    def load(pixels, shells):
        read.append((pixels.start, shells.start))
        return np.full((10, 5, 2), pixels.start, dtype=np.float32)

    chunks = StoredChunks(Chunks((10,) * 4, (5,) * 2), load, 3 * 400)

    def work():
        started.wait()
        for pixel in (0, 1, 2):
            assert chunks.read(pixel, 0)[0, 0, 0] == 10 * pixel

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read) == [(0, 0), (10, 0), (20, 0)]
    chunks.read(0, 0)
    chunks.read(3, 1)  # in the place of the chunk not read for longest, 1
    chunks.read(0, 0)
    assert len(read) == 4
    chunks.read(1, 0)
    assert len(read) == 5
    assert chunks.bytes_read == 5 * 400


def test_a_chunk_that_cannot_be_read_fails_for_all_who_wait_and_is_tried_again():
    tries = []

    def load(pixels, shells):
        tries.append(pixels)
        if len(tries) == 1:
            raise OSError("gone")
        return np.zeros((1, 1, 1), dtype=np.float32)

    chunks = StoredChunks(Chunks((1,), (1,)), load, 100)
    with pytest.raises(OSError, match="gone"):
        chunks.read(0, 0)
    assert chunks.read(0, 0).shape == (1, 1, 1)


def test_who_needs_more_than_is_free_waits():
    room, order = Room(10), []
    release = threading.Event()

    def first():
        with room.taking(6):
            order.append("first")
            inside.set()
            release.wait()
            order.append("first done")

    def second():
        with room.taking(5):
            order.append("second")

    inside = threading.Event()
    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    inside.wait()
    threads[1].start()
    release.set()
    for thread in threads:
        thread.join()
    assert order == ["first", "first done", "second"]
    with pytest.raises(PlanTooLargeError, match="the smallest part of a block reads"), room.taking(11):
        pass
