"""Validation: exact posterior samples pass, shifted, too narrow and too wide ones fail, and chance does not."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from crdist.errors import GridError
from crdist.grids import SphericalGrid
from crdist_inference.prior import LogNormal, Prior
from crdist_inference.problem import Problem
from crdist_inference.refinement import Refinement
from crdist_inference.residuals import standardise
from crdist_inference.simulated import field_matrix, linear_posterior, sky_truth
from crdist_inference.validation import validate

GRID = SphericalGrid.log_spaced(2, 10, 0.2, 20.0, ordering="nested")
SCALE, OFFSET, LENGTH, SLOPE = 0.02, -21.0, 2.0, 6.0


def problem_with(sigma_share, grid=GRID, length=LENGTH):
    """A sky whose noise is a share of the fluctuations' size; a tenth is masked."""
    rng = np.random.default_rng(5)
    response = rng.lognormal(0.0, 1.0, (grid.n_pixel, grid.n_shell)) * grid.widths * 1e8
    response[3] = 0.0
    sky = np.exp(OFFSET) * response.sum(axis=1)
    used = rng.random(grid.n_pixel) > 0.1
    sigma = np.maximum(sigma_share * SCALE * sky, 1e-3 * sky.mean() * SCALE)
    prior = Prior(
        scale=LogNormal(SCALE, 1e-6 * SCALE),
        slope=LogNormal(SLOPE, 1e-6),
        length=LogNormal(length, 1e-6),
        offset_mean=OFFSET,
        offset_std=1e-9,
    )
    return Problem(grid, response, sky, sigma, used, prior)


def exact_case(length):
    """Problem, truth and the exact posterior of a case that is as good as linear."""
    template = problem_with(0.1, length=length)
    field = Refinement(GRID)
    truth = sky_truth(template, field, 11)
    return truth, linear_posterior(truth.problem, field, length=length, slope=SLOPE, scale=SCALE, offset=OFFSET)


@pytest.fixture(scope="module")
def case():
    return exact_case(LENGTH)


@pytest.fixture(scope="module")
def varied():
    """A field of so many independent values that too wide and too narrow samples stand out in every figure."""
    return exact_case(LENGTH / 2)


def scaled(samples, factor):
    logs = np.log(samples)
    mean = logs.mean(axis=0)
    return np.exp(mean + factor * (logs - mean))


def test_exact_samples_pass(case):
    truth, posterior = case
    report = validate(posterior.draw(8, np.random.default_rng(1)), truth.density, truth.problem)
    assert report.passed, "\n".join(report.lines())
    everything, informed = report.log_density[:2]
    assert informed.n_cell > 100
    assert informed.correlation == pytest.approx(informed.expected_correlation, abs=0.2)
    assert report.sky.correlation > 0.99
    assert 1 < everything.n_independent < 0.3 * everything.n_cell


@pytest.mark.parametrize("figure", ["chi^2", "normal RMS"])
def test_samples_that_are_too_wide_fail(varied, figure):
    truth, posterior = varied
    posterior_samples = scaled(posterior.draw(8, np.random.default_rng(1)), 5.0)
    assert_fails(validate(posterior_samples, truth.density, truth.problem), figure)


def test_samples_that_are_too_narrow_fail(varied):
    truth, posterior = varied
    caught = 0
    for seed in range(2, 6):
        # five times too narrow about another place that is as likely as the right one: an overconfident fit
        samples = scaled(posterior.draw(8, np.random.default_rng(1)), 0.2)
        samples = samples * posterior.draw(1, np.random.default_rng(seed))[0] / np.exp(posterior.mean)
        report = validate(samples, truth.density, truth.problem)
        assert_fails(report, "normal RMS")
        caught += any("within 2 sigma" in check.what for check in report.checks if not check.passed)
    # a place may by chance be close to the right one in most cells
    assert caught >= 3


def assert_fails(report, figure):
    assert not report.passed
    failed = [check.what for check in report.checks if not check.passed]
    assert any(figure in what for what in failed), failed
    assert any(line.startswith("FAILED") and figure in line for line in report.lines())


def test_shifted_samples_fail_by_their_level(case):
    truth, posterior = case
    samples = posterior.draw(8, np.random.default_rng(1)) * np.exp(6 * posterior.std.mean())
    report = validate(samples, truth.density, truth.problem)
    failed = {check.what for check in report.checks if not check.passed}
    assert "all cells: level" in failed
    assert "reduced chi^2 of the samples" in failed


def test_alarms_are_rare_for_exact_samples(case):
    truth, posterior = case
    rng = np.random.default_rng(3)
    n_failed = 0
    for _ in range(40):
        drawn = posterior.draw(7, rng)
        # any draw is as good a truth as the first; the sky's own chi^2 belongs to the first
        report = validate(drawn[2:], drawn[0], truth.problem)
        n_failed += any(not check.passed for check in report.checks[1:])
    assert n_failed <= 1


