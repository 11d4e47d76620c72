"""Gamma-ray maps in the published layouts, read back and compared with healpy; and files that are not right."""

import sys

import h5py
import healpy
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from crdist.errors import CrdistError, DependencyError, GridError, InputFileError, RecipeError, StoreExistsError
from crdist_inference.gamma_files import BAND_GEV, write_observation_file
from crdist_inference.masks import MaskTable
from crdist_inference.observation import Observation, read_observation

NSIDE = 8
N_PIXEL = 12 * NSIDE**2
EDGES = 10 ** (-0.25 + 0.25 * np.arange(12))
BIN = 2


def refused(match, error=InputFileError, call=read_observation, **options):
    """One line, of a class that the command line prints."""

    def run(*args, **more):
        with pytest.raises(error, match=match) as caught:
            call(*args, **options, **more)
        assert isinstance(caught.value, CrdistError)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return run


def sky(rng, n_energy=11, nside=NSIDE):
    """A mean and its standard deviation, all values different, (n_energy, n_pixel)."""
    mean = rng.lognormal(-4.0, 1.0, (n_energy, 12 * nside**2))
    return mean, mean * rng.uniform(0.05, 0.3, mean.shape)


def write_published(folder, rng, *, changes=None, edges=EDGES, samples=0, nside=NSIDE):
    """I_dust.hdf5 and energy_bins.hdf5 in RING order, as published; changes replace datasets or leave them out."""
    mean, sigma = sky(rng, edges.size - 1, nside)
    arrays = {"stats/mean": mean, "stats/standard deviation": sigma}
    draws = mean + sigma * rng.normal(size=(samples, *mean.shape))
    arrays |= {f"samples/{i}": draw for i, draw in enumerate(draws)}
    with h5py.File(folder / "I_dust.hdf5", "w") as file:
        for name, array in {**arrays, **(changes or {})}.items():
            if array is not None:
                file[name] = array
    with h5py.File(folder / "energy_bins.hdf5", "w") as file:
        file["geom_avg_bin_energy"] = np.sqrt(edges[1:] * edges[:-1])
        file["lower_bin_boundaries"], file["upper_bin_boundaries"] = edges[:-1], edges[1:]
    return folder / "I_dust.hdf5", mean, sigma, draws


def write_table(path, columns, *, ordering="RING", units="m-2 s-1 sr-1", changes=(), names=("intensity", "sigma")):
    """A HEALPix table as healpy writes it."""
    healpy.write_map(
        path,
        list(columns),
        nest=ordering == "NESTED",
        coord="G",
        column_names=list(names)[: len(columns)],
        column_units=units,
        dtype=np.float64,
        extra_header=list(changes),
    )
    return path


def downgraded(ring_map, nside, power=0):
    """healpy's own way from RING to a coarser nested map."""
    return healpy.ud_grade(ring_map, nside, order_in="RING", order_out="NEST", power=power)


# the published HDF5 layout


@pytest.mark.parametrize("nside", [8, 4, 2, 1])
def test_hdf5_is_the_mean_of_children(tmp_path, rng, nside):
    path, mean, sigma, _ = write_published(tmp_path, rng)
    seen = read_observation(path, nside=nside)
    np.testing.assert_allclose(seen.intensity, downgraded(mean[BIN], nside), rtol=1e-13)
    np.testing.assert_allclose(seen.sigma, downgraded(sigma[BIN], nside), rtol=1e-13)
    assert seen.nside == nside
    assert seen.n_used == 12 * nside**2
    assert (seen.e_min_gev, seen.e_max_gev) == (EDGES[BIN], EDGES[BIN + 1])
    assert [source["name"] for source in seen.provenance["source"]] == ["I_dust.hdf5", "energy_bins.hdf5"]
    assert seen.provenance["source"][0]["bytes"] == path.stat().st_size


def test_quadrature_is_the_error_of_a_mean_of_independent_values(tmp_path, rng):
    path, mean, sigma, _ = write_published(tmp_path, rng)
    seen = read_observation(path, nside=4, sigma_rule="quadrature")
    np.testing.assert_allclose(seen.sigma, np.sqrt(downgraded(sigma[BIN] ** 2, 4) / 4), rtol=1e-13)
    np.testing.assert_allclose(seen.intensity, downgraded(mean[BIN], 4), rtol=1e-13)


