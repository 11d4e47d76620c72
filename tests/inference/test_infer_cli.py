"""The command line of the inference: a tiny sky the whole way, interrupted and resumed, and every kind of bad input."""

import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import xarray as xr
import yaml

from command import crdist, error_line, start_crdist
from crdist.check import check_store
from crdist.errors import InferenceError, RunError
from crdist.store import open_inference, open_posterior
from crdist_inference.prior import Prior
from crdist_inference.run import _device_errors, joint_starts
from crdist_inference.run_folder import RunFolder, locked
from crdist_inference.runfile import RunFile
from tiny_sky import TINY

POST = ("--threads", 2, "--memory", "3GiB")

# compiling takes half a minute of an idle core in each process, more of a busy one
pytestmark = [pytest.mark.timeout(1500), pytest.mark.usefixtures("compiled_once")]


def crdist_patiently(*arguments):
    """Run ``crdist`` to its end, however busy the machine is."""
    process = start_crdist(*arguments)
    out, err = process.communicate(timeout=1200)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def write(path, **sections):
    path.write_text(yaml.safe_dump({**TINY, **sections}))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, compiled_once):
    """A run from its run file to products, and what it printed."""
    folder = tmp_path_factory.mktemp("infer")
    result = crdist_patiently("run", write(folder / "tiny.yaml"), folder / "out", *POST)
    assert result.returncode == 0, result.stderr
    return folder, result


def test_from_a_run_file_to_products(finished):
    folder, _ = finished
    out = folder / "out"
    posterior, beside = open_posterior(out / "posterior.zarr"), open_inference(out / "posterior.zarr")
    assert posterior["c"].shape == (12, 5, 8)
    assert beside.attrs["status"] == "complete"
    np.testing.assert_array_equal(beside["draw"], [0] * 4 + [1] * 4)
    # the evidence mode fixes length and slope in a draw, to those of the grid's draws
    draws = json.loads((out / "evidence.json").read_text())["draws"]
    np.testing.assert_allclose(np.unique(beside["length"]), np.unique([draw["length"] for draw in draws]))
    assert beside.sizes["iteration"] == 4
    # the predicted skies are those of the samples, and the data are met
    chi2 = np.square((beside["sky"] - beside["data"]) / beside["sigma"]).mean()
    assert chi2 < 5
    products = xr.open_datatree(out / "products.zarr", engine="zarr")
    assert products.attrs["quantity"]["units"] == "GeV-1 cm-3"
    assert set(products.children) == {"midplane", "sky"}
    for store in ("posterior.zarr", "products.zarr"):
        assert check_store(out / store) == []


def test_what_a_run_says(finished):
    folder, result = finished
    for line in ("draw 1/2 iteration 1/2: KL ", "draw 2/2 iteration 2/2: KL ", "evidence: length "):
        assert line in result.stderr
        assert line in (folder / "out" / "run.log").read_text()
    assert "posterior.zarr: 8 samples in " in result.stdout
    assert "products.zarr: " in result.stdout
    validation = json.loads((folder / "out" / "validation.json").read_text())
    assert open_inference(folder / "out" / "posterior.zarr").attrs["validation"] == validation
    assert yaml.safe_load((folder / "out" / "run.yaml").read_text())["inference"]["seed"] == 1


def test_a_finished_run_is_found_done(finished):
    folder, _ = finished
    shard = folder / "out" / "posterior.zarr" / "c" / "c" / "0" / "0" / "7"
    before = shard.stat().st_mtime_ns
    again = crdist_patiently("run", folder / "tiny.yaml", folder / "out", "--resume", *POST)
    assert again.returncode == 0, again.stderr
    assert "8 samples" in again.stdout
    assert "0 blocks" in again.stdout
    assert "iteration" not in again.stderr
    assert shard.stat().st_mtime_ns == before


def interrupted(arguments, out, number):
    """Signal a run at its first checkpoint; its exit status and what it said."""
    process = start_crdist(*arguments)
    checkpoint = out / "checkpoint" / "checkpoint.npz"
    deadline = time.monotonic() + 1000
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=1000)
    return process.returncode, err


