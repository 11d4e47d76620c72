"""Published maps of every layout, read back and compared with independent readers; and files that are not right."""

import hashlib
import resource
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import healpy
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import layouts
from crdist.errors import CrdistError, InputFileError, RecipeError, RunError, StoreExistsError
from crdist.importers import LAYOUTS, import_map
from crdist.importers.filearray import FileArray, PixelSelection, SampleImage
from crdist.importers.streaming import _read_groups, _size_and_sha256
from crdist.store import create_posterior, open_posterior, posterior_shards

SMALL = {"nside": 4, "n_shell": 3, "n_sample": 2}


def stored(header, variable):
    with open_posterior(header.path) as dataset:
        return dataset[variable].values


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def refused(source, target, match, error=InputFileError, **options):
    """The import fails with one line that names the file, and nothing is left."""
    before = entries(target.parent)
    with pytest.raises(error, match=match) as caught:
        import_map(source, target, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(source) in message or str(target) in message
    assert isinstance(caught.value, CrdistError)
    assert entries(target.parent) == before


WRITERS = {
    "edenhofer": ("map.fits", layouts.write_edenhofer),
    "soding": ("map.fits", layouts.write_soding),
    "healpix-fits": ("map.fits", layouts.write_healpix_shells),
    "npz": ("map.npz", layouts.write_npz),
}


def test_every_layout_has_a_writer_here():
    assert set(LAYOUTS) == set(WRITERS)


@pytest.mark.parametrize("ordering", ["NESTED", "RING"])
@pytest.mark.parametrize("layout", sorted(WRITERS))
def test_import_keeps_every_value(tmp_path, layout, ordering):
    name, write = WRITERS[layout]
    written = write(tmp_path / name, ordering=ordering)
    calls = []
    header = import_map(tmp_path / name, tmp_path / "map.zarr", progress=lambda *call: calls.append(call))
    assert header.provenance["layout"] == layout
    assert header.layout == "packed"
    assert header.grid.ordering == "nested"
    assert [variable.name for variable in header.variables] == list(written.values)
    for variable, values in written.values.items():
        np.testing.assert_array_equal(stored(header, variable), values)
    np.testing.assert_allclose(header.grid.edges, written.edges_kpc, rtol=1e-14)
    np.testing.assert_allclose(header.grid.centres, written.centres_kpc, rtol=1e-6)
    assert header.provenance["n_nan"] == dict.fromkeys(written.values, 0)
    assert calls == [(i + 1, len(calls)) for i in range(len(calls))]
    assert entries(tmp_path) == sorted([name, "map.zarr"])


@pytest.mark.parametrize("layout", sorted(WRITERS))
def test_provenance_identifies_the_file_and_no_machine(tmp_path, layout):
    name, write = WRITERS[layout]
    source = tmp_path / name
    write(source, **SMALL)
    header = import_map(source, tmp_path / "map.zarr", layout=layout)
    content = source.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert header.provenance["source"] == {"name": name, "bytes": len(content), "sha256": digest}
    assert header.provenance["config"] == {"layout": layout, "units": None, "name": None}
    assert str(tmp_path) not in str(header.provenance)


def test_edenhofer_agrees_with_astropy_and_dustmaps(tmp_path):
    source = tmp_path / "samples_healpix.fits"
    layouts.write_edenhofer(source, ordering="RING")
    header = import_map(source, tmp_path / "dust.zarr")
    values = stored(header, "extinction_density")
    with fits.open(source) as hdul:
        published = hdul[0].data.astype(np.float32)
    ring = healpy.nest2ring(8, np.arange(header.grid.n_pixel))
    np.testing.assert_array_equal(values, published[:, :, ring].transpose(2, 1, 0))

    from astropy import units as u
    from astropy.coordinates import SkyCoord

    with warnings.catch_warnings():
        # it warns that there is no configuration file in the home folder
        warnings.simplefilter("ignore")
        from dustmaps.edenhofer2023 import Edenhofer2023Query

        query = Edenhofer2023Query(source, load_samples=True)
        pixels = np.arange(0, header.grid.n_pixel, 37)
        longitude, latitude = healpy.pix2ang(8, pixels, nest=True, lonlat=True)
        shell = 5
        distance = header.grid.centres[shell] * u.kpc
        places = SkyCoord(longitude * u.deg, latitude * u.deg, distance=distance, frame="galactic")
        theirs = query(places, mode="samples")
    # it interpolates between pixels in the logarithm: exact at the centres but for rounding
    np.testing.assert_allclose(values[pixels, shell], theirs, rtol=1e-5)
    assert header.variables[0].units == "E/pc"


def test_edenhofer_mean_is_one_sample_and_says_so(tmp_path):
    written = layouts.write_edenhofer(tmp_path / "mean.fits", **SMALL, kind="mean")
    header = import_map(tmp_path / "mean.fits", tmp_path / "mean.zarr", name="a_v", units="mag / pc")
    assert header.n_sample == 1
    np.testing.assert_array_equal(stored(header, "a_v"), written.values["extinction_density"])
    notes = " | ".join(header.provenance["notes"])
    assert "statistics need two" in notes
    assert "not imported: std." in notes
    assert "not imported: mean of integrated inner 69 pc" in notes
    assert "'E/pc'" in notes
    assert header.variables[0].units == "mag / pc"


def test_published_centres_are_kept_where_they_differ(tmp_path):
    edges = layouts.shell_edges(3, 0.069, 1.25)
    centres = (edges[1:] + edges[:-1]) / 2
    layouts.write_edenhofer(tmp_path / "map.fits", **SMALL, centres_kpc=centres)
    header = import_map(tmp_path / "map.fits", tmp_path / "map.zarr")
    np.testing.assert_allclose(header.grid.centres, centres, rtol=1e-14)


def test_soding_derives_hydrogen_nuclei(tmp_path):
    written = layouts.write_soding(tmp_path / "gas.fits", **SMALL)
    header = import_map(tmp_path / "gas.fits", tmp_path / "gas.zarr")
    assert header.main == "n_h"
    assert [variable.units for variable in header.variables] == ["cm-3", "cm-3"]
    expected = written.values["n_hi"] + 2 * written.values["n_h2"]
    np.testing.assert_allclose(stored(header, "n_h"), expected, rtol=1e-6)


def test_soding_agrees_with_astropy(tmp_path):
    layouts.write_soding(tmp_path / "gas.fits", **SMALL)
    header = import_map(tmp_path / "gas.fits", tmp_path / "gas.zarr")
    with fits.open(tmp_path / "gas.fits") as hdul:
        for hdu, variable in ((3, "n_hi"), (4, "n_h2")):
            np.testing.assert_array_equal(stored(header, variable), hdul[hdu].data)


@pytest.mark.parametrize("ordering", ["NESTED", "RING"])
@pytest.mark.parametrize(
    "axes",
    [
        ("sample", "shell", "pixel"),
        ("shell", "pixel", "sample"),
        ("pixel", "sample", "shell"),
        ("shell", "pixel"),
        ("pixel", "shell"),
    ],
)
def test_soding_axes_are_found_by_size(tmp_path, axes, ordering):
    written = layouts.write_soding(tmp_path / "gas.fits", **SMALL, axes=axes, ordering=ordering)
    header = import_map(tmp_path / "gas.fits", tmp_path / "gas.zarr")
    np.testing.assert_array_equal(stored(header, "n_h2"), written.values["n_h2"])


@pytest.mark.parametrize("edges", ["keywords", "table"])
@pytest.mark.parametrize("name", ["shells", "shells.fits"])
@pytest.mark.parametrize("nside", [8, 16])  # from nside 16 on healpy puts 1024 pixels in a row
def test_healpix_shells_agree_with_healpy(tmp_path, name, edges, nside):
    source = tmp_path / name
    written = layouts.write_healpix_shells(source, nside=nside, n_shell=3, n_sample=2, edges=edges)
    header = import_map(source, tmp_path / "map.zarr", name="n_e")
    values = stored(header, "n_e")
    np.testing.assert_array_equal(values, written.values["density"])
    # keywords are written farthest shell first
    shell = 2 if edges == "keywords" else 0
    first = (source / "shell_0000.fits") if source.is_dir() else source
    theirs = healpy.read_map(first, field=(0, 1), nest=True, hdu=1, dtype=np.float32)
    np.testing.assert_array_equal(values[:, shell], theirs.T)
    assert header.variables[0].units == "cm-3"
    assert header.provenance["source"]["name"] == name


def test_healpix_unseen_pixels_become_nan(tmp_path):
    sky = np.arange(48.0, dtype=np.float32)
    sky[7] = healpy.UNSEEN
    extra = [("R_INNER", 0.1), ("R_OUTER", 0.2)]
    healpy.write_map(
        tmp_path / "sky.fits", sky, nest=True, dtype=np.float32, coord="G", column_units="cm-3", extra_header=extra
    )
    header = import_map(tmp_path / "sky.fits", tmp_path / "sky.zarr")
    assert header.provenance["n_nan"] == {"density": 1}
    assert np.flatnonzero(np.isnan(stored(header, "density"))).tolist() == [7]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2"])
def test_npz_agrees_with_numpy(tmp_path, compressed, dtype):
    source = tmp_path / "map.npz"
    layouts.write_npz(source, **SMALL, compressed=compressed, dtype=dtype, ordering="ring")
    header = import_map(source, tmp_path / "map.zarr")
    with np.load(source) as archive:
        published = archive["samples"].astype(np.float32)
    ring = healpy.nest2ring(4, np.arange(192))
    np.testing.assert_array_equal(stored(header, "C"), published[:, ring].transpose(1, 2, 0))


def test_npz_needs_no_nside_and_takes_one_map(tmp_path):
    one = layouts.samples(4, 3, 1, seed=0)[..., 0]
    layouts.write_npz(
        tmp_path / "map.npz", **SMALL, changes={"samples": one, "nside": None, "name": None, "units": None}
    )
    header = import_map(tmp_path / "map.npz", tmp_path / "map.zarr", units="GeV-1 cm-3")
    assert (header.grid.nside, header.n_sample, header.main) == (4, 1, "density")
    np.testing.assert_array_equal(stored(header, "density")[..., 0], one)


def test_scaled_integers_are_physical_values(tmp_path):
    counts = np.arange(2 * 3 * 192, dtype=np.int16).reshape(2, 3, 192)
    hdu = fits.PrimaryHDU(counts)
    hdu.header["NSIDE"], hdu.header["ORDERING"], hdu.header["BUNIT"] = 4, "NESTED", "cm-3"
    hdu.header["BSCALE"], hdu.header["BZERO"], hdu.header["BLANK"] = 0.25, 8.0, 5
    edges = layouts.column("radial pixel boundaries", [100.0, 200.0, 300.0, 400.0])
    fits.HDUList([hdu, edges]).writeto(tmp_path / "map.fits")
    with fits.open(tmp_path / "map.fits", mode="update", do_not_scale_image_data=True) as hdul:
        hdul[0].data[...] = counts
        hdul[0].header["BSCALE"], hdul[0].header["BZERO"] = 0.25, 8.0
    header = import_map(tmp_path / "map.fits", tmp_path / "map.zarr")
    with fits.open(tmp_path / "map.fits") as hdul:
        published = hdul[0].data
    assert published[1, 2, 3] == 8.0 + 0.25 * counts[1, 2, 3]
    assert np.isnan(published[0, 0, 5])
    np.testing.assert_array_equal(stored(header, "extinction_density"), published.transpose(2, 1, 0))
    assert header.grid.edges_kpc == (0.1, 0.2, 0.3, 0.4)


def test_negative_values_stay_and_nan_are_counted(tmp_path):
    values = -layouts.samples(4, 3, 2, seed=0).transpose(2, 0, 1)
    values[0, 5, 1] = values[1, 0, 0] = np.nan
    layouts.write_npz(tmp_path / "map.npz", **SMALL, changes={"samples": values})
    header = import_map(tmp_path / "map.npz", tmp_path / "map.zarr")
    np.testing.assert_array_equal(stored(header, "C"), values.transpose(1, 2, 0))
    assert header.provenance["n_nan"] == {"C": 2}


# --- files that are not right


def test_infinite_values_are_refused(tmp_path):
    values = layouts.samples(4, 3, 2, seed=0).transpose(2, 0, 1).astype(np.float64)
    values[1, 7, 2] = -np.inf
    layouts.write_npz(tmp_path / "inf.npz", **SMALL, changes={"samples": values})
    refused(tmp_path / "inf.npz", tmp_path / "out.zarr", "infinite.* pixel 7, shell 2, sample 1")
    values[1, 7, 2] = 1e39
    layouts.write_npz(tmp_path / "large.npz", **SMALL, changes={"samples": values})
    refused(tmp_path / "large.npz", tmp_path / "out.zarr", "beyond single precision")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"nothing of the kind", "neither a FITS nor an npz file"),
        (b"\x1f\x8b\x08\x00rest", "gzip; decompress it first"),
        (b"SIMPLE  =                    T", "header at byte 0 cannot be read"),
        (b"PK\x03\x04 but no archive", "damaged or cut short"),
    ],
)
def test_other_files_are_refused(tmp_path, content, match):
    (tmp_path / "map.fits").write_bytes(content)
    refused(tmp_path / "map.fits", tmp_path / "out.zarr", match)


