"""Hadronic gamma rays: what cosmic-ray protons of a power-law spectrum make of the gas they meet.

The protons have ``dn/dp = C p^-alpha`` with p their momentum in units of m_p c, so that C [cm-3] is the density per
unit p at p = 1. The band-integrated photon source density is ``K C n_N`` with n_N the nucleons of the gas and K the
band coefficient [cm3 s-1], by default of the formula of Dermer (1986) as given by Pfrommer & Ensslin (2004) and
Ensslin et al. (2007). Everything that depends on these choices is kept in one record, `Emissivity`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib import metadata
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from scipy import special

from crdist import kafexhiu
from crdist.constants import KPC_CM, LIGHT_CM_S, MB_CM2, PION_GEV, PROTON_GEV
from crdist.errors import CrdistError, RecipeError

__all__ = [
    "C_LOCAL_DEMODULATED_CM3",
    "C_LOCAL_TOA_CM3",
    "Emissivity",
    "band_coefficient",
    "delta_gamma",
    "density_at_energy",
    "hydrogen_density",
    "intensity",
    "intensity_coefficient",
    "kafexhiu_band_coefficient",
    "normalisation_from_density",
    "register_model",
    "sigma_pp_mb",
    "source_density",
    "source_function",
]

Values = npt.NDArray[np.float64]
BandCoefficient = Callable[[float, float, float], float]
"""K [cm3 s-1] as a function of alpha, e_min_gev and e_max_gev."""

CM2_PER_M2 = 1e4

ALPHA = 2.7
"""Slope of the proton spectrum in momentum; that of the locally measured protons near 30 GeV."""
E_MIN_GEV, E_MAX_GEV = 10**0.25, 10**0.5
"""The energy bin 1.78-3.16 GeV of the diffuse-emission maps of Scheel-Platz et al. (2023)."""

C_LOCAL_TOA_CM3 = 6.014e-10
"""C of the protons that AMS-02 counted (PRL 114, 171103, 2015; CRDB table): 1.2188 m-2 s-1 sr-1 GeV-1 at 30 GeV."""
C_LOCAL_DEMODULATED_CM3 = 6.669e-10
"""The same, taken out of the heliosphere with the force field of CRDB, 661 MV: 1.3515 m-2 s-1 sr-1 GeV-1 at 30 GeV."""

ENTRY_POINTS = "crdist.emissivity"
"""Group of entry points under which an installed package offers further models."""


def sigma_pp_mb(alpha: npt.ArrayLike = ALPHA) -> Values:
    """Effective inelastic proton-proton cross-section for a spectrum of slope alpha, mb.

    Parameters
    ----------
    alpha : array_like, shape (...)
        Slope of the proton spectrum, above 1.

    Raises
    ------
    RecipeError
        If a slope is not above 1.

    Notes
    -----
    Pfrommer & Ensslin 2004, A&A 413, 17.

    Examples
    --------
    >>> print(f"{sigma_pp_mb(2.7):.10f}")
    34.7177667904
    """
    (slope,) = _arrays(alpha=alpha)
    _check_alpha(slope)
    return _plain(32.0 * (0.96 + np.exp(4.4 - 2.4 * slope)))


def delta_gamma(alpha: npt.ArrayLike = ALPHA) -> Values:
    """Shape of the gamma-ray spectrum about its maximum, dimensionless.

    Parameters and errors as for `sigma_pp_mb`; Pfrommer & Ensslin 2004, A&A 413, 17.

    Examples
    --------
    >>> print(f"{delta_gamma(2.7):.12f}")
    0.468572353395
    """
    (slope,) = _arrays(alpha=alpha)
    _check_alpha(slope)
    return _plain(0.14 * slope**-1.6 + 0.44)


def source_function(energy_gev: npt.ArrayLike, alpha: npt.ArrayLike = ALPHA) -> Values:
    """Photons made per volume, time and energy, for C = 1 cm-3 and one nucleon per cm3: s_gamma / (C n_N).

    Parameters
    ----------
    energy_gev : array_like, GeV
        Photon energies, positive.
    alpha : array_like
        Slope of the proton spectrum, above 1. Energies and slopes broadcast.

    Returns
    -------
    ndarray, shape of the broadcast, cm3 s-1 GeV-1

    Raises
    ------
    RecipeError
        If an energy is not positive, a slope is not above 1, or the shapes do not broadcast.

    Notes
    -----
    Ensslin et al. 2007, A&A 473, 41, with the slope of the photons equal to that of the protons. The spectrum is
    symmetric in ln E about half the pion's mass.
    """
    energy, slope = _arrays(energy_gev=energy_gev, alpha=alpha)
    _check_positive("energy_gev", energy, "GeV")
    delta = delta_gamma(slope)
    y = 2.0 * energy / PION_GEV
    shape = (y**delta + y**-delta) ** (-slope / delta)
    return _plain(_amplitude(slope) * 16.0 / (3.0 * slope) / PROTON_GEV * shape)


def band_coefficient(
    alpha: npt.ArrayLike = ALPHA, e_min_gev: npt.ArrayLike = E_MIN_GEV, e_max_gev: npt.ArrayLike = E_MAX_GEV
) -> Values:
    """Photons of a band made per volume and time, for C = 1 cm-3 and one nucleon per cm3: K = lambda_gamma / (C n_N).

    Parameters
    ----------
    alpha : array_like
        Slope of the proton spectrum, above 1.
    e_min_gev, e_max_gev : array_like, GeV
        Ends of the band, 0 < e_min < e_max. All three broadcast.

    Returns
    -------
    ndarray, shape of the broadcast, cm3 s-1

    Raises
    ------
    RecipeError
        If a slope is not above 1, a band is empty or reversed, or the shapes do not broadcast.

    Notes
    -----
    The integral of `source_function` in closed form, by the incomplete beta function of
    x = y^(2 delta) / (1 + y^(2 delta)) with y = 2E / m_pi c2.

    Examples
    --------
    >>> print(f"{band_coefficient():.12e}")
    4.876885689788e-18
    """
    slope, lower, upper = _arrays(alpha=alpha, e_min_gev=e_min_gev, e_max_gev=e_max_gev)
    _check_alpha(slope)
    _check_band(lower, upper)
    delta = delta_gamma(slope)
    a, b = (slope + 1.0) / (2.0 * delta), (slope - 1.0) / (2.0 * delta)
    u_lower, u_upper = ((2.0 * energy / PION_GEV) ** (2.0 * delta) for energy in (lower, upper))
    # Above the maximum of the spectrum x is close to 1 and the difference is taken between the complements, below
    # it between the functions themselves: both terms are then small, and few digits cancel.
    above = special.betainc(b, a, 1.0 / (1.0 + u_lower)) - special.betainc(b, a, 1.0 / (1.0 + u_upper))
    below = special.betainc(a, b, u_upper / (1.0 + u_upper)) - special.betainc(a, b, u_lower / (1.0 + u_lower))
    share = np.where(u_lower > 1.0 / u_upper, above, below)
    # 16 / (3 alpha m_p) of the source function times dE = m_pi / (4 delta) x^(a - 1) (1 - x)^(b - 1) dx
    factor = 4.0 / (3.0 * slope * delta) * PION_GEV / PROTON_GEV
    return _plain(_amplitude(slope) * factor * special.beta(a, b) * share)


def _amplitude(alpha: Values) -> Values:
    return sigma_pp_mb(alpha) * MB_CM2 * LIGHT_CM_S * (PROTON_GEV / (2.0 * PION_GEV)) ** alpha


def density_at_energy(
    c: npt.ArrayLike, kinetic_energy_gev: npt.ArrayLike = 30.0, alpha: npt.ArrayLike = ALPHA
) -> Values:
    """Density of protons per kinetic energy, dn/dT = C p^-alpha / (beta m_p c2).

    Parameters
    ----------
    c : array_like, cm-3
        Normalisation C of the spectrum, not negative; NaN stays NaN.
    kinetic_energy_gev : array_like, GeV
        Kinetic energies T, positive. Momentum and speed are the exact relativistic ones.
    alpha : array_like
        Slope of the spectrum, above 1. All three broadcast.

    Returns
    -------
    ndarray, shape of the broadcast, GeV-1 cm-3

    Raises
    ------
    RecipeError
        If a value is out of range or the shapes do not broadcast.

    Examples
    --------
    >>> print(f"{density_at_energy(1.0):.8e}")
    8.49882545e-05
    """
    normalisation, kinetic, slope = _arrays(c=c, kinetic_energy_gev=kinetic_energy_gev, alpha=alpha)
    _check_not_negative("c", normalisation, "cm-3")
    return _plain(normalisation * _density_per_normalisation(kinetic, slope))


def normalisation_from_density(
    density: npt.ArrayLike, kinetic_energy_gev: npt.ArrayLike = 30.0, alpha: npt.ArrayLike = ALPHA
) -> Values:
    """Normalisation C of the power law that has a density at a kinetic energy: the inverse of `density_at_energy`.

    Parameters
    ----------
    density : array_like, GeV-1 cm-3
        Protons per kinetic energy, not negative; NaN stays NaN.
    kinetic_energy_gev, alpha : array_like
        As for `density_at_energy`.

    Returns
    -------
    ndarray, shape of the broadcast, cm-3

    Raises
    ------
    RecipeError
        If a value is out of range or the shapes do not broadcast.
    """
    density_gev, kinetic, slope = _arrays(density=density, kinetic_energy_gev=kinetic_energy_gev, alpha=alpha)
    _check_not_negative("density", density_gev, "GeV-1 cm-3")
    return _plain(density_gev / _density_per_normalisation(kinetic, slope))


def hydrogen_density(hi: npt.ArrayLike, h2: npt.ArrayLike, xco_rescale: npt.ArrayLike = 1.0) -> Values:
    """Density of hydrogen nuclei, n_H = n_HI + 2 xco_rescale n_H2.

    Parameters
    ----------
    hi : array_like, cm-3
        Hydrogen atoms, not negative; NaN stays NaN.
    h2 : array_like, cm-3
        Hydrogen molecules, as derived from CO with some X_CO; 2e20 cm-2 (K km/s)-1 in Söding et al. (2025).
    xco_rescale : array_like
        The X_CO that is wanted over the one in ``h2``, positive. All three broadcast.

    Raises
    ------
    RecipeError
        If a value is out of range or the shapes do not broadcast.

    Examples
    --------
    >>> print(hydrogen_density(0.5, 0.1, xco_rescale=1.15))
    0.73
    """
    atoms, molecules, rescale = _arrays(hi=hi, h2=h2, xco_rescale=xco_rescale)
    _check_not_negative("hi", atoms, "cm-3")
    _check_not_negative("h2", molecules, "cm-3")
    _check_positive("xco_rescale", rescale, "")
    return _plain(atoms + 2.0 * rescale * molecules)


def _density_per_normalisation(kinetic: Values, alpha: Values) -> Values:
    _check_positive("kinetic_energy_gev", kinetic, "GeV")
    _check_alpha(alpha)
    t = kinetic / PROTON_GEV
    p = np.sqrt(t * (t + 2.0))
    return p**-alpha * (1.0 + t) / (p * PROTON_GEV)


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
        ``"dp04"`` (`band_coefficient`), ``"kafexhiu"`` (`kafexhiu_band_coefficient`), a name given to
        `register_model`, or that of an entry point in the group ``crdist.emissivity``.
    emissivity_rescale : float
        A further factor on the model's band coefficient, positive; 1 leaves the model as it is.

    Raises
    ------
    RecipeError
        If a value is out of range, the model is not known, or it cannot be computed for these values.

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

    def __post_init__(self) -> None:
        for key in ("alpha", "e_min_gev", "e_max_gev", "nuclear_enhancement", "nucleon_scale", "emissivity_rescale"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
                raise RecipeError(f"emissivity {key} must be a number, got {value!r}")
            object.__setattr__(self, key, float(value))
        _check_alpha(np.float64(self.alpha))
        _check_band(np.float64(self.e_min_gev), np.float64(self.e_max_gev))
        for key in ("nuclear_enhancement", "nucleon_scale", "emissivity_rescale"):
            _check_positive(f"emissivity {key}", np.float64(getattr(self, key)), "")
        coefficient = _evaluate(self.model, self.alpha, self.e_min_gev, self.e_max_gev)
        object.__setattr__(self, "band_coefficient", coefficient * self.emissivity_rescale)

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
        """The record as plain data, for the attributes of a store."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.init}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Emissivity:
        """The record that `to_dict` wrote.

        Raises
        ------
        RecipeError
            If a key is unknown or a value impossible.
        """
        known = [item.name for item in fields(cls) if item.init]
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise RecipeError(f"an emissivity has {', '.join(known)}; got {', '.join(map(str, unknown))}")
        return cls(**data)


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
    normalisation, gas = _arrays(c=c, column=column)
    _check_not_negative("c", normalisation, "cm-3")
    _check_not_negative("column", gas, "cm-2")
    if area not in ("m2", "cm2"):
        raise RecipeError(f"area must be 'm2' or 'cm2', got {area!r}")
    factor = (emissivity or Emissivity()).intensity_per_column / (1.0 if area == "m2" else CM2_PER_M2)
    return _plain(factor * normalisation * gas)


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
    normalisation, gas = _arrays(c=c, hydrogen=hydrogen)
    _check_not_negative("c", normalisation, "cm-3")
    _check_not_negative("hydrogen", gas, "cm-3")
    return _plain((emissivity or Emissivity()).source_coefficient * normalisation * gas)


