"""Exports as a whole: which form is meant, targets that are whole or absent, memory, and the command."""

import os
import resource
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import zarr
from astropy.io import fits

from command import crdist, error_line
from crdist.errors import CrdistError, DependencyError, RecipeError, RunError, SchemaError, StoreExistsError
from crdist.exporters import EXPORTERS, export_store
from crdist.exporters.samples import open_samples
from crdist.exporters.target import ArrayInFile
from crdist.grids import SphericalGrid
from crdist.schema import Variable
from crdist.store import append_sample, create_posterior
from galaxies import small_posterior

TARGETS = {"edenhofer": "a.fits", "healpix": "a.fits", "xdggs": "a.zarr", "arviz": "a.nc"}
CONTENT = ("statistics", "samples")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "posterior.zarr"
    small_posterior(path)
    return path


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def refused(source, target, match, error=RecipeError, **options):
    """The export fails with one line, and nothing is left."""
    before = entries(target.parent)
    with pytest.raises(error, match=match) as caught:
        export_store(source, target, **options)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, CrdistError)
    assert entries(target.parent) == before


# --- which form is meant


def test_every_form_says_what_it_is():
    for name, exporter in EXPORTERS.items():
        assert exporter.name == name
        assert "\n" not in exporter.summary
        assert exporter.reads
    assert {name for name, exporter in EXPORTERS.items() if "posterior" in exporter.reads} == set(TARGETS)


@pytest.mark.parametrize(
    ("target", "options", "match"),
    [
        ("a.fits", {}, "posterior samples can be edenhofer or healpix there"),
        ("a.zarr", {}, "posterior samples can be xdggs or arviz there"),
        ("a", {}, "its ending does not tell what posterior samples should become"),
        ("a.fits", {"to": "arviz"}, "the name of 'arviz' ends in .nc or .zarr"),
        ("a.fits", {"to": "fitz"}, "an export is one of edenhofer, .*, got 'fitz'"),
        ("a.vti", {"to": "vtk"}, "holds posterior samples, which 'vtk' does not read; choose one of edenhofer"),
        ("a.fits", {"to": "edenhofer", "shell": 1}, "no use for --shell; it heeds --inner, --quantity, --values"),
        ("a.fits", {"to": "healpix", "products": ["sky"]}, "of a posterior store has no use for --product"),
        ("a.fits", {"to": "healpix", "values": "mean"}, "--values is statistics or samples, got 'mean'"),
        ("a.fits", {"to": "edenhofer", "inner": "in"}, "--inner is extend or exclude, got 'in'"),
        ("a.fits", {"to": "healpix", "inner": "extend"}, "--inner is about integrals"),
        ("a.fits", {"to": "healpix", "shell": 10}, "has the shells 0 to 9, got shell 10"),
        ("a.fits", {"to": "healpix", "shell": -1}, "got shell -1"),
        ("a.fits", {"to": "healpix", "shell": 1, "distance_kpc": (0, 1)}, "exclude each other"),
        ("a.fits", {"to": "healpix", "distance_kpc": (2, 1)}, "distances run from near to far .* got 2 and 1"),
        ("a.fits", {"to": "healpix", "distance_kpc": (0, float("nan"))}, "got 0 and nan"),
        ("a.fits", {"to": "healpix", "distance_kpc": (30, 40)}, "nothing lies between 30 and 40 kpc"),
    ],
)
def test_options_must_fit(store, tmp_path, target, options, match):
    refused(store, tmp_path / target, match, **options)


@pytest.mark.parametrize("form", TARGETS)
def test_a_quantity_must_be_there(store, tmp_path, form):
    refused(store, tmp_path / TARGETS[form], "no quantity 'c'; it has density", SchemaError, to=form, quantity="c")


def test_other_folders_are_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", tmp_path / "a.fits", "not a Zarr store", SchemaError)
    refused(tmp_path / "absent", tmp_path / "a.fits", "no such store", SchemaError)
    zarr.create_group(str(tmp_path / "other.zarr"))
    refused(tmp_path / "other.zarr", tmp_path / "a.fits", "not one of crdist", SchemaError)