def test_missing_files_are_refused(tmp_path):
    refused(tmp_path / "map.fits", tmp_path / "out.zarr", "no such file")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", tmp_path / "out.zarr", r"without \*.fits")


def test_a_source_that_cannot_be_read_is_named_not_the_target(tmp_path):
    # a process may open its own memory, but nothing is mapped at its beginning
    memory = Path("/proc/self/mem")
    refused(memory, tmp_path / "out.zarr", r"^/proc/self/mem: cannot be read \(Input/output error\)")
    with pytest.raises(InputFileError, match=r"^/proc/self/mem: cannot be read \(Input/output error\)"):
        _size_and_sha256(memory)
    refused(tmp_path / ("n" * 300), tmp_path / "out.zarr", r"nnn: cannot be read \(File name too long\)")
    layouts.write_healpix_shells(tmp_path / "shells", **SMALL)
    (tmp_path / "shells" / "gone.fits").symlink_to(tmp_path / "nowhere")
    refused(tmp_path / "shells", tmp_path / "out.zarr", r"gone.fits: cannot be opened \(No such file")


@pytest.mark.parametrize("layout", sorted(WRITERS))
@pytest.mark.parametrize("part", [0.05, 0.5, 0.95, 0.9999])
def test_truncated_files_are_refused(tmp_path, layout, part):
    name, write = WRITERS[layout]
    source = tmp_path / name
    write(source, **SMALL)
    content = source.read_bytes()
    source.write_bytes(content[: int(part * len(content))])
    refused(source, tmp_path / "out.zarr", "cut short|no table|no known layout|shell edges do not")


