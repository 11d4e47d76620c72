"""Kill the real command at any moment, run it again: the store is the same to the bit."""

import os
import random
import signal
import time

import psutil
import pytest
import yaml

from command import crdist, fingerprint, start_crdist
from galaxies import SMALL_RECIPE, small_posterior


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A posterior, a recipe of some two seconds' work in many blocks, and what an uninterrupted run makes of them."""
    folder = tmp_path_factory.mktemp("kill")
    small_posterior(folder / "p.zarr", nside=16, n_shell=30, n_sample=12)
    products = [*SMALL_RECIPE["products"], {"name": "fine", "kind": "projection", "axis": "y", "voxel": 0.0625}]
    (folder / "r.yaml").write_text(yaml.safe_dump({**SMALL_RECIPE, "products": products}))
    started = time.monotonic()
    result = crdist(*command(folder, "whole.zarr"))
    assert result.returncode == 0, result.stderr
    return folder, fingerprint(folder / "whole.zarr"), time.monotonic() - started


def command(folder, products):
    options = ("--recipe", folder / "r.yaml", "--threads", 2, "--memory", "3GiB")
    return ("post", folder / "p.zarr", folder / products, *options)


def finish_and_compare(folder, products, expected):
    result = crdist(*command(folder, products))
    assert result.returncode == 0, result.stderr
    assert fingerprint(folder / products) == expected


def kill_and_resume(work, name, seed, whole_group):
    folder, expected, seconds = work
    chance = random.Random(seed)
    for _ in range(chance.choice([1, 1, 2])):
        process = start_crdist(*command(folder, name))
        time.sleep(chance.uniform(0.3, 1.0) * seconds)
        if whole_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.communicate()
    finish_and_compare(folder, name, expected)


@pytest.mark.parametrize("seed", range(2))
def test_killed_command_is_continued(work, seed):
    kill_and_resume(work, f"killed-{seed}.zarr", seed, whole_group=bool(seed % 2))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_killed_command_is_continued_twenty_times_of_twenty(work, seed):
    kill_and_resume(work, f"killed-{seed}.zarr", seed, whole_group=bool(seed % 2))


def test_killed_worker_is_replaced(work):
    folder, expected, _ = work
    process = start_crdist(*command(folder, "worker.zarr"))
    done = folder / "worker.zarr.run" / "done"
    deadline = time.monotonic() + 120
    while not any(done.rglob("*.npz")) and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    assert workers, "the run has no worker process"
    workers[0].kill()
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert fingerprint(folder / "worker.zarr") == expected


def test_workers_end_with_a_killed_command(work):
    folder, _, _ = work
    process = start_crdist(*command(folder, "orphans.zarr"))
    done = folder / "orphans.zarr.run" / "done"
    deadline = time.monotonic() + 120
    while not done.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]


def test_a_torn_block_is_computed_again(work):
    # what a crash of the machine may leave: a file half-written beside its place, and a record without its file
    folder, expected, _ = work
    assert crdist(*command(folder, "torn.zarr")).returncode == 0
    store, run = folder / "torn.zarr", folder / "torn.zarr.run"
    (store / "volume" / "mean" / "c" / "0" / "0" / "0").unlink()
    (store / "midplane" / "std" / "c" / "0" / "0.123.partial").write_bytes(b"half")
    next(run.glob("done/*/sky--*.npz")).unlink()
    finish_and_compare(folder, "torn.zarr", expected)


def test_another_process_on_the_same_store_is_refused(work):
    folder, expected, _ = work
    first = start_crdist(*command(folder, "twice.zarr"))
    deadline = time.monotonic() + 120
    while not (folder / "twice.zarr.run" / "done").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    second = crdist(*command(folder, "twice.zarr"))
    first.communicate(timeout=240)
    assert first.returncode == 0
    # the second either met the first at work, or came after it and found everything done
    assert "another process is running it" in second.stderr or second.returncode == 0
    assert fingerprint(folder / "twice.zarr") == expected
