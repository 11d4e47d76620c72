"""The kernels against healpy, closed forms and each other."""

import healpy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdist.errors import GridError
from crdist.grids import SphericalGrid
from crdist_postproc.kernels.approx import angle_of_half, exp, log, sin_small, whole
from crdist_postproc.kernels.field import Field, lanes_for, padded_samples
from crdist_postproc.kernels.native import box_totals, sight_lines
from crdist_postproc.kernels.rows import bin_rows, fill_rows, statistics_rows, sum_rows
from galaxies import directions, smooth_samples
from oracle import interpolate

N = 70  # points a row: a whole tile of the kernel and a part of one


def rows(rng, n_row=400, near_poles=40):
    """Starts and a step of rows that reach from the Sun's neighbourhood to beyond the data."""
    starts = rng.normal(size=(n_row, 3)) * np.exp(rng.uniform(-4, 3, size=(n_row, 1)))
    starts[:near_poles, :2] *= 1e-7
    return starts, rng.normal(size=3) * 0.1


def points(starts, step, n=N):
    return (starts[:, None] + np.arange(n)[:, None] * step).reshape(-1, 3)


def irregular_grid(nside, n_shell, ordering, rng):
    edges = np.cumsum(rng.uniform(0.05, 3.0, n_shell + 1))
    return SphericalGrid(nside, tuple(edges), ordering=ordering)


@pytest.mark.parametrize("method", ["linear", "nearest"])
@pytest.mark.parametrize(
    ("nside", "n_shell", "n_sample", "ordering"),
    [
        (1, 1, 3, "ring"),
        (2, 5, 4, "nested"),
        (8, 20, 12, "nested"),
        (32, 12, 17, "ring"),
        (256, 2, 1, "nested"),
    ],
)
def test_values_agree_with_healpy(nside, n_shell, n_sample, ordering, method, rng):
    grid = SphericalGrid.log_spaced(nside, n_shell, 0.05, 30.0, ordering)
    samples = rng.random((grid.n_pixel, n_shell, n_sample), dtype=np.float32)
    starts, step = rows(rng)
    values = fill_rows(Field.from_samples(samples, grid, method=method), starts, step, N)
    expected = interpolate(samples, grid, points(starts, step), method).reshape(values.shape)
    np.testing.assert_array_equal(np.isnan(values), np.isnan(expected))
    # 1e-6 of the values' scale; nearest copies a float32
    assert np.nanmax(np.abs(values - expected)) < (1e-6 if method == "linear" else 1e-300)


def test_small_values_beside_large_ones_keep_their_digits(rng):
    # weights that are rounded before they are subtracted would lose those of the smaller values
    grid = SphericalGrid.log_spaced(8, 20, 0.05, 30.0, "nested")
    samples = np.exp(rng.normal(scale=8.0, size=(grid.n_pixel, 20, 4))).astype(np.float32)
    starts, step = rows(rng)
    values = fill_rows(Field.from_samples(samples, grid), starts, step, N)
    expected = interpolate(samples, grid, points(starts, step)).reshape(values.shape)
    np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.parametrize("method", ["linear", "nearest"])
def test_shells_need_not_be_evenly_spaced(method, rng):
    grid = irregular_grid(4, 9, "nested", rng)
    samples = rng.random((grid.n_pixel, grid.n_shell, 5), dtype=np.float32)
    starts, step = rows(rng)
    values = fill_rows(Field.from_samples(samples, grid, method=method), starts, step, N)
    expected = interpolate(samples, grid, points(starts, step), method).reshape(values.shape)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6)


def test_pixel_centres_give_back_the_pixels(rng):
    # On a ring the weights of the other ring vanish: the poles, the equator and |z| = 2/3 among them.
    grid = SphericalGrid.log_spaced(16, 6, 0.1, 10.0)
    samples = rng.random((grid.n_pixel, 6, 4), dtype=np.float32)
    starts = directions(grid) * grid.centres[3]
    for method in ("linear", "nearest"):
        values = fill_rows(Field.from_samples(samples, grid, method=method), starts, np.zeros(3), 1)[:, 0]
        np.testing.assert_allclose(values, samples[:, 3], rtol=0, atol=1e-6)


