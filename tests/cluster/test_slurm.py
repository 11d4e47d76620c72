"""Real runs on a real Slurm, disturbed in all the ways that clusters have: the products are the same to the bit."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from contextlib import suppress

import psutil
import pytest
import yaml

from cluster.slurm import PrivateSlurm
from command import crdist, error_line, fingerprint, start_crdist
from crdist.errors import RunError
from crdist_cluster.batch import batch_client
from crdist_cluster.ledger import ClusterStatus, JobLedger
from crdist_cluster.recipe import ClusterRecipe
from galaxies import SMALL_RECIPE, small_posterior

pytestmark = pytest.mark.timeout(300)

N_SLOW = 4
RECIPE = {"scheduler": "slurm", "cores": 1, "memory": "900MiB", "walltime": "00:10:00", "interface": "lo"}
LEFT_SECONDS = 20


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A posterior, a recipe of many blocks, and what an undisturbed run on this machine makes of them."""
    folder = tmp_path_factory.mktemp("work")
    small_posterior(folder / "p.zarr", nside=16, n_shell=30, n_sample=6)
    # each of these has four blocks that take a moment, so that there is time to disturb
    slow = [{"name": f"fine_{i}", "kind": "projection", "axis": "xyz"[i % 3], "voxel": 0.0625} for i in range(N_SLOW)]
    (folder / "r.yaml").write_text(yaml.safe_dump({**SMALL_RECIPE, "products": [*SMALL_RECIPE["products"], *slow]}))
    result = crdist("post", folder / "p.zarr", folder / "whole.zarr", "--recipe", folder / "r.yaml", "--threads", 2)
    assert result.returncode == 0, result.stderr
    return folder, fingerprint(folder / "whole.zarr")


class Run:
    """A run of the real command on the private Slurm."""

    def __init__(self, slurm, work, folder, **recipe):
        self.slurm = slurm
        self.source, self.expected = work
        self.products = folder / "products.zarr"
        self.folder = folder / "products.zarr.run"
        self.recipe = folder / "cluster.yaml"
        self.recipe.write_text(yaml.safe_dump({**RECIPE, **recipe}))
        self.process = None

    def start(self):
        options = ("--recipe", self.source / "r.yaml", "--cluster", self.recipe)
        self.process = start_crdist("post", self.source / "p.zarr", self.products, *options)

    def blocks(self):
        # a glob stumbles over folders that come or go meanwhile
        names = [name for _, _, files in os.walk(self.folder / "done") for name in files]
        return sum(name.endswith(".npz") and "--last" not in name for name in names)

    def until(self, condition, seconds=90):
        """Wait for something to be so while the run is at work."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert self.process.poll() is None, f"the run ended too early: {self.process.communicate()}"
            assert time.monotonic() < deadline, f"not so after {seconds} s; {self.blocks()} blocks are done"
            time.sleep(0.02)
        return found

    def until_blocks(self, more):
        wanted = self.blocks() + more
        self.until(lambda: self.blocks() >= wanted)

    def end(self):
        _, err = self.process.communicate(timeout=200)
        return subprocess.CompletedProcess("crdist post", self.process.returncode, "", err)

    def finish_and_compare(self):
        result = self.end()
        assert result.returncode == 0, result.stderr
        assert fingerprint(self.products) == self.expected
        self.nothing_is_left()
        return result.stderr

    def nothing_is_left(self):
        deadline = time.monotonic() + LEFT_SECONDS
        while (self.slurm.squeue() or self.slurm.job_processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert self.slurm.squeue() == {}
        assert self.slurm.job_processes() == []
        assert JobLedger(self.folder).open_ids() == []
        assert not (self.folder / "cluster" / "tls").exists()

    def jobs(self):
        """Ids of all jobs that were submitted, in the ledger's order."""
        lines = (self.folder / "cluster" / "jobs.jsonl").read_text().splitlines()
        return [line["id"] for line in map(yaml.safe_load, lines) if "submitted" in line]

    def kill(self):
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def run(slurm, work, tmp_path):
    """Makes a run of a cluster recipe's changes; what is left of it is ended."""
    made = []

    def start(**recipe):
        made.append(Run(slurm, work, tmp_path, **recipe))
        made[-1].start()
        return made[-1]

    yield start
    for each in made:
        if each.process.poll() is None:
            each.kill()


