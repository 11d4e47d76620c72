"""A posterior larger than memory, explored lazily: time, what was read, and the peak of memory of each step.

Writes a packed store of a model galaxy, if the folder holds none yet, and takes each step in a process of its own, with
Dask's threads. Memory is the largest resident set of the process (VmHWM); what the operating system keeps of files in
memory it lends from what nobody needs, and does not count here. "read" counts what the process asked of the files.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import dask
import numpy as np
from machine import description

import crdist
from crdist.frames import Frame
from crdist.grids import SphericalGrid
from crdist.schema import Variable
from crdist.store import create_posterior, new_store, posterior_shards, write_shard

FRAME = Frame(name="galactocentric", r0_kpc=8.178, z_sun_kpc=0.0208)
R_INNER_KPC, R_OUTER_KPC = 0.05, 30.0


def main() -> None:
    """Write the store and print a row for each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="the posterior store; written if it does not exist")
    parser.add_argument("--nside", type=int, default=256, help="(default: 256)")
    parser.add_argument("--shells", type=int, default=516, help="(default: 516)")
    parser.add_argument("--samples", type=int, default=12, help="(default: 12)")
    parser.add_argument("--threads", type=int, default=2, help="threads of Dask (default: 2)")
    parser.add_argument("--memory", default="256 MiB", help="crdist.tile-memory (default: 256 MiB)")
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS), help="(default: all)")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        explore(options.store, options.steps[0], options.threads, options.memory)
        return
    print(description())
    if not options.store.exists():
        grid = SphericalGrid.log_spaced(options.nside, options.shells, R_INNER_KPC, R_OUTER_KPC)
        started = time.perf_counter()
        write(options.store, grid, options.samples)
        print(f"written in {time.perf_counter() - started:.0f} s")
    n_bytes = crdist.open_posterior(options.store)["density"].nbytes
    print(f"samples: {n_bytes / 1e9:.1f} GB; {options.threads} threads, crdist.tile-memory {options.memory}")
    print(f"{'step':<12} {'graph s':>8} {'compute s':>9} {'read GB':>8} {'peak MiB':>8}")
    for step in options.steps:
        command = [sys.executable, __file__, str(options.store), "--alone", "--steps", step]
        command += ["--threads", str(options.threads), "--memory", options.memory]
        done = subprocess.run(command, check=False)
        if done.returncode:
            sys.exit(f"lazy.py: the step {step} ended with {done.returncode}")


def write(path: Path, grid: SphericalGrid, n_sample: int) -> None:
    """A disc about the Galactic centre, rippled by a wave in each sample; shard by shard."""
    import healpy

    rng = np.random.default_rng(1)
    waves = rng.normal(size=(n_sample, 3)).astype(np.float32)
    phases = rng.uniform(0.0, 2.0 * np.pi, n_sample).astype(np.float32)
    with new_store(path) as folder:
        header = create_posterior(
            folder,
            grid,
            [Variable("density", "cm-3", "number density of a model galaxy")],
            n_sample=n_sample,
            layout="packed",
            provenance={"source": "benchmarks/lazy.py"},
        )
        for shard in posterior_shards(header):
            pixels = np.arange(shard.pixels.start, shard.pixels.stop)
            directions = np.stack(healpy.pix2vec(grid.nside, pixels, nest=True), axis=-1).astype(np.float32)
            places = directions[:, None] * grid.centres[shard.shells].astype(np.float32)[:, None]
            radius = np.hypot(places[..., 0] - np.float32(FRAME.r0_kpc), places[..., 1])
            disc = np.exp(-radius / 6 - np.abs(places[..., 2]) / 2)
            write_shard(header, "density", shard, disc[..., None] * (1 + 0.2 * np.sin(places @ waves.T + phases)))


def midplane(store: Path) -> float:
    """Mean and standard deviation over the samples in the mid-plane, 800 x 800 places over 40 kpc."""
    grid = crdist.CartesianGrid.from_extent((-20, 20), (-20, 20), (-0.025, 0.025), voxel=0.05, frame=FRAME)
    plane = crdist.slice_plane(crdist.open_posterior(store)["density"], grid, "z", 0.0)
    return computed(plane.mean("sample"), plane.std("sample", ddof=1))


def local(store: Path) -> float:
    """The column density of the cube of 2.5 kpc about the Sun, along z, voxels of 20 pc."""
    x, y, z = FRAME.sun_kpc
    cube = [(round(at, 2) - 1.25, round(at, 2) + 1.25) for at in (x, y, z)]
    grid = crdist.CartesianGrid.from_extent(*cube, voxel=0.02, frame=FRAME)
    columns = crdist.project(crdist.open_posterior(store)["density"], grid, "z")
    return computed(columns.mean("sample"), columns.std("sample", ddof=1))


def galaxy(store: Path) -> float:
    """The column density of the Galaxy along z, 40 x 40 x 6 kpc, voxels of 0.1 kpc."""
    grid = crdist.CartesianGrid.from_extent((-20, 20), (-20, 20), (-3, 3), voxel=0.1, frame=FRAME)
    columns = crdist.project(crdist.open_posterior(store)["density"], grid, "z")
    return computed(columns.mean("sample"), columns.std("sample", ddof=1))


def shell(store: Path) -> float:
    """Mean and standard deviation over the samples in the shell nearest 8 kpc, every pixel."""
    density = crdist.open_posterior(store)["density"]
    one = density.isel(shell=int(np.abs(density["distance"].to_numpy() - 8.0).argmin()))
    return computed(one.mean("sample"), one.std("sample", ddof=1))


def catalogue(store: Path, *, integrated: bool = False) -> float:
    """The mean at 500,000 points in all directions, 0.1 to 20 kpc away."""
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(500_000, 3))
    points = directions / np.linalg.norm(directions, axis=1)[:, None] * rng.uniform(0.1, 20.0, 500_000)[:, None]
    frame = Frame(name="heliocentric")
    places = tuple(points.T)
    return computed(
        crdist.query(crdist.open_posterior(store)["density"], places, frame=frame, units="kpc", integrated=integrated)
    )


def columns(store: Path) -> float:
    """The mean of the integrals from the Sun to the same points."""
    return catalogue(store, integrated=True)


STEPS: dict[str, Callable[[Path], float]] = {
    "midplane": midplane,
    "local": local,
    "galaxy": galaxy,
    "shell": shell,
    "catalogue": catalogue,
    "columns": columns,
}


def computed(*arrays: object) -> float:
    """Compute; return when that began."""
    started = time.perf_counter()
    for array in dask.compute(*arrays):
        if not np.isfinite(np.asarray(array)).any():
            sys.exit("lazy.py: the result holds no number")
    return started


def explore(store: Path, step: str, threads: int, memory: str) -> None:
    """One step, and a row of the table."""
    # columns outside the data have no mean
    warnings.filterwarnings("ignore", "invalid value encountered in divide", RuntimeWarning)
    before = kernel_value("/proc/self/io", "rchar:")
    begun = time.perf_counter()
    with dask.config.set({"scheduler": "threads", "num_workers": threads, "crdist.tile-memory": memory}):
        started = STEPS[step](store)
    ended = time.perf_counter()
    read = kernel_value("/proc/self/io", "rchar:") - before
    peak = kernel_value("/proc/self/status", "VmHWM:") / 1024
    print(f"{step:<12} {started - begun:8.2f} {ended - started:9.1f} {read / 1e9:8.2f} {peak:8.0f}", flush=True)


def kernel_value(path: str, name: str) -> int:
    """A number that Linux gives about this process."""
    line = next(line for line in Path(path).read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])


if __name__ == "__main__":
    main()
