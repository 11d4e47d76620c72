"""Simulation-based calibration finds exact posteriors calibrated and faulty ones not."""

import json

import jax
import numpy as np
import pytest
from scipy import stats

from crdist.errors import GridError, RecipeError
from crdist.grids import SphericalGrid
from crdist_inference.calibration import Calibration, Inferred, Score, Trial, calibrate
from crdist_inference.prior import LogNormal, Prior
from crdist_inference.problem import Problem
from crdist_inference.refinement import Refinement
from crdist_inference.simulated import field_matrix, linear_posterior, sky_scalars, sky_truth

SIGMA = 0.5
N_CELL = 20


def simulate(seed):
    """A normal number and cells, seen with noise."""
    rng = np.random.default_rng([seed, 7])
    truth = rng.standard_normal(N_CELL)
    return Trial(truth + SIGMA * rng.standard_normal(N_CELL), {"one": truth[0], "cells": truth})


def conjugate(data, seed, *, width=1.0, shift=0.0, kind="mirrored", n=12):
    """The exact posterior, or one that is too narrow or shifted."""
    rng = np.random.default_rng([seed, 8])
    gain = 1 / (1 + SIGMA**2)
    mean, std = gain * data + shift, width * SIGMA * np.sqrt(gain)
    if kind == "exact":
        return Inferred(probabilities={"one": stats.norm(mean[0], std).cdf})
    if kind == "mirrored":
        away = std * rng.standard_normal((n // 2, N_CELL))
        samples, groups = mean + np.concatenate([away, -away]), np.zeros(n, dtype=int)
    elif kind == "pooled":  # half of the variance is between three means
        means = mean + np.sqrt(0.5) * std * rng.standard_normal((3, N_CELL))
        away = np.sqrt(0.5) * std * rng.standard_normal((2, 3, N_CELL))
        samples = np.concatenate([means + a for a in away] + [means - a for a in away])
        groups = np.tile(np.arange(3), 4)
    else:
        samples, groups = mean + std * rng.standard_normal((n, N_CELL)), None
    return Inferred({"one": samples[:, 0], "cells": samples}, groups)


@pytest.mark.parametrize("kind", ["mirrored", "independent", "exact", "pooled"])
def test_an_exact_posterior_is_calibrated(kind):
    found = calibrate(simulate, lambda data, seed: conjugate(data, seed, kind=kind), range(400))
    assert found.passed, "\n".join(found.lines())
    one = found.reports[0]
    assert (one.n_trial, one.n_value) == (400, 400)
    assert one.rms == pytest.approx(1.0, abs=0.12)
    if kind != "exact":
        cells = found.reports[1]
        assert cells.n_value == 400 * N_CELL
        assert cells.within_1 == pytest.approx(0.683, abs=0.02)
        assert np.isnan(cells.p_width)


@pytest.mark.parametrize("kind", ["mirrored", "independent", "exact", "pooled"])
@pytest.mark.parametrize(("fault", "figure"), [({"width": 0.6}, "p_width"), ({"shift": 0.25}, "p_uniform")])
def test_a_faulty_posterior_is_found_out(kind, fault, figure):
    found = calibrate(simulate, lambda data, seed: conjugate(data, seed, kind=kind, **fault), range(200))
    assert not found.passed
    assert getattr(found.reports[0], figure) < 1e-3
    assert found.lines()[-1].startswith("NOT calibrated")


@pytest.mark.parametrize("kind", ["mirrored", "independent"])
def test_ranks_need_no_normal_distribution(kind, rng):
    """Heavy tails: ranks stay uniform, which normal deviates would not."""
    ranks = []
    for seed in range(500):
        draw = rng.standard_t(2, size=13)
        samples = np.concatenate([draw[1:7], -draw[1:7]]) if kind == "mirrored" else draw[1:]
        groups = np.zeros(12, dtype=int) if kind == "mirrored" else None
        trial, inferred = Trial(None, {"x": draw[0]}), Inferred({"x": samples}, groups)
        found = calibrate(lambda _, t=trial: t, lambda _, s, i=inferred: i, [seed])
        ranks.append(found.scores[0].rank[0])
    assert stats.kstest(ranks, "uniform").pvalue > 1e-3


def test_seeds_decide_everything_and_progress_is_told():
    told = []
    first = calibrate(
        simulate, conjugate, range(5), report=lambda seed, so_far: told.append((seed, len(so_far.scores)))
    )
    again = calibrate(simulate, conjugate, range(5))
    assert told == [(seed, 2 * (seed + 1)) for seed in range(5)]
    assert json.dumps(first.to_dict(), allow_nan=False) == json.dumps(again.to_dict(), allow_nan=False)
    assert len(first.to_dict()["scores"]) == 5


def test_one_fault_among_many_quantities_is_found():
    rng = np.random.default_rng(1)
    scores = [
        Score(name, seed, stats.norm.cdf(normal), normal)
        for name in "abcdefgh"
        for seed in range(100)
        for normal in [(2.0 if name == "h" else 1.0) * rng.standard_normal(1)]
    ]
    assert not Calibration(tuple(scores)).passed
    assert Calibration(tuple(score for score in scores if score.name != "h")).passed


def test_nothing_to_score_is_refused():
    with pytest.raises(RecipeError, match="says nothing about any of one, cells"):
        calibrate(simulate, lambda data, seed: Inferred({"two": np.zeros(4)}), [1])
    with pytest.raises(RecipeError, match="at least one seed"):
        calibrate(simulate, conjugate, [])


# -- skies ---------------------------------------------------------------------------------------------------------

GRID = SphericalGrid.log_spaced(1, 6, 0.2, 20.0, ordering="nested")
SCALE, OFFSET = 0.01, -21.0


@pytest.fixture(scope="module")
def field():
    return Refinement(GRID)


@pytest.fixture(scope="module")
def template():
    rng = np.random.default_rng(2)
    response = rng.lognormal(0.0, 1.0, (GRID.n_pixel, GRID.n_shell)) * 1e8
    sky = np.exp(OFFSET) * response.sum(axis=1)
    used = np.arange(GRID.n_pixel) != 4
    prior = Prior(LogNormal(SCALE, 1e-5 * SCALE), LogNormal(6, 1e-5), LogNormal(5, 1e-5), OFFSET, 1e-8)
    return Problem(GRID, response, sky, np.where(used, 0.2 * SCALE * sky, np.nan), used, prior)


def test_the_linear_posterior_is_that_of_dense_algebra(template, field):
    """Against the posterior in the space of the cells, from information rather than covariance."""
    truth = sky_truth(template, field, 3)
    problem = truth.problem
    posterior = linear_posterior(problem, field, length=5.0, slope=6.0, scale=SCALE, offset=OFFSET)
    matrix = field_matrix(field, 5.0, 6.0)
    used = np.flatnonzero(problem.used)
    rows = np.zeros((used.size, GRID.n_pixel, GRID.n_shell))
    rows[np.arange(used.size), used] = np.exp(OFFSET) * SCALE * problem.response[used] / problem.sigma[used, None]
    rows = rows.reshape(used.size, -1)
    data = (problem.sky[used] - np.exp(OFFSET) * problem.response[used].sum(axis=1)) / problem.sigma[used]
    covariance = np.linalg.inv(np.linalg.inv(matrix @ matrix.T) + rows.T @ rows)
    np.testing.assert_allclose(posterior.mean.ravel(), OFFSET + SCALE * (covariance @ rows.T @ data), rtol=0, atol=1e-7)
    np.testing.assert_allclose(posterior.std.ravel(), SCALE * np.sqrt(np.diag(covariance)), rtol=1e-4)
    drawn = np.log(posterior.draw(2000, np.random.default_rng(1))).reshape(4000, -1)
    np.testing.assert_allclose(drawn.mean(axis=0), posterior.mean.ravel(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.cov(drawn.T) / SCALE**2, covariance, rtol=0, atol=0.06)


def test_the_field_matrix_is_the_refinement(rng):
    fine = Refinement(SphericalGrid.log_spaced(2, 6, 0.2, 20.0, ordering="nested"), base_nside=1)
    parts = tuple(rng.standard_normal(shape) for shape in fine.shapes)
    expected = np.asarray(jax.jit(lambda xi: fine.apply(fine.matrices(4.0, 7.0), xi))(parts)).ravel()
    found = field_matrix(fine, 4.0, 7.0) @ np.concatenate([part.ravel() for part in parts])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_the_exact_posterior_of_skies_is_calibrated(template, field):
    def trial(seed):
        truth = sky_truth(template, field, seed)
        return Trial(truth.problem, sky_scalars(truth.problem, truth.density))

    def infer(problem, seed):
        posterior = linear_posterior(problem, field, length=5.0, slope=6.0, scale=SCALE, offset=OFFSET)
        samples = posterior.draw(6, np.random.default_rng([seed, 5]))
        return Inferred(sky_scalars(problem, samples), np.zeros(12, dtype=int))

    found = calibrate(trial, infer, range(60))
    assert found.passed, "\n".join(found.lines())
    cells = next(report for report in found.reports if report.name == "cells")
    assert cells.rms == pytest.approx(1.0, abs=0.15)


def test_truths_follow_the_prior(field):
    """Hyperparameters, field and noise all as said, over many seeds."""
    prior = Prior(LogNormal(0.7, 0.3), LogNormal(6, 2), LogNormal(6, 3), -21.0, 0.5)
    ones = np.ones((GRID.n_pixel, GRID.n_shell))
    template = Problem(GRID, ones, ones[:, 0], ones[:, 0] * 3.0, np.ones(GRID.n_pixel, dtype=bool), prior)
    truths = [sky_truth(template, field, seed) for seed in range(60)]
    noise = np.concatenate([(t.problem.sky - t.problem.predict(t.density)) / 3.0 for t in truths])
    assert stats.kstest(noise, "norm").pvalue > 1e-3
    lengths = prior.length.excitation(np.array([t.hyperparameters.length for t in truths]))
    assert stats.kstest(lengths, "norm").pvalue > 1e-3
    away = [
        (np.log(t.density[i % 12, i % 6]) - t.hyperparameters.offset) / t.hyperparameters.scale
        for i, t in enumerate(truths)
    ]
    assert stats.kstest(away, "norm").pvalue > 1e-3
    again = sky_truth(template, field, 0)
    np.testing.assert_array_equal(again.problem.sky, truths[0].problem.sky)


def test_the_chosen_quantities(template, rng):
    density = rng.lognormal(size=(3, GRID.n_pixel, GRID.n_shell))
    found = sky_scalars(template, density)
    assert {"ln density, masked", "ln total sky", "ln line-of-sight sum, faint", "cells"} <= set(found)
    assert found["cells"].shape == (3, GRID.n_pixel * GRID.n_shell)
    pixel, shell = np.unravel_index(np.argmax(template.response * template.used[:, None]), template.response.shape)
    np.testing.assert_allclose(found["ln density, most emission"], np.log(density[:, pixel, shell]))
    sums = np.log((density * GRID.widths).sum(axis=-1))
    bright = np.argmax(np.where(template.used, template.response.sum(axis=1), -1))
    np.testing.assert_allclose(found["ln line-of-sight sum, bright"], sums[:, bright])
    with pytest.raises(GridError, match="densities must have the shape"):
        sky_scalars(template, density[..., :3])
