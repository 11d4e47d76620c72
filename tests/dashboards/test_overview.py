import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from matplotlib.text import Text

from crdist.errors import RecipeError, SchemaError
from crdist.frames import Frame
from crdist.schema import PRODUCTS_SCHEMA, SCHEMA_VERSION
from crdist_dashboards.overview import overview_figure
from crdist_dashboards.scales import colour_scale, unicode_units
from crdist_dashboards.views.sky import sky_view
from crdist_inference.synthetic import cosmic_ray_density

N_SAMPLE = 6


def statistics(samples, units, dims, *, keep=False):
    mean, std = samples.mean(axis=-1), samples.std(axis=-1, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        significance = mean / std
    fields = {"mean": (mean, units), "std": (std, units), "significance": (significance, "")}
    fields["significance_error"] = (np.abs(significance) * np.sqrt(1 / (2 * (N_SAMPLE - 1))), "")
    variables = {
        name: (dims, values.astype(np.float32), {"units": unit, "long_name": name})
        for name, (values, unit) in fields.items()
    }
    if keep:
        variables["per_sample"] = ((*dims, "sample"), samples.astype(np.float32), {"units": units})
    return variables


def make_products(path, *, only=None, status="complete", drop=()):
    """A small products store of the cosmic-ray model on a coarse grid, in the Galactocentric frame."""
    rng = np.random.default_rng(1)
    factors = np.exp(rng.normal(0, 0.2, N_SAMPLE))
    frame = Frame()
    x = y = np.arange(-15.5, 16.0, 1.0)
    z = np.arange(-2.75, 3.0, 0.5)
    helio_x = x + frame.r0_kpc
    volume = cosmic_ray_density(helio_x[:, None, None], y[:, None], z)[..., None] * factors
    plane = cosmic_ray_density(helio_x[:, None], y, 0.0)[..., None] * factors
    plane[:4, :4] = np.nan
    xyz = {"x": ("x", x, {"units": "kpc"}), "y": ("y", y, {"units": "kpc"}), "z": ("z", z, {"units": "kpc"})}

    def coords(*names):
        return {name: xyz[name] for name in names}

    def product(variables, coordinates, **attrs):
        kept = {name: value for name, value in variables.items() if name not in drop}
        return xr.Dataset(kept, coords=coordinates, attrs={"long_name": "C", **attrs})

    cells = {"grid_name": "healpix", "level": 2, "indexing_scheme": "nested"}
    sky = rng.uniform(1, 100, 192)[:, None] * factors
    n0, height = 6e-10 * factors, rng.normal(4.0, 0.2, N_SAMPLE)
    vertical = n0 * np.maximum(1 - np.abs(z[:, None]) / height, 0)
    radius = np.arange(0.5, 16.0)
    radial = cosmic_ray_density(radius + frame.r0_kpc, 0.0, 0.0)[:, None] * factors
    edges = {"radius": radius, "radius_edges": ("radius_edge", np.arange(17.0))}
    column = volume.sum(axis=2) * 3.0857e21
    residual = {"mass_residual": ("sample", np.full(N_SAMPLE, 2e-4))}
    fit = {"fit_n0": ("sample", n0), "fit_height": ("sample", height)}
    tree = {
        "slice_z": product(statistics(plane, "cm-3", ("x", "y")), coords("x", "y"), kind="slice", axis="z", at_kpc=0.0),
        "projection_z": product(
            {**statistics(column, "cm-2", ("x", "y")), **residual},
            coords("x", "y"),
            kind="projection",
            axis="z",
        ),
        "projection_y": product(
            statistics(volume.sum(axis=1), "cm-2", ("x", "z")), coords("x", "z"), kind="projection", axis="y"
        ),
        "sky": product(statistics(sky, "cm-2", ("pixel",)), {"cell_ids": ("pixel", np.arange(192), cells)}, kind="sky"),
        "radial": product(statistics(radial, "cm-3", ("radius",), keep=True), edges, kind="radial"),
        "vertical": product(
            {**statistics(vertical, "cm-3", ("z",), keep=True), **fit},
            coords("z"),
            kind="vertical",
            ring_kpc=[8.0, 9.0],
        ),
    }
    root = xr.Dataset(
        attrs={
            "schema": PRODUCTS_SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "status": status,
            "quantity": {"name": "C", "units": "cm-3", "long_name": "cosmic-ray density"},
            "n_sample": N_SAMPLE,
            "frame": frame.to_dict(),
            "recipe": {},
            "provenance": {},
        }
    )
    chosen = {name: value for name, value in tree.items() if only is None or name in only}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        xr.DataTree.from_dict({"/": root, **chosen}).to_zarr(path, consolidated=True)
    return path


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    return make_products(tmp_path_factory.mktemp("products") / "c.zarr")


def draw(products, out):
    """Draw an overview and return the figure as well, for inspection."""
    from crdist_dashboards import overview

    figures, draw_figure = [], overview._draw

    def keep(*args):
        figures.append(draw_figure(*args))
        return figures[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overview, "_draw", keep)
        assert overview_figure(products, out, dpi=40) == out
    return figures[0]


@pytest.fixture(scope="module")
def whole(products, tmp_path_factory):
    out = tmp_path_factory.mktemp("figure") / "sub" / "overview.png"
    return draw(products, out), out


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible()]


