"""Posteriors in other tools: each export is opened by the tool it is for, and the numbers are compared."""

import json
import shutil
import warnings

import healpy
import numpy as np
import pytest
import xarray as xr
import zarr
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits

from crdist.errors import InputFileError
from crdist.exporters import export_store, samples
from crdist.frames import Frame
from crdist.grids import SphericalGrid
from crdist.importers import import_map
from crdist.schema import INFERENCE_VARIABLES, Derived, Variable
from crdist.store import append_sample, consolidate, create_posterior, open_posterior
from galaxies import smooth_samples, write_posterior

N_SAMPLE = 5
FRAME = Frame("heliocentric", 8.2, 0.021, 3.0)


@pytest.fixture(scope="module")
def dust(tmp_path_factory):
    """A packed store in several chunks, per pc as the published dust map; tables of this nside have long rows."""
    grid = SphericalGrid.log_spaced(16, 40, 0.069, 1.25)
    path = tmp_path_factory.mktemp("dust") / "dust.zarr"
    write_posterior(path, grid, smooth_samples(grid, N_SAMPLE), "E/pc", "extinction")
    return path


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """An appended store with a cell that is masked in one sample, and a sightline without any value."""
    grid = SphericalGrid.log_spaced(4, 6, 0.05, 25.0)
    values = smooth_samples(grid, N_SAMPLE)
    values[7, 2, 1] = np.nan
    values[100] = np.nan
    path = tmp_path_factory.mktemp("masked") / "masked.zarr"
    provenance = {"source": {"name": "test", "bytes": 0, "sha256": ""}}
    variables = [Variable("density", "cm-3", "number density")]
    create_posterior(path, grid, variables, n_sample=0, layout="appended", provenance=provenance)
    for i in range(N_SAMPLE):
        append_sample(path, {"density": values[..., i]})
    return path


@pytest.fixture(scope="module")
def inferred(tmp_path_factory):
    """What an inference leaves: appended samples of two variables in ring order, their sum, and its group."""
    path = tmp_path_factory.mktemp("inferred") / "posterior.zarr"
    grid = SphericalGrid.log_spaced(4, 9, 0.05, 25.0, ordering="ring")
    create_posterior(
        path,
        grid,
        [Variable("n_hi", "cm-3", "atoms"), Variable("n_h2", "cm-3", "molecules")],
        n_sample=0,
        layout="appended",
        provenance={"source": {"name": "a “test” × 2", "kind": "synthetic"}, "long": ["word " * 30] * 40},
        derived=[Derived("n_h", "cm-3", "nuclei", (("n_hi", 1.0), ("n_h2", 2.0)))],
        main="n_h",
        frame=FRAME,
    )
    values = smooth_samples(grid, 2 * N_SAMPLE)
    for i in range(N_SAMPLE):
        append_sample(path, {"n_hi": values[..., i], "n_h2": values[..., N_SAMPLE + i]})
    rng = np.random.default_rng(3)
    shapes = {"sample": N_SAMPLE, "pixel": grid.n_pixel, "shell": grid.n_shell}
    group = zarr.open_group(str(path), mode="r+").create_group("inference")
    for name in ("length", "slope", "scale", "offset", "draw", "pair", "sky", "data", "sigma", "used", "truth"):
        spec = INFERENCE_VARIABLES[name]
        content = rng.uniform(0, 9, [shapes[dim] for dim in spec.dims]).astype(spec.dtype)
        array = group.create_array(name, data=content, dimension_names=spec.dims)
        array.attrs.update({"units": spec.units, "long_name": spec.long_name})
    group.attrs.update({"status": "complete", "warnings": ["the mask hides the bulge"], "notes": []})
    consolidate(path)
    return path


def values_of(path, quantity):
    with open_posterior(path) as dataset:
        return dataset[quantity].values


def statistics(values):
    wide = values.astype(np.float64)
    return wide.mean(axis=-1), wide.std(axis=-1, ddof=1)


def places(grid, shell, pixels):
    longitude, latitude = healpy.pix2ang(grid.nside, pixels, nest=grid.ordering == "nested", lonlat=True)
    # just beyond the centre: between two centres on either side of rounding
    distance = grid.centres[shell] * (1 + 1e-12) * u.kpc
    return SkyCoord(longitude * u.deg, latitude * u.deg, distance=distance, frame="galactic")


