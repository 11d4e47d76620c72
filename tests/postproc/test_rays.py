"""Values and integrals along paths."""

import dask
import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.coordinates import SkyCoord

import crdist
from crdist.errors import GridError, RecipeError, SchemaError
from crdist.grids import SphericalGrid
from crdist_postproc.query import query
from crdist_postproc.rays import along
from galaxies import smooth_samples, write_posterior

HELIOCENTRIC = crdist.Frame("heliocentric")
FRAME = crdist.Frame("galactocentric", 8.2, 0.02)
GRID = SphericalGrid.log_spaced(8, 60, 0.05, 20.0)
CM_PER_KPC = 3.0856775814913673e21


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rays")
    write_posterior(folder / "p.zarr", GRID, smooth_samples(GRID, 4))
    return folder


@pytest.fixture
def density(folder):
    return crdist.open_posterior(folder / "p.zarr")["density"]


def point(*xyz):
    return tuple(value * u.kpc for value in xyz)


def test_a_straight_path_has_its_places_as_coordinates(density):
    ray = along(density, point(-8.0, 0.0, 0.0), point(-8.0, 6.0, 0.0), n=61, frame=FRAME)
    assert dask.is_dask_collection(ray.data)
    assert ray.dims == ("path", "sample")
    np.testing.assert_allclose(ray["path"], np.linspace(0, 6, 61), atol=1e-12)
    np.testing.assert_allclose(ray["y"], np.linspace(0, 6, 61), atol=1e-12)
    np.testing.assert_allclose(ray["x"], -8.0, atol=1e-12)
    sky = SkyCoord(ray["l"].values * u.deg, ray["b"].values * u.deg, ray["distance"].values * u.kpc, frame="galactic")
    np.testing.assert_allclose(ray, query(density, sky, mode="samples"), rtol=1e-5)
    inside = sky.transform_to(FRAME.to_astropy())
    np.testing.assert_allclose(inside.y.to_value(u.kpc), ray["y"], atol=1e-9)
    assert ray.attrs["frame"] == FRAME.to_dict()
    assert ray.attrs["units"] == "cm-3"


def test_from_the_sun_a_direction_ends_at_the_outer_edge(density):
    for direction in (
        SkyCoord(30 * u.deg, 10 * u.deg, frame="galactic"),
        SkyCoord(30 * u.deg, 10 * u.deg, frame="galactic").icrs,
        {"l": 30 * u.deg, "b": 10 * u.deg},
    ):
        ray = along(density, "sun", direction, n=50)
        np.testing.assert_allclose(ray["path"], np.linspace(0, 20.0, 50), atol=1e-12)
        np.testing.assert_allclose(ray["distance"], ray["path"], atol=1e-12)
        np.testing.assert_allclose(ray["l"][1:], 30.0)
        np.testing.assert_allclose(ray["b"][1:], 10.0)
    nearer = along(density, "sun", SkyCoord(30 * u.deg, 10 * u.deg, 5 * u.kpc, frame="galactic"), step_kpc=0.4)
    assert float(nearer["path"][-1]) == pytest.approx(5.0)
    assert nearer.sizes["path"] == 14


def test_the_integral_from_the_sun_approaches_the_cells_own(density):
    direction = SkyCoord(75 * u.deg, 4 * u.deg, frame="galactic")
    fine = along(density, "sun", direction, step_kpc=0.002, integrate=True)
    cells = query(
        density, SkyCoord(75 * u.deg, 4 * u.deg, 15 * u.kpc, frame="galactic"), mode="samples", integrated=True
    )
    there = fine.interp(path=15.0)
    np.testing.assert_allclose(there, cells, rtol=2e-3)
    assert fine.attrs["units"] == cells.attrs["units"] == "cm-2"
    assert (np.diff(fine, axis=0) >= 0).all()


def test_integrals_are_trapezoids_of_each_sample(density):
    a, b = point(1.0, 2.0, 0.5), point(-3.0, 0.5, 0.0)
    values = along(density, a, b, n=40, frame=HELIOCENTRIC)
    integral = along(density, a, b, n=40, frame=HELIOCENTRIC, integrate=True)
    assert integral.dtype == np.float64
    np.testing.assert_array_equal(integral[0], 0.0)
    for k in (1, 20, 39):
        expected = np.trapezoid(values[: k + 1].astype(np.float64), values["path"][: k + 1], axis=0) * CM_PER_KPC
        np.testing.assert_allclose(integral[k], expected, rtol=1e-9)
    # each path's own integral, then the spread: not the integral of the spread
    assert float(integral[-1].std("sample")) < float(
        np.trapezoid(values.std("sample"), values["path"]) * CM_PER_KPC * (1 - 1e-9)
    )


