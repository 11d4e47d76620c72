"""What the kernels take along rows and from pixels, of samples in memory or read part by part, to the same bits.

The functions take what those of `crdist_postproc.kernels` of the same names do, and besides:

lattice : Lattice, optional
    The points of the rows, where they are those of a tile. Where points stand for voxels that are split, samples that
    are read part by part need it to know what a voxel reaches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from crdist_postproc.kernels import deposit as depositing
from crdist_postproc.kernels import native
from crdist_postproc.kernels import rows as kernels
from crdist_postproc.kernels.gather import POINTWISE, Splitting
from crdist_postproc.kernels.ray_sets import Box, Rays, Tables
from crdist_postproc.parts import SUMMED_TOGETHER, FieldInParts, Part, Samples
from crdist_postproc.reach import Lattice

__all__ = [
    "RowSums",
    "bin_rows",
    "box_totals",
    "deposit",
    "deposited_chunks",
    "fill_rows",
    "sight_lines",
    "statistics_rows",
    "sum_rows",
]

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]


def fill_rows(
    samples: Samples,
    starts: Floats,
    step: Floats,
    n: int,
    first: int = 0,
    *,
    splits: Splitting = POINTWISE,
    coverage: Singles | None = None,
    lattice: Lattice | None = None,
) -> Singles:
    """The samples at each point: see `crdist_postproc.kernels.rows.fill_rows`."""
    if not isinstance(samples, FieldInParts):
        return kernels.fill_rows(samples, starts, step, n, first, splits=splits, coverage=coverage)
    values = np.full((len(starts), n, samples.n_sample), np.nan, dtype=np.float32)
    for part, covered in _parts(samples, starts, step, n, first, splits, coverage, lattice):
        at = slice(part.first - first, part.first - first + part.n)
        values[part.rows, at] = kernels.fill_rows(
            part.field, starts[part.rows], step, part.n, part.first, splits=splits, coverage=covered
        )
    return values


def statistics_rows(
    samples: Samples,
    starts: Floats,
    step: Floats,
    n: int,
    first: int = 0,
    *,
    splits: Splitting = POINTWISE,
    coverage: Singles | None = None,
    lattice: Lattice | None = None,
) -> tuple[Singles, Singles]:
    """Mean and standard deviation at each point: see `crdist_postproc.kernels.rows.statistics_rows`."""
    if not isinstance(samples, FieldInParts):
        return kernels.statistics_rows(samples, starts, step, n, first, splits=splits, coverage=coverage)
    mean, std = (np.full((len(starts), n), np.nan, dtype=np.float32) for _ in range(2))
    for part, covered in _parts(samples, starts, step, n, first, splits, coverage, lattice):
        at = slice(part.first - first, part.first - first + part.n)
        mean[part.rows, at], std[part.rows, at] = kernels.statistics_rows(
            part.field, starts[part.rows], step, part.n, part.first, splits=splits, coverage=covered
        )
    return mean, std


def sum_rows(
    samples: Samples,
    starts: Floats,
    step: Floats,
    n: int,
    splits: Splitting = POINTWISE,
    *,
    lattice: Lattice | None = None,
) -> tuple[Floats, Floats]:
    """Sum along each row: see `crdist_postproc.kernels.rows.sum_rows`."""
    if not isinstance(samples, FieldInParts):
        return kernels.sum_rows(samples, starts, step, n, splits)
    count = np.zeros(len(starts))
    sums = RowSums(np.zeros((len(starts), samples.n_padded)))
    for part, _ in _parts(samples, starts, step, n, 0, splits, None, lattice):
        inside, end = count[part.rows], part.first + part.n
        if part.first % SUMMED_TOGETHER == 0 and (end % SUMMED_TOGETHER == 0 or end == n):
            some = sums.total_of(part.rows)
            kernels.add_rows(part.field, starts[part.rows], step, part.n, some, inside, part.first, splits=splits)
            sums.total[part.rows] = some
        else:
            terms = kernels.summed_rows(part.field, starts[part.rows], step, part.n, inside, part.first, splits=splits)
            sums.add(part.rows, part.first, terms)
        count[part.rows] = inside
    return sums.total_of(slice(None))[:, : samples.n_sample], count


def bin_rows(
    samples: Samples,
    starts: Floats,
    step: Floats,
    n: int,
    row_bins: npt.NDArray[np.int64],
    point_bins: npt.NDArray[np.int64],
    row_weights: Floats,
    point_weights: Singles | None = None,
) -> tuple[Floats, Floats, Floats]:
    """Weighted sums in bins: see `crdist_postproc.kernels.rows.bin_rows`."""
    if not isinstance(samples, FieldInParts):
        return kernels.bin_rows(samples, starts, step, n, row_bins, point_bins, row_weights, point_weights)
    shape = (int(row_bins.max(initial=-1)) + 1, int(point_bins.max(initial=-1)) + 1)
    total, weight = np.zeros((*shape, samples.n_padded)), np.zeros((*shape, 2))
    for part in samples.row_parts(starts, step, n):
        rows, at = part.rows, slice(part.first, part.first + part.n)
        extra = None if point_weights is None else np.ascontiguousarray(point_weights[rows, at])
        kernels.add_bins(
            part.field,
            starts[rows],
            step,
            part.n,
            row_bins[rows],
            point_bins[at],
            row_weights[rows],
            extra,
            total,
            weight,
            part.first,
        )
    return total[:, :, : samples.n_sample], weight[:, :, 0], weight[:, :, 1]


def sight_lines(samples: Samples, rows: npt.NDArray[np.integer], lengths: Floats) -> tuple[Floats, Floats]:
    """Integrals along the lines of sight of pixels: see `crdist_postproc.kernels.native.sight_lines`."""
    if not isinstance(samples, FieldInParts):
        return native.sight_lines(samples, rows, lengths)
    total, covered = np.zeros((len(rows), samples.n_sample)), np.zeros(len(rows))
    for part in samples.pixel_parts(rows, _shells(lengths > 0)):
        total[part.rows], covered[part.rows] = native.sight_lines(part.field, rows[part.rows], lengths)
    return total, covered


def box_totals(
    samples: Samples,
    rows: npt.NDArray[np.integer],
    rays: Floats,
    edges: Floats,
    rotation: Floats,
    sun: Floats,
    lower: Floats,
    upper: Floats,
) -> Floats:
    """Integrals of native cells over a box: see `crdist_postproc.kernels.native.box_totals`."""
    if not isinstance(samples, FieldInParts):
        return native.box_totals(samples, rows, rays, edges, rotation, sun, lower, upper)
    total = np.zeros(samples.n_sample)
    nearest = float(np.linalg.norm(np.maximum(np.maximum(lower - sun, sun - upper), 0.0)))
    farthest = float(np.linalg.norm(np.maximum(np.abs(lower - sun), np.abs(upper - sun))))
    for part in samples.pixel_parts(rows, _shells((edges[1:] >= nearest) & (edges[:-1] <= farthest))):
        native.box_totals(part.field, rows[part.rows], rays[part.rows], edges, rotation, sun, lower, upper, total)
    return total


def deposit(rays: Rays, samples: Samples, boxes: Sequence[Box], *, second_order: bool = False) -> Iterator[Floats]:
    """Native cells handed out to the voxels of boxes: see `crdist_postproc.kernels.deposit.deposit`.

    Samples that are read part by part are read once for all boxes, which are in memory together then.

    Yields
    ------
    ndarray
        For each box what that function returns.
    """
    if not isinstance(samples, FieldInParts):
        for box in boxes:
            yield depositing.deposit(rays, samples, box, second_order=second_order)
        return
    tables = rays.tables()
    rows = [depositing.empty_rows(box, samples.n_padded) for box in boxes]
    nested = [rays.nested(box, tables) for box in boxes]
    chunks = [_pixel_chunks(samples, ids, second_order) for ids in nested]
    for level in range(tables.parts.size):
        wanted = np.zeros(samples.reach.shape, dtype=np.bool_)
        for box, some_chunks in zip(boxes, chunks, strict=True):
            wanted |= _chunks_at(samples, tables, level, box, some_chunks, second_order)
        if not wanted.any():
            continue
        every = np.unique(np.concatenate(nested))
        pixels = rays.pixels_at(every, tables, second_order=second_order)
        read = np.column_stack([pixels.rows, pixels.neighbours]) if second_order else pixels.rows[:, None]
        for part in samples.chunk_parts(read, wanted):
            here = every[part.rows]
            for box, ids, room in zip(boxes, nested, rows, strict=True):
                ids = ids[slice(*np.searchsorted(ids, [here[0], here[-1] + 1]))]
                if ids.size:
                    some = pixels.some(np.searchsorted(every, ids))
                    depositing.add_level(part.field, tables, some, level, box, room, second_order=second_order)
    yield from rows


def deposited_chunks(rays: Rays, samples: FieldInParts, box: Box) -> npt.NDArray[np.bool_]:
    """The chunks that `deposit` reads for a box, at most, shape (n_pixel_chunk, n_shell_chunk)."""
    tables = rays.tables()
    chunks = _pixel_chunks(samples, rays.nested(box, tables), True)
    wanted = np.zeros(samples.reach.shape, dtype=np.bool_)
    for level in range(tables.parts.size):
        wanted |= _chunks_at(samples, tables, level, box, chunks, True)
    return wanted


def _pixel_chunks(samples: FieldInParts, nested: npt.NDArray[np.int64], second_order: bool) -> npt.NDArray[np.int64]:
    """The chunks along pixel that hold some pixels, and with slopes their neighbours."""
    import healpy

    nside = samples.grid.nside
    if second_order:
        around = healpy.get_all_neighbours(nside, nested, nest=True)
        nested = np.unique(np.append(nested, around[around >= 0]))
    return np.unique(samples.reach.chunk_of_row[healpy.nest2ring(nside, nested)])


def _chunks_at(
    samples: FieldInParts,
    tables: Tables,
    level: int,
    box: Box,
    pixel_chunks: npt.NDArray[np.int64],
    second_order: bool,
) -> npt.NDArray[np.bool_]:
    """The chunks, of some along pixel, that rays read in a box within a range of distances."""
    wanted = np.zeros(samples.reach.shape, dtype=np.bool_)
    shells = depositing.level_shells(tables, level, box)
    if shells.stop:
        if second_order:
            # slopes take the shells before and after, too
            shells = slice(max(shells.start - 1, 0), shells.stop + 1)
        wanted[np.ix_(pixel_chunks, np.unique(samples.reach.chunk_of_shell[shells]))] = True
    return wanted


class RowSums:
    """Sums along rows that are cut anywhere: points are kept until the four that are added together are there."""

    def __init__(self, total: Floats) -> None:
        self.total = total
        self._kept = np.zeros((len(total), SUMMED_TOGETHER, total.shape[1]), dtype=np.float32)
        self._group = np.full(len(total), -1)
        """Which four of its row those are."""

    def total_of(self, rows: npt.NDArray[np.int64] | slice) -> Floats:
        """The sums of some rows, with all that is kept."""
        self._flush(np.arange(len(self.total))[rows])
        return self.total[rows]

    def add(self, rows: npt.NDArray[np.int64] | slice, first: int, terms: Singles) -> None:
        """Add points first .. of some rows, shape (row, point, n_padded)."""
        places = np.arange(len(self.total))[rows]
        for k in range(terms.shape[1]):
            group, place = divmod(first + k, SUMMED_TOGETHER)
            self._flush(places[self._group[places] != group])
            self._group[places] = group
            self._kept[places, place] = terms[:, k]

    def _flush(self, rows: npt.NDArray[np.int64]) -> None:
        rows = rows[self._group[rows] >= 0]
        a, b, c, d = np.moveaxis(self._kept[rows].astype(np.float64), 1, 0)
        self.total[rows] += (a + b) + (c + d)
        self._kept[rows] = 0.0
        self._group[rows] = -1


def _parts(
    samples: FieldInParts,
    starts: Floats,
    step: Floats,
    n: int,
    first: int,
    splits: Splitting,
    coverage: Singles | None,
    lattice: Lattice | None,
) -> Iterator[tuple[Part, Singles | None]]:
    """The parts of rows, each with room for its coverage, which is put in its place afterwards."""
    if lattice is None and splits.radii2.size:
        raise ValueError("rows of voxels that are split need their lattice to be read part by part")
    if coverage is not None:
        coverage[:] = 0.0
    parts = (
        samples.row_parts(starts, step, n, first)
        if lattice is None
        else samples.parts(lattice, starts, step, first=first, splits=splits)
    )
    for part in parts:
        if coverage is None:
            yield part, None
            continue
        n_row = len(starts[part.rows])
        covered = np.zeros((n_row, part.n), dtype=np.float32)
        yield part, covered
        coverage[part.rows, part.first - first : part.first - first + part.n] = covered


def _shells(wanted: npt.NDArray[np.bool_]) -> slice:
    """From the first to the last shell that is wanted."""
    found = np.flatnonzero(wanted)
    return slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0)