def dustmaps_query(path, **options):
    with warnings.catch_warnings():
        # it warns that there is no configuration file in the home folder
        warnings.simplefilter("ignore")
        from dustmaps.edenhofer2023 import Edenhofer2023Query

        return Edenhofer2023Query(str(path), **options)


def small_pieces(monkeypatch):
    """Pieces of one chunk and one sample: every loop turns more than once."""
    monkeypatch.setattr(samples, "PIECE_BYTES", 1)


# --- Edenhofer et al. 2024


@pytest.mark.parametrize("content", ["statistics", "samples"])
def test_dustmaps_reads_density(tmp_path, dust, content):
    export_store(dust, tmp_path / "map.fits", to="edenhofer", values=content)
    grid, values = open_posterior(dust).attrs["grid"], values_of(dust, "extinction")
    grid = SphericalGrid.from_dict(grid)
    mean, std = statistics(values)
    query = dustmaps_query(tmp_path / "map.fits", load_samples=content == "samples")
    pixels = np.arange(0, grid.n_pixel, 37)
    for shell in (1, 20, 38):
        where = places(grid, shell, pixels)
        # it interpolates logarithms in single precision
        np.testing.assert_allclose(query(where, mode="mean"), mean[pixels, shell], rtol=1e-5)
        if content == "samples":
            np.testing.assert_allclose(query(where, mode="samples"), values[pixels, shell], rtol=1e-5)
        else:
            np.testing.assert_allclose(query(where, mode="std"), std[pixels, shell], rtol=1e-5)
    np.testing.assert_allclose(query.distances.to_value(u.kpc), grid.centres, rtol=1e-15)
    np.testing.assert_allclose(query.distance_bounds.to_value(u.kpc), grid.edges, rtol=1e-15)
    assert query.n_samples == (N_SAMPLE if content == "samples" else None)


@pytest.mark.parametrize("inner", ["extend", "exclude"])
@pytest.mark.parametrize("content", ["statistics", "samples"])
def test_dustmaps_integrates(tmp_path, dust, content, inner):
    export_store(dust, tmp_path / "map.fits", to="edenhofer", values=content, inner=inner)
    grid = SphericalGrid.from_dict(open_posterior(dust).attrs["grid"])
    lengths = grid.widths * 1e3
    if inner == "extend":
        lengths[0] += grid.edges[0] * 1e3
    columns = np.cumsum(values_of(dust, "extinction") * lengths[:, None], axis=1, dtype=np.float64)
    query = dustmaps_query(tmp_path / "map.fits", load_samples=content == "samples", integrated=True)
    pixels = np.arange(5, grid.n_pixel, 41)
    for shell in (1, 30):
        theirs = query(places(grid, shell, pixels), mode="samples" if content == "samples" else "mean")
        expected = columns[pixels, shell] if content == "samples" else columns[pixels, shell].mean(axis=-1)
        np.testing.assert_allclose(theirs, expected, rtol=3e-5)


def test_the_integrated_inner_part(tmp_path, dust):
    """Its statistics are those of each sample's integral, in the unit of an integral over pc."""
    export_store(dust, tmp_path / "statistics.fits", to="edenhofer")
    export_store(dust, tmp_path / "samples.fits", to="edenhofer", values="samples")
    with fits.open(tmp_path / "statistics.fits") as hdul, fits.open(tmp_path / "samples.fits") as each:
        inner = each["integrated inner 69 pc"]
        np.testing.assert_allclose(inner.data, values_of(dust, "extinction")[:, 0].T * 69.0, rtol=1e-6)
        mean, std = statistics(inner.data.T)
        np.testing.assert_allclose(hdul["mean of integrated inner 69 pc"].data, mean, rtol=1e-6)
        np.testing.assert_allclose(hdul["std. of integrated inner 69 pc"].data, std, rtol=1e-5)
        assert inner.header["CUNIT"] == hdul[3].header["CUNIT"] == "E"