def test_what_lies_outside_holds_nothing(density):
    ray = along(density, point(-30.0, 0.0, 0.0), point(30.0, 0.0, 0.0), step_kpc=0.1, frame=HELIOCENTRIC)
    outside = np.abs(ray["x"].values) > 20.0
    np.testing.assert_array_equal(np.isnan(ray).all("sample"), outside)
    whole = along(
        density, point(-30.0, 0.0, 0.0), point(30.0, 0.0, 0.0), step_kpc=0.1, frame=HELIOCENTRIC, integrate=True
    )
    assert np.isfinite(whole).all()
    assert (whole[:100] == 0).all()
    np.testing.assert_array_equal(whole[-1], whole[-100])


def test_an_integral_ends_at_a_masked_cell(folder):
    density = crdist.open_posterior(folder / "p.zarr")["density"].load()
    density = density.where(~((density["distance"] > 5.0) & (density["distance"] < 6.0)))
    ray = along(density, "sun", {"l": 10 * u.deg, "b": 0 * u.deg}, n=200, integrate=True)
    assert np.isfinite(ray.where(ray["path"] < 4.5, drop=True)).all()
    assert np.isnan(ray.where(ray["path"] > 6.5, drop=True)).all()


def test_a_list_of_points_is_a_path(density):
    corners = {"x": [1.0, 1.0, 4.0], "y": [0.0, 2.0, 2.0], "z": [0.0, 0.0, 0.0]}
    as_it_is = along(density, corners, frame=HELIOCENTRIC, units="kpc")
    np.testing.assert_allclose(as_it_is["path"], [0.0, 2.0, 5.0])
    stepped = along(density, corners, frame=HELIOCENTRIC, units="kpc", step_kpc=0.3)
    assert 2.0 in stepped["path"].values
    assert np.diff(stepped["path"]).max() <= 0.3 + 1e-12
    spaced = along(density, corners, frame=HELIOCENTRIC, units="kpc", n=11)
    np.testing.assert_allclose(spaced["x"][4:], np.linspace(1.0, 4.0, 7))
    np.testing.assert_allclose(spaced["y"][:5], np.linspace(0.0, 2.0, 5))
    assert along(density.mean("sample"), corners, frame=HELIOCENTRIC, units="kpc").dims == ("path",)


def test_nothing_computes_until_asked(density):
    def refuse(*_, **__):
        raise AssertionError("computed before it was asked to")

    with dask.config.set(scheduler=refuse):
        ray = along(density, "sun", {"l": 10 * u.deg, "b": 0 * u.deg}, n=20, integrate=True)
        mean = ray.mean("sample")
        with pytest.raises(AssertionError, match="computed before"):
            mean.compute()


@pytest.mark.parametrize(
    ("start", "stop", "options", "error", "message"),
    [
        ("earth", None, {}, GridError, "at a point or at 'sun', got 'earth'"),
        ("sun", None, {}, GridError, "a point or a direction to go to"),
        (point(1.0, 0.0, 0.0), None, {}, GridError, "from one point give another"),
        (point(1.0, 0.0, 0.0), point(1.0, 0.0, 0.0), {"n": 5}, GridError, "must have a length"),
        (point(1.0, 0.0, 0.0), point(np.nan, 0.0, 0.0), {"n": 5}, GridError, "must be finite"),
        (point(1.0, 0.0, 0.0), point([1.0, 2.0], 0.0, 0.0), {"n": 5}, GridError, "got 2 points at one end"),
        (point(1.0, 0.0, 0.0), point(2.0, 0.0, 0.0), {}, RecipeError, "needs step_kpc or n"),
        (point(1.0, 0.0, 0.0), point(2.0, 0.0, 0.0), {"n": 5, "step_kpc": 1.0}, RecipeError, "not both"),
        (point(1.0, 0.0, 0.0), point(2.0, 0.0, 0.0), {"n": 1}, RecipeError, "between 2 and .* got n = 1"),
        (point(1.0, 0.0, 0.0), point(2.0, 0.0, 0.0), {"step_kpc": 0.0}, RecipeError, "positive, got 0 kpc"),
        (point(1.0, 0.0, 0.0), point(2.0, 0.0, 0.0), {"step_kpc": 1e-9}, RecipeError, "more than 10000000 points"),
        (point(1.0, 0.0, 0.0), point(2.0, 0.0, 0.0), {"n": 5, "method": "cubic"}, RecipeError, "method is one of"),
    ],
)
def test_paths_that_cannot_be_are_refused(density, start, stop, options, error, message):
    with pytest.raises(error, match=message):
        along(density, start, stop, frame=HELIOCENTRIC, **options)


def test_integrals_need_units(density):
    with pytest.raises(SchemaError, match="no attribute 'units'"):
        along(density.drop_attrs(deep=False), "sun", {"l": 0 * u.deg, "b": 0 * u.deg}, n=5, integrate=True)
    assert isinstance(along(density.drop_attrs(deep=False), "sun", {"l": 0 * u.deg, "b": 0 * u.deg}, n=5), xr.DataArray)
