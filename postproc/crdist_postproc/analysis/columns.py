"""Sums of a profile's columns, in tasks that each hold no more of the samples than they reach.

Samples that fit in the memory of a tile are summed in the blocks of a run, to the same bits. Of larger ones the columns
are cut into compact groups, each of which reads the chunks that it reaches; a group that reaches more than fits is
halved. What is read is what `crdist.regrid` would read for these places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from crdist_postproc.kernels.field import Field, Inner, Method, ValueSpace
from crdist_postproc.kernels.rows import bin_rows
from crdist_postproc.lazy import _source
from crdist_postproc.parts import EXACT_POINTS, FieldInParts
from crdist_postproc.products.base import Array, Block
from crdist_postproc.products.profiles import RadialMean, VerticalMean
from crdist_postproc.sparse import committed_bytes

__all__ = ["column_sums"]

GROUPS = 16
"""Groups of columns of samples that are read in parts, at least: reading takes longer than computing, and is shared."""

Columns = npt.NDArray[np.intp]


def column_sums(
    product: RadialMean | VerticalMean,
    samples: xr.DataArray,
    *,
    method: Method = "linear",
    value_space: ValueSpace = "linear",
    inner: Inner = "extend",
) -> list[Any]:
    """What ``product.means`` takes: partial sums over some columns each, as Dask's delayed values.

    Parameters
    ----------
    product : RadialMean or VerticalMean
    samples : DataArray, dims (pixel, shell[, sample])
    method, value_space, inner
        As for `crdist.regrid`.

    Raises
    ------
    GridError, SchemaError
        If the samples lack the coordinates that tell their grid.
    """
    import dask
    from dask.delayed import Delayed

    source = _source(samples, method, value_space, inner)
    if source.parts is None or source.reader is None:
        sums = dask.delayed(_sums, pure=True)
        return [sums(source.field, product, block) for block in product.blocks()]
    parts = source.parts
    rows = _Rows(product)
    tasks = []
    in_parts = dask.delayed(_sums_in_parts, pure=True)
    most = max(1, min(EXACT_POINTS // rows.n, -(-len(rows.starts) // GROUPS)))
    for columns in _groups(rows.starts, most):
        results: dict[Any, Any] = {}
        if source.reader.shared:
            wanted = rows.reached(parts, columns)
            keys = {key for place in np.argwhere(wanted).tolist() for key in source.reader.shared_by(*place)}
            results = {key: Delayed(key, source.graph, layer=source.reader.name) for key in sorted(keys, key=str)}
        tasks.append(in_parts(source.field, results, product, columns))
    return tasks


class _Rows:
    """All columns of a profile, as rows of points along the height."""

    def __init__(self, product: RadialMean | VerticalMean) -> None:
        n_column = sum(block.shape[0] for block in product.blocks())
        points, self.bins, self.volumes = product._columns(Block(product.name, 0, ((0, n_column),)))
        heights, self.height_bins, spacing = product._heights()
        frame = product.frame.galactocentric
        self.n = len(heights)
        self.starts = frame.to_heliocentric(np.column_stack([points, np.full(len(points), heights[0])]))
        self.step = np.array([0.0, 0.0, spacing]) @ frame.rotation
        self.shape = (len(product.radii_kpc) - 1, len(product.heights_kpc) - 1)

    def reached(self, parts: FieldInParts, columns: Columns, most: int | None = None) -> npt.NDArray[np.bool_]:
        """The chunks that some columns read; ``most`` as for `Reach.chunks`."""
        return parts.reach.chunks_of_rows(parts.template, self.starts[columns], self.step, self.n, 0, most)

    def sums(self, field: Field, columns: Columns) -> dict[str, Array]:
        """Sums over some columns, in the bins of the whole profile."""
        bins, volumes = self.bins[columns], self.volumes[columns]
        found = bin_rows(field, self.starts[columns], self.step, self.n, bins, self.height_bins, volumes, None)
        whole = np.zeros(self.shape)
        np.add.at(whole, bins, np.outer(volumes, np.bincount(self.height_bins, minlength=self.shape[1])))
        sums = {"whole": whole}
        for name, values in zip(("total", "weight", "inside"), found, strict=True):
            # the last bins may be empty in this group
            sums[name] = np.zeros((*self.shape, *values.shape[2:]))
            sums[name][: values.shape[0], : values.shape[1]] = values
        return sums


def _sums(field: Field, product: RadialMean | VerticalMean, block: Block) -> Mapping[str, Array]:
    return product.compute(block, field, None).partial


def _sums_in_parts(
    parts: FieldInParts, results: Mapping[Any, Any], product: RadialMean | VerticalMean, columns: Columns
) -> dict[str, Array]:
    rows = _Rows(product)
    parts = replace(parts, results=results)
    total: dict[str, Array] = {}
    waiting = [columns]
    while waiting:
        some = waiting.pop()
        whole = some.size == 1
        wanted = rows.reached(parts, some, None if whole else parts.most_chunks)
        if not whole and committed_bytes(wanted, parts.chunks, parts.n_padded) > parts.memory_bytes:
            waiting.extend(reversed(_halves(rows.starts, some)))
            continue
        field = parts.filled(wanted)
        sums = rows.sums(field, some)
        # before the next part is read, or two would be in memory
        del field
        total = {name: total[name] + values if total else values for name, values in sums.items()}
    return total


def _groups(starts: Array, most: int) -> Iterator[Columns]:
    """Cut columns into compact groups of at most some columns."""
    waiting = [np.arange(len(starts))]
    while waiting:
        columns = waiting.pop()
        if columns.size <= most:
            yield columns
        else:
            waiting.extend(reversed(_halves(starts, columns)))


def _halves(starts: Array, columns: Columns) -> list[Columns]:
    """Both halves of some columns, cut across the direction in which they reach farthest."""
    places = starts[columns]
    along = int(np.argmax(np.ptp(places, axis=0)))
    order = np.argsort(places[:, along], kind="stable")
    middle = columns.size // 2
    return [np.sort(columns[order[:middle]]), np.sort(columns[order[middle:]])]
