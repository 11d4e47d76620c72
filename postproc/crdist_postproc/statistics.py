"""Statistics over samples. The operation that makes a product comes first, sample by sample; these come last.

The standard deviation of an integral is not the integral of the standard deviation: neighbouring cells vary together.
So every function here takes the finished product of each sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from crdist_postproc.kernels.significance import significances

__all__ = ["STATISTICS", "significance_and_error", "summarise"]

STATISTICS = ("mean", "std", "significance", "significance_error")


def summarise(
    samples: npt.NDArray[np.floating], quantiles: Sequence[float] = (), freedom: int | None = None
) -> dict[str, npt.NDArray[np.float64]]:
    """Mean, standard deviation, significance and quantiles over the last axis.

    Parameters
    ----------
    samples : ndarray, shape (..., n_sample)
        A product, sample by sample; NaN where it is masked.
    quantiles : sequence of float
        Probabilities in [0, 1], interpolated linearly between order statistics.
    freedom : int, optional
        As for `significance_and_error`.

    Returns
    -------
    dict of str to ndarray of float64, shape (...)
        ``mean``; ``std`` with ddof = 1, NaN for one sample; ``significance``; ``significance_error``; and
        ``quantile``, shape (..., n_quantile), where quantiles are asked for.

    Examples
    --------
    >>> result = summarise(np.array([1.0, 2.0, 3.0]))
    >>> result["mean"].item(), result["std"].item(), result["significance"].item()
    (2.0, 1.0, 2.0)
    """
    samples = np.asarray(samples, dtype=np.float64)
    n_sample = samples.shape[-1]
    mean = samples.mean(axis=-1)
    if n_sample > 1:
        std = samples.std(axis=-1, ddof=1)
    else:
        std = np.full_like(mean, np.nan)
    significance, error = significance_and_error(mean, std, n_sample, freedom)
    result = dict(zip(STATISTICS, (mean, std, significance, error), strict=True))
    if len(quantiles):
        result["quantiles"] = np.moveaxis(np.quantile(samples, list(quantiles), axis=-1), 0, -1)
    return result


def significance_and_error(
    mean: npt.NDArray[np.floating], std: npt.NDArray[np.floating], n_sample: int, freedom: int | None = None
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
    """Significance mean / std, and the standard error it has for being estimated from few samples.

    Parameters
    ----------
    mean, std : ndarray, shape (...)
        Over the samples, std with ddof = 1.
    n_sample : int
    freedom : int, optional
        Degrees of freedom of the variance, if not n_sample - 1: the number of pairs for mirrored pairs of samples, see
        `crdist.mirrored.degrees_of_freedom`.

    Returns
    -------
    significance : ndarray, shape (...), of the mean's type
        NaN where the std is 0 or there is one sample.
    error : ndarray, shape (...), of the mean's type
        Standard deviation that the significance has over repetitions with as many samples; NaN for fewer than 3
        degrees of freedom, for which it is infinite. With 12 samples it is about a quarter of a large significance.

    Notes
    -----
    For independent normal samples sqrt(n) times the significance follows a noncentral t distribution with n - 1
    degrees of freedom, whose variance is known in closed form (Johnson & Welch 1940, Biometrika 31, 362; Hogben et
    al. 1961, Biometrika 48, 465). The true significance in it is estimated without bias.
    """
    mean, std = np.asarray(mean), np.asarray(std)
    freedom = n_sample - 1 if freedom is None else freedom
    if freedom < 3:
        bias, spread = 1.0, math.nan
    else:
        # by how much a significance comes out too large on average
        bias = math.sqrt(freedom / 2) * math.exp(math.lgamma((freedom - 1) / 2) - math.lgamma(freedom / 2))
        spread = freedom / (freedom - 2)
    significance, error = np.empty(mean.shape, mean.dtype), np.empty(mean.shape, mean.dtype)
    significances(
        np.ascontiguousarray(mean).ravel(),
        np.ascontiguousarray(std, dtype=mean.dtype).ravel(),
        np.float64(n_sample),
        bias,
        spread,
        significance.ravel(),
        error.ravel(),
    )
    return significance, error
