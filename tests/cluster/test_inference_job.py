"""A program as a task of a worker that must end: stopped in time, continued in the next job, never left behind."""

import subprocess
import sys
import time

import psutil
import pytest
from distributed import Client, LocalCluster

from crdist.errors import RunError
from crdist_cluster.inference_job import Allowance, drive_program

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from crdist.progress import ProgressFile
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
steps, seconds, kept = int(sys.argv[1]), float(sys.argv[2]), Path("kept")
Path("pids").open("a").write(f"{os.getpid()}\\n")
progress = ProgressFile(Path("progress.json"))
done = int(kept.read_text()) if kept.exists() else 0
while done < steps:
    time.sleep(seconds)
    done += 1
    kept.write_text(str(done))
    progress.begin("steps", done, steps)
    if asked and done < steps:
        sys.exit(143)
print("all done")
"""


@pytest.fixture(scope="module")
def scheduler():
    """A Dask scheduler without workers."""
    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


class Jobs:
    """Starts a worker with its own nanny, as a job does, whenever there is none."""

    def __init__(self, client, folder):
        self.client, self.folder, self.processes = client, folder, []

    def __call__(self, _=0.0):
        if self.processes and self.processes[-1].poll() is None:
            return
        if len(self.processes) > 8:
            raise RuntimeError("no job after the eighth")
        command = ["-m", "distributed.cli.dask_worker", self.client.scheduler.address, "--nthreads", "1"]
        command += ["--resources", "GPU=1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
        command += ["--local-directory", str(self.folder), "--death-timeout", "20"]
        with (self.folder / "workers.log").open("ab") as log:
            process = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log)
        self.processes.append(process)

    def end(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def jobs(scheduler, lasting_jobs, tmp_path):
    """Jobs of this test alone."""
    lasting_jobs.end()
    deadline = time.monotonic() + 60
    while scheduler.nthreads() and time.monotonic() < deadline:
        time.sleep(0.1)
    jobs = Jobs(scheduler, tmp_path)
    yield jobs
    jobs.end()


@pytest.fixture(scope="module")
def lasting_jobs(scheduler, tmp_path_factory):
    """Jobs for tests that leave them as they are."""
    jobs = Jobs(scheduler, tmp_path_factory.mktemp("jobs"))
    yield jobs
    jobs.end()


def drive(jobs, folder, *arguments, watch=None, allowance=None, program=PROGRAM):
    (folder / "program.py").write_text(program)
    return drive_program(
        jobs.client,
        ["program.py", *map(str, arguments)],
        folder,
        folder / "program.log",
        allowance=allowance,
        watch=watch or jobs,
        progress=lambda seen: None,
    )


def pids(folder):
    return [int(line) for line in (folder / "pids").read_text().split()]


def test_a_program_that_is_done_in_one_job(lasting_jobs, tmp_path):
    assert drive(lasting_jobs, tmp_path, 3, 0.1) == "all done\n"
    assert len(pids(tmp_path)) == 1


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import sys; sys.exit('crdist: error: gas.fits: is damaged; get it again')", "gas.fits: is damaged"),
        ("raise ValueError('what')", r"ValueError: what \(see .*program.log\)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"ended with exit code -11 \(see"),
    ],
)
def test_an_error_of_the_program_comes_back_as_its_line(lasting_jobs, tmp_path, program, words):
    with pytest.raises(RunError, match=words):
        drive(lasting_jobs, tmp_path, program=program)


def test_a_program_killed_for_its_memory_is_tried_again_and_then_said(lasting_jobs, tmp_path):
    with pytest.raises(RunError, match=r"killed on .*, out of memory"):
        drive(lasting_jobs, tmp_path, program="import os, signal; os.kill(os.getpid(), signal.SIGKILL)")


def test_a_program_waits_for_the_one_before_it(lasting_jobs, tmp_path):
    program = (
        "import sys; from pathlib import Path; p = Path('tries'); n = len(p.read_text()) if p.exists() else 0\n"
        "p.write_text('x' * (n + 1))\n"
        "sys.exit('crdist: error: out: another process is running it; wait for that') if n < 1 else print('ok')"
    )
    assert drive(lasting_jobs, tmp_path, program=program) == "ok\n"
    assert (tmp_path / "tries").read_text() == "xx"


def test_a_node_that_does_not_see_the_folder_is_named(lasting_jobs, tmp_path):
    with pytest.raises(RunError, match="not see it; choose a folder on a disk that all nodes share"):
        drive_program(
            lasting_jobs.client,
            ["-c", "pass"],
            tmp_path / "elsewhere",
            tmp_path / "log",
            watch=lasting_jobs,
            progress=lambda seen: None,
        )


def test_it_goes_on_in_the_next_job_until_it_is_done(jobs, tmp_path):
    # a job's time is that of its worker's nanny, which takes seconds to come up on a busy machine
    assert drive(jobs, tmp_path, 20, 1.0, allowance=Allowance(24.0, 3.0)) == "all done\n"
    assert len(jobs.processes) == len(pids(tmp_path)) >= 2
    assert (tmp_path / "kept").read_text() == "20"


def test_steps_that_are_longer_than_a_job_are_said(jobs, tmp_path):
    with pytest.raises(RunError, match=r"3 jobs in a row ended before one step was finished .* shorter than a step"):
        drive(jobs, tmp_path, 3, 1000, allowance=Allowance(7.0, 1.0))
    assert not (tmp_path / "pids").exists() or not any(map(psutil.pid_exists, pids(tmp_path)))


def test_nothing_of_a_killed_worker_stays_and_the_next_one_goes_on(jobs, tmp_path):
    killed = []

    def watch(steps):
        jobs()
        if steps and not killed:
            # multiprocessing's resource tracker is the nanny's child, too
            workers = [p for p in psutil.Process(jobs.processes[0].pid).children() if p.children()]
            jobs.processes[0].kill()
            for worker in workers:
                worker.kill()
            killed.extend(workers)

    assert drive(jobs, tmp_path, 6, 0.7, watch=watch) == "all done\n"
    first, *others = pids(tmp_path)
    assert killed
    assert others
    assert not psutil.pid_exists(first)


def test_the_driver_can_end_it(jobs, tmp_path):
    def watch(steps):
        jobs()
        if steps:
            raise RunError("enough")

    with pytest.raises(RunError, match="enough"):
        drive(jobs, tmp_path, 1000, 0.2, watch=watch)
    (pid,) = pids(tmp_path)
    jobs.end()
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(pid)