def test_damaged_npz_is_refused(tmp_path):
    source = tmp_path / "map.npz"
    layouts.write_npz(source)
    content = bytearray(source.read_bytes())
    content[5000] ^= 0xFF
    source.write_bytes(content)
    refused(source, tmp_path / "out.zarr", "damaged or cut short.*CRC")


@pytest.mark.parametrize("nside", [3, 16])
def test_wrong_nside_is_refused(tmp_path, nside):
    layouts.write_npz(tmp_path / "bad.npz", changes={"samples": np.ones((1, 108, 12)), "nside": nside})
    match = "nside must be a power of two .* got 3" if nside == 3 else "108 pixels is no HEALPix sphere of NSIDE 16"
    refused(tmp_path / "bad.npz", tmp_path / "out.zarr", match)


def test_edges_must_increase_and_fit(tmp_path):
    falling = [0.1, 0.3, 0.2, 0.4]
    layouts.write_soding(tmp_path / "a.fits", **SMALL, edges_kpc=falling)
    refused(tmp_path / "a.fits", tmp_path / "out.zarr", r"increase strictly.*edges\[1\] = 0.3 and edges\[2\] = 0.2")
    layouts.write_npz(tmp_path / "b.npz", **SMALL, changes={"distance_edges_kpc": [0.1, 0.2, 0.3]})
    refused(tmp_path / "b.npz", tmp_path / "out.zarr", "3 shell edges do not bound the 3 shells")
    layouts.write_edenhofer(tmp_path / "c.fits", **SMALL, centres_kpc=[0.1, 0.2])
    refused(tmp_path / "c.fits", tmp_path / "out.zarr", "2 shell centres do not fit the 3 shells")


