"""Fluxes of volume that mend what rays leave uneven.

The rays through a voxel stand for about its volume, not for just that. Fluxes through the faces bring each voxel to
what it should hold: first between tiles, by totals and for the whole grid at once; then inside each tile, by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from crdist_postproc.kernels.ball import disc_area
from crdist_postproc.kernels.upwind import downhill, relax

__all__ = ["Floats", "Interfaces", "face_areas", "inner_fluxes", "interface_fluxes", "spread"]

Floats = npt.NDArray[np.float64]
Interfaces = tuple[Floats, Floats, Floats]
"""Something for each face between tiles, across x, y and z: one more along that axis than there are tiles."""

LARGEST_PART = 0.25
"""Part of the volume beside a tile's face that may flow through it, at most: a voxel has three such faces at most."""

TOLERANCE = 1e-8
"""Volume, in voxels, that may be left uneven where the grid's edge cuts a tile."""

MOST_STEPS = 2000

NO_VOLUMES = np.empty((0, 0, 0))


def face_areas(cuts: Sequence[Floats], radii: tuple[float, float]) -> Interfaces:
    """Areas of the faces between tiles that lie between two spheres about the origin.

    Parameters
    ----------
    cuts : sequence of three ndarray, shapes (n + 1,), kpc
        Planes between tiles, from the Sun.
    radii : tuple of float, kpc

    Returns
    -------
    tuple of ndarray, kpc^2
    """
    n = [planes.size - 1 for planes in cuts]
    found = []
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        area = np.zeros([n[other] + (other == axis) for other in range(3)])
        for place in np.ndindex(area.shape):
            height2 = float(cuts[axis][place[axis]]) ** 2
            sides = [float(cuts[other][place[other] + end]) for other in others for end in (0, 1)]
            outer, inner = (disc_area(radius**2 - height2, *sides) for radius in radii[::-1])
            area[place] = max(outer - inner, 0.0)
        found.append(area)
    return found[0], found[1], found[2]


def interface_fluxes(missing: Floats, areas: Interfaces, sides: Sequence[Floats]) -> Interfaces:
    """Total flux of volume through each face between tiles, so that each tile gets what it is missing.

    Parameters
    ----------
    missing : ndarray, shape (nx, ny, nz)
        Volume that each tile's rays lack.
    areas : tuple of ndarray
        What of each face is open. Beyond the outermost ones there is as much as is wanted.
    sides : sequence of three ndarray
        Sides of the tiles along each axis, in the areas' unit of length.

    Returns
    -------
    tuple of ndarray
        Towards larger coordinates, in the unit of ``missing``.

    Notes
    -----
    The gradient of a potential that solves Poisson's equation on the graph of tiles. Tiles with no way out, whose
    deficits add up to nothing but for rounding, get it by least squares.
    """
    import scipy.sparse
    import scipy.sparse.csgraph
    import scipy.sparse.linalg

    shape = missing.shape
    number = np.arange(missing.size).reshape(shape)
    conductances, rows, columns, entries = [], [], [], []
    diagonal = np.zeros(missing.size)
    outlet = np.zeros(missing.size, dtype=bool)
    for axis, (area, side) in enumerate(zip(areas, sides, strict=True)):
        between = np.concatenate([side[:1], 0.5 * (side[1:] + side[:-1]), side[-1:]])
        conductance = area / np.expand_dims(between, [other for other in range(3) if other != axis])
        conductances.append(conductance)
        before, after = (
            np.take(number, range(*ends), axis).ravel() for ends in ((0, shape[axis] - 1), (1, shape[axis]))
        )
        inside = np.take(conductance, range(1, shape[axis]), axis).ravel()
        open_ = inside > 0.0
        rows += [before[open_], after[open_]]
        columns += [after[open_], before[open_]]
        entries += [-inside[open_]] * 2
        np.add.at(diagonal, before, inside)
        np.add.at(diagonal, after, inside)
        for end in (0, -1):
            at, through = np.take(number, end, axis).ravel(), np.take(conductance, end, axis).ravel()
            np.add.at(diagonal, at, through)
            outlet[at[through > 0.0]] = True
    where = (np.concatenate(rows), np.concatenate(columns))
    links = scipy.sparse.coo_matrix((np.concatenate(entries), where), shape=(missing.size, missing.size)).tocsr()
    n_part, part = scipy.sparse.csgraph.connected_components(links, directed=False)
    wanted = -missing.ravel().copy()
    has_outlet = np.bincount(part, weights=outlet, minlength=n_part) > 0
    for closed in np.flatnonzero(~has_outlet):
        own = np.flatnonzero(part == closed)
        wanted[own] -= wanted[own].mean()
        # one potential is free
        diagonal[own[0]] += diagonal[own[0]] or 1.0
    matrix = (links + scipy.sparse.diags(diagonal)).tocsc()
    potential = np.reshape(scipy.sparse.linalg.spsolve(matrix, wanted), shape)
    found = []
    for axis, conductance in enumerate(conductances):
        border = [(1, 1) if other == axis else (0, 0) for other in range(3)]
        found.append(-np.diff(np.pad(potential, border), axis=axis) * conductance)
    return found[0], found[1], found[2]


