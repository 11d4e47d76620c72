"""The command line as a user meets it: the whole way through, and every kind of bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import xarray as xr
import yaml
import zarr

from command import crdist, error_line, fingerprint, start_crdist
from crdist import __version__ as package_version
from crdist.demo import run_demo
from crdist.errors import DependencyError, SchemaError
from crdist.store import open_products
from crdist_postproc.plan import Workers
from galaxies import SMALL_RECIPE, small_posterior
from layouts import write_edenhofer, write_npz, write_soding

SMALL = ("--threads", 2, "--memory", "3GiB")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A posterior, a recipe and its products."""
    folder = tmp_path_factory.mktemp("cli")
    small_posterior(folder / "p.zarr")
    (folder / "r.yaml").write_text(yaml.safe_dump(SMALL_RECIPE))
    result = crdist("post", folder / "p.zarr", folder / "o.zarr", "-r", folder / "r.yaml", *SMALL)
    assert result.returncode == 0, result.stderr
    return folder


def test_from_a_published_file_to_products(tmp_path):
    write_soding(tmp_path / "gas.fits", nside=4, n_shell=8, n_sample=4)
    imported = crdist("import", tmp_path / "gas.fits", tmp_path / "gas.zarr")
    assert imported.returncode == 0, imported.stderr
    assert "4 samples of n_hi [cm-3], n_h2 [cm-3] on nside 4 x 8 shells" in imported.stdout
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**SMALL_RECIPE, "quantity": "n_h"}))
    posted = crdist("post", "gas.zarr", "o.zarr", "-r", "r.yaml", *SMALL, "--json", cwd=tmp_path)
    assert posted.returncode == 0, posted.stderr
    report = json.loads(posted.stdout)
    assert report["blocks_found"] == 0
    assert report["blocks_computed"] > 5
    tree = xr.open_datatree(tmp_path / "o.zarr", engine="zarr")
    assert set(tree.children) == {p if isinstance(p, str) else p["name"] for p in SMALL_RECIPE["products"]}
    assert np.isfinite(tree["sky"]["mean"]).all()
    for store in ("gas.zarr", "o.zarr"):
        checked = crdist("check", tmp_path / store)
        assert checked.returncode == 0, checked.stdout
        assert checked.stdout.strip().endswith("sound")


def test_the_run_leaves_its_papers(folder):
    run = folder / "o.zarr.run"
    assert "complete after" in (run / "run.log").read_text()
    assert yaml.safe_load((run / "recipe.yaml").read_text())["grid"]["x"] == [-12.0, 12.0]
    timings = json.loads((run / "timings.json").read_text())
    assert set(timings[0]["task_seconds_by_product"]) >= {"sky", "radial"}
    assert json.loads((run / "plan.json").read_text())["blocks"] == timings[0]["blocks_computed"]


def test_a_finished_run_is_left_alone(folder):
    before = fingerprint(folder / "o.zarr")
    again = crdist("post", folder / "p.zarr", folder / "o.zarr", "-r", folder / "r.yaml", *SMALL)
    assert again.returncode == 0
    assert "0 blocks" in again.stdout
    assert fingerprint(folder / "o.zarr") == before


@pytest.mark.parametrize("n_sample", [1, 2])
def test_few_samples_and_much_empty_space_are_sound_and_done(tmp_path, n_sample):
    # blocks of nothing but NaN: no std of one sample, nothing beyond a small map
    small_posterior(tmp_path / "p.zarr", n_sample=n_sample)
    wide = {"x": [-60, 60], "y": [-60, 60], "z": [-2, 2], "voxel": 1}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**SMALL_RECIPE, "grid": wide}))
    arguments = ("post", tmp_path / "p.zarr", tmp_path / "o.zarr", "-r", tmp_path / "r.yaml", *SMALL)
    assert crdist(*arguments).returncode == 0
    checked = crdist("check", tmp_path / "o.zarr")
    assert checked.stdout.strip().endswith("sound"), checked.stdout
    assert "0 blocks" in crdist(*arguments).stdout


def test_the_plan_is_printed_and_nothing_done(folder, tmp_path):
    result = crdist("post", folder / "p.zarr", tmp_path / "o.zarr", "--plan", "--json", *SMALL)
    plan = json.loads(result.stdout)
    assert plan["peak_bytes_per_worker"] < plan["memory_bytes_per_worker"]
    assert {product["name"] for product in plan["products"]} >= {"volume", "sky"}
    assert "peak memory" in crdist("post", folder / "p.zarr", tmp_path / "o.zarr", "--plan").stdout
    assert not list(tmp_path.iterdir())


