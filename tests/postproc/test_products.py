"""Every product of a run against the same quantity computed another way."""

import healpy
import numpy as np
import pytest
import scipy.stats
import xarray as xr

import crdist
from crdist.check import check_store
from crdist.errors import PlanTooLargeError, RecipeError, RunError
from crdist.grids import CartesianGrid, SphericalGrid
from crdist_postproc.output import RunFolder, create_products, write_block
from crdist_postproc.plan import plan_run
from crdist_postproc.products import tiling
from crdist_postproc.products.base import Block, BlockResult
from crdist_postproc.recipe import Recipe
from galaxies import SMALL_RECIPE, smooth_samples, write_posterior
from oracle import interpolate
from written import smaller_blocks

KPC_CM = 3.0856775814913673e21
GRID = SphericalGrid.log_spaced(8, 16, 0.05, 15.0)
N_SAMPLE = 5


@pytest.fixture(scope="module")
def samples():
    return smooth_samples(GRID, N_SAMPLE)


@pytest.fixture(scope="module")
def posterior(tmp_path_factory, samples):
    path = tmp_path_factory.mktemp("posterior") / "p.zarr"
    write_posterior(path, GRID, samples)
    return path


def run(posterior, folder, **changes):
    recipe = Recipe.from_mapping({**SMALL_RECIPE, **changes})
    crdist.run_products(posterior, folder / "products.zarr", recipe)
    return crdist.open_products(folder / "products.zarr").load(), recipe


@pytest.fixture(scope="module")
def products(posterior, tmp_path_factory):
    at_points = [
        {**item, "sampling": "point"} if item["name"].startswith(("projection", "local")) else item
        for item in (item if isinstance(item, dict) else {"name": item} for item in SMALL_RECIPE["products"])
    ]
    return run(posterior, tmp_path_factory.mktemp("products"), quantiles=[0.25, 0.5], products=at_points)


def volume_of(samples, grid, method="linear"):
    points = np.stack(np.meshgrid(*(axis.centres for axis in grid.axes), indexing="ij"), axis=-1)
    heliocentric = grid.frame.to_heliocentric(points.reshape(-1, 3))
    return interpolate(samples, GRID, heliocentric, method).reshape(*grid.shape, -1)


def assert_statistics(group, expected, rtol=2e-6):
    """The group's statistics are those of the per-sample product ``expected``."""
    scale = np.nanmax(np.abs(expected))
    np.testing.assert_allclose(group["per_sample"], expected, rtol=rtol, atol=1e-6 * scale)
    np.testing.assert_allclose(group["mean"], expected.mean(-1), rtol=rtol, atol=1e-6 * scale)
    std = expected.std(-1, ddof=1)
    np.testing.assert_allclose(group["std"], std, rtol=1e-3, atol=1e-5 * np.nanmax(std))
    ratio = group["mean"] / group["std"]
    np.testing.assert_allclose(group["significance"], ratio, rtol=1e-4)
    # sqrt(n) x significance is a noncentral t with n - 1 degrees of freedom: scipy knows its moments
    place = np.nanargmin(np.abs(ratio.values - np.nanmedian(ratio)))
    typical = float(group["significance"].values.flat[place])
    bias = scipy.stats.nct.mean(N_SAMPLE - 1, np.sqrt(N_SAMPLE) * typical) / (np.sqrt(N_SAMPLE) * typical)
    error = scipy.stats.nct.std(N_SAMPLE - 1, np.sqrt(N_SAMPLE) * typical / bias) / np.sqrt(N_SAMPLE)
    np.testing.assert_allclose(group["significance_error"].values.flat[place], error, rtol=1e-4)
    quantiles = np.moveaxis(np.quantile(expected, [0.25, 0.5], axis=-1), 0, -1)
    np.testing.assert_allclose(group["quantiles"], quantiles, rtol=1e-4, atol=1e-6 * scale)


