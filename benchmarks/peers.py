"""Other ways to put samples on a HEALPix x distance grid onto voxels, each as fast as we could make it.

Every function gives the samples at heliocentric points, shape (n_point, n_sample), for points in an order that keeps
neighbours together. Blocks are chosen by `best`, so that gathered rows stay in the cache.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import healpy
import numpy as np
import numpy.typing as npt
import scipy.sparse
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from scipy.ndimage import map_coordinates

from crdist.grids import SphericalGrid

Array = npt.NDArray[Any]

RASTER = (128, 256)
"""Latitudes and longitudes of the raster: 1.4 degree, next to the 1.8 degree of nside 32."""


class Peers:
    """One source and one set of points in the layouts that the methods want, made before anything is timed.

    Parameters
    ----------
    samples : ndarray of float32, shape (n_pixel, n_shell, n_sample)
        In RING order, which healpy is faster in.
    grid : SphericalGrid
        With shells evenly spaced in ln(distance).
    points : ndarray, shape (n_point, 3), heliocentric kpc
        Within the outer edge.
    """

    def __init__(self, samples: Array, grid: SphericalGrid, points: Array) -> None:
        self.grid = grid
        self.points = points
        self.n_sample = samples.shape[2]
        self.cells = np.ascontiguousarray(samples).reshape(-1, self.n_sample)
        # a cell and the one behind it are neighbours: one row of the view holds both
        size = self.cells.strides[0]
        shape = (len(self.cells) - 1, 2 * self.n_sample)
        self.pairs = np.lib.stride_tricks.as_strided(self.cells, shape, (size, self.cells.itemsize), writeable=False)
        self.each = np.ascontiguousarray(np.moveaxis(samples, 2, 0)).reshape(self.n_sample, -1)

    def locate(self, part: slice) -> tuple[Array, Array, Array, Array]:
        """Colatitude, longitude, shell, and fraction of the way to the next shell."""
        x, y, z = self.points[part].T
        rho2 = x * x + y * y
        knots = np.log(self.grid.centres)
        place = (0.5 * np.log(rho2 + z * z) - knots[0]) * ((len(knots) - 1) / (knots[-1] - knots[0]))
        np.clip(place, 0, len(knots) - 1, out=place)
        shell = np.minimum(place.astype(np.int64), len(knots) - 2)
        return np.arctan2(np.sqrt(rho2), z), np.arctan2(y, x), shell, place - shell

    def weights(self, part: slice) -> tuple[Array, Array, Array]:
        """Cells at the lower shell, shape (4, n), and the weights there and one shell on, float32."""
        theta, phi, shell, up = self.locate(part)
        pixels, weights = healpy.get_interp_weights(self.grid.nside, theta, phi)
        return (
            pixels * self.grid.n_shell + shell,
            (weights * (1 - up)).astype(np.float32),
            (weights * up).astype(np.float32),
        )

    def weights_per_sample(self, part: slice) -> Array:
        """healpy's weights made anew for each sample; places and shells are found once."""
        theta, phi, shell, up = self.locate(part)
        down = 1 - up
        values = np.empty((self.n_sample, len(theta)), dtype=np.float32)
        for s, sample in enumerate(self.each):
            pixels, weights = healpy.get_interp_weights(self.grid.nside, theta, phi)
            cells = pixels * self.grid.n_shell + shell
            lower = np.take(sample, cells)
            upper = np.take(sample, cells + 1)
            values[s] = (weights * (lower * down + upper * up)).sum(axis=0)
        return values.T

    def shared_rows(self, part: slice) -> Array:
        """healpy's weights made once; eight rows of all samples, added up in place."""
        cells, lower, upper = self.weights(part)
        total = np.zeros((cells.shape[1], self.n_sample), dtype=np.float32)
        row = np.empty_like(total)
        for k in range(4):
            for cell, weight in ((cells[k], lower[k]), (cells[k] + 1, upper[k])):
                np.take(self.cells, cell, axis=0, out=row, mode="clip")
                row *= weight[:, None]
                total += row
        return total

    def shared_einsum(self, part: slice) -> Array:
        """The same with the sum as one einsum over gathered rows."""
        cells, lower, upper = self.weights(part)
        rows = np.take(self.cells, np.concatenate([cells, cells + 1]), axis=0)
        return np.asarray(np.einsum("kn,kns->ns", np.concatenate([lower, upper]), rows))

    def shared_matmul(self, part: slice) -> Array:
        """The same, with rows that hold a cell and the next, and the sum as a stack of matrix products."""
        cells, lower, upper = self.weights(part)
        n = cells.shape[1]
        rows = self.pairs[cells.T].reshape(n, 8, self.n_sample)
        weights = np.stack([lower, upper], axis=1).reshape(8, n).T
        return np.asarray(np.matmul(weights[:, None, :], rows))[:, 0]

    def matrix(self, part: slice) -> scipy.sparse.csr_array:
        """The weights as a sparse matrix, eight a row."""
        cells, lower, upper = self.weights(part)
        n = cells.shape[1]
        columns = np.stack([cells, cells + 1], axis=1).reshape(8, n).T.astype(np.int32)
        data = np.stack([lower, upper], axis=1).reshape(8, n).T
        starts = np.arange(0, 8 * n + 1, 8, dtype=np.int32)
        return scipy.sparse.csr_array((data.ravel(), columns.ravel(), starts), shape=(n, len(self.cells)))

    def built_matrix(self, part: slice) -> Array:
        """A sparse matrix built and applied once."""
        return np.asarray(self.matrix(part) @ self.cells)