def test_edenhofer_comes_back_by_import(tmp_path, dust):
    export_store(dust, tmp_path / "map.fits", to="edenhofer", values="samples")
    header = import_map(tmp_path / "map.fits", tmp_path / "again.zarr", name="extinction")
    np.testing.assert_array_equal(values_of(tmp_path / "again.zarr", "extinction"), values_of(dust, "extinction"))
    grid = SphericalGrid.from_dict(open_posterior(dust).attrs["grid"])
    np.testing.assert_allclose(header.grid.edges, grid.edges, rtol=1e-14)
    assert header.grid.centres_kpc == pytest.approx(grid.centres_kpc, rel=1e-14)
    assert header.variables[0].units == "E/pc"
    export_store(dust, tmp_path / "mean.fits", to="edenhofer")
    import_map(tmp_path / "mean.fits", tmp_path / "mean.zarr", name="extinction")
    mean, _ = statistics(values_of(dust, "extinction"))
    np.testing.assert_array_equal(
        values_of(tmp_path / "mean.zarr", "extinction")[..., 0], mean.astype(np.float32), strict=True
    )


@pytest.mark.parametrize("content", ["statistics", "samples"])
def test_a_derived_quantity_in_ring_order_in_any_pieces(tmp_path, inferred, monkeypatch, content):
    export_store(inferred, tmp_path / "whole.fits", to="edenhofer", values=content)
    small_pieces(monkeypatch)
    export_store(inferred, tmp_path / "pieces.fits", to="edenhofer", values=content)
    values = values_of(inferred, "n_h")
    mean, std = statistics(values)
    with fits.open(tmp_path / "whole.fits") as whole, fits.open(tmp_path / "pieces.fits") as pieces:
        first = 0 if content == "samples" else 1
        assert whole[first].header["ORDERING"] == "RING"
        assert whole[first].header["BUNIT"] == "cm-3"
        assert whole[first + 1].header["BUNIT"] == ("cm-3 pc" if content == "samples" else "cm-3")
        if content == "samples":
            np.testing.assert_array_equal(whole[0].data, values.transpose(2, 1, 0))
        else:
            np.testing.assert_allclose(whole["mean"].data, mean.T, rtol=1e-7)
            np.testing.assert_allclose(whole["std."].data, std.T, rtol=1e-6)
        for one, other in zip(whole, pieces, strict=True):
            if isinstance(one, fits.BinTableHDU):
                np.testing.assert_array_equal(one.data, other.data)
            elif one.data is not None:
                np.testing.assert_allclose(one.data, other.data, rtol=1e-6)


# --- HEALPix


@pytest.mark.parametrize("store", ["dust", "masked", "inferred"])
def test_healpy_reads_every_shell(tmp_path, request, store):
    path = request.getfixturevalue(store)
    posterior = open_posterior(path)
    name = posterior.attrs["main_quantity"]
    grid, values = SphericalGrid.from_dict(posterior.attrs["grid"]), posterior[name].values
    export_store(path, tmp_path / "map.fits", to="healpix")
    export_store(path, tmp_path / "samples.fits", to="healpix", values="samples")
    mean, std = statistics(values)
    for shell in (0, grid.n_shell - 1):
        nest = grid.ordering == "nested"
        # healpy reorders by what the header says of the order
        order = np.arange(grid.n_pixel) if nest else healpy.nest2ring(grid.nside, np.arange(grid.n_pixel))
        theirs = healpy.read_map(tmp_path / "map.fits", hdu=shell + 1, field=None, nest=True, dtype=np.float32)
        unknown = np.isnan(mean[order, shell])
        expected = (mean, std, mean / std)
        for one, other in zip(theirs, expected, strict=True):
            np.testing.assert_array_equal(one == np.float32(healpy.UNSEEN), unknown)
            np.testing.assert_allclose(one[~unknown], other[order, shell][~unknown], rtol=1e-6)
        each = healpy.read_map(tmp_path / "samples.fits", hdu=shell + 1, field=None, nest=True, dtype=np.float32)
        known = ~np.isnan(values[order, shell])
        np.testing.assert_array_equal(each.T[known], values[order, shell][known])
        np.testing.assert_array_equal(each.T[~known], np.float32(healpy.UNSEEN))
    assert masked_anywhere(values) == (store == "masked")


