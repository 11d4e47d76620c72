"""Maps in the browser: a figure that is made once for a session and gets new values.

A new value of a slider sends one array of bytes, the colours of the map; title and colour bar follow with a few bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from crdist_dashboards.app.theme import LIGHT, Theme, style_figure
from crdist_dashboards.records import MapView, SkyView
from crdist_dashboards.scales import COLOUR_MAPS, GREY, MASKED, ColourScale, palette, unicode_units

if TYPE_CHECKING:
    from bokeh.models import Range1d

__all__ = ["LiveMap", "Place", "bar_ticks"]

Place = Callable[[float, float], None]
"""Called with a place in the plane, or NaN where the pointer has left it."""

PIXELS_STEP = 64
"""The width of a map is told in steps: every step is another picture of a large plane."""

POINTER_MS = 50
"""The pointer's place is sent no more often than this."""

OUTSIDE = 254
"""What is outside a projected sky is encoded as; its last two levels share one colour."""

CLEAR = "#00000000"
FLATTEST, TALLEST = 0.16, 1.6
"""Shapes, height / width, beyond which a map is no longer drawn to scale."""

CURVES = {
    "solar circle": ("white", "dashed", 1.3),
    "spiral arm": ("white", "solid", 1.3),
    "contour": ("#8fe3ff", "solid", 1.1),
    "outline": ("#ff6b5e", "solid", 1.2),
    "graticule": ("white", "solid", 0.5),
}
"""Colour, dash and width of each kind of curve."""

MARKERS = {"sun": "circle_dot", "centre": "cross", "source": "x"}

KEEP_SHAPE = """
const height = Math.round(figure.inner_width * figure.tags[0]) + (figure.outer_height - figure.inner_height);
if (figure.inner_width > 0 && Math.abs(height - figure.height) > 1) figure.height = height;
"""

SEND_PIXELS = """
const n = Math.ceil(figure.inner_width * window.devicePixelRatio / step) * step;
if (n > 0 && n != pixels.data.n[0]) pixels.data = {n: [n]};
"""

SEND_PLACE = """
const now = Date.now();
const send = () => { place.last = Date.now(); place.data = {x: [cb_obj.x], y: [cb_obj.y]}; };
clearTimeout(place.timer);
if (now - (place.last ?? 0) >= wait) send(); else place.timer = setTimeout(send, wait);
"""

SEND_LEFT = "clearTimeout(place.timer); place.data = {x: [NaN], y: [NaN]};"


