"""The conservative regrid: exact on mass and on constants, close to the source's cells, the same in any order."""

import pickle

import dask
import dask.array as da
import healpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crdist
from crdist.errors import GridError, RecipeError
from crdist.frames import Frame
from crdist.grids import CartesianGrid, SphericalGrid
from crdist_postproc import conservative, conservative_blocks, lazy
from crdist_postproc.conservative import conservative_plan, deposit_tile
from crdist_postproc.kernels.ball import ball_volumes
from crdist_postproc.kernels.field import Field
from crdist_postproc.plan import Workers, plan_run
from crdist_postproc.products import tiling
from crdist_postproc.recipe import Recipe
from galaxies import as_samples, directions, smooth_samples, write_posterior
from strategies import frames

SOURCE = SphericalGrid.log_spaced(8, 20, 0.3, 3.0, "ring")
WHOLE = CartesianGrid.from_extent((-11.2, -5.0), (-3.2, 3.0), (-3.0, 3.2), voxel=0.2)
"""Holds the whole source, the Sun anywhere in a voxel."""


def volume(field, plan, order=1):
    """All tiles in their places."""
    shape = plan.rays.target.shape
    values = np.full((*shape, field.n_sample), np.nan, dtype=np.float32)
    coverage = np.full(shape, np.nan)
    for tile in plan.tiles():
        values[plan.region(tile)], coverage[plan.region(tile)] = deposit_tile(field, plan, tile, order=order)
    assert not np.isnan(coverage).any()
    return values, coverage


def masses(values, coverage, grid):
    return np.nansum(values.astype(float) * coverage[..., None], axis=(0, 1, 2)) * grid.voxel_volume


def native_masses(samples, source, inner):
    volumes = source.cell_volumes
    if inner == "extend":
        volumes[0] *= source.edges[1] ** 3 / (source.edges[1] ** 3 - source.edges[0] ** 3)
    return np.nansum(samples.astype(float) * volumes[:, None], axis=(0, 1))


def true_coverage(source, grid, inner):
    """Part of each voxel inside the data."""
    planes = tuple(axis.edges - sun for axis, sun in zip(grid.axes, grid.frame.sun_kpc, strict=True))
    volumes = ball_volumes(source.edges[-1], *planes)
    if inner == "exclude":
        volumes -= ball_volumes(source.edges[0], *planes)
    return volumes / grid.voxel_volume


def random_samples(source, n_sample, seed=0):
    return np.random.default_rng(seed).random((source.n_pixel, source.n_shell, n_sample), dtype=np.float32)


@pytest.mark.parametrize("inner", ["extend", "exclude"])
@pytest.mark.parametrize("side", [40, 11])
def test_mass_constants_and_coverage_are_exact(monkeypatch, inner, side):
    monkeypatch.setattr(conservative, "TILE", side)
    samples = random_samples(SOURCE, 3)
    samples[..., 1] = 2.5
    samples[..., 2] = 0.0
    samples[17, 4, 2] = 1.0
    plan = conservative_plan(SOURCE, WHOLE, inner=inner)
    values, coverage = volume(Field.from_samples(samples, SOURCE, inner=inner), plan)
    np.testing.assert_allclose(masses(values, coverage, WHOLE), native_masses(samples, SOURCE, inner), rtol=1e-6)
    # the mass of one cell alone is a sum over a few voxels
    np.testing.assert_allclose(values[coverage > 0][:, 1], 2.5, rtol=1e-6)
    expected = true_coverage(SOURCE, WHOLE, inner)
    np.testing.assert_allclose(coverage, expected, atol=5e-3)
    assert np.abs(coverage - expected).mean() < 1e-5
    inside = expected == 1.0
    np.testing.assert_allclose(coverage[inside], 1.0, atol=2e-3)
    np.testing.assert_array_equal(np.isnan(values[..., 0]), coverage == 0)
    assert values[coverage > 0].min() >= 0.0


def test_the_volume_inside_spheres_is_that_of_many_points(rng):
    planes = tuple(np.sort(rng.uniform(-1.2, 1.2, 4)) for _ in range(3))
    radii = (0.5, 1.0)
    found = ball_volumes(radii[1], *planes) - ball_volumes(radii[0], *planes)
    for i, j, k in np.ndindex(*found.shape):
        x, y, z = (
            part[at] + (part[at + 1] - part[at]) * (np.arange(80) + 0.5) / 80
            for part, at in zip(planes, (i, j, k), strict=True)
        )
        r2 = x[:, None, None] ** 2 + y[:, None] ** 2 + z**2
        inside = (r2 >= radii[0] ** 2) & (r2 <= radii[1] ** 2)
        box = np.prod([part[at + 1] - part[at] for part, at in zip(planes, (i, j, k), strict=True)])
        assert found[i, j, k] == pytest.approx(inside.mean() * box, abs=2e-3 * box)
    ball = ball_volumes(1.0, *(np.array([-1.5, 0.1, 2.0]),) * 3)
    assert ball.sum() == pytest.approx(4 / 3 * np.pi, rel=1e-10)


