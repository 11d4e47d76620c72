"""Radial and vertical profiles of a store: mean, bands, every sample, the fit, and what others found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crdist.errors import SchemaError
from crdist_dashboards.literature import Literature, in_unit_of, published
from crdist_dashboards.products import ProductInfo, ProductsSource
from crdist_dashboards.records import AxisLabel, Band, Line, Points, ProfileView
from crdist_dashboards.scales import LOG_SPAN, MAX_DECADES, power_of_ten

__all__ = ["profile_view"]

Array = npt.NDArray[Any]

MINUS = "\N{MINUS SIGN}"
FIT = f"fit n₀ (1 {MINUS} |z| / H)"

FLAT = 10.0
"""A fitted height beyond so many times the profile's own is no measurement of a decline."""


def profile_view(
    source: ProductsSource, product: str, *, literature: bool | Literature = True, scale: str = "auto"
) -> ProfileView:
    """A radial or vertical profile.

    Parameters
    ----------
    source : ProductsSource
    product : str
        Of kind radial or vertical.
    literature : bool or Literature
        Whether to show published points, or which; only radial profiles of the density of cosmic-ray protons have
        them, as n30 or as the normalisation C.
    scale : {"auto", "linear", "log"}
        Of the ordinate. By default logarithmic where a radial profile spans decades; a straight line is fitted to a
        vertical profile, and on a logarithmic scale it would not look like one.

    Returns
    -------
    ProfileView
        With every sample and the 68 and 95 % of them if the product keeps samples, else with mean ± std.

    Raises
    ------
    SchemaError
        If the product is of another kind, or nothing of it is finished yet.
    """
    info = source.info(product)
    if info.kind not in ("radial", "vertical"):
        raise SchemaError(f"{source.path}: {product} is a {info.kind}, expected a radial or vertical profile")
    is_radial = info.kind == "radial"
    dim = "radius" if is_radial else "z"
    x = np.asarray(source.read(product, dim), dtype=np.float64)
    mean = np.asarray(source.read(product, "mean"), dtype=np.float64)
    if not np.isfinite(mean).any():
        missing = "is not finished yet" if source.status == "running" else "has no finite value"
        raise SchemaError(f"{source.path}: product {product} {missing}")
    samples, bands = _spread(source, info, mean)
    lines = [] if is_radial else _fit(source, info, x)
    notes = ["unfinished run"] if source.status != "complete" else []
    points: tuple[Points, ...] = ()
    if is_radial and literature is not False:
        known = in_unit_of(published() if literature is True else literature, source.quantity)
        if known is not None:
            edge = float(_edges(source, info, x)[-1])
            lines += [Line(line.kind, np.array([0.0, edge]), line.y, line.label) for line in known.lines]
            points, notes = known.points, [*notes, *known.notes]
    heights = np.concatenate([mean, samples.ravel(), *(line.y for line in lines), *(item.y for item in points)])
    limits, kind = _limits(heights[np.isfinite(heights)], bands, points, scale if is_radial else "linear")
    if is_radial:
        sun = source.frame.r0_kpc
        lines.append(Line("place", np.array([sun, sun]), np.array(limits), f"Sun, R₀ = {sun:g} kpc"))
    edges = _edges(source, info, x)
    return ProfileView(
        title=_title(info),
        statistic=f"mean of {info.n_sample} samples",
        quantity=source.quantity.long_name,
        across=AxisLabel(dim, "Galactocentric radius R" if is_radial else "height z", "kpc"),
        up=AxisLabel("value", source.quantity.long_name, info.units),
        x=x,
        mean=mean,
        samples=samples,
        bands=bands,
        lines=tuple(lines),
        points=points,
        x_limits=(float(edges[0]), float(edges[-1])),
        y_limits=limits,
        up_kind=kind,
        power=0 if kind == "log" else power_of_ten(max(map(abs, limits))),
        notes=tuple(notes),
    )