def register_model(name: str, band_coefficient_function: BandCoefficient) -> None:
    """Make an emissivity model known by a name, for this process.

    Parameters
    ----------
    name : str
        What `Emissivity` will call it. A package that is installed can offer its models without this call, as entry
        points of the group ``crdist.emissivity``.
    band_coefficient_function : callable
        ``(alpha, e_min_gev, e_max_gev) -> K``, floats, cm3 s-1 for C = 1 cm-3 and one nucleon per cm3.

    Raises
    ------
    RecipeError
        If the name is empty or taken by another function, or the function is not callable.
    """
    if not isinstance(name, str) or not name.strip():
        raise RecipeError(f"an emissivity model needs a name, got {name!r}")
    if not callable(band_coefficient_function):
        raise RecipeError(f"emissivity model {name!r} must be a function, got {band_coefficient_function!r}")
    if _MODELS.setdefault(name, band_coefficient_function) is not band_coefficient_function:
        raise RecipeError(f"emissivity model {name!r} exists already; choose another name")


def _evaluate(model: str, alpha: float, e_min_gev: float, e_max_gev: float) -> float:
    try:
        value = float(_find_model(model)(alpha, e_min_gev, e_max_gev))
    except CrdistError:
        raise
    except Exception as error:  # a model is anybody's code
        raise RecipeError(f"emissivity model {model!r} failed: {error or type(error).__name__}") from error
    if not (math.isfinite(value) and value > 0):
        raise RecipeError(
            f"emissivity model {model!r} gives K = {value:g} cm3 s-1 for alpha = {alpha:g} and "
            f"{e_min_gev:g} to {e_max_gev:g} GeV; K must be positive"
        )
    return value