def nearest_cells(samples, source, points):
    """Values of the cells that hold heliocentric points; NaN outside the shells. healpy's own search."""
    r = np.linalg.norm(points, axis=-1)
    pixel = healpy.vec2pix(source.nside, *np.moveaxis(points, -1, 0), nest=source.ordering == "nested")
    shell = np.searchsorted(source.edges, r, side="right") - 1
    inside = (shell >= 0) & (shell < source.n_shell)
    values = samples[pixel, np.clip(shell, 0, source.n_shell - 1)].astype(float)
    values[~inside] = np.nan
    return values


def fine_means(samples, source, grid, parts):
    """Mean and coverage of voxels from parts^3 points in each."""
    total, count = 0.0, 0.0
    offsets = (np.arange(parts) + 0.5) / parts - 0.5
    steps = np.array([axis.step for axis in grid.axes])
    centres = np.stack(np.meshgrid(*(axis.centres for axis in grid.axes), indexing="ij"), axis=-1)
    for place in np.stack(np.meshgrid(offsets, offsets, offsets, indexing="ij"), axis=-1).reshape(-1, 3):
        found = nearest_cells(samples, source, grid.frame.to_heliocentric(centres + place * steps))
        total = total + np.nan_to_num(found)
        count = count + np.isfinite(found[..., 0])
    with np.errstate(invalid="ignore"):
        return total / count[..., None], count / parts**3


@pytest.mark.parametrize(
    "frame",
    [
        Frame(name="heliocentric"),
        Frame(z_sun_kpc=0.3, roll_deg=25.0),
    ],
)
def test_voxels_and_projections_are_those_of_many_points(frame):
    sun = np.array(frame.sun_kpc).round(1)
    grid = CartesianGrid.from_extent(
        *((float(at - reach), float(at + more)) for at, reach, more in zip(sun, (2, 2, 1), (2.4, 2, 1.2), strict=True)),
        voxel=(0.2, 0.25, 0.1),
        frame=frame,
    )
    samples = smooth_samples(SOURCE, 2) * random_samples(SOURCE, 2)
    plan = conservative_plan(SOURCE, grid, inner="exclude")
    values, coverage = volume(Field.from_samples(samples, SOURCE, inner="exclude"), plan)
    means, inside = fine_means(samples, SOURCE, grid, 6)
    # where a sphere runs along a plane of points all of them may fall to one side
    np.testing.assert_allclose(coverage, inside, atol=1 / 12 + 0.01)
    assert np.abs(coverage - inside).mean() < 1e-3
    sums, expected = (
        np.nansum(part * cover[..., None], axis=2) for part, cover in ((values, coverage), (means, inside))
    )
    assert np.abs(sums - expected).sum() < 0.015 * expected.sum()
    np.testing.assert_allclose(sums.sum(axis=(0, 1)), expected.sum(axis=(0, 1)), rtol=2e-3)


def test_compact_objects_near_the_sun_keep_their_mass():
    source = SphericalGrid.log_spaced(16, 40, 0.05, 3.0)
    grid = CartesianGrid.from_extent((-9.2, -7.2), (-1, 1), (-0.8, 0.8), voxel=0.1)
    towards = np.array([0.6, -0.64, 0.48])
    places = directions(source)[:, None] * source.centres[:, None]
    samples = np.zeros((source.n_pixel, source.n_shell, 4), dtype=np.float32)
    samples[..., 0] = np.linalg.norm(places - 0.3 * towards, axis=-1) < 0.04
    pixel = healpy.vec2pix(16, *towards, nest=True)
    for k, shell in enumerate((3, 12, 20)):
        samples[pixel, shell, 1 + k] = 1.0
    plan = conservative_plan(source, grid)
    values, coverage = volume(Field.from_samples(samples, source), plan)
    assert samples[..., 0].sum() > 3
    np.testing.assert_allclose(masses(values, coverage, grid), native_masses(samples, source, "extend"), rtol=1e-6)
    # and it is there: all of the cloud's lies within two voxels of it
    x, y, z = np.meshgrid(*(axis.centres for axis in grid.axes), indexing="ij")
    away = np.stack([x, y, z], axis=-1) - np.array(grid.frame.sun_kpc) - 0.3 * towards
    near = np.abs(away).max(axis=-1) < 0.04 + 2 * 0.1
    assert (values[near][:, 0] * coverage[near]).sum() > 0.999 * np.nansum(values[..., 0] * coverage)


