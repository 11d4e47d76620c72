"""Two stores side by side, and their difference in standard deviations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crdist.errors import SchemaError
from crdist_dashboards.names import names_of
from crdist_dashboards.overlays import ALL
from crdist_dashboards.products import GridAxis, ProductsSource
from crdist_dashboards.records import MapView
from crdist_dashboards.scales import COLOUR_MAPS, ColourScale, ScaleKind, power_of_ten, symmetric_scale
from crdist_dashboards.views.maps import MAX_PIXELS, map_view
from crdist_dashboards.views.planes import SCALE_SIDE, Cut, Shown, Window, cut_of, plane_values, scale_of, shown

__all__ = ["comparison"]

Array = npt.NDArray[Any]


def comparison(
    a: ProductsSource,
    b: ProductsSource,
    product: str,
    *,
    axis: str | None = None,
    at_kpc: float | None = None,
    scale: ScaleKind | ColourScale = "auto",
    window: Window | None = None,
    pixels: int = MAX_PIXELS,
    overlays: Sequence[str] = ALL,
) -> tuple[MapView, MapView, MapView]:
    """The same product of two stores on one colour scale, and (a - b) / sqrt(std_a^2 + std_b^2).

    Parameters
    ----------
    a, b : ProductsSource
        Of one quantity's unit and one frame. Where their grids differ, b is interpolated bilinearly on a's, and
        linearly between two layers of a volume.
    product : str
        A map that both have.
    axis, at_kpc, scale, window, pixels, overlays
        As for `slice_view`.

    Returns
    -------
    a, b, difference : MapView
        All three in a's voxels. The difference is in standard deviations, of samples that are independent between
        the stores.

    Raises
    ------
    SchemaError
        If the two cannot be compared, or one cannot be read.
    """
    first = cut_of(a, a.info(product), axis, at_kpc)
    second = cut_of(b, b.info(product), axis, first.at_kpc if first.info.kind == "volume" else None)
    notes = _check(a, b, first, second)
    common = scale if isinstance(scale, ColourScale) else _common_scale(a, b, first, second, scale)
    options: dict[str, Any] = {"axis": axis, "at_kpc": at_kpc, "scale": common, "overlays": overlays}
    view = map_view(a, product, window=window, pixels=pixels, **options)
    mean_b, sigma = _difference(a, b, first, second, shown(first, window, pixels))
    # from the whole plane, so that colours stay when the window moves
    _, whole = _difference(a, b, first, second, shown(first, None, SCALE_SIDE))
    if not np.isfinite(whole).any():
        raise SchemaError(f"{a.path} and {b.path}: product {product} has no voxel with a value and std in both")
    names = names_of((a.path, b.path))
    n_b = second.info.n_sample
    return (
        replace(view, title=f"{names[0]}: {view.title}"),
        replace(
            view,
            title=f"{names[1]}: {view.title}",
            statistic=f"mean of {n_b} samples",
            quantity=b.quantity.long_name,
            values=np.ascontiguousarray(mean_b, dtype=np.float32),
            notes=(*notes, *(["unfinished run"] if b.status != "complete" else [])),
        ),
        replace(
            view,
            title=f"{names[0]} \N{MINUS SIGN} {names[1]}: {view.title}",
            statistic=f"difference of the means of {first.info.n_sample} and {n_b} samples / √(std² + std²)",
            values=np.ascontiguousarray(sigma, dtype=np.float32),
            units="σ",  # noqa: RUF001
            colours=COLOUR_MAPS["difference"],
            scale=symmetric_scale(whole),
            notes=(*notes, "the two stores' samples are taken for independent"),
        ),
    )


def _difference(
    a: ProductsSource, b: ProductsSource, first: Cut, second: Cut, places: tuple[Shown, Shown]
) -> tuple[Array, Array]:
    """Means of b in voxels of a, and the difference of a from them in standard deviations; shape (up, across)."""
    across, up = (part.axis.centres[part.index] for part in places)
    mean_a, std_a = (_values_at(a, first, name, across, up, first.at_kpc).T for name in ("mean", "std"))
    mean_b, std_b = (_values_at(b, second, name, across, up, first.at_kpc).T for name in ("mean", "std"))
    spread = np.sqrt(std_a**2 + std_b**2)
    sigma = np.full(spread.shape, np.nan)
    np.divide(mean_a - mean_b, spread, out=sigma, where=spread > 0)
    return mean_b, sigma


def _check(a: ProductsSource, b: ProductsSource, first: Cut, second: Cut) -> tuple[str, ...]:
    """Refuse what cannot be compared; what a reader must know of the rest."""
    both = f"{a.path} and {b.path}: product {first.info.name}"
    if a.frame != b.frame:
        raise SchemaError(f"{both}: frames {a.frame} and {b.frame} differ; make both in one frame")
    if first.info.units != second.info.units:
        raise SchemaError(
            f"{both}: units {first.info.units!r} and {second.info.units!r} differ; look at them side by side instead"
        )
    kinds = [(cut.info.kind, cut.axis) for cut in (first, second)]
    if kinds[0] != kinds[1]:
        raise SchemaError(f"{both}: is a {kinds[0][0]} along {kinds[0][1]} and a {kinds[1][0]} along {kinds[1][1]}")
    for cut, source in ((first, a), (second, b)):
        if "std" not in cut.info.statistics:
            raise SchemaError(f"{source.path}: product {cut.info.name} has no std, so no difference in sigma")
    notes = []
    if first.info.kind == "projection":
        limits = [(cut.info.attrs.get("box") or {}).get(cut.axis, ()) for cut in (first, second)]
        if all(limits) and not np.allclose(limits[0], limits[1]):
            raise SchemaError(f"{both}: integrated over {first.axis} = {limits[0]} and {limits[1]} kpc")
    elif first.at_kpc is not None and second.at_kpc is not None and abs(first.at_kpc - second.at_kpc) > 1e-6:
        if first.info.kind == "slice":
            raise SchemaError(f"{both}: lies at {first.axis} = {first.at_kpc:g} and {second.at_kpc:g} kpc")
        layers = " and ".join(f"{cut.at_kpc:g}" for cut, _ in _layers(b, second, first.at_kpc))
        notes.append(f"the second is interpolated linearly between its layers at {first.axis} = {layers} kpc")
    if (first.across, first.up) != (second.across, second.up):
        notes.append("the second's mean and std are interpolated bilinearly on the grid of the first")
    return tuple(notes)


def _values_at(
    source: ProductsSource, cut: Cut, statistic: str, across: Array, up: Array, at_kpc: float | None
) -> Array:
    """Values at points of a plane, float64, shape (across, up): exact at voxel centres, linear between them."""
    (i, weight_i), (j, weight_j) = _neighbours(cut.across, across), _neighbours(cut.up, up)
    total = np.zeros((across.size, up.size))
    for layer, share in _layers(source, cut, at_kpc):
        for m in range(2):
            for n in range(2):
                values = plane_values(source, layer, statistic, None, i[m], j[n]).astype(np.float64)
                weight = share * weight_i[m][:, None] * weight_j[n]
                # a masked neighbour without weight masks nothing
                total += np.where(weight == 0, 0.0, weight * values)
    return total


def _layers(source: ProductsSource, cut: Cut, at_kpc: float | None) -> list[tuple[Cut, float]]:
    """The layers of a volume on both sides of a place, with their weights; of anything else, the plane itself."""
    if cut.index is None or at_kpc is None:
        return [(cut, 1.0)]
    axis = cut.info.grid_axis(cut.axis)
    (below, above), (left, right) = _neighbours(axis, np.array([at_kpc]))
    sides = [(int(below[0]), float(left[0])), (int(above[0]), float(right[0]))]
    return [
        (replace(cut, index=index, at_kpc=round(float(axis.centres[index]), 9) + 0.0), weight)
        for index, weight in sides
        if weight
    ]


def _neighbours(axis: GridAxis, places: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """The voxels on both sides of places and their weights; NaN outside the axis."""
    # rounded: a place at a centre must not take a trace of its neighbour
    position = np.round((places - axis.lower) / axis.step - 0.5, 9)
    clipped = np.clip(position, 0, axis.n - 1)
    below = np.minimum(clipped.astype(np.intp), max(axis.n - 2, 0))
    above = np.minimum(below + 1, axis.n - 1)
    fraction = np.where((position < -0.5) | (position > axis.n - 0.5), np.nan, clipped - below)
    return (below, above), (1.0 - fraction, fraction)


def _common_scale(a: ProductsSource, b: ProductsSource, first: Cut, second: Cut, kind: ScaleKind) -> ColourScale:
    """A scale that holds those of both stores."""
    one, two = (scale_of(source, cut, "mean", kind) for source, cut in ((a, first), (b, second)))
    if one.kind != two.kind:
        # logarithmic where either needs it and both can have it
        one, two = (scale_of(source, cut, "mean", "log") for source, cut in ((a, first), (b, second)))
    ends = (one.extend, two.extend)
    below, above = any(end in ("min", "both") for end in ends), any(end in ("max", "both") for end in ends)
    extend: Literal["neither", "min", "max", "both"] = (
        "both" if below and above else "min" if below else "max" if above else "neither"
    )
    if one.kind != two.kind:
        one = ColourScale(min(one.low, two.low), one.high, "linear", 0, extend)
    low, high = min(one.low, two.low), max(one.high, two.high)
    power = 0 if one.kind == "log" else power_of_ten(max(abs(low), abs(high)))
    return ColourScale(low, high, one.kind, power, extend)
