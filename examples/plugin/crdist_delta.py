"""An emissivity model for crdist: pions in the delta-function approximation."""

from __future__ import annotations

import numpy as np

from crdist.constants import LIGHT_CM_S, MB_CM2, PION_GEV, PROTON_GEV
from crdist.emission import density_at_energy

KAPPA = 0.17
"""Part of a proton's kinetic energy that goes into pions."""
THRESHOLD_GEV = 1.22
PION_RANGE = 12.0
"""Pions of e^12 times the least energy are e^-32 of those there."""


# begin emissivity
def delta_function(alpha: float, e_min_gev: float, e_max_gev: float) -> float:
    """Band coefficient K, cm3 s-1, where every pion gets the same part of its proton's kinetic energy.

    Kelner, Aharonian & Bugayov 2006, Phys. Rev. D 74, 034018, equations 77 to 79 with one pion a collision.
    """
    nodes, weights = np.polynomial.legendre.leggauss(96)
    ln_energy = np.log(e_min_gev) + (nodes + 1) / 2 * np.log(e_max_gev / e_min_gev)
    energy = np.exp(ln_energy)
    # with E = m_pi cosh(eta) the least energy of a photon's pion is at eta = |ln(2 E / m_pi)|
    eta = np.abs(np.log(2 * energy / PION_GEV))[:, None] + (nodes + 1) / 2 * PION_RANGE
    kinetic = PION_GEV * np.cosh(eta) / KAPPA
    ln_tev = np.log((kinetic + PROTON_GEV) / 1e3)
    cross_section = 34.3 + 1.88 * ln_tev + 0.25 * ln_tev**2
    cross_section *= (1 - (THRESHOLD_GEV / (kinetic + PROTON_GEV)) ** 4) ** 2 * MB_CM2
    pions = LIGHT_CM_S / KAPPA * cross_section * density_at_energy(1.0, kinetic, alpha)
    photons = 2 * pions @ weights * PION_RANGE / 2
    return float((photons * energy) @ weights * np.log(e_max_gev / e_min_gev) / 2)


# end emissivity
