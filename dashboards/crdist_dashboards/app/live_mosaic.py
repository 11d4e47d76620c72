"""Many maps on one scale in one figure: small multiples, of which one can be chosen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from crdist_dashboards.app.live import KEEP_SHAPE
from crdist_dashboards.app.theme import LIGHT, Theme, style_figure
from crdist_dashboards.records import MapView
from crdist_dashboards.scales import GREY, palette

__all__ = ["LiveMosaic", "columns_of"]

GAP = 0.06
"""Space between two maps, in units of a map's width."""

LABEL = 0.14
"""Space for the number above a map."""

COARSEST = 128
"""Pixels along the longer side of a small map."""


class LiveMosaic:
    """Small multiples.

    Parameters
    ----------
    theme : Theme
    on_tap : callable, optional
        Called with the number of the map that was tapped.
    """

    def __init__(self, *, theme: Theme = LIGHT, on_tap: Callable[[int], None] | None = None) -> None:
        from bokeh.events import Tap
        from bokeh.models import ColumnDataSource, CustomJS, Image, LinearColorMapper, Quad, Range1d, Text
        from bokeh.plotting import figure

        self._on_tap = on_tap
        self._places: list[tuple[float, float, float, float]] = []
        self.figure = figure(
            x_range=Range1d(0, 1),
            y_range=Range1d(0, 1),
            sizing_mode="stretch_width",
            height=380,
            tools="",
            toolbar_location=None,
            tags=[1.0],
        )
        self.mapper = LinearColorMapper(palette=[GREY] * 256, low=0, high=256)
        self.image = ColumnDataSource({name: [] for name in ("image", "x", "y", "dw", "dh")})
        values = Image(image="image", x="x", y="y", dw="dw", dh="dh", color_mapper=self.mapper)
        self.figure.add_glyph(self.image, values)
        self._labels = ColumnDataSource({"x": [], "y": [], "text": []})
        text: dict[str, Any] = {"text_color": theme.text, "text_font_size": "11px", "text_align": "center"}
        self.figure.add_glyph(self._labels, Text(x="x", y="y", text="text", text_baseline="bottom", **text))
        self._chosen = ColumnDataSource({"left": [], "right": [], "bottom": [], "top": []})
        frame: dict[str, Any] = {"fill_color": None, "line_color": theme.fit, "line_width": 3}
        self.figure.add_glyph(self._chosen, Quad(left="left", right="right", top="top", bottom="bottom", **frame))
        style_figure(self.figure, theme)
        self.figure.axis.visible = self.figure.grid.visible = False
        self.figure.outline_line_color = None
        for change in ("inner_width", "tags"):
            self.figure.js_on_change(change, CustomJS(args={"figure": self.figure}, code=KEEP_SHAPE))
        self.figure.on_event(Tap, self._tapped)

    def show(self, views: tuple[MapView, ...]) -> None:
        """Show maps of one plane that share a colour scale.

        Parameters
        ----------
        views : tuple of MapView
        """
        left, right, bottom, top = views[0].extent
        height = (top - bottom) / (right - left)
        columns = columns_of(len(views), height)
        rows = math.ceil(len(views) / columns)
        pitch = height + GAP + LABEL
        self._places = []
        for i in range(len(views)):
            x, y = (i % columns) * (1 + GAP), (rows - 1 - i // columns) * pitch
            self._places.append((x, x + 1, y, y + height))
        step = max(1, math.ceil(max(views[0].values.shape) / COARSEST))
        self.mapper.palette = list(palette(views[0].colours))
        self.image.data = {
            "image": [view.scale.encode(view.values[::step, ::step]) for view in views],
            "x": [place[0] for place in self._places],
            "y": [place[2] for place in self._places],
            "dw": [1.0] * len(views),
            "dh": [height] * len(views),
        }
        self._labels.data = {
            "x": [place[0] + 0.5 for place in self._places],
            "y": [place[3] + 0.01 for place in self._places],
            "text": [str(i) for i in range(len(views))],
        }
        width, tall = columns * (1 + GAP) - GAP, rows * pitch - GAP
        self.figure.x_range.update(start=-0.02, end=width + 0.02)
        self.figure.y_range.update(start=-0.02, end=tall + 0.02)
        self.figure.tags = [(tall + 0.04) / (width + 0.04)]

    def choose(self, i: int) -> None:
        """Frame one of the maps."""
        places = self._places[i : i + 1]
        names = ("left", "right", "bottom", "top")
        self._chosen.data = {name: [place[k] for place in places] for k, name in enumerate(names)}

    def _tapped(self, event: Any) -> None:
        for i, (left, right, bottom, top) in enumerate(self._places):
            if left <= event.x <= right and bottom <= event.y <= top and self._on_tap is not None:
                self._on_tap(i)


def columns_of(n: int, height: float) -> int:
    """Columns that make a mosaic of maps about as high as wide.

    Examples
    --------
    >>> columns_of(12, 1.0), columns_of(12, 0.15), columns_of(1, 1.0)
    (4, 2, 1)
    """
    shapes = []
    for columns in range(1, n + 1):
        shape = math.ceil(n / columns) * (height + GAP + LABEL) / (columns * (1 + GAP))
        empty = columns * math.ceil(n / columns) - n
        shapes.append((abs(np.log(shape)) + 0.1 * empty, columns))
    return min(shapes)[1]
