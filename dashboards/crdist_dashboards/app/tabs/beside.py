"""The tab of two stores side by side: projections of different quantities that zoom together."""

from __future__ import annotations

from typing import Any

import panel as pn

from crdist.errors import SchemaError
from crdist_dashboards.app.session import Session, Tab
from crdist_dashboards.app.theme import style_of_choices
from crdist_dashboards.app.triptych import Triptych
from crdist_dashboards.products import ProductsSource
from crdist_dashboards.records import MapView
from crdist_dashboards.views import beside, maps
from crdist_dashboards.views.planes import Window, fitting_projection

__all__ = ["BesideTab"]

NAMES = ("first", "second")


class BesideTab(Tab):
    """A projection of the store, and the other store's along the same axis, each on its own scale."""

    title = "Side by side"
    product = "projection"
    watches = ("projection", "other", "statistic", "scale", "overlays", "x", "y")

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._drawn: Any = None

    def _build(self) -> list[Any]:
        self._other()
        param = self.state.param
        controls = pn.FlexBox(
            pn.widgets.Select.from_param(param.projection, label="Product", width=190),
            pn.widgets.Select.from_param(param.other, label="Beside it", width=190),
            pn.widgets.RadioButtonGroup.from_param(
                param.statistic, width=260, align="end", stylesheets=style_of_choices(self.session.theme)
            ),
            align_items="end",
        )
        self.triptych = Triptych(
            self.session,
            make=self._views,
            lines=self._lines,
            value=self._value,
            safely=self.safely,
            n_map=2,
            same_overlays=False,
        )
        files = self.triptych.downloads(
            NAMES, lambda: f"{self.state.store}-{self.state.other}-{self.state.projection}", self.say
        )
        return [controls, self.triptych.view, files]

    def _update(self) -> None:
        state = self.state
        self._other()
        plane = state.store, state.other, state.projection
        if self._drawn is not None and self._drawn[0] != plane:
            self.triptych.window = None
        shown = (state.statistic, state.scale, tuple(state.overlays), self.session.generation)
        if (plane, shown) == self._drawn:
            self.triptych.cross()
            return
        self.triptych.draw()
        self._drawn = plane, shown

    def _views(self, window: Window | None, pixels: int) -> tuple[MapView, ...]:
        state = self.state
        options: dict[str, Any] = {"scale": state.scale, "overlays": state.overlays, "window": window, "pixels": pixels}
        return beside.side_by_side(self.session.source, self._other(), state.projection, state.statistic, **options)

    def _other(self) -> ProductsSource:
        state, other = self.state, self.session.other
        if state.projection is None:
            raise SchemaError(f"{self.session.source.path}: holds no projection")
        if other is None:
            raise SchemaError("name a second store to show beside the first")
        return other

    def _pairs(self) -> tuple[tuple[str, ProductsSource, str], tuple[str, ProductsSource, str]]:
        """Name, source and product of both."""
        state, source, other = self.state, self.session.source, self._other()
        fitting = fitting_projection(other, source, state.projection)
        return (state.store, source, state.projection), (state.other, other, fitting.name)

    def _lines(self, x: float, y: float) -> Any:
        # the same line through both, each below its map
        return tuple(maps.crosshair(source, product, x, y)[0] for _, source, product in self._pairs())

    def _value(self, x: float, y: float) -> str:
        texts = []
        for name, source, product in self._pairs():
            found = maps.value_at(source, product, x, y)
            if found is not None:
                texts.append(f"{name}: {found.text}")
        return "\n".join(texts)
