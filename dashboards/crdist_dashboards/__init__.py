"""Views of products and of an inference, drawn in the browser, in notebooks and in print; they compute no science.

The names below are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "InferenceSource",
    "ProductsSource",
    "comparison",
    "native_slice",
    "overview_figure",
    "product_sky",
    "profile_view",
    "projection_view",
    "sample_view",
    "sky_view",
    "slice_view",
    "small_multiples",
    "to_holoviews",
    "write_report",
]

if TYPE_CHECKING:
    from crdist_dashboards.overview import overview_figure
    from crdist_dashboards.products import ProductsSource
    from crdist_dashboards.render.holoviews import to_holoviews
    from crdist_dashboards.report import write_report
    from crdist_dashboards.views.compare import comparison
    from crdist_dashboards.views.inference import InferenceSource
    from crdist_dashboards.views.maps import projection_view, slice_view
    from crdist_dashboards.views.native import native_slice
    from crdist_dashboards.views.profiles import profile_view
    from crdist_dashboards.views.samples import sample_view, small_multiples
    from crdist_dashboards.views.sky import product_sky, sky_view

_HOMES = {
    "InferenceSource": "views.inference",
    "ProductsSource": "products",
    "comparison": "views.compare",
    "native_slice": "views.native",
    "overview_figure": "overview",
    "product_sky": "views.sky",
    "profile_view": "views.profiles",
    "projection_view": "views.maps",
    "sample_view": "views.samples",
    "sky_view": "views.sky",
    "slice_view": "views.maps",
    "small_multiples": "views.samples",
    "to_holoviews": "render.holoviews",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'crdist_dashboards' has no attribute {name!r}")
    value = getattr(import_module(f"crdist_dashboards.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