def test_slices_hold_the_values_in_the_plane(products, samples):
    tree, recipe = products
    grid = recipe.products[0].grid(recipe)
    expected = volume_of(samples, grid)[:, :, 0]
    assert np.isnan(expected).any(), "the grid should reach beyond the data"
    assert_statistics(tree["midplane"], expected)
    np.testing.assert_array_equal(tree["midplane"]["coverage"], ~np.isnan(expected[..., 0]))
    assert tree["midplane"]["mean"].attrs["units"] == "cm-3"


@pytest.mark.parametrize(("name", "index", "axis"), [("projection_x", 1, 0), ("projection_z", 2, 2), ("local_z", 3, 2)])
def test_projections_are_sums_sample_by_sample(products, samples, name, index, axis):
    tree, recipe = products
    grid = recipe.products[index].grid(recipe)
    volume = volume_of(samples, grid)
    inside = ~np.isnan(volume[..., 0])
    step = grid.axes[axis].step
    expected = np.nansum(volume, axis=axis) * step * KPC_CM
    expected[~inside.any(axis=axis)] = np.nan
    assert_statistics(tree[name], expected)
    np.testing.assert_allclose(tree[name]["coverage"], inside.mean(axis=axis), rtol=1e-6)
    assert tree[name]["mean"].attrs["units"] == "cm-2"
    total = np.nansum(volume, axis=(0, 1, 2)) * grid.voxel_volume * KPC_CM**3
    np.testing.assert_allclose(tree[name]["total_cartesian"], total, rtol=1e-6)
    residual = tree[name]["total_cartesian"] / tree[name]["total_native"] - 1
    np.testing.assert_allclose(tree[name]["mass_residual"], residual, atol=1e-12)
    # coarse cells and voxels: per cent
    assert np.all(np.abs(tree[name]["mass_residual"]) < 0.05)


def test_voxels_near_the_sun_are_sampled_as_finely_as_the_cells_are(posterior, products, tmp_path):
    tree, _ = run(
        posterior,
        tmp_path,
        products=["projection_z", "local_z", {"name": "midplane", "sampling": "adaptive"}],
    )
    at_points, _ = products
    assert tree["projection_z"].attrs["sampling"] == "adaptive"
    assert at_points["projection_z"].attrs["sampling"] == "point"
    fine, coarse = (np.abs(some["local_z"]["mass_residual"]).mean() for some in (tree, at_points))
    assert fine < coarse
    # a slice that is sampled is the mean over a layer, not the values in its middle
    near = tree["midplane"]["mean"].sel(x=-8.178, y=0.0, method="nearest")
    assert near != at_points["midplane"]["mean"].sel(x=-8.178, y=0.0, method="nearest")


def test_the_box_around_the_sun_lies_around_the_sun(products):
    tree, _ = products
    np.testing.assert_allclose(tree["local_z"]["x"].mean(), -8.178, atol=1e-9)
    np.testing.assert_allclose(tree["local_z"]["y"].mean(), 0.0, atol=1e-9)


def test_the_sky_is_summed_on_the_native_grid(products, samples):
    tree, _ = products
    lengths = GRID.widths.copy()
    lengths[0] += GRID.edges[0]  # the first shell's values reach to the Sun
    assert_statistics(tree["sky"], (samples * lengths[:, None]).sum(axis=1, dtype=float) * KPC_CM)
    np.testing.assert_allclose(tree["sky"]["coverage"], 1.0)
    np.testing.assert_array_equal(tree["sky"]["cell_ids"], np.arange(GRID.n_pixel))
    assert tree["sky"]["cell_ids"].attrs["indexing_scheme"] == "nested"


def test_profiles_are_volume_means(products, samples, rng):
    tree, _ = products
    frame = crdist.Frame()

    def mean_over(inner, outer, low, high, n=40_000):
        radius = np.sqrt(rng.uniform(inner**2, outer**2, n))
        angle, z = rng.uniform(0, 2 * np.pi, n), rng.uniform(low, high, n)
        points = np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=-1)
        values = interpolate(samples, GRID, frame.to_heliocentric(points))
        return np.nanmean(values, axis=0), np.mean(~np.isnan(values[:, 0]))

    for i, inner in enumerate(range(0, 12, 2)):
        expected, coverage = mean_over(inner, inner + 2, -0.5, 0.5)
        # Monte Carlo with 40,000 points: half a per cent
        np.testing.assert_allclose(tree["radial"]["per_sample"][i], expected, rtol=0.02)
        np.testing.assert_allclose(tree["radial"]["coverage"][i], coverage, atol=0.01)
    for j, low in enumerate(np.arange(-2, 2, 0.5)):
        expected, _ = mean_over(8, 9, low, low + 0.5)
        np.testing.assert_allclose(tree["vertical"]["per_sample"][j], expected, rtol=0.02)
    np.testing.assert_allclose(tree["radial"]["radius_edges"], np.arange(0, 13, 2))


