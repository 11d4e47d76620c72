"""What part of a voxel lies inside a ball about the Sun."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from crdist_postproc.kernels.approx import FASTMATH

__all__ = ["ball_volumes", "disc_area"]

NODES, WEIGHTS = (np.ascontiguousarray(part) for part in np.polynomial.legendre.leggauss(12))

Floats = npt.NDArray[np.float64]


def ball_volumes(radius: float, x: Floats, y: Floats, z: Floats) -> Floats:
    """Volume inside a ball about the origin of all boxes between neighbouring planes.

    Parameters
    ----------
    radius : float
    x, y, z : ndarray, shapes (nx + 1,), (ny + 1,) and (nz + 1,)
        Where the planes are, increasing.

    Returns
    -------
    ndarray, shape (nx, ny, nz)
        To 1e-8 of a box.

    Examples
    --------
    >>> octant = np.array([0.0, 2.0])
    >>> bool(abs(ball_volumes(1.0, octant, octant, octant).item() - np.pi / 6) < 1e-9)
    True
    """
    out = np.empty((x.size - 1, y.size - 1, z.size - 1))
    _ball_volumes(radius, *(np.ascontiguousarray(planes, dtype=np.float64) for planes in (x, y, z)), out)
    return out


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def disc_area(radius2, x0, x1, y0, y1):
    """Area inside a disc about the origin, given its radius squared, of the rectangle between two x and two y."""
    if radius2 <= 0.0:
        return 0.0
    r = math.sqrt(radius2)
    return _corner(r, x1, y1) - _corner(r, x0, y1) - _corner(r, x1, y0) + _corner(r, x0, y0)


@njit(cache=True, fastmath=FASTMATH, error_model="numpy")
def _corner(r, x, y):
    """Area inside a disc of the rectangle from the origin to a corner, negative where one coordinate is."""
    a, b = min(abs(x), r), min(abs(y), r)
    area = a * b
    if a * a + b * b > r * r:
        # two triangles and the sector between them
        up, along = math.sqrt(r * r - a * a), math.sqrt(r * r - b * b)
        area = 0.5 * (a * up + b * along + r * r * (math.atan2(b, along) - math.atan2(up, a)))
    return area if (x > 0.0) == (y > 0.0) else -area


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def _ball_volumes(radius, x, y, z, out):
    breaks, r2 = np.empty(20), radius * radius
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                near2 = _near2(x[i], x[i + 1]) + _near2(y[j], y[j + 1]) + _near2(z[k], z[k + 1])
                far2 = _far2(x[i], x[i + 1]) + _far2(y[j], y[j + 1]) + _far2(z[k], z[k + 1])
                if far2 <= r2:
                    out[i, j, k] = (x[i + 1] - x[i]) * (y[j + 1] - y[j]) * (z[k + 1] - z[k])
                elif near2 >= r2:
                    out[i, j, k] = 0.0
                else:
                    out[i, j, k] = _cut(r2, x[i], x[i + 1], y[j], y[j + 1], z[k], z[k + 1], breaks)


@njit(cache=True, fastmath=FASTMATH, error_model="numpy")
def _near2(low, high):
    return max(low, -high, 0.0) ** 2


@njit(cache=True, fastmath=FASTMATH, error_model="numpy")
def _far2(low, high):
    return max(-low, high) ** 2


@njit(cache=True, fastmath=FASTMATH, error_model="numpy")
def _cut(r2, x0, x1, y0, y1, z0, z1, breaks):
    """The discs' areas integrated over x, between places where a disc comes to touch a side or a corner."""
    breaks[0], breaks[1] = x0, x1
    n = 2
    for case in range(9):
        y2 = y0 * y0 if case % 3 == 1 else (y1 * y1 if case % 3 == 2 else 0.0)
        z2 = z0 * z0 if case // 3 == 1 else (z1 * z1 if case // 3 == 2 else 0.0)
        if y2 + z2 < r2:
            at = math.sqrt(r2 - y2 - z2)
            for place in (at, -at):
                if x0 < place < x1:
                    breaks[n] = place
                    n += 1
    places = np.sort(breaks[:n])
    volume = 0.0
    for piece in range(n - 1):
        begin, length = places[piece], places[piece + 1] - places[piece]
        for node in range(NODES.size):
            # roots at the ends of a piece become smooth if few points lie near them
            s = 0.5 + 0.5 * NODES[node]
            at = begin + length * s * s * (3.0 - 2.0 * s)
            weight = 3.0 * WEIGHTS[node] * length * s * (1.0 - s)
            volume += weight * disc_area(r2 - at * at, y0, y1, z0, z1)
    return min(max(volume, 0.0), (x1 - x0) * (y1 - y0) * (z1 - z0))
