"""What a box reaches: every chunk that healpy's neighbours lie in, and few others."""

import pickle

import healpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdist.errors import GridError
from crdist.frames import Frame
from crdist.grids import Axis, CartesianGrid, SphericalGrid
from crdist_postproc.kernels.field import Field
from crdist_postproc.products.base import Block
from crdist_postproc.products.tiling import lattice_of, tile_rows
from crdist_postproc.reach import Lattice, Reach
from strategies import frames, spherical_grids


def points_of(lattice):
    i, j, k = (np.arange(n) for n in lattice.shape)
    indices = np.stack(np.meshgrid(i, j, k, indexing="ij"), axis=-1).reshape(-1, 3)
    return lattice.origin + indices @ lattice.steps


def chunks_by_healpy(grid, pixel_chunks, shell_chunks, points, method, inner):
    """The chunks that hold a cell which interpolation at a point takes, or may take by a rounding error."""
    distance = np.linalg.norm(points, axis=1)
    points, distance = points[distance > 1e-9], distance[distance > 1e-9]
    inside = distance <= grid.edges[-1] * (1 - 1e-12)
    if inner == "exclude":
        inside &= distance >= grid.edges[0] * (1 + 1e-12)
    points, distance = points[inside], distance[inside]
    colatitude, longitude = healpy.vec2ang(points)
    if method == "linear":
        pixels, weights = healpy.get_interp_weights(grid.nside, colatitude, longitude, nest=grid.ordering == "nested")
        above = np.searchsorted(grid.centres, distance, side="right")
        shells = np.stack([above - 1, above]).clip(0, grid.n_shell - 1)
        pixels = np.where(weights > 1e-9, pixels, pixels[weights.argmax(axis=0), np.arange(pixels.shape[1])])
    else:
        pixels = healpy.ang2pix(grid.nside, colatitude, longitude, nest=grid.ordering == "nested")[None]
        shells = (np.searchsorted(grid.edges, distance, side="right") - 1).clip(0, grid.n_shell - 1)[None]
    chunk_of_pixel = np.repeat(np.arange(len(pixel_chunks)), pixel_chunks)
    chunk_of_shell = np.repeat(np.arange(len(shell_chunks)), shell_chunks)
    reached = np.zeros((len(pixel_chunks), len(shell_chunks)), dtype=bool)
    for pixel in pixels:
        for shell in shells:
            reached[chunk_of_pixel[pixel], chunk_of_shell[shell]] = True
    return reached


