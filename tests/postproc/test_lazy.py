"""The xarray functions: lazy, any chunking the same bits, and equal to what a run writes."""

import dask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crdist
from crdist.errors import GridError, SchemaError
from crdist.grids import SphericalGrid
from galaxies import SMALL_RECIPE, small_posterior, smooth_samples, write_posterior

GRID = crdist.CartesianGrid.from_extent((-12, 12), (-12, 12), (-2, 2), voxel=0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lazy")
    small_posterior(folder / "p.zarr")
    products = ["midplane", *({"name": name, "sampling": "point"} for name in ("projection_z", "volume"))]
    crdist.run_products(folder / "p.zarr", folder / "o.zarr", {**SMALL_RECIPE, "products": products})
    return folder


@pytest.fixture
def density(folder):
    return crdist.open_posterior(folder / "p.zarr")["density"]


def no_compute():
    """Fail where anything computes."""

    def refuse(*_, **__):
        raise AssertionError("computed before it was asked to")

    return dask.config.set(scheduler=refuse)


def test_nothing_computes_until_asked(density):
    with no_compute():
        regridded = crdist.regrid(density, GRID)
        projected = crdist.project(density, GRID, "x")
        sliced = crdist.slice_plane(density, GRID, "z", 0.25)
        spread = (projected * 2).std("sample", ddof=1)
    for array in (regridded, projected, sliced, spread):
        assert dask.is_dask_collection(array.data)
    with no_compute(), pytest.raises(AssertionError, match="computed before"):
        regridded.compute()


def test_equal_calls_share_their_tasks(density):
    other = crdist.CartesianGrid.from_extent((-12, 12), (-12, 12), (-2, 2), voxel=1.0)
    calls = [
        lambda samples: crdist.regrid(samples, GRID),
        lambda samples: crdist.regrid(samples, other),
        lambda samples: crdist.regrid(samples, GRID, method="nearest"),
        lambda samples: crdist.regrid(samples * 2, GRID),
        lambda samples: crdist.project(samples, GRID, "x"),
        lambda samples: crdist.project(samples, GRID, "y"),
        lambda samples: crdist.slice_plane(samples, GRID, "z", 0.25),
    ]
    for call in calls:
        assert set(call(density).__dask_graph__().to_dict()) == set(call(density).__dask_graph__().to_dict())
    assert len({call(density).data.name for call in calls}) == len(calls)


def test_they_equal_what_a_run_writes(density, folder):
    tree = crdist.open_products(folder / "o.zarr")
    volume = crdist.regrid(density, GRID)
    assert volume.dims == ("x", "y", "z", "sample")
    np.testing.assert_allclose(volume.mean("sample"), tree["volume"]["mean"], rtol=2e-6)
    projected = crdist.project(density, GRID, "z")
    assert projected.dims == ("x", "y", "sample")
    assert projected.attrs["units"] == "cm-2"
    np.testing.assert_array_equal(projected.astype(np.float32), tree["projection_z"]["per_sample"])
    sliced = crdist.slice_plane(density, GRID, "z", 0.0)
    np.testing.assert_array_equal(sliced, tree["midplane"]["per_sample"])
    assert float(sliced["z"]) == 0.0
    np.testing.assert_array_equal(volume["x"], GRID.x.centres)
    assert volume.attrs["frame"] == GRID.frame.to_dict()


@settings(max_examples=5, deadline=None)
@given(pixel=st.integers(20, 192), shell=st.integers(3, 10), sample=st.integers(1, 4))
def test_any_chunking_gives_the_same_bits(folder, pixel, shell, sample):
    density = crdist.open_posterior(folder / "p.zarr")["density"]
    chunked = density.chunk({"pixel": pixel, "shell": shell, "sample": sample})
    grid = crdist.CartesianGrid.from_extent((-10, -6), (-2, 2), (-1, 1), voxel=0.5)
    np.testing.assert_array_equal(crdist.regrid(chunked, grid), crdist.regrid(density.load(), grid))


def test_computed_variables_regrid_too(density):
    ratio = density / density.mean("sample")
    ratio.attrs["units"] = ""
    values = crdist.regrid(ratio, GRID).compute()
    np.testing.assert_allclose(values.mean("sample").where(values.notnull().all("sample")).max(), 1.0, rtol=1e-5)
    mean = crdist.regrid(density.mean("sample", keep_attrs=True), GRID)
    assert mean.dims == ("x", "y", "z")


def test_both_chunkings_of_a_store_give_the_same_bits(tmp_path):
    from crdist.schema import Variable
    from crdist.store import append_sample, create_posterior, pack

    grid = SphericalGrid.log_spaced(4, 10, 0.05, 25.0, "ring")
    samples = smooth_samples(grid, 3)
    variables = [Variable("density", "cm-3", "number density")]
    create_posterior(tmp_path / "a.zarr", grid, variables, n_sample=0, layout="appended", provenance={})
    for k in range(3):
        append_sample(tmp_path / "a.zarr", {"density": samples[..., k]})
    pack(tmp_path / "a.zarr", tmp_path / "b.zarr")
    for name in "ab":
        crdist.run_products(tmp_path / f"{name}.zarr", tmp_path / f"{name}.out.zarr", SMALL_RECIPE)
    first, second = (crdist.open_products(tmp_path / f"{name}.out.zarr") for name in "ab")
    for group in first.children:
        for name, array in first[group].data_vars.items():
            np.testing.assert_array_equal(second[group][name], array, err_msg=f"{group}/{name}")


def test_what_is_no_whole_grid_is_refused(density):
    with pytest.raises(GridError, match="all 192 pixels of their grid, got 10"):
        crdist.regrid(density.isel(pixel=slice(10)), GRID)
    with pytest.raises(GridError, match="keep all shells"):
        crdist.regrid(density.isel(shell=slice(None, None, -1)), GRID)
    with pytest.raises(GridError, match="keep all shells"):
        crdist.regrid(density.isel(shell=[0, 2, 3]), GRID)
    with pytest.raises(SchemaError, match=r"lack the coordinates cell_ids.*crdist.open_posterior"):
        crdist.regrid(density.drop_vars("cell_ids"), GRID)
    with pytest.raises(SchemaError, match="have no attribute 'units'"):
        crdist.project(density.drop_attrs(), GRID)
    with pytest.raises(SchemaError, match="cell_ids of samples has no attribute level nor indexing_scheme"):
        crdist.regrid(density.drop_attrs(), GRID)


def test_pixels_in_another_order_are_refused_and_can_be_sorted(density):
    turned = density.isel(pixel=slice(None, None, -1))
    with pytest.raises(GridError, match=r"in order, got pixel 191 in place 0; use samples.sortby\('cell_ids'\)"):
        crdist.regrid(turned, GRID)
    np.testing.assert_array_equal(crdist.regrid(turned.sortby("cell_ids"), GRID), crdist.regrid(density, GRID))
    twice = density.isel(pixel=[0, 0, *range(2, 192)])
    with pytest.raises(GridError, match=r"got pixel 0 in place 1; take them from crdist.open_posterior"):
        crdist.project(twice, GRID)


def test_logarithms_are_interpolated_on_request(tmp_path):
    grid = SphericalGrid.log_spaced(4, 8, 0.05, 25.0)
    samples = smooth_samples(grid, 2)
    write_posterior(tmp_path / "p.zarr", grid, samples)
    density = crdist.open_posterior(tmp_path / "p.zarr")["density"]
    in_log = crdist.regrid(density, GRID, value_space="log")
    by_hand = np.exp(crdist.regrid(np.log(density), GRID))
    np.testing.assert_allclose(in_log, by_hand, rtol=1e-5)
