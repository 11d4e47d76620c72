"""How well posterior samples recover a known truth, told apart from what chance would do.

Neighbouring cells share their error, so a sky has far fewer independent cells than cells. Every tolerance here has a
statistical part, from the number of independent cells that the samples themselves show, and a stated allowance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from crdist.errors import GridError

from .problem import Problem
from .residuals import standardise

__all__ = ["Check", "RegionReport", "ValidationReport", "validate"]

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

DISTANCES_KPC = (0.0, 1.0, 3.0, 8.0, 15.0, np.inf)
GAS_QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)
INFORMED = 0.5
"""Cells count as informed where the posterior's width is below this part of the prior's."""

SIGMAS = 3.5
"""Statistical part of every tolerance, in standard deviations: a false alarm in some two hundred reports."""
RMS_ALLOWANCE = 0.2
"""Variational widths of a log-normal model are right to some 10 to 20 %."""
COVERAGE_ALLOWANCE = (0.10, 0.06)
"""What widths wrong by 20 % do to the shares within one and two standard deviations, and half as much again."""
CHI2_ALLOWANCE = 0.1
"""A reduced chi^2 that is off by this much moves a width by 5 %, less than the widths themselves are good for."""

WITHIN = (float(stats.norm.cdf(1) - stats.norm.cdf(-1)), float(stats.norm.cdf(2) - stats.norm.cdf(-2)))
N_RANK_BIN = 10


@dataclass(frozen=True, slots=True)
class Check:
    """One figure and the bounds that it must lie in.

    Parameters
    ----------
    what : str
    value, lower, upper : float
    reason : str
        Where the bounds come from.
    """

    what: str
    value: float
    lower: float
    upper: float
    reason: str

    @property
    def passed(self) -> bool:
        """True if the value lies within the bounds."""
        return self.lower <= self.value <= self.upper


LEGEND = (
    "RMS: of (mean - truth) / std over the cells, beside what calibrated samples give (exp.); normal: the same as a",
    "normal deviate, calibrated at 1; indep.: independent cells among them, whose fewness lets it scatter; level: the",
    "region's mean as a normal deviate; rank: distance of the truth's ranks from uniform; width: std. Which of them",
    "are checked, within which bounds: validation.json",
)


@dataclass(frozen=True, slots=True)
class RegionReport:
    """Figures of the cells of one region, all cells counting alike.

    Parameters
    ----------
    region : str
    n_cell : int
    n_independent : float
        Cells with independent errors whose mean square would scatter as much: (tr C)^2 / tr C^2 of the correlation C.
    rms, expected_rms : float
        Root mean square of (mean - truth) / spread, and what it is for calibrated samples; not a number where two
        degrees of freedom or fewer make it infinite.
    normal_rms : float
        The same mapped to the normal distribution; 1 for calibrated samples.
    within_1, within_2 : float
        Share of cells whose truth lies within one and two standard deviations; 0.683 and 0.954 for calibrated samples.
    level : float
        Normal deviate of the region's mean: of zero mean and unit variance for calibrated samples.
    uniformity : float
        Largest distance of the distribution of central ranks from the uniform one (Kolmogorov-Smirnov).
    correlation, expected_correlation : float
        Between posterior mean and truth over the cells, and what the posterior itself leads one to expect.
    spread : float
        Root mean square of the posterior's standard deviation.
    ranks : tuple of float
        Shares of cells in ten bins of the truth's rank in the posterior, each 0.1 for calibrated samples.
    """

    region: str
    n_cell: int
    n_independent: float
    rms: float
    expected_rms: float
    normal_rms: float
    within_1: float
    within_2: float
    level: float
    uniformity: float
    correlation: float
    expected_correlation: float
    spread: float
    ranks: tuple[float, ...]

    def checks(self) -> Iterator[Check]:
        """The figures that must hold if the samples are calibrated."""
        why = f"{SIGMAS:g} standard deviations for {self.n_independent:.3g} independent cells and an allowance of "
        p, n = stats.norm.sf(SIGMAS), self.n_independent
        low, high = (float(np.sqrt(square / n)) for square in (stats.chi2.ppf(p, n), stats.chi2.isf(p, n)))
        low, high = low / (1 + RMS_ALLOWANCE), high * (1 + RMS_ALLOWANCE)
        yield Check(f"{self.region}: normal RMS", self.normal_rms, low, high, f"{why}{RMS_ALLOWANCE:g}")
        shares = (self.within_1, self.within_2)
        for sigma, share, expected, allowance in zip((1, 2), shares, WITHIN, COVERAGE_ALLOWANCE, strict=True):
            # as skewed as the share of successes among so many trials, and with the same variance
            trials = max(n - 1, 0.5)
            spread = stats.beta(expected * trials, (1 - expected) * trials)
            low, high = float(spread.ppf(p)) - allowance, min(float(spread.isf(p)) + allowance, 1.0)
            yield Check(f"{self.region}: share within {sigma} sigma", share, low, high, f"{why}{allowance:g}")
        wide = SIGMAS * (1 + RMS_ALLOWANCE)
        off = f"{SIGMAS:g} deviates, with widths {RMS_ALLOWANCE:.0%} off"
        yield Check(f"{self.region}: level", self.level, -wide, wide, off)
        wide = float(stats.kstwobign.isf(2 * stats.norm.sf(SIGMAS)) / np.sqrt(self.n_independent))
        wide += COVERAGE_ALLOWANCE[0]
        yield Check(f"{self.region}: rank uniformity", self.uniformity, 0.0, wide, f"{why}{COVERAGE_ALLOWANCE[0]:g}")


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """What a validation found.

    Parameters
    ----------
    n_sample : int
    degrees : float
        Degrees of freedom of the samples' variance of ln(density).
    n_used : int
        Pixels that were fitted.
    chi2_samples, chi2_mean : float
        Chi^2 per used pixel: mean over the samples, and of the mean sky. A truth and a calibrated sample are
        exchangeable, so the former is 1 on average; the latter is less by the freedom that the fit took.
    log_density, density : tuple of RegionReport
        All cells first, then the informed ones, then by distance and by gas. Checked are the first two of ln(density);
        the density's own residuals are skewed, and are there to be read.
    sky : RegionReport
        Of the predicted sky without noise on used pixels with gas.
    """

    n_sample: int
    degrees: float
    n_used: int
    chi2_samples: float
    chi2_mean: float
    log_density: tuple[RegionReport, ...]
    density: tuple[RegionReport, ...]
    sky: RegionReport

    @property
    def checks(self) -> tuple[Check, ...]:
        """All checks."""
        wide = SIGMAS * float(np.sqrt(2 / self.n_used)) + CHI2_ALLOWANCE
        reason = f"{SIGMAS:g} standard deviations for {self.n_used} pixels and an allowance of {CHI2_ALLOWANCE:g}"
        out = [Check("reduced chi^2 of the samples", self.chi2_samples, 1 - wide, 1 + wide, reason)]
        for region in self.log_density[:2]:
            if region.n_cell:
                out += region.checks()
        return tuple(out)

    @property
    def passed(self) -> bool:
        """True if every check passed."""
        return all(check.passed for check in self.checks)

    def lines(self) -> list[str]:
        """A table to print, and a line for each check that failed."""
        out = [
            f"{self.n_sample} samples ({self.degrees:.3g} degrees of freedom); chi^2 per used pixel ({self.n_used}): "
            f"{self.chi2_samples:.3f} mean of samples, {self.chi2_mean:.3f} of the mean",
            *_table("ln density", self.log_density),
            *_table("density", self.density),
            *_table("sky", (self.sky,)),
        ]
        failed = [check for check in self.checks if not check.passed]
        out += [f"FAILED {c.what}: {c.value:.3f}, not in {c.lower:.3f} ... {c.upper:.3f} ({c.reason})" for c in failed]
        return [*out, *LEGEND, f"{len(self.checks) - len(failed)} of {len(self.checks)} checks passed"]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, with its checks."""
        checks = [{**asdict(check), "passed": check.passed} for check in self.checks]
        return dict(_plain({**asdict(self), "checks": checks, "passed": self.passed}))


