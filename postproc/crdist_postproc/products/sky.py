"""Line-of-sight integrals on the native grid: no regrid at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from crdist.grids import SphericalGrid
from crdist.units import integral_unit
from crdist_postproc.parts import Samples
from crdist_postproc.products.base import Array, ArraySpec, Block, BlockResult, Coordinate, Product
from crdist_postproc.products.tiling import pixel_blocks
from crdist_postproc.rows import sight_lines

__all__ = ["SkyMap"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SkyMap(Product):
    """Integrals from the Sun outward along the line of sight of each pixel, in nested order."""

    kind = "sky"

    native: SphericalGrid
    extend: bool
    """Whether the first shell stands for the space inside it, too."""
    limits_kpc: tuple[float, float] | None = None
    """Distances to integrate between; default: from the Sun to the outermost edge."""

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the statistics."""
        return ("pixel",)

    @property
    def distances(self) -> tuple[float, float]:
        """The limits of the integral, kpc."""
        return self.limits_kpc or (0.0, self.native.edges_kpc[-1])

    def arrays(self) -> tuple[ArraySpec, ...]:
        """The arrays to create."""
        near, far = self.distances
        what = f"{self.quantity.long_name} integrated along the line of sight from {near:g} to {far:g} kpc"
        units, _ = integral_unit(self.quantity.units)
        return self.statistics_arrays((self.native.n_pixel,), self.blocks()[0].shape, units, what)

    def coordinates(self) -> tuple[Coordinate, ...]:
        """HEALPix cells in Galactic coordinates, in nested order."""
        # these three and no more: xdggs takes each attribute for a parameter of the grid
        attrs = {"grid_name": "healpix", "level": self.native.level, "indexing_scheme": "nested"}
        return (
            Coordinate("cell_ids", ("pixel",), np.arange(self.native.n_pixel), attrs),
            *self.sample_coordinates(),
        )

    def attributes(self) -> dict[str, Any]:
        """Attributes of the group."""
        return {
            "distance_kpc": list(self.distances),
            "nside": self.native.nside,
            "mass_residual": "none: summed over the source's own cells, without a regrid",
        }

    def blocks(self) -> tuple[Block, ...]:
        """Ranges of pixels."""
        return pixel_blocks(self.name, self.native.n_pixel, self.native.n_shell * self.quantity.n_sample)

    def compute(self, block: Block, samples: Samples, weight: Samples | None) -> BlockResult:
        """Integrate the lines of sight of some pixels."""
        import healpy

        rows = healpy.nest2ring(self.native.nside, np.arange(*block.bounds[0]))
        total, covered = sight_lines(samples, rows, self._lengths())
        total[covered == 0] = np.nan
        near, far = self.distances
        return BlockResult(self.summary(total * integral_unit(self.quantity.units)[1], covered / (far - near)))

    def work(self, block: Block) -> int:
        """Cell-samples of a block."""
        return block.shape[0] * self.native.n_shell * self.quantity.n_sample

    def block_bytes(self) -> int:
        """Upper bound on the memory of one block."""
        return self.statistics_bytes(self.blocks()[0].shape[0])

    def _lengths(self) -> Array:
        near, far = self.distances
        edges = self.native.edges
        if self.extend:
            edges[0] = 0.0
        return np.asarray(np.diff(np.clip(edges, near, far)))
