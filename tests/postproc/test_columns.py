"""Profiles of samples that are read in parts are those of samples that are held whole."""

import dask
import numpy as np
import pytest

import crdist
from crdist.frames import Frame
from crdist.grids import SphericalGrid
from crdist_postproc.analysis import columns
from crdist_postproc.analysis.columns import column_sums
from crdist_postproc.parts import FieldInParts
from crdist_postproc.products.base import Quantity
from crdist_postproc.products.profiles import RadialMean, VerticalMean
from galaxies import smooth_samples, write_posterior

FRAME = Frame(r0_kpc=8.3, z_sun_kpc=0.02, roll_deg=1.0)
GRID = SphericalGrid.log_spaced(8, 24, 0.05, 12.0)
COMMON = {
    "quantity": Quantity("density", "cm-3", "number density", 3),
    "frame": FRAME,
    "voxel_kpc": (0.5, 0.5, 0.25),
}
PRODUCTS = [
    RadialMean(**COMMON, name="radial", radii_kpc=tuple(np.arange(0.0, 24.0, 2.0)), heights_kpc=(-0.3, 0.3)),
    VerticalMean(**COMMON, name="vertical", radii_kpc=(8.0, 9.0), heights_kpc=tuple(np.arange(-2.0, 2.1, 0.5))),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("columns") / "p.zarr"
    samples = smooth_samples(GRID, 3)
    samples[7, 5] = np.nan
    write_posterior(path, GRID, samples)
    return path


@pytest.fixture
def density(store):
    samples = crdist.open_posterior(store)["density"]
    # not the coordinates, which tell the grid
    return samples.copy(data=samples.data.rechunk((16, 4, 3)))


def means(product, density):
    return product.means(dask.compute(*column_sums(product, density)))


@pytest.mark.parametrize("product", PRODUCTS, ids=["radial", "vertical"])
def test_parts_make_the_whole(density, product, monkeypatch):
    expected, coverage = means(product, density)
    held = []
    filled = FieldInParts.filled

    def watched(self, wanted, **options):
        held.append(int(wanted.sum()))
        return filled(self, wanted, **options)

    monkeypatch.setattr(FieldInParts, "filled", watched)
    with dask.config.set({"crdist.tile-memory": "200 kB"}, scheduler="synchronous"):
        found, found_coverage = means(product, density)
    n_chunk = density.data.numblocks[0] * density.data.numblocks[1]
    assert len(held) >= columns.GROUPS
    assert max(held) < n_chunk / 2
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(found_coverage, coverage, rtol=1e-12)
    assert np.isfinite(expected).any()
    assert coverage.min() < 1


def test_what_all_parts_need_is_computed_once(density):
    centred = density - density.mean("sample") + density.mean()
    product = PRODUCTS[0]
    expected, _ = means(product, centred)
    with dask.config.set({"crdist.tile-memory": "200 kB"}, scheduler="synchronous"):
        found, _ = means(product, centred)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_nothing_computes_until_asked(density):
    def refuse(*_, **__):
        raise AssertionError("computed before it was asked to")

    with dask.config.set({"crdist.tile-memory": "200 kB"}, scheduler=refuse):
        tasks = column_sums(PRODUCTS[0], density)
        again = column_sums(PRODUCTS[0], density)
    assert [task.key for task in tasks] == [task.key for task in again]


def test_groups_hold_every_column_once():
    starts = np.random.default_rng(1).normal(size=(1000, 3))
    groups = list(columns._groups(starts, 60))
    assert max(group.size for group in groups) <= 60
    np.testing.assert_array_equal(np.sort(np.concatenate(groups)), np.arange(1000))