def validate(
    samples: npt.ArrayLike,
    truth: npt.ArrayLike,
    problem: Problem,
    skies: npt.ArrayLike | None = None,
    *,
    groups: Sequence[int] | npt.ArrayLike | None = None,
    scale: npt.ArrayLike | None = None,
) -> ValidationReport:
    """Compare posterior samples with the truth that a synthetic sky was made of.

    Parameters
    ----------
    samples : array_like, shape (n_sample, n_pixel, n_shell), cm-3
    truth : array_like, shape (n_pixel, n_shell), cm-3
    problem : Problem
        With the sky that was inferred from.
    skies : array_like, shape (n_sample, n_pixel), m-2 s-1 sr-1, optional
        Predicted skies; made from the samples if left out.
    groups : array_like of int, shape (n_sample,), optional
        As in `standardise`: the draw of length and slope that a sample belongs to, for samples in mirrored pairs.
    scale : array_like, optional
        Prior standard deviation of ln(density) in each sample; without it the prior's median. Says which cells are
        informed.

    Returns
    -------
    ValidationReport

    Raises
    ------
    GridError
        If shapes do not fit, a density is not positive and finite, or there are too few samples.
    """
    shape = (problem.grid.n_pixel, problem.grid.n_shell)
    samples = np.asarray(samples, dtype=np.float64)
    truth = np.asarray(truth, dtype=np.float64)
    for name, values in (("truth", truth), ("samples", samples)):
        if values.shape[-2:] != shape or values.ndim != (2 if name == "truth" else 3):
            raise GridError(f"{name}: must hold {shape[0]} pixels x {shape[1]} shells, got the shape {values.shape}")
        if not (values > 0).all() or not np.isfinite(values).all():
            raise GridError(f"{name}: densities must be positive and finite")
    predicted = problem.predict(samples) if skies is None else np.asarray(skies, dtype=np.float64)
    if predicted.shape != (len(samples), shape[0]):
        raise GridError(f"skies must have the shape {(len(samples), shape[0])}, got {predicted.shape}")
    used = problem.used
    data, sigma = problem.sky[used], problem.sigma[used]

    def chi2(sky: Float) -> float:
        return float(np.mean(np.square((sky[..., used] - data) / sigma)))

    of_log = _Comparison(np.log(samples), np.log(truth), groups)
    width = problem.prior.scale.median if scale is None else float(np.sqrt(np.mean(np.square(scale))))
    regions = dict(_regions(problem, of_log.all.spread < INFORMED * width))
    # without gas there is no emission whatever the density
    bright = used & (problem.response > 0).any(axis=1)
    of_sky = _Comparison(predicted[:, bright], problem.predict(truth)[bright], groups)
    log_density = tuple(of_log.report(name, cells) for name, cells in regions.items())
    of_density = _Comparison(samples, truth, groups)
    return ValidationReport(
        n_sample=len(samples),
        degrees=of_log.all.degrees,
        n_used=problem.n_used,
        chi2_samples=chi2(predicted),
        chi2_mean=chi2(predicted.mean(axis=0)),
        log_density=log_density,
        density=tuple(of_density.report(name, cells) for name, cells in regions.items()),
        sky=of_sky.report("used pixels with gas", np.ones(int(bright.sum()), dtype=bool)),
    )


