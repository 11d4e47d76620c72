"""Gas maps brought to the grid of the inference: against numpy and healpy, with columns conserved."""

import tracemalloc

import healpy
import numpy as np
import pytest
from astropy import units as u
from hypothesis import given
from hypothesis import strategies as st

import layouts
from crdist.errors import CrdistError, GridError, InputFileError, RecipeError, SchemaError
from crdist.grids import SphericalGrid
from crdist.importers import import_map
from crdist.schema import Variable
from crdist.store import append_sample, create_posterior
from crdist_inference import gas
from crdist_inference.gas import GasCube, read_gas, shell_overlaps
from crdist_inference.synthetic import write_published_gas
from strategies import spherical_grids

CM_PER_KPC = u.kpc.to(u.cm)
GRID = SphericalGrid.log_spaced(4, 9, 0.05, 30.0)


def refused(match, error=InputFileError, call=read_gas, **options):
    def run(*args):
        with pytest.raises(error, match=match) as caught:
            call(*args, **options)
        assert isinstance(caught.value, CrdistError)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return run


def nuclei(written, xco_rescale=1.0):
    """Posterior mean of n_HI + 2 n_H2 of a file, nested, (pixel, shell)."""
    values = {name: array.astype(np.float64).mean(axis=-1) for name, array in written.values.items()}
    return values["n_hi"] + 2 * xco_rescale * values["n_h2"]


def expected(density, edges_kpc, grid):
    """The same by other means: healpy's downgrade, and differences of the cumulative column."""
    coarse = np.stack([healpy.ud_grade(shell, grid.nside, order_in="NEST") for shell in density.T], axis=1)
    cumulative = np.concatenate([np.zeros((grid.n_pixel, 1)), np.cumsum(coarse * np.diff(edges_kpc), axis=1)], axis=1)
    at_edges = np.stack([np.interp(grid.edges, edges_kpc, line) for line in cumulative])
    return np.diff(at_edges, axis=1) / grid.widths


# the published layout


@pytest.mark.parametrize("ordering", [None, "NESTED", "RING"])
@pytest.mark.parametrize("axes", [("pixel", "shell", "sample"), ("sample", "shell", "pixel"), ("shell", "pixel")])
def test_published_file(tmp_path, ordering, axes):
    written = layouts.write_soding(tmp_path / "gas.fits", ordering=ordering, axes=axes, n_sample=5)
    cube = read_gas(tmp_path / "gas.fits", GRID)
    np.testing.assert_allclose(cube.hydrogen_density, expected(nuclei(written), written.edges_kpc, GRID), rtol=1e-10)
    assert cube.provenance["n_sample"] == (5 if "sample" in axes else 1)
    assert cube.provenance["source"]["name"] == "gas.fits"
    assert cube.hydrogen_density.dtype == np.float64


def test_the_files_own_grid_changes_nothing(tmp_path):
    written = layouts.write_soding(tmp_path / "gas.fits")
    grid = SphericalGrid(8, tuple(written.edges_kpc))
    np.testing.assert_allclose(read_gas(tmp_path / "gas.fits", grid).hydrogen_density, nuclei(written), rtol=1e-12)


def test_molecules_count_twice_and_are_rescaled(tmp_path):
    written = layouts.write_soding(tmp_path / "gas.fits")
    for factor in (0.0, 1.15):
        cube = read_gas(tmp_path / "gas.fits", GRID, xco_rescale=factor)
        wanted = expected(nuclei(written, factor), written.edges_kpc, GRID)
        np.testing.assert_allclose(cube.hydrogen_density, wanted, rtol=1e-10)
        assert cube.provenance["config"]["xco_rescale"] == factor


@pytest.mark.parametrize("block_bytes", [1, 20_000])
def test_blocks_do_not_matter(tmp_path, monkeypatch, block_bytes):
    layouts.write_soding(tmp_path / "gas.fits")
    whole = read_gas(tmp_path / "gas.fits", GRID)
    monkeypatch.setattr(gas, "READ_BYTES", block_bytes)
    calls = []
    cube = read_gas(tmp_path / "gas.fits", GRID, progress=lambda *call: calls.append(call))
    np.testing.assert_allclose(cube.hydrogen_density, whole.hydrogen_density, rtol=1e-14)
    assert len(calls) > 1
    assert calls == [(i + 1, len(calls)) for i in range(len(calls))]


