import healpy
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from crdist.errors import SchemaError
from crdist_dashboards.celestial import SkyPlane, mask_edges
from crdist_dashboards.products import ProductsSource
from crdist_dashboards.views.sky import product_sky, sky_view, value_on_sky

from .test_overview import make_products

LEVEL = 4
N_CELL = 12 * 4**LEVEL


def sky_of(values, scheme="nested", **options):
    return sky_view(values, np.arange(values.size), LEVEL, scheme, statistic="mean", **options)


@pytest.mark.parametrize("plane", [SkyPlane(), SkyPlane("gnomonic", (80.0, -30.0), 60.0)])
@given(part=st.floats(0.02, 0.98), other=st.floats(0.02, 0.98))
def test_there_and_back(plane, part, other):
    left, right, bottom, top = plane.extent
    x, y = left + part * (right - left), bottom + other * (top - bottom)
    longitude, latitude = plane.to_sky(x, y)
    if np.isfinite(latitude):
        again = plane.to_plane(longitude, latitude)
        # where the map's edge is one meridian, a point may come back on the other side
        assert abs(float(again[0])) == pytest.approx(abs(x), abs=2e-6)
        assert float(again[1]) == pytest.approx(y, abs=2e-6)
    else:
        assert plane.projection == "mollweide"
        assert np.hypot(x / 2, y) > 1


@pytest.mark.parametrize("projection", ["mollweide", "gnomonic"])
@pytest.mark.parametrize("centre", [(0.0, 0.0), (123.0, 0.0), (300.0, 40.0)])
def test_middle_is_the_centre_and_longitude_increases_to_the_left(projection, centre):
    plane = SkyPlane(projection, centre)
    np.testing.assert_allclose(plane.to_plane(*centre), 0.0, atol=1e-12)
    assert plane.to_plane(centre[0] + 5.0, centre[1])[0] < 0
    assert plane.to_plane(centre[0], centre[1] + 5.0)[1] > 0


def test_mollweide_is_equal_area_and_gnomonic_keeps_great_circles():
    values = np.zeros(N_CELL)
    cap = healpy.query_disc(2**LEVEL, healpy.ang2vec(1.0, 2.0), 0.9, nest=True)
    values[cap] = 1
    view = sky_of(values, n_row=300)
    assert np.nanmean(view.values) == pytest.approx(cap.size / N_CELL, rel=0.01)
    assert view.inside.mean() == pytest.approx(np.pi / 4, rel=1e-3)
    plane = SkyPlane("gnomonic", (0.0, 0.0), 90.0)
    # a great circle tilted by 30 degree
    angle = np.radians(np.linspace(-35, 35, 21))
    point = np.stack([np.cos(angle), np.sin(angle) * np.cos(0.5), np.sin(angle) * np.sin(0.5)])
    x, y = plane.to_plane(np.degrees(np.arctan2(point[1], point[0])), np.degrees(np.arcsin(point[2])))
    np.testing.assert_allclose(y, -np.tan(0.5) * x, atol=1e-9)


@pytest.mark.parametrize("scheme", ["nested", "ring"])
@pytest.mark.parametrize(("projection", "centre"), [("mollweide", (0.0, 0.0)), ("gnomonic", (30.0, 70.0))])
def test_values_are_those_of_the_cells_in_either_order(scheme, projection, centre, rng):
    values = rng.uniform(1, 2, N_CELL)
    view = sky_of(values, scheme, projection=projection, centre=centre, n_row=60)
    plane = SkyPlane(projection, centre)
    left, right, bottom, top = plane.extent
    n_row, n_column = view.values.shape
    row, column = np.argwhere(view.inside)[::97].T
    x = left + (column + 0.5) * (right - left) / n_column
    y = bottom + (row + 0.5) * (top - bottom) / n_row
    longitude, latitude = plane.to_sky(x, y)
    cells = healpy.ang2pix(2**LEVEL, longitude, latitude, nest=scheme == "nested", lonlat=True)
    np.testing.assert_array_equal(view.values[row, column], values[cells].astype(np.float32))
    place, (_, _, value) = 11, value_on_sky(view, float(x[11]), float(y[11]))
    assert value == values[cells[place]]


