"""Profiles about the Galactic centre: means over rings, in the mid-plane or against height.

The cylinder is sampled on a polar grid whose cells end at the bins' edges, weighted by volume. An unweighted mean
over the native cells would count the Sun's neighbourhood, where those are smallest, far too often.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crdist_postproc.parts import Samples
from crdist_postproc.products.base import Array, ArraySpec, Block, BlockResult, Coordinate, Product
from crdist_postproc.rows import bin_rows, fill_rows

__all__ = ["RadialMean", "VerticalMean", "fit_linear_decline"]

ROWS_PER_BLOCK = 65536
LAYERS = 4
"""Points across the height of a radial bin, at least."""
STEPS = 2
"""Points across a vertical bin, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Profile(Product):
    """Means over bins of Galactocentric radius and height."""

    radii_kpc: tuple[float, ...]
    heights_kpc: tuple[float, ...]
    voxel_kpc: tuple[float, float, float]
    """Largest distance between points, along x, y and z."""
    weighted_by: str = "volume"
    """What the mean is weighted by, in words."""

    def blocks(self) -> tuple[Block, ...]:
        """Ranges of columns of points."""
        n = sum(count for _, _, count in self._rings())
        starts = range(0, n, ROWS_PER_BLOCK)
        return tuple(
            Block(self.name, index, ((start, min(start + ROWS_PER_BLOCK, n)),)) for index, start in enumerate(starts)
        )

    def blocks_write(self, block: Block) -> bool:
        """Blocks are sums over some columns; all arrays are written by the last step."""
        return False

    def compute(self, block: Block, samples: Samples, weight: Samples | None) -> BlockResult:
        """Sum over the points of some columns."""
        points, bins, volumes = self._columns(block)
        heights, height_bins, spacing = self._heights()
        frame = self.frame.galactocentric
        starts = frame.to_heliocentric(np.column_stack([points, np.full(len(points), heights[0])]))
        step = np.array([0.0, 0.0, spacing]) @ frame.rotation
        n = len(heights)
        extra = None if weight is None else fill_rows(weight, starts, step, n)[:, :, 0]
        total, weights, inside = bin_rows(samples, starts, step, n, bins, height_bins, volumes, extra)
        # the last bins may be empty in this block; all blocks have the same shape
        shape = (len(self.radii_kpc) - 1, len(self.heights_kpc) - 1)
        whole = np.zeros(shape)
        np.add.at(whole, bins, np.outer(volumes, np.bincount(height_bins, minlength=shape[1])))
        return BlockResult(
            partial={
                "total": _padded(total, shape),
                "weight": _padded(weights, shape),
                "inside": _padded(inside, shape),
                "whole": whole,
            }
        )

    def work(self, block: Block) -> int:
        """Point-samples of a block."""
        return block.shape[0] * len(self._heights()[0]) * self.quantity.n_sample

    def block_bytes(self) -> int:
        """Upper bound on the memory of one block."""
        bins = (len(self.radii_kpc) - 1) * (len(self.heights_kpc) - 1)
        rows = self.blocks()[0].shape[0]
        return 16 * rows * (16 + len(self._heights()[0])) + 16 * bins * (self.quantity.n_sample + 20)

    def means(self, partials: Sequence[Mapping[str, Array]]) -> tuple[Array, Array]:
        """The mean of each bin and sample, shape (n_radius, n_height, n_sample), and the coverage of each bin."""
        total, weight, inside, whole = (
            np.sum([partial[name] for partial in partials], axis=0) for name in ("total", "weight", "inside", "whole")
        )
        mean = np.full(total.shape, np.nan)
        np.divide(total, weight[:, :, None], out=mean, where=weight[:, :, None] > 0)
        return mean, inside / whole

    def _heights(self) -> tuple[Array, Array, float]:
        """Heights of the points of a column, their bins, and their spacing."""
        edges = np.array(self.heights_kpc)
        least = LAYERS if len(edges) == 2 else STEPS
        size = edges[1] - edges[0]
        per_bin = max(least, math.ceil(size / self.voxel_kpc[2] - 1e-9))
        n = per_bin * (len(edges) - 1)
        spacing = (edges[-1] - edges[0]) / n
        return edges[0] + (np.arange(n) + 0.5) * spacing, np.arange(n) // per_bin, spacing

    def _rings(self) -> list[tuple[float, float, int]]:
        """Inner and outer radius of each ring of points and the number of points on it."""
        spacing = min(self.voxel_kpc[:2])
        rings = []
        for inner, outer in zip(self.radii_kpc[:-1], self.radii_kpc[1:], strict=True):
            parts = max(1, math.ceil((outer - inner) / spacing - 1e-9))
            edges = np.linspace(inner, outer, parts + 1)
            for near, far in itertools.pairwise(edges):
                count = max(8, math.ceil(math.pi * (near + far) / spacing))
                rings.append((float(near), float(far), count))
        return rings

    def _columns(self, block: Block) -> tuple[Array, Array, Array]:
        """Places (x, y), radial bins and cross-sections of the columns of a block."""
        rings = self._rings()
        counts = np.array([count for _, _, count in rings])
        first = np.concatenate([[0], np.cumsum(counts)])
        columns = np.arange(*block.bounds[0])
        ring = np.searchsorted(first, columns, side="right") - 1
        near, far = np.array([ends[:2] for ends in rings]).T
        # the radius that halves the ring's area
        radius = np.sqrt(0.5 * (near**2 + far**2))[ring]
        angle = 2.0 * np.pi * (columns - first[ring] + 0.5) / counts[ring]
        area = (np.pi * (far**2 - near**2) / counts)[ring]
        bins = np.searchsorted(np.array(self.radii_kpc), radius, side="right") - 1
        return np.column_stack([radius * np.cos(angle), radius * np.sin(angle)]), bins, area


