"""The posterior of the correlation length and the spectral slope, from evidences on a grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.interpolate import RectBivariateSpline

from crdist.errors import GridError
from crdist.grids import SphericalGrid

from .covariance import Covariance
from .laplace import LaplacePoint, laplace
from .prior import LOWEST_SLOPE, Prior
from .problem import Problem
from .refinement import SLOPE_RANGE

__all__ = ["EvidenceGrid", "evidence_grid"]

Float = npt.NDArray[np.float64]

PRIOR_TAIL = 3.09
"""Standard deviations of the priors that the grid spans: 0.1 to 99.9 %."""

MARGINS = (16.0, 5.0)
"""Points whose expected log posterior is this far below the highest are not computed, at the middle and fine level."""

GOOD_ENOUGH = 0.1
"""Error of interpolated log posteriors, near the highest, at which the grid is not refined further ..."""
GAIN = 8.0
"""... where a level's error is taken as this much less than that of the level before."""

FLOOR = -40.0
N_FINE = 241


@dataclass(frozen=True, eq=False)
class EvidenceGrid:
    """Posterior of the correlation length and the spectral slope.

    Parameters
    ----------
    lengths : ndarray, kpc, shape (n_length,)
        Increasing, even in the logarithm.
    slopes : ndarray, shape (n_slope,)
        Increasing, even in the logarithm.
    log_posterior : ndarray, shape (n_length, n_slope)
        Natural logarithm of the posterior density per unit of (ln length, ln slope), normalised over the grid.
    computed : ndarray of bool, shape (n_length, n_slope)
        True where the evidence was computed; elsewhere it is interpolated.
    n_unconverged : int
        Computed points, not negligible ones, at which Newton's method did not converge.

    Raises
    ------
    GridError
        If the shapes do not fit, the axes do not increase or a value is not finite.
    """

    lengths: Float
    slopes: Float
    log_posterior: Float
    computed: npt.NDArray[np.bool_]
    n_unconverged: int = 0

    def __post_init__(self) -> None:
        shape = (self.lengths.size, self.slopes.size)
        if self.log_posterior.shape != shape or self.computed.shape != shape or min(shape) < 4:
            raise GridError(f"an evidence grid has at least 4 x 4 points and one value each, got {shape}")
        for name, axis in (("lengths", self.lengths), ("slopes", self.slopes)):
            if not (axis[0] > 0 and (np.diff(axis) > 0).all()):
                raise GridError(f"the {name} of an evidence grid must be positive and increase")
        if not np.isfinite(self.log_posterior).all():
            raise GridError("the evidence grid has values that are not finite")

    @property
    def mean(self) -> tuple[float, float]:
        """Posterior mean of length [kpc] and slope."""
        length, slope, mass = self._fine
        return float(mass.sum(axis=1) @ length), float(mass.sum(axis=0) @ slope)

    @property
    def std(self) -> tuple[float, float]:
        """Posterior standard deviation of length [kpc] and slope."""
        length, slope, mass = self._fine
        at = self.mean
        variances = mass.sum(axis=1) @ np.square(length - at[0]), mass.sum(axis=0) @ np.square(slope - at[1])
        return float(np.sqrt(variances[0])), float(np.sqrt(variances[1]))

    @property
    def correlation(self) -> float:
        """Posterior correlation of length and slope."""
        length, slope, mass = self._fine
        at, std = self.mean, self.std
        return float((length - at[0]) @ mass @ (slope - at[1]) / (std[0] * std[1]))

    def marginals(self) -> tuple[Float, Float]:
        """Densities at ``lengths`` per unit of ln(length) and at ``slopes`` per unit of ln(slope)."""
        density = np.exp(self.log_posterior)
        return np.trapezoid(density, np.log(self.slopes), axis=1), np.trapezoid(density, np.log(self.lengths), axis=0)

    def draw(self, n: int, rng: np.random.Generator) -> list[tuple[float, float]]:
        """Draw lengths [kpc] and slopes that represent the posterior well even when they are few.

        The posterior is cut across its long axis into n parts of equal mass, with one draw from each. All draws taken
        together follow the posterior exactly.

        Raises
        ------
        GridError
            If n is less than 1.
        """
        if n < 1:
            raise GridError(f"at least 1 draw of (length, slope) is needed, got {n}")
        length, slope, _ = self._fine
        places, cumulative = self._along
        levels = (np.arange(n) + rng.random(n)) / n
        picked = np.minimum(np.searchsorted(cumulative, levels), cumulative.size - 1)
        steps = np.log(length[1] / length[0]), np.log(slope[1] / slope[0])
        drawn = places[picked] + (rng.random((n, 2)) - 0.5) * steps
        drawn = np.clip(drawn, np.log([length[0], slope[0]]), np.log([length[-1], slope[-1]]))
        return [(float(a), float(b)) for a, b in np.exp(drawn)]

    def rank(self, length: float, slope: float) -> float:
        """Posterior mass where the density is higher than at a length [kpc] and slope, 0 to 1.

        For truths drawn from the prior these ranks are uniform, if the posterior is right. Beyond the grid it is 1.
        """
        inside = self.lengths[0] <= length <= self.lengths[-1] and self.slopes[0] <= slope <= self.slopes[-1]
        if not inside:
            return 1.0
        _, _, mass = self._fine
        at = _clipped(self._spline(math.log(length), math.log(slope)), float(self.log_posterior.max()))
        return float(mass[self._density > at[0, 0]].sum())

    def credible(self, level: float) -> float:
        """The log density above which lies a share ``level`` of the posterior mass: a contour to draw.

        Raises
        ------
        GridError
            If the level is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise GridError(f"a credible level lies between 0 and 1, got {level:g}")
        _, _, mass = self._fine
        density = self._density.ravel()
        order = np.argsort(density)[::-1]
        first = int(np.searchsorted(np.cumsum(mass.ravel()[order]), level))
        return float(density[order[min(first, order.size - 1)]])

    def to_dict(self) -> dict[str, Any]:
        """The grid as plain data."""
        return {
            "lengths": self.lengths.tolist(),
            "slopes": self.slopes.tolist(),
            "log_posterior": self.log_posterior.tolist(),
            "computed": self.computed.tolist(),
            "n_unconverged": self.n_unconverged,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EvidenceGrid:
        """The grid that `to_dict` wrote."""
        lengths, slopes, values = (np.asarray(data[k], dtype=float) for k in ("lengths", "slopes", "log_posterior"))
        return cls(lengths, slopes, values, np.asarray(data["computed"], dtype=bool), int(data["n_unconverged"]))

    @cached_property
    def _spline(self) -> RectBivariateSpline:
        floored = np.maximum(self.log_posterior, self.log_posterior.max() + FLOOR)
        return RectBivariateSpline(np.log(self.lengths), np.log(self.slopes), floored, kx=3, ky=3)

    def _axes(self) -> tuple[Float, Float]:
        """Fine axes, in logarithms."""
        ends = [(math.log(axis[0]), math.log(axis[-1])) for axis in (self.lengths, self.slopes)]
        return np.linspace(*ends[0], N_FINE), np.linspace(*ends[1], N_FINE)

    @cached_property
    def _density(self) -> Float:
        """Log density on a fine grid."""
        return _clipped(self._spline(*self._axes()), float(self.log_posterior.max()))

    @cached_property
    def _fine(self) -> tuple[Float, Float, Float]:
        """Lengths, slopes and posterior mass of the cells of a fine grid."""
        density = np.exp(self._density)
        # the outermost cells are half ones
        for edge in (0, -1):
            density[edge] *= 0.5
            density[:, edge] *= 0.5
        length, slope = (np.exp(axis) for axis in self._axes())
        return length, slope, density / density.sum()

    @cached_property
    def _along(self) -> tuple[Float, Float]:
        """Cells (ln length, ln slope) in order along the posterior's long axis, and their cumulative mass."""
        length, slope, mass = self._fine
        places = np.stack(np.meshgrid(np.log(length), np.log(slope), indexing="ij"), axis=-1).reshape(-1, 2)
        weight = mass.ravel()
        centred = places - weight @ places
        centred /= np.sqrt(weight @ np.square(centred))
        _, axes = np.linalg.eigh(centred.T @ (weight[:, None] * centred))
        order = np.argsort(centred @ axes[:, -1], kind="stable")
        return places[order], np.cumsum(weight[order])


