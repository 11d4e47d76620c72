"""Coarser HEALPix maps: means over the children of a nested pixel, and what becomes of their standard deviations."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from crdist.errors import GridError, RecipeError
from crdist.grids import MAX_NSIDE

__all__ = [
    "SigmaRule",
    "check_nside",
    "downgrade_known",
    "healpix_nside",
    "is_sphere",
    "mean_of_children",
    "n_children",
]

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

SigmaRule = Literal["mean", "quadrature"]
"""How the standard deviations of children combine.

``mean``: their mean, as for errors that are the same in all children (fully correlated). ``quadrature``:
sqrt(sum sigma^2) / n, as for errors of a mean of independent values.
"""


def check_nside(nside: int) -> int:
    """The resolution, if it is one.

    Raises
    ------
    GridError
        If it is not a power of two.
    """
    whole = isinstance(nside, int | np.integer) and not isinstance(nside, bool)
    if not (whole and 1 <= nside <= MAX_NSIDE and nside & (nside - 1) == 0):
        raise GridError(f"nside must be a power of two between 1 and {MAX_NSIDE}, got {nside}")
    return int(nside)


def healpix_nside(n_pixel: int) -> int:
    """The resolution of a full sphere of so many pixels; 0 if there is none."""
    nside = math.isqrt(n_pixel // 12)
    return nside if 12 * nside**2 == n_pixel and nside & (nside - 1) == 0 else 0


def is_sphere(n_pixel: int) -> bool:
    """Whether so many pixels are a full sphere."""
    return healpix_nside(n_pixel) > 0


def n_children(nside: int, nside_coarse: int) -> int:
    """Pixels of resolution ``nside`` in one of ``nside_coarse``.

    Raises
    ------
    GridError
        If the second is the finer one: there is nothing to tell its pixels apart.
    """
    if check_nside(nside_coarse) > nside:
        raise GridError(
            f"a map of nside {nside} cannot be made finer, to nside {nside_coarse}; ask for {nside} or less"
        )
    return int((nside // nside_coarse) ** 2)


def mean_of_children(values: npt.NDArray[np.floating], n_child: int) -> Float:
    """Mean over each group of nested pixels that share a parent.

    Parameters
    ----------
    values : ndarray, shape (n_pixel, ...)
        Nested pixels, of the whole sphere or of whole parents.
    n_child : int
        Pixels in a parent, a power of four.

    Returns
    -------
    ndarray of float64, shape (n_pixel / n_child, ...)

    Examples
    --------
    >>> mean_of_children(np.arange(8.0), 4)
    array([1.5, 5.5])
    """
    groups = values.reshape(-1, n_child, *values.shape[1:])
    return np.asarray(groups.mean(axis=1, dtype=np.float64), dtype=np.float64)


def downgrade_known(
    values: Float, sigma: Float, known: Bool, *, n_child: int, rule: SigmaRule, min_fraction: float
) -> tuple[Float, Float, Bool]:
    """Coarser values and standard deviations from the known children alone.

    Parameters
    ----------
    values, sigma : ndarray, shape (n_pixel,)
        Nested map and its standard deviation; what is not known may be anything.
    known : ndarray of bool, shape (n_pixel,)
        Which pixels count.
    n_child : int
        Pixels in a coarser one.
    rule : {"mean", "quadrature"}
        See `SigmaRule`.
    min_fraction : float, 0 to 1
        A coarser pixel is known if at least this share of its children, and at least one child, is.

    Returns
    -------
    values, sigma : ndarray, shape (n_pixel / n_child,)
        NaN where no child is known.
    known : ndarray of bool, shape (n_pixel / n_child,)

    Raises
    ------
    RecipeError
        If there is no such rule, or the share is not one.
    """
    if rule not in get_args(SigmaRule):
        raise RecipeError(f"sigma_rule must be one of {', '.join(get_args(SigmaRule))}, got {rule!r}")
    if not 0.0 <= min_fraction <= 1.0:
        raise RecipeError(f"min_fraction must be between 0 and 1, got {min_fraction:g}")
    groups = known.reshape(-1, n_child)
    count = groups.sum(axis=1)
    # without a known child 0 / 1 is replaced by NaN below
    divisor = np.maximum(count, 1)

    def total(array: Float) -> Float:
        return np.asarray(np.where(groups, array.reshape(-1, n_child), 0.0).sum(axis=1), dtype=np.float64)

    coarse = total(values) / divisor
    spread = total(sigma) / divisor if rule == "mean" else np.sqrt(total(sigma**2)) / divisor
    empty = count == 0
    coarse[empty] = spread[empty] = np.nan
    return coarse, spread, ~empty & (count >= min_fraction * n_child)