def test_info_says_what_a_store_holds(folder):
    posterior = json.loads(crdist("info", folder / "p.zarr", "--json").stdout)
    assert (posterior["kind"], posterior["samples"], posterior["grid"]["nside"]) == ("posterior", 4, 4)
    products = json.loads(crdist("info", folder / "o.zarr", "--json").stdout)
    assert products["status"] == "complete"
    assert {product["name"] for product in products["products"]} >= {"volume", "sky"}
    assert "projection_z" in crdist("info", folder / "o.zarr").stdout


def test_the_default_recipe_can_be_printed_and_used(tmp_path):
    text = crdist("recipe").stdout
    assert "# " in text
    (tmp_path / "r.yaml").write_text(text)
    full = yaml.safe_load(crdist("recipe", tmp_path / "r.yaml").stdout)
    assert full["products"][0]["name"] == "midplane"


def test_an_existing_scheduler_computes_the_same(folder, tmp_path):
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        address = cluster.scheduler_address
        result = crdist("post", folder / "p.zarr", tmp_path / "o.zarr", "-r", folder / "r.yaml", "--cluster", address)
    assert result.returncode == 0, result.stderr
    assert fingerprint(tmp_path / "o.zarr") == fingerprint(folder / "o.zarr")


def test_workers_and_threads_do_not_change_a_bit(folder, tmp_path):
    options = ("--workers", 2, "--threads", 1, "--memory", "4GiB")
    result = crdist("post", folder / "p.zarr", tmp_path / "o.zarr", "-r", folder / "r.yaml", *options)
    assert result.returncode == 0, result.stderr
    assert fingerprint(tmp_path / "o.zarr") == fingerprint(folder / "o.zarr")


# Bad input: one line, exit status 1, nothing left behind


def test_another_recipe_for_the_same_store(folder):
    arguments = ("post", folder / "p.zarr", folder / "o.zarr", "-r", folder / "r.yaml", "-s", "grid.voxel=0.25")
    line = error_line(crdist(*arguments, *SMALL))
    assert "o.zarr: was made with another recipe (grid.voxel: 0.5 -> 0.25); choose another name" in line


def test_another_source_for_the_same_store(folder, tmp_path):
    small_posterior(tmp_path / "other.zarr", seed=5)
    line = error_line(crdist("post", tmp_path / "other.zarr", folder / "o.zarr", "-r", folder / "r.yaml", *SMALL))
    assert "was made from another source (there p.zarr, digest" in line


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["grid.voxl=0.1"], "did you mean 'voxel'"),
        (["methd=nearest"], "did you mean 'method'"),
        (["products.projection_q.voxel=1"], "did you mean 'projection_"),
        (["quantity=n_h3"], "no quantity 'n_h3'; it has density"),
        (["grid.voxel=0.7"], "not a whole number of 0.7 kpc voxels"),
        (["grid={x: [90, 91], y: [0, 1], z: [0, 1], voxel: 1}"], "wholly outside the data"),
    ],
)
def test_recipes_that_cannot_be_followed(folder, tmp_path, settings, expected):
    options = [part for setting in settings for part in ("--set", setting)]
    line = error_line(crdist("post", folder / "p.zarr", tmp_path / "o.zarr", *options, *SMALL))
    assert expected in line
    assert not list(tmp_path.iterdir())


def test_what_cannot_fit_is_refused_with_the_way_out(folder, tmp_path):
    line = error_line(crdist("post", folder / "p.zarr", tmp_path / "o.zarr", "--memory", "900MiB"))
    assert "give at least --memory" in line
    assert not list(tmp_path.iterdir())
    assert "memory '4 apples' cannot be read" in error_line(
        crdist("post", folder / "p.zarr", tmp_path / "o.zarr", "--memory", "4 apples")
    )


def test_a_disk_that_is_too_small_is_seen_before_the_run(folder, tmp_path):
    vast = ("--set", "grid.voxel=[0.0005, 0.0005, 0.05]", "--set", "products=[midplane]", "--set", "grid.z=[-1, 1]")
    if shutil.disk_usage(tmp_path).free > 50e9:
        vast = (*vast, "--set", "grid.x=[-20, 20]", "--set", "grid.y=[-20, 20]")
    line = error_line(crdist("post", folder / "p.zarr", tmp_path / "o.zarr", *vast))
    assert re.search(r"o\.zarr: the products take up to [0-9.]+GiB, but its disk has [0-9.]+GiB left; choose", line)
    assert not list(tmp_path.iterdir())


def test_a_product_with_little_inside_the_data_is_noted(folder, tmp_path):
    wide = ("--set", "grid.x=[-300, 300]", "--set", "grid.y=[-300, 300]", "--set", "grid.voxel=6")
    result = crdist("post", folder / "p.zarr", tmp_path / "o.zarr", "--set", "products=[midplane]", *wide, *SMALL)
    assert result.returncode == 0, result.stderr
    assert "note: less than 5% of the voxels of midplane lie inside the data" in result.stdout
    assert "o.zarr: midplane; 1 block in" in result.stdout