def test_unknown_parts_are_named(tmp_path):
    extra = (fits.ImageHDU(np.zeros(3), name="surprise"),)
    layouts.write_edenhofer(tmp_path / "a.fits", **SMALL, extra=extra)
    refused(tmp_path / "a.fits", tmp_path / "out.zarr", "unknown to the layout 'edenhofer': .*'surprise'")
    layouts.write_soding(tmp_path / "b.fits", **SMALL, extra=extra)
    refused(tmp_path / "b.fits", tmp_path / "out.zarr", "no known layout.*'surprise'")
    refused(tmp_path / "b.fits", tmp_path / "out.zarr", "two images.*'surprise'", layout="soding")
    layouts.write_npz(tmp_path / "c.npz", **SMALL, changes={"surprise": 1})
    refused(tmp_path / "c.npz", tmp_path / "out.zarr", "unknown arrays surprise")
    layouts.write_npz(tmp_path / "d.npz", **SMALL, changes={"distance_edges_kpc": None})
    refused(tmp_path / "d.npz", tmp_path / "out.zarr", "lacks distance_edges_kpc")


def test_ambiguous_axes_are_refused(tmp_path):
    layouts.write_soding(tmp_path / "gas.fits", nside=4, n_shell=3, n_sample=3)
    refused(tmp_path / "gas.fits", tmp_path / "out.zarr", "cannot be told apart")


