"""Points however they are written: the same places, and a clear word where something is missing."""

import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.coordinates import Galactic, Galactocentric, SkyCoord
from hypothesis import given

import strategies
from crdist.errors import GridError
from crdist.frames import Frame
from crdist_postproc.points import dims_and_coords, galactic, heliocentric_points

FRAME = Frame("galactocentric", 8.2, 0.0208, 3.0)


@given(points_kpc=strategies.points(12), frame=strategies.frames("galactocentric"))
def test_every_way_to_write_a_point_gives_the_same_place(points_kpc, frame):
    longitude, latitude, distance = galactic(points_kpc)
    sky = SkyCoord(longitude * u.deg, latitude * u.deg, distance=distance * u.kpc, frame="galactic")
    inside = frame.from_heliocentric(points_kpc)
    x, y, z = inside.T
    written = [
        (sky, None, None),
        (sky.icrs, None, None),
        (Galactic(l=sky.l, b=sky.b, distance=sky.distance), None, None),
        (sky.transform_to(frame.to_astropy()), None, None),
        (sky.transform_to(frame.to_astropy()), frame, None),
        ((x, y, z), frame, "kpc"),
        ((x * u.kpc, y * 1e3 * u.pc, z * u.kpc), frame, None),
        ({"x": x * u.kpc, "y": y, "z": z * 1e3}, frame, {"y": "kpc", "z": "pc"}),
        ({"l": longitude * u.deg, "b": np.radians(latitude) * u.rad, "distance": distance * u.kpc}, None, None),
        ({"l": longitude, "b": latitude, "distance": distance * 1e3}, None, {"l": "deg", "b": "deg", "distance": "pc"}),
    ]
    for coords, given_frame, units in written:
        found, shape = heliocentric_points(coords, given_frame, units)
        assert shape == (12,)
        np.testing.assert_allclose(found, points_kpc, atol=1e-9 * (1 + frame.r0_kpc) * 10)


def test_units_of_a_dataset_are_its_attributes():
    star = xr.Dataset(
        {"l": ("star", [0.0, 90.0], {"units": "deg"}), "b": ("star", [0.0, 0.0], {"units": "deg"})},
        coords={"distance": ("r", [1.0, 2.0, 3.0], {"units": "pc"}), "star": ["one", "other"]},
    )
    points, shape = heliocentric_points(star)
    assert shape == (2, 3)
    np.testing.assert_allclose(points.reshape(2, 3, 3)[1, 2], [0, 3e-3, 0], atol=1e-18)
    dims, coords = dims_and_coords(star, shape)
    assert dims == ("star", "r")
    assert list(coords["star"].values) == ["one", "other"]


def test_shapes_broadcast_and_scalars_stay_scalars():
    points, shape = heliocentric_points((np.zeros((4, 1)), np.arange(3.0), 1.0), Frame("heliocentric"), "kpc")
    assert shape == (4, 3)
    np.testing.assert_array_equal(points[5], [0.0, 2.0, 1.0])
    assert heliocentric_points((0.0, 1.0, 2.0), Frame("heliocentric"), "kpc")[1] == ()
    assert dims_and_coords(None, ()) == ((), {})
    assert heliocentric_points(([], [], []), Frame("heliocentric"), "kpc")[0].shape == (0, 3)


def test_missing_values_become_nan():
    masked = np.ma.array([1.0, 2.0], mask=[False, True])
    points, _ = heliocentric_points((masked, [0.0, 0.0], [np.nan, 0.0]), Frame("heliocentric"), "kpc")
    np.testing.assert_array_equal(np.isnan(points), [[False, False, True], [True, False, False]])
    sky = SkyCoord([0.0, 1.0] * u.deg, [0.0, 0.0] * u.deg, distance=[np.nan, 1.0] * u.kpc, frame="icrs")
    points, _ = heliocentric_points(sky)
    np.testing.assert_array_equal(np.isnan(points).all(axis=1), [True, False])


ORIGIN = ([0.0], [0.0], [0.0])
DIRECTION = SkyCoord(0 * u.deg, 0 * u.deg, frame="galactic")


@pytest.mark.parametrize(
    ("coords", "options", "message"),
    [
        (DIRECTION, {}, "no distance; give SkyCoord"),
        (DIRECTION.icrs, {}, "no distance; give SkyCoord"),
        ({"l": [0.0], "b": [0.0]}, {"units": "deg"}, r"l and b have no distance"),
        ({"ra": [0.0], "dec": [0.0]}, {}, "need x, y, z or l, b, distance, got ra, dec"),
        (ORIGIN, {"units": "kpc"}, "need a frame; give frame=crdist.Frame"),
        (ORIGIN, {"frame": FRAME}, "x has no unit; give a Quantity, or units='kpc'"),
        (ORIGIN, {"frame": FRAME, "units": "deg"}, "x must be in a length such as kpc, got units 'deg'"),
        (ORIGIN, {"frame": FRAME, "units": "kps"}, "x must be in a length such as kpc, got units 'kps'"),
        ({"l": [0.0], "b": [0.0], "distance": [1.0]}, {"units": "kpc"}, r"l has no unit; .*units=\{'l': 'deg'"),
        (({"a": 1}, 0.0, 0.0), {"frame": FRAME, "units": "kpc"}, "x must be numbers, got dict"),
        (([0.0, 1.0], [0.0, 1.0, 2.0], 0.0), {"frame": FRAME, "units": "kpc"}, r"x \(2,\), y \(3,\), z \(\)"),
        (
            {"l": [0.0] * u.deg, "b": [0.0] * u.deg, "distance": [-1.0] * u.kpc},
            {},
            "a distance must not be negative, got -1 kpc",
        ),
        (
            {"l": 0.0 * u.deg, "b": 91.0 * u.deg, "distance": 1.0 * u.kpc},
            {},
            "b must be between -90 and 90 deg, got 91",
        ),
        (np.zeros((4, 3)), {}, "a tuple .* got ndarray"),
        (Galactic(), {}, "hold no points, only a frame"),
        (
            Galactocentric(x=0 * u.kpc, y=0 * u.kpc, z=0 * u.kpc),
            {},
            "where astropy's defaults have it .*which its versions change; confirm it by frame",
        ),
        (
            SkyCoord(x=0 * u.kpc, y=0 * u.kpc, z=0 * u.kpc, frame=Frame().to_astropy()),
            {"frame": FRAME},
            "galcen_distance = 8.178 kpc, the frame 8.2 kpc",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_said(coords, options, message):
    with pytest.raises(GridError, match=message):
        heliocentric_points(coords, **options)


def test_the_defaults_of_astropy_may_be_confirmed():
    coords = Galactocentric(x=-8.0 * u.kpc, y=1 * u.kpc, z=0 * u.kpc)
    height = coords.z_sun.to_value(u.kpc)
    confirmed = Frame("galactocentric", coords.galcen_distance.to_value(u.kpc), height)
    found, _ = heliocentric_points(coords, confirmed)
    np.testing.assert_allclose(found[0], confirmed.to_heliocentric([-8.0, 1.0, 0.0]), atol=1e-4)
