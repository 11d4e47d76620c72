"""Arguments of the formulae: numbers that broadcast and lie in their range, or one line that says what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from crdist.errors import RecipeError

__all__ = ["Values", "arrays", "check_alpha", "check_band", "check_not_negative", "check_positive", "plain", "refuse"]

Values = npt.NDArray[np.float64]


def arrays(**named: npt.ArrayLike) -> list[Values]:
    """The arguments as arrays of float64 whose shapes broadcast."""
    found = []
    for name, values in named.items():
        try:
            found.append(np.asarray(values, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise RecipeError(f"{name} must be numbers, got {values!r}") from error
    try:
        np.broadcast_shapes(*(array.shape for array in found))
    except ValueError as error:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(named, found, strict=True))
        raise RecipeError(f"shapes that do not broadcast: {shapes}") from error
    return found


def plain(values: npt.ArrayLike) -> Values:
    """Scalars as scalars, which print and serialise like floats."""
    return np.asarray(values, dtype=np.float64)[()]


def check_alpha(alpha: Values | np.float64) -> None:
    """Refuse slopes of the spectrum that are not above 1."""
    refuse(~(np.isfinite(alpha) & (alpha > 1.0)), "alpha must be a number above 1", alpha, "")


def check_band(lower: Values | np.float64, upper: Values | np.float64) -> None:
    """Refuse bands that do not run from a lower to a higher positive energy."""
    check_positive("e_min_gev", lower, "GeV")
    check_positive("e_max_gev", upper, "GeV")
    lower, upper = np.broadcast_arrays(lower, upper)
    empty = np.flatnonzero(~(lower < upper))
    if empty.size:
        i = int(empty[0])
        raise RecipeError(
            f"a band runs from a lower to a higher energy, got {lower.flat[i]:g} to {upper.flat[i]:g} GeV"
        )


def check_positive(name: str, values: Values | np.float64, unit: str) -> None:
    """Refuse what is not positive and finite."""
    refuse(~(np.isfinite(values) & (values > 0.0)), f"{name} must be positive and finite", values, unit)


def check_not_negative(name: str, values: Values, unit: str) -> None:
    """Refuse what is negative or infinite; NaN passes."""
    refuse(
        ~np.isnan(values) & ~((values >= 0.0) & (values < np.inf)),
        f"{name} must not be negative or infinite",
        values,
        unit,
    )


def refuse(bad: Any, rule: str, values: Values | np.float64, unit: str) -> None:
    """Raise an error that shows the first bad value and, in an array, how many there are."""
    n_bad = int(np.count_nonzero(bad))
    if n_bad:
        first = np.asarray(values)[np.asarray(bad)].flat[0]
        count = f" ({n_bad} of {np.size(values)} values)" if np.size(values) > 1 else ""
        raise RecipeError(f"{rule}, got {first:g}{' ' * bool(unit)}{unit}{count}")