def _spread(source: ProductsSource, info: ProductInfo, mean: Array) -> tuple[Array, tuple[Band, ...]]:
    if info.has_samples:
        samples = np.asarray(source.read(info.name, "per_sample"), dtype=np.float64)
        known = np.isfinite(samples).any(axis=1)
        edges = np.full((4, mean.size), np.nan)
        edges[:, known] = np.nanpercentile(samples[known], (2.5, 16.0, 84.0, 97.5), axis=1)
        names = "95 % of the samples", "68 % of the samples"
    else:
        samples = np.empty((mean.size, 0))
        has_std = "std" in info.variables
        std = np.asarray(source.read(info.name, "std"), dtype=np.float64) if has_std else np.zeros_like(mean)
        edges = mean + np.array([[-2.0], [-1.0], [1.0], [2.0]]) * std
        names = "mean ± 2 std", "mean ± std"
    return samples, (Band(edges[0], edges[3], names[0]), Band(edges[1], edges[2], names[1]))


def _fit(source: ProductsSource, info: ProductInfo, z: Array) -> list[Line]:
    """The mean of the straight lines that were fitted to the samples."""
    if not {"fit_n0", "fit_height"} <= set(info.variables):
        return []
    n0, height = (np.asarray(source.read(info.name, name), dtype=np.float64) for name in ("fit_n0", "fit_height"))
    falls = np.isfinite(n0) & np.isfinite(height) & (height > 0)
    if not falls.any():
        return []
    fine = np.linspace(z.min(), z.max(), 401)
    reach = float(np.abs(z).max())
    # a profile that does not fall has n0 alone
    slope = np.divide(1.0, height, out=np.zeros_like(height), where=falls)
    known = np.isfinite(n0)
    drawn = n0[known] * np.maximum(1.0 - np.abs(fine[:, None]) * slope[known], 0.0)
    found = height[falls]
    if 2 * falls.sum() <= falls.size or float(np.median(found)) > FLAT * reach:
        few = f"{int(falls.sum())} of {falls.size} samples decline"
        label = f"{FIT}: no height measured ({few})"
    else:
        scatter = f" ± {found.std(ddof=1):.2g}" if found.size > 1 else ""
        some = "" if falls.all() else f" ({int(falls.sum())} of {falls.size} samples)"
        label = f"{FIT}, H = {found.mean():.3g}{scatter} kpc{some}"
    return [Line("fit", fine, drawn.mean(axis=1), label)]


def _limits(
    heights: Array, bands: Sequence[Band], points: Sequence[Points], scale: str
) -> tuple[tuple[float, float], Literal["linear", "log"]]:
    """Limits that hold every curve, point and error bar; logarithmic where positive values span decades."""
    tops = [item.y_upper for item in points] + [band.upper for band in bands]
    low, high = float(heights.min()), max([float(heights.max()), *(float(np.nanmax(t, initial=-np.inf)) for t in tops)])
    if scale == "log" and low <= 0:
        positive = heights[heights > 0]
        low = float(positive.min()) if positive.size else low
    if low > 0 and (scale == "log" or (scale == "auto" and high > LOG_SPAN * low)):
        return (max(low / 1.3, high / 10.0**MAX_DECADES), high * 1.3), "log"
    bottom = 0.0 if low >= 0 else min([low, *(float(np.nanmin(band.lower, initial=np.inf)) for band in bands)])
    margin = 0.06 * (high - bottom) or 0.05 * abs(high) or 0.05
    return (0.0 if low >= 0 else bottom - margin, high + margin), "linear"


def _edges(source: ProductsSource, info: ProductInfo, x: Array) -> Array:
    """Edges of the bins, or of evenly spaced points."""
    name = "radius_edges" if info.kind == "radial" else "z_edges"
    if name in info.variables:
        return np.asarray(source.read(info.name, name), dtype=np.float64)
    half = (x[-1] - x[0]) / (2 * (x.size - 1)) if x.size > 1 else 0.5
    return np.array([x[0] - half, x[-1] + half])


def _title(info: ProductInfo) -> str:
    if info.kind == "radial":
        cut = info.attrs.get("z_cut_kpc")
        return "Radial profile" + (f", |z| < {cut:g} kpc" if cut else "")
    ring = info.attrs.get("ring_kpc")
    return "Vertical profile" + (f", {ring[0]:g} ≤ R < {ring[1]:g} kpc" if ring else "")
