"""The prior against its exact kernel, and the pieces that it is made of against plain algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gamma, kv

from crdist.errors import GridError
from crdist.grids import SphericalGrid
from crdist_inference.model import _matrices
from crdist_inference.refinement import Refinement, matern_correlation
from crdist_inference.refinement.matern import MaternTable
from crdist_inference.refinement.windowed import windowed_product


def places(grid):
    import healpy

    vectors = np.array(healpy.pix2vec(grid.nside, np.arange(grid.n_pixel), nest=True)).T
    return (vectors[:, None] * grid.centres[None, :, None]).reshape(-1, 3)


def implied_columns(prior, matrices, cells):
    """Columns of the covariance of the refined field."""
    zero = tuple(jnp.zeros(shape, prior.dtype) for shape in prior.shapes)
    apply = jax.jit(lambda excitations: prior.apply(matrices, excitations).ravel())
    adjoint = jax.jit(jax.linear_transpose(apply, zero))
    n = prior.grid.n_pixel * prior.grid.n_shell
    return np.stack([apply(adjoint(jnp.zeros(n, prior.dtype).at[cell].set(1))[0]) for cell in cells], axis=1)


def exact_columns(grid, cells, length, slope):
    at = places(grid)
    distance = np.linalg.norm(at[:, None] - at[cells][None], axis=-1)
    x = np.linspace(0.0, distance.max() / length, 20001)
    return np.interp(distance / length, x, matern_correlation(x, slope))


@pytest.fixture(scope="module")
def refined():
    grid = SphericalGrid.log_spaced(nside=4, n_shell=12, inner_kpc=1.0, outer_kpc=12.0)
    return Refinement(grid, base_nside=2)


@pytest.mark.parametrize("slope", [3.4, 4.0, 5.7, 8.0, 11.0])
def test_matern_is_the_bessel_formula(slope):
    nu = (slope - 3) / 2
    x = np.array([0.05, 0.3, 1.0, 4.0, 15.0])
    expected = 2 ** (1 - nu) / gamma(nu) * x**nu * kv(nu, x)
    np.testing.assert_allclose(matern_correlation(x, slope), expected, rtol=1e-11)


def test_matern_closed_forms_and_small_distances():
    x = np.array([0.0, 1e-8, 1e-4, 0.5, 30.0])
    np.testing.assert_allclose(matern_correlation(x, 4.0), np.exp(-x), rtol=1e-12)
    np.testing.assert_allclose(matern_correlation(x, 6.0), (1 + x) * np.exp(-x), rtol=1e-12)
    nu = 2.5
    assert 1 - matern_correlation(1e-3, 8.0) == pytest.approx(1e-6 / (4 * (nu - 1)), rel=1e-5)


def test_no_field_in_three_dimensions_below_slope_three():
    with pytest.raises(GridError, match="must be larger than 3"):
        matern_correlation(1.0, 3.0)


@settings(max_examples=30, deadline=None)
@given(slope=st.floats(3.15, 18.0), log_x=st.floats(-9.0, 4.0))
def test_the_table_is_the_function(slope, log_x):
    table = MaternTable.build()
    got = table.correlation(table.row(slope), np.asarray(log_x), jnp.asarray(0.0))
    assert float(got) == pytest.approx(float(matern_correlation(np.exp(log_x), slope)), abs=2e-6)


@pytest.mark.parametrize(("length", "slope"), [(2.0, 4.0), (6.0, 6.0), (12.0, 12.0)])
def test_the_base_has_the_exact_covariance(length, slope):
    grid = SphericalGrid.log_spaced(nside=2, n_shell=6, inner_kpc=0.3, outer_kpc=20.0)
    prior = Refinement(grid)
    assert prior.shapes == ((48, 6),)
    cells = np.array([0, 7, 100, 287])
    got = implied_columns(prior, prior.matrices(length, slope), cells)
    np.testing.assert_allclose(got, exact_columns(grid, cells, length, slope), atol=3e-6)


@pytest.mark.parametrize(("length", "slope"), [(2.0, 4.0), (2.0, 6.0), (6.0, 6.0), (6.0, 12.0), (12.0, 9.0)])
def test_refinement_is_within_a_percent_of_the_exact_covariance(length, slope):
    grid = SphericalGrid.log_spaced(nside=8, n_shell=28, inner_kpc=0.05, outer_kpc=30.0)
    prior = Refinement(grid)
    cells = np.random.default_rng(1).choice(grid.n_pixel * grid.n_shell, 40, replace=False)
    got = implied_columns(prior, jax.jit(prior.matrices)(length, slope), cells)
    expected = exact_columns(grid, cells, length, slope)
    assert np.linalg.norm(got - expected) < 0.01 * np.linalg.norm(expected)
    # one refinement of an exact base keeps the variance of every cell
    np.testing.assert_allclose(got[cells, np.arange(cells.size)], 1.0, atol=1e-3)


@pytest.mark.parametrize(
    ("nside", "n_shell", "inner", "outer"), [(16, 36, 0.05, 30.0), (8, 28, 1.0, 12.0), (16, 20, 1.0, 12.0)]
)
def test_deep_cells_and_short_lengths_are_within_a_percent(nside, n_shell, inner, outer):
    # the shortest length and the roughest field of the table in the documentation, where most is lost
    grid = SphericalGrid.log_spaced(nside, n_shell, inner, outer)
    prior = Refinement(grid)
    cells = np.random.default_rng(1).choice(grid.n_pixel * grid.n_shell, 30, replace=False)
    got = implied_columns(prior, jax.jit(prior.matrices)(2.0, 4.0), cells)
    expected = exact_columns(grid, cells, 2.0, 4.0)
    assert np.linalg.norm(got - expected) < 0.01 * np.linalg.norm(expected)


def test_smooth_fields_on_many_shells_have_factors():
    # distances of a few thousandths of the length: rounding of the correlations must stay below the jitter
    prior = Refinement(SphericalGrid.log_spaced(nside=8, n_shell=60, inner_kpc=0.05, outer_kpc=30.0))
    matrices = jax.jit(prior.matrices)(12.0, 12.0)
    assert all(bool(jnp.isfinite(part).all()) for part in jax.tree.leaves(matrices))


def test_shells_are_joined_only_where_cells_stay_compact():
    def shapes(n_shell):
        return Refinement(SphericalGrid.log_spaced(16, n_shell, 0.05, 30.0)).shapes

    # cells of 16 x 68 are as deep as wide: both steps join pairs; those of 16 x 20 are deep already
    assert [shape[1] for shape in shapes(68)[1:]] == [8, 8]
    assert [shape[1] for shape in shapes(20)[1:]] == [4, 4]


def test_single_precision_is_as_accurate(refined):
    single = Refinement(refined.grid, base_nside=2, dtype=np.float32)
    cells = np.arange(0, 2304, 191)
    low, high = (implied_columns(prior, prior.matrices(4.0, 7.0), cells) for prior in (single, refined))
    assert np.linalg.norm(low - high) < 1e-4 * np.linalg.norm(high)


def test_a_field_turned_by_a_quarter_is_as_likely(refined):
    import healpy

    grid = refined.grid
    x, y, z = healpy.pix2vec(grid.nside, np.arange(grid.n_pixel), nest=True)
    turned = healpy.vec2pix(grid.nside, -y, x, z, nest=True)
    mirrored = healpy.vec2pix(grid.nside, x, y, -z, nest=True)
    matrices = refined.matrices(3.0, 5.0)
    pixel, shell = 77, 5
    for image in (turned, mirrored):
        cells = np.array([pixel, image[pixel]]) * grid.n_shell + shell
        own, moved = implied_columns(refined, matrices, cells).T.reshape(2, grid.n_pixel, grid.n_shell)
        # the base is symmetric to rounding only: its factorisation is not
        np.testing.assert_allclose(moved[image], own, atol=1e-5)


def test_the_adjoint_belongs_to_the_field(refined):
    matrices = refined.matrices(5.0, 6.0)
    excitations = refined.excitations(jax.random.key(1))
    field = refined.apply(matrices, excitations)
    other = jax.random.normal(jax.random.key(2), field.shape)
    back = jax.linear_transpose(lambda e: refined.apply(matrices, e), excitations)(other)[0]
    inner = sum(float(jnp.vdot(a, b)) for a, b in zip(back, excitations, strict=True))
    assert inner == pytest.approx(float(jnp.vdot(field, other)), rel=1e-11)


def test_samples_at_once_are_the_samples_one_by_one(refined):
    matrices = refined.matrices(5.0, 6.0)
    one, two = (refined.excitations(jax.random.key(seed)) for seed in (1, 2))
    both = jax.vmap(refined.apply, (None, 0))(matrices, jax.tree.map(lambda a, b: jnp.stack([a, b]), one, two))
    for got, own in zip(both, (one, two), strict=True):
        np.testing.assert_allclose(got, refined.apply(matrices, own), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_shell", [8, 24])
def test_derivatives_of_length_and_slope(n_shell):
    # two steps that make four children a cell, and two of which one makes eight
    grid = SphericalGrid.log_spaced(nside=4, n_shell=n_shell, inner_kpc=0.5, outer_kpc=12.0)
    prior = Refinement(grid, base_nside=1)
    excitations = prior.excitations(jax.random.key(4))
    field = jax.jit(lambda *at: prior.apply(_matrices(prior, *at), excitations))
    weight = jax.random.normal(jax.random.key(5), (grid.n_pixel, n_shell))
    gradient = jax.jit(jax.grad(lambda *at: jnp.vdot(weight, field(*at)), (0, 1)))(5.0, 6.0)
    step = 1e-4
    for argument in (0, 1):
        tangents = tuple(float(argument == i) for i in (0, 1))
        _, got = jax.jvp(field, (5.0, 6.0), tangents)
        ahead = field(5.0 + step * tangents[0], 6.0 + step * tangents[1])
        behind = field(5.0 - step * tangents[0], 6.0 - step * tangents[1])
        np.testing.assert_allclose(got, (ahead - behind) / (2 * step), atol=1e-4)
        assert float(gradient[argument]) == pytest.approx(float(jnp.vdot(weight, got)), rel=1e-9)


def test_the_windowed_product_is_an_einsum_and_so_are_its_derivatives():
    rng = np.random.default_rng(3)
    matrices = jnp.asarray(rng.normal(size=(3, 5, 4, 2, 6)))
    values = jnp.asarray(rng.normal(size=(4, 7, 2, 10)))

    def plain(matrices, values):
        shifted = jnp.stack([values[..., j : j + 6] for j in range(5)])
        return jnp.einsum("ojkum,jkgum->ogum", matrices, shifted)

    np.testing.assert_allclose(windowed_product(matrices, values), plain(matrices, values), atol=1e-12)
    weight = jnp.asarray(rng.normal(size=(3, 7, 2, 6)))
    for argument in (0, 1):
        got, expected = (
            jax.grad(lambda *a, f=f: jnp.sum(weight * f(*a) ** 2), argument)(matrices, values)
            for f in (windowed_product, plain)
        )
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)


def test_any_number_of_shells_can_be_refined():
    for n_shell in (9, 10, 11):
        grid = SphericalGrid.log_spaced(nside=2, n_shell=n_shell, inner_kpc=1.0, outer_kpc=9.0)
        prior = Refinement(grid, base_nside=1)
        assert prior.apply(prior.matrices(4.0, 6.0), prior.excitations(jax.random.key(0))).shape == (48, n_shell)


def test_a_grid_that_is_not_even_in_log_distance_is_refused():
    with pytest.raises(GridError, match="even in log distance"):
        Refinement(SphericalGrid(nside=2, edges_kpc=(1.0, 2.0, 3.0, 4.0)))
    with pytest.raises(GridError, match="nested"):
        Refinement(SphericalGrid.log_spaced(2, 8, 1.0, 9.0, ordering="ring"))
    with pytest.raises(GridError, match="odd number of shells"):
        Refinement(SphericalGrid.log_spaced(2, 8, 1.0, 9.0), window=(9, 4))
