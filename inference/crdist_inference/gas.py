"""The gas on the grid of the inference: density of hydrogen nuclei, posterior mean, columns conserved.

Read from the published maps of Söding et al. 2025 or from a posterior store of gas, in blocks of pixels, so that a
file of any size fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from astropy import units as u

from crdist.errors import GridError, InputFileError, RecipeError, SchemaError
from crdist.grids import SphericalGrid
from crdist.importers.fitsfile import describe, open_binary, scan
from crdist.importers.published import ImportOptions
from crdist.importers.soding import ATOMS, MOLECULES, SODING
from crdist.importers.streaming import source_identity
from crdist.schema import PosteriorHeader, read_posterior_header, versions
from crdist.store import open_for_reading
from crdist.units import integral_unit, parse_unit
from crdist_inference.downgrade import mean_of_children, n_children

__all__ = ["GasCube", "Inner", "read_gas", "shell_overlaps"]

Float = npt.NDArray[np.float64]

Inner = Literal["exclude", "extend"]
"""What lies between the Sun and the first edge: nothing, or gas of the first shell's density."""

READ_BYTES = 64 * 1024**2
"""Samples held at once."""

NUCLEI = ((ATOMS, 1.0), (MOLECULES, 2.0))
"""Hydrogen nuclei in an atom and in a molecule."""

CM_PER_KPC = integral_unit("cm-3")[1]


@dataclass(frozen=True, slots=True, eq=False)
class GasCube:
    """Density of hydrogen nuclei on a spherical grid.

    Parameters
    ----------
    grid : SphericalGrid
        Nested.
    hydrogen_density : ndarray, cm-3, shape (n_pixel, n_shell)
        n_HI + 2 n_H2, mean over each cell along the line of sight.
    inner : {"exclude", "extend"}
        See `Inner`; it counts in columns, the density is the same.
    provenance : mapping
        Source, options and notes; plain data.

    Raises
    ------
    GridError
        If the grid is not nested or the density has another shape.
    InputFileError
        If a density is negative or not finite.
    """

    grid: SphericalGrid
    hydrogen_density: Float
    inner: Inner = "exclude"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_nested(self.grid)
        _check_inner(self.inner)
        density = np.array(self.hydrogen_density, dtype=np.float64)
        expected = (self.grid.n_pixel, self.grid.n_shell)
        if density.shape != expected:
            raise GridError(f"gas on this grid has shape {expected}, got {density.shape}")
        _check_density(density, 0, "the gas")
        density.flags.writeable = False
        object.__setattr__(self, "hydrogen_density", density)

    @property
    def path_lengths_kpc(self) -> Float:
        """Length of line of sight that each shell stands for, kpc, shape (n_shell,)."""
        lengths = self.grid.widths
        if self.inner == "extend":
            lengths[0] = self.grid.edges[1]
        return np.asarray(lengths, dtype=np.float64)

    def shell_columns(self) -> Float:
        """Column density of hydrogen nuclei in each cell, cm-2, shape (n_pixel, n_shell)."""
        return np.asarray(self.hydrogen_density * (CM_PER_KPC * self.path_lengths_kpc), dtype=np.float64)

    def column(self) -> Float:
        """Column density of hydrogen nuclei along each line of sight, cm-2, shape (n_pixel,)."""
        return np.asarray(CM_PER_KPC * (self.hydrogen_density @ self.path_lengths_kpc), dtype=np.float64)

    def empty_sightlines(self, used: npt.ArrayLike | None = None) -> npt.NDArray[np.intp]:
        """Nested pixels without any gas, of those used: there the model gives zero whatever the cosmic rays are.

        Parameters
        ----------
        used : array_like of bool, shape (n_pixel,), optional
            Pixels that count; default all.
        """
        empty = ~(self.hydrogen_density > 0.0).any(axis=1)
        if used is not None:
            chosen = np.asarray(used)
            if chosen.shape != empty.shape or chosen.dtype != np.bool_:
                raise GridError(f"a mask of this gas is bool of shape {empty.shape}, got {chosen.dtype} {chosen.shape}")
            empty &= chosen
        return np.flatnonzero(empty)

    def describe_empty_sightlines(self, used: npt.ArrayLike | None = None) -> str:
        """One line on `empty_sightlines`; empty if there are none."""
        pixels = self.empty_sightlines(used)
        if not pixels.size:
            return ""
        n_used = self.grid.n_pixel if used is None else int(np.count_nonzero(used))
        return (
            f"{pixels.size} of {n_used} used lines of sight have no gas (nested pixel {pixels[0]} first): "
            "the model is zero there, so mask them or use a gas map that covers them"
        )


