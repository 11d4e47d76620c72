"""Planes of products: which one, which of its voxels are shown, their values, and the colours that fit all of it."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crdist.errors import SchemaError
from crdist_dashboards.products import GridAxis, ProductInfo, ProductsSource
from crdist_dashboards.scales import ColourScale, ScaleKind, colour_scale, symmetric_scale

__all__ = ["Cut", "Shown", "Window", "cut_of", "fitting_projection", "plane_values", "scale_of", "shown", "voxels"]

Array = npt.NDArray[Any]

Window = tuple[float, float, float, float]
"""Left, right, bottom, top, kpc."""

WHOLE_PLANE_BYTES = 32 * 1024**2
"""Planes up to this size are read and kept whole: another window then costs nothing."""

SCALE_PLANES, SCALE_SIDE = 8, 256
"""Planes across z that a volume's colour scale is taken from, and their voxels a side."""

SCALE_VALUES = 250_000
"""Values that a colour scale is taken from."""

DERIVED = ("significance", "significance_error")


@dataclass(frozen=True, slots=True)
class Cut:
    """A plane of a product: the whole of a slice or projection, or one layer of a volume."""

    info: ProductInfo
    axis: str
    """Axis that the plane lies across, or that was integrated along."""
    index: int | None
    """Layer of a volume on that axis."""
    at_kpc: float | None
    """Place on that axis; None for a projection."""
    across: GridAxis
    up: GridAxis


@dataclass(frozen=True, slots=True)
class Shown:
    """The voxels along an axis that are shown, each for an equal part of the window."""

    axis: GridAxis
    index: Array
    """Their numbers, increasing."""
    first: int
    """First voxel of the window."""
    n_voxel: int
    """Voxels in the window."""
    every: int
    """Only every second, third ... voxel is shown."""

    @property
    def low(self) -> float:
        """Lower edge of the window, kpc."""
        return round(self.axis.lower + self.first * self.axis.step, 12)

    @property
    def high(self) -> float:
        """Upper edge of the window, kpc."""
        return round(self.axis.lower + (self.first + self.n_voxel) * self.axis.step, 12)


def cut_of(source: ProductsSource, info: ProductInfo, axis: str | None, at_kpc: float | None) -> Cut:
    """The plane of a product that is asked for.

    Parameters
    ----------
    source : ProductsSource
    info : ProductInfo
        Of kind slice, projection or volume.
    axis : {"x", "y", "z"}, optional
        Axis across which a volume is cut; default z.
    at_kpc : float, optional
        Where; the layer that holds it is taken, by default the one nearest to 0.

    Raises
    ------
    SchemaError
        If the product has no planes, or not that one.
    """
    where = f"{source.path}: product {info.name} ({info.kind})"
    if info.kind not in ("slice", "projection", "volume"):
        raise SchemaError(f"{where} is not a map")
    if info.kind == "volume":
        name = axis or "z"
        grid = info.grid_axis(name)
        index = int(np.argmin(np.abs(grid.centres))) if at_kpc is None else grid.index(at_kpc)
        if index is None:
            limits = f"{grid.lower:g} to {grid.upper:g} kpc"
            raise SchemaError(f"{where} reaches from {name} = {limits}, got {name} = {at_kpc:g} kpc")
        across, up = (item for item in info.axes if item.name != name)
        return Cut(info, name, index, round(float(grid.centres[index]), 9) + 0.0, across, up)
    if info.axis is None or len(info.axes) != 2:
        raise SchemaError(f"{where} has no axis or is not two-dimensional; make the store anew")
    if axis not in (None, info.axis):
        raise SchemaError(f"{where} has axis {info.axis}, got {axis}")
    across, up = sorted(info.axes, key=lambda item: item.name)
    return Cut(info, info.axis, None, info.at_kpc, across, up)


def fitting_projection(other: ProductsSource, source: ProductsSource, product: str) -> ProductInfo:
    """The other store's projection along the same axis that covers most of one of this store.

    Raises
    ------
    SchemaError
        If `product` is no projection, the frames differ, or the other store has none along that axis.
    """
    info = source.info(product)
    if info.kind != "projection":
        raise SchemaError(f"{source.path}: {product} is a {info.kind}, expected a projection")
    cut = cut_of(source, info, None, None)

    def common(info: ProductInfo) -> float:
        lengths = [
            max(0.0, min(axis.upper, mine.upper) - max(axis.lower, mine.lower))
            for axis, mine in ((info.grid_axis(mine.name), mine) for mine in (cut.across, cut.up))
        ]
        return lengths[0] * lengths[1]

    fitting = [info for info in other.products if info.kind == "projection" and info.axis == cut.axis]
    # the finest of those that cover the same
    best = max(fitting, key=lambda info: (round(common(info), 6), -info.axes[0].step), default=None)
    if best is None:
        raise SchemaError(f"{other.path}: has no projection along {cut.axis} to go with {source.path}: {product}")
    if other.frame != source.frame:
        raise SchemaError(f"{other.path}: frame {other.frame}, but {source.path} has {source.frame}; make both in one")
    return best


