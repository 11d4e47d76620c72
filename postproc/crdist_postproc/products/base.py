"""What a product is to a run: arrays to create, blocks to compute, and a last step that joins them."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from crdist.errors import PlanTooLargeError
from crdist.frames import Frame
from crdist.grids import Axis, CartesianGrid
from crdist_postproc.parts import Samples
from crdist_postproc.reach import Lattice
from crdist_postproc.statistics import STATISTICS, summarise

__all__ = ["ArraySpec", "Block", "BlockResult", "Coordinate", "Product", "Quantity", "tile_rows", "tiles"]

Array = npt.NDArray[Any]

BLOCK_WORK = 100_000_000
"""Voxel-samples in a block: a few tenths of a second of work, so that overhead is small and little is lost when
killed."""

BLOCK_BYTES = 256 * 1024**2
"""Memory that the arrays of a block may take."""

MOST_BLOCKS = 2_000_000
"""Of a product; so many take 2 GiB in the process that drives a run."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """The quantity that a product is made of."""

    name: str
    units: str
    long_name: str
    n_sample: int
    degrees_of_freedom: int | None = None
    """Of the variance over samples, where it is not one less than their number."""

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the variance over samples."""
        return self.n_sample - 1 if self.degrees_of_freedom is None else self.degrees_of_freedom


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """An array of a product's group."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    """Shape of what one block writes: one file."""
    units: str
    long_name: str
    inner_chunks: tuple[int, ...] | None = None
    """Shape of the pieces that can be read alone, where a block is a shard of several."""
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Coordinate:
    """A coordinate of a product's group."""

    name: str
    dims: tuple[str, ...]
    values: Array
    attrs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a product that one task computes."""

    product: str
    index: int
    """Place in the product's list of blocks; sums over blocks are taken in this order."""
    bounds: tuple[tuple[int, int], ...]
    """Start and stop along the axes that the product is cut along."""
    kind: str = "tile"
    """``tile`` of the output, or ``native``: a range of pixels of the source."""

    @property
    def name(self) -> str:
        """The block's name in messages and records."""
        return f"{self.product}-{self.index:05d}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of elements along each of the axes."""
        return tuple(stop - start for start, stop in self.bounds)

    @property
    def region(self) -> tuple[slice, ...]:
        """The block as slices."""
        return tuple(slice(*bound) for bound in self.bounds)