def masked_anywhere(values):
    return bool(np.isnan(values[:, [0, -1]]).any())


def test_healpix_samples_come_back_by_import(tmp_path, masked):
    export_store(masked, tmp_path / "map.fits", to="healpix", values="samples")
    header = import_map(tmp_path / "map.fits", tmp_path / "again.zarr")
    grid = SphericalGrid.from_dict(open_posterior(masked).attrs["grid"])
    np.testing.assert_array_equal(values_of(tmp_path / "again.zarr", "density"), values_of(masked, "density"))
    np.testing.assert_allclose(header.grid.edges, grid.edges, rtol=1e-14)
    assert header.variables[0].units == "cm-3"


def test_statistics_are_not_taken_for_samples(tmp_path, masked):
    export_store(masked, tmp_path / "map.fits", to="healpix")
    with pytest.raises(InputFileError, match="its columns, the samples, must have one unit"):
        import_map(tmp_path / "map.fits", tmp_path / "again.zarr")


@pytest.mark.parametrize("content", ["statistics", "samples"])
def test_sightlines_are_integrated_sample_by_sample(tmp_path, masked, monkeypatch, content):
    small_pieces(monkeypatch)
    options = {"to": "healpix", "distance_kpc": (0.01, 3.0), "values": content}
    export_store(masked, tmp_path / "map.fits", **options)
    grid, values = SphericalGrid.from_dict(open_posterior(masked).attrs["grid"]), values_of(masked, "density")
    edges = np.concatenate([[0.0], grid.edges[1:]])
    lengths = np.diff(np.clip(edges, 0.01, 3.0))
    # masked in one sample is masked in all, and left out
    known = np.isfinite(values).all(axis=-1)
    each = (np.where(known[..., None], values, 0.0).astype(np.float64) * lengths[:, None]).sum(axis=1)
    each *= (1 * u.kpc).to_value(u.cm)
    coverage = (known * lengths).sum(axis=1) / 2.99
    seen = np.arange(grid.n_pixel) != 100
    theirs = healpy.read_map(tmp_path / "map.fits", field=None, nest=True, dtype=np.float32)
    if content == "samples":
        np.testing.assert_allclose(theirs.T[seen], each[seen], rtol=1e-6)
        np.testing.assert_array_equal(theirs[:, 100], np.float32(healpy.UNSEEN))
    else:
        mean, std = statistics(each)
        std[100] = np.nan
        for one, other in zip(theirs, (mean, std, mean / std), strict=False):
            np.testing.assert_allclose(one[seen], other[seen], rtol=1e-6)
            assert one[100] == np.float32(healpy.UNSEEN)
        np.testing.assert_allclose(theirs[3], coverage, rtol=1e-6)
        assert 0 < coverage[7] < 0.9 * coverage[8]
    header = fits.getheader(tmp_path / "map.fits", 1)
    assert (header["TUNIT1"], header["D_NEAR"], header["D_FAR"]) == ("cm-2", 0.01, 3.0)


@pytest.mark.parametrize("inner", ["extend", "exclude"])
def test_sightlines_agree_with_the_sky_product(tmp_path, dust, inner):
    import crdist

    recipe = {"products": ["sky"], "inner": inner, "grid": {"x": [-1, 1], "y": [-1, 1], "z": [-1, 1], "voxel": 1}}
    crdist.run_products(dust, tmp_path / "products.zarr", recipe)
    product = crdist.open_products(tmp_path / "products.zarr")["sky"]
    outer = SphericalGrid.from_dict(open_posterior(dust).attrs["grid"]).edges_kpc[-1]
    export_store(dust, tmp_path / "map.fits", to="healpix", distance_kpc=(0, outer), inner=inner)
    theirs = healpy.read_map(tmp_path / "map.fits", field=None, nest=True, dtype=np.float32)
    for one, name in zip(theirs, ("mean", "std", "significance", "coverage"), strict=True):
        np.testing.assert_allclose(one, product[name], rtol=1e-6, err_msg=name)


