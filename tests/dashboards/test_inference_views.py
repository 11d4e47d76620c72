import shutil

import healpy
import numpy as np
import pytest
import xarray as xr
import zarr

from crdist.errors import SchemaError
from crdist.frames import Frame
from crdist.grids import SphericalGrid
from crdist.schema import INFERENCE_VARIABLES, Derived, Variable
from crdist.store import append_sample, consolidate, create_posterior
from crdist_dashboards.views.inference import InferenceSource
from crdist_dashboards.views.native import native_slice

N_SAMPLE, NSIDE = 6, 4
GRID = SphericalGrid.log_spaced(nside=NSIDE, n_shell=12, inner_kpc=0.1, outer_kpc=30.0)


def make_posterior(path, *, synthetic=True, evidence=True, n_sample=N_SAMPLE, status="complete"):
    """A posterior as an inference leaves it, with its group, on a coarse grid."""
    rng = np.random.default_rng(3)
    provenance = {"source": {"name": "test", "kind": "synthetic"}, "versions": {}}
    create_posterior(
        path,
        GRID,
        [Variable("c", "cm-3", "normalisation C of the cosmic-ray proton spectrum")],
        n_sample=0,
        layout="appended",
        provenance=provenance,
        derived=[Derived("n30", "GeV-1 cm-3", "protons at 30 GeV", (("c", 8.5e-5),))],
        frame=Frame("heliocentric"),
    )
    truth = 1e-9 * np.exp(rng.normal(0, 0.5, (GRID.n_pixel, GRID.n_shell)))
    for _ in range(n_sample):
        append_sample(path, {"c": truth * np.exp(rng.normal(0, 0.2, truth.shape))})
    used = np.ones(GRID.n_pixel, dtype=bool)
    used[healpy.query_strip(NSIDE, 1.2, 1.6, nest=True)[:5]] = False
    data = rng.uniform(0.01, 1.0, GRID.n_pixel)
    sigma = 0.1 * data
    fields = {
        "data": data,
        "sigma": sigma,
        "used": used,
        "hydrogen_density": rng.uniform(0.1, 1, truth.shape).astype(np.float32),
        "iteration_draw": np.array([0, 0, 0, 1, 1]),
        "iteration_energy": np.array([900.0, 500.0, 410.0, 450.0, 400.0]),
        "iteration_reduced_chi2": np.array([3.0, 1.4, 1.1, 1.2, 1.05]),
        "iteration_seconds": np.full(5, 30.0),
        "iteration_length": np.array([7.0, 6.0, 5.5, 5.2, 5.1]),
        "iteration_length_std": np.full(5, 0.5),
    }
    if n_sample:
        fields["sky"] = (data + sigma)[:, None] * np.ones(n_sample)
        fields |= {"length": np.linspace(4, 6, n_sample), "slope": np.full(n_sample, 6.0)}
        fields |= {"scale": np.full(n_sample, 0.8), "offset": np.full(n_sample, -21.2)}
        fields["draw"] = np.arange(n_sample) // 3
    if synthetic:
        fields["truth"] = truth.astype(np.float32)
    if evidence:
        fields["evidence_length"], fields["evidence_slope"] = np.geomspace(1, 20, 7), np.geomspace(3, 15, 5)
        peak = np.subtract.outer(np.arange(7) - 3, 0)[:, None] ** 2 + (np.arange(5) - 1) ** 2
        fields["evidence"] = 5.0 - peak.astype(float)
    group = zarr.open_group(str(path), mode="r+").create_group("inference")
    for name, values in fields.items():
        spec = INFERENCE_VARIABLES[name]
        array = group.create_array(name, data=np.asarray(values), dimension_names=spec.dims)
        array.attrs.update({"units": spec.units, "long_name": spec.long_name})
    group.attrs.update({"status": status, "warnings": ["few samples"], "notes": []})
    if synthetic:
        group.attrs["truth_hyperparameters"] = {"length": 5.0, "slope": 7.0, "offset": -21.2}
    consolidate(path)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return InferenceSource(make_posterior(tmp_path_factory.mktemp("i") / "p.zarr"))


def test_three_skies(source):
    data, prediction, residual = source.sky_views(n_row=100)
    assert [view.title for view in (data, prediction, residual)] == ["Data", "Prediction", "Residual"]
    assert data.scale == prediction.scale
    used = source.read("used")
    stored = source.read("data")
    np.testing.assert_array_equal(data.cells.values, np.where(used, stored, np.nan))
    np.testing.assert_allclose(prediction.cells.values, 1.1 * stored)
    # every prediction lies one sigma above
    np.testing.assert_allclose(residual.cells.values[used], 1.0)
    assert np.isnan(residual.cells.values[~used]).all()
    assert (residual.scale.low, residual.scale.high, residual.scale.kind) == (-3.0, 3.0, "linear")
    assert "root mean square 1" in residual.notes
    assert prediction.statistic == "mean of 6 samples"
    for view in (data, prediction, residual):
        (edge,) = view.outlines
        assert np.isfinite(edge.x).any()
        assert "5 of 192 pixels masked" in view.notes
    near = source.sky_view("data", projection="gnomonic", centre=(0.0, 0.0), size_deg=40.0, n_row=50)
    assert near.values.shape == (50, 50)


