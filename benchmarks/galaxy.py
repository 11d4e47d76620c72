"""The problem that the inference's benchmarks share: gas of the synthetic galaxy, seen with noise."""

from __future__ import annotations

import math

import numpy as np
from healpy import pix2vec

from crdist.emission import intensity_coefficient
from crdist.grids import SphericalGrid
from crdist_inference.prior import Prior
from crdist_inference.problem import Problem
from crdist_inference.synthetic import hi_density

LOCAL_C = 6e-10  # cm-3, of the order that the locally measured spectrum gives
FLOOR = 1e-3
"""Of sigma, relative to the brightest pixel."""


def synthetic_problem(grid: SphericalGrid, noise: float = 0.1, prior: Prior | None = None) -> Problem:
    """A sky of constant cosmic-ray density; sigma is a share of it and a floor, whatever the truth is later."""
    vectors = pix2vec(grid.nside, np.arange(grid.n_pixel), nest=grid.ordering == "nested")
    x, y, z = (part[:, None] * grid.centres for part in vectors)
    # a cell on the thin disc holds the mean over its height
    blur = grid.centres * math.sqrt(4 * math.pi / grid.n_pixel / 12)
    gas = hi_density(x, y, z, blur_kpc=blur).astype(np.float64)
    response = intensity_coefficient() * gas * grid.widths
    sky = LOCAL_C * response.sum(axis=1)
    sigma = noise * sky + FLOOR * sky.max()
    return Problem(grid, response, sky, sigma, np.ones(grid.n_pixel, dtype=bool), prior or Prior())
