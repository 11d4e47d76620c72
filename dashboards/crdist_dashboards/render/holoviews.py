"""Views as HoloViews objects, to be put together in notebooks; with the colours and limits of the other renderers.

Axes of HoloViews are linked by the names of dimensions, so every dimension is named after its quantity and unit.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from crdist_dashboards.records import MapView, ProfileView, SkyView
from crdist_dashboards.scales import GREY, N_LEVEL, palette, unicode_units

__all__ = ["to_holoviews"]

View = MapView | SkyView | ProfileView


def to_holoviews(view: View) -> Any:
    """A view as a HoloViews object, drawn by Bokeh.

    Parameters
    ----------
    view : MapView, SkyView or ProfileView

    Returns
    -------
    holoviews.Overlay
        To be composed with ``*`` and ``+``; two maps of one plane zoom together. Values are in the unit of the colour
        bar: those of the view, divided by its power of ten where that is not 0.
    """
    import holoviews as hv

    if "bokeh" not in hv.Store.loaded_backends():
        hv.extension("bokeh")
    return _profile(view) if isinstance(view, ProfileView) else _map(view)


def _map(view: MapView | SkyView) -> Any:
    import holoviews as hv

    scale = view.scale
    low, high = scale.bar
    if isinstance(view, SkyView):
        across, up = hv.Dimension("sky_across"), hv.Dimension("sky_up")
        values = np.where(view.inside, view.values, np.nan)
        curves, labels = (*view.graticule, *view.outlines), view.labels
    else:
        across = hv.Dimension(
            f"{view.across.name} [{view.across.units}]", label=view.across.label, unit=view.across.units
        )
        up = hv.Dimension(f"{view.up.name} [{view.up.units}]", label=view.up.label, unit=view.up.units)
        values = np.asarray(view.values)
        curves, labels = view.curves, ()
    units = unicode_units(view.units, scale.power)
    value = hv.Dimension(_identifier(f"{view.quantity} {view.statistic}"), label=view.statistic, unit=units or None)
    drawn = np.ma.filled(np.ma.masked_invalid(scale.drawn(values)), np.nan).astype(np.float32)
    left, right, bottom, top = view.extent
    x, y = (start + (np.arange(n) + 0.5) * (end - start) / n for start, end, n in _axes(view))
    image = hv.Image((x, y, drawn), kdims=[across, up], vdims=[value])
    options: dict[str, Any] = {
        "cmap": list(palette(view.colours)[:N_LEVEL]),
        "clim": (low, high),
        "cnorm": scale.kind if scale.kind == "log" else "linear",
        "colorbar": True,
        "title": f"{view.title}: {view.statistic}",
        "clabel": units or " ",
        "frame_width": 420,
        "data_aspect": 1,
        "xlim": (left, right),
        "ylim": (bottom, top),
        "bgcolor": "white" if isinstance(view, SkyView) else GREY,
    }
    if isinstance(view, SkyView):
        options |= {"xaxis": None, "yaxis": None}
    image = image.opts(backend="bokeh", **options)
    dims = [across, up]
    layers = [image]
    for curve in curves:
        path = hv.Path([np.column_stack([curve.x, curve.y])], kdims=dims, label=curve.kind)
        dash = "dashed" if curve.kind == "solar circle" else "solid"
        layers.append(path.opts(backend="bokeh", color="white", line_width=1.0, line_dash=dash))
    if view.marks:
        points = hv.Points([(mark.x, mark.y) for mark in view.marks], kdims=dims)
        layers.append(points.opts(backend="bokeh", color="white", marker="x", size=8))
    if labels:
        texts = hv.Labels(list(labels), kdims=dims, vdims=[hv.Dimension("label")])
        layers.append(texts.opts(backend="bokeh", text_color="white", text_font_size="8pt"))
    return hv.Overlay(layers)


def _profile(view: ProfileView) -> Any:
    import holoviews as hv

    factor = 10.0**view.power
    units = unicode_units(view.up.units, view.power)
    across = hv.Dimension(
        f"{view.across.name} [{view.across.units}]", label=view.across.label, unit=view.across.units or None
    )
    up = hv.Dimension(
        _identifier(f"{view.quantity} {view.up.units} e{view.power}"), label=view.up.label, unit=units or None
    )
    # HoloViews finds dimensions by their labels, too: two of one label are taken for one
    above = hv.Dimension(f"{up.name} upper", unit=units or None)
    alpha = (0.18, 0.36)
    layers: list[Any] = []
    for i, band in enumerate(view.bands):
        edges = (view.x, band.lower / factor, band.upper / factor)
        # both value dimensions are named: without names the key dimension would be called x
        area = hv.Area(edges, kdims=[across], vdims=[up, above], label=band.label)
        layers.append(area.opts(backend="bokeh", color="#4c72b0", alpha=alpha[min(i, 1)]))
    if view.n_sample:
        paths = [np.column_stack([view.x, sample / factor]) for sample in np.asarray(view.samples).T]
        samples = hv.Path(paths, kdims=[across, up], label=f"each of {view.n_sample} samples")
        layers.append(samples.opts(backend="bokeh", color="#4c72b0", alpha=0.55, line_width=0.7))
    curves = [(view.mean, view.x, "mean", "#1f3b73", 2.2)] if np.isfinite(view.mean).any() else []
    curves += [(line.y, line.x, line.label, "#c2334d", 1.4) for line in view.lines if line.kind != "place"]
    for y, x, label, colour, thick in curves:
        curve = hv.Curve((x, np.asarray(y) / factor), kdims=[across], vdims=[up], label=label)
        layers.append(curve.opts(backend="bokeh", color=colour, line_width=thick))
    for points in view.points:
        y = points.y / factor
        errors = np.nan_to_num(np.stack([y - points.y_lower / factor, points.y_upper / factor - y]))
        scatter = hv.Scatter((points.x, y), kdims=[across], vdims=[up], label=points.label)
        bars = [hv.Dimension("below"), hv.Dimension("above")]
        layers.append(hv.ErrorBars((points.x, y, *errors), kdims=[across], vdims=[up, *bars]))
        layers.append(scatter)
    options: dict[str, Any] = {
        "title": f"{view.title}: {view.statistic}",
        "ylabel": f"{view.up.label} [{units}]" if len(view.up.label) < 30 else f"[{units}]",
        "xlim": view.x_limits,
        "ylim": (view.y_limits[0] / factor, view.y_limits[1] / factor),
        "logy": view.up_kind == "log",
        "legend_position": "top_right",
        "frame_width": 520,
        "frame_height": 300,
    }
    return hv.Overlay(layers).opts(hv.opts.Overlay(backend="bokeh", **options))


def _axes(view: MapView | SkyView) -> tuple[tuple[float, float, int], tuple[float, float, int]]:
    left, right, bottom, top = view.extent
    n_up, n_across = view.values.shape
    return (left, right, n_across), (bottom, top, n_up)


def _identifier(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_")