class Raster:
    """The samples resampled to a raster of latitude and longitude; values between its nodes differ from healpy's."""

    def __init__(self, peers: Peers) -> None:
        self.peers = peers
        n_lat, n_lon = RASTER
        theta, phi = np.meshgrid(np.linspace(0, np.pi, n_lat), np.linspace(-np.pi, np.pi, n_lon + 1), indexing="ij")
        pixels = healpy.ang2pix(peers.grid.nside, theta, phi)
        self.values = peers.each.reshape(peers.n_sample, -1, peers.grid.n_shell)[:, pixels]

    def interpolate(self, part: slice) -> Array:
        """One call of scipy for each sample."""
        theta, phi, shell, up = self.peers.locate(part)
        n_lat, n_lon = RASTER
        places = np.stack([theta * ((n_lat - 1) / np.pi), (phi + np.pi) * (n_lon / (2 * np.pi)), shell + up])
        values = np.empty((self.peers.n_sample, len(theta)), dtype=np.float32)
        for s, sample in enumerate(self.values):
            map_coordinates(sample, places, order=1, output=values[s], mode="nearest", prefilter=False)
        return values.T


class Dustmaps:
    """`dustmaps.edenhofer2023.Edenhofer2023Query` over a file in the layout of its map.

    It interpolates the logarithm of the density, linearly in distance: its values differ from healpy's.
    """

    def __init__(self, peers: Peers, folder: Path) -> None:
        os.environ.setdefault("DUSTMAPS_CONFIG_FNAME", str(folder / "dustmaps.json"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it has no configuration file, and needs none
            from dustmaps.edenhofer2023 import Edenhofer2023Query

        grid = peers.grid
        data = fits.ImageHDU(
            peers.each.reshape(peers.n_sample, grid.n_pixel, grid.n_shell).transpose(0, 2, 1), name="samples"
        )
        data.header["NSIDE"], data.header["ORDERING"], data.header["CUNIT"] = grid.nside, "RING", "1/pc"
        tables = [
            fits.BinTableHDU.from_columns([fits.Column(name, "D", array=1000.0 * values)])
            for name, values in (("radial pixel centers", grid.centres), ("radial pixel boundaries", grid.edges))
        ]
        path = folder / "samples_healpix.fits"
        fits.HDUList([fits.PrimaryHDU(), data, *tables]).writeto(path)
        self.query = Edenhofer2023Query(map_fname=str(path), load_samples=True)
        x, y, z = peers.points.T
        self.radius = np.sqrt(x * x + y * y + z * z)
        self.places = SkyCoord(
            l=np.arctan2(y, x) * u.rad,
            b=np.arctan2(z, np.hypot(x, y)) * u.rad,
            distance=self.radius * u.kpc,
            frame="galactic",
        )

    def interpolate(self, part: slice) -> Array:
        """All samples at some points."""
        return np.asarray(self.query.query(self.places[part], mode="samples"))


def in_blocks(
    method: Callable[[slice], Array],
    n: int,
    size: int,
    reduce: Callable[[Array], Sequence[Array]] | None = None,
    points_per_row: int = 1,
) -> list[Array]:
    """Apply a method block by block; keep the values, or only what `reduce` makes of each block.

    Parameters
    ----------
    n, size : int
        Number of points, of all and of a block.
    reduce : callable, optional
        From the values of a block to arrays with one row for every ``points_per_row`` points.
    """
    results: list[Array] = []
    for first in range(0, n, size):
        part = slice(first, min(first + size, n))
        values = method(part)
        made = (values,) if reduce is None else reduce(values)
        if not results:
            results = [np.empty((n // points_per_row, *item.shape[1:]), item.dtype) for item in made]
        for result, item in zip(results, made, strict=True):
            result[first // points_per_row :][: len(item)] = item
    return results


def best(
    methods: Sequence[Callable[[slice], Array]], n: int, sizes: Sequence[int]
) -> tuple[Callable[[slice], Array], int]:
    """The quickest of some methods, and its best block, by trial on part of the points."""
    tried = []
    for size in sizes:
        for method in methods:
            enough = min(n, max(size, 1 << 17))
            in_blocks(method, min(enough, size), size)
            seconds = []
            for _ in range(2):
                started = time.process_time()
                in_blocks(method, enough, size)
                seconds.append((time.process_time() - started) / enough)
            tried.append((min(seconds), method, size))
    _, method, size = min(tried, key=lambda item: item[0])
    return method, size
