"""The run file: every setting documented, mistakes named, and what is assembled from it."""

import math

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

import plugged
from crdist.emission import KPC_CM, Emissivity
from crdist.errors import CheckpointError, InputFileError, RecipeError
from crdist.schema import read_posterior_header
from crdist.settings_text import differences
from crdist.store import open_inference
from crdist_inference.assemble import assemble, mask_table
from crdist_inference.gamma_files import write_observation_file
from crdist_inference.geovi import Settings
from crdist_inference.masks import composite
from crdist_inference.run_folder import RunFolder, identify, refuse_other
from crdist_inference.runfile import RunFile, packaged_run_file
from crdist_inference.runfile_settings import MaskSettings, Schedule
from crdist_inference.writing import create_store
from layouts import write_soding

SMALL = {"version": 1, "data": {"synthetic": {}}, "grid": {"nside": 2, "n_shell": 6}}


def run_of(**sections):
    return RunFile.from_mapping({**SMALL, **sections})


def models(model=RunFile):
    """Every model of a run file."""
    yield model
    for field in model.model_fields.values():
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from models(part)


def test_every_setting_is_documented():
    silent = [f"{m.__name__}.{key}" for m in models() for key, field in m.model_fields.items() if not field.description]
    assert len(list(models())) > 10
    assert not silent


@pytest.mark.parametrize("name", ["demo", "paper"])
def test_the_run_files_that_come_with_crdist_can_be_followed(name):
    run = RunFile.from_yaml(packaged_run_file(name))
    assert RunFile.from_mapping(yaml.safe_load(run.to_yaml())) == run


def test_the_papers_run_file_is_the_papers_setting():
    run = RunFile.from_yaml(packaged_run_file("paper"))
    grid = run.grid.record()
    assert grid.n_pixel * grid.n_shell == 2408448
    assert (run.inference.mode, run.inference.samples) == ("joint", 12)
    assert run.with_overrides(["inference.mode=evidence"]).inference.mode == "evidence"
    # a file that says nothing beyond its data is the paper's too, but for the mode
    bare = RunFile.from_mapping({"version": 1, "data": {"gamma": {"path": "a"}, "gas": {"path": "b"}}}).deciding()
    changed = differences(bare, run.deciding())
    assert {line.partition(":")[0] for line in changed} == {"inference.mode", "inference.draws", "inference.dtype"}


def test_a_run_file_that_does_not_come_with_crdist():
    with pytest.raises(RecipeError, match="no run file 'papr' comes with crdist; there are demo, paper"):
        packaged_run_file("papr")