def test_memory_is_bounded_by_the_block(tmp_path, monkeypatch):
    layouts.write_soding(tmp_path / "gas.fits", nside=16, n_shell=100, n_sample=8)
    size = (tmp_path / "gas.fits").stat().st_size
    monkeypatch.setattr(gas, "READ_BYTES", 500_000)
    monkeypatch.setattr("crdist.importers.filearray.PIECE_BYTES", 500_000)  # of the digest
    read_gas(tmp_path / "gas.fits", GRID)  # imports and caches are not what is measured
    tracemalloc.start()
    try:
        read_gas(tmp_path / "gas.fits", GRID)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # blocks of half a megabyte, their means in double precision, and the result itself
    assert peak < 4_000_000 < 0.25 * size


def test_synthetic_galaxy_end_to_end(tmp_path):
    path = write_published_gas(tmp_path / "gas.fits", nside=8, n_shell=40, n_sample=4, seed=1)
    fine = read_gas(path, SphericalGrid.log_spaced(8, 40, 0.05, 30.0))
    cube = read_gas(path, GRID)
    np.testing.assert_allclose(cube.column(), fine.column().reshape(-1, 4).mean(axis=1), rtol=1e-9)
    # pixels of 15 deg: the disc fills part of those in it
    disc, pole = (cube.column()[healpy.ang2pix(4, 0.0, b, nest=True, lonlat=True)] for b in (0.0, 90.0))
    assert 1e22 > disc > 5 * pole > 5e19


# radial rebinning


@given(source=spherical_grids(max_level=0), target=spherical_grids(max_level=0), seed=st.integers(0, 99))
def test_columns_are_conserved_for_any_edges(source, target, seed):
    density = np.random.default_rng(seed).lognormal(size=source.n_shell)
    rebinned = density @ shell_overlaps(source.edges, target.edges) / target.widths
    # what each grid has between the edges of the other
    shared = np.clip(source.edges, target.edges[0], target.edges[-1])
    assert rebinned @ target.widths == pytest.approx(density @ np.diff(shared), rel=1e-12, abs=1e-12)
    assert rebinned.min() >= 0.0
    assert rebinned.max() <= density.max() * (1 + 1e-12)


@given(grid=spherical_grids(max_level=0))
def test_overlaps_tile_both_grids(grid):
    within = SphericalGrid(1, (grid.edges_kpc[0] / 2, *grid.edges_kpc, 2 * grid.edges_kpc[-1]))
    overlaps = shell_overlaps(within.edges, grid.edges)
    np.testing.assert_allclose(overlaps.sum(axis=0), grid.widths, rtol=1e-12)
    np.testing.assert_allclose(overlaps.sum(axis=1)[1:-1], grid.widths, rtol=1e-12)
    np.testing.assert_allclose(shell_overlaps(grid.edges, grid.edges), np.diag(grid.widths), rtol=1e-12)


def test_beyond_the_map_there_is_no_gas(tmp_path):
    edges = np.geomspace(0.1, 5.0, 13)
    written = layouts.write_soding(tmp_path / "gas.fits", edges_kpc=edges)
    grid = SphericalGrid(8, (0.01, 0.05, 1.0, 4.0, 8.0, 30.0))
    cube = read_gas(tmp_path / "gas.fits", grid)
    assert not cube.hydrogen_density[:, [0, 4]].any()
    column = nuclei(written) @ np.diff(edges) * CM_PER_KPC
    np.testing.assert_allclose(cube.column(), column, rtol=1e-12)
    assert cube.provenance["notes"] == ["the map covers 0.1 to 5 kpc; elsewhere the gas is 0"]
    assert read_gas(tmp_path / "gas.fits", SphericalGrid(4, (0.1, 1.0, 5.0))).provenance["notes"] == []


# the record


def cube_of(density=1.0, inner="exclude", grid=GRID):
    return GasCube(grid, np.full((grid.n_pixel, grid.n_shell), density), inner)


def test_columns_in_cm2():
    cube = cube_of(2.0)
    np.testing.assert_allclose(cube.column(), 2.0 * 29.95 * CM_PER_KPC, rtol=1e-12)
    np.testing.assert_allclose(cube.shell_columns(), 2.0 * CM_PER_KPC * np.tile(GRID.widths, (192, 1)), rtol=1e-12)
    np.testing.assert_allclose(cube.shell_columns().sum(axis=1), cube.column(), rtol=1e-12)