def worker_of(job):
    """The process that computes, not the nanny above it, which is the job's own."""
    return next((child for child in job.children(recursive=True) if "spawn_main" in " ".join(child.cmdline())), None)


def test_the_private_slurm_leaves_nothing_behind(slurm, tmp_path):
    with PrivateSlurm(tmp_path / "s", n_nodes=1) as other:
        other.command("sbatch", "--output=/dev/null", "--wrap=trap '' TERM; sleep 600 & wait; sleep 600")
        deadline = time.monotonic() + 30
        while len(other.job_processes()) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert other.workers()
        assert slurm.job_processes() == []
    assert other.job_processes() == []
    assert not other.controller_answers()
    assert slurm.controller_answers()


def test_lost_jobs_workers_and_nodes_are_replaced(slurm, run):
    # one job at a time: nothing is finished until the lost one is replaced
    started = run(jobs=1)
    started.until_blocks(2)

    cancelled = next(iter(started.until(slurm.nodes_of_jobs)))
    slurm.scancel(cancelled)
    started.until_blocks(3)

    started.until(lambda: next(filter(None, map(worker_of, slurm.workers())), None)).kill()
    started.until_blocks(3)

    started.until(slurm.workers)[0].kill()
    started.until_blocks(3)

    failed, node = next(iter(started.until(slurm.nodes_of_jobs).items()))
    slurm.set_node(node, "DOWN")
    said = started.finish_and_compare()

    assert "Traceback" not in said
    assert len(started.jobs()) >= 4
    assert slurm.completed()[cancelled] == "CANCELLED"
    assert slurm.completed()[failed] == "NODE_FAIL"


def test_the_controller_may_die_and_come_back(slurm, run):
    started = run(jobs=2)
    started.until_blocks(3)
    slurm.kill_controller()
    # a job that is lost meanwhile can be neither seen in the queue nor replaced
    lost = started.until(slurm.workers)[0]
    lost.kill()
    time.sleep(3)
    slurm.start_controller()
    started.finish_and_compare()


def test_a_killed_driver_leaves_no_job_and_is_continued(slurm, run):
    started = run(jobs=2)
    started.until_blocks(4)
    before = set(started.jobs())
    started.kill()
    deadline = time.monotonic() + 60
    while slurm.squeue() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert slurm.squeue() == {}
    done = started.blocks()
    started.start()
    started.until(lambda: set(started.jobs()) - before)
    assert started.blocks() >= done
    started.finish_and_compare()


