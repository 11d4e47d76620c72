"""Rates of the regridding kernels beside those of other methods, on one core.

Volume: every sample at every voxel. Projection: each sample summed along z. Statistics: mean and standard deviation
over the samples in every voxel. The kernels do the latter two without a volume; the others reduce each block of theirs.
"""

from __future__ import annotations

import os

# read when numpy is imported
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import healpy
import numpy as np
import numpy.typing as npt
from machine import description, interleaved, median_ratio, one_core
from peers import Dustmaps, Peers, Raster, best, in_blocks

from crdist.grids import Axis, CartesianGrid, SphericalGrid
from crdist_postproc.kernels.field import Field
from crdist_postproc.kernels.rows import fill_rows, statistics_rows, sum_rows
from crdist_postproc.products.base import Block
from crdist_postproc.products.tiling import tile_rows

Array = npt.NDArray[Any]

NSIDE, N_SHELL, N_SAMPLE = 32, 196, 12
DEPTH = 60
"""Voxels along z, as many as the default recipe has."""
BLOCK_ROWS = (8, 16, 32, 64, 128, 256, 1024, 4096)
TOLERANCE = 1e-6
"""Largest difference from healpy's weights in float64, relative to the value: float32 sums of eight terms."""

PER_SAMPLE, SHARED = "healpy, weights per sample", "healpy, weights shared, best blocks"


