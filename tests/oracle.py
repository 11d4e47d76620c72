"""An independent interpolation: healpy's weights, numpy's arithmetic, float64 throughout."""

import healpy
import numpy as np


def interpolate(samples, grid, points_kpc, method="linear"):
    """Values at heliocentric points, shape (n, n_sample); NaN beyond the last edge."""
    r = np.linalg.norm(points_kpc, axis=-1)
    theta = np.arctan2(np.hypot(points_kpc[:, 0], points_kpc[:, 1]), points_kpc[:, 2])
    phi = np.arctan2(points_kpc[:, 1], points_kpc[:, 0])
    nest = grid.ordering == "nested"
    samples = samples.astype(np.float64)
    if method == "nearest":
        pixel = healpy.ang2pix(grid.nside, theta, phi, nest=nest)
        shell = np.clip(np.searchsorted(grid.edges, r, side="right") - 1, 0, grid.n_shell - 1)
        values = samples[pixel, shell]
    else:
        pixels, weights = healpy.get_interp_weights(grid.nside, theta, phi, nest=nest)
        knots = np.log(grid.centres)
        lower = np.clip(np.searchsorted(knots, np.log(r), side="right") - 1, 0, max(grid.n_shell - 2, 0))
        upper = np.minimum(lower + 1, grid.n_shell - 1)
        span = np.where(upper > lower, knots[upper] - knots[lower], 1.0)
        up = np.clip((np.log(r) - knots[lower]) / span, 0.0, 1.0) * (upper > lower)
        values = 0.0
        for pixel, weight in zip(pixels, weights, strict=True):
            cell = samples[pixel, lower] * (1 - up)[:, None] + samples[pixel, upper] * up[:, None]
            values = values + weight[:, None] * cell
    values = np.array(values)
    values[r > grid.edges[-1]] = np.nan
    return values
