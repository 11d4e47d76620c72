import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import zarr
from astropy.io import fits
from astropy.table import Table
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from matplotlib.text import Text

from crdist.errors import RecipeError, SchemaError
from crdist.store import consolidate
from crdist_dashboards.celestial import SkyPlane
from crdist_dashboards.figures import figures
from crdist_dashboards.figures.layout import lay_out
from crdist_dashboards.figures.paper import FIGURES, Stores
from crdist_dashboards.products import ProductsSource
from crdist_dashboards.records import AxisLabel, Curve, MapView, Mark
from crdist_dashboards.render.matplotlib import AA, print_settings
from crdist_dashboards.scales import GREY, ColourScale
from crdist_dashboards.views.inference import InferenceSource
from crdist_dashboards.views.profiles import profile_view
from crdist_dashboards.views.sky import sky_view

from .test_inference_views import make_posterior
from .test_overview import make_products

MAPS = ("slice_z", "projection_z", "projection_y", "projection_x")
GAS = ("projection_z", "projection_y", "projection_x")


def make_all(path):
    """Products with all three projections and one of the solar neighbourhood."""
    make_products(path)
    group = zarr.open_group(str(path), mode="r+")

    def copy(name, target, across, up, axis, values=lambda v: v):
        source = group[name]
        new = group.create_group(target, attributes={**source.attrs.asdict(), "axis": axis})
        for item, array in source.members():
            dims = array.metadata.dimension_names
            if len(dims) == 2:
                new.create_array(
                    item, data=array[...], dimension_names=[across[0], up[0]], attributes=array.attrs.asdict()
                )
        for dim, places in (across, up):
            new.create_array(dim, data=places, dimension_names=[dim], attributes={"units": "kpc"})

    x, z = group["projection_y"]["x"][...], group["projection_y"]["z"][...]
    copy("projection_y", "projection_x", ("y", x), ("z", z), "x")
    near = np.linspace(-1.2, 1.2, x.size)
    copy("projection_z", "local_z", ("x", near - 8.178), ("y", near), "z")
    consolidate(path)
    return path


def copy_of(products, path, quantity):
    """The same numbers as another quantity."""
    shutil.copytree(products, path)
    zarr.open_group(str(path), mode="r+").attrs["quantity"] = quantity
    consolidate(path)
    return path


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    gas = {"name": "n_h", "units": "cm-3", "long_name": "hydrogen nuclei"}
    emission = {"name": "source", "units": "s-1 cm-3", "long_name": "gamma-ray source density"}
    products = make_all(folder / "c.zarr")
    return {
        "products": products,
        "gas": copy_of(products, folder / "gas.zarr", gas),
        "emission": copy_of(products, folder / "emission.zarr", emission),
        "magellanic": products,
        "posterior": make_posterior(folder / "p.zarr"),
    }


@pytest.fixture(scope="module")
def written(stores, tmp_path_factory):
    out, said = tmp_path_factory.mktemp("out") / "figures", []
    options = {name: path for name, path in stores.items() if name != "products"}
    return figures(stores["products"], out, **options, formats=("png",), dpi=40, say=said.append), said, out


@pytest.fixture(scope="module")
def pages(stores):
    """Every figure as matplotlib has it."""
    open_ = Stores(
        **{name: ProductsSource(path) for name, path in stores.items() if name != "posterior"},
        posterior=InferenceSource(stores["posterior"]),
    )
    widths = {"column": AA.column_mm, "middle": AA.middle_mm, "page": AA.page_mm}
    with print_settings():
        made = {number: make(open_) for number, make in FIGURES}
        return {number: (figure, lay_out(figure.rows, widths[figure.width])) for number, figure in made.items()}


def texts(figure):
    beyond = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            # ticks that lie beyond the axis are not drawn
            beyond |= {
                label
                for tick in axis.get_major_ticks()
                if not low - 1e-9 <= tick.get_loc() <= high + 1e-9
                for label in (tick.label1, tick.label2)
            }
    return [
        text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip() and text not in beyond
    ]


def bars_and_maps(page):
    """Pairs of a map's axes and those of its bar, in the order in which they were drawn."""
    axes = page.axes
    return [(axes[i], axes[i + 1]) for i in range(len(axes) - 1) if axes[i].images]