def read_gas(
    path: str | Path,
    grid: SphericalGrid,
    *,
    xco_rescale: float = 1.0,
    inner: Inner = "exclude",
    progress: Callable[[int, int], None] | None = None,
) -> GasCube:
    """Read a 3D gas map and bring it to a grid: mean over samples, over pixels, and along the line of sight.

    Parameters
    ----------
    path : path
        The FITS file of Söding et al. 2025 (samples, or a mean of two axes), or a posterior store with ``n_hi`` and
        ``n_h2``, or whose main quantity is the density of hydrogen nuclei.
    grid : SphericalGrid
        The grid of the inference, nested, no finer than the map on the sky; radially it may be any.
    xco_rescale : float
        Factor on the molecules: the X_CO wanted over that of the map, which is 2e20 cm-2 (K km/s)-1.
    inner : {"exclude", "extend"}
        What lies within the first edge of ``grid``, see `Inner`.
    progress : callable, optional
        Called with the number of blocks read and their total.

    Returns
    -------
    GasCube
        In each shell sum_j n_j overlap_j / width, so that the column of any part of the map that the grid covers is
        kept; 0 where the grid reaches beyond the map.

    Raises
    ------
    InputFileError
        If the source is damaged, in another layout or unit, or a density is negative or not finite.
    GridError
        If the grid is in ring order or finer than the map.
    RecipeError
        If an option is impossible.
    SchemaError
        If a store is not a posterior with samples, or lacks the gas.
    """
    path = Path(path)
    _check_nested(grid)
    _check_inner(inner)
    if not 0.0 <= xco_rescale < math.inf:
        raise RecipeError(f"xco_rescale must be a number from 0 up, got {xco_rescale}")
    with _open_map(path) as source:
        try:
            n_child = n_children(source.grid.nside, grid.nside)
        except GridError as error:
            raise GridError(f"{path}: {error}") from error
        weights = {name: weight * (xco_rescale if name == MOLECULES else 1.0) for name, weight in source.terms}
        if xco_rescale != 1.0 and MOLECULES not in weights:
            raise RecipeError(f"{path}: does not tell molecules ({MOLECULES}) from atoms; leave xco_rescale at 1")
        overlaps = shell_overlaps(source.grid.edges, grid.edges)
        onto_grid = source.factor * overlaps / grid.widths
        density = np.empty((grid.n_pixel, grid.n_shell))
        blocks = list(_blocks(grid.n_pixel, 4 * n_child * source.grid.n_shell * source.n_sample))
        for done, pixels in enumerate(blocks):
            fine = slice(n_child * pixels.start, n_child * pixels.stop)
            total = np.zeros((fine.stop - fine.start, source.grid.n_shell))
            for name, weight in weights.items():
                samples = source.read(name, fine)
                # before anything is added up: a negative density must not hide behind larger ones
                _check_density(samples, fine.start, f"{path}: {name}")
                total += weight * samples.mean(axis=-1, dtype=np.float64)
            density[pixels] = mean_of_children(total, n_child) @ onto_grid
            if progress is not None:
                progress(done + 1, len(blocks))
    notes = [*source.notes, *_coverage_notes(source.grid, grid)]
    provenance = {
        "versions": versions(),
        "layout": source.layout,
        "source": source.identity,
        "source_grid": {"nside": source.grid.nside, "n_shell": source.grid.n_shell},
        "n_sample": source.n_sample,
        "config": {"xco_rescale": float(xco_rescale), "inner": inner},
        "notes": notes,
    }
    return GasCube(grid, density, inner, provenance)