def test_check_of_a_run_that_has_not_ended(folder, tmp_path):
    shutil.copytree(folder / "o.zarr", tmp_path / "o.zarr")
    group = zarr.open_group(tmp_path / "o.zarr")
    group.attrs["status"] = "running"
    for file in (tmp_path / "o.zarr" / "sky" / "mean" / "c").rglob("*"):
        if file.is_file():
            file.unlink()
    checked = crdist("check", tmp_path / "o.zarr")
    assert checked.returncode == 1
    assert "sky/mean: incomplete: 0 of " in checked.stdout
    assert "o.zarr: not finished, and sound as far as it goes; run the same 'crdist post' again" in checked.stdout
    assert "remove" not in checked.stdout


def test_stores_that_are_none(folder, tmp_path):
    assert "no such store" in error_line(crdist("post", tmp_path / "no.zarr", tmp_path / "o.zarr"))
    (tmp_path / "empty.zarr").mkdir()
    assert "not a Zarr store" in error_line(crdist("info", tmp_path / "empty.zarr"))
    line = error_line(crdist("post", folder / "o.zarr", tmp_path / "o.zarr"))
    assert "holds products, expected posterior samples" in line
    version = tmp_path / "new.zarr"
    small_posterior(version)
    metadata = version / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    assert "schema version 99, but this crdist reads version 1" in error_line(crdist("info", version))


def test_a_damaged_posterior_is_named(folder, tmp_path):
    small_posterior(tmp_path / "p.zarr")
    shard = tmp_path / "p.zarr" / "density" / "c" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    line = error_line(crdist("post", tmp_path / "p.zarr", tmp_path / "o.zarr", "-r", folder / "r.yaml", *SMALL))
    assert "density/c/0/0/0 is damaged (its checksum is wrong)" in line
    assert "'crdist check" in line
    result = crdist("check", tmp_path / "p.zarr")
    assert result.returncode == 1
    assert "checksum" in result.stdout
    with pytest.raises(SchemaError, match="not complete"):
        open_products(tmp_path / "o.zarr")


def test_negative_samples_have_no_logarithm(tmp_path):
    write_npz(tmp_path / "map.npz", nside=2, n_shell=4, n_sample=3)
    with np.load(tmp_path / "map.npz") as data:
        content = dict(data)
    content["samples"][0, 0, 0] = -1
    np.savez(tmp_path / "negative.npz", **content)
    assert crdist("import", tmp_path / "negative.npz", tmp_path / "p.zarr").returncode == 0
    line = error_line(crdist("post", tmp_path / "p.zarr", tmp_path / "o.zarr", "-s", "value_space=log", *SMALL))
    assert "needs positive samples, got -1" in line
    assert "value_space 'linear'" in line


