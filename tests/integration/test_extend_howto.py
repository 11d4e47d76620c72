"""What docs/howto/extend.md tells to type does what it says, with its example installed by pip."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import plugged
from crdist.cli import app
from crdist.grids import SphericalGrid

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "extend.md"
ORIGIN = {"distribution": "crdist-example", "version": "1.0"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    grid = SphericalGrid.log_spaced(4, 8, 0.1, 9.0)
    # one density everywhere, another one in each sample
    values = np.broadcast_to(np.array([1.0, 2.0, 6.0]), (grid.n_pixel, grid.n_shell, 3))
    np.save(tmp_path / "map.npy", values)
    np.savetxt(tmp_path / "map.edges.txt", grid.edges_kpc)
    monkeypatch.chdir(tmp_path)
    with plugged.site(tmp_path / "site", monkeypatch) as site:
        plugged.install_example(site.folder)
        yield tmp_path


def test_the_page_does_what_it_says(folder):
    printed, names = {}, {}
    for language, text in re.findall(r"^```(sh|python|yaml)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        if language == "yaml":
            Path(re.match(r"# (\w+\.yaml)\n", text)[1]).write_text(text)
        elif language == "python":
            exec(compile(text, str(PAGE), "exec"), names)
        else:
            for line in text.splitlines():
                words = shlex.split(line, comments=True)
                assert words[0] == "crdist"
                result = CliRunner().invoke(app, words[1:])
                assert result.exit_code == 0, (line, result.output, result.exception)
                printed[" ".join(words[1:])] = result.stdout
    np.testing.assert_array_equal(np.load("mean.npy"), 3.0)
    assert (
        "npy-mean   from posterior: mean over the samples, for numpy.load [crdist-example 1.0]"
        in printed["export --list"]
    )
    assert 1 < names["ratio"] < 2
    assert names["delta"].to_dict()["plugin"] == {
        **ORIGIN,
        "entry_point": "delta-function = crdist_delta:delta_function",
    }
    assert names["package"] == {**ORIGIN, "entry_point": "sphere = crdist_sphere:KIND"}
    volumes = 4 / 3 * np.pi * (np.array([0.5, 1.0, 2.0]) * 3.0856775814913673e21) ** 3
    np.testing.assert_allclose(names["atoms"], 3.0 * volumes, rtol=1e-6)
    np.testing.assert_allclose(names["spheres"]["near_sun"]["std"], np.std([1, 2, 6], ddof=1) * volumes, rtol=1e-6)
    listed = [line.split() for line in printed["cluster list"].splitlines()]
    assert ["whole-nodes", "[crdist-example", "1.0]"] in [[line[0], *line[-2:]] for line in listed]
    for shown in ("cluster show whole-nodes", "cluster show ours.yaml"):
        assert {"#SBATCH --exclusive", "#SBATCH --mem=0"} <= set(printed[shown].splitlines())
    assert "#SBATCH -p normal" in printed["cluster show ours.yaml"]
    # what is derived with a model says whose it is, too
    samples = names["crdist"].open_posterior("map.zarr")["density"]
    made = names["crdist"].source_density(samples, samples, names["delta"])
    assert made.attrs["emissivity"]["plugin"]["version"] == "1.0"


def test_what_the_page_takes_from_the_example_is_there():
    taken = re.findall(
        r'```\{literalinclude\} \.\./\.\./examples/plugin/(\w+\.py)\n:language: python\n:start-after: "(.*)"\n'
        r':end-before: "(.*)"\n```',
        PAGE.read_text(),
    )
    assert len(taken) == 7
    for name, start, end in taken:
        source = (plugged.EXAMPLE / name).read_text()
        assert source.index(f"{start}\n") < source.index(f"{end}\n")
