"""Regrid, project and slice lazily: xarray in, xarray out, nothing computed until asked.

Samples that fit in the memory of a tile (256 MiB, or what ``dask.config.set({"crdist.tile-memory": "1 GiB"})`` says)
are laid out once, for all tiles; while that is done, their chunks and the join of these are there, too. Of larger ones
each tile reads those chunks that it reaches, a part at a time that fits. The results are the same to the bit.

What is read again for the next tile is computed again: before long computations from samples, ``persist`` or store what
they are made from. Chunks so large that few of them fit are no help: of such samples all are laid out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from crdist.errors import GridError, RecipeError, SchemaError
from crdist.grids import Axis, CartesianGrid, SphericalGrid
from crdist.schema import POSTERIOR_DIMS
from crdist.units import integral_unit
from crdist_postproc.conservative import TILE, conservative_plan, rays_between
from crdist_postproc.conservative_blocks import COST, block_chunks
from crdist_postproc.kernels.field import Field, Inner, Method, ValueSpace, padded_samples
from crdist_postproc.lazy_blocks import BlockReader, largest_block_bytes
from crdist_postproc.lazy_tiles import (
    project_conservative_tile,
    project_tile,
    regrid_conservative_tile,
    regrid_tile,
)
from crdist_postproc.parts import FieldInParts
from crdist_postproc.products.base import Block
from crdist_postproc.products.tiling import BLOCK_WORK, lattice_of, tile_rows, tiles
from crdist_postproc.reach import Reach
from crdist_postproc.sparse import Chunks

__all__ = ["project", "regrid", "slice_plane", "spherical_grid_of"]

AxisName = Literal["x", "y", "z"]
Sampling = Literal["point", "conservative"]
Order = Literal[1, 2]

TILE_MEMORY = "256 MiB"

BLOCKS_IN_MEMORY = 4
"""Parts are made of blocks: so many of the largest must fit in a tile's memory."""

TILES = 16
"""Tiles of a result whose source is read in parts, where it has rows enough: so that threads can share the reading."""

ROWS = 1024
"""Rows of such a tile, at least: smaller ones would read the same chunks."""


def regrid(
    samples: xr.DataArray,
    grid: CartesianGrid,
    *,
    method: Method = "linear",
    value_space: ValueSpace = "linear",
    inner: Inner = "extend",
    sampling: Sampling = "point",
    order: Order = 1,
) -> xr.DataArray:
    """The samples at the voxel centres of a Cartesian grid, or their means over its voxels, lazily.

    Parameters
    ----------
    samples : DataArray, dims (pixel, shell[, sample])
        A variable of ``crdist.open_posterior``, or anything computed from one that keeps its coordinates.
    grid : CartesianGrid
        Voxels and frame.
    method : {"linear", "nearest"}
        ``linear``: HEALPix' bilinear interpolation times linear interpolation in ln(distance) between shell centres.
        From the first edge to the first centre the first shell's value, from the last centre to the last edge the
        last shell's. ``nearest``: the value of the cell that contains the point.
    value_space : {"linear", "log"}
        Interpolate the values or their logarithms.
    inner : {"extend", "exclude"}
        Inside the first edge: the first shell's value, or NaN.
    sampling : {"point", "conservative"}
        ``point``: the value at a voxel's centre. ``conservative``: the mean over the part of the voxel inside the data,
        of all that the source's cells have in it (``method`` does not matter), such that all of every cell goes
        somewhere: the mass of small and near clouds is kept. Some ten times the work.
    order : {1, 2}
        With ``conservative``, whether a cell has one value, or slopes that make no new extremes: sharper where cells
        are large, for twice the work.

    Returns
    -------
    DataArray of float32, dims (x, y, z, sample), lazy
        NaN outside the data; units as given.

    Raises
    ------
    GridError, SchemaError
        If the samples lack the coordinates that tell their grid.
    RecipeError
        If ``sampling`` or ``order`` is unknown, or sampling conservative of logarithms.
    """
    conservative = _is_conservative(sampling, order, value_space)
    source = _source(samples, method, value_space, inner)
    n_z, n_sample = grid.z.n, _n_sample(samples)
    compute: Callable[..., npt.NDArray[Any]] = regrid_tile
    options: tuple[Any, ...] = ()
    unit = 1
    if conservative:
        native = spherical_grid_of(samples)
        source = replace(source, conservative=(native, inner))
        compute, options, unit = regrid_conservative_tile, (_plan(native, grid, inner), order), TILE
    work = n_z * n_sample * (COST * order if conservative else 1)
    blocks = source.tiles("regrid", grid.shape[:2], work, 8 * n_z * n_sample, unit)
    data = _from_tiles(compute, source, grid, "z", options, blocks, (n_z, n_sample), np.float32)
    return _wrap(data, samples, grid, ("x", "y", "z"), _sampling_attrs(sampling, order))


