"""Blocks of several products over the same voxels, computed in one pass through the samples.

Sums along x, y and z and the statistics in every voxel are made of the same interpolated samples, and to find and blend
those takes most of the time of each. Of samples that are read part by part, each part is read once for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from crdist_postproc.kernels.columns import ColumnSums, add_columns
from crdist_postproc.kernels.gather import Splitting
from crdist_postproc.parts import SUMMED_TOGETHER, FieldInParts, Samples
from crdist_postproc.products.base import Block, BlockResult
from crdist_postproc.products.tiling import in_tile, lattice_of, tile_rows
from crdist_postproc.rows import RowSums

if TYPE_CHECKING:
    from crdist.grids import CartesianGrid
    from crdist_postproc.products.grid_map import GridMap

__all__ = ["TilePass", "compute_columns"]

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TilePass:
    """What a pass through the columns of a tile found."""

    sums: Mapping[str, Doubles] = field(default_factory=dict)
    """By axis the sums along it, shape (m, n, n_sample), unit of the samples; m and n: voxels along the other axes."""
    counts: Mapping[str, Doubles] = field(default_factory=dict)
    """How many voxels lie inside the source's grid, shape (m, n)."""
    statistics: tuple[Singles, Singles, Singles] | None = None
    """Mean, standard deviation and coverage in every voxel, shape (n_x, n_y, n_z)."""


def compute_columns(parts: Sequence[tuple[GridMap, Block]], samples: Samples) -> list[BlockResult]:
    """Compute blocks of products over the same tile of columns; what each gets does not depend on the others.

    Parameters
    ----------
    parts : sequence of (GridMap, Block)
        Products with a `GridMap.columns`, of the same grid, and blocks with the same bounds.
    samples : Field or FieldInParts

    Returns
    -------
    list of BlockResult
        In the order of the parts.
    """
    sums: dict[float, set[str]] = {}
    for product, _ in parts:
        if product.summed:
            sums.setdefault(product.parts_per_cell, set()).add(product.axis)
    # Statistics at centres go along with any sums. Those of voxels that are split need sums of voxels split alike.
    statistics: dict[float, float] = {}
    for fineness in sorted({product.parts_per_cell for product, _ in parts if not product.summed}, reverse=True):
        free = [other for other in sums if other not in statistics.values() and (fineness in (0.0, other))]
        statistics[fineness] = fineness if fineness in free or not free else free[0]
        sums.setdefault(statistics[fineness], set())
    first, block = parts[0]
    found: dict[float, TilePass] = {}
    for fineness, axes in sums.items():
        of = [key for key, at in statistics.items() if at == fineness]
        splits = next(product for product, _ in parts if product.parts_per_cell == fineness).splits("z")
        found[fineness] = _go_through(
            samples, first.grid, block, splits, axes, statistics=bool(of), of_centres=of == [0.0]
        )
    return [
        product.of_columns(
            other, found[product.parts_per_cell if product.summed else statistics[product.parts_per_cell]]
        )
        for product, other in parts
    ]


def _go_through(
    samples: Samples,
    grid: CartesianGrid,
    block: Block,
    splits: Splitting,
    axes: set[str],
    *,
    statistics: bool,
    of_centres: bool,
) -> TilePass:
    starts, step, order = tile_rows(grid, "z", block)
    (n_i, n_j), n = block.shape, grid.axis("z").n
    places = np.stack(np.unravel_index(order, (n_i, n_j)), axis=1)
    n_padded = samples.n_padded
    wanted = ColumnSums.none()
    if "x" in axes:
        wanted = wanted._replace(along_x=np.zeros((n_j, n, n_padded)), count_x=np.zeros((n_j, n)))
    if "y" in axes:
        wanted = wanted._replace(along_y=np.zeros((n_i, n, n_padded)), count_y=np.zeros((n_i, n)))
    if "z" in axes:
        wanted = wanted._replace(along_z=np.zeros((len(starts), n_padded)), count_z=np.zeros(len(starts)))
    if statistics:
        mean, std = (np.full((len(starts), n), np.nan, dtype=np.float32) for _ in range(2))
        wanted = wanted._replace(mean=mean, std=std, coverage=np.zeros((len(starts), n), dtype=np.float32))
    if isinstance(samples, FieldInParts):
        lattice = lattice_of(grid, "z", block)
        rows = RowSums(wanted.along_z)
        for part in samples.parts(lattice, starts, step, splits=splits):
            end = part.first + part.n
            by_fours = part.first % SUMMED_TOGETHER == 0 and (end % SUMMED_TOGETHER == 0 or end == n)
            some = starts[part.rows]
            piece = _of_part(wanted, rows, part.rows, (len(some), part.n), by_fours)
            add_columns(
                part.field,
                some,
                step,
                part.n,
                places[part.rows],
                piece,
                part.first,
                splits=splits,
                of_centres=of_centres,
            )
            _put_back(wanted, rows, part.rows, slice(part.first, end), piece)
        rows.total_of(slice(None))
    else:
        add_columns(samples, starts, step, n, places, wanted, splits=splits, of_centres=of_centres)
    n_sample = samples.n_sample
    sums = {"x": wanted.along_x, "y": wanted.along_y, "z": wanted.along_z}
    counts = {"x": wanted.count_x, "y": wanted.count_y, "z": wanted.count_z}
    if "z" in axes:
        sums["z"], counts["z"] = (in_tile(part, order, (n_i, n_j)) for part in (wanted.along_z, wanted.count_z))
    mean, std, coverage = (in_tile(part, order, (n_i, n_j)) if statistics else part for part in wanted[-3:])
    return TilePass(
        {axis: sums[axis][..., :n_sample] for axis in axes},
        {axis: counts[axis] for axis in axes},
        (mean, std, coverage) if statistics else None,
    )


def _of_part(whole: ColumnSums, rows: RowSums, at: Any, shape: tuple[int, int], by_fours: bool) -> ColumnSums:
    """Room for some columns, or a piece of each, beside the sums across columns of the whole tile."""
    piece = whole
    if whole.count_z.size:
        piece = piece._replace(count_z=whole.count_z[at].copy())
        if by_fours:
            piece = piece._replace(along_z=rows.total_of(at).copy())
        else:
            terms = np.empty((*shape, whole.along_z.shape[1]), dtype=np.float32)
            piece = piece._replace(along_z=np.empty((0, 0)), terms=terms)
    if whole.mean.size:
        mean, std, coverage = (np.empty(shape, dtype=np.float32) for _ in range(3))
        piece = piece._replace(mean=mean, std=std, coverage=coverage)
    return piece


def _put_back(whole: ColumnSums, rows: RowSums, at: Any, along: slice, piece: ColumnSums) -> None:
    """Take over what a part found."""
    if whole.count_z.size:
        whole.count_z[at] = piece.count_z
        if piece.terms.size:
            rows.add(at, along.start, piece.terms)
        else:
            whole.along_z[at] = piece.along_z
    if whole.mean.size:
        whole.mean[at, along], whole.std[at, along] = piece.mean, piece.std
        whole.coverage[at, along] = piece.coverage
