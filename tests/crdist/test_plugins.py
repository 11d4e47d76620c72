"""Installed packages add to crdist: the example of the documentation, and packages that are broken."""

import os
import subprocess
import sys

import numpy as np
import pytest

import plugged
from crdist import doctor
from crdist.check import check_store
from crdist.errors import DependencyError, InputFileError, RecipeError
from crdist.exporters import EXPORTERS, export_store
from crdist.grids import SphericalGrid
from crdist.importers import LAYOUTS, import_map
from crdist.plugins import TABLES, PluginTable, plugins, table
from crdist.store import open_for_reading
from galaxies import small_posterior, smooth_samples

BUILTIN_LAYOUTS = tuple(LAYOUTS.builtin)


@pytest.fixture
def site(tmp_path, monkeypatch):
    with plugged.site(tmp_path / "site", monkeypatch) as site:
        yield site


@pytest.fixture
def install(site):
    """A function that puts a package where Python finds it, here and in other processes."""
    return site.add


@pytest.fixture
def example(site):
    plugged.install_example(site.folder)


@pytest.fixture
def cube(tmp_path):
    grid = SphericalGrid.log_spaced(4, 6, 0.1, 5.0)
    values = smooth_samples(grid, 3)
    np.save(tmp_path / "map.npy", values)
    np.savetxt(tmp_path / "map.edges.txt", grid.edges_kpc)
    return tmp_path / "map.npy", values


def crdist(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "crdist.cli", *map(str, arguments)], capture_output=True, text=True, env=os.environ
    )


@pytest.mark.usefixtures("example")
def test_the_example_imports_and_exports(cube, tmp_path):
    source, values = cube
    header = import_map(source, tmp_path / "map.zarr", layout="npy-shells", units="cm-3")
    assert np.array_equal(np.asarray(open_for_reading(header.path, "density")[...]), values)
    assert check_store(header.path) == []
    assert header.provenance["layout"] == "npy-shells"
    assert header.provenance["plugin"] == {
        "distribution": "crdist-example",
        "version": "1.0",
        "entry_point": "npy-shells = crdist_npy:IMPORTER",
    }
    export_store(header.path, tmp_path / "mean.npy", to="npy-mean")
    np.testing.assert_allclose(np.load(tmp_path / "mean.npy"), values.astype(float).mean(axis=-1), rtol=1e-12)
    # the ending alone says it, too: nothing built in is called .npy
    export_store(header.path, tmp_path / "again.npy")
    assert (tmp_path / "again.npy").read_bytes() == (tmp_path / "mean.npy").read_bytes()


@pytest.mark.usefixtures("example")
def test_the_example_on_the_command_line(cube, tmp_path):
    source, _ = cube
    done = crdist("import", source, tmp_path / "map.zarr", "--layout", "npy-shells", "--units", "cm-3")
    assert done.returncode == 0, done.stderr
    assert "3 samples of density [cm-3]" in done.stdout
    listed = crdist("export", "--list").stdout.splitlines()
    assert listed[-1] == "npy-mean   from posterior: mean over the samples, for numpy.load [crdist-example 1.0]"


@pytest.mark.usefixtures("example")
def test_errors_of_the_example_are_one_line(cube, tmp_path):
    source, _ = cube
    (tmp_path / "map.edges.txt").unlink()
    with pytest.raises(InputFileError, match=r"shell edges are missing; write them, in kpc, to .*map\.edges\.txt$"):
        import_map(source, tmp_path / "map.zarr", layout="npy-shells", units="cm-3")
    with pytest.raises(RecipeError, match=r"layout must be one of .*, npy-shells, got 'npy-shell'"):
        import_map(source, tmp_path / "map.zarr", layout="npy-shell")
    assert not (tmp_path / "map.zarr").exists()


BROKEN = {
    "crdist.importers": {"gone": "bad_maps:NOWHERE", "wrong": "bad_maps:WRONG"},
    "crdist.exporters": {"fails": "bad_maps_too:X"},
    "crdist.emissivity": {"no-model": "bad_maps:WRONG"},
    "crdist.products": {"no-product": "bad_maps:WRONG"},
    "crdist.clusters": {"no-cluster": "bad_maps:WRONG"},
}


