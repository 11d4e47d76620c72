import numpy as np
import pytest
from bokeh.core.serialization import Serializer
from bokeh.document import Document
from bokeh.models import LinearColorMapper, LogColorMapper

from crdist_dashboards.app.live import OUTSIDE, LiveMap, bar_ticks
from crdist_dashboards.app.live_mosaic import LiveMosaic
from crdist_dashboards.app.live_profile import LiveProfile, power_shown
from crdist_dashboards.products import ProductsSource
from crdist_dashboards.render.holoviews import to_holoviews
from crdist_dashboards.scales import GREY, MASKED, ColourScale, palette, unicode_units
from crdist_dashboards.views import maps, samples, sky
from crdist_dashboards.views.profiles import profile_view
from served import make_store


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return ProductsSource(make_store(tmp_path_factory.mktemp("live") / "n30.zarr"))


def check_bar(live, view):
    """The bar that is seen has the ends, the colours and the kind that the image is encoded with."""
    (bar,) = [bar for bar in live.bars.values() if bar.visible]
    low, high = view.scale.bar
    assert isinstance(bar.color_mapper, LogColorMapper if view.scale.kind == "log" else LinearColorMapper)
    assert (bar.color_mapper.low, bar.color_mapper.high) == (low, high)
    assert tuple(bar.color_mapper.palette) == palette(view.colours)[:MASKED]
    ends = np.array([low, high]) * 10.0**view.scale.power
    assert list(view.scale.encode(ends)) == [0, MASKED - 1]
    assert live.mapper.palette[MASKED] == GREY
    if view.scale.kind == "log":
        assert all(low <= tick <= high for tick in bar.ticker.ticks)


@pytest.mark.parametrize("scale", ["linear", "log", "auto"])
def test_bar_follows_every_statistic(source, scale):
    live = LiveMap()
    for statistic in ("mean", "std", "significance", "mean"):
        view = maps.slice_view(source, "midplane", statistic, scale=scale)
        live.show(view)
        check_bar(live, view)
        np.testing.assert_array_equal(live.image.data["image"][0], view.scale.encode(view.values))
        assert statistic == "significance" or "cm⁻³" in next(bar for bar in live.bars.values() if bar.visible).title


def test_masked_voxels_are_grey(source):
    live = LiveMap()
    view = maps.slice_view(source, "midplane")
    live.show(view)
    levels = live.image.data["image"][0]
    assert 0 < np.isnan(view.values).sum() == (levels == MASKED).sum()
    assert live.mapper.palette[MASKED] == GREY


def test_another_plane_is_one_patch_of_a_byte_a_voxel(source):
    live, document = LiveMap(), Document()
    document.add_root(live.figure)
    live.show(maps.slice_view(source, "volume", at_kpc=0.25))
    events = []
    document.on_change(events.append)
    view = maps.slice_view(source, "volume", at_kpc=-0.25)
    live.show(view)
    sizes = []
    for event in events:
        serializer = Serializer()
        serializer.encode(event)
        sizes.append(sum(len(buffer.to_bytes()) for buffer in serializer.buffers))
    assert sorted(sizes)[-1] == view.values.size
    assert sum(sizes) == view.values.size
    assert len(events) <= 4


def test_the_same_again_sends_the_image_only(source):
    live, document = LiveMap(), Document()
    document.add_root(live.figure)
    view = maps.slice_view(source, "midplane")
    live.show(view)
    events = []
    document.on_change(events.append)
    live.show(view)
    assert len(events) == 1


def test_sky_has_nothing_outside_and_grey_inside(source):
    live = LiveMap()
    view = sky.product_sky(source, "sky")
    live.show(view)
    levels = live.image.data["image"][0]
    assert (levels[~view.inside] == OUTSIDE).all()
    assert (levels[view.inside] != OUTSIDE).all()
    assert live.mapper.palette[OUTSIDE] == "#00000000"
    assert (levels == MASKED).sum() == (np.isnan(view.values) & view.inside).sum() > 0
    assert not any(axis.visible for axis in live.figure.axis)


def test_a_map_after_a_sky_has_its_colours_and_axes_again(source):
    live = LiveMap()
    live.show(sky.product_sky(source, "sky"))
    view = maps.slice_view(source, "midplane")
    live.show(view)
    check_bar(live, view)
    assert tuple(live.mapper.palette) == palette(view.colours)
    assert all(axis.visible for axis in live.figure.axis)


