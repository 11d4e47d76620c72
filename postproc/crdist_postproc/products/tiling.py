"""How a grid of voxels is cut into tiles of rows, and the sphere into ranges of pixels."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from crdist.errors import PlanTooLargeError
from crdist.grids import Axis, CartesianGrid
from crdist_postproc.kernels.field import padded_samples
from crdist_postproc.products.base import Block
from crdist_postproc.reach import Lattice

__all__ = [
    "column_tile",
    "even_tiles",
    "in_tile",
    "iterate_rows",
    "lattice_of",
    "morton",
    "pixel_blocks",
    "tile_rows",
    "tiles",
]

Array = npt.NDArray[Any]

BLOCK_WORK = 100_000_000
"""Voxel-samples in a block: a few tenths of a second of work, so that overhead is small and little is lost when
killed."""

BLOCK_BYTES = 256 * 1024**2
"""Memory that the arrays of a block may take."""

MOST_BLOCKS = 2_000_000
"""Of a product; so many take 2 GiB in the process that drives a run."""

COLUMN_WORK = BLOCK_WORK // 2
"""Voxel-samples in a tile of columns, of which several products are made at once."""

VOXEL_BYTES = 32
"""Memory for each voxel of a tile of columns: what a volume keeps of it."""

COLUMN_GRAIN = 16
"""Columns along a side of the pieces that a volume's files consist of."""

LEAST_SIDE, SMALLEST_SIDE = 64, 16
"""Columns along a side of such a tile: every tile leaves a sum for each of its faces, so that small ones leave much. Of
many samples even `SMALLEST_SIDE` may be too many to hold."""


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
    return even_tiles(product, shape, _tile_side(shape, work_per_row, bytes_per_row, unit))


def even_tiles(product: str, shape: tuple[int, int], side: tuple[int, int], kind: str = "tile") -> tuple[Block, ...]:
    """Cut a plane of rows into tiles of a shape.

    Raises
    ------
    PlanTooLargeError
        If there are more than `MOST_BLOCKS`.
    """
    n_block = math.prod(-(-whole // part) for whole, part in zip(shape, side, strict=True))
    if n_block > MOST_BLOCKS:
        raise PlanTooLargeError(
            f"product {product}: {n_block:,} blocks are more than one run can keep count of ({MOST_BLOCKS:,}); choose "
            "larger voxels, or several recipes with a smaller box each"
        )
    return _tiles(product, shape, side, kind)


# asked for again and again, and a million blocks take seconds to make
@functools.lru_cache(maxsize=64)
def _tiles(product: str, shape: tuple[int, int], side: tuple[int, int], kind: str) -> tuple[Block, ...]:
    bounds = [
        ((i, min(i + side[0], shape[0])), (j, min(j + side[1], shape[1])))
        for i in range(0, shape[0], side[0])
        for j in range(0, shape[1], side[1])
    ]
    return tuple(Block(product, index, bound, kind) for index, bound in enumerate(bounds))


def column_tile(grid: CartesianGrid, n_sample: int) -> tuple[int, int] | None:
    """Voxels along x and y of the tiles in which one pass through the samples gives sums along all three axes.

    It depends on the grid and the number of samples alone, so that the sums do not depend on what else is asked for.

    Returns
    -------
    tuple of int
        None if even small tiles would have sums too large for the memory of a block.
    """
    depth = grid.axis("z").n
    side = max(math.isqrt(COLUMN_WORK // (depth * n_sample)), LEAST_SIDE)
    # sums over the faces across x and y, and a copy of each
    sums = 4 * 8 * depth * padded_samples(n_sample)
    side = min(side, math.isqrt(BLOCK_BYTES // (VOXEL_BYTES * depth)), BLOCK_BYTES // sums)
    if side < SMALLEST_SIDE:
        return None
    x, y = (even_part(grid.axis(name).n, side, COLUMN_GRAIN) for name in "xy")
    return x, y


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


def _part(axis: Axis, bound: tuple[int, int]) -> Array:
    return np.asarray(axis.centres[slice(*bound)])


def _tile_side(shape: tuple[int, int], work_per_row: int, bytes_per_row: int, unit: int) -> tuple[int, int]:
    rows = max(1, min(BLOCK_WORK // max(work_per_row, 1), BLOCK_BYTES // max(bytes_per_row, 1)))
    side = max(1, math.isqrt(rows) // unit)
    return unit * even_part(-(-shape[0] // unit), side), unit * even_part(-(-shape[1] // unit), side)


def even_part(n: int, most: int, grain: int = 8) -> int:
    """Size of equal parts of n, at most ``most``, a multiple of a grain where there are several parts."""
    if n <= most:
        return n
    if most >= grain:
        most -= most % grain
    size = -(-n // -(-n // most))
    return min(-(-size // grain) * grain, most) if most >= grain else size


def iterate_rows(order: Array, rows_at_once: int) -> Iterator[slice]:
    """Ranges of rows for kernels whose result is large."""
    for first in range(0, len(order), rows_at_once):
        yield slice(first, min(first + rows_at_once, len(order)))
