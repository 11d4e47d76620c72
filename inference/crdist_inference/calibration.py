"""Simulation-based calibration: truths from the prior, skies from truths, and the ranks of truths among samples.

If an inference is exact, the rank of the truth in its posterior is uniform over many problems whose truths are drawn
from the prior; too narrow posteriors pile ranks up at both ends, biased ones at one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import stats

from crdist.errors import RecipeError

from .residuals import standardise

__all__ = [
    "Calibration",
    "Inferred",
    "QuantityReport",
    "Score",
    "Trial",
    "calibrate",
]

Float = npt.NDArray[np.float64]
P = TypeVar("P")

ALPHA = 0.01
"""Probability at which a calibrated inference is found faulty by one of all the tests of a calibration."""


@dataclass(frozen=True, eq=False)
class Trial(Generic[P]):
    """One simulated problem.

    Parameters
    ----------
    problem : any
        What the inference is given.
    truth : mapping of str to float or ndarray
        The quantities whose ranks are wanted, as they really are.
    """

    problem: P
    truth: Mapping[str, npt.ArrayLike]


@dataclass(frozen=True, eq=False)
class Inferred:
    """What an inference says about some or all of the quantities of a trial.

    Parameters
    ----------
    samples : mapping of str to ndarray, shape (n_sample, ...)
    groups : array_like of int, shape (n_sample,), optional
        Which samples are mirrored pairs about one mean, as in `standardise`; left out, all are independent.
    probabilities : mapping of str to callable
        For inferences that know more than samples: from the truth of a quantity to its rank, the cumulative posterior
        probability or that of all that is more probable than the truth.
    """

    samples: Mapping[str, npt.ArrayLike] = field(default_factory=dict)
    groups: npt.ArrayLike | None = None
    probabilities: Mapping[str, Callable[[Any], float]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Score:
    """Where the truth of a quantity lies in one posterior.

    Parameters
    ----------
    name : str
    seed : int
    rank : ndarray, shape (n_value,)
        Probability below the truth, uniform in [0, 1] for a calibrated posterior.
    normal : ndarray, shape (n_value,)
        Residual (truth - mean) as a standard normal deviate.
    """

    name: str
    seed: int
    rank: Float
    normal: Float


@dataclass(frozen=True, slots=True)
class QuantityReport:
    """Calibration of one quantity over all trials.

    Parameters
    ----------
    name : str
    n_trial, n_value : int
        Values of one trial (the cells of a sky) are not independent of each other.
    rms, within_1, within_2 : float
        Of the normal residuals; 1, 0.683 and 0.954 for a calibrated inference.
    mean : float
        Of the normal residuals; positive where the posterior lies below the truth.
    uniformity : float
        Largest distance of the ranks' distribution from the uniform one (Kolmogorov-Smirnov).
    p_uniform : float
        Probability of a larger distance if calibrated; not a number where a trial has several values.
    p_width : float
        Two-sided probability of a mean square as far from 1, likewise.
    ranks : tuple of float
        Shares in ten bins.
    """

    name: str
    n_trial: int
    n_value: int
    rms: float
    within_1: float
    within_2: float
    mean: float
    uniformity: float
    p_uniform: float
    p_width: float
    ranks: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scores of all trials.

    Parameters
    ----------
    scores : tuple of Score
    """

    scores: tuple[Score, ...]

    @property
    def reports(self) -> tuple[QuantityReport, ...]:
        """One report a quantity, in the order in which they were first met."""
        names = dict.fromkeys(score.name for score in self.scores)
        return tuple(_report([score for score in self.scores if score.name == name]) for name in names)

    @property
    def passed(self) -> bool:
        """True if no test's probability is below `ALPHA` over the number of tests."""
        p = [value for report in self.reports for value in (report.p_uniform, report.p_width) if np.isfinite(value)]
        return bool(p) and min(p) >= ALPHA / len(p)

    def lines(self) -> list[str]:
        """A table to print."""
        out = [
            f"{'quantity':32}{'trials':>7}{'values':>8}{'RMS':>7}{'mean':>7}{'1 sig':>8}{'2 sig':>8}{'KS':>7}"
            f"{'p(rank)':>9}{'p(width)':>9}"
        ]
        out += [
            f"{r.name:32}{r.n_trial:7}{r.n_value:8}{r.rms:7.2f}{r.mean:7.2f}{r.within_1:8.1%}{r.within_2:8.1%}"
            f"{r.uniformity:7.3f}{r.p_uniform:9.3f}{r.p_width:9.3f}"
            for r in self.reports
        ]
        verdict = "no fault found" if self.passed else "NOT calibrated"
        return [*out, f"{verdict} (at {ALPHA:g} over all tests)"]

    def to_dict(self) -> dict[str, Any]:
        """Reports and, for scalars, every score, as plain data."""
        return {
            "passed": self.passed,
            "quantities": [
                {name: _finite(getattr(report, name)) for name in QuantityReport.__slots__} for report in self.reports
            ],
            "scores": [
                {"name": s.name, "seed": s.seed, "rank": float(s.rank[0]), "normal": float(s.normal[0])}
                for s in self.scores
                if s.rank.size == 1
            ],
        }


