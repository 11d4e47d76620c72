"""Hypothesis strategies for the records of the core."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from crdist.frames import Frame
from crdist.grids import Axis, CartesianGrid, SphericalGrid


def frames(name=None):
    """Frames with a Sun anywhere plausible, and beyond."""
    return st.builds(
        Frame,
        name=st.sampled_from(["galactocentric", "heliocentric"]) if name is None else st.just(name),
        r0_kpc=st.floats(1.0, 20.0),
        z_sun_kpc=st.floats(-0.9, 0.9),
        roll_deg=st.floats(-180.0, 180.0),
    )


def points(n=16, reach_kpc=40.0):
    """Points about the origin, kpc, shape (n, 3)."""
    return npst.arrays(np.float64, (n, 3), elements=st.floats(-reach_kpc, reach_kpc))


@st.composite
def spherical_grids(draw, max_level=4, max_shell=12, ordering=None):
    """Grids of shells of any widths, with centres anywhere inside them."""
    n_shell = draw(st.integers(1, max_shell))
    inner = draw(st.floats(0.01, 1.0))
    ratios = draw(st.lists(st.floats(1.01, 3.0), min_size=n_shell, max_size=n_shell))
    edges = inner * np.cumprod([1.0, *ratios])
    shares = np.array(draw(st.lists(st.floats(0.05, 0.95), min_size=n_shell, max_size=n_shell)))
    return SphericalGrid(
        nside=2 ** draw(st.integers(0, max_level)),
        edges_kpc=tuple(edges.tolist()),
        centres_kpc=tuple((edges[:-1] + shares * np.diff(edges)).tolist()),
        ordering=draw(st.sampled_from(["nested", "ring"])) if ordering is None else ordering,
    )


@st.composite
def axes(draw, max_n=40):
    """Axes of any place and voxel size."""
    lower = draw(st.floats(-30.0, 30.0))
    n = draw(st.integers(1, max_n))
    return Axis(lower, lower + n * draw(st.floats(0.01, 2.0)), n)


def cartesian_grids(max_n=40):
    """Boxes of voxels in any frame."""
    return st.builds(CartesianGrid, axes(max_n), axes(max_n), axes(max_n), frames())