def test_files_that_cannot_be_imported(tmp_path):
    write_edenhofer(tmp_path / "map.fits", nside=2, n_shell=4, n_sample=3)
    whole = (tmp_path / "map.fits").read_bytes()
    (tmp_path / "cut.fits").write_bytes(whole[: len(whole) // 2])
    assert "cut.fits" in error_line(crdist("import", tmp_path / "cut.fits", tmp_path / "p.zarr"))
    assert "no.fits" in error_line(crdist("import", tmp_path / "no.fits", tmp_path / "p.zarr"))
    (tmp_path / "text.fits").write_text("hello")
    assert "text.fits" in error_line(crdist("import", tmp_path / "text.fits", tmp_path / "p.zarr"))
    assert not list(tmp_path.glob("*p.zarr*"))


def test_a_full_disk_keeps_what_is_done(folder, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        arguments = ("post", folder / "p.zarr", disk / "o.zarr", "-r", folder / "r.yaml", *SMALL)
        assert "has 300.0KiB left; choose larger voxels" in error_line(crdist(*arguments))
        line = error_line(crdist(*arguments, "--yes"))
        assert "No space left on device" in line
        subprocess.run(["mount", "-o", "remount,size=30m", disk], check=True)
        assert crdist(*arguments).returncode == 0
        assert fingerprint(disk / "o.zarr") == fingerprint(folder / "o.zarr")
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_products_do_not_go_into_other_things(folder, tmp_path):
    line = error_line(crdist("post", folder / "p.zarr", folder / "p.zarr" / "in", *SMALL))
    assert "lies inside the store" in line
    (tmp_path / "notes").mkdir()
    line = error_line(crdist("post", folder / "p.zarr", tmp_path / "notes", *SMALL))
    assert "exists and is no products store" in line
    assert not list((tmp_path / "notes").iterdir())


def test_a_folder_that_cannot_be_written(folder):
    # the kernel's own file system refuses even root
    line = error_line(crdist("post", folder / "p.zarr", "/proc/o.zarr", "-r", folder / "r.yaml", *SMALL))
    assert "/proc/o.zarr" in line


def test_ctrl_c_is_one_line_and_the_run_goes_on_from_there(folder, tmp_path):
    arguments = ("post", folder / "p.zarr", tmp_path / "o.zarr", "-r", folder / "r.yaml", *SMALL)
    process = start_crdist(*arguments)
    log = tmp_path / "o.zarr.run" / "run.log"
    deadline = time.monotonic() + 120
    while not (log.exists() and "to compute" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (out, err) == ("", "crdist: interrupted; what is finished is kept: run the same command again to go on\n")
    assert "interrupted; the same command goes on from here" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert crdist(*arguments).returncode == 0
    assert fingerprint(tmp_path / "o.zarr") == fingerprint(folder / "o.zarr")


def test_a_scheduler_file_names_a_cluster(folder, tmp_path):
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=2, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        (tmp_path / "s.json").write_text(json.dumps({"address": cluster.scheduler_address}))
        arguments = ("post", folder / "p.zarr", tmp_path / "o.zarr", "-r", folder / "r.yaml")
        plan = crdist(*arguments, "--cluster", "s.json", "--plan", "--json", cwd=tmp_path)
        assert json.loads(plan.stdout)["threads"] == 2, plan.stderr
        result = crdist(*arguments, "--cluster", "s.json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert fingerprint(tmp_path / "o.zarr") == fingerprint(folder / "o.zarr")


def test_what_does_not_go_with_a_cluster_is_refused(folder, tmp_path):
    arguments = ("post", folder / "p.zarr", tmp_path / "o.zarr")
    line = error_line(crdist(*arguments, "--cluster", "tcp://127.0.0.1:9", "--workers", 2))
    assert "with --cluster its workers have what there is" in line
    assert "127.0.0.1:9: does not answer" in error_line(crdist(*arguments, "--cluster", "tcp://127.0.0.1:9"))
    line = error_line(crdist(*arguments, "--scheduler", "tcp://127.0.0.1:9"))
    assert "--scheduler is now called --cluster: give --cluster tcp://127.0.0.1:9" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("package", "extra"), [("matplotlib", "dashboards"), ("jax", "inference"), ("h5py", "inference")]
)
def test_a_demo_without_a_package_says_what_to_install(tmp_path, monkeypatch, package, extra):
    monkeypatch.setattr("crdist.demo.find_spec", lambda name: None if name == package else name)
    with pytest.raises(DependencyError, match=f"needs {package}; install crdist with its extra '{extra}'"):
        run_demo(tmp_path / "demo", Workers(1, 1, 3 * 1024**3), infer=None)
    assert not (tmp_path / "demo").exists()


def test_the_gas_demo_needs_no_inference(tmp_path):
    result = crdist("demo", tmp_path / "demo", "--gas", "--threads", 2)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "demo" / "overview.png").stat().st_size > 0
    assert open_products(tmp_path / "demo" / "products.zarr").attrs["status"] == "complete"
    line = error_line(crdist("demo", tmp_path / "demo"))
    assert f"holds the other demo; choose another folder, such as {tmp_path / 'demo'}-inference" in line
    line = error_line(crdist("info", tmp_path / "demo" / "gas.fits"))
    assert "a file, not a store; 'crdist import" in line


def test_a_demo_does_not_replace_what_is_none(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    for options in ((), ("--gas",)):
        line = error_line(crdist("demo", tmp_path / "thesis", *options))
        assert "exists and is no earlier demo; choose another folder" in line
    assert (tmp_path / "thesis" / "chapter.tex").exists()


def test_tracebacks_are_for_the_log_and_for_debug(folder, tmp_path):
    state = {"XDG_STATE_HOME": str(tmp_path)}
    error_line(crdist("info", tmp_path / "no.zarr", env=state))
    assert "Traceback" in (tmp_path / "crdist" / "crdist.log").read_text()
    assert "Traceback" in crdist("--debug", "info", tmp_path / "no.zarr").stderr


def test_help_reads_well():
    text = crdist("--help", env={"COLUMNS": "100", **{k: v for k, v in os.environ.items() if k == "PATH"}}).stdout
    for command in (
        "import",
        "pack",
        "post",
        "infer",
        "run",
        "status",
        "cancel",
        "recipe",
        "info",
        "check",
        "demo",
        "cluster",
    ):
        assert command in text
    assert crdist("--version").stdout.strip() == package_version
    result = crdist("pots")
    assert result.returncode == 2
    assert "post" in result.stderr, "did you mean"
