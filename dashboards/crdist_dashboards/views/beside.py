"""Projections of two stores beside each other, such as hadronic sources and the gas: each on its own scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from crdist_dashboards.names import names_of
from crdist_dashboards.overlays import ALL
from crdist_dashboards.products import ProductsSource
from crdist_dashboards.records import MapView
from crdist_dashboards.scales import ScaleKind
from crdist_dashboards.views.maps import MAX_PIXELS, projection_view
from crdist_dashboards.views.planes import Window, fitting_projection

__all__ = ["side_by_side"]


def side_by_side(
    a: ProductsSource,
    b: ProductsSource,
    product: str,
    statistic: str = "mean",
    *,
    scale: ScaleKind = "auto",
    window: Window | None = None,
    pixels: int = MAX_PIXELS,
    overlays: Sequence[str] = ALL,
) -> tuple[MapView, MapView]:
    """A projection of one store, and the other store's along the same axis that covers most of it.

    Parameters
    ----------
    a, b : ProductsSource
        In one frame. Quantities, units and grids may differ.
    product : str
        Of `a`, a projection.
    statistic : str
        One that both have.
    scale, window, pixels, overlays
        As for `slice_view`.

    Returns
    -------
    a, b : MapView
        Each on its own colour scale, with the quantity in its title.

    Raises
    ------
    SchemaError
        If the frames differ, `b` has no projection along that axis, or one cannot be read.
    """
    other = fitting_projection(b, a, product)
    options: dict[str, Any] = {"scale": scale, "window": window, "pixels": pixels, "overlays": overlays}
    views = (projection_view(source, name, statistic, **options) for source, name in ((a, product), (b, other.name)))
    is_one = a.quantity.long_name == b.quantity.long_name
    first, second = (
        replace(view, title=f"{_capital(view.quantity)}{f', {name}' if is_one else ''}\n{view.title}")
        for name, view in zip(names_of((a.path, b.path)), views, strict=True)
    )
    return first, second


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