def test_the_height_is_fitted_to_each_sample(products):
    group = products[0]["vertical"]
    assert np.all(np.isfinite(group["fit_height"]))
    assert group["fit_height"].min() <= group["fit_height_of_mean"] <= group["fit_height"].max()
    assert group["fit_height"].attrs["units"] == "kpc"


def test_volumes_hold_mean_and_std_plane_after_plane_too(posterior, tmp_path, monkeypatch):
    # many files of each array, with planes above the source's grid
    for name, value in smaller_blocks(40 * N_SAMPLE * 300).items():
        monkeypatch.setattr(tiling, name, value)
    tree, _ = run(posterior, tmp_path, products=["volume"], grid={**SMALL_RECIPE["grid"], "z": [-2, 18]})
    volume = tree["volume"]
    assert len(list((tmp_path / "products.zarr" / "volume" / "mean_by_plane" / "c").glob("*/*/*"))) > 4
    for name in ("mean", "std"):
        laid_out = volume[f"{name}_by_plane"]
        assert laid_out.dims == ("z", "x", "y")
        assert laid_out.encoding["chunks"][0] == 1
        assert laid_out.attrs["units"] == "cm-3"
        np.testing.assert_array_equal(laid_out.transpose("x", "y", "z"), volume[name])
    assert np.isfinite(volume["mean"]).any()
    assert np.isnan(volume["mean"][:, :, -1]).all()
    assert check_store(tmp_path / "products.zarr") == []


