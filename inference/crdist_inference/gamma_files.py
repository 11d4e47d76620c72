"""Files of gamma-ray maps: what they hold of one energy band, read and written.

The layout of Scheel-Platz et al. 2023 (A&A 680, A2), which is what NIFTy's ``save_to_hdf5`` writes, and HEALPix FITS
tables.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from crdist.errors import DependencyError, InputFileError, RecipeError, SchemaError, StoreExistsError
from crdist.importers.filearray import physical_values, read_items, reading
from crdist.importers.fitsfile import Hdu, describe, open_binary, scan
from crdist.importers.healpix_fits import UNSEEN, UNSEEN_TOLERANCE
from crdist.importers.published import ordering_of
from crdist.units import parse_unit
from crdist_inference.downgrade import healpix_nside, is_sphere

if TYPE_CHECKING:
    import h5py

__all__ = ["BAND_GEV", "UNITS", "Raw", "Stated", "container_of", "read_fits", "read_hdf5", "write_observation_file"]

Float = npt.NDArray[np.float64]

UNITS = "m-2 s-1 sr-1"
"""Photons are counted, not measured: they are no unit of the result."""

BAND_GEV = (10**0.25, 10**0.5)
"""The band of arXiv:2605.22739, 1.78 to 3.16 GeV."""

BAND_TOLERANCE = 0.01
"""Edges are often printed with three digits; neighbouring edges are much further apart."""

MEAN, SIGMA, SAMPLES = "stats/mean", "stats/standard deviation", "samples"
LOWER, UPPER = "lower_bin_boundaries", "upper_bin_boundaries"
ENERGY_BINS = "energy_bins.hdf5"

INTENSITY_COLUMNS = ("intensity", "mean", "flux")
SIGMA_COLUMNS = ("sigma", "std", "standard deviation", "stddev", "error")


@dataclass(frozen=True, slots=True)
class Stated:
    """What the user says of a file: it goes before what the file says."""

    ordering: Literal["nested", "ring"] | None
    units: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """What a file holds of one band."""

    maps: Float
    """Nested, m-2 s-1 sr-1, shape (n_map, n_pixel): mean and standard deviation, or the samples."""
    band: tuple[float, float]
    ordering: Literal["nested", "ring"]
    """The file's."""
    units: str
    """The file's."""
    sources: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def container_of(path: Path) -> Literal["HDF5", "FITS"]:
    """Which kind of file it is.

    Raises
    ------
    InputFileError
        If it is neither.
    """
    if path.is_dir():
        raise InputFileError(f"{path}: is a folder; give the file of the map")
    with open_binary(path) as file:
        start = file.read(16)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "HDF5"
    if start.startswith(b"SIMPLE  ="):
        return "FITS"
    raise InputFileError(f"{path}: {'neither an HDF5 nor a FITS file' if start else 'is empty'}")


def read_hdf5(
    path: Path, band: tuple[float, float], stated: Stated, energy_bins: str | Path | None, *, with_samples: bool
) -> Raw:
    """One band of a map in the HDF5 layout.

    Parameters
    ----------
    path : Path
    band : tuple of float, GeV
        Lower and upper edge of the energy bin that is wanted.
    stated : Stated
        What the user says of the file.
    energy_bins : path, optional
        File of the bins' edges; default: `ENERGY_BINS` beside the map.
    with_samples : bool
        Read the samples instead of mean and standard deviation.

    Raises
    ------
    InputFileError, DependencyError
        If the file is not as described, or h5py is not installed.
    """
    with _open_hdf5(path) as file:
        own = energy_bins is None and LOWER in file
        bins = path if own else path.parent / ENERGY_BINS if energy_bins is None else Path(energy_bins)
        if not bins.exists():
            raise InputFileError(f"{bins}: no such file; give the file of the energy bins as energy_bins=")
        lower, upper = _bin_edges(bins)
        i = _bin_of(bins, lower, upper, band)
        names = _sample_names(file, path) if with_samples else [MEAN, SIGMA]
        rows = [_row(file, path, name, i, lower.size) for name in names]
        # The published file says neither: both are the paper's.
        units, ordering = (
            file[names[0]].attrs.get(key, file.attrs.get(key, default))
            for key, default in (("units", UNITS), ("ordering", "RING"))
        )
    if len({row.shape for row in rows}) != 1:
        raise InputFileError(f"{path}: {names[0]!r} and {names[1]!r} differ in shape")
    if with_samples and sum(map(len, rows)) < 2:
        raise InputFileError(f"{path}: holds 1 sample, a scatter needs 2; use sigma_rule 'mean' or 'quadrature'")
    units = stated.units or str(units)
    order = stated.ordering or ordering_of(path, ordering)
    return Raw(
        maps=_factor(path, units) * _nested(path, np.concatenate(rows), order),
        band=(float(lower[i]), float(upper[i])),
        ordering=order,
        units=units,
        sources=(path,) if bins == path else (path, bins),
    )


