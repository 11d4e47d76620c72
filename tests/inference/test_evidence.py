"""The evidence of length and slope: against dense linear algebra, in the linear limit, and as a distribution."""

import json
import math

import healpy
import numpy as np
import pytest

from crdist.errors import CrdistError, GridError, InferenceError
from crdist.grids import SphericalGrid
from crdist_inference.covariance import Covariance
from crdist_inference.evidence import EvidenceGrid, evidence_grid
from crdist_inference.laplace import laplace, laplace_at_scale
from crdist_inference.prior import LogNormal, Prior
from crdist_inference.problem import Problem
from crdist_inference.refinement import matern_correlation

GRID = SphericalGrid.log_spaced(1, 4, 0.5, 20.0)
FINER = SphericalGrid.log_spaced(2, 4, 0.5, 20.0)
PRIOR = Prior(scale=LogNormal(0.7, 0.3), offset_mean=-21.0, offset_std=0.7)


def dense(grid, length, slope):
    """Correlations of all cells from their places, (cell, cell)."""
    vectors = np.stack(healpy.pix2vec(grid.nside, np.arange(grid.n_pixel), nest=grid.ordering == "nested"), axis=-1)
    places = (vectors[:, None] * grid.centres[:, None]).reshape(-1, 3)
    distances = np.linalg.norm(places[:, None] - places, axis=-1)
    # many are equal, and an exact value costs a quadrature
    unique, at = np.unique(distances.round(9), return_inverse=True)
    return matern_correlation(unique / length, slope)[at].reshape(distances.shape)


def draw_problem(seed=1, *, grid=GRID, prior=PRIOR, scale=0.8, noise=0.05, length=5.0, slope=5.0):
    rng = np.random.default_rng(seed)
    response = rng.lognormal(0.0, 0.5, (grid.n_pixel, grid.n_shell))
    factor = np.linalg.cholesky(dense(grid, length, slope) + 1e-9 * np.eye(response.size))
    field = (factor @ rng.standard_normal(response.size)).reshape(response.shape)
    sky = (response * np.exp(scale * field + prior.offset_mean)).sum(axis=1)
    sigma = noise * math.exp(prior.offset_mean) * response.sum(axis=1)
    used = np.arange(grid.n_pixel) % 7 != 3
    return Problem(grid, response, sky + sigma * rng.standard_normal(sky.size), sigma, used, prior)


def energy_of(problem, covariance, scale):
    """Minus log likelihood times prior, as a function of (scale * s on all cells, offset's excitation)."""
    used, prior = problem.used, problem.prior
    inverse = np.linalg.inv(covariance) / scale**2

    def predict(position):
        density = np.exp(position[:-1] + prior.offset_mean + prior.offset_std * position[-1])
        return problem.predict(density.reshape(problem.response.shape))[used]

    def energy(position):
        residual = (problem.sky[used] - predict(position)) / problem.sigma[used]
        return 0.5 * (residual @ residual + position[:-1] @ inverse @ position[:-1] + position[-1] ** 2)

    return energy, predict, inverse


def gaussian_log_evidence(problem, correlation, scale):
    """Of the sky, to first order in scale and offset."""
    used, prior = problem.used, problem.prior
    mean = problem.response[used] * math.exp(prior.offset_mean)
    jacobian = np.zeros((problem.n_used, problem.response.size))
    for row, (pixel, values) in enumerate(zip(np.flatnonzero(used), mean, strict=True)):
        jacobian[row].reshape(problem.response.shape)[pixel] = values
    sky = mean.sum(axis=1)
    covariance = scale**2 * jacobian @ correlation @ jacobian.T
    covariance += prior.offset_std**2 * np.outer(sky, sky) + np.diag(problem.sigma[used] ** 2)
    # in units of sigma, so that the determinant does not underflow
    whitened = covariance / np.outer(problem.sigma[used], problem.sigma[used])
    residual = (problem.sky[used] - sky) / problem.sigma[used]
    quadratic = residual @ np.linalg.solve(whitened, residual) + np.linalg.slogdet(whitened)[1]
    return -0.5 * (quadratic + np.log(2 * np.pi * problem.sigma[used] ** 2).sum())


