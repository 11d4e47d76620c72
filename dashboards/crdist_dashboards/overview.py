"""One figure of everything a products store holds: maps, sky and profiles with their uncertainty."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crdist.errors import RecipeError, SchemaError
from crdist_dashboards.products import ProductInfo, ProductsSource

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from crdist_dashboards.figures.layout import View

__all__ = ["overview_figure"]

STATISTICS = ("mean", "std", "significance")
SUFFIXES = (".png", ".svg", ".pdf")
SKY_ROWS = 700
"""Height of a raster of the sky."""


def overview_figure(products: str | Path, out: str | Path, *, dpi: int = 300, note: str = "") -> Path:
    """Draw what a products store holds as one figure, 180 mm wide.

    Rows, as far as the store has them: the slice nearest to the mid-plane, the projections face-on and
    edge-on, and the sky, each as mean, standard deviation and significance; below, the radial and vertical
    profiles with all samples.

    Parameters
    ----------
    products : path
        A products store, complete or still being written.
    out : path
        File to write; its suffix, .png, .svg or .pdf, is the format. It is replaced if it exists.
    dpi : int
        Resolution of the maps.
    note : str
        What a reader must know of the samples, before all else below the title.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    RecipeError
        If the suffix is no format.
    SchemaError
        If the store is not one of products, is damaged, or holds nothing that can be drawn.
    """
    target = Path(out)
    suffix = target.suffix.lower()
    if suffix not in SUFFIXES:
        raise RecipeError(f"{target}: a figure is one of {', '.join(SUFFIXES)}, got {target.suffix or 'no suffix'!r}")
    from crdist_dashboards.render.matplotlib import AA, print_settings

    source = ProductsSource(products)
    with print_settings(AA):
        figure = _draw(source, note)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.{os.getpid()}{suffix}")
        try:
            figure.savefig(unfinished, dpi=dpi)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    return target


def _draw(source: ProductsSource, note: str) -> Figure:
    from crdist_dashboards.figures.layout import lay_out
    from crdist_dashboards.render.matplotlib import AA

    chosen = _chosen(source)
    rows = [*(_maps(source, info) for info in chosen), *_profiles(source)]
    if not rows:
        raise SchemaError(f"{source.path}: holds no finished map or profile to draw")
    name, frame = source.quantity.long_name, source.frame
    unfinished = "" if source.status == "complete" else " (unfinished run)"
    notes = [
        *([note] if note else []),
        f"{source.n_sample} posterior samples",
        f"{frame.name.capitalize()} frame, R₀ = {frame.r0_kpc:g} kpc, Sun at z = {1e3 * frame.z_sun_kpc:g} pc",
    ]
    if chosen:
        notes += ["☉ Sun   + Galactic centre   dashed: solar circle", "grey: no value"]
    return lay_out(
        rows,
        AA.page_mm,
        heading=name[:1].upper() + name[1:] + unfinished,
        # a line is broken between two of them
        notes="      ".join(note.replace(" ", "\N{NO-BREAK SPACE}") for note in notes),
        foot="   ".join(_foot(source, chosen)),
    )


def _foot(source: ProductsSource, chosen: list[ProductInfo]) -> list[str]:
    """What the numbers are, how far the totals can be trusted, and what is missing."""
    lines = ["Every product is computed sample by sample; mean, std and mean / std are taken last."]
    residuals = [source.read(info.name, "mass_residual") for info in chosen if "mass_residual" in info.variables]
    known = np.concatenate([np.ravel(item) for item in residuals]) if residuals else np.empty(0)
    known = np.abs(known[np.isfinite(known)])
    if known.size:
        lines.append(f"Largest relative difference of a total, native to Cartesian grid: {known.max():.2g}.")
    missing = [
        f"{name} of {info.name}" for info in chosen for name in STATISTICS if not _has_values(source, info, name)
    ]
    if missing:
        lines.append(f"Not in the store: {', '.join(missing)}.")
    return lines


def _chosen(source: ProductsSource) -> list[ProductInfo]:
    """The maps to draw: of each kind the first, in the order of preference, that has values."""

    def best(kind: str, axes: str, key: Callable[[ProductInfo], float]) -> list[ProductInfo]:
        found: Iterable[ProductInfo] = (info for info in source.products if info.kind == kind)
        fitting = [info for info in found if not axes or info.axis in tuple(axes)]
        # the axes in the order in which they are named
        fitting.sort(key=lambda info: (axes.find(info.axis or ""), key(info)))
        return next(([info] for info in fitting if _has_values(source, info)), [])

    return [
        *best("slice", "z", lambda info: abs(info.at_kpc or 0.0)),
        *best("projection", "z", lambda info: -_area(info)),
        # seen along y, the plane holds the Sun and the centre
        *best("projection", "yx", lambda info: -_area(info)),
        *best("sky", "", lambda info: 0.0),
    ]


def _maps(source: ProductsSource, info: ProductInfo) -> list[View]:
    from crdist_dashboards.views.maps import map_view
    from crdist_dashboards.views.sky import product_sky

    names = [name for name in STATISTICS if _has_values(source, info, name)]
    if info.kind == "sky":
        return [product_sky(source, info.name, name, n_row=SKY_ROWS) for name in names]
    overlays = ("sun", "centre", "solar circle")
    return [map_view(source, info.name, name, overlays=overlays) for name in names]


def _profiles(source: ProductsSource) -> list[list[View]]:
    from crdist_dashboards.views.profiles import profile_view

    found = [
        next((info for info in source.products if info.kind == kind and _has_values(source, info)), None)
        for kind in ("radial", "vertical")
    ]
    # published points are for figures: here is what the store holds
    row: list[View] = [profile_view(source, info.name, literature=False) for info in found if info is not None]
    return [row] if row else []


def _has_values(source: ProductsSource, info: ProductInfo, statistic: str = "mean") -> bool:
    return statistic in info.variables and bool(np.isfinite(source.read(info.name, statistic)).any())


def _area(info: ProductInfo) -> float:
    (first, second) = info.axes
    return (first.upper - first.lower) * (second.upper - second.lower)
