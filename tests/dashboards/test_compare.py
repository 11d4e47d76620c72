"""Two stores compared: a difference that is known, grids that differ, and what is refused."""

import dataclasses

import numpy as np
import pytest

from crdist.errors import SchemaError
from crdist.frames import Frame
from crdist.grids import Axis, CartesianGrid
from crdist_dashboards.products import GridAxis, ProductsSource
from crdist_dashboards.views.compare import _neighbours, comparison
from written import products_of, values_of, write_products

PRODUCTS = products_of(Frame())
KEPT = [item for item in PRODUCTS if item.name in ("midplane", "projection_y", "volume")]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    fine = products_of(Frame(), shape=(80, 60, 24))[:1]
    return {
        "a": ProductsSource(write_products(folder / "a.zarr", KEPT)),
        "b": ProductsSource(write_products(folder / "b.zarr", KEPT, seed=7)),
        "fine": ProductsSource(write_products(folder / "fine.zarr", fine, seed=7)),
    }


@pytest.mark.parametrize(
    ("product", "axis", "index"), [("midplane", None, None), ("projection_y", None, None), ("volume", "z", 14)]
)
def test_the_difference_is_in_standard_deviations(stores, product, axis, index):
    (made,) = (item for item in KEPT if item.name == product)
    a, b = (values_of(made, seed) for seed in (1, 7))
    at = None
    if axis:
        a, b = a[:, :, index], b[:, :, index]
        at = stores["a"].info(product).grid_axis(axis).centres[index]
    first, second, sigma = comparison(stores["a"], stores["b"], product, axis=axis, at_kpc=at)
    expected = (a.mean(-1) - b.mean(-1)) / np.hypot(a.std(-1, ddof=1), b.std(-1, ddof=1))
    np.testing.assert_allclose(sigma.values, expected.T, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(second.values, b.mean(-1).T, rtol=1e-5)
    assert first.scale == second.scale
    assert sigma.scale.low == -sigma.scale.high
    assert first.title.startswith("a: ")
    assert second.title.startswith("b: ")
    assert "6 and 6 samples" in sigma.statistic
    assert not any("interpolated" in note for note in sigma.notes)
    assert any("independent" in note for note in sigma.notes)


def test_swapping_the_stores_changes_the_sign(stores):
    forward, backward = (comparison(stores[i], stores[j], "midplane")[2] for i, j in ("ab", "ba"))
    np.testing.assert_allclose(forward.values, -backward.values, rtol=1e-6)


def test_another_grid_is_interpolated_and_said_to_be(stores):
    _, second, sigma = comparison(stores["a"], stores["fine"], "midplane")
    assert any("interpolated bilinearly" in note for note in sigma.notes)
    assert sigma.values.shape == (40, 40)
    same_places = comparison(stores["a"], stores["b"], "midplane")[1]
    both = np.isfinite(second.values) & np.isfinite(same_places.values)
    assert both.mean() > 0.4
    # the field bends by a few per cent over the finer grid's voxels of 0.5 and 0.67 kpc
    np.testing.assert_allclose(second.values[both], same_places.values[both], rtol=0.06)


def test_bilinear_weights_are_exact_for_planes_and_end_at_the_edges():
    axis = GridAxis("x", 8, -2.0, 2.0)
    places = np.array([-2.0, -1.75, -1.2, 0.0, 1.99, 2.0])
    (below, above), (left, right) = _neighbours(axis, places)
    np.testing.assert_allclose(left + right, 1.0)
    inner = left * axis.centres[below] + right * axis.centres[above]
    np.testing.assert_allclose(inner, np.clip(places, -1.75, 1.75), atol=1e-12)
    outside = _neighbours(axis, np.array([-2.1, 2.1]))[1]
    assert np.isnan(outside).all()


def test_what_cannot_be_compared_is_refused(stores, tmp_path):
    slice_map = KEPT[0]
    helio = products_of(Frame(name="heliocentric"))[:1]
    units = dataclasses.replace(slice_map, quantity=dataclasses.replace(slice_map.quantity, units="GeV-1 cm-3"))
    grid = slice_map.grid
    high = dataclasses.replace(slice_map, grid=CartesianGrid(grid.x, grid.y, Axis(0.9, 1.1, 1), grid.frame))
    shorter = products_of(Frame(), shape=(40, 20, 24))[2]
    y = Axis(-10.0, 10.0, 20)
    shorter = dataclasses.replace(shorter, grid=CartesianGrid(shorter.grid.x, y, shorter.grid.z, Frame()))
    for number, (products, product, match) in enumerate(
        [
            (helio, "midplane", "frames .* differ"),
            ([units], "midplane", "units 'cm-3' and 'GeV-1 cm-3' differ"),
            ([high], "midplane", "lies at z = 0 and 1 kpc"),
            ([shorter], "projection_y", "integrated over y"),
            ([shorter], "midplane", "no product 'midplane'"),
        ]
    ):
        other = ProductsSource(write_products(tmp_path / f"{number}.zarr", products))
        with pytest.raises(SchemaError, match=match) as caught:
            comparison(stores["a"], other, product)
        assert "\n" not in str(caught.value)


def test_between_two_layers_the_second_is_interpolated_linearly(stores, tmp_path):
    volume = KEPT[2]
    z = volume.grid.z
    # half a voxel higher: its layers lie at the edges of the first's
    half = (z.upper_kpc - z.lower_kpc) / z.n / 2
    grid = CartesianGrid(volume.grid.x, volume.grid.y, Axis(z.lower_kpc + half, z.upper_kpc + half, z.n), Frame())
    shifted = ProductsSource(write_products(tmp_path / "s.zarr", [dataclasses.replace(volume, grid=grid)], seed=7))
    at = stores["a"].info("volume").grid_axis("z").centres[10]
    _, second, sigma = comparison(stores["a"], shifted, "volume", axis="z", at_kpc=at)
    below, above = (shifted.read("volume", "mean", z=index) for index in (9, 10))
    np.testing.assert_allclose(second.values, 0.5 * (below + above).T, rtol=1e-5)
    assert any("interpolated linearly between its layers at z = " in note for note in sigma.notes)
