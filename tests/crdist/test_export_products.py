"""Products in other tools: each export is opened by the tool it is for, and the numbers are compared."""

import json

import healpy
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st

import crdist
from crdist.errors import RecipeError
from crdist.exporters import export_store, product_fits
from crdist.store import open_products
from galaxies import SMALL_RECIPE, small_posterior

FRAME = {"name": "galactocentric", "r0": 8.178, "z_sun": 0.02, "roll": 3.0}
STATISTICS = ("mean", "std", "significance", "significance_error", "coverage")


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    """Every kind of product, with quantiles, and a second volume with its samples."""
    folder = tmp_path_factory.mktemp("products")
    small_posterior(folder / "posterior.zarr")
    box = {"x": [-3, 3], "y": [-2, 2], "z": [-1, 1], "around": "sun"}
    small = {"name": "small", "kind": "volume", "box": box, "voxel": 0.5, "per_sample": True, "quantiles": [0.16, 0.84]}
    radial = {"name": "radial", "bins": [0, 12, 2], "z_cut": 0.5, "quantiles": [0.5]}
    others = [item for item in SMALL_RECIPE["products"] if item != "radial" and "radial" not in str(item)]
    recipe = {**SMALL_RECIPE, "frame": FRAME, "products": [*others, radial, small]}
    crdist.run_products(folder / "posterior.zarr", folder / "products.zarr", recipe)
    return folder / "products.zarr"


@pytest.fixture
def in_pieces(monkeypatch):
    """Pieces of one chunk: every loop turns more than once."""
    monkeypatch.setattr(product_fits, "PIECE_BYTES", 1)


# --- FITS images


@pytest.fixture(scope="module")
def cube(products):
    path = products.parent / "cube.fits"
    export_store(products, path)
    return path


def maps(products, *kinds):
    tree = open_products(products)
    return {name: node for name, node in tree.children.items() if node.attrs["kind"] in kinds}


def test_astropy_reads_every_image(products, cube):
    with fits.open(cube) as hdul:
        hdul.verify("exception")
        found = maps(products, "volume", "slice", "projection")
        assert len(found) == 6
        for name, product in found.items():
            for statistic in STATISTICS:
                hdu = hdul[f"{name}_{statistic}"]
                np.testing.assert_array_equal(hdu.data.T, product[statistic].values)
                assert hdu.header["BUNIT"] == product[statistic].attrs["units"]
        # those of the one product that has them, at its end
        quantiles = hdul["small_quantiles"]
        np.testing.assert_array_equal(quantiles.data.T, found["small"]["quantiles"].values)
        assert len(hdul) == 1 + 6 * len(STATISTICS) + 1 + 1


def test_voxel_centres_are_the_store_s_coordinates(products, cube):
    with fits.open(cube) as hdul:
        for name, product in maps(products, "volume", "slice", "projection").items():
            wcs = WCS(hdul[f"{name}_mean"].header)
            dims = product["mean"].dims
            assert [word.lower() for word in wcs.axis_type_names] == list(dims)
            assert list(wcs.world_axis_units) == ["kpc"] * len(dims)
            pixels = np.meshgrid(*(np.arange(product.sizes[dim]) for dim in dims), indexing="ij")
            world = wcs.pixel_to_world_values(*pixels)
            expected = np.meshgrid(*(product[dim].values for dim in dims), indexing="ij")
            for one, other in zip(world, expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def test_image_headers_say_what_they_hold(products, cube):
    tree = open_products(products)
    with fits.open(cube) as hdul:
        assert len(hdul) > 30
        for hdu in hdul:
            stated = [hdu.header[key] for key in ("QUANTITY", "NSAMPLE", "FRAME", "R0", "ZSUN", "ROLL")]
            assert stated == ["density", 4, "galactocentric", 8.178, 0.02, 3.0]
        projection = hdul["projection_x_std"].header
        assert [projection[key] for key in ("STATIST", "AXIS", "FROM", "TO")] == ["std", "x", -12.0, 12.0]
        assert [hdul["midplane_mean"].header[key] for key in ("AXIS", "AT")] == ["z", 0.0]
        provenance = json.loads(hdul[0].header["PROVENAN"])
    assert provenance["source"] == tree.attrs["provenance"]["source"]
    assert provenance["recipe"] == tree.attrs["recipe"]
    assert provenance["exported"]["from"] == "products.zarr"


def test_any_pieces_make_the_same_file(products, cube, tmp_path, in_pieces):
    export_store(products, tmp_path / "again.fits", to="fits-cube")
    assert (tmp_path / "again.fits").read_bytes() == cube.read_bytes()


@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    parts=st.lists(st.integers(1, 40), min_size=4, max_size=4),
    limit=st.integers(1, 10**5),
)
def test_pieces_cover_an_array_once(shape, parts, limit):
    chunks = tuple(min(part, size) for part, size in zip(parts, shape, strict=False))
    seen = np.zeros(shape, dtype=int)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product_fits, "PIECE_BYTES", limit)
        for region in product_fits.pieces(tuple(shape), chunks):
            seen[region] += 1
            starts_with_a_chunk = [part.start % chunk for part, chunk in zip(region, chunks, strict=True)]
            assert not any(starts_with_a_chunk)
    assert (seen == 1).all()