class LiveMap:
    """A map, or a sky, with its colour bar and overlays.

    Parameters
    ----------
    theme : Theme
    x_range, y_range : bokeh Range1d, optional
        Of another map, to zoom and pan together.
    over : LiveMap, optional
        Another map that always has the same curves, marks and labels over it: they are then sent once.
    on_tap, on_pointer : callable, optional
        Called with the place of a tap, and of the pointer, some 20 times a second at most.
    on_window : callable, optional
        Called with left, right, bottom and top of what is looked at, after it has changed.
    on_pixels : callable, optional
        Called with the number of pixels that the map is wide on the screen, rounded up, when it has changed.
    height : int
        Pixels, until the browser has told how wide it is.
    """

    def __init__(
        self,
        *,
        theme: Theme = LIGHT,
        x_range: Range1d | None = None,
        y_range: Range1d | None = None,
        over: LiveMap | None = None,
        on_tap: Place | None = None,
        on_pointer: Place | None = None,
        on_window: Callable[[float, float, float, float], None] | None = None,
        on_pixels: Callable[[int], None] | None = None,
        height: int = 380,
    ) -> None:
        from bokeh.events import RangesUpdate
        from bokeh.models import ColumnDataSource, CustomJS, Image, LinearColorMapper, Range1d, Span
        from bokeh.plotting import figure

        self.view: MapView | SkyView | None = None
        self._theme = theme
        self.figure = figure(
            x_range=x_range or Range1d(0, 1),
            y_range=y_range or Range1d(0, 1),
            sizing_mode="stretch_width",
            height=height,
            min_width=240,
            tools="",
            toolbar_location="above",
            title="",
            output_backend="canvas",
            lod_threshold=None,
            tags=[1.0],
        )
        self.figure.min_border = 4
        # maps beside each other have the same size, whatever the numbers on their axes and bars
        self.figure.min_border_left, self.figure.min_border_right = 52, 92
        self.figure.grid.visible = False
        self.figure.js_on_change("inner_width", CustomJS(args={"figure": self.figure}, code=KEEP_SHAPE))
        self.figure.js_on_change("tags", CustomJS(args={"figure": self.figure}, code=KEEP_SHAPE))
        self.mapper = LinearColorMapper(palette=[GREY] * 256, low=0, high=256)
        self.image = ColumnDataSource({"image": [np.zeros((1, 1), np.uint8)], "x": [0], "y": [0], "dw": [1], "dh": [1]})
        # a model of its own for each glyph is five times as quick as bokeh.plotting's, which makes five
        values = Image(image="image", x="x", y="y", dw="dw", dh="dh", color_mapper=self.mapper)
        self.figure.add_glyph(self.image, values, level="image")
        self._over = over
        curve = ("xs", "ys", "colour", "around", "dash", "width", "halo", "label")
        mark = ("x", "y", "marker", "colour", "around", "label")
        self._overlays: tuple[ColumnDataSource, ColumnDataSource, ColumnDataSource] = (
            over._overlays
            if over is not None
            else (
                ColumnDataSource({name: [] for name in curve}),
                ColumnDataSource({name: [] for name in mark}),
                ColumnDataSource({"x": [], "y": [], "text": []}),
            )
        )
        self._curves, self._marks, self._labels = self._overlays
        self._draw_overlays()
        self._cross = tuple(
            Span(dimension=way, line_color="#40e0d0", line_width=1.2, line_dash=[5, 4], visible=False)
            for way in ("height", "width")
        )
        for span in self._cross:
            self.figure.add_layout(span)
        self.bars: dict[str, Any] = {}
        """By kind of scale; each made when it is first needed."""
        self._has_labels = False
        self._add_tools()
        style_figure(self.figure, theme)
        self._listen(on_tap, on_pointer)
        if on_pixels is not None:
            self._tell_pixels(on_pixels)
        if on_window is not None:
            self.figure.on_event(RangesUpdate, lambda event: on_window(event.x0, event.x1, event.y0, event.y1))

    @property
    def ranges(self) -> dict[str, Range1d]:
        """What another map needs to zoom and pan together with this one."""
        return {"x_range": self.figure.x_range, "y_range": self.figure.y_range}

    def show(self, view: MapView | SkyView) -> None:
        """Show other values; only what differs from before is sent.

        Parameters
        ----------
        view : MapView or SkyView
        """
        before, self.view = self.view, view
        left, right, bottom, top = view.extent
        place = {"x": [left], "y": [bottom], "dw": [right - left], "dh": [top - bottom]}
        self.image.data = {"image": [self._encoded(view)], **place}
        colours = list(palette(view.colours))
        if isinstance(view, SkyView):
            colours[OUTSIDE] = CLEAR
        _set(self.mapper, palette=colours)
        self._show_bar(view)
        if isinstance(view, MapView):
            _set(self.figure.xaxis[0], axis_label=_with_units(view.across.label, view.across.units))
            _set(self.figure.yaxis[0], axis_label=_with_units(view.up.label, view.up.units))
        is_sky = isinstance(view, SkyView)
        self.figure.axis.visible = not is_sky
        if is_sky:
            _set(self.figure, outline_line_color=None)
        _set(self.figure.title, text=f"{view.title}\n{view.statistic}")
        if isinstance(view, SkyView) and view.labels and not self._has_labels:
            self._has_labels = True
            self._draw_labels()
        if self._over is None and (before is None or _overlay_key(before) != _overlay_key(view)):
            self._show_overlays(view)

    def frame(self, extent: tuple[float, float, float, float]) -> None:
        """Look at an extent: left, right, bottom, top; the figure takes its shape."""
        left, right, bottom, top = extent
        _set(self.figure.x_range, start=left, end=right, reset_start=left, reset_end=right)
        _set(self.figure.y_range, start=bottom, end=top, reset_start=bottom, reset_end=top)
        self.shape((top - bottom) / (right - left))

    def shape(self, aspect: float) -> None:
        """Make the figure this high, in units of its width."""
        _set(self.figure, tags=[min(max(aspect, FLATTEST), TALLEST)])

    def cross(self, x: float | None, y: float | None) -> None:
        """Put the crosshair at a place, or take it away."""
        for span, place in zip(self._cross, (x, y), strict=True):
            _set(span, location=place if place is not None else 0, visible=place is not None)

    def _encoded(self, view: MapView | SkyView) -> Any:
        levels = view.scale.encode(view.values)
        if isinstance(view, SkyView):
            levels = np.where(levels == OUTSIDE, OUTSIDE - 1, levels)
            levels = np.where(view.inside, levels, OUTSIDE).astype(np.uint8)
        return levels

    def _show_bar(self, view: MapView | SkyView) -> None:
        scale = view.scale
        low, high = scale.bar
        if scale.kind not in self.bars:
            self._add_bar(scale.kind)
        for kind, bar in self.bars.items():
            if kind == scale.kind:
                _set(bar.color_mapper, palette=list(palette(view.colours)[:MASKED]), low=low, high=high)
                _set(bar, title=unicode_units(view.units, scale.power) or " ")
                if kind == "log":
                    ticks = bar_ticks(scale)
                    _set(bar.ticker, ticks=[place for place, _ in ticks])
                    _set(bar, major_label_overrides=dict(ticks))
            _set(bar, visible=kind == scale.kind)

    def _show_overlays(self, view: MapView | SkyView) -> None:
        if isinstance(view, SkyView):
            curves, texts = (*view.graticule, *view.outlines), view.labels
        else:
            curves, texts = view.curves, ()
        # white does not show on a map that is white where it is zero
        ink, around = ("#1d2330", "white") if view.colours == COLOUR_MAPS["difference"] else ("white", "black")
        styles = [CURVES[curve.kind] for curve in curves]
        self._curves.data = {
            "xs": [np.asarray(curve.x, np.float32) for curve in curves],
            "ys": [np.asarray(curve.y, np.float32) for curve in curves],
            "colour": [ink if style[0] == "white" else style[0] for style in styles],
            "around": [around] * len(curves),
            "dash": [style[1] for style in styles],
            "width": [style[2] for style in styles],
            "halo": [style[2] + 1.6 for style in styles],
            "label": [curve.label or curve.kind for curve in curves],
        }
        self._labels.data = {
            "x": [text[0] for text in texts],
            "y": [text[1] for text in texts],
            "text": [text[2] for text in texts],
        }
        self._marks.data = {
            "x": [mark.x for mark in view.marks],
            "y": [mark.y for mark in view.marks],
            "marker": [MARKERS[mark.kind] for mark in view.marks],
            "colour": [ink] * len(view.marks),
            "around": [around] * len(view.marks),
            "label": [mark.label for mark in view.marks],
        }

    def _draw_overlays(self) -> None:
        from bokeh.models import HoverTool, MultiLine, Scatter

        lines: dict[str, Any] = {"xs": "xs", "ys": "ys", "line_dash": "dash"}
        halo = MultiLine(line_color="around", line_alpha=0.35, line_width="halo", **lines)
        line = MultiLine(line_color="colour", line_alpha=0.8, line_width="width", **lines)
        marks: dict[str, Any] = {"x": "x", "y": "y", "marker": "marker", "fill_color": None, "size": 11}
        around = Scatter(line_color="around", line_alpha=0.5, line_width=4, **marks)
        mark = Scatter(line_color="colour", line_width=1.6, **marks)
        self.figure.add_glyph(self._curves, halo)
        curves = self.figure.add_glyph(self._curves, line)
        self.figure.add_glyph(self._marks, around)
        points = self.figure.add_glyph(self._marks, mark)
        # names of arms on the map itself would hide it
        self.figure.add_tools(HoverTool(renderers=[curves, points], tooltips="@label", visible=False))

    def _draw_labels(self) -> None:
        from bokeh.models import Text

        text = Text(
            x="x",
            y="y",
            text="text",
            text_color="white",
            text_font_size="10px",
            text_align="center",
            text_baseline="middle",
            background_fill_color="#00000060",
            padding=2,
            border_radius=3,
        )
        self.figure.add_glyph(self._labels, text)

    def _add_bar(self, kind: str) -> None:
        from bokeh.models import BasicTicker, ColorBar, FixedTicker, LinearColorMapper, LogColorMapper

        theme, mapper = self._theme, LogColorMapper if kind == "log" else LinearColorMapper
        bar = ColorBar(
            color_mapper=mapper(palette=[GREY], low=1, high=2),
            ticker=FixedTicker() if kind == "log" else BasicTicker(desired_num_ticks=6),
            width=12,
            padding=2,
            label_standoff=5,
            border_line_color=None,
            bar_line_color=theme.faint,
            background_fill_color=theme.ground,
            title_text_color=theme.text,
            title_text_font_style="normal",
            title_text_font_size="11px",
            title_standoff=6,
            major_label_text_color=theme.text,
            major_label_text_font_size="11px",
            major_tick_line_color=theme.faint,
            visible=False,
        )
        self.bars[kind] = bar
        self.figure.add_layout(bar, "right")

    def _add_tools(self) -> None:
        from bokeh.models import BoxZoomTool, PanTool, ResetTool, WheelZoomTool

        wheel = WheelZoomTool(maintain_focus=True)
        self.figure.add_tools(PanTool(), wheel, BoxZoomTool(match_aspect=True), ResetTool())
        self.figure.toolbar.logo = None
        self.figure.toolbar.autohide = True

    def _listen(self, on_tap: Place | None, on_pointer: Place | None) -> None:
        from bokeh.events import MouseLeave, MouseMove, Tap
        from bokeh.models import ColumnDataSource, CustomJS

        if on_tap is not None:
            self.figure.on_event(Tap, lambda event: on_tap(event.x, event.y))
        if on_pointer is not None:
            place = ColumnDataSource({"x": [math.nan], "y": [math.nan]})
            self.figure.js_on_event(MouseMove, CustomJS(args={"place": place, "wait": POINTER_MS}, code=SEND_PLACE))
            self.figure.js_on_event(MouseLeave, CustomJS(args={"place": place}, code=SEND_LEFT))

            def moved(attr: str, old: Any, new: Any) -> None:
                x, y = (float(np.nan if new[name][0] is None else new[name][0]) for name in "xy")
                on_pointer(x, y)

            place.on_change("data", moved)

    def _tell_pixels(self, on_pixels: Callable[[int], None]) -> None:
        from bokeh.models import ColumnDataSource, CustomJS

        pixels = ColumnDataSource({"n": [0]})
        args = {"figure": self.figure, "pixels": pixels, "step": PIXELS_STEP}
        self.figure.js_on_change("inner_width", CustomJS(args=args, code=SEND_PIXELS))
        pixels.on_change("data", lambda attr, old, new: on_pixels(int(new["n"][0])))


