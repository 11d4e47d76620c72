"""The default recipe on 600 x 600 x 120 voxels: a whole run on two threads beside the kernels and the write alone.

Serial: each block computed, then written, in one process and thread, timed apart. Run: `crdist.run_products` on a
cluster of one worker with two threads. Both phases run in processes of their own, in turn.
"""

from __future__ import annotations

import os

# read when numpy is imported, here and in the phases' processes
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from machine import description

from crdist.grids import SphericalGrid
from crdist.schema import Variable
from crdist.store import create_posterior, posterior_shards, write_shard
from crdist_postproc.plan import DRIVER_BYTES, Workers, format_bytes, parse_bytes, plan_run
from crdist_postproc.recipe import Recipe

NSIDE, N_SHELL, N_SAMPLE = 32, 196, 12
VOXELS = (600, 600, 120)
THREADS = 2


def main() -> None:
    """Run the phases in turn and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", default="3GiB", help="memory of the run (default: 3GiB)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of both phases (default: 3)")
    parser.add_argument("--folder", type=Path, help="where to write some 3 GB (default: the temporary folder)")
    options = parser.parse_args()
    if options.rounds < 1:
        sys.exit("recipe.py: give at least 1 of --rounds")
    workers = Workers(1, THREADS, parse_bytes(options.memory))
    with tempfile.TemporaryDirectory(prefix="crdist-bench-", dir=options.folder) as name:
        folder = Path(name)
        posterior = folder / "posterior.zarr"
        _in_process(write_posterior, posterior)
        plan = plan_run(str(posterior), benchmark_recipe())
        plan.check(workers)
        print(description())
        print(f"{' x '.join(map(str, VOXELS))} voxels, nside {NSIDE} x {N_SHELL} shells x {N_SAMPLE} samples")
        print(f"{plan.n_block} blocks, {plan.work / 1e6:.0f} million voxel-samples")
        serial, runs = [], []
        for number in range(options.rounds):
            serial.append(_in_process(run_serially, posterior, folder / f"serial-{number}.zarr"))
            runs.append(_in_process(run_on_cluster, posterior, folder / f"run-{number}.zarr", workers))
            for left in folder.glob(f"*-{number}.zarr*"):
                shutil.rmtree(left)
    print_times(serial, runs)
    print_memory(runs, plan.peak_bytes(THREADS), workers)
    written = runs[0]["bytes_written"]
    print(f"\nbytes of the products: planned {plan.bytes_written}, written {written}, on the disk {runs[0]['on_disk']}")


def benchmark_recipe() -> Recipe:
    """The default recipe on a box of 40 x 40 x 8 kpc, cut into cubes of 1/15 kpc."""
    recipe = Recipe.default().with_overrides(["grid.z=[-4,4]", f"grid.voxel={40 / VOXELS[0]!r}"])
    if recipe.grid_record.shape != VOXELS:
        sys.exit(f"recipe.py: the recipe has {recipe.grid_record.shape} voxels, not {VOXELS}")
    return recipe


def write_posterior(path: Path) -> None:
    """A posterior of log-normal noise: the values do not change the work."""
    grid = SphericalGrid.log_spaced(NSIDE, N_SHELL, 0.05, 30.0)
    header = create_posterior(
        path,
        grid,
        [Variable("density", "cm-3", "log-normal noise")],
        n_sample=N_SAMPLE,
        layout="packed",
        provenance={"source": {"name": "benchmark", "bytes": 0, "sha256": ""}},
    )
    rng = np.random.default_rng(1)
    for shard in posterior_shards(header):
        shape = [part.stop - part.start for part in shard.region]
        write_shard(header, "density", shard, np.exp(rng.normal(size=shape)))


def run_serially(posterior: Path, store: Path) -> dict[str, Any]:
    """Compute and write every block here, and time the two apart, wall clock and CPU; then each product by itself."""
    from crdist_postproc.books import Books
    from crdist_postproc.driving import compute_piece
    from crdist_postproc.output import RunFolder, create_products, write_block

    plan = plan_run(str(posterior), benchmark_recipe())
    folder = RunFolder(store)
    folder.prepare()
    create_products(store, [job.product for job in plan.jobs], {})
    found: Mapping[str, tuple[set[int], bool]] = {job.product.name: (set(), False) for job in plan.jobs}
    pieces = Books(plan, folder, found, None).missing
    # once through every kernel that the blocks use: compiled code is loaded from its cache at the first call
    kinds = {tuple((job.product.name, block.kind) for job, block in piece): piece for piece in pieces}
    for piece in kinds.values():
        compute_piece(piece, plan.sources)
    together: dict[str, float] = {}
    spent = {"compute_cpu": 0.0, "write": 0.0, "write_cpu": 0.0}
    for piece in pieces:
        wall, cpu = time.perf_counter(), time.process_time()
        results = compute_piece(piece, plan.sources)
        wall_computed, cpu_computed = time.perf_counter(), time.process_time()
        for (job, block), result in zip(piece, results, strict=True):
            write_block(folder, job.product, block, result)
        name = " + ".join(job.product.name for job, _ in piece)
        together[name] = together.get(name, 0.0) + wall_computed - wall
        spent["compute_cpu"] += cpu_computed - cpu
        spent["write"] += time.perf_counter() - wall_computed
        spent["write_cpu"] += time.process_time() - cpu_computed
    alone: dict[str, float] = {}
    for job in plan.jobs:
        started = time.perf_counter()
        for block in job.product.blocks():
            compute_piece(((job, block),), plan.sources)
        alone[job.product.name] = time.perf_counter() - started
    return {**spent, "compute": sum(together.values()), "by_product": together, "alone": alone}


def run_on_cluster(posterior: Path, store: Path, workers: Workers) -> dict[str, Any]:
    """A whole run on a local cluster: times, peak memory of both processes, bytes."""
    started = time.perf_counter()
    import crdist
    from crdist_cluster import local_client

    with local_client(workers.processes, workers.threads, workers.process_bytes) as client:
        ready, cpu = time.perf_counter(), cpu_seconds(client)
        report = crdist.run_products(posterior, store, benchmark_recipe(), client=client, workers=workers)
        done, cpu_done = time.perf_counter(), cpu_seconds(client)
        peaks = list(client.run(peak_resident_bytes).values())
    return {
        "run": done - ready,
        "with_start": time.perf_counter() - started,
        "run_cpu": cpu_done - cpu,
        "tasks": sum(report.seconds_by_product.values()),
        "driver": peak_resident_bytes(),
        "worker": max(peaks),
        "bytes_written": report.bytes_written,
        "on_disk": sum(file.stat().st_size for file in store.rglob("c/**/*") if file.is_file()),
    }


def cpu_seconds(client: Any) -> float:
    """CPU time of this process and the workers so far, all threads."""
    return float(time.process_time() + sum(client.run(time.process_time).values()))


def peak_resident_bytes() -> int:
    """Most memory that this process ever had, from Linux."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status: has no VmHWM; this benchmark needs Linux")


