"""Accuracy and cost of the conservative regrid beside those of interpolation, on one core.

Accuracy: four objects on nside 32 x 196 cells are regridded to voxels of 0.1 kpc within 1 kpc of the Sun. Their mass,
and their columns along z, are compared with those of the cells, taken at 16^3 points of each voxel by healpy.

Cost: CPU time relative to interpolation at voxel centres, every sample at every voxel, of interleaved rounds.
"""

from __future__ import annotations

import os

# read when numpy is imported
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import sys
from collections.abc import Callable
from typing import Any

import healpy
import numpy as np
import numpy.typing as npt
from machine import description, interleaved, median_ratio, one_core

from crdist.frames import Frame
from crdist.grids import CartesianGrid, SphericalGrid
from crdist_postproc.conservative import conservative_plan, deposit_tile
from crdist_postproc.kernels.field import Field
from crdist_postproc.kernels.gather import POINTWISE, Splitting, splitting
from crdist_postproc.kernels.rows import fill_rows
from crdist_postproc.products.base import Block
from crdist_postproc.products.tiling import tile_rows

Array = npt.NDArray[Any]

SOURCE = SphericalGrid.log_spaced(32, 196, 0.05, 30.0, ordering="ring")
OBJECTS = ("one cell at 0.2 kpc", "cloud of 20 pc at 0.3 kpc", "noise in every cell", "smooth disc")
POINTS = 16
ROWS_AT_ONCE = 64


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=200, help="voxels along x and y in the cost (default: 200)")
    parser.add_argument("--samples", type=int, default=12, help="samples in the cost (default: 12)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of timing; 0: accuracy alone (default: 5)")
    options = parser.parse_args()
    if options.side < 1 or options.samples < 1 or options.rounds < 0:
        sys.exit("conservative.py: --side and --samples are at least 1, --rounds at least 0")
    one_core()
    print(description())
    accuracy()
    if options.rounds:
        cost(options.side, options.samples, options.rounds)


def objects() -> Array:
    """Samples, shape (pixel, shell, 4): of what a mass is hard to keep, and of what it is easy."""
    directions = np.stack(healpy.pix2vec(SOURCE.nside, np.arange(SOURCE.n_pixel)), axis=-1)
    places = directions[:, None] * SOURCE.centres[:, None]
    towards = np.array([0.6, -0.64, 0.48])
    samples = np.zeros((SOURCE.n_pixel, SOURCE.n_shell, 4), dtype=np.float32)
    samples[healpy.vec2pix(SOURCE.nside, *towards), np.searchsorted(SOURCE.edges, 0.2) - 1, 0] = 1.0
    samples[..., 1] = np.linalg.norm(places - 0.3 * towards, axis=-1) < 0.02
    samples[..., 2] = np.exp(np.random.default_rng(1).normal(size=samples.shape[:2]))
    samples[..., 3] = np.exp(-np.abs(places[..., 2]) / 0.2 + places[..., 0] / 6.0)
    return samples


def accuracy() -> None:
    """The error of the mass in the box, and of the columns: sum of the errors over the sum of the columns."""
    grid = CartesianGrid.from_extent((-1, 1), (-1, 1), (-1, 1), voxel=0.1, frame=Frame(name="heliocentric"))
    samples = objects()
    field = Field.from_samples(samples, SOURCE)
    expected = columns_of_points(samples, grid)
    volumes = SOURCE.cell_volumes
    # that of the first shell and all inside it
    volumes[0] *= SOURCE.edges[1] ** 3 / (SOURCE.edges[1] ** 3 - SOURCE.edges[0] ** 3)
    masses = expected.sum(axis=(0, 1)) * grid.voxel_volume
    # these lie wholly in the box, so that their mass is known exactly
    masses[:2] = np.einsum("ijk,j->k", samples[..., :2].astype(np.float64), volumes)
    methods: dict[str, Callable[[], Array]] = {
        "voxel centres": lambda: interpolated(field, grid, POINTWISE),
        "parts of voxels": lambda: interpolated(field, grid, parts_of(grid)),
        "conservative": lambda: conserved(field, grid, 1),
        "the same, order 2": lambda: conserved(field, grid, 2),
    }
    print(f"\n{'error of the mass':<28}" + "".join(f"{name:>20}" for name in methods))
    columns = {name: method() for name, method in methods.items()}
    errors = {name: column.sum(axis=(0, 1)) * grid.voxel_volume / masses - 1 for name, column in columns.items()}
    for k, name in enumerate(OBJECTS):
        print(f"{name:<28}" + "".join(f"{error[k]:>20.1e}" for error in errors.values()))
    print(f"\n{'error of columns':<28}" + "".join(f"{name:>20}" for name in methods))
    for k, name in enumerate(OBJECTS):
        total = expected[..., k].sum()
        found = (np.abs(column[..., k] - expected[..., k]).sum() / total for column in columns.values())
        print(f"{name:<28}" + "".join(f"{error:>20.1%}" for error in found))


