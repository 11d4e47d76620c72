import io
import logging
import shutil
import zipfile

import numpy as np
import pytest
import xarray as xr
import zarr
from bokeh.models import ColumnDataSource

from crdist.errors import RecipeError, SchemaError
from crdist_dashboards.app import triptych as triptych_module
from crdist_dashboards.app.downloads import FORMATS, file_of
from crdist_dashboards.app.page import Page, build
from crdist_dashboards.app.state import from_query, to_query
from crdist_dashboards.app.stores import Stores
from crdist_dashboards.app.trust import progress_lines, quality_rows, timing_rows
from crdist_dashboards.products import ProductsSource
from crdist_dashboards.views import maps, sky
from crdist_dashboards.views.inference import InferenceSource
from crdist_dashboards.views.profiles import profile_view
from crdist_postproc.run import run_products
from galaxies import SMALL_RECIPE, small_posterior
from served import make_store, set_status

from .test_inference_views import make_posterior


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    make_store(folder / "first.zarr")
    make_store(folder / "second.zarr", shift=0.5, seed=2)
    return folder


@pytest.fixture(scope="module")
def source(folder):
    return ProductsSource(folder / "first.zarr")


def said(tab):
    return tab._message.object if tab._message.visible else ""


@pytest.fixture
def page(folder):
    return Page(Stores((folder / "first.zarr", folder / "second.zarr")))


def test_every_tab_is_filled_when_it_is_opened_and_not_before(page):
    for name, tab in page.tabs.items():
        page.state.tab = name
        assert tab.built
        assert said(tab) == ""
        later = list(page.tabs)[list(page.tabs).index(name) + 1 :]
        assert not any(page.tabs[other].built for other in later)


def test_a_link_opens_the_same_view(page, folder):
    page.state.param.update(
        slice="volume", axis="y", at=1.5, scale="log", overlays=["sun"], x=2.5, y=-0.25, tab="slices"
    )
    link = to_query(page.state)
    again = Page(Stores((folder / "first.zarr", folder / "second.zarr")), link)
    assert to_query(again.state) == link
    shown = again.tabs["slices"].triptych.maps[0].view
    assert shown.title == page.tabs["slices"].triptych.maps[0].view.title == "Slice y = 1.5 kpc"
    assert shown.scale.kind == "log"
    assert {mark.kind for mark in shown.marks} <= {"sun"}


def test_the_first_view_needs_no_query(page):
    assert to_query(page.state) == ""


def test_nonsense_in_a_link_gives_the_default_and_a_notice(folder):
    wrong = "?tab=evil&slice=../../etc/passwd&at=1e99&scale=log&sample=x&x=nan&overlays=moon&difference=maybe"
    wrong += "&unknown=1&name=x"
    page = Page(Stores((folder / "first.zarr",)), wrong)
    state = page.state
    assert (state.tab, state.slice, state.at, state.sample, state.x) == ("slices", "midplane", 0.0, 0, None)
    assert state.scale == "log"
    assert page._notice.visible
    for name in ("tab", "slice", "at", "sample", "x", "overlays", "difference"):
        assert f"asks for {name} =" in page._notice.object
    assert "unknown" not in page._notice.object


def test_text_of_a_link_is_shown_as_text(folder):
    page = Page(Stores((folder / "first.zarr",)), "?slice=<img src=x onerror=alert(1)>")
    assert "<img" not in page._notice.object


def test_a_state_refuses_what_it_does_not_offer(page):
    assert from_query(page.state, "?sky=midplane") != []
    assert page.state.sky == "sky"


def test_a_tap_moves_the_crosshair_and_the_lines(page, source):
    tab = page.tabs["slices"]
    tab.triptych._tapped(4.5, -3.5)
    assert (page.state.x, page.state.y) == (4.5, -3.5)
    across, up = maps.crosshair(source, "midplane", 4.5, -3.5)
    np.testing.assert_array_equal(tab.triptych.profiles[0].view.mean, across.mean)
    np.testing.assert_array_equal(tab.triptych.profiles[1].view.mean, up.mean)
    tab.triptych._tapped(1e6, 0.0)
    assert page.state.x == 4.5


def test_the_readout_is_the_stored_value(page, source):
    tab = page.tabs["slices"]
    tab.triptych._pointed(4.4, -3.6)
    assert f"{float(source.read('midplane', 'mean')[16, 8]):.6g}" in tab.triptych._readout.object
    tab.triptych._pointed(np.nan, np.nan)
    assert "Point at a map" in tab.triptych._readout.object


def test_maps_of_a_triptych_zoom_together(page):
    first, *others = page.tabs["slices"].triptych.maps
    for other in others:
        assert other.figure.x_range is first.figure.x_range
        assert other.figure.y_range is first.figure.y_range


