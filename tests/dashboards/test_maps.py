"""Maps: what they show against the store and the formula, in both frames, at every level of detail."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from crdist.errors import SchemaError
from crdist.frames import Frame
from crdist_dashboards import overlays
from crdist_dashboards.products import ProductsSource
from crdist_dashboards.views import maps, planes, samples
from crdist_dashboards.views.contours import contour_curves
from written import N_SAMPLE, SHAPE, products_of, values_of, write_products

FRAMES = {
    "galactocentric": Frame(),
    "heliocentric": Frame(name="heliocentric"),
    "tilted": Frame(r0_kpc=8.3, z_sun_kpc=0.02, roll_deg=5.0),
}
PRODUCTS = {name: products_of(frame, quantiles=(0.16,)) for name, frame in FRAMES.items()}
WRITTEN = {**PRODUCTS, "heliocentric": PRODUCTS["heliocentric"][::3], "tilted": PRODUCTS["tilted"][:1]}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps")
    return {name: write_products(folder / f"{name}.zarr", products) for name, products in WRITTEN.items()}


@pytest.fixture
def source(paths):
    return ProductsSource(paths["galactocentric"])


def expected(name, frame="galactocentric"):
    (product,) = (item for item in PRODUCTS[frame] if item.name == name)
    return values_of(product)


def same(view, values):
    """The view shows these values, given as (across, up)."""
    np.testing.assert_allclose(view.values, values.T, rtol=2e-6)
    assert view.values.dtype == np.float32


def test_a_slice_shows_the_stored_values(source):
    whole = expected("midplane")
    view = maps.slice_view(source, "midplane")
    same(view, whole.mean(-1))
    assert view.extent == (-20.0, 20.0, -20.0, 20.0)
    assert (view.title, view.statistic) == ("Slice z = 0 kpc", "mean of 6 samples")
    assert (view.quantity, view.units, view.across.name, view.up.units) == ("number density", "cm-3", "x", "kpc")
    assert view.axis == "z"
    assert view.frame == Frame()
    same(maps.slice_view(source, "midplane", "std"), whole.std(-1, ddof=1))
    same(maps.slice_view(source, "midplane", "q16"), np.quantile(whole, 0.16, axis=-1))
    same(maps.slice_view(source, "midplane", "coverage"), np.isfinite(whole[..., 0]))
    assert maps.slice_view(source, "midplane", "sample", sample=2).statistic == "sample 2 of 6, counted from 0"


@pytest.mark.parametrize(("axis", "at", "index"), [("z", 1.1, 16), ("x", -8.2, 11), ("y", 20.0, 39), ("z", None, 11)])
def test_planes_of_a_volume(source, axis, at, index):
    whole = np.take(expected("volume"), index, axis="xyz".index(axis))
    view = maps.slice_view(source, "volume", axis=axis, at_kpc=at)
    same(view, whole.mean(-1))
    centre = source.info("volume").grid_axis(axis).centres[index]
    assert view.at_kpc == pytest.approx(centre)
    assert view.title == f"Slice {axis} = {centre:g} kpc"
    np.testing.assert_array_equal(
        maps.slice_view(source, "volume", "coverage", axis=axis, at_kpc=at).values, np.isfinite(whole[..., 0]).T
    )


def test_the_significance_of_a_volume_is_what_its_mean_and_std_tell(source):
    view = maps.slice_view(source, "volume", "significance", at_kpc=0.1)
    stored = source.read("volume", "significance", z=12)
    np.testing.assert_allclose(view.values, stored.T, rtol=1e-4)
    error = maps.slice_view(source, "volume", "significance_error", at_kpc=0.1)
    np.testing.assert_allclose(error.values, source.read("volume", "significance_error", z=12).T, rtol=1e-3)
    # the ratio of a noncentral t's spread to its mean, for large values
    chi = scipy.stats.chi(N_SAMPLE - 1)
    assert "each ± " in view.statistic
    said = float(view.statistic.rpartition("± ")[2].rstrip(" %"))
    assert 10 < said < 100 * chi.std() * 1.5


def test_projections(source):
    for axis in "xyz":
        view = maps.projection_view(source, f"projection_{axis}")
        same(view, expected(f"projection_{axis}").mean(-1))
        assert view.at_kpc is None
        assert view.title.startswith(f"Integral along {axis}")
        assert any("by up to 0.0002 of it" in note for note in view.notes)


def test_a_large_plane_is_thinned_and_a_window_shows_more(source):
    whole = expected("midplane").mean(-1)
    view = maps.slice_view(source, "midplane", pixels=10)
    assert view.values.shape == (10, 10)
    assert view.extent == (-20.0, 20.0, -20.0, 20.0)
    # each is the voxel in the middle of the four that it stands for
    same(view, whole[2::4, 2::4])
    assert "10 \N{MULTIPLICATION SIGN} 10 of 40 \N{MULTIPLICATION SIGN} 40 voxels shown" in view.notes
    near = maps.slice_view(source, "midplane", window=(-9.5, -1.0, 0.0, 10.0), pixels=10)
    assert near.extent == (-10.0, -1.0, 0.0, 10.0)
    same(near, whole[10:19, 20:30])
    assert not any("shown" in note for note in near.notes)
    assert near.scale == view.scale
    odd = maps.slice_view(source, "midplane", window=(-20.0, 7.0, -20.0, 3.0), pixels=10)
    assert odd.values.shape == (8, 9)
    assert odd.extent == (-20.0, 7.0, -20.0, 3.0)


def test_a_plane_that_is_too_large_to_keep_is_read_in_part(source, monkeypatch):
    whole = maps.slice_view(source, "volume", axis="y", at_kpc=3.0, window=(-9.0, 4.0, -1.0, 2.0))
    monkeypatch.setattr(planes, "WHOLE_PLANE_BYTES", 0)
    part = maps.slice_view(source, "volume", axis="y", at_kpc=3.0, window=(-9.0, 4.0, -1.0, 2.0))
    np.testing.assert_array_equal(whole.values, part.values)
    assert whole.extent == part.extent


@pytest.mark.parametrize("window", [(1, 0, 0, 1), (np.nan, 1, 0, 1), (30, 40, 0, 1), (0, 1, -50, -40)])
def test_a_window_that_is_none_is_refused(source, window):
    with pytest.raises(SchemaError, match="window"):
        maps.slice_view(source, "midplane", window=window)


def test_colours_stay_when_the_plane_or_window_moves(source):
    for statistic in ("mean", "std", "significance"):
        scales = {
            maps.slice_view(source, "volume", statistic, axis=axis, at_kpc=at).scale
            for axis in "xz"
            for at in (-2.9, 0, 2.9)
        }
        assert len(scales) == 1, statistic
    locked = dataclasses.replace(scales.pop(), low=1e-12)
    assert maps.slice_view(source, "volume", at_kpc=1.0, scale=locked).scale is locked
    assert maps.slice_view(source, "volume", scale="log").scale.kind == "log"
    assert maps.slice_view(source, "volume", scale="linear").scale.kind == "linear"


def test_samples_share_one_scale_and_their_differences_another(source):
    views = samples.small_multiples(source, "projection_y")
    whole = expected("projection_y")
    assert len(views) == N_SAMPLE
    assert len({view.scale for view in views}) == 1
    for k, view in enumerate(views):
        same(view, whole[..., k])
    lowest, highest = np.nanpercentile(whole, (1, 99.5))
    assert views[0].scale.low <= lowest * 1.01
    assert views[0].scale.high >= highest * 0.99
    differences = samples.small_multiples(source, "projection_y", samples=(1, 4), difference=True)
    np.testing.assert_allclose(
        differences[1].values, (whole[..., 4] - whole.mean(-1)).T, rtol=1e-3, atol=1e-5 * np.nanmax(whole)
    )
    scale = differences[0].scale
    assert scale is differences[1].scale
    assert scale.low == -scale.high
    alone = samples.sample_view(source, "projection_y", 4, difference=True)
    assert alone.scale == scale
    assert "minus the mean" in alone.statistic


def test_what_cannot_be_shown_is_one_line(source):
    for act, match in (
        (lambda: maps.slice_view(source, "projection_z"), "is a projection, expected a slice or a volume"),
        (lambda: maps.projection_view(source, "volume"), "is a volume, expected a projection"),
        (lambda: maps.slice_view(source, "midplane", "mode"), "no statistic 'mode'; it has mean, std"),
        (lambda: maps.slice_view(source, "midplane", "sample"), "which sample"),
        (lambda: maps.slice_view(source, "midplane", "sample", sample=6), "has samples 0 to 5, got 6"),
        (lambda: samples.sample_view(source, "volume", 0), "keeps no samples"),
        (lambda: maps.slice_view(source, "volume", at_kpc=3.5), "reaches from z = -3 to 3 kpc, got z = 3.5 kpc"),
        (lambda: maps.slice_view(source, "volume", axis="w"), "no axis 'w'; it has x, y, z"),
        (lambda: maps.slice_view(source, "volume", at_kpc=float("nan")), "got z = nan kpc"),
        (lambda: maps.slice_view(source, "midplane", axis="x"), "has axis z, got x"),
    ):
        with pytest.raises(SchemaError, match=match) as caught:
            act()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FRAMES)
def test_marks_lie_where_the_frame_says(paths, name):
    frame = FRAMES[name]
    view = maps.slice_view(ProductsSource(paths[name]), "midplane")
    marks = {mark.kind: (mark.x, mark.y) for mark in view.marks}
    np.testing.assert_allclose(marks["sun"], frame.sun_kpc[:2])
    np.testing.assert_allclose(marks["centre"], frame.centre_kpc[:2], atol=1e-12)
    (circle,) = (curve for curve in view.curves if curve.kind == "solar circle")
    distance = np.hypot(circle.x - marks["centre"][0], circle.y - marks["centre"][1])
    # a tilt of 0.02 / 8.3 shortens it by a part in 10^5 at most
    np.testing.assert_allclose(distance, frame.r0_kpc, rtol=1e-5)
    assert np.hypot(circle.x - marks["sun"][0], circle.y - marks["sun"][1]).min() < 0.05


def test_spiral_arms_are_where_their_source_puts_them():
    # Reid et al. 2019: the kink of Perseus, and the Local arm just outside the Sun, in their own R0
    arms = {arm.label: arm for arm in overlays.spiral_arms(Frame(r0_kpc=8.15))}
    assert len(arms) == 7
    perseus = arms["Perseus"]
    radius, azimuth = np.hypot(perseus.x, perseus.y), np.degrees(np.arctan2(perseus.y, -perseus.x))
    assert np.interp(40.0, azimuth, radius) == pytest.approx(8.87, abs=1e-6)
    slope = np.gradient(np.log(radius), np.radians(azimuth))
    assert np.degrees(np.arctan(-slope[5])) == pytest.approx(10.3, abs=0.01)
    assert np.degrees(np.arctan(-slope[-5])) == pytest.approx(8.7, abs=0.01)
    # scaled with R0, and moved with the frame
    ours, helio = (overlays.spiral_arms(Frame(name=name))[5] for name in ("galactocentric", "heliocentric"))
    np.testing.assert_allclose(np.hypot(ours.x, ours.y), radius * 8.178 / 8.15)
    np.testing.assert_allclose(helio.x, ours.x + 8.178)


def test_arms_are_drawn_near_the_plane_alone(source):
    def arms(view):
        return [curve.label for curve in view.curves if curve.kind == "spiral arm"]

    assert "Perseus" in arms(maps.slice_view(source, "volume", at_kpc=0.3))
    assert "Perseus" in arms(maps.projection_view(source, "projection_z"))
    assert arms(maps.slice_view(source, "volume", at_kpc=0.9)) == []
    side = maps.slice_view(source, "volume", axis="y", at_kpc=5.0)
    assert side.curves == ()
    assert {mark.label for mark in side.marks} == {"Sun, projected", "Galactic centre, projected"}
    few = maps.slice_view(source, "midplane", overlays=("sun",))
    assert ([mark.kind for mark in few.marks], few.curves) == (["sun"], ())
    inner = maps.slice_view(source, "midplane", window=(0.0, 4.0, 0.0, 4.0))
    for curve in inner.curves:
        assert np.nanmax(np.abs(curve.x - 2.0)) <= 2.0
        assert np.nanmax(np.abs(curve.y - 2.0)) <= 2.0
    assert all(mark.kind == "centre" for mark in inner.marks)


def test_contours_of_a_known_field(source):
    view = maps.projection_view(source, "projection_z", overlays=())
    n = 400
    x = -20.0 + (np.arange(n) + 0.5) * 40.0 / n
    radius = np.hypot(x[:, None] - 2.0, x - 1.0)
    known = dataclasses.replace(view, values=(1e22 * np.exp(-radius / 3.0)).astype(np.float32), units="cm-2")
    curves = contour_curves(known)
    assert len(curves) >= 2
    for curve in curves:
        level = {
            "3\N{MULTIPLICATION SIGN}10²⁰ cm⁻²": 3e20,
            "10²¹ cm⁻²": 1e21,
            "10²⁰ cm⁻²": 1e20,
            "3\N{MULTIPLICATION SIGN}10²¹ cm⁻²": 3e21,
        }[curve.label]
        r = np.hypot(curve.x - 1.0, curve.y - 2.0)
        np.testing.assert_allclose(r[np.isfinite(r)], 3.0 * np.log(1e22 / level), atol=0.01)
    drawn = maps.projection_view(source, "projection_z", contours=known)
    assert [curve.label for curve in drawn.curves if curve.kind == "contour"] == [curve.label for curve in curves]
    assert drawn.notes[-1].startswith("contours: number density, Integral along z")


def test_contours_of_another_store_must_fit(source, paths, tmp_path):
    coarse = products_of(Frame(), shape=(20, 20, 12))
    gas = ProductsSource(write_products(tmp_path / "gas.zarr", coarse[1:4], seed=2))
    drawn = maps.projection_view(source, "projection_z", contours=gas)
    assert any(curve.kind == "contour" for curve in drawn.curves)
    with pytest.raises(SchemaError, match=r"has Frame\(.*make both in one"):
        maps.projection_view(source, "projection_z", contours=ProductsSource(paths["heliocentric"]))
    side = maps.projection_view(gas, "projection_y")
    with pytest.raises(SchemaError, match="integrated along y, but the map along z"):
        maps.projection_view(source, "projection_z", contours=side)


def test_the_values_at_a_point_are_the_stored_ones(source):
    found = maps.value_at(source, "volume", -8.1, 0.1, at_kpc=0.3)
    i, j, k = 11, 20, 13
    assert found.mean == float(source.read("volume", "mean", x=i, y=j, z=k))
    assert found.std == float(source.read("volume", "std", x=i, y=j, z=k))
    assert found.significance == pytest.approx(float(source.read("volume", "significance", x=i, y=j, z=k)), rel=1e-4)
    assert found.coordinates == (("x", -8.5, "kpc"), ("y", 0.5, "kpc"), ("z", 0.375, "kpc"))
    assert found.text.startswith("x = \N{MINUS SIGN}8.5 kpc, y = 0.5 kpc, z = 0.375 kpc: ")
    assert "cm⁻³" in found.text
    assert "6 samples" in found.text
    assert maps.value_at(source, "midplane", 20.1, 0.0) is None
    assert maps.value_at(source, "midplane", 0.0, float("nan")) is None
    assert maps.value_at(source, "midplane", 20.0, -20.0).text.endswith("no value")
    edge = maps.value_at(source, "projection_y", 1.0, 0.0)
    assert [name for name, _, _ in edge.coordinates] == ["x", "z"]


def test_crosshairs_are_lines_of_the_map(source):
    whole = expected("projection_x")
    across, up = maps.crosshair(source, "projection_x", 3.2, -1.1)
    j, k = 23, 7
    np.testing.assert_allclose(across.samples, whole[:, k], rtol=1e-6)
    np.testing.assert_allclose(up.samples, whole[j], rtol=1e-6)
    np.testing.assert_allclose(up.mean, whole[j].mean(-1), rtol=1e-6)
    np.testing.assert_allclose(across.x, np.arange(-19.5, 20.0))
    wide, narrow = up.bands
    np.testing.assert_allclose(narrow.lower, np.percentile(whole[j], 16, axis=-1), rtol=1e-6)
    assert (wide.label, narrow.label) == ("95 % of the samples", "68 % of the samples")
    assert across.title == "Along y at z = \N{MINUS SIGN}1.125 kpc, integrated along x"
    assert across.lines[0].x[0] == 3.5
    assert (across.x_limits, up.x_limits) == ((-20.0, 20.0), (-3.0, 3.0))
    _, column = maps.crosshair(source, "volume", -8.0, 100.0, axis="x", at_kpc=-8.0)
    assert column.n_sample == 0
    values = expected("volume")[12, 12]
    np.testing.assert_allclose(column.mean, values.mean(-1), rtol=1e-6)
    across, _ = maps.crosshair(source, "volume", 0.0, 0.0, axis="x", at_kpc=-8.0)
    spread = expected("volume")[12, :, 12].std(-1, ddof=1)
    np.testing.assert_allclose(across.bands[1].upper - across.mean, spread, rtol=1e-5)
    assert across.bands[1].label == "mean ± std"
    low, high = across.y_limits
    assert low <= np.nanmin(across.mean) < np.nanmax(across.mean) <= high


def test_a_map_of_a_running_store_says_so(tmp_path):
    products = PRODUCTS["galactocentric"]
    path = write_products(tmp_path / "r.zarr", products, n_block=0)
    source = ProductsSource(path)
    with pytest.raises(SchemaError, match="mean of product midplane is not finished yet"):
        maps.slice_view(source, "midplane")
    path = write_products(tmp_path / "s.zarr", products[-1:], n_block=2)
    view = maps.slice_view(ProductsSource(path), "volume")
    assert "unfinished run" in view.notes
    assert np.isfinite(view.values).any()
    assert any("without a value" in note for note in view.notes)
    assert view.values.shape == SHAPE[1::-1]
