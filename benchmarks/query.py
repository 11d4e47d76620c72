"""Queries at points beside `dustmaps.edenhofer2023.Edenhofer2023Query`: the same file, the same points, equal values.

A map in the layout of Edenhofer et al. 2024 is written, imported, and queried at points all over it. First both must
agree; then they take turns. A ratio says how many times longer dustmaps takes than crdist in the same round, from
``SkyCoord`` to values, the map being in memory: in CPU time for one thread, on the clock for two. "map" is a
`crdist.PointMap`, which takes logarithms and sums of the whole map before the first query, as dustmaps does; that is
not counted. "query" is `crdist.query`, which does so for what each query needs.
"""

from __future__ import annotations

import os

# read when numpy is imported
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import healpy
import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from machine import description, median_ratio

import crdist
from crdist.grids import SphericalGrid
from crdist.importers import import_map
from crdist_postproc.query import query

INNER_KPC, OUTER_KPC = 0.069, 1.25
TOLERANCE = {"mean": 2e-6, "std": 2e-5, "samples": 2e-6, "integrated mean": 1e-5}
"""Largest relative difference. dustmaps holds logarithms, and adds up integrals, in single precision."""


def main() -> None:
    """Write a map, check that both agree, time them, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nside", type=int, default=64, help="of the map (default: 64)")
    parser.add_argument("--shells", type=int, default=128, help="of the map (default: 128)")
    parser.add_argument("--samples", type=int, default=12, help="of the map (default: 12)")
    parser.add_argument("--points", type=int, nargs="+", default=[1000, 30_000, 1_000_000], help="numbers of points")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of timing (default: 3)")
    options = parser.parse_args()
    if options.rounds < 1 or min(options.points) < 1:
        sys.exit("query.py: give at least one round and one point")
    with tempfile.TemporaryDirectory(prefix="crdist-bench-") as folder:
        bench = Bench(Path(folder), options.nside, options.shells, options.samples)
        bench.check()
        print(description())
        print(f"nside {options.nside} x {options.shells} shells x {options.samples} samples")
        print(f"dustmaps' seconds / crdist's, median of {options.rounds} rounds in turns; both from SkyCoord to values")
        print(
            f"{'points':>9} {'what':<16} {'dustmaps':>10}{'map, 1 thread':>15}{'2 threads':>11}{'query, 1':>11}{'2':>8}"
        )
        for n in options.points:
            for what in TOLERANCE:
                bench.compare(n, what, options.rounds)


class Bench:
    """One map as both read it."""

    def __init__(self, folder: Path, nside: int, n_shell: int, n_sample: int) -> None:
        self.grid = SphericalGrid.log_spaced(nside, n_shell, INNER_KPC, OUTER_KPC)
        path = folder / "samples_healpix.fits"
        _write(path, self.grid, n_sample)
        import_map(path, folder / "map.zarr")
        self.loaded = crdist.open_posterior(folder / "map.zarr")["extinction_density"].load()
        self.maps = {
            True: crdist.PointMap(self.loaded, integrated=True, value_space="log"),
            False: crdist.PointMap(self.loaded, value_space="log", radial="linear"),
        }
        os.environ.setdefault("DUSTMAPS_CONFIG_FNAME", str(folder / "dustmaps.json"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it has no configuration file, and needs none
            from dustmaps.edenhofer2023 import Edenhofer2023Query

        self.density = Edenhofer2023Query(str(path), load_samples=True)
        self.integral = Edenhofer2023Query(str(path), load_samples=True, integrated=True)

    def places(self, distance_kpc: Any) -> SkyCoord:
        """Points in all directions."""
        rng = np.random.default_rng(1)
        n = len(distance_kpc)
        latitude = np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
        return SkyCoord(
            rng.uniform(0, 360, n) * u.deg, latitude * u.deg, distance=distance_kpc * u.kpc, frame="galactic"
        )

    def check(self) -> None:
        """Stop if the values differ."""
        shell = np.arange(20_000) % (self.grid.n_shell - 3) + 1
        between = np.sqrt(self.grid.centres[shell] * self.grid.centres[shell + 1])
        for what, tolerance in TOLERANCE.items():
            integrated = what.startswith("integrated")
            # dustmaps gives the integral to a shell's outer edge at the shell's centre
            theirs = self.theirs(what, self.places(self.grid.centres[shell] if integrated else between))
            if what == "std":
                n = self.loaded.sizes["sample"]
                theirs = theirs * np.sqrt(n / (n - 1))
            places = self.places(self.grid.edges[shell + 1] if integrated else between)
            for name, ours in (("query", self.ours(what, places)), ("map", self.held(what, places))):
                worst = float(np.abs(ours / theirs - 1).max())
                if not worst < tolerance:
                    sys.exit(f"query.py: {what} of {name} differs from dustmaps by {worst:.1e}")
                print(f"{what}, {name}: equal to dustmaps to {worst:.1e}")

    def theirs(self, what: str, places: SkyCoord) -> Any:
        """What dustmaps gives."""
        if what.startswith("integrated"):
            return self.integral(places, mode="mean")
        return self.density(places, mode=what)

    def ours(self, what: Any, places: SkyCoord) -> Any:
        """What crdist gives."""
        if what.startswith("integrated"):
            return query(self.loaded, places, integrated=True, value_space="log").values
        return query(self.loaded, places, mode=what, value_space="log", radial="linear").values

    def held(self, what: Any, places: SkyCoord) -> Any:
        """What crdist gives from a map that is kept ready."""
        integrated = what.startswith("integrated")
        return self.maps[integrated](places, mode="mean" if integrated else what).values

    def compare(self, n: int, what: str, rounds: int) -> None:
        """Time one kind of query, and print a line."""
        rng = np.random.default_rng(2)
        places = self.places(rng.uniform(INNER_KPC, OUTER_KPC, n))
        methods: dict[str, Callable[[], Any]] = {"dustmaps": lambda: self.theirs(what, places)}
        for workers in (1, 2):
            methods[f"map {workers}"] = _with_threads(workers, lambda: self.held(what, places))
            methods[f"query {workers}"] = _with_threads(workers, lambda: self.ours(what, places))
        seconds: dict[str, list[float]] = {name: [] for name in methods}
        elapsed: dict[str, list[float]] = {name: [] for name in methods}
        for counts in [False, *[True] * rounds]:
            for name, method in methods.items():
                started, on_clock = time.process_time(), time.perf_counter()
                method()
                if counts:
                    seconds[name].append(time.process_time() - started)
                    elapsed[name].append(time.perf_counter() - on_clock)
        ratios = [
            median_ratio(times["dustmaps"], times[f"{way} {workers}"])
            for way in ("map", "query")
            for workers, times in ((1, seconds), (2, elapsed))
        ]
        first = f"{1e9 * np.median(seconds['dustmaps']) / n:.0f} ns"
        print(f"{n:>9} {what:<16} {first:>10} " + " ".join(f"{ratio:>9.1f} x" for ratio in ratios), flush=True)


def _with_threads(workers: int, method: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with dask.config.set(scheduler="threads", num_workers=workers):
            return method()

    return run


def _write(path: Path, grid: SphericalGrid, n_sample: int) -> None:
    """A smooth map with noise, in the layout that dustmaps reads."""
    rng = np.random.default_rng(0)
    x, y, z = healpy.pix2vec(grid.nside, np.arange(grid.n_pixel), nest=True)
    sky = (1.0 + 0.3 * x + 0.2 * y + 0.6 * np.exp(-8 * z**2)).astype(np.float32)
    values = np.empty((n_sample, grid.n_shell, grid.n_pixel), dtype=np.float32)
    for sample in values:
        rng.standard_normal(dtype=np.float32, out=sample)
        np.exp(np.float32(0.2) * sample, out=sample)
        sample *= np.exp(-np.linspace(0, 3, grid.n_shell, dtype=np.float32))[:, None] * sky
    image = fits.PrimaryHDU(values)
    image.header["NSIDE"], image.header["ORDERING"], image.header["CUNIT"] = grid.nside, "NESTED", "E/pc"
    inner = fits.ImageHDU(values[:, 0] * np.float32(1e3 * INNER_KPC), name="integrated inner")
    inner.header["NSIDE"], inner.header["ORDERING"] = grid.nside, "NESTED"
    inner.header["CTYPE"] = f"inner density integrated within {1e3 * INNER_KPC:g}pc"
    tables = []
    for name, distances in (("radial pixel centers", grid.centres), ("radial pixel boundaries", grid.edges)):
        tables.append(fits.BinTableHDU.from_columns([fits.Column(name, "D", array=1e3 * distances)]))
        tables[-1].name = name
    fits.HDUList([image, inner, *tables]).writeto(path)


if __name__ == "__main__":
    main()
