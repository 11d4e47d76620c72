"""Maps kept ready for queries give what queries give."""

import dask
import healpy
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import crdist
import crdist.accessor
from crdist.errors import GridError, RecipeError, SchemaError
from crdist.grids import SphericalGrid
from crdist_postproc import point_map
from crdist_postproc.kernels.points import Interpolation, Locator
from crdist_postproc.point_map import PointMap
from crdist_postproc.query import query
from galaxies import as_samples, smooth_samples

FRAME = crdist.Frame("heliocentric")
MODES = {
    "mean": {},
    "std": {},
    "samples": {},
    "random_sample": {"seed": 3},
    "quantile": {"q": [0.1, 0.9]},
    "significance": {},
}
GRID = SphericalGrid.log_spaced(8, 40, 0.05, 25.0, ordering="nested")


def field(grid=GRID, n_sample=5, units="cm-3"):
    noise = np.random.default_rng(0).lognormal(size=(grid.n_pixel, grid.n_shell, n_sample))
    found = as_samples((1e-13 * smooth_samples(grid, n_sample) * noise).astype(np.float32), grid)
    found.attrs["units"] = units
    return found


@pytest.fixture(scope="module")
def density():
    return field()


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(3000, 3))
    radius = np.geomspace(0.01, 26.0, 3000)
    radius[-3:] = GRID.edges[-1], GRID.centres[7], 0.0
    return tuple((directions / np.linalg.norm(directions, axis=1)[:, None] * radius[:, None]).T)


def both(samples, coords, mode, options, **how):
    where = {"frame": FRAME, "units": "kpc"} if isinstance(coords, tuple) else {}
    return (
        PointMap(samples, **how)(coords, mode=mode, **options, **where),
        query(samples, coords, mode=mode, **options, **where, **how).compute(),
    )


@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("value_space", ["linear", "log"])
def test_equals_query(density, points, mode, integrated, value_space):
    ours, expected = both(density, points, mode, MODES[mode], integrated=integrated, value_space=value_space)
    # where samples lie close together their spread is known to fewer digits
    rtol = 2e-5 if mode in ("std", "significance") else 2e-6
    assert_allclose(ours, expected, rtol=rtol)
    assert ours.dims == expected.dims
    assert ours.dtype == expected.dtype
    assert ours.attrs == expected.attrs
    assert ours.name == expected.name
    assert set(ours.coords) == set(expected.coords)
    assert np.isnan(expected.values).any()
    assert np.isfinite(expected.values).sum() > 2000


@pytest.mark.parametrize("how", [{"method": "nearest"}, {"inner": "exclude"}, {"radial": "linear"}])
@pytest.mark.parametrize("integrated", [False, True])
def test_equals_query_however_it_interpolates(density, points, how, integrated):
    ours, expected = both(density, points, "mean", {}, integrated=integrated, **how)
    assert_allclose(ours, expected, rtol=2e-6)


@given(
    st.integers(1, 18),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 9),
    st.sampled_from(["ring", "nested"]),
    st.sampled_from(["mean", "samples"]),
    st.booleans(),
    st.sampled_from(["linear", "log"]),
)
@settings(max_examples=40, deadline=None)
def test_any_grid_and_number_of_samples(n_sample, nside, n_shell, ordering, mode, integrated, value_space):
    grid = SphericalGrid.log_spaced(nside, n_shell, 0.3, 9.0, ordering=ordering)
    rng = np.random.default_rng(n_sample)
    points = tuple(rng.uniform(-6, 6, (3, 100)))
    ours, expected = both(field(grid, n_sample), points, mode, {}, integrated=integrated, value_space=value_space)
    assert_allclose(ours, expected, rtol=2e-6)


def test_angles_give_the_same_cells_as_vectors():
    rng = np.random.default_rng(5)
    n = 20_000
    longitude, latitude = rng.uniform(-7.0, 14.0, n), np.arcsin(rng.uniform(-1, 1, n))
    latitude[:4] = 0.5 * np.pi, -0.5 * np.pi, 0.0, np.nan
    longitude[4:7] = 0.0, 2 * np.pi, np.inf
    distance = rng.uniform(0.0, 26.0, n)
    with np.errstate(invalid="ignore"):
        x = distance * np.cos(latitude) * np.cos(longitude)
        y = distance * np.cos(latitude) * np.sin(longitude)
    vectors = np.stack([x, y, distance * np.sin(latitude)], axis=1)
    for method in ("linear", "nearest"):
        locate = Locator(GRID, Interpolation(method=method))
        angles = locate(np.stack([longitude, latitude, distance], axis=1), spherical=True)
        expected = locate(vectors)
        assert_array_equal(angles.shell, expected.shell)
        assert_allclose(angles.part, expected.part, atol=1e-11)
        # weights by pixel: at an edge the pixels may come in another order
        totals = [np.zeros((n, GRID.n_pixel), np.float32) for _ in range(2)]
        for total, places in zip(totals, (angles, expected), strict=True):
            for c in range(4):
                np.add.at(total, (np.arange(n), places.pixels[:, c]), places.weights[:, c])
        assert np.abs(totals[0] - totals[1]).max() < 1e-6
    inside = angles.shell >= 0
    pixels = healpy.ang2pix(8, 0.5 * np.pi - latitude[inside], longitude[inside], nest=True)
    assert (angles.pixels[inside, 0] == pixels).all()


