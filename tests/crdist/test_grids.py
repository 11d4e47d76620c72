import json
import math

import healpy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies
from crdist.errors import GridError
from crdist.frames import Frame
from crdist.grids import Axis, CartesianGrid, SphericalGrid


@given(strategies.spherical_grids())
def test_cells_fill_the_space_between_first_and_last_edge(grid):
    inner, outer = grid.edges_kpc[0], grid.edges_kpc[-1]
    total = float(np.sum(grid.cell_volumes)) * grid.n_pixel
    assert total == pytest.approx(4 / 3 * math.pi * (outer**3 - inner**3), rel=1e-12)
    assert float(np.sum(grid.widths)) == pytest.approx(outer - inner, rel=1e-12)
    assert grid.cell_volumes.shape == grid.widths.shape == grid.centres.shape == (grid.n_shell,)


@given(strategies.spherical_grids())
def test_pixel_numbers_are_those_of_healpy(grid):
    assert grid.n_pixel == healpy.nside2npix(grid.nside)
    assert grid.level == healpy.nside2order(grid.nside)


@given(strategies.spherical_grids())
def test_spherical_dictionary_round_trip(grid):
    assert SphericalGrid.from_dict(json.loads(json.dumps(grid.to_dict()))) == grid


@given(st.integers(1, 200), st.floats(0.001, 1.0), st.floats(1.5, 100.0))
def test_log_spaced_shells_are_even_in_ln_distance(n_shell, inner, outer):
    grid = SphericalGrid.log_spaced(4, n_shell, inner, outer)
    steps = np.diff(np.log(grid.edges))
    np.testing.assert_allclose(steps, math.log(outer / inner) / n_shell, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.log(grid.centres), np.log(grid.edges[:-1]) + steps / 2, rtol=0, atol=1e-12)


def test_published_centres_are_kept():
    assert SphericalGrid(1, (1.0, 2.0, 3.0), (1.5, 2.5)).centres_kpc == (1.5, 2.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nside": 0}, "nside must be a power of two between 1 and 8192, got 0"),
        ({"nside": 12}, "nside must be a power of two between 1 and 8192, got 12"),
        ({"nside": 16384}, "nside must be a power of two between 1 and 8192, got 16384"),
        ({"nside": 4.0}, "nside must be a power of two between 1 and 8192, got 4.0"),
        ({"ordering": "NEST"}, "ordering must be 'nested' or 'ring', got 'NEST'"),
        ({"edges_kpc": (1.0,)}, "shell edges must be 1-d with at least 2 values, got shape (1,)"),
        ({"edges_kpc": (0.0, 1.0)}, "shell edges must be positive, got edges[0] = 0 kpc"),
        ({"edges_kpc": (1.0, float("nan"))}, "shell edges must be finite, got nan"),
        (
            {"edges_kpc": (0.1, 0.4, 0.3)},
            "shell edges must increase strictly, got edges[1] = 0.4 and edges[2] = 0.3 kpc",
        ),
        ({"centres_kpc": (1.2, 1.5)}, "2 edges bound 1 shells, got 2 shell centres"),
        (
            {"centres_kpc": (2.5,)},
            "each shell centre must lie inside its shell, got centre[0] = 2.5 kpc between the edges 1 and 2 kpc",
        ),
    ],
)
def test_impossible_spherical_grids_say_why(values, message):
    with pytest.raises(GridError) as caught:
        SphericalGrid(**{"nside": 4, "edges_kpc": (1.0, 2.0), **values})
    assert str(caught.value) == message


def test_impossible_log_spacing_says_why():
    with pytest.raises(GridError, match=r"n_shell >= 1 and 0 < inner < outer, got 3 from 2 to 1 kpc"):
        SphericalGrid.log_spaced(4, 3, 2.0, 1.0)


@given(strategies.axes())
def test_axis_tiles_its_extent(axis):
    assert axis.edges.shape == (axis.n + 1,)
    assert axis.edges[0] == axis.lower_kpc
    assert axis.edges[-1] == pytest.approx(axis.upper_kpc, abs=1e-12)
    np.testing.assert_allclose(axis.centres, (axis.edges[1:] + axis.edges[:-1]) / 2, rtol=0, atol=1e-12)


@given(st.integers(-3000, 3000), st.integers(1, 5000), st.sampled_from([0.01, 0.02, 0.05, 0.1, 0.3, 1 / 3]))
def test_axis_of_whole_voxels_has_that_many(first, n, voxel):
    axis = Axis.from_voxel(first * voxel, (first + n) * voxel, voxel)
    assert axis.n == n
    assert axis.step == pytest.approx(voxel, rel=1e-9)


@given(strategies.cartesian_grids())
def test_cartesian_dictionary_round_trip(grid):
    assert CartesianGrid.from_dict(json.loads(json.dumps(grid.to_dict()))) == grid


@given(strategies.cartesian_grids())
def test_voxels_fill_the_box(grid):
    lengths = [axis.upper_kpc - axis.lower_kpc for axis in grid.axes]
    assert grid.voxel_volume * math.prod(grid.shape) == pytest.approx(math.prod(lengths), rel=1e-9)
    assert [grid.axis(name) for name in "xyz"] == list(grid.axes)


def test_voxel_size_may_differ_along_each_axis():
    grid = CartesianGrid.from_extent((-1, 1), (0, 3), (0, 1), voxel=[0.5, 1, 0.1], frame=Frame("heliocentric"))
    assert grid.shape == (4, 3, 10)
    assert grid.frame.name == "heliocentric"


@pytest.mark.parametrize(
    ("extent", "voxel", "message"),
    [
        (
            (0.0, 1.0),
            0.3,
            "y: [0, 1] kpc is not a whole number of 0.3 kpc voxels (3.33333); change the extent or the voxel",
        ),
        ((0.0, 1.0), 0.0, "x: a voxel must have a positive size, got 0.0 kpc"),
        ((0.0, 1.0), [0.1, 0.1], "voxel is one size or three (x, y, z), got 2"),
        (
            (1.0, 0.0),
            0.5,
            "y: [1, 0] kpc is not a whole number of 0.5 kpc voxels (-2); change the extent or the voxel",
        ),
    ],
)
def test_impossible_boxes_say_why(extent, voxel, message):
    with pytest.raises(GridError) as caught:
        CartesianGrid.from_extent((0, 30), extent, (0, 30), voxel=voxel)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1.0, 1.0, 3), "an axis must run from lower to upper, got [1, 1] kpc"),
        ((0.0, float("inf"), 3), "an axis must run from lower to upper, got [0, inf] kpc"),
        ((0.0, 1.0, 0), "an axis needs at least one voxel, got 0"),
    ],
)
def test_impossible_axes_say_why(values, message):
    with pytest.raises(GridError) as caught:
        Axis(*values)
    assert str(caught.value) == message


def test_unknown_axis():
    grid = CartesianGrid.from_extent((0, 1), (0, 1), (0, 1), voxel=1)
    with pytest.raises(GridError, match="an axis is 'x', 'y' or 'z', got 'r'"):
        grid.axis("r")