@pytest.mark.parametrize("ordering", ["nested", "ring"])
@pytest.mark.parametrize(("length", "slope"), [(2.0, 4.0), (6.0, 6.0), (20.0, 14.0)])
def test_covariance_is_that_of_the_places(rng, ordering, length, slope):
    grid = SphericalGrid.log_spaced(2, 3, 0.05, 30.0, ordering=ordering)
    used = rng.random(grid.n_pixel) < 0.8
    weights = rng.standard_normal((used.sum(), grid.n_shell))
    exact = dense(grid, length, slope).reshape(grid.n_pixel, grid.n_shell, grid.n_pixel, grid.n_shell)[:, :, used]
    product = Covariance(grid, used).set(length, slope).times(weights)
    np.testing.assert_allclose(product, np.einsum("piqj,qj->pqi", exact, weights), atol=2e-8)


@pytest.mark.parametrize(("length", "slope"), [(2.0, 4.0), (5.0, 6.0), (10.0, 9.0)])
def test_covariance_of_averages(length, slope):
    coarse, fine = GRID, SphericalGrid.log_spaced(2, 12, 0.5, 20.0)
    exact = dense(fine, length, slope).reshape(12, 4, 4, 3, 12, 4, 4, 3).mean(axis=(1, 3, 5, 7))
    covariance = Covariance(coarse, np.ones(12, dtype=bool), fine=fine).set(length, slope)
    np.testing.assert_allclose(covariance.variances, np.einsum("pipi->pi", exact).mean(axis=0), atol=0.05)
    blocks = np.stack([covariance.times(np.tile(unit, (12, 1))) for unit in np.eye(4)], axis=-1)
    approximate = blocks.transpose(0, 2, 1, 3)
    assert np.linalg.norm(approximate - exact) < 0.05 * np.linalg.norm(exact)
    whole = approximate.reshape(48, 48)
    assert np.linalg.eigvalsh(whole)[0] > -1e-7
    # much nearer than what takes a cell for its centre
    centres = dense(coarse, length, slope)
    assert np.linalg.norm(centres - exact.reshape(48, 48)) > 3 * np.linalg.norm(approximate - exact)


def test_a_fine_grid_that_is_the_same_changes_nothing(rng):
    used, weights = np.ones(12, dtype=bool), rng.standard_normal((12, 4))
    plain = Covariance(GRID, used).set(3.0, 5.0)
    same = Covariance(GRID, used, fine=GRID).set(3.0, 5.0)
    np.testing.assert_allclose(same.times(weights), plain.times(weights), atol=1e-7)
    np.testing.assert_allclose(plain.variances, 1.0)


def test_blocks_of_pairs_do_not_matter(rng, monkeypatch):
    grid, used = SphericalGrid.log_spaced(2, 4, 0.1, 20.0), np.ones(48, dtype=bool)
    weights = rng.standard_normal((48, 4))
    whole = Covariance(grid, used).set(4.0, 5.0).times(weights)
    monkeypatch.setattr("crdist_inference.covariance.BLOCK_BYTES", 1 << 12)
    np.testing.assert_allclose(Covariance(grid, used).set(4.0, 5.0).times(weights), whole, rtol=0, atol=1e-14)


