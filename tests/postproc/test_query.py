"""Queries at points: equal to dustmaps and to healpy, lazy, in any chunking the same bits."""

import contextlib
import os
import warnings

import dask
import dask.array as da
import healpy
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from dask.callbacks import Callback
from hypothesis import given, settings
from hypothesis import strategies as st

import crdist
import layouts
import oracle
import strategies
from crdist.errors import GridError, RecipeError, SchemaError
from crdist.grids import SphericalGrid
from crdist.importers import import_map
from crdist_postproc import point_shares, point_tasks
from crdist_postproc.query import query
from galaxies import as_samples, smooth_samples, write_posterior

HELIOCENTRIC = crdist.Frame("heliocentric")
GRID = SphericalGrid.log_spaced(8, 40, 0.05, 25.0)
N_SAMPLE = 5
N = 400
DUST = {"value_space": "log", "radial": "linear"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("query")
    samples = smooth_samples(GRID, N_SAMPLE) * np.random.default_rng(0).lognormal(size=(768, 40, N_SAMPLE))
    write_posterior(folder / "p.zarr", GRID, samples.astype(np.float32))
    layouts.write_edenhofer(folder / "dust.fits", n_sample=6)
    import_map(folder / "dust.fits", folder / "dust.zarr")
    return folder


@pytest.fixture
def density(folder):
    return crdist.open_posterior(folder / "p.zarr")["density"]


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(N, 3))
    return directions / np.linalg.norm(directions, axis=1)[:, None] * np.geomspace(0.01, 24.9, N)[:, None]


def at(samples, points_kpc, **options):
    return query(samples, tuple(np.moveaxis(points_kpc, -1, 0)), frame=HELIOCENTRIC, units="kpc", **options)


def interpolate_integrals(samples, grid, points_kpc, *, logarithms=False, extend=True):
    """Integrals in each pixel around points by sums over all shells, then healpy's weights."""
    edges = grid.edges
    edges[0] = 0.0 if extend else edges[0]
    r = np.linalg.norm(points_kpc, axis=1)
    theta, phi = healpy.vec2ang(points_kpc)
    pixels, weights = healpy.get_interp_weights(grid.nside, theta, phi, nest=grid.ordering == "nested")
    lengths = np.clip(r[:, None] - edges[:-1], 0.0, np.diff(edges))
    integrals = np.einsum("ns,cnsk->cnk", lengths, samples.astype(np.float64)[pixels])
    if logarithms:
        return np.exp(np.einsum("cn,cnk->nk", weights, np.log(integrals)))
    return np.einsum("cn,cnk->nk", weights, integrals)


@pytest.fixture(scope="module")
def dustmaps_query(folder):
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        # it warns that there is no configuration file in the home folder
        warnings.simplefilter("ignore")
        patch.setenv("DUSTMAPS_CONFIG_FNAME", str(folder / "none.json"))
        from dustmaps.edenhofer2023 import Edenhofer2023Query

        yield lambda **options: Edenhofer2023Query(str(folder / "dust.fits"), load_samples=True, **options)


def sky_points(distance, seed=2):
    rng = np.random.default_rng(seed)
    latitude = np.degrees(np.arcsin(rng.uniform(-1, 1, distance.size)))
    longitude = rng.uniform(0, 360, distance.size)
    return SkyCoord(longitude * u.deg, latitude * u.deg, distance=distance * u.kpc, frame="galactic")


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("mode", ["mean", "std", "samples", "random_sample"])
def test_equals_dustmaps(folder, dustmaps_query, mode, loaded):
    dust = crdist.open_posterior(folder / "dust.zarr")["extinction_density"]
    dust = dust.load() if loaded else dust
    inner, outer = dust["distance"].values[[0, -1]]
    places = sky_points(np.linspace(inner * 1.0001, outer * 0.9999, 2000))
    theirs = dustmaps_query(seed=11)(places, mode=mode)
    ours = query(dust, places, mode=mode, seed=11 if mode == "random_sample" else None, **DUST)
    # dustmaps divides the squared deviations by the number of samples
    scale = np.sqrt(6 / 5) if mode == "std" else 1.0
    np.testing.assert_allclose(ours, scale * theirs, rtol=3e-6 if mode == "std" else 1e-6)


