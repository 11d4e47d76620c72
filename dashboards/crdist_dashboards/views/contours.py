"""Contours of one map over another, such as of the gas column."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from crdist.errors import SchemaError
from crdist_dashboards.records import Curve, MapView
from crdist_dashboards.scales import SUPERSCRIPT, unicode_units

__all__ = ["check_same_frame", "contour_curves", "round_levels"]

MIN_LEVELS, MAX_LEVELS = 3, 5
ROUND = (("1", "3"), ("1", "2", "5"), ("1", "1.5", "2", "3", "5", "7"))
"""First digits of levels, the coarsest that give enough of them."""

FAINTEST_PERCENTILE, BRIGHTEST_PERCENTILE = 50.0, 99.5
"""Contours lie between these percentiles of the positive values."""


def contour_curves(view: MapView) -> tuple[Curve, ...]:
    """The contours of a map at round levels, evenly spaced in the logarithm as nearly as those allow.

    Parameters
    ----------
    view : MapView
        What to draw the contours of; masked places interrupt them.

    Returns
    -------
    tuple of Curve
        One a level, its parts separated by NaN, labelled with level and unit; levels nothing reaches are left out.

    Raises
    ------
    SchemaError
        If no value is positive.
    """
    from contourpy import contour_generator

    values = np.asarray(view.values, dtype=np.float64)
    left, right, bottom, top = view.extent
    n_up, n_across = values.shape
    if min(n_up, n_across) < 2:
        raise SchemaError(f"contours of {view.quantity}: a map of {n_across} x {n_up} voxels has none")
    x = left + (np.arange(n_across) + 0.5) * (right - left) / n_across
    y = bottom + (np.arange(n_up) + 0.5) * (top - bottom) / n_up
    generator = contour_generator(x, y, np.ma.masked_invalid(values))
    curves = []
    for level in round_levels(values):
        parts = [np.asarray(part) for part in generator.lines(level)]
        if not parts:
            continue
        gap = np.full((1, 2), np.nan)
        joined = np.concatenate([piece for part in parts for piece in (part, gap)][:-1])
        label = f"{_number(level)} {unicode_units(view.units)}".strip()
        curves.append(Curve("contour", joined[:, 0], joined[:, 1], label))
    return tuple(curves)


def round_levels(values: npt.NDArray[np.floating]) -> list[float]:
    """Levels such as 1 and 3 times powers of ten, finer where few, across the brighter half of the positive values.

    Raises
    ------
    SchemaError
        If no value is positive.

    Examples
    --------
    >>> round_levels(np.geomspace(1e20, 1e24, 1001))
    [1e+22, 3e+22, 1e+23, 3e+23]
    """
    positive = values[np.isfinite(values) & (values > 0)]
    if positive.size == 0:
        raise SchemaError("contours need positive values, and the map has none")
    low, high = (float(v) for v in np.percentile(positive, (FAINTEST_PERCENTILE, BRIGHTEST_PERCENTILE)))
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for digits in ROUND:
        # float of a text: 3 * 10.0**22 is not the number nearest to 3e22
        found = [level for n in decades for digit in digits if low <= (level := float(f"{digit}e{n}")) <= high]
        if len(found) >= MIN_LEVELS:
            break
    if len(found) < 2:
        # the values span too little for round numbers
        found = [float(f"{level:.2g}") for level in np.geomspace(low, high, 4)[:-1]] if high > low else [low]
    return found[:: -(-len(found) // MAX_LEVELS)]


def check_same_frame(first: MapView, second: MapView) -> None:
    """Refuse to draw one map over another of another frame or axis.

    Raises
    ------
    SchemaError
        If they differ.
    """
    if first.frame != second.frame:
        raise SchemaError(
            f"contours of {second.quantity}: frame {second.frame}, but the map has {first.frame}; "
            "make both products in one frame"
        )
    if first.axis != second.axis:
        raise SchemaError(
            f"contours of {second.quantity}: integrated along {second.axis}, but the map along {first.axis}"
        )


def _number(value: float) -> str:
    """A number as people write it, 3e21 with the power of ten raised."""
    mantissa, exponent = f"{value:.2g}".partition("e")[::2] if "e" in f"{value:.2g}" else (f"{value:.2g}", "")
    if not exponent:
        return mantissa
    power = "10" + str(int(exponent)).translate(SUPERSCRIPT)
    return power if mantissa == "1" else f"{mantissa}\N{MULTIPLICATION SIGN}{power}"
