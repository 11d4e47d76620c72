"""The record of every choice between cosmic rays and gas and an intensity, its presets, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crdist.constants import KPC_CM
from crdist.emission.arguments import (
    Values,
    arrays,
    check_alpha,
    check_band,
    check_not_negative,
    check_positive,
    plain,
)
from crdist.emission.hadronic import ALPHA, E_MAX_GEV, E_MIN_GEV
from crdist.emission.models import MODELS, evaluate_model
from crdist.errors import RecipeError
from crdist.plugins import Plugin

__all__ = ["PRESETS", "Emissivity", "intensity", "intensity_coefficient", "source_density"]

CM2_PER_M2 = 1e4


@dataclass(frozen=True, slots=True)
class Emissivity:
    """How bright cosmic rays make gas: every choice between C n_H and an intensity.

    Parameters
    ----------
    alpha : float
        Slope of the proton spectrum in momentum, above 1.
    e_min_gev, e_max_gev : float, GeV
        Energy band of the photons.
    nuclear_enhancement : float
        Factor for nuclei among the cosmic rays and in the gas, positive.
    nucleon_scale : float
        Nucleons of the gas per hydrogen nucleus, positive.
    model : str
        ``"dp04"`` (`crdist.emission.band_coefficient`), ``"kafexhiu"`` (`crdist.emission.kafexhiu_band_coefficient`), a
        name given to `crdist.emission.register_model`, or that of an entry point in the group ``crdist.emissivity``.
    emissivity_rescale : float
        A further factor on the model's band coefficient, positive; 1 leaves the model as it is.

    Raises
    ------
    RecipeError
        If a value is out of range, the model is not known, or it cannot be computed for these values.
    DependencyError
        If the model is that of an installed package and cannot be loaded.

    Warnings
    --------
    A nuclear enhancement of 1.8 (Mori 2009; Kafexhiu et al. 2014) is relative to hydrogen alone and holds the helium of
    the gas already, as a factor of 1.37. The preset ``paper`` multiplies it by 1.4 nucleons per hydrogen nucleus and so
    counts that helium twice; ``consistent`` does not. Only the product with C is seen by data: where one is too high,
    C comes out too low by the same factor.

    Notes
    -----
    At alpha = 2.7 and 1.78-3.16 GeV ``dp04`` is 1.95 times as bright as ``kafexhiu``. The latter fits accelerator
    data, so C from ``dp04`` is expected to come out low by about that factor, too.

    Examples
    --------
    >>> Emissivity.preset("consistent").nucleon_scale
    1.0
    >>> print(f"{Emissivity.preset('paper').intensity_coefficient:.8e}")
    3.01775375e+07
    """

    alpha: float = ALPHA
    e_min_gev: float = E_MIN_GEV
    e_max_gev: float = E_MAX_GEV
    nuclear_enhancement: float = 1.8
    nucleon_scale: float = 1.4
    model: str = "dp04"
    emissivity_rescale: float = 1.0
    band_coefficient: float = field(init=False, repr=False, compare=False)
    """K of the model times ``emissivity_rescale``, cm3 s-1."""
    plugin: Plugin | None = field(init=False, repr=False)
    """The installed package that the model comes from; None for all others."""

    def __post_init__(self) -> None:
        for key in ("alpha", "e_min_gev", "e_max_gev", "nuclear_enhancement", "nucleon_scale", "emissivity_rescale"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
                raise RecipeError(f"emissivity {key} must be a number, got {value!r}")
            object.__setattr__(self, key, float(value))
        check_alpha(np.float64(self.alpha))
        check_band(np.float64(self.e_min_gev), np.float64(self.e_max_gev))
        for key in ("nuclear_enhancement", "nucleon_scale", "emissivity_rescale"):
            check_positive(f"emissivity {key}", np.float64(getattr(self, key)), "")
        coefficient = evaluate_model(self.model, self.alpha, self.e_min_gev, self.e_max_gev)
        object.__setattr__(self, "band_coefficient", coefficient * self.emissivity_rescale)
        object.__setattr__(self, "plugin", MODELS.plugin(self.model))

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Emissivity:
        """A named set of factors, with changes.

        Parameters
        ----------
        name : {"paper", "consistent"}
            ``paper``: enhancement 1.8 and 1.4 nucleons per hydrogen nucleus, as published; see the class's warning.
            ``consistent``: enhancement 1.8 and 1 nucleon, helium counted once.
        **changes
            Fields that differ from the preset.

        Raises
        ------
        RecipeError
            If there is no such preset or field, or a value is out of range.
        """
        if name not in PRESETS:
            raise RecipeError(f"no emissivity preset {name!r}; there are {', '.join(PRESETS)}")
        return cls.from_dict({**PRESETS[name], **changes})

    @property
    def source_coefficient(self) -> float:
        """Photons made per volume and time for C = 1 cm-3 and n_H = 1 cm-3, K f_N, cm3 s-1; without the enhancement."""
        return self.nucleon_scale * self.band_coefficient

    @property
    def intensity_per_column(self) -> float:
        """Intensity of a hydrogen column of 1 cm-2 for C = 1 cm-3, m-2 s-1 sr-1."""
        return CM2_PER_M2 * self.nuclear_enhancement * self.source_coefficient / (4.0 * math.pi)

    @property
    def intensity_coefficient(self) -> float:
        """A of ``intensity [m-2 s-1 sr-1] = A sum(C [cm-3] n_H [cm-3] dr [kpc])``."""
        return self.intensity_per_column * KPC_CM

    def to_dict(self) -> dict[str, Any]:
        """The record as plain data, for the attributes of a store; with the package that the model comes from."""
        data = {item.name: getattr(self, item.name) for item in fields(self) if item.init}
        return data if self.plugin is None else {**data, "plugin": self.plugin.origin()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Emissivity:
        """The record that `to_dict` wrote.

        Raises
        ------
        RecipeError
            If a key is unknown or a value impossible, or the model came from another package or version than the one
            that is installed.
        DependencyError
            If the model's package cannot be loaded.
        """
        known = [item.name for item in fields(cls) if item.init]
        unknown = sorted(set(data) - {*known, "plugin"})
        if unknown:
            raise RecipeError(f"an emissivity has {', '.join(known)}; got {', '.join(map(str, unknown))}")
        made = cls(**{key: value for key, value in data.items() if key != "plugin"})
        now = None if made.plugin is None else made.plugin.origin()
        if "plugin" in data and data["plugin"] != now:
            raise RecipeError(
                f"emissivity model {made.model!r} was that of {_package(data['plugin'])}, now it is that of "
                f"{'crdist' if now is None else _package(now)}; install the former to get the same numbers"
            )
        return made


def _package(origin: Mapping[str, Any]) -> str:
    return f"{origin.get('distribution')} {origin.get('version')}"


PRESETS: Mapping[str, Mapping[str, float]] = {
    "paper": {"nuclear_enhancement": 1.8, "nucleon_scale": 1.4},
    "consistent": {"nuclear_enhancement": 1.8, "nucleon_scale": 1.0},
}


def intensity(
    c: npt.ArrayLike, column: npt.ArrayLike, emissivity: Emissivity | None = None, *, area: Literal["m2", "cm2"] = "m2"
) -> Values:
    """Photons per area, time and solid angle from a column of gas in a uniform density of cosmic rays.

    Parameters
    ----------
    c : array_like, cm-3
        Normalisation C of the proton spectrum, not negative; NaN stays NaN.
    column : array_like, cm-2
        Hydrogen nuclei along the line of sight, not negative; NaN stays NaN. Broadcasts with ``c``.
    emissivity : Emissivity, optional
        Default: the preset ``paper``.
    area : {"m2", "cm2"}
        Unit of area of the result; the published maps are per m2.

    Returns
    -------
    ndarray, shape of the broadcast, m-2 s-1 sr-1 (or cm-2 s-1 sr-1)
        In the whole energy band, not per GeV.

    Raises
    ------
    RecipeError
        If a value is negative, the shapes do not broadcast, or there is no such unit of area.

    Examples
    --------
    >>> print(f"{intensity(6.0139e-10, 1e22, Emissivity.preset('consistent')):.5e}")
    4.20108e-02
    """
    normalisation, gas = arrays(c=c, column=column)
    check_not_negative("c", normalisation, "cm-3")
    check_not_negative("column", gas, "cm-2")
    if area not in ("m2", "cm2"):
        raise RecipeError(f"area must be 'm2' or 'cm2', got {area!r}")
    factor = (emissivity or Emissivity()).intensity_per_column / (1.0 if area == "m2" else CM2_PER_M2)
    return plain(factor * normalisation * gas)


def intensity_coefficient(emissivity: Emissivity | None = None) -> float:
    """A of ``intensity [m-2 s-1 sr-1] = A sum(C [cm-3] n_H [cm-3] dr [kpc])``; by default of the preset ``paper``."""
    return (emissivity or Emissivity()).intensity_coefficient


def source_density(c: npt.ArrayLike, hydrogen: npt.ArrayLike, emissivity: Emissivity | None = None) -> Values:
    """Photons of the band made per volume and time, K C f_N n_H, without the nuclear enhancement.

    Parameters
    ----------
    c : array_like, cm-3
        Normalisation C of the proton spectrum, not negative; NaN stays NaN.
    hydrogen : array_like, cm-3
        Hydrogen nuclei, see `hydrogen_density`, not negative; NaN stays NaN. Broadcasts with ``c``.
    emissivity : Emissivity, optional
        Default: the preset ``paper``.

    Returns
    -------
    ndarray, shape of the broadcast, cm-3 s-1

    Raises
    ------
    RecipeError
        If a value is negative or the shapes do not broadcast.
    """
    normalisation, gas = arrays(c=c, hydrogen=hydrogen)
    check_not_negative("c", normalisation, "cm-3")
    check_not_negative("hydrogen", gas, "cm-3")
    return plain((emissivity or Emissivity()).source_coefficient * normalisation * gas)