def project(
    samples: xr.DataArray,
    grid: CartesianGrid,
    axis: AxisName = "z",
    *,
    method: Method = "linear",
    value_space: ValueSpace = "linear",
    inner: Inner = "extend",
    sampling: Sampling = "point",
    order: Order = 1,
) -> xr.DataArray:
    """The samples integrated along an axis of a Cartesian grid, lazily and without a volume.

    Parameters
    ----------
    samples, grid, method, value_space, inner, sampling, order
        As for `regrid`. Space outside the data adds nothing; a column wholly outside is NaN.
    axis : {"x", "y", "z"}

    Returns
    -------
    DataArray of float64, dims (the two other axes, sample), lazy
        In the integral's unit: cm-2 for a density in cm-3. Take statistics over ``sample`` of this, not before.
    """
    across = [name for name in "xyz" if name != axis]
    plane = (grid.axis(across[0]).n, grid.axis(across[1]).n)
    depth = grid.axis(axis).n
    units, factor = integral_unit(_units(samples))
    conservative = _is_conservative(sampling, order, value_space)
    source = _source(samples, method, value_space, inner)
    n_sample = _n_sample(samples)
    compute: Callable[..., npt.NDArray[Any]] = project_tile
    options: tuple[Any, ...] = (axis, factor)
    unit = 1
    if conservative:
        native = spherical_grid_of(samples)
        source = replace(source, conservative=(native, inner))
        compute, unit = project_conservative_tile, TILE
        options = (*options, _plan(native, grid, inner), order)
    work = depth * n_sample * (COST * order if conservative else 1)
    blocks = source.tiles("project", plane, work, 16 * n_sample, unit)
    data = _from_tiles(compute, source, grid, axis, options, blocks, (n_sample,), np.float64)
    limits = [grid.axis(axis).lower_kpc, grid.axis(axis).upper_kpc]
    name = f"{_long_name(samples)} integrated over {axis}"
    return _wrap(
        data,
        samples,
        grid,
        tuple(across),
        {"units": units, "long_name": name, "axis": axis, "limits_kpc": limits, **_sampling_attrs(sampling, order)},
    )


def slice_plane(
    samples: xr.DataArray,
    grid: CartesianGrid,
    axis: AxisName = "z",
    at_kpc: float = 0.0,
    *,
    method: Method = "linear",
    value_space: ValueSpace = "linear",
    inner: Inner = "extend",
) -> xr.DataArray:
    """The samples in the plane ``axis = at_kpc``, at the places of the grid's voxel centres in it, lazily.

    Returns
    -------
    DataArray of float32, dims (the two other axes, sample), lazy
    """
    half = 0.5 * grid.axis(axis).step
    planes = {name: grid.axis(name) for name in "xyz"} | {axis: Axis(at_kpc - half, at_kpc + half, 1)}
    plane = CartesianGrid(planes["x"], planes["y"], planes["z"], grid.frame)
    volume = regrid(samples, plane, method=method, value_space=value_space, inner=inner)
    return volume.isel({axis: 0}).assign_coords({axis: at_kpc})


def spherical_grid_of(samples: xr.DataArray) -> SphericalGrid:
    """The grid of samples, from their coordinates.

    Raises
    ------
    SchemaError
        If a coordinate is missing, or ``cell_ids`` has lost the attributes that tell its scheme.
    GridError
        If the coordinates are no grid, or pixels or shells were dropped or are in another order.
    """
    if not {"pixel", "shell"} <= set(samples.dims):
        raise SchemaError(f"samples have dims {POSTERIOR_DIMS}, got {samples.dims}")
    missing = {"cell_ids", "distance", "distance_lower", "distance_upper"} - set(samples.coords)
    if missing:
        raise SchemaError(
            f"samples lack the coordinates {', '.join(sorted(missing))}; take them from crdist.open_posterior(...)"
        )
    cells = samples.coords["cell_ids"]
    lost = [key for key in ("level", "indexing_scheme") if key not in cells.attrs]
    if lost:
        raise SchemaError(
            f"the coordinate cell_ids of samples has no attribute {' nor '.join(lost)}; "
            "take samples from crdist.open_posterior(...) and keep the attributes of its coordinates"
        )
    lower, upper = (np.asarray(samples.coords[f"distance_{side}"]) for side in ("lower", "upper"))
    if not np.array_equal(lower[1:], upper[:-1]):
        raise GridError("samples must keep all shells of their grid, in order")
    grid = SphericalGrid(
        nside=2 ** int(cells.attrs["level"]),
        edges_kpc=(*lower.tolist(), float(upper[-1])),
        centres_kpc=tuple(np.asarray(samples.coords["distance"]).tolist()),
        ordering=cells.attrs["indexing_scheme"],
    )
    _check_pixels(cells, grid)
    return grid