def calibrate(
    simulate: Callable[[int], Trial[P]],
    infer: Callable[[P, int], Inferred],
    seeds: Iterable[int],
    *,
    report: Callable[[int, Calibration], None] = lambda seed, so_far: None,
) -> Calibration:
    """Infer from many simulated problems and rank their truths.

    Parameters
    ----------
    simulate : callable
        Seed to trial: the truth from the prior, and data from it.
    infer : callable
        Problem and seed to what is inferred; quantities of the trial that it leaves out are not scored.
    seeds : iterable of int
    report : callable
        Called after each trial with its seed and the calibration so far.

    Returns
    -------
    Calibration

    Raises
    ------
    RecipeError
        If there are no seeds, or an inference returns nothing that the trial has a truth for.

    Notes
    -----
    Talts et al. 2018, "Validating Bayesian inference algorithms with simulation-based calibration". With n independent
    samples the rank is (samples below + a uniform number) / (n + 1). The centre of mirrored pairs is known exactly, so
    there the distance from the centre is ranked among those of the pairs, and goes to the truth's side of the centre.
    """
    scores: list[Score] = []
    for seed in seeds:
        trial = simulate(seed)
        inferred = infer(trial.problem, seed)
        names = [name for name in trial.truth if name in inferred.samples or name in inferred.probabilities]
        if not names:
            raise RecipeError(f"the inference says nothing about any of {', '.join(trial.truth)}")
        rng = np.random.default_rng([seed, 1])
        scores += [_score(name, seed, trial.truth[name], inferred, rng) for name in names]
        report(seed, Calibration(tuple(scores)))
    if not scores:
        raise RecipeError("a calibration needs at least one seed")
    return Calibration(tuple(scores))


def _score(name: str, seed: int, truth: npt.ArrayLike, inferred: Inferred, rng: np.random.Generator) -> Score:
    if name in inferred.probabilities:
        rank = np.atleast_1d(float(inferred.probabilities[name](truth)))
        return Score(name, seed, rank, stats.norm.ppf(np.clip(rank, 1e-12, 1 - 1e-12)))
    values = np.asarray(inferred.samples[name], dtype=np.float64)
    truth = np.atleast_1d(np.asarray(truth, dtype=np.float64)).ravel()
    values = values.reshape(len(values), truth.size)
    groups = np.arange(len(values)) if inferred.groups is None else np.asarray(inferred.groups)
    found = standardise(values, truth, groups)
    normal = -found.normal
    uniform = rng.random(truth.size)
    n_group = np.unique(groups).size
    if n_group == len(values):
        rank = ((values < truth).sum(axis=0) + uniform) / (len(values) + 1)
    elif n_group == 1:
        distances = np.sort(np.abs(values - found.mean), axis=0)[::2]
        closer = (distances < np.abs(truth - found.mean)).sum(axis=0)
        rank = 0.5 * (1 + np.sign(truth - found.mean) * (closer + uniform) / (len(distances) + 1))
    else:
        rank = stats.norm.cdf(normal)
    return Score(name, seed, rank, normal)


def _report(scores: list[Score]) -> QuantityReport:
    ranks = np.concatenate([score.rank for score in scores])
    normal = np.concatenate([score.normal for score in scores])
    test = stats.kstest(ranks, "uniform")
    p_uniform = p_width = float("nan")
    # values of one trial are not independent of each other
    if ranks.size == len(scores):
        below = float(stats.chi2.cdf(np.square(normal).sum(), len(scores)))
        p_width, p_uniform = 2 * min(below, 1 - below), float(test.pvalue)
    return QuantityReport(
        name=scores[0].name,
        n_trial=len(scores),
        n_value=ranks.size,
        rms=float(np.sqrt(np.mean(np.square(normal)))),
        within_1=float(np.mean(np.abs(normal) < 1)),
        within_2=float(np.mean(np.abs(normal) < 2)),
        mean=float(normal.mean()),
        uniformity=float(test.statistic),
        p_uniform=p_uniform,
        p_width=p_width,
        ranks=tuple((np.histogram(ranks, bins=10, range=(0, 1))[0] / ranks.size).tolist()),
    )


def _finite(value: Any) -> Any:
    """As JSON can hold it: what is not a number becomes None."""
    return None if isinstance(value, float) and not np.isfinite(value) else value
