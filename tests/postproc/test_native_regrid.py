"""Means over the cells of another native grid: columns stay, constants stay, and nothing computes until asked."""

import dask
import healpy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import crdist
from crdist.errors import SchemaError
from crdist.grids import SphericalGrid
from crdist.schema import Variable
from crdist.store import append_sample, create_posterior
from crdist_postproc.analysis.native_regrid import on_grid_of, shell_weights
from galaxies import smooth_samples, write_posterior

FINE = SphericalGrid.log_spaced(8, 20, 0.05, 30.0)
COARSE = SphericalGrid.log_spaced(4, 9, 0.05, 30.0)


def opened(folder, grid, n_sample=3, seed=0):
    """A store of smooth samples on a grid, opened; in RING order it is one that was appended to."""
    path = folder / f"{grid.nside}-{grid.n_shell}-{grid.ordering}-{seed}.zarr"
    samples = smooth_samples(grid, n_sample, seed)
    if path.exists():
        return crdist.open_posterior(path)["density"]
    if grid.ordering == "nested":
        write_posterior(path, grid, samples)
    else:
        variable = Variable("density", "cm-3", "number density")
        create_posterior(path, grid, [variable], n_sample=0, layout="appended", provenance={})
        for k in range(n_sample):
            append_sample(path, {"density": samples[..., k]})
    return crdist.open_posterior(path)["density"]


@pytest.fixture
def fine(tmp_path):
    return opened(tmp_path, FINE)


@pytest.fixture
def coarse(tmp_path):
    return opened(tmp_path, COARSE)


def columns(samples, grid):
    """Column of each pixel and sample over the whole range, nested."""
    return np.einsum("psk,s->pk", samples.values.astype(np.float64), grid.widths)


def test_columns_are_conserved(fine, coarse):
    there = on_grid_of(fine, coarse)
    expected = columns(fine, FINE).reshape(COARSE.n_pixel, 4, -1).mean(axis=1)
    np.testing.assert_allclose(columns(there, COARSE), expected, rtol=1e-6)
    assert there.attrs == fine.attrs
    assert there.dtype == np.float32


def test_a_finer_grid_takes_the_values_of_the_cells_that_hold_its_own(fine, coarse):
    there = on_grid_of(coarse, fine)
    np.testing.assert_allclose(columns(there, FINE), np.repeat(columns(coarse, COARSE), 4, axis=0), rtol=1e-6)
    # its first shell lies within the first of the other
    np.testing.assert_array_equal(there.values[:, 0], np.repeat(coarse.values[:, 0], 4, axis=0))


def test_the_pixels_are_those_of_healpy(fine, tmp_path):
    same_shells = opened(tmp_path, SphericalGrid(4, FINE.edges_kpc))
    there = on_grid_of(fine, same_shells)
    for shell in (0, 11):
        expected = healpy.ud_grade(
            fine.values[:, shell, 1].astype(np.float64), 4, order_in="NESTED", order_out="NESTED", power=0
        )
        np.testing.assert_allclose(there.values[:, shell, 1], expected, rtol=1e-6)


@pytest.mark.parametrize("orderings", [("ring", "nested"), ("nested", "ring"), ("ring", "ring")])
def test_the_order_of_pixels_makes_no_difference(tmp_path, orderings):
    grids = [FINE, COARSE]
    turned = [SphericalGrid(g.nside, g.edges_kpc, ordering=o) for g, o in zip(grids, orderings, strict=True)]
    expected = on_grid_of(*(opened(tmp_path, grid) for grid in grids))
    found = on_grid_of(*(opened(tmp_path, grid) for grid in turned))
    assert found["cell_ids"].attrs["indexing_scheme"] == orderings[1]
    values = found.values
    if orderings[1] == "ring":
        values = values[healpy.nest2ring(COARSE.nside, np.arange(COARSE.n_pixel))]
    np.testing.assert_allclose(values, expected.values, rtol=2e-6)


def test_it_is_lazy_and_any_chunking_gives_the_same(fine, coarse):
    def refuse(*_, **__):
        raise AssertionError("computed before it was asked to")

    with dask.config.set(scheduler=refuse):
        there = on_grid_of(fine, coarse)
        product = there * coarse
    assert dask.is_dask_collection(product.data)
    for chunks in ({"pixel": 100, "shell": 7, "sample": 2}, {"pixel": -1, "shell": 1}):
        np.testing.assert_array_equal(on_grid_of(fine.chunk(chunks), coarse), there)
    np.testing.assert_array_equal(on_grid_of(fine.load(), coarse), there)
    np.testing.assert_array_equal(on_grid_of(fine.isel(sample=1), coarse), there.isel(sample=1))


def test_masked_cells_and_what_lies_outside_have_no_value(fine, tmp_path):
    masked = fine.load().copy()
    masked[5, 3] = np.nan
    far = opened(tmp_path, SphericalGrid.log_spaced(4, 12, 0.2, 60.0))
    there = on_grid_of(masked, far)
    edges, whole = far["distance_upper"].values, on_grid_of(fine, far)
    outer = int(np.searchsorted(edges, 30.0))
    assert np.isnan(whole.values[:, outer + 1 :]).all()
    assert np.isfinite(whole.values[:, :outer]).all()
    expected = shell_weights(FINE, SphericalGrid.log_spaced(4, 12, 0.2, 60.0))[:, 3] > 0
    np.testing.assert_array_equal(np.isnan(there.values[1]).all(axis=-1)[:outer], expected[:outer])
    assert np.isfinite(there.values[2, :outer]).all()


def test_it_goes_on_from_there_like_any_samples(fine, coarse):
    grid = crdist.CartesianGrid.from_extent((-10, -6), (-2, 2), (-1, 1), voxel=1.0)
    assert np.isfinite(crdist.project(on_grid_of(fine, coarse), grid)).all()
    with pytest.raises(SchemaError, match="lack the coordinates cell_ids"):
        on_grid_of(fine.drop_vars("cell_ids"), coarse)


edges = st.lists(st.floats(0.1, 20.0), min_size=2, max_size=8, unique=True).map(
    lambda found: tuple(0.1 * k + edge for k, edge in enumerate(sorted(found)))
)


@given(edges, edges)
def test_weights_are_means_over_what_is_inside(source, target):
    grids = SphericalGrid(1, source), SphericalGrid(1, target)
    weights = shell_weights(*grids, inner="exclude")
    overlap = np.clip(np.minimum(target[1:], source[-1]) - np.maximum(target[:-1], source[0]), 0, None)
    inside = overlap / np.diff(target)
    sure = abs(inside - 0.5) > 1e-9
    np.testing.assert_array_equal(np.isnan(weights).any(axis=1)[sure], (inside < 0.5)[sure])
    known = weights[~np.isnan(weights).any(axis=1)]
    assert (known >= 0).all()
    np.testing.assert_allclose(known.sum(axis=1), 1.0, rtol=1e-12)
