"""What a run costs beside its work: planning, driving, the reference work, and a thousand workers that are simulated.

plan: the default recipe with voxels so fine that it has a given number of blocks, planned and entered into the books.
drive: blocks that do nothing, through the driver, a Dask scheduler and workers; each leaves its record on the disk.
reference: the default recipe on 600 x 600 x 120 voxels; what is not computing, reading or writing blocks is overhead.
simulate: the driver's own loop hands out blocks to workers of which only the clock exists, at the costs that "drive"
has measured.
"""

from __future__ import annotations

import os

# read when numpy is imported, here and in the processes of the parts
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import itertools
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from idle_product import IdleProduct
from machine import description
from recipe import benchmark_recipe, cpu_seconds, peak_resident_bytes, write_posterior
from simulated_pool import Costs, SimulatedPool

from crdist_cluster import local_client
from crdist_cluster.local import COMMON_SETTINGS
from crdist_postproc import driving
from crdist_postproc.books import Books
from crdist_postproc.output import RunFolder, create_products, finished_blocks
from crdist_postproc.plan import ProductPlan, RunPlan, Workers, parse_bytes, plan_run
from crdist_postproc.products import Job
from crdist_postproc.recipe import Recipe

PARTS = ("plan", "drive", "reference", "simulate")
MIB = 1024**2
LEAST_BUSY = 0.97
CONNECT_SECONDS = 120.0
REST_SECONDS = 5.0


