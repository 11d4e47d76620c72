"""Statistics, lines of sight, profiles, conversions and derived fields of a posterior that is opened lazily."""

import dask
import healpy
import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.coordinates import SkyCoord
from dask.callbacks import Callback

import crdist
from crdist import emission
from crdist.errors import CrdistError, GridError, RecipeError, SchemaError, StoreExistsError
from crdist.frames import Frame
from crdist.grids import CartesianGrid, SphericalGrid
from crdist.schema import Variable
from crdist.store import create_posterior, open_posterior, posterior_shards, write_shard
from crdist_postproc.analysis.derived import cosmic_ray_pressure, derive, source_density
from crdist_postproc.analysis.profiles import vertical_fit
from crdist_postproc.analysis.sight import sky_coverage

GRID = SphericalGrid.log_spaced(nside=4, n_shell=14, inner_kpc=0.1, outer_kpc=12.0)
FRAME = Frame()
N_SAMPLE = 5
CUBE = CartesianGrid.from_extent(x=(-10, -6), y=(-2, 2), z=(-1, 1), voxel=0.5, frame=FRAME)

RECIPE = {
    "grid": {"x": [-10, -6], "y": [-2, 2], "z": [-1, 1], "voxel": 0.5},
    "quantiles": [0.25, 0.5],
    "products": [
        {"name": "sky", "kind": "sky", "distance": [0.5, 3.0]},
        {"name": "radial", "kind": "radial", "bins": [4, 12, 1]},
        {"name": "vertical", "kind": "vertical", "bins": [-2, 2, 0.5]},
        {"name": "volume", "kind": "volume", "per_sample": True},
    ],
}


class Computed(Callback):
    """Counts the tasks that Dask runs."""

    def _start(self, dsk):
        self.n = 0

    def _posttask(self, key, result, dsk, state, worker_id):
        self.n += 1


@pytest.fixture
def uncomputed():
    """Whatever computes fails."""

    def refuse(*_, **__):
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse):
        yield


def write(path, variables, seed=1, grid=GRID, n_sample=N_SAMPLE):
    rng = np.random.default_rng(seed)
    header = create_posterior(
        path,
        grid,
        [Variable(*item) for item in variables],
        n_sample=n_sample,
        layout="packed",
        provenance={"seed": seed},
    )
    common = rng.normal(size=(grid.n_pixel, grid.n_shell, n_sample))
    for place, (name, _, _) in enumerate(variables):
        values = np.exp(0.5 * common + 0.3 * rng.normal(size=common.shape) + place).astype(np.float32)
        for shard in posterior_shards(header):
            write_shard(header, name, shard, values[shard.region])
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    variables = [("c", "cm-3", "normalisation C"), ("n_h", "cm-3", "density of hydrogen nuclei")]
    return write(tmp_path_factory.mktemp("analysis") / "both.zarr", variables)


@pytest.fixture(scope="module")
def products(store):
    path = store.parent / "products.zarr"
    crdist.run_products(store, path, crdist.Recipe.from_mapping(RECIPE))
    return crdist.open_products(path)


@pytest.fixture
def posterior(store):
    return open_posterior(store)


def test_nothing_is_computed_before_it_is_asked_for(posterior, uncomputed):
    field = posterior.crdist
    steps = [
        field.regrid(CUBE),
        field.slice(CUBE, "z"),
        field.project(CUBE, "x"),
        field.sky((0.5, 3.0)),
        field.profile(FRAME),
        field.vertical_profile(FRAME),
        field.mean(),
        field.std(),
        field.quantile([0.1, 0.9]),
        field.significance(),
        field.where_significant(3.0),
        field.convert("kpc-3"),
        field.convert(kinetic_energy_gev=30.0),
        field.to_frame(FRAME),
        derive("c * n", {"c": posterior["c"], "n": posterior["n_h"]}),
        source_density(posterior["c"], posterior["n_h"]).crdist.project(CUBE).crdist.statistics()["std"],
        xr.apply_ufunc(np.sqrt, posterior["c"], dask="allowed", keep_attrs=True).crdist.sky(),
    ]
    for step in steps:
        assert dask.is_dask_collection(step)
    assert field.query(SkyCoord(l=[0, 90] * u.deg, b=[0, 1] * u.deg, distance=[1, 2] * u.kpc, frame="galactic")).chunks