def test_samples_of_images(products, tmp_path, in_pieces):
    export_store(products, tmp_path / "samples.fits", products=["projection_z", "small"], values="samples")
    tree = open_products(products)
    with fits.open(tmp_path / "samples.fits") as hdul:
        assert [hdu.name for hdu in hdul] == ["PRIMARY", "projection_z_per_sample", "small_per_sample"]
        for name in ("projection_z", "small"):
            hdu = hdul[f"{name}_per_sample"]
            np.testing.assert_array_equal(hdu.data.T, tree[name]["per_sample"].values)
            wcs = WCS(hdu.header)
            *_, sample = wcs.pixel_to_world_values(*([0] * (wcs.naxis - 1)), 3)
            assert sample == 3


def test_products_without_samples_are_left_out_and_named(products, tmp_path):
    told = export_store(products, tmp_path / "samples.fits", values="samples")
    assert told.endswith("(without volume, whose samples were not kept)")
    with fits.open(tmp_path / "samples.fits") as hdul:
        names = [hdu.name for hdu in hdul[1:]]
    assert "sky" in names
    assert "volume_per_sample" not in names
    assert len(names) == 6


# --- sky maps


def test_healpy_reads_sky_maps(products, cube, tmp_path):
    sky = open_products(products)["sky"]
    export_store(products, tmp_path / "sky.fits", to="healpix")
    with fits.open(cube) as hdul:
        number = hdul.index_of("sky")
    for path, hdu in ((tmp_path / "sky.fits", 1), (cube, number)):
        theirs = healpy.read_map(path, hdu=hdu, field=None, nest=True, dtype=np.float32)
        for one, name in zip(theirs, STATISTICS, strict=True):
            np.testing.assert_array_equal(one, sky[name].values, err_msg=name)
        assert fits.getheader(path, hdu)["TUNIT1"] == "cm-2"
    export_store(products, tmp_path / "samples.fits", to="healpix", values="samples")
    theirs = healpy.read_map(tmp_path / "samples.fits", field=None, nest=True, dtype=np.float32)
    np.testing.assert_array_equal(theirs.T, sky["per_sample"].values)


# --- VTK


@pytest.mark.parametrize("name", ["volume", "small"])
def test_pyvista_reads_a_volume(products, tmp_path, name, in_pieces):
    import pyvista

    export_store(products, tmp_path / "volume.vti", products=[name])
    product = open_products(products)[name]
    grid = pyvista.read(tmp_path / "volume.vti")
    assert grid.dimensions == product["mean"].shape
    for statistic in ("mean", "std", "significance", "coverage"):
        # VTK's points run along x first
        values = grid.point_data[statistic].reshape(grid.dimensions, order="F")
        np.testing.assert_array_equal(values, product[statistic].values)
        assert values.dtype == np.float32
    points = grid.points.reshape((*grid.dimensions, 3), order="F")
    for i, axis in enumerate("xyz"):
        along = np.moveaxis(points[..., i], i, 0)
        # points are made in single precision
        np.testing.assert_allclose(along[:, 0, 0], product[axis], rtol=1e-6)
        assert (along == along[:, :1, :1]).all()
    np.testing.assert_allclose(grid.origin, [product[axis][0] for axis in "xyz"], rtol=1e-15)
    np.testing.assert_allclose(grid.spacing, [0.5] * 3, rtol=1e-15)
    assert grid.active_scalars_name == "mean"
    facts = {key: grid.field_data[key][0] for key in grid.field_data}
    assert (facts["units"], facts["n_sample"], facts["length_unit"]) == ("cm-3", "4", "kpc")
    assert facts["frame"] == "galactocentric, R0 = 8.178 kpc, z_sun = 0.02 kpc, roll = 3.0 deg"
    assert json.loads(facts["provenance"])["source"]["name"] == "posterior.zarr"


def test_vtk_arrays_know_their_units(products, tmp_path):
    import pyvista
    from vtkmodules.vtkCommonCore import vtkDataArray

    export_store(products, tmp_path / "volume.vti", products=["small"])
    data = pyvista.read(tmp_path / "volume.vti").GetPointData()
    units = [data.GetArray(name).GetInformation().Get(vtkDataArray.UNITS_LABEL()) for name in ("std", "significance")]
    assert units == ["cm-3", "1"]