def _find_model(name: str) -> BandCoefficient:
    if name in _MODELS:
        return _MODELS[name]
    offered = metadata.entry_points(group=ENTRY_POINTS)
    for entry in offered:
        if entry.name == name:
            return cast(BandCoefficient, entry.load())
    names = ", ".join([*_MODELS, *sorted(offered.names - set(_MODELS))])
    raise RecipeError(f"no emissivity model {name!r}; there are {names}")


KAFEXHIU_ALPHA_MIN = 2.0
"""A flatter spectrum would owe some of its photons to protons beyond the fits."""
KAFEXHIU_ENERGY_MAX_GEV = 1e4


def kafexhiu_band_coefficient(
    alpha: npt.ArrayLike = ALPHA, e_min_gev: npt.ArrayLike = E_MIN_GEV, e_max_gev: npt.ArrayLike = E_MAX_GEV
) -> Values:
    """Band coefficient K of the same protons by the cross-sections of Kafexhiu et al. (2014).

    Parameters
    ----------
    alpha : array_like
        Slope of the proton spectrum, at least 2.
    e_min_gev, e_max_gev : array_like, GeV
        Ends of the band, 0 < e_min < e_max <= 10 TeV. All three broadcast.

    Returns
    -------
    ndarray, shape of the broadcast, cm3 s-1

    Raises
    ------
    RecipeError
        If a slope or a band is out of range or the shapes do not broadcast.

    Notes
    -----
    Phys. Rev. D 90, 123014, tables IV, V and VII: fits to experiments below 2 GeV, to Geant 4 up to 50 GeV, to Pythia 8
    above, for protons on protons without their nuclear enhancement. Protons up to 10 PeV are counted: at alpha = 2
    those beyond would add 1e-5 at 1-3 GeV and 4e-3 at 10 TeV, for steeper spectra less. Both integrals are
    Gauss-Legendre sums in ln E, good to 1e-8.
    """
    slope, lower, upper = np.broadcast_arrays(*_arrays(alpha=alpha, e_min_gev=e_min_gev, e_max_gev=e_max_gev))
    _check_band(lower, upper)
    _refuse(
        ~(np.isfinite(slope) & (slope >= KAFEXHIU_ALPHA_MIN)),
        f"alpha must be at least {KAFEXHIU_ALPHA_MIN:g} for model 'kafexhiu'",
        slope,
        "",
    )
    _refuse(
        upper > KAFEXHIU_ENERGY_MAX_GEV,
        f"e_max_gev must be at most {KAFEXHIU_ENERGY_MAX_GEV:g} GeV for model 'kafexhiu'",
        upper,
        "GeV",
    )
    rows = zip(slope.flat, lower.flat, upper.flat, strict=True)
    return _plain(np.array([kafexhiu.band_coefficient(*row) for row in rows]).reshape(slope.shape))