def test_whole_figure(whole):
    figure, out = whole
    assert imread(out).std() > 0.1
    assert list(out.parent.iterdir()) == [out]
    said = texts(figure)
    titles = ["Slice z = 0 kpc", "Integral along z", "Integral along y", "Line of sight"]
    assert [said.count(title) for title in titles] == [3, 3, 3, 3]
    assert {"Radial profile", "Vertical profile, 8 ≤ R < 9 kpc"} <= set(said)
    labels = [axes.get_xlabel().replace("\n", " ") for axes in figure.axes]
    assert "standard deviation of 6 samples [10⁻¹⁰ cm⁻³]" in labels
    assert labels.count("mean / std of 6 samples, each ± 32 %") == 4
    assert any("R₀ = 8.178 kpc" in text for text in said)
    assert any("H = " in text and "kpc" in text for text in said)
    assert figure.axes[-1].get_yscale() == "linear"
    assert figure.axes[-1].get_ylabel() == "cosmic-ray density [10⁻¹⁰ cm⁻³]"
    assert any("native to Cartesian grid: 0.0002" in text.replace("\n", " ") for text in said)


def test_nothing_is_clipped_or_overlaps(whole):
    figure, _ = whole
    renderer = figure.canvas.get_renderer()
    boxes = [axes.get_tightbbox(renderer) for axes in figure.axes]
    boxes += [legend.get_window_extent(renderer) for legend in figure.legends]
    boxes += [text.get_window_extent(renderer) for text in figure.texts]
    page, point = figure.bbox, figure.dpi / 72
    for box in boxes:
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1
    for i, first in enumerate(boxes):
        for second in boxes[i + 1 :]:
            width = min(first.x1, second.x1) - max(first.x0, second.x0)
            height = min(first.y1, second.y1) - max(first.y0, second.y0)
            # a map's topmost tick label reaches to its colour bar
            assert min(width, height) < 3 * point, (first, second)


def test_marks_lie_where_the_frame_says(whole):
    face_on = whole[0].axes[0]
    places = {(line.get_marker(), *np.ravel(line.get_xydata())) for line in face_on.lines}
    assert ("+", 0.0, 0.0) in places
    assert ("o", -8.178, 0.0) in places
    circles = [line for line in face_on.lines if line.get_marker() == "None"]
    (circle,) = [line.get_xydata() for line in circles]
    np.testing.assert_allclose(np.hypot(*circle.T), 8.178)


def test_masked_voxels_are_masked_and_x_is_horizontal(products, whole):
    image = whole[0].axes[0].images[0]
    array = image.get_array()
    assert array.mask[:4, :4].all()
    assert array.mask.sum() == 16
    assert tuple(image.get_extent()) == (-16.0, 16.0, -16.0, 16.0)
    with xr.open_datatree(products, engine="zarr") as tree:
        expected = tree["slice_z"]["mean"].values.T[10, 20]
    # drawn in units of 1e-9 cm-3, which the bar says
    assert array[10, 20] * 1e-9 == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("only", [("radial",), ("sky",), ("projection_y", "vertical"), ("slice_z", "projection_z")])
def test_missing_products_are_left_out(only, tmp_path):
    products = make_products(tmp_path / "c.zarr", only=only, status="running")
    figure = draw(products, tmp_path / "overview.png")
    n_map = sum(name not in ("radial", "vertical") for name in only)
    # each map has a colour bar
    assert len(figure.axes) == 6 * n_map + (len(only) - n_map)
    assert any("unfinished run" in text for text in texts(figure))


