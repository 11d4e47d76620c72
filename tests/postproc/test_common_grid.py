"""Two posteriors at the voxels of one grid: the difference in sigma, its sums by region, and the store of it."""

import dask
import numpy as np
import pytest
import xarray as xr

import crdist
from crdist.errors import RecipeError, StoreExistsError
from crdist.frames import Frame
from crdist.grids import SphericalGrid
from crdist_postproc.analysis.common_grid import compare_on_grid, summary_by_region, write_comparison
from galaxies import smooth_samples, write_posterior

FRAME = Frame(r0_kpc=8.3, z_sun_kpc=0.02)
GRID = crdist.CartesianGrid.from_extent((-14, -2), (-6, 6), (-2, 2), voxel=1.0, frame=FRAME)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("common")
    for name, grid, scale, units in (
        ("a", SphericalGrid.log_spaced(4, 12, 0.05, 7.0), 1.0, "cm-3"),
        ("b", SphericalGrid.log_spaced(2, 9, 0.05, 20.0), 1.2e6, "m-3"),
    ):
        write_posterior(folder / f"{name}.zarr", grid, smooth_samples(grid, 4, ord(name)) * np.float32(scale), units)
    return [crdist.open_posterior(folder / f"{name}.zarr")["density"] for name in "ab"]


@pytest.fixture(scope="module")
def compared(pair):
    return compare_on_grid(*pair, GRID)


def test_the_difference_is_that_of_the_regridded_samples(pair, compared):
    a, b = (crdist.regrid(samples, GRID).values.astype(np.float64) for samples in pair)
    b = b * 1e-6
    expected = (a.mean(-1) - b.mean(-1)) / np.hypot(a.std(-1, ddof=1), b.std(-1, ddof=1))
    np.testing.assert_allclose(compared["difference"], expected, rtol=1e-9)
    assert np.isnan(expected).any()
    assert compared["mean_b"].attrs["units"] == compared["mean_a"].attrs["units"] == "cm-3"
    assert compared.attrs["frame"] == FRAME.to_dict()


def test_it_is_lazy(pair):
    def refuse(*_, **__):
        raise AssertionError("computed before it was asked to")

    with dask.config.set(scheduler=refuse):
        compare_on_grid(*pair, GRID)


@pytest.mark.parametrize("chunks", [None, (5, 7, 4)])
def test_regions_are_summed_over_their_voxels(compared, chunks):
    some = compared if chunks is None else compared.chunk(dict(zip("xyz", chunks, strict=True)))
    table = summary_by_region(some, GRID, {"distance": (0.0, 2.0, 30.0), "radius": (4.0, 8.0), "height": (0.0, 1.0)})
    x, y, z = np.meshgrid(*(axis.centres for axis in GRID.axes), indexing="ij")
    sun = np.array(FRAME.sun_kpc)
    distance = np.sqrt((x - sun[0]) ** 2 + (y - sun[1]) ** 2 + (z - sun[2]) ** 2)
    everywhere = np.ones(x.shape, bool)
    members = [everywhere, distance < 2, distance >= 2, (np.hypot(x, y) >= 4) & (np.hypot(x, y) < 8), abs(z) < 1]
    assert table["kind"].values.tolist() == ["all", "distance", "distance", "radius", "height"]
    sigma, a, b = (compared[name].values for name in ("difference", "mean_a", "mean_b"))
    for k, member in enumerate(members):
        known = member & np.isfinite(sigma)
        row = table.isel(region=k)
        assert float(row["rms"]) == pytest.approx(np.sqrt((sigma[known] ** 2).mean()))
        assert float(row["mean"]) == pytest.approx(sigma[known].mean())
        assert float(row["within_1"]) == pytest.approx((abs(sigma[known]) < 1).mean())
        assert float(row["within_2"]) == pytest.approx((abs(sigma[known]) < 2).mean())
        assert float(row["ratio"]) == pytest.approx(a[known].sum() / b[known].sum())
        assert float(row["known"]) == pytest.approx(known.sum() / member.sum())


def test_regions_without_voxels_are_left_out(compared):
    table = summary_by_region(compared, GRID, {"distance": (0.0, 5.0, 100.0, 200.0)})
    assert table["upper"].values.tolist() == [np.inf, 5.0, 100.0]


def test_it_is_written_for_plain_xarray(compared, tmp_path):
    write_comparison(compared, tmp_path / "d.zarr", {"first": {"store": "a"}})
    again = xr.open_zarr(tmp_path / "d.zarr")
    np.testing.assert_array_equal(again["difference"], compared["difference"].astype(np.float32))
    assert again["std_a"].attrs == compared["std_a"].attrs
    assert again.attrs["schema"] == "crdist.comparison"
    assert again.attrs["provenance"]["first"] == {"store": "a"}
    with pytest.raises(StoreExistsError):
        write_comparison(compared, tmp_path / "d.zarr", {})


def test_what_cannot_be_compared_is_refused(pair, compared):
    a, b = pair
    with pytest.raises(RecipeError, match="cannot be compared"):
        compare_on_grid(a, b.assign_attrs(units="GeV"), GRID)
    with pytest.raises(RecipeError, match="single sample"):
        compare_on_grid(a, b.isel(sample=[0]), GRID)
    with pytest.raises(RecipeError, match="rising order"):
        summary_by_region(compared, GRID, {"distance": (2.0, 1.0)})
    with pytest.raises(RecipeError, match="got longitude"):
        summary_by_region(compared, GRID, {"longitude": (0.0, 1.0)})