def test_the_inner_sphere_is_a_choice():
    """0.05 kpc of 1 cm-3 are 1.5e20 cm-2; the density itself is the same."""
    without, with_it = cube_of(), cube_of(inner="extend")
    np.testing.assert_array_equal(with_it.hydrogen_density, without.hydrogen_density)
    np.testing.assert_allclose(with_it.column() - without.column(), 1.5428e20, rtol=1e-4)
    assert with_it.path_lengths_kpc.sum() == pytest.approx(30.0)
    assert without.path_lengths_kpc.sum() == pytest.approx(29.95)


def test_inner_is_handed_on(tmp_path):
    layouts.write_soding(tmp_path / "gas.fits")
    assert read_gas(tmp_path / "gas.fits", GRID, inner="extend").inner == "extend"


def test_empty_lines_of_sight_are_counted_and_told():
    density = np.ones((192, 9))
    density[[3, 7, 50]] = 0.0
    density[9, 1:] = 0.0  # some gas is enough
    cube = GasCube(GRID, density)
    used = np.ones(192, dtype=bool)
    used[3] = False
    assert cube.empty_sightlines().tolist() == [3, 7, 50]
    assert cube.empty_sightlines(used).tolist() == [7, 50]
    line = cube.describe_empty_sightlines(used)
    assert line.startswith("2 of 191 used lines of sight have no gas (nested pixel 7 first)")
    assert "\n" not in line
    assert cube_of().describe_empty_sightlines() == ""
    refused(r"bool of shape \(192,\), got bool \(3,\)", GridError, cube.empty_sightlines)(np.ones(3, dtype=bool))
    refused("got int64", GridError, cube.empty_sightlines)(np.ones(192, dtype=np.int64))


def test_a_cube_is_its_own_and_cannot_be_changed():
    density = np.ones((192, 9))
    cube = GasCube(GRID, density)
    density[:] = 5.0
    assert cube.hydrogen_density.max() == 1.0
    with pytest.raises(ValueError, match="read-only"):
        cube.hydrogen_density[0, 0] = 2.0


@pytest.mark.parametrize(
    ("density", "error", "match"),
    [
        (np.ones((192, 8)), GridError, r"gas on this grid has shape \(192, 9\), got \(192, 8\)"),
        (np.full((192, 9), np.nan), InputFileError, "the gas is nan in nested pixel 0, shell 0"),
        (np.full((192, 9), -1.0), InputFileError, "the gas is -1 in nested pixel 0"),
        (np.full((192, 9), np.inf), InputFileError, "must be known and not negative"),
    ],
)
def test_an_impossible_cube_is_refused(density, error, match):
    refused(match, error, GasCube)(GRID, density)


# posterior stores


@pytest.mark.parametrize("xco_rescale", [1.0, 1.15])
def test_a_store_is_as_good_as_its_file(tmp_path, xco_rescale):
    layouts.write_soding(tmp_path / "gas.fits")
    header = import_map(tmp_path / "gas.fits", tmp_path / "gas.zarr")
    direct = read_gas(tmp_path / "gas.fits", GRID, xco_rescale=xco_rescale)
    through = read_gas(header.path, GRID, xco_rescale=xco_rescale)
    np.testing.assert_array_equal(through.hydrogen_density, direct.hydrogen_density)
    assert through.provenance["source"]["provenance"]["source"]["name"] == "gas.fits"
    assert through.provenance["n_sample"] == 4


def store_of(path, variables, grid, samples):
    create_posterior(path, grid, variables, n_sample=0, layout="appended", provenance={})
    for values in samples:
        append_sample(path, values)
    return path


@pytest.mark.parametrize("ordering", ["nested", "ring"])
def test_a_store_of_one_quantity_in_any_unit_and_order(tmp_path, rng, ordering):
    fine = SphericalGrid.log_spaced(8, 6, 0.05, 30.0, ordering)
    samples = [rng.lognormal(size=(768, 6)).astype(np.float32) for _ in range(3)]
    variable = Variable("hydrogen", "m-3", "number density of hydrogen nuclei")
    path = store_of(tmp_path / "g.zarr", [variable], fine, [{"hydrogen": sample} for sample in samples])
    mean = 1e-6 * np.mean(samples, axis=0, dtype=np.float64)
    if ordering == "ring":
        mean = mean[healpy.nest2ring(8, np.arange(768))]
    cube = read_gas(path, GRID)
    np.testing.assert_allclose(cube.hydrogen_density, expected(mean, fine.edges, GRID), rtol=1e-9)
    refused("does not tell molecules", RecipeError, xco_rescale=1.2)(path, GRID)