def test_course_is_interrupted_between_draws(source):
    views = {view.up.name: view for view in source.course()}
    assert list(views) == ["energy", "reduced_chi2", "length"]
    energy = views["energy"]
    np.testing.assert_array_equal(energy.mean, [900, 500, 410, np.nan, 450, 400])
    np.testing.assert_array_equal(energy.x, [1, 2, 3, 3.5, 4, 5])
    assert energy.statistic == "5 iterations, 2 draws"
    assert [line.kind for line in views["reduced_chi2"].lines] == ["reference", "place"]
    length = views["length"]
    (band,) = length.bands
    np.testing.assert_allclose((band.upper - band.lower)[:3], 1.0)
    (truth,) = (line for line in length.lines if line.kind == "truth")
    assert (truth.label, *truth.y) == ("truth 5", 5.0, 5.0)
    for view in views.values():
        assert view.y_limits[0] < np.nanmin(view.mean) <= np.nanmax(view.mean) < view.y_limits[1]


def test_evidence_has_its_maximum_where_it_is(source):
    view = source.evidence()
    assert view.values.shape == (5, 7)
    row, column = np.unravel_index(np.argmax(view.values), view.values.shape)
    left, right, bottom, top = view.extent
    assert left + (column + 0.5) * (right - left) / 7 == pytest.approx(np.log(np.geomspace(1, 20, 7)[3]))
    assert bottom + (row + 0.5) * (top - bottom) / 5 == pytest.approx(np.log(np.geomspace(3, 15, 5)[1]))
    assert view.values.max() == 0
    assert (view.scale.high, view.scale.low) == (0.0, -12.5)
    places = {mark.label: (mark.x, mark.y) for mark in view.marks}
    assert places["truth"] == pytest.approx((np.log(5.0), np.log(7.0)))
    assert set(places) == {"truth", "draw 0", "draw 1"}


def test_summary_says_what_matters(source):
    rows = dict(source.summary())
    assert rows["status"] == "complete"
    assert rows["samples"] == "6 in 2 draws"
    assert rows["correlation length"] == "5 ± 0.75 kpc (truth 5)"
    assert rows["fitted pixels"] == "187 of 192 (nside 4)"
    assert rows["χ² per fitted pixel"].startswith("1 mean over samples, 1 of")
    assert rows["iterations"] == "5 in 2 min"
    assert rows["warning"] == "few samples"
    assert rows["notes"] == "none"


def test_native_slices_show_the_cells_themselves(source):
    with xr.open_zarr(source.path) as posterior:
        samples = posterior["c"].values.astype(float) * 8.5e-5
    mean, std = samples.mean(axis=-1), samples.std(axis=-1, ddof=1)
    truth = source.read("truth").astype(float) * 8.5e-5
    expected = {
        "mean": mean,
        "std": std,
        "significance": mean / std,
        "difference": (mean - truth) / std,
        "truth": truth,
    }
    x, y = -8.178 + 3.0, 2.0
    pixel = healpy.vec2pix(NSIDE, 3.0, 2.0, 0.0, nest=True)
    shell = np.searchsorted(GRID.edges, np.hypot(3.0, 2.0)) - 1
    for statistic, values in expected.items():
        view = native_slice(source, statistic, n_pixel=400)
        row, column = int((y + 20) / 0.1), int((x + 20) / 0.1)
        assert view.values[row, column] == pytest.approx(values[pixel, shell], rel=1e-5)
    view = native_slice(source, "mean")
    assert (view.units, view.quantity) == ("GeV-1 cm-3", "protons at 30 GeV")
    # beyond the last shell and inside the first there is nothing
    assert np.isnan(view.values[-1, -1])
    near = native_slice(source, half_width_kpc=8.2, n_pixel=401).values
    assert np.isnan(near[200, 0])
    assert np.isfinite(near[200, 10])
    assert native_slice(source, "mean", quantity="c").units == "cm-3"
    assert native_slice(source, "gas").units == "cm-3"


def test_a_store_that_grows(tmp_path):
    path = make_posterior(tmp_path / "p.zarr", n_sample=0, status="running", synthetic=False, evidence=False)
    source = InferenceSource(path)
    (data,) = source.sky_views(n_row=50)
    assert "unfinished inference" in data.notes
    with pytest.raises(SchemaError, match="holds no sample yet; the inference is running"):
        source.sky_view("prediction")
    with pytest.raises(SchemaError, match="mean needs 1 samples, 0 are there yet"):
        native_slice(source, "mean")
    with pytest.raises(SchemaError, match="holds no evidence grid"):
        source.evidence()
    with pytest.raises(SchemaError, match="holds no truth"):
        native_slice(source, "truth")
    assert dict(source.summary())["samples"] == "0"
    assert not source.refresh()
    shutil.rmtree(path)
    make_posterior(path, status="running")
    assert source.refresh()
    assert (source.n_sample, len(source.sky_views(n_row=50))) == (6, 3)


def test_bad_stores_are_one_line(tmp_path):
    with pytest.raises(SchemaError, match="no such store"):
        InferenceSource(tmp_path / "none.zarr")
    bare = tmp_path / "bare.zarr"
    create_posterior(
        bare,
        GRID,
        [Variable("c", "cm-3", "c")],
        n_sample=1,
        layout="packed",
        provenance={},
        frame=Frame("heliocentric"),
    )
    with pytest.raises(SchemaError, match="its samples do not come from an inference"):
        InferenceSource(bare)
    damaged = make_posterior(tmp_path / "p.zarr")
    (chunk,) = [
        file for file in (damaged / "inference" / "data").rglob("*") if file.name != "zarr.json" and file.is_file()
    ]
    chunk.write_bytes(b"xx")
    with pytest.raises(SchemaError, match="inference/data cannot be read") as caught:
        InferenceSource(damaged).sky_view("data")
    assert "\n" not in str(caught.value)