def test_what_is_computed_is_computed_once(posterior):
    with Computed() as counted, dask.config.set(scheduler="synchronous"):
        posterior.crdist.sky((0.5, 3.0)).compute()
    assert 0 < counted.n < 200


def test_statistics_over_samples_are_numpys(posterior):
    values = posterior["c"].values.astype(np.float64)
    field = posterior["c"].crdist
    np.testing.assert_allclose(field.mean(), values.mean(axis=-1), rtol=1e-12)
    np.testing.assert_allclose(field.std(), values.std(axis=-1, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(field.significance(), values.mean(axis=-1) / values.std(axis=-1, ddof=1), rtol=1e-12)
    expected = np.moveaxis(np.quantile(values, [0.1, 0.9], axis=-1), 0, -1)
    np.testing.assert_allclose(field.quantile([0.1, 0.9]), expected, rtol=1e-12)
    assert field.quantile([0.1, 0.9]).dims == ("pixel", "shell", "quantile")
    assert field.mean().attrs["units"] == "cm-3"


def test_a_cell_that_is_masked_in_one_sample_is_masked_in_each_statistic(posterior):
    some = posterior["c"].copy().load()
    some[3, 4, 0] = np.nan
    masked = some.crdist
    for result in (masked.mean(), masked.std(), masked.significance(), masked.quantile(0.5)):
        assert np.isnan(result[3, 4])
        assert np.isnan(result).sum() == 1


def test_single_samples_have_no_spread(posterior):
    one = posterior["c"].isel(sample=[0]).crdist
    assert np.isnan(one.std()).all()
    assert np.isnan(one.significance()).all()


def test_where_significant_keeps_whole_samples(posterior):
    kept = posterior["c"].crdist.where_significant(2.0)
    significant = (posterior["c"].crdist.significance() >= 2.0).values
    assert 0 < significant.mean() < 1
    np.testing.assert_array_equal(np.isnan(kept.values), np.repeat(~significant[..., None], N_SAMPLE, axis=-1))


def test_a_line_of_sight_is_that_of_the_products(posterior, products):
    sky = posterior.crdist.sky((0.5, 3.0))
    product = products["sky"]
    assert sky.dims == ("pixel", "sample")
    assert sky.attrs["units"] == product["mean"].attrs["units"] == "cm-2"
    np.testing.assert_allclose(sky, product["per_sample"], rtol=1e-6)
    np.testing.assert_allclose(sky.crdist.std(), product["std"], rtol=1e-6)
    np.testing.assert_allclose(sky_coverage(posterior["c"], (0.5, 3.0)), product["coverage"], rtol=1e-6)
    coords = healpy.pix2ang(GRID.nside, np.arange(GRID.n_pixel), nest=True, lonlat=True)
    np.testing.assert_array_equal([sky["l"], sky["b"]], coords)


def test_skies_of_two_stores_are_subtracted_lazily(posterior, tmp_path, uncomputed):
    other = open_posterior(write(tmp_path / "other.zarr", [("c", "cm-3", "normalisation")], seed=7))
    assert dask.is_dask_collection(posterior.crdist.sky() - other.crdist.sky())
    assert dask.is_dask_collection(posterior.crdist.profile(FRAME) - other.crdist.profile(FRAME))


def test_masked_cells_add_nothing_to_a_line_of_sight(posterior):
    whole = posterior["c"].load()
    masked = whole.copy()
    masked[0, 3, 2] = np.nan
    masked[1] = np.nan
    sky = masked.crdist.sky()
    assert np.isnan(sky[1]).all()
    shorter = whole.copy()
    shorter[0, 3] = 0.0
    np.testing.assert_allclose(sky[0], shorter.crdist.sky()[0], rtol=1e-12)
    coverage = sky_coverage(masked)
    assert coverage[0] < 1 == coverage[2]
    with pytest.raises(RecipeError, match="wholly outside"):
        whole.crdist.sky((12.5, 13.0))
    with pytest.raises(RecipeError, match="from near to far"):
        whole.crdist.sky((3.0, 1.0))


def test_profiles_are_those_of_the_products(posterior, products):
    radial = posterior.crdist.profile(FRAME, (4, 12, 1), voxel=0.5)
    np.testing.assert_allclose(radial, products["radial"]["per_sample"], rtol=1e-6)
    vertical = posterior.crdist.vertical_profile(FRAME, bins=(-2, 2, 0.5), voxel=0.5)
    np.testing.assert_allclose(vertical, products["vertical"]["per_sample"], rtol=1e-6)
    fit = vertical_fit(vertical)
    np.testing.assert_allclose(fit["n0"], products["vertical"]["fit_n0"], rtol=1e-6)
    np.testing.assert_allclose(fit["height"], products["vertical"]["fit_height"], rtol=1e-6)
    assert posterior["c"].isel(sample=0).crdist.profile(FRAME, (4, 12, 1), voxel=0.5).dims == ("radius",)


def test_regrid_is_that_of_the_products(posterior, products):
    volume = posterior.crdist.regrid(CUBE)
    np.testing.assert_array_equal(volume, products["volume"]["per_sample"])
    statistics = volume.crdist.statistics()
    for name in ("mean", "std", "significance", "significance_error"):
        np.testing.assert_allclose(statistics[name], products["volume"][name], rtol=1e-5)


def test_units_and_energies_convert(posterior):
    c = posterior["c"].isel(pixel=slice(3))
    per_kpc = c.crdist.convert("kpc-3")
    np.testing.assert_allclose(per_kpc, (c.crdist.quantity()).to_value(u.kpc**-3), rtol=1e-6)
    assert per_kpc.attrs["units"] == "kpc-3"
    at_100 = c.crdist.convert(kinetic_energy_gev=100.0)
    np.testing.assert_allclose(at_100, emission.density_at_energy(c.values, 100.0), rtol=1e-6)
    np.testing.assert_allclose(at_100.crdist.convert(from_energy_gev=100.0), c, rtol=1e-6)
    at_30 = at_100.crdist.convert("GeV-1 m-3", from_energy_gev=100.0, kinetic_energy_gev=30.0)
    np.testing.assert_allclose(at_30, 1e6 * emission.density_at_energy(c.values, 30.0), rtol=1e-6)
    with pytest.raises(RecipeError, match="cannot be converted"):
        c.crdist.convert("GeV")
    with pytest.raises(RecipeError, match="cannot be converted"):
        at_100.crdist.convert(kinetic_energy_gev=10.0)


def test_places_are_astropys_in_the_frame_asked_for(posterior):
    frame = Frame(r0_kpc=8.3, z_sun_kpc=0.02, roll_deg=1.0)
    placed = posterior["c"].crdist.to_frame(frame)
    lon, lat = healpy.pix2ang(GRID.nside, np.arange(GRID.n_pixel), nest=True, lonlat=True)
    coords = SkyCoord(l=lon[:, None] * u.deg, b=lat[:, None] * u.deg, distance=GRID.centres * u.kpc, frame="galactic")
    there = coords.transform_to(frame.to_astropy())
    for name in "xyz":
        expected = getattr(there, name).to_value(u.kpc)
        np.testing.assert_allclose(placed[f"{name}_galactocentric"], expected, atol=1e-9)


def test_places_of_a_cartesian_grid_change_frame(posterior):
    frame = Frame(r0_kpc=8.3, z_sun_kpc=0.02)
    cube = CartesianGrid.from_extent(x=(-9, -7), y=(-1, 1), z=(-1, 1), voxel=1.0, frame=frame)
    here = posterior["c"].crdist.regrid(cube)
    sun = Frame("heliocentric", 8.3, 0.02)
    placed = here.crdist.to_frame(sun)
    corners = np.stack(np.meshgrid(cube.x.centres, cube.y.centres, cube.z.centres, indexing="ij"), axis=-1)
    expected = frame.to_heliocentric(corners)
    for axis, name in enumerate("xyz"):
        place = placed[f"{name}_heliocentric"].broadcast_like(here.isel(sample=0)).transpose("x", "y", "z")
        np.testing.assert_allclose(place, expected[..., axis], atol=1e-12)
    plane = posterior["c"].crdist.slice(cube, "z", 0.0).crdist.to_frame(sun)
    np.testing.assert_allclose(plane["z_heliocentric"].min(), frame.to_heliocentric([-8.5, 0.5, 0.0])[2], atol=0.01)
    with pytest.raises(SchemaError, match="Sun's place differs"):
        here.crdist.to_frame(Frame("heliocentric"))
    with pytest.raises(SchemaError, match="does not say where it lies"):
        posterior["c"].isel(shell=0).crdist.to_frame(sun)


def test_a_derived_field_keeps_the_correlations_of_its_samples(posterior):
    c, n = posterior["c"], posterior["n_h"]
    made = source_density(c, n)
    k = emission.Emissivity().source_coefficient
    np.testing.assert_allclose(made, k * c.values.astype(np.float64) * n.values, rtol=1e-6)
    assert made.attrs["units"] == "cm-3 s-1"
    assert made.attrs["fields"]["c"] == "normalisation C"
    # c and n share half their variance: the mean of the product is not the product of the means
    ratio = float((made.crdist.mean() / (k * c.crdist.mean() * n.crdist.mean())).mean())
    assert ratio > 1.1


@pytest.mark.parametrize(
    ("expression", "expected", "units"),
    [
        ("c + 2 * n", lambda c, n: c + 2 * n, "cm-3"),
        ("c - n / 3", lambda c, n: c - n / 3, "cm-3"),
        ("sqrt(c * n)", lambda c, n: np.sqrt(c * n), "cm-3"),
        ("c ** 2", lambda c, n: c**2, "cm-6"),
        ("log(c / n)", lambda c, n: np.log(c / n), ""),
        ("-exp(c / n) + 1", lambda c, n: 1 - np.exp(c / n), ""),
        ("(c + m) * 1e3", lambda c, n: (c + 1e-6) * 1e3, "cm-3"),
    ],
)
def test_expressions_compute_with_units(posterior, expression, expected, units):
    fields = {"c": posterior["c"], "n": posterior["n_h"], "m": 1.0 * u.m**-3}
    made = derive(expression, fields)
    assert made.attrs["units"] == units
    values = expected(*(posterior[name].values.astype(np.float64) for name in ("c", "n_h")))
    np.testing.assert_allclose(made, values, rtol=1e-9)


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("c * ", "cannot be read"),
        ("c * d", "'d' has no meaning"),
        ("c + 1", "units do not fit"),
        ("exp(c)", "units do not fit"),
        ("c ** n", "exponent must be a number"),
        ("c.mean()", "cannot be used"),
        ("__import__('os')", "cannot be used"),
        ("c[0]", "cannot be used"),
        ("2 * 3", "uses no field"),
    ],
)
def test_expressions_that_cannot_be_followed(posterior, expression, why):
    with pytest.raises(RecipeError, match=why):
        derive(expression, {"c": posterior["c"], "n": posterior["n_h"]})