def _row(file: h5py.File, path: Path, name: str, i: int, n_energy: int) -> Float:
    """One energy bin of a dataset, shape (n, n_pixel): n is 1, or the number of samples in it."""
    dataset = _dataset(file, path, name)
    shape = dataset.shape
    fits = len(shape) == 2 or (len(shape) == 3 and name == SAMPLES)
    if not fits or shape[-2] != n_energy or dataset.dtype.kind not in "fiu":
        raise InputFileError(
            f"{path}: {name!r} is {dataset.dtype} of shape {shape}, expected numbers of shape ({n_energy}, n_pixel)"
        )
    with reading(path):
        values = np.asarray(dataset[..., i, :], dtype=np.float64)
    return values.reshape(-1, shape[-1])


def _sample_names(file: h5py.File, path: Path) -> list[str]:
    import h5py

    if SAMPLES not in file:
        raise InputFileError(f"{path}: has no {SAMPLES!r}; use sigma_rule 'mean' or 'quadrature'")
    group = file[SAMPLES]
    if isinstance(group, h5py.Dataset):
        return [SAMPLES]
    keys = sorted(group, key=lambda key: (len(key), key))
    if not keys:
        raise InputFileError(f"{path}: the group {SAMPLES!r} is empty; use sigma_rule 'mean' or 'quadrature'")
    return [f"{SAMPLES}/{key}" for key in keys]


def _bin_edges(path: Path) -> tuple[Float, Float]:
    with _open_hdf5(path) as file:
        edges = []
        for name in (LOWER, UPPER):
            dataset = _dataset(file, path, name)
            with reading(path):
                edges.append(np.asarray(dataset[()], dtype=np.float64).reshape(-1))
    lower, upper = edges
    if lower.shape != upper.shape or not lower.size or not np.all((lower > 0) & (lower < upper) & (upper < np.inf)):
        raise InputFileError(
            f"{path}: the energy bins must have as many lower as upper boundaries, 0 < lower < upper; "
            f"got {lower.tolist()} and {upper.tolist()}"
        )
    return lower, upper


def _bin_of(path: Path, lower: Float, upper: Float, band: tuple[float, float]) -> int:
    near = np.isclose(lower, band[0], rtol=BAND_TOLERANCE, atol=0.0)
    near &= np.isclose(upper, band[1], rtol=BAND_TOLERANCE, atol=0.0)
    if np.count_nonzero(near) != 1:
        listed = ", ".join(f"{low:.4g}-{high:.4g}" for low, high in zip(lower, upper, strict=True))
        raise InputFileError(f"{path}: no bin is {band[0]:.4g}-{band[1]:.4g} GeV; there are {listed} GeV")
    return int(np.flatnonzero(near)[0])


def _dataset(file: h5py.File, path: Path, name: str) -> h5py.Dataset:
    import h5py

    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        there: list[str] = []
        file.visititems(lambda key, item: there.append(key) if isinstance(item, h5py.Dataset) else None)
        listed = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "")
        raise InputFileError(f"{path}: has no dataset {name!r}; it has {listed or 'none'}")
    return found


def _open_hdf5(path: Path) -> h5py.File:
    h5 = _h5py()
    try:
        return h5.File(path, "r")
    except OSError as error:
        raise InputFileError(f"{path}: not a whole HDF5 file; fetch it again") from error