def test_edges_follow_their_rules(rng):
    grid = SphericalGrid.log_spaced(4, 8, 0.1, 10.0)
    samples = rng.random((grid.n_pixel, 8, 3), dtype=np.float32)
    direction = directions(grid)[17]
    radii = np.array([0.01, 0.0999, 0.1001, grid.centres[0] * 0.99, grid.centres[-1] * 1.01, 9.999, 10.001])

    def at(inner):
        field = Field.from_samples(samples, grid, inner=inner)
        return fill_rows(field, radii[:, None] * direction, np.zeros(3), 1)[:, 0]

    extend, exclude = at("extend"), at("exclude")
    first, last = samples[17, 0], samples[17, -1]
    np.testing.assert_allclose(extend[:4], np.tile(first, (4, 1)), atol=1e-6)
    np.testing.assert_allclose(extend[4:6], np.tile(last, (2, 1)), atol=1e-6)
    assert np.isnan(extend[6]).all()
    assert np.isnan(exclude[:2]).all()
    np.testing.assert_array_equal(exclude[2:], extend[2:])


@pytest.mark.parametrize("nside", [1, 4, 32])
@pytest.mark.parametrize("method", ["linear", "nearest"])
def test_the_sun_itself_lies_in_a_cell_of_the_first_shell(nside, method):
    """North of the Sun, as for queries; a point there has no direction, and once was looked for beyond the cells."""
    grid = SphericalGrid.log_spaced(nside, 5, 0.1, 2.0, "ring")
    samples = (1.0 + np.arange(grid.n_pixel * 5).reshape(-1, 5, 1)).repeat(2, axis=2)
    field = Field.from_samples(samples, grid, method=method)
    for step in np.eye(3) * 0.3:
        values = fill_rows(field, np.array([-step]), step, 3)
        expected = samples[:4, 0, 0].mean() if method == "linear" else samples[:4, 0, 0]
        assert np.isclose(values[0, 1, 0], expected).any()
        assert np.isfinite(values).all()
        if method == "linear":
            _, std = statistics_rows(field, np.array([-step]), step, 3)
            assert std[0, 1] == 0


def test_log_space_interpolates_logarithms(rng):
    grid = SphericalGrid.log_spaced(4, 8, 0.1, 10.0)
    samples = np.exp(rng.normal(size=(grid.n_pixel, 8, 5), scale=3)).astype(np.float32)
    starts, step = rows(rng, 100)
    values = fill_rows(Field.from_samples(samples, grid, value_space="log"), starts, step, N)
    expected = np.exp(interpolate(np.log(samples), grid, points(starts, step))).reshape(values.shape)
    np.testing.assert_allclose(values, expected, rtol=5e-6)


def test_masked_cells_are_masked_in_log_space_too(rng):
    grid = SphericalGrid.log_spaced(4, 8, 0.1, 10.0)
    samples = np.exp(rng.normal(size=(grid.n_pixel, 8, 5))).astype(np.float32)
    samples[30:60, 2:5, 1] = np.nan
    starts, step = rows(rng, 100)
    plain, logarithms = (
        fill_rows(Field.from_samples(samples, grid, value_space=space), starts, step, N) for space in ("linear", "log")
    )
    assert 0 < np.isnan(plain).mean() < 1
    np.testing.assert_array_equal(np.isnan(logarithms), np.isnan(plain))


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_log_space_refuses_what_has_no_logarithm(bad):
    grid = SphericalGrid.log_spaced(1, 2, 0.1, 10.0)
    samples = np.ones((12, 2, 3), dtype=np.float32)
    samples[5, 1, 2] = bad
    with pytest.raises(GridError, match=f"needs positive samples, got {bad:g}.*use value_space 'linear'"):
        Field.from_samples(samples, grid, value_space="log")


