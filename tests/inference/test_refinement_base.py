"""The parts of the refinement that are exact, against dense algebra: the coarsest level and a window's conditional."""

import healpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crdist_inference.refinement import matern_correlation
from crdist_inference.refinement.base import apply_base, base_geometry, base_matrices
from crdist_inference.refinement.conditional import conditional
from crdist_inference.refinement.matern import MaternTable

JITTER = 1e-9
DOUBLE, SINGLE = np.dtype(np.float64), np.dtype(np.float32)
KERNELS = [(2.0, 4.0), (5.0, 6.3), (12.0, 12.0)]


def shells(n_shell, inner=0.3, outer=20.0):
    return np.log(np.geomspace(inner, outer, n_shell))


def distances(nside, log_centre):
    rays = np.stack(healpy.pix2vec(nside, np.arange(12 * nside**2), nest=True), axis=-1)
    at = (rays[:, None] * np.exp(log_centre)[:, None]).reshape(-1, 3)
    return np.linalg.norm(at[:, None] - at, axis=-1)


def factors(geometry, length, slope, dtype=DOUBLE):
    row = MaternTable.build().row(slope)
    return base_matrices(geometry, row, jnp.log(jnp.asarray(length, jnp.float64)), JITTER, dtype)


def root(geometry, own, n_pixel, n_shell):
    """The base as a dense matrix: fields of unit excitations, one a column."""
    units = jnp.eye(n_pixel * n_shell, dtype=own[0].dtype).reshape(-1, n_pixel, n_shell)
    return np.asarray(jax.vmap(lambda unit: apply_base(geometry, own, unit).ravel())(units)).T


@pytest.mark.parametrize(("nside", "n_shell"), [(1, 7), (2, 5), (4, 3)])
@pytest.mark.parametrize(("length", "slope"), KERNELS)
def test_the_base_is_a_root_of_the_dense_covariance(nside, n_shell, length, slope):
    log_centre = shells(n_shell)
    geometry = base_geometry(nside, log_centre)
    made = root(geometry, factors(geometry, length, slope), 12 * nside**2, n_shell)
    distance = distances(nside, log_centre)
    with np.errstate(divide="ignore"):
        # the diagonal's rounding would be a distance
        logarithm = np.where(np.eye(len(distance)) > 0, -np.inf, np.log(distance))
    table = MaternTable.correlation(MaternTable.build().row(slope), logarithm, jnp.log(length))
    np.testing.assert_allclose(made @ made.T, table + JITTER * np.eye(len(distance)), rtol=0, atol=2e-13)
    # the table interpolates between slopes
    np.testing.assert_allclose(made @ made.T, matern_correlation(distance / length, slope), rtol=0, atol=1e-6)


def test_the_base_in_single_precision_is_the_one_in_double_precision():
    geometry = base_geometry(2, shells(6))
    for length, slope in KERNELS:
        single = factors(geometry, length, slope, SINGLE)
        assert {own.dtype for own in single} == {SINGLE}
        low, high = (root(geometry, own, 48, 6) for own in (single, factors(geometry, length, slope)))
        assert low.dtype == SINGLE
        np.testing.assert_allclose(low, high, rtol=0, atol=1e-6)


@pytest.mark.parametrize("nside", [1, 2, 4])
def test_functions_of_the_base_are_an_orthonormal_basis_in_ten_blocks(nside):
    geometry = base_geometry(nside, shells(2))
    n_pixel = 12 * nside**2
    np.testing.assert_allclose(geometry.basis @ geometry.basis.T, np.eye(n_pixel), rtol=0, atol=1e-13)
    sizes = [len(pairs) for pairs in geometry.pairs]
    assert sum(n * m for n, m in zip(sizes, geometry.n_member, strict=True)) == n_pixel
    assert geometry.n_member.count(2) == 2
    assert len(sizes) == (10 if nside > 1 else len(sizes)) <= 10
    # what the symmetries are for: far fewer entries than the whole has
    assert nside < 4 or sum(n**2 for n in sizes) < n_pixel**2 / 14


def test_an_isometry_commutes_with_the_blocks():
    geometry = base_geometry(2, shells(2))
    pixel = np.arange(48)
    x, y, z = healpy.pix2vec(2, pixel, nest=True)
    for image in ((-y, x, z), (x, -y, z), (x, y, -z)):
        moved = geometry.basis[:, healpy.vec2pix(2, *image, nest=True)] @ geometry.basis.T
        first = 0
        for pairs, n_member in zip(geometry.pairs, geometry.n_member, strict=True):
            last = first + n_member * len(pairs)
            outside = np.delete(moved[first:last], np.s_[first:last], axis=1)
            np.testing.assert_allclose(outside, 0.0, atol=1e-13)
            first = last


def test_derivatives_of_the_base_are_finite_differences():
    geometry = base_geometry(2, shells(5))
    excitation = jax.random.normal(jax.random.key(1), (48, 5))
    weight = jax.random.normal(jax.random.key(2), (48, 5))

    def value(length, slope):
        return jnp.vdot(weight, apply_base(geometry, factors(geometry, length, slope), excitation))

    at, step = (4.0, 5.3), 1e-4
    got = jax.grad(value, (0, 1))(*at)
    for argument, derivative in enumerate(got):
        ahead, behind = (value(*(a + sign * step * (i == argument) for i, a in enumerate(at))) for sign in (1.0, -1.0))
        assert float(derivative) == pytest.approx(float(ahead - behind) / (2 * step), rel=1e-4)


def covariances(seed, n_batch=3, n_point=12):
    root = np.random.default_rng(seed).normal(size=(n_batch, n_point, n_point + 3))
    return jnp.asarray(root @ root.transpose(0, 2, 1))


def test_a_conditional_is_that_of_a_gaussian():
    whole = np.asarray(covariances(1))
    predict, spread = conditional(jnp.asarray(whole), 4)
    corner, below, last = whole[:, :8, :8], whole[:, 8:, :8], whole[:, 8:, 8:]
    expected = below @ np.linalg.inv(corner)
    np.testing.assert_allclose(predict, expected, rtol=1e-10, atol=1e-12)
    about = last - expected @ below.transpose(0, 2, 1)
    np.testing.assert_allclose(spread @ spread.mT, about, rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(np.triu(spread, 1), 0.0)


def test_derivatives_of_a_conditional_are_those_of_the_plain_formula():
    def plain(covariance):
        corner, below, last = covariance[:, :8, :8], covariance[:, 8:, :8], covariance[:, 8:, 8:]
        predict = jnp.linalg.solve(corner, below.mT).mT
        return predict, jnp.linalg.cholesky(last - predict @ below.mT)

    at, change = covariances(2), covariances(3)
    _, got = jax.jvp(lambda c: conditional(c, 4), (at,), (change,))
    _, expected = jax.jvp(plain, (at,), (change,))
    for own, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-9, atol=1e-11)
    weights = [jax.random.normal(jax.random.key(i), part.shape) for i, part in enumerate(got)]
    forward = sum(jnp.vdot(w, part) for w, part in zip(weights, got, strict=True))
    _, pull = jax.vjp(lambda c: conditional(c, 4), at)
    assert float(jnp.vdot(pull(tuple(weights))[0], change)) == pytest.approx(float(forward), rel=1e-10)
