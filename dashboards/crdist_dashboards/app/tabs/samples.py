"""The tab of samples: one large, all small, each alone or as its difference to the mean."""

from __future__ import annotations

from typing import Any

import panel as pn

from crdist.errors import SchemaError
from crdist_dashboards.app.downloads import downloads
from crdist_dashboards.app.live import LiveMap
from crdist_dashboards.app.live_mosaic import LiveMosaic
from crdist_dashboards.app.session import Session, Tab
from crdist_dashboards.app.triptych import notes_of, share
from crdist_dashboards.products import ProductInfo
from crdist_dashboards.views import samples

__all__ = ["SamplesTab"]

MAX_SMALL = 24
"""Small maps on the page; of more samples the player shows the rest."""

STEP_MS = 700


class SamplesTab(Tab):
    """Samples of a product that keeps them."""

    title = "Samples"
    product = "sampled"
    watches = ("sampled", "sample", "difference", "scale", "overlays")

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._drawn: Any = None
        self._extent: Any = None
        self._small: tuple[Any, ...] = ()

    def _build(self) -> list[Any]:
        if self.state.sampled is None:
            path = self.session.source.path
            raise SchemaError(f"{path}: no map of it keeps its samples; ask for them in the recipe (samples: true)")
        theme = self.session.theme
        param = self.state.param
        product = pn.widgets.Select.from_param(param.sampled, label="Product", width=190)
        difference = pn.widgets.Checkbox.from_param(param.difference, label="minus the mean", align="end")
        self._player = pn.widgets.Player(
            label="Sample, counted from 0",
            start=0,
            end=1,
            value=0,
            loop_policy="loop",
            interval=STEP_MS,
            show_loop_controls=False,
            show_value=True,
            width=320,
            scale_buttons=0.9,
        )
        self._player.param.watch(self._played, "value")
        self._big = LiveMap(theme=theme, on_tap=None)
        self._notes = pn.pane.HTML("", sizing_mode="stretch_width", margin=(0, 10), styles={"color": theme.faint})
        self._mosaic = LiveMosaic(theme=theme, on_tap=self._choose)
        big = pn.pane.Bokeh(self._big.figure, sizing_mode="stretch_width")
        small = pn.pane.Bokeh(self._mosaic.figure, sizing_mode="stretch_width")
        halves = [pn.Column(pane, sizing_mode="stretch_width", margin=0, styles=share(1)) for pane in (big, small)]
        maps = pn.Row(*halves, sizing_mode="stretch_width")
        files = downloads(
            ("sample",),
            lambda: {"sample": self._big.view} if self._big.view is not None else {},
            lambda: f"{self.state.store}-{self.state.sampled}-{self.state.sample}",
            self.say,
        )
        controls = pn.FlexBox(product, self._player, difference, align_items="end")
        return [controls, maps, self._notes, files]

    def _update(self) -> None:
        state, info = self.state, self._info()
        sample = min(state.sample, info.n_sample - 1)
        self._player.param.update(end=info.n_sample - 1, value=sample)
        options: dict[str, Any] = {"difference": state.difference, "scale": state.scale}
        key = (state.sampled, state.difference, state.scale, tuple(state.overlays), self.session.generation)
        if key != self._drawn:
            self._small = samples.small_multiples(self.session.source, info.name, samples=self._shown(), **options)
            self._mosaic.show(self._small)
            self._drawn = key
        # all on one scale
        options["scale"] = self._small[0].scale
        view = samples.sample_view(self.session.source, info.name, sample, overlays=state.overlays, **options)
        self._big.show(view)
        if view.extent != self._extent:
            self._extent = view.extent
            self._big.frame(view.extent)
        self._notes.object = notes_of((view,))
        self._mosaic.choose(sample)

    def _shown(self) -> range:
        return range(min(self._info().n_sample, MAX_SMALL))

    def _choose(self, i: int) -> None:
        self.state.sample = i

    def _played(self, event: Any) -> None:
        if event.new != self.state.sample:
            self.state.sample = int(event.new)

    def _info(self) -> ProductInfo:
        return self.session.source.info(self.state.sampled)