def test_infinite_samples_are_refused():
    grid = SphericalGrid.log_spaced(1, 2, 0.1, 10.0)
    samples = np.ones((12, 2, 3), dtype=np.float32)
    samples[5, 1, 2] = np.inf
    with pytest.raises(GridError, match=r"must be finite.*got 1 infinite"):
        Field.from_samples(samples, grid)


@given(value=st.floats(-1e6, 1e6, width=32), nside=st.sampled_from([1, 2, 8]), seed=st.integers(0, 99))
def test_a_constant_stays_a_constant(value, nside, seed):
    grid = SphericalGrid.log_spaced(nside, 3, 0.1, 20.0)
    samples = np.full((grid.n_pixel, 3, 4), value, dtype=np.float32)
    starts, step = rows(np.random.default_rng(seed), 50)
    values = fill_rows(Field.from_samples(samples, grid), starts, step, N)
    inside = ~np.isnan(values)
    assert inside.any()
    np.testing.assert_allclose(values[inside], value, rtol=1e-6, atol=1e-40)


@given(seed=st.integers(0, 99), cut=st.integers(1, N - 1))
def test_any_chunking_gives_the_same_bits(seed, cut):
    rng = np.random.default_rng(seed)
    grid = SphericalGrid.log_spaced(4, 6, 0.1, 20.0)
    field = Field.from_samples(smooth_samples(grid, 5), grid)
    starts, step = rows(rng, 30)
    whole = fill_rows(field, starts, step, N)
    ends = [fill_rows(field, starts, step, cut), fill_rows(field, starts, step, N - cut, first=cut)]
    np.testing.assert_array_equal(np.concatenate(ends, axis=1), whole)
    order = rng.permutation(len(starts))
    np.testing.assert_array_equal(fill_rows(field, starts[order], step, N), whole[order])


@given(seed=st.integers(0, 99))
def test_mirrored_fields_give_mirrored_values(seed):
    # North and south, and the four quarters in longitude, are symmetries of HEALPix.
    grid = SphericalGrid.log_spaced(4, 6, 0.1, 20.0, "ring")
    samples = smooth_samples(grid, 3, seed)
    starts, step = rows(np.random.default_rng(seed), 50)
    theta, phi = healpy.pix2ang(4, np.arange(grid.n_pixel))

    def check(new_theta, new_phi, turn):
        moved = samples[healpy.ang2pix(4, new_theta, new_phi)]
        here = fill_rows(Field.from_samples(samples, grid), starts, step, N)
        there = fill_rows(Field.from_samples(moved, grid), starts @ turn.T, turn @ step, N)
        np.testing.assert_allclose(there, here, atol=2e-6)

    check(np.pi - theta, phi, np.diag([1.0, 1.0, -1.0]))
    check(theta, phi - np.pi / 2, np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))


@pytest.mark.parametrize("n_sample", [1, 4, 12, 13, 37])
def test_reductions_are_those_of_the_values(n_sample, rng):
    grid = SphericalGrid.log_spaced(4, 8, 0.1, 15.0)
    samples = rng.random((grid.n_pixel, 8, n_sample), dtype=np.float32)
    samples[3, 4, 0] = np.nan  # masked in one sample: masked in all
    field = Field.from_samples(samples, grid)
    starts, step = rows(rng, 200)
    values = fill_rows(field, starts, step, N).astype(np.float64)
    masked = np.isnan(values).any(axis=-1)
    assert np.isnan(values[masked]).all()

    total, count = sum_rows(field, starts, step, N)
    np.testing.assert_array_equal(count, (~masked).sum(axis=1))
    np.testing.assert_allclose(total, np.nansum(values, axis=1), rtol=1e-13)

    mean, std = statistics_rows(field, starts, step, N)
    np.testing.assert_allclose(mean, values.mean(axis=-1), rtol=1e-6)
    if n_sample > 1:
        np.testing.assert_allclose(std, values.std(axis=-1, ddof=1), rtol=1e-5, atol=1e-7)
    else:
        assert np.isnan(std).all()