@pytest.mark.parametrize("mode", ["mean", "std", "samples"])
def test_integrals_equal_dustmaps_at_the_edges_of_shells(folder, dustmaps_query, mode):
    dust = crdist.open_posterior(folder / "dust.zarr")["extinction_density"]
    shell = np.arange(2000) % (dust.sizes["shell"] - 1) + 1
    shell[shell == dust.sizes["shell"] - 1] = 1
    # dustmaps assigns the integral through a shell to the shell's centre
    theirs = dustmaps_query(integrated=True)(sky_points(dust["distance"].values[shell]), mode=mode)
    ours = query(dust, sky_points(dust["distance_upper"].values[shell]), mode=mode, integrated=True, value_space="log")
    scale = np.sqrt(6 / 5) if mode == "std" else 1.0
    assert np.isfinite(theirs).all()
    # it adds up in single precision
    np.testing.assert_allclose(ours, scale * theirs, rtol=1e-4 if mode == "std" else 3e-6)
    assert ours.attrs["units"] == "E"


@given(
    grid=strategies.spherical_grids(max_level=3),
    points_kpc=strategies.points(24, 30.0),
    n_sample=st.integers(1, 18),
    radial=st.sampled_from(["log", "linear"]),
    value_space=st.sampled_from(["log", "linear"]),
)
@settings(max_examples=15)
def test_any_grid_equals_healpy(grid, points_kpc, n_sample, radial, value_space):
    values = np.random.default_rng(0).lognormal(size=(grid.n_pixel, grid.n_shell, n_sample)).astype(np.float32)
    samples = as_samples(values, grid)
    points_kpc[np.linalg.norm(points_kpc, axis=1) < 1e-3] = 0.001
    each = np.log(values.astype(np.float64)) if value_space == "log" else values
    if radial == "log":
        expected = oracle.interpolate(each, grid, points_kpc)
    else:
        expected = interpolate_in_r(each, grid, points_kpc)
    expected = np.exp(expected) if value_space == "log" else expected
    found = at(samples, points_kpc, mode="samples", radial=radial, value_space=value_space)
    np.testing.assert_allclose(found, expected, rtol=3e-6, atol=1e-6)


def interpolate_in_r(samples, grid, points_kpc):
    theta, phi = healpy.vec2ang(points_kpc)
    pixels, weights = healpy.get_interp_weights(grid.nside, theta, phi, nest=grid.ordering == "nested")
    r = np.linalg.norm(points_kpc, axis=1)
    place = np.interp(r, grid.centres, np.arange(grid.n_shell))
    lower = np.minimum(place.astype(int), max(grid.n_shell - 2, 0))
    upper = np.minimum(lower + 1, grid.n_shell - 1)
    up = (place - lower)[:, None]
    each = samples.astype(np.float64)
    values = sum(
        w[:, None] * (each[p, lower] * (1 - up) + each[p, upper] * up) for p, w in zip(pixels, weights, strict=True)
    )
    values[r > grid.edges[-1]] = np.nan
    return values


@pytest.mark.parametrize("value_space", ["linear", "log"])
@pytest.mark.parametrize("inner", ["extend", "exclude"])
def test_integrals_are_sums_over_shells(density, points, value_space, inner):
    found = at(density, points, mode="samples", integrated=True, value_space=value_space, inner=inner)
    seen = np.linalg.norm(points, axis=1) > 0.05
    expected = interpolate_integrals(
        density.values, GRID, points[seen], logarithms=value_space == "log", extend=inner == "extend"
    )
    cm_per_kpc = 3.0856775814913673e21
    np.testing.assert_allclose(found[seen], cm_per_kpc * expected, rtol=1e-6)
    assert found.attrs["units"] == "cm-2"
    assert np.isnan(found[~seen]).all() == (inner == "exclude")


def test_the_spread_of_the_integral_is_not_the_integral_of_the_spread(density, points):
    each = at(density, points, mode="samples", integrated=True).compute()
    of_integrals = at(density, points, mode="std", integrated=True)
    np.testing.assert_allclose(of_integrals, each.std("sample", ddof=1), rtol=1e-9)
    of_spreads = at(density.std("sample", ddof=1).assign_attrs(density.attrs), points, mode="mean", integrated=True)
    far = np.linalg.norm(points, axis=1) > 1.0
    # the noise of neighbouring cells is independent here, so that it averages out along the way
    assert (of_integrals.values[far] < 0.9 * of_spreads.values[far]).all()


