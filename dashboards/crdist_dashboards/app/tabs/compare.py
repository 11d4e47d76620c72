"""The tab of comparisons: two stores on one scale, and their difference in standard deviations."""

from __future__ import annotations

from typing import Any

import panel as pn

from crdist.errors import SchemaError
from crdist_dashboards.app.session import Session, Tab
from crdist_dashboards.app.triptych import Triptych
from crdist_dashboards.records import MapView
from crdist_dashboards.views import compare, maps
from crdist_dashboards.views.planes import Window

__all__ = ["CompareTab"]

NAMES = ("first", "second", "difference")


class CompareTab(Tab):
    """A map that two stores have."""

    title = "Compare"
    product = "compared"
    watches = ("compared", "axis", "at", "scale", "overlays", "x", "y")

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._drawn: Any = None

    def _build(self) -> list[Any]:
        if self.state.compared is None:
            raise SchemaError(f"{self.state.store} and {self.state.other} have no map of the same name to compare")
        param = self.state.param
        product = pn.widgets.Select.from_param(param.compared, label="Product", width=190)
        other = pn.widgets.Select.from_param(param.other, label="Compared with", width=190)
        self.triptych = Triptych(
            self.session,
            make=self._views,
            lines=self._lines,
            value=self._value,
            safely=self.safely,
            same_overlays=False,
        )
        files = self.triptych.downloads(
            NAMES, lambda: f"{self.state.store}-{self.state.other}-{self.state.compared}", self.say
        )
        return [pn.FlexBox(product, other, align_items="end"), self.triptych.view, files]

    def _update(self) -> None:
        state, session = self.state, self.session
        if state.compared is None or session.other is None:
            raise SchemaError(f"{state.store} and {state.other} have no map of the same name to compare")
        plane = state.compared, state.axis
        key = (plane, state.scale, tuple(state.overlays), state.at, session.generation)
        if key == self._drawn:
            self.triptych.cross()
            return
        if self._drawn is not None and self._drawn[0] != key[0]:
            self.triptych.window = None
        self.triptych.draw()
        self._drawn = key

    def _views(self, window: Window | None, pixels: int) -> tuple[MapView, ...]:
        state, session = self.state, self.session
        assert session.other is not None
        options: dict[str, Any] = {"scale": state.scale, "overlays": state.overlays, **self._plane()}
        options |= {"window": window, "pixels": pixels}
        return compare.comparison(session.source, session.other, state.compared, **options)

    def _plane(self) -> dict[str, Any]:
        is_volume = self.session.source.info(self.state.compared).kind == "volume"
        return {"axis": self.state.axis, "at_kpc": self.state.at} if is_volume else {}

    def _lines(self, x: float, y: float) -> Any:
        return maps.crosshair(self.session.source, self.state.compared, x, y, **self._plane())

    def _value(self, x: float, y: float) -> str:
        texts = []
        for name, source in ((self.state.store, self.session.source), (self.state.other, self.session.other)):
            found = maps.value_at(source, self.state.compared, x, y, **self._plane()) if source is not None else None
            if found is not None:
                texts.append(f"{name}: {found.text}")
        return "\n".join(texts)