def test_units_must_be_known(tmp_path):
    layouts.write_edenhofer(tmp_path / "a.fits", **SMALL, cunit=None)
    refused(tmp_path / "a.fits", tmp_path / "out.zarr", "does not say the unit .* units='cm-3'")
    layouts.write_npz(tmp_path / "b.npz", **SMALL, changes={"units": "furlongs per cubit"})
    refused(tmp_path / "b.npz", tmp_path / "out.zarr", "'furlongs per cubit' cannot be read")
    layouts.write_npz(tmp_path / "c.npz", **SMALL, changes={"ordering": "random"})
    refused(tmp_path / "c.npz", tmp_path / "out.zarr", "RING or NESTED, got 'random'")


def test_healpix_shells_must_fit(tmp_path):
    layouts.write_healpix_shells(tmp_path / "celestial.fits", **SMALL, coord="C")
    refused(tmp_path / "celestial.fits", tmp_path / "out.zarr", "coordinates 'C'; rotate")
    layouts.write_healpix_shells(tmp_path / "gap", **SMALL)
    (tmp_path / "gap" / "shell_0001.fits").unlink()
    refused(tmp_path / "gap", tmp_path / "out.zarr", "must follow each other, but R_OUTER = 0.42")
    sky = np.ones(48, dtype=np.float32)
    healpy.write_map(tmp_path / "bare.fits", sky, dtype=np.float32, coord="G", column_units="cm-3")
    refused(tmp_path / "bare.fits", tmp_path / "out.zarr", "lacks R_INNER")
    with fits.open(tmp_path / "bare.fits") as hdul:
        hdul[1].header["INDXSCHM"] = "EXPLICIT"
        hdul.writeto(tmp_path / "part.fits")
    refused(tmp_path / "part.fits", tmp_path / "out.zarr", "part of the sky")


def test_healpix_shells_that_are_missing_at_the_end_are_noticed(tmp_path):
    source = tmp_path / "map.fits"
    layouts.write_healpix_shells(source, **SMALL)
    with fits.open(source) as hdul:
        start = hdul[2].fileinfo()["hdrLoc"]
    source.write_bytes(source.read_bytes()[:start])
    refused(source, tmp_path / "out.zarr", "1 shells are there, but NSHELL = 3 in HDU 0 of map.fits; fetch the rest")
    layouts.write_healpix_shells(tmp_path / "shells", **SMALL)
    (tmp_path / "shells" / "shell_0000.fits").unlink()
    refused(tmp_path / "shells", tmp_path / "out.zarr", "2 shells .* NSHELL = 3 in HDU 1 of shell_0001.fits")


