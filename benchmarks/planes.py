"""Planes and columns of a volume as the dashboard reads them, from a small and from a large one.

Each volume is made by the writer of the products, block by block, from a formula instead of samples. Planes and
columns of mean and std are then read through `ProductsSource` at random places: cold, from the files (which the
operating system has in memory if it can), and warm, from the cache of planes. "cubes" are volumes in pieces of
at most 64 x 64 x 64 alone, without the arrays that are laid out by plane.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from machine import description

from crdist.frames import Frame
from crdist.grids import Axis, CartesianGrid, SphericalGrid
from crdist_dashboards.lru import PLANES
from crdist_dashboards.products import ProductsSource
from crdist_postproc.output import RunFolder, create_products, declare_complete, write_block
from crdist_postproc.products.base import ArraySpec, Block, BlockResult, Quantity
from crdist_postproc.products.volume import BY_PLANE, VolumeMap
from crdist_postproc.statistics import STATISTICS, significance_and_error

HALF_KPC = (20.0, 20.0, 3.0)
N_SAMPLE = 12
PIECE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class CubesVolume(VolumeMap):
    """A volume in cubic pieces, and nothing by plane."""

    def arrays(self) -> tuple[ArraySpec, ...]:
        """The arrays to create."""
        found = []
        for spec in VolumeMap.arrays(self):
            if spec.name.endswith(BY_PLANE):
                continue
            # as in the first products of crdist: the largest pieces that divide the file
            inner = tuple(max(n for n in range(1, PIECE + 1) if size % n == 0) for size in spec.chunks)
            found.append(replace(spec, inner_chunks=inner))
        return tuple(found)


def main() -> None:
    """Write the volumes, time the reads and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxels", default=["200x200x30", "1024x1024x256"], nargs="+", help="sizes, such as 64x64x16")
    parser.add_argument("--layout", choices=["products", "cubes"], default="products", help="(default: products)")
    parser.add_argument("--reads", type=int, default=15, help="reads of each kind (default: 15)")
    parser.add_argument("--folder", type=Path, help="where to write 28 bytes a voxel (default: the temporary folder)")
    options = parser.parse_args()
    if options.reads < 1:
        sys.exit("planes.py: give at least 1 of --reads")
    print(description())
    print(f"layout: {options.layout}; median of {options.reads} reads of mean and std, ms")
    for number, text in enumerate(options.voxels):
        try:
            nx, ny, nz = (int(part) for part in text.split("x"))
        except ValueError:
            sys.exit(f"planes.py: --voxels are three numbers such as 64x64x16, got {text!r}")
        with tempfile.TemporaryDirectory(prefix="crdist-bench-", dir=options.folder) as folder:
            store = Path(folder) / "volume.zarr"
            seconds = write_volume(store, volume((nx, ny, nz), options.layout))
            size = sum(file.stat().st_size for file in store.rglob("c/**/*") if file.is_file())
            if number == 0:
                print(
                    f"\n{'':16}"
                    + "".join(f"{name:>11}{'(warm)':>9}" for name in ("z-plane", "x-plane", "y-plane", "column"))
                )
            print(f"{text:16}" + "".join(f"{cold:11.1f}{warm:9.2f}" for cold, warm in read_times(store, options.reads)))
            print(f"{'':16}written in {seconds:.0f} s, {size / 1e9:.2f} GB")


def volume(shape: tuple[int, int, int], layout: str) -> VolumeMap:
    """The product of one size and layout."""
    x, y, z = (Axis(-half, half, n) for half, n in zip(HALF_KPC, shape, strict=True))
    return (CubesVolume if layout == "cubes" else VolumeMap)(
        name="volume",
        quantity=Quantity("density", "cm-3", "number density", N_SAMPLE),
        frame=Frame(),
        per_sample=False,
        grid=CartesianGrid(x, y, z, Frame()),
        native=SphericalGrid.log_spaced(nside=1, n_shell=2, inner_kpc=0.1, outer_kpc=30.0),
    )


def write_volume(store: Path, product: VolumeMap) -> float:
    """Write a store of one volume; return the seconds."""
    started = time.perf_counter()
    attributes = {
        "quantity": {"name": "density", "units": "cm-3", "long_name": "number density"},
        "n_sample": N_SAMPLE,
        "frame": Frame().to_dict(),
    }
    create_products(store, [product], attributes)
    folder = RunFolder(store)
    folder.prepare()
    for block in product.blocks():
        write_block(folder, product, block, values(product, block))
    declare_complete(store)
    return time.perf_counter() - started


def values(product: VolumeMap, block: Block) -> BlockResult:
    """A disc with ripples, in place of what the samples would give."""
    x, y = (axis.centres[part] for axis, part in zip(product.grid.axes, block.region, strict=False))
    z = product.grid.z.centres
    disc = np.exp(-np.hypot(x[:, None], y) / 5.0) * (1.5 + np.sin(7.0 * x[:, None]) * np.sin(5.0 * y))
    mean = (disc[..., None] * np.exp(-np.abs(z))).astype(np.float32)
    std = np.float32(0.2) * mean
    significance = significance_and_error(mean, std, N_SAMPLE)
    arrays = dict(zip(STATISTICS, (mean, std, *significance), strict=True))
    arrays["coverage"] = np.ones_like(mean)
    wanted = {spec.name for spec in product.arrays()}
    by_plane = {name + BY_PLANE: np.moveaxis(arrays[name], 2, 0) for name in ("mean", "std")}
    return BlockResult({name: array for name, array in {**arrays, **by_plane}.items() if name in wanted})


def read_times(store: Path, reads: int) -> list[tuple[float, float]]:
    """Median milliseconds of each kind of read, cold and warm."""
    source = ProductsSource(store)
    info = source.info("volume")
    rng = np.random.default_rng(1)

    def place(kind: str) -> dict[str, int]:
        chosen = "xy" if kind == "column" else kind
        return {name: int(rng.integers(info.grid_axis(name).n)) for name in chosen}

    def read(at: dict[str, int]) -> None:
        for name in ("mean", "std"):
            if len(at) == 1:
                source.plane("volume", name, *next(iter(at.items())))
            else:
                source.read("volume", name, **at)

    found = []
    for kind in ("z", "x", "y", "column"):
        cold: list[float] = []
        warm: list[float] = []
        for _ in range(reads + 1):
            at = place(kind)
            PLANES.clear()
            for times in (cold, warm):
                started = time.perf_counter()
                read(at)
                times.append(1e3 * (time.perf_counter() - started))
        # the first loads code and metadata
        found.append((float(np.median(cold[1:])), float(np.median(warm[1:]))))
    return found


if __name__ == "__main__":
    main()
