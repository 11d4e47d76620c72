"""A map that is kept ready for queries: in memory, with its logarithms or its integrals taken beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from crdist.errors import GridError, RecipeError, SchemaError
from crdist.frames import Frame
from crdist.schema import POSTERIOR_DIMS
from crdist_postproc.kernels.field import Inner, Method, ValueSpace
from crdist_postproc.kernels.held import BETWEEN_PIXELS, LOGARITHMS, VALUES, held_samples_at
from crdist_postproc.kernels.points import Interpolation, Locator, Radial, integral_edges
from crdist_postproc.lazy import spherical_grid_of
from crdist_postproc.points import dims_and_coords, read_points
from crdist_postproc.query import Mode, check_options, factor_and_attributes, labelled
from crdist_postproc.statistics import significance_and_error

__all__ = ["PointMap"]

Floats = npt.NDArray[np.float64]

PART_POINTS = 1 << 14
"""Points that a thread takes at once."""
PART_PIXELS = 256
"""Pixels that are made ready at once."""


class PointMap:
    """Samples held in memory to be asked for their values, or integrals, at points again and again.

    Gives what `crdist_postproc.query.query` gives, to single precision, several times as fast: the logarithms are taken
    once, and of integrals the sums to every edge of every column.

    Parameters
    ----------
    samples : DataArray, dims (pixel, shell[, sample])
        As for `query`; read here, and as large in memory as its float32 (twice, while logarithms are taken).
    integrated : bool
        Integrals from the Sun to the points, and nothing else.
    method, value_space, radial, inner
        As for `query`.

    Raises
    ------
    GridError, SchemaError
        If the samples lack the coordinates that tell their grid, or one is infinite, or not positive where its
        logarithm is needed.

    Examples
    --------
    ``dust = posterior.crdist.point_map(value_space="log", radial="linear"); dust(stars, mode="std")``
    """

    def __init__(
        self,
        samples: xr.DataArray,
        *,
        integrated: bool = False,
        method: Method = "linear",
        value_space: ValueSpace = "linear",
        radial: Radial = "log",
        inner: Inner = "extend",
    ) -> None:
        self._how = how = Interpolation(method, value_space, radial, inner, bool(integrated))
        check_options(how, "mean", None, None)
        self._grid = spherical_grid_of(samples)
        self._several = "sample" in samples.dims
        ordered = samples if self._several else samples.expand_dims("sample", axis=-1)
        values = ordered.transpose(*POSTERIOR_DIMS).values
        if not values.shape[2]:
            raise SchemaError("there are no samples yet")
        # without the values, which are held once
        self._about = samples.isel(pixel=slice(0), shell=slice(0))
        self._numbers = samples.coords["sample"].variable if "sample" in samples.coords and self._several else None
        self._exponent = 0
        self._locator = Locator(self._grid, how)
        if integrated:
            self._space = BETWEEN_PIXELS if value_space == "log" else VALUES
            self._lengths = np.diff(integral_edges(self._grid, how))
            self._held = _sums(values, self._lengths, not_negative=value_space == "log")
            self._exponent = _exponent_of(self._held)
        elif value_space == "log":
            self._space = LOGARITHMS
            self._held, self._exponent = _logarithms(values)
        else:
            self._space = VALUES
            self._held = np.ascontiguousarray(values, dtype=np.float32)
            _check(self._held)

    @property
    def nbytes(self) -> int:
        """Memory that is held."""
        return int(self._held.nbytes)

    def __call__(
        self,
        coords: Any,
        *,
        mode: Mode = "mean",
        q: float | Sequence[float] | None = None,
        seed: int | None = None,
        frame: Frame | None = None,
        units: str | Mapping[str, str] | None = None,
        threads: int | None = None,
    ) -> xr.DataArray:
        """Values at points.

        Parameters
        ----------
        coords, frame, units, mode, q, seed
            As for `query`.
        threads : int, optional
            By default as many as Dask would use: its ``num_workers``, or one for each processor.

        Returns
        -------
        DataArray
            As `query` returns, computed.

        Raises
        ------
        GridError, RecipeError
            As `query` does.
        """
        check_options(self._how, mode, q, seed)
        n_sample = self._held.shape[2]
        if n_sample < 2 and mode in ("std", "significance"):
            raise RecipeError(f"mode {mode!r} needs two samples at least, got {n_sample}")
        points, shape, spherical = read_points(coords, frame, units)
        dims, kept = dims_and_coords(coords, shape)
        factor, attrs = factor_and_attributes(self._about, self._how, mode)
        held, numbers = self._held, self._numbers
        if mode == "random_sample":
            one = int(np.random.default_rng(seed).choice(n_sample)) if self._several else 0
            held, numbers = held[:, :, one : one + 1], numbers[one : one + 1] if numbers is not None else None
        values = self._values(held, points, spherical, mode, q, _threads(threads))
        if factor != 1.0:
            values *= factor
        data = values.reshape(*shape, *values.shape[1:])
        return labelled(data, self._about.name, attrs, dims, kept, mode, q=q, several=self._several, numbers=numbers)

    def _values(
        self, held: npt.NDArray[np.float32], points: Floats, spherical: bool, mode: str, q: Any, threads: int
    ) -> Any:
        """Values at points of shape (n, 3), shape (n[, samples or quantiles])."""
        n, n_sample = len(points), held.shape[2]
        is_single = mode in ("samples", "random_sample") and not self._how.integrated
        tail = {"samples": (n_sample,), "random_sample": (1,), "quantile": (np.size(q),)}.get(mode, ())
        values = np.empty((n, *tail), dtype=np.float32 if is_single else np.float64)

        def fill(first: int) -> None:
            part = slice(first, first + PART_POINTS)
            values[part] = self._part(held, points[part], spherical, mode, q)

        _each(fill, range(0, n, PART_POINTS), threads)
        return values

    def _part(self, held: npt.NDArray[np.float32], points: Floats, spherical: bool, mode: str, q: Any) -> Any:
        places = self._locator(points, spherical=spherical)
        if self._how.integrated:
            # from kpc beyond an edge to the part of the way to the next one
            places.part[:] /= self._lengths[places.shell]
        each = mode in ("samples", "random_sample", "quantile")
        found = held_samples_at(held, places, self._space, self._exponent, each=each)
        if mode == "quantile":
            return np.moveaxis(np.quantile(found[0].astype(np.float64), np.atleast_1d(q), axis=-1), 0, -1)
        if mode == "significance":
            return significance_and_error(found[0], found[1], held.shape[2])[0]
        return found[1] if mode == "std" else found[0]


def _threads(wanted: int | None) -> int:
    import dask
    from dask.system import CPU_COUNT

    if wanted is None:
        return int(dask.config.get("num_workers", None) or CPU_COUNT)
    if wanted < 1:
        raise RecipeError(f"threads must be 1 or more, got {wanted}")
    return wanted


def _each(do: Callable[[int], None], firsts: range, threads: int) -> None:
    if threads == 1 or len(firsts) < 2:
        for first in firsts:
            do(first)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(do, firsts):
            pass


def _check(values: npt.NDArray[np.float32]) -> None:
    for first in range(0, len(values), PART_PIXELS):
        part = values[first : first + PART_PIXELS]
        if np.isinf(part).any():
            raise GridError(f"samples must be finite (or NaN where masked), got {part[np.isinf(part)][0]:g}")


def _logarithms(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], int]:
    """Binary logarithms relative to a power of two near the values, which keeps them small and so precise."""
    held = np.empty(values.shape, dtype=np.float32)
    exponent = _exponent_of(values)
    for first in range(0, len(values), PART_PIXELS):
        part = values[first : first + PART_PIXELS].astype(np.float64)
        wrong = np.isinf(part) | (part <= 0)
        if wrong.any():
            value = part[wrong][0]
            if math.isinf(value):
                raise GridError(f"samples must be finite (or NaN where masked), got {value:g}")
            raise GridError(f"value_space 'log' needs positive samples, got {value:g}; use value_space 'linear'")
        held[first : first + PART_PIXELS] = np.log2(part) - exponent
    return held, exponent


def _exponent_of(values: npt.NDArray[Any]) -> int:
    """Of a power of two amid the values."""
    known = values[:: max(1, len(values) // 64)]
    known = known[np.isfinite(known) & (known > 0)]
    return round(float(np.median(np.log2(known, dtype=np.float64)))) if known.size else 0


def _sums(values: npt.NDArray[Any], lengths: Floats, *, not_negative: bool) -> npt.NDArray[np.float32]:
    """Integrals from the Sun to the edges of each column, shape (pixel, shell + 1, sample), summed in float64."""
    n_pixel, n_shell, n_sample = values.shape
    held = np.zeros((n_pixel, n_shell + 1, n_sample), dtype=np.float32)
    for first in range(0, n_pixel, PART_PIXELS):
        part = values[first : first + PART_PIXELS].astype(np.float64)
        np.multiply(part, lengths[:, None], out=part)
        sums = np.cumsum(part, axis=1, out=part)
        wrong = np.isinf(sums) | (sums < 0 if not_negative else False)
        if wrong.any():
            value = sums[wrong][0]
            if math.isinf(value):
                raise GridError(f"samples must be finite (or NaN where masked), got {value:g}")
            raise GridError(
                f"value_space 'log' needs positive samples, got an integral of {value:g} kpc; use value_space 'linear'"
            )
        held[first : first + PART_PIXELS, 1:] = sums
    return held