def evidence_grid(
    problem: Problem,
    *,
    fine: SphericalGrid | None = None,
    n_length: int = 9,
    n_slope: int = 9,
    progress: Callable[[int, int], None] | None = None,
) -> EvidenceGrid:
    """The posterior of length and slope, with field, scale and offset integrated out.

    The grid spans the prior's 0.1 to 99.9 %, within the grid's diameter and the truncation of the slope. It is computed
    coarse to fine, only where the posterior has mass, and refined once beyond the asked resolution where interpolation
    would not do.

    Parameters
    ----------
    problem : Problem
        Cost per point grows as the square of the number of cells: coarsen it to some 3000 for seconds, or to 20000 for
        minutes.
    fine : SphericalGrid, optional
        The grid that the problem was coarsened from. Its cells then carry the field and the problem's cells average it;
        without it, averaging is taken for smoothness of the field and the slopes come out too high.
    n_length, n_slope : int
        Points at the asked resolution, at least 4.
    progress : callable, optional
        Called with the number of points done and the number known to be needed.

    Returns
    -------
    EvidenceGrid

    Raises
    ------
    GridError
        If the resolution is less than 4.
    InferenceError
        If no evidence is finite.
    """
    if min(n_length, n_slope) < 4:
        raise GridError(f"an evidence grid has at least 4 x 4 points, got {n_length} x {n_slope}")
    lengths, slopes = _axes(problem, 2 * n_length - 1, 2 * n_slope - 1)
    survey = _Survey(problem, Covariance(problem.grid, problem.used, fine=fine), lengths, slopes, progress)
    strides = (4, 2, 1) if n_length % 2 == n_slope % 2 == 1 and min(n_length, n_slope) >= 7 else (2, 1)
    first = strides[0]
    values = survey.compute(
        first, np.zeros(((lengths.size - 1) // first + 1, (slopes.size - 1) // first + 1)), math.inf
    )
    for stride, margin in zip(strides[1:], MARGINS[1 - len(strides) :], strict=True):
        expected = _refined(values)
        # the error of the level before tells what the next one would gain
        enough = stride == 1 and len(strides) == 3 and survey.worst < GAIN * GOOD_ENOUGH
        values = survey.compute(stride, expected, -math.inf if enough else margin)
    top = float(values.max())
    grid = EvidenceGrid(lengths, slopes, values - top, survey.computed(), survey.n_unconverged(top))
    density = np.exp(grid._density)
    x, y = grid._axes()
    return EvidenceGrid(
        lengths,
        slopes,
        grid.log_posterior - math.log(np.trapezoid(np.trapezoid(density, y, axis=1), x)),
        grid.computed,
        grid.n_unconverged,
    )


class _Survey:
    """Evidences on the finest lattice, each started from the nearest one that is known."""

    def __init__(
        self,
        problem: Problem,
        covariance: Covariance,
        lengths: Float,
        slopes: Float,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._problem, self._lengths, self._slopes, self._progress = problem, lengths, slopes, progress
        self._covariance = covariance
        self._points: dict[tuple[int, int], LaplacePoint] = {}
        self._values: dict[tuple[int, int], float] = {}
        self.worst = math.inf
        """Largest error of an expected value near the highest, at the last level."""

    def compute(self, stride: int, expected: Float, margin: float) -> Float:
        """Log posteriors at every stride-th point; computed where expected within the margin of the highest."""
        top = max(self._values.values(), default=-math.inf)
        places = [(i, j) for i in range(expected.shape[0]) for j in range(expected.shape[1])]
        middle = (expected.shape[0] - 1) / 2, (expected.shape[1] - 1) / 2
        # the likeliest first, then from the middle outwards, so that every point has a neighbour to start from
        places.sort(key=lambda at: (-expected[at], math.dist(at, middle)))
        wanted = [at for at in places if expected[at] >= top - margin and _times(at, stride) not in self._values]
        n_needed = len(self._values) + len(wanted)
        self.worst = 0.0
        for at in wanted:
            value = self._at(*_times(at, stride), n_needed)
            top = max(top, value)
            if max(value, float(expected[at])) > top - MARGINS[-1]:
                self.worst = max(self.worst, abs(value - float(expected[at])))
        values = np.array([self._values.get(_times(at, stride), expected[at]) for at in np.ndindex(expected.shape)])
        return values.reshape(expected.shape)

    def computed(self) -> npt.NDArray[np.bool_]:
        """Where the lattice is computed."""
        mask = np.zeros((self._lengths.size, self._slopes.size), dtype=bool)
        mask[tuple(np.array(list(self._points)).T)] = True
        return mask

    def n_unconverged(self, top: float) -> int:
        """Points within the margin of the highest without convergence."""
        return sum(not p.converged for at, p in self._points.items() if self._values[at] > top - MARGINS[-1])

    def _at(self, row: int, column: int, n_needed: int) -> float:
        nearest = min(self._points, key=lambda at: math.hypot(at[0] - row, at[1] - column), default=None)
        start = self._points[nearest] if nearest is not None else None
        length, slope = float(self._lengths[row]), float(self._slopes[column])
        point = laplace(self._problem, length, slope, start, covariance=self._covariance)
        self._points[row, column] = point
        value = point.log_evidence + _log_prior(self._problem.prior, length, slope)
        self._values[row, column] = value
        if self._progress is not None:
            self._progress(len(self._points), n_needed)
        return value


def _axes(problem: Problem, n_length: int, n_slope: int) -> tuple[Float, Float]:
    prior, box = problem.prior, 2.0 * problem.grid.edges_kpc[-1]
    tails = [
        [math.exp(of.log_mean + sign * PRIOR_TAIL * of.log_std) for sign in (-1, 1)]
        for of in (prior.length, prior.slope)
    ]
    longest = min(tails[0][1], box)
    lowest, highest = max(tails[1][0], LOWEST_SLOPE), min(tails[1][1], SLOPE_RANGE[1])
    if not (tails[0][0] < longest and lowest < highest):
        raise GridError(
            f"the prior leaves no room: length from {tails[0][0]:.3g} kpc to the grid's diameter of {box:.3g} kpc, "
            f"slope from {lowest:.3g} to {highest:.3g}"
        )
    return np.geomspace(tails[0][0], longest, n_length), np.geomspace(lowest, highest, n_slope)


def _times(at: tuple[int, ...], stride: int) -> tuple[int, int]:
    return at[0] * stride, at[1] * stride


def _log_prior(prior: Prior, length: float, slope: float) -> float:
    """Per unit of (ln length, ln slope), up to a constant."""
    return -0.5 * float(prior.length.excitation(length) ** 2 + prior.slope.excitation(slope) ** 2)


def _refined(values: Float) -> Float:
    """Values at twice the resolution."""
    x, y = (np.arange(n, dtype=float) for n in values.shape)
    spline = RectBivariateSpline(x, y, np.maximum(values, values.max() + 2 * FLOOR), kx=3, ky=3)
    return np.asarray(spline(np.arange(2 * x.size - 1) / 2, np.arange(2 * y.size - 1) / 2))


def _clipped(values: Any, top: float) -> Float:
    """Without what a spline adds below the floor or, beside a cliff, above the highest."""
    return np.asarray(np.clip(values, top + FLOOR, top + 0.5))