def test_units_asked_for_must_fit(posterior):
    made = derive("c * n", {"c": posterior["c"], "n": posterior["n_h"]}, units="kpc-6")
    scale = (1 * u.cm**-6).to_value(u.kpc**-6)
    np.testing.assert_allclose(made, posterior["c"] * posterior["n_h"] * scale, rtol=1e-6)
    with pytest.raises(RecipeError, match="units do not fit"):
        derive("c", {"c": posterior["c"]}, units="GeV")


def test_samples_of_two_stores_pair_only_if_told_how(posterior, tmp_path):
    other = open_posterior(write(tmp_path / "gas.zarr", [("n", "cm-3", "gas")], seed=2, n_sample=4))["n"]
    fields = {"c": posterior["c"], "n": other}
    with pytest.raises(SchemaError, match="samples of different stores"):
        derive("c * n", fields)
    with pytest.raises(SchemaError, match="numbers of samples differ"):
        derive("c * n", fields, pairing="joint")
    made = derive("c * n", fields, pairing="independent")
    np.testing.assert_allclose(made, posterior["c"].values[..., :4] * other.values, rtol=1e-6)
    assert made.attrs["pairing"] == "independent"
    with_mean = derive("c * n", {"c": posterior["c"], "n": other.crdist.mean()})
    assert with_mean.sizes["sample"] == N_SAMPLE


