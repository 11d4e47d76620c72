"""Job scripts of all six batch systems, as text; none of them is needed for this."""

import asyncio
import itertools
import os
import shlex
import subprocess
import sys

import pytest

from crdist.errors import RunError
from crdist_cluster.jobscript import cluster_arguments, command_script, recorded_cluster_class, worker_script
from crdist_cluster.recipe import ClusterRecipe, shipped_recipes

SCHEDULERS = ("slurm", "pbs", "sge", "lsf", "oar", "htcondor")

HEADERS = {
    "slurm": [
        "#SBATCH -p long",
        "#SBATCH -A project",
        "#SBATCH -n 1",
        "#SBATCH --cpus-per-task=16",
        "#SBATCH --mem=57221M",
        "#SBATCH -t 26:00:30",
        "#SBATCH --no-requeue",
    ],
    "pbs": [
        "#PBS -q long",
        "#PBS -A project",
        "#PBS -l select=1:ncpus=16:mem=57221mb",
        "#PBS -l walltime=26:00:30",
        "#PBS -r n",
    ],
    "sge": ["#$ -q long", "#$ -P project", "#$ -l h_rt=26:00:30", "#$ -pe smp 16", "#$ -S /bin/bash", "#$ -r n"],
    "lsf": [
        "#BSUB -q long",
        '#BSUB -P "project"',
        "#BSUB -n 16",
        '#BSUB -R "span[hosts=1]"',
        "#BSUB -W 26:01",
        "#BSUB -rn",
    ],
    "oar": ["#OAR -q long", "#OAR --project project", "#OAR -l /nodes=1/core=16,walltime=26:00:30"],
    "htcondor": [
        "accounting_group = project",
        "MY.DaskWorkerCores = 16",
        "MY.DaskWorkerMemory = 60000000000",
        "MY.DaskWorkerDisk = 20000000000",
        "periodic_remove = (JobStatus == 2) && ((time() - EnteredCurrentStatus) > 93630)",
    ],
}
GPU_HEADERS = {
    "slurm": "#SBATCH --gres=gpu:2",
    "pbs": "#PBS -l select=1:ncpus=16:mem=57221mb:ngpus=2",
    "sge": "#$ -l gpu=2",
    "lsf": '#BSUB -gpu "num=2"',
    "oar": "#OAR -l /nodes=1/gpu=2,walltime=26:00:30",
    "htcondor": "request_gpus = 2",
}
LOGS = {
    "slurm": "-%J.out",
    "pbs": "#PBS -o RUN_FOLDER/cluster/logs/",
    "sge": "#$ -o RUN_FOLDER/cluster/logs/",
    "lsf": "-%J.out",
    "oar": "-%jobid%.out",
    "htcondor": "LogDirectory = RUN_FOLDER/cluster/logs",
}


def recipe_of(scheduler, **keys):
    more = {} if scheduler == "htcondor" else {"queue": "long"}
    return ClusterRecipe.from_mapping(
        {
            "scheduler": scheduler,
            "account": "project",
            "cores": 16,
            "memory": "60GB",
            "walltime": "1-02:00:30",
            "disk": "20GB",
            "setup": ["module load gcc", 'export A="b c"'],
            **more,
            **keys,
        }
    )


