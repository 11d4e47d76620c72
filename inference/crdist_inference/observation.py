"""The gamma-ray map that is fitted: intensity of one energy band, its standard deviation, and which pixels count.

Whatever the order of the file that it comes from, an `Observation` is nested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from crdist.errors import GridError, InputFileError, RecipeError
from crdist.importers.streaming import source_identity
from crdist.schema import versions
from crdist_inference.downgrade import (
    SigmaRule,
    check_nside,
    downgrade_known,
    healpix_nside,
    n_children,
)
from crdist_inference.gamma_files import BAND_GEV, Stated, container_of, read_fits, read_hdf5

__all__ = ["Observation", "read_observation"]

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


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
    container = container_of(path)
    if container == "HDF5":
        unfit = {"sigma_path": sigma_path is not None, "columns": columns is not None}
    else:
        unfit = {"energy_bins": energy_bins is not None, "sigma_rule='samples'": sigma_rule == "samples"}
    if any(unfit.values()):
        given = ", ".join(option for option, is_given in unfit.items() if is_given)
        raise RecipeError(f"{path}: {given} does not go with a file of the kind {container}; leave it out")
    stated = Stated(ordering, units)
    if container == "HDF5":
        raw = read_hdf5(path, band, stated, energy_bins, with_samples=sigma_rule == "samples")
    else:
        raw = read_fits(path, band, stated, sigma_path, columns)
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