@pytest.fixture
def broken_sbatch(slurm, tmp_path, monkeypatch):
    """An sbatch that refuses as often as a file says."""
    folder = tmp_path / "bin"
    folder.mkdir()
    refusals = folder / "refusals"
    script = folder / "sbatch"
    script.write_text(
        "#!/bin/sh\n"
        f'n=$(cat {refusals}); [ "$n" -gt 0 ] || exec {shutil.which("sbatch")} "$@"\n'
        # submissions run side by side: another must never find the file empty
        f"echo $((n - 1)) > {refusals}.$$; mv {refusals}.$$ {refusals}\n"
        'echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), os.environ["PATH"]]))
    return refusals


def test_a_submission_that_failed_is_tried_again(broken_sbatch, run):
    broken_sbatch.write_text("3")
    said = run(jobs=1).finish_and_compare()
    assert "Socket timed out" in said
    assert "sbatch" in said


def test_submissions_that_keep_failing_end_the_run(broken_sbatch, run):
    broken_sbatch.write_text("1000")
    started = run(jobs=2, submit_attempts=2)
    line = error_line(started.end())
    assert "no job could be submitted" in line
    assert "command: sbatch" in line
    assert "stderr: sbatch: error: Batch job submission failed: Socket timed out" in line
    started.nothing_is_left()
    broken_sbatch.write_text("0")
    started.start()
    started.finish_and_compare()


def watched(batch, condition, done=0, seconds=90):
    """Look after a cluster as a driver does, until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        batch.watch(done)
        time.sleep(0.1)


def all_through(tasks):
    """Whether all are computed; those that are, are forgotten: results that workers hold would be lost with them."""
    for task in [task for task in tasks if task.done()]:
        assert task.status == "finished"
        tasks.remove(task)
    return not tasks


def test_workers_are_cycled_before_their_walltime(slurm, tmp_path):
    # the least walltime of Slurm is a minute; these workers end some 45 s before, long before the work is done
    recipe = {**RECIPE, "memory": "500MiB", "walltime": "00:01:00", "margin": "00:00:45"}
    with batch_client(ClusterRecipe.from_mapping(recipe), tmp_path, tell=lambda line: None) as batch:
        tasks = batch.client.map(time.sleep, [0.5] * 50, pure=False)
        watched(batch, lambda: all_through(tasks))
    submitted = [line for line in (tmp_path / "cluster" / "jobs.jsonl").read_text().splitlines() if "submitted" in line]
    assert len(submitted) >= 2
    ends = slurm.completed()
    assert {ends[yaml.safe_load(line)["id"]] for line in submitted} <= {"COMPLETED", "CANCELLED"}


def test_jobs_follow_the_work_and_strangers_are_kept_out(slurm, tmp_path, caplog):
    recipe = ClusterRecipe.from_mapping({**RECIPE, "memory": "500MiB", "jobs": {"min": 0, "max": 3}})
    with batch_client(recipe, tmp_path, tell=lambda line: None) as batch:
        assert slurm.squeue() == {}
        tasks = batch.client.map(time.sleep, [0.3] * 60, pure=False)
        watched(batch, lambda: len(batch.client.nthreads()) == 3)
        assert len(slurm.squeue()) == 3
        refuses_plain_clients(batch, caplog)
        watched(batch, lambda: all_through(tasks))
        watched(batch, lambda: not slurm.squeue(), done=60)
        assert not batch.client.nthreads()
        again = batch.client.submit(time.sleep, 0.1, pure=False)
        watched(batch, again.done, done=60)
        assert again.status == "finished"
    assert slurm.squeue() == {}
    assert JobLedger(tmp_path).open_ids() == []
    assert not (tmp_path / "cluster" / "tls").exists()
    assert (tmp_path / "cluster" / "performance.html").stat().st_size > 0
    assert ClusterStatus.read(tmp_path).finished


def refuses_plain_clients(batch, caplog):
    """Scheduler and workers speak TLS alone; a plain client is turned away at the server's side."""
    from distributed import Client

    keys = batch.folder / "cluster" / "tls"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert stat.S_IMODE((keys / "key.pem").stat().st_mode) == 0o600
    scheduler = batch.client.cluster.scheduler
    addresses = [scheduler.address, *batch.client.nthreads()]
    assert all(address.startswith("tls://") for address in addresses)
    known = set(scheduler.clients)
    caplog.set_level("WARNING", logger="distributed.comm.tcp")
    for address in addresses:
        # a word of Dask's plain protocol is answered with a TLS alert or with nothing, and the connection is closed
        host, _, port = address.removeprefix("tls://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as plain:
            plain.settimeout(10)
            plain.sendall((8).to_bytes(8, "little") + bytes(8))
            with suppress(ConnectionResetError):
                answer = plain.recv(4096)
                assert answer == b"" or answer[0] == 21
    with pytest.raises((OSError, TimeoutError)):
        Client(scheduler.address.replace("tls://", "tcp://"), timeout=3, set_as_default=False)
    assert set(scheduler.clients) == known
    assert any("TLS handshake failed" in record.getMessage() for record in caplog.records)
    listening = [c.laddr.ip for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert set(listening) == {"127.0.0.1"}


@pytest.mark.slow
def test_jobs_that_hit_their_walltime_are_replaced(slurm, run):
    # a worker that is stopped does not end with its lifetime; Slurm kills it, 60 to 85 s after its start
    started = run(jobs=1, walltime="00:01:00", margin="00:00:05")
    started.until_blocks(2)
    nanny = started.until(slurm.workers)[0]
    worker_of(nanny).suspend()
    nanny.suspend()
    started.finish_and_compare()
    assert slurm.completed()[started.jobs()[0]] == "TIMEOUT"


def test_an_error_of_the_caller_ends_the_jobs(slurm, tmp_path):
    recipe = ClusterRecipe.from_mapping({**RECIPE, "memory": "500MiB"})

    def fail_with_a_job():
        with batch_client(recipe, tmp_path, tell=lambda line: None) as batch:
            batch.workers_needed()
            assert len(slurm.squeue()) == 1
            raise RunError("the caller's own")

    with pytest.raises(RunError, match="the caller's own"):
        fail_with_a_job()
    assert slurm.squeue() == {}
    assert ClusterStatus.read(tmp_path).error == "the caller's own"