@settings(max_examples=8)
@given(
    frame=frames(),
    corner=st.tuples(*(st.floats(-3.5, 1.5),) * 3),
    voxel=st.tuples(*(st.floats(0.15, 0.4),) * 3),
    inner=st.sampled_from(["extend", "exclude"]),
    n_sample=st.sampled_from([1, 5]),
)
def test_any_box_in_any_frame_keeps_constants_and_extremes(frame, corner, voxel, inner, n_sample):
    sun = np.array(frame.sun_kpc)
    axes = [(float(s + c), float(s + c + 12 * v)) for s, c, v in zip(sun, corner, voxel, strict=True)]
    grid = CartesianGrid.from_extent(*axes, voxel=voxel, frame=frame)
    samples = random_samples(SOURCE, n_sample) + 1.0
    samples[..., 0] = 0.7
    field = Field.from_samples(samples, SOURCE, inner=inner)
    values, coverage = volume(field, conservative_plan(SOURCE, grid, inner=inner))
    covered = coverage > 0
    np.testing.assert_allclose(values[covered][:, 0], 0.7, rtol=1e-6)
    if n_sample > 1 and covered.any():
        assert values[covered].min() >= 0.7 * (1 - 1e-6)
        assert values[covered].max() <= 2.0 * (1 + 1e-6)
    assert np.isnan(values[~covered]).all()
    np.testing.assert_allclose(coverage, true_coverage(SOURCE, grid, inner), atol=0.02)


def test_a_voxel_gets_no_more_than_what_is_near_it():
    # half of the sky is bright: a voxel wholly in the dark, and all around it, too, stays dark
    samples = np.zeros((SOURCE.n_pixel, SOURCE.n_shell, 1), dtype=np.float32)
    samples[directions(SOURCE)[:, 2] > 0] = 1.0
    values, coverage = volume(Field.from_samples(samples, SOURCE), conservative_plan(SOURCE, WHOLE))
    height = np.broadcast_to(WHOLE.z.centres, WHOLE.shape)
    # pixels of the northern half end, and begin, up to half a pixel off the equator
    assert values[(coverage > 0) & (height < -0.8)].max() == 0.0
    np.testing.assert_allclose(values[(coverage > 0) & (height > 0.8)], 1.0, rtol=1e-6)


def test_tiles_need_no_others_and_a_plan_can_be_sent(monkeypatch):
    monkeypatch.setattr(conservative, "TILE", 13)
    field = Field.from_samples(random_samples(SOURCE, 2), SOURCE)
    plan = conservative_plan(SOURCE, WHOLE)
    values, coverage = volume(field, plan)
    sent = pickle.loads(pickle.dumps(plan))
    assert len(pickle.dumps(plan)) < 50_000
    for tile in reversed(list(sent.tiles())):
        again, covered = deposit_tile(field, sent, tile)
        np.testing.assert_array_equal(again, values[plan.region(tile)])
        np.testing.assert_array_equal(covered, coverage[plan.region(tile)])


def test_samples_beside_one_another_do_not_matter():
    samples = random_samples(SOURCE, 20)
    grid = CartesianGrid.from_extent((-9, -7), (-1, 1), (-1, 1), voxel=0.25)
    plan = conservative_plan(SOURCE, grid)
    together, _ = volume(Field.from_samples(samples, SOURCE), plan)
    alone, _ = volume(Field.from_samples(samples[..., 19:], SOURCE), plan)
    np.testing.assert_allclose(together[..., 19:], alone, rtol=1e-6)


def test_the_order_of_pixels_does_not_matter():
    nested = SphericalGrid(SOURCE.nside, SOURCE.edges_kpc, SOURCE.centres_kpc, "nested")
    samples = random_samples(SOURCE, 2)
    grid = CartesianGrid.from_extent((-9, -7), (-1, 1), (-1, 1), voxel=0.25)
    plan = conservative_plan(SOURCE, grid)
    in_nest = samples[healpy.nest2ring(SOURCE.nside, np.arange(SOURCE.n_pixel))]
    one, _ = volume(Field.from_samples(samples, SOURCE), plan)
    other, _ = volume(Field.from_samples(in_nest, nested), conservative_plan(nested, grid))
    np.testing.assert_array_equal(one, other)


