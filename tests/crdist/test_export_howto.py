"""What docs/howto/export.md tells to type does what it says, in its order, in one folder."""

import re
import shlex
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr
from matplotlib import pyplot
from typer.testing import CliRunner

import crdist
from crdist.cli import app
from crdist.schema import INFERENCE_VARIABLES
from crdist.store import consolidate
from galaxies import SMALL_RECIPE, small_posterior

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "export.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("howto")
    small_posterior(path / "posterior.zarr", n_shell=12)
    crdist.run_products(path / "posterior.zarr", path / "products.zarr", SMALL_RECIPE)
    rng = np.random.default_rng(1)
    group = zarr.open_group(str(path / "posterior.zarr"), mode="r+").create_group("inference")
    for name in ("length", "slope", "scale", "offset"):
        array = group.create_array(name, data=rng.uniform(1, 2, 4), dimension_names=("sample",))
        array.attrs["units"] = INFERENCE_VARIABLES[name].units
    group.attrs.update({"status": "complete", "warnings": []})
    consolidate(path / "posterior.zarr")
    return path


def test_the_page_does_what_it_says(folder, monkeypatch):
    monkeypatch.chdir(folder)
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 15
    names = {}
    for language, text in blocks:
        if language == "sh":
            for line in text.splitlines():
                words = shlex.split(line, comments=True)
                assert words[0] == "crdist"
                result = CliRunner().invoke(app, words[1:])
                assert result.exit_code == 0, (line, result.output, result.exception)
        else:
            with warnings.catch_warnings():
                # dustmaps and arviz announce things when they are imported
                warnings.simplefilter("ignore")
                exec(compile(text, str(PAGE), "exec"), names)
    pyplot.close("all")
    assert names["provenance"]["exported"]["from"] == "products.zarr"
    assert names["plane"].n_points > 0
    # samples come back as the page promises
    assert CliRunner().invoke(app, ["import", "samples.fits", "again.zarr", "--name", "density"]).exit_code == 0
    one, other = (crdist.open_posterior(folder / name)["density"] for name in ("posterior.zarr", "again.zarr"))
    np.testing.assert_array_equal(one, other)