def _check_pixels(cells: xr.DataArray, grid: SphericalGrid) -> None:
    if cells.size != grid.n_pixel:
        raise GridError(f"samples must keep all {grid.n_pixel} pixels of their grid, got {cells.size}")
    ids, whole = np.asarray(cells), np.arange(grid.n_pixel)
    astray = np.flatnonzero(ids != whole)
    if astray.size:
        way_out = (
            "use samples.sortby('cell_ids')"
            if np.array_equal(np.sort(ids), whole)
            else "take them from crdist.open_posterior(...)"
        )
        raise GridError(
            f"samples must keep the pixels of their grid in order, got pixel {ids[astray[0]]} in place {astray[0]}; "
            f"{way_out}"
        )


@dataclass(frozen=True, slots=True)
class _Source:
    """What the tiles compute from."""

    field: Any
    """A Delayed Field, or FieldInParts."""
    parts: FieldInParts | None = None
    """The latter, itself."""
    reader: BlockReader | None = None
    """Of its chunks."""
    graph: Any = None
    """Of the samples, for what Dask computes of them."""
    conservative: tuple[SphericalGrid, Inner] | None = None
    """Grid and inner edge of the samples, if they are handed out to voxels rather than interpolated."""

    def tiles(
        self, product: str, plane: tuple[int, int], work_per_row: int, bytes_per_row: int, unit: int
    ) -> tuple[Block, ...]:
        """The tiles of a plane of rows."""
        if self.parts is not None:
            rows = max(plane[0] * plane[1] // TILES, ROWS)
            work_per_row = max(work_per_row, BLOCK_WORK // rows)
        return tiles(product, plane, work_per_row, bytes_per_row, unit)

    def results(self, grid: CartesianGrid, along: str, block: Block) -> dict[Any, Any]:
        """What Dask computes of the samples for a tile, by its key, lazily."""
        from dask.delayed import Delayed

        if self.parts is None or self.reader is None or not self.reader.shared:
            return {}
        if self.conservative is not None:
            native, inner = self.conservative
            wanted = block_chunks(self.parts, rays_between(native, grid, inner), "xyz".index(along), block.bounds)
        else:
            starts, step, _ = tile_rows(grid, along, block)
            wanted = self.parts.reached(lattice_of(grid, along, block), starts, step)
        keys = {key for place in np.argwhere(wanted).tolist() for key in self.reader.shared_by(*place)}
        return {key: Delayed(key, self.graph, layer=self.reader.name) for key in sorted(keys, key=str)}


def _source(samples: xr.DataArray, method: Method, value_space: ValueSpace, inner: Inner) -> _Source:
    import dask
    import dask.array as da
    from dask.base import tokenize

    grid = spherical_grid_of(samples)
    ordered = samples.expand_dims("sample", axis=-1) if "sample" not in samples.dims else samples
    array = da.asarray(ordered.transpose(*POSTERIOR_DIMS).data)
    options: dict[str, Any] = {"method": method, "value_space": value_space, "inner": inner}
    memory_bytes = _tile_memory()
    n_sample = array.shape[2]
    n_bytes = 4 * grid.n_pixel * grid.n_shell * padded_samples(n_sample)
    if n_bytes <= memory_bytes or BLOCKS_IN_MEMORY * largest_block_bytes(array) > memory_bytes:
        # Joined here: Dask would join an argument itself, but under a new name in each call.
        joined = array.rechunk(array.shape).to_delayed(optimize_graph=False).item()
        return _Source(dask.delayed(Field.from_samples, pure=True)(joined, grid, **options))
    pixels, shells, _ = array.chunks
    # ones have logarithms
    one = np.ones((1, grid.n_shell, padded_samples(n_sample)), dtype=np.float32)
    reader = BlockReader.of(array)
    parts = FieldInParts(
        template=Field.from_values(one, n_sample, grid, **options),
        grid=grid,
        value_space=value_space,
        reader=reader,
        chunks=Chunks(pixels, shells),
        reach=Reach.of(grid, pixels, shells, method=method, inner=inner),
        memory_bytes=memory_bytes,
    )
    name = f"parts-{tokenize(array.name, grid.to_dict(), options, memory_bytes)}"
    return _Source(dask.delayed(parts, name=name, traverse=False), parts, reader, array.__dask_graph__())


def _is_conservative(sampling: Sampling, order: Order, value_space: ValueSpace) -> bool:
    """Whether a conservative regrid is asked for, which must be possible then."""
    if sampling not in ("point", "conservative"):
        raise RecipeError(f"sampling must be 'point' or 'conservative', got {sampling!r}")
    if sampling == "point":
        return False
    if order not in (1, 2):
        raise RecipeError(f"order must be 1 or 2, got {order!r}")
    if value_space != "linear":
        raise RecipeError(f"sampling 'conservative' takes means of values, not in value_space {value_space!r}")
    return True


def _sampling_attrs(sampling: Sampling, order: Order) -> dict[str, Any]:
    return {"sampling": sampling, "order": order} if sampling == "conservative" else {}


def _plan(native: SphericalGrid, grid: CartesianGrid, inner: Inner) -> Any:
    """A Delayed plan: equal calls share it."""
    import dask

    return dask.delayed(conservative_plan, pure=True)(native, grid, inner=inner)


def _tile_memory() -> int:
    import dask
    from dask.utils import parse_bytes

    stated = dask.config.get("crdist.tile-memory", TILE_MEMORY)
    try:
        n_bytes = int(parse_bytes(stated))
    except (ValueError, TypeError) as error:
        raise RecipeError(
            f"crdist.tile-memory of Dask's configuration must be a size, such as '256 MiB', got {stated!r}"
        ) from error
    return n_bytes


def _from_tiles(
    compute: Callable[..., npt.NDArray[Any]],
    source: _Source,
    grid: CartesianGrid,
    along: str,
    options: tuple[Any, ...],
    blocks: tuple[Block, ...],
    depth: tuple[int, ...],
    dtype: Any,
) -> Any:
    """A Dask array of tiles, each ``compute(field, results, block, grid, *options)``, shape ``(*block.shape, *depth)``.

    ``compute`` is a function of a module: Dask names tasks by it, and by equal names computes once what equal calls
    share. The name of a closure would be another each time.
    """
    import dask
    import dask.array as da

    tile = dask.delayed(compute, pure=True)
    columns: dict[int, list[Any]] = {}
    for block in blocks:
        task = tile(source.field, source.results(grid, along, block), block, grid, *options)
        columns.setdefault(block.bounds[0][0], []).append(da.from_delayed(task, (*block.shape, *depth), dtype=dtype))
    return da.concatenate([da.concatenate(parts, axis=1) for parts in columns.values()], axis=0)


def _wrap(
    data: Any, samples: xr.DataArray, grid: CartesianGrid, dims: tuple[str, ...], attrs: dict[str, Any]
) -> xr.DataArray:
    coords: dict[str, Any] = {}
    for name in dims:
        coords[name] = (
            name,
            grid.axis(name).centres,
            {"units": "kpc", "long_name": f"{grid.frame.name} {name}"},
        )
    if "sample" in samples.coords:
        coords["sample"] = samples.coords["sample"]
    kept = {key: samples.attrs[key] for key in ("units", "long_name") if key in samples.attrs}
    result = xr.DataArray(
        data,
        dims=(*dims, "sample"),
        coords=coords if "sample" in samples.dims else {k: v for k, v in coords.items() if k != "sample"},
        name=samples.name,
        attrs={**kept, **attrs, "frame": grid.frame.to_dict()},
    )
    return result if "sample" in samples.dims else result.isel(sample=0)


def _n_sample(samples: xr.DataArray) -> int:
    return int(samples.sizes.get("sample", 1))


def _units(samples: xr.DataArray) -> str:
    if "units" not in samples.attrs:
        raise SchemaError(
            f"samples {samples.name!r} have no attribute 'units'; set samples.attrs['units'], such as 'cm-3'"
        )
    return str(samples.attrs["units"])


def _long_name(samples: xr.DataArray) -> str:
    return str(samples.attrs.get("long_name", samples.name or "density"))
