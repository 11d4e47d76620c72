"""The gamma-ray map that is fitted: intensity of one energy band, its standard deviation, and which pixels count.

Read from the layout of Scheel-Platz et al. 2023 (A&A 680, A2), which is what NIFTy's ``save_to_hdf5`` writes, or from
HEALPix FITS tables. Whatever the file's order, an `Observation` is nested.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from crdist.errors import DependencyError, GridError, InputFileError, RecipeError, SchemaError, StoreExistsError
from crdist.importers.filearray import physical_values, read_items, read_pieces, reading
from crdist.importers.fitsfile import Hdu, describe, open_binary, scan
from crdist.importers.healpix_fits import UNSEEN, UNSEEN_TOLERANCE
from crdist.importers.published import ordering_of
from crdist.schema import versions
from crdist.units import parse_unit
from crdist_inference.downgrade import (
    SigmaRule,
    check_nside,
    downgrade_known,
    healpix_nside,
    is_sphere,
    n_children,
)

if TYPE_CHECKING:
    import h5py

__all__ = ["BAND_GEV", "UNITS", "Observation", "read_observation", "source_identity", "write_observation_file"]

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

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

FileRule = Literal["mean", "quadrature", "samples"]


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """Intensity of one energy band on the sky, with independent Gaussian errors.

    Parameters
    ----------
    nside : int
        HEALPix resolution; pixels are nested, in Galactic coordinates.
    intensity : ndarray, m-2 s-1 sr-1, shape (12 nside^2,)
        Photons in the band, averaged over the pixel (Eq. 1 of the paper).
    sigma : ndarray, m-2 s-1 sr-1, shape (12 nside^2,)
        Standard deviation, positive where used.
    used : ndarray of bool, shape (12 nside^2,)
        Pixels that enter the likelihood; intensity and sigma of others may be anything.
    e_min_gev, e_max_gev : float, GeV
        The band.
    provenance : mapping
        Source, options and notes; plain data.

    Raises
    ------
    InputFileError
        If a used value is not finite, a used sigma is not positive, or no pixel is used.
    GridError
        If nside is not a power of two.
    """

    nside: int
    intensity: Float
    sigma: Float
    used: Bool
    e_min_gev: float
    e_max_gev: float
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nside", check_nside(self.nside))
        expected = (12 * self.nside**2,)
        for name, dtype in (("intensity", np.float64), ("sigma", np.float64), ("used", np.bool_)):
            array = np.array(getattr(self, name), dtype=dtype)
            if array.shape != expected:
                raise InputFileError(
                    f"{name} of an observation at nside {self.nside} has shape {expected}, got {array.shape}"
                )
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if not 0.0 < self.e_min_gev < self.e_max_gev < np.inf:
            raise InputFileError(f"a band needs 0 < e_min < e_max, got {self.e_min_gev:g} and {self.e_max_gev:g} GeV")
        if not self.used.any():
            raise InputFileError("no pixel of the observation is used; make the masks smaller")
        _check_values(self.intensity, self.sigma, self.used, "the observation")

    @property
    def pixels(self) -> npt.NDArray[np.intp]:
        """Nested indices of the used pixels."""
        return np.flatnonzero(self.used)

    @property
    def n_used(self) -> int:
        """Number of used pixels."""
        return int(np.count_nonzero(self.used))

    def with_mask(self, used: npt.ArrayLike) -> Observation:
        """The same observation, of whose used pixels only these stay so.

        Parameters
        ----------
        used : array_like of bool, shape (12 nside^2,)
            Nested; `crdist_inference.masks.MaskTable.used` gives it. A pixel without data does not come back.

        Raises
        ------
        InputFileError
            If the shape or type is another, or no pixel is left.
        """
        asked = np.asarray(used)
        if asked.shape != self.used.shape or asked.dtype != np.bool_:
            raise InputFileError(
                f"a mask at nside {self.nside} is bool of shape {self.used.shape}, got {asked.dtype} {asked.shape}"
            )
        if not (asked & self.used).any():
            raise InputFileError("the mask leaves no pixel of the observation; make the masks smaller")
        return replace(self, used=asked & self.used)

    def coarsened(self, nside: int, *, sigma_rule: SigmaRule = "mean", min_fraction: float = 0.5) -> Observation:
        """The same observation in larger pixels, from the used ones alone.

        Parameters
        ----------
        nside : int
            Resolution, this one's or coarser.
        sigma_rule : {"mean", "quadrature"}
            Standard deviation of a mean: the children's mean (errors fully correlated), or
            sqrt(sum sigma^2) / n (errors independent).
        min_fraction : float
            A larger pixel is used if at least this share of its children is. A model is averaged over the whole
            pixel, the data over its used part: with few children the two are different things.

        Raises
        ------
        GridError
            If nside is finer or not a power of two.
        RecipeError
            If an option is not as described.
        InputFileError
            If no pixel is left.
        """
        n_child = n_children(self.nside, nside)
        intensity, sigma, used = downgrade_known(
            self.intensity, self.sigma, self.used, n_child=n_child, rule=sigma_rule, min_fraction=min_fraction
        )
        step = {"from_nside": self.nside, "nside": nside, "sigma_rule": sigma_rule, "min_fraction": min_fraction}
        provenance = {**self.provenance, "coarsened": [*self.provenance.get("coarsened", []), step]}
        return Observation(nside, intensity, sigma, used, self.e_min_gev, self.e_max_gev, provenance)


def read_observation(
    path: str | Path,
    *,
    nside: int,
    band: tuple[float, float] = BAND_GEV,
    sigma_rule: FileRule = "mean",
    energy_bins: str | Path | None = None,
    sigma_path: str | Path | None = None,
    columns: Sequence[str] | None = None,
    ordering: Literal["nested", "ring"] | None = None,
    units: str | None = None,
    missing: Literal["refuse", "mask"] = "refuse",
    min_fraction: float = 0.5,
) -> Observation:
    """Read a gamma-ray map and bring it to the resolution of the inference.

    Two layouts are known, told apart by the file itself.

    * HDF5: ``stats/mean`` and ``stats/standard deviation``, shape (n_energy, n_pixel), RING, m-2 s-1 sr-1 in each
      bin; perhaps ``samples``, one dataset a sample or one of shape (n_sample, n_energy, n_pixel). The energy bins
      are ``lower_bin_boundaries`` and ``upper_bin_boundaries`` [GeV] of ``energy_bins``.
    * FITS: a HEALPix table with columns of intensity and standard deviation, or two files of one column each. The
      band is what ``band`` says, checked against the keywords E_MIN and E_MAX [GeV] where they are.

    Parameters
    ----------
    path : path
        The file.
    nside : int
        Resolution of the result, the file's or coarser: the mean over the children in nested order.
    band : (float, float), GeV
        The energy bin, by its edges to 1 %; the file's own edges are kept.
    sigma_rule : {"mean", "quadrature", "samples"}
        Standard deviation of a coarser pixel: the children's mean (errors fully correlated), sqrt(sum sigma^2) / n
        (independent), or the scatter of the coarser samples (divisor n - 1), where the file has samples; then the
        intensity is the samples' mean.
    energy_bins : path, optional
        HDF5 only; default: the datasets in the file itself, else ``energy_bins.hdf5`` beside it.
    sigma_path : path, optional
        FITS only: the file of the standard deviation.
    columns : sequence of str, optional
        FITS only: names of the columns of intensity and standard deviation, where they are not usual ones.
    ordering : {"nested", "ring"}, optional
        Order of the pixels in the file, before what the file says.
    units : str, optional
        Unit of the file, before what the file says; photons (ph) and bins count as numbers.
    missing : {"refuse", "mask"}
        What to do about pixels that are NaN or UNSEEN.
    min_fraction : float
        With ``missing="mask"``, the share of children that must be known, see `Observation.coarsened`.

    Raises
    ------
    InputFileError
        If the file is not as described: the message says what is there and what to do.
    RecipeError
        If an option is unknown or does not go with the layout.
    GridError
        If the map is coarser than ``nside``.
    DependencyError
        If the file is HDF5 and h5py is not installed.
    """
    path = Path(path)
    for option, value, choices in (
        ("sigma_rule", sigma_rule, get_args(FileRule)),
        ("missing", missing, ("refuse", "mask")),
        ("ordering", ordering, ("nested", "ring", None)),
    ):
        if value not in choices:
            raise RecipeError(f"{option} must be one of {', '.join(map(str, choices))}, got {value!r}")
    if not 0.0 < band[0] < band[1] < np.inf:
        raise RecipeError(f"a band needs 0 < lower < upper, got {band[0]:g} and {band[1]:g} GeV")
    container = _container(path)
    if container == "HDF5":
        unfit = {"sigma_path": sigma_path is not None, "columns": columns is not None}
    else:
        unfit = {"energy_bins": energy_bins is not None, "sigma_rule='samples'": sigma_rule == "samples"}
    if any(unfit.values()):
        given = ", ".join(option for option, is_given in unfit.items() if is_given)
        raise RecipeError(f"{path}: {given} does not go with a file of the kind {container}; leave it out")
    stated = _Stated(ordering, units)
    if container == "HDF5":
        raw = _read_hdf5(path, band, stated, energy_bins, with_samples=sigma_rule == "samples")
    else:
        raw = _read_fits(path, band, stated, sigma_path, columns)
    known: Bool = np.asarray(np.isfinite(raw.maps).all(axis=0))
    n_missing = int(np.count_nonzero(~known))
    if n_missing and (missing == "refuse" or n_missing == known.size):
        raise InputFileError(
            f"{path}: {n_missing} of {known.size} pixels are NaN, infinite or UNSEEN; "
            "mend the map, or leave them out with missing='mask'"
        )
    try:
        n_child = n_children(healpix_nside(known.size), nside)
    except GridError as error:
        raise GridError(f"{path}: {error}") from error
    if sigma_rule == "samples":
        # the mean of children: what combines their standard deviations has no part in it
        coarse = [
            downgrade_known(sample, sample, known, n_child=n_child, rule="mean", min_fraction=min_fraction)
            for sample in raw.maps
        ]
        stack = np.stack([values for values, _, _ in coarse])
        intensity, sigma, used = stack.mean(axis=0), stack.std(axis=0, ddof=1), coarse[0][2]
    else:
        mean, deviation = raw.maps
        _check_values(mean, deviation, known, str(path))
        intensity, sigma, used = downgrade_known(
            mean, deviation, known, n_child=n_child, rule=sigma_rule, min_fraction=min_fraction
        )
    if not used.any():
        raise InputFileError(f"{path}: no pixel of nside {nside} has {min_fraction:.0%} of its children known")
    _check_values(intensity, sigma, used, f"{path} at nside {nside}")
    provenance = {
        "versions": versions(),
        "source": [source_identity(source) for source in raw.sources],
        "layout": container,
        "config": {
            "nside": nside,
            "band_gev": [float(edge) for edge in band],
            "sigma_rule": sigma_rule,
            "ordering": raw.ordering,
            "units": raw.units,
            "missing": missing,
            "min_fraction": min_fraction,
        },
        "n_missing": n_missing,
        "notes": list(raw.notes),
    }
    return Observation(nside, intensity, sigma, used, *raw.band, provenance)


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


def source_identity(path: str | Path) -> dict[str, Any]:
    """Name, size [byte] and SHA-256 digest of a file, for provenance."""
    path = Path(path)
    digest, size = hashlib.sha256(), 0
    with open_binary(path) as file:
        for piece in read_pieces(file, path):
            digest.update(piece)
            size += len(piece)
    return {"name": path.name, "bytes": size, "sha256": digest.hexdigest()}


@dataclass(frozen=True, slots=True)
class _Stated:
    """What the user says of a file: it goes before what the file says."""

    ordering: Literal["nested", "ring"] | None
    units: str | None


@dataclass(frozen=True, slots=True, eq=False)
class _Raw:
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


def _container(path: Path) -> Literal["HDF5", "FITS"]:
    if path.is_dir():
        raise InputFileError(f"{path}: is a folder; give the file of the map")
    with open_binary(path) as file:
        start = file.read(16)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "HDF5"
    if start.startswith(b"SIMPLE  ="):
        return "FITS"
    raise InputFileError(f"{path}: {'neither an HDF5 nor a FITS file' if start else 'is empty'}")


def _read_hdf5(
    path: Path, band: tuple[float, float], stated: _Stated, energy_bins: str | Path | None, *, with_samples: bool
) -> _Raw:
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
    return _Raw(
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


def _read_fits(
    path: Path,
    band: tuple[float, float],
    stated: _Stated,
    sigma_path: str | Path | None,
    columns: Sequence[str] | None,
) -> _Raw:
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
    return _Raw(
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


def _check_values(intensity: Float, sigma: Float, used: Bool, where: str) -> None:
    for name, array in (("intensity", intensity), ("sigma", sigma)):
        bad = np.flatnonzero(used & ~np.isfinite(array))
        if bad.size:
            raise InputFileError(
                f"{where}: {name} is {array[bad[0]]} in {bad.size} used pixels (nested {bad[0]} first); mask them"
            )
    bad = np.flatnonzero(used & ~(sigma > 0.0))
    if bad.size:
        raise InputFileError(
            f"{where}: sigma must be positive, got {sigma[bad[0]]:g} in {bad.size} pixels (nested {bad[0]} first)"
        )
