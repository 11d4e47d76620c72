"""Laplace's approximation of the evidence at one correlation length and slope, by linear algebra in the data's space.

The field enters the data through the cells of each line of sight only, so that ``J K J^T``, of the size of the sky, is
all that is needed of a covariance K of the size of the grid. K is exact: no refinement is involved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline, PchipInterpolator
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from crdist.errors import InferenceError

from .covariance import Covariance
from .problem import Problem

__all__ = ["LaplacePoint", "ScalePoint", "laplace", "laplace_at_scale"]

Float = npt.NDArray[np.float64]

SCALE_RANGE = (-4.0, 4.0)
"""Excitations of the scale's prior that are looked at."""
DROP = 1.2
"""The scan over scales ends where the log posterior has fallen by this much; tails are continued as exponentials ..."""
GAP = 2.5
"""... and it is refined until the log posterior falls by less than this from the best place to the next."""
N_NODE = 4
OVERSHOOT = 1.0
"""An interpolated log posterior is not believed where it is this much higher than all that are computed."""
STEP = 1.6
"""Distance of the scales that are computed, in posterior standard deviations."""


@dataclass(frozen=True, eq=False)
class ScalePoint:
    """Laplace's approximation with the scale held, too.

    Parameters
    ----------
    scale : float
    log_evidence : float
        Of the sky, given length, slope and scale.
    energy : float
        Minus the logarithm of likelihood times prior at the mode, without their normalisations.
    log_determinant : float
        Of ``I + J P J^T / sigma^2``.
    offset, offset_std : float
    log_density : ndarray, shape (n_pixel, n_shell)
        ln(density / cm-3) at the mode.
    source : ndarray, shape (n_used, n_shell)
        What the covariance turns into the mode of scale * s; a start for a neighbour.
    n_iteration : int
    converged : bool
    """

    scale: float
    log_evidence: float
    energy: float
    log_determinant: float
    offset: float
    offset_std: float
    log_density: Float
    source: Float
    n_iteration: int
    converged: bool


@dataclass(frozen=True, eq=False)
class LaplacePoint:
    """The evidence of the sky at one length and slope, with scale and offset integrated out.

    Parameters
    ----------
    length, slope : float
        Length in kpc.
    log_evidence : float
    log_scale, log_scale_std : float
        Posterior mean and standard deviation of ln(scale).
    offset, offset_std : float
        Posterior mean and standard deviation of the offset.
    best : ScalePoint
        At the best of the scales that were evaluated.
    n_iteration : int
        Newton steps, all scales together.
    converged : bool
        Whether those that matter converged.
    """

    length: float
    slope: float
    log_evidence: float
    log_scale: float
    log_scale_std: float
    offset: float
    offset_std: float
    best: ScalePoint
    n_iteration: int
    converged: bool

    @property
    def density(self) -> Float:
        """The mode, cm-3, shape (n_pixel, n_shell)."""
        return np.exp(self.best.log_density)


def laplace(
    problem: Problem,
    length: float,
    slope: float,
    start: LaplacePoint | None = None,
    *,
    covariance: Covariance | None = None,
    tolerance: float = 1e-3,
) -> LaplacePoint:
    """The evidence at a correlation length and slope.

    Parameters
    ----------
    problem : Problem
    length : float, kpc
    slope : float
    start : LaplacePoint, optional
        Of a neighbouring length and slope, to start from.
    covariance : Covariance, optional
        Of the problem's grid and mask, when many points are computed; it is set to this length and slope.
    tolerance : float
        As in ``laplace_at_scale``.

    Returns
    -------
    LaplacePoint

    Raises
    ------
    GridError
        If the length is not positive or the slope is out of range.
    InferenceError
        If the covariance of the sky is singular to rounding at every scale.

    Notes
    -----
    Field and offset are Gaussian about their mode; the scale is integrated numerically over evidences at fixed scales.
    With the scale as one more coordinate of the mode the posterior has its peak at huge scales, where excitations cost
    nothing, and which have next to no volume.
    """
    covariance = (covariance or Covariance(problem.grid, problem.used)).set(length, slope)
    prior = problem.prior.scale
    points: dict[float, ScalePoint] = {}
    failures: list[InferenceError] = []

    def log_posterior(excitation: float) -> float:
        near = min(points, key=lambda other: abs(other - excitation), default=None)
        source = points[near] if near is not None else start.best if start is not None else None
        scale = math.exp(prior.log_mean + prior.log_std * excitation)
        try:
            point = laplace_at_scale(problem, length, slope, scale, source, covariance=covariance, tolerance=tolerance)
        except InferenceError as error:
            # an extreme scale, unless all are
            failures.append(error)
            return -math.inf
        points[excitation] = point
        return point.log_evidence - 0.5 * excitation**2

    centre, step = 0.0, 0.3
    if start is not None:
        centre = (start.log_scale - prior.log_mean) / prior.log_std
        step = STEP * start.log_scale_std / prior.log_std
    nodes, values = _scan(log_posterior, centre, step)
    if not points:
        raise failures[0]
    log_mass, fine, weight = _integrate(nodes, values)
    mean = float(weight @ fine)
    good = np.isfinite(values)
    order = [points[float(node)] for node in nodes[good]]
    offsets = np.interp(fine, nodes[good], [point.offset for point in order])
    variances = np.interp(fine, nodes[good], [point.offset_std**2 for point in order])
    offset = float(weight @ offsets)
    top = float(values.max())
    return LaplacePoint(
        length=length,
        slope=slope,
        log_evidence=log_mass - 0.5 * math.log(2.0 * math.pi),
        log_scale=prior.log_mean + prior.log_std * mean,
        log_scale_std=prior.log_std * math.sqrt(float(weight @ np.square(fine - mean))),
        offset=offset,
        offset_std=math.sqrt(float(weight @ (variances + np.square(offsets - offset)))),
        best=order[int(np.argmax(values[good]))],
        n_iteration=sum(point.n_iteration for point in order),
        converged=all(point.converged for point, value in zip(order, values[good], strict=True) if value > top - DROP),
    )