def _write_hdf5(path: Path, datasets: Mapping[str, npt.NDArray[Any]], attributes: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with _h5py().File(partial, "w") as file:
            file.attrs.update(attributes)
            for name, array in datasets.items():
                file[name] = array
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise DependencyError("an HDF5 file needs h5py; install crdist with its extra 'inference'") from error
    return h5py


def read_fits(
    path: Path,
    band: tuple[float, float],
    stated: Stated,
    sigma_path: str | Path | None,
    columns: Sequence[str] | None,
) -> Raw:
    """The map of a HEALPix FITS table, whose band the file does not say.

    Parameters
    ----------
    path : Path
    band : tuple of float, GeV
        What the caller says the map's band is.
    stated : Stated
        What the user says of the file.
    sigma_path : path, optional
        File of the standard deviation; default: the same.
    columns : tuple of str, optional
        Names of the two columns; default: the usual ones.

    Raises
    ------
    InputFileError, RecipeError
        If the file is not as described, or an option does not go with it.
    """
    if columns is not None and (isinstance(columns, str) or len(columns) != 2):
        raise RecipeError(f"columns are two names, of the intensity and of its sigma; got {columns!r}")
    sources = (path, path if sigma_path is None else Path(sigma_path))
    maps, said = [], []
    for source, name, usual in zip(sources, columns or ("", ""), (INTENSITY_COLUMNS, SIGMA_COLUMNS), strict=True):
        hdu = _sky_table(source)
        i = _column_of(hdu, (name,) if name else usual, alone=sigma_path is not None)
        column, ordering = hdu.columns[i], hdu.header.get("ORDERING")
        if stated.ordering is None and ordering is None:
            raise InputFileError(f"{source}: lacks ORDERING; give ordering='ring' or 'nested'")
        order = stated.ordering or ordering_of(source, ordering)
        units = stated.units or column.units
        if not units:
            raise InputFileError(f"{source}: column {column.name!r} has no unit; give it, such as units={UNITS!r}")
        with open_binary(source) as file:
            rows = read_items(file, source, hdu.offset, hdu.row_dtype, hdu.shape[:1])
        values = physical_values(rows[f"{i}"].reshape(1, -1), column.scale, column.zero, column.blank)
        values = np.asarray(values, dtype=np.float64)
        seen = np.where(np.abs(values - UNSEEN) < UNSEEN_TOLERANCE, np.nan, values)
        maps.append(_factor(source, units) * _nested(source, seen, order, hdu.header.get("NSIDE")))
        edges = tuple(hdu.header.get(key) for key in ("E_MIN", "E_MAX"))
        if None not in edges and not np.allclose(edges, band, rtol=BAND_TOLERANCE, atol=0.0):
            raise InputFileError(f"{source}: E_MIN and E_MAX are {edges} GeV, but the band asked for is {band} GeV")
        said.append((order, units, edges))
    if maps[0].shape != maps[1].shape:
        raise InputFileError(f"{sources[1]}: has {maps[1].size} pixels, the map of intensity {maps[0].size}")
    order, units, edges = said[0]
    silent = None in edges
    return Raw(
        maps=np.concatenate(maps),
        band=band if silent else (float(edges[0]), float(edges[1])),
        ordering=order,
        units=units,
        sources=tuple(dict.fromkeys(sources)),
        notes=("the file does not say its energies (E_MIN, E_MAX): the band is what was asked for",) if silent else (),
    )


def _sky_table(path: Path) -> Hdu:
    hdus = [hdu for hdu in scan(path) if hdu.shape]
    skies = [hdu for hdu in hdus if hdu.kind == "table" and str(hdu.header.get("PIXTYPE")).strip() == "HEALPIX"]
    if len(skies) != 1:
        raise InputFileError(
            f"{path}: must have one table with PIXTYPE = 'HEALPIX', as healpy writes it; "
            f"it has {describe(hdus) or 'no data'}"
        )
    header = skies[0].header
    if str(header.get("INDXSCHM", "IMPLICIT")).strip() != "IMPLICIT":
        raise InputFileError(f"{path}: holds a part of the sky (INDXSCHM {header['INDXSCHM']}); write the full sky")
    if not str(header.get("COORDSYS", "G")).strip().upper().startswith("G"):
        raise InputFileError(f"{path}: is in the coordinates {header['COORDSYS']!r}; rotate it to Galactic ones ('G')")
    return skies[0]


def _column_of(hdu: Hdu, names: Sequence[str], *, alone: bool) -> int:
    """Which column has one of some names; a table that is alone with its column needs none."""
    columns = hdu.columns
    wanted = {name.lower() for name in names}
    found = [i for i, column in enumerate(columns) if column.name.lower() in wanted]
    if not found and alone and len(columns) == 1:
        found = [0]
    if len(found) != 1 or columns[found[0]].dtype.kind not in "fiu":
        raise InputFileError(
            f"{hdu.path}: needs one column of numbers called {' or '.join(map(repr, names))}; it has "
            f"{', '.join(repr(column.name) for column in columns)}: name two as columns=, or give sigma_path="
        )
    return found[0]


def _factor(path: Path, units: str) -> float:
    """How many m-2 s-1 sr-1 a unit is."""
    from astropy import units as u

    try:
        unit = parse_unit(units)
    except SchemaError as error:
        raise InputFileError(f"{path}: unit {units!r} cannot be read; give it, such as units={UNITS!r}") from error
    for base, power in zip(unit.bases, unit.powers, strict=True):
        if base in (u.photon, u.bin):
            unit = unit / base**power
    target = u.Unit(UNITS)
    if unit.is_equivalent(target):
        return float(unit.to(target))
    advice = "a number of photons per area, time and solid angle is needed"
    if unit.is_equivalent(target / u.GeV):
        advice = "it is per energy: integrate it over the band, and write that in " + UNITS
    elif unit.is_equivalent(target * u.GeV):
        advice = "it is an energy, not a number of photons: divide by the photons' energies within the band"
    elif unit.is_equivalent(target * u.sr):
        advice = "it is not per solid angle: divide by that of a pixel"
    raise InputFileError(f"{path}: unit {units!r} is not one of {UNITS}; {advice}")


def _nested(path: Path, maps: Float, ordering: Literal["nested", "ring"], nside: object = None) -> Float:
    """Maps of shape (n, n_pixel) in nested order."""
    n_pixel = maps.shape[-1]
    if not is_sphere(n_pixel) or nside not in (None, healpix_nside(n_pixel)):
        of = "" if nside is None else f" of NSIDE {nside}"
        raise InputFileError(f"{path}: a map of {n_pixel} pixels is no HEALPix sphere{of} (12 NSIDE^2)")
    return _reordered(maps, "nest2ring") if ordering == "ring" else maps


def _reordered(maps: Float, which: Literal["nest2ring", "ring2nest"]) -> Float:
    """Maps of shape (n, n_pixel) read at the pixels that healpy's function gives: ``nest2ring`` makes RING nested."""
    import healpy

    n_pixel = maps.shape[-1]
    pixels = getattr(healpy, which)(healpy.npix2nside(n_pixel), np.arange(n_pixel))
    return np.asarray(maps[..., pixels], dtype=np.float64)


def write_observation_file(
    path: str | Path,
    intensity: npt.ArrayLike,
    sigma: npt.ArrayLike,
    *,
    edges_gev: Sequence[float] = BAND_GEV,
    samples: npt.ArrayLike | None = None,
    energy_bins: str | Path | None = None,
    comment: str = "synthetic, not data",
) -> Path:
    """Write a map in the HDF5 layout that `read_observation` reads, for synthetic skies.

    Parameters
    ----------
    path : path
        File to create.
    intensity, sigma : array_like, m-2 s-1 sr-1, shape (n_energy, n_pixel) or (n_pixel,)
        Nested; the file is in RING order, as published.
    edges_gev : sequence of float, GeV, n_energy + 1 values
        Edges of the energy bins.
    samples : array_like, shape (n_sample, n_energy, n_pixel) or (n_sample, n_pixel), optional
        Posterior samples, nested.
    energy_bins : path, optional
        File of the edges to create; default ``energy_bins.hdf5`` beside the map.
    comment : str
        Stored in the file.

    Returns
    -------
    Path
        The map's file.

    Raises
    ------
    InputFileError
        If shapes do not fit.
    StoreExistsError
        If a file exists.
    DependencyError
        If h5py is not installed.
    """
    target = Path(path)
    bins = target.parent / ENERGY_BINS if energy_bins is None else Path(energy_bins)
    edges = np.asarray(edges_gev, dtype=np.float64)
    datasets = {MEAN: np.asarray(intensity, dtype=np.float64), SIGMA: np.asarray(sigma, dtype=np.float64)}
    given = [] if samples is None else list(np.asarray(samples, dtype=np.float64))
    datasets |= {f"{SAMPLES}/{i}": sample for i, sample in enumerate(given)}
    for name, array in datasets.items():
        table = array[None] if array.ndim == 1 else array
        if table.ndim != 2 or not is_sphere(table.shape[-1]) or table.shape[0] != edges.size - 1:
            raise InputFileError(
                f"{target}: {name} has shape {array.shape}, expected ({edges.size - 1}, 12 nside^2) "
                f"for {edges.size} edges"
            )
        datasets[name] = _reordered(table, "ring2nest")
    if not (np.all(np.diff(edges) > 0) and edges[0] > 0):
        raise InputFileError(f"{bins}: edges of energy bins must be positive and increase, got {edges.tolist()}")
    attributes = {"units": UNITS, "ordering": "RING", "comment": comment}
    for file in (target, bins):
        if file.exists():
            raise StoreExistsError(f"{file}: exists already; choose another name or remove it")
    centres = {"geom_avg_bin_energy": np.sqrt(edges[1:] * edges[:-1]), LOWER: edges[:-1], UPPER: edges[1:]}
    _write_hdf5(bins, centres, {"units": "GeV"})
    _write_hdf5(target, datasets, attributes)
    return target
