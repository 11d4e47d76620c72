"""Where the windows of a refinement lie: symmetric HEALPix windows and scale-free shells.

HEALPix looks the same after the sixteen isometries of the square prism (quarter turns about the poles and the
mirrors at the equator and at a meridian), and shells that are even in log distance look the same at every
distance. One set of geometries for a sixteenth of the pixels and one relative window of shells describes a level.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import healpy
import numpy as np
import numpy.typing as npt

from crdist.errors import GridError
from crdist.grids import SphericalGrid

__all__ = ["BaseGeometry", "LevelGeometry", "Separations", "base_geometry", "level_geometries", "shell_levels"]

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

N_IMAGE = 16
MIRROR_AT_EQUATOR = 8
HEIGHT = 1e-9
"""A pixel centre this close to the equator's plane is on it."""
N_CHILD = 4

ROUNDING = 12
"""Decimals to which distances are told apart, where the unit is the distance of the middle shell."""


@dataclass(frozen=True, slots=True)
class Separations:
    """Distances among many points, each different one kept once.

    On rays and even shells most distances come up several times: (a, b) and (b, a) on shells i and j, and likewise
    a and b with their shells exchanged.

    Parameters
    ----------
    log_distance : ndarray, shape (n_distance,)
        ln of the distances that differ; -inf for a point's distance from itself.
    index : ndarray of int32, any shape
        For each pair of points, where its distance stands.
    """

    log_distance: Float
    index: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class LevelGeometry:
    """One refinement step from pixels of ``nside`` to those of ``2 nside``.

    Parameters
    ----------
    nside : int
        Resolution of the coarse side.
    n_fine : int
        Number of fine shells that are kept.
    log_centre : ndarray, shape (n_window,)
        ln(distance / kpc) of the windows' middle shells; a window makes two fine shells.
    neighbours : ndarray of int, shape (n_pixel, 16, n_class)
        Coarse pixels of a window, nearest first, for each class and each image of it.
    parents : ndarray of int, shape (16, n_class)
        The coarse pixel that is refined.
    source : ndarray of int, shape (12 (2 nside)^2,)
        Where a fine pixel is made, as an index into (child, image, class).
    separations : Separations, index of shape (n_class, n_point, n_point)
        Between the points of a window, coarse ones [pixel, shell] first and then fine ones [child, shell], in units of
        the distance of the middle shell.
    """

    nside: int
    n_fine: int
    log_centre: Float
    neighbours: Int
    parents: Int
    source: Int
    separations: Separations


@dataclass(frozen=True, slots=True)
class BaseGeometry:
    """The coarsest grid, cut in four quadrants that a quarter turn takes into each other.

    Parameters
    ----------
    pixels : ndarray of int, shape (4, n_pixel / 4)
        Those of a quadrant north of the equator, then those on it, then the mirror images of the first in their order.
    n_north : int
        Pixels of a quadrant that lie north of the equator.
    log_centre : ndarray, shape (n_shell,)
        ln(distance / kpc) of the shells.
    separations : Separations, kpc, index of shape (4, (n_pixel / 4 - n_north) * n_shell, n_pixel / 4 * n_shell)
        From the cells of the first quadrant that are not south of the equator to those of each quadrant.
    """

    pixels: Int
    n_north: int
    log_centre: Float
    separations: Separations


def shell_levels(grid: SphericalGrid, depth: int, window_shells: int) -> list[Float]:
    """ln(distance / kpc) of the shells of every level, coarsest first.

    A coarse level has half the fine one's shells and some more on both sides, so that every window is whole.

    Raises
    ------
    GridError
        If the shells are not even in log distance with centres at the geometric means.
    """
    edges = np.log(np.asarray(grid.edges_kpc))
    widths = np.diff(edges)
    centres = np.log(np.asarray(grid.centres))
    even = np.allclose(widths, widths.mean(), rtol=1e-6, atol=0.0)
    if not even or not np.allclose(centres, 0.5 * (edges[1:] + edges[:-1]), rtol=0.0, atol=1e-6 * widths.mean()):
        raise GridError(
            "the prior needs shells that are even in log distance, with centres at the geometric mean of their edges; "
            "make the grid with SphericalGrid.log_spaced"
        )
    levels, width = [centres], float(widths.mean())
    margin = window_shells // 2
    for _ in range(depth):
        fine, width = levels[-1], 2.0 * width
        first = fine[0] + width / 4 - margin * width
        levels.append(first + width * np.arange(math.ceil(fine.size / 2) + 2 * margin))
    return levels[::-1]


def base_geometry(nside: int, log_centre: Float) -> BaseGeometry:
    """The exact part of the prior: all distances on the coarsest grid."""
    vectors = _vectors(nside, np.arange(12 * nside**2))
    images = np.stack([_pixels(nside, _turn(vectors, turn)) for turn in range(4)])
    first = images.min(axis=0) == np.arange(len(vectors))
    height = vectors[:, 2]
    north, equator = np.flatnonzero(first & (height > HEIGHT)), np.flatnonzero(first & (np.abs(height) <= HEIGHT))
    # a quadrant is its own mirror image, though some of its southern pixels are not the first of their four
    south = _pixels(nside, _image(vectors[north], MIRROR_AT_EQUATOR))
    pixels = images[:, np.concatenate([north, equator, south])]
    rays = _vectors(nside, pixels.ravel()).reshape(4, -1, 3)
    separations = _on_rays(rays[0, : north.size + equator.size], rays, log_centre)
    return BaseGeometry(pixels, north.size, log_centre, separations)


