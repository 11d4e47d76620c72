"""The tab of profiles: radial and vertical, with every sample and what others have measured."""

from __future__ import annotations

from html import escape
from typing import Any

import panel as pn

from crdist.errors import SchemaError
from crdist_dashboards.app.downloads import downloads
from crdist_dashboards.app.live_profile import LiveProfile
from crdist_dashboards.app.session import Session, Tab
from crdist_dashboards.views.profiles import profile_view

__all__ = ["ProfilesTab"]


class ProfilesTab(Tab):
    """Profiles of a store, one large and the others below."""

    title = "Profiles"
    product = "profile"
    watches = ("profile", "literature")

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._live: LiveProfile

    def _build(self) -> list[Any]:
        if self.state.profile is None:
            raise SchemaError(f"{self.session.source.path}: holds no profile; ask for one in the recipe")
        param, theme = self.state.param, self.session.theme
        controls = pn.FlexBox(
            pn.widgets.Select.from_param(param.profile, label="Product", width=190),
            pn.widgets.Checkbox.from_param(param.literature, label="Measurements of others", align="end"),
            align_items="end",
        )
        self._live = LiveProfile(theme=theme, height=520, fill=True)
        self._notes = pn.pane.HTML("", sizing_mode="stretch_width", margin=(0, 10), styles={"color": theme.faint})
        files = downloads(
            ("profile",),
            lambda: {"profile": self._live.view} if self._live.view is not None else {},
            lambda: f"{self.state.store}-{self.state.profile}",
            self.say,
        )
        return [controls, self._live.pane, self._notes, files]

    def _update(self) -> None:
        view = profile_view(self.session.source, self.state.profile, literature=self.state.literature)
        self._live.show(view)
        self._notes.object = "<br>".join(escape(note) for note in view.notes)