def test_zooming_into_a_plane_that_is_shown_in_part_shows_all_of_the_window(folder, source, monkeypatch):
    monkeypatch.setattr(triptych_module, "FIRST_PIXELS", 12)
    triptych = Page(Stores((folder / "first.zarr",))).tabs["slices"].triptych
    whole = triptych.maps[0].view
    assert whole.thinned
    assert whole.values.shape == (12, 12)
    triptych._looked(-2.0, 2.0, -1.0, 3.0)
    near = triptych.maps[0].view
    assert near.extent == (-3.0, 3.0, -2.0, 4.0)
    assert not near.thinned
    np.testing.assert_array_equal(near.values, source.read("midplane", "mean")[9:15, 10:16].T)
    assert near.scale == whole.scale
    assert triptych.maps[0].figure.x_range.reset_end == 12.0
    triptych._looked(-12.0, 12.0, -12.0, 12.0)
    assert triptych.maps[0].view.extent == whole.extent


def test_a_map_has_as_many_voxels_as_the_screen_has_pixels_and_a_file_has_all(folder, source, monkeypatch):
    monkeypatch.setattr(triptych_module, "FIRST_PIXELS", 6)
    triptych = Page(Stores((folder / "first.zarr",))).tabs["slices"].triptych
    whole = source.read("midplane", "mean").T
    assert triptych.maps[0].view.values.shape == (6, 6)
    np.testing.assert_array_equal(triptych._fine()[0].values, whole)
    # as the page says it
    sizes = next(model for model in _models(triptych) if list(model.data) == ["n"])
    sizes.data = {"n": [13]}
    assert triptych.maps[0].view.values.shape == (12, 12)
    sizes.data = {"n": [5]}
    assert triptych.maps[0].view.values.shape == (6, 6)
    sizes.data = {"n": [24]}
    for live in triptych.maps:
        assert not live.view.thinned
    np.testing.assert_array_equal(triptych.maps[0].view.values, whole)
    assert triptych._fine()[0] is triptych.maps[0].view


def _models(triptych):
    return triptych.maps[0].figure.select({"type": ColumnDataSource})


def test_another_store_is_shown_when_it_is_chosen(page, folder):
    before = page.tabs["slices"].triptych.maps[0].view.values
    page.state.store = "second"
    after = page.tabs["slices"].triptych.maps[0].view.values
    assert not np.allclose(before, after, rtol=0.01, atol=0, equal_nan=True)
    assert "second" in page._about.object


@pytest.mark.parametrize("harm", ["vanish", "damage"])
def test_a_store_that_is_lost_is_said_in_its_tab_and_nothing_else_falls(folder, tmp_path, harm, caplog):
    path = shutil.copytree(folder / "first.zarr", tmp_path / f"{harm}.zarr")
    page = Page(Stores((path, folder / "second.zarr")))
    if harm == "vanish":
        shutil.rmtree(path)
    else:
        for chunk in (path / "radial" / "per_sample" / "c").rglob("*"):
            if chunk.is_file():
                chunk.write_bytes(b"")
    with caplog.at_level(logging.WARNING, logger="crdist"):
        page.state.tab = "profiles"
    assert said(page.tabs["profiles"])
    assert "should not happen" not in said(page.tabs["profiles"])
    assert caplog.records
    page.state.store = "second"
    assert page.tabs["profiles"].built
    assert said(page.tabs["profiles"]) == ""


def test_an_error_of_ours_is_said_and_logged(page, caplog):
    tab = page.tabs["slices"]
    with caplog.at_level(logging.ERROR, logger="crdist"):
        tab.safely(lambda: 1 / 0)
    assert "should not happen (ZeroDivisionError" in said(tab)
    assert "Traceback" in caplog.text
    page.state.scale = "log"
    assert said(tab) == ""


def test_a_growing_store_is_followed_until_it_is_complete(tmp_path):
    path = make_store(tmp_path / "n30.zarr", status="running")
    page = Page(Stores((path,)))
    assert "run not complete" in page._about.object
    generation = page.session.generation
    set_status(path, "complete")
    page.grow()
    assert "run not complete" not in page._about.object
    assert page.session.generation > generation


def test_a_page_without_a_store_says_so(tmp_path):
    gone = Stores((tmp_path / "gone.zarr",))
    with pytest.raises(SchemaError, match="no such store"):
        gone.check()
    assert "no such store" in str(build(gone)._render_items["page"][0].object)


def test_stores_of_one_name_are_told_apart(tmp_path):
    stores = Stores((tmp_path / "a" / "n30.zarr", tmp_path / "b" / "n30.zarr"))
    assert stores.names == ("a/n30", "b/n30")
    with pytest.raises(RecipeError, match="at least one"):
        Stores(())


@pytest.fixture(scope="module")
def views(source):
    return {
        "map": maps.slice_view(source, "midplane"),
        "sky": sky.product_sky(source, "sky"),
        "profile": profile_view(source, "radial"),
    }


@pytest.mark.parametrize("kind", ["map", "sky", "profile"])
@pytest.mark.parametrize(("format_", "start"), [("PNG", b"\x89PNG"), ("SVG", b"<?xml"), ("PDF", b"%PDF")])
def test_pictures(views, kind, format_, start):
    assert file_of(views[kind], format_).startswith(start)


