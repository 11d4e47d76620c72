"""A posterior's samples, read in pieces that fit in memory, and what is computed from them on the way out.

Each sample first, then statistics over samples: sums in float64, standard deviations with ddof = 1. A cell that is NaN
in one sample has no statistics.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from crdist.errors import RecipeError, SchemaError
from crdist.exporters.exporter import ExportOptions
from crdist.schema import INFERENCE_GROUP, MAIN_QUANTITY, Derived, PosteriorHeader, open_group, read_posterior_header
from crdist.store import open_for_reading
from crdist.units import integral_unit

__all__ = ["Region", "Samples", "SkyMap", "open_samples", "significance", "statistics_of"]

PIECE_BYTES = 16 * 1024**2
"""Samples read at once, where chunks allow it."""


@dataclass(frozen=True, slots=True)
class Region:
    """Some neighbouring pixels and shells."""

    pixels: slice
    shells: slice

    @property
    def shape(self) -> tuple[int, int]:
        """Number of pixels and of shells."""
        return self.pixels.stop - self.pixels.start, self.shells.stop - self.shells.start


@dataclass(frozen=True, slots=True)
class Samples:
    """One quantity of a posterior store, sample by sample, in the store's pixel order."""

    header: PosteriorHeader
    quantity: Derived
    arrays: tuple[zarr.Array[Any], ...]
    """The stored variables that make it up, in the order of its terms."""
    warnings: tuple[str, ...] = ()
    """What a reader of the samples must know, as the inference says it."""

    @property
    def n_sample(self) -> int:
        """Number of samples when the store was opened."""
        return self.header.n_sample

    @property
    def piece(self) -> tuple[int, int, int]:
        """Pixels, shells and samples read at once: whole chunks, about `PIECE_BYTES` of them."""
        grid, array = self.header.grid, self.arrays[0]
        pixels, shells, samples = array.chunks
        shard_pixels, shard_shells, _ = array.shards or array.chunks
        whole = 4 * self.n_sample
        if pixels * shells * whole > PIECE_BYTES:
            at_once = samples * max(1, PIECE_BYTES // (4 * pixels * shells * samples))
            return min(pixels, grid.n_pixel), min(shells, grid.n_shell), min(at_once, self.n_sample)
        # Pixels first: they lie side by side in most files.
        while 2 * pixels <= min(shard_pixels, grid.n_pixel) and 2 * pixels * shells * whole <= PIECE_BYTES:
            pixels *= 2
        while 2 * shells <= shard_shells and pixels * 2 * shells * whole <= PIECE_BYTES:
            shells *= 2
        return min(pixels, grid.n_pixel), min(shells, grid.n_shell), self.n_sample

    def regions(self, shells: slice | None = None) -> list[Region]:
        """Regions that cover some shells, all by default, of every pixel once; pixels slowest."""
        grid = self.header.grid
        n_pixel, n_shell, _ = self.piece
        wanted = shells or slice(0, grid.n_shell)
        first = wanted.start - wanted.start % n_shell
        return [
            Region(
                slice(pixel, min(pixel + n_pixel, grid.n_pixel)),
                slice(max(shell, wanted.start), min(shell + n_shell, wanted.stop)),
            )
            for pixel in range(0, grid.n_pixel, n_pixel)
            for shell in range(first, wanted.stop, n_shell)
        ]

    def parts(self, region: Region) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
        """The samples of a region, some at a time: which, and their values, shape (pixel, shell, sample)."""
        at_once = self.piece[2]
        for first in range(0, self.n_sample, at_once):
            samples = slice(first, min(first + at_once, self.n_sample))
            yield samples, self._read(region, samples)

    def statistics(self, region: Region) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Mean and standard deviation (ddof = 1) over the samples, shape (pixel, shell); NaN for a std of one."""
        running = _Running(region.shape)
        for _, values in self.parts(region):
            running.add(values)
        return running.mean, running.std

    def _read(self, region: Region, samples: slice) -> npt.NDArray[np.float32]:
        where = (region.pixels, region.shells, samples)
        total: npt.NDArray[np.float32] | None = None
        # added up in single precision in the order of the terms, as a reader of the store does
        for array, (_, weight) in zip(self.arrays, self.quantity.terms, strict=True):
            term = np.asarray(array[where], dtype=np.float32)
            if len(self.arrays) > 1 or weight != 1.0:
                term = term * np.float32(weight)
            total = term if total is None else total + term
        assert total is not None
        return total


@dataclass(frozen=True, slots=True)
class SkyMap:
    """A map of the sky that is made of the samples: one shell, or an integral along the line of sight."""

    samples: Samples
    units: str
    long_name: str
    shell: int | None
    lengths_kpc: npt.NDArray[np.float64]
    """Length of the line of sight in each shell, for an integral."""
    limits_kpc: tuple[float, float]

    @classmethod
    def chosen(cls, samples: Samples, options: ExportOptions) -> SkyMap | None:
        """The map that the options ask for; None where they ask for all shells.

        Raises
        ------
        RecipeError
            If the store has no such shell or distances.
        """
        grid, quantity = samples.header.grid, samples.quantity
        if options.shell is not None and options.distance_kpc is not None:
            raise RecipeError("one shell (--shell) and an integral (--distance) exclude each other; give one of them")
        if options.inner is not None and options.distance_kpc is None:
            raise RecipeError("--inner is about integrals; give the distances of one, too (--distance)")
        if options.shell is not None:
            if not 0 <= options.shell < grid.n_shell:
                raise RecipeError(
                    f"{samples.header.path}: has the shells 0 to {grid.n_shell - 1}, got shell {options.shell}"
                )
            near, far = grid.edges_kpc[options.shell : options.shell + 2]
            text = f"{quantity.long_name}, {near:.6g} to {far:.6g} kpc from the Sun"
            return cls(samples, quantity.units, text, options.shell, np.zeros(0), (near, far))
        if options.distance_kpc is None:
            return None
        near, far = options.distance_kpc
        outer = grid.edges_kpc[-1]
        if not (math.isfinite(near) and math.isfinite(far) and 0 <= near < far):
            raise RecipeError(f"distances run from near to far in kpc, 0 or more, got {near:g} and {far:g}")
        edges = grid.edges
        if options.inner != "exclude":
            edges[0] = 0.0
        lengths = np.diff(np.clip(edges, near, far))
        if not lengths.any():
            raise RecipeError(
                f"{samples.header.path}: reaches from {edges[0]:g} to {outer:g} kpc, nothing lies between {near:g} "
                f"and {far:g} kpc"
            )
        text = f"{quantity.long_name} integrated along the line of sight from {near:g} to {far:g} kpc"
        return cls(samples, integral_unit(quantity.units)[0], text, None, lengths, (near, far))

    def pieces(self) -> Iterator[tuple[slice, npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
        """Each sample of the map, some pixels at a time.

        Yields
        ------
        pixels : slice
        values : ndarray of float64, shape (pixel, sample)
        coverage : ndarray of float64, shape (pixel,)
            The part of the line of sight that lies inside the grid and is not masked.
        """
        grid, n_sample = self.samples.header.grid, self.samples.n_sample
        n_pixel = self.samples.piece[0]
        if self.shell is None:
            (reached,) = np.nonzero(self.lengths_kpc)
            shells = slice(int(reached[0]), int(reached[-1]) + 1)
        else:
            shells = slice(self.shell, self.shell + 1)
        by_pixels: dict[int, list[Region]] = {}
        for region in self.samples.regions(shells):
            by_pixels.setdefault(region.pixels.start, []).append(region)
        for first, regions in by_pixels.items():
            pixels = slice(first, min(first + n_pixel, grid.n_pixel))
            values = np.zeros((pixels.stop - pixels.start, n_sample))
            covered = np.zeros(pixels.stop - pixels.start)
            for region in regions:
                known = np.ones(region.shape, dtype=bool)
                # read twice where they do not fit at once: a cell that is masked in one sample is in all
                at_once = self.samples.piece[2] == n_sample
                parts = list(self.samples.parts(region)) if at_once else None
                for _, part in parts or self.samples.parts(region):
                    known &= np.isfinite(part).all(axis=-1)
                lengths = np.ones(1) if self.shell is not None else self.lengths_kpc[region.shells]
                for samples, part in parts or self.samples.parts(region):
                    inside = np.where(known[..., None], part, np.float32(0.0))
                    values[:, samples] += np.einsum("psn,s->pn", inside, lengths, dtype=np.float64)
                covered += known @ lengths
            values[covered == 0] = np.nan
            if self.shell is None:
                near, far = self.limits_kpc
                values *= integral_unit(self.samples.quantity.units)[1]
                covered /= far - near
            yield pixels, values, covered

    def n_piece(self) -> int:
        """Number of `pieces`."""
        return -(-self.samples.header.grid.n_pixel // self.samples.piece[0])


def open_samples(path: Path, quantity: str | None) -> Samples:
    """Open a quantity of a posterior store for export.

    Parameters
    ----------
    path : Path
        The store.
    quantity : str, optional
        A variable or derived quantity; by default the store's main one.

    Raises
    ------
    SchemaError
        If the store is no posterior, holds no sample yet or has no such quantity.
    """
    header = read_posterior_header(path)
    if header.n_sample == 0:
        raise SchemaError(f"{path}: holds no sample yet")
    chosen = header.resolve(quantity or MAIN_QUANTITY)
    group = open_group(path)
    warnings: tuple[str, ...] = ()
    if INFERENCE_GROUP in group:
        attrs: Any = group[INFERENCE_GROUP].attrs
        warnings = tuple(str(text) for text in attrs.get("warnings", []))
        if attrs.get("status") == "running":
            warnings += (f"The inference was still running: these are its first {header.n_sample} samples.",)
    names = [name for name, _ in chosen.terms]
    if header.layout == "packed":
        arrays = [open_for_reading(path, name) for name in names]
    else:
        # zarr's own codecs: the others take three times as long for a part of a shard that holds a whole sample
        arrays = [zarr.open_array(str(path), path=name, mode="r") for name in names]
    return Samples(header, chosen, tuple(arrays), warnings)


def significance(mean: npt.NDArray[np.float64], std: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean divided by standard deviation; NaN where that is 0 or unknown.

    Examples
    --------
    >>> significance(np.array([3.0, 1.0]), np.array([1.5, 0.0]))
    array([ 2., nan])
    """
    result = np.full(mean.shape, np.nan)
    np.divide(mean, std, out=result, where=std > 0)
    return result


def statistics_of(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation (ddof = 1) over the last axis."""
    running = _Running(values.shape[:-1])
    running.add(values)
    return running.mean, running.std


class _Running:
    """Mean and spread of samples that come in parts, merged as Chan et al. 1983 (Am. Stat. 37, 242) do."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.n = 0
        self.mean = np.zeros(shape)
        self._squares = np.zeros(shape)

    def add(self, values: npt.NDArray[np.floating[Any]]) -> None:
        """Take in some samples, which are the last axis."""
        n_new = values.shape[-1]
        mean = values.mean(axis=-1, dtype=np.float64)
        deviations = values - mean[..., None]
        squares = np.einsum("...n,...n->...", deviations, deviations)
        total = self.n + n_new
        apart = mean - self.mean
        self._squares += squares + apart * apart * (self.n * n_new / total)
        self.mean += apart * (n_new / total)
        self.n = total

    @property
    def std(self) -> npt.NDArray[np.float64]:
        if self.n < 2:
            return np.full(self.mean.shape, np.nan)
        return np.asarray(np.sqrt(self._squares / (self.n - 1)))