def test_every_figure_of_the_paper_is_written(written):
    files, said, out = written
    assert said == []
    names = {path.name for path in files}
    assert names == {path.name for path in out.iterdir()}
    numbers = {re.match(r"figure_0?(\w+?)_", name)[1] for name in names}
    assert numbers == {number for number, _ in FIGURES}
    assert {"figure_05_midplane.png", "figure_05_midplane.fits", "figure_05_midplane.txt"} <= names
    assert {"figure_11_radial.ecsv", "figure_11_radial_literature.ecsv"} <= names
    for path in files:
        if path.suffix == ".png":
            assert imread(path).std() > 0.05, path


@pytest.mark.parametrize("number", [number for number, _ in FIGURES])
def test_nothing_is_clipped_and_no_text_overlaps(number, pages):
    _, page = pages[number]
    renderer = page.canvas.get_renderer()
    page.canvas.draw()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts(page)]
    for text, box in boxes:
        if not any(axes.images and text in {mark.get_text() for mark in axes.texts} for axes in page.axes):
            assert page.bbox.x0 <= box.x0 < box.x1 <= page.bbox.x1, text
            assert page.bbox.y0 <= box.y0 < box.y1 <= page.bbox.y1, text
    for i, (text, first) in enumerate(boxes):
        for other, second in boxes[i + 1 :]:
            width = min(first.x1, second.x1) - max(first.x0, second.x0)
            height = min(first.y1, second.y1) - max(first.y0, second.y0)
            # labels at neighbouring ends of two axes touch
            assert min(width, height) < 0.6 * AA.small_pt, (text, other)


@pytest.mark.parametrize("number", ["1", "3", "4", "5", "6", "7", "8", "9", "10", "A2"])
def test_bars_end_where_the_scale_does_and_say_unit_and_statistic(number, pages):
    figure, page = pages[number]
    pairs = bars_and_maps(page)
    assert len(pairs) == len(figure.views)
    for (axes, bar), view in zip(pairs, figure.views, strict=True):
        assert bar.get_xlim() == pytest.approx(view.scale.bar)
        assert axes.images[0].get_clim() == pytest.approx(view.scale.bar)
        label = bar.get_xlabel().replace("\n", " ")
        assert view.statistic in label
        assert ("[" in label) == bool(view.units)
        for tick in bar.get_xticks():
            assert view.scale.bar[0] * 0.999 <= tick <= view.scale.bar[1] * 1.001 or view.scale.bar[0] < 0
        drawn = axes.images[0].get_array()
        np.testing.assert_array_equal(np.ma.getmaskarray(drawn), ~np.isfinite(view.values))


def test_each_map_says_what_it_is(pages):
    _, page = pages["6"]
    said = [text.get_text() for text in texts(page)]
    assert "Cosmic-ray density" in said
    assert sum("Integral along z" in text for text in said) == 3
    assert any("mean / std of 6 samples, each ± 32 %" in text.replace("\n", " ") for text in said)
    assert any("[10¹² cm⁻²]" in text for text in said)
    assert not any("$" in text for text in said)
    assert any("z stretched by 1.2" in text for text in said)


def test_profiles_are_drawn_with_all_they_hold(pages):
    figure, page = pages["11"]
    (axes,), (view,) = page.axes, figure.views
    legend = [text.get_text() for text in page.legends[0].get_texts()]
    assert {"mean of 6 samples", "each of 6 samples", "Acero+2016 (rings)", "Sun, R₀ = 8.178 kpc"} <= set(legend)
    drawn = [line.get_ydata() for line in axes.lines if len(line.get_xdata()) == view.x.size]
    factor = 10.0**view.power
    for i in range(view.n_sample):
        assert any(np.allclose(line, view.samples[:, i] / factor) for line in drawn)
    assert axes.get_xlim() == view.x_limits
    assert axes.get_ylim() == pytest.approx(tuple(limit / factor for limit in view.y_limits))
    assert "[10⁻⁹ cm⁻³]" in axes.get_ylabel()
    _, page = pages["12"]
    legend = [text.get_text().replace("\n", " ") for text in page.legends[0].get_texts()]
    assert any(text.startswith("fit n₀") and "H = " in text for text in legend)


