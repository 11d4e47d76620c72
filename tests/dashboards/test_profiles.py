import numpy as np
import pytest
import xarray as xr
import zarr

from crdist.emission import density_at_energy
from crdist.errors import InputFileError, SchemaError
from crdist.schema import Variable
from crdist.store import consolidate
from crdist_dashboards.literature import Literature, in_unit_of, published, read_points
from crdist_dashboards.products import ProductsSource
from crdist_dashboards.views.profiles import profile_view

from .test_overview import N_SAMPLE, make_products


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return ProductsSource(make_products(tmp_path_factory.mktemp("p") / "c.zarr", only=("radial", "vertical", "sky")))


def test_radial_profile_shows_all_that_is_stored(source):
    view = profile_view(source, "radial", literature=False)
    with xr.open_datatree(source.path, engine="zarr") as tree:
        stored = tree["radial"].to_dataset()
        samples = stored["per_sample"].values.astype(float)
        np.testing.assert_array_equal(view.samples, samples)
        np.testing.assert_array_equal(view.mean, stored["mean"].values.astype(float))
    assert (view.n_sample, view.title, view.statistic) == (N_SAMPLE, "Radial profile", "mean of 6 samples")
    wide, narrow = view.bands
    np.testing.assert_allclose(narrow.lower, np.percentile(samples, 16, axis=1))
    np.testing.assert_allclose(wide.upper, np.percentile(samples, 97.5, axis=1))
    assert view.x_limits == (0.0, 16.0)
    (sun,) = view.lines
    assert (sun.kind, *sun.x) == ("place", 8.178, 8.178)
    assert view.points == ()


def test_limits_hold_every_point_and_error_bar(source):
    view = profile_view(source, "radial")
    assert {item.label for item in view.points} >= {"Acero+2016 (rings)", "Peron+2021 (clouds)"}
    low, high = view.y_limits
    for item in view.points:
        assert low <= item.y.min()
        assert max(item.y.max(), np.nanmax(item.y_upper, initial=0)) <= high
    assert any("digitised" in note for note in view.notes)
    assert any(line.kind == "reference" and line.label.startswith("AMS-02") for line in view.lines)
    assert any("n30 divided by" in note for note in view.notes)


def test_literature_is_left_out_where_the_quantity_is_another(source, tmp_path):
    other = make_products(tmp_path / "n.zarr", only=("radial",))
    group = zarr.open_group(str(other), mode="r+")
    group.attrs["quantity"] = {"name": "n_h", "units": "cm-3", "long_name": "hydrogen nuclei"}
    consolidate(other)
    assert profile_view(ProductsSource(other), "radial").points == ()
    assert profile_view(source, "vertical").points == ()


def test_vertical_fit_and_its_height(source):
    view = profile_view(source, "vertical")
    with xr.open_datatree(source.path, engine="zarr") as tree:
        height = tree["vertical"]["fit_height"].values
    (fit,) = (line for line in view.lines if line.kind == "fit")
    assert fit.label == f"fit n₀ (1 \N{MINUS SIGN} |z| / H), H = {height.mean():.3g} ± {height.std(ddof=1):.2g} kpc"
    # the profiles are straight lines themselves
    np.testing.assert_allclose(np.interp(view.x, fit.x, fit.y), view.mean, rtol=2e-3)
    assert view.title == "Vertical profile, 8 ≤ R < 9 kpc"
    assert view.y_limits[0] == 0
    assert (view.up_kind, view.power) == ("linear", -10)


def test_a_profile_that_does_not_fall_has_no_height(tmp_path):
    store = make_products(tmp_path / "c.zarr", only=("vertical",))
    height = zarr.open_array(str(store / "vertical" / "fit_height"), mode="r+")
    height[:] = np.array([np.nan, np.nan, np.nan, np.nan, 900.0, 40.0])
    (fit,) = (line for line in profile_view(ProductsSource(store), "vertical").lines if line.kind == "fit")
    assert "no height measured (2 of 6 samples decline)" in fit.label
    assert fit.y.min() > 0.9 * fit.y.max()