def test_numbers_of_a_map(views):
    from astropy.io import fits

    view = views["map"]
    table = np.genfromtxt(io.BytesIO(file_of(view, "CSV")), delimiter=",", names=True, skip_header=5)
    np.testing.assert_allclose(table["value"].reshape(view.values.shape), view.values, rtol=1e-6, equal_nan=True)
    with fits.open(io.BytesIO(file_of(view, "FITS"))) as file:
        np.testing.assert_array_equal(file[0].data, view.values)
        assert file[0].header["BUNIT"] == view.units
        centre = file[0].header["CRVAL1"] + (1 - file[0].header["CRPIX1"]) * file[0].header["CDELT1"]
    assert centre == pytest.approx(table["x"].min())


def test_numbers_of_a_sky_are_its_cells(views):
    import healpy
    from astropy.io import fits

    view = views["sky"]
    with fits.open(io.BytesIO(file_of(view, "FITS"))) as file:
        read = healpy.read_map(file, nest=True, dtype=np.float64, partial=True)
    known = np.isfinite(view.cells.values)
    np.testing.assert_allclose(read[view.cells.cell_ids[known]], view.cells.values[known])


def test_numbers_of_a_profile_are_the_same_in_all_formats(views):
    from astropy.io import fits

    view = views["profile"]
    with fits.open(io.BytesIO(file_of(view, "FITS"))) as file:
        table, header = file["PROFILE"].data, file["PROFILE"].header
        np.testing.assert_array_equal(table["per_sample"], view.samples)
        np.testing.assert_array_equal(table["band_68_lower"], view.bands[1].lower)
        assert header["STATIST"] == view.statistic
        assert len(header["COMMENT"]) >= len(view.notes)
    lines = file_of(view, "CSV").decode().splitlines()
    names = next(line for line in lines if not line.startswith("#")).split(",")
    rows = np.genfromtxt([line for line in lines if not line.startswith("#")][1:], delimiter=",")
    np.testing.assert_allclose(rows[:, names.index("band_95_upper")], view.bands[0].upper, rtol=1e-8)


def test_a_zipped_zarr_opens_with_xarray(views, tmp_path):
    path = tmp_path / "view.zarr.zip"
    path.write_bytes(file_of(views["profile"], "Zarr, zipped"))
    assert zipfile.ZipFile(path).testzip() is None
    with xr.open_zarr(zarr.storage.ZipStore(path), consolidated=False) as dataset:
        np.testing.assert_allclose(dataset["mean"], views["profile"].mean)
        assert dataset["mean"].attrs["units"] == "GeV-1 cm-3"
        assert dataset["per_sample"].shape == views["profile"].samples.shape


def test_a_format_that_is_none_is_refused(views):
    with pytest.raises(SchemaError, match=", ".join(FORMATS)):
        file_of(views["map"], "GIF")


def test_the_run_tab_says_where_the_run_stands_and_what_to_trust(tmp_path):
    small_posterior(tmp_path / "p.zarr")
    report = run_products(tmp_path / "p.zarr", tmp_path / "products.zarr", SMALL_RECIPE)
    page = Page(Stores((tmp_path / "products.zarr",)), "tab=run")
    text = page.tabs["run"]._products.object
    assert "<h3 style='margin:8px 0'>Progress</h3>" in text
    assert "complete after" in text
    source = ProductsSource(tmp_path / "products.zarr")
    quality = dict(quality_rows(source))
    assert {"midplane", "projection_x", "projection_z", "local_z"} == set(quality)
    residual = np.asarray(source.read("projection_z", "mass_residual"))
    assert f"mass residual {residual[np.argmax(np.abs(residual))]:+.2g} in the worst sample" in quality["projection_z"]
    (ended, _) = timing_rows(source)
    assert f"{report.blocks_computed} blocks computed" in ended[1]


def test_the_run_tab_shows_the_evidence_of_an_inference(tmp_path):
    products = make_store(tmp_path / "n30.zarr")
    posterior = make_posterior(tmp_path / "posterior.zarr")
    tab = Page(Stores((products,), posterior), "tab=run").tabs["run"]
    assert not tab._message.visible, tab._message.object
    view = InferenceSource(posterior).evidence()
    np.testing.assert_array_equal(tab._evidence.view.values, view.values)
    assert tab._evidence.figure.x_range.start == view.extent[0]
    assert len(tab._evidence_place.objects) == 2
    assert "marked: 2 draws of length and slope and the truth" in tab._evidence_notes.object
    assert set(tab._views()) == {"data", "prediction", "residual", "evidence"}
    other = make_posterior(tmp_path / "joint.zarr", evidence=False)
    tab = Page(Stores((products,), other), "tab=run").tabs["run"]
    assert tab._evidence_place.objects == []
    assert set(tab._views()) == {"data", "prediction", "residual"}


def test_a_store_without_records_has_no_progress(source):
    assert progress_lines(source) == []
    assert timing_rows(source) == []