def plain_map(**changes):
    values = np.linspace(1.0, 2.0, 100).reshape(10, 10).astype(np.float32)
    values[:3, :3] = np.nan
    given = {
        "title": "Slice",
        "statistic": "mean of 3 samples",
        "quantity": "density",
        "values": values,
        "extent": (0.0, 10.0, 0.0, 10.0),
        "across": AxisLabel("x", "x", "kpc"),
        "up": AxisLabel("y", "y", "kpc"),
        "units": "cm-3",
        "colours": "inferno",
        "scale": ColourScale(1.0, 2.0, "linear", 0, "neither"),
        **changes,
    }
    return MapView(**given)


def pixel(page, axes, x, y, path):
    with print_settings():
        page.savefig(path, dpi=100)
    image = imread(path)[..., :3]
    across, up = axes.transData.transform((x, y)) * 100 / page.dpi
    return image[image.shape[0] - 1 - int(up), int(across)]


def test_masked_is_grey_and_the_ends_have_their_colours(tmp_path):
    with print_settings():
        page = lay_out([[plain_map()]], 88.0)
    axes = page.axes[0]
    np.testing.assert_allclose(pixel(page, axes, 1.5, 1.5, tmp_path / "a.png"), to_rgb(GREY), atol=0.01)
    highest = colormaps["inferno"](1.0)[:3]
    np.testing.assert_allclose(pixel(page, axes, 9.5, 9.5, tmp_path / "a.png"), highest, atol=0.02)


@pytest.mark.parametrize("projection", ["mollweide", "gnomonic"])
def test_masked_sky_is_grey(projection, tmp_path):
    values = np.linspace(1.0, 2.0, 192)
    plane = SkyPlane(projection)
    cells, _ = plane.raster(10, 2, "nested")
    left, right, bottom, top = plane.extent
    column = cells.shape[1] // 2
    x, y = left + (column + 0.5) * (right - left) / cells.shape[1], bottom + 0.55 * (top - bottom)
    values[cells[5, column]] = np.nan
    view = sky_view(values, np.arange(192), 2, "nested", statistic="mean", projection=projection)
    with print_settings():
        page = lay_out([[view]], 88.0)
    found = pixel(page, page.axes[0], x, y, tmp_path / "a.png")
    np.testing.assert_allclose(found, to_rgb(GREY), atol=0.01)
    if projection == "mollweide":
        np.testing.assert_allclose(pixel(page, page.axes[0], 1.95, 0.9, tmp_path / "a.png"), 1.0, atol=0.01)


def test_marks_and_lines_are_dark_on_maps_of_differences():
    over = {
        "marks": (Mark("centre", 5.0, 5.0, ""),),
        "curves": (Curve("solar circle", np.arange(3.0), np.ones(3), ""),),
    }
    for colours, ink in (("RdBu_r", "black"), ("inferno", "white")):
        with print_settings():
            page = lay_out([[plain_map(colours=colours, **over)]], 88.0)
        assert {line.get_color() for line in page.axes[0].lines} == {ink}


def test_data_beside_a_map_are_what_is_drawn(written, pages):
    _, _, out = written
    view = pages["5"][0].views[1]
    with fits.open(out / "figure_05_midplane.fits") as parts:
        part = parts["PANEL2"]
        np.testing.assert_array_equal(part.data, view.values)
        header = part.header
        assert (header["BUNIT"], header["CUNIT1"], header["STATIST"]) == (
            "cm-3",
            "kpc",
            "standard deviation of 6 samples",
        )
        first = header["CRVAL1"] + (1 - header["CRPIX1"]) * header["CDELT1"]
        assert first == pytest.approx(-15.5)
    sky = pages["8"][0].views[0]
    with fits.open(out / "figure_08_sky.fits") as parts:
        np.testing.assert_array_equal(parts[1].data["VALUE"], sky.cells.values)
        assert (parts[1].header["ORDERING"], parts[1].header["NSIDE"]) == ("NESTED", 4)
    table = Table.read(out / "figure_11_radial.ecsv", format="ascii.ecsv")
    radial = pages["11"][0].views[0]
    np.testing.assert_array_equal(table["mean"], radial.mean)
    np.testing.assert_array_equal(table["sample_5"], radial.samples[:, 5])
    assert str(table["mean"].unit) == "1 / cm3"
    points = Table.read(out / "figure_11_radial_literature.ecsv", format="ascii.ecsv")
    assert len(points) == 36
    assert str(points["radius"].unit) == "kpc"