def test_one_of_several_volumes_must_be_named(products, tmp_path):
    with pytest.raises(RecipeError, match=r"has the volumes small, volume, a file holds one"):
        export_store(products, tmp_path / "volume.vti")
    assert not list(tmp_path.iterdir())


# --- ECSV


def test_astropy_reads_profiles(products, tmp_path):
    export_store(products, tmp_path / "profiles", to="ecsv", values="samples")
    assert sorted(path.name for path in (tmp_path / "profiles").iterdir()) == ["radial.ecsv", "vertical.ecsv"]
    tree = open_products(products)
    for name, dim in (("radial", "radius"), ("vertical", "z")):
        table, product = Table.read(tmp_path / "profiles" / f"{name}.ecsv"), tree[name]
        for statistic in STATISTICS:
            np.testing.assert_array_equal(table[statistic], product[statistic].values)
        assert table["mean"].unit == table["sample_0"].unit == u.cm**-3
        assert table[dim].unit == table[f"{dim}_lower"].unit == u.kpc
        np.testing.assert_array_equal(table[dim], product[dim])
        edges = product[f"{dim}_edges"].values
        np.testing.assert_array_equal(table[f"{dim}_lower"], edges[:-1])
        np.testing.assert_array_equal(table[f"{dim}_upper"], edges[1:])
        each = np.stack([table[f"sample_{i}"] for i in range(4)], axis=-1)
        np.testing.assert_array_equal(each, product["per_sample"].values)
        assert table.meta["n_sample"] == 4
        assert table.meta["frame"] == {"name": "galactocentric", "r0_kpc": 8.178, "z_sun_kpc": 0.02, "roll_deg": 3.0}
        assert table.meta["provenance"]["source"]["name"] == "posterior.zarr"
    radial = Table.read(tmp_path / "profiles" / "radial.ecsv")
    np.testing.assert_array_equal(radial["quantile_0.5"], tree["radial"]["quantiles"].values[:, 0])
    assert radial.meta["settings"]["z_cut_kpc"] == 0.5
    heights = Table.read(tmp_path / "profiles" / "vertical.ecsv").meta["fits"]["fit_height"]
    np.testing.assert_array_equal(heights["value"], tree["vertical"]["fit_height"].values)
    assert heights["units"] == "kpc"


def test_one_profile_is_one_file(products, tmp_path):
    with pytest.raises(RecipeError, match=r"has the profiles radial, vertical, an \.ecsv file holds one"):
        export_store(products, tmp_path / "profile.ecsv")
    export_store(products, tmp_path / "profile.ecsv", products=["radial"])
    table = Table.read(tmp_path / "profile.ecsv")
    assert table.meta["product"] == "radial"
    assert "sample_0" not in table.colnames


# --- what does not go


@pytest.mark.parametrize(
    ("target", "options", "match"),
    [
        ("a.fits", {"products": ["nope"]}, r"no product 'nope'; it has local_z, midplane, .*volume"),
        ("a.fits", {"products": ["radial"]}, r"product 'radial' is a radial; .* holds volume, slice, projection, sky"),
        ("a.vti", {"products": ["midplane"]}, r"product 'midplane' is a slice"),
        ("a.fits", {"values": "samples", "products": ["volume"]}, r"the samples of volume were not kept; .*per_sample"),
        ("a.fits", {"to": "edenhofer"}, r"holds products, which 'edenhofer' does not read; choose .*fits-cube"),
        ("a.fits", {"to": "healpix", "shell": 1}, r"'healpix' of a products store has no use for --shell"),
        (
            "a.zarr",
            {},
            r"a.zarr: its ending does not tell what products .*one of healpix, fits-cube, vtk, ecsv",
        ),
        ("a.txt", {"to": "vtk"}, r"a.txt: the name of 'vtk' ends in .vti"),
        ("a.txt", {"to": "ecsv"}, r"ends in .ecsv or nothing \(a folder\)"),
    ],
)
def test_refused(products, tmp_path, target, options, match):
    with pytest.raises(RecipeError, match=match) as caught:
        export_store(products, tmp_path / target, **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_store_without_such_products(tmp_path):
    small_posterior(tmp_path / "p.zarr")
    recipe = {**SMALL_RECIPE, "products": ["midplane"]}
    crdist.run_products(tmp_path / "p.zarr", tmp_path / "o.zarr", recipe)
    for target, kind in (("a.vti", "volume"), ("a", "radial or vertical")):
        with pytest.raises(RecipeError, match=rf"no product of the kind {kind}; its products: midplane \(slice\)"):
            export_store(tmp_path / "o.zarr", tmp_path / target)