@pytest.mark.parametrize("name", ["shells", "shells.fits"])
def test_healpix_shells_need_not_say_how_many_they_are(tmp_path, name):
    written = layouts.write_healpix_shells(tmp_path / name, **SMALL, with_n_shell=False)
    header = import_map(tmp_path / name, tmp_path / "map.zarr")
    np.testing.assert_array_equal(stored(header, "density"), written.values["density"])


def test_options_must_fit(tmp_path):
    layouts.write_soding(tmp_path / "gas.fits", **SMALL)
    with pytest.raises(RecipeError, match=r"layout must be one of edenhofer, .*, got 'green'"):
        import_map(tmp_path / "gas.fits", tmp_path / "out.zarr", layout="green")
    refused(tmp_path / "gas.fits", tmp_path / "out.zarr", "leave name='n' out", RecipeError, name="n")
    refused(tmp_path / "gas.fits", tmp_path / "out.zarr", "kind FITS, but 'npz' is npz", layout="npz")
    layouts.write_npz(tmp_path / "map.npz", **SMALL)
    refused(tmp_path / "map.npz", tmp_path / "out.zarr", "cannot be called .distance.", RecipeError, name="distance")
    layouts.write_healpix_shells(tmp_path / "shells", **SMALL)
    refused(tmp_path / "shells", tmp_path / "out.zarr", "'npz' is one file", layout="npz")


# --- targets that are not right


def test_an_existing_target_stays(tmp_path):
    layouts.write_npz(tmp_path / "map.npz", **SMALL)
    (tmp_path / "out.zarr").mkdir()
    (tmp_path / "out.zarr" / "precious").write_text("mine")
    refused(tmp_path / "map.npz", tmp_path / "out.zarr", "exists already", StoreExistsError)
    assert entries(tmp_path / "out.zarr") == ["precious"]


def test_a_target_that_cannot_be_made(tmp_path):
    layouts.write_npz(tmp_path / "map.npz", **SMALL)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RunError, match=r"file/out.zarr: cannot be written \((File exists|Not a directory)\)"):
        import_map(tmp_path / "map.npz", tmp_path / "file" / "out.zarr")
    assert entries(tmp_path) == ["file", "map.npz"]


def test_a_failed_import_leaves_no_folders(tmp_path):
    values = np.full((1, 192, 3), np.inf)
    layouts.write_npz(tmp_path / "map.npz", **SMALL, changes={"samples": values})
    with pytest.raises(InputFileError, match="infinite"):
        import_map(tmp_path / "map.npz", tmp_path / "new" / "deep" / "out.zarr")
    assert entries(tmp_path) == ["map.npz"]


def test_a_target_whose_name_cannot_be(tmp_path):
    layouts.write_npz(tmp_path / "map.npz", **SMALL)
    refused(tmp_path / "map.npz", tmp_path / ("n" * 300), r"cannot be written \(File name too long\)", RunError)