@pytest.mark.parametrize("as_one_dataset", [False, True])
def test_samples_are_made_coarser_one_by_one(tmp_path, rng, as_one_dataset):
    path, _, _, draws = write_published(tmp_path, rng, samples=12)
    if as_one_dataset:
        with h5py.File(path, "r+") as file:
            del file["samples"]
            file["samples"] = draws
    seen = read_observation(path, nside=4, sigma_rule="samples")
    coarse = np.stack([downgraded(draw[BIN], 4) for draw in draws])
    np.testing.assert_allclose(seen.intensity, coarse.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(seen.sigma, coarse.std(axis=0, ddof=1), rtol=1e-11)


def test_what_nifty_saves_is_this_layout(tmp_path, rng):
    """NIFTy's `save_to_hdf5` gives the names that the published file has; its sphere is in RING order."""
    import nifty8 as ift

    mean, sigma = sky(rng)
    draws = mean + sigma * rng.normal(size=(6, *mean.shape))
    domain = ift.makeDomain((ift.UnstructuredDomain(11), ift.HPSpace(NSIDE)))
    path = tmp_path / "nifty.hdf5"
    samples = ift.SampleList([ift.makeField(domain, draw) for draw in draws])
    samples.save_to_hdf5(str(path), samples=True, mean=True, std=True)
    bins = write_published(tmp_path, rng)[0].with_name("energy_bins.hdf5")
    seen = read_observation(path, nside=NSIDE, energy_bins=bins)
    np.testing.assert_allclose(seen.intensity, downgraded(draws.mean(axis=0)[BIN], NSIDE), rtol=1e-12)
    np.testing.assert_allclose(seen.sigma, downgraded(draws.std(axis=0, ddof=1)[BIN], NSIDE), rtol=1e-12)
    from_samples = read_observation(path, nside=NSIDE, energy_bins=bins, sigma_rule="samples")
    np.testing.assert_allclose(from_samples.intensity, seen.intensity, rtol=1e-12)
    np.testing.assert_allclose(from_samples.sigma, seen.sigma, rtol=1e-11)


def test_correlated_samples_keep_their_scatter_and_independent_ones_do_not(tmp_path, rng):
    """What tells the three rules apart: 4 x, for 16 children."""
    mean = np.full((1, N_PIXEL), 1.0)
    sigma = np.full((1, N_PIXEL), 0.1)
    independent = 1.0 + 0.1 * rng.normal(size=(200, 1, N_PIXEL))
    correlated = 1.0 + 0.1 * rng.normal(size=(200, 1, 1)) + np.zeros_like(independent)
    found = {}
    for name, samples in (("independent", independent), ("correlated", correlated)):
        (tmp_path / name).mkdir()
        path = write_observation_file(tmp_path / name / "map.hdf5", mean, sigma, samples=samples)
        found[name] = read_observation(path, nside=2, sigma_rule="samples").sigma.mean()
        for rule, expected in (("mean", 0.1), ("quadrature", 0.025)):
            np.testing.assert_allclose(read_observation(path, nside=2, sigma_rule=rule).sigma, expected, rtol=1e-12)
    assert found == pytest.approx({"independent": 0.025, "correlated": 0.1}, rel=0.2)


@pytest.mark.parametrize("band", [(1.78, 3.16), BAND_GEV, (0.5623, 1.0)])
def test_the_bin_is_chosen_by_energy(tmp_path, rng, band):
    path, mean, _, _ = write_published(tmp_path, rng)
    seen = read_observation(path, nside=8, band=band)
    i = int(np.argmin(np.abs(EDGES - band[0])))
    np.testing.assert_array_equal(seen.intensity, mean[i][healpy.nest2ring(NSIDE, np.arange(N_PIXEL))])
    assert (seen.e_min_gev, seen.e_max_gev) == (EDGES[i], EDGES[i + 1])


def test_the_energy_bins_may_be_elsewhere_or_in_the_file(tmp_path, rng):
    path, *_ = write_published(tmp_path, rng)
    elsewhere = (tmp_path / "energy_bins.hdf5").rename(tmp_path / "bins.h5")
    refused("energy_bins.hdf5: no such file; give .* energy_bins=", nside=4)(path)
    first = read_observation(path, nside=4, energy_bins=elsewhere)
    with h5py.File(path, "r+") as file:
        file["lower_bin_boundaries"], file["upper_bin_boundaries"] = EDGES[:-1], EDGES[1:]
    np.testing.assert_array_equal(read_observation(path, nside=4).intensity, first.intensity)


def test_the_user_knows_better_than_the_file(tmp_path, rng):
    path, mean, _, _ = write_published(tmp_path, rng)
    seen = read_observation(path, nside=8, ordering="nested", units="ph cm-2 s-1 sr-1 bin-1")
    np.testing.assert_allclose(seen.intensity, 1e4 * mean[BIN], rtol=1e-14)
    with h5py.File(path, "r+") as file:
        file["stats/mean"].attrs["units"], file["stats/mean"].attrs["ordering"] = "cm-2 s-1 sr-1", "NESTED"
    np.testing.assert_array_equal(read_observation(path, nside=8).intensity, seen.intensity)


@pytest.mark.parametrize("n_energy", [1, 3])
def test_what_is_written_is_read_back(tmp_path, rng, n_energy):
    mean, sigma = sky(rng, n_energy)
    edges = [1.0, BAND_GEV[0], BAND_GEV[1], 10.0] if n_energy == 3 else BAND_GEV
    shaped = (mean, sigma) if n_energy == 3 else (mean[0], sigma[0])
    path = write_observation_file(tmp_path / "new" / "map.hdf5", *shaped, edges_gev=edges)
    seen = read_observation(path, nside=NSIDE)
    np.testing.assert_array_equal(seen.intensity, mean[n_energy // 2])
    np.testing.assert_array_equal(seen.sigma, sigma[n_energy // 2])
    assert sorted(file.name for file in path.parent.iterdir()) == ["energy_bins.hdf5", "map.hdf5"]
    with h5py.File(path) as file:
        # RING, as published
        np.testing.assert_array_equal(
            file["stats/mean"][n_energy // 2], mean[n_energy // 2][healpy.ring2nest(NSIDE, np.arange(N_PIXEL))]
        )
        assert file.attrs["comment"] == "synthetic, not data"


def test_the_writer_refuses(tmp_path, rng):
    mean, sigma = sky(rng, 2)
    write = {"call": write_observation_file}
    refused(r"stats/mean has shape \(2, 768\), expected \(1, 12 nside\^2\)", **write)(tmp_path / "m.h5", mean, sigma)
    refused("stats/standard deviation has shape", **write)(tmp_path / "m.h5", mean[0], sigma[0, :-1])
    falling = refused("must be positive and increase, got", **write)
    falling(tmp_path / "m.h5", mean[0], sigma[0], edges_gev=(2.0, 1.0))
    assert list(tmp_path.iterdir()) == []
    write_observation_file(tmp_path / "m.h5", mean[0], sigma[0])
    exists = refused("energy_bins.hdf5: exists already", StoreExistsError, **write)
    exists(tmp_path / "other.h5", mean[0], sigma[0])
    refused("m.h5: exists already", StoreExistsError, **write)(tmp_path / "m.h5", mean[0], sigma[0])


RING_MAP = np.linspace(1.0, 2.0, N_PIXEL) * np.ones((11, 1))


@pytest.mark.parametrize(
    ("changes", "options", "match"),
    [
        ({"stats/mean": None}, {}, "has no dataset 'stats/mean'; it has stats/standard deviation"),
        ({"stats/standard deviation": None}, {}, "has no dataset 'stats/standard deviation'"),
        ({"stats/mean": RING_MAP.T}, {}, r"'stats/mean' is float64 of shape \(768, 11\), expected numbers of shape"),
        ({"stats/mean": RING_MAP[0]}, {}, r"of shape \(768,\), expected"),
        ({"stats/mean": RING_MAP.astype("S8")}, {}, "expected numbers"),
        ({"stats/mean": RING_MAP[:, :-1]}, {}, "differ in shape"),
        (
            {"stats/mean": RING_MAP[:, :-1], "stats/standard deviation": RING_MAP[:, :-1]},
            {},
            "a map of 767 pixels is no HEALPix sphere",
        ),
        ({"stats/mean": RING_MAP * np.nan}, {}, "768 of 768 pixels are NaN, infinite or UNSEEN; mend the map"),
        ({"stats/standard deviation": RING_MAP * 0}, {}, "sigma must be positive, got 0 in 768 pixels"),
        ({"stats/standard deviation": -RING_MAP}, {}, r"sigma must be positive, got -\d"),
        ({}, {"sigma_rule": "samples"}, "has no 'samples'; use sigma_rule 'mean' or 'quadrature'"),
        ({"samples/0": RING_MAP}, {"sigma_rule": "samples"}, "holds 1 sample, a scatter needs 2"),
        (
            {"samples/0": RING_MAP, "samples/1": RING_MAP},
            {"sigma_rule": "samples"},
            "nside 4: sigma must be positive, got 0 in 192 pixels",
        ),
        ({}, {"band": (1.0, 3.16)}, "no bin is 1-3.16 GeV; there are 0.5623-1, 1-1.778, 1.778-3.162, .* GeV"),
        ({}, {"units": "GeV-1 m-2 s-1 sr-1"}, "is per energy: integrate it over the band"),
        ({}, {"units": "GeV m-2 s-1 sr-1"}, "is an energy, not a number of photons"),
        ({}, {"units": "cm-2 s-1"}, "not per solid angle"),
        ({}, {"units": "furlong"}, "unit 'furlong' cannot be read; give it"),
        ({}, {"units": "K"}, "unit 'K' is not one of m-2 s-1 sr-1; a number of photons per"),
    ],
)
def test_a_bad_hdf5_file_is_refused(tmp_path, rng, changes, options, match):
    path, *_ = write_published(tmp_path, rng, changes=changes)
    assert str(tmp_path) in refused(match, nside=4, **options)(path)


def test_bad_options_and_files(tmp_path, rng):
    path, *_ = write_published(tmp_path, rng)
    refused("cannot be made finer, to nside 16; ask for 8 or less", GridError, nside=16)(path)
    refused("nside must be a power of two", GridError, nside=3)(path)
    for options, match in (
        ({"sigma_rule": "median"}, "sigma_rule must be one of mean, quadrature, samples, got 'median'"),
        ({"ordering": "RING"}, "ordering must be one of nested, ring, None, got 'RING'"),
        ({"missing": "skip"}, "missing must be one of refuse, mask, got 'skip'"),
        ({"band": (3.0, 1.0)}, "a band needs 0 < lower < upper"),
        ({"columns": ("a", "b")}, "columns does not go with a file of the kind HDF5"),
        ({"min_fraction": 2.0}, "min_fraction must be between 0 and 1, got 2"),
    ):
        refused(match, RecipeError, nside=4, **options)(path)
    refused("cannot be opened", nside=4)(tmp_path / "none.hdf5")
    refused("is a folder", nside=4)(tmp_path)
    (tmp_path / "empty").touch()
    refused("is empty", nside=4)(tmp_path / "empty")
    (tmp_path / "text").write_text("not a map at all")
    refused("neither an HDF5 nor a FITS file", nside=4)(tmp_path / "text")
    (tmp_path / "cut.hdf5").write_bytes(path.read_bytes()[:600])
    refused("not a whole HDF5 file", nside=4)(tmp_path / "cut.hdf5")
    with h5py.File(tmp_path / "bad_bins.hdf5", "w") as file:
        file["lower_bin_boundaries"], file["upper_bin_boundaries"] = EDGES[1:], EDGES[:-1]
    refused("0 < lower < upper", nside=4, energy_bins=tmp_path / "bad_bins.hdf5")(path)
    with h5py.File(tmp_path / "bad_bins.hdf5", "r+") as file:
        del file["upper_bin_boundaries"]
    refused("no dataset 'upper_bin_boundaries'", nside=4, energy_bins=tmp_path / "bad_bins.hdf5")(path)


def test_without_h5py_it_says_what_to_install(tmp_path, rng, monkeypatch):
    path, *_ = write_published(tmp_path, rng)
    monkeypatch.setitem(sys.modules, "h5py", None)
    refused("needs h5py; install crdist with its extra 'inference'", DependencyError, nside=4)(path)


# HEALPix FITS tables


@pytest.mark.parametrize("ordering", ["RING", "NESTED"])
@pytest.mark.parametrize("units", ["m-2 s-1 sr-1", "ph / (cm2 s sr)", "photon cm-2 s-1 sr-1 bin-1"])
def test_fits_columns(tmp_path, rng, ordering, units):
    mean, sigma = sky(rng, 1)
    path = write_table(tmp_path / "map.fits", [mean[0], sigma[0]], ordering=ordering, units=units)
    seen = read_observation(path, nside=4)
    order = "NEST" if ordering == "NESTED" else "RING"
    factor = 1.0 if units.startswith("m-2") else 1e4
    expected = [factor * healpy.ud_grade(x[0], 4, order_in=order, order_out="NEST") for x in (mean, sigma)]
    np.testing.assert_allclose(seen.intensity, expected[0], rtol=1e-12)
    np.testing.assert_allclose(seen.sigma, expected[1], rtol=1e-12)
    assert "the band is what was asked for" in seen.provenance["notes"][0]


def test_fits_in_two_files_of_different_order_unit_and_length_of_rows(tmp_path, rng):
    mean, sigma = sky(rng, 1, nside=16)  # from here on healpy writes 1024 pixels a row
    write_table(tmp_path / "mean.fits", [mean[0]], names=["any"], ordering="RING")
    reordered = sigma[0][healpy.nest2ring(16, np.arange(3072))]
    write_table(tmp_path / "std.fits", [reordered / 1e4], names=["x"], ordering="NESTED", units="cm-2 s-1 sr-1")
    seen = read_observation(tmp_path / "mean.fits", sigma_path=tmp_path / "std.fits", nside=8)
    np.testing.assert_allclose(seen.intensity, downgraded(mean[0], 8), rtol=1e-12)
    np.testing.assert_allclose(seen.sigma, downgraded(sigma[0], 8), rtol=1e-12)
    assert len(seen.provenance["source"]) == 2


def test_fits_keywords_give_the_band(tmp_path, rng):
    mean, sigma = sky(rng, 1)
    stated = [("E_MIN", EDGES[2]), ("E_MAX", EDGES[3])]
    path = write_table(tmp_path / "map.fits", [mean[0], sigma[0]], changes=stated)
    seen = read_observation(path, nside=8, band=(1.78, 3.16))
    assert (seen.e_min_gev, seen.e_max_gev) == pytest.approx(BAND_GEV, rel=1e-12)
    assert seen.provenance["notes"] == []
    refused("E_MIN and E_MAX are", nside=8, band=(3.16, 5.62))(path)


def test_fits_columns_by_name(tmp_path, rng):
    mean, sigma = sky(rng, 1)
    path = write_table(tmp_path / "map.fits", [sigma[0], mean[0]], names=["dI", "I_dust"])
    refused("needs one column of numbers called 'intensity' or .* it has 'dI', 'I_dust': name two", nside=8)(path)
    refused("called 'J'; it has", nside=8, columns=("J", "dI"))(path)
    refused("columns are two names", RecipeError, nside=8, columns="dI")(path)
    seen = read_observation(path, nside=8, columns=("I_dust", "dI"), ordering="nested")
    np.testing.assert_array_equal(seen.intensity, mean[0])
    np.testing.assert_array_equal(seen.sigma, sigma[0])


def edited(path, **keywords):
    """The header of a table's file with keywords replaced, or removed where None."""
    with fits.open(path, mode="update") as hdus:
        for key, value in keywords.items():
            if value is None:
                del hdus[1].header[key]
            else:
                hdus[1].header[key] = value
    return path


@pytest.mark.parametrize(
    ("keywords", "options", "match"),
    [
        ({"ORDERING": None}, {}, "lacks ORDERING; give ordering='ring' or 'nested'"),
        ({"ORDERING": "SPIRAL"}, {}, "must be RING or NESTED, got 'SPIRAL'"),
        ({"TUNIT1": None}, {}, "column 'intensity' has no unit; give it"),
        ({"TUNIT1": "GeV-1 cm-2 s-1 sr-1"}, {}, "is per energy: integrate it over the band"),
        ({"COORDSYS": "C"}, {}, "coordinates 'C'; rotate it to Galactic"),
        ({"INDXSCHM": "EXPLICIT"}, {}, "holds a part of the sky"),
        ({"PIXTYPE": "OTHER"}, {}, "must have one table with PIXTYPE = 'HEALPIX'"),
        ({"NSIDE": 4}, {}, "a map of 768 pixels is no HEALPix sphere of NSIDE 4"),
        ({}, {"sigma_rule": "samples"}, "sigma_rule='samples' does not go with a file of the kind FITS"),
        ({}, {"energy_bins": "x.hdf5"}, "energy_bins does not go with"),
    ],
)
def test_a_bad_fits_file_is_refused(tmp_path, rng, keywords, options, match):
    mean, sigma = sky(rng, 1)
    path = edited(write_table(tmp_path / "map.fits", [mean[0], sigma[0]]), **keywords)
    error = RecipeError if options else InputFileError
    assert str(path) in refused(match, error, nside=4, **options)(path)


def test_fits_maps_of_two_sizes(tmp_path, rng):
    write_table(tmp_path / "mean.fits", [sky(rng, 1)[0][0]], names=["a"])
    write_table(tmp_path / "std.fits", [sky(rng, 1, nside=4)[0][0]], names=["a"])
    match = "std.fits: has 192 pixels, the map of intensity 768"
    refused(match, nside=4, sigma_path=tmp_path / "std.fits")(tmp_path / "mean.fits")


# pixels without data


def test_unseen_pixels_are_refused_or_masked(tmp_path, rng):
    mean, sigma = sky(rng, 1)
    lost = np.zeros(N_PIXEL, dtype=bool)
    lost[[0, 1, 2, 4, 12, 13, 14, 15]] = True  # nested: three of a parent's children, one, and all four
    holed = np.where(lost, healpy.UNSEEN, mean[0])
    path = write_table(tmp_path / "map.fits", [holed, sigma[0]], ordering="NESTED")
    refused("8 of 768 pixels are NaN, infinite or UNSEEN", nside=4)(path)
    seen = read_observation(path, nside=4, missing="mask")
    assert np.flatnonzero(~seen.used).tolist() == [0, 3]
    assert seen.intensity[1] == pytest.approx(mean[0][5:8].mean())
    np.testing.assert_allclose(seen.intensity[4:], mean[0].reshape(-1, 4).mean(axis=1)[4:])
    assert np.flatnonzero(~read_observation(path, nside=4, missing="mask", min_fraction=0.0).used).tolist() == [3]
    all_needed = read_observation(path, nside=4, missing="mask", min_fraction=1.0)
    assert np.flatnonzero(~all_needed.used).tolist() == [0, 1, 3]
    assert all_needed.provenance["n_missing"] == 8


# the record


def observation(nside=4, seed=0, **changes):
    rng = np.random.default_rng(seed)
    mean, sigma = sky(rng, 1, nside)
    values = {
        "nside": nside,
        "intensity": mean[0],
        "sigma": sigma[0],
        "used": np.ones(12 * nside**2, dtype=bool),
        "e_min_gev": BAND_GEV[0],
        "e_max_gev": BAND_GEV[1],
        **changes,
    }
    return Observation(**values)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"intensity": np.ones(3)}, r"intensity of an observation at nside 4 has shape \(192,\), got \(3,\)"),
        ({"intensity": np.full(192, np.nan)}, "intensity is nan in 192 used pixels"),
        ({"sigma": np.full(192, np.inf)}, "sigma is inf in 192 used pixels"),
        ({"sigma": np.zeros(192)}, "sigma must be positive, got 0 in 192 pixels"),
        ({"sigma": np.linspace(-1, 190, 192)}, r"got -1 in 2 pixels \(nested 0 first\)"),
        ({"used": np.zeros(192, dtype=bool)}, "no pixel of the observation is used"),
        ({"e_max_gev": 1.0}, "a band needs 0 < e_min < e_max"),
        ({"e_min_gev": np.nan}, "a band needs"),
    ],
)
def test_an_impossible_observation_is_refused(changes, match):
    refused(match, call=observation)(**changes)


def test_nside_is_checked():
    refused("nside must be a power of two", GridError, call=observation)(nside=3)


def test_an_observation_is_its_own_and_cannot_be_changed():
    given_values = np.ones(192)
    seen = observation(intensity=given_values)
    given_values[:] = 7.0
    assert seen.intensity.max() == 1.0
    with pytest.raises(ValueError, match="read-only"):
        seen.intensity[0] = 2.0


def test_masks_add_up_and_need_not_be_known():
    unknown = np.where(np.arange(192) < 5, np.nan, 1.0)
    seen = observation(sigma=unknown, used=np.isfinite(unknown))
    masked = seen.with_mask(MaskTable.paper().used(4))
    assert not masked.used[:5].any()
    np.testing.assert_array_equal(masked.used, MaskTable.paper().used(4) & seen.used)
    np.testing.assert_array_equal(masked.pixels, np.flatnonzero(masked.used))
    assert masked.n_used == masked.pixels.size < seen.n_used == 187
    refused("the mask leaves no pixel", call=seen.with_mask)(~seen.used)
    refused(r"is bool of shape \(192,\), got bool \(768,\)", call=seen.with_mask)(np.ones(768, dtype=bool))
    refused("got int64", call=seen.with_mask)(np.ones(192, dtype=np.int64))


@given(
    seed=st.integers(0, 100),
    nside=st.sampled_from([1, 2, 4]),
    share=st.floats(0.05, 1.0),
    rule=st.sampled_from(["mean", "quadrature"]),
    min_fraction=st.floats(0.0, 1.0),
)
def test_coarsening_takes_used_children_alone(seed, nside, share, rule, min_fraction):
    used = np.random.default_rng(seed).random(192) < share
    used[seed] = True
    fine = observation(seed=seed, used=used)
    groups = np.array_split(np.arange(192), 12 * nside**2)
    kept = [i for i, group in enumerate(groups) if used[group].any() and used[group].mean() >= min_fraction]
    if not kept:
        refused("no pixel of the observation is used", call=fine.coarsened)(nside, min_fraction=min_fraction)
        return
    coarse = fine.coarsened(nside, sigma_rule=rule, min_fraction=min_fraction)
    assert coarse.pixels.tolist() == kept
    for i in kept:
        children = groups[i][used[groups[i]]]
        sigma = fine.sigma[children]
        expected = sigma.mean() if rule == "mean" else np.linalg.norm(sigma) / sigma.size
        assert coarse.intensity[i] == pytest.approx(fine.intensity[children].mean(), rel=1e-12)
        assert coarse.sigma[i] == pytest.approx(expected, rel=1e-12)
    assert coarse.provenance["coarsened"][0]["from_nside"] == 4


@pytest.mark.parametrize("rule", ["mean", "quadrature"])
def test_two_steps_of_coarsening_are_one_where_all_is_used(rule):
    fine = observation()
    once, twice = fine.coarsened(1, sigma_rule=rule), fine.coarsened(2, sigma_rule=rule).coarsened(1, sigma_rule=rule)
    np.testing.assert_allclose(twice.intensity, once.intensity, rtol=1e-14)
    np.testing.assert_allclose(twice.sigma, once.sigma, rtol=1e-14)
    assert [step["nside"] for step in twice.provenance["coarsened"]] == [2, 1]


def test_coarsening_refuses():
    fine = observation()
    refused("cannot be made finer", GridError, call=fine.coarsened)(8)
    refused("sigma_rule must be one of mean, quadrature", RecipeError, call=fine.coarsened)(2, sigma_rule="samples")