def print_times(serial: list[dict[str, Any]], runs: list[dict[str, Any]]) -> None:
    """Medians over the rounds, and the ratio within each round."""

    def median(found: list[dict[str, Any]], key: str) -> float:
        return float(np.median([item[key] for item in found]))

    print(f"\n{'median of ' + str(len(runs)) + ' rounds':44}{'wall s':>9}{'CPU s':>9}")
    print(f"{'(a) compute, one thread':44}{median(serial, 'compute'):9.2f}{median(serial, 'compute_cpu'):9.2f}")
    for name in serial[0]["by_product"]:
        print(f"{'      ' + name:44}{float(np.median([item['by_product'][name] for item in serial])):9.2f}")
    print(f"{'    as many products, each by itself':44}")
    for name in serial[0]["alone"]:
        print(f"{'      ' + name:44}{float(np.median([item['alone'][name] for item in serial])):9.2f}")
    ratios = [item["compute"] / max(item["alone"].values()) for item in serial]
    print(f"{'    all / the longest by itself':44}{float(np.median(ratios)):9.2f}")
    print(f"{'(b) write, one thread':44}{median(serial, 'write'):9.2f}{median(serial, 'write_cpu'):9.2f}")
    label = f"(c) run, {THREADS} threads, without cluster start"
    print(f"{label:44}{median(runs, 'run'):9.2f}{median(runs, 'run_cpu'):9.2f}")
    print(f"{'    with cluster start and end':44}{median(runs, 'with_start'):9.2f}")
    print(f"{'    time in tasks, summed over threads':44}{median(runs, 'tasks'):9.2f}")
    cores = [item["run_cpu"] / item["run"] for item in runs]
    print(f"{'    cores that it got: CPU / wall':44}{float(np.median(cores)):9.2f}")
    for key, text in (("run", "(c) / (2 (a) + (b))"), ("with_start", "    with cluster start and end")):
        ratios = [r[key] / (2 * s["compute"] + s["write"]) for s, r in zip(serial, runs, strict=True)]
        print(f"{text:44}{float(np.median(ratios)):9.2f}")


def print_memory(runs: list[dict[str, Any]], planned: int, workers: Workers) -> None:
    """Measured peaks beside what was planned and given."""
    driver, worker = (max(item[key] for item in runs) for key in ("driver", "worker"))
    print(f"\n{'peak resident memory':28}{'measured':>10}{'planned':>10}{'given':>10}")
    rows: Mapping[str, tuple[int, int, int]] = {
        "worker": (worker, planned, workers.process_bytes),
        "driver": (driver, DRIVER_BYTES, DRIVER_BYTES),
        "whole run": (driver + worker, planned + DRIVER_BYTES, workers.memory_bytes),
    }
    for name, row in rows.items():
        print(f"{name:28}" + "".join(f"{format_bytes(n):>10}" for n in row))


def _in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process, so that nothing an earlier phase left counts."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


if __name__ == "__main__":
    main()