@dataclass(frozen=True, slots=True)
class BlockResult:
    """What a block gives."""

    arrays: Mapping[str, Array] = field(default_factory=dict)
    """Name of an array and the values of its region."""
    partial: Mapping[str, Array] = field(default_factory=dict)
    """What the last step needs of this block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product(ABC):
    """A product of a run: plain data, cheap to build, that travels to the workers.

    Subclasses are frozen records too; `blocks` and `arrays` follow from them alone.
    """

    name: str
    quantity: Quantity
    frame: Frame
    quantiles: tuple[float, ...] = ()
    per_sample: bool = True

    kind = ""

    @property
    @abstractmethod
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the statistics."""

    @abstractmethod
    def arrays(self) -> tuple[ArraySpec, ...]:
        """The arrays to create."""

    @abstractmethod
    def coordinates(self) -> tuple[Coordinate, ...]:
        """The coordinates to write."""

    @abstractmethod
    def blocks(self) -> tuple[Block, ...]:
        """The blocks, none of which writes where another does."""

    def blocks_write(self, block: Block) -> bool:
        """Whether a block writes its part of the arrays along `dims`; if not, it only leaves sums to the last step."""
        return True

    @abstractmethod
    def compute(self, block: Block, samples: Samples, weight: Samples | None) -> BlockResult:
        """Compute one block."""

    def place(self, block: Block) -> tuple[Any, ...]:
        """Where a block lies among those of all products of a run: neighbours read the same samples."""
        if block.kind == "native":
            return 0, *block.bounds, self.name
        return 2, self.name, block.index

    def smallest_parts(self) -> tuple[list[Lattice], bool]:
        """Points around the Sun, each alone, and whether whole voxels around them are read: what reads most at once."""
        return [], False

    def in_parts_bytes(self) -> int:
        """Memory that a block takes besides where the samples are read part by part, bytes."""
        return 0

    @abstractmethod
    def work(self, block: Block) -> int:
        """Voxel-samples of a block."""

    @abstractmethod
    def block_bytes(self) -> int:
        """Upper bound on the memory that one block takes beside the source, bytes."""

    def finish(self, partials: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """Arrays that need all blocks, from what the blocks left, in the order of the blocks."""
        return {}

    def attributes(self) -> dict[str, Any]:
        """Attributes of the group."""
        return {}

    # What products of every kind share

    def statistics_arrays(
        self,
        shape: tuple[int, ...],
        chunks: tuple[int, ...],
        units: str,
        what: str,
        inner_chunks: tuple[int, ...] | None = None,
    ) -> tuple[ArraySpec, ...]:
        """The arrays of `summarise`, with ``coverage`` and, where asked for, ``quantiles`` and ``per_sample``."""
        n_sample = self.quantity.n_sample
        few = self.quantity.freedom != n_sample - 1
        freedom = f" with {self.quantity.freedom} degrees of freedom" if few else ""
        named = (
            ("mean", units, f"{what}, mean over {n_sample} samples"),
            ("std", units, f"{what}, standard deviation over {n_sample} samples (ddof=1)"),
            ("significance", "", f"{what}, mean / std over {n_sample} samples"),
            ("significance_error", "", f"{what}, standard error of mean / std for {n_sample} samples{freedom}"),
            ("coverage", "", f"{what}, part of the integral or value that lies inside the source grid"),
        )
        specs = [ArraySpec(name, self.dims, shape, chunks, unit, text, inner_chunks) for name, unit, text in named]

        def with_last(name: str, dim: str, size: int, text: str) -> ArraySpec:
            inner = None if inner_chunks is None else (*inner_chunks, size)
            return ArraySpec(name, (*self.dims, dim), (*shape, size), (*chunks, size), units, text, inner)

        if self.quantiles:
            specs.append(with_last("quantiles", "quantile", len(self.quantiles), f"{what}, quantiles over samples"))
        if self.per_sample:
            specs.append(with_last("per_sample", "sample", n_sample, f"{what}, each sample"))
        return tuple(specs)

    def sample_coordinates(self) -> tuple[Coordinate, ...]:
        """Coordinates ``quantile`` and ``sample`` where the arrays have them."""
        found = []
        if self.quantiles:
            levels = np.array(self.quantiles)
            found.append(Coordinate("quantile", ("quantile",), levels, {"units": "", "long_name": "probability"}))
        if any("sample" in spec.dims for spec in self.arrays()):
            labels = np.arange(self.quantity.n_sample)
            found.append(Coordinate("sample", ("sample",), labels, {"long_name": "posterior sample"}))
        return tuple(found)

    def summary(self, samples: Array, coverage: Array) -> dict[str, Array]:
        """The arrays of `statistics_arrays` from the product of each sample."""
        arrays: dict[str, Array] = {**summarise(samples, self.quantiles, self.quantity.freedom), "coverage": coverage}
        if self.per_sample:
            arrays["per_sample"] = samples
        return arrays

    def statistics_bytes(self, n_values: int) -> int:
        """Memory of `summary` for a number of places, with its float64 copies."""
        n_sample = self.quantity.n_sample
        return n_values * (8 * n_sample * 3 + 8 * (len(STATISTICS) + 2 + 2 * len(self.quantiles)))


def tiles(
    product: str, shape: tuple[int, int], work_per_row: int, bytes_per_row: int, unit: int = 1
) -> tuple[Block, ...]:
    """Cut a plane of rows into tiles of even size, none with more than `BLOCK_WORK` or `BLOCK_BYTES`.

    The cut depends on the product alone, never on the workers: a run that is continued on another machine meets the
    same blocks.

    Parameters
    ----------
    unit : int
        Rows that belong together along both axes: no tile cuts them, though it has more work for that.

    Raises
    ------
    PlanTooLargeError
        If there are more than `MOST_BLOCKS`.
    """
    side = _tile_side(shape, work_per_row, bytes_per_row, unit)
    n_block = math.prod(-(-whole // part) for whole, part in zip(shape, side, strict=True))
    if n_block > MOST_BLOCKS:
        raise PlanTooLargeError(
            f"product {product}: {n_block:,} blocks are more than one run can keep count of ({MOST_BLOCKS:,}); choose "
            "larger voxels, or several recipes with a smaller box each"
        )
    return _tiles(product, shape, side)


# asked for again and again, and a million blocks take seconds to make
@functools.lru_cache(maxsize=64)
def _tiles(product: str, shape: tuple[int, int], side: tuple[int, int]) -> tuple[Block, ...]:
    bounds = [
        ((i, min(i + side[0], shape[0])), (j, min(j + side[1], shape[1])))
        for i in range(0, shape[0], side[0])
        for j in range(0, shape[1], side[1])
    ]
    return tuple(Block(product, index, bound) for index, bound in enumerate(bounds))


def pixel_blocks(product: str, n_pixel: int, work_per_pixel: int, first_index: int = 0) -> tuple[Block, ...]:
    """Cut the sphere into ranges of nested pixels."""
    size = 12
    while size < n_pixel and 2 * size * work_per_pixel <= BLOCK_WORK and 2 * size <= 65536:
        size *= 2
    return _pixel_ranges(product, n_pixel, size, first_index)


@functools.lru_cache(maxsize=64)
def _pixel_ranges(product: str, n_pixel: int, size: int, first_index: int) -> tuple[Block, ...]:
    starts = range(0, n_pixel, size)
    return tuple(
        Block(product, first_index + index, ((start, min(start + size, n_pixel)),), "native")
        for index, start in enumerate(starts)
    )


def tile_rows(grid: CartesianGrid, along: str, block: Block) -> tuple[Array, Array, Array]:
    """The rows of voxel centres of a tile, along one axis, in an order that keeps neighbours together.

    Parameters
    ----------
    grid : CartesianGrid
    along : {"x", "y", "z"}
        Axis that the rows run along; the tile is cut along the other two, in their order.

    Returns
    -------
    starts : ndarray, shape (n_row, 3), heliocentric kpc
        Centre of the first voxel of each row.
    step : ndarray, shape (3,), heliocentric kpc
    order : ndarray of int, shape (n_row,)
        Place of each row in the tile, row-major.
    """
    across = [name for name in "xyz" if name != along]
    first, second = (_part(grid.axis(name), bound) for name, bound in zip(across, block.bounds, strict=True))
    # Squares of 8 x 8 rows: neighbouring rows read the same cells while those are in the cache.
    i, j = np.meshgrid(np.arange(first.size), np.arange(second.size), indexing="ij")
    order = np.lexsort((j.ravel(), i.ravel(), j.ravel() // 8, i.ravel() // 8))
    points = np.empty((order.size, 3))
    points[:, "xyz".index(across[0])] = first[i.ravel()[order]]
    points[:, "xyz".index(across[1])] = second[j.ravel()[order]]
    points[:, "xyz".index(along)] = grid.axis(along).centres[0]
    direction = np.zeros(3)
    direction["xyz".index(along)] = grid.axis(along).step
    # a rotation only: the step is a difference of points
    step = direction @ grid.frame.rotation
    return grid.frame.to_heliocentric(points), step, order


def lattice_of(grid: CartesianGrid, along: str, block: Block) -> Lattice:
    """The voxel centres of a tile as a lattice, those along one axis last."""
    names = [*(name for name in "xyz" if name != along), along]
    starts = dict(zip(names, (*(start for start, _ in block.bounds), 0), strict=True))
    origin = np.array([grid.axis(name).centres[starts[name]] for name in "xyz"])
    steps = np.zeros((3, 3))
    for row, name in enumerate(names):
        steps[row, "xyz".index(name)] = grid.axis(name).step
    n_i, n_j = block.shape
    return Lattice(grid.frame.to_heliocentric(origin), steps @ grid.frame.rotation, (n_i, n_j, grid.axis(along).n))


def morton(x_kpc: float, y_kpc: float) -> int:
    """Place along a curve through a plane on which neighbours are close to each other, in steps of a parsec."""
    place = 0
    for bit in range(20):
        for shift, value in enumerate((x_kpc, y_kpc)):
            place |= ((max(math.floor(1000 * value) + (1 << 19), 0) >> bit) & 1) << (2 * bit + shift)
    return place


def in_tile(values: Array, order: Array, shape: tuple[int, ...]) -> Array:
    """Put results of rows back into their tile, shape (*shape, ...)."""
    result = np.empty_like(values)
    result[order] = values
    return result.reshape(*shape, *values.shape[1:])


def axis_coordinate(name: str, axis: Axis, frame: Frame) -> Coordinate:
    """Voxel centres along an axis."""
    text = f"{frame.name} {name}, voxel centres"
    return Coordinate(name, (name,), axis.centres, {"units": "kpc", "long_name": text, "axis": name.upper()})


def _part(axis: Axis, bound: tuple[int, int]) -> Array:
    return np.asarray(axis.centres[slice(*bound)])


def _tile_side(shape: tuple[int, int], work_per_row: int, bytes_per_row: int, unit: int) -> tuple[int, int]:
    rows = max(1, min(BLOCK_WORK // max(work_per_row, 1), BLOCK_BYTES // max(bytes_per_row, 1)))
    side = max(1, math.isqrt(rows) // unit)
    return unit * _even(-(-shape[0] // unit), side), unit * _even(-(-shape[1] // unit), side)


def _even(n: int, most: int) -> int:
    """Size of equal parts of n, at most ``most``, a multiple of 8 where there are several parts."""
    if n <= most:
        return n
    if most >= 8:
        most -= most % 8
    size = -(-n // -(-n // most))
    return min(-(-size // 8) * 8, most) if most >= 8 else size


def iterate_rows(order: Array, rows_at_once: int) -> Iterator[slice]:
    """Ranges of rows for kernels whose result is large."""
    for first in range(0, len(order), rows_at_once):
        yield slice(first, min(first + rows_at_once, len(order)))