def assert_resumes_to_the_same(arguments, out, folder):
    assert open_inference(out / "posterior.zarr").attrs["status"] == "running"
    resumed = crdist_patiently(*arguments, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    expected = open_posterior(folder / "out" / "posterior.zarr")["c"].values
    np.testing.assert_allclose(open_posterior(out / "posterior.zarr")["c"].values, expected, rtol=1e-5)
    assert check_store(out / "posterior.zarr") == []


def test_sigterm_ends_after_the_iteration_and_resume_comes_to_the_same(finished, tmp_path):
    folder, _ = finished
    arguments = ("infer", folder / "tiny.yaml", tmp_path / "out")
    status, err = interrupted(arguments, tmp_path / "out", signal.SIGTERM)
    assert status == 143, err
    assert "crdist: stopping after this iteration" in err
    assert f"run 'crdist infer {folder / 'tiny.yaml'} {tmp_path / 'out'} --resume' to go on" in err.splitlines()[-1]
    assert_resumes_to_the_same(arguments, tmp_path / "out", folder)


def test_a_killed_run_resumes_to_the_same(finished, tmp_path):
    folder, _ = finished
    arguments = ("infer", folder / "tiny.yaml", tmp_path / "out")
    assert interrupted(arguments, tmp_path / "out", signal.SIGKILL)[0] == -signal.SIGKILL
    assert_resumes_to_the_same(arguments, tmp_path / "out", folder)


# Bad input: one line, nothing left behind


def test_an_existing_run_is_not_run_over(finished, tmp_path):
    folder, _ = finished
    line = error_line(crdist("infer", folder / "tiny.yaml", folder / "out"))
    assert "out: exists already; go on with --resume, choose another name, or remove it" in line
    line = error_line(crdist("infer", folder / "tiny.yaml", folder / "out", "--resume", "-s", "inference.seed=5"))
    assert "was begun with other settings (inference.seed: 1 -> 5)" in line
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    line = error_line(crdist("infer", folder / "tiny.yaml", tmp_path / "notes", "--resume"))
    assert "exists and is no folder of a run" in line


def test_inputs_that_changed_are_noticed(finished, tmp_path):
    folder, _ = finished
    shutil.copytree(folder / "out", tmp_path / "out")
    bins = tmp_path / "out" / "input" / "energy_bins.hdf5"
    bins.write_bytes(bins.read_bytes() + b"\0")
    line = error_line(crdist("infer", folder / "tiny.yaml", tmp_path / "out", "--resume"))
    assert "was begun with other inputs or version (inputs.gamma" in line


def test_missing_files_and_a_bad_recipe_are_said_before_anything_is_made(tmp_path):
    data = {"gamma": {"path": "I_dust.hdf5"}, "gas": {"path": "gas.fits"}}
    line = error_line(crdist("infer", write(tmp_path / "r.yaml", data=data), tmp_path / "out"))
    assert "2 files missing: " in line
    assert "zenodo" in line
    line = error_line(crdist("run", write(tmp_path / "r.yaml", products={"set": ["grid.voxl=1"]}), tmp_path / "out"))
    assert "did you mean 'voxel'" in line
    line = error_line(crdist("infer", write(tmp_path / "r.yaml"), tmp_path / "out", "-s", "inference.smaples=4"))
    assert "did you mean 'samples'" in line
    assert not (tmp_path / "out").exists()


def test_inputs_that_cannot_be_used_leave_no_folder(tmp_path):
    (tmp_path / "gas.fits").write_bytes(b"SIMPLE  = nothing")
    data = {**TINY["data"], "gas": {"path": "gas.fits"}}
    line = error_line(crdist("infer", write(tmp_path / "r.yaml", data=data), tmp_path / "out"))
    assert "gas.fits" in line
    assert not (tmp_path / "out").exists()


def test_settings_are_explained():
    text = crdist("infer", "--explain").stdout
    assert yaml.safe_load(text)["grid"]["nside"] == 32
    assert "which run file?" in error_line(crdist("infer"))


def test_one_process_at_a_time(tmp_path):
    folder = RunFolder(tmp_path)
    with locked(folder), pytest.raises(RunError, match="another process is running it"), locked(folder):
        pass


def test_a_full_device_is_a_line_that_says_what_to_lower():
    run = RunFile.from_mapping(TINY)
    with pytest.raises(InferenceError, match=r"memory is full at nside 1 x 5 shells.*inference\.dtype=float32"):
        with _device_errors(run):
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.")
    with pytest.raises(RuntimeError, match="something else"), _device_errors(run):
        raise RuntimeError("something else")


def test_the_joint_mode_starts_at_the_ends_of_the_ridge():
    prior = Prior()
    first, last = joint_starts(prior, 2)
    assert first.length < prior.length.median < last.length
    assert last.slope < prior.slope.median < first.slope
    (only,) = joint_starts(prior, 1)
    assert (only.length, only.slope) == (pytest.approx(prior.length.median), pytest.approx(prior.slope.median))
    # scale and offset start from the prior and the sky: they are inferred with the rest
    assert only.scale is None
