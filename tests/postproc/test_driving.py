"""A run on workers that come, go and die, and with blocks that do harm."""

import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from distributed import Client, LocalCluster

from command import fingerprint
from crdist.errors import RunError
from crdist_cluster import local_client
from crdist_postproc import books, driving
from crdist_postproc.books import Books
from crdist_postproc.driving import MOST_FAULTS, run_piece
from crdist_postproc.output import RunFolder
from crdist_postproc.plan import plan_run
from crdist_postproc.recipe import Recipe
from crdist_postproc.run import execute
from galaxies import SMALL_RECIPE, small_posterior
from poisoned import JoinedHereAlone, end_the_worker, fail, fill_the_disk, poison

# every new worker loads and compiles what its blocks need: two kernels are enough here
FEW = {**SMALL_RECIPE, "products": ["midplane", "projection_x", "projection_z"]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A posterior, and what an uninterrupted run in this process makes of it."""
    folder = tmp_path_factory.mktemp("driving")
    small_posterior(folder / "p.zarr")
    execute(plan_of(folder, "whole.zarr"), folder / "whole.zarr")
    return folder


def plan_of(folder, products, recipe=FEW):
    return plan_run(folder / "p.zarr", Recipe.from_mapping(recipe), folder / products)


def records(folder, products):
    """Names of the blocks that are done."""
    return {path.stem.partition("--")[2] for path in (folder / f"{products}.run").glob("done/*/*.npz")}


def all_blocks(plan):
    return {block.name for job in plan.jobs for block in job.product.blocks()}


@contextmanager
def empty_cluster():
    """A cluster that has no workers yet."""
    with (
        LocalCluster(
            n_workers=0,
            threads_per_worker=2,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            silence_logs=50,
        ) as workers,
        Client(workers, set_as_default=False) as client,
    ):
        yield workers, client


def test_a_block_that_ends_its_worker_is_named_and_all_others_are_finished(whole):
    plan = plan_of(whole, "deadly.zarr")
    with local_client(1, 2, 1024**3) as client:
        with pytest.raises(
            RunError, match=r"block projection_x-00001 ended the worker .* more memory or fewer"
        ) as info:
            execute(poison(plan, "projection_x", end_the_worker, [1]), whole / "deadly.zarr", client=client)
        # nothing is left at the scheduler, so the cluster can be used on
        assert not client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.tasks)
        assert "\n" not in str(info.value)
    assert all_blocks(plan) - records(whole, "deadly.zarr") == {"projection_x-00001"}
    report = execute(plan, whole / "deadly.zarr")
    assert report.blocks_computed == 1
    assert fingerprint(whole / "deadly.zarr") == fingerprint(whole / "whole.zarr")


def test_a_last_step_that_ends_its_worker_is_done_by_the_driver(whole):
    plan = plan_of(whole, "joined.zarr")
    jobs = (replace(job, product=JoinedHereAlone(job.product)) for job in plan.jobs)
    with local_client(1, 2, 1024**3, allowed_losses=0) as client:
        execute(replace(plan, jobs=tuple(jobs)), whole / "joined.zarr", client=client)
        assert not client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.tasks)
    assert fingerprint(whole / "joined.zarr") == fingerprint(whole / "whole.zarr")


def test_of_few_blocks_the_long_ones_come_first_of_many_the_recipes_order_holds(whole, monkeypatch):
    plan = plan_of(whole, "ordered.zarr", {**FEW, "products": ["midplane", "radial", "projection_x", "volume"]})
    found = {job.product.name: (set(), False) for job in plan.jobs}
    made = Books(plan, RunFolder(whole / "ordered.zarr", "key"), found, None)
    seconds = {product.name: product.block_seconds for product in plan.products}
    order = [[block.product for _, block in piece] for piece in made.for_threads()]
    assert ["projection_x", "volume"] in order
    missing = [[block.product for _, block in piece] for piece in made.missing]
    assert order == sorted(missing, key=lambda names: -sum(seconds[name] for name in names))
    assert order != missing
    monkeypatch.setattr(books, "FEW_BLOCKS", plan.n_block - 1)
    assert made.for_threads() == made.missing


def test_a_block_that_fails_is_named_and_all_others_are_finished(whole):
    plan = plan_of(whole, "failing.zarr")
    with local_client(1, 2, 1024**3) as client:
        with pytest.raises(
            RunError,
            match=r"block projection_z-00000 could not be computed \(ZeroDivisionError: a number that is none\)",
        ) as info:
            execute(poison(plan, "projection_z", fail), whole / "failing.zarr", client=client)
    assert all_blocks(plan) - records(whole, "failing.zarr") == {"projection_z-00000"}
    log = whole / "failing.zarr.run" / "run.log"
    assert str(log) in str(info.value)
    assert "in fail" in log.read_text()
    execute(plan, whole / "failing.zarr")
    assert fingerprint(whole / "failing.zarr") == fingerprint(whole / "whole.zarr")


def test_the_same_holds_without_a_cluster(whole):
    plan = plan_of(whole, "here.zarr")
    with pytest.raises(RunError, match=r"block midplane-00000 could not be computed \(ZeroDivisionError"):
        execute(poison(plan, "midplane", fail), whole / "here.zarr")
    assert all_blocks(plan) - records(whole, "here.zarr") == {"midplane-00000"}


def test_two_failing_blocks_are_both_named(whole):
    plan = poison(plan_of(whole, "two.zarr"), "projection_z", fail, [0, 1])
    with pytest.raises(
        RunError, match=r"block projection_z-00000 could .*; projection_z-00001 neither; finished blocks are kept"
    ):
        execute(plan, whole / "two.zarr")


def test_a_full_disk_stops_a_run_at_once(whole):
    plan = plan_of(whole, "full.zarr")
    with pytest.raises(RunError, match=r"full\.zarr: No space left on device while writing; .*make room"):
        execute(poison(plan, "midplane", fill_the_disk), whole / "full.zarr")
    assert not records(whole, "full.zarr")


def test_a_fault_of_every_block_is_not_tried_on_every_block(whole):
    fine = {**SMALL_RECIPE, "products": [{"name": "fine", "kind": "projection", "axis": "z", "voxel": 0.0125}]}
    plan = plan_of(whole, "every.zarr", fine)
    n_block = plan.n_block
    assert n_block > 2 * MOST_FAULTS
    tried = []

    def count_and_fail():
        tried.append(1)
        fail()

    with pytest.raises(RunError, match=r"block fine-00000 could not .*fine-00001, .* and 5 more neither"):
        execute(poison(plan, "fine", count_and_fail, range(n_block)), whole / "every.zarr")
    assert len(tried) == MOST_FAULTS


def test_a_run_starts_without_workers_and_follows_them_as_they_come_and_go(whole):
    plan = plan_of(whole, "late.zarr")
    seen = []
    with empty_cluster() as (workers, client):

        def watch(done, left):
            seen.append((time.monotonic(), done, left))
            if len(seen) == 2:
                workers.scale(1)
            if done == 2:
                workers.scale(2)

        execute(plan, whole / "late.zarr", client=client, watch=watch)
    assert [done for _, done, _ in seen[:2]] == [0, 0]
    assert all(done + left == plan.n_block for _, done, left in seen)
    assert seen[-1][2] == 0
    # with nothing to do it is still called about every second
    assert 0.5 < seen[1][0] - seen[0][0] < 5
    assert fingerprint(whole / "late.zarr") == fingerprint(whole / "whole.zarr")


def test_what_the_watch_raises_ends_the_run_and_leaves_no_task_behind(whole):
    def watch(done, left):
        raise RunError("cancelled")

    with empty_cluster() as (_, client):
        with pytest.raises(RunError, match="cancelled"):
            execute(plan_of(whole, "watched.zarr"), whole / "watched.zarr", client=client, watch=watch)
        deadline = time.monotonic() + 10
        while client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
            assert time.monotonic() < deadline, "tasks are left at the scheduler"
            time.sleep(0.05)


def test_a_scheduler_that_goes_away_is_an_error_not_a_wait(whole):
    with empty_cluster() as (workers, client):

        def watch(done, left):
            if workers.status.name == "running":
                threading.Thread(target=workers.close, daemon=True).start()

        with pytest.raises(RunError, match="connection to the Dask scheduler was lost"):
            execute(plan_of(whole, "alone.zarr"), whole / "alone.zarr", client=client, watch=watch)


def test_a_worker_that_does_not_see_the_store_is_an_error(whole):
    plan = plan_of(whole, "unseen.zarr")
    job = plan.jobs[0]
    with pytest.raises(RunError, match=r"nowhere\.zarr: a worker on .* does not see it; put the stores on a disk"):
        run_piece(RunFolder(whole / "nowhere.zarr", "key"), ((job, job.product.blocks()[0]),), plan.sources)


def test_a_cluster_that_stays_without_workers_is_given_up(whole, monkeypatch):
    monkeypatch.setattr(driving, "ALONE_SECONDS", 1.5)
    with empty_cluster() as (_, client), pytest.raises(RunError, match=r"no worker for 0 min; .*start workers"):
        execute(plan_of(whole, "lonely.zarr"), whole / "lonely.zarr", client=client)
