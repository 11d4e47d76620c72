"""Volumes: statistics over the samples in every voxel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from crdist_postproc.parts import Samples
from crdist_postproc.products.base import Array, ArraySpec, Block, BlockResult
from crdist_postproc.products.columns import TilePass, compute_columns
from crdist_postproc.products.grid_map import GridMap
from crdist_postproc.products.tiling import column_tile, in_tile, iterate_rows, lattice_of, tile_rows
from crdist_postproc.rows import fill_rows
from crdist_postproc.statistics import STATISTICS, significance_and_error, summarise

__all__ = ["VolumeMap"]

ROWS_BYTES = 32 * 1024**2
"""Samples of a volume that are held at once where quantiles or samples are asked for."""

COLUMN_PIECE = (16, 16, 256)
"""Voxels of a volume that are read together, at most: 256 KiB."""

BY_PLANE = "_by_plane"
"""What the names of arrays end in that hold a statistic plane after plane."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeMap(GridMap):
    """Mean and standard deviation in every voxel; the samples only where asked for."""

    kind = "volume"

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the statistics."""
        return "x", "y", "z"

    def arrays(self) -> tuple[ArraySpec, ...]:
        """The arrays to create."""
        what = f"{self.quantity.long_name} {'in voxels' if self.parts_per_cell or self.order else 'at voxel centres'}"
        cut = (*self.blocks()[0].shape, self.depth)
        # columns: planes across x and y, and lines along z, are few pieces; for planes across z see below
        inner = tuple(
            _piece(part, whole, most) for part, whole, most in zip(cut, self.grid.shape, COLUMN_PIECE, strict=True)
        )
        shards = tuple(-(-size // part) * part for size, part in zip(cut, inner, strict=True))
        specs = self.statistics_arrays(self.grid.shape, shards, self.quantity.units, what, inner)
        return (*(self._with_sample_pieces(spec) for spec in specs), *self._by_plane(specs))

    def attributes(self) -> dict[str, Any]:
        """Attributes of the group."""
        return {"grid": self.grid.to_dict(), **self.sampling}

    @property
    def columns(self) -> tuple[int, int] | None:
        """Columns in each tile; none where more is kept of the samples than mean and standard deviation."""
        alone = self.order or self.per_sample or self.quantiles
        return None if alone else column_tile(self.grid, self.quantity.n_sample)

    def blocks(self) -> tuple[Block, ...]:
        """Columns of voxels over tiles of the x-y plane."""
        if self.columns is not None:
            return self.column_blocks()
        n_sample = self.quantity.n_sample
        kept = n_sample * self.per_sample + len(self.quantiles)
        per_voxel = 4 * (8 + 2 * kept)
        return self.plane_tiles(self.depth * n_sample, self.depth * per_voxel)

    def compute(self, block: Block, samples: Samples, weight: Samples | None) -> BlockResult:
        """Interpolate in the voxels of a tile and reduce over samples."""
        if self.columns is not None:
            return compute_columns([(self, block)], samples)[0]
        if self.order:
            return self._result(self._conservative(block, samples))
        starts, step, order = tile_rows(self.grid, "z", block)
        covered = np.empty((len(starts), self.depth), dtype=np.float32)
        arrays = self._with_samples(block, samples, starts, step, order, covered)
        arrays["coverage"] = in_tile(covered, order, block.shape)
        return self._result(arrays)

    def of_columns(self, block: Block, found: TilePass) -> BlockResult:
        """The statistics in the voxels of a tile."""
        assert found.statistics is not None
        mean, std, coverage = found.statistics
        significance, error = significance_and_error(mean, std, self.quantity.n_sample, self.quantity.freedom)
        arrays = dict(zip(STATISTICS, (mean, std, significance, error), strict=True))
        return self._result({**arrays, "coverage": coverage})

    def _result(self, arrays: dict[str, Array]) -> BlockResult:
        arrays = {name: value.astype(np.float32, copy=False) for name, value in arrays.items()}
        # views: each is copied when it is written, one at a time
        arrays |= {name + BY_PLANE: np.moveaxis(arrays[name], 2, 0) for name in ("mean", "std")}
        return BlockResult(arrays)

    def block_bytes(self) -> int:
        """Upper bound on the memory of one block."""
        n = math.prod(self.blocks()[0].shape) * self.depth
        kept = self.quantity.n_sample * self.per_sample + len(self.quantiles)
        # results in float32 and the float64 temporaries of the significance; twice for the encoded copy of one array
        return n * (4 * (5 + 2 * kept) + 5 * 8) + max(4 * ROWS_BYTES, self.conservative_bytes())

    def _conservative(self, block: Block, samples: Samples) -> dict[str, Array]:
        arrays: dict[str, Array] = {}
        for place, values, coverage in self.conservative_means(block, samples):
            parts: dict[str, Array] = {**summarise(values, self.quantiles, self.quantity.freedom), "coverage": coverage}
            if self.per_sample:
                parts["per_sample"] = values
            for name, part in parts.items():
                whole = arrays.setdefault(name, np.empty((*block.shape, self.depth, *part.shape[3:]), np.float32))
                whole[place] = part
        return arrays

    def _by_plane(self, specs: Sequence[ArraySpec]) -> tuple[ArraySpec, ...]:
        """Mean and std once more, cut into planes across z: a plane is one small piece of each file."""
        (nx, ny, nz), tile = self.grid.shape, self.blocks()[0].shape
        return tuple(
            replace(
                spec,
                name=spec.name + BY_PLANE,
                dims=("z", "x", "y"),
                shape=(nz, nx, ny),
                chunks=(nz, *tile),
                inner_chunks=(1, *tile),
                long_name=f"{spec.long_name}, laid out by plane",
            )
            for spec in specs
            if spec.name in ("mean", "std")
        )

    def _with_sample_pieces(self, spec: ArraySpec) -> ArraySpec:
        """A volume's samples are looked at one by one."""
        if spec.name != "per_sample" or spec.inner_chunks is None:
            return spec
        return replace(spec, inner_chunks=(*spec.inner_chunks[:-1], 1))

    def _with_samples(
        self, block: Block, samples: Samples, starts: Array, step: Array, order: Array, covered: Array
    ) -> dict[str, Array]:
        arrays: dict[str, Array] = {}
        at_once = max(1, ROWS_BYTES // (8 * self.depth * self.quantity.n_sample))
        splits, lattice = self.splits("z"), lattice_of(self.grid, "z", block)
        for rows in iterate_rows(order, at_once):
            values = fill_rows(
                samples, starts[rows], step, self.depth, splits=splits, coverage=covered[rows], lattice=lattice
            )
            piece: dict[str, Array] = dict(summarise(values, self.quantiles, self.quantity.freedom))
            if self.per_sample:
                piece["per_sample"] = values
            for name, part in piece.items():
                whole = arrays.setdefault(name, np.empty((order.size, *part.shape[1:]), dtype=np.float32))
                whole[order[rows]] = part
        return {name: whole.reshape(*block.shape, *whole.shape[1:]) for name, whole in arrays.items()}


def _piece(part: int, whole: int, most: int) -> int:
    """Size of equal pieces, at most ``most``, that a part of an axis is made of."""
    if part == whole:
        return -(-part // -(-part // most))  # the last piece may reach beyond the end
    return max(size for size in range(1, min(part, most) + 1) if part % size == 0)
