"""The posterior store of an inference: what is in it, and that a kill at any moment leaves it whole."""

import numpy as np
import pytest
import xarray as xr
import zarr

from crdist.check import check_store
from crdist.describe import describe
from crdist.emission import density_at_energy
from crdist.errors import InferenceError, SchemaError, StoreExistsError
from crdist.schema import INFERENCE_GROUP, INFERENCE_VARIABLES, read_posterior_header
from crdist.store import append_sample, consolidate, open_inference, open_posterior, pack
from crdist.units import parse_unit
from crdist_inference import writing
from crdist_inference.assemble import assemble
from crdist_inference.records import Hyperparameters, IterationReport, PosteriorSample
from crdist_inference.runfile import RunFile
from crdist_inference.writing import PosteriorWriter, create_store
from galaxies import small_posterior

RUN = RunFile.from_mapping(
    {
        "version": 1,
        "title": "a test",
        "data": {"synthetic": {"truth": "prior", "length": 5, "slope": 6, "scale": 0.5, "offset": -21}},
        "grid": {"nside": 2, "n_shell": 6},
    }
)


@pytest.fixture(scope="module")
def assembled(tmp_path_factory):
    return assemble(RUN, tmp_path_factory.mktemp("run"))


@pytest.fixture
def store(tmp_path, assembled):
    create_store(tmp_path / "p.zarr", RUN, assembled)
    return tmp_path / "p.zarr"


def sample(assembled, number, seed=0):
    rng = np.random.default_rng([seed, number])
    density = (assembled.truth.density * rng.lognormal(sigma=0.2, size=assembled.truth.density.shape)).astype(
        np.float32
    )
    return PosteriorSample(
        density=density,
        sky=assembled.problem.predict(density),
        hyperparameters=Hyperparameters(*rng.uniform(1, 5, 4)),
        excitations=(rng.normal(size=(3, 4)), rng.normal(size=(2, 5, 2))),
        draw=number // 4,
        pair=number % 4 // 2,
    )


def report(draw, iteration):
    return IterationReport(
        draw=draw,
        n_draw=2,
        iteration=iteration,
        n_iteration=2,
        n_sample=4,
        energy=100.0 - iteration,
        reduced_chi2=1.1,
        hyperparameters={"scale": (0.5, 0.1), "offset": (-21.0, 0.2)},
        newton_steps=(2, 5),
        kl_steps=3,
        change=float("nan"),
        seconds=0.5,
    )


def filled(store, assembled, n, **options):
    writer = PosteriorWriter(store, **options)
    for number in range(n):
        writer.add(sample(assembled, number))
    return writer


def test_a_new_store_holds_the_data_and_no_sample(store, assembled):
    assert read_posterior_header(store).n_sample == 0
    beside = open_inference(store)
    np.testing.assert_array_equal(beside["data"], assembled.observation.intensity)
    np.testing.assert_array_equal(beside["used"], assembled.problem.used)
    np.testing.assert_allclose(beside["hydrogen_density"], assembled.gas.hydrogen_density, rtol=1e-7)
    np.testing.assert_allclose(beside["truth"], assembled.truth.density, rtol=1e-7)
    assert beside.attrs["status"] == "running"
    assert beside.attrs["truth_hyperparameters"]["slope"] == 6.0
    assert check_store(store) == []
    with pytest.raises(StoreExistsError, match="exists already"):
        create_store(store, RUN, assembled)


def test_samples_and_what_belongs_to_them(store, assembled):
    filled(store, assembled, 3)
    posterior, beside = open_posterior(store), open_inference(store)
    for number in range(3):
        made = sample(assembled, number)
        np.testing.assert_array_equal(posterior["c"][..., number], made.density)
        np.testing.assert_array_equal(beside["sky"][:, number], made.sky)
        for name in ("length", "slope", "scale", "offset"):
            assert beside[name][number] == getattr(made.hyperparameters, name)
        assert (beside["draw"][number], beside["pair"][number]) == (made.draw, made.pair)
    # the density per energy is the paper's, with units that can be read
    expected = density_at_energy(posterior["c"].values)
    np.testing.assert_allclose(posterior["n30"], expected, rtol=1e-6)
    assert posterior["n30"].attrs["units"] == "GeV-1 cm-3"
    assert "kinetic energy 30 GeV" in posterior["n30"].attrs["long_name"]
    assert check_store(store) == []
    assert describe(store)["main_quantity"] == "c"


def test_plain_xarray_opens_all_of_it(store, assembled):
    filled(store, assembled, 2).write_reports([report(0, 0)])
    assert xr.open_zarr(store).sizes["sample"] == 2
    assert xr.open_zarr(store, group=INFERENCE_GROUP)["sky"].shape == (48, 2)
    tree = xr.open_datatree(store, engine="zarr")
    assert tree[INFERENCE_GROUP]["length"].dims == ("sample",)


def test_every_variable_is_as_the_schema_says(store, assembled):
    writer = filled(store, assembled, 1)
    writer.write_reports([report(0, 0)])
    writer.write_evidence(np.array([1.0, 2.0]), np.array([4.0, 5.0, 6.0]), np.zeros((2, 3)))
    beside = open_inference(store)
    assert set(beside.variables) == set(INFERENCE_VARIABLES)
    for name, what in INFERENCE_VARIABLES.items():
        assert (beside[name].dims, beside[name].dtype.name) == (what.dims, what.dtype), name
        assert beside[name].attrs["long_name"] == what.long_name
        if what.dtype.startswith("float"):
            parse_unit(beside[name].attrs["units"])


