"""Gamma rays from protons on protons by the cross-sections of Kafexhiu et al. 2014, Phys. Rev. D 90, 123014."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import numpy as np
import numpy.typing as npt

from crdist.constants import LIGHT_CM_S, MB_CM2, PION_GEV, PROTON_GEV

__all__ = ["band_coefficient"]

Values = npt.NDArray[np.float64]

THRESHOLD_GEV = 2.0 * PION_GEV + PION_GEV**2 / (2.0 * PROTON_GEV)
PIECES_GEV = (THRESHOLD_GEV, 0.56, 1.0, 2.0, 4.0, 5.0, 20.0, 50.0, 3e2, 3e3, 1e5, 1e7)
"""Kinetic energies between which the integrand is smooth; the fits change from one to another at most of them."""


def band_coefficient(alpha: float, e_min_gev: float, e_max_gev: float) -> float:
    """Band coefficient K of protons ``dn/dp = p^-alpha`` in their rest mass.

    Parameters
    ----------
    alpha : float
        Slope of the proton spectrum, at least 2.
    e_min_gev, e_max_gev : float, GeV

    Returns
    -------
    float, cm3 s-1
    """
    turn = PION_GEV / 2.0  # the photon energy that needs the least energetic pions: the spectrum has a kink there
    ends = [e_min_gev, turn, e_max_gev] if e_min_gev < turn < e_max_gev else [e_min_gev, e_max_gev]
    total = 0.0
    for lower, upper in pairwise(ends):
        edges = np.geomspace(lower, upper, 2 + int(4.0 * math.log10(upper / lower)))
        energy, weight = _log_nodes(edges, 12)
        total += float(np.sum(weight * _source(energy.ravel(), alpha).reshape(weight.shape)))
    return total


def _source(energy_gev: Values, alpha: float) -> Values:
    """Photons per volume, time and energy for C = n_N = 1, cm3 s-1 GeV-1, shape of the energies (n,)."""
    pion = energy_gev + PION_GEV**2 / (4.0 * energy_gev)
    edges = np.maximum(_least_kinetic_energy(pion)[:, None], np.array(PIECES_GEV))
    kinetic, weight = _log_nodes(edges, 24)
    t = kinetic / PROTON_GEV
    flux = LIGHT_CM_S / PROTON_GEV * (t * (t + 2.0)) ** (-alpha / 2.0)  # v dn/dT, in which the speed cancels
    sigma = MB_CM2 * _peak(kinetic) * _shape(kinetic, pion[:, None, None])
    return cast(Values, np.sum(weight * flux * sigma, axis=(-2, -1)))


def _log_nodes(edges: Values, n: int) -> tuple[Values, Values]:
    """Nodes and weights of integrals between neighbouring edges, even in the logarithm; shape (..., n_piece, n)."""
    x, w = np.polynomial.legendre.leggauss(n)
    logs = np.log(edges)
    half = 0.5 * np.diff(logs)[..., None]
    nodes = np.exp(logs[..., :-1, None] + half * (1.0 + x))
    return nodes, nodes * half * w


def _greatest_pion_energy(kinetic: Values) -> Values:
    """Total energy of the fastest pion that a proton can make in the laboratory, GeV."""
    s = 2.0 * PROTON_GEV * (kinetic + 2.0 * PROTON_GEV)
    energy = (s - 4.0 * PROTON_GEV**2 + PION_GEV**2) / (2.0 * np.sqrt(s))
    momentum = np.sqrt(np.maximum(energy**2 - PION_GEV**2, 0.0))
    gamma = (kinetic + 2.0 * PROTON_GEV) / np.sqrt(s)
    return cast(Values, gamma * energy + np.sqrt(gamma**2 - 1.0) * momentum)


def _least_kinetic_energy(pion: Values) -> Values:
    """Kinetic energy that a proton needs to make a pion of a total energy, GeV: inverse of `_greatest_pion_energy`."""
    m = PROTON_GEV
    # The two protons leave together: the square of their four-momentum is 4 m^2, a quadratic in T.
    rest = 4.0 * m * pion - PION_GEV**2
    a = 8.0 * m * pion - 4.0 * m**2 - 4.0 * PION_GEV**2
    b = 8.0 * m * (pion**2 - PION_GEV**2) - 4.0 * (pion - m) * rest
    root = np.sqrt(np.maximum(b**2 + 4.0 * a * rest**2, 0.0))
    # The form of the solution in which nothing cancels depends on the sign of b.
    with np.errstate(divide="ignore", invalid="ignore"):
        least = np.where(b > 0.0, 2.0 * rest**2 / (b + root), (root - b) / (2.0 * a))
    # At the threshold the pion moves with the centre of mass, so slower ones need no less.
    at_threshold = pion <= PION_GEV * (1.0 + PION_GEV / (2.0 * m))
    return np.where(at_threshold, THRESHOLD_GEV, np.maximum(least, THRESHOLD_GEV))


def _inelastic_mb(kinetic: Values) -> Values:
    log = np.log(kinetic / THRESHOLD_GEV)
    rise = np.maximum(1.0 - (THRESHOLD_GEV / kinetic) ** 1.9, 0.0) ** 3
    return cast(Values, (30.7 - 0.96 * log + 0.18 * log**2) * rise)


def _pions_mb(kinetic: Values) -> Values:
    """Inclusive cross-section of neutral pions, mb."""
    experiments = _pions_by_experiment_mb(np.minimum(kinetic, 2.0))
    q = (kinetic - THRESHOLD_GEV) / PROTON_GEV
    low = -6e-3 + 0.237 * q - 0.023 * q**2

    def high(a1: float, a2: float, a3: float, a4: float, a5: float) -> Values:
        xi = np.maximum(kinetic - 3.0, 1e-9) / PROTON_GEV
        return a1 * xi**a4 * (1.0 + np.exp(-a2 * xi**a5)) * (1.0 - np.exp(-a3 * xi**0.25))

    geant, pythia = high(0.728, 0.596, 0.491, 0.2503, 0.117), high(0.652, 0.0016, 0.488, 0.1928, 0.483)
    multiplicity = np.select([kinetic < 5.0, kinetic < 50.0], [low, geant], pythia)
    return np.where(kinetic < 2.0, experiments, _inelastic_mb(kinetic) * multiplicity)


def _pions_by_experiment_mb(kinetic: Values) -> Values:
    """One pion through the resonance at 1.19 GeV, and two pions."""
    mass, width = 1.1883, 0.2264
    s = 2.0 * PROTON_GEV * (kinetic + 2.0 * PROTON_GEV)
    g = mass * math.hypot(mass, width)
    k = math.sqrt(8.0) * mass * width * g / (math.pi * math.sqrt(mass**2 + g))
    resonance = PROTON_GEV * k / (((np.sqrt(s) - PROTON_GEV) ** 2 - mass**2) ** 2 + (mass * width) ** 2)
    momentum2 = (s - PION_GEV**2 - 4.0 * PROTON_GEV**2) ** 2 - (4.0 * PION_GEV * PROTON_GEV) ** 2
    eta = np.sqrt(np.maximum(momentum2, 0.0)) / (2.0 * PION_GEV * np.sqrt(s))
    one = 7.66e-3 * eta**1.95 * (1.0 + eta + eta**5) * resonance**1.86
    two = np.where(kinetic < 0.56, 0.0, 5.7 / (1.0 + np.exp(-9.3 * (kinetic - 1.4))))
    return one + two


def _peak(kinetic: Values) -> Values:
    """Greatest value over photon energies of the differential cross-section, mb GeV-1."""
    theta = kinetic / PROTON_GEV
    conditions = [kinetic < 5.0, kinetic < 50.0]
    b1, b2, b3 = (
        np.select(conditions, choices[:2], choices[2])
        for choices in ((9.53, 9.13, 9.06), (0.52, 0.35, 0.3795), (0.054, 9.7e-3, 0.01105))
    )
    height = b1 * theta**-b2 * np.exp(b3 * np.log(theta) ** 2) / PROTON_GEV
    return np.where(kinetic < 1.0, 5.9 / _greatest_pion_energy(kinetic), height) * _pions_mb(kinetic)


def _shape(kinetic: Values, pion: Values) -> Values:
    """Differential cross-section over its greatest value, at the photon energy that needs pions of an energy."""
    greatest = _greatest_pion_energy(kinetic)
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.clip((pion - PION_GEV) / (greatest - PION_GEV), 0.0, 1.0)
    q = np.maximum(kinetic - 1.0, 0.0) / PROTON_GEV
    mu = 1.25 * q**1.25 * np.exp(-1.25 * q)
    kappa = 3.29 - 0.2 * (kinetic / PROTON_GEV) ** -1.5
    conditions = [kinetic <= 1.0, kinetic <= 4.0, kinetic <= 20.0, kinetic <= 50.0]
    # Table V: lambda, alpha, beta and gamma of each range
    scale = np.where(kinetic <= 50.0, 3.0, 3.5) * PION_GEV / greatest
    power = np.where(kinetic <= 20.0, 1.0, 0.5)
    beta = np.select(conditions, [kappa, mu + 2.45, 1.5 * mu + 4.95, 4.2], 4.0)
    gamma = np.select(conditions, [0.0, mu + 1.45, mu + 1.5, 1.0], 1.0)
    return cast(Values, (1.0 - x**power) ** beta / (1.0 + x / scale) ** gamma)
