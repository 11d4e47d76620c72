"""Two stores side by side: which projection goes with which, each with its own scale and unit."""

import dataclasses

import numpy as np
import pytest

from crdist.errors import SchemaError
from crdist.frames import Frame
from crdist_dashboards.app.page import Page
from crdist_dashboards.app.stores import Stores
from crdist_dashboards.products import ProductsSource
from crdist_dashboards.views.beside import side_by_side
from written import products_of, write_products

KEPT = [item for item in products_of(Frame()) if item.name.startswith("projection")]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beside")
    gas = [
        dataclasses.replace(
            item, quantity=dataclasses.replace(item.quantity, name="n_h", units="cm-3", long_name="hydrogen nuclei")
        )
        for item in KEPT
    ]
    return {
        "source": write_products(folder / "source.zarr", KEPT),
        "gas": write_products(folder / "gas.zarr", gas, seed=7),
        "tilted": write_products(folder / "tilted.zarr", products_of(Frame(name="heliocentric"))[:3]),
    }


def test_both_are_shown_as_they_are_stored(stores):
    a, b = (ProductsSource(stores[name]) for name in ("source", "gas"))
    (product,) = (item.name for item in a.products if item.axis == "y")
    for statistic in ("mean", "std"):
        first, second = side_by_side(a, b, product, statistic)
        np.testing.assert_array_equal(first.values, a.read(product, statistic).T)
        np.testing.assert_array_equal(second.values, b.read(product, statistic).T)
        assert second.title.startswith("Hydrogen nuclei\nIntegral along y")
        assert first.axis == second.axis == "y"
        assert first.scale != second.scale


def test_what_does_not_fit_is_refused(stores):
    source, tilted = (ProductsSource(stores[name]) for name in ("source", "tilted"))
    product = source.products[0].name
    with pytest.raises(SchemaError, match="make both in one"):
        side_by_side(source, tilted, product)
    with pytest.raises(SchemaError, match="is a slice, expected a projection"):
        side_by_side(tilted, source, "midplane")


def test_the_tab_draws_both_and_the_same_line_through_them(stores):
    page = Page(Stores((stores["source"], stores["gas"])), "tab=beside")
    tab = page.tabs["beside"]
    assert not tab._message.visible, tab._message.object
    first, second = (live.view for live in tab.triptych.maps)
    assert (first.quantity, second.quantity) != (second.quantity, first.quantity)
    page.state.param.update(x=1.5, y=-2.0)
    across, other = (profile.view for profile in tab.triptych.profiles)
    assert across.across.name == other.across.name == first.across.name
    assert other.quantity == "hydrogen nuclei"
    page.state.statistic = "std"
    assert "standard deviation" in tab.triptych.maps[1].view.statistic
    read = tab._value(1.5, -2.0)
    assert read.startswith("source: ")
    assert "\ngas: " in read


def test_a_page_opens_at_a_tab_that_has_something_to_show(stores):
    assert Page(Stores((stores["source"],))).state.tab == "projections"
    assert "beside" not in Page(Stores((stores["source"],))).tabs
    assert Page(Stores((stores["source"],)), "tab=slices").state.tab == "slices"
