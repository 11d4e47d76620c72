"""The code of docs/howto/analysis.md does what the page says, in its order."""

import re
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr

from crdist.grids import SphericalGrid
from galaxies import smooth_samples, write_posterior

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "analysis.md"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    coarse, fine = SphericalGrid.log_spaced(4, 12, 0.05, 25.0), SphericalGrid.log_spaced(8, 20, 0.05, 25.0)
    write_posterior(tmp_path / "posterior.zarr", coarse, smooth_samples(coarse, 4, 1) * np.float32(1e-9), name="c")
    write_posterior(tmp_path / "other.zarr", coarse, smooth_samples(coarse, 4, 2) * np.float32(1e-9), name="c")
    write_posterior(tmp_path / "gas.zarr", fine, smooth_samples(fine, 3, 3), name="n_h")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_runs_and_is_lazy_where_it_says_so(folder):
    names = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(code, str(PAGE), "exec"), names)
    lazy = [name for name, value in names.items() if isinstance(value, xr.DataArray) and value.chunks is not None]
    for name in ("volume", "plane", "columns", "sky", "radial", "vertical", "mean", "std", "band", "sure", "per_pc3"):
        assert name in lazy
    for name in ("photons", "pressure", "custom", "there", "placed", "back"):
        assert name in lazy
    assert all(dask.is_dask_collection(names[name]["difference"].data) for name in ("compared", "native"))
    np.testing.assert_allclose(names["back"], names["c"], rtol=1e-6)
    assert names["values"].unit == "cm-3"
    assert names["table"]["known"].iloc[0] > 0.9
    saved = names["crdist"].open_posterior(folder / "photons.zarr")["source_density"]
    np.testing.assert_allclose(saved, names["photons"], rtol=1e-6)