def laplace_at_scale(
    problem: Problem,
    length: float,
    slope: float,
    scale: float,
    start: ScalePoint | None = None,
    *,
    covariance: Covariance | None = None,
    tolerance: float = 1e-3,
    max_iterations: int = 60,
) -> ScalePoint:
    """The evidence with the scale held: field and offset are Gaussian about their mode.

    Parameters
    ----------
    problem : Problem
    length : float, kpc
    slope : float
    scale : float
        Standard deviation of ln(density).
    start : ScalePoint, optional
        To start from; else from no structure and the measured total brightness.
    covariance : Covariance, optional
    tolerance : float
        Newton's method stops where a step would lower the energy by less.
    max_iterations : int

    Returns
    -------
    ScalePoint

    Notes
    -----
    Gauss-Newton: in each step the sky is linear in the field and the mode follows from a system of the size of the sky.
    The field is kept as ``K source``, in which its prior energy is a scalar product, without an inverse of K.
    """
    covariance = (covariance or Covariance(problem.grid, problem.used)).set(length, slope)
    used, prior, variance = problem.used, problem.prior, scale**2
    response = problem.response[used] / problem.sigma[used, None]
    data = problem.sky[used] / problem.sigma[used]
    # the average of exp(field) over a cell is larger than exp(average of the field)
    with np.errstate(over="ignore"):
        response = response * np.exp(0.5 * variance * (1.0 - covariance.variances))

    def predict(at: _State) -> Float:
        with np.errstate(over="ignore"):
            offset = prior.offset_mean + prior.offset_std * at.excitation
            return response * np.exp(at.field[used] + offset)

    def energy(at: _State) -> float:
        with np.errstate(over="ignore", invalid="ignore"):
            misfit = np.square(data - predict(at).sum(axis=1)).sum()
            value = 0.5 * (misfit + np.vdot(at.source, at.field[used]) / variance + at.excitation**2)
        return float(value) if math.isfinite(value) else math.inf

    state = _flat(problem, response * problem.sigma[used, None])
    lowest = energy(state)
    if start is not None:
        field = covariance.times(start.source).sum(axis=1)
        near = _State(field, start.source, (start.offset - prior.offset_mean) / prior.offset_std)
        if (value := energy(near)) < lowest:
            state, lowest = near, value

    converged, n_iteration = False, 0
    while True:
        n_iteration += 1
        weights = predict(state)
        sky = weights.sum(axis=1)
        by_offset = sky * prior.offset_std
        product = covariance.times(weights)
        signal = variance * np.matmul(product[used], weights[:, :, None])[..., 0]
        signal += np.outer(by_offset, by_offset)
        signal[np.diag_indices_from(signal)] += 1.0
        factor = _factor(signal, problem)
        residual = data - sky
        linear = (weights * state.field[used]).sum(axis=1) + by_offset * state.excitation
        dual = cho_solve(factor, residual + linear, check_finite=False)
        target = _State(
            variance * np.matmul(dual, product), variance * weights * dual[:, None], float(by_offset @ dual)
        )
        change = target.minus(state)
        by_change = (weights * change.field[used]).sum(axis=1) + by_offset * change.excitation
        slope_down = residual @ by_change - (
            np.vdot(state.source, change.field[used]) / variance + state.excitation * change.excitation
        )
        converged = bool(0.5 * slope_down < tolerance)
        found = None if converged or n_iteration == max_iterations else _search(energy, state, change, lowest)
        if found is None:
            break
        state, lowest = found

    log_determinant = 2.0 * float(np.log(np.diag(factor[0])).sum())
    explained = float(by_offset @ cho_solve(factor, by_offset, check_finite=False))
    offset = prior.offset_mean + prior.offset_std * state.excitation
    normalisation = 0.5 * float(np.log(2.0 * math.pi * np.square(problem.sigma[used])).sum())
    return ScalePoint(
        scale=scale,
        log_evidence=-lowest - 0.5 * log_determinant - normalisation,
        energy=lowest,
        log_determinant=log_determinant,
        offset=offset,
        offset_std=prior.offset_std * math.sqrt(max(1.0 - explained, 0.0)),
        log_density=state.field + offset,
        source=state.source,
        n_iteration=n_iteration,
        converged=converged,
    )