def test_modes_follow_from_the_samples(density, points):
    each = at(density, points, mode="samples").compute().astype(np.float64)
    assert each.dims == ("point", "sample")
    np.testing.assert_allclose(at(density, points), each.mean("sample"), rtol=1e-6)
    np.testing.assert_allclose(at(density, points, mode="std"), each.std("sample", ddof=1), rtol=1e-5)
    np.testing.assert_allclose(
        at(density, points, mode="significance"), each.mean("sample") / each.std("sample", ddof=1), rtol=1e-5
    )
    quantiles = at(density, points, mode="quantile", q=[0.25, 0.5])
    assert quantiles.dims == ("point", "quantile")
    np.testing.assert_allclose(quantiles, each.quantile([0.25, 0.5], "sample").T, rtol=1e-6)
    median = at(density, points, mode="quantile", q=0.5)
    np.testing.assert_array_equal(median, quantiles.sel(quantile=0.5))
    one = at(density, points, mode="random_sample", seed=4)
    np.testing.assert_array_equal(one, each.sel(sample=one["sample"]).astype(np.float32))


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("value_space", ["linear", "log"])
@pytest.mark.parametrize(
    ("pixels", "shells", "samples", "block"), [(100, 7, 5, 500), (768, 40, 2, 30), (64, 13, 5, 57), (256, 1, 5, 100)]
)
def test_any_chunking_gives_the_same_bits(folder, points, value_space, integrated, pixels, shells, samples, block):
    values = crdist.open_posterior(folder / "p.zarr")["density"].load()
    whole = at(values, points, mode="samples", value_space=value_space, integrated=integrated).compute()
    chunked = values.chunk(pixel=pixels, shell=shells, sample=samples)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(point_tasks, "BLOCK_POINTS", block)
        patch.setattr(point_shares, "BLOCK_POINTS", block)
        patch.setattr(point_shares, "GROUP_POINTS", 41)
        parts = at(chunked, points, mode="samples", value_space=value_space, integrated=integrated)
        np.testing.assert_array_equal(parts, whole)
        patch.setattr(point_tasks, "PIECE_BYTES", 4 * 40 * N_SAMPLE * block)
        parts = at(values, points, mode="samples", value_space=value_space, integrated=integrated)
        np.testing.assert_array_equal(parts, whole)


class Computed(Callback):
    """Which keys a scheduler computes."""

    def __init__(self):
        super().__init__(pretask=lambda key, *_: self.keys.append(key))
        self.keys = []

    def pieces(self, name):
        return {key[1:3] for key in self.keys if isinstance(key, tuple) and key[0] == name}


@pytest.mark.parametrize("integrated", [False, True])
def test_only_the_chunks_that_points_need_are_computed(folder, integrated):
    values = crdist.open_posterior(folder / "p.zarr")["density"].load().values
    lazy = as_samples(da.from_array(values, chunks=(64, 10, -1)).map_blocks(np.positive), GRID)
    with contextlib.ExitStack() as stack:
        computed = stack.enter_context(Computed())
        stack.enter_context(dask.config.set({"optimization.fuse.active": False}))
        near_centre = np.array([healpy.pix2vec(8, 100, nest=True)]) * GRID.centres[15] * 1.001
        result = at(lazy, near_centre, integrated=integrated)
        assert computed.keys == []
        result.compute(scheduler="synchronous", optimize_graph=False)
        theta, phi = healpy.vec2ang(near_centre)
        pixels = healpy.get_interp_weights(8, theta, phi, nest=True)[0].ravel() // 64
        shells = [0, 1] if integrated else [1]
        assert {place[0] for place in computed.pieces(lazy.data.name)} == set(pixels.tolist())
        assert {place[1] for place in computed.pieces(lazy.data.name)} == set(shells)


def test_samples_in_memory_are_not_copied(density, points, monkeypatch):
    values = density.load()
    seen = []
    original = point_tasks.samples_at

    def watch(pieces, *arguments, **options):
        seen.extend(np.shares_memory(piece, values.values) for piece in pieces.values())
        return original(pieces, *arguments, **options)

    monkeypatch.setattr(point_tasks, "samples_at", watch)
    at(values, points).compute()
    assert seen == [True]


def test_equal_queries_share_their_tasks(density, points):
    assert at(density, points).data.name == at(density, points).data.name
    others = [at(density, points, mode="std"), at(density, points[1:]), at(density * 2, points)]
    others.append(at(density, points, radial="linear"))
    assert len({at(density, points).data.name, *(other.data.name for other in others)}) == 5


def test_shapes_and_dimensions(density, points):
    flat = at(density, points[:24]).compute()
    block = points[:24].reshape(2, 3, 4, 3)
    cube = at(density, block, mode="mean")
    assert cube.dims == ("point_0", "point_1", "point_2")
    np.testing.assert_array_equal(cube.values.ravel(), flat)
    each = at(density, block, mode="samples")
    assert each.shape == (2, 3, 4, N_SAMPLE)
    np.testing.assert_array_equal(each.values.reshape(24, -1), at(density, points[:24], mode="samples"))
    one = at(density, points[3])
    assert one.shape == ()
    assert float(one) == flat[3]
    assert at(density, points[3], mode="samples").dims == ("sample",)
    assert at(density, np.empty((0, 3)), mode="samples").compute().shape == (0, N_SAMPLE)
    assert at(density.mean("sample"), points).dims == ("point",)


