"""The command line on a batch system, a real Slurm: the way through, status, cancel, and every kind of bad input."""

import json
import os
import time

import numpy as np
import pytest
import yaml

from cluster.slurm import PrivateSlurm, missing_commands
from command import crdist, error_line, fingerprint, start_crdist
from crdist.check import check_store
from crdist.store import open_posterior
from crdist_cluster.ledger import JobLedger
from crdist_inference.gamma_files import write_observation_file
from galaxies import SMALL_RECIPE, small_posterior
from layouts import write_soding
from tiny_sky import TINY

RECIPE = {"scheduler": "slurm", "queue": "normal", "cores": 2, "memory": "1500MB", "walltime": "00:10:00"}

ONE_DRAW = {**TINY, "inference": {**TINY["inference"], "samples": 4, "draws": 1}}

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("compiled_once")]


@pytest.fixture(scope="module")
def running_slurm(tmp_path_factory, compiled_once):
    if missing := missing_commands():
        pytest.skip(f"no Slurm on this machine: {', '.join(missing)} not installed")
    with PrivateSlurm(tmp_path_factory.mktemp("slurm")) as slurm, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(slurm.conf))
        yield slurm


@pytest.fixture
def slurm(running_slurm):
    """A Slurm of four idle nodes."""
    running_slurm.make_idle()
    yield running_slurm
    running_slurm.make_idle()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A posterior, a recipe for products, and run files."""
    folder = tmp_path_factory.mktemp("batch-cli")
    small_posterior(folder / "p.zarr")
    (folder / "r.yaml").write_text(yaml.safe_dump(SMALL_RECIPE))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(ONE_DRAW))
    return folder


def recipe(folder, **more):
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **more}))
    return path


def status(folder):
    return json.loads(crdist("status", folder, "--json").stdout)


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.5)
    return found


def test_recipes_are_listed_explained_and_shown(tmp_path):
    names = [line.split()[0] for line in crdist("cluster", "list").stdout.splitlines()]
    assert {"slurm", "pbs", "sge", "lsf", "oar", "htcondor", "mpcdf-raven"} <= set(names)
    keys = yaml.safe_load(crdist("cluster", "explain").stdout)
    assert {"scheduler", "cores", "walltime", "jobs", "scratch"} <= set(keys)
    path = recipe(tmp_path, setup=["module load crdist"], gpu={"queue": "gpu", "gpus": 2})
    before = set(tmp_path.iterdir())
    script = crdist("cluster", "show", path).stdout
    for line in ("#SBATCH -p normal", "#SBATCH --cpus-per-task=2", "#SBATCH -t 00:10:00", "module load crdist"):
        assert line in script.splitlines()
    assert "--resources GPU=1" in crdist("cluster", "show", path, "--kind", "gpu").stdout
    driver = crdist("cluster", "show", path, "--kind", "driver").stdout
    assert "crdist.cli run RUN.yaml RUN_FOLDER --resume --relay" in driver
    assert set(tmp_path.iterdir()) == before


def test_products_from_a_batch_system_are_the_same_to_the_bit(slurm, folder, tmp_path):
    arguments = ("post", folder / "p.zarr", "o.zarr", "-r", folder / "r.yaml")
    (tmp_path / "here").mkdir()
    here = crdist(*arguments, "--threads", 2, "--memory", "3GiB", cwd=tmp_path / "here")
    assert here.returncode == 0, here.stderr
    plan = crdist(*arguments, "--cluster", recipe(tmp_path, jobs=2), "--plan", "--json", cwd=tmp_path)
    assert json.loads(plan.stdout)["workers"] == 2
    assert not (tmp_path / "o.zarr.run").exists()
    there = crdist(*arguments, "--cluster", recipe(tmp_path), "--json", cwd=tmp_path)
    assert there.returncode == 0, there.stderr
    assert json.loads(there.stdout)["blocks_found"] == 0
    assert fingerprint(tmp_path / "o.zarr") == fingerprint(tmp_path / "here" / "o.zarr")
    assert status(tmp_path / "o.zarr")["state"] == "done"
    # nothing is submitted where nothing is left to do
    ledger = JobLedger(tmp_path / "o.zarr.run").path
    n_lines = len(ledger.read_text().splitlines())
    again = crdist(*arguments, "--cluster", recipe(tmp_path), cwd=tmp_path)
    assert "0 blocks" in again.stdout
    assert len(ledger.read_text().splitlines()) == n_lines
    assert not slurm.squeue()


def test_a_recipe_is_tested(slurm, tmp_path):
    result = crdist("cluster", "test", recipe(tmp_path), "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["node"]["cores"] == 2
    assert found["node"]["sees_folder"]
    assert found["node"]["address"].startswith("tls://")
    assert found["node"]["threads"] == {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    assert found["node"]["scratch_free_bytes"] > 0
    assert found["versions"]["dask"][0] == found["versions"]["dask"][1]
    assert found["job"]
    assert not slurm.squeue()
    assert [path.name for path in tmp_path.iterdir()] == ["cluster.yaml"]


def test_a_setup_that_fails_is_said_with_the_log(slurm, tmp_path):
    path = recipe(tmp_path, setup=["cd /no/such/folder || exit 3"], submit_attempts=1)
    line = error_line(crdist("cluster", "test", path, cwd=tmp_path))
    assert "/no/such/folder" in line
    assert "logs are kept in" in line
    assert not slurm.squeue()


def test_a_submitted_run_goes_all_the_way_and_says_how_far_it_is(slurm, folder, tmp_path):
    out = tmp_path / "out"
    options = ("--cluster", recipe(tmp_path, driver={"memory": "500MB"}))
    submitted = crdist("run", folder / "tiny.yaml", out, *options, "--submit")
    assert submitted.returncode == 0, submitted.stderr
    (driver,) = JobLedger(out).open_jobs()
    assert f"job {driver.id} drives the run" in submitted.stdout
    again = error_line(crdist("run", folder / "tiny.yaml", out, *options, "--submit", "--resume"))
    assert f"job {driver.id} drives it already" in again
    # the driver's job and the inference's, as files alone say
    no_commands = {"PATH": os.defpath + os.pathsep + "/nowhere", "SLURM_CONF": "/nowhere"}
    wait_for(lambda: "iterations" in crdist("status", out, env=no_commands).stdout, 600)
    kinds = {job["kind"]: job["state"] for job in status(out)["jobs"]}
    assert kinds == {"driver": "running", "gpu": "running"} or status(out)["stage"] == "post"
    wait_for(lambda: not slurm.squeue(), 600)
    report = status(out)
    logs = "".join(path.read_text() for path in (out / "cluster" / "logs").iterdir())
    assert (report["state"], report["jobs"]) == ("done", []), logs
    assert open_posterior(out / "posterior.zarr")["c"].shape == (12, 5, 4)
    assert check_store(out / "products.zarr") == []
    assert not (out / "cluster" / "tls").exists()


@pytest.mark.slow
def test_inference_and_driver_go_on_across_their_walltimes(slurm, folder, tmp_path):
    # the least walltime of Slurm is a minute; the same run in one piece, here, must end in the same samples
    schedule = {"n_iteration": 80, "n_iteration_next": 2, "early_iterations": 0, "update_iterations": 1}
    inference = {**TINY["inference"], "samples": 8, "draws": 1, "schedule": schedule}
    (tmp_path / "long.yaml").write_text(yaml.safe_dump({**TINY, "inference": inference}))
    whole = crdist("infer", tmp_path / "long.yaml", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    short = {"walltime": "00:01:00", "memory": "1500MB"}
    path = recipe(tmp_path, gpu=short, driver={**short, "cores": 1}, margin="00:00:15")
    out = tmp_path / "out"
    assert crdist("run", tmp_path / "long.yaml", out, "--cluster", path, "--submit").returncode == 0
    wait_for(lambda: not slurm.squeue(), 800)
    logs = "".join(path.read_text() for path in (out / "cluster" / "logs").iterdir())
    assert status(out)["state"] == "done", logs
    assert "is near: job" in logs
    kinds = [json.loads(line).get("kind") for line in JobLedger(out).path.read_text().splitlines()]
    assert kinds.count("driver") > 1
    assert kinds.count("gpu") > 1
    np.testing.assert_array_equal(
        open_posterior(out / "posterior.zarr")["c"], open_posterior(tmp_path / "whole" / "posterior.zarr")["c"]
    )
    assert check_store(out / "products.zarr") == []


def test_cancel_ends_the_jobs_of_the_run_and_no_other(slurm, folder, tmp_path):
    other = slurm.command("sbatch", "--parsable", "--mem=100", "-n1", "--wrap", "sleep 600", "-o", "/dev/null").strip()
    out = tmp_path / "out"
    process = start_crdist("infer", folder / "tiny.yaml", out, "--cluster", recipe(tmp_path))
    wait_for(lambda: any(job["state"] == "running" for job in _status_or_nothing(out)) or process.poll() is not None)
    (job,) = JobLedger(out).open_ids()
    cancelled = crdist("cancel", out)
    assert cancelled.returncode == 0, cancelled.stderr
    assert "cancelled, 1 job ended" in cancelled.stdout
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "cancelled; what is finished is kept" in err
    assert job not in slurm.squeue()
    assert other in slurm.squeue()
    assert status(out)["state"] == "stopped"
    assert "no job of it is left" in crdist("cancel", out).stdout


def test_cancel_after_the_driver_was_killed(slurm, folder, tmp_path):
    out = tmp_path / "out"
    # a job that waits for its turn does not notice the driver's death
    occupied = ("sbatch", "--parsable", "-n1", "-c4", "-o", "/dev/null", "--wrap", "sleep 600")
    others = {slurm.command(*occupied).strip() for _ in range(4)}
    process = start_crdist("infer", folder / "tiny.yaml", out, "--cluster", recipe(tmp_path))
    wait_for(lambda: JobLedger(out).open_ids() or process.poll() is not None)
    process.kill()
    _, err = process.communicate()
    assert process.returncode == -9, err
    (job,) = JobLedger(out).open_ids()
    assert job in slurm.squeue()
    time.sleep(21)
    assert "cancelled, 1 job ended" in crdist("cancel", out).stdout
    assert set(slurm.squeue()) == others


def _status_or_nothing(folder):
    result = crdist("status", folder, "--json")
    return json.loads(result.stdout)["jobs"] if result.returncode == 0 else []


# Bad input: one line, nothing submitted, nothing left behind


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"coers": 2}, "coers: unknown key 'coers'; did you mean 'cores'?"),
        ({"queue": "nromal"}, "no partition 'nromal'; did you mean 'normal'?"),
        ({"memory": "900GB"}, "no node of partition 'normal' has"),
        ({"cores": 8, "memory": "3GB"}, "cores: no node of partition 'normal' has 8; the largest has 4"),
        ({"interface": "ib7"}, "no network interface 'ib7' on this machine"),
        ({"queue": "short", "walltime": "1-00:00:00"}, "partition 'short' allows 00:10:00, got 24:00:00"),
        ({"walltime": "10"}, "walltime: must be HH:MM:SS or D-HH:MM:SS"),
        ({"walltime": "00:00:04"}, "is not longer than the margin"),
        ({"directives": ["--no-such-option"]}, "no-such-option"),
        ({"scheduler": "pbs"}, "pbs: no qsub, no qstat, no qdel on this machine; log in to a login node"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_anything_is_submitted(slurm, folder, tmp_path, more, expected):
    arguments = (
        "post",
        folder / "p.zarr",
        tmp_path / "o.zarr",
        "--cluster",
        recipe(tmp_path, **more),
        "-r",
        folder / "r.yaml",
    )
    assert expected in error_line(crdist(*arguments))
    assert [path.name for path in tmp_path.iterdir()] == ["cluster.yaml"]
    assert not slurm.squeue()


@pytest.mark.parametrize("kind", ["gpu", "driver"])
def test_every_kind_of_job_of_a_run_is_looked_at_first(slurm, folder, tmp_path, kind):
    path = recipe(tmp_path, **{kind: {"memory": "900GB"}})
    line = error_line(crdist("run", folder / "tiny.yaml", tmp_path / "out", "--cluster", path, "--submit"))
    assert f"slurm would not run a {kind} job: memory: no node of partition 'normal' has" in line
    assert [path.name for path in tmp_path.iterdir()] == ["cluster.yaml"]
    assert not slurm.squeue()


@pytest.mark.parametrize(
    ("sections", "options", "expected"),
    [
        ({"grid": {"nsied": 1}}, (), "did you mean 'nside'"),
        ({"products": {"set": ["grid.voxl=1"]}}, (), "did you mean 'voxel'"),
        ({"products": {"recipe": "none.yaml"}}, (), "none.yaml"),
        ({"data": {"gamma": {"path": "I_dust.hdf5"}, "gas": {"path": "gas.fits"}}}, (), "2 files missing"),
        ({}, ("--memory", "2GiB"), "with --cluster the recipe says what there is"),
        ({}, ("--cluster", "local"), "--submit needs a batch system"),
        ({}, ("--cluster", "tcp://127.0.0.1:9"), "--submit needs a batch system"),
        ({}, ("--cluster", "slrum"), "did you mean 'slurm'"),
    ],
)
def test_a_run_that_cannot_work_is_not_submitted(slurm, tmp_path, sections, options, expected):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**ONE_DRAW, **sections}))
    arguments = ("run", tmp_path / "run.yaml", tmp_path / "out", "--submit", "--cluster", recipe(tmp_path), *options)
    assert expected in error_line(crdist(*arguments))
    assert not (tmp_path / "out").exists()
    assert not slurm.squeue()


def test_inputs_that_cannot_be_used_are_not_submitted(slurm, tmp_path):
    write_observation_file(tmp_path / "gamma.hdf5", np.ones(12 * 4), np.full(12 * 4, 0.1))
    write_soding(tmp_path / "gas.fits", nside=4, n_shell=8, n_sample=2)
    whole = (tmp_path / "gas.fits").read_bytes()
    arguments = ("run", tmp_path / "run.yaml", tmp_path / "out", "--submit", "--cluster", recipe(tmp_path))

    def line(gamma, gas):
        data = {"gamma": {"path": gamma}, "gas": {"path": gas}}
        (tmp_path / "run.yaml").write_text(yaml.safe_dump({**ONE_DRAW, "data": data}))
        return error_line(crdist(*arguments))

    (tmp_path / "cut.fits").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.fits").write_text("hello")
    (tmp_path / "text.hdf5").write_text("hello")
    assert "cut.fits" in line("gamma.hdf5", "cut.fits")
    assert "text.fits: neither a FITS file nor a posterior store" in line("gamma.hdf5", "text.fits")
    assert "text.hdf5" in line("text.hdf5", "gas.fits")
    assert not (tmp_path / "out").exists()
    assert not slurm.squeue()


def test_another_folder_is_not_run_over(slurm, folder, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    arguments = ("run", folder / "tiny.yaml", tmp_path / "notes", "--submit", "--cluster", recipe(tmp_path))
    assert "exists and is no folder of a run" in error_line(crdist(*arguments))
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["a.txt"]


def test_a_machine_without_a_batch_system(folder, tmp_path):
    arguments = ("post", folder / "p.zarr", tmp_path / "o.zarr", "--cluster", recipe(tmp_path))
    line = error_line(crdist(*arguments, env={"PATH": str(tmp_path)}))
    assert "slurm: no sbatch, no squeue" in line
    assert "or compute here with --cluster local" in line


def test_an_account_that_slurm_refuses_is_told_in_its_words(slurm, folder, tmp_path):
    # Slurm without accounting takes any account; a site's own check is played by a wrapper, as a site would install it
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    words = "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified"
    (bin_folder / "sbatch").write_text(f"#!/bin/sh\necho '{words}' >&2\nexit 1\n")
    (bin_folder / "sbatch").chmod(0o755)
    path = os.pathsep.join([str(bin_folder), os.environ["PATH"]])
    arguments = ("post", folder / "p.zarr", tmp_path / "o.zarr", "--cluster", recipe(tmp_path, account="nobody"))
    assert "Invalid account or account/partition combination" in error_line(crdist(*arguments, env={"PATH": path}))


def test_status_and_cancel_of_what_is_no_run(tmp_path):
    for command in ("status", "cancel"):
        assert "no such folder" in error_line(crdist(command, tmp_path / "nothing"))
        assert "holds no run" in error_line(crdist(command, tmp_path))
    (tmp_path / "run.log").touch()
    assert "no jobs were submitted for it" in error_line(crdist("cancel", tmp_path))