def test_text_says_what_and_whence(written):
    _, _, out = written
    text = (out / "figure_09_gas_contours.txt").read_text()
    assert text.startswith("Figure 9. Cosmic rays and gas\n")
    plain = " ".join(text.split())
    assert "Contours: hydrogen nuclei at " in plain
    assert "c.zarr: products of C [cm-3], 6 samples, complete; galactocentric frame, R0 = 8.178 kpc" in plain
    assert "gas.zarr: products of n_h" in plain
    assert str(out) not in text


def test_pdf_has_text_with_embedded_fonts_and_no_date(stores, tmp_path):
    files = figures(stores["products"], tmp_path, formats=("pdf", "svg"), only=("12",))
    pdf = (tmp_path / "figure_12_vertical.pdf").read_bytes()
    assert b"/CIDFontType2" in pdf
    assert b"/FontFile2" in pdf
    assert b"CreationDate" not in pdf
    svg = (tmp_path / "figure_12_vertical.svg").read_text()
    assert "each of 6 samples" in svg
    assert len(files) == 4
    width = float(re.search(rb"/MediaBox \[ 0 0 ([\d.]+)", pdf)[1])
    assert width / 72 * 25.4 == pytest.approx(88.0, abs=0.1)


def test_what_is_missing_is_one_line_each(tmp_path):
    products = make_products(tmp_path / "c.zarr", only=("slice_z", "projection_z"))
    said = []
    files = figures(products, tmp_path / "out", formats=("png",), dpi=40, say=said.append)
    assert {path.stem for path in files} == {"figure_05_midplane"}
    lines = dict(line.split(" is left out: ") for line in said)
    assert len(lines) == len(FIGURES) - 1
    assert lines["figure 1"].endswith("give --posterior")
    assert "no projection along y; add {kind: projection, axis: y} to the recipe's products" in lines["figure 6"]
    assert "no sky; add {kind: sky}" in lines["figure 8"]
    assert lines["figure 9"].endswith("compute one and give --gas")
    assert "no radial profile" in lines["figure 11"]
    assert all("\n" not in line for line in said)


def test_bad_input_is_one_line(tmp_path, stores):
    with pytest.raises(RecipeError, match="a format is one of pdf, png, svg, got 'gif'"):
        figures(stores["products"], tmp_path, formats=("gif",))
    with pytest.raises(RecipeError, match="a style is one of aa, got 'mnras'"):
        figures(stores["products"], tmp_path, style="mnras")
    with pytest.raises(RecipeError, match=r"a figure is one of 1, 2, .*, got '13'"):
        figures(stores["products"], tmp_path, only=("13",))
    with pytest.raises(SchemaError, match="no such store"):
        figures(tmp_path / "none.zarr", tmp_path)
    empty = make_products(tmp_path / "c.zarr", only=("sky",))
    with pytest.raises(SchemaError, match=r"holds nothing that any of the figures shows .*no slice across z"):
        figures(empty, tmp_path / "out", only=("5",), say=lambda line: None)
    assert not (tmp_path / "out").exists()


def test_command(stores, tmp_path):
    code = (
        "import typer; from crdist.commands.figures import figures; app = typer.Typer(); app.command()(figures); app()"
    )
    arguments = [str(stores["products"]), str(tmp_path / "out"), "--only", "11", "--format", "png", "--json"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert [path.rpartition("/")[2] for path in report["written"]] == [
        "figure_11_radial.png",
        "figure_11_radial.ecsv",
        "figure_11_radial_literature.ecsv",
        "figure_11_radial.txt",
    ]
    assert report["left_out"] == []


def test_nothing_is_drawn_on_a_log_axis_below_zero(stores):
    source = ProductsSource(stores["products"])
    view = profile_view(source, "radial", scale="log")
    with print_settings():
        page = lay_out([[view]], 88.0)
    (axes,) = page.axes
    assert axes.get_yscale() == "log"
    assert 0 < axes.get_ylim()[0] <= np.nanmin(view.samples)
    page.canvas.draw()
    ticks = [tick.get_text() for tick in axes.get_yticklabels()]
    assert any("10⁻" in tick for tick in ticks)
