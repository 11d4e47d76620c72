"""Hadronic gamma rays: what cosmic-ray protons of a power-law spectrum make of the gas they meet.

The protons have ``dn/dp = C p^-alpha`` with p their momentum in units of m_p c, so that C [cm-3] is the density per
unit p at p = 1. The band-integrated photon source density is ``K C n_N`` with n_N the nucleons of the gas and K the
band coefficient [cm3 s-1], by default of the formula of Dermer (1986) as given by Pfrommer & Ensslin (2004) and
Ensslin et al. (2007). Everything that depends on these choices is kept in one record, `Emissivity`.
"""

from crdist.constants import KPC_CM
from crdist.emission.emissivity import PRESETS, Emissivity, intensity, intensity_coefficient, source_density
from crdist.emission.hadronic import (
    ALPHA,
    C_LOCAL_DEMODULATED_CM3,
    C_LOCAL_TOA_CM3,
    E_MAX_GEV,
    E_MIN_GEV,
    band_coefficient,
    delta_gamma,
    density_at_energy,
    hydrogen_density,
    kafexhiu_band_coefficient,
    normalisation_from_density,
    sigma_pp_mb,
    source_function,
)
from crdist.emission.models import MODELS, BandCoefficient, register_model

__all__ = [
    "ALPHA",
    "C_LOCAL_DEMODULATED_CM3",
    "C_LOCAL_TOA_CM3",
    "E_MAX_GEV",
    "E_MIN_GEV",
    "KPC_CM",
    "MODELS",
    "PRESETS",
    "BandCoefficient",
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