def bar_ticks(scale: ColourScale) -> list[tuple[float, str]]:
    """Places and labels of the ticks of a logarithmic colour bar.

    Parameters
    ----------
    scale : ColourScale
        Of kind log.

    Returns
    -------
    list of (float, str)
        At 1, 2 and 5 times powers of ten, or at powers only where the bar spans more than three.

    Examples
    --------
    >>> bar_ticks(ColourScale(3.0, 300.0, "log", 0, "neither"))
    [(5.0, '5'), (10.0, '10'), (20.0, '20'), (50.0, '50'), (100.0, '100'), (200.0, '200')]
    """
    low, high = scale.bar
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = math.log10(high / low)
    steps = (1.0,) if decades > 3 else (1.0, 2.0, 5.0) if decades > 0.7 else tuple(np.arange(1.0, 10.0, 0.5).tolist())
    places = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return [(place, _number(place)) for place in places if low <= place * (1 + 1e-9) and place <= high * (1 + 1e-9)]


def _number(value: float) -> str:
    power = math.floor(math.log10(value) + 1e-9)
    if -3 <= power < 5:
        return f"{value:g}"
    digits = f"{value / 10.0**power:.2g}"
    factor = "" if digits == "1" else f"{digits}\N{MULTIPLICATION SIGN}"
    return factor + unicode_units("", power)


def _with_units(label: str, units: str) -> str:
    return f"{label} [{unicode_units(units)}]" if units else label


def _overlay_key(view: MapView | SkyView) -> Any:
    """What differs if, and only if, something else is drawn over the map."""
    curves = (*view.graticule, *view.outlines) if isinstance(view, SkyView) else view.curves
    lines = [
        (curve.kind, curve.label, np.asarray(curve.x).tobytes(), np.asarray(curve.y).tobytes()) for curve in curves
    ]
    return lines, view.marks, view.labels if isinstance(view, SkyView) else ()


def _set(model: Any, **values: Any) -> None:
    """Set properties that differ: Bokeh sends what is set, changed or not."""
    for name, value in values.items():
        if getattr(model, name) != value:
            setattr(model, name, value)