def test_the_schedule_is_that_of_geovi():
    ours = {key: field.default for key, field in Schedule.model_fields.items()}
    default = Settings()
    theirs = {key: getattr(default, key) for key in Settings.__dataclass_fields__}
    # the pairs of a draw follow from samples and draws
    assert ours == {key: value for key, value in theirs.items() if key != "n_pairs"}
    assert run_of(inference={"samples": 12, "draws": 3}).inference.n_pairs == 2


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"version": 2}, "version: must be 1, got 2"),
        ({"inferense": {}}, "inferense: unknown key 'inferense'; did you mean 'inference'? known: version, title"),
        ({"data": {"synthetic": {"trut": "prior"}}}, "data.synthetic.trut: unknown key 'trut'; did you mean 'truth'?"),
        ({"inference": {"mode": "evidnce"}}, "inference.mode: must be 'evidence' or 'joint', got \"evidnce\"; did you"),
        (
            {"inference": {"samples": 7}},
            "samples must be a multiple of 6 (mirrored pairs of 3 draws), got 7",
        ),
        ({"inference": {"window": [9, 4]}}, "window needs an odd number of shells, got 4"),
        ({"inference": {"samples": True}}, "inference.samples: must be a number, got true"),
        ({"data": {"synthetic": {"noise": -1}}}, "must be greater than or equal to 0, got -1 (sigma as a share of"),
        ({"data": {"synthetic": {"noise": 0, "floor": 0}}}, "a sky without noise cannot be fitted"),
        ({"data": {}}, "data: gamma.path is missing; give a file, or data.synthetic"),
        ({"data": {"gamma": {"path": "a"}}}, "data: gas.path is missing"),
        ({"data": {"gamma": {"path": "a"}, "synthetic": {}}}, "gamma.path and synthetic are both given; leave one out"),
        ({"grid": {"nside": 9}}, "grid: nside must be a power of two between 1 and 8192, got 9"),
        ({"grid": 3}, "grid: must be a mapping with the keys nside, n_shell, inner, outer, ends, got 3"),
        ({"mask": {"rectangle": "tabel"}}, "mask.rectangle: must be table, none or [l, b]"),
        ({"mask": {"kind": "file"}}, "mask: kind file needs the key file"),
        ({"prior": {"scale": {"mean": 1}}}, "prior.scale.std: is missing; give it (standard deviation of the variable"),
        ({"emission": {"model": "naima"}}, "emission: no emissivity model 'naima'; there are dp04, kafexhiu"),
        ({"emission": {"energy": 0.5, "energy_is": "total"}}, "less than a proton's rest energy"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(sections, expected):
    with pytest.raises(RecipeError) as caught:
        run_of(**sections)
    assert str(caught.value).startswith("run file: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_faults_are_counted():
    with pytest.raises(RecipeError, match=r"\(and 2 more faults\)$"):
        run_of(inference={"mode": "x", "seed": -1, "dtype": "float16"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("version: 1\nversion: 1\n", "line 2: not valid YAML, key 'version' stands twice"),
        ("a: [1\n", "not valid YAML"),
        ("", "must be a mapping of keys such as 'data' and 'grid', got nothing"),
    ],
)
def test_files_that_are_no_run_files(tmp_path, text, expected):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"r\.yaml: ") as caught:
        RunFile.from_yaml(tmp_path / "r.yaml")
    assert expected in str(caught.value)
    with pytest.raises(RecipeError, match=r"no.yaml: cannot be read \(No such file or directory\)"):
        RunFile.from_yaml(tmp_path / "no.yaml")


def test_overrides():
    run = run_of().with_overrides(["inference.mode=joint", "prior.length.mean=4", "mask.radii.pulsar=3"])
    assert (run.inference.mode, run.prior.length.mean, run.mask.radii) == ("joint", 4.0, {"pulsar": 3.0})
    for override, expected in (
        ("inference.mod=joint", "no key 'mod' in inference; did you mean 'mode'"),
        ("inference", "must read key=value"),
        ("version.x=1", "version is 1, no keys inside; set version as a whole"),
        ("grid.nside=[", "not valid YAML"),
    ):
        with pytest.raises(RecipeError, match="override") as caught:
            run.with_overrides([override])
        assert expected in str(caught.value)


def test_paths_are_relative_to_the_run_file(tmp_path):
    data = {"version": 1, "data": {"gamma": {"path": "g.h5"}, "gas": {"path": "/abs/gas.fits"}}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(data))
    run = RunFile.from_yaml(tmp_path / "r.yaml")
    assert (run.data.gamma.path, run.data.gas.path) == (str(tmp_path / "g.h5"), "/abs/gas.fits")
    assert run.products.recipe == "default"


def test_what_decides_the_samples_is_not_where_files_lie():
    files = {"gamma": {"path": "a"}, "gas": {"path": "b"}}
    moved = {"gamma": {"path": "c"}, "gas": {"path": "d"}}
    run = RunFile.from_mapping({"version": 1, "data": files})
    assert run.deciding() == RunFile.from_mapping({"version": 1, "data": moved, "title": "x"}).deciding()
    assert run.deciding() != run.with_overrides(["inference.seed=2"]).deciding()


def test_the_explanation_is_yaml_with_every_key_and_its_default():
    text = RunFile.explained()
    data = yaml.safe_load(text)
    assert data["prior"]["offset_mean"] == -21.2
    assert data["inference"]["schedule"]["n_iteration"] == Schedule().n_iteration
    assert "# correlation length in that spectrum [kpc]" in text
    uncommented = yaml.safe_load(text.replace("  # synthetic:", "  synthetic:").replace("  #   ", "    "))
    assert set(uncommented["data"]["synthetic"]) == set(type(run_of().data.synthetic).model_fields)
    assert max(map(len, text.splitlines())) <= 120


# what the settings mean


@given(n_shell=st.integers(2, 300), inner=st.floats(0.01, 1.0), outer=st.floats(2.0, 50.0))
def test_the_ends_of_the_grid_are_edges_or_centres(n_shell, inner, outer):
    of = {"nside": 1, "n_shell": n_shell, "inner": inner, "outer": outer}
    edges, centres = (run_of(grid={**of, "ends": ends}).grid.record() for ends in ("edges", "centres"))
    np.testing.assert_allclose(edges.edges[[0, -1]], [inner, outer])
    np.testing.assert_allclose(centres.centres[[0, -1]], [inner, outer])
    np.testing.assert_allclose(np.diff(np.log(centres.edges)), np.log(outer / inner) / (n_shell - 1), rtol=1e-9)


@pytest.mark.parametrize(
    ("energy_is", "weight"), [("kinetic", 8.49882545e-05), ("total", 9.2367e-5), ("ultrarelativistic", 9.2200e-5)]
)
def test_the_reported_density(energy_is, weight):
    assert run_of(emission={"energy_is": energy_is}).reported_weight == pytest.approx(weight, rel=1e-5)


def test_the_offset_may_be_that_of_the_reported_density():
    # physics: n30 = 8.498825e-5 C, so the same prior has another mean
    one = run_of(prior={"offset_mean": -21.2}).prior_record()
    other = run_of(prior={"offset_mean": -21.2 + math.log(8.49882545e-5), "offset_of": "density_at_energy"})
    assert other.prior_record().offset_mean == pytest.approx(one.offset_mean, abs=1e-7)
    assert run_of().prior_record() == type(one)()


def test_presets_and_factors_of_the_emission():
    assert run_of().emissivity((2.0, 3.0)) == Emissivity.preset("paper", e_min_gev=2.0, e_max_gev=3.0)
    changed = run_of(emission={"preset": "consistent", "nuclear_enhancement": 1.5, "band": [1.0, 2.0]})
    own = changed.emissivity((2.0, 3.0))
    assert (own.nucleon_scale, own.nuclear_enhancement, own.e_min_gev, own.e_max_gev) == (1.0, 1.5, 1.0, 2.0)


def test_masks():
    assert mask_table(MaskSettings(kind="none")) is None
    assert mask_table(MaskSettings()) == composite()
    assert len(mask_table(MaskSettings(kind="magellanic")).circles) == 2
    moved = mask_table(MaskSettings(move={"G074.53-09.59": (74.53, -7.18)}, radii={"pulsar": 3.0}, rectangle="none"))
    circle = next(circle for circle in moved.circles if circle.name == "G074.53-09.59")
    assert (circle.b_deg, circle.provenance, moved.centre) == (-7.18, "user", None)
    assert {c.radius_deg for c in moved.circles if c.group == "pulsar"} == {3.0}
    assert mask_table(MaskSettings(rectangle=(20.0, 10.0))).centre.b_half_width_deg == 10.0
    with pytest.raises(RecipeError, match=r"mask\.move: no region 'Vela'; there are LMC"):
        mask_table(MaskSettings(move={"Vela": (263.0, -2.0)}))


# from files to the problem


@pytest.fixture
def files(tmp_path, rng):
    """A measured sky and a gas map in the published layouts, both finer than the grid."""
    write_soding(tmp_path / "gas.fits", nside=4, n_shell=12, n_sample=3)
    sky = rng.uniform(1e-3, 1e-2, 192)
    write_observation_file(tmp_path / "I_dust.hdf5", sky, 0.1 * sky)
    data = {**SMALL, "data": {"gamma": {"path": "I_dust.hdf5"}, "gas": {"path": "gas.fits"}}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(data))
    return tmp_path, sky


def test_the_problem_is_made_of_the_files(files):
    folder, sky = files
    run = RunFile.from_yaml(folder / "r.yaml")
    found = assemble(run, folder / "run")
    problem = found.problem
    assert not (folder / "run").exists(), "nothing is written for measured data"
    np.testing.assert_allclose(problem.sky[problem.used], sky.reshape(-1, 4).mean(axis=1)[problem.used])
    # one at a time, by the definition: A C n_H dr
    coefficient = Emissivity.preset("paper").intensity_coefficient
    expected = coefficient * found.gas.hydrogen_density * problem.grid.widths
    np.testing.assert_allclose(problem.response, expected, rtol=1e-12)
    assert found.emissivity.intensity_per_column * KPC_CM == pytest.approx(coefficient)
    assert problem.n_used == 48 - (~composite().used(2)).sum()
    assert found.truth is None
    assert set(found.fingerprint) == {"crdist", "run", "inputs"}


def test_the_fingerprint_follows_the_content_of_the_files(files, rng):
    folder, sky = files
    run = RunFile.from_yaml(folder / "r.yaml")
    before = assemble(run, folder / "run").fingerprint
    (folder / "moved").mkdir()
    for name in ("gas.fits", "I_dust.hdf5", "energy_bins.hdf5"):
        (folder / name).rename(folder / "moved" / name)
    moved = run.with_overrides(
        [f"data.gamma.path={folder}/moved/I_dust.hdf5", f"data.gas.path={folder}/moved/gas.fits"]
    )
    assert assemble(moved, folder / "run").fingerprint == before
    write_observation_file(folder / "other" / "I_dust.hdf5", 2 * sky, 0.1 * sky)
    other = moved.with_overrides([f"data.gamma.path={folder}/other/I_dust.hdf5"])
    assert assemble(other, folder / "run").fingerprint != before


def test_missing_files_are_named_all_at_once_with_where_to_get_them(tmp_path):
    run = RunFile.from_yaml(packaged_run_file("paper")).with_overrides(
        [f"data.gamma.path={tmp_path}/I.h5", f"data.gas.path={tmp_path}/gas.fits", "products.recipe=no.yaml"]
    )
    with pytest.raises(InputFileError, match="3 files missing: ") as caught:
        assemble(run, tmp_path / "run")
    for part in (f"{tmp_path}/I.h5", "Scheel-Platz", "10.5281/zenodo.12578443", "no.yaml", "crdist recipe"):
        assert part in str(caught.value)


def test_lines_of_sight_without_gas_are_counted(files):
    folder, _ = files
    from astropy.io import fits

    with fits.open(folder / "gas.fits", mode="update") as hdus:
        for hdu in hdus[3:5]:
            hdu.data[:4] = 0.0
    said = []
    run = RunFile.from_yaml(folder / "r.yaml").with_overrides(["mask.kind=none"])
    found = assemble(run, folder / "run", say=said.append)
    assert "1 of 48 used lines of sight have no gas" in found.notes[-1]
    assert said[-1] == found.notes[-1]


@pytest.mark.parametrize("truth", ["prior", "analytic"])
def test_a_synthetic_sky_is_its_truth_with_noise(tmp_path, truth):
    of = {"truth": truth, "length": 5.0, "slope": 6.0, "scale": 0.5, "offset": -21.2, "seed": 4}
    if truth == "analytic":
        of = {"truth": truth, "seed": 4}
    run = RunFile.from_mapping({**SMALL, "data": {"synthetic": of}, "mask": {"kind": "none"}})
    found = assemble(run, tmp_path)
    problem = found.problem
    assert (tmp_path / "input" / "I_dust.hdf5").exists()
    residual = (problem.sky - problem.predict(found.truth.density)) / problem.sigma
    # chi^2 of 48 pixels: mean 48, standard deviation sqrt(96)
    assert np.sum(residual**2) == pytest.approx(48, abs=4 * np.sqrt(96))
    clean = problem.predict(found.truth.density)
    np.testing.assert_allclose(problem.sigma, 0.05 * clean + 0.02 * np.median(clean), rtol=1e-6)
    if truth == "prior":
        assert found.truth.hyperparameters.length == 5.0
    else:
        assert found.truth.hyperparameters is None
        assert (found.truth.density > 0).all()
    again = assemble(run, tmp_path)
    assert again.fingerprint == found.fingerprint
    np.testing.assert_array_equal(again.truth.density, found.truth.density)


def test_a_synthetic_sky_may_shine_on_a_measured_gas(files):
    folder, _ = files
    data = {"synthetic": {"truth": "analytic"}, "gas": {"path": str(folder / "gas.fits")}}
    found = assemble(RunFile.from_mapping({**SMALL, "data": data}), folder / "run")
    assert not (folder / "run" / "input" / "gas.fits").exists()
    assert found.fingerprint["inputs"]["gas"]["name"] == "gas.fits"
    assert found.truth is not None


def test_a_synthetic_sky_of_another_grid_is_refused(tmp_path):
    assemble(run_of(data={"synthetic": {"truth": "analytic"}}), tmp_path)
    with pytest.raises(InputFileError, match="was made for another grid"):
        assemble(run_of(data={"synthetic": {"truth": "analytic"}}, grid={"nside": 2, "n_shell": 8}), tmp_path)


@pytest.fixture
def example(tmp_path, monkeypatch):
    with plugged.site(tmp_path / "site", monkeypatch) as site:
        plugged.install_example(site.folder)
        yield site


def test_a_model_of_a_package_decides_with_its_version(example, tmp_path):
    run = run_of(emission={"model": "delta-function"})
    assert run.emissivity((1.0, 3.0)).band_coefficient > 0
    origin = {
        "distribution": "crdist-example",
        "version": "1.0",
        "entry_point": "delta-function = crdist_delta:delta_function",
    }
    assert run.deciding()["emission"]["plugin"] == origin
    assert "plugin" not in run_of().deciding()["emission"]
    # what a store of samples says of it
    create_store(tmp_path / "p.zarr", run, assemble(run, tmp_path))
    assert read_posterior_header(tmp_path / "p.zarr").provenance["run"]["emission"]["plugin"] == origin
    assert open_inference(tmp_path / "p.zarr").attrs["emissivity"]["plugin"] == origin
    # another version does not go on with the samples of this one
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.settings.write_text(run.to_yaml())
    identify(folder, {"run": run.deciding()})
    refuse_other(folder, run, resume=True)
    metadata = example.folder / "crdist_example-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.0", "1.1"))
    with pytest.raises(CheckpointError, match=r"emission\.plugin\.version: 1\.0 -> 1\.1"):
        refuse_other(folder, run, resume=True)


def test_a_broken_model_of_a_package_is_named(example):
    example.add("dim", "2.0", {"crdist.emissivity": {"dim": "dim:model"}}, "model = 3\n")
    with pytest.raises(RecipeError) as caught:
        run_of(emission={"model": "dim"})
    assert str(caught.value) == (
        "run file: emission: 'dim' of dim 2.0 (crdist.emissivity: dim:model): is a int, expected a function (alpha, "
        "e_min_gev, e_max_gev); update or remove that package"
    )
