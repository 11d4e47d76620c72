"""Sums over the native cells, with no regrid: lines of sight and the mass inside a box.

These are the reference that a regridded product is measured against.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from crdist_postproc.kernels.approx import FASTMATH
from crdist_postproc.kernels.field import LOG, Field

__all__ = ["box_totals", "sight_lines"]


def sight_lines(
    field: Field, rows: npt.NDArray[np.integer], lengths: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Integrate along the lines of sight of some pixels.

    Parameters
    ----------
    field : Field
    rows : ndarray of int, shape (n,)
        RING indices of the pixels.
    lengths : ndarray of float64, shape (n_shell,), kpc
        Length of the line of sight that each shell stands for.

    Returns
    -------
    total : ndarray of float64, shape (n, n_sample), unit of the samples times kpc
        Masked cells are left out.
    covered : ndarray of float64, shape (n,), kpc
        Length that is not masked.
    """
    total = np.zeros((len(rows), field.n_sample))
    covered = np.zeros(len(rows))
    _sight_lines(field.values, field.layout, np.asarray(rows, dtype=np.int64), lengths, total, covered)
    return total, covered


def box_totals(
    field: Field,
    rows: npt.NDArray[np.integer],
    rays: npt.NDArray[np.float64],
    edges: npt.NDArray[np.float64],
    rotation: npt.NDArray[np.float64],
    sun: npt.NDArray[np.float64],
    lower: npt.NDArray[np.float64],
    upper: npt.NDArray[np.float64],
    total: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.float64]:
    """Integrate the native cells of some pixels over the part of them inside a box.

    Each pixel is the mean of equal parts around its rays, and each ray is cut by the box's faces exactly.

    Parameters
    ----------
    rows : ndarray of int, shape (n,)
        RING indices of the pixels.
    rays : ndarray, shape (n, n_ray, 3)
        Heliocentric unit vectors to the centres of equal parts of each pixel.
    edges : ndarray, shape (n_shell + 1,), kpc
        Shell edges; a first edge of 0 gives the first shell the inner sphere as well.
    rotation, sun : ndarray, shape (3, 3) and (3,)
        From heliocentric axes to those of the box; the Sun's place there, kpc.
    lower, upper : ndarray, shape (3,), kpc
        Corners of the box.
    total : ndarray of float64, shape (n_sample,), optional
        Add to this: some pixels after the others give the same bits as all of them.

    Returns
    -------
    ndarray of float64, shape (n_sample,), unit of the samples times kpc^3
    """
    if total is None:
        total = np.zeros(field.n_sample)
    solid_angle = 4.0 * math.pi / (field.values.shape[0] * rays.shape[1])
    pixels = np.asarray(rows, dtype=np.int64)
    _box_totals(field.values, field.layout, pixels, rays @ rotation.T, edges, sun, lower, upper, solid_angle, total)
    return total


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def _sight_lines(values, layout, rows, lengths, total, covered):
    n_sample = total.shape[1]
    # not the field's own number of shells: it may have room for some only, the others are not looked at
    for i in range(rows.size):
        for shell in range(lengths.size):
            length = lengths[shell]
            cell = values[rows[i], shell]
            if length == 0.0 or cell[0] != cell[0]:
                continue
            covered[i] += length
            for s in range(n_sample):
                value = np.float64(cell[s])
                total[i, s] += length * (math.exp(value) if layout[LOG] else value)


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def _box_totals(values, layout, rows, rays, edges, sun, lower, upper, solid_angle, total):
    n_sample = total.size
    n_shell = edges.size - 1
    volumes = np.empty(n_shell)
    for i in range(rows.size):
        volumes[:] = 0.0
        for ray in range(rays.shape[1]):
            # where the ray enters and leaves the box
            near, far = edges[0], edges[n_shell]
            for axis in range(3):
                along = rays[i, ray, axis]
                low, high = lower[axis] - sun[axis], upper[axis] - sun[axis]
                if along == 0.0:
                    if low > 0.0 or high < 0.0:
                        far = -1.0
                else:
                    one, other = low / along, high / along
                    near = max(near, min(one, other))
                    far = min(far, max(one, other))
            if not near < far:
                continue
            shell = max(np.searchsorted(edges, near, side="right") - 1, 0)
            while shell < n_shell and edges[shell] < far:
                inner, outer = max(edges[shell], near), min(edges[shell + 1], far)
                volumes[shell] += outer * outer * outer - inner * inner * inner
                shell += 1
        for shell in range(n_shell):
            cell = values[rows[i], shell]
            volume = volumes[shell] * solid_angle / 3.0
            if volume == 0.0 or cell[0] != cell[0]:
                continue
            for s in range(n_sample):
                value = np.float64(cell[s])
                total[s] += volume * (math.exp(value) if layout[LOG] else value)
