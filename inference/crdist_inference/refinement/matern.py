"""The Matern correlation in three dimensions for any real slope, exact in NumPy and tabulated for JAX."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from crdist.errors import GridError

__all__ = ["SLOPE_RANGE", "MaternTable", "matern_correlation"]

SLOPE_RANGE = (3.1, 20.0)
"""Slopes that are tabulated. At 3 and below the spectrum has no finite variance in three dimensions."""

LOG_SCALED_DISTANCE = (math.log(1e-6), math.log(800.0))
N_EXACT = 1280
N_DISTANCE = 16384
"""Entries of the table along the distance: computed at ``N_EXACT`` of them, splined between. What the spline and the
cubic interpolation add makes covariances of smooth fields indefinite; with these numbers by some 2e-10 among 6000
cells, with half of them by 4e-9, which is more than the jitter of the factorisations."""
N_SLOPE = 96


def matern_correlation(scaled_distance: npt.ArrayLike, slope: float) -> npt.NDArray[np.float64]:
    """Correlation of the isotropic field whose spectrum is ``P(k) ~ [1 + (k l)^2]^(-slope / 2)``.

    Parameters
    ----------
    scaled_distance : array_like
        Distance over the correlation length l; not negative.
    slope : float
        Logarithmic slope of the spectrum at small scales, larger than 3; ``slope = 2 nu + 3``.

    Returns
    -------
    ndarray of float64
        1 at distance zero.

    Raises
    ------
    GridError
        If the slope is 3 or less: such a field has no finite variance.

    Notes
    -----
    The Matern function is a mixture of Gaussians, ``1 / Gamma(nu) int u^(nu - 1) e^-u e^(-x^2 / 4u) du``; in
    ``log u`` the trapezoidal rule converges exponentially, and near distance zero the difference from 1 keeps its
    relative precision, which no formula in Bessel functions does.

    Examples
    --------
    At slope 6 it is ``(1 + x) exp(-x)``.

    >>> float(abs(matern_correlation(1.0, 6.0) - 2 * np.exp(-1.0))) < 1e-14
    True
    """
    return np.exp(_log_correlation(scaled_distance, slope))


def _log_correlation(scaled_distance: npt.ArrayLike, slope: float) -> npt.NDArray[np.float64]:
    if not slope > 3.0:
        raise GridError(f"the slope of a spectrum in three dimensions must be larger than 3, got {slope:g}")
    x = np.asarray(scaled_distance, dtype=np.float64)
    nu = (slope - 3.0) / 2.0
    # beyond these bounds the integrand is below 1e-17 of the whole
    step = 0.05
    log_u = np.arange(min(-39.0 / nu, -39.0), 5.5 + math.log1p(nu), step)
    weight = np.exp(nu * log_u - np.exp(log_u))
    weight /= weight.sum()
    with np.errstate(over="ignore"):
        exponent = np.multiply.outer(-0.25 * np.square(x), np.exp(-log_u))
    lost = -(np.expm1(exponent) @ weight)
    kept = np.exp(exponent) @ weight
    # each form where it is the small one
    with np.errstate(divide="ignore"):
        return np.asarray(np.where(lost < 0.5, np.log1p(-np.minimum(lost, 0.5)), np.log(kept)))


class MaternTable(NamedTuple):
    """The correlation as a table of ``log(-log correlation)``, cubic in slope; a row of it is cubic in log distance.

    Good to 1e-6 over ``SLOPE_RANGE``; differentiable in both arguments.

    Parameters
    ----------
    values : Array, shape (n_slope, n_distance)
    """

    values: jax.Array

    @classmethod
    def build(cls) -> MaternTable:
        """The table; it is computed once per process."""
        return cls(jnp.asarray(_table_values()))

    def row(self, slope: jax.Array | float) -> jax.Array:
        """Correlations at one slope, shape (n_distance,); slopes outside ``SLOPE_RANGE`` count as its ends."""
        low, high = np.log(SLOPE_RANGE[0] - 3.0), np.log(SLOPE_RANGE[1] - 3.0)
        inside = jnp.clip(jnp.asarray(slope, dtype=jnp.float64), SLOPE_RANGE[0], SLOPE_RANGE[1])
        place = (jnp.log(inside - 3.0) - low) / (high - low) * (N_SLOPE - 1)
        first = jnp.clip(jnp.floor(place), 1, N_SLOPE - 3).astype(jnp.int32)
        rows = jax.lax.dynamic_slice_in_dim(self.values, first - 1, 4, 0)
        return jnp.exp(-jnp.exp(_cubic(rows[0], rows[1], rows[2], rows[3], place - first)))

    @staticmethod
    def correlation(row: jax.Array, log_distance: npt.NDArray[np.float64], log_length: jax.Array) -> jax.Array:
        """Correlation at ln(distance), of any shape, -inf for zero, for ln(length) in the same unit, from a row."""
        low, high = LOG_SCALED_DISTANCE
        apart = np.isfinite(log_distance)
        # a finite stand-in: derivatives of the branch that is not taken would not be numbers
        logarithm = jnp.asarray(np.where(apart, log_distance, 0.0)) - log_length
        place = jnp.clip((logarithm - low) * ((N_DISTANCE - 1) / (high - low)), 1.0, N_DISTANCE - 2.001)
        first = place.astype(jnp.int32)
        a, b, c, d = (row.at[first + step].get(mode="promise_in_bounds") for step in (-1, 0, 1, 2))
        return jnp.where(apart, _cubic(a, b, c, d, place - first), 1.0)


@lru_cache(maxsize=1)
def _table_values() -> npt.NDArray[np.float64]:
    from scipy.interpolate import CubicSpline

    exact, log_distance = (np.linspace(*LOG_SCALED_DISTANCE, n) for n in (N_EXACT, N_DISTANCE))
    slopes = 3.0 + np.exp(np.linspace(np.log(SLOPE_RANGE[0] - 3.0), np.log(SLOPE_RANGE[1] - 3.0), N_SLOPE))
    values = [np.log(-_log_correlation_with_tail(np.exp(exact), float(slope))) for slope in slopes]
    return np.asarray(CubicSpline(exact, np.stack(values), axis=1)(log_distance))


def _log_correlation_with_tail(distance: npt.NDArray[np.float64], slope: float) -> npt.NDArray[np.float64]:
    """As ``_log_correlation``; where the correlation underflows, the exponential tail goes on."""
    value = _log_correlation(distance, slope)
    good = np.isfinite(value) & (value > -600.0)
    last = int(np.flatnonzero(good)[-1])
    tail = value[last] - (distance - distance[last])
    return np.where(good, value, tail)


def _cubic(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array, fraction: jax.Array) -> jax.Array:
    """Lagrange's interpolation between b and c."""
    # of fourth order, where Catmull-Rom's smoother curve is of third
    left, right = a - 2 * b + c, b - 2 * c + d
    return b + fraction * (c - b) - fraction * (1 - fraction) * ((2 - fraction) * left + (1 + fraction) * right) / 6