def test_a_block_that_is_no_whole_file_is_refused(posterior, tmp_path, monkeypatch):
    recipe = Recipe.from_mapping({**SMALL_RECIPE, "products": ["volume"]})
    (job,) = plan_run(posterior, recipe).jobs
    create_products(tmp_path / "o.zarr", [job.product], {})
    (block,) = job.product.blocks()
    half = Block(block.product, 0, ((0, block.shape[0] // 2), block.bounds[1]))
    for name, shape in (
        ("mean", (*half.shape, job.product.depth)),
        ("mean_by_plane", (job.product.depth, *half.shape)),
    ):
        with pytest.raises(RunError, match=f"volume/{name}: block .* must be exactly one file"):
            write_block(RunFolder(tmp_path / "o.zarr"), job.product, half, BlockResult({name: np.zeros(shape)}))


def test_volumes_hold_mean_and_std_of_every_voxel(products, posterior, samples, tmp_path):
    tree, recipe = products
    expected = volume_of(samples, recipe.grid_record)
    np.testing.assert_allclose(tree["volume"]["mean"], expected.mean(-1), atol=1e-6)
    np.testing.assert_allclose(tree["volume"]["std"], expected.std(-1, ddof=1), atol=1e-6)
    assert "per_sample" not in tree["volume"]
    kept, _ = run(posterior, tmp_path, products=[{"name": "volume", "per_sample": True}])
    np.testing.assert_allclose(kept["volume"]["per_sample"], expected, atol=1e-6)
    np.testing.assert_allclose(kept["volume"]["std"], tree["volume"]["std"], atol=1e-6)


@pytest.mark.parametrize("frame", [{"name": "heliocentric"}, {"name": "galactocentric", "z_sun": 0.3, "roll": 20}])
def test_products_follow_the_frame(posterior, samples, frame, tmp_path):
    tree, recipe = run(posterior, tmp_path, frame=frame, products=["midplane", "projection_y"], quantiles=[0.25, 0.5])
    grid = recipe.products[0].grid(recipe)
    assert_statistics(tree["midplane"], volume_of(samples, grid)[:, :, 0])
    assert tree.attrs["frame"]["name"] == frame["name"]
    assert np.all(np.abs(tree["projection_y"]["mass_residual"]) < 0.05)


def test_nearest_is_the_value_of_the_cell(posterior, samples, tmp_path):
    tree, recipe = run(posterior, tmp_path, method="nearest", products=["midplane"], quantiles=[0.25, 0.5])
    grid = recipe.products[0].grid(recipe)
    assert_statistics(tree["midplane"], volume_of(samples, grid, "nearest")[:, :, 0])


def test_excluded_inner_sphere_is_missing_coverage(posterior, tmp_path):
    # a box that lies wholly inside the first edge on one side
    box = {"x": [-0.1, 0.1], "y": [-0.1, 0.1], "z": [-0.1, 0.1], "around": "sun"}
    products = [{"name": "near", "kind": "projection", "axis": "z", "box": box, "voxel": 0.005}, "sky"]
    tree, _ = run(posterior, tmp_path, inner="exclude", products=products)
    ball = 4 / 3 * np.pi * GRID.edges[0] ** 3 / 0.2**3
    np.testing.assert_allclose(1 - tree["near"]["coverage"].mean(), ball, rtol=0.03)
    np.testing.assert_allclose(tree["sky"]["coverage"], 1 - GRID.edges[0] / GRID.edges[-1], rtol=1e-6)
    assert np.all(np.abs(tree["near"]["mass_residual"]) < 0.05)


def test_sightlines_between_distances(posterior, samples, tmp_path):
    tree, _ = run(posterior, tmp_path, products=[{"name": "sky", "distance": [1, 20]}])
    lengths = np.diff(np.clip(GRID.edges, 1, 20))
    expected = (samples * lengths[:, None]).sum(axis=1, dtype=float) * KPC_CM
    np.testing.assert_allclose(tree["sky"]["per_sample"], expected, rtol=1e-5)
    np.testing.assert_allclose(tree["sky"]["coverage"], 14 / 19, rtol=1e-6)


def test_profiles_can_be_weighted_by_gas(posterior, samples, tmp_path):
    # gas on one half of the sky only: the profile is that of this half
    gas_grid = SphericalGrid.log_spaced(4, 12, 0.05, 20.0)
    _, phi = healpy.pix2ang(4, np.arange(gas_grid.n_pixel), nest=True)
    gas = np.repeat((phi < np.pi)[:, None, None], 12, axis=1).astype(np.float32) * np.array([1.0, 3.0], np.float32)
    write_posterior(tmp_path / "gas.zarr", gas_grid, gas, name="n_h")
    radial = {"name": "radial", "bins": [4, 6, 2], "weight": {"store": str(tmp_path / "gas.zarr"), "quantity": "n_h"}}
    tree, _ = run(posterior, tmp_path, products=[radial])
    rng = np.random.default_rng(0)
    radius, angle = np.sqrt(rng.uniform(16, 36, 60_000)), rng.uniform(0, 2 * np.pi, 60_000)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle), rng.uniform(-0.3, 0.3, 60_000)], axis=-1)
    heliocentric = crdist.Frame().to_heliocentric(points)
    weight = interpolate(gas, gas_grid, heliocentric).mean(axis=1, keepdims=True)
    values = interpolate(samples, GRID, heliocentric)
    expected = np.nansum(weight * values, axis=0) / np.nansum(weight)
    np.testing.assert_allclose(tree["radial"]["per_sample"][0], expected, rtol=0.02)
    assert tree["radial"].attrs["weight"] == "n_h"
    assert "n_h-weighted" in tree["radial"]["mean"].attrs["long_name"]


def test_masked_cells_are_missing_coverage(samples, tmp_path):
    masked = samples.copy()
    theta, _ = healpy.pix2ang(GRID.nside, np.arange(GRID.n_pixel), nest=True)
    masked[theta < np.pi / 4, :, 2] = np.nan  # in one sample: left out of all
    write_posterior(tmp_path / "p.zarr", GRID, masked)
    tree, _ = run(tmp_path / "p.zarr", tmp_path, products=["sky", "projection_z", "volume"])
    assert np.isnan(tree["sky"]["mean"][theta < np.pi / 4]).all()
    assert np.isfinite(tree["sky"]["mean"][theta >= np.pi / 4]).all()
    # above the Sun the sky is masked, below it is not
    at_sun = tree["projection_z"]["coverage"].sel(x=-8.178, y=0, method="nearest")
    assert 0.4 < at_sun < 0.6
    assert np.isfinite(tree["projection_z"]["total_native"]).all()


