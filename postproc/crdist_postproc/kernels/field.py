"""The samples as the kernels read them, and the tables that find a cell."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from crdist.errors import GridError
from crdist.grids import SphericalGrid

__all__ = ["Field", "Inner", "Method", "ValueSpace", "lanes_for", "normalise", "padded_samples"]

Method = Literal["linear", "nearest"]
ValueSpace = Literal["linear", "log"]
Inner = Literal["extend", "exclude"]

LANES = (4, 8, 12, 16)
"""Samples that one vector instruction of the kernels handles; a compiled version exists for each."""

MAX_RADIAL_BINS = 1 << 20

UNIFORM_TOLERANCE = 1e-9
"""Shell centres count as evenly spaced in ln(distance) if none is off by more than this part of a spacing."""

# Places in Field.layout
NSIDE, N_SHELL, N_PADDED, N_KNOT, LAST_KNOT, SHELL_TABLE, LOOKUP, N_BIN, UNIFORM, NEAREST, EXTEND, LOG = range(12)
PER_PIXEL, PER_SHELL = 12, 13
"""Bytes from a pixel to the next, and from a shell to the next."""
SLAB, BEYOND = 14, 15
"""Shells in a slab, within which that holds, and how many bytes more it is from the last shell of one to the next."""

ONE_SLAB = 1 << 40
"""More shells than there are."""
# Places in Field.radial
FIRST_KNOT, PER_UNIT, R2_INNER, R2_OUTER = range(4)


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """Samples on a spherical grid, laid out for the kernels.

    Build it with `Field.from_samples`, or fill `Field.empty_values` piecewise (rows in RING order) and call
    `Field.from_values`.
    """

    values: npt.NDArray[np.float32]
    """Samples, shape (n_pixel, n_shell, n_padded), pixels in RING order, zero in the padding."""
    n_sample: int
    """Number of samples before padding."""
    lanes: tuple[float, ...]
    """As many numbers as samples go through one instruction: its length selects the compiled kernel."""
    tables: npt.NDArray[np.float64]
    """Ring table (colatitude, inverse distance to the next), shell table (ln of a knot, inverse spacing) and shell
    look-up, one after the other."""
    layout: npt.NDArray[np.int64]
    """Sizes, starts of the tables and choices, at the places named above."""
    radial: npt.NDArray[np.float64]
    """ln of the first knot, bins per unit of ln(distance), inner and outer edge squared [kpc^2]."""

    @property
    def n_padded(self) -> int:
        """Number of samples with padding."""
        return int(self.layout[N_PADDED])

    @classmethod
    def from_samples(
        cls,
        samples: npt.NDArray[np.floating],
        grid: SphericalGrid,
        *,
        method: Method = "linear",
        value_space: ValueSpace = "linear",
        inner: Inner = "extend",
    ) -> Field:
        """Lay out samples of shape (n_pixel, n_shell, n_sample), pixels in the grid's order."""
        expected = (grid.n_pixel, grid.n_shell)
        if samples.ndim != 3 or samples.shape[:2] != expected:
            raise GridError(f"samples must have shape {(*expected, 'n_sample')}, got {samples.shape}")
        values = cls.empty_values(grid, samples.shape[2])
        rows = ring_rows(grid, np.arange(grid.n_pixel))
        values[rows, :, : samples.shape[2]] = samples
        return cls.from_values(values, samples.shape[2], grid, method=method, value_space=value_space, inner=inner)

    @staticmethod
    def empty_values(grid: SphericalGrid, n_sample: int) -> npt.NDArray[np.float32]:
        """An array of the padded shape, zero, to be filled in RING order."""
        return np.zeros((grid.n_pixel, grid.n_shell, padded_samples(n_sample)), dtype=np.float32)

    @classmethod
    def from_values(
        cls,
        values: npt.NDArray[np.float32],
        n_sample: int,
        grid: SphericalGrid,
        *,
        method: Method = "linear",
        value_space: ValueSpace = "linear",
        inner: Inner = "extend",
    ) -> Field:
        """Take over an array from `empty_values` (it is changed in place).

        A cell that is NaN in one sample is NaN in all: a statistic over fewer samples here than there would not be
        comparable. In value space ``log`` the samples become their logarithms.

        Raises
        ------
        GridError
            If a sample is not positive where its logarithm is asked for.
        """
        normalise(values, n_sample, value_space)
        rings = _ring_table(grid.nside)
        # A nearest cell is found by its edges, an interpolated one by the centres around it.
        knots = np.log(grid.edges[:-1] if method == "nearest" else grid.centres)
        spacing = np.diff(knots)
        shells = np.zeros((knots.size, 2))
        shells[:, 0] = knots
        if method == "linear":
            shells[:-1, 1] = 1.0 / spacing
        uniform = spacing.size > 0 and bool(np.ptp(spacing) < UNIFORM_TOLERANCE * spacing.min())
        lookup, per_unit = _lookup(knots)
        if uniform:
            per_unit = (knots.size - 1) / (knots[-1] - knots[0])
        # the last shell from which one interpolates, or that may hold a point
        last_knot = knots.size - 1 if method == "nearest" else max(knots.size - 2, 0)
        layout = np.zeros(16, dtype=np.int64)
        layout[SLAB] = ONE_SLAB
        layout[[PER_PIXEL, PER_SHELL]] = 4 * values.shape[2] * grid.n_shell, 4 * values.shape[2]
        layout[[NSIDE, N_SHELL, N_PADDED]] = grid.nside, grid.n_shell, values.shape[2]
        layout[[N_KNOT, LAST_KNOT, N_BIN]] = knots.size, last_knot, lookup.size
        layout[[SHELL_TABLE, LOOKUP]] = rings.size, rings.size + shells.size
        layout[[UNIFORM, NEAREST, EXTEND, LOG]] = (
            uniform,
            method == "nearest",
            inner == "extend",
            value_space == "log",
        )
        return cls(
            values=values,
            n_sample=n_sample,
            lanes=(0.0,) * lanes_for(n_sample),
            tables=np.concatenate([rings.ravel(), shells.ravel(), lookup]),
            layout=layout,
            radial=np.array([knots[0], per_unit, grid.edges[0] ** 2, grid.edges[-1] ** 2]),
        )

    def over(self, values: npt.NDArray[np.float32], *, slab: int = 0) -> Field:
        """The same field over other values, which `normalise` has seen.

        Parameters
        ----------
        values : ndarray of float32, shape (n_pixel, n_room, n_padded)
            The samples of pixel i at shell j start (i n_room + j) n_padded values behind the first one. With room for
            fewer shells than there are, the first shells of a pixel lie where the last ones of the pixel before would:
            a window of shells, all others of which nothing reads.
        slab : int
            If not 0, ``values`` are the slabs of so many shells each, one after the other, and n_room is a whole number
            of slabs: the samples start ((j // slab n_pixel + i) slab + j % slab) n_padded values behind the first one
            instead. Only the kernels along rows can read such a field.
        """
        n_pixel, n_room, n_padded = values.shape
        layout = self.layout.copy()
        layout[N_SHELL] = n_room
        per_cell = 4 * n_padded
        layout[[PER_PIXEL, PER_SHELL]] = (slab or n_room) * per_cell, per_cell
        if slab:
            layout[[SLAB, BEYOND]] = slab, (n_pixel - 1) * slab * per_cell
        return replace(self, values=values, layout=layout)