def test_points_that_are_nan_or_outside_are_nan(density, points):
    odd = points[:6].copy()
    odd[0, 1], odd[1], odd[2] = np.nan, 1e3, np.inf
    for options in ({}, {"integrated": True}, {"value_space": "log"}, {"method": "nearest"}):
        for samples in (density, density.load()):
            found = at(samples, odd, mode="samples", **options).values
            assert np.isnan(found[:3]).all()
            np.testing.assert_array_equal(found[3:], at(samples, points[3:6], mode="samples", **options))
    inside = np.array([[0.0, 0.0, 0.01]])
    assert np.isfinite(at(density, inside)).all()
    assert np.isnan(at(density, inside, inner="exclude")).all()


def test_nearest_is_the_cell_that_contains_the_point(density, points):
    found = at(density, points, mode="samples", method="nearest")
    np.testing.assert_array_equal(found, oracle.interpolate(density.values, GRID, points, "nearest"))


def test_a_masked_sample_masks_the_cell(density):
    values = density.values.copy()
    values[100, 20, 2] = np.nan
    samples = as_samples(values, GRID)
    place = np.array([healpy.pix2vec(8, 100, nest=True)]) * GRID.centres[20]
    for options in ({}, {"value_space": "log"}, {"integrated": True}):
        assert np.isnan(at(samples, 1.01 * place, mode="samples", **options)).all()
    # the integral ends before the cell begins
    assert np.isfinite(at(samples, place / GRID.centres[20] * GRID.edges[19], integrated=True)).all()


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (-1.0, {"value_space": "log"}, "needs positive samples, got -1"),
        (0.0, {"value_space": "log"}, "needs positive samples, got 0"),
        (np.inf, {}, "must be finite .*got inf"),
        (np.inf, {"value_space": "log"}, "must be finite .*got inf"),
        (-np.inf, {"integrated": True}, "must be finite .*got -inf"),
        (-1e6, {"integrated": True, "value_space": "log"}, "needs positive samples"),
    ],
)
def test_impossible_samples_are_refused(density, value, options, message):
    values = density.values.copy()
    values[100, 20, 2] = value
    place = np.array([healpy.pix2vec(8, 100, nest=True)]) * GRID.centres[20] * 1.01
    with pytest.raises(GridError, match=message):
        at(as_samples(values, GRID), place, mode="samples", **options).compute()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "median"}, "mode is one of .*'quantile'.* got 'median'"),
        ({"mode": "quantile"}, "needs q"),
        ({"q": 0.5}, "q is for the mode 'quantile', not 'mean'"),
        ({"mode": "quantile", "q": 50}, "between 0 and 1, got 50"),
        ({"seed": 1}, "seed is for the mode 'random_sample'"),
        ({"radial": "sqrt"}, "radial is one of 'log', 'linear'"),
        ({"inner": "drop"}, "inner is one of"),
    ],
)
def test_options_that_make_no_sense_are_refused(density, points, options, message):
    with pytest.raises(RecipeError, match=message):
        at(density, points, **options)


def test_what_samples_must_have(density, points):
    with pytest.raises(RecipeError, match="'std' needs two samples at least, got 1"):
        at(density.isel(sample=[0]), points, mode="std")
    with pytest.raises(SchemaError, match="no attribute 'units'"):
        at(density.drop_attrs(deep=False), points, integrated=True)
    with pytest.raises(SchemaError, match="no samples yet"):
        at(density.isel(sample=slice(0)), points)
    with pytest.raises(GridError, match="keep all shells"):
        at(density.isel(shell=slice(None, None, 2)), points)


def test_other_types_and_orders_are_read(density, points):
    whole = at(density, points, mode="samples").compute()
    for samples in (density.load().transpose("sample", "shell", "pixel"), density.astype(np.float64)):
        np.testing.assert_array_equal(at(samples, points, mode="samples"), whole)


def test_threads_do_not_change_the_bits(density, points):
    many = np.repeat(points, 50, axis=0)
    one, several = (
        at(density, many, mode="std").compute(scheduler="threads", num_workers=n) for n in (1, min(4, os.cpu_count()))
    )
    np.testing.assert_array_equal(one, several)