@dataclass(frozen=True, slots=True)
class _State:
    """scale * s on all cells, its source (field = K source) on the seen ones, the offset's excitation."""

    field: Float
    source: Float
    excitation: float

    def minus(self, other: _State) -> _State:
        return _State(self.field - other.field, self.source - other.source, self.excitation - other.excitation)

    def plus(self, share: float, change: _State) -> _State:
        return _State(
            self.field + share * change.field,
            self.source + share * change.source,
            self.excitation + share * change.excitation,
        )


def _factor(signal: Float, problem: Problem) -> tuple[Float, bool]:
    try:
        factor, lower = cho_factor(signal, lower=True)
    except (LinAlgError, ValueError) as error:
        ratio = float(np.max(np.abs(problem.sky / problem.sigma)[problem.used]))
        raise InferenceError(
            f"the covariance of the sky is singular to rounding; sky / sigma is up to {ratio:.3g}: check sigma"
        ) from error
    return factor, bool(lower)


def _flat(problem: Problem, response: Float) -> _State:
    """No structure, and the offset with which the whole sky has the measured brightness."""
    used, prior = problem.used, problem.prior
    measured, at_one = float(problem.sky[used].sum()), float(response.sum())
    offset = math.log(measured / at_one) if measured > 0 and 0 < at_one < math.inf else prior.offset_mean
    cells = (problem.grid.n_pixel, problem.grid.n_shell)
    return _State(
        np.zeros(cells), np.zeros((problem.n_used, cells[1])), (offset - prior.offset_mean) / prior.offset_std
    )


def _search(
    energy: Callable[[_State], float], state: _State, change: _State, lowest: float
) -> tuple[_State, float] | None:
    """The lowest place on the line, by halving the step for as long as that helps."""
    best: tuple[_State, float] | None = None
    for halving in range(20):
        place = state.plus(0.5**halving, change)
        value = energy(place)
        if value < lowest:
            best, lowest = (place, value), value
        elif best is not None:
            break
    return best


def _scan(evaluate: Callable[[float], float], centre: float, step: float) -> tuple[Float, Float]:
    """Places and values of a function with one peak: on both sides down by ``DROP``, and close enough at the top."""
    low, high = SCALE_RANGE
    step = min(max(step, 0.05), 1.0)
    values = {place: evaluate(place) for place in (float(np.clip(centre + k * step, low, high)) for k in (0, 1, -1))}
    up = down = step
    while True:
        places = sorted(values)
        top = max(values, key=values.__getitem__)
        if values[top] == -math.inf:
            return np.asarray(places), np.full(len(places), -math.inf)
        if values[places[-1]] > values[top] - DROP and places[-1] < high:
            # far from the peak the steps grow
            up *= 1.5 if places[-1] == top and len(places) >= N_NODE else 1.0
            place = min(places[-1] + up, high)
        elif values[places[0]] > values[top] - DROP and places[0] > low:
            down *= 1.5 if places[0] == top and len(places) >= N_NODE else 1.0
            place = max(places[0] - down, low)
        else:
            i = places.index(top)
            falls = [(values[top] - values[places[k]], places[k]) for k in (i - 1, i + 1) if 0 <= k < len(places)]
            fall, beside = max(falls)
            if (fall < GAP and len(places) >= N_NODE) or abs(beside - top) < 0.02:
                return np.asarray(places), np.asarray([values[place] for place in places])
            place = 0.5 * (top + beside)
        values[place] = evaluate(place)


def _integrate(nodes: Float, log_values: Float) -> tuple[float, Float, Float]:
    """Log of the integral of exp(values), places and normalised weights."""
    top = log_values.max()
    # deep values would make the spline swing
    floored = np.maximum(log_values - top, -12.0)
    curve: CubicSpline | PchipInterpolator = CubicSpline(nodes, floored)
    if curve(np.linspace(nodes[0], nodes[-1], 201)).max() > OVERSHOOT:
        # one mode ends and another begins between two scales: about such a step a spline swings
        curve = PchipInterpolator(nodes, floored)
    tail = nodes[-1] - nodes[0]
    places = np.linspace(nodes[0] - tail, nodes[-1] + tail, 1201)
    inside = np.clip(places, nodes[0], nodes[-1])
    fall = np.where(places < inside, np.maximum(curve(nodes[0], 1), 0.0), np.minimum(curve(nodes[-1], 1), 0.0))
    weight = np.exp(curve(inside) + fall * (places - inside))
    total = float(weight.sum())
    return float(top + math.log(total * (places[1] - places[0]))), places, weight / total