class _Comparison:
    """Samples of one quantity beside its truth."""

    def __init__(self, samples: Float, truth: Float, groups: npt.ArrayLike | None) -> None:
        self.samples, self.truth, self.groups = samples, truth, groups
        self.all = standardise(samples, truth, groups)

    def report(self, region: str, cells: Bool) -> RegionReport:
        n = int(cells.sum())
        if n == 0:
            none = float("nan")
            return RegionReport(region, 0, 0.0, none, none, none, none, none, none, none, none, none, none, ())
        samples, truth = self.samples[:, cells], self.truth[cells]
        found = standardise(samples, truth, self.groups)
        normal, nu = found.normal, found.degrees
        deviations = samples - found.mean
        deviations /= np.sqrt(np.mean(np.square(deviations), axis=0))
        # of a Wishart matrix of so many degrees of freedom, whose diagonal is known to be 1
        square = np.sum(np.square(deviations @ deviations.T)) / len(samples) ** 2
        square = nu / (nu - 1) * (square - n**2 / nu) if nu > 1 else float(n) ** 2
        mean_of_region = standardise(samples.mean(axis=1), truth.mean(), self.groups)
        central = np.sort(2 * np.abs(stats.norm.cdf(normal) - 0.5))
        steps = np.arange(n + 1) / n
        ranks, _ = np.histogram(stats.norm.cdf(-normal), bins=N_RANK_BIN, range=(0, 1))
        variance = float(np.var(found.mean))
        explained = variance / (variance + float(np.mean(np.square(found.spread))))
        varies = n > 1 and variance > 0 and np.ptp(truth) > 0
        return RegionReport(
            region=region,
            n_cell=n,
            n_independent=n**2 / float(np.clip(square, n, n**2)),
            rms=_rms(found.residual),
            expected_rms=float(np.sqrt(nu / (nu - 2))) if nu > 2 else float("nan"),
            normal_rms=_rms(normal),
            within_1=float(np.mean(np.abs(normal) < 1)),
            within_2=float(np.mean(np.abs(normal) < 2)),
            level=float(mean_of_region.normal),
            uniformity=float(max((steps[1:] - central).max(), (central - steps[:-1]).max())),
            correlation=float(np.corrcoef(found.mean, truth)[0, 1]) if varies else float("nan"),
            expected_correlation=float(np.sqrt(explained)),
            spread=_rms(found.spread),
            ranks=tuple((ranks / n).tolist()),
        )


