"""Statistics over samples, and the rule that they come last."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from crdist_postproc.products.profiles import fit_linear_decline
from crdist_postproc.statistics import significance_and_error, summarise

samples = npst.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(2, 9)), elements=st.floats(-1e3, 1e3))


@given(samples)
def test_summary_is_numpys(values):
    result = summarise(values, (0.1, 0.5))
    np.testing.assert_allclose(result["mean"], np.mean(values, -1))
    np.testing.assert_allclose(result["std"], np.std(values, -1, ddof=1))
    np.testing.assert_allclose(result["quantiles"], np.quantile(values, [0.1, 0.5], axis=-1).T)
    spread = result["std"] > 0
    np.testing.assert_allclose(result["significance"][spread], result["mean"][spread] / result["std"][spread])
    assert np.isnan(result["significance"][~spread]).all()


def test_one_sample_has_a_mean_and_no_spread():
    result = summarise(np.array([[3.0]]))
    assert result["mean"] == 3.0
    assert np.isnan([result["std"], result["significance"], result["significance_error"]]).all()


@pytest.mark.parametrize("n", [6, 12, 50])
def test_the_error_of_the_significance_is_its_scatter(n, rng):
    # 40,000 experiments of n normal samples with significance 4
    result = summarise(rng.normal(4.0, 1.0, size=(40_000, n)))
    scatter = np.std(result["significance"])
    # of one typical experiment: one whose significance, biased as it is, is the average one
    average = np.mean(result["significance"])
    error = significance_and_error(average, np.array(1.0), n)[1]
    assert float(error) == pytest.approx(scatter, rel=0.05)


def test_too_few_samples_tell_no_error():
    assert np.isnan(significance_and_error(np.array(1.0), np.array(1.0), 3)[1])
    assert np.isfinite(significance_and_error(np.array(1.0), np.array(1.0), 4)[1])


def test_the_std_of_an_integral_is_not_the_integral_of_the_std(rng):
    # anticorrelated halves: their sum is certain, though neither is
    half = rng.normal(size=(1, 200))
    columns = np.concatenate([5 + half, 5 - half])
    assert summarise(columns.sum(axis=0))["std"] < 1e-12
    assert summarise(columns)["std"].sum() > 1.5


@given(n0=st.floats(0.1, 100), height=st.floats(0.8, 10), noise=st.integers(0, 99))
def test_the_fit_finds_a_linear_decline(n0, height, noise):
    rng = np.random.default_rng(noise)
    z = np.linspace(-2.95, 2.95, 60)
    truth = n0 * np.maximum(1 - np.abs(z) / height, 0.0)
    std = n0 * rng.uniform(0.01, 0.1, z.size)
    found = fit_linear_decline(z, np.stack([truth, 2 * truth], axis=1), std, truth, 0.1)
    np.testing.assert_allclose(found[0], [n0, 2 * n0], rtol=1e-9)
    np.testing.assert_allclose(found[1], [height, height], rtol=1e-9)


def test_the_fit_agrees_with_weighted_polynomials(rng):
    z = np.linspace(-1.95, 1.95, 40)
    profile = 3 * (1 - np.abs(z) / 4) + rng.normal(0, 0.1, z.size)
    std = rng.uniform(0.05, 0.2, z.size)
    n0, height = fit_linear_decline(z, profile[:, None], std, profile, 0.1)
    slope, level = np.polyfit(np.abs(z), profile, 1, w=1 / std)
    np.testing.assert_allclose([n0[0], height[0]], [level, -level / slope], rtol=1e-10)


def test_a_flat_tail_does_not_count_and_a_rise_has_no_height():
    z = np.linspace(-2.95, 2.95, 60)
    tail = np.maximum(1 - np.abs(z), 0.03)
    n0, height = fit_linear_decline(z, tail[:, None], np.ones(60), tail, 0.1)
    np.testing.assert_allclose([n0[0], height[0]], [1.0, 1.0], rtol=1e-9)
    rise = 1 + np.abs(z)
    assert np.isnan(fit_linear_decline(z, rise[:, None], np.ones(60), rise, 0.1)[1]).all()
    nothing = np.full(60, np.nan)
    assert np.isnan(fit_linear_decline(z, nothing[:, None], nothing, nothing, 0.1)[0]).all()