def test_without_samples_the_bands_are_the_std(tmp_path):
    store = make_products(tmp_path / "c.zarr", only=("radial",), drop=("per_sample",))
    view = profile_view(ProductsSource(store), "radial", literature=False)
    assert [band.label for band in view.bands] == ["mean ± 2 std", "mean ± std"]
    assert view.n_sample == 0
    assert view.statistic == "mean of 6 samples"
    with pytest.raises(SchemaError, match="no product 'sky'"):
        profile_view(ProductsSource(store), "sky")


def test_other_kinds_are_refused(source):
    with pytest.raises(SchemaError, match="sky is a sky, expected a radial or vertical profile"):
        profile_view(source, "sky")


def test_published_points_are_complete_and_cited():
    known = published()
    n_point = {item.label: item.x.size for item in known.points}
    assert n_point == {"Acero+2016 (rings)": 8, "Aharonian+2020 (clouds)": 19, "Peron+2021 (clouds)": 9}
    for item in known.points:
        assert "digitised" in item.reference
        bars = np.isfinite(item.y_lower)
        np.testing.assert_allclose((item.y_lower + item.y_upper)[bars], 2 * item.y[bars], rtol=2e-3)
    assert {float(line.y[0]) for line in known.lines} == {5.67e-14, 5.11e-14}
    rings = known.points[0]
    assert rings.x_upper[1] == pytest.approx(4.498)


def test_in_the_unit_of_c():
    known, variable = published(), Variable("C", "cm-3", "C")
    converted = in_unit_of(known, variable)
    np.testing.assert_allclose(density_at_energy(converted.points[0].y), known.points[0].y, rtol=1e-12)
    assert in_unit_of(known, Variable("n30", "GeV-1 cm-3", "")) is known
    assert in_unit_of(known, Variable("n30", "cm-3", "")) is None


def test_points_of_ones_own_add_and_replace(tmp_path, source):
    file = tmp_path / "mine.csv"
    file.write_text(
        "# mine\nlabel,R_kpc,n30,reference\n"
        "Peron+2021 (clouds),4,1.5e-13,mine\nNew,5,1e-13,\nAMS-02 (at Earth),,4e-14,\n"
    )
    mine = published().with_(read_points(file))
    found = {item.label: item for item in mine.points}
    assert list(found["Peron+2021 (clouds)"].x) == [4.0]
    assert found["New"].reference == ""
    assert found["Acero+2016 (rings)"].x.size == 8
    assert sorted(float(line.y[0]) for line in mine.lines) == [4e-14, 5.67e-14]
    assert sum(note.startswith("Peron+2021") for note in mine.notes) == 1
    assert "New" in {item.label for item in profile_view(source, "radial", literature=mine).points}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,R_kpc,n30\nA,4,1e-13\nB,four,1e-13\n", "line 3: R_kpc is a number, got 'four'"),
        ("# c\nlabel,R_kpc,n30\nA,4,-1\n", "line 3: n30 is a finite number, not negative, got -1"),
        ("label,R_kpc,n30\nA,4\n", "line 2: 2 cells, but the header has 3"),
        ("label,R_kpc\nA,4\n", "line 1: no column n30"),
        ("label,R_kpc,n30,flux\nA,4,1,2\n", "line 1: unknown column 'flux'"),
        ("label,R_kpc,n30,n30_lo,n30_hi\nA,4,1,2,3\n", r"line 2: n30 = 1 lies outside its error bar 2 to 3"),
        ("label,R_kpc,n30\nA,4,\n", "line 2: n30 is a positive number"),
        ("label,R_kpc,n30\n,4,1\n", "line 2: a row needs a label"),
        ("", "no rows"),
    ],
)
def test_bad_rows_are_one_line(text, message, tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text(text)
    with pytest.raises(InputFileError, match=message):
        read_points(file)
    with pytest.raises(InputFileError, match="cannot be read"):
        read_points(tmp_path / "none.csv")
    assert isinstance(published(), Literature)