@pytest.mark.parametrize("form", TARGETS)
def test_a_posterior_without_samples(tmp_path, form):
    grid = SphericalGrid.log_spaced(2, 3, 0.1, 1.0)
    variables = [Variable("c", "cm-3", "density")]
    create_posterior(tmp_path / "p.zarr", grid, variables, n_sample=0, layout="appended", provenance={})
    refused(tmp_path / "p.zarr", tmp_path / TARGETS[form], "holds no sample yet", SchemaError, to=form)
    # one is enough for a mean; its spread is not known
    append_sample(tmp_path / "p.zarr", {"c": np.full((48, 3), 2.0)})
    export_store(tmp_path / "p.zarr", tmp_path / TARGETS[form], to=form)
    if form == "edenhofer":
        with fits.open(tmp_path / "a.fits") as hdul:
            assert (hdul["mean"].data == 2).all()
            assert np.isnan(hdul["std."].data).all()
            assert "One sample" in str(hdul[0].header["COMMENT"])


def test_a_table_has_no_room_for_a_thousand_samples(tmp_path):
    grid = SphericalGrid.log_spaced(1, 1, 0.1, 1.0)
    variables = [Variable("c", "cm-3", "density")]
    create_posterior(tmp_path / "p.zarr", grid, variables, n_sample=1000, layout="packed", provenance={})
    options = {"to": "healpix", "values": "samples"}
    refused(tmp_path / "p.zarr", tmp_path / "a.fits", "1000 samples, but a FITS table has at most 999", **options)


