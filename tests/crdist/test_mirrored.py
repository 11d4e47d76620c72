"""Degrees of freedom of samples that come in mirrored pairs, and what products make of them."""

import numpy as np
import pytest
import zarr

import crdist
from crdist.grids import SphericalGrid
from crdist.mirrored import degrees_of_freedom
from crdist.schema import read_posterior_header
from crdist.store import consolidate
from crdist_dashboards.products import ProductsSource
from crdist_dashboards.views.maps import slice_view
from crdist_postproc.plan import Workers
from crdist_postproc.recipe import Recipe
from crdist_postproc.statistics import significance_and_error
from galaxies import smooth_samples, write_posterior

GRID = SphericalGrid.log_spaced(4, 8, 0.3, 12.0)
RECIPE = Recipe.from_mapping(
    {
        "grid": {"x": [-12, -4], "y": [-4, 4], "z": [-1, 1], "voxel": 0.5},
        "products": [
            "midplane",
            {"kind": "volume", "name": "volume"},
            {"name": "volumes", "kind": "volume", "per_sample": True},
        ],
    }
)


def inferred(path, n_sample, draws, pairs):
    """A posterior that says which of its samples belong together."""
    write_posterior(path, GRID, smooth_samples(GRID, n_sample))
    group = zarr.open_group(str(path), mode="r+").create_group("inference")
    for name, labels in (("draw", draws), ("pair", pairs)):
        group.create_array(name, data=np.array(labels, dtype=np.int64), dimension_names=("sample",))
    consolidate(path)
    return path


@pytest.mark.parametrize(
    ("draws", "pairs", "expected"),
    [
        ([0] * 8, [0, 0, 1, 1, 2, 2, 3, 3], 4),
        ([0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0, 1, 1], 4),
        ([0] * 8, [0, 1, 2, 3, 4, 5, 6, 7], 7),
    ],
)
def test_pairs_count_once(tmp_path, draws, pairs, expected):
    path = inferred(tmp_path / "p.zarr", 8, draws, pairs)
    assert degrees_of_freedom(read_posterior_header(path)) == expected


def test_samples_of_a_map_are_independent(tmp_path):
    write_posterior(tmp_path / "p.zarr", GRID, smooth_samples(GRID, 5))
    assert degrees_of_freedom(read_posterior_header(tmp_path / "p.zarr")) == 4


def test_the_error_is_what_significances_of_mirrored_pairs_scatter_by(rng):
    deviations = rng.standard_normal((100_000, 6))
    samples = np.concatenate([10 + deviations, 10 - deviations], axis=1)
    mean, std = samples.mean(axis=1), samples.std(axis=1, ddof=1)
    scatter = (mean / std).std()
    _, paired = significance_and_error(mean, std, 12, 6)
    _, independent = significance_and_error(mean, std, 12)
    assert np.sqrt(np.mean(paired**2)) == pytest.approx(scatter, rel=0.1)
    assert np.sqrt(np.mean(independent**2)) < 0.75 * scatter


def test_products_and_their_views_know_it(tmp_path):
    posterior = inferred(tmp_path / "p.zarr", 12, [0] * 12, np.repeat(np.arange(6), 2))
    crdist.run_products(posterior, tmp_path / "o.zarr", RECIPE, workers=Workers(1, 2, 2 * 1024**3))
    tree = crdist.open_products(tmp_path / "o.zarr")
    for name in ("midplane", "volume", "volumes"):
        product = tree[name]
        assert product.attrs["degrees_of_freedom"] == 6
        expected = significance_and_error(product["mean"].to_numpy(), product["std"].to_numpy(), 12, 6)[1]
        np.testing.assert_allclose(product["significance_error"], expected, rtol=1e-4)
        assert "12 samples with 6 degrees of freedom" in product["significance_error"].attrs["long_name"]
    source = ProductsSource(tmp_path / "o.zarr")
    labels = {slice_view(source, name, "significance").statistic for name in ("midplane", "volume")}
    assert all("each ±" in label for label in labels)
    assert len(labels) == 1