def test_one_shell(tmp_path, dust, monkeypatch):
    small_pieces(monkeypatch)
    export_store(dust, tmp_path / "shell.fits", to="healpix", shell=17, values="samples")
    theirs = healpy.read_map(tmp_path / "shell.fits", field=None, nest=True, dtype=np.float32)
    np.testing.assert_array_equal(theirs.T, values_of(dust, "extinction")[:, 17])
    header = fits.getheader(tmp_path / "shell.fits", 1)
    edges = SphericalGrid.from_dict(open_posterior(dust).attrs["grid"]).edges_kpc
    assert (header["R_INNER"], header["R_OUTER"]) == edges[17:19]


# --- what every FITS header says


def test_headers_say_what_the_numbers_are(tmp_path, inferred):
    export_store(inferred, tmp_path / "map.fits", to="edenhofer")
    export_store(inferred, tmp_path / "healpix.fits", to="healpix", shell=3)
    for path in (tmp_path / "map.fits", tmp_path / "healpix.fits"):
        with fits.open(path) as hdul:
            hdul.verify("exception")
            for hdu in hdul:
                if hdu.name.lower().startswith("radial"):
                    continue
                header = hdu.header
                stated = [header[key] for key in ("QUANTITY", "NSAMPLE", "FRAME", "R0", "ZSUN", "ROLL")]
                assert stated == ["n_h", N_SAMPLE, "heliocentric", 8.2, 0.021, 3.0]
                assert hdu.data is None or "STATIST" in header
            provenance = json.loads(hdul[0].header["PROVENAN"])
            comments = " ".join(str(hdul[0].header["COMMENT"]).split())
        exported = provenance.pop("exported")
        assert provenance == open_posterior(inferred).attrs["provenance"]
        assert exported["from"] == "posterior.zarr"
        assert "crdist" in exported["versions"]
        assert "mirrored pairs" in comments
        assert "mask hides the bulge" in comments


def test_an_inference_that_is_not_done_is_said_so(tmp_path, inferred):
    shutil.copytree(inferred, tmp_path / "p.zarr")
    zarr.open_group(str(tmp_path / "p.zarr"), path="inference", mode="r+", use_consolidated=False).attrs.update(
        {"status": "running"}
    )
    consolidate(tmp_path / "p.zarr")
    export_store(tmp_path / "p.zarr", tmp_path / "map.fits", to="edenhofer")
    comments = " ".join(str(fits.getheader(tmp_path / "map.fits")["COMMENT"]).split())
    assert f"still running: these are its first {N_SAMPLE} samples" in comments


# --- xdggs


@pytest.mark.parametrize("content", ["statistics", "samples"])
@pytest.mark.parametrize("store", ["dust", "inferred"])
def test_xdggs_decodes(tmp_path, request, monkeypatch, store, content):
    import xdggs

    path = request.getfixturevalue(store)
    if store == "inferred":
        small_pieces(monkeypatch)
    posterior = open_posterior(path)
    name = posterior.attrs["main_quantity"]
    grid = SphericalGrid.from_dict(posterior.attrs["grid"])
    export_store(path, tmp_path / "cells.zarr", to="xdggs", values=content)
    decoded = xdggs.decode(xr.open_zarr(tmp_path / "cells.zarr"))
    info = decoded.dggs.grid_info
    assert (info.level, info.indexing_scheme) == (grid.level, grid.ordering)
    centres = decoded.dggs.cell_centers()
    longitude, latitude = healpy.pix2ang(grid.nside, np.arange(grid.n_pixel), nest=info.nest, lonlat=True)
    np.testing.assert_allclose((centres["longitude"] - longitude + 180) % 360 - 180, 0, atol=1e-9)
    np.testing.assert_allclose(centres["latitude"], latitude, atol=1e-9)
    values = posterior[name].values
    if content == "samples":
        np.testing.assert_array_equal(decoded[name], values)
    else:
        mean, std = statistics(values)
        for key, expected in (("mean", mean), ("std", std), ("significance", mean / std)):
            np.testing.assert_allclose(decoded[key], expected, rtol=1e-6)
    np.testing.assert_array_equal(decoded["distance"], grid.centres)
    assert "distance" in decoded.coords
    at = decoded.dggs.sel_latlon(latitude[[17]], longitude[[17]])
    assert at["cell_ids"].item() == 17


