"""The exact prior covariance of a field on a spherical grid, applied to the lines of sight."""

from __future__ import annotations

import math
from functools import lru_cache

import healpy
import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline

from crdist.errors import GridError
from crdist.grids import SphericalGrid

from .refinement import SLOPE_RANGE, matern_correlation

__all__ = ["Covariance"]

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

N_TABLE = 32769
"""Entries of a correlation table, linear between them: an error of 1e-9, below what the data can resolve."""

BLOCK_BYTES = 1 << 25


class Covariance:
    """The exact prior covariance among the cells of a grid, without ever being stored whole.

    Pairs of pixels at the same angle share their block of n_shell x n_shell correlations; HEALPix has about 32 such
    (ordered) pairs for each angle.

    Parameters
    ----------
    grid : SphericalGrid
    used : ndarray of bool, shape (n_pixel,)
        Pixels that are seen.
    fine : SphericalGrid, optional
        If given, the field lives on the cells of this finer grid, and those of ``grid`` stand for averages of it.

    Notes
    -----
    The squared distance between a fine cell of one average and one of another has a mean and a variance, which are
    known if fine cells scatter about their centroid alike in all directions. The covariance of two averages is taken as
    the mean of those one standard deviation above and below. For cells as large as the correlation length it is within
    3 % of the exact average (relative Frobenius norm); that at the distance of the centres is off by up to 30 %.
    """

    def __init__(self, grid: SphericalGrid, used: npt.NDArray[np.bool_], *, fine: SphericalGrid | None = None) -> None:
        vectors = np.stack(healpy.pix2vec(grid.nside, np.arange(grid.n_pixel), nest=grid.ordering == "nested"), axis=-1)
        pixels = np.flatnonzero(used)
        chord2 = sum(np.square(np.subtract.outer(axis, axis[pixels])) for axis in vectors.T)
        # equal angles differ by rounding
        angles, kind = np.unique(np.round(chord2, 10), return_inverse=True)
        r, spread2 = (grid.centres, np.zeros(grid.n_shell)) if fine is None else _averaged(grid, fine)
        between = np.square(r[:, None] - r) + angles[:, None, None] * (r[:, None] * r)
        spread = spread2[:, None] + spread2
        deviation = np.sqrt((4.0 * between + 2.0 * spread) * spread / 3.0)
        distance2 = np.stack([between + spread + sign * deviation for sign in ((-1, 1) if fine else (0,))])
        apart = distance2 > 0
        low, high = (0.5 * math.log(value) for value in (distance2[apart].min(initial=1.0), distance2.max(initial=1.0)))
        self._places = np.linspace(low - 1e-6, high + 1e-6, N_TABLE)
        step = self._places[1] - self._places[0]
        place = (0.5 * np.log(np.where(apart, distance2, math.exp(2 * low))) - self._places[0]) / step
        # the last entry stands for distance zero
        self._entry = np.where(apart, place.astype(np.int32), N_TABLE - 1)
        self._fraction = np.where(apart, place - self._entry, 0.0)
        self._blocks, place_of_pair = _pairs_by_kind(kind.reshape(chord2.shape), grid.n_shell)
        self._order = np.argsort(place_of_pair)
        self.shape = (grid.n_pixel, pixels.size, grid.n_shell)
        self._correlation = np.empty(0)
        self._at = (0.0, 0.0)

    def set(self, length: float, slope: float) -> Covariance:
        """Take the covariance of a correlation length [kpc] and spectral slope.

        Raises
        ------
        GridError
            If the length is not positive or the slope is out of range.
        """
        if not (length > 0 and math.isfinite(length)):
            raise GridError(f"a correlation length must be positive, got {length:g} kpc")
        if not SLOPE_RANGE[0] <= slope <= SLOPE_RANGE[1]:
            raise GridError(f"a spectral slope must lie in {SLOPE_RANGE[0]:g} to {SLOPE_RANGE[1]:g}, got {slope:g}")
        if self._at == (length, slope):
            return self
        self._at = (length, slope)
        values = np.exp(-np.exp(_log_decay(float(slope))(self._places - math.log(length))))
        steps = np.append(np.diff(values), 0.0)
        values[-1] = 1.0
        self._correlation = (values[self._entry] + steps[self._entry] * self._fraction).mean(axis=0)
        return self

    @property
    def variances(self) -> Float:
        """Variance of each shell's cells, shape (n_shell,): 1, or less for averages."""
        # the first angle is zero
        return np.diagonal(self._correlation[0])

    def times(self, weights: Float) -> Float:
        """``K J^T`` of a Jacobian with the given entries.

        Parameters
        ----------
        weights : ndarray, shape (n_used, n_shell)
            The Jacobian of a seen pixel with respect to its own cells.

        Returns
        -------
        ndarray, shape (n_pixel, n_used, n_shell)
            Indexed by pixel of the cell, datum, shell of the cell.
        """
        product = np.empty((self._order.size, self.shape[2]))
        first = 0
        # contiguous products and one ordered copy: scattered writes would take most of the time
        for kinds, data in self._blocks:
            block = product[first : first + data.size].reshape(*data.shape, -1)
            np.matmul(weights.take(data, axis=0), self._correlation[kinds], out=block)
            first += data.size
        return product.take(self._order, axis=0).reshape(self.shape)