def test_a_damaged_store_is_named(tmp_path):
    layouts.write_soding(tmp_path / "gas.fits")
    header = import_map(tmp_path / "gas.fits", tmp_path / "gas.zarr")
    shard = next(path for path in (header.path / "n_h2" / "c").rglob("*") if path.is_file())
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    refused("n_h2 cannot be read near nested pixel 0; 'crdist check .*' names", SchemaError)(header.path, GRID)


def test_stores_that_are_not_gas(tmp_path):
    grid = SphericalGrid.log_spaced(4, 3, 0.05, 30.0)
    ones = np.ones((192, 3))
    empty = store_of(tmp_path / "empty.zarr", [Variable("n_h", "cm-3", "gas")], grid, [])
    refused("holds no sample yet", SchemaError)(empty, GRID)
    rays = store_of(tmp_path / "rays.zarr", [Variable("C", "GeV-1 cm-3", "rays")], grid, [{"C": ones}])
    refused("is a number density .cm-3., this one is in 'GeV-1 cm-3'")(rays, GRID)
    atoms = store_of(tmp_path / "hi.zarr", [Variable("n_hi", "cm-3", "atoms")], grid, [{"n_hi": ones}])
    refused("has n_hi, but gas is both n_hi and n_h2", SchemaError)(atoms, GRID)
    mixed = [Variable("n_hi", "cm-3", "atoms"), Variable("n_h2", "m-3", "molecules")]
    both = store_of(tmp_path / "mixed.zarr", mixed, grid, [{"n_hi": ones, "n_h2": ones}])
    refused("are in different units, cm-3 and m-3", SchemaError)(both, GRID)
    refused("not a Zarr store", SchemaError)(tmp_path, GRID)


# files that are not right


def test_bad_requests(tmp_path):
    layouts.write_soding(tmp_path / "gas.fits", nside=2, n_shell=5)
    path = tmp_path / "gas.fits"
    assert str(path) in refused("cannot be made finer", GridError)(path, GRID)
    refused("is nested, got ring order", GridError)(path, SphericalGrid(2, (1.0, 2.0), ordering="ring"))
    coarse = SphericalGrid(2, (1.0, 2.0))
    refused("inner must be one of exclude, extend, got 'mirror'", RecipeError, inner="mirror")(path, coarse)
    for factor in (-1.0, np.nan, np.inf):
        refused("xco_rescale must be a number from 0 up", RecipeError, xco_rescale=factor)(path, coarse)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5])
@pytest.mark.parametrize("variable", ["n_hi", "n_h2"])
def test_values_that_cannot_be_are_refused_with_their_place(tmp_path, monkeypatch, value, variable):
    usual = layouts.samples

    def spoilt(nside, n_shell, n_sample, seed):
        values = usual(nside, n_shell, n_sample, seed)
        if seed == ("n_hi", "n_h2").index(variable):
            values[123, 4, 1] = value
        return values

    monkeypatch.setattr(layouts, "samples", spoilt)
    layouts.write_soding(tmp_path / "gas.fits")
    refused(f"gas.fits: {variable} is {value:g} in nested pixel 123, shell 4")(tmp_path / "gas.fits", GRID)


def test_files_of_other_kinds(tmp_path):
    refused("cannot be opened")(tmp_path / "none.fits", GRID)
    layouts.write_npz(tmp_path / "gas.npz")
    refused("neither a FITS file nor a posterior store; make a store of it")(tmp_path / "gas.npz", GRID)
    layouts.write_edenhofer(tmp_path / "dust.fits")
    refused("not in the layout of the published gas .3D gas maps of Söding .* make a store of it with 'crdist import'")(
        tmp_path / "dust.fits", GRID
    )
    layouts.write_soding(tmp_path / "gas.fits")
    (tmp_path / "cut.fits").write_bytes((tmp_path / "gas.fits").read_bytes()[:-5000])
    refused("cut short")(tmp_path / "cut.fits", GRID)