def test_catalogues_of_stars(density):
    rng = np.random.default_rng(2)
    stars = SkyCoord(rng.uniform(0, 360, (4, 50)) * u.deg, rng.uniform(-90, 90, (4, 50)) * u.deg,
                     distance=rng.uniform(0.0, 20.0, (4, 50)) * u.kpc, frame="galactic")  # fmt: skip
    for coords in (stars, stars.icrs):
        ours, expected = both(density, coords, "samples", {})
        assert ours.shape == (4, 50, 5)
        assert_allclose(ours, expected, rtol=2e-6)
    catalogue = {"l": stars.l, "b": stars.b, "distance": stars.distance}
    assert_allclose(*both(density, catalogue, "mean", {}), rtol=1e-6)
    empty = PointMap(density)(stars[:0])
    assert empty.shape == (0, 50)


def test_one_map_answers_many_questions(density, points):
    stored = density.chunk(pixel=100, shell=7)
    ready = stored.crdist.point_map(value_space="log")
    assert ready.nbytes == density.size * 4
    for mode, options in MODES.items():
        ours = ready(points, mode=mode, frame=FRAME, units="kpc", **options)
        expected = query(density, points, mode=mode, frame=FRAME, units="kpc", value_space="log", **options)
        assert_allclose(ours, expected, rtol=2e-5)


def test_threads_do_not_change_the_bits(density, points, monkeypatch):
    monkeypatch.setattr(point_map, "PART_POINTS", 100)
    ready = PointMap(density, value_space="log")
    one = ready(points, mode="std", frame=FRAME, units="kpc", threads=1)
    with dask.config.set(num_workers=3):
        assert_array_equal(ready(points, mode="std", frame=FRAME, units="kpc"), one)
    monkeypatch.setattr(point_map, "PART_POINTS", 37)
    assert_array_equal(ready(points, mode="std", frame=FRAME, units="kpc"), one)


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("value_space", ["linear", "log"])
def test_a_masked_sample_masks_the_points_around_it(density, points, integrated, value_space):
    masked = density.copy(deep=True)
    masked[100:140, 20:25, 2] = np.nan
    for mode in ("mean", "std", "samples"):
        ours, expected = both(masked, points, mode, {}, integrated=integrated, value_space=value_space)
        assert_array_equal(np.isnan(ours), np.isnan(expected))
        assert_allclose(ours, expected, rtol=2e-5)


def test_nothing_along_a_line_of_sight_stays_nothing(points):
    empty = field()
    empty[:, :12] = 0.0
    ours, expected = both(empty, points, "samples", {}, integrated=True, value_space="log")
    assert (expected == 0).sum() > 500
    assert_array_equal(ours == 0, expected == 0)
    assert_allclose(ours, expected, rtol=2e-6)


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (-1.0, {"value_space": "log"}, "needs positive samples, got -1; use value_space 'linear'"),
        (0.0, {"value_space": "log"}, "needs positive samples, got 0"),
        (np.inf, {}, "must be finite"),
        (np.inf, {"value_space": "log"}, "must be finite"),
        (np.inf, {"integrated": True}, "must be finite"),
        (-1.0, {"integrated": True, "value_space": "log"}, "needs positive samples"),
    ],
)
def test_impossible_samples_are_refused_at_once(density, value, options, message):
    wrong = density.copy(deep=True)
    wrong[3, 4, 1] = value
    with pytest.raises(GridError, match=message):
        PointMap(wrong, **options)


def test_options_that_make_no_sense_are_refused(density, points):
    with pytest.raises(RecipeError, match="value_space is one of"):
        PointMap(density, value_space="cubic")
    ready = PointMap(density)
    with pytest.raises(RecipeError, match="needs q"):
        ready(points, mode="quantile", frame=FRAME, units="kpc")
    with pytest.raises(RecipeError, match="threads must be 1 or more"):
        ready(points, frame=FRAME, units="kpc", threads=0)
    with pytest.raises(GridError, match="need a frame"):
        ready(points)
    with pytest.raises(RecipeError, match="two samples at least"):
        PointMap(density.isel(sample=0))(points, mode="std", frame=FRAME, units="kpc")
    with pytest.raises(SchemaError, match="no samples yet"):
        PointMap(density.isel(sample=slice(0)))
    plain = density.copy()
    del plain.attrs["units"]
    with pytest.raises(SchemaError, match="no attribute 'units'"):
        PointMap(plain, integrated=True)(points, frame=FRAME, units="kpc")
