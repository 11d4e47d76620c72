"""Constants of nature, in the units in which the emission is computed."""

__all__ = ["KPC_CM", "LIGHT_CM_S", "MB_CM2", "PION_GEV", "PROTON_GEV"]

PROTON_GEV = 0.93827208943  # m_p c2, CODATA 2022
PION_GEV = 0.1349768  # m_pi0 c2, Particle Data Group 2022
LIGHT_CM_S = 2.99792458e10
MB_CM2 = 1e-27
KPC_CM = 3.0856775814913673e21
