"""Profiles in the browser: mean, bands, samples, fits and measured points, in a figure that gets new values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from crdist_dashboards.app.live import bar_ticks
from crdist_dashboards.app.theme import LIGHT, Theme, style_figure
from crdist_dashboards.records import Line, Points, ProfileView
from crdist_dashboards.scales import ColourScale, power_of_ten, unicode_units

if TYPE_CHECKING:
    from bokeh.plotting import figure as Figure

__all__ = ["LiveProfile", "power_shown"]

BAND_ALPHA = (0.18, 0.36)
DASHES = {
    "fit": "dashed",
    "reference": "dotted",
    "truth": "dotdash",
    "place": [5, 4],
    "mean": "solid",
    "sample": "solid",
}
LEGEND_WIDTH = 560
"""Pixels up to which a legend is one line above the figure; a longer one stands to its right."""

MARKERS = ("circle", "square", "triangle", "diamond")

FILL_WINDOW = """
const height = Math.round(Math.max(least, Math.min(0.5 * figure.inner_width, window.innerHeight - 360)));
if (figure.inner_width > 0 && height != figure.height) figure.height = height;
"""
"""What is above and below a figure that is alone on its page takes some 360 pixels."""


class LiveProfile:
    """A profile whose figure is kept as long as it has the same parts.

    Parameters
    ----------
    theme : Theme
    height : int
        Pixels.
    legend : bool
    fill : bool
        Whether it grows with a large window, as the only figure of its page.
    """

    def __init__(self, *, theme: Theme = LIGHT, height: int = 300, legend: bool = True, fill: bool = False) -> None:
        import panel as pn

        self.view: ProfileView | None = None
        self._theme = theme
        self._height = height
        self._legend = legend
        self._fill = fill
        self._parts: Any = None
        self._figure: Figure | None = None
        self._sources: dict[str, Any] = {}
        self._items: list[Any] = []
        self.pane = pn.pane.Bokeh(None, sizing_mode="stretch_width", min_height=height)

    @property
    def figure(self) -> Figure | None:
        """The figure that is shown now."""
        return self._figure

    def show(self, view: ProfileView) -> None:
        """Show other values; a new figure only where the axis or the parts are of another kind."""
        self.view = view
        parts = _parts_of(view)
        if parts != self._parts:
            self._parts = parts
            self._figure = self._make(view)
        else:
            for name, data in _data_of(view).items():
                self._sources[name].data = data
        figure = self._figure
        assert figure is not None
        factor = 10.0 ** power_shown(view)
        for range_, (low, high) in ((figure.x_range, view.x_limits), (figure.y_range, _scaled(view.y_limits, factor))):
            range_.update(start=low, end=high, reset_start=low, reset_end=high)
        is_said = view.quantity.lower() in view.title.lower()
        figure.title.text = f"{view.title}\n{view.statistic if is_said else f'{view.quantity}: {view.statistic}'}"
        figure.xaxis[0].axis_label = _label(view.across.label, view.across.units, 0)
        # a name that is longer than the axis stands in the title only
        name = view.up.label if len(view.up.label) * 7 < self._height - 90 else ""
        figure.yaxis[0].axis_label = _label(name, view.up.units, power_shown(view))
        if view.up_kind == "log":
            self._show_ticks(view)
        for item, label in zip(self._items, _labels_of(view), strict=True):
            item.label = {"value": label}
        if self.pane.object is not figure:
            self.pane.object = figure

    def _show_ticks(self, view: ProfileView) -> None:
        """Short numbers at the ticks of a logarithmic axis; its label has their power of ten."""
        assert self._figure is not None
        low, high = _scaled(view.y_limits, 10.0 ** power_shown(view))
        ticks = bar_ticks(ColourScale(low, high, "log", 0, "neither"))
        axis = self._figure.yaxis[0]
        axis.ticker.ticks = [place for place, _ in ticks]
        axis.major_label_overrides = dict(ticks)

    def _make(self, view: ProfileView) -> Figure:
        from bokeh.models import (
            ColumnDataSource,
            CustomJS,
            FixedTicker,
            Legend,
            LegendItem,
            MultiLine,
            Range1d,
            Scatter,
            Segment,
            VArea,
        )
        from bokeh.models import Line as CurveGlyph
        from bokeh.plotting import figure

        theme = self._theme
        plot = figure(
            x_range=Range1d(0, 1),
            y_range=Range1d(0.1, 1),
            y_axis_type=view.up_kind,
            height=self._height,
            sizing_mode="stretch_width",
            tools="pan,box_zoom,wheel_zoom,reset",
            toolbar_location="above",
            title="",
        )
        plot.toolbar.logo, plot.toolbar.autohide = None, True
        if view.up_kind == "log":
            plot.yaxis[0].ticker = FixedTicker()
        if self._fill:
            plot.js_on_change("inner_width", CustomJS(args={"figure": plot, "least": self._height}, code=FILL_WINDOW))
        plot.min_border = 4
        plot.min_border_right = 14
        self._sources = {name: ColumnDataSource(data) for name, data in _data_of(view).items()}
        renderers: list[list[Any]] = []

        def draw(name: str, *glyphs: Any) -> None:
            renderers.append([plot.add_glyph(self._sources[name], glyph) for glyph in glyphs])

        for i in range(len(view.bands)):
            alpha = BAND_ALPHA[min(i, 1)] if len(view.bands) > 1 else BAND_ALPHA[1]
            draw(f"band{i}", VArea(x="x", y1="low", y2="high", fill_color=theme.sample, fill_alpha=alpha))
        if view.n_sample:
            draw("samples", MultiLine(xs="xs", ys="ys", line_color=theme.sample, line_width=0.8, line_alpha=0.55))
        if np.isfinite(view.mean).any():
            draw("mean", CurveGlyph(x="x", y="y", line_color=theme.mean, line_width=2.4))
        for i, line in enumerate(view.lines):
            draw(f"line{i}", CurveGlyph(x="x", y="y", **_line_style(line, i, theme)))
        for i in range(len(view.points)):
            colour = theme.points[i % len(theme.points)]
            bars: dict[str, Any] = {"line_color": colour, "line_width": 1.1}
            marker = MARKERS[i % len(MARKERS)]
            draw(
                f"points{i}",
                Scatter(x="x", y="y", marker=marker, size=6, fill_color=colour, line_color=colour),
                Segment(x0="x_lower", y0="y", x1="x_upper", y1="y", **bars),
                Segment(x0="x", y0="y_lower", x1="x", y1="y_upper", **bars),
            )
        labels = _labels_of(view)
        self._items = [
            LegendItem(label={"value": label}, renderers=drawn) for label, drawn in zip(labels, renderers, strict=True)
        ]
        if self._legend:
            shown = [item for item, label in zip(self._items, labels, strict=True) if label]
            is_short = sum(6 * len(label) + 40 for label in labels if label) < LEGEND_WIDTH
            # beside the curves: on them it would hide the ends of bands
            legend = Legend(items=shown, location="top_left", orientation="horizontal" if is_short else "vertical")
            legend.update(
                background_fill_color=theme.ground,
                background_fill_alpha=0.75,
                border_line_color=None,
                label_text_color=theme.text,
                label_text_font_size="11px",
                glyph_height=12,
                glyph_width=18,
                spacing=12 if is_short else 0,
                padding=0,
                margin=2,
                click_policy="hide",
            )
            plot.add_layout(legend, "above" if is_short else "right")
        style_figure(plot, theme)
        return plot


def power_shown(view: ProfileView) -> int:
    """The power of ten in units of which a profile's axis is labelled: a logarithmic one has short numbers, too."""
    if view.up_kind == "linear" or view.power:
        return view.power
    return power_of_ten(view.y_limits[1])


