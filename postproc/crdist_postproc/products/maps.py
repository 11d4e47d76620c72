"""Products on a Cartesian grid: slices, projections and volumes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from crdist.grids import CartesianGrid, SphericalGrid
from crdist.units import integral_unit
from crdist_postproc.kernels.gather import POINTWISE, Splitting, splitting
from crdist_postproc.parts import Samples
from crdist_postproc.products.base import (
    Array,
    ArraySpec,
    Block,
    BlockResult,
    Coordinate,
    Product,
    axis_coordinate,
    in_tile,
    iterate_rows,
    lattice_of,
    morton,
    pixel_blocks,
    tile_rows,
    tiles,
)
from crdist_postproc.reach import Lattice
from crdist_postproc.rows import box_totals, fill_rows, statistics_rows, sum_rows
from crdist_postproc.statistics import STATISTICS, significance_and_error, summarise

__all__ = ["ProjectionMap", "SliceMap", "VolumeMap"]

RAYS_NSIDE = 256
"""HEALPix resolution of the rays that find the part of each native cell inside a box."""

ROWS_BYTES = 32 * 1024**2
"""Samples of a volume that are held at once where quantiles or samples are asked for."""

COLUMN_PIECE = (16, 16, 256)
"""Voxels of a volume that are read together, at most: 256 KiB."""

BY_PLANE = "_by_plane"
"""What the names of arrays end in that hold a statistic plane after plane."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Map(Product):
    """A product cut into tiles of a Cartesian grid."""

    grid: CartesianGrid
    native: SphericalGrid
    axis: str = "z"
    """Axis that a slice lies across or a projection runs along; a volume's rows run along z."""
    parts_per_cell: float = 0.0
    """How many parts of a voxel a native cell's size is to hold, at least; 0: a voxel is its centre."""

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
        """Voxel-samples of a block."""
        return math.prod(block.shape) * self.depth * self.quantity.n_sample

    @property
    def along(self) -> str:
        """Axis that rows run along in the kernels."""
        return self.axis

    def place(self, block: Block) -> tuple[Any, ...]:
        """Where a block lies: tiles with rows along the same axis together, neighbours close to each other."""
        if block.kind == "native":
            return super(_Map, self).place(block)
        middles = (
            (self.grid.axis(name).edges[start] + self.grid.axis(name).edges[stop]) / 2
            for name, (start, stop) in zip(self.across, block.bounds, strict=True)
        )
        return 1, self.along, morton(*middles), self.name, block.index

    def smallest_parts(self) -> tuple[list[Lattice], bool]:
        """The points around the Sun, each alone, and whether the whole voxels around them are read."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceMap(_Map):
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
        return tiles(self.name, self.plane, self.quantity.n_sample, self.statistics_bytes(1))

    def compute(self, block: Block, samples: Samples, weight: Samples | None) -> BlockResult:
        """Interpolate at the voxel centres of a tile."""
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
        return self.statistics_bytes(n) + 200 * n

    @property
    def _at(self) -> float:
        # rounded: the middle of [at - half, at + half] need not be `at` to the last bit
        return round(float(self.grid.axis(self.axis).centres[0]), 12) + 0.0

    @property
    def _tile(self) -> tuple[int, ...]:
        return self.blocks()[0].shape


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionMap(_Map):
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
        starts, step, order = tile_rows(self.grid, self.axis, block)
        lattice = lattice_of(self.grid, self.axis, block)
        total, count = sum_rows(samples, starts, step, self.depth, self.splits(self.axis), lattice=lattice)
        total, count = in_tile(total, order, block.shape), in_tile(count, order, block.shape)
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
            self.statistics_bytes(n) + 8 * n * (2 * self.quantity.n_sample + 24),
            96 * self._rays**2 * native.shape[0],
        )

    def _tiles(self) -> tuple[Block, ...]:
        return tiles(self.name, self.plane, self.depth * self.quantity.n_sample, self.statistics_bytes(1))

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


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeMap(_Map):
    """Mean and standard deviation in every voxel; the samples only where asked for."""

    kind = "volume"

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the statistics."""
        return "x", "y", "z"

    def arrays(self) -> tuple[ArraySpec, ...]:
        """The arrays to create."""
        what = f"{self.quantity.long_name} {'in voxels' if self.parts_per_cell else 'at voxel centres'}"
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

    def blocks(self) -> tuple[Block, ...]:
        """Columns of voxels over tiles of the x-y plane."""
        n_sample = self.quantity.n_sample
        kept = n_sample * self.per_sample + len(self.quantiles)
        per_voxel = 4 * (8 + 2 * kept)
        found = tiles(self.name, self.plane, self.depth * n_sample, self.depth * per_voxel)
        return found

    def compute(self, block: Block, samples: Samples, weight: Samples | None) -> BlockResult:
        """Interpolate in the voxels of a tile and reduce over samples."""
        starts, step, order = tile_rows(self.grid, "z", block)
        covered = np.empty((len(starts), self.depth), dtype=np.float32)
        if not self.per_sample and not self.quantiles:
            lattice = lattice_of(self.grid, "z", block)
            rows = statistics_rows(
                samples, starts, step, self.depth, splits=self.splits("z"), coverage=covered, lattice=lattice
            )
            mean, std = (in_tile(part, order, block.shape) for part in rows)
            significance, error = significance_and_error(mean, std, self.quantity.n_sample)
            arrays: dict[str, Array] = dict(zip(STATISTICS, (mean, std, significance, error), strict=True))
        else:
            arrays = self._with_samples(block, samples, starts, step, order, covered)
        arrays["coverage"] = in_tile(covered, order, block.shape)
        arrays = {name: value.astype(np.float32, copy=False) for name, value in arrays.items()}
        # views: each is copied when it is written, one at a time
        arrays |= {name + BY_PLANE: np.moveaxis(arrays[name], 2, 0) for name in ("mean", "std")}
        return BlockResult(arrays)

    def block_bytes(self) -> int:
        """Upper bound on the memory of one block."""
        n = math.prod(self.blocks()[0].shape) * self.depth
        kept = self.quantity.n_sample * self.per_sample + len(self.quantiles)
        # results in float32 and the float64 temporaries of the significance; twice for the encoded copy of one array
        return n * (4 * (5 + 2 * kept) + 5 * 8) + 4 * ROWS_BYTES

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
            piece: dict[str, Array] = dict(summarise(values, self.quantiles))
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