def main() -> None:
    """Check that the methods agree, time them, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxels", type=int, default=720_000, help="number of voxels, about (default: 720000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of timing (default: 5)")
    options = parser.parse_args()
    if options.voxels < 8 * 8 * DEPTH or options.rounds < 1:
        sys.exit(f"regrid.py: give at least {8 * 8 * DEPTH} --voxels and 1 of --rounds")
    one_core()
    bench = Bench(options.voxels)
    print(description())
    nx, ny, nz = bench.target.shape
    print(f"nside {NSIDE} x {N_SHELL} shells x {N_SAMPLE} samples to {nx} x {ny} x {nz} voxels")
    print(f"one core, CPU time, median of {options.rounds} interleaved rounds")
    with tempfile.TemporaryDirectory(prefix="crdist-bench-") as folder:
        bench.add_peers(Path(folder))
        bench.check()
        bench.volume(options.rounds)
        bench.projection(options.rounds)
        bench.statistics(options.rounds)


class Bench:
    """One source and one target, and the methods that take the one to the other."""

    def __init__(self, voxels: int) -> None:
        side = 8 * max(1, round(math.sqrt(voxels / DEPTH) / 8))
        # all within 30 kpc of the Sun: the other methods need not treat points outside the data
        self.target = CartesianGrid(Axis(-15, 15, side), Axis(-15, 15, side), Axis(-3, 3, DEPTH))
        self.grid = SphericalGrid.log_spaced(NSIDE, N_SHELL, 0.05, 30.0, ordering="ring")
        rng = np.random.default_rng(1)
        samples = np.exp(rng.normal(size=(self.grid.n_pixel, N_SHELL, N_SAMPLE)).astype(np.float32))
        self.field = Field.from_samples(samples, self.grid)
        self.starts, self.step, _ = tile_rows(self.target, "z", Block("", 0, ((0, side), (0, side))))
        along = np.arange(DEPTH)[:, None] * self.step
        self.n = len(self.starts) * DEPTH
        self.peers = Peers(samples, self.grid, (self.starts[:, None] + along).reshape(-1, 3))

    def add_peers(self, folder: Path) -> None:
        """Make what the other methods need, and find their best blocks."""
        peers, n = self.peers, self.n
        sizes = [rows * DEPTH for rows in BLOCK_ROWS if rows <= len(self.starts)]
        candidates: dict[str, Sequence[Callable[[slice], Array]]] = {
            PER_SAMPLE: [peers.weights_per_sample],
            SHARED: [peers.shared_rows, peers.shared_einsum, peers.shared_matmul],
            "scipy CSR, built and applied once": [peers.built_matrix],
            "dustmaps Edenhofer2023Query (*)": [Dustmaps(peers, folder).interpolate],
            "scipy map_coordinates, lat-lon raster (*)": [Raster(peers).interpolate],
        }
        self.methods = {name: best(methods, n, sizes) for name, methods in candidates.items()}
        self.matrix = peers.matrix(slice(0, n))
        for name, (method, size) in self.methods.items():
            print(f"  {name}: {getattr(method, '__name__', method)}, blocks of {size} points")

    def check(self) -> None:
        """Compare every exact method with healpy's weights in float64, and our reductions with those of our volume."""
        expected = self._expected()
        found = {name: self._values(name) for name in self.methods if "(*)" not in name}
        found["scipy CSR, applied only"] = self.matrix @ self.peers.cells
        ours = fill_rows(self.field, self.starts, self.step, DEPTH)
        found["crdist fill_rows"] = ours.reshape(expected.shape)
        for name, values in found.items():
            _agree(name, values, expected)
        total, count = sum_rows(self.field, self.starts, self.step, DEPTH)
        if not (count == DEPTH).all():
            sys.exit("regrid.py: voxels lie outside the data")
        columns = expected.reshape(-1, DEPTH, N_SAMPLE).sum(axis=1)
        _agree("crdist sum_rows", total, columns)
        mean, std = statistics_rows(self.field, self.starts, self.step, DEPTH)
        _agree("crdist statistics_rows, mean", mean.ravel(), expected.mean(axis=-1))
        spread = expected.std(axis=-1, ddof=1)
        # the error of a deviation is that of the values, so compare on their scale
        _agree("crdist statistics_rows, std", std.ravel() - spread + expected.mean(axis=-1), expected.mean(axis=-1))
        print(f"all but (*) agree with healpy in float64 to {TOLERANCE:g}")

    def volume(self, rounds: int) -> None:
        """Every sample at every voxel."""
        timed: dict[str, Callable[[], Any]] = {
            "crdist fill_rows": lambda: fill_rows(self.field, self.starts, self.step, DEPTH)
        }
        timed |= {name: self._runner(name) for name in self.methods}
        timed["scipy CSR, applied only (68 bytes a voxel)"] = lambda: self.matrix @ self.peers.cells
        self._table("volume", timed, rounds)

    def projection(self, rounds: int) -> None:
        """Each sample summed along z."""

        def columns(values: Array) -> tuple[Array]:
            return (values.reshape(-1, DEPTH, N_SAMPLE).sum(axis=1, dtype=np.float64),)

        timed: dict[str, Callable[[], Any]] = {
            "crdist sum_rows": lambda: sum_rows(self.field, self.starts, self.step, DEPTH)
        }
        timed |= {f"{name}, then sum": self._runner(name, columns, DEPTH) for name in self.methods}
        self._table("z-projection", timed, rounds)

    def statistics(self, rounds: int) -> None:
        """Mean and standard deviation over the samples in every voxel."""

        def moments(values: Array) -> tuple[Array, Array]:
            mean = values.mean(axis=-1, dtype=np.float64)
            deviation = values - mean[:, None]
            spread = np.einsum("ns,ns->n", deviation, deviation)
            return mean.astype(np.float32), np.sqrt(spread / (N_SAMPLE - 1)).astype(np.float32)

        timed: dict[str, Callable[[], Any]] = {
            "crdist statistics_rows": lambda: statistics_rows(self.field, self.starts, self.step, DEPTH)
        }
        timed |= {f"{name}, then mean and std": self._runner(name, moments) for name in self.methods}
        self._table("mean and std over samples", timed, rounds)

    def _runner(
        self, name: str, reduce: Callable[[Array], Sequence[Array]] | None = None, points_per_row: int = 1
    ) -> Callable[[], Any]:
        method, size = self.methods[name]
        return lambda: in_blocks(method, self.n, size, reduce, points_per_row)

    def _values(self, name: str) -> Array:
        values: Array = self._runner(name)()[0]
        return values

    def _expected(self) -> Array:
        """The samples at each point by healpy's weights and numpy's arithmetic, float64 throughout."""
        expected = np.empty((self.n, N_SAMPLE))
        knots = np.log(self.grid.centres)
        for first in range(0, self.n, 1 << 16):
            part = slice(first, min(first + (1 << 16), self.n))
            x, y, z = self.peers.points[part].T
            ln_r = np.log(np.sqrt(x * x + y * y + z * z))
            shell = np.clip(np.searchsorted(knots, ln_r, side="right") - 1, 0, N_SHELL - 2)
            up = np.clip((ln_r - knots[shell]) / (knots[shell + 1] - knots[shell]), 0.0, 1.0)
            pixels, weights = healpy.get_interp_weights(NSIDE, np.arctan2(np.hypot(x, y), z), np.arctan2(y, x))
            cells = pixels * N_SHELL + shell
            lower, upper = (self.peers.cells[at].astype(np.float64) for at in (cells, cells + 1))
            values = lower * (1 - up)[:, None] + upper * up[:, None]
            expected[part] = (weights[:, :, None] * values).sum(axis=0)
        return expected

    def _table(self, what: str, timed: dict[str, Callable[[], Any]], rounds: int) -> None:
        seconds = interleaved(timed, rounds)
        ours = next(iter(seconds))
        print(f"\n{what}\n{'':62}{'Mvs/s':>8}{'crdist is faster by':>22}")
        for name, times in seconds.items():
            rate = 1e-6 * self.n * N_SAMPLE / float(np.median(times))
            print(f"{name:62}{rate:8.1f}{median_ratio(times, seconds[ours]):22.1f}")


def _agree(name: str, values: Array, expected: Array) -> None:
    worst = float(np.max(np.abs(values - expected) / np.abs(expected)))
    if not worst <= TOLERANCE:
        sys.exit(f"regrid.py: {name} differs from healpy by {worst:.2g} of the value, more than {TOLERANCE:g}")


if __name__ == "__main__":
    main()