def test_fields_on_other_grids_are_brought_together_first(posterior, tmp_path):
    coarse = SphericalGrid.log_spaced(nside=2, n_shell=9, inner_kpc=0.1, outer_kpc=14.0)
    other = open_posterior(write(tmp_path / "coarse.zarr", [("n", "cm-3", "gas")], seed=2, grid=coarse))["n"]
    with pytest.raises(GridError, match="different grids"):
        derive("c * n", {"c": posterior["c"], "n": other}, pairing="independent")
    here = other.crdist.at_cells_of(posterior["c"])
    assert here.sizes == posterior["c"].sizes
    points = SkyCoord(l=10 * u.deg, b=5 * u.deg, distance=2.0 * u.kpc, frame="galactic")
    assert here.crdist.query(points, mode="mean").values == pytest.approx(
        other.crdist.query(points, mode="mean").values, rel=0.5
    )
    made = derive("c * n", {"c": posterior["c"], "n": here}, pairing="independent")
    assert np.isfinite(made.values).all()


def test_pressure_is_the_integral_over_the_spectrum(posterior):
    pressure = cosmic_ray_pressure(posterior["c"], p_min_gev=1.0)
    p = np.geomspace(1.0 / 0.93827208943, 1e8, 400_000)
    integral = np.trapezoid(p ** (2 - 2.7) / np.sqrt(1 + p * p), p)
    expected = 0.93827208943e9 / 3 * integral
    np.testing.assert_allclose(pressure, expected * posterior["c"].values.astype(np.float64), rtol=1e-4)
    assert pressure.attrs["units"] == "eV cm-3"
    with pytest.raises(RecipeError, match="has no end"):
        cosmic_ray_pressure(posterior["c"], alpha=1.9)