def spread(total: float, one: Floats, other: Floats) -> Floats:
    """Spread a tile's flux over the voxels' faces, after the smaller of the two volumes that each lies between.

    Both tiles find the same: what does not fit is left out on both sides.

    Parameters
    ----------
    total : float
        The flux, in voxels.
    one, other : ndarray, shape (n, m)
        Volume of the rays on the two sides.
    """
    weights = np.ascontiguousarray(np.minimum(one, other))
    sum_ = float(weights.ravel().sum())
    if sum_ <= 0.0:
        return np.zeros_like(weights)
    return weights * min(max(total / sum_, -LARGEST_PART), LARGEST_PART)


def inner_fluxes(
    volumes: Floats | None, held: Floats, faces: Sequence[tuple[Floats, Floats]]
) -> tuple[Interfaces, Floats]:
    """Fluxes through the faces of a tile's voxels, given those through its own.

    Parameters
    ----------
    volumes : ndarray, shape (nx, ny, nz), optional
        What each voxel should hold, in voxels; default 1.
    held : ndarray, shape (nx, ny, nz)
        What its rays stand for.
    faces : sequence of three pairs of ndarray
        Flux through the tile's first and last faces along each axis.

    Returns
    -------
    fluxes : tuple of ndarray
        Through all faces, towards larger coordinates.
    potential : ndarray, shape (nx, ny, nz)
        Fluxes inside run down it.

    Notes
    -----
    What of the tile's total is still missing, beside rounding, is missing afterwards in every voxel alike.
    """
    nx, ny, nz = held.shape
    fluxes = np.empty((nx + 1, ny, nz)), np.empty((nx, ny + 1, nz)), np.empty((nx, ny, nz + 1))
    missing = (1.0 if volumes is None else volumes) - held
    for axis, (first, last) in enumerate(faces):
        fluxes[axis][_at(axis, 0)], fluxes[axis][_at(axis, -1)] = first, last
        missing[_at(axis, 0)] -= first
        missing[_at(axis, -1)] += last
    potential = _even(missing) if volumes is None else _uneven(volumes, missing)
    downhill(potential, NO_VOLUMES if volumes is None else volumes, *fluxes)
    return fluxes, potential


def _at(axis: int, where: int | slice) -> tuple[Any, ...]:
    return tuple(where if other == axis else slice(None) for other in range(3))


def _even(missing: Floats) -> Floats:
    """The potential among whole voxels: the discrete cosine transform makes the equations independent of each other."""
    import scipy.fft

    # single precision: what is left uneven is 1e-7 of what was missing
    waves = scipy.fft.dctn(missing.astype(np.float32), type=2, overwrite_x=True)
    waves *= _eigenvalues(missing.shape)
    return np.asarray(scipy.fft.idctn(waves, type=2, overwrite_x=True), dtype=np.float64)


@lru_cache(maxsize=16)
def _eigenvalues(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Potential over deficit, wave by wave."""
    per_axis = [4.0 * np.sin(0.5 * np.pi * np.arange(n) / n) ** 2 for n in shape]
    total = per_axis[0][:, None, None] + per_axis[1][:, None] + per_axis[2]
    # a mean deficit cannot be mended from within
    total[0, 0, 0] = np.inf
    return (-1.0 / total).astype(np.float32)


def _uneven(volumes: Floats, missing: Floats) -> Floats:
    import scipy.ndimage

    part, n_part = scipy.ndimage.label(volumes > 0.0)
    missing = np.where(part > 0, missing, 0.0)
    index = np.arange(1, n_part + 1)
    if n_part:
        # no flux leaves voxels that hang together
        excess = scipy.ndimage.sum_labels(missing, part, index) / scipy.ndimage.sum_labels(volumes, part, index)
        missing -= volumes * np.append(0.0, excess)[part]
    potential = np.zeros(volumes.shape)
    relax(np.ascontiguousarray(volumes), missing, potential, TOLERANCE, MOST_STEPS)
    return potential