def test_a_full_disk_leaves_nothing(tmp_path):
    """The limit of a process on the size of a file fails a write as a full disk does."""
    layouts.write_npz(tmp_path / "map.npz", nside=16, n_shell=12, n_sample=4)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        refused(tmp_path / "map.npz", tmp_path / "out.zarr", r"cannot be written \(File too large\)", RunError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert import_map(tmp_path / "map.npz", tmp_path / "out.zarr").n_sample == 4


# --- reading in pieces


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_piece_of_any_image_is_right(tmp_path, monkeypatch, data):
    """Small limits make the pieces many; they must not change what is read."""
    monkeypatch.setattr("crdist.importers.filearray.BLOCK_BYTES", data.draw(st.sampled_from([64, 1000, 10**7])))
    seek = data.draw(st.sampled_from([1, 40, 2000]))
    monkeypatch.setattr("crdist.importers.filearray.SEEK_BYTES", seek)
    monkeypatch.setattr("crdist.importers.filearray.WIDEN_BYTES", 8 * seek)
    axes = tuple(data.draw(st.permutations(["pixel", "shell", "sample"])))
    ordering = data.draw(st.sampled_from(["nested", "ring"]))
    sizes = {"pixel": 48, "shell": data.draw(st.integers(1, 4)), "sample": data.draw(st.integers(1, 3))}
    stored_values = np.arange(np.prod(list(sizes.values())), dtype=">i4").reshape([sizes[axis] for axis in axes])
    path = tmp_path / "image"
    path.write_bytes(b"head" + stored_values.tobytes())

    def piece(axis):
        first = data.draw(st.integers(0, sizes[axis] - 1))
        return slice(first, data.draw(st.integers(first + 1, sizes[axis])))

    pixels, shells = piece("pixel"), piece("shell")
    with path.open("rb") as file:
        array = FileArray(file, path, 4, stored_values.dtype, stored_values.shape, scale=0.5, zero=1.0)
        values = SampleImage(array, axes, 2, ordering).read(pixels, shells)
    whole = stored_values.transpose([axes.index(axis) for axis in ("pixel", "shell", "sample")])
    if ordering == "ring":
        whole = whole[healpy.nest2ring(2, np.arange(48))]
    np.testing.assert_array_equal(values, whole[pixels, shells] * 0.5 + 1.0)


def test_runs_of_ring_pixels_hold_each_pixel_once():
    selection = PixelSelection(8, "ring", slice(128, 192))
    places = []
    for run in selection.runs(gap=2):
        taken, place = selection.locate(run)
        np.testing.assert_array_equal(healpy.ring2nest(8, taken), 128 + place)
        places += place.tolist()
    assert sorted(places) == list(range(64))


@pytest.mark.parametrize("slowest", ["pixel", "shell"])
@pytest.mark.parametrize("limit", [1, 30_000, 10**9])
def test_read_groups_are_rectangles_that_cover_all(tmp_path, monkeypatch, slowest, limit):
    from crdist.grids import SphericalGrid
    from crdist.schema import Variable

    monkeypatch.setattr("crdist.store.SHARD_BYTES_MAX", 4000)
    monkeypatch.setattr("crdist.store.CHUNK_BYTES_MAX", 4000)
    monkeypatch.setattr("crdist.importers.streaming.READ_BYTES", limit)
    grid = SphericalGrid.log_spaced(4, 70, 0.1, 1.0)
    variables = [Variable("n", "cm-3", "density")]
    header = create_posterior(tmp_path / "x", grid, variables, n_sample=2, layout="packed", provenance={})
    shards = list(posterior_shards(header))
    groups = list(_read_groups(shards, slowest))
    covered = np.zeros((grid.n_pixel, grid.n_shell), dtype=int)
    for group in groups:
        pixels = slice(min(s.pixels.start for s in group), max(s.pixels.stop for s in group))
        shells = slice(min(s.shells.start for s in group), max(s.shells.stop for s in group))
        area = sum((s.pixels.stop - s.pixels.start) * (s.shells.stop - s.shells.start) for s in group)
        assert area == (pixels.stop - pixels.start) * (shells.stop - shells.start)
        assert len(group) == 1 or 8 * area <= limit
        covered[pixels, shells] += 1
    assert (covered == 1).all()
    assert len(groups) == (len(shards) if limit == 1 else 1 if limit == 10**9 else len(groups))


MEASURE = r"""
import re, sys
from pathlib import Path
import astropy.io.fits, healpy, xarray, zarr
from crdist.importers import import_map

def peak_mib():
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

# the peak so far, which a process inherits from the one that started it, is forgotten
Path("/proc/self/clear_refs").write_text("5")
before = peak_mib()
import_map(sys.argv[1], sys.argv[2])
print(peak_mib() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("compressed", [False, True])
def test_memory_stays_small(tmp_path, compressed):
    """1.2 GB of samples, more than the limit of 1 GiB, whichever way they are packed."""
    source = tmp_path / "map.npz"
    row = np.ones((12 * 128**2, 64), dtype="<f4")
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    layouts.write_npz(source, nside=128, n_shell=64, n_sample=0, changes={"samples": None})
    with zipfile.ZipFile(source, "a", method) as archive, archive.open("samples.npy", "w", force_zip64=True) as file:
        head = {"descr": "<f4", "fortran_order": False, "shape": (24, *row.shape)}
        np.lib.format.write_array_header_1_0(file, head)
        for sample in range(24):
            file.write(row * sample)
    command = [sys.executable, "-c", MEASURE, str(source), str(tmp_path / "map.zarr")]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    # a piece is 256 MiB: less would mean that nothing was measured
    assert 256 < float(result.stdout) < 1024