def test_a_derived_field_becomes_a_store_of_its_own(posterior, tmp_path):
    made = source_density(posterior["c"], posterior["n_h"])
    header = made.crdist.save(tmp_path / "source.zarr", provenance={"parents": ["both.zarr"]})
    again = open_posterior(tmp_path / "source.zarr")
    np.testing.assert_array_equal(again["source_density"], made.astype(np.float32))
    assert header.provenance["computed"]["expression"] == "k * c * n"
    assert again["source_density"].attrs["units"] == "cm-3 s-1"
    with pytest.raises(StoreExistsError):
        made.crdist.save(tmp_path / "source.zarr")
    with pytest.raises(SchemaError, match="infinite"):
        (made * 1e70).rename("large").crdist.save(tmp_path / "bad.zarr")
    assert not (tmp_path / "bad.zarr").exists()


def test_ring_samples_are_saved_nested(tmp_path):
    ring = SphericalGrid.log_spaced(nside=4, n_shell=3, inner_kpc=0.1, outer_kpc=1.0, ordering="ring")
    create_posterior(
        tmp_path / "ring.zarr", ring, [Variable("n", "cm-3", "gas")], n_sample=0, layout="appended", provenance={}
    )
    values = np.random.default_rng(1).random((ring.n_pixel, 3)).astype(np.float32)
    crdist.store.append_sample(tmp_path / "ring.zarr", {"n": values})
    samples = open_posterior(tmp_path / "ring.zarr")["n"]
    samples.crdist.save(tmp_path / "nested.zarr")
    grid = CartesianGrid.from_extent(x=(-1, 1), y=(-1, 1), z=(-1, 1), voxel=0.25, frame=Frame(name="heliocentric"))
    np.testing.assert_array_equal(
        open_posterior(tmp_path / "nested.zarr")["n"].crdist.regrid(grid), samples.crdist.regrid(grid)
    )