def test_bins_sum_weights_and_values(rng):
    grid = SphericalGrid.log_spaced(4, 8, 0.1, 15.0)
    field = Field.from_samples(smooth_samples(grid, 5), grid)
    starts, step = rows(rng, 200)
    row_bins = rng.integers(-1, 3, 200)
    point_bins = rng.integers(-1, 4, N)
    volumes = rng.random(200)
    extra = rng.random((200, N)).astype(np.float32)
    extra[5, 7] = np.nan
    total, weight, inside = bin_rows(field, starts, step, N, row_bins, point_bins, volumes, extra)
    values = fill_rows(field, starts, step, N)
    for i in range(3):
        for j in range(4):
            chosen = (row_bins == i)[:, None] & (point_bins == j) & ~np.isnan(values[..., 0]) & ~np.isnan(extra)
            w = np.where(chosen, volumes[:, None] * np.nan_to_num(extra), 0.0)
            np.testing.assert_allclose(weight[i, j], w.sum(), rtol=1e-12)
            np.testing.assert_allclose(inside[i, j], np.where(chosen, volumes[:, None], 0).sum(), rtol=1e-12)
            np.testing.assert_allclose(total[i, j], np.nansum(w[..., None] * values, axis=(0, 1)), rtol=1e-12)


def test_sums_of_many_small_values_keep_float64():
    # float32 accumulation of 0.1 would be off by 1e-4 here
    grid = SphericalGrid.log_spaced(1, 1, 0.1, 10.0)
    field = Field.from_samples(np.full((12, 1, 1), 0.1, dtype=np.float32), grid)
    n = 100_000
    total, _ = sum_rows(field, np.array([[1.0, 0.0, 0.0]]), np.array([1e-5, 0.0, 0.0]), n)
    np.testing.assert_allclose(total[0, 0], n * float(np.float32(0.1)), rtol=1e-7)


def test_sight_lines_are_sums_over_shells(rng):
    grid = SphericalGrid.log_spaced(4, 8, 0.1, 15.0)
    samples = smooth_samples(grid, 5)
    rows = healpy.nest2ring(4, np.arange(grid.n_pixel))
    in_log = sight_lines(Field.from_samples(samples, grid, value_space="log"), rows, grid.widths)[0]
    np.testing.assert_allclose(in_log, (samples * grid.widths[:, None]).sum(axis=1, dtype=float), rtol=1e-6)
    samples[9, 2] = np.nan
    total, covered = sight_lines(Field.from_samples(samples, grid), rows, grid.widths)
    np.testing.assert_allclose(total, np.nansum(samples * grid.widths[:, None], axis=1, dtype=float), rtol=1e-6)
    np.testing.assert_allclose(covered[9], grid.widths.sum() - grid.widths[2])


def test_box_totals_integrate_the_native_cells():
    grid = SphericalGrid.log_spaced(8, 12, 0.1, 15.0)
    samples = smooth_samples(grid, 3)
    field = Field.from_samples(samples, grid)
    nested = np.arange(grid.n_pixel)
    rays = np.stack(healpy.pix2vec(256, nested[:, None] * 1024 + np.arange(1024), nest=True), axis=-1)
    place = (healpy.nest2ring(8, nested), rays)
    axes = (np.eye(3), np.array([1.0, 2.0, 3.0]))

    whole = box_totals(field, *place, grid.edges, *axes, np.full(3, -99.0), np.full(3, 99.0))
    cells = (samples * grid.cell_volumes[:, None]).sum(axis=(0, 1), dtype=float)
    np.testing.assert_allclose(whole, cells, rtol=1e-6)

    # of a constant field, the volume: half a ball, and a box well inside, one that holds the Sun and one that does not
    constant = Field.from_samples(np.ones_like(samples), grid)
    edges = np.concatenate([[0.0], grid.edges[1:]])
    half = box_totals(constant, *place, edges, *axes, np.array([1.0, -99, -99]), np.full(3, 99.0))
    np.testing.assert_allclose(half, 2 / 3 * np.pi * 15.0**3, rtol=1e-6)
    box = box_totals(constant, *place, edges, *axes, np.array([0.0, 1, 2]), np.array([3.0, 4, 4]))
    np.testing.assert_allclose(box, 3 * 3 * 2, rtol=1e-3)
    far = box_totals(constant, *place, edges, *axes, np.array([6.0, 1, 2]), np.array([9.0, 4, 4]))
    np.testing.assert_allclose(far, 3 * 3 * 2, rtol=1e-3)