def columns_of_points(samples: Array, grid: CartesianGrid) -> Array:
    """Sums over z of the means of 16^3 points in each voxel, shape (x, y, sample)."""
    edges = SOURCE.edges
    edges[0] = 0.0
    (nx, ny, _), total = grid.shape, 0.0
    x, y, z = (axis.lower_kpc + (np.arange(axis.n * POINTS) + 0.5) * axis.step / POINTS for axis in grid.axes)
    for height in z:
        points = np.stack(np.broadcast_arrays(x[:, None], y, height), axis=-1)
        shell = np.searchsorted(edges, np.linalg.norm(points, axis=-1), side="right") - 1
        values = samples[healpy.vec2pix(SOURCE.nside, *np.moveaxis(points, -1, 0)), shell].astype(np.float64)
        total = total + values.reshape(nx, POINTS, ny, POINTS, -1).sum(axis=(1, 3))
    return np.asarray(total) / POINTS**3


def parts_of(grid: CartesianGrid) -> Splitting:
    """Where voxels are split, as in products with adaptive sampling."""
    sides = np.diag([axis.step for axis in grid.axes]) @ grid.frame.rotation
    return splitting(SOURCE, grid.z.step, sides[:2])


def interpolated(field: Field, grid: CartesianGrid, splits: Splitting) -> Array:
    """Columns of the interpolation."""
    starts, step, order = tile_rows(grid, "z", Block("", 0, ((0, grid.x.n), (0, grid.y.n))))
    columns = np.empty((len(starts), field.n_sample))
    covered = np.empty((len(starts), grid.z.n), dtype=np.float32)
    values = fill_rows(field, starts, step, grid.z.n, splits=splits, coverage=covered)
    columns[order] = np.nansum(values * covered[..., None].astype(np.float64), axis=1)
    return columns.reshape(grid.x.n, grid.y.n, -1)


def conserved(field: Field, grid: CartesianGrid, order: int) -> Array:
    """Columns of the conservative regrid."""
    plan = conservative_plan(SOURCE, grid)
    columns = np.zeros((grid.x.n, grid.y.n, field.n_sample))
    for tile in plan.tiles():
        values, coverage = deposit_tile(field, plan, tile, order=order)
        columns[plan.region(tile)[:2]] += np.nansum(values * coverage[..., None], axis=2)
    return columns


def cost(side: int, n_sample: int, rounds: int) -> None:
    """Times relative to interpolation at voxel centres."""
    half = 0.05 * side
    # the Sun in the middle; all voxels lie inside the data unless the box is far larger than by default
    grid = CartesianGrid.from_extent((-half, half), (-half, half), (-3, 3), voxel=0.1, frame=Frame(name="heliocentric"))
    samples = np.random.default_rng(1).random((SOURCE.n_pixel, SOURCE.n_shell, n_sample), dtype=np.float32)
    field = Field.from_samples(samples, SOURCE)
    starts, step, _ = tile_rows(grid, "z", Block("", 0, ((0, side), (0, side))))
    plan = conservative_plan(SOURCE, grid)

    def rows(splits: Splitting) -> None:
        for first in range(0, len(starts), ROWS_AT_ONCE):
            fill_rows(field, starts[first : first + ROWS_AT_ONCE], step, grid.z.n, splits=splits)

    def tiles(order: int) -> None:
        for tile in plan.tiles():
            deposit_tile(field, plan, tile, order=order)

    splits = parts_of(grid)
    methods: dict[str, Callable[[], Any]] = {
        "voxel centres": lambda: rows(POINTWISE),
        "parts of voxels": lambda: rows(splits),
        "conservative, plan": lambda: conservative_plan(SOURCE, grid),
        "conservative, tiles": lambda: tiles(1),
        "conservative, tiles, order 2": lambda: tiles(2),
    }
    seconds = interleaved(methods, rounds)
    rate = side * side * grid.z.n * n_sample / 1e6 / float(np.median(seconds["voxel centres"]))
    print(f"\n{side} x {side} x {grid.z.n} voxels x {n_sample} samples; voxel centres: {rate:.0f} million a second")
    for name, times in seconds.items():
        print(f"{name:<32}{median_ratio(times, seconds['voxel centres']):8.1f} x")


if __name__ == "__main__":
    main()