def _regions(problem: Problem, informed: Bool) -> Iterator[tuple[str, Bool]]:
    yield "all cells", np.ones(informed.shape, dtype=bool)
    yield f"informed (width < {INFORMED:g} prior)", informed
    centres = problem.grid.centres
    for low, high in pairwise(DISTANCES_KPC):
        name = f"{low:g} to {high:g} kpc" if np.isfinite(high) else f"beyond {low:g} kpc"
        yield name, np.broadcast_to((centres >= low) & (centres < high), informed.shape)
    # response per length is proportional to the gas density
    gas = problem.response / problem.grid.widths
    seen = problem.used[:, None] & (gas > 0)
    yield "masked or without gas", ~seen
    if seen.any():
        bounds = np.quantile(gas[seen], GAS_QUANTILES)
        bounds[-1] = np.inf
        for (low, high), (first, last) in zip(pairwise(bounds), pairwise(GAS_QUANTILES), strict=True):
            yield f"gas, {first:.0%} to {last:.0%}", seen & (gas >= low) & (gas < high)


def _rms(values: Float) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _table(quantity: str, regions: Sequence[RegionReport]) -> Iterator[str]:
    yield (
        f"{quantity:28}{'cells':>9}{'indep.':>8}{'RMS':>7}{'(exp.)':>8}{'normal':>8}{'1 sig':>7}{'2 sig':>7}"
        f"{'level':>7}{'rank':>7}{'corr.':>7}{'(exp.)':>8}{'width':>10}"
    )
    for r in regions:
        if r.n_cell == 0:
            yield f"  {r.region:26}{0:9}"
            continue
        yield (
            f"  {r.region:26}{r.n_cell:9}{r.n_independent:8.1f}{r.rms:7.2f}{r.expected_rms:8.2f}{r.normal_rms:8.2f}"
            f"{r.within_1:7.1%}{r.within_2:7.1%}{r.level:7.2f}{r.uniformity:7.3f}{r.correlation:7.3f}"
            f"{r.expected_correlation:8.3f}{r.spread:10.3g}"
        )


def _plain(value: Any) -> Any:
    """As JSON can hold it: what is not a number becomes None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