def test_masked_cells_count_for_nothing():
    samples = random_samples(SOURCE, 2)
    masked = np.linalg.norm(directions(SOURCE) - [0, 1, 0], axis=-1) < 0.5
    samples[masked] = np.nan
    samples[5, 3] = np.nan
    samples[..., 1][~np.isnan(samples[..., 1])] = 3.0
    plan = conservative_plan(SOURCE, WHOLE)
    values, coverage = volume(Field.from_samples(samples, SOURCE), plan)
    covered = coverage > 0
    np.testing.assert_allclose(values[covered][:, 1], 3.0, rtol=1e-6)
    np.testing.assert_allclose(masses(values, coverage, WHOLE), native_masses(samples, SOURCE, "extend"), rtol=1e-6)
    centres = np.stack(np.meshgrid(*(axis.centres for axis in WHOLE.axes), indexing="ij"), axis=-1)
    away = centres - np.array(WHOLE.frame.sun_kpc)
    within = np.linalg.norm(away / np.linalg.norm(away, axis=-1, keepdims=True) - [0, 1, 0], axis=-1) < 0.2
    assert not covered[within & (np.linalg.norm(away, axis=-1) > 1.5)].any()


def test_slopes_bring_smooth_fields_closer_and_keep_mass_and_extremes():
    def truth(places):
        return 1 + 0.5 * np.sin(1.3 * places[..., 0]) * np.cos(places[..., 1]) + 0.3 * np.sin(0.9 * places[..., 2])

    samples = np.ones((SOURCE.n_pixel, SOURCE.n_shell, 3), dtype=np.float32)
    samples[..., 0] = truth(directions(SOURCE)[:, None] * SOURCE.centres[:, None])
    samples[..., 2] = random_samples(SOURCE, 1)[..., 0]
    field, plan = Field.from_samples(samples, SOURCE), conservative_plan(SOURCE, WHOLE)
    centres = np.stack(np.meshgrid(*(axis.centres for axis in WHOLE.axes), indexing="ij"), axis=-1)
    away = centres - np.array(WHOLE.frame.sun_kpc)
    inside = (np.linalg.norm(away, axis=-1) > 0.6) & (np.linalg.norm(away, axis=-1) < 2.7)
    errors = []
    for order in (1, 2):
        values, coverage = volume(field, plan, order)
        np.testing.assert_allclose(masses(values, coverage, WHOLE), native_masses(samples, SOURCE, "extend"), rtol=1e-6)
        np.testing.assert_allclose(values[coverage > 0][:, 1], 1.0, rtol=1e-6)
        assert values[coverage > 0][:, 2].min() >= 0.0
        assert values[coverage > 0][:, 2].max() <= 1.0
        errors.append(np.std(values[inside][:, 0] - truth(away[inside])))
    assert errors[1] < 0.7 * errors[0]


def test_voxels_too_small_or_too_many_are_refused():
    tiny = CartesianGrid.from_extent((-11, -10.99), (0, 0.01), (0, 0.01), voxel=1e-4)
    with pytest.raises(GridError, match="choose larger voxels"):
        conservative_plan(SOURCE, tiny)
    many = CartesianGrid.from_extent((-9, -7), (-1, 1), (-1, 1), voxel=2e-4)
    with pytest.raises(GridError, match="tiles"):
        conservative_plan(SOURCE, many)


def test_what_cannot_be_is_refused():
    field = Field.from_samples(random_samples(SOURCE, 1), SOURCE)
    with pytest.raises(GridError, match=r"rays_per_voxel must be at least 1, got 0.5"):
        conservative_plan(SOURCE, WHOLE, rays_per_voxel=0.5)
    plan = conservative_plan(SOURCE, WHOLE)
    with pytest.raises(GridError, match=r"tile \(0, 1, 0\) is not one of 1 x 1 x 1"):
        deposit_tile(field, plan, (0, 1, 0))
    with pytest.raises(GridError, match="order must be 1 or 2, got 3"):
        deposit_tile(field, plan, (0, 0, 0), order=3)
    with pytest.raises(GridError, match="value_space 'linear'"):
        deposit_tile(Field.from_samples(random_samples(SOURCE, 1) + 1, SOURCE, value_space="log"), plan, (0, 0, 0))
    with pytest.raises(GridError, match="the plan has inner 'extend', the field has not"):
        deposit_tile(Field.from_samples(random_samples(SOURCE, 1), SOURCE, inner="exclude"), plan, (0, 0, 0))
    other = SphericalGrid.log_spaced(4, 20, 0.3, 3.0)
    with pytest.raises(GridError, match="the field has nside 4 and 20 shells, the plan nside 8 and 20"):
        deposit_tile(Field.from_samples(random_samples(other, 1), other), plan, (0, 0, 0))


