"""The inverse problem: a masked sky, its noise, and what each cell of the Galaxy would add to it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from crdist.errors import GridError
from crdist.grids import SphericalGrid

from .prior import Prior

__all__ = ["Problem"]

Float = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Problem:
    """``sky[pixel] = sum over shells of response[pixel, shell] * density[pixel, shell]``, seen with Gaussian noise.

    Parameters
    ----------
    grid : SphericalGrid
        Nested, shells even in log distance.
    response : ndarray, shape (n_pixel, n_shell), m-2 s-1 sr-1 / cm-3
        Intensity per cosmic-ray density: emissivity per hydrogen atom times gas density times depth of the cell.
    sky, sigma : ndarray, shape (n_pixel,), m-2 s-1 sr-1
        Measured intensity and its standard deviation; any value where not used.
    used : ndarray of bool, shape (n_pixel,)
        False where masked.
    prior : Prior

    Raises
    ------
    GridError
        If shapes do not fit, no pixel is used, or a used pixel has no valid intensity or sigma.
    """

    grid: SphericalGrid
    response: Float
    sky: Float
    sigma: Float
    used: npt.NDArray[np.bool_]
    prior: Prior = Prior()  # noqa: RUF009  (frozen)

    def __post_init__(self) -> None:
        cells, pixels = (self.grid.n_pixel, self.grid.n_shell), (self.grid.n_pixel,)
        for name, shape in (("response", cells), ("sky", pixels), ("sigma", pixels), ("used", pixels)):
            if getattr(self, name).shape != shape:
                raise GridError(f"{name} must have the shape {shape}, got {getattr(self, name).shape}")
        if not self.used.any():
            raise GridError("the mask leaves no pixel; use a smaller mask")
        if not (np.isfinite(self.response).all() and (self.response >= 0).all()):
            raise GridError("the response (gas) has values that are negative or not finite")
        if not np.isfinite(self.sky[self.used]).all():
            raise GridError(f"the sky has {int((~np.isfinite(self.sky[self.used])).sum())} used pixels without a value")
        if not (self.sigma[self.used] > 0).all() or not np.isfinite(self.sigma[self.used]).all():
            raise GridError("sigma must be positive and finite on every used pixel; mask the others")

    def predict(self, density: npt.ArrayLike) -> Float:
        """The sky of densities [cm-3], shape (..., n_pixel, n_shell), without noise."""
        return np.asarray(np.einsum("...ps,ps->...p", np.asarray(density, dtype=np.float64), self.response))

    @property
    def n_used(self) -> int:
        """Number of pixels that are not masked."""
        return int(self.used.sum())

    def with_sky(self, sky: Float) -> Problem:
        """The same problem with another measured sky."""
        return replace(self, sky=np.asarray(sky, dtype=np.float64))

    def coarsened(self, nside: int, n_shell: int) -> Problem:
        """The same problem on a coarser grid: columns are kept, used pixels are averaged.

        The response of a coarse cell is the mean over its used pixels of the summed responses of the shells in it,
        shared out by overlap. The noise of the mean assumes that pixels are independent.
        """
        grid = SphericalGrid.log_spaced(
            nside, n_shell, self.grid.edges_kpc[0], self.grid.edges_kpc[-1], ordering="nested"
        )
        children = (self.grid.nside // nside) ** 2
        if nside > self.grid.nside or n_shell > self.grid.n_shell:
            raise GridError(f"cannot coarsen a grid of nside {self.grid.nside} to {nside} or to more shells")
        used: npt.NDArray[np.bool_] = self.used.reshape(-1, children)
        share = used / np.maximum(used.sum(axis=1, keepdims=True), 1)
        overlap = _overlap(np.log(self.grid.edges), np.log(grid.edges))
        response = (share[:, :, None] * self.response.reshape(-1, children, self.grid.n_shell)).sum(axis=1) @ overlap
        sky = (share * np.where(used, self.sky.reshape(-1, children), 0.0)).sum(axis=1)
        sigma = np.sqrt((np.square(share * np.where(used, self.sigma.reshape(-1, children), 0.0))).sum(axis=1))
        seen = np.asarray(used.any(axis=1))
        return Problem(grid, response, sky, np.where(seen, sigma, 1.0), seen, self.prior)


def _overlap(fine: Float, coarse: Float) -> Float:
    """Share of each fine interval in each coarse one, (fine, coarse)."""
    low = np.maximum(fine[:-1, None], coarse[:-1])
    high = np.minimum(fine[1:, None], coarse[1:])
    return np.asarray(np.maximum(high - low, 0.0) / np.diff(fine)[:, None])
