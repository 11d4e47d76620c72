"""Three maps that zoom together, the lines through a point of them, and the values under the pointer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from crdist.errors import CrdistError
from crdist_dashboards.app.downloads import downloads
from crdist_dashboards.app.live import LiveMap
from crdist_dashboards.app.live_profile import LiveProfile
from crdist_dashboards.app.session import Session
from crdist_dashboards.records import MapView, ProfileView
from crdist_dashboards.views.planes import Window

__all__ = ["FLAT", "Triptych", "notes_of", "readout", "share"]

FLAT = 0.45
"""Maps flatter than this (height / width) stand above each other."""

SETTLE_MS = 150
"""A window is taken up this long after it began to change."""

FIRST_PIXELS = 256
"""Pixels along a side of a map until the browser has told how many it has."""

MOST_PIXELS = 1024
"""No map is sent with more; files are made with as many."""

MARGIN = 0.25
"""Of a window, beyond each of its sides."""

Lines = Callable[[float, float], tuple[ProfileView, ProfileView]]
Value = Callable[[float, float], str]
Make = Callable[[Window | None, int], tuple[MapView, ...]]


class Triptych:
    """Up to three maps of one plane with a crosshair.

    Parameters
    ----------
    session : Session
    make : callable
        The maps of a window, None for the whole plane, with at most so many pixels a side.
    lines : callable
        The profiles through a point.
    value : callable
        One line of text on a point.
    safely : callable
        Does something, and shows its error.
    n_map : int
    same_overlays : bool
        Whether all maps have the same colours for what is drawn over them.
    """

    def __init__(
        self,
        session: Session,
        *,
        make: Make,
        lines: Lines,
        value: Value,
        safely: Callable[[Callable[[], Any]], None],
        n_map: int = 3,
        same_overlays: bool = True,
    ) -> None:
        import panel as pn

        self._session = session
        self._make, self._lines, self._value, self._safely = make, lines, value, safely
        self.window: Window | None = None
        """What is looked at of a plane that is shown in part only, kpc; None for the whole."""
        self._pixels = FIRST_PIXELS
        self._asked: Window | None = None
        self._waiting = False
        self._is_thinned = False
        self._is_late = False
        self._middle = (0.0, 0.0)
        self.maps: list[LiveMap] = []
        for _ in range(n_map):
            # one of the maps says for all what is looked at
            shared: dict[str, Any] = {"on_window": self._looked, "on_pixels": self._sized}
            if self.maps:
                shared = {**self.maps[0].ranges, "over": self.maps[0] if same_overlays else None}
            live = LiveMap(theme=session.theme, on_tap=self._tapped, on_pointer=self._pointed, **shared)
            self.maps.append(live)
        self.profiles = (LiveProfile(theme=session.theme, height=240), LiveProfile(theme=session.theme, height=240))
        self._extent: tuple[float, float, float, float] | None = None
        panes = [pn.pane.Bokeh(live.figure, sizing_mode="stretch_width") for live in self.maps]
        self._grid = pn.GridBox(*panes, ncols=n_map, sizing_mode="stretch_width")
        self._readout = readout(session)
        self._notes = pn.pane.HTML(
            "", sizing_mode="stretch_width", margin=(0, 10), styles={"color": session.theme.faint}
        )
        lines_below = [
            pn.Column(item.pane, sizing_mode="stretch_width", margin=0, styles=share(1)) for item in self.profiles
        ]
        below = pn.Row(*lines_below, sizing_mode="stretch_width")
        self.view = pn.Column(self._readout, self._grid, self._notes, below, sizing_mode="stretch_width", margin=0)
        # an error may come before the first maps
        self.view.visible = False
        self._point("")

    def draw(self) -> None:
        """Show the maps as they are now; the window stays where it is unless the plane is another."""
        views = self._make(self.window, self._pixels)
        for live, view in zip(self.maps, views, strict=True):
            live.show(view)
        left, right, bottom, top = extent = views[0].extent
        if self.window is None:
            self._is_thinned = any(view.thinned for view in views)
            sun = next((mark for mark in views[0].marks if mark.kind == "sun"), None)
            self._middle = (sun.x, sun.y) if sun is not None else ((left + right) / 2, (bottom + top) / 2)
        if self.window is None and extent != self._extent:
            self._extent = extent
            for live in self.maps:
                live.frame(extent)
            columns = 1 if (top - bottom) < FLAT * (right - left) else len(self.maps)
            if self._grid.ncols != columns:
                self._grid.ncols = columns
        self._notes.object = notes_of(views)
        self.view.visible = True
        self.cross()

    def cross(self) -> None:
        """Put the crosshair where the state says, by default at the Sun, and draw the lines through it."""
        import panel as pn

        place = self._place()
        for live in self.maps:
            live.cross(*place)
        if pn.state.loaded:
            self._draw_lines()
        elif not self._is_late:
            # a browser that opens the page gets the maps first
            self._is_late = True
            pn.state.onload(lambda: self._safely(self._draw_lines))

    def _draw_lines(self) -> None:
        for live_profile, view in zip(self.profiles, self._lines(*self._place()), strict=True):
            live_profile.show(view)

    def downloads(self, names: tuple[str, ...], name: Callable[[], str], failed: Callable[[str], None]) -> Any:
        """Widgets that give what is shown as files; ``names`` are those of the maps."""

        def views() -> Mapping[str, Any]:
            shown = [*self._fine(), *(profile.view for profile in self.profiles)]
            return {key: view for key, view in zip(keys, shown, strict=True) if view is not None}

        keys = (*names, "line across", "line up")
        return downloads(keys, views, name, failed)

    def _fine(self) -> tuple[MapView | None, ...]:
        """The maps for a file: what a page leaves out for want of pixels is in them."""
        shown = self._shown()
        if any(view is not None and view.thinned for view in shown):
            return self._make(self.window, MOST_PIXELS)
        return shown

    def _shown(self) -> tuple[MapView | None, ...]:
        return tuple(live.view if isinstance(live.view, MapView) else None for live in self.maps)

    def _place(self) -> tuple[float, float]:
        state = self._session.state
        assert self._extent is not None
        left, right, bottom, top = self._extent
        x = state.x if state.x is not None else self._middle[0]
        y = state.y if state.y is not None else self._middle[1]
        return min(max(x, left), right), min(max(y, bottom), top)

    def _looked(self, left: float, right: float, bottom: float, top: float) -> None:
        """Take up what is looked at, once it has not changed for a moment."""
        import panel as pn

        self._asked = (left, right, bottom, top)
        if self._extent is None or not self._is_thinned or self._waiting:
            return
        if pn.state.curdoc is None or pn.state.curdoc.session_context is None:
            self._look()
            return
        self._waiting = True
        pn.state.curdoc.add_timeout_callback(self._look, SETTLE_MS)

    def _look(self) -> None:
        self._waiting = False
        assert self._asked is not None
        assert self._extent is not None
        window = _within(self._asked, self._extent)
        if window != self.window:
            self.window = window
            self._safely(self.draw)

    def _sized(self, pixels: int) -> None:
        """Take up how many pixels the browser has for a map."""
        before, self._pixels = self._pixels, min(max(pixels, FIRST_PIXELS), MOST_PIXELS)
        if self._pixels != before and any(view is not None and view.thinned for view in self._shown()):
            self._safely(self.draw)

    def _tapped(self, x: float, y: float) -> None:
        if self._extent is None:
            return
        left, right, bottom, top = self._extent
        if left <= x <= right and bottom <= y <= top:
            self._session.state.param.update(x=round(x, 4), y=round(y, 4))

    def _pointed(self, x: float, y: float) -> None:
        if not (math.isfinite(x) and math.isfinite(y)):
            self._point("")
            return
        try:
            self._point(self._value(x, y))
        except CrdistError as error:
            self._point(str(error))

    def _point(self, text: str) -> None:
        self._readout.object = escape(text or "Point at a map to read its values; tap to move the crosshair.")


def _within(asked: Window, extent: Window) -> Window | None:
    """The part of an extent to make maps of for what is looked at, with a margin to pan into; None for the whole.

    Examples
    --------
    >>> _within((0.0, 1.0, 0.0, 1.0), (-8.0, 8.0, -8.0, 8.0))
    (-0.25, 1.25, -0.25, 1.25)
    >>> _within((-9.0, 8.0, -8.0, 8.0), (-8.0, 8.0, -8.0, 8.0)) is None
    True
    """
    found = []
    for low, high, first, last in zip(asked[::2], asked[1::2], extent[::2], extent[1::2], strict=True):
        margin = MARGIN * (high - low)
        found += [max(low - margin, first), min(high + margin, last)]
    left, right, bottom, top = found
    is_none = not (left < right and bottom < top)
    return None if is_none or (left, right, bottom, top) == extent else (left, right, bottom, top)


def readout(session: Session) -> Any:
    """The line of text that says what is under the pointer."""
    import panel as pn

    return pn.pane.HTML("", sizing_mode="stretch_width", margin=(0, 10), styles=_readout_style(session))


def share(parts: int) -> dict[str, str]:
    """Style of a part of a row that gets so many parts of its width, whatever is in it."""
    return {"flex": f"{parts} 1 0", "min-width": "0"}


def notes_of(views: tuple[Any, ...]) -> str:
    """The notes of several views, each once."""
    seen = dict.fromkeys(note for view in views for note in view.notes)
    return escape("   |   ".join(seen))


def _readout_style(session: Session) -> dict[str, str]:
    theme = session.theme
    return {
        "background": theme.panel,
        "color": theme.text,
        "padding": "4px 10px",
        "border-radius": "4px",
        "font-family": "ui-monospace, monospace",
        "font-size": "12.5px",
        "white-space": "pre-wrap",
    }
