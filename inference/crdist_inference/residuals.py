"""Residuals of a truth in units of what a finite number of samples says about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from crdist.errors import GridError

__all__ = ["Standardised", "standardise"]

Float = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Standardised:
    """Residuals of a truth in units of what a finite number of samples says about it.

    Parameters
    ----------
    mean, spread : ndarray
        Posterior mean and standard deviation.
    residual : ndarray
        (mean - truth) / sqrt(spread^2 + error of the mean^2).
    degrees : float
        A calibrated ``residual`` follows Student's distribution with so many degrees of freedom.
    """

    mean: Float
    spread: Float
    residual: Float
    degrees: float

    @property
    def normal(self) -> Float:
        """The residual mapped from Student's distribution to the standard normal one."""
        return _to_normal(self.residual, self.degrees)


def standardise(samples: npt.ArrayLike, truth: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> Standardised:
    """Standardise the residuals of a truth, with allowance for the finite number of samples.

    Parameters
    ----------
    samples : array_like, shape (n_sample, ...)
    truth : array_like, shape (...)
    groups : array_like of int, shape (n_sample,), optional
        Samples of one group are mirrored pairs about one mean. Independent samples are each a group of their own.
        Left out, all samples are mirrored pairs about one mean.

    Returns
    -------
    Standardised

    Raises
    ------
    GridError
        If shapes do not fit, a group of several has an odd number, or there are fewer than four samples.

    Notes
    -----
    With W the variance of the samples about the mean of their group and B the variance (ddof = 1) of the D groups'
    means, a truth from the same distribution has ``E (mean - truth)^2 = (W + B) + B / D``. Mirrored pairs have no
    sampling error in their mean, so one group has B = 0 and W as many degrees of freedom as pairs; n independent
    samples have W = 0, n - 1 degrees of freedom and the familiar factor 1 + 1 / n. In between, degrees of freedom are
    combined after Satterthwaite. The expected mean square of the residual is degrees / (degrees - 2), for either.

    Examples
    --------
    >>> standardise([[-1.0], [1.0], [3.0], [-3.0]], [5.0]).residual
    array([-2.23606798])
    """
    samples = np.asarray(samples, dtype=np.float64)
    truth = np.asarray(truth, dtype=np.float64)
    n = samples.shape[0] if samples.ndim else 0
    if n < 4:
        raise GridError(f"a validation needs at least 4 samples, got {n}")
    if samples.shape[1:] != truth.shape:
        raise GridError(f"samples of the shape {samples.shape[1:]} cannot be compared with a truth of {truth.shape}")
    of = np.zeros(n, dtype=np.int64) if groups is None else np.asarray(groups)
    if of.shape != (n,):
        raise GridError(f"groups must have one number for each of {n} samples, got the shape {of.shape}")
    _, of, sizes = np.unique(of, return_inverse=True, return_counts=True)
    if odd := [int(size) for size in sizes if size > 1 and size % 2]:
        raise GridError(f"a group of mirrored pairs has an even number of samples, got {odd[0]}")
    means = np.stack([samples[of == group].mean(axis=0) for group in range(sizes.size)])
    within = np.zeros(truth.shape)
    for sample, group in zip(samples, of, strict=True):
        within += np.square(sample - means[group])
    within /= n
    mean = np.asarray(np.tensordot(sizes / n, means, axes=1))
    between = means.var(axis=0, ddof=1) if sizes.size > 1 else np.zeros(truth.shape)
    variance = within + between
    # rounding leaves a trace of spread in samples that are all alike
    if not (variance > 1e-24 * np.square(mean)).all():
        raise GridError("the samples do not differ in every cell, so residuals have no scale")
    share = float(np.mean(between / variance))
    pairs = float(sizes[sizes > 1].sum()) / 2
    inverse = ((1 - share) ** 2 / pairs if pairs else 0.0) + (share**2 / (sizes.size - 1) if sizes.size > 1 else 0.0)
    residual = (mean - truth) / np.sqrt(variance + between / sizes.size)
    return Standardised(mean, np.sqrt(variance), residual, 1.0 / inverse)


def _to_normal(residual: Float, degrees: float) -> Float:
    # from the tail's end, where a probability keeps its precision
    size = stats.norm.isf(np.maximum(stats.t.sf(np.abs(residual), degrees), 1e-300))
    return np.asarray(np.copysign(size, residual))
