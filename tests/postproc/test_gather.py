"""Voxels that are split where the source's cells are smaller than they are."""

import healpy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdist.errors import GridError
from crdist.frames import Frame
from crdist.grids import CartesianGrid, SphericalGrid
from crdist_postproc.kernels.field import Field
from crdist_postproc.kernels.gather import splitting
from crdist_postproc.kernels.rows import fill_rows, statistics_rows, sum_rows
from crdist_postproc.products.base import Block
from crdist_postproc.products.tiling import tile_rows

GRID = SphericalGrid.log_spaced(nside=8, n_shell=40, inner_kpc=0.05, outer_kpc=3.0)
VOXEL = 0.2
ACROSS = np.array([[VOXEL, 0.0, 0.0], [0.0, VOXEL, 0.0]])
ALONG = np.array([0.0, 0.0, VOXEL])
SPLITS = splitting(GRID, VOXEL, ACROSS)


def field_of(values, **options):
    return Field.from_samples(np.asarray(values, dtype=np.float32), GRID, **options)


@pytest.fixture(scope="module")
def noise():
    return np.exp(np.random.default_rng(3).normal(size=(GRID.n_pixel, GRID.n_shell, 5))).astype(np.float32)


def voxel_rows(extent):
    """Rows along z through a cube about the Sun, side 2 x extent."""
    cube = CartesianGrid.from_extent(
        x=(-extent, extent), y=(-extent, extent), z=(-extent, extent), voxel=VOXEL, frame=Frame(name="heliocentric")
    )
    starts, step, _ = tile_rows(cube, "z", Block("", 0, ((0, cube.x.n), (0, cube.y.n))))
    return starts, step, cube.z.n


def parts_of(centre, side, level=0):
    """Centres and volumes of the parts of a voxel, straight from the rule, one by one."""
    if level == len(SPLITS.radii2) or not centre @ centre < SPLITS.radii2[level]:
        yield centre, 8.0**-level
        return
    for corner in np.ndindex(2, 2, 2):
        yield from parts_of(centre + (np.array(corner) - 0.5) * side / 2, side / 2, level + 1)


@pytest.mark.parametrize("at", [(0.1, 0.1, 0.1), (0.3, -0.1, 0.5), (-0.7, 0.9, 0.3), (1.5, 1.7, 0.9), (2.9, 0.1, 0.1)])
def test_a_voxel_is_the_mean_over_its_parts(noise, at):
    field = field_of(noise)
    centres, volumes = zip(*parts_of(np.array(at), VOXEL), strict=True)
    points = fill_rows(field, np.array(centres), np.zeros(3), 1)[:, 0].astype(np.float64)
    inside = ~np.isnan(points[:, 0]) * np.array(volumes)
    expected = np.nansum(points * np.array(volumes)[:, None], axis=0) / inside.sum()
    coverage = np.empty((1, 1), dtype=np.float32)
    values = fill_rows(field, np.array([at]), ALONG, 1, splits=SPLITS, coverage=coverage)
    np.testing.assert_allclose(values[0, 0], expected, rtol=2e-6)
    np.testing.assert_allclose(coverage[0, 0], inside.sum(), rtol=1e-6)


def test_parts_are_no_larger_than_the_cells_around_them():
    angle = np.sqrt(np.pi / 3) / GRID.nside
    for centre, volume in parts_of(np.array([0.1, 0.1, 0.1]), VOXEL):
        radius = np.linalg.norm(centre)
        if radius > GRID.edges[0]:
            shell = np.searchsorted(GRID.edges, radius) - 1
            assert VOXEL * np.cbrt(volume) <= min(angle * radius, GRID.widths[shell]) * (1 + 1e-9)


def test_voxels_far_away_are_points(noise):
    field = field_of(noise)
    starts = np.array([[2.0, 2.0, -1.0]])
    assert 4.0 > SPLITS.radii2[0]
    np.testing.assert_array_equal(
        fill_rows(field, starts, ALONG, 11, splits=SPLITS), fill_rows(field, starts, ALONG, 11)
    )


def test_constants_stay_constant():
    starts, step, n = voxel_rows(1.4)
    field = field_of(np.full((GRID.n_pixel, GRID.n_shell, 3), 7.0))
    np.testing.assert_allclose(fill_rows(field, starts, step, n, splits=SPLITS), 7.0, rtol=1e-6)