def _averaged(grid: SphericalGrid, fine: SphericalGrid) -> tuple[Float, Float]:
    """Distance of the centroid of the fine cells' centres in each shell, and their mean square distance from it."""
    if fine.nside < grid.nside or fine.n_shell < grid.n_shell:
        raise GridError(
            f"the fine grid (nside {fine.nside} x {fine.n_shell} shells) is coarser than the one that averages it "
            f"(nside {grid.nside} x {grid.n_shell})"
        )
    children = (fine.nside // grid.nside) ** 2
    vectors = np.stack(healpy.pix2vec(fine.nside, np.arange(fine.n_pixel), nest=True), axis=-1)
    towards2 = float(np.square(vectors.reshape(-1, children, 3).mean(axis=1)).sum(axis=-1).mean())
    edges, own = np.log(fine.edges), np.log(grid.edges)
    overlap = np.maximum(np.minimum(edges[1:], own[1:, None]) - np.maximum(edges[:-1], own[:-1, None]), 0.0)
    share = overlap / overlap.sum(axis=1, keepdims=True)
    first, second = share @ fine.centres, share @ np.square(fine.centres)
    spread2 = second - np.square(first) * towards2
    # of a single cell it is zero up to rounding
    return first * math.sqrt(towards2), np.where(spread2 > 1e-12 * second, spread2, 0.0)


@lru_cache(maxsize=64)
def _log_decay(slope: float) -> CubicSpline:
    """``log(-log correlation)`` over the logarithm of distance over length."""
    places = np.linspace(math.log(1e-6), math.log(500.0), 800)
    values = np.clip(matern_correlation(np.exp(places), slope), 1e-300, 1.0 - 1e-15)
    return CubicSpline(places, np.log(-np.log(values)))


def _pairs_by_kind(kind: Int, n_shell: int) -> tuple[list[tuple[Int, Int]], Int]:
    """Kinds with equally many pairs together, as (kinds, data of their pairs), and the place of each pair in turn."""
    order = np.argsort(kind, axis=None, kind="stable")
    count = np.bincount(kind.ravel())
    first = np.cumsum(count) - count
    blocks, places = [], []
    for n in np.unique(count[count > 0]):
        alike = np.flatnonzero(count == n)
        n_block = max(1, BLOCK_BYTES // (8 * n_shell * (n_shell + 2 * int(n))))
        for start in range(0, alike.size, n_block):
            kinds = alike[start : start + n_block]
            pairs = order[first[kinds][:, None] + np.arange(n)]
            blocks.append((kinds, pairs % kind.shape[1]))
            places.append(pairs.ravel())
    return blocks, np.concatenate(places)
