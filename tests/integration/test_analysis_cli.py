"""``crdist compare`` and ``crdist derive`` as a user meets them."""

import json

import numpy as np
import pytest
import xarray as xr

import crdist as package
from command import crdist, error_line
from crdist.emission import Emissivity
from crdist.grids import SphericalGrid
from galaxies import smooth_samples, write_posterior

GRID = SphericalGrid.log_spaced(2, 8, 0.05, 25.0)
SMALL = ("-s", "grid.x=[-12,-4]", "-s", "grid.y=[-4,4]", "-s", "grid.z=[-1,1]", "-s", "grid.voxel=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analysis")
    write_posterior(folder / "a.zarr", GRID, smooth_samples(GRID, 4, 1) * np.float32(1e-9), name="c")
    write_posterior(folder / "b.zarr", GRID, smooth_samples(GRID, 4, 2) * np.float32(2e-9), name="c")
    fine = SphericalGrid.log_spaced(4, 12, 0.05, 25.0)
    write_posterior(folder / "gas.zarr", fine, smooth_samples(fine, 3, 3), name="n_h")
    return folder


def test_two_stores_are_compared_in_the_cells_of_the_first(folder):
    result = crdist("compare", folder / "a.zarr", folder / "b.zarr")
    assert result.returncode == 0, result.stderr
    assert "c [cm-3], 4 samples" in result.stdout
    rows = [line for line in result.stdout.splitlines() if line.startswith("distance from the Sun")]
    assert len(rows) == 6
    found = json.loads(crdist("compare", folder / "a.zarr", folder / "b.zarr", "--json").stdout)
    everything = found["regions"][0]
    assert everything["kind"] == "all"
    assert everything["ratio"] == pytest.approx(0.5, rel=0.3)
    assert everything["known"] == pytest.approx(1.0)
    assert found["second"]["samples"] == 4


def test_or_on_the_grid_of_a_recipe_and_written(folder):
    out = folder / "difference.zarr"
    result = crdist("compare", folder / "a.zarr", folder / "b.zarr", *SMALL, "--out", out, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["frame"]["name"] == "galactocentric"
    kinds = [row["kind"] for row in found["regions"]]
    assert {"all", "distance", "radius", "height"} == set(kinds)
    written = xr.open_zarr(out)
    assert written["difference"].shape == (8, 8, 2)
    assert float((written["difference"] ** 2).mean()) ** 0.5 == pytest.approx(found["regions"][0]["rms"], rel=1e-5)
    assert written.attrs["provenance"]["summary"] == found["regions"]
    again = crdist("compare", folder / "a.zarr", folder / "b.zarr", "--out", out)
    assert "exists already" in error_line(again)


def test_a_derived_field_is_a_store_like_any_other(folder):
    out = folder / "source.zarr"
    result = crdist(
        *("derive", out, "k * c * n", "--field", f"c={folder / 'a.zarr'}", "--field", f"n={folder / 'gas.zarr'}:n_h"),
        *("--emissivity", "paper", "--mean", "n", "--on-grid-of", "c", "--units", "cm-3 s-1", "--name", "source"),
    )
    assert result.returncode == 0, result.stderr
    assert "4 samples of source [cm-3 s-1]" in result.stdout
    made = package.open_posterior(out)["source"]
    c = package.open_posterior(folder / "a.zarr")["c"]
    # the gas is averaged over 4 pixels; that of the innermost shell is that of its own first shell
    gas = package.open_posterior(folder / "gas.zarr")["n_h"].values[:, 0].astype(np.float64)
    gas = gas.mean(axis=-1).reshape(-1, 4).mean(axis=-1)
    expected = Emissivity.preset("paper").source_coefficient * c.values[:, 0].astype(np.float64) * gas[:, None]
    np.testing.assert_allclose(made.values[:, 0], expected, rtol=0.2)
    assert crdist("check", out).returncode == 0
    provenance = package.open_posterior(out).attrs["provenance"]
    assert provenance["parents"]["n"]["statistic"] == "mean over samples"
    assert provenance["parents"]["c"]["store"] == str(folder / "a.zarr")
    assert provenance["parents"]["k"]["emissivity"]["nucleon_scale"] == 1.4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("k * c", "--field", "c=a.zarr"), "'k' has no meaning"),
        (("c * n", "--field", "c=a.zarr", "--field", "n=gas.zarr"), "say on which with --on-grid-of NAME"),
        (("c * n", "--field", "c=a.zarr", "--field", "n=b.zarr"), "samples of different stores"),
        (("c", "--field", "a.zarr"), "must be NAME=STORE"),
        (("c", "--field", "c=a.zarr:dust"), "no quantity 'dust'"),
        (("c", "--field", "c=a.zarr", "--mean", "n"), "--mean n: no field has this name; there are c"),
        (("c * k", "--field", "c=a.zarr", "--constant", "k=3 blub"), "units 'blub' cannot be read"),
        (("c * k", "--field", "c=a.zarr", "--constant", "k"), "must be NAME=NUMBER UNIT"),
        (("c", "--field", "c=a.zarr", "--field", "c=b.zarr"), "c is given twice"),
        (("c", "--field", "c=a.zarr", "--units", "GeV"), "units do not fit"),
    ],
)
def test_what_cannot_be_derived_says_why_and_leaves_nothing(folder, arguments, message):
    result = crdist("derive", "out.zarr", *arguments, cwd=folder)
    assert message in error_line(result)
    assert not list(folder.glob("*out.zarr*"))
