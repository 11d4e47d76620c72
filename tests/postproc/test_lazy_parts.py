"""Sources of which no more than a part is in memory: the same bits, and no more read than is reached."""

from functools import partial

import dask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crdist
from crdist.errors import RecipeError
from crdist.frames import Frame
from crdist.grids import Axis, CartesianGrid, SphericalGrid
from crdist_postproc import lazy
from crdist_postproc.lazy_blocks import BlockReader
from crdist_postproc.products.base import Block
from crdist_postproc.products.tiling import lattice_of, tile_rows
from galaxies import smooth_samples, write_posterior
from resident import linux_only, resident_bytes

MEMORY = "800 kB"
"""For a tile: less than half of the samples below."""

CHUNKS = {"pixel": 64, "shell": 10}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The same samples, nested and in RING order, some cells masked."""
    folder = tmp_path_factory.mktemp("parts")
    grid = SphericalGrid.log_spaced(16, 40, 0.05, 20.0)
    samples = smooth_samples(grid, 4)
    samples[700:710, 20:25, 1] = np.nan
    write_posterior(folder / "p.zarr", grid, samples)
    return folder


@pytest.fixture
def density(stores):
    return crdist.open_posterior(stores / "p.zarr")["density"].chunk(CHUNKS)


def in_ring_order(density):
    """The same samples with pixels in RING order."""
    import healpy

    nside = 2 ** density["cell_ids"].attrs["level"]
    ring = density.isel(pixel=healpy.ring2nest(nside, np.arange(density.sizes["pixel"])))
    attrs = {**density["cell_ids"].attrs, "indexing_scheme": "ring"}
    return ring.assign_coords(cell_ids=("pixel", np.arange(density.sizes["pixel"]), attrs))


def with_memory(memory):
    return dask.config.set({"crdist.tile-memory": memory})


def whole(compute, samples):
    with with_memory("1 GiB"):
        return compute(samples.load()).compute(scheduler="sync")


@pytest.fixture
def nan_elsewhere(monkeypatch):
    """Whatever reads a cell that was not filled in gets NaN."""
    monkeypatch.setattr(lazy, "FieldInParts", partial(lazy.FieldInParts, elsewhere=np.nan))


def around_sun(frame, n=(16, 16, 12), half=(6.0, 6.0, 2.0)):
    """A grid about the Sun, none of whose planes of voxels holds it."""
    axes = [Axis(at + 0.13 - h, at + 0.13 + h, k) for at, h, k in zip(frame.sun_kpc, half, n, strict=True)]
    return CartesianGrid(*axes, frame)


FRAMES = (
    Frame(name="heliocentric"),
    Frame(name="galactocentric", r0_kpc=8.178, z_sun_kpc=0.0208, roll_deg=3.0),
)


@settings(max_examples=6)
@given(
    frame=st.sampled_from(FRAMES),
    method=st.sampled_from(["linear", "nearest"]),
    space=st.sampled_from(["linear", "log"]),
    inner=st.sampled_from(["extend", "exclude"]),
    pixel=st.sampled_from([64, 50, 192]),
    shell=st.sampled_from([10, 7, 3]),
    sample=st.sampled_from([4, 3, 1]),
    ring=st.booleans(),
    memory=st.sampled_from([MEMORY, "1.5 MB"]),
)
def test_parts_give_the_same_bits(
    stores, nan_elsewhere, frame, method, space, inner, pixel, shell, sample, ring, memory
):
    # in memory: what takes time here is to find and to open files
    density = crdist.open_posterior(stores / "p.zarr")["density"].load()
    if space == "log":
        density = density.fillna(1.0).assign_attrs(density.attrs)
    samples = in_ring_order(density) if ring else density
    chunked = samples.chunk({"pixel": pixel, "shell": shell, "sample": sample})
    grid = around_sun(frame)
    options = {"method": method, "value_space": space, "inner": inner}
    for compute in (
        lambda given: crdist.regrid(given, grid, **options),
        lambda given: crdist.project(given, grid, "x", **options),
        lambda given: crdist.slice_plane(given, grid, "z", 0.02, **options),
    ):
        with with_memory(memory):
            in_parts = compute(chunked)
        assert any(str(key).startswith("parts-") for key in in_parts.__dask_graph__().to_dict())
        np.testing.assert_array_equal(in_parts.compute(scheduler="sync"), whole(compute, density))


def test_threads_and_other_schedulers_agree(density):
    from distributed import Client, LocalCluster

    grid = around_sun(FRAMES[1], n=(64, 64, 8))
    expected = whole(lambda given: crdist.project(given, grid, "z"), density)
    with with_memory(MEMORY):
        columns = crdist.project(density, grid, "z")
        np.testing.assert_array_equal(columns.compute(scheduler="threads", num_workers=4), expected)
        options = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": "127.0.0.1:0"}
        with LocalCluster(**options) as cluster, Client(cluster):
            np.testing.assert_array_equal(columns.compute(), expected)
            # what the cluster holds is no task any more, and must still be found
            persisted = density.persist()
            np.testing.assert_array_equal(crdist.project(persisted, grid, "z").compute(), expected)
            np.testing.assert_array_equal(crdist.project(persisted * 1, grid, "z").compute(), expected)


def counted(samples, counts):
    """The samples, and how often each block of them is computed."""

    def look(block, block_info=None):
        if block_info:
            place = tuple(block_info[0]["chunk-location"])
            counts[place] = counts.get(place, 0) + 1
        return block

    return samples.copy(data=samples.data.map_blocks(look, dtype=samples.dtype, meta=samples.data._meta))


def test_only_what_is_reached_is_read(density):
    counts = {}
    far = CartesianGrid(Axis(4.0, 5.0, 10), Axis(4.0, 5.0, 10), Axis(0.5, 1.0, 5), FRAMES[0])
    with with_memory(MEMORY):
        volume = crdist.regrid(counted(density, counts), far)
        assert not counts
        volume.compute(scheduler="sync")
    assert 1 <= len(counts) <= 8 < density.data.npartitions / 8
    assert set(counts.values()) == {1}
    np.testing.assert_array_equal(volume, whole(lambda given: crdist.regrid(given, far), density))


def test_what_all_blocks_share_is_computed_once(density):
    counts = {}
    mean = counted((density.fillna(0.0) * 1).mean(), counts)
    ratio = (density / mean).assign_attrs(units="")
    grid = around_sun(FRAMES[0], n=(64, 64, 2))
    with with_memory(MEMORY):
        volume = crdist.regrid(ratio, grid)
        assert volume.data.npartitions == 4
        values = volume.compute(scheduler="sync")
    assert counts == {(): 1}
    np.testing.assert_array_equal(values, whole(lambda given: crdist.regrid(given, grid), ratio))


def test_a_mean_along_distance_is_shared_by_its_pixels_alone(density):
    """Shared tasks that a tile does not reach are not computed for it."""
    counts = {}
    samples = density.chunk({"shell": 4})
    profile = counted(samples.mean("shell", keep_attrs=True), counts)
    ratio = (samples / profile).assign_attrs(units="")
    far = CartesianGrid(Axis(4.0, 5.0, 10), Axis(4.0, 5.0, 10), Axis(0.5, 1.0, 5), FRAMES[0])
    with with_memory(MEMORY):
        values = crdist.regrid(ratio, far).compute(scheduler="sync")
    assert 1 <= len(counts) <= 4
    assert set(counts.values()) == {1}
    np.testing.assert_array_equal(values, whole(lambda given: crdist.regrid(given, far), ratio))


@linux_only
def test_no_part_takes_more_memory_than_it_may(density, monkeypatch):
    kept = []
    monkeypatch.setattr(lazy, "FieldInParts", lambda **fields: kept.append(FieldInParts(**fields)) or kept[-1])
    from crdist_postproc.parts import FieldInParts

    grid = around_sun(FRAMES[1])
    with with_memory(MEMORY):
        crdist.regrid(density, grid)
    (parts,) = kept
    block = Block("regrid", 0, ((0, grid.x.n), (0, grid.y.n)))
    starts, step, _ = tile_rows(grid, "z", block)
    seen = np.zeros((len(starts), grid.z.n), dtype=int)
    for part in parts.parts(lattice_of(grid, "z", block), starts, step):
        assert 0 < resident_bytes(part.field.values) <= 800_000
        seen[part.rows, part.first : part.first + part.n] += 1
    assert seen.max() == 1
    distance = np.linalg.norm(starts[:, None] + np.arange(grid.z.n)[:, None] * step, axis=-1)
    np.testing.assert_array_equal(seen == 1, distance <= 20.0)


def test_nothing_computes_and_equal_calls_share_their_tasks(density):
    def refuse(*_, **__):
        raise AssertionError("computed before it was asked to")

    grid = around_sun(FRAMES[0], n=(64, 8, 64))
    # a DataArray's chunk would chunk its coordinates, too
    density = density.copy(data=density.data).assign_coords(density.compute().coords)
    with dask.config.set(scheduler=refuse), with_memory(MEMORY):
        first, second = (crdist.project(density, grid, "y") for _ in range(2))
        other = crdist.project(density * 2, grid, "y")
    assert set(first.__dask_graph__().to_dict()) == set(second.__dask_graph__().to_dict())
    assert first.data.name != other.data.name
    assert first.data.npartitions == 4


def test_blocks_too_large_for_parts_are_read_whole(density):
    grid = around_sun(FRAMES[0])
    with with_memory(MEMORY):
        volume = crdist.regrid(density.chunk(-1), grid)
    assert not any(str(key).startswith("parts-") for key in volume.__dask_graph__().to_dict())
    np.testing.assert_array_equal(volume, whole(lambda given: crdist.regrid(given, grid), density))


def test_a_memory_that_is_none_is_refused(density):
    with (
        with_memory("much"),
        pytest.raises(RecipeError, match=r"crdist.tile-memory of Dask's configuration.*got 'much'"),
    ):
        crdist.regrid(density, around_sun(FRAMES[0]))


def test_a_reader_gives_the_blocks_that_dask_gives(density):
    array = (density.chunk({"sample": 3}) * 2).data
    reader = BlockReader.of(array)
    for pixel, shell in [(0, 0), (3, 1), (47, 3)]:
        np.testing.assert_array_equal(reader.read(pixel, shell, {}), array.blocks[pixel, shell].compute())