def test_a_box_outside_the_data_is_refused(posterior, tmp_path):
    recipe = Recipe.from_mapping(
        {"products": [{"name": "far", "kind": "volume", "box": {"x": [50, 60], "y": [0, 1], "z": [0, 1]}}]}
    )
    with pytest.raises(
        RecipeError, match=r"products\.far: the box x \[50, 60\].*wholly outside the data.*move the box"
    ):
        crdist.run_products(posterior, tmp_path / "o.zarr", recipe)
    assert not list(tmp_path.iterdir())


def test_more_blocks_than_a_run_can_count_are_refused_before_they_are_made(posterior):
    recipe = Recipe.from_mapping({"grid": {"voxel": 5e-5}, "products": ["projection_z"]})
    with pytest.raises(PlanTooLargeError, match=r"product projection_z: .* blocks are more .* choose larger voxels"):
        plan_run(posterior, recipe)


def test_block_cuts_give_the_same_store(posterior, tmp_path, monkeypatch):
    whole, _ = run(posterior, tmp_path / "whole")
    for name, value in smaller_blocks(20_000).items():
        monkeypatch.setattr(tiling, name, value)
    cut, _ = run(posterior, tmp_path / "cut")
    for group in whole.children:
        for name, array in whole[group].data_vars.items():
            summed = group in ("radial", "vertical", "projection_x", "projection_y")
            if name.startswith(("total_", "mass_")) or (summed and name != "coverage"):
                # sums over blocks, in another grouping
                np.testing.assert_allclose(cut[group][name], array, rtol=1e-6, err_msg=f"{group}/{name}")
            else:
                np.testing.assert_array_equal(cut[group][name], array, err_msg=f"{group}/{name}")


def test_blocks_tile_their_arrays_once(posterior):
    from crdist_postproc.plan import plan_run

    plan = plan_run(str(posterior), Recipe.default().with_overrides(["grid.voxel=0.05"]))
    for job in plan.jobs:
        for spec in job.product.arrays():
            if spec.dims[: len(job.product.dims)] != job.product.dims or job.product.kind in ("radial", "vertical"):
                continue
            hits = np.zeros(spec.shape[: len(job.product.blocks()[0].bounds)], dtype=int)
            for block in (*job.product.blocks(), *job.product.strips()):
                if block.kind != "strip" and not job.product.blocks_write(block):
                    continue
                hits[block.region] += 1
                assert all(start % size == 0 for (start, _), size in zip(block.bounds, spec.chunks, strict=False))
            assert (hits == 1).all(), f"{job.product.name}/{spec.name}"
            if spec.inner_chunks:
                assert all(s % c == 0 for s, c in zip(spec.chunks, spec.inner_chunks, strict=True))


def test_products_open_with_plain_xarray(products, posterior, tmp_path):
    run(posterior, tmp_path)
    tree = xr.open_datatree(tmp_path / "products.zarr", engine="zarr")
    assert tree.attrs["status"] == "complete"
    assert tree.attrs["provenance"]["source"]["name"] == "p.zarr"
    assert tree.attrs["recipe"]["grid"]["voxel"] == 0.5
    for group in tree.children:
        for name in ("mean", "std", "significance", "significance_error", "coverage"):
            assert {"units", "long_name"} <= set(tree[group][name].attrs), f"{group}/{name}"
    assert tree["projection_z"]["x"].attrs["units"] == "kpc"


def test_grid_coordinates_are_voxel_centres(products):
    grid = CartesianGrid.from_extent((-12, 12), (-12, 12), (-2, 2), voxel=0.5)
    np.testing.assert_array_equal(products[0]["volume"]["z"], grid.z.centres)
