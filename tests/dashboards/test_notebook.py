import re
import shutil
from pathlib import Path

import holoviews as hv
import numpy as np
import pytest
import xarray as xr
from bokeh.models import ColorMapper

import crdist
from crdist.errors import SchemaError
from crdist.store import consolidate
from crdist_dashboards.notebook import ProductPlots
from crdist_dashboards.scales import colour_scale
from galaxies import small_posterior
from served import make_store

from .test_inference_views import make_posterior
from .test_overview import make_products

DOCS = Path(__file__).parents[2] / "docs" / "notebooks.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    make_products(folder / "products.zarr")
    make_products(folder / "other.zarr")
    make_posterior(folder / "posterior.zarr")
    return folder


@pytest.fixture(scope="module")
def tree(folder):
    with crdist.open_products(folder / "products.zarr") as tree:
        yield tree


def render(drawn):
    """What a notebook does with it, but for the browser."""
    return hv.renderer("bokeh").get_plot(drawn).state


def image_of(overlay):
    (image,) = overlay.traverse(lambda found: found, [hv.Image])
    return image


def test_a_slice_has_the_store_s_values_and_the_dashboard_s_scale(tree):
    drawn = tree.crdist.plot.slice("slice_z", "mean")
    values = tree["slice_z"]["mean"].transpose("y", "x").values
    scale = colour_scale(values)
    image = image_of(drawn)
    shown = np.flipud(image.dimension_values(2, flat=False)) * 10.0**scale.power
    np.testing.assert_allclose(np.flipud(shown), values, rtol=1e-5)
    (mapper,) = {mapper.id: mapper for mapper in render(drawn).select({"type": ColorMapper})}.values()
    assert (mapper.low, mapper.high) == scale.bar


def test_the_kind_of_a_method_chooses_the_product_and_a_node_is_one(tree):
    by_kind = image_of(tree.crdist.plot.slice())
    of_node = image_of(tree["slice_z"].crdist.plot.slice())
    np.testing.assert_array_equal(by_kind.dimension_values(2), of_node.dimension_values(2))
    assert tree["radial"].crdist.plot.profile(literature=False)
    with pytest.raises(SchemaError, match="radial"):
        tree["radial"].crdist.plot.slice()


def test_every_view_is_drawn(tree, folder):
    plot = tree.crdist.plot
    for drawn in (
        plot.projection("projection_z", "std"),
        plot.sky(projection="gnomonic", centre=(0.0, 0.0)),
        plot.profile("vertical"),
        plot.triptych("projection_y"),
        plot.compare(folder / "other.zarr", "slice_z"),
    ):
        assert render(drawn) is not None


def test_samples_are_on_one_scale(tmp_path):
    plot = ProductPlots(make_store(tmp_path / "s.zarr"))
    drawn = plot.samples("midplane")
    assert len(drawn) == 6
    bars = {(mapper.low, mapper.high) for mapper in render(drawn).select({"type": ColorMapper})}
    assert len(bars) == 1
    assert render(plot.sample(2, "midplane", difference=True)) is not None


def test_views_compose(tree):
    both = tree.crdist.plot.slice() + tree.crdist.plot.profile()
    assert isinstance(both, hv.Layout)
    assert len(both) == 2
    assert render(both) is not None
    assert len(tree.crdist.plot.triptych("slice_z")) == 3


def test_an_inference_is_drawn(folder):
    plot = crdist.open_posterior(folder / "posterior.zarr").crdist.plot
    for drawn in (plot.sky("residual"), plot.slice("mean"), plot.course()):
        assert render(drawn) is not None


def test_nothing_is_computed_by_dask(tree):
    import dask

    def refuse(*_, **__):
        raise AssertionError("dask computed something")

    with dask.config.set(scheduler=refuse):
        tree.crdist.plot.slice("slice_z", "significance")
        tree.crdist.plot.profile("radial")


def test_what_has_no_store_says_so(tree, tmp_path):
    with pytest.raises(SchemaError, match="this DataTree does not know the store that it comes from"):
        _ = xr.DataTree(xr.Dataset()).crdist.plot
    with pytest.raises(SchemaError, match="this Dataset does not know the store"):
        _ = xr.Dataset().crdist.path
    only = crdist.open_products(make_products(tmp_path / "slice.zarr", only={"slice_z"}))
    with pytest.raises(SchemaError, match="no product of kind sky"):
        only.crdist.plot.sky()
    small_posterior(tmp_path / "p.zarr")
    with pytest.raises(SchemaError, match="inference"):
        _ = crdist.open_posterior(tmp_path / "p.zarr").crdist.plot


def test_the_page_s_code_runs(folder, tmp_path, monkeypatch):
    # as the default recipe calls its slice
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for store in ("products.zarr", "other.zarr"):
        (tmp_path / store / "slice_z").rename(tmp_path / store / "midplane")
        consolidate(tmp_path / store)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    exec("\n".join(blocks), {})