def cut(n, size):
    return (size,) * (n // size) + ((n % size,) if n % size else ())


@st.composite
def boxes(draw):
    """Boxes of points of any size, thin ones, and such as hold the Sun, in any frame."""
    frame = draw(frames())
    n = [draw(st.sampled_from([1, 2, 7, 20])) for _ in range(3)]
    # sizes from far below a pixel to beyond the grid, most of them about a place near the Sun
    voxel = [draw(st.sampled_from([1e-4, 0.01, 0.1, 1.0])) for _ in range(3)]
    middle = [at + draw(st.sampled_from([0.0, 0.003, 0.3, -2.0, 6.0])) for at in frame.sun_kpc]
    axes = [Axis(c - 0.5 * m * v, c + 0.5 * m * v, m) for c, m, v in zip(middle, n, voxel, strict=True)]
    return CartesianGrid(*axes, frame)


@settings(max_examples=150)
@given(
    grid=spherical_grids(max_level=4, max_shell=12),
    box=boxes(),
    pixels=st.integers(1, 700),
    shells=st.integers(1, 12),
    method=st.sampled_from(["linear", "nearest"]),
    inner=st.sampled_from(["extend", "exclude"]),
)
def test_no_chunk_is_missing(grid, box, pixels, shells, method, inner):
    pixel_chunks, shell_chunks = cut(grid.n_pixel, pixels), cut(grid.n_shell, shells)
    reach = Reach.of(grid, pixel_chunks, shell_chunks, method=method, inner=inner)
    lattice = lattice_of(box, "z", Block("box", 0, ((0, box.x.n), (0, box.y.n))))
    truth = chunks_by_healpy(grid, pixel_chunks, shell_chunks, points_of(lattice), method, inner)
    assert not (truth & ~reach.chunks(lattice)).any()


@settings(max_examples=50)
@given(
    grid=spherical_grids(max_level=4, max_shell=12),
    box=boxes(),
    pixels=st.integers(1, 700),
    shells=st.integers(1, 12),
    method=st.sampled_from(["linear", "nearest"]),
    along=st.sampled_from("xyz"),
)
def test_rows_are_located_as_the_kernels_do_it(grid, box, pixels, shells, method, along):
    """What the kernels read lies in the box's chunks, whatever the order of the axes, and healpy agrees."""
    pixel_chunks, shell_chunks = cut(grid.n_pixel, pixels), cut(grid.n_shell, shells)
    reach = Reach.of(grid, pixel_chunks, shell_chunks, method=method)
    plane = tuple((0, box.axis(name).n) for name in "xyz" if name != along)
    block = Block("box", 0, plane)
    lattice = lattice_of(box, along, block)
    starts, step, _ = tile_rows(box, along, block)
    field = Field.from_values(np.ones((1, grid.n_shell, 4), np.float32), 4, grid, method=method)
    exact = reach.chunks_of_rows(field, starts, step, box.axis(along).n)
    assert not (exact & ~reach.chunks(lattice)).any()
    if method == "linear":
        truth = chunks_by_healpy(grid, pixel_chunks, shell_chunks, points_of(lattice), method, "extend")
        assert not (truth & ~exact).any()
    # a row cut in pieces reaches the same
    n = box.axis(along).n
    pieces = [reach.chunks_of_rows(field, starts, step, 1, first) for first in range(n)]
    np.testing.assert_array_equal(np.any(pieces, axis=0), exact)


@pytest.mark.parametrize("ordering", ["nested", "ring"])
@pytest.mark.parametrize(
    ("middle", "half"),
    [((3.0, -2.0, 0.5), (1.0, 1.0, 1.0)), ((0.0, 0.0, 0.5), (4.0, 4.0, 0.0)), ((0.1, 0.0, 6.0), (0.5, 0.5, 2.0))],
)
def test_few_chunks_are_read_in_vain(ordering, middle, half):
    """A box, a plane above the Sun and a box about a pole: dense points, so that the truth is what the box holds."""
    grid = SphericalGrid.log_spaced(64, 96, 0.05, 30.0, ordering)
    pixel_chunks, shell_chunks = cut(grid.n_pixel, 256), cut(grid.n_shell, 16)
    reach = Reach.of(grid, pixel_chunks, shell_chunks)
    # an even number, so that none is in the Sun, about which all directions are alike
    n = [1 if h == 0 else 100 for h in half]
    axes = [
        Axis(m - h, m + h, k) if h else Axis(m - 0.01, m + 0.01, k) for m, h, k in zip(middle, half, n, strict=True)
    ]
    box = CartesianGrid(*axes, Frame(name="heliocentric"))
    lattice = lattice_of(box, "z", Block("box", 0, ((0, box.x.n), (0, box.y.n))))
    truth = chunks_by_healpy(grid, pixel_chunks, shell_chunks, points_of(lattice), "linear", "extend")
    reached = reach.chunks(lattice)
    assert not (truth & ~reached).any()
    assert reached.sum() <= 1.5 * truth.sum() + 2
    # what a plan that knows distances alone would read
    assert reached.sum() < 0.5 * truth.any(axis=0).sum() * len(pixel_chunks)


def test_nothing_is_reached_outside_the_data():
    grid = SphericalGrid.log_spaced(8, 10, 0.1, 10.0)
    beyond = Lattice(np.array([10.1, 0.0, 0.0]), 0.01 * np.eye(3), (5, 5, 5))
    within = Lattice(np.array([0.01, 0.0, 0.0]), 0.01 * np.eye(3), (5, 5, 5))
    for inner, reaches in (("extend", True), ("exclude", False)):
        reach = Reach.of(grid, (96,) * 8, (5, 5), inner=inner)
        assert not reach.chunks(beyond).any()
        assert reach.chunks(within).any() == reaches


def test_what_travels_is_small_and_gives_the_same():
    reach = Reach.of(SphericalGrid.log_spaced(64, 20, 0.1, 10.0), (1024,) * 48, (10, 10), method="nearest")
    text = pickle.dumps(reach)
    assert len(text) < 2000
    lattice = Lattice(np.array([1.0, 2.0, 0.5]), 0.1 * np.eye(3), (9, 8, 7))
    np.testing.assert_array_equal(pickle.loads(text).chunks(lattice), reach.chunks(lattice))


def test_chunks_must_add_up():
    with pytest.raises(GridError, match="add up to 768 pixels and 10 shells, got 700 and 10"):
        Reach.of(SphericalGrid.log_spaced(8, 10, 0.1, 10.0), (700,), (10,))