def shown(cut: Cut, window: Window | None, most: int) -> tuple[Shown, Shown]:
    """The voxels of a plane to show in a window, at most so many a side.

    Raises
    ------
    SchemaError
        If the window is none, or beside the plane.
    """
    if window is None:
        return _shown(cut.across, None, most), _shown(cut.up, None, most)
    left, right, bottom, top = window
    if not (all(map(math.isfinite, window)) and left < right and bottom < top):
        raise SchemaError(f"a window is (left, right, bottom, top) in kpc, increasing, got {window}")
    return _shown(cut.across, (left, right), most), _shown(cut.up, (bottom, top), most)


def plane_values(
    source: ProductsSource, cut: Cut, statistic: str, sample: int | None, across: Array, up: Array
) -> Array:
    """Values of a statistic in some voxels of a plane.

    Parameters
    ----------
    source : ProductsSource
    cut : Cut
    statistic : str
        One of the product's ``statistics``.
    sample : int, optional
        Which, for the statistic ``sample``.
    across, up : ndarray of int
        Numbers of the voxels.

    Returns
    -------
    ndarray, shape (across.size, up.size)

    Raises
    ------
    SchemaError
        If the product has no such statistic or sample.
    """
    info = cut.info
    if statistic not in info.statistics:
        has = ", ".join(info.statistics)
        raise SchemaError(f"{source.path}: product {info.name} has no statistic {statistic!r}; it has {has}")
    if statistic == "sample":
        if sample is None:
            raise SchemaError(f"{source.path}: product {info.name}: which sample? 0 to {info.n_sample - 1}")
        return _picked(cut, source.sample_plane(info.name, sample, cut.axis, cut.index), across, up)
    # two planes of mean and std that are in the cache cost less than a third from the disk
    if info.kind == "volume" and (statistic in DERIVED or statistic == "coverage"):
        return _derived(source, cut, statistic, across, up)
    variable: str = statistic
    last: dict[str, int] = {}
    if statistic.startswith("q") and statistic not in info.variables:
        number = info.statistics.index(statistic) - info.statistics.index(f"q{100 * info.quantiles[0]:g}")
        variable, last = "quantiles", {"quantile": number}
    return _read(source, cut, variable, across, up, last)


def voxels(source: ProductsSource, cut: Cut, variable: str, i: int | slice, j: int | slice) -> Array:
    """Stored values of a row or column of a plane, or of one voxel; with the samples, if the array has them."""
    selection: dict[str, int | slice] = {cut.across.name: i, cut.up.name: j}
    if cut.index is not None:
        selection[cut.axis] = cut.index
    return source.read(cut.info.name, variable, **selection)


def scale_of(source: ProductsSource, cut: Cut, statistic: str, kind: ScaleKind) -> ColourScale:
    """A colour scale from the whole of a product, not from the plane or the window that is shown.

    The statistic ``sample`` has the scale of all samples together, ``difference`` one about zero for what each sample
    differs from their mean by.

    Raises
    ------
    SchemaError
        If nothing of the product is finite.
    """
    key = (*source.version, cut.info.name, statistic, kind)
    with _LOCK:
        if key in _SCALES:
            _SCALES.move_to_end(key)
            return _SCALES[key]
    planes = [plane[np.isfinite(plane)] for plane in _scale_planes(source, cut, statistic)]
    planes = [plane for plane in planes if plane.size]
    if not planes:
        missing = "is not finished yet" if source.status == "running" else "has no finite value"
        raise SchemaError(f"{source.path}: {statistic} of product {cut.info.name} {missing}")
    scale = symmetric_scale(np.concatenate(planes)) if statistic == "difference" else _common_scale(planes, kind)
    with _LOCK:
        _SCALES[key] = scale
        while len(_SCALES) > MAX_SCALES:
            _SCALES.popitem(last=False)
    return scale


MAX_SCALES = 1024
_SCALES: OrderedDict[tuple[Hashable, ...], ColourScale] = OrderedDict()
_LOCK = threading.Lock()


