"""Products of two dimensions on a Cartesian grid: slices and projections."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crdist.units import integral_unit
from crdist_postproc.conservative_blocks import block_integrals, plan_for
from crdist_postproc.parts import Samples
from crdist_postproc.products.base import (
    Array,
    ArraySpec,
    Block,
    BlockResult,
    in_tile,
    lattice_of,
    pixel_blocks,
    tile_rows,
)
from crdist_postproc.products.grid_map import GridMap
from crdist_postproc.rows import box_totals, fill_rows, sum_rows

__all__ = ["ProjectionMap", "SliceMap"]

RAYS_NSIDE = 256
"""HEALPix resolution of the rays that find the part of each native cell inside a box."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceMap(GridMap):
    """Values in a plane x, y or z = const."""

    kind = "slice"

    @property
    def along(self) -> str:
        """Rows run in the plane: kernels work on many points of a row at once."""
        return self.across[1]

    def arrays(self) -> tuple[ArraySpec, ...]:
        """The arrays to create."""
        what = f"{self.quantity.long_name} at {self.axis} = {self._at:g} kpc"
        return self.statistics_arrays(self.plane, self._tile, self.quantity.units, what)

    def attributes(self) -> dict[str, Any]:
        """Attributes of the group."""
        return {"axis": self.axis, "at_kpc": self._at, "grid": self.grid.to_dict(), **self.sampling}

    def blocks(self) -> tuple[Block, ...]:
        """Tiles of the plane."""
        return self.plane_tiles(self.quantity.n_sample, self.statistics_bytes(1))

    def compute(self, block: Block, samples: Samples, weight: Samples | None) -> BlockResult:
        """Interpolate at the voxel centres of a tile, or take the means over its voxels."""
        if self.order:
            return self._conservative(block, samples)
        along = self.along
        (first, last), bound = block.bounds[1], block.bounds[0]
        rows = Block(self.name, block.index, tuple((0, 1) if a == self.axis else bound for a in "xyz" if a != along))
        starts, step, order = tile_rows(self.grid, along, rows)
        lattice = lattice_of(self.grid, along, rows)
        lattice = lattice.part(((0, lattice.shape[0]), (0, lattice.shape[1]), (first, last)))
        covered = np.empty((len(starts), last - first), dtype=np.float32)
        filled = fill_rows(
            samples,
            starts,
            step,
            last - first,
            first,
            splits=self.splits(along),
            coverage=covered,
            lattice=lattice,
        )
        values, coverage = (in_tile(part, order, (block.shape[0],)) for part in (filled, covered))
        return BlockResult(self.summary(values, coverage.astype(np.float64)))

    def block_bytes(self) -> int:
        """Upper bound on the memory of one block."""
        n = math.prod(self.blocks()[0].shape)
        return self.statistics_bytes(n) + 200 * n + self.conservative_bytes()

    def _conservative(self, block: Block, samples: Samples) -> BlockResult:
        axis = "xyz".index(self.axis)
        values = np.empty((*block.shape, self.quantity.n_sample), dtype=np.float32)
        coverage = np.empty(block.shape)
        for place, part, covered in self.conservative_means(block, samples):
            across = tuple(slices for other, slices in enumerate(place) if other != axis)
            values[across], coverage[across] = part.squeeze(axis), covered.squeeze(axis)
        return BlockResult(self.summary(values, coverage))

    @property
    def _at(self) -> float:
        # rounded: the middle of [at - half, at + half] need not be `at` to the last bit
        return round(float(self.grid.axis(self.axis).centres[0]), 12) + 0.0

    @property
    def _tile(self) -> tuple[int, ...]:
        return self.blocks()[0].shape


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionMap(GridMap):
    """Integrals along x, y or z over a box, with the mass of the box on both grids."""

    kind = "projection"

    extend: bool
    """Whether the first shell stands for the space inside it, too."""

    def arrays(self) -> tuple[ArraySpec, ...]:
        """The arrays to create."""
        axis = self.grid.axis(self.axis)
        limits = f"{axis.lower_kpc:g} to {axis.upper_kpc:g} kpc"
        what = f"{self.quantity.long_name} integrated over {self.axis} from {limits}"
        units, _ = integral_unit(self.quantity.units)
        total_units, _ = integral_unit(self.quantity.units, power=3)
        n = self.quantity.n_sample
        named = (
            ("total_cartesian", total_units, "volume integral over the box, from the projection"),
            ("total_native", total_units, "volume integral over the box, from the source's own cells"),
            ("mass_residual", "", "total_cartesian / total_native - 1"),
        )
        totals = (ArraySpec(name, ("sample",), (n,), (n,), unit, text, dtype="float64") for name, unit, text in named)
        return (*self.statistics_arrays(self.plane, self._tiles()[0].shape, units, what), *totals)

    def attributes(self) -> dict[str, Any]:
        """Attributes of the group."""
        box = {name: [a.lower_kpc, a.upper_kpc] for name, a in zip("xyz", self.grid.axes, strict=True)}
        return {"axis": self.axis, "box": box, "grid": self.grid.to_dict(), **self.sampling}

    def blocks(self) -> tuple[Block, ...]:
        """Tiles of the plane, then ranges of native pixels for the mass."""
        found = self._tiles()
        per_pixel = self._native_work
        return (*found, *pixel_blocks(self.name, self.native.n_pixel, per_pixel, len(found)))

    def blocks_write(self, block: Block) -> bool:
        """Tiles are written; native pixels are summed."""
        return block.kind == "tile"

    def compute(self, block: Block, samples: Samples, weight: Samples | None) -> BlockResult:
        """Integrate the columns of a tile, or the native cells of some pixels."""
        if block.kind == "native":
            return BlockResult(partial={"native": self._native_total(block, samples)})
        total, count = self._sums(block, samples)
        cartesian = total.sum(axis=(0, 1)) * self.grid.voxel_volume
        # a column that misses the grid altogether is no measurement of nothing
        total[count == 0] = np.nan
        columns = total * (self.grid.axis(self.axis).step * integral_unit(self.quantity.units)[1])
        return BlockResult(self.summary(columns, count / self.depth), {"cartesian": cartesian})

    def finish(self, partials: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """The mass of the box on both grids."""
        factor = integral_unit(self.quantity.units, power=3)[1]
        sums = {"cartesian": np.zeros(self.quantity.n_sample), "native": np.zeros(self.quantity.n_sample)}
        for partial in partials:
            for name, value in partial.items():
                sums[name] += value
        residual = np.full(self.quantity.n_sample, np.nan)
        np.divide(sums["cartesian"], sums["native"], out=residual, where=sums["native"] != 0)
        return {
            "total_cartesian": sums["cartesian"] * factor,
            "total_native": sums["native"] * factor,
            "mass_residual": residual - 1.0,
        }

    def work(self, block: Block) -> int:
        """Voxel-samples of a block."""
        if block.kind == "native":
            return block.shape[0] * self._native_work
        return math.prod(block.shape) * self.depth * self.quantity.n_sample

    def block_bytes(self) -> int:
        """Upper bound on the memory of one block."""
        tile, native = self._tiles()[0], self.blocks()[-1]
        n = math.prod(tile.shape)
        return max(
            self.statistics_bytes(n) + 8 * n * (2 * self.quantity.n_sample + 24) + self.conservative_bytes(),
            96 * self._rays**2 * native.shape[0],
        )

    def _tiles(self) -> tuple[Block, ...]:
        return self.plane_tiles(self.depth * self.quantity.n_sample, self.statistics_bytes(1))

    def _sums(self, block: Block, samples: Samples) -> tuple[Array, Array]:
        """Sums of the voxels' values along the columns of a tile, and how many voxels of each lie inside the grid."""
        if self.order:
            plan = plan_for(samples, self.native, self.grid)
            return block_integrals(samples, plan, "xyz".index(self.axis), block.bounds, order=self.order)
        starts, step, order = tile_rows(self.grid, self.axis, block)
        lattice = lattice_of(self.grid, self.axis, block)
        total, count = sum_rows(samples, starts, step, self.depth, self.splits(self.axis), lattice=lattice)
        return in_tile(total, order, block.shape), in_tile(count, order, block.shape)

    @property
    def _native_work(self) -> int:
        """Cost of a native pixel, in voxel-samples."""
        return self.native.n_shell * (self.quantity.n_sample + self._rays**2) + 32 * self._rays**2

    @property
    def _rays(self) -> int:
        """Rays across a pixel, in each direction: about 0.2 deg apart, whatever the pixels' size."""
        return max(1, RAYS_NSIDE // self.native.nside)

    def _native_total(self, block: Block, samples: Samples) -> Array:
        import healpy

        nested = np.arange(*block.bounds[0])
        children = nested[:, None] * self._rays**2 + np.arange(self._rays**2)
        edges = self.native.edges
        if self.extend:
            edges[0] = 0.0
        return box_totals(
            samples,
            np.asarray(healpy.nest2ring(self.native.nside, nested)),
            np.stack(healpy.pix2vec(self.native.nside * self._rays, children, nest=True), axis=-1),
            edges,
            self.grid.frame.rotation,
            np.array(self.grid.frame.sun_kpc),
            np.array([axis.lower_kpc for axis in self.grid.axes]),
            np.array([axis.upper_kpc for axis in self.grid.axes]),
        )