def test_laplace_is_that_of_dense_algebra():
    problem, scale = draw_problem(), 0.6
    point = laplace_at_scale(problem, 5.0, 4.5, scale, tolerance=1e-14)
    assert point.converged
    covariance = dense(GRID, 5.0, 4.5)
    energy, predict, inverse = energy_of(problem, covariance, scale)
    excitation = (point.offset - PRIOR.offset_mean) / PRIOR.offset_std
    mode = np.append((point.log_density - point.offset).ravel(), excitation)
    assert point.energy == pytest.approx(energy(mode), rel=1e-8)

    # central differences; the jacobian's rows are known to be products with the density
    step = 1e-5
    steps = step * np.eye(mode.size)
    gradient = np.array([(energy(mode + h) - energy(mode - h)) / (2 * step) for h in steps])
    np.testing.assert_allclose(gradient, 0.0, atol=2e-5)
    density = np.exp(point.log_density)
    jacobian = np.zeros((problem.n_used, mode.size))
    for row, pixel in enumerate(np.flatnonzero(problem.used)):
        jacobian[row, :-1].reshape(density.shape)[pixel] = (problem.response * density)[pixel]
    jacobian[:, -1] = PRIOR.offset_std * predict(mode)
    differences = np.array([(predict(mode + h) - predict(mode - h)) / (2 * step) for h in steps]).T
    np.testing.assert_allclose(jacobian, differences, rtol=1e-6, atol=1e-6 * jacobian.max())

    jacobian /= problem.sigma[problem.used, None]
    curvature = jacobian.T @ jacobian
    curvature[:-1, :-1] += inverse
    curvature[-1, -1] += 1.0
    log_prior_volume = np.linalg.slogdet(covariance)[1] + 2 * covariance.shape[0] * math.log(scale)
    log_determinant = np.linalg.slogdet(curvature)[1] + log_prior_volume
    assert point.log_determinant == pytest.approx(log_determinant, rel=1e-8)
    normalisation = 0.5 * np.log(2 * np.pi * problem.sigma[problem.used] ** 2).sum()
    expected = -energy(mode) - 0.5 * log_determinant - normalisation
    assert point.log_evidence == pytest.approx(expected, rel=1e-8)
    assert point.offset_std == pytest.approx(PRIOR.offset_std * math.sqrt(np.linalg.inv(curvature)[-1, -1]), rel=1e-6)


def test_evidence_is_exact_where_the_sky_is_linear():
    prior = Prior(scale=LogNormal(2e-3, 1e-3), offset_mean=-21.0, offset_std=1e-3)
    problem = draw_problem(prior=prior, scale=2e-3, noise=3e-4)
    for length, slope, scale in ((5.0, 5.0, 2e-3), (2.0, 8.0, 1e-3)):
        point = laplace_at_scale(problem, length, slope, scale, tolerance=1e-10)
        expected = gaussian_log_evidence(problem, dense(GRID, length, slope), scale)
        assert point.log_evidence == pytest.approx(expected, abs=0.05)

    excitations = np.linspace(-4.0, 4.0, 161)
    scales = np.exp(prior.scale.log_mean + prior.scale.log_std * excitations)
    correlation = dense(GRID, 5.0, 5.0)
    values = np.array([gaussian_log_evidence(problem, correlation, scale) for scale in scales]) - 0.5 * excitations**2
    weights = np.exp(values - values.max())
    total = values.max() + math.log(weights.sum() * 0.05 / math.sqrt(2 * math.pi))
    weights /= weights.sum()
    point = laplace(problem, 5.0, 5.0)
    assert point.converged
    assert point.log_evidence == pytest.approx(total, abs=0.05)
    mean = weights @ np.log(scales)
    std = math.sqrt(weights @ (np.log(scales) - mean) ** 2)
    assert point.log_scale == pytest.approx(mean, abs=0.1 * std)
    assert point.log_scale_std == pytest.approx(std, rel=0.1)


def test_the_start_does_not_matter():
    problem = draw_problem(noise=0.02)
    covariance = Covariance(problem.grid, problem.used)
    cold = laplace(problem, 4.0, 6.0, covariance=covariance, tolerance=1e-6)
    for length, slope in ((7.0, 4.0), (2.0, 9.0)):
        start = laplace(problem, length, slope, covariance=covariance)
        warm = laplace(problem, 4.0, 6.0, start, covariance=covariance, tolerance=1e-6)
        assert warm.log_evidence == pytest.approx(cold.log_evidence, abs=0.03)
        assert warm.log_scale == pytest.approx(cold.log_scale, abs=0.2 * cold.log_scale_std)
        np.testing.assert_allclose(warm.offset, cold.offset, atol=0.2 * cold.offset_std, rtol=0)
    assert cold.density.shape == problem.response.shape
    predicted = problem.predict(cold.density)[problem.used]
    assert np.mean(((problem.sky - problem.predict(cold.density)) / problem.sigma)[problem.used] ** 2) < 1.5
    assert predicted.min() > 0


