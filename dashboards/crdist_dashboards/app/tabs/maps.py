"""The tabs of slices and projections: mean, std and significance side by side."""

from __future__ import annotations

from typing import Any

import panel as pn

from crdist.errors import SchemaError
from crdist_dashboards.app.session import Session, Tab
from crdist_dashboards.app.theme import style_of_choices
from crdist_dashboards.app.triptych import Triptych
from crdist_dashboards.products import ProductInfo
from crdist_dashboards.records import MapView
from crdist_dashboards.views import maps
from crdist_dashboards.views.planes import Window

__all__ = ["ProjectionsTab", "SlicesTab"]

STATISTICS = ("mean", "std", "significance")


class _MapsTab(Tab):
    """What both have in common."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._drawn: tuple[Any, ...] = ()
        self._plane_shown: tuple[str, ...] = ()
        self.triptych: Triptych

    def _build(self) -> list[Any]:
        if getattr(self.state, self.product) is None:
            raise SchemaError(f"{self.session.source.path}: holds no product for this tab")
        self.triptych = Triptych(
            self.session, make=self._views, lines=self._lines, value=self._value, safely=self.safely
        )
        files = self.triptych.downloads(
            STATISTICS, lambda: f"{self.state.store}-{getattr(self.state, self.product)}", self.say
        )
        return [self._controls(), self.triptych.view, files]

    def _update(self) -> None:
        info = self._info()
        missing = ", ".join(sorted(set(STATISTICS) - set(info.statistics)))
        if missing:
            raise SchemaError(
                f"{self.session.source.path}: product {info.name} has no {missing}; ask for it in the recipe"
            )
        plane = info.name, *(dim for dim in info.dims if dim != self._plane().get("axis"))
        if plane != self._plane_shown:
            self._plane_shown, self.triptych.window = plane, None
        # a tap moves the crosshair only
        key = self._key()
        if key != self._drawn:
            self.triptych.draw()
            self._drawn = key
        else:
            self.triptych.cross()

    def _info(self) -> ProductInfo:
        return self.session.source.info(getattr(self.state, self.product))

    def _key(self) -> tuple[Any, ...]:
        watched = [getattr(self.state, name) for name in self.watches if name not in ("x", "y")]
        return (*(tuple(item) if isinstance(item, list) else item for item in watched), self.session.generation)

    def _controls(self) -> pn.viewable.Viewable:
        raise NotImplementedError

    def _views(self, window: Window | None, pixels: int) -> tuple[MapView, ...]:
        raise NotImplementedError

    def _plane(self) -> dict[str, Any]:
        return {}

    def _lines(self, x: float, y: float) -> Any:
        return maps.crosshair(self.session.source, self._info().name, x, y, **self._plane())

    def _value(self, x: float, y: float) -> str:
        found = maps.value_at(self.session.source, self._info().name, x, y, **self._plane())
        return found.text if found is not None else ""


class _PlaneSlider(pn.widgets.FloatSlider):  # type: ignore[misc]
    """A slider whose steps are cheap; those that come while one is drawn are taken together."""

    _debounce = 5  # ms; by default Panel waits 50


class SlicesTab(_MapsTab):
    """Slices, and planes of volumes."""

    title = "Slices"
    product = "slice"
    watches = ("slice", "axis", "at", "scale", "overlays", "x", "y")

    def _controls(self) -> pn.viewable.Viewable:
        param = self.state.param
        product = pn.widgets.Select.from_param(param.slice, label="Product", width=190)
        self._axis = pn.widgets.RadioButtonGroup.from_param(
            param.axis, label="Across", width=130, align="end", stylesheets=style_of_choices(self.session.theme)
        )
        self._at = _PlaneSlider(label="Plane", width=380, margin=(5, 15), format="0.000")
        self._at.param.watch(self._moved, "value")
        return pn.FlexBox(product, self._axis, self._at, align_items="end")

    def _moved(self, event: Any) -> None:
        # a browser's sum of steps is not the number that we have rounded
        at = round(float(event.new), 9)
        if at != round(self.state.at, 9):
            self.state.at = at

    def _update(self) -> None:
        info = self._info()
        is_volume = info.kind == "volume"
        self._axis.visible = self._at.visible = is_volume
        if is_volume:
            axis = info.grid_axis(self.state.axis)
            first, last = axis.lower + axis.step / 2, axis.upper - axis.step / 2
            nearest = axis.index(min(max(self.state.at, axis.lower), axis.upper))
            value = round(first + (nearest or 0) * axis.step, 9)
            self._at.param.update(
                start=first,
                end=max(last, first + 1e-9),
                step=axis.step,
                value=value,
                name=f"{axis.name} [{axis.units}]",
            )
        super()._update()

    def _plane(self) -> dict[str, Any]:
        if self._info().kind != "volume":
            return {}
        return {"axis": self.state.axis, "at_kpc": self._at.value}

    def _views(self, window: Window | None, pixels: int) -> tuple[MapView, ...]:
        options = {"scale": self.state.scale, "overlays": self.state.overlays, **self._plane()}
        options |= {"window": window, "pixels": pixels}
        return tuple(maps.slice_view(self.session.source, self._info().name, name, **options) for name in STATISTICS)


class ProjectionsTab(_MapsTab):
    """Integrals along an axis, with the contours of the gas."""

    title = "Projections"
    product = "projection"
    watches = ("projection", "scale", "overlays", "contours", "x", "y")

    def _controls(self) -> pn.viewable.Viewable:
        param = self.state.param
        product = pn.widgets.Select.from_param(param.projection, label="Product", width=190)
        if self.session.gas is None:
            return pn.FlexBox(product)
        contours = pn.widgets.Checkbox.from_param(param.contours, label="Contours of the gas column", align="end")
        return pn.FlexBox(product, contours, align_items="end")

    def _views(self, window: Window | None, pixels: int) -> tuple[MapView, ...]:
        gas = self.session.gas if self.state.contours else None
        return tuple(
            maps.projection_view(
                self.session.source,
                self._info().name,
                name,
                scale=self.state.scale,
                overlays=self.state.overlays,
                window=window,
                pixels=pixels,
                contours=gas,
            )
            for name in STATISTICS
        )
