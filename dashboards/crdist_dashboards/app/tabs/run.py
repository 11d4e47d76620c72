"""The tab of the run: where it stands, how the products were made and, with a posterior, what the inference did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import panel as pn

from crdist_dashboards.app.downloads import downloads
from crdist_dashboards.app.live import LiveMap
from crdist_dashboards.app.live_profile import LiveProfile
from crdist_dashboards.app.session import Session, Tab
from crdist_dashboards.app.triptych import notes_of
from crdist_dashboards.app.trust import progress_lines, quality_rows, timing_rows
from crdist_dashboards.records import MapView

__all__ = ["RunTab"]

FILES = ("data", "prediction", "residual", "evidence")
MAX_TEXT = 400
"""Letters of a value in a table."""

NAME_STYLE = "padding:1px 14px 1px 0;vertical-align:top;white-space:nowrap;opacity:.7"


class RunTab(Tab):
    """Provenance, skies and course."""

    title = "Run"
    watches = ("scale",)

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._skies: list[LiveMap] = []
        self._course: list[LiveProfile] = []
        self._evidence: LiveMap | None = None
        self._inference: Any = None

    def _build(self) -> list[Any]:
        style = {"font-size": "12.5px"}
        self._products = pn.pane.HTML("", sizing_mode="stretch_width", margin=(0, 10), styles=style)
        self._summary = pn.pane.HTML("", sizing_mode="stretch_width", margin=(0, 10), styles=style)
        self._sky_grid = pn.GridBox(ncols=3, sizing_mode="stretch_width")
        self._course_grid = pn.GridBox(ncols=2, sizing_mode="stretch_width")
        self._inference = self.session.stores.inference_source()
        self._evidence_place = pn.Column(sizing_mode="stretch_width", margin=0)
        right = pn.Column(self._evidence_place, self._products, sizing_mode="stretch_width", margin=0)
        tables = pn.Row(right, sizing_mode="stretch_width")
        if self._inference is None:
            return [tables]
        tables.insert(0, self._summary)
        files = downloads(FILES, self._views, lambda: "inference", self.say)
        return [self._sky_grid, self._course_grid, tables, files]

    def _update(self) -> None:
        source = self.session.source
        products = _table(f"Products: {self.session.state.store}", _rows_of(source))
        run = "".join(
            [
                _lines("Progress", progress_lines(source)),
                _table("Coverage and mass", quality_rows(source)),
                _table("Time", timing_rows(source)),
            ]
        )
        if self._inference is None:
            self._products.object = run + products
            return
        self._products.object = products
        self._inference.refresh()
        self._summary.object = _table("Inference", self._inference.summary()) + run
        skies = tuple(self._inference.sky_views())
        if len(skies) != len(self._skies):
            self._skies = []
            for _ in skies:
                ranges = self._skies[0].ranges if self._skies else {}
                self._skies.append(LiveMap(theme=self.session.theme, **ranges))
            for live, view in zip(self._skies, skies, strict=True):
                live.show(view)
            self._sky_grid.objects = [pn.pane.Bokeh(live.figure, sizing_mode="stretch_width") for live in self._skies]
            self._sky_grid.ncols = 3 if len(skies) != 4 else 2
        for live, view in zip(self._skies, skies, strict=True):
            live.show(view)
            live.frame(view.extent)
        course = tuple(_several(self._inference.course()))
        if len(course) != len(self._course):
            self._course = [LiveProfile(theme=self.session.theme, height=280) for _ in course]
        for profile, profile_view in zip(self._course, course, strict=True):
            profile.show(profile_view)
        panes = [profile.pane for profile in self._course]
        if self._course_grid.objects != panes:
            self._course_grid.objects = panes
        if self._inference.has("evidence"):
            self._show_evidence(self._inference.evidence())

    def _show_evidence(self, view: MapView) -> None:
        if self._evidence is None:
            self._evidence = LiveMap(theme=self.session.theme)
            self._evidence_notes = pn.pane.HTML("", margin=(0, 10), styles={"color": self.session.theme.faint})
        self._evidence.show(view)
        self._evidence.frame(view.extent)
        self._evidence_notes.object = notes_of((view,))
        if not self._evidence_place.objects:
            pane = pn.pane.Bokeh(self._evidence.figure, sizing_mode="stretch_width")
            self._evidence_place.objects = [pane, self._evidence_notes]

    def _views(self) -> dict[str, Any]:
        """What can be had as a file."""
        shown = dict(zip(FILES, (live.view for live in self._skies), strict=False))
        if self._evidence is not None:
            shown["evidence"] = self._evidence.view
        return {name: view for name, view in shown.items() if view is not None}


def _several(views: Any) -> Iterable[Any]:
    return views if isinstance(views, (tuple, list)) else (views,)


def _rows_of(source: Any) -> list[tuple[str, str]]:
    """What a products store says of itself."""
    attrs: Mapping[str, Any] = source.attrs
    rows = [
        ("status", source.status),
        ("quantity", f"{source.quantity.long_name} [{source.quantity.units}]"),
        ("samples", str(source.n_sample)),
        ("frame", ", ".join(f"{key} {value}" for key, value in source.frame.to_dict().items())),
        ("products", ", ".join(f"{item.name} ({item.kind})" for item in source.products)),
    ]
    for group in ("provenance", "recipe"):
        content = attrs.get(group)
        if isinstance(content, Mapping):
            rows += [(f"{group}: {key}", _plain(value)) for key, value in content.items()]
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item) for item in value)
    return str(value)


def _lines(title: str, lines: list[str]) -> str:
    """Lines of text as they are, escaped."""
    if not lines:
        return ""
    style = "margin:0;white-space:pre-wrap;overflow-wrap:anywhere;font-size:11.5px"
    return f"<h3 style='margin:8px 0'>{escape(title)}</h3><pre style='{style}'>{escape(chr(10).join(lines))}</pre>"


def _table(title: str, rows: Iterable[Any]) -> str:
    """Rows of name and text as a table, nothing for none; all text is escaped, as files may hold anything."""
    rows = list(rows)
    if not rows:
        return ""
    cells = "".join(
        f"<tr><td style='{NAME_STYLE}'>{escape(str(name))}</td>"
        f"<td style='overflow-wrap:anywhere'>{escape(_short(str(text)))}</td></tr>"
        for name, text in rows
    )
    return f"<h3 style='margin:8px 0'>{escape(title)}</h3><table>{cells}</table>"


def _short(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
