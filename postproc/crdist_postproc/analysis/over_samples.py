"""Statistics over samples, as lazy arrays: the last step, after everything that is done to each sample.

A cell that is NaN in one sample is NaN in each statistic: statistics next to each other would else be over different
samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from crdist.errors import RecipeError
from crdist_postproc.analysis.samples import long_name_of, require_samples, with_attributes
from crdist_postproc.statistics import significance_and_error

__all__ = ["mean", "quantile", "significance", "statistics", "std", "where_significant"]


def mean(samples: xr.DataArray) -> xr.DataArray:
    """Mean over samples, float64.

    Raises
    ------
    SchemaError
        If there are no samples.
    """
    n = require_samples(samples)
    result = samples.mean("sample", dtype=np.float64, skipna=False)
    return with_attributes(result, samples, long_name=f"{long_name_of(samples)}, mean over {n} samples")


def std(samples: xr.DataArray) -> xr.DataArray:
    """Standard deviation over samples (ddof = 1), float64; NaN for a single sample.

    Raises
    ------
    SchemaError
        If there are no samples.
    """
    n = require_samples(samples)
    text = f"{long_name_of(samples)}, standard deviation over {n} samples (ddof=1)"
    if n == 1:
        return with_attributes(mean(samples) * np.nan, samples, long_name=text)
    wide = samples.astype(np.float64)
    return with_attributes(wide.std("sample", ddof=1, skipna=False), samples, long_name=text)


def quantile(samples: xr.DataArray, levels: float | Sequence[float]) -> xr.DataArray:
    """Quantiles over samples, linear between order statistics, float64.

    Parameters
    ----------
    samples : DataArray with a dimension ``sample``
    levels : float or sequence of float
        Probabilities in [0, 1]. Of several, a dimension ``quantile`` comes last.

    Raises
    ------
    RecipeError
        If a level is no probability.
    SchemaError
        If there are no samples.
    """
    n = require_samples(samples)
    asked = np.asarray(levels, dtype=np.float64)
    if asked.size == 0 or not ((asked >= 0) & (asked <= 1)).all():
        raise RecipeError(f"quantile levels must be numbers between 0 and 1, got {levels}")
    wide = samples.astype(np.float64)
    if samples.chunks is not None:
        wide = wide.chunk(sample=-1)
    result = wide.quantile(asked, dim="sample", skipna=False)
    if "quantile" in result.dims:
        result = result.transpose(..., "quantile")
    return with_attributes(result, samples, long_name=f"{long_name_of(samples)}, quantiles over {n} samples")


def statistics(samples: xr.DataArray) -> xr.Dataset:
    """Mean, std, significance and the significance's own error, as the products hold them.

    Returns
    -------
    Dataset of float64
        See `crdist_postproc.statistics.significance_and_error` for the last two.
    """
    n = require_samples(samples)
    centre, spread = mean(samples), std(samples)
    ratio, error = xr.apply_ufunc(
        significance_and_error,
        centre,
        spread,
        kwargs={"n_sample": n},
        output_core_dims=[[], []],
        dask="parallelized",
        output_dtypes=[np.float64, np.float64],
    )
    text = long_name_of(samples)
    attrs = {key: value for key, value in samples.attrs.items() if key != "long_name"}
    return xr.Dataset(
        {
            "mean": centre,
            "std": spread,
            "significance": ratio.assign_attrs(attrs, units="", long_name=f"{text}, mean / std over {n} samples"),
            "significance_error": error.assign_attrs(
                attrs, units="", long_name=f"{text}, standard error of mean / std for {n} samples"
            ),
        },
        attrs={"n_sample": n},
    )


def significance(samples: xr.DataArray) -> xr.DataArray:
    """Mean / std over samples, float64; NaN where the std is 0."""
    return statistics(samples)["significance"]


def where_significant(samples: xr.DataArray, threshold: float) -> xr.DataArray:
    """The samples where mean / std is at least a threshold, NaN in all samples elsewhere.

    What is integrated afterwards is integrated over the significant part: a choice made with the same samples, so
    that its mean is biased high where the threshold bites.

    Parameters
    ----------
    samples : DataArray with a dimension ``sample``
    threshold : float
        In standard deviations.
    """
    kept = samples.where(significance(samples) >= threshold)
    text = f"{long_name_of(samples)}, where mean / std >= {threshold:g}"
    return with_attributes(kept, samples, long_name=text)
