"""Significance of many values at once, without temporaries the size of a volume."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from crdist_postproc.kernels.approx import FASTMATH

__all__ = ["significances"]


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def significances(mean, std, n_sample, bias, spread, significance, error):
    """Fill ``significance`` = mean / std and its ``error``, see `crdist_postproc.statistics.significance_and_error`.

    All arrays are 1-d and of one type; ``bias`` and ``spread`` are the moments of the noncentral t distribution.
    """
    for i in range(mean.size):
        width = np.float64(std[i])
        ratio = np.float64(mean[i]) / width if width > 0.0 else np.nan
        unbiased = ratio / bias
        significance[i] = ratio
        error[i] = math.sqrt(spread * (1.0 / n_sample + unbiased * unbiased) - ratio * ratio)