def test_netcdf_needs_its_library(store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5netcdf", None)
    refused(store, tmp_path / "a.nc", "written by h5netcdf, which is not installed; .*.zarr", DependencyError)


# --- whole or absent


@pytest.mark.parametrize("form", TARGETS)
def test_an_existing_target_stays(store, tmp_path, form):
    target = tmp_path / TARGETS[form]
    target.write_text("mine")
    refused(store, target, "exists already", StoreExistsError, to=form)
    assert target.read_text() == "mine"


def test_a_target_inside_the_store(store):
    refused(store, store / "a.fits", "lies inside the store", to="healpix")


def test_a_target_that_cannot_be_made(store, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RunError, match=r"file/a.nc: cannot be written \((File exists|Not a directory)\)"):
        export_store(store, tmp_path / "file" / "a.nc")
    refused(store, tmp_path / ("n" * 300 + ".nc"), r"cannot be written \(File name too long\)", RunError)


@pytest.mark.parametrize("form", TARGETS)
def test_a_full_disk_leaves_nothing(store, tmp_path, form):
    """The limit of a process on the size of a file fails a write as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    target = tmp_path / "new" / TARGETS[form]
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(RunError, match=r"cannot be written \(.*\); nothing was kept") as caught:
            export_store(store, target, to=form)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert entries(tmp_path) == []
    export_store(store, target, to=form)


def test_a_disk_without_room_is_found_before(tmp_path, store, monkeypatch):
    little = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: little)
    refused(store, tmp_path / "a.fits", r"the export takes .* GB, but 1e-06 GB are free", RunError, to="edenhofer")


@pytest.mark.parametrize("form", TARGETS)
def test_an_interrupt_leaves_nothing(store, tmp_path, form):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_store(store, tmp_path / "new" / TARGETS[form], to=form, progress=interrupt)
    assert entries(tmp_path) == []


KILLED = """
import os, signal, sys
from crdist.exporters import export_store

def end(done, total):
    os.kill(os.getpid(), signal.SIGKILL)

export_store(sys.argv[1], sys.argv[2], to=sys.argv[3], progress=end)
"""


@pytest.mark.parametrize("form", ["edenhofer", "xdggs"])
def test_a_killed_export_is_not_taken_for_one(store, tmp_path, form):
    target = tmp_path / TARGETS[form]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(store), str(target), form], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = entries(tmp_path)
    assert left.startswith(f".{target.name}.exporting-")
    # nothing that looks for files by their ending finds it
    assert not list(tmp_path.glob(f"*{target.suffix}"))
    other = tmp_path / f".{target.name}.exporting-{os.getpid()}-1234@{left.rpartition('@')[2]}"
    other.write_text("of a process that lives")
    export_store(store, target, to=form)
    assert entries(tmp_path) == sorted([target.name, other.name])


@pytest.mark.parametrize("form", ["edenhofer", "healpix"])
def test_the_same_store_gives_the_same_bytes(store, tmp_path, form):
    for name in ("a.fits", "b.fits"):
        export_store(store, tmp_path / name, to=form)
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()


# --- pieces and memory


def test_regions_of_a_file_are_written_in_place(tmp_path, rng):
    shape = (3, 4, 5, 6)
    values = rng.normal(size=shape).astype(">f4")
    path = tmp_path / "array"
    path.write_bytes(b"x" * (7 + values.nbytes + 2))
    cuts = [sorted({0, size, *rng.integers(0, size, 2).tolist()}) for size in shape]
    with path.open("r+b", buffering=0) as file:
        array = ArrayInFile(file, 7, values.dtype, shape)
        for index in np.ndindex(*(len(cut) - 1 for cut in cuts)):
            region = tuple(slice(cut[i], cut[i + 1]) for cut, i in zip(cuts, index, strict=True))
            array.write(region, values[region].astype(np.float64))
        with pytest.raises(ValueError, match=r"values of shape \(2,\) do not fill a region of shape \(1,\)"):
            ArrayInFile(file, 0, np.dtype("u1"), (9,)).write((slice(0, 1),), np.zeros(2))
    assert path.read_bytes() == b"x" * 7 + values.tobytes() + b"xx"


def test_pieces_are_chunks(store):
    opened = open_samples(store, None)
    seen = np.zeros((192, 10), dtype=int)
    for region in opened.regions():
        seen[region.pixels, region.shells] += 1
    assert (seen == 1).all()
    seen[:] = 0
    for region in opened.regions(slice(3, 5)):
        seen[region.pixels, region.shells] += 1
    assert (seen[:, 3:5] == 1).all()
    assert seen.sum() == 2 * 192


MEASURE = r"""
import re, sys
from pathlib import Path
import astropy.io.fits, healpy, h5netcdf, xarray, zarr
from crdist.exporters import export_store

def peak_mib():
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

# the peak so far, which a process inherits from the one that started it, is forgotten
Path("/proc/self/clear_refs").write_text("5")
before = peak_mib()
for i, options in enumerate(eval(sys.argv[3])):
    target = Path(sys.argv[2]) / f"{i}{options.pop('ending')}"
    export_store(sys.argv[1], target, **options)
print(peak_mib() - before)
"""


def peak_mib(store, folder, forms):
    command = [sys.executable, "-c", MEASURE, str(store), str(folder), repr(forms)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        *((form, {"values": content}) for form in ("edenhofer", "healpix", "xdggs") for content in CONTENT),
        ("healpix", {"distance_kpc": (0, 1)}),
        ("arviz", {}),
    ],
)
def test_a_piece_is_held_at_once(tmp_path, monkeypatch, form, options):
    """6 MB of samples in pieces of 128 KiB: what numpy holds at once is a small part of them."""
    grid = SphericalGrid.log_spaced(16, 40, 0.05, 1.25)
    variables = [Variable("c", "cm-3", "density")]
    create_posterior(tmp_path / "p.zarr", grid, variables, n_sample=12, layout="packed", provenance={})
    monkeypatch.setattr("crdist.exporters.samples.PIECE_BYTES", 128 * 1024)
    export_store(tmp_path / "p.zarr", tmp_path / f"warm{TARGETS[form]}", to=form, **options)
    tracemalloc.start()
    try:
        export_store(tmp_path / "p.zarr", tmp_path / TARGETS[form], to=form, **options)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 128 * 1024 < peak < 2e6


@pytest.mark.slow
def test_memory_stays_small(tmp_path):
    """200 MB of samples; whatever the form, some pieces of 16 MiB are held at once."""
    grid = SphericalGrid.log_spaced(64, 88, 0.05, 1.25)
    variables = [Variable("c", "cm-3", "density")]
    options = {"n_sample": 12, "layout": "packed", "provenance": {}}
    create_posterior(tmp_path / "p.zarr", grid, variables, **options)
    # chunks that are not there read as fill values: full-sized, and quickly made
    forms = [
        {"to": "edenhofer", "values": "samples", "ending": ".fits"},
        {"to": "edenhofer", "ending": ".fits"},
        {"to": "healpix", "values": "samples", "ending": ".fits"},
        {"to": "healpix", "distance_kpc": (0, 1), "ending": ".fits"},
        {"to": "xdggs", "values": "samples", "ending": ".zarr"},
        {"to": "arviz", "ending": ".nc"},
    ]
    # less than a piece would mean that nothing was measured
    assert 16 < peak_mib(tmp_path / "p.zarr", tmp_path, forms) < 160


@pytest.mark.slow
def test_memory_stays_small_for_a_volume(tmp_path):
    """Arrays of 67 MB each."""
    group = zarr.create_group(str(tmp_path / "o.zarr"))
    frame = {"name": "galactocentric", "r0_kpc": 8.178, "z_sun_kpc": 0.0, "roll_deg": 0.0}
    quantity = {"name": "c", "units": "cm-3", "long_name": "density"}
    group.attrs.update({"schema": "crdist.products", "schema_version": 1, "status": "complete", "n_sample": 4})
    group.attrs.update({"quantity": quantity, "frame": frame})
    grid = {axis: [-1.0, 1.0, 256] for axis in "xyz"}
    volume = group.create_group("volume")
    volume.attrs.update({"kind": "volume", "quantity": "c", "n_sample": 4, "frame": frame})
    volume.attrs.update({"grid": {**grid, "frame": frame}})
    for name in ("mean", "std", "significance", "significance_error", "coverage"):
        volume.create_array(
            name,
            shape=(256, 256, 256),
            chunks=(16, 16, 256),
            shards=(64, 64, 256),
            dtype="f4",
            fill_value=1.0,
            dimension_names=("x", "y", "z"),
            attributes={"units": "cm-3", "long_name": name},
        )
    forms = [{"to": "vtk", "ending": ".vti"}, {"to": "fits-cube", "ending": ".fits"}]
    assert 4 < peak_mib(tmp_path / "o.zarr", tmp_path, forms) < 100
    with fits.open(tmp_path / "1.fits") as hdul:
        assert (hdul["volume_coverage"].data == 1).all()


def test_a_store_that_grows_meanwhile(tmp_path):
    """What counts are the samples of the moment it was opened."""
    grid = SphericalGrid.log_spaced(2, 3, 0.1, 1.0)
    variables = [Variable("c", "cm-3", "density")]
    create_posterior(tmp_path / "p.zarr", grid, variables, n_sample=0, layout="appended", provenance={})
    values = np.arange(3 * 48 * 3.0).reshape(3, 48, 3)
    for sample in values[:2]:
        append_sample(tmp_path / "p.zarr", {"c": sample})

    def grow(done, total):
        assert total > 1
        if done == 1:
            append_sample(tmp_path / "p.zarr", {"c": values[2]})

    export_store(tmp_path / "p.zarr", tmp_path / "a.fits", to="edenhofer", progress=grow)
    opened = open_samples(tmp_path / "p.zarr", None)
    assert opened.n_sample == 3
    for n in (2, 3):
        with fits.open(tmp_path / "a.fits") as hdul:
            assert hdul[0].header["NSAMPLE"] == n
            np.testing.assert_allclose(hdul["mean"].data.T, values[:n].mean(axis=0), rtol=1e-6)
        (tmp_path / "a.fits").unlink()
        export_store(tmp_path / "p.zarr", tmp_path / "a.fits", to="edenhofer")


# --- the command


def test_the_command(store, tmp_path):
    listed = crdist("export", "--list")
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(EXPORTERS)
    done = crdist("export", store, "a.fits", "--to", "healpix", "--distance", 0, 5, "--inner", "exclude", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("a.fits: number density integrated along the line of sight from 0 to 5 kpc [cm-2]")
    assert fits.getheader(tmp_path / "a.fits", 1)["D_FAR"] == 5.0
    again = crdist("export", store, "a.fits", "--to", "healpix", cwd=tmp_path)
    assert error_line(again) == "crdist: error: a.fits: exists already; choose another name or remove it"
    wrong = crdist("export", store, "b.fits", "--to", "healpix", "--values", "median", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "statistics" in wrong.stderr
    assert entries(tmp_path) == ["a.fits"]