def test_profiles_without_samples_have_bands_from_std(tmp_path):
    products = make_products(tmp_path / "c.zarr", only=("radial",), drop=("per_sample", "significance"))
    figure = draw(products, tmp_path / "overview.png")
    assert {"mean ± std", "mean ± 2 std"} <= set(texts(figure))


def test_a_statistic_that_is_missing_is_named(tmp_path):
    products = make_products(tmp_path / "c.zarr", only=("slice_z", "sky"), drop=("significance", "significance_error"))
    figure = draw(products, tmp_path / "overview.png")
    assert len(figure.axes) == 8
    foot = figure.texts[2].get_text().replace("\n", " ")
    assert foot.endswith("Not in the store: significance of slice_z, significance of sky.")


def test_a_map_without_any_value_gives_way_to_the_next(tmp_path):
    products = make_products(tmp_path / "c.zarr", only=("slice_z", "projection_y"), status="running")
    group = zarr.open_group(str(products), mode="r+")
    group["slice_z/mean"][:] = np.nan
    figure = draw(products, tmp_path / "overview.png")
    assert "Integral along y" in texts(figure)
    assert "Slice z = 0 kpc" not in texts(figure)


@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_vector_formats(suffix, start, tmp_path):
    products = make_products(tmp_path / "c.zarr", only=("slice_z",))
    out = overview_figure(products, tmp_path / f"overview{suffix}", dpi=40)
    assert out.read_bytes().startswith(start)


def test_bad_input_is_one_line(tmp_path):
    with pytest.raises(RecipeError, match=r"a figure is one of \.png, \.svg, \.pdf, got '\.gif'"):
        overview_figure(tmp_path, tmp_path / "overview.gif")
    with pytest.raises(SchemaError, match="no such store"):
        overview_figure(tmp_path / "none.zarr", tmp_path / "overview.png")
    empty = make_products(tmp_path / "c.zarr", only=())
    with pytest.raises(SchemaError, match="holds no finished map or profile"):
        overview_figure(empty, tmp_path / "overview.png")


def test_import_does_not_load_matplotlib():
    code = "import sys, crdist_dashboards.overview; sys.exit(bool({'matplotlib', 'xarray'} & set(sys.modules)))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0


def test_sky_has_longitude_increasing_to_the_left():
    import healpy

    level = 4
    cells = np.arange(12 * 4**level)
    longitude, latitude = healpy.pix2ang(2**level, cells, nest=True, lonlat=True)

    def raster(values, cells):
        view = sky_view(values, cells, level, "nested", statistic="mean", n_row=100)
        return np.where(view.inside, view.values, np.nan)

    middle = raster(longitude, cells)[50]
    assert middle[60] == pytest.approx(180 * (100 - 60.5) / 100, abs=4)
    assert middle[140] == pytest.approx(360 - 180 * 40.5 / 100, abs=4)
    up = raster(latitude, cells)
    assert up[95, 100] > 60
    assert np.isnan(up[0, 0])
    assert 0 < np.isfinite(raster(latitude[:5], cells[:5])).sum() < 50


@settings(max_examples=50, deadline=None)
@given(
    scale=st.floats(-20, 25),
    decades=st.floats(0.0, 8.0),
    n_zero=st.integers(0, 50),
    n_nan=st.integers(0, 50),
)
def test_colour_scale_covers_the_data(scale, decades, n_zero, n_nan):
    values = np.concatenate(
        [np.geomspace(10.0**scale, 10.0 ** (scale + decades), 500), np.zeros(n_zero), np.full(n_nan, np.nan)]
    )
    chosen = colour_scale(values)
    assert chosen.low < chosen.high
    assert chosen.kind == "linear" or chosen.low > 0
    drawn = chosen.drawn(values)
    # what has no value stays masked, and a zero is a value
    assert drawn.mask.sum() == n_nan
    inside = np.nanmean((values >= chosen.low) & (values <= chosen.high)) * values.size / (500 + n_zero)
    assert chosen.kind == "log" or inside > 0.97
    top = chosen.high / 10.0**chosen.power
    assert chosen.kind == "log" or 0.009 < top < 1.1e4


def test_units_read_well():
    assert unicode_units("GeV-1 cm-2") == "GeV⁻¹ cm⁻²"
    assert unicode_units("") == ""
    assert unicode_units("E/pc") == "E/pc"