@given(cut=st.integers(1, 99))
def test_a_row_cut_in_two_has_the_same_bits(cut):
    values = np.random.default_rng(4).normal(1.0, 0.2, (GRID.n_pixel, GRID.n_shell, 3))
    field = field_of(values)
    starts = np.array([[0.05, 0.02, -10.0], [0.7, -0.4, -10.0]])
    whole = fill_rows(field, starts, ALONG, 100, splits=SPLITS)
    pieces = [
        fill_rows(field, starts, ALONG, cut, splits=SPLITS),
        fill_rows(field, starts, ALONG, 100 - cut, cut, splits=SPLITS),
    ]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)


@pytest.mark.parametrize("value_space", ["linear", "log"])
def test_sums_and_statistics_are_those_of_the_voxels(noise, value_space):
    starts, step, n = voxel_rows(3.2)  # reaches out of the grid
    field = field_of(noise, value_space=value_space)
    coverage = np.empty((len(starts), n), dtype=np.float32)
    values = fill_rows(field, starts, step, n, splits=SPLITS, coverage=coverage).astype(np.float64)
    total, count = sum_rows(field, starts, step, n, splits=SPLITS)
    np.testing.assert_allclose(total, np.nansum(values * coverage[..., None], axis=1), rtol=1e-6)
    np.testing.assert_allclose(count, coverage.sum(axis=1, dtype=np.float64), rtol=1e-6)
    also = np.empty_like(coverage)
    mean, std = statistics_rows(field, starts, step, n, splits=SPLITS, coverage=also)
    np.testing.assert_allclose(mean, values.mean(axis=-1), rtol=1e-6)
    np.testing.assert_allclose(std, values.std(axis=-1, ddof=1), rtol=1e-5)
    np.testing.assert_array_equal(also, coverage)


def test_compact_objects_keep_their_mass():
    towards = np.array(healpy.pix2vec(GRID.nside, np.arange(GRID.n_pixel), nest=True)).T
    places = towards[:, None, :] * GRID.centres[None, :, None]
    centres = np.array([[0.25, 0.1, 0.05], [-0.6, 0.3, 0.3], [0.1, -1.0, 0.2]])
    widths = np.array([0.06, 0.15, 0.2])
    clouds = np.exp(-0.5 * ((places[:, :, None] - centres) ** 2).sum(axis=-1) / widths**2)
    mass = (clouds * GRID.cell_volumes[:, None]).sum(axis=(0, 1))
    starts, step, n = voxel_rows(2.0)
    field = field_of(clouds)
    split, _ = sum_rows(field, starts, step, n, splits=splitting(GRID, VOXEL, ACROSS, 2.0))
    at_points, _ = sum_rows(field, starts, step, n)
    np.testing.assert_allclose(split.sum(axis=0) * VOXEL**3, mass, rtol=1e-2)
    assert abs(at_points.sum(axis=0)[0] * VOXEL**3 / mass[0] - 1) > 0.05


def test_masked_cells_are_left_out(noise):
    masked = noise.copy()
    masked[:40, :30] = np.nan
    starts, step, n = voxel_rows(1.0)
    coverage, whole = (np.empty((len(starts), n), dtype=np.float32) for _ in range(2))
    fill_rows(field_of(masked), starts, step, n, splits=SPLITS, coverage=coverage)
    fill_rows(field_of(noise), starts, step, n, splits=SPLITS, coverage=whole)
    assert (whole == 1).all()
    assert ((coverage > 0) & (coverage < 1)).any()
    values = fill_rows(field_of(masked), starts, step, n, splits=SPLITS)
    np.testing.assert_array_equal(np.isnan(values[..., 0]), coverage == 0)


def test_coverage_follows_the_outer_sphere():
    small = SphericalGrid.log_spaced(nside=8, n_shell=20, inner_kpc=0.05, outer_kpc=0.9)
    field = Field.from_samples(np.ones((small.n_pixel, small.n_shell, 1), dtype=np.float32), small)
    starts, step, n = voxel_rows(1.0)
    total, count = sum_rows(field, starts, step, n, splits=splitting(small, VOXEL, ACROSS))
    assert count.sum() * VOXEL**3 == pytest.approx(4 / 3 * np.pi * 0.9**3, rel=0.03)
    np.testing.assert_allclose(total[:, 0], count, rtol=1e-6)


def test_voxels_beyond_reason_are_refused():
    with pytest.raises(GridError, match="choose smaller voxels"):
        splitting(GRID, 1e6, 1e6 * np.eye(3)[:2])