@given(
    st.lists(st.sampled_from([1, 2, 4, 6]), min_size=2, max_size=5).filter(lambda sizes: sum(sizes) >= 4),
    st.floats(0.0, 1.0),
)
def test_residuals_have_the_stated_mean_square(sizes, between):
    """Groups about means of their own: mirrored pairs within them, singles without any spread within."""
    if 1 in sizes and set(sizes) != {1}:
        sizes = [2 if size == 1 else size for size in sizes]
    if set(sizes) == {1} and len(sizes) < 4:
        sizes = [1, 1, 1, 1]
    if set(sizes) == {1}:
        between = 1.0
    rng = np.random.default_rng(len(sizes) + 7 * sum(sizes))
    n_cell = 20_000
    samples, groups = [], []
    for group, size in enumerate(sizes):
        mean = np.sqrt(between) * rng.standard_normal(n_cell)
        groups += [group] * size
        if size == 1:
            samples.append(mean)
        for _ in range(size // 2):
            away = np.sqrt(1 - between) * rng.standard_normal(n_cell)
            samples += [mean + away, mean - away]
    found = standardise(np.stack(samples), rng.standard_normal(n_cell), groups)
    equal = len(set(sizes)) == 1
    if set(sizes) == {1}:
        assert found.degrees == pytest.approx(len(sizes) - 1)
        assert stats.kstest(found.residual, stats.t(found.degrees).cdf).pvalue > 1e-4
    elif between == 0.0 and equal:
        # means that do not differ have no variance to speak of
        assert np.mean(np.square(found.normal)) == pytest.approx(1.0, abs=0.3)
    # Satterthwaite's degrees are an approximation
    assert np.median(np.abs(found.normal)) == pytest.approx(stats.norm.ppf(0.75), abs=0.12)


@pytest.mark.parametrize("n_pair", [3, 6])
def test_mirrored_pairs_follow_students_distribution(n_pair, rng):
    away = rng.standard_normal((n_pair, 50_000))
    found = standardise(np.concatenate([away, -away]) + 2.0, rng.standard_normal(50_000) + 2.0)
    assert found.degrees == n_pair
    assert stats.kstest(found.residual, stats.t(n_pair).cdf).pvalue > 1e-3
    assert stats.kstest(found.normal, "norm").pvalue > 1e-3
    np.testing.assert_allclose(found.mean, 2.0)


def test_independent_cells_are_counted(case):
    """The number of independent cells of a known correlation, estimated from few samples."""
    truth, _ = case
    matrix = field_matrix(Refinement(GRID), LENGTH, SLOPE)
    covariance = matrix @ matrix.T
    exact = np.trace(covariance) ** 2 / np.sum(np.square(covariance))
    rng = np.random.default_rng(4)
    counts = []
    for _ in range(8):
        away = SCALE * (matrix @ rng.standard_normal((len(matrix), 6))).T.reshape(6, *GRID_SHAPE)
        samples = np.exp(OFFSET + np.concatenate([away, -away]))
        counts.append(validate(samples, truth.density, truth.problem).log_density[0].n_independent)
    assert np.median(counts) == pytest.approx(exact, rel=0.25)


GRID_SHAPE = (GRID.n_pixel, GRID.n_shell)


def test_regions_cover_the_cells_once(case):
    truth, posterior = case
    report = validate(posterior.draw(4, np.random.default_rng(1)), truth.density, truth.problem)
    count = {region.region: region.n_cell for region in report.log_density}
    n = GRID.n_pixel * GRID.n_shell
    assert count["all cells"] == n
    assert sum(v for k, v in count.items() if "kpc" in k) == n
    assert sum(v for k, v in count.items() if "gas" in k) == n
    assert count["masked or without gas"] >= (~truth.problem.used).sum() * GRID.n_shell


def test_the_report_is_plain_data(case):
    truth, posterior = case
    samples = posterior.draw(3, np.random.default_rng(1))
    report = validate(samples, truth.density, truth.problem, truth.problem.predict(samples), groups=[0, 0, 1, 1, 2, 2])
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["passed"] == report.passed
    assert data["log_density"][0]["region"] == "all cells"
    assert len(data["checks"]) == len(report.checks)
    assert max(map(len, report.lines()[:-1])) < 250


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": np.ones((6, 48, 9))}, "samples: must hold 48 pixels x 10 shells, got the shape"),
        ({"truth": np.zeros((48, 10))}, "truth: densities must be positive and finite"),
        ({"samples": np.ones((6, 48, 10))}, "the samples do not differ"),
        ({"samples": np.random.default_rng(1).lognormal(size=(2, 48, 10))}, "at least 4 samples, got 2"),
        ({"skies": np.ones((6, 47))}, r"skies must have the shape \(6, 48\)"),
        ({"groups": [0, 0, 0, 1, 1, 1]}, "even number of samples, got 3"),
        ({"groups": [0, 0]}, "one number for each of 6 samples"),
    ],
)
def test_bad_input_is_refused(case, change, message):
    truth, posterior = case
    good = {"samples": posterior.draw(3, np.random.default_rng(1)), "truth": truth.density, "problem": truth.problem}
    with pytest.raises(GridError, match=message) as caught:
        validate(**good | change)
    assert "\n" not in str(caught.value)