def shell_lines(scheduler, text):
    """What the job's shell runs, one command a line."""
    if scheduler == "htcondor":
        line = next(line for line in text.splitlines() if line.startswith("Arguments"))
        inner = line.removeprefix("Arguments = \"-c '").removesuffix("'\"")
        return inner.replace('""', '"').replace("''", "'").split("; ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_job_asks_for_what_the_recipe_says(scheduler):
    lines = worker_script(recipe_of(scheduler), "cpu").splitlines()
    assert [line for line in HEADERS[scheduler] if line not in lines] == []
    assert any(LOGS[scheduler] in line for line in lines)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_worker_is_the_jobs_process_and_cleans_up_after_itself(scheduler):
    recipe = recipe_of(scheduler, interface="ib0", scratch="$TMPDIR")
    lines = shell_lines(scheduler, worker_script(recipe, "cpu"))
    assert lines[:2] == ["module load gcc", 'export A="b c"']
    for variable in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        assert f"export {variable}_NUM_THREADS=1" in lines
    assert 'export CRDIST_SCRATCH="${TMPDIR:?is not set on this node}"' in lines
    words = shlex.split(lines[-1])
    assert words[:5] == ["exec", sys.executable, "-m", "distributed.cli.dask_worker", "tls://DRIVER:PORT"]
    options = dict(itertools.pairwise(words[5:]))
    assert options["--nthreads"] == "16"
    assert options["--memory-limit"] == "55.88GiB"
    assert options["--death-timeout"] == "60"
    assert options["--local-directory"] == "$CRDIST_SCRATCH"
    assert options["--interface"] == "ib0"
    # 26 h and half a minute, less five minutes
    assert options["--lifetime"] == f"{26 * 3600 + 30 - 300}s"
    assert options["--lifetime-stagger"] == "30s"
    assert options["--dashboard-address"] == "127.0.0.1:0"
    assert options["--tls-key"] == "RUN_FOLDER/cluster/tls/key.pem"
    assert {"--nanny", "--no-dashboard"} <= set(words)
    assert not {"--resources", "--lifetime-restart", "--nworkers"} & set(words)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_gpu_job_has_its_gpus_and_one_task_at_a_time(scheduler):
    text = worker_script(recipe_of(scheduler, gpu={"gpus": 2}), "gpu")
    assert GPU_HEADERS[scheduler] in text.splitlines()
    lines = shell_lines(scheduler, text)
    assert "export OMP_NUM_THREADS=16" in lines
    assert "--resources GPU=1 " in lines[-1]
    # its task ends its program at the margin; the worker outlives that
    assert f"--lifetime {26 * 3600 + 30 - 150}s" in lines[-1]
    assert GPU_HEADERS[scheduler] not in worker_script(recipe_of(scheduler, gpu={"gpus": 2}), "cpu").splitlines()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_further_directives_come_last(scheduler):
    given = ["x = 1", "periodic_remove = false"] if scheduler == "htcondor" else ["--one=1", "--two two"]
    lines = worker_script(recipe_of(scheduler, directives=given), "cpu").splitlines()
    if scheduler == "htcondor":
        assert {"x = 1", "periodic_remove = false"} <= set(lines)
        assert not any("JobStatus" in line for line in lines)
    else:
        header = [line for line in lines if line.startswith("#")]
        assert [line.partition(" ")[2] for line in header[-2:]] == given


def test_memory_by_the_sites_own_names():
    sge = worker_script(recipe_of("sge", memory_resource="h_vmem", gpus=1), "cpu")
    # per core
    assert "#$ -l h_vmem=3577M,gpu=1" in sge.splitlines()
    assert "-pe" not in worker_script(recipe_of("sge", parallel_environment=None), "cpu")
    oar = worker_script(recipe_of("oar", memory_resource="memcore"), "cpu")
    assert "#OAR -p memcore>=3577" in oar.splitlines()


def test_short_jobs_give_up_on_their_driver_sooner():
    assert "--death-timeout 15 " in worker_script(recipe_of("slurm", walltime="00:09:59"), "cpu")


def test_without_tls_no_keys_are_named():
    text = worker_script(recipe_of("slurm", tls=False), "cpu")
    assert "tcp://DRIVER:PORT" in text
    assert "tls" not in text


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_command_runs_in_a_job_like_a_workers(scheduler, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["/opt/py thon", "-m", "crdist", "run", "a b.yaml"]
    text = command_script(recipe_of(scheduler, driver={"cores": 2}), "driver", command, tmp_path / "logs")
    lines = shell_lines(scheduler, text)
    assert lines[0] == f"cd {tmp_path}"
    assert lines[1] == "module load gcc"
    assert shlex.split(lines[-1]) == ["exec", *command]
    assert "dask_worker" not in text
    assert str(tmp_path / "logs") in text
    assert any(cores in text for cores in ("cpus-per-task=2", "ncpus=2", "smp 2", "-n 2", "core=2", "Cores = 2"))


@pytest.mark.parametrize("scheduler", [name for name in SCHEDULERS if name != "htcondor"])
def test_a_script_runs_in_a_shell(scheduler, tmp_path):
    """The whole script, its setup included, with a stand-in for Python that tells how it was called."""
    told = tmp_path / "told"
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\necho "$OMP_NUM_THREADS $A $CRDIST_SCRATCH $$ $*" > {told}\n')
    program.chmod(0o755)
    recipe = recipe_of(scheduler, python=str(program), scratch="$MINE/x", setup=['export A="b c"'])
    script = tmp_path / "job.sh"
    script.write_text(worker_script(recipe, "cpu"))
    environ = {**os.environ, "MINE": "/disk"}
    with subprocess.Popen(["bash", script], env=environ) as process:
        assert process.wait(20) == 0
    words = told.read_text().split()
    # the process that the batch system signals is the worker itself
    assert words[:6] == ["1", "b", "c", "/disk/x", str(process.pid), "-m"]
    environ.pop("MINE")
    told.unlink()
    done = subprocess.run(["bash", script], env=environ, capture_output=True, text=True, timeout=20)
    assert done.returncode != 0
    assert "MINE: is not set on this node" in done.stderr
    assert not told.exists()


@pytest.mark.parametrize("scratch", ["/tmp", "$TMPDIR", "${TMPDIR}/a", "${TMPDIR:-/tmp}"])
def test_scratch_may_hold_variables(scratch):
    line = next(
        line for line in worker_script(recipe_of("slurm", scratch=scratch), "cpu").splitlines() if "SCRATCH=" in line
    )
    done = subprocess.run(
        ["bash", "-c", f'{line}; echo "$CRDIST_SCRATCH"'],
        env={"PATH": os.environ["PATH"], "TMPDIR": "/disk"},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.stdout.strip() == {"/tmp": "/tmp", "${TMPDIR}/a": "/disk/a"}.get(scratch, "/disk")


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_give_scripts(name, tmp_path):
    recipe = ClusterRecipe.from_yaml(name)
    for kind in ("cpu", "gpu"):
        assert "distributed.cli.dask_worker" in worker_script(recipe, kind)
    assert "exec true" in command_script(recipe, "driver", ["true"])


def test_raven_is_asked_for_a_shared_gpu_node():
    recipe = ClusterRecipe.from_yaml("mpcdf-raven")
    gpu = worker_script(recipe, "gpu").splitlines()
    wanted = ["--cpus-per-task=18", "--constraint=gpu", "--gres=gpu:a100:1", "-t 24:00:00"]
    assert [word for word in wanted if f"#SBATCH {word}" not in gpu] == []
    cpu = worker_script(recipe, "cpu")
    assert "--cpus-per-task=72" in cpu
    assert "gpu" not in cpu


@pytest.mark.parametrize("name", ["run a", "run'a", "run$a"])
def test_a_folder_that_no_batch_system_takes(name, tmp_path):
    with pytest.raises(RunError, match="has a character that batch systems do not take in a path; choose another"):
        cluster_arguments(recipe_of("slurm"), "cpu", tmp_path / name, name="a")


def test_looking_at_a_script_leaves_nothing_behind(tmp_path):
    code = (
        "from crdist_cluster.recipe import ClusterRecipe\n"
        "from crdist_cluster.jobscript import worker_script\n"
        "import distributed, pathlib\n"
        "before = set(pathlib.Path.home().rglob('*')) | set(pathlib.Path.cwd().rglob('*'))\n"
        "print(len(worker_script(ClusterRecipe.from_yaml('slurm'), 'cpu')))\n"
        "print(sorted((set(pathlib.Path.home().rglob('*')) | set(pathlib.Path.cwd().rglob('*'))) - before))\n"
    )
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    environ = {**os.environ, "HOME": str(home)}
    environ.pop("DASK_CONFIG", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, cwd=here, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[1:] == ["[]"], done.stderr


def recorded_job(tmp_path, answer, recipe=None):
    """A job of a Slurm whose sbatch does what ``answer`` says, and what it reported."""
    command = tmp_path / "sbatch"
    command.write_text(f"#!/bin/sh\n{answer}\n")
    command.chmod(0o755)
    recipe = recipe or recipe_of("slurm")
    told = []
    cluster = recorded_cluster_class(
        "slurm", lambda job_id: told.append(("submitted", job_id)), lambda *what: told.append(("failed", *what))
    )
    assert cluster.__name__ == "SLURMCluster"
    arguments = cluster_arguments(recipe, "cpu", tmp_path / "logs", name="crdist-1")
    del arguments["name"], arguments["scheduler_options"]
    job = cluster.job_cls("tcp://127.0.0.1:1", name="crdist-1-0", **arguments)
    job.submit_command = str(command)
    return job, told


def test_a_submission_is_reported_with_its_id(tmp_path):
    job, told = recorded_job(tmp_path, 'cp "$1" "$0.script"; echo Submitted batch job 17')
    asyncio.run(job.start())
    assert told == [("submitted", "17")]
    assert job.job_id == "17"
    script = (tmp_path / "sbatch.script").read_text()
    assert "#SBATCH -J crdist-1\n" in script
    assert "--name crdist-1-0 " in script


@pytest.mark.parametrize(
    ("answer", "stderr"),
    [
        ("echo invalid partition gpuu >&2; exit 1", "invalid partition gpuu"),
        ("exit 3", "nothing, exit code 3"),
        ("echo what", "Could not parse job id"),
    ],
)
def test_a_failed_submission_is_reported_with_command_and_stderr(answer, stderr, tmp_path):
    job, told = recorded_job(tmp_path, answer)
    with pytest.raises((RuntimeError, ValueError)):
        asyncio.run(job.start())
    [(word, command, said)] = told
    assert word == "failed"
    assert command.startswith(str(tmp_path / "sbatch"))
    assert stderr in said
    assert job.status.name == "failed"


def test_a_command_that_is_not_there_is_reported(tmp_path):
    job, told = recorded_job(tmp_path, "")
    job.submit_command = str(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        asyncio.run(job.start())
    assert told[0][0] == "failed"
    assert "No such file" in told[0][2]


def test_lsfs_stderr_is_kept(tmp_path):
    command = tmp_path / "bsub"
    command.write_text("#!/bin/sh\ngrep -c BSUB >&2; exit 255\n")
    command.chmod(0o755)
    told = []
    cluster = recorded_cluster_class("lsf", told.append, lambda *what: told.append(what))
    arguments = cluster_arguments(recipe_of("lsf"), "cpu", tmp_path / "logs", name="crdist-1")
    del arguments["name"], arguments["scheduler_options"]
    job = cluster.job_cls("tcp://127.0.0.1:1", name="crdist-1-0", **arguments)
    job.submit_command = str(command)
    with pytest.raises(RuntimeError):
        asyncio.run(job.start())
    # it was given the script, whose lines it counts
    assert int(told[0][1]) > 5


def test_the_script_brings_up_a_worker_on_a_real_slurm(slurm, tmp_path):
    from distributed import Client

    from crdist_cluster.security import temporary_security

    recipe = ClusterRecipe.from_mapping(
        {
            "scheduler": "slurm",
            "queue": "gpu",
            "cores": 2,
            "memory": "1GB",
            "walltime": "00:05:00",
            "interface": "lo",
            "scratch": str(tmp_path),
            "gpu": {},
        }
    )
    told = []
    cluster_class = recorded_cluster_class("slurm", told.append, lambda *what: told.append(what))
    with temporary_security(tmp_path / "tls") as security:
        arguments = cluster_arguments(recipe, "gpu", tmp_path / "logs", security=security, name="crdist-test")
        with cluster_class(**arguments) as cluster, Client(cluster, set_as_default=False) as client:
            assert cluster.scheduler_address.startswith("tls://127.0.0.1:")
            cluster.scale(jobs=1)
            client.wait_for_workers(1, timeout=60)
            assert told == list(slurm.squeue())
            [(_, worker)] = client.scheduler_info()["workers"].items()
            assert (worker["nthreads"], worker["resources"]) == (2, {"GPU": 1})
            # dask-jobqueue writes it with two decimals
            assert worker["memory_limit"] == pytest.approx(10**9, rel=0.01)
            assert worker["local_directory"].startswith(str(tmp_path))
            [nanny] = slurm.workers(told[0])
            listening = {
                connection.laddr.ip
                for process in (nanny, *nanny.children(recursive=True))
                for connection in process.net_connections("inet")
                if connection.status == "LISTEN"
            }
            assert listening == {"127.0.0.1"}
            [environ] = client.run(lambda: dict(os.environ)).values()
            assert environ["OMP_NUM_THREADS"] == "2"
            assert environ["CRDIST_SCRATCH"] == str(tmp_path)
