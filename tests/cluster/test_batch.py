"""A cluster of batch jobs on a real Slurm: started, repaired, given up and ended."""

import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from crdist.errors import RunError
from crdist_cluster.batch import batch_client
from crdist_cluster.ledger import ClusterStatus, JobLedger
from crdist_cluster.recipe import ClusterRecipe
from crdist_cluster.versions import breaking, compare

RECIPE = {"scheduler": "slurm", "queue": "normal", "cores": 1, "memory": "900MB", "walltime": "00:10:00"}


def recipe(**changes):
    return ClusterRecipe.from_mapping({**RECIPE, **changes})


def keep_watching(batch, until, left=None, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, ClusterStatus.read(batch.folder)
        batch.watch(0.0, left)
        time.sleep(0.1)


def connected(batch):
    return [job for job in batch.fleet.jobs.values() if job.connected]


def sbatch_that_fails(folder, monkeypatch, times):
    """Put a command before the real sbatch that fails so many times; the number of its calls is kept in a file."""
    real = shutil.which("sbatch")
    folder.mkdir()
    script = folder / "sbatch"
    script.write_text(
        f'#!/bin/sh\ncase $* in *test-only*) exec {real} "$@";; esac\necho >> {folder}/calls\n'
        f'if [ "$(wc -l < {folder}/calls)" -le {times} ]; then echo "queue is full today" >&2; exit 7; fi\n'
        f'exec {real} "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder / "calls"


def test_lost_jobs_are_replaced_strangers_refused_and_nothing_is_left(slurm, tmp_path):
    lines = []
    with batch_client(recipe(jobs=2), tmp_path, tell=lines.append) as batch:
        batch.workers_needed()
        keep_watching(batch, lambda: len(connected(batch)) == 2)
        assert set(batch.client.map(lambda _: os.environ["OMP_NUM_THREADS"], range(2), pure=False)[0].result()) == {"1"}

        # the keys are for their owner alone, and without them nobody comes in
        tls = tmp_path / "cluster" / "tls"
        assert stat.S_IMODE(tls.stat().st_mode) == 0o700
        assert stat.S_IMODE((tls / "key.pem").stat().st_mode) == 0o600
        scheduler = batch.client.cluster.scheduler
        known = set(scheduler.clients)
        host, port = scheduler.address.removeprefix("tls://").rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=5) as plain:
            # Dask's own greeting, which a server without TLS answers with its own
            plain.settimeout(10)
            answer = b""
            with suppress(ConnectionResetError):
                plain.sendall(b"\0" * 64)
                answer = plain.recv(64)
        # nothing but TLS's alert, and the end
        assert answer[:1] in (b"", b"\x15")
        assert set(scheduler.clients) == known

        first, second = connected(batch)
        slurm.scancel(first.id)
        keep_watching(batch, lambda: len(connected(batch)) == 2 and first not in connected(batch))
        assert second in connected(batch)
        assert batch.client.submit(sum, [1, 2]).result(timeout=20) == 3

        batch.report(3, 10, "block 3 of 10")
        keep_watching(batch, lambda: ClusterStatus.read(tmp_path).total == 10)
        status = ClusterStatus.read(tmp_path)
        assert {job["id"] for job in status.jobs} == {job.id for job in connected(batch)}
        assert status.driver["pid"] == os.getpid()
        assert (status.stage, status.finished, status.error) == ("post", False, None)
        assert JobLedger(tmp_path).open_ids() == [second.id, *(job.id for job in connected(batch) if job is not second)]
    assert not set(slurm.squeue()) & {first.id, second.id}
    assert not slurm.squeue()
    assert JobLedger(tmp_path).open_ids() == []
    assert not tls.exists()
    assert "<html" in (tmp_path / "cluster" / "performance.html").read_text()[:2000].lower()
    status = ClusterStatus.read(tmp_path)
    assert (status.state, status.finished, status.error, list(status.jobs)) == ("done", True, None, [])
    assert any("2 workers of 2 at work" in line or "1 worker of 2 at work" in line for line in lines)


def test_a_submission_that_fails_is_shown_and_tried_again(slurm, tmp_path, monkeypatch):
    calls = sbatch_that_fails(tmp_path / "bin", monkeypatch, times=2)
    lines = []
    with batch_client(recipe(), tmp_path / "run", tell=lines.append) as batch:
        batch.workers_needed()
        assert len(calls.read_text().splitlines()) == 3
    told, _ = [line for line in lines if "failed" in line]
    assert "1 submission failed: command: sbatch " in told
    assert "stderr: queue is full today" in told


def test_submissions_that_keep_failing_are_given_up_with_what_was_said(slurm, tmp_path, monkeypatch):
    calls = sbatch_that_fails(tmp_path / "bin", monkeypatch, times=99)
    with (
        pytest.raises(RunError, match=r"no job could be submitted, 2 attempts failed: command: sbatch .*full today"),
        batch_client(recipe(submit_attempts=2), tmp_path / "run", tell=lambda _: None) as batch,
    ):
        batch.workers_needed()
    assert len(calls.read_text().splitlines()) == 2
    status = ClusterStatus.read(tmp_path / "run")
    assert (status.finished, status.state) == (False, "stopped")
    assert "2 attempts failed" in status.error


def test_jobs_that_never_bring_up_a_worker_are_given_up_with_their_last_words(slurm, tmp_path):
    broken = recipe(setup=["echo there is no such module >&2", "exit 3"], submit_attempts=2)
    with (
        pytest.raises(RunError, match=r"2 jobs in a row ended before .*last line of .*\.err: there is no such module"),
        batch_client(broken, tmp_path, tell=lambda _: None) as batch,
    ):
        batch.workers_needed()
    assert not slurm.squeue()


def test_the_number_of_jobs_follows_the_work(slurm, tmp_path):
    with batch_client(recipe(jobs={"min": 0, "max": 2}), tmp_path, tell=lambda _: None) as batch:
        batch.watch(0.0, left=0)
        time.sleep(1)
        assert not slurm.squeue()
        keep_watching(batch, lambda: len(connected(batch)) == 2, left=7)
        # the queue forgets a job a moment before the scheduler misses its worker
        keep_watching(batch, lambda: len(slurm.squeue()) == len(connected(batch)) == 1, left=1)
        keep_watching(batch, lambda: not slurm.squeue(), left=0)


def test_a_cancelled_run_and_what_a_killed_one_left_are_ended(slurm, tmp_path):
    # a job that an earlier driver has submitted and that still waits
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\nsleep 1000\n")
    waiting = slurm.command("sbatch", "--parsable", "--hold", "--output=/dev/null", script).strip()
    ledger = JobLedger(tmp_path)
    ledger.add(waiting, "cpu", "slurm", "crdist-old-1")
    wish = tmp_path / "cluster" / "cancel"
    wish.touch()
    os.utime(wish, (0, 0))
    with batch_client(recipe(), tmp_path, tell=lambda _: None) as batch:
        assert waiting not in slurm.squeue()
        assert ledger.open_ids() == []
        # the wish to end the earlier run is no wish to end this one
        batch.workers_needed()
        wish.touch()
        with pytest.raises(RunError, match="cancelled; what is finished is kept"):
            keep_watching(batch, lambda: False)
    assert not slurm.squeue()


KILLED = """
import os, sys, time
from pathlib import Path
from crdist_cluster.batch import batch_client
from crdist_cluster.recipe import ClusterRecipe

if __name__ == "__main__":
    recipe = ClusterRecipe.from_mapping({recipe!r})
    with batch_client(recipe, Path(sys.argv[1])) as batch:
        batch.workers_needed()
        print("up", flush=True)
        while True:
            batch.watch(0.0)
            time.sleep(0.2)
"""


def test_the_jobs_of_a_killed_driver_end_by_themselves(slurm, tmp_path):
    program = KILLED.replace("{recipe!r}", repr(RECIPE))
    driver = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True)
    with driver:
        try:
            assert driver.stdout.readline() == "up\n"
        finally:
            driver.kill()
    deadline = time.monotonic() + 120
    while slurm.squeue():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert len(JobLedger(tmp_path).open_ids()) == 1
    # the next driver puts its keys in place of those that were left
    with batch_client(recipe(), tmp_path, tell=lambda _: None):
        assert JobLedger(tmp_path).open_ids() == []
    assert not (tmp_path / "cluster" / "tls").exists()


def packages(**changes):
    return {"packages": {"python": "3.11.9.final.0", "dask": "2026.8.0", "numpy": "2.3.0", **changes}}


def test_versions_that_break_are_told_from_those_that_do_not():
    assert compare(packages(), {"tcp://n1:1": packages(python="3.11.2.final.0")}) == {}
    harmless = compare(packages(), {"tcp://n1:1": packages(), "tcp://n2:1": packages(numpy="2.2.0")})
    assert harmless == {"numpy": "numpy is 2.3.0 here and 2.2.0 on worker tcp://n2:1"}
    assert breaking(harmless) is None
    grave = compare(packages(), {"tcp://n1:1": packages(dask="2025.1.0", python="3.12.1.final.0")})
    assert breaking(grave).startswith(
        "python is 3.11 here and 3.12 on worker tcp://n1:1; dask is 2026.8.0 here and 2025.1.0 on worker tcp://n1:1: "
    )
