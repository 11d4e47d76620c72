"""Formulae: the photons that protons of a power-law spectrum make, and what the spectrum's normalisation stands for.

The protons have ``dn/dp = C p^-alpha`` with p their momentum in units of m_p c, so that C [cm-3] is the density per
unit p at p = 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from crdist import kafexhiu
from crdist.constants import LIGHT_CM_S, MB_CM2, PION_GEV, PROTON_GEV
from crdist.emission.arguments import (
    Values,
    arrays,
    check_alpha,
    check_band,
    check_not_negative,
    check_positive,
    plain,
    refuse,
)

__all__ = [
    "ALPHA",
    "C_LOCAL_DEMODULATED_CM3",
    "C_LOCAL_TOA_CM3",
    "E_MAX_GEV",
    "E_MIN_GEV",
    "band_coefficient",
    "delta_gamma",
    "density_at_energy",
    "hydrogen_density",
    "kafexhiu_band_coefficient",
    "normalisation_from_density",
    "sigma_pp_mb",
    "source_function",
]

ALPHA = 2.7
"""Slope of the proton spectrum in momentum; that of the locally measured protons near 30 GeV."""
E_MIN_GEV, E_MAX_GEV = 10**0.25, 10**0.5
"""The energy bin 1.78-3.16 GeV of the diffuse-emission maps of Scheel-Platz et al. (2023)."""

C_LOCAL_TOA_CM3 = 6.014e-10
"""C of the protons that AMS-02 counted (PRL 114, 171103, 2015; CRDB table): 1.2188 m-2 s-1 sr-1 GeV-1 at 30 GeV."""
C_LOCAL_DEMODULATED_CM3 = 6.669e-10
"""The same, taken out of the heliosphere with the force field of CRDB, 661 MV: 1.3515 m-2 s-1 sr-1 GeV-1 at 30 GeV."""


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
    (slope,) = arrays(alpha=alpha)
    check_alpha(slope)
    return plain(32.0 * (0.96 + np.exp(4.4 - 2.4 * slope)))


def delta_gamma(alpha: npt.ArrayLike = ALPHA) -> Values:
    """Shape of the gamma-ray spectrum about its maximum, dimensionless.

    Parameters and errors as for `sigma_pp_mb`; Pfrommer & Ensslin 2004, A&A 413, 17.

    Examples
    --------
    >>> print(f"{delta_gamma(2.7):.12f}")
    0.468572353395
    """
    (slope,) = arrays(alpha=alpha)
    check_alpha(slope)
    return plain(0.14 * slope**-1.6 + 0.44)


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
    energy, slope = arrays(energy_gev=energy_gev, alpha=alpha)
    check_positive("energy_gev", energy, "GeV")
    delta = delta_gamma(slope)
    y = 2.0 * energy / PION_GEV
    shape = (y**delta + y**-delta) ** (-slope / delta)
    return plain(_amplitude(slope) * 16.0 / (3.0 * slope) / PROTON_GEV * shape)


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
    slope, lower, upper = arrays(alpha=alpha, e_min_gev=e_min_gev, e_max_gev=e_max_gev)
    check_alpha(slope)
    check_band(lower, upper)
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
    return plain(_amplitude(slope) * factor * special.beta(a, b) * share)


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
    normalisation, kinetic, slope = arrays(c=c, kinetic_energy_gev=kinetic_energy_gev, alpha=alpha)
    check_not_negative("c", normalisation, "cm-3")
    return plain(normalisation * _density_per_normalisation(kinetic, slope))


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
    density_gev, kinetic, slope = arrays(density=density, kinetic_energy_gev=kinetic_energy_gev, alpha=alpha)
    check_not_negative("density", density_gev, "GeV-1 cm-3")
    return plain(density_gev / _density_per_normalisation(kinetic, slope))


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
    atoms, molecules, rescale = arrays(hi=hi, h2=h2, xco_rescale=xco_rescale)
    check_not_negative("hi", atoms, "cm-3")
    check_not_negative("h2", molecules, "cm-3")
    check_positive("xco_rescale", rescale, "")
    return plain(atoms + 2.0 * rescale * molecules)


def _density_per_normalisation(kinetic: Values, alpha: Values) -> Values:
    check_positive("kinetic_energy_gev", kinetic, "GeV")
    check_alpha(alpha)
    t = kinetic / PROTON_GEV
    p = np.sqrt(t * (t + 2.0))
    return p**-alpha * (1.0 + t) / (p * PROTON_GEV)


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
    slope, lower, upper = np.broadcast_arrays(*arrays(alpha=alpha, e_min_gev=e_min_gev, e_max_gev=e_max_gev))
    check_band(lower, upper)
    refuse(
        ~(np.isfinite(slope) & (slope >= KAFEXHIU_ALPHA_MIN)),
        f"alpha must be at least {KAFEXHIU_ALPHA_MIN:g} for model 'kafexhiu'",
        slope,
        "",
    )
    refuse(
        upper > KAFEXHIU_ENERGY_MAX_GEV,
        f"e_max_gev must be at most {KAFEXHIU_ENERGY_MAX_GEV:g} GeV for model 'kafexhiu'",
        upper,
        "GeV",
    )
    rows = zip(slope.flat, lower.flat, upper.flat, strict=True)
    return plain(np.array([kafexhiu.band_coefficient(*row) for row in rows]).reshape(slope.shape))
