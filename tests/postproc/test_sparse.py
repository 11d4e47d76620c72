"""Fields of which only some chunks are there: their values, their memory, and what refuses them."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdist.errors import GridError
from crdist.grids import SphericalGrid
from crdist_postproc.kernels.field import Field, ring_rows
from crdist_postproc.kernels.rows import fill_rows
from crdist_postproc.sparse import Chunks, committed_bytes, fill_sparsely, reserve
from resident import linux_only, resident_bytes


@linux_only
def test_reserved_addresses_take_memory_where_they_are_written_to():
    values = reserve(2**38 // 4)
    assert values.size == 2**36
    assert resident_bytes(values) == 0
    values[[0, 2**35, -1]] = 1.0
    assert resident_bytes(values) == 3 * 4096
    assert values[1] == 0.0


class Example:
    """Samples in chunks, the field of all of them, and one of some."""

    def __init__(self, nside=4, n_shell=9, n_sample=5, pixels=16, shells=4, ordering="nested", space="linear"):
        rng = np.random.default_rng(1)
        self.grid = SphericalGrid.log_spaced(nside, n_shell, 0.1, 10.0, ordering)
        self.samples = rng.uniform(1.0, 2.0, (self.grid.n_pixel, n_shell, n_sample)).astype(np.float32)
        self.samples[5, 2, 1] = np.nan if space == "linear" else 1.0
        self.space = space
        self.chunks = Chunks(
            (pixels,) * (self.grid.n_pixel // pixels), (shells,) * (n_shell // shells) + (n_shell % shells,)
        )
        self.whole = Field.from_samples(self.samples, self.grid, value_space=space)

    def filled(self, wanted, **options):
        pixels, shells = self.chunks.pixels, self.chunks.shells
        return fill_sparsely(
            self.whole,
            wanted,
            self.chunks,
            self.grid.n_pixel,
            lambda p: ring_rows(self.grid, np.arange(pixels[p], pixels[p + 1])),
            lambda p, s: self.samples[pixels[p] : pixels[p + 1], shells[s] : shells[s + 1]],
            self.space,
            **options,
        )

    def all_chunks(self):
        return np.ones((self.chunks.pixels.size - 1, self.chunks.shells.size - 1), dtype=bool)


def cells_of(field, n_pixel, shell):
    """The samples of all pixels at a shell, where the kernels look for them."""
    _, n_room, n_padded = field.values.shape
    first = 4 * shell * n_padded
    # from addresses, as the kernels do: the last cells lie behind the values' end
    size = 4 * ((n_pixel - 1) * n_room + 1) * n_padded
    from ctypes import c_char

    raw = (c_char * size).from_address(field.values.ctypes.data + first)
    return np.frombuffer(raw, dtype=np.float32).reshape(-1, n_padded)[::n_room].copy()


@given(
    data=st.data(),
    ordering=st.sampled_from(["nested", "ring"]),
    space=st.sampled_from(["linear", "log"]),
    n_sample=st.integers(1, 9),
)
def test_filled_chunks_hold_what_a_whole_field_holds(data, ordering, space, n_sample):
    example = Example(ordering=ordering, space=space, n_sample=max(n_sample, 2))
    shape = example.all_chunks().shape
    wanted = np.array(data.draw(st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])))
    wanted = wanted.reshape(shape)
    wanted[0, 1] = True
    before = example.samples.copy()
    field = example.filled(wanted, elsewhere=np.nan)
    np.testing.assert_array_equal(example.samples, before)
    chunk_of_row = np.empty(example.grid.n_pixel, dtype=int)
    rows = ring_rows(example.grid, np.arange(example.grid.n_pixel))
    chunk_of_row[rows] = np.repeat(np.arange(shape[0]), np.diff(example.chunks.pixels))
    for shell in range(example.grid.n_shell):
        there = wanted[chunk_of_row, np.searchsorted(example.chunks.shells, shell, side="right") - 1]
        cells = cells_of(field, example.grid.n_pixel, shell)
        np.testing.assert_array_equal(cells[there], example.whole.values[there, shell])
        assert np.isnan(cells[~there]).all()


def test_kernels_read_a_window_of_shells_where_it_lies():
    example = Example(nside=8, n_shell=12, pixels=768, shells=4)
    wanted = np.array([[False, True, False]])
    field = example.filled(wanted)
    assert field.values.shape[1] == 4
    rng = np.random.default_rng(2)
    directions = rng.normal(size=(200, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    low, high = example.grid.centres[[4, 7]]
    starts = directions * rng.uniform(low * 1.001, high * 0.999, (200, 1))
    np.testing.assert_array_equal(
        fill_rows(field, starts, np.zeros(3), 1), fill_rows(example.whole, starts, np.zeros(3), 1)
    )
    for shell in (3, 8):
        beyond = directions * example.grid.centres[shell]
        assert np.isnan(fill_rows(example.filled(wanted, elsewhere=np.nan), beyond, np.zeros(3), 1)).all()


@linux_only
@pytest.mark.parametrize("ordering", ["nested", "ring"])
@pytest.mark.parametrize("shells", [2, 8, 64])
def test_memory_is_bounded(ordering, shells):
    """Also where chunks are so thin that they share their pages with what is not there."""
    example = Example(nside=16, n_shell=65, n_sample=4, pixels=64, shells=shells, ordering=ordering)
    rng = np.random.default_rng(3)
    for part in (0.02, 0.3, 1.0):
        wanted = rng.random(example.all_chunks().shape) < part
        field = example.filled(wanted)
        bound = committed_bytes(wanted, example.chunks, field.values.shape[2])
        taken = resident_bytes(field.values)
        assert 0 < taken <= bound
        # of the thinnest chunks most of a page is wasted, and known to be
        assert bound < 3 * taken + 2**16


def test_what_a_field_refuses_is_refused_in_its_parts():
    example = Example()
    example.samples[100, 6, 2] = np.inf
    wanted = np.zeros_like(example.all_chunks())
    wanted[0] = True
    example.filled(wanted)
    with pytest.raises(GridError, match=r"must be finite.*got 1 infinite"):
        example.filled(example.all_chunks())
    example.samples[100, 6, 2] = -1.0
    example.space = "log"
    with pytest.raises(GridError, match="'log' needs positive samples, got -1"):
        example.filled(example.all_chunks()[:, 1:2] @ np.array([[False, True, False]]))


@linux_only
def test_a_limit_on_addresses_is_named():
    script = """
import resource
from crdist_postproc.sparse import reserve
resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))
try:
    reserve(2**36)
except ValueError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "PlanTooLargeError the system refuses to reserve 256.0 GiB of addresses" in done.stdout
    assert "ulimit -v unlimited" in done.stdout
