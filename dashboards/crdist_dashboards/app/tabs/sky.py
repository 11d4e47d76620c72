"""The tab of the sky: line-of-sight products, whole or a part of it."""

from __future__ import annotations

import math
from html import escape
from typing import Any

import panel as pn

from crdist.errors import CrdistError, SchemaError
from crdist_dashboards.app.downloads import downloads
from crdist_dashboards.app.live import LiveMap
from crdist_dashboards.app.session import Session, Tab
from crdist_dashboards.app.theme import style_of_choices
from crdist_dashboards.app.triptych import notes_of, readout, share
from crdist_dashboards.scales import unicode_units
from crdist_dashboards.views import sky

__all__ = ["SkyTab"]

STATISTICS = ("mean", "std", "significance")
HINT = "Point at a map to read its values; tap on it to centre the gnomonic map there."


class SkyTab(Tab):
    """Mean, std and significance on the sky."""

    title = "Sky"
    product = "sky"
    watches = ("sky", "projected", "longitude", "latitude", "size", "scale")

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._extent: Any = None
        self._maps: list[LiveMap] = []

    def _build(self) -> list[Any]:
        if self.state.sky is None:
            raise SchemaError(f"{self.session.source.path}: holds no line-of-sight product; ask for it in the recipe")
        param, theme = self.state.param, self.session.theme
        for _ in STATISTICS:
            shared: dict[str, Any] = {**self._maps[0].ranges, "over": self._maps[0]} if self._maps else {}
            self._maps.append(LiveMap(theme=theme, on_tap=self._tapped, on_pointer=self._pointed, **shared))
        self._longitude = pn.widgets.FloatSlider.from_param(
            param.longitude, label="l [deg]", start=-180, step=1, width=190
        )
        self._latitude = pn.widgets.FloatSlider.from_param(param.latitude, label="b [deg]", step=1, width=190)
        self._size = pn.widgets.FloatSlider.from_param(param.size, label="width [deg]", step=1, width=190)
        controls = pn.FlexBox(
            pn.widgets.Select.from_param(param.sky, label="Product", width=190),
            pn.widgets.RadioButtonGroup.from_param(
                param.projected, width=210, align="end", stylesheets=style_of_choices(self.session.theme)
            ),
            self._longitude,
            self._latitude,
            self._size,
            align_items="end",
        )
        self._readout = readout(self.session)
        self._readout.object = HINT
        self._notes = pn.pane.HTML("", sizing_mode="stretch_width", margin=(0, 10), styles={"color": theme.faint})
        panes = [pn.pane.Bokeh(live.figure, sizing_mode="stretch_width") for live in self._maps]
        large = pn.Column(panes[0], sizing_mode="stretch_width", margin=0, styles=share(2))
        small = pn.Column(*panes[1:], sizing_mode="stretch_width", margin=0, styles=share(1))
        skies = pn.Row(large, small, sizing_mode="stretch_width")
        files = downloads(
            STATISTICS,
            lambda: {name: live.view for name, live in zip(STATISTICS, self._maps, strict=True) if live.view},
            lambda: f"{self.state.store}-{self.state.sky}",
            self.say,
        )
        return [controls, self._readout, skies, self._notes, files]

    def _update(self) -> None:
        state = self.state
        is_part = state.projected == "gnomonic"
        for widget in (self._longitude, self._latitude, self._size):
            widget.visible = is_part
        options: dict[str, Any] = {"scale": state.scale, "projection": state.projected}
        if is_part:
            options |= {"centre": (state.longitude % 360.0, state.latitude), "size_deg": state.size}
        views = tuple(sky.product_sky(self.session.source, state.sky, name, **options) for name in STATISTICS)
        for live, view in zip(self._maps, views, strict=True):
            live.show(view)
            if view.extent != self._extent:
                live.frame(view.extent)
        self._extent = views[0].extent
        self._notes.object = notes_of(views)

    def _tapped(self, x: float, y: float) -> None:
        found = self._found(x, y)
        if found is not None:
            longitude = (found[0] + 180.0) % 360.0 - 180.0
            self.state.param.update(longitude=round(longitude, 2), latitude=round(found[1], 2))

    def _pointed(self, x: float, y: float) -> None:
        try:
            found = self._found(x, y)
        except CrdistError as error:
            self._readout.object = escape(str(error))
            return
        self._readout.object = escape(self._text(found)) if found is not None else HINT

    def _found(self, x: float, y: float) -> tuple[float, float, list[float]] | None:
        if not (math.isfinite(x) and math.isfinite(y)):
            return None
        found = [sky.value_on_sky(live.view, x, y) for live in self._maps]  # type: ignore[arg-type]
        if any(item is None for item in found):
            return None
        known = [item for item in found if item is not None]
        return known[0][0], known[0][1], [item[2] for item in known]

    def _text(self, found: tuple[float, float, list[float]]) -> str:
        longitude, latitude, (mean, std, ratio) = found
        place = f"l = {longitude:.2f}°, b = {latitude:.2f}°".replace("-", "\N{MINUS SIGN}")
        if not math.isfinite(mean):
            return f"{place}: no value"
        view = self._maps[0].view
        unit = unicode_units(view.units) if view is not None else ""
        return f"{place}: {mean:.6g} ± {std:.4g} {unit} (mean / std = {ratio:.3g})"