def _shown(axis: GridAxis, bounds: tuple[float, float] | None, most: int) -> Shown:
    first, stop = 0, axis.n
    if bounds is not None:
        # a voxel that a window touches within rounding is not in it
        first = max(0, math.floor((bounds[0] - axis.lower) / axis.step + 1e-6))
        stop = min(axis.n, math.ceil((bounds[1] - axis.lower) / axis.step - 1e-6))
        if stop <= first:
            limits = f"{axis.lower:g} to {axis.upper:g} kpc"
            raise SchemaError(f"the window {bounds[0]:g} to {bounds[1]:g} kpc lies beside {axis.name} = {limits}")
    n = stop - first
    every = -(-n // most)
    count = -(-n // every)
    index = first + ((np.arange(count) + 0.5) * n / count).astype(np.intp)
    return Shown(axis, index, first, n, every)


def _picked(cut: Cut, plane: Array, across: Array, up: Array) -> Array:
    """Voxels of a plane whose dimensions are in the stored order."""
    order = [dim for dim in cut.info.dims if dim in (cut.across.name, cut.up.name)]
    whole = plane if order[0] == cut.across.name else plane.T
    return np.asarray(whole[np.ix_(across, up)])


def _read(
    source: ProductsSource, cut: Cut, variable: str, across: Array, up: Array, last: dict[str, int] | None = None
) -> Array:
    last = last or {}
    if 4 * cut.across.n * cut.up.n <= WHOLE_PLANE_BYTES:
        return _picked(cut, source.plane(cut.info.name, variable, cut.axis, cut.index, **last), across, up)
    i, j = int(across[0]), int(up[0])
    bounds = {cut.across.name: slice(i, int(across[-1]) + 1), cut.up.name: slice(j, int(up[-1]) + 1)}
    part = source.plane(cut.info.name, variable, cut.axis, cut.index, **bounds, **last)
    return _picked(cut, part, across - i, up - j)


def _derived(source: ProductsSource, cut: Cut, statistic: str, across: Array, up: Array) -> Array:
    """What a volume's mean and std tell, by the function that made the stored ones."""
    mean = _read(source, cut, "mean", across, up)
    if statistic == "coverage":
        return np.where(np.isnan(mean), 0.0, 1.0).astype(np.float32)
    from crdist_postproc.statistics import significance_and_error

    std = _read(source, cut, "std", across, up)
    both = significance_and_error(mean, std, cut.info.n_sample, cut.info.freedom)
    return np.asarray(both[DERIVED.index(statistic)], dtype=np.float32)


def _scale_planes(source: ProductsSource, cut: Cut, statistic: str) -> list[Array]:
    """What a scale is taken from: a slice or projection with all its samples, or planes throughout a volume."""
    info = cut.info
    if statistic in ("sample", "difference") and info.kind != "volume":
        samples = source.read(info.name, "per_sample").reshape(-1, info.n_sample)
        samples = samples[:: max(1, samples.size // SCALE_VALUES)]
        return [samples if statistic == "sample" else samples - samples.mean(axis=1, keepdims=True, dtype=np.float64)]
    if statistic == "sample":
        # a volume's samples are too many to look through
        statistic = "mean"
    if statistic == "difference":
        return [3.0 * plane for plane in _scale_planes(source, cut, "std")]
    if info.kind != "volume":
        return [_thinned(plane_values(source, cut, statistic, None, np.arange(cut.across.n), np.arange(cut.up.n)))]
    z = info.grid_axis("z")
    layers = {("z", int(index)) for index in np.linspace(0, z.n - 1, min(z.n, SCALE_PLANES)).round()}
    for axis, sun in zip(info.axes, source.frame.sun_kpc, strict=True):
        # near the Sun the values are the best known and the significance the highest
        layers.add((axis.name, axis.index(sun) or 0))
    planes = []
    for name, index in sorted(layers):
        layer = Cut(info, name, index, None, *(item for item in info.axes if item.name != name))
        across, up = (_shown(axis, None, SCALE_SIDE).index for axis in (layer.across, layer.up))
        planes.append(plane_values(source, layer, statistic, None, across, up))
    return planes


def _common_scale(planes: Sequence[Array], kind: ScaleKind) -> ColourScale:
    """A scale that holds the 1 to 99.5 % range of each plane: a volume's planes have few of its voxels each."""

    def ends(parts: Sequence[Array]) -> Array:
        found = [np.percentile(part, (1.0, 99.5)) for part in parts]
        # as often as it takes to be its own 1st and 99.5th percentile
        return np.repeat([min(low for low, _ in found), max(high for _, high in found)], 500)

    lowest, highest = min(float(part.min()) for part in planes), max(float(part.max()) for part in planes)
    positive = [part for part in (part[part > 0] for part in planes) if part.size]
    scale = None
    if kind != "linear" and positive and (kind == "log" or lowest >= 0):
        scale = colour_scale(ends(positive), kind)
    if scale is None or scale.kind == "linear":
        scale = colour_scale(ends(planes), "linear")
    below, above = lowest < scale.low, highest > scale.high
    extend: Literal["neither", "min", "max", "both"] = "neither"
    if below or above:
        extend = "both" if below and above else "min" if below else "max"
    return replace(scale, extend=extend)


def _thinned(values: Array) -> Array:
    flat = values.reshape(-1)
    return flat[:: max(1, flat.size // SCALE_VALUES)]