def test_xdggs_of_an_integral(tmp_path, masked):
    import xdggs

    export_store(masked, tmp_path / "cells.zarr", to="xdggs", distance_kpc=(0, 25))
    export_store(masked, tmp_path / "map.fits", to="healpix", distance_kpc=(0, 25))
    decoded = xdggs.decode(xr.open_zarr(tmp_path / "cells.zarr"))
    mean, std, _, coverage = healpy.read_map(tmp_path / "map.fits", field=None, nest=True, dtype=np.float32)
    seen = np.arange(192) != 100
    np.testing.assert_array_equal(decoded["mean"][seen], mean[seen])
    np.testing.assert_array_equal(decoded["std"][seen], std[seen])
    np.testing.assert_array_equal(decoded["coverage"], coverage)
    assert np.isnan(decoded["mean"][100])
    assert decoded["mean"].attrs["units"] == "cm-2"


# --- ArviZ


@pytest.fixture(scope="module")
def arviz():
    with warnings.catch_warnings():
        # the import announces a later version, once a day
        warnings.simplefilter("ignore", FutureWarning)
        import arviz

    return arviz


def arviz_data(arviz, path):
    if path.suffix == ".nc":
        return arviz.from_netcdf(str(path))
    return arviz.from_datatree(xr.open_datatree(path, engine="zarr"))


@pytest.mark.parametrize("ending", [".nc", ".zarr"])
@pytest.mark.parametrize("at_once", [True, False])
def test_arviz_reads_an_inference(tmp_path, inferred, arviz, monkeypatch, ending, at_once):
    if not at_once:
        small_pieces(monkeypatch)
    path = tmp_path / f"posterior{ending}"
    export_store(inferred, path, to="arviz")
    data = arviz_data(arviz, path)
    assert set(data.groups()) == {
        "posterior",
        "posterior_predictive",
        "sample_stats",
        "observed_data",
        "constant_data",
    }
    field = data.posterior["n_h"]
    assert field.dims == ("chain", "draw", "pixel", "shell")
    np.testing.assert_array_equal(field[0].transpose("pixel", "shell", "draw"), values_of(inferred, "n_h"))
    beside = xr.open_zarr(inferred, group="inference")
    for name in ("length", "slope", "scale", "offset"):
        np.testing.assert_array_equal(data.posterior[name], beside[name].values[None])
    np.testing.assert_array_equal(data.sample_stats["pair"], beside["pair"].values[None])
    np.testing.assert_array_equal(data.sample_stats["hyperparameter_draw"], beside["draw"].values[None])
    np.testing.assert_array_equal(data.posterior_predictive["intensity"][0], beside["sky"].values.T)
    np.testing.assert_array_equal(data.observed_data["intensity"], beside["data"])
    np.testing.assert_array_equal(data.constant_data["used"], beside["used"])
    assert data.constant_data["used"].dtype == bool
    np.testing.assert_array_equal(data.constant_data["truth"], beside["truth"])
    assert data.posterior["length"].attrs["units"] == "kpc"
    for text in (data.attrs["sampling"], data.posterior.attrs["sampling"]):
        assert "mirrored pairs" in text
        assert "R-hat" in text
    summary = arviz.summary(data, var_names=["length"], kind="stats", round_to="none")
    assert summary.loc["length", "mean"] == pytest.approx(beside["length"].values.mean())
    assert summary.loc["length", "sd"] == pytest.approx(beside["length"].values.std(ddof=1))


def test_arviz_reads_a_published_map(tmp_path, masked, arviz):
    export_store(masked, tmp_path / "posterior.nc", shell=2)
    data = arviz_data(arviz, tmp_path / "posterior.nc")
    assert data.groups() == ["posterior"]
    assert data.posterior["density"].dims == ("chain", "draw", "pixel")
    values = values_of(masked, "density")[:, 2].copy()
    values[7] = np.nan
    np.testing.assert_array_equal(data.posterior["density"][0].T, values)
    assert "as published" in data.attrs["sampling"]
    attrs = xr.open_datatree(tmp_path / "posterior.nc").attrs
    assert json.loads(attrs["frame"])["r0_kpc"] == 8.178
    assert json.loads(attrs["provenance"])["source"]["name"] == "test"
