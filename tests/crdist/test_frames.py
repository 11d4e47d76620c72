import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import (
    CartesianDifferential,
    CartesianRepresentation,
    Galactic,
    Galactocentric,
    SkyCoord,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import strategies
from crdist.errors import GridError
from crdist.frames import R0_KPC, Frame

# Each case takes about 10 ms, the first one far longer: astropy builds its graph of transformations.
few = settings(max_examples=25, deadline=None)


def sky(points):
    return SkyCoord(*(points.T * u.kpc), frame="galactic", representation_type="cartesian")


def cartesian(coordinates):
    return coordinates.cartesian.xyz.to_value(u.kpc).T


@few
@given(strategies.frames("galactocentric"), strategies.points())
def test_places_are_those_of_astropy(frame, points):
    expected = cartesian(sky(points).transform_to(frame.to_astropy()))
    np.testing.assert_allclose(frame.from_heliocentric(points), expected, rtol=0, atol=1e-9)


@few
@given(strategies.frames("galactocentric"), strategies.points())
def test_places_back_are_those_of_astropy(frame, points):
    there = frame.to_astropy().realize_frame(CartesianRepresentation(points.T * u.kpc))
    expected = cartesian(there.transform_to(Galactic()))
    np.testing.assert_allclose(frame.to_heliocentric(points), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("z_sun_kpc", "roll_deg"), [(0.0, 0.0), (0.0208, 0.0), (-0.5, 0.0), (0.0, 30.0), (0.0208, -120.0)]
)
def test_places_are_those_of_a_galactocentric_frame_made_by_hand(z_sun_kpc, roll_deg):
    centre = SkyCoord(l=0 * u.deg, b=0 * u.deg, frame="galactic").icrs
    pole = SkyCoord(l=0 * u.deg, b=90 * u.deg, frame="galactic").icrs
    # astropy counts the roll from a rounded constant, 3e-5 degree from where the pole stands.
    zero = -centre.position_angle(pole).wrap_at(180 * u.deg).to(u.deg)
    assert abs(zero - Galactocentric.get_roll0()) < 1e-4 * u.deg
    theirs = Galactocentric(
        galcen_coord=centre,
        galcen_distance=8.178 * u.kpc,
        z_sun=z_sun_kpc * u.kpc,
        roll=roll_deg * u.deg + (Galactocentric.get_roll0() - zero),
        galcen_v_sun=CartesianDifferential([12.9, 245.6, 7.78] * u.km / u.s),
    )
    points = np.random.default_rng(1).uniform(-30, 30, (200, 3))
    frame = Frame(r0_kpc=8.178, z_sun_kpc=z_sun_kpc, roll_deg=roll_deg)
    expected = cartesian(sky(points).transform_to(theirs))
    np.testing.assert_allclose(frame.from_heliocentric(points), expected, rtol=0, atol=1e-9)


def test_sun_and_centre_lie_where_the_numbers_say():
    frame = Frame(r0_kpc=5.0, z_sun_kpc=3.0, roll_deg=77.0)
    np.testing.assert_allclose(frame.sun_kpc, (-4.0, 0.0, 3.0), atol=1e-15)
    np.testing.assert_allclose(frame.centre_kpc, (0.0, 0.0, 0.0), atol=1e-15)
    heliocentric = Frame("heliocentric", 5.0, 3.0, 77.0)
    assert heliocentric.sun_kpc == (0.0, 0.0, 0.0)
    assert heliocentric.centre_kpc == (5.0, 0.0, 0.0)
    assert heliocentric.galactocentric == frame


def test_axes_point_as_stated():
    # towards the centre, towards l = 90 deg, towards the north pole
    steps = Frame().from_heliocentric(np.eye(3)) - Frame().from_heliocentric(np.zeros((3, 3)))
    np.testing.assert_allclose(steps, np.eye(3), atol=1e-12)
    assert Frame().sun_kpc == (-R0_KPC, 0.0, 0.0)


@given(strategies.frames(), strategies.points())
def test_there_and_back_is_where_one_was(frame, points):
    np.testing.assert_allclose(frame.to_heliocentric(frame.from_heliocentric(points)), points, rtol=0, atol=1e-12)
    np.testing.assert_allclose(frame.from_heliocentric(frame.to_heliocentric(points)), points, rtol=0, atol=1e-12)


@given(strategies.frames(), strategies.points())
def test_distances_stay(frame, points):
    moved = frame.from_heliocentric(points)
    np.testing.assert_allclose(
        np.linalg.norm(moved - moved[0], axis=1),
        np.linalg.norm(points - points[0], axis=1),
        rtol=0,
        atol=1e-12,
    )
    assert np.linalg.det(frame.rotation) == pytest.approx(1.0, abs=1e-14)


@given(strategies.frames(), st.sampled_from([(3,), (2, 3), (2, 4, 3)]))
def test_any_leading_shape_is_kept_and_input_is_not_changed(frame, shape):
    points = np.ones(shape)
    result = frame.from_heliocentric(points)
    result += 1
    assert result.shape == shape
    assert np.all(points == 1)


@given(strategies.frames())
def test_dictionary_round_trip(frame):
    assert Frame.from_dict(frame.to_dict()) == frame


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "local"}, "frame name must be 'galactocentric' or 'heliocentric', got 'local'"),
        ({"r0_kpc": 0.0}, "frame r0_kpc must be positive, got 0 kpc"),
        ({"r0_kpc": float("nan")}, "frame r0_kpc must be a finite number, got nan"),
        ({"z_sun_kpc": 9.0}, "frame z_sun_kpc must be smaller than r0_kpc = 8.178 kpc, got 9 kpc"),
        ({"roll_deg": float("inf")}, "frame roll_deg must be a finite number, got inf"),
    ],
)
def test_impossible_frames_say_why(values, message):
    with pytest.raises(GridError) as caught:
        Frame(**values)
    assert str(caught.value) == message


def test_unknown_key_of_a_dictionary():
    with pytest.raises(GridError, match=r"a frame has name, r0_kpc, z_sun_kpc and roll_deg, got \['r0'\]"):
        Frame.from_dict({"r0": 8.0})


def test_heliocentric_frame_is_not_for_astropy():
    with pytest.raises(GridError, match="only galactocentric frames convert"):
        Frame("heliocentric").to_astropy()