def lazy_samples(n_sample=3):
    samples = as_samples(random_samples(SOURCE, n_sample), SOURCE)
    return samples.copy(data=da.from_array(samples.to_numpy(), chunks=(200, 7, n_sample)))


def test_lazy_functions_give_the_tiles(monkeypatch):
    for module in (conservative, conservative_blocks, lazy):
        monkeypatch.setattr(module, "TILE", 12)
    monkeypatch.setattr(tiling, "BLOCK_WORK", 8 * 24 * 24 * 31 * 3)
    samples = lazy_samples()
    values, coverage = volume(Field.from_samples(samples.to_numpy(), SOURCE), conservative_plan(SOURCE, WHOLE))
    regridded = crdist.regrid(samples, WHOLE, sampling="conservative")
    assert regridded.chunks[:2] == ((24, 7), (24, 7))
    assert regridded.attrs["sampling"] == "conservative"
    np.testing.assert_array_equal(regridded, values)
    for axis in range(3):
        name = "xyz"[axis]
        projected = crdist.project(samples, WHOLE, name, sampling="conservative")
        expected = np.nansum(values * coverage[..., None], axis=axis) * 0.2 * 3.0856775814913673e21
        expected[coverage.sum(axis=axis) == 0] = np.nan
        np.testing.assert_allclose(projected, expected, rtol=1e-12)
        assert projected.attrs["units"] == "cm-2"
    # the mass of the map is that of the cells
    area = (0.2 * 3.0856775814913673e21) ** 2
    total = projected.sum(["x", "y"]) * area / 3.0856775814913673e21**3
    np.testing.assert_allclose(total, native_masses(samples.to_numpy(), SOURCE, "extend"), rtol=1e-6)


@pytest.mark.parametrize("order", [1, 2])
def test_samples_larger_than_memory_give_the_same_bits(monkeypatch, order):
    for module in (conservative, conservative_blocks, lazy):
        monkeypatch.setattr(module, "TILE", 12)
    # two or three tiles at once
    monkeypatch.setattr(conservative_blocks, "WAITING_BYTES", 600_000)
    samples = lazy_samples()
    samples[300:320, 5:9] = np.nan
    functions = (crdist.regrid, lambda *given, **options: crdist.project(*given, "y", **options))
    whole = [function(samples, WHOLE, sampling="conservative", order=order).to_numpy() for function in functions]
    few = samples.chunk({"pixel": 8, "shell": 2})
    # what Dask computes once for all blocks is handed to each
    shared = few * (few.mean() / few.mean())
    with dask.config.set({"crdist.tile-memory": "150 kiB"}):
        for some in (few, shared):
            for function, expected in zip(functions, whole, strict=True):
                parts = function(some, WHOLE, sampling="conservative", order=order)
                assert any(key.startswith("parts-") for key in parts.__dask_graph__().layers)
                np.testing.assert_array_equal(parts, expected)


def test_lazy_functions_compute_nothing_before_they_are_asked_and_share_the_plan():
    def refuse(*_, **__):
        raise AssertionError("computed before it was asked to")

    samples = lazy_samples()
    with dask.config.set(scheduler=refuse):
        volume_, map_ = (
            function(samples, WHOLE, sampling="conservative") for function in (crdist.regrid, crdist.project)
        )
        again = crdist.regrid(samples, WHOLE, sampling="conservative")
    assert set(again.__dask_graph__().to_dict()) == set(volume_.__dask_graph__().to_dict())
    shared = set(volume_.__dask_graph__().to_dict()) & set(map_.__dask_graph__().to_dict())
    assert any("conservative_plan" in str(key) for key in shared)


def test_lazy_functions_refuse_what_cannot_be_conservative():
    samples = lazy_samples()
    with pytest.raises(RecipeError, match="sampling must be 'point' or 'conservative', got 'fine'"):
        crdist.regrid(samples, WHOLE, sampling="fine")
    with pytest.raises(RecipeError, match="means of values, not in value_space 'log'"):
        crdist.project(samples, WHOLE, sampling="conservative", value_space="log")
    with pytest.raises(RecipeError, match="order must be 1 or 2, got 3"):
        crdist.regrid(samples, WHOLE, sampling="conservative", order=3)


