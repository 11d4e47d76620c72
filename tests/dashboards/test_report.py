import re

import numpy as np
import pytest
import xarray as xr

from crdist.errors import RecipeError, SchemaError
from crdist.frames import Frame
from crdist.store import open_products
from crdist_dashboards.numbers import numbers_of
from crdist_dashboards.report import write_report
from crdist_dashboards.scene import MAX_VOXELS, VolumeScene, scene_html
from dashboards.test_overview import N_SAMPLE, make_products


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    return make_products(tmp_path_factory.mktemp("report") / "c.zarr")


def test_numbers_are_of_samples_first(products):
    with open_products(products) as tree:
        found = {number.what: number for number in numbers_of(tree)}
        height = tree["vertical"]["fit_height"].values
        sun = tree["slice_z"]["mean"].sel(x=-8.178, y=0.0, method="nearest")
        ring = tree["radial"]["per_sample"].isel(radius=8).values
    assert found["scale height H at 8 to 9 kpc"].value == pytest.approx(height.mean())
    assert found["scale height H at 8 to 9 kpc"].std == pytest.approx(height.std(ddof=1))
    assert found["cosmic-ray density, at the Sun"].value == pytest.approx(float(sun), rel=1e-6)
    assert found["cosmic-ray density, mean over the ring of 8 to 9 kpc"].std == pytest.approx(
        ring.std(ddof=1), rel=1e-5
    )


def test_a_height_that_few_samples_have_is_not_given():
    ring = {"kind": "vertical", "ring_kpc": [8.0, 9.0]}
    height = ("sample", np.array([3.0, 4.0, np.nan, np.nan]), {"units": "kpc"})
    root = xr.Dataset(attrs={"frame": Frame().to_dict(), "quantity": {"name": "c"}})
    tree = xr.DataTree.from_dict({"/": root, "v": xr.Dataset({"fit_height": height}, attrs=ring)})
    (number,) = numbers_of(tree)
    assert number.text == "not determined"
    assert "2 of 4 samples do not fall with height" in number.note


def test_masses_are_told_once_a_box():
    box = {"x": [-1.0, 1.0], "y": [-1.0, 1.0], "z": [-1.0, 1.0]}

    def projection(residual):
        values = {"total_native": ("sample", np.array([1.0, 3.0]), {"units": "GeV-1"})}
        return xr.Dataset({**values, "mass_residual": ("sample", residual)}, attrs={"kind": "projection", "box": box})

    root = xr.Dataset(attrs={"frame": Frame().to_dict(), "quantity": {"name": "c"}})
    tree = xr.DataTree.from_dict({"/": root, "a": projection([1e-3, 2e-3]), "b": projection([-5e-3, 0.0])})
    mass, residual = numbers_of(tree)
    assert (mass.value, mass.std, mass.units) == (2.0, pytest.approx(np.sqrt(2.0)), "GeV-1")
    assert residual.value == -5e-3
    assert "x -1 to 1, y -1 to 1, z -1 to 1 kpc" in residual.what


def test_a_report_is_one_page_that_asks_for_nothing(products, tmp_path):
    out = write_report(products, tmp_path / "sub" / "report.html")
    page = out.read_text(encoding="utf-8")
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]
    # what a browser would fetch: none but data
    addresses = re.findall(r"""(?:src|href|srcset|action)\s*=\s*["']([^"']+)""", page.partition("<script id=")[0])
    assert addresses
    assert all(address.startswith("data:") for address in addresses)
    assert "default-src 'none'" in page
    assert page.count("<figure>") >= 4
    assert f"{N_SAMPLE} posterior samples" in page
    assert "scale height H at 8 to 9 kpc</td>" in page


def test_a_store_that_is_still_written_says_so(tmp_path):
    store = make_products(tmp_path / "c.zarr", only={"radial"}, status="running")
    assert "is still being computed" in write_report(store, tmp_path / "r.html").read_text(encoding="utf-8")


def test_what_cannot_be_reported(products, tmp_path):
    with pytest.raises(RecipeError, match=r"a report is an \.html file, got '\.pdf'"):
        write_report(products, tmp_path / "r.pdf")
    with pytest.raises(SchemaError, match="no such store"):
        write_report(tmp_path / "nothing.zarr", tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def scene(values):
    edges = ((-10.0, 10.0), (-10.0, 10.0), (-1.0, 1.0))
    return VolumeScene(np.asarray(values, dtype=np.float32), edges, Frame(), "density, mean of 6 samples", "cm-3")


def test_a_large_volume_is_averaged():
    values = np.ones((2 * MAX_VOXELS, 3, 2))
    values[0] = np.nan
    values[1] = 5.0
    page, notes = scene_html(scene(values * np.linspace(1, 2, 3)[None, :, None]))
    assert "each voxel drawn is the mean of 2 x 1 x 1 of the product" in notes
    assert any("z is drawn" in note for note in notes)
    # the page brings its program along, and the fonts that it would look for beside itself are left out
    assert "k3dSource.replace(" in page
    assert not re.search(r"<(script|link)[^>]+(src|href)=", page)


def test_a_volume_without_values_is_refused():
    with pytest.raises(SchemaError, match="finite"):
        scene_html(scene(np.full((3, 3, 3), np.nan)))