@pytest.mark.parametrize("decades", [0.3, 1.0, 2.5, 6.0])
def test_ticks_of_a_logarithmic_bar_say_where_they_stand(decades):
    scale = ColourScale(3e-15, 3e-15 * 10**decades, "log", 0, "neither")
    ticks = bar_ticks(scale)
    assert 2 <= len(ticks) <= 12
    to_digits = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    for place, label in ticks:
        digits, _, power = label.rpartition("10")
        assert float(digits.rstrip("×") or 1) * 10.0 ** int(power.translate(to_digits)) == pytest.approx(
            place, rel=0.06
        )


def test_profile_keeps_its_figure_and_gets_new_values(source):
    live = LiveProfile()
    first, second = maps.crosshair(source, "midplane", 0.0, 0.0)
    live.show(first)
    figure = live.figure
    live.show(maps.crosshair(source, "midplane", 3.0, 2.0)[0])
    if live.view.up_kind == first.up_kind:
        assert live.figure is figure
    live.show(second)
    factor = 10.0 ** power_shown(second)
    drawn = live._sources["mean"].data["y"]
    np.testing.assert_allclose(drawn, second.mean / factor)
    assert live.figure.y_range.start == pytest.approx(second.y_limits[0] / factor)
    assert len(live._sources["samples"].data["xs"]) == second.n_sample


def test_a_logarithmic_profile_has_short_numbers_that_differ(source):
    view = profile_view(source, "radial", scale="log", literature=False)
    assert view.up_kind == "log"
    live = LiveProfile()
    live.show(view)
    axis = live.figure.yaxis[0]
    labels = list(axis.major_label_overrides.values())
    assert len(labels) == len(set(labels)) >= 2
    assert max(map(len, labels)) <= 4
    assert axis.axis_label.endswith(f"[{unicode_units('GeV-1 cm-3', power_shown(view))}]")
    low, high = np.array(view.y_limits) / 10.0 ** power_shown(view)
    assert all(low <= place <= high for place in axis.ticker.ticks)


@pytest.mark.parametrize("literature", [False, True])
def test_a_legend_stands_beside_the_curves(source, literature):
    live = LiveProfile()
    live.show(profile_view(source, "radial", literature=literature))
    (legend,) = live.figure.legend
    assert legend not in live.figure.center
    assert legend in (live.figure.right if legend.orientation == "vertical" else live.figure.above)
    assert legend.orientation == "vertical" or not literature


def test_maps_of_one_plane_send_what_is_over_them_once(source):
    first = LiveMap()
    second = LiveMap(**first.ranges, over=first)
    for live, statistic in ((first, "mean"), (second, "std")):
        live.show(maps.slice_view(source, "midplane", statistic))
    sources = [{renderer.data_source.id for renderer in live.figure.renderers} for live in (first, second)]
    shared = sources[0] & sources[1]
    assert {first._curves.id, first._marks.id} <= shared
    assert first.image.id not in shared
    assert len(first._curves.data["xs"]) == len(first.view.curves) > 0
    assert len(first._marks.data["x"]) == len(first.view.marks) > 0


def test_mosaic_is_encoded_with_the_common_scale_and_finds_what_is_tapped(source):
    tapped = []
    live = LiveMosaic(on_tap=tapped.append)
    views = samples.small_multiples(source, "midplane")
    live.show(views)
    for i, view in enumerate(views):
        np.testing.assert_array_equal(live.image.data["image"][i], views[0].scale.encode(view.values))
    place = live._places[4]
    live._tapped(type("Tap", (), {"x": (place[0] + place[1]) / 2, "y": (place[2] + place[3]) / 2}))
    assert tapped == [4]


def test_holoviews_objects_have_the_same_limits_and_values(source):
    import holoviews as hv

    view = maps.slice_view(source, "midplane", "std")
    overlay = to_holoviews(view)
    image = next(iter(overlay))
    np.testing.assert_allclose(
        image.dimension_values(2, flat=False), view.values / 10.0**view.scale.power, rtol=1e-6, equal_nan=True
    )
    assert hv.Store.lookup_options("bokeh", image, "plot").kwargs["clim"] == view.scale.bar
    figure = hv.render(overlay, backend="bokeh")
    assert {figure.xaxis[0].axis_label, figure.yaxis[0].axis_label} == {"x (kpc)", "y (kpc)"}


def test_holoviews_bands_lie_between_their_edges(source):
    import holoviews as hv

    view = profile_view(source, "radial")
    figure = hv.render(to_holoviews(view), backend="bokeh")
    drawn = np.concatenate(
        [renderer.data_source.data["y"] for renderer in figure.renderers if "y" in renderer.data_source.data]
    )
    factor = 10.0**view.power
    assert drawn.min() == pytest.approx(view.bands[0].lower.min() / factor)
    assert drawn.max() == pytest.approx(view.bands[0].upper.max() / factor)