def test_grid_is_the_posterior_on_all_its_points():
    problem = draw_problem(3)
    seen = []
    grid = evidence_grid(problem, n_length=7, n_slope=7, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(1, int(grid.computed.sum()) + 1))
    assert all(done <= total for done, total in seen)
    assert grid.n_unconverged == 0
    assert grid.lengths.size == grid.slopes.size == 13
    assert 3.1 == pytest.approx(grid.slopes[0])
    assert 0 < (~grid.computed).sum()

    covariance = Covariance(problem.grid, problem.used)
    points = [[laplace(problem, a, b, covariance=covariance).log_evidence for b in grid.slopes] for a in grid.lengths]
    excitations = problem.prior.length.excitation(grid.lengths)[:, None], problem.prior.slope.excitation(grid.slopes)
    values = np.array(points) - 0.5 * excitations[0] ** 2 - 0.5 * excitations[1] ** 2
    near = grid.log_posterior > grid.log_posterior.max() - 5.0
    difference = (grid.log_posterior - values)[near]
    assert np.ptp(difference) < 0.3
    whole = EvidenceGrid(grid.lengths, grid.slopes, values - values.max(), np.ones_like(grid.computed))
    np.testing.assert_allclose(grid.mean, whole.mean, rtol=0.03)
    np.testing.assert_allclose(grid.std, whole.std, rtol=0.05)
    assert grid.correlation == pytest.approx(whole.correlation, abs=0.05)
    by_length, by_slope = grid.marginals()
    assert np.trapezoid(by_length, np.log(grid.lengths)) == pytest.approx(1.0, abs=0.02)
    assert np.trapezoid(by_slope, np.log(grid.slopes)) == pytest.approx(1.0, abs=0.02)


@pytest.mark.slow
def test_ranks_of_truths_are_uniform():
    grid = SphericalGrid.log_spaced(2, 8, 0.05, 30.0)
    ranks = []
    for seed in range(32):
        truth = PRIOR.draw(np.random.default_rng(seed))
        problem = draw_problem(
            100 + seed, grid=grid, **{name: truth[name] for name in ("scale", "length", "slope")}, noise=0.1
        )
        found = evidence_grid(problem)
        ranks.append(found.rank(truth["length"], truth["slope"]))
    # 32 uniform numbers: standard deviation of their mean 0.05, Kolmogorov's 99 % bound 0.28
    assert np.mean(ranks) == pytest.approx(0.5, abs=0.15)
    assert np.abs(np.sort(ranks) - (np.arange(32) + 0.5) / 32).max() < 0.28


# the grid as a distribution


@pytest.fixture(scope="module")
def ridge():
    """A normal distribution in (ln length, ln slope) with means (1.5, 1.8), deviations (0.3, 0.1), correlation -0.8."""
    lengths, slopes = np.geomspace(1.2, 20.0, 33), np.geomspace(3.1, 15.0, 33)
    x, y = np.meshgrid((np.log(lengths) - 1.5) / 0.3, (np.log(slopes) - 1.8) / 0.1, indexing="ij")
    values = -0.5 * (x**2 + y**2 + 1.6 * x * y) / 0.36 - math.log(2 * math.pi * 0.03 * 0.6)
    return EvidenceGrid(lengths, slopes, values, np.ones(values.shape, dtype=bool))


def test_moments(ridge):
    np.testing.assert_allclose(ridge.mean, [math.exp(1.5 + 0.045), math.exp(1.8 + 0.005)], rtol=2e-3)
    stds = [mean * math.sqrt(math.expm1(s**2)) for mean, s in zip(ridge.mean, (0.3, 0.1), strict=True)]
    np.testing.assert_allclose(ridge.std, stds, rtol=5e-3)
    assert ridge.correlation == pytest.approx(
        math.expm1(-0.8 * 0.03) / (stds[0] * stds[1]) * np.prod(ridge.mean), abs=0.01
    )
    np.testing.assert_allclose(
        ridge.marginals()[0], np.exp(-0.5 * ((np.log(ridge.lengths) - 1.5) / 0.3) ** 2) / 0.752, atol=0.01
    )