def test_masked_is_masked_and_outside_is_neither(rng):
    values = rng.uniform(1, 2, N_CELL)
    mask = np.zeros(N_CELL, dtype=bool)
    mask[healpy.query_disc(2**LEVEL, healpy.ang2vec(np.radians(60), np.radians(90)), 0.3, nest=True)] = True
    view = sky_of(np.where(mask, np.nan, values), mask=mask, n_row=200)
    masked = view.inside & np.isnan(view.values)
    assert masked.sum() / view.inside.sum() == pytest.approx(mask.mean(), rel=0.05)
    assert np.isnan(view.values[0, 0])
    assert not view.inside[0, 0]
    # the edges lie around the masked pixels, left of the middle and above it
    (edge,) = view.outlines
    rows, columns = np.nonzero(masked)
    assert np.nanmin(edge.x) == pytest.approx(-2 + 4 * columns.min() / 400, abs=0.02)
    assert np.nanmax(edge.y) == pytest.approx(-1 + 2 * (rows.max() + 1) / 200, abs=0.02)
    assert np.nanmax(edge.x) < 0 < np.nanmin(edge.y)
    assert any("without a value" in note for note in view.notes)


@pytest.mark.parametrize("scheme", ["nested", "ring"])
def test_edges_of_a_mask_separate_masked_from_other_cells(scheme, rng):
    masked = rng.uniform(size=48) < 0.3
    (edge,) = mask_edges(masked, 1, scheme, SkyPlane("gnomonic", (20.0, 10.0), 100.0))
    plane = SkyPlane("gnomonic", (20.0, 10.0), 100.0)
    middle = (edge.x[:-1] + edge.x[1:]) / 2, (edge.y[:-1] + edge.y[1:]) / 2
    along = edge.x[1:] - edge.x[:-1], edge.y[1:] - edge.y[:-1]
    length = np.hypot(*along)
    known = np.isfinite(length) & (length > 0)
    assert known.sum() > 100
    sides = []
    for sign in (-1, 1):
        x = (middle[0] - sign * along[1] / length * 0.8)[known]
        y = (middle[1] + sign * along[0] / length * 0.8)[known]
        sides.append(masked[healpy.ang2pix(2, *plane.to_sky(x, y), nest=scheme == "nested", lonlat=True)])
    assert (sides[0] != sides[1]).all()


def test_everything_or_nothing_masked_has_no_edge():
    for masked in (np.zeros(48, dtype=bool), np.ones(48, dtype=bool)):
        assert mask_edges(masked, 1, "nested", SkyPlane()) == ()


@pytest.mark.parametrize(
    ("plane", "names"),
    [
        (SkyPlane(), {"60°", "240°", "300°", "+30°", "\N{MINUS SIGN}60°"}),
        (SkyPlane("gnomonic", (0.0, 0.0), 20.0), {"0°", "355°", "5°", "\N{MINUS SIGN}5°"}),
        (SkyPlane("gnomonic", (120.0, 85.0), 20.0), {"+80°", "120°"}),
    ],
)
def test_graticule_is_labelled_at_its_lines(plane, names):
    lines, labels = plane.graticule()
    assert names <= {text for _, _, text in labels}
    left, right, bottom, top = plane.extent
    for line in lines:
        steps = np.hypot(np.diff(line.x), np.diff(line.y))
        assert np.nanmax(steps, initial=0.0) < 0.25 * (right - left)
    for x, y, _ in labels:
        assert left <= x <= right
        assert bottom <= y <= top
        near = min(float(np.nanmin(np.hypot(line.x - x, line.y - y), initial=9.0)) for line in lines)
        assert near < 0.05 * (top - bottom)


def test_product_of_a_store(tmp_path):
    store = make_products(tmp_path / "c.zarr", only=("sky",))
    source = ProductsSource(store)
    view = product_sky(source, "sky", "significance")
    assert view.statistic == "mean / std of 6 samples, each ± 32 %"
    assert view.units == ""
    with xr.open_datatree(store, engine="zarr") as tree:
        mean = tree["sky"]["mean"].values
    assert set(np.unique(product_sky(source, "sky").values[view.inside])) <= set(mean)
    marked = product_sky(source, "sky", projection="gnomonic", sources=[("Vela", 1.0, 2.0), ("Crab", 184.6, -5.8)])
    assert [mark.label for mark in marked.marks] == ["Vela"]
    with pytest.raises(SchemaError, match="no statistic 'sample'; it has mean"):
        product_sky(source, "sky", "sample", sample=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell_ids": np.arange(13)}, r"shapes \(12,\) and \(13,\)"),
        ({"cell_ids": np.arange(12) + 1}, "cells of level 0 are 0 to 11, got 1 to 12"),
        ({"scheme": "nest"}, "nested or ring, got 'nest'"),
        ({"values": np.full(12, np.nan)}, "without a finite value"),
    ],
)
def test_bad_input_is_one_line(change, message):
    given_ = {"values": np.ones(12), "cell_ids": np.arange(12), "level": 0, "scheme": "ring", **change}
    with pytest.raises(SchemaError, match=message):
        sky_view(**given_, statistic="mean")
    with pytest.raises(SchemaError, match="120 degree wide, got 200"):
        SkyPlane("gnomonic", (0.0, 0.0), 200.0)
