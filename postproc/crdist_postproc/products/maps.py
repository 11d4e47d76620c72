"""Products of two dimensions on a Cartesian grid: slices and projections."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crdist.units import integral_unit
from crdist_postproc.conservative_blocks import block_integrals, plan_for
from crdist_postproc.parts import Samples
from crdist_postproc.products.base import Array, ArraySpec, Block, BlockResult
from crdist_postproc.products.columns import TilePass, compute_columns
from crdist_postproc.products.grid_map import GridMap
from crdist_postproc.products.tiling import column_tile, even_tiles, in_tile, lattice_of, pixel_blocks, tile_rows
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

    @property
    def along(self) -> str:
        """Columns run along z, whatever the axis."""
        return self.axis if self.columns is None else "z"

    @property
    def cut(self) -> tuple[str, str]:
        """Tiles of columns are cut along x and y."""
        return self.across if self.columns is None else ("x", "y")

    @property
    def summed(self) -> bool:
        """Voxels are summed along the axis."""
        return True

    @property
    def columns(self) -> tuple[int, int] | None:
        """Columns in each tile; none where cells are handed out to voxels."""
        return None if self.order else column_tile(self.grid, self.quantity.n_sample)

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
        cut = (self.strips() or self._tiles())[0].shape
        return (*self.statistics_arrays(self.plane, cut, units, what), *totals)

    def attributes(self) -> dict[str, Any]:
        """Attributes of the group."""
        box = {name: [a.lower_kpc, a.upper_kpc] for name, a in zip("xyz", self.grid.axes, strict=True)}
        return {"axis": self.axis, "box": box, "grid": self.grid.to_dict(), **self.sampling}

    def blocks(self) -> tuple[Block, ...]:
        """Tiles of the plane or of columns, then ranges of native pixels for the mass."""
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
        if self.columns is not None:
            return compute_columns([(self, block)], samples)[0]
        return BlockResult(*self._integrals(*self._sums(block, samples)))

    def of_columns(self, block: Block, found: TilePass) -> BlockResult:
        """The integrals along z, or what columns add to those along x or y."""
        total, count = found.sums[self.axis], found.counts[self.axis]
        if self.axis == "z":
            # other products may be made of the same sums
            return BlockResult(*self._integrals(total.copy(), count))
        return BlockResult(partial={"sums": total, "counts": count, "cartesian": self._mass(total)})

    def together(self, kind: str) -> Hashable:
        """Projections of the same box along different axes have the mass of the source's cells in common, too."""
        if kind != "native":
            return super(ProjectionMap, self).together(kind)
        return self.grid.frame, tuple((axis.lower_kpc, axis.upper_kpc) for axis in self.grid.axes), self.extend

    def compute_together(self, parts: Sequence[tuple[GridMap, Block]], samples: Samples) -> list[BlockResult]:
        """Go once through the columns, or the native pixels, that the blocks have in common."""
        if parts[0][1].kind == "native":
            return [self.compute(parts[0][1], samples, None)] * len(parts)
        return super(ProjectionMap, self).compute_together(parts, samples)

    def left_bytes(self, block: Block) -> int:
        """The sums that columns leave."""
        if block.kind != "columns":
            return 0
        across = block.shape[self.cut.index(self.across[0])]
        return 8 * across * self.grid.axis("z").n * (self.quantity.n_sample + 1)

    def strips(self) -> tuple[Block, ...]:
        """What is made of the sums that columns leave: all along z, as wide as a tile of columns."""
        if self.columns is None or self.axis == "z":
            return ()
        return even_tiles(self.name, self.plane, (self.columns[self.cut.index(self.across[0])], self.plane[1]), "strip")

    def join(self, strip: Block, partials: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """Add up what the tiles of columns left, in their order along the axis."""
        side = self.cut.index(self.across[0])
        total, count = np.zeros((*strip.shape, self.quantity.n_sample)), np.zeros(strip.shape)
        for block in self._tiles():
            if block.bounds[side] == strip.bounds[0]:
                total += partials[block.index]["sums"]
                count += partials[block.index]["counts"]
        return dict(self._integrals(total, count)[0])

    def _integrals(self, total: Array, count: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        """The arrays from sums over voxels, which are changed, and what adds up to the mass."""
        partial = {"cartesian": self._mass(total)}
        # a column that misses the grid altogether is no measurement of nothing
        total[count == 0] = np.nan
        columns = total * (self.grid.axis(self.axis).step * integral_unit(self.quantity.units)[1])
        return self.summary(columns, count / self.depth), partial

    def _mass(self, total: Array) -> Array:
        return np.asarray(total.sum(axis=(0, 1)) * self.grid.voxel_volume)

    def finish(self, partials: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """The mass of the box on both grids."""
        factor = integral_unit(self.quantity.units, power=3)[1]
        sums = {"cartesian": np.zeros(self.quantity.n_sample), "native": np.zeros(self.quantity.n_sample)}
        for partial in partials:
            for name in sums.keys() & partial.keys():
                sums[name] += partial[name]
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
        return super(ProjectionMap, self).work(block)

    def block_bytes(self) -> int:
        """Upper bound on the memory of one block."""
        native = 96 * self._rays**2 * self.blocks()[-1].shape[0]
        tile = self._tiles()[0]
        left = 3 * self.left_bytes(tile)
        n = math.prod((self.strips() or (tile,))[0].shape)
        integrals = self.statistics_bytes(n) + 8 * n * (2 * self.quantity.n_sample + 24)
        return max(left + integrals + self.conservative_bytes(), native)

    def _tiles(self) -> tuple[Block, ...]:
        if self.columns is not None:
            return self.column_blocks("tile" if self.axis == "z" else "columns")
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
