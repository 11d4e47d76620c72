"""Maps of a products store: slices, planes of volumes, projections, with the level of detail of the window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from crdist.errors import SchemaError
from crdist_dashboards.overlays import ALL, ARMS_REFERENCE, marks_and_curves
from crdist_dashboards.products import GridAxis, ProductsSource
from crdist_dashboards.records import AxisLabel, MapView
from crdist_dashboards.scales import COLOUR_MAPS, ColourScale, ScaleKind
from crdist_dashboards.views.contours import check_same_frame, contour_curves
from crdist_dashboards.views.lines import Readout, crosshair, value_at
from crdist_dashboards.views.planes import Cut, Window, cut_of, fitting_projection, plane_values, scale_of, shown

__all__ = ["MAX_PIXELS", "Readout", "crosshair", "map_view", "projection_view", "slice_view", "value_at"]

Array = npt.NDArray[Any]

MAX_PIXELS = 512
"""Pixels along one side of a map, if no other number is asked for."""

HEADINGS = {
    "mean": "mean",
    "std": "standard deviation",
    "significance": "mean / std",
    "significance_error": "standard error of mean / std",
    "coverage": "part inside the source grid",
}

GAS = ("n_hi", "n_h2", "n_h")
"""Quantities of the published gas maps."""


def slice_view(
    source: ProductsSource,
    product: str,
    statistic: str = "mean",
    *,
    sample: int | None = None,
    axis: str | None = None,
    at_kpc: float | None = None,
    scale: ScaleKind | ColourScale = "auto",
    window: Window | None = None,
    pixels: int = MAX_PIXELS,
    overlays: Sequence[str] = ALL,
) -> MapView:
    """A slice, or a plane of a volume.

    Parameters
    ----------
    source : ProductsSource
    product : str
        Of kind slice or volume.
    statistic : str
        One of the product's ``statistics``; a volume's significance follows from its mean and std.
    sample : int, optional
        Which, for the statistic ``sample``; counted from 0.
    axis : {"x", "y", "z"}, optional
        Axis that the plane of a volume lies across; default z.
    at_kpc : float, optional
        Its place, kpc; the nearest voxels are shown. Default: nearest to 0.
    scale : {"auto", "linear", "log"} or ColourScale
        By default taken from the whole product, so that colours stay when the plane or the window moves.
    window : tuple of float, kpc, optional
        Left, right, bottom and top of what is looked at; finer detail where the plane is large.
    pixels : int
        At most so many along a side; of a larger plane every second, third ... voxel is shown.
    overlays : sequence of str
        Of `crdist_dashboards.overlays.ALL`.

    Raises
    ------
    SchemaError
        If the product is of another kind, has no such statistic or place, or cannot be read.
    """
    info = source.info(product)
    if info.kind not in ("slice", "volume"):
        raise SchemaError(f"{source.path}: {product} is a {info.kind}, expected a slice or a volume")
    cut = cut_of(source, info, axis, at_kpc)
    title = f"Slice {cut.axis} = {cut.at_kpc:g} kpc"
    return _map_view(source, cut, statistic, sample, scale, window, pixels, overlays, title)


def projection_view(
    source: ProductsSource,
    product: str,
    statistic: str = "mean",
    *,
    sample: int | None = None,
    scale: ScaleKind | ColourScale = "auto",
    window: Window | None = None,
    pixels: int = MAX_PIXELS,
    overlays: Sequence[str] = ALL,
    contours: MapView | ProductsSource | None = None,
) -> MapView:
    """An integral along an axis, on which the contours of another may lie.

    Parameters
    ----------
    source, product, statistic, sample, scale, window, pixels, overlays
        As for `slice_view`; the product is a projection.
    contours : MapView or ProductsSource, optional
        A map along the same axis in the same frame, such as the gas column, or the store of one; drawn at levels
        evenly spaced in the logarithm. The grids may differ.

    Raises
    ------
    SchemaError
        As `slice_view`; and if the contours' frame or axis is another.
    """
    info = source.info(product)
    if info.kind != "projection":
        raise SchemaError(f"{source.path}: {product} is a {info.kind}, expected a projection")
    cut = cut_of(source, info, None, None)
    box = info.attrs.get("box") or {}
    limits = f", {box[cut.axis][0]:g} to {box[cut.axis][1]:g} kpc" if cut.axis in box else ""
    title = f"Integral along {cut.axis}{limits}".replace("-", "\N{MINUS SIGN}")
    other = contours
    if isinstance(other, ProductsSource):
        other = projection_view(other, fitting_projection(other, source, product).name, overlays=())
    view = _map_view(source, cut, statistic, sample, scale, window, pixels, overlays, title)
    if other is None:
        return view
    check_same_frame(view, other)
    return replace(
        view,
        curves=(*view.curves, *contour_curves(other)),
        notes=(*view.notes, f"contours: {other.quantity}, {other.title}"),
    )


def map_view(
    source: ProductsSource,
    product: str,
    statistic: str = "mean",
    *,
    sample: int | None = None,
    axis: str | None = None,
    at_kpc: float | None = None,
    scale: ScaleKind | ColourScale = "auto",
    window: Window | None = None,
    pixels: int = MAX_PIXELS,
    overlays: Sequence[str] = ALL,
) -> MapView:
    """A product of any kind that is a map: `slice_view` or `projection_view`.

    Raises
    ------
    SchemaError
        As they do.
    """
    options: dict[str, Any] = {"scale": scale, "window": window, "pixels": pixels, "overlays": overlays}
    if source.info(product).kind == "projection":
        return projection_view(source, product, statistic, sample=sample, **options)
    return slice_view(source, product, statistic, sample=sample, axis=axis, at_kpc=at_kpc, **options)


def _map_view(
    source: ProductsSource,
    cut: Cut,
    statistic: str,
    sample: int | None,
    scale: ScaleKind | ColourScale,
    window: Window | None,
    pixels: int,
    overlays: Sequence[str],
    title: str,
) -> MapView:
    info = cut.info
    across, up = shown(cut, window, pixels)
    values = plane_values(source, cut, statistic, sample, across.index, up.index)
    extent = (across.low, across.high, up.low, up.high)
    marks, curves = marks_and_curves(source.frame, cut.axis, cut.at_kpc, extent, overlays)
    notes = [_frame_note(source)]
    if source.status != "complete":
        notes.append("unfinished run")
    if across.every > 1 or up.every > 1:
        shape, times = (across.n_voxel, up.n_voxel), " \N{MULTIPLICATION SIGN} "
        notes.append(f"{times.join(map(str, values.shape))} of {times.join(map(str, shape))} voxels shown")
    masked = float(np.mean(~np.isfinite(values)))
    if masked:
        notes.append(f"{100 * masked:.2g} % without a value")
    if "mass_residual" in info.variables:
        residual = np.abs(source.read(info.name, "mass_residual"))
        if np.isfinite(residual).any():
            notes.append(f"total differs from the native grid's by up to {float(np.nanmax(residual)):.2g} of it")
    if any(curve.kind == "spiral arm" for curve in curves):
        notes.append(ARMS_REFERENCE)
    return MapView(
        title=title,
        statistic=statistic_words(source, cut, statistic, sample, across.index, up.index),
        quantity=source.quantity.long_name,
        values=np.ascontiguousarray(values.T, dtype=np.float32),
        extent=extent,
        across=_label(across.axis),
        up=_label(up.axis),
        units="" if statistic in ("significance", "significance_error", "coverage") else info.units,
        colours=colours_of(source, statistic),
        scale=scale if isinstance(scale, ColourScale) else scale_of(source, cut, statistic, scale),
        marks=marks,
        curves=curves,
        notes=tuple(notes),
        frame=source.frame,
        axis=cut.axis,
        at_kpc=cut.at_kpc,
        thinned=across.every > 1 or up.every > 1,
    )


def _frame_note(source: ProductsSource) -> str:
    frame = source.frame
    return f"{frame.name.capitalize()} frame, R₀ = {frame.r0_kpc:g} kpc"


def _label(axis: GridAxis) -> AxisLabel:
    return AxisLabel(axis.name, axis.name, axis.units)


def statistic_words(
    source: ProductsSource, cut: Cut, statistic: str, sample: int | None, across: Array, up: Array
) -> str:
    """Which statistic of how many samples, in words."""
    n_sample = cut.info.n_sample
    if statistic == "sample":
        return sample_words(sample, n_sample)
    heading = HEADINGS.get(statistic, f"{statistic[1:]} % quantile" if statistic.startswith("q") else statistic)
    words = f"{heading} of {n_sample} samples"
    if statistic == "significance" and "significance_error" in cut.info.statistics:
        # how well so few samples know their own standard deviation
        step = max(1, across.size // 64), max(1, up.size // 64)
        places = across[:: step[0]], up[:: step[1]]
        value, error = (plane_values(source, cut, name, None, *places) for name in (statistic, "significance_error"))
        known = np.isfinite(value) & np.isfinite(error) & (value != 0)
        if known.any():
            words += f", each ± {100 * float(np.median(error[known] / np.abs(value[known]))):.0f} %"
    return words


def sample_words(sample: int | None, n_sample: int) -> str:
    """Which sample, in words.

    Examples
    --------
    >>> sample_words(3, 12)
    'sample 3 of 12, counted from 0'
    """
    return f"sample {sample} of {n_sample}, counted from 0"


def colours_of(source: ProductsSource, statistic: str) -> str:
    """The colour map of a statistic; the gas has its own."""
    if statistic in ("std", "significance", "coverage"):
        return COLOUR_MAPS[statistic]
    if statistic == "significance_error":
        return COLOUR_MAPS["significance"]
    is_gas = source.quantity.name in GAS or "hydrogen" in source.quantity.long_name.lower()
    return COLOUR_MAPS["gas" if is_gas else "mean"]