def test_a_broken_package_harms_only_who_asks_for_it(install, example, cube, tmp_path):
    install("bad-maps", "0.2", BROKEN, "WRONG = 3\n")
    (tmp_path / "site" / "bad_maps_too.py").write_text("raise ValueError('built for\\nanother time')\n")
    with pytest.raises(DependencyError) as caught:
        LAYOUTS["gone"]
    assert str(caught.value) == (
        "'gone' of bad-maps 0.2 (crdist.importers: bad_maps:NOWHERE): cannot be loaded (AttributeError: module "
        "'bad_maps' has no attribute 'NOWHERE'); update or remove that package"
    )
    with pytest.raises(DependencyError, match=r"'wrong' of bad-maps 0\.2 .*: is a int, expected a MapLayout"):
        LAYOUTS["wrong"]
    with pytest.raises(DependencyError, match=r"\(ValueError: built for another time\)"):
        EXPORTERS["fails"]
    # the others work all the same
    header = import_map(cube[0], tmp_path / "map.zarr", layout="npy-shells", units="cm-3")
    export_store(header.path, tmp_path / "mean.npy")
    listed = crdist("export", "--list")
    assert listed.returncode == 0
    assert "npy-mean" in listed.stdout
    assert "bad-maps 0.2" in listed.stderr
    found = doctor.check_plugins(60.0)
    assert sorted(finding.state for finding in found) == ["broken"] * 6 + ["ok"] * 5
    told = "\n".join(map(str, found))
    for group in TABLES:
        assert f"({group}: bad_maps" in told
        assert f"of crdist-example 1.0 ({group}: " in told


def test_built_in_names_cannot_be_taken_over(install):
    install("thief", "6.6", {"crdist.importers": {"npz": "thief:X"}}, "raise SystemExit('taken over')\n")
    assert LAYOUTS["npz"] is LAYOUTS.builtin["npz"]
    assert LAYOUTS.origin("npz") == {}
    assert list(LAYOUTS) == list(BUILTIN_LAYOUTS)
    (clash,) = LAYOUTS.clashes()
    assert clash.distribution == "thief"
    (found,) = doctor.check_plugins(60.0)
    assert found.state == "broken"
    assert found.text.startswith("'npz' of thief 6.6 (crdist.importers: thief:X): that name is built in")


def test_two_packages_with_one_name(install):
    for name in ("one", "other"):
        install(name, "1.0", {"crdist.importers": {"green": f"{name}:X"}}, "X = None\n")
    with pytest.raises(RecipeError, match=r"'green' of one 1\.0 .* and 'green' of other 1\.0 .* have the same name"):
        LAYOUTS["green"]
    assert "green" in LAYOUTS
    assert len(LAYOUTS) == len(BUILTIN_LAYOUTS) + 1


def test_names_that_differ_are_refused(install):
    install(
        "odd",
        "1.0",
        {"crdist.importers": {"green": "odd:X"}},
        "from crdist.importers import LAYOUTS\nX = LAYOUTS['npz']\n",
    )
    with pytest.raises(DependencyError, match="calls itself 'npz'; the entry point must have the same name"):
        LAYOUTS["green"]


def test_nothing_is_imported_before_it_is_asked_for(install, tmp_path):
    install("slow", "1.0", {"crdist.exporters": {"slow": "slow:X"}}, "raise ValueError('too early')\n")
    store = small_posterior(tmp_path / "posterior.zarr").path
    export_store(store, tmp_path / "map.fits", to="healpix", shell=0)
    assert "slow" in EXPORTERS
    assert "slow" not in sys.modules
    assert [plugin.name for plugin in plugins("crdist.exporters")] == ["slow"]


def test_a_table_without_plugins_is_a_mapping():
    none = PluginTable("crdist.none", int, {"one": 1})
    assert dict(none) == {"one": 1}
    assert "two" not in none
    with pytest.raises(KeyError):
        none["two"]


@pytest.mark.parametrize("group", TABLES)
def test_every_group_has_its_table(group, install):
    found = table(group)
    assert found.group == group
    assert found.builtin
    taken = next(iter(found.builtin))
    install("thief", "6.6", {group: {taken: "thief:X"}}, "raise SystemExit('taken over')\n")
    assert found[taken] is found.builtin[taken]
    assert found.plugin(taken) is None
    assert [plugin.distribution for plugin in found.clashes()] == ["thief"]
