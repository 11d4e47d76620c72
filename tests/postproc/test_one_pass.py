"""Products over the same voxels from one pass: what each gets is what it gets alone, and what other kernels give."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crdist
from command import fingerprint
from crdist.errors import RunError
from crdist.frames import Frame
from crdist.grids import CartesianGrid, SphericalGrid
from crdist_postproc import driving
from crdist_postproc.kernels.columns import ColumnSums, add_columns
from crdist_postproc.kernels.field import Field
from crdist_postproc.kernels.gather import POINTWISE, splitting
from crdist_postproc.kernels.rows import fill_rows, statistics_rows, sum_rows
from crdist_postproc.output import RunFolder
from crdist_postproc.plan import plan_run
from crdist_postproc.products import tiling
from crdist_postproc.products.base import Block, Quantity
from crdist_postproc.products.columns import compute_columns
from crdist_postproc.products.maps import ProjectionMap
from crdist_postproc.products.tiling import column_tile, tile_rows
from crdist_postproc.products.volume import VolumeMap
from crdist_postproc.recipe import Recipe
from galaxies import smooth_samples, write_posterior

SOURCE = SphericalGrid.log_spaced(nside=8, n_shell=30, inner_kpc=0.1, outer_kpc=2.0)
N_SAMPLE = 5
# the Sun among the voxels, corners beyond the outer edge, columns longer than what kernels take at once
BOX = CartesianGrid.from_extent((-1, 1.4), (-1.2, 1), (-1.4, 2.2), voxel=0.05, frame=Frame(name="heliocentric"))
WHOLE = Block("", 0, ((0, BOX.x.n), (0, BOX.y.n)))
SPLITS = splitting(SOURCE, BOX.z.step, np.diag([BOX.x.step, BOX.y.step, 0.0])[:2])
QUANTITY = Quantity("density", "cm-3", "number density", N_SAMPLE)


@pytest.fixture(scope="module", params=["extend", "exclude"])
def samples(request):
    values = np.exp(np.random.default_rng(3).normal(size=(SOURCE.n_pixel, SOURCE.n_shell, N_SAMPLE)))
    # masked cells
    values[40:60, 12:20] = np.nan
    return Field.from_samples(values.astype(np.float32), SOURCE, inner=request.param)


def empty_sums(n_i, n_j, n, n_padded):
    n_column = n_i * n_j
    mean, std, coverage = (np.zeros((n_column, n), dtype=np.float32) for _ in range(3))
    return ColumnSums.none()._replace(
        along_x=np.zeros((n_j, n, n_padded)),
        count_x=np.zeros((n_j, n)),
        along_y=np.zeros((n_i, n, n_padded)),
        count_y=np.zeros((n_i, n)),
        along_z=np.zeros((n_column, n_padded)),
        count_z=np.zeros(n_column),
        mean=mean,
        std=std,
        coverage=coverage,
    )


def columns_of_box():
    starts, step, order = tile_rows(BOX, "z", WHOLE)
    return starts, step, np.stack(np.unravel_index(order, WHOLE.shape), axis=1), np.argsort(order)


@pytest.mark.parametrize("splits", [POINTWISE, SPLITS], ids=["point", "adaptive"])
def test_all_sums_and_statistics_are_those_of_single_kernels(samples, splits):
    starts, step, places, back = columns_of_box()
    found = empty_sums(*BOX.shape, samples.n_padded)
    add_columns(samples, starts, step, BOX.z.n, places, found, splits=splits)
    total, count = sum_rows(samples, starts, step, BOX.z.n, splits)
    np.testing.assert_array_equal(found.along_z[:, :N_SAMPLE], total)
    np.testing.assert_array_equal(found.count_z, count)
    covered = np.empty((len(starts), BOX.z.n), dtype=np.float32)
    mean, std = statistics_rows(samples, starts, step, BOX.z.n, splits=splits, coverage=covered)
    np.testing.assert_array_equal(found.mean, mean)
    np.testing.assert_array_equal(found.std, std)
    np.testing.assert_array_equal(found.coverage, covered)
    # sums across the columns from the samples in every voxel
    values = fill_rows(samples, starts, step, BOX.z.n, splits=splits, coverage=covered)
    inside = np.where(np.isnan(values[..., :1]), 0.0, covered[..., None]).astype(np.float64)
    terms = (np.nan_to_num(values) * inside)[back].reshape(*BOX.shape, N_SAMPLE)
    inside = inside[back].reshape(BOX.shape)
    for axis, sums, counts in ((0, found.along_x, found.count_x), (1, found.along_y, found.count_y)):
        np.testing.assert_allclose(sums[..., :N_SAMPLE], terms.sum(axis=axis), rtol=2e-7)
        np.testing.assert_allclose(counts, inside.sum(axis=axis), rtol=2e-7)
    assert 0 < (found.count_x == 0).sum() < found.count_x.size
    assert np.isnan(mean).any()


def test_statistics_at_centres_go_with_sums_of_voxels_that_are_split(samples):
    starts, step, places, _ = columns_of_box()
    found = empty_sums(*BOX.shape, samples.n_padded)
    add_columns(samples, starts, step, BOX.z.n, places, found, splits=SPLITS, of_centres=True)
    total, _ = sum_rows(samples, starts, step, BOX.z.n, SPLITS)
    mean, std = statistics_rows(samples, starts, step, BOX.z.n)
    np.testing.assert_array_equal(found.along_z[:, :N_SAMPLE], total)
    np.testing.assert_array_equal(found.mean, mean)
    np.testing.assert_array_equal(found.std, std)
    assert (statistics_rows(samples, starts, step, BOX.z.n, splits=SPLITS)[0] != mean).any()


@settings(max_examples=30)
@given(data=st.data())
def test_pieces_of_columns_give_the_same_bits(data):
    values = np.exp(np.random.default_rng(5).normal(size=(SOURCE.n_pixel, SOURCE.n_shell, 3))).astype(np.float32)
    field = Field.from_samples(values, SOURCE)
    starts, step, places, _ = columns_of_box()
    some = slice(600, 700)
    starts, places, n = starts[some], places[some], BOX.z.n
    whole, pieces = (empty_sums(*BOX.shape, field.n_padded) for _ in range(2))
    add_columns(field, starts, step, n, places, whole, splits=SPLITS)
    cuts = [0, *sorted(4 * k for k in data.draw(st.sets(st.integers(1, (n - 1) // 4), max_size=4))), n]
    for first, end in itertools.pairwise(cuts):
        mean, std, coverage = (np.zeros((len(starts), end - first), dtype=np.float32) for _ in range(3))
        room = pieces._replace(mean=mean, std=std, coverage=coverage)
        add_columns(field, starts, step, end - first, places, room, first, splits=SPLITS)
        pieces.mean[: len(starts), first:end] = mean
    for name in ("along_x", "count_x", "along_y", "count_y", "along_z", "count_z", "mean"):
        np.testing.assert_array_equal(getattr(pieces, name), getattr(whole, name), err_msg=name)


def products_of(**common):
    common = {"grid": BOX, "native": SOURCE, "quantity": QUANTITY, "frame": BOX.frame, **common}
    projections = [
        ProjectionMap(name=f"{axis}-{fineness}", axis=axis, parts_per_cell=fineness, extend=True, **common)
        for axis, fineness in (("x", 1.0), ("y", 1.0), ("z", 1.0), ("x", 0.0), ("y", 2.0))
    ]
    volumes = [
        VolumeMap(name=f"volume-{fineness}", parts_per_cell=fineness, per_sample=False, **common)
        for fineness in (0.0, 1.0, 0.5)
    ]
    return [*projections, *volumes]


@pytest.mark.parametrize("seed", range(4))
def test_what_a_product_gets_does_not_depend_on_the_others(samples, seed):
    products = products_of()
    random = np.random.default_rng(seed)
    some = [products[k] for k in random.permutation(len(products))[: random.integers(2, len(products) + 1)]]
    parts = [(product, product.blocks()[0]) for product in some]
    assert len({product.together(block.kind) for product, block in parts}) == 1
    for (product, block), found in zip(parts, compute_columns(parts, samples), strict=True):
        alone = product.compute(block, samples, None)
        assert found.arrays.keys() == alone.arrays.keys()
        assert found.partial.keys() == alone.partial.keys()
        for name, value in {**alone.arrays, **alone.partial}.items():
            mine = {**found.arrays, **found.partial}[name]
            np.testing.assert_array_equal(mine, value, err_msg=f"{product.name}/{name}")


def joined(product, samples):
    """The mean of a projection from all its blocks, as the last step joins them."""
    partials = [
        product.compute(block, samples, None).partial if block.kind == "columns" else {} for block in product.blocks()
    ]
    strips = [product.join(strip, partials)["mean"] for strip in product.strips()]
    return np.concatenate(strips)


@pytest.mark.parametrize("axis", ["x", "y"])
def test_integrals_across_columns_are_those_along_rows(monkeypatch, samples, axis):
    monkeypatch.setattr(tiling, "LEAST_SIDE", 8)
    monkeypatch.setattr(tiling, "COLUMN_WORK", 72 * N_SAMPLE * 16**2)
    product = next(product for product in products_of() if product.name == f"{axis}-1.0")
    assert len(product.strips()) > 1
    assert len(product.blocks()) > 4
    mean = joined(product, samples)
    # no memory for sums over faces: rows along the axis
    monkeypatch.setattr(tiling, "SMALLEST_SIDE", 10**6)
    assert product.columns is None
    assert not product.strips()
    (tile,) = [block for block in product.blocks() if block.kind == "tile"]
    along = product.compute(tile, samples, None).arrays["mean"]
    assert np.isfinite(along).any()
    np.testing.assert_allclose(mean, along, rtol=3e-6)


def test_tiles_of_columns_are_bounded_in_work_and_memory():
    def grid(nx, ny, nz):
        return CartesianGrid.from_extent((0, nx), (0, ny), (0, nz), voxel=1.0)

    for shape, n_sample in (((600, 600, 120), 12), ((1024, 1024, 256), 12), ((4096, 4096, 64), 1000), ((40, 9, 5), 1)):
        x, y = column_tile(grid(*shape), n_sample)
        assert x * y * shape[2] * tiling.VOXEL_BYTES <= tiling.BLOCK_BYTES
        assert 2 * 8 * (x + y) * shape[2] * n_sample <= 1.1 * tiling.BLOCK_BYTES
        assert x % 16 == 0 or x == shape[0]
    # one column of so many samples fills the memory
    assert column_tile(grid(100, 100, 100_000), 1000) is None


PRODUCTS = [
    "projection_x",
    "projection_y",
    "projection_z",
    "volume",
    {"name": "other", "kind": "projection", "axis": "x"},
]
RECIPE = {"grid": {"x": [-12, 4], "y": [-6, 6], "z": [-1, 1], "voxel": 0.25}, "products": PRODUCTS}


@pytest.fixture(scope="module")
def posterior(tmp_path_factory):
    path = tmp_path_factory.mktemp("pass") / "p.zarr"
    grid = SphericalGrid.log_spaced(8, 16, 0.1, 15.0)
    write_posterior(path, grid, smooth_samples(grid, 3))
    return path


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiling, "LEAST_SIDE", 16)
    monkeypatch.setattr(tiling, "COLUMN_WORK", 8 * 3 * 16**2)


def test_one_task_computes_the_blocks_of_all_products(posterior, tmp_path, monkeypatch, small_tiles):
    pieces = []
    original = driving.run_piece

    def run_piece(folder, piece, sources):
        pieces.append([block.name for _, block in piece])
        return original(folder, piece, sources)

    monkeypatch.setattr(driving, "run_piece", run_piece)
    crdist.run_products(posterior, tmp_path / "o.zarr", RECIPE)
    assert ["projection_x-00000", "projection_y-00000", "projection_z-00000", "volume-00000", "other-00000"] in pieces
    native = [piece for piece in pieces if len(piece) == 4]
    assert len(native) == 1
    blocks = list(itertools.chain.from_iterable(pieces))
    assert sorted(blocks) == sorted(set(blocks))
    assert len(blocks) == plan_run(posterior, Recipe.from_mapping(RECIPE)).n_block


def test_a_product_alone_is_the_same(posterior, tmp_path, small_tiles):
    with_others = crdist.open_products(products_at(posterior, tmp_path / "all.zarr", RECIPE))
    for name in ("projection_x", "projection_z", "volume"):
        alone = crdist.open_products(products_at(posterior, tmp_path / f"{name}.zarr", {**RECIPE, "products": [name]}))
        for array in alone[name].data_vars:
            np.testing.assert_array_equal(alone[name][array], with_others[name][array], err_msg=f"{name}/{array}")


def products_at(posterior, path, recipe):
    crdist.run_products(posterior, path, recipe)
    return path


def test_sums_are_kept_until_the_last_step_and_no_longer(posterior, tmp_path, monkeypatch, small_tiles):
    store = tmp_path / "o.zarr"
    (job, *_) = plan_run(posterior, Recipe.from_mapping(RECIPE)).jobs
    block = job.product.blocks()[0]
    assert block.kind == "columns"
    original = driving.run_piece
    left = iter(range(5))

    def run_piece(*arguments):
        if next(left, None) is None:
            raise RunError("stopped")
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(driving, "run_piece", run_piece)
        with pytest.raises(RunError, match="stopped"):
            crdist.run_products(posterior, store, RECIPE)
    done = next((tmp_path / "o.zarr.run" / "done").iterdir())
    record = RunFolder(store, done.name).record("projection_x", block.name)
    assert record.stat().st_size >= job.product.left_bytes(block) > 0
    crdist.run_products(posterior, store, RECIPE)
    assert record.stat().st_size < job.product.left_bytes(block)
    expected = fingerprint(store)
    assert expected == fingerprint(products_at(posterior, tmp_path / "whole.zarr", RECIPE))
    # what the last step made is lost: the sums are gone, too, and are computed again
    (store / "projection_x" / "std" / "c" / "1" / "0").unlink()
    report = crdist.run_products(posterior, store, RECIPE)
    assert report.blocks_computed == sum(block.kind == "columns" for block in job.product.blocks())
    assert fingerprint(store) == expected


def test_blocks_that_are_done_already_are_left_out_of_the_pass(posterior, tmp_path, small_tiles):
    store = products_at(posterior, tmp_path / "o.zarr", RECIPE)
    expected = fingerprint(store)
    plan = plan_run(posterior, Recipe.from_mapping(RECIPE))
    volume = next(job.product for job in plan.jobs if job.product.name == "volume")
    (store / "volume" / "std" / "c" / "1" / "0" / "0").unlink()
    assert len([block for block in volume.blocks() if block.bounds[0][0] // volume.columns[0] == 1]) > 1
    assert crdist.run_products(posterior, store, RECIPE).blocks_computed == 1
    assert fingerprint(store) == expected


def test_memory_of_a_task_is_that_of_all_its_products(posterior):
    plan = plan_run(posterior, Recipe.from_mapping(RECIPE))
    names, n_bytes = plan.largest_task
    assert names == "projection_x + projection_y + projection_z + volume + other"
    assert n_bytes == sum(product.block_bytes for product in plan.products)
    apart = replace(plan, jobs=plan.jobs[:1], products=plan.products[:1])
    assert apart.largest_task == ("projection_x", plan.products[0].block_bytes)