@dataclass(frozen=True, slots=True, kw_only=True)
class RadialMean(_Profile):
    """Mean against Galactocentric radius, near the mid-plane."""

    kind = "radial"

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the statistics."""
        return ("radius",)

    def arrays(self) -> tuple[ArraySpec, ...]:
        """The arrays to create."""
        n = len(self.radii_kpc) - 1
        what = f"{self.quantity.long_name}, {self.weighted_by}-weighted mean over |z| < {self.heights_kpc[1]:g} kpc"
        return self.statistics_arrays((n,), (n,), self.quantity.units, what)

    def coordinates(self) -> tuple[Coordinate, ...]:
        """Middles and edges of the bins."""
        return (*_bins("radius", self.radii_kpc, "Galactocentric radius"), *self.sample_coordinates())

    def attributes(self) -> dict[str, Any]:
        """Attributes of the group."""
        return {"z_cut_kpc": self.heights_kpc[1], "weight": self.weighted_by, "r0_kpc": self.frame.r0_kpc}

    def finish(self, partials: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """Statistics of the profile."""
        mean, coverage = self.means(partials)
        return self.summary(mean[:, 0], coverage[:, 0])


@dataclass(frozen=True, slots=True, kw_only=True)
class VerticalMean(_Profile):
    """Mean against height in a ring, with a linear decline fitted to each sample."""

    kind = "vertical"

    fit_threshold: float = 0.1
    """The fit uses heights where the mean profile is above this part of its mid-plane value."""

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the statistics."""
        return ("z",)

    def arrays(self) -> tuple[ArraySpec, ...]:
        """The arrays to create."""
        n, n_sample = len(self.heights_kpc) - 1, self.quantity.n_sample
        ring = f"{self.radii_kpc[0]:g} < R < {self.radii_kpc[1]:g} kpc"
        what = f"{self.quantity.long_name}, volume-weighted mean over {ring}"
        fit = "fit n0 (1 - |z| / H)"
        named: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
            ("fit_n0", ("sample",), self.quantity.units, f"{fit} to each sample: n0"),
            ("fit_height", ("sample",), "kpc", f"{fit} to each sample: H; NaN where there is no decline"),
            ("fit_n0_of_mean", (), self.quantity.units, f"{fit} to the mean profile: n0"),
            ("fit_height_of_mean", (), "kpc", f"{fit} to the mean profile: H"),
        )
        fits = (
            ArraySpec(name, dims, (n_sample,) * len(dims), (n_sample,) * len(dims), units, text, dtype="float64")
            for name, dims, units, text in named
        )
        return (*self.statistics_arrays((n,), (n,), self.quantity.units, what), *fits)

    def coordinates(self) -> tuple[Coordinate, ...]:
        """Middles and edges of the bins."""
        return (*_bins("z", self.heights_kpc, "height above the Galactic plane"), *self.sample_coordinates())

    def attributes(self) -> dict[str, Any]:
        """Attributes of the group."""
        return {
            "ring_kpc": list(self.radii_kpc),
            "fit": "n0 (1 - |z| / H), both signs of z together, weighted by 1 / variance over samples",
            "fit_threshold": self.fit_threshold,
            "r0_kpc": self.frame.r0_kpc,
        }

    def finish(self, partials: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """Statistics of the profile, and the fits."""
        means, coverages = self.means(partials)
        profile, coverage = means[0], coverages[0]
        arrays = self.summary(profile, coverage)
        edges = np.array(self.heights_kpc)
        heights = 0.5 * (edges[1:] + edges[:-1])
        of_mean = fit_linear_decline(
            heights, arrays["mean"][:, None], arrays["std"], arrays["mean"], self.fit_threshold
        )
        n0, height = fit_linear_decline(heights, profile, arrays["std"], arrays["mean"], self.fit_threshold)
        return {
            **arrays,
            "fit_n0": n0,
            "fit_height": height,
            "fit_n0_of_mean": of_mean[0][0],
            "fit_height_of_mean": of_mean[1][0],
        }


def fit_linear_decline(
    heights_kpc: Array, profiles: Array, std: Array, mean: Array, threshold: float
) -> tuple[Array, Array]:
    """Fit n0 (1 - |z| / H) to each profile, both signs of z together, by weighted least squares in n0 and n0 / H.

    Parameters
    ----------
    heights_kpc : ndarray, shape (n,)
        Heights z.
    profiles : ndarray, shape (n, n_profile)
    std, mean : ndarray, shape (n,)
        Over the samples; the weights are 1 / std^2, with the least positive std for those that are 0.
    threshold : float
        Heights count from the mid-plane outward while ``mean`` exceeds this part of its value nearest the plane:
        beyond, a flat tail would bias the slope.

    Returns
    -------
    n0 : ndarray, shape (n_profile,), unit of the profiles
    height : ndarray, shape (n_profile,), kpc
        NaN where the profile does not decline.

    Examples
    --------
    >>> z = np.linspace(-1.9, 1.9, 20)
    >>> n = 3.0 * (1 - np.abs(z) / 4.0)
    >>> n0, height = fit_linear_decline(z, n[:, None], np.ones(20), n, 0.1)
    >>> round(n0[0], 9), round(height[0], 9)
    (np.float64(3.0), np.float64(4.0))
    """
    distance = np.abs(heights_kpc)
    used = np.isfinite(mean) & np.isfinite(profiles).all(axis=1)
    nothing = np.full(profiles.shape[1], np.nan)
    if used.any():
        centre = mean[used][np.argmin(distance[used])]
        low = used & (mean <= threshold * centre)
        used &= distance < np.min(distance[low], initial=np.inf)
    if np.unique(np.round(distance[used], 9)).size < 2:
        return nothing, nothing.copy()
    positive = std[used & (std > 0)]
    # a height at which all samples agree counts as much as the one at which they agree best otherwise
    least = positive.min() if positive.size else 1.0
    weights = (least / np.maximum(np.nan_to_num(std[used], nan=least), least)) ** 2
    x, y = distance[used], profiles[used]
    middle = np.sum(weights * x) / np.sum(weights)
    level = np.sum(weights[:, None] * y, axis=0) / np.sum(weights)
    slope = np.sum((weights * (x - middle))[:, None] * (y - level), axis=0) / np.sum(weights * (x - middle) ** 2)
    n0 = level - slope * middle
    height = np.full(n0.shape, np.nan)
    np.divide(n0, -slope, out=height, where=slope < 0)
    return n0, height


def _bins(name: str, edges_kpc: tuple[float, ...], what: str) -> tuple[Coordinate, Coordinate]:
    edges = np.array(edges_kpc)
    attrs = {"units": "kpc", "long_name": what}
    return (
        Coordinate(name, (name,), 0.5 * (edges[1:] + edges[:-1]), {**attrs, "bounds": f"{name}_edges"}),
        Coordinate(f"{name}_edges", (f"{name}_edge",), edges, {**attrs, "long_name": f"{what}, bin edges"}),
    )


def _padded(values: Array, shape: tuple[int, int]) -> Array:
    result = np.zeros((*shape, *values.shape[2:]))
    result[: values.shape[0], : values.shape[1]] = values
    return result