_MODELS: dict[str, BandCoefficient] = {
    "dp04": lambda alpha, e_min_gev, e_max_gev: float(band_coefficient(alpha, e_min_gev, e_max_gev)),
    "kafexhiu": lambda alpha, e_min_gev, e_max_gev: float(kafexhiu_band_coefficient(alpha, e_min_gev, e_max_gev)),
}


def _arrays(**named: npt.ArrayLike) -> list[Values]:
    """The arguments as arrays of float64 whose shapes broadcast."""
    arrays = []
    for name, values in named.items():
        try:
            arrays.append(np.asarray(values, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise RecipeError(f"{name} must be numbers, got {values!r}") from error
    try:
        np.broadcast_shapes(*(array.shape for array in arrays))
    except ValueError as error:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(named, arrays, strict=True))
        raise RecipeError(f"shapes that do not broadcast: {shapes}") from error
    return arrays


def _plain(values: npt.ArrayLike) -> Values:
    """Scalars as scalars, which print and serialise like floats."""
    return np.asarray(values, dtype=np.float64)[()]


def _check_alpha(alpha: Values | np.float64) -> None:
    _refuse(~(np.isfinite(alpha) & (alpha > 1.0)), "alpha must be a number above 1", alpha, "")


def _check_band(lower: Values | np.float64, upper: Values | np.float64) -> None:
    _check_positive("e_min_gev", lower, "GeV")
    _check_positive("e_max_gev", upper, "GeV")
    lower, upper = np.broadcast_arrays(lower, upper)
    empty = np.flatnonzero(~(lower < upper))
    if empty.size:
        i = int(empty[0])
        raise RecipeError(
            f"a band runs from a lower to a higher energy, got {lower.flat[i]:g} to {upper.flat[i]:g} GeV"
        )


def _check_positive(name: str, values: Values | np.float64, unit: str) -> None:
    _refuse(~(np.isfinite(values) & (values > 0.0)), f"{name} must be positive and finite", values, unit)


def _check_not_negative(name: str, values: Values, unit: str) -> None:
    _refuse(
        ~np.isnan(values) & ~((values >= 0.0) & (values < np.inf)),
        f"{name} must not be negative or infinite",
        values,
        unit,
    )


def _refuse(bad: Any, rule: str, values: Values | np.float64, unit: str) -> None:
    """Raise an error that shows the first bad value and, in an array, how many there are."""
    n_bad = int(np.count_nonzero(bad))
    if n_bad:
        first = np.asarray(values)[np.asarray(bad)].flat[0]
        count = f" ({n_bad} of {np.size(values)} values)" if np.size(values) > 1 else ""
        raise RecipeError(f"{rule}, got {first:g}{' ' * bool(unit)}{unit}{count}")