def test_draws_follow_the_posterior_and_spread_along_it(ridge, rng):
    triples = np.log([ridge.draw(3, rng) for _ in range(1500)])
    pooled = triples.reshape(-1, 2)
    np.testing.assert_allclose(pooled.mean(axis=0), [1.5, 1.8], atol=0.01)
    np.testing.assert_allclose(pooled.std(axis=0), [0.3, 0.1], rtol=0.06)
    assert np.corrcoef(pooled.T)[0, 1] == pytest.approx(-0.8, abs=0.03)
    # independent draws would have the mean of three scatter by 0.3 / sqrt(3) = 0.17
    assert triples[:, :, 0].mean(axis=1).std() < 0.12


def test_many_draws_and_one(ridge, rng):
    drawn = np.log(ridge.draw(4000, rng))
    np.testing.assert_allclose(drawn.mean(axis=0), [1.5, 1.8], atol=0.01)
    ((length, slope),) = ridge.draw(1, rng)
    assert 1.2 <= length <= 20.0
    assert 3.1 <= slope <= 15.0
    assert ridge.draw(3, np.random.default_rng(5)) == ridge.draw(3, np.random.default_rng(5))


def test_credible_regions_and_ranks(ridge, rng):
    # a two-dimensional normal has 1 - exp(-d^2 / 2) of its mass within the distance d
    top = ridge.log_posterior.max()
    for level in (0.3, 0.8, 0.95):
        assert ridge.credible(level) == pytest.approx(top + math.log1p(-level), abs=0.06)
    at = math.exp(1.5 + 0.3), math.exp(1.8 - 0.08)
    assert ridge.rank(*at) == pytest.approx(1 - math.exp(-0.5), abs=0.01)
    assert ridge.rank(math.exp(1.5), math.exp(1.8)) < 0.01
    assert ridge.rank(100.0, 6.0) == 1.0
    ranks = [ridge.rank(*draw) for draw in ridge.draw(300, rng)]
    assert np.mean(ranks) == pytest.approx(0.5, abs=0.05)


def test_plain_data_and_back(ridge):
    again = EvidenceGrid.from_dict(json.loads(json.dumps(ridge.to_dict())))
    np.testing.assert_array_equal(again.log_posterior, ridge.log_posterior)
    np.testing.assert_array_equal(again.computed, ridge.computed)
    assert again.draw(3, np.random.default_rng(1)) == ridge.draw(3, np.random.default_rng(1))


# bad input


def tight(name):
    return Prior(**{name: LogNormal(1000.0, 1.0)})


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: evidence_grid(draw_problem(), n_slope=3), GridError, "at least 4 x 4 points, got 9 x 3"),
        (
            lambda: evidence_grid(draw_problem(prior=tight("length"))),
            GridError,
            "no room: length from 997 kpc .* 40 kpc",
        ),
        (lambda: evidence_grid(draw_problem(prior=tight("slope"))), GridError, "slope from 997 to 20"),
        (
            lambda: evidence_grid(draw_problem(grid=FINER), fine=GRID),
            GridError,
            "fine grid .nside 1 x 4 shells. is coarser",
        ),
        (lambda: laplace(draw_problem(), 0.0, 6.0), GridError, "length must be positive, got 0 kpc"),
        (lambda: laplace(draw_problem(), 5.0, 2.5), GridError, "slope must lie in 3.1 to 20, got 2.5"),
        (
            lambda: laplace(draw_problem(grid=FINER, noise=1e-13), 40.0, 15.0),
            InferenceError,
            "singular to rounding; sky / sigma",
        ),
    ],
)
def test_bad_input_is_one_clear_line(call, error, match):
    with pytest.raises(error, match=match) as caught:
        call()
    assert isinstance(caught.value, CrdistError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"lengths": np.ones(33)}, "lengths .* positive and increase"),
        ({"slopes": np.arange(3.0)}, r"one value each, got \(33, 3\)"),
        ({"log_posterior": np.full((33, 33), np.nan)}, "not finite"),
    ],
)
def test_a_grid_that_cannot_be(ridge, change, match):
    parts = {name: getattr(ridge, name) for name in ("lengths", "slopes", "log_posterior", "computed")}
    with pytest.raises(GridError, match=match):
        EvidenceGrid(**{**parts, **change})


def test_draws_and_levels_that_cannot_be(ridge, rng):
    with pytest.raises(GridError, match="at least 1 draw"):
        ridge.draw(0, rng)
    with pytest.raises(GridError, match="between 0 and 1, got 1"):
        ridge.credible(1.0)
