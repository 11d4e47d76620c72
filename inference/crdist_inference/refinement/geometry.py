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

__all__ = [
    "N_CHILD",
    "N_IMAGE",
    "LevelGeometry",
    "level_geometries",
    "pixel_images",
    "pixel_vectors",
    "shell_levels",
]

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

N_IMAGE = 16
N_CHILD = 4

WIDER = {1: 9, 2: 21, 4: 21, 8: 13}
"""Least number of pixels in a window at coarse resolutions, where fields vary most from cell to cell and where more
pixels cost little of the whole."""

DEEPEST = 1.5
"""Shells are not joined where the coarse cells would be deeper than so many of their widths: correlations among the
children of different cells, beyond what windows carry, would be lost between cells that need not be so large."""

BASE_CELLS = 6144
"""The exact level keeps the shells of the next one if it has no more cells then: those of nside 4 and 32 shells, which
the size of the reference analysis needs anyway."""


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
        ln(distance / kpc) of the windows' middle shells.
    n_split : int
        Fine shells that a window makes: 2, or 1 if only the pixels are refined.
    neighbours : ndarray of int, shape (n_pixel, 16, n_class)
        Coarse pixels of a window, nearest first, for each class and each image of it.
    parents : ndarray of int, shape (16, n_class)
        The coarse pixel that is refined.
    source : ndarray of int, shape (12 (2 nside)^2,)
        Where a fine pixel is made, as an index into (child, image, class).
    log_distance : ndarray, shape (n_class, n_point, n_point)
        ln of the distances between the points of a window, coarse ones [pixel, shell] first and then fine ones [child,
        shell], in units of the distance of the middle shell; -inf for a point and itself.
    """

    nside: int
    n_fine: int
    log_centre: Float
    n_split: int
    neighbours: Int
    parents: Int
    source: Int
    log_distance: Float


def shell_levels(grid: SphericalGrid, depth: int, window_shells: int) -> list[Float]:
    """ln(distance / kpc) of the shells of every level, coarsest first.

    A coarse level has half the fine one's shells, or as many (see ``DEEPEST`` and ``BASE_CELLS``), and some more on
    both sides, so that every window is whole.

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
    for step in range(1, depth + 1):
        fine, nside = levels[-1], grid.nside >> step
        too_deep = 2.0 * width > DEEPEST * math.sqrt(math.pi / 3.0) / nside
        affordable = step == depth and 12 * nside**2 * (fine.size + 2 * margin) <= BASE_CELLS
        n_joined = 1 if too_deep or affordable else 2
        first = fine[0] + 0.5 * (n_joined - 1) * width
        width *= n_joined
        n_coarse = math.ceil(fine.size / n_joined) + 2 * margin
        levels.append(first + width * np.arange(-margin, n_coarse - margin))
    return levels[::-1]


def level_geometries(nside_base: int, levels: list[Float], window: tuple[int, int]) -> list[LevelGeometry]:
    """Geometries of all refinement steps, coarsest first; ``window`` is (pixels, shells)."""
    return [
        _level(nside_base << step, coarse, fine, window)
        for step, (coarse, fine) in enumerate(itertools.pairwise(levels))
    ]


def _level(nside: int, log_coarse: Float, log_fine: Float, window: tuple[int, int]) -> LevelGeometry:
    n_shell = window[1]
    n_neighbour = max(window[0], WIDER.get(nside, 0))
    margin = n_shell // 2
    vectors = pixel_vectors(nside, np.arange(12 * nside**2))
    images = pixel_images(nside)
    classes = np.flatnonzero(images.min(axis=0) == np.arange(len(vectors)))

    # a stable order: equally near pixels keep the order of their numbers
    nearness = np.round(vectors[classes] @ vectors.T, 12)
    nearest = np.argsort(-nearness, axis=1, kind="stable")[:, :n_neighbour]
    children = N_CHILD * classes[:, None] + np.arange(N_CHILD)
    near, made = vectors[nearest], pixel_vectors(2 * nside, children.ravel()).reshape(*children.shape, 3)

    width = float(log_coarse[1] - log_coarse[0])
    coarse = _places(near, width * np.arange(-margin, margin + 1, dtype=np.float64)).reshape(classes.size, -1, 3)
    n_split = round(width / float(log_fine[1] - log_fine[0]))
    split = (np.arange(n_split) - 0.5 * (n_split - 1)) / n_split
    fine = _places(made, width * split).reshape(classes.size, -1, 3)
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
        n_fine=log_fine.size,
        log_centre=log_coarse[margin : log_coarse.size - margin],
        n_split=n_split,
        neighbours=np.ascontiguousarray(np.moveaxis(neighbours, -1, 0)),
        parents=parents,
        source=source,
        log_distance=np.stack([_log_distances(own) for own in points]),
    )


def pixel_images(nside: int) -> Int:
    """Where each of the sixteen isometries takes each pixel, shape (16, 12 nside^2)."""
    vectors = pixel_vectors(nside, np.arange(12 * nside**2))
    return np.stack([_pixels(nside, _image(vectors, image)) for image in range(N_IMAGE)])


def pixel_vectors(nside: int, pixels: npt.ArrayLike) -> Float:
    """Unit vectors of pixels in nested order, (..., 3)."""
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


def _log_distances(points: Float) -> Float:
    squared = np.zeros((len(points), len(points)))
    for axis in points.T:
        squared += np.square(np.subtract.outer(axis, axis))
    with np.errstate(divide="ignore"):
        return np.asarray(0.5 * np.log(squared))