def main() -> None:
    """Measure the parts that are asked for, and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument("--blocks", nargs="+", type=int, default=[10**4, 10**5, 10**6], help="blocks that are planned")
    parser.add_argument("--driven", type=int, default=2000, help="blocks that are driven (default: 2000)")
    parser.add_argument(
        "--threads", nargs="+", type=int, default=[1, 2, 64], help="threads of the worker that is driven"
    )
    parser.add_argument(
        "--connected", nargs="+", type=int, default=[100, 200], help="workers of a thread in one process"
    )
    parser.add_argument(
        "--reference-threads", nargs="+", type=int, default=[1, 2], help="of the worker's (default: 1 2)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the reference work (default: 3)")
    parser.add_argument("--memory", default="3GiB", help="memory of the reference work (default: 3GiB)")
    parser.add_argument("--workers", type=int, default=1000, help="simulated workers, of a thread each (default: 1000)")
    parser.add_argument("--seconds", nargs="+", type=float, default=[0.3, 1, 3, 10], help="time of simulated blocks")
    parser.add_argument("--folder", type=Path, help="where to write some 2 GB (default: the temporary folder)")
    options = parser.parse_args()
    print(description())
    with tempfile.TemporaryDirectory(prefix="crdist-bench-", dir=options.folder) as name:
        folder = Path(name)
        posterior = folder / "posterior.zarr"
        in_process(write_posterior, posterior)
        if "plan" in options.parts:
            show_plans(posterior, options.blocks)
        costs = None
        if {"drive", "simulate"} & set(options.parts):
            costs = show_driving(folder, options.driven, options.threads, options.connected, options.workers)
        if "reference" in options.parts:
            workers = [Workers(1, n, parse_bytes(options.memory)) for n in options.reference_threads]
            show_reference(folder, workers, options.rounds)
        if "simulate" in options.parts and costs is not None:
            show_simulation(folder, costs, options.workers, options.seconds, options.blocks)


# plan


def show_plans(posterior: Path, numbers: Sequence[int]) -> None:
    """Time and memory of planning and of the books, a new process for each number of blocks."""
    print(f"\n{'plan: blocks':>14}{'plan s':>9}{'books s':>9}{'CPU s':>9}{'peak MiB':>10}{'B/block':>9}{'files':>12}")
    for number in numbers:
        found = in_process(plan_once, posterior, number)
        print(
            f"{found['blocks']:14,}{found['plan']:9.2f}{found['books']:9.2f}{found['cpu']:9.2f}"
            f"{found['peak'] / MIB:10.0f}{found['grown'] / found['blocks']:9.0f}"
            f"{found['files']:12,}"
        )


def plan_once(posterior: Path, number: int) -> dict[str, float]:
    """Plan a run of about so many blocks, and make its books."""
    recipe = in_process(recipe_of, posterior, number)
    before, cpu, started = _resident_bytes(), time.process_time(), time.perf_counter()
    plan = plan_run(posterior, recipe)
    planned = time.perf_counter()
    folder = RunFolder(posterior.with_name("planned.zarr"), "key")
    books = _books(plan, folder)
    ended = time.perf_counter()
    return {
        "blocks": books.n_missing,
        "plan": planned - started,
        "books": ended - planned,
        "cpu": time.process_time() - cpu,
        "peak": peak_resident_bytes(),
        "grown": _resident_bytes() - before,
        "files": sum(map(_count_files, plan.jobs)),
    }


def recipe_of(posterior: Path, number: int) -> Recipe:
    """The default recipe with voxels of 2 kpc over a whole number, chosen for about so many blocks."""
    parts, counted = 20, 0
    for _ in range(6):
        recipe = Recipe.default().with_overrides([f"grid.voxel={2 / parts!r}"])
        counted = plan_run(posterior, recipe).n_block
        if 0.9 * number < counted < 1.2 * number:
            break
        # from a guess that is too low on, the next are near
        parts = round(min(parts * (number / counted) ** (1 / 3), 4 * parts))
    return recipe


# drive


def show_driving(folder: Path, n_block: int, threads: Sequence[int], connected: Sequence[int], n_worker: int) -> Costs:
    """Blocks that do nothing, on one worker of several threads, then on many workers; what that costs a run of many."""
    print(f"\ndrive: {n_block} blocks that do nothing; CPU of driver and scheduler, and of the workers, ms a block")
    print(
        f"{'workers x threads':>20}{'blocks/s':>10}{'in a turn':>11}{'driver':>8}{'workers':>9}{'task ms':>9}"
        f"{'at rest':>9}{'MiB':>6}"
    )
    found = []
    for workers, n_thread in (*((1, n) for n in threads), *((n, 1) for n in connected)):
        seen = in_process(drive_once, folder / f"driven-{workers}-{n_thread}.zarr", n_block, workers, n_thread)
        found.append(seen)
        print(
            f"{f'{workers} x {n_thread}':>20}{n_block / seen['wall']:10.0f}{seen['turn']:11.1f}"
            f"{1e3 * seen['driver']:8.2f}{1e3 * seen['at_workers']:9.2f}{1e3 * seen['task']:9.2f}{seen['rest']:9.1%}"
            f"{seen['peak'] / MIB:6.0f}"
        )
    costs = fitted(found, n_worker)
    print(
        f"so: {1e3 * costs.turn_seconds:.2f} ms a turn of the loop, {1e3 * costs.block_seconds:.2f} ms a block and, "
        f"with {n_worker} workers, {costs.rest_share:.1%} of a core at rest in the driver's process; "
        f"{1e3 * costs.worker_seconds:.2f} ms a block at a worker"
    )
    return costs


def drive_once(store: Path, n_block: int, n_worker: int, n_thread: int) -> dict[str, float]:
    """Drive blocks that do nothing."""
    plan = idle_plan(store.with_name("posterior.zarr"), n_block)
    folder = RunFolder(store, "key")
    folder.prepare()
    create_products(store, [], {})
    books = _books(plan, folder)
    with workers_of(n_worker, n_thread) as (client, workers_cpu):
        cpu = time.process_time()
        time.sleep(REST_SECONDS)
        rest = (time.process_time() - cpu) / REST_SECONDS
        drive = _CountingDrive(books, client, driving._Faults(folder), None)
        workers, cpu, started = workers_cpu(), time.process_time(), time.perf_counter()
        drive.run()
        wall, cpu, workers = time.perf_counter() - started, time.process_time() - cpu, workers_cpu() - workers
    return {
        "n_worker": n_worker,
        "wall": wall,
        "turn": n_block / drive.turns,
        "rest": rest,
        "driver": (cpu - rest * wall) / n_block,
        "at_workers": workers / n_block,
        "task": books.seconds["idle"] / n_block,
        "peak": peak_resident_bytes(),
    }


class _CountingDrive(driving._Drive):
    """Counts the turns of the loop in which something had ended."""

    turns = 0

    def _tokens(self, ended: list[Any]) -> Any:
        self.turns += bool(ended)
        return super()._tokens(ended)


def fitted(found: Sequence[dict[str, float]], n_worker: int) -> Costs:
    """Costs of a run on many workers, from runs on few.

    That of a turn is from the runs on one worker that settle least and most in a turn. The rest is each block's, of
    which the dearest counts, as each of many workers sends messages of its own. What a worker costs at rest adds up.
    """
    from distributed.scheduler import heartbeat_interval

    alone = [seen for seen in found if seen["n_worker"] == 1]
    few, many = (choose(alone, key=lambda seen: seen["turn"]) for choose in (min, max))
    turn = (few["driver"] - many["driver"]) / (1 / few["turn"] - 1 / many["turn"])
    block = max(seen["driver"] - turn / seen["turn"] for seen in found if seen is not few)
    most = max(found, key=lambda seen: seen["n_worker"])
    # Dask spreads heartbeats as workers are added
    beats, seen_beats = (n / heartbeat_interval(int(n)) for n in (n_worker, most["n_worker"]))
    rest = few["rest"] + max(most["rest"] - few["rest"], 0.0) * beats / seen_beats
    return Costs(turn, block, min(seen["at_workers"] for seen in alone), rest)


@contextmanager
def workers_of(n_worker: int, n_thread: int) -> Iterator[tuple[Any, Callable[[], float]]]:
    """A client with one worker as a run has it, or many in a process of theirs, and what their CPU time is."""
    if n_worker == 1:
        with local_client(1, n_thread, 1024 * MIB) as client:
            yield client, lambda: sum(client.run(time.process_time).values())
        return
    import dask
    import psutil
    from distributed import Client, LocalCluster

    settings = {f"DASK_{key.upper().replace('.', '__')}": str(value) for key, value in COMMON_SETTINGS.items()}
    with (
        dask.config.set(COMMON_SETTINGS),
        LocalCluster(
            0, host="127.0.0.1", dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False}
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
        subprocess.Popen(
            [
                sys.executable,
                Path(__file__).with_name("many_workers.py"),
                cluster.scheduler_address,
                str(n_worker),
                "1",
            ],
            env={**os.environ, **settings},
        ) as process,
    ):
        try:
            client.wait_for_workers(n_worker, timeout=CONNECT_SECONDS)
            yield client, lambda: sum(psutil.Process(process.pid).cpu_times()[:2])
        finally:
            process.terminate()


def idle_plan(posterior: Path, n_block: int, seconds: float = 0.0) -> RunPlan:
    """A plan of blocks that wait for a time and read nothing of a posterior that is there."""
    plan = plan_run(posterior, Recipe.default())
    job = plan.jobs[0]
    product = IdleProduct(
        name="idle", quantity=job.product.quantity, frame=job.product.frame, n_block=n_block, seconds=seconds
    )
    cost = ProductPlan("idle", "idle", (n_block,), n_block, n_block, 0, 0, None)
    return replace(plan, jobs=(Job(product, job.source),), products=(cost,))


# reference


def show_reference(folder: Path, workers: Sequence[Workers], rounds: int) -> None:
    """The part of a run that is neither computing, reading nor writing; every round, as a median hides bad ones."""
    print("\nreference: overhead is what threads were not at work on blocks, as a part of the run")
    print(
        f"{'threads':>9}{'run s':>8}{'blocks s':>10}{'start s':>9}{'overhead':>10}{'after start':>13}"
        f"{'CPU s':>8}{'driver CPU':>12}"
    )
    for number, each in itertools.product(range(rounds), workers):
        seen = in_process(run_reference, folder / f"reference-{number}-{each.threads}.zarr", each)
        overhead = 1 - seen["tasks"] / (each.threads * seen["run"])
        after = 1 - seen["tasks"] / (each.threads * (seen["run"] - seen["start"]))
        print(
            f"{each.threads:9}{seen['run']:8.2f}{seen['tasks']:10.2f}{seen['start']:9.2f}{overhead:10.1%}{after:13.1%}"
            f"{seen['cpu']:8.2f}{seen['driver'] / seen['cpu']:12.1%}"
        )


def run_reference(store: Path, workers: Workers) -> dict[str, float]:
    """One run: time from the call to its return, to the first block, and in blocks."""
    import crdist

    with local_client(1, workers.threads, workers.process_bytes) as client:
        # Dask's record of when tasks began, on the clock of this machine
        client.get_task_stream(count=0)
        own, cpu, began, started = time.process_time(), cpu_seconds(client), time.time(), time.perf_counter()
        report = crdist.run_products(store.with_name("posterior.zarr"), store, benchmark_recipe(), client=client)
        run, own, cpu = time.perf_counter() - started, time.process_time() - own, cpu_seconds(client) - cpu
        first = min(part["start"] for task in client.get_task_stream() for part in task["startstops"])
    return {
        "run": run,
        "tasks": sum(report.seconds_by_product.values()),
        "start": first - began,
        "cpu": cpu,
        "driver": own,
    }


# simulate


def show_simulation(
    folder: Path, costs: Costs, n_worker: int, seconds: Sequence[float], numbers: Sequence[int]
) -> None:
    """Part of the time that simulated workers are at work, by the time of a block; and the least that keeps them so."""
    fewest = min(n for n in numbers if n >= 50 * n_worker) if max(numbers) >= 50 * n_worker else max(numbers)
    print(f"\nsimulate: {n_worker} workers of a thread")
    print(f"{'block s':>9}{'blocks':>11}{'run s':>10}{'at work':>9}{'blocks/s':>10}{'dry CPU s':>11}{'peak MiB':>10}")
    for each, number in (*((each, fewest) for each in seconds), (max(seconds), max(numbers))):
        seen = in_process(simulate, folder, number, n_worker, each, costs)
        print(
            f"{each:9.1f}{number:11,}{seen['run']:10.0f}{seen['busy']:9.1%}{number / seen['run']:10.0f}"
            f"{seen['cpu']:11.1f}{seen['peak'] / MIB:10.0f}"
        )
    few, many = 0.0, max(seconds)
    while many - few > 0.02 * many:
        middle = (few + many) / 2
        if in_process(simulate, folder, 100 * n_worker, n_worker, middle, costs)["busy"] < LEAST_BUSY:
            few = middle
        else:
            many = middle
    print(f"blocks of {many:.1f} s keep {n_worker} threads at work {LEAST_BUSY:.0%} of the time, shorter ones do not")


def simulate(folder: Path, n_block: int, n_worker: int, seconds: float, costs: Costs) -> dict[str, float]:
    """Drive blocks on workers of which only the clock exists."""
    plan = idle_plan(folder / "posterior.zarr", n_block)
    run = RunFolder(folder / "simulated.zarr", "key")
    books = _books(plan, run)
    pool = SimulatedPool(n_worker, seconds, costs)
    drive = driving._Drive(books, pool, driving._Faults(run), None)
    drive.ended = pool
    cpu = time.process_time()
    drive.run()
    return {
        "run": pool.now,
        "busy": pool.busy_seconds / (n_worker * pool.now),
        "cpu": time.process_time() - cpu,
        "peak": peak_resident_bytes(),
    }


def _books(plan: RunPlan, folder: RunFolder) -> Books:
    found = {job.product.name: finished_blocks(folder, job.product) for job in plan.jobs}
    return Books(plan, folder, found, None)


def _count_files(job: Job) -> int:
    """Files that the blocks of a product leave: one of each array that is cut as they are, and the record."""
    product, blocks = job.product, job.product.blocks()
    n_array = sum(set(product.dims) <= set(spec.dims) for spec in product.arrays())
    return len(blocks) + n_array * sum(map(product.blocks_write, blocks))


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status: has no VmRSS; this benchmark needs Linux")


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process, so that nothing an earlier part left counts."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


if __name__ == "__main__":
    main()