def test_elementary_functions():
    x = np.linspace(0, np.tan(np.pi / 8), 10_001)
    np.testing.assert_allclose([angle_of_half(v) for v in x], 2 * np.arctan(x), atol=1e-12)
    x = np.linspace(0, 0.43, 10_001)
    np.testing.assert_allclose([sin_small(v) for v in x], np.sin(x), atol=1e-14)
    positive = np.exp(np.linspace(-300, 300, 10_001))
    np.testing.assert_allclose([log(v) for v in positive], np.log(positive), rtol=1e-13, atol=1e-13)
    powers = np.concatenate([np.linspace(-690, 700, 10_001), [-800.0, 800.0]])
    with np.errstate(over="ignore"):
        np.testing.assert_allclose([exp(v) for v in powers], np.exp(powers), rtol=2e-12, atol=1e-300)
    assert np.isnan(exp(np.nan))
    assert [whole(float(n)) for n in (0, 1, 2**31, 2**52 - 1)] == [0, 1, 2**31, 2**52 - 1]


@given(n_sample=st.integers(1, 2000))
def test_padding_is_small_and_whole(n_sample):
    padded = padded_samples(n_sample)
    assert padded % lanes_for(n_sample) == 0
    assert n_sample <= padded < n_sample + 16


@given(n_sample=st.integers(2, 128), value=st.floats(2.0**-40, 2.0**40, width=32))
def test_equal_samples_have_no_spread(n_sample, value):
    grid = SphericalGrid.log_spaced(1, 2, 0.1, 10.0)
    field = Field.from_samples(np.full((12, 2, n_sample), value, dtype=np.float32), grid)
    _, std = statistics_rows(field, np.array([[1.0, 2.0, 3.0]]), np.array([0.1, 0.1, 0.0]), 5)
    np.testing.assert_array_equal(std, 0.0)


@pytest.mark.parametrize("n_sample", [2, 12, 13, 37])
def test_a_small_spread_about_a_large_mean_keeps_its_digits(n_sample, rng):
    grid = SphericalGrid.log_spaced(2, 6, 0.1, 10.0)
    samples = (1e4 + rng.normal(size=(grid.n_pixel, 6, n_sample))).astype(np.float32)
    field = Field.from_samples(samples, grid)
    starts, step = rows(rng, 50)
    values = fill_rows(field, starts, step, N).astype(np.float64)
    _, std = statistics_rows(field, starts, step, N)
    np.testing.assert_allclose(std, values.std(axis=-1, ddof=1), rtol=1e-6)


@pytest.mark.parametrize(("masked", "radius"), [(1, 0.11), (-2, 9.9)])
def test_a_masked_neighbour_of_the_outer_half_shells_does_not_count(masked, radius):
    grid = SphericalGrid.log_spaced(2, 6, 0.1, 10.0)
    samples = smooth_samples(grid, 3)
    samples[:, masked] = np.nan
    field = Field.from_samples(samples, grid)
    values = fill_rows(field, directions(grid) * radius, np.zeros(3), 1)[:, 0]
    np.testing.assert_allclose(values, samples[:, 0 if masked == 1 else -1], atol=1e-6)
