"""What products on a Cartesian grid have in common: how they are cut, and how a voxel is sampled."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crdist.grids import CartesianGrid, SphericalGrid
from crdist_postproc.conservative import TILE, tile_bytes, waiting_bytes
from crdist_postproc.conservative_blocks import COST, block_means, plan_for, tiles_at_once
from crdist_postproc.kernels.field import padded_samples
from crdist_postproc.kernels.gather import POINTWISE, Splitting, splitting
from crdist_postproc.parts import Samples
from crdist_postproc.products.base import Array, Block, BlockResult, Coordinate, Product, axis_coordinate
from crdist_postproc.products.columns import TilePass, compute_columns
from crdist_postproc.products.tiling import even_tiles, lattice_of, morton, tiles
from crdist_postproc.reach import Lattice

__all__ = ["GridMap"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GridMap(Product):
    """A product cut into tiles of a Cartesian grid."""

    grid: CartesianGrid
    native: SphericalGrid
    axis: str = "z"
    """Axis that a slice lies across or a projection runs along; a volume's rows run along z."""
    parts_per_cell: float = 0.0
    """How many parts of a voxel a native cell's size is to hold, at least; 0: a voxel is its centre."""
    order: int = 0
    """Of the conservative regrid, 1 or 2; 0: values are interpolated."""

    @property
    def across(self) -> tuple[str, str]:
        """The two other axes."""
        first, second = (name for name in "xyz" if name != self.axis)
        return first, second

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the statistics."""
        return self.across

    @property
    def plane(self) -> tuple[int, int]:
        """Voxels along the two other axes."""
        return self.grid.axis(self.across[0]).n, self.grid.axis(self.across[1]).n

    @property
    def depth(self) -> int:
        """Voxels along the axis."""
        return self.grid.axis(self.axis).n

    def coordinates(self) -> tuple[Coordinate, ...]:
        """Voxel centres along each dimension."""
        axes = (axis_coordinate(name, self.grid.axis(name), self.frame) for name in self.dims)
        return (*axes, *self.sample_coordinates())

    def work(self, block: Block) -> int:
        """Voxel-samples of a block, of interpolation that takes as long."""
        depth = self.grid.axis("z").n if block.kind == "columns" else self.depth
        return math.prod(block.shape) * depth * self.quantity.n_sample * self._cost

    @property
    def along(self) -> str:
        """Axis that rows run along in the kernels."""
        return self.axis

    @property
    def cut(self) -> tuple[str, str]:
        """The axes that its tiles are cut along."""
        return self.across

    @property
    def summed(self) -> bool:
        """Whether voxels are summed along the axis."""
        return False

    @property
    def columns(self) -> tuple[int, int] | None:
        """Columns along x and y in each tile, if several products of the grid are computed from the same pass."""
        return None

    def column_blocks(self, kind: str = "tile") -> tuple[Block, ...]:
        """Tiles of columns."""
        assert self.columns is not None
        return even_tiles(self.name, (self.grid.axis("x").n, self.grid.axis("y").n), self.columns, kind)

    def together(self, kind: str) -> Hashable:
        """Blocks over the same columns of the same grid are computed together."""
        return None if self.columns is None or kind == "native" else self.grid

    def compute_together(self, parts: Sequence[tuple[Any, Block]], samples: Samples) -> list[BlockResult]:
        """Go once through the columns that the blocks have in common."""
        return compute_columns(parts, samples)

    def of_columns(self, block: Block, found: TilePass) -> BlockResult:
        """What a block is, from a pass through its columns."""
        raise NotImplementedError

    def place(self, block: Block) -> tuple[Any, ...]:
        """Where a block lies: tiles with rows along the same axis together, neighbours close to each other."""
        if block.kind == "native":
            return super(GridMap, self).place(block)
        middles = (
            (self.grid.axis(name).edges[start] + self.grid.axis(name).edges[stop]) / 2
            for name, (start, stop) in zip(self.cut, block.bounds, strict=True)
        )
        return 1, self.along, morton(*middles), self.name, block.index

    def smallest_parts(self) -> tuple[list[Lattice], bool]:
        """The points around the Sun, each alone, and whether the whole voxels around them are read."""
        if self.order:
            # cells go to the voxels that they overlap a few pixels at a time
            return [], False
        names = [*(name for name in "xyz" if name != self.along), self.along]
        sun = dict(zip("xyz", self.grid.frame.sun_kpc, strict=True))
        near = []
        for name in names:
            axis = self.grid.axis(name)
            closest = min(max(math.floor((sun[name] - axis.lower_kpc) / axis.step), 0), axis.n - 1)
            near.append(range(max(closest - 1, 0), min(closest + 2, axis.n)))
        lattices = []
        for i, j, k in itertools.product(*near):
            row = lattice_of(self.grid, self.along, Block(self.name, 0, ((i, i + 1), (j, j + 1))))
            lattices.append(row.part(((0, 1), (0, 1), (k, k + 1))))
        return lattices, self.parts_per_cell > 0

    @property
    def sampling(self) -> dict[str, Any]:
        """How voxels are sampled, for the attributes."""
        if self.order:
            return {"sampling": "conservative", "order": self.order}
        if not self.parts_per_cell:
            return {"sampling": "point"}
        return {"sampling": "adaptive", "parts_per_cell": self.parts_per_cell}

    def splits(self, along: str) -> Splitting:
        """Where voxels are split whose rows run along an axis."""
        if not self.parts_per_cell:
            return POINTWISE
        sides = np.diag([axis.step for axis in self.grid.axes]) @ self.grid.frame.rotation
        across = np.delete(sides, "xyz".index(along), axis=0)
        return splitting(self.native, self.grid.axis(along).step, across, self.parts_per_cell)

    def plane_tiles(self, work_per_row: int, bytes_per_row: int) -> tuple[Block, ...]:
        """The plane across the axis, cut into tiles."""
        unit = TILE if self.order else 1
        return tiles(self.name, self.plane, work_per_row * self._cost, bytes_per_row, unit)

    def conservative_means(self, block: Block, samples: Samples) -> Iterator[tuple[Any, Array, Array]]:
        """The means over the voxels of a block, part by part: its place in the block, values and coverage."""
        plan = plan_for(samples, self.native, self.grid)
        return block_means(samples, plan, "xyz".index(self.axis), block.bounds, order=self.order)

    def conservative_bytes(self) -> int:
        """Upper bound on the memory of one part of a block in a conservative regrid; 0 if this is none."""
        if not self.order:
            return 0
        n_sample = self.quantity.n_sample
        return tile_bytes(self.native, padded_samples(n_sample)) + self.statistics_bytes(TILE**3) + 16 * TILE**3

    def pixel_chunks_at_once(self) -> int:
        """With slopes those of a pixel's neighbours, too: four chunks meet in a corner."""
        return 4 if self.order == 2 else 1

    def in_parts_bytes(self) -> int:
        """Memory of tiles that wait until all parts are read."""
        if not self.order:
            return 0
        n_padded = padded_samples(self.quantity.n_sample)
        n_tile = math.prod(-(-n // TILE) for n in (*self.blocks()[0].shape, self.depth))
        return min(n_tile, tiles_at_once(n_padded)) * waiting_bytes(n_padded)

    @property
    def _cost(self) -> int:
        """How many times as long as interpolation a voxel takes, about."""
        return COST * self.order if self.order else 1
