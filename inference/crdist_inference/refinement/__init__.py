"""Iterative charted refinement: a Gaussian process on HEALPix x log distance from independent excitations."""

from .icr import Matrices, Refinement
from .matern import SLOPE_RANGE, matern_correlation

__all__ = ["SLOPE_RANGE", "Matrices", "Refinement", "matern_correlation"]