def test_samples_that_are_there_are_not_written_again(store, assembled):
    filled(store, assembled, 2)
    shard = store / "c" / "c" / "0" / "0" / "1"
    before = shard.stat().st_mtime_ns
    writer = filled(store, assembled, 4)
    assert (writer.n_stored, shard.stat().st_mtime_ns) == (4, before)
    assert open_inference(store).sizes["sample"] == 4
    with pytest.raises(InferenceError, match="its sample 0 is not the one that the checkpoint gives"):
        PosteriorWriter(store).add(sample(assembled, 0, seed=1))


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_writer_killed_within_a_sample_leaves_nothing_that_counts(store, assembled, place, monkeypatch):
    filled(store, assembled, 1)

    class Killed(BaseException):
        pass

    def die(path, values):
        if place == "after":
            monkeypatch.setattr("crdist.store.consolidate", lambda folder: (_ for _ in ()).throw(Killed))
            append_sample(path, values)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(writing, "append_sample", die)
        with pytest.raises(Killed):
            filled(store, assembled, 2)
        # readers see one sample and one row of everything that belongs to it
        assert xr.open_datatree(store, engine="zarr")[INFERENCE_GROUP].sizes["sample"] == 1
        assert open_posterior(store).sizes["sample"] == 1
    monkeypatch.undo()
    writer = filled(store, assembled, 3)
    writer.write_reports([report(0, 0)])
    assert check_store(store) == []
    np.testing.assert_array_equal(open_posterior(store)["c"][..., 1], sample(assembled, 1).density)
    np.testing.assert_array_equal(open_inference(store)["sky"][:, 2], sample(assembled, 2).sky)


def test_rows_of_a_sample_that_never_appeared_are_dropped(store, assembled):
    filled(store, assembled, 1)
    stray = zarr.open_array(str(store), path=f"{INFERENCE_GROUP}/length", mode="r+")
    stray.resize((2,))
    PosteriorWriter(store)
    consolidate(store)
    assert open_inference(store).sizes["sample"] == 1


def test_the_course_of_the_iterations_is_replaced(store, assembled):
    writer = PosteriorWriter(store)
    writer.write_reports([report(0, 0), report(0, 1)])
    writer.write_reports([report(0, 0), report(0, 1), report(1, 0)])
    beside = open_inference(store)
    np.testing.assert_array_equal(beside["iteration_draw"], [0, 0, 1])
    np.testing.assert_array_equal(beside["iteration_energy"], [100.0, 99.0, 100.0])
    np.testing.assert_array_equal(beside["iteration_newton_steps"], [5, 5, 5])
    np.testing.assert_array_equal(beside["iteration_scale_std"], [0.1] * 3)
    # a fixed length has no mean and no scatter
    assert np.isnan(beside["iteration_length"]).all()


def test_the_end_and_its_warnings(store, assembled):
    writer = filled(store, assembled, 1)
    writer.finish(["the starts disagree"])
    attrs = open_inference(store).attrs
    assert (attrs["status"], attrs["warnings"]) == ("complete", ["the starts disagree"])
    assert read_posterior_header(store).n_sample == 1
    provenance = read_posterior_header(store).provenance
    assert provenance["source"] == {"name": "a test", "kind": "synthetic"}
    assert provenance["run"] == RUN.deciding()
    assert provenance["gas"]["source"]["name"] == "gas.fits"
    assert {"crdist", "jax", "nifty8"} <= set(provenance["versions"])


def test_latents_are_kept_where_asked_for(store, assembled):
    filled(store, assembled, 2, latents=True)
    beside = open_inference(store)
    assert beside["latent_1"].shape == (2, 5, 2, 2)
    np.testing.assert_allclose(beside["latent_0"][..., 1], sample(assembled, 1).excitations[0], rtol=1e-6)
    assert "latent_0" not in INFERENCE_VARIABLES


def test_packing_keeps_what_belongs_to_the_samples(store, assembled, tmp_path):
    filled(store, assembled, 3).finish([])
    packed = pack(store, tmp_path / "packed.zarr")
    assert packed.layout == "packed"
    xr.testing.assert_identical(open_inference(store).load(), open_inference(packed.path).load())
    assert check_store(packed.path) == []


def test_a_posterior_of_no_inference_says_so(tmp_path):
    header = small_posterior(tmp_path / "p.zarr", nside=1, n_shell=3, n_sample=2)
    with pytest.raises(SchemaError, match="has no group 'inference'; its samples do not come from an inference"):
        open_inference(header.path)
    pack(header.path, tmp_path / "q.zarr")


def test_other_energies_have_other_names(tmp_path, assembled):
    run = RUN.with_overrides(["emission.energy=2.5", "emission.energy_is=total"])
    create_store(tmp_path / "p.zarr", run, assembled)
    filled(tmp_path / "p.zarr", assembled, 1)
    posterior = open_posterior(tmp_path / "p.zarr")
    np.testing.assert_allclose(
        posterior["n2p5"], density_at_energy(posterior["c"].values, 2.5 - 0.93827208943), rtol=1e-6
    )
    assert "total energy 2.5 GeV" in posterior["n2p5"].attrs["long_name"]