def lanes_for(n_sample: int) -> int:
    """Width of the vectors for a number of samples: the one that needs least work, padding included."""
    # A vector costs about half as much again as its length suggests: the loads' addresses are per vector.
    return min(LANES, key=lambda width: -(-n_sample // width) * (width + 6))


def padded_samples(n_sample: int) -> int:
    """Number of samples rounded up to whole vectors."""
    width = lanes_for(n_sample)
    return -(-n_sample // width) * width


def ring_rows(grid: SphericalGrid, pixels: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """RING indices of pixels given in the grid's own order."""
    if grid.ordering == "ring":
        return pixels
    import healpy

    return np.asarray(healpy.nest2ring(grid.nside, pixels))


def normalise(values: npt.NDArray[np.float32], n_sample: int, value_space: ValueSpace) -> None:
    """Spread NaN over the samples of a cell and take logarithms, in place and a slab of pixels at a time.

    Parameters
    ----------
    values : ndarray of float32, shape (pixel, shell, n_sample or more)
        All samples of some cells.

    Raises
    ------
    GridError
        If a sample is infinite, or not positive where its logarithm is asked for.
    """
    slab = max(1, (32 << 20) // max(1, values[0].nbytes))
    for first in range(0, values.shape[0], slab):
        part = values[first : first + slab, :, :n_sample]
        # one pass where all is well: a sum is infinite or NaN if a sample is, and else hardly ever
        if value_space == "linear" and np.isfinite(part @ np.ones(n_sample, dtype=np.float32)).all():
            continue
        infinite = np.isinf(part)
        if infinite.any():
            raise GridError(f"samples must be finite (or NaN where masked), got {int(infinite.sum())} infinite values")
        masked = np.asarray(np.isnan(part).any(axis=-1))
        if value_space == "log":
            bad = part <= 0  # not NaN: that is masked
            if bad.any():
                value = float(part[bad][0])
                raise GridError(
                    f"value_space 'log' needs positive samples, got {value:g} (and {int(bad.sum()) - 1} more like it); "
                    "use value_space 'linear'"
                )
            np.log(part, out=part)
        if masked.any():
            part[masked] = np.nan


def _ring_table(nside: int) -> npt.NDArray[np.float64]:
    """Colatitude of rings 0 .. 4 nside, and the inverse distance to the next; 0 and 4 nside are the poles.

    Ring geometry of Gorski et al. 2005, ApJ 622, 759, section 5.
    """
    ring = np.arange(2 * nside + 1)
    # 2 asin is exact near the poles, where acos is not
    cap = 2.0 * np.arcsin(np.minimum(ring / (math.sqrt(6.0) * nside), 1.0))
    belt = np.arccos(np.clip((2 * nside - ring) * 2.0 / (3.0 * nside), -1.0, 1.0))
    north = np.where(ring < nside, cap, belt)
    colatitude = np.concatenate([north, math.pi - north[-2::-1]])
    return np.column_stack([colatitude, np.append(1.0 / np.diff(colatitude), 0.0)])


def _lookup(knots: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], float]:
    """For equal bins of ln(distance), the last knot at or below the bin's start.

    Bins are narrower than the closest two knots, so that one comparison finishes the search.
    """
    if knots.size == 1:
        return np.zeros(2), 0.0
    span = knots[-1] - knots[0]
    n_bin = min(int(span / np.diff(knots).min() * 1.001) + 2, MAX_RADIAL_BINS)
    if n_bin == MAX_RADIAL_BINS:
        raise GridError("the thinnest shell is less than a millionth of the radial range; merge thin shells")
    per_unit = n_bin / span
    starts = knots[0] + np.arange(n_bin + 1) / per_unit
    return (np.searchsorted(knots, starts, side="right") - 1).clip(0, knots.size - 1).astype(np.float64), per_unit