def test_two_posteriors_are_compared_in_standard_deviations(posterior, tmp_path):
    other = open_posterior(write(tmp_path / "other.zarr", [("c", "m-3", "normalisation")], seed=7))
    compared = posterior.crdist.compare(other["c"])
    a, b = posterior["c"].values.astype(np.float64), other["c"].values.astype(np.float64) * 1e-6
    expected = (a.mean(-1) - b.mean(-1)) / np.hypot(a.std(-1, ddof=1), b.std(-1, ddof=1))
    np.testing.assert_allclose(compared["difference"], expected, rtol=1e-10)
    from crdist_postproc.analysis.comparison import summary_of

    table = summary_of(compared, [0.1, 1.0, 12.0])
    volume = np.broadcast_to(GRID.cell_volumes, expected.shape)
    assert float(table["rms"][-1]) == pytest.approx(np.sqrt((expected**2 * volume).sum() / volume.sum()))
    assert float(table["within_2"][-1]) == pytest.approx((volume * (abs(expected) < 2)).sum() / volume.sum())
    assert float(table["known"][-1]) == pytest.approx(1.0)
    with pytest.raises(RecipeError, match="cannot be compared"):
        posterior.crdist.compare(other["c"].assign_attrs(units="GeV"))


def test_a_dataset_takes_the_variable_that_is_named(posterior):
    np.testing.assert_array_equal(posterior.crdist.mean(variable="n_h"), posterior["n_h"].crdist.mean())
    sky = posterior.crdist.sky((0.5, 3.0), variable="n_h")
    np.testing.assert_array_equal(sky, posterior["n_h"].crdist.sky((0.5, 3.0)))
    with pytest.raises(SchemaError, match="has no variable 'dust'; it has c, n_h"):
        posterior.crdist.mean(variable="dust")
    with pytest.raises(SchemaError, match="chosen of a Dataset"):
        posterior["c"].crdist.mean(variable="n_h")


def test_a_shell_is_the_one_that_contains_the_distance(posterior):
    edges = GRID.edges
    for at, index in ((edges[0], 0), (edges[5], 5), (0.5 * (edges[5] + edges[6]), 5), (edges[-1], GRID.n_shell - 1)):
        shell = posterior["c"].crdist.shell(at)
        np.testing.assert_array_equal(shell, posterior["c"].values[:, index])
        assert float(shell["distance_lower"]) <= at <= float(shell["distance_upper"])
    with pytest.raises(RecipeError, match=r"0.1 to 12 kpc, got 13 kpc"):
        posterior["c"].crdist.shell(13.0)


def test_a_line_of_sight_reads_the_shells_that_it_crosses(posterior):
    read = []

    def watched(block, block_info=None):
        read.append(block_info[0]["array-location"][1])
        return block

    cut = posterior["c"].data.rechunk((48, 2, N_SAMPLE))
    samples = posterior["c"].copy(data=cut.map_blocks(watched, dtype=cut.dtype, meta=cut._meta))
    samples.crdist.sky((0.5, 1.0)).compute()
    first, last = (int(np.searchsorted(GRID.edges, at)) for at in (0.5, 1.0))
    assert min(start for start, _ in read) == (first - 1) // 2 * 2
    assert max(stop for _, stop in read) == -(-last // 2) * 2


def test_what_does_not_know_its_grid_is_told_so(posterior):
    with pytest.raises(CrdistError, match="units"):
        posterior["c"].drop_attrs(deep=False).crdist.sky()
    with pytest.raises(SchemaError, match="no dimension 'sample'"):
        posterior["c"].isel(sample=0).crdist.mean()
    with pytest.raises(SchemaError, match="main quantity"):
        posterior.drop_attrs().crdist.mean()


def test_a_store_opens_from_a_url(store, posterior):
    import fsspec

    there = fsspec.filesystem("memory")
    there.put(str(store), "/remote.zarr", recursive=True)
    try:
        remote = open_posterior("memory://remote.zarr")
        np.testing.assert_array_equal(remote["c"], posterior["c"])
        assert remote["sample"].attrs["path"] == "memory://remote.zarr"
        local = open_posterior(f"file://{store}")
        np.testing.assert_array_equal(local.crdist.sky(), posterior.crdist.sky())
        with pytest.raises(SchemaError, match=r"memory://nothing\.zarr: not a Zarr store"):
            open_posterior("memory://nothing.zarr")
        with pytest.raises(SchemaError, match="Protocol not known"):
            open_posterior("nowhere://remote.zarr")
    finally:
        there.rm("/remote.zarr", recursive=True)


def test_bins_are_three_numbers(posterior):
    with pytest.raises(RecipeError, match=r"bins are \(start, stop, step\) in kpc, got 2 numbers: \(4, 12\)"):
        posterior["c"].crdist.profile(crdist.Frame(), (4, 12))