def level_geometries(nside_base: int, levels: list[Float], window: tuple[int, int]) -> list[LevelGeometry]:
    """Geometries of all refinement steps, coarsest first; ``window`` is (pixels, shells)."""
    return [
        _level(nside_base << step, coarse, fine.size, window)
        for step, (coarse, fine) in enumerate(itertools.pairwise(levels))
    ]


def _level(nside: int, log_coarse: Float, n_fine: int, window: tuple[int, int]) -> LevelGeometry:
    n_neighbour, n_shell = window
    margin = n_shell // 2
    vectors = _vectors(nside, np.arange(12 * nside**2))
    images = np.stack([_pixels(nside, _image(vectors, image)) for image in range(N_IMAGE)])
    classes = np.flatnonzero(images.min(axis=0) == np.arange(len(vectors)))

    # a stable order: equally near pixels keep the order of their numbers
    nearness = np.round(vectors[classes] @ vectors.T, 12)
    nearest = np.argsort(-nearness, axis=1, kind="stable")[:, :n_neighbour]
    children = N_CHILD * classes[:, None] + np.arange(N_CHILD)
    near, made = vectors[nearest], _vectors(2 * nside, children.ravel()).reshape(*children.shape, 3)

    width = float(log_coarse[1] - log_coarse[0])
    coarse = _places(near, width * np.arange(-margin, margin + 1, dtype=np.float64)).reshape(classes.size, -1, 3)
    fine = _places(made, width * np.array([-0.25, 0.25])).reshape(classes.size, -1, 3)
    points = np.concatenate([coarse, fine], axis=1)

    neighbours = np.stack([_pixels(nside, _image(near, image)) for image in range(N_IMAGE)])
    parents = images[:, classes]
    # A pixel on a mirror is met by two images; the first one makes its children.
    first = np.zeros(parents.size, dtype=bool)
    first[np.unique(parents, return_index=True)[1]] = True
    made_pixels = np.stack([_pixels(2 * nside, _image(made, image)) for image in range(N_IMAGE)])
    place = np.moveaxis(np.arange(N_CHILD * parents.size).reshape(N_CHILD, *parents.shape), 0, -1)
    keep = first.reshape(parents.shape)
    source = np.empty(12 * (2 * nside) ** 2, dtype=np.int64)
    source[made_pixels[keep]] = place[keep]
    return LevelGeometry(
        nside=nside,
        n_fine=n_fine,
        log_centre=log_coarse[margin : log_coarse.size - margin],
        neighbours=np.ascontiguousarray(np.moveaxis(neighbours, -1, 0)),
        parents=parents,
        source=source,
        separations=_separations(np.stack([_distances(own, own) for own in points])),
    )


def _vectors(nside: int, pixels: npt.ArrayLike) -> Float:
    return np.stack(healpy.pix2vec(nside, pixels, nest=True), axis=-1)


def _pixels(nside: int, vectors: Float) -> Int:
    return np.asarray(healpy.vec2pix(nside, vectors[..., 0], vectors[..., 1], vectors[..., 2], nest=True))


def _turn(vectors: Float, quarter: int) -> Float:
    x, y, z = np.moveaxis(vectors, -1, 0)
    for _ in range(quarter):
        x, y = -y, x
    return np.stack([x, y, z], axis=-1)


def _image(vectors: Float, image: int) -> Float:
    """One of the sixteen isometries."""
    signs = np.array([1.0, -1.0 if image & 4 else 1.0, -1.0 if image & 8 else 1.0])
    return _turn(vectors * signs, image & 3)


def _places(vectors: Float, log_distance: Float) -> Float:
    """Points on rays, (..., pixel, shell, 3)."""
    return vectors[..., None, :] * np.exp(log_distance)[:, None]


def _on_rays(own: Float, others: Float, log_centre: Float) -> Separations:
    """From the cells of rays, (ray, 3), to those of other sets of rays, (set, ray, 3); all have the same shells."""
    chord = np.square(own[None, :, None] - others[:, None]).sum(axis=-1)
    chords, of_rays = np.unique(np.round(chord, ROUNDING), return_inverse=True)
    near, far = np.triu_indices(log_centre.size)
    of_shells = np.empty((log_centre.size, log_centre.size), dtype=np.int32)
    of_shells[near, far] = of_shells[far, near] = np.arange(near.size, dtype=np.int32)
    # |a - b|^2 = (r - s)^2 + r s chord^2, which loses no digits between cells close to each other
    radius = np.exp(log_centre)
    squared = np.square(radius[far] - radius[near]) + np.multiply.outer(chords, radius[far] * radius[near])
    rays = of_rays.reshape(chord.shape).astype(np.int32)
    index = near.size * rays[:, :, None, :, None] + of_shells[:, None, :]
    n_shell = log_centre.size
    shape = (len(others), len(own) * n_shell, others.shape[1] * n_shell)
    return Separations(_log(np.sqrt(squared)).ravel(), index.reshape(shape))


def _separations(distances: Float) -> Separations:
    different, index = np.unique(np.round(distances, ROUNDING), return_inverse=True)
    return Separations(_log(different), index.reshape(distances.shape).astype(np.int32))


def _log(distances: Float) -> Float:
    with np.errstate(divide="ignore"):
        return np.log(distances)


def _distances(a: Float, b: Float) -> Float:
    a, b = a.reshape(-1, 3), b.reshape(-1, 3)
    squared = np.zeros((len(a), len(b)))
    for axis in range(3):
        squared += np.square(np.subtract.outer(a[:, axis], b[:, axis]))
    return np.sqrt(squared)