def shell_overlaps(edges_from: npt.ArrayLike, edges_to: npt.ArrayLike) -> Float:
    """Length that each shell of one grid shares with each of another.

    Parameters
    ----------
    edges_from, edges_to : array_like, shape (n + 1,) and (m + 1,)
        Shell edges in one unit, increasing.

    Returns
    -------
    ndarray, shape (n, m), the edges' unit

    Examples
    --------
    >>> shell_overlaps([0.0, 1.0, 3.0], [0.5, 2.0, 9.0])
    array([[0.5, 0. ],
           [1. , 1. ]])
    """
    old, new = np.asarray(edges_from, dtype=np.float64), np.asarray(edges_to, dtype=np.float64)
    outer = np.minimum(old[1:, None], new[None, 1:])
    inner = np.maximum(old[:-1, None], new[None, :-1])
    return np.asarray(np.maximum(outer - inner, 0.0), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class _GasMap:
    """A gas map, open to be read by blocks of nested pixels."""

    grid: SphericalGrid
    n_sample: int
    terms: tuple[tuple[str, float], ...]
    """Variables and the number of hydrogen nuclei each counts for."""
    factor: float
    """From the map's unit to cm-3."""
    read: Callable[[str, slice], npt.NDArray[np.float32]]
    """All samples of some pixels, shape (pixel, shell, sample)."""
    layout: str
    identity: Mapping[str, Any]
    notes: tuple[str, ...]


@contextmanager
def _open_map(path: Path) -> Iterator[_GasMap]:
    if path.is_dir():
        yield _store_map(path)
        return
    with open_binary(path) as file:
        start = file.read(9)
    if start != b"SIMPLE  =":
        raise InputFileError(
            f"{path}: neither a FITS file nor a posterior store; make a store of it with 'crdist import'"
        )
    hdus = scan(path)
    if not SODING.matches(hdus):
        raise InputFileError(
            f"{path}: not in the layout of the published gas ({SODING.summary}), it has "
            f"{describe([hdu for hdu in hdus if hdu.shape])}: make a store of it with 'crdist import'"
        )
    with ExitStack() as files:
        # this layout makes no temporary files
        published = SODING.open(path, ImportOptions(), files, path.parent)
        shells = slice(0, published.grid.n_shell)
        yield _GasMap(
            grid=published.grid,
            n_sample=published.n_sample,
            terms=NUCLEI,
            factor=_per_cm3(path, published.variables[0].units),
            read=lambda name, pixels: published.read(name, pixels, shells),
            layout=SODING.name,
            identity=source_identity(path),
            notes=published.notes,
        )


def _store_map(path: Path) -> _GasMap:
    import healpy

    header = read_posterior_header(path)
    if header.n_sample == 0:
        raise SchemaError(f"{path}: holds no sample yet")
    terms, units = _terms_of(header)
    arrays = {name: open_for_reading(header.path, name) for name, _ in terms}

    def read(name: str, pixels: slice) -> npt.NDArray[np.float32]:
        stored: slice | npt.NDArray[np.intp] = pixels
        if header.grid.ordering == "ring":
            stored = healpy.nest2ring(header.grid.nside, np.arange(pixels.start, pixels.stop))
        try:
            return np.asarray(arrays[name].oindex[stored, slice(None), slice(0, header.n_sample)], dtype=np.float32)
        except (ValueError, RuntimeError) as error:  # zarr's and zarrs' words for a checksum that does not fit
            raise SchemaError(
                f"{path}: {name} cannot be read near nested pixel {pixels.start}; "
                f"'crdist check {path}' names the bad chunks"
            ) from error

    return _GasMap(
        grid=header.grid,
        n_sample=header.n_sample,
        terms=terms,
        factor=_per_cm3(path, units),
        read=read,
        layout="crdist.posterior",
        identity={"name": path.absolute().name, "provenance": dict(header.provenance)},
        notes=(),
    )


def _terms_of(header: PosteriorHeader) -> tuple[tuple[tuple[str, float], ...], str]:
    """Variables of a store that make up the density of hydrogen nuclei, and their unit."""
    units = {variable.name: variable.units for variable in header.variables}
    if ATOMS in units and MOLECULES in units:
        if units[ATOMS] != units[MOLECULES]:
            raise SchemaError(
                f"{header.path}: {ATOMS} and {MOLECULES} are in different units, {units[ATOMS]} and {units[MOLECULES]}"
            )
        return NUCLEI, units[ATOMS]
    if (ATOMS in units) != (MOLECULES in units):
        raise SchemaError(f"{header.path}: has {', '.join(units)}, but gas is both {ATOMS} and {MOLECULES}")
    nuclei = header.resolve("n_h" if "n_h" in units or "n_h" in {item.name for item in header.derived} else "density")
    return nuclei.terms, nuclei.units


def _per_cm3(path: Path, units: str) -> float:
    try:
        return float(parse_unit(units).to(u.cm**-3))
    except (SchemaError, u.UnitConversionError) as error:
        raise InputFileError(f"{path}: a gas map is a number density (cm-3), this one is in {units!r}") from error


def _blocks(n_pixel: int, bytes_per_pixel: int) -> Iterator[slice]:
    """Ranges of pixels of at most `READ_BYTES`, one pixel at least."""
    step = max(1, READ_BYTES // bytes_per_pixel)
    for first in range(0, n_pixel, step):
        yield slice(first, min(first + step, n_pixel))


def _coverage_notes(source: SphericalGrid, grid: SphericalGrid) -> Sequence[str]:
    # edges of the same grid, written in other units, differ by roundings
    slack = 1e-9
    if grid.edges[0] < source.edges[0] * (1 - slack) or grid.edges[-1] > source.edges[-1] * (1 + slack):
        return [f"the map covers {source.edges[0]:g} to {source.edges[-1]:g} kpc; elsewhere the gas is 0"]
    return []


def _check_nested(grid: SphericalGrid) -> None:
    if grid.ordering != "nested":
        raise GridError(f"the grid of the inference is nested, got {grid.ordering} order")


def _check_inner(inner: object) -> None:
    if inner not in get_args(Inner):
        raise RecipeError(f"inner must be one of {', '.join(get_args(Inner))}, got {inner!r}")


def _check_density(density: npt.NDArray[np.floating], first_pixel: int, where: str) -> None:
    good = (density >= 0.0) & (density < np.inf)
    if not good.all():
        bad = np.argwhere(~good)
        pixel, shell = bad[0, :2].tolist()
        raise InputFileError(
            f"{where} is {density[tuple(bad[0])]:g} in nested pixel {first_pixel + pixel}, shell {shell} "
            f"({len(bad)} such values near it); a density must be known and not negative"
        )