def _line_style(line: Line, i: int, theme: Theme) -> dict[str, Any]:
    colours = {"fit": theme.fit, "truth": theme.points[1], "mean": theme.points[i % len(theme.points)]}
    return {
        "line_color": colours.get(line.kind, theme.faint),
        "line_dash": DASHES.get(line.kind, "solid"),
        "line_width": 1.8 if line.kind in ("fit", "truth", "mean") else 1.2,
    }


def _parts_of(view: ProfileView) -> tuple[Any, ...]:
    """What a figure can only be made anew for."""
    has_mean = bool(np.isfinite(view.mean).any())
    lines = tuple((line.kind, bool(line.label)) for line in view.lines)
    return view.up_kind, len(view.bands), view.n_sample > 0, has_mean, lines, len(view.points)


def _labels_of(view: ProfileView) -> list[str]:
    labels = [band.label for band in view.bands]
    if view.n_sample:
        labels.append(f"each of {view.n_sample} samples")
    if np.isfinite(view.mean).any():
        labels.append("mean")
    return [*labels, *(line.label for line in view.lines), *(points.label for points in view.points)]


def _data_of(view: ProfileView) -> dict[str, dict[str, Any]]:
    """What the sources hold, by their names; values in the unit of the axis."""
    factor = 10.0 ** power_shown(view)
    x = np.asarray(view.x, np.float64)
    data: dict[str, dict[str, Any]] = {}
    for i, band in enumerate(view.bands):
        data[f"band{i}"] = {"x": x, "low": _shown(band.lower, factor, view), "high": _shown(band.upper, factor, view)}
    samples = np.asarray(view.samples, np.float64) / factor
    data["samples"] = {"xs": [x] * samples.shape[1], "ys": list(samples.T)}
    data["mean"] = {"x": x, "y": np.asarray(view.mean, np.float64) / factor}
    for i, line in enumerate(view.lines):
        across, up = np.asarray(line.x, np.float64), np.asarray(line.y, np.float64) / factor
        if line.kind == "place":
            across, up = np.full(2, across.flat[0]), np.asarray(view.y_limits) / factor
        data[f"line{i}"] = {"x": across, "y": up}
    for i, points in enumerate(view.points):
        data[f"points{i}"] = _points_data(points, factor)
    return data


def _points_data(points: Points, factor: float) -> dict[str, Any]:
    up = {name: np.asarray(getattr(points, name), np.float64) / factor for name in ("y", "y_lower", "y_upper")}
    return {"x": points.x, "x_lower": points.x_lower, "x_upper": points.x_upper, **up}


def _shown(values: Any, factor: float, view: ProfileView) -> Any:
    """An edge of a band; on a logarithmic axis there is no place for what is not positive."""
    given = np.asarray(values, np.float64) / factor
    return np.maximum(given, view.y_limits[0] / factor / 10) if view.up_kind == "log" else given


def _scaled(limits: tuple[float, float], factor: float) -> tuple[float, float]:
    return limits[0] / factor, limits[1] / factor


def _label(name: str, units: str, power: int) -> str:
    unit = unicode_units(units, power)
    return f"{name} [{unit}]".strip() if unit else name
