"""geoVI on tiny skies: exact where the exact answer is known, and the same after an interruption."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from crdist.errors import CheckpointError, InferenceError, RecipeError
from crdist.grids import SphericalGrid
from crdist_inference.geovi import Settings, infer
from crdist_inference.prior import LogNormal, Prior
from crdist_inference.problem import Problem
from crdist_inference.records import Start
from crdist_inference.refinement import Refinement, matern_correlation

GRID = SphericalGrid.log_spaced(nside=1, n_shell=5, inner_kpc=1.0, outer_kpc=10.0)
FIELD = Refinement(GRID)
SHORT = Settings(n_iteration=4, n_iteration_next=2, early_iterations=1, n_pairs_early=2, n_pairs=2, update_iterations=1)
DRAWS = [Start(4.0, 6.0), Start(6.0, 5.0, scale=0.6, offset=-21.0)]


def small_problem(*, scale=0.5, noise=0.05, prior=None, seed=1):
    rng = np.random.default_rng(seed)
    response = 1e9 * rng.uniform(0.2, 2.0, (GRID.n_pixel, GRID.n_shell))
    structure = np.asarray(FIELD.apply(FIELD.matrices(4.0, 6.0), FIELD.excitations(jax.random.key(seed))))
    density = np.exp(scale * structure - 21.2)
    sky = (response * density).sum(axis=1)
    sigma = noise * sky
    sky = sky + sigma * rng.standard_normal(sky.size)
    return Problem(GRID, response, sky, sigma, np.arange(GRID.n_pixel) != 3, prior or Prior())


def run(problem, folder, **options):
    samples = []
    options = {"settings": SHORT, "draws": DRAWS, "seed": 7, "fingerprint": {"sky": 1}} | options
    draws, settings = options.pop("draws"), options.pop("settings")
    summary = infer(problem, FIELD, draws, settings, folder=folder, on_sample=samples.append, **options)
    return summary, samples


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(small_problem(), tmp_path_factory.mktemp("run"))


def test_samples_predict_the_sky(finished):
    summary, samples = finished
    problem = small_problem()
    assert summary.finished
    assert [(sample.draw, sample.pair) for sample in samples] == [(d, p) for d in (0, 1) for p in (0, 0, 1, 1)]
    for sample in samples:
        assert sample.density.dtype == np.float32
        assert sample.density.shape == (12, 5)
        np.testing.assert_allclose(sample.sky, (problem.response * sample.density).sum(axis=1), rtol=1e-6)
        residual = (problem.sky - sample.sky)[problem.used] / problem.sigma[problem.used]
        assert np.mean(residual**2) < 4.0
        draw = DRAWS[sample.draw]
        assert (sample.hyperparameters.length, sample.hyperparameters.slope) == (draw.length, draw.slope)
    assert [(report.draw, report.iteration) for report in summary.reports] == [
        (0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1),
    ]  # fmt: skip
    assert summary.reports[0].newton_steps == ()
    assert max(summary.reports[-1].newton_steps) >= 1


@pytest.mark.parametrize("after", [1, 4, 5])
def test_a_run_that_was_stopped_goes_on_to_the_same_samples(finished, tmp_path, after):
    seen = []
    stopped, early = run(small_problem(), tmp_path, report=seen.append, stopping=lambda: len(seen) == after)
    assert not stopped.finished
    assert len(early) == (4 if after > 4 else 0)
    resumed, samples = run(small_problem(), tmp_path, resume=True)
    assert resumed.finished
    assert len(resumed.reports) == 6
    for got, expected in zip(samples, finished[1], strict=True):
        np.testing.assert_array_equal(got.density, expected.density)
        assert got.hyperparameters == expected.hyperparameters


def test_a_finished_run_is_resumed_without_work(finished, tmp_path):
    run(small_problem(), tmp_path)
    seen = []
    _, samples = run(small_problem(), tmp_path, resume=True, report=seen.append)
    assert seen == []
    np.testing.assert_array_equal(samples[-1].density, finished[1][-1].density)


def test_another_inference_does_not_take_the_checkpoint(tmp_path):
    seen = []
    run(small_problem(), tmp_path, report=seen.append, stopping=lambda: True)
    with pytest.raises(CheckpointError, match="seed is 8, it was 7"):
        run(small_problem(), tmp_path, resume=True, seed=8)
    with pytest.raises(CheckpointError, match="sky is 2, it was 1"):
        run(small_problem(), tmp_path, resume=True, fingerprint={"sky": 2})
    (tmp_path / "checkpoint.npz").write_bytes((tmp_path / "checkpoint.npz").read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="cannot be read"):
        run(small_problem(), tmp_path, resume=True)


def test_a_checkpoint_whose_excitations_meant_another_field_is_refused(tmp_path):
    run(small_problem(), tmp_path, report=lambda _: None, stopping=lambda: True)
    path = tmp_path / "checkpoint.npz"
    with np.load(path) as file:
        arrays = dict(file)
    metadata = json.loads(arrays["metadata"].tobytes())
    # 2: the covariance of the coarsest level was split by fewer symmetries
    assert metadata["format"] > 2
    arrays["metadata"] = np.frombuffer(json.dumps(metadata | {"format": 2}).encode(), dtype=np.uint8)
    np.savez(path, **arrays)
    with pytest.raises(CheckpointError, match="written by another version of crdist; remove it to start anew") as error:
        run(small_problem(), tmp_path, resume=True)
    assert "\n" not in str(error.value)


def test_the_mean_is_the_exact_posterior_mean_where_the_model_is_linear(tmp_path):
    # small fluctuations of a known size: then ln(density) is Gaussian, and its posterior is linear algebra
    scale = 0.02
    prior = Prior(scale=LogNormal(scale, 1e-6), offset_std=1e-6)
    problem = small_problem(scale=scale, noise=0.01, prior=prior)
    settings = dataclasses.replace(SHORT, n_pairs=8, n_pairs_early=8, linear_tolerance=1e-9, newton_tolerance=1e-9)
    _, samples = run(problem, tmp_path, draws=DRAWS[:1], settings=settings)

    import healpy

    vectors = np.array(healpy.pix2vec(1, np.arange(12), nest=True)).T
    at = (vectors[:, None] * GRID.centres[None, :, None]).reshape(-1, 3)
    covariance = scale**2 * matern_correlation(np.linalg.norm(at[:, None] - at[None], axis=-1) / 4.0, 6.0)
    used = problem.used
    base = np.exp(prior.offset_mean)
    design = np.zeros((12, 60))
    for pixel in range(12):
        design[pixel, 5 * pixel : 5 * pixel + 5] = problem.response[pixel] * base
    design = design[used]
    noise = np.diag(problem.sigma[used] ** 2)
    gain = covariance @ design.T @ np.linalg.inv(design @ covariance @ design.T + noise)
    mean = gain @ (problem.sky[used] - design.sum(axis=1))
    std = np.sqrt(np.diag(covariance - gain @ design @ covariance))

    logs = np.log([sample.density.ravel().astype(float) for sample in samples]) - prior.offset_mean
    # mirrored pairs leave no sampling noise in the mean; what is left is of second order in the fluctuations
    assert np.sqrt(np.mean(((logs.mean(axis=0) - mean) / std) ** 2)) < 0.1
    assert np.mean(logs.var(axis=0)) == pytest.approx(np.mean(std**2), rel=0.35)


def test_the_joint_mode_infers_length_and_slope_and_says_what_they_are_worth(tmp_path):
    settings = dataclasses.replace(SHORT, n_iteration=2, update_iterations=1)
    summary, samples = run(small_problem(), tmp_path, mode="joint", draws=[Start(3.0, 8.0)], settings=settings)
    lengths = {sample.hyperparameters.length for sample in samples}
    assert len(lengths) == len(samples) == 4
    assert any("not calibrated in the joint mode" in text for text in summary.warnings)


def test_an_energy_that_is_not_a_number_ends_with_the_place(tmp_path):
    problem = small_problem()
    blinding = dataclasses.replace(problem, sigma=problem.sigma * 1e-300)
    with pytest.raises(InferenceError, match=r"draw 1 of 2, iteration 1: .*length 4 kpc, slope 6"):
        run(blinding, tmp_path)
    assert not (tmp_path / "checkpoint.npz").exists()


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(RecipeError, match="n_pairs must be at least 1"):
        Settings(n_pairs=0)
    with pytest.raises(RecipeError, match="kl_tolerance must be positive"):
        Settings(kl_tolerance=0.0)