RECIPE = {
    "grid": {"x": [-12, 4], "y": [-6, 6], "z": [-1, 1], "voxel": 0.25},
    "products": [
        {"kind": "slice", "name": "through_sun", "axis": "y", "at": 0.0},
        {"kind": "projection", "name": "from_above", "axis": "z"},
        {"kind": "projection", "name": "sharp", "axis": "x", "order": 2},
        {"kind": "volume", "name": "volume"},
        {"kind": "volume", "name": "samples", "quantiles": [0.5], "per_sample": True},
    ],
}


def test_products_are_means_and_integrals_of_the_tiles(tmp_path):
    source = SphericalGrid.log_spaced(8, 20, 0.3, 14.0)
    samples = random_samples(source, 3)
    samples[100:110, 3:8] = np.nan
    write_posterior(tmp_path / "p.zarr", source, samples)
    products = [{**product, "sampling": "conservative"} for product in RECIPE["products"]]
    recipe = Recipe.from_mapping({**RECIPE, "products": products})
    crdist.run_products(tmp_path / "p.zarr", tmp_path / "o.zarr", recipe, workers=Workers(1, 2, 2 * 1024**3))
    tree = crdist.open_products(tmp_path / "o.zarr")
    field, grid = Field.from_samples(samples, source), recipe.grid_record
    plan = conservative_plan(source, grid)
    for name, order, axis in (("from_above", 1, 2), ("sharp", 2, 0)):
        values, coverage = volume(field, plan, order=order)
        columns = np.nansum(values * coverage[..., None], axis=axis) * 0.25 * 3.0856775814913673e21
        columns[coverage.sum(axis=axis) == 0] = np.nan
        np.testing.assert_allclose(tree[name]["per_sample"], columns, rtol=1e-6)
        np.testing.assert_allclose(tree[name]["coverage"], coverage.mean(axis=axis), rtol=1e-6, atol=1e-7)
        assert tree[name].attrs["sampling"] == "conservative"
        assert tree[name].attrs["order"] == order
        # the box cuts cells: rays find how much of them is inside, not how their slopes share their mass
        assert np.abs(tree[name]["mass_residual"].to_numpy()).max() < {1: 3e-4, 2: 1e-2}[order]
    values, coverage = volume(field, plan)
    np.testing.assert_array_equal(tree["samples"]["per_sample"], values)
    np.testing.assert_allclose(tree["samples"]["quantiles"][..., 0], np.median(values, axis=-1), rtol=1e-6)
    for name in ("volume", "samples"):
        np.testing.assert_allclose(tree[name]["mean"], values.mean(axis=-1, dtype=np.float64), rtol=1e-6)
        np.testing.assert_allclose(tree[name]["std"], values.std(axis=-1, ddof=1, dtype=np.float64), rtol=1e-5)
        np.testing.assert_allclose(tree[name]["coverage"], coverage, rtol=1e-6, atol=1e-7)
    plane = products_grid(recipe, "through_sun")
    values, _ = volume(field, conservative_plan(source, plane))
    np.testing.assert_array_equal(tree["through_sun"]["per_sample"], values[:, 0])


def products_grid(recipe, name):
    return next(product for product in recipe.products if product.name == name).grid(recipe)


def test_recipes_that_cannot_be_conservative(tmp_path):
    products = [{"kind": "projection", "name": "map", "axis": "z", "sampling": "conservative"}]
    with pytest.raises(
        RecipeError, match=r"products\.map: conservative sampling takes means of values, not in value_spa"
    ):
        Recipe.from_mapping({**RECIPE, "products": products, "value_space": "log"})
    with pytest.raises(RecipeError, match=r"products\.map\.order: must be 1 or 2, got 3"):
        Recipe.from_mapping({**RECIPE, "products": [{**products[0], "order": 3}]})
    source = SphericalGrid.log_spaced(8, 20, 0.3, 14.0)
    write_posterior(tmp_path / "p.zarr", source, random_samples(source, 2))
    recipe = Recipe.from_mapping({**RECIPE, "products": [{**products[0], "voxel": 1e-4}]})
    with pytest.raises(RecipeError, match=r"products\.map: .*choose larger voxels .*or use sampling: adaptive"):
        plan_run(tmp_path / "p.zarr", recipe)
