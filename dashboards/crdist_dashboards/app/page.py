"""A page: header, tabs, and what keeps them, the URL and growing stores together."""

from __future__ import annotations

import logging
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import panel as pn

from crdist.errors import CrdistError
from crdist_dashboards.app.session import Session, Tab
from crdist_dashboards.app.state import SEVERAL_STORES, TABS, State, from_query, to_query
from crdist_dashboards.app.stores import Stores
from crdist_dashboards.app.tabs.beside import BesideTab
from crdist_dashboards.app.tabs.compare import CompareTab
from crdist_dashboards.app.tabs.maps import ProjectionsTab, SlicesTab
from crdist_dashboards.app.tabs.profiles import ProfilesTab
from crdist_dashboards.app.tabs.run import RunTab
from crdist_dashboards.app.tabs.samples import SamplesTab
from crdist_dashboards.app.tabs.sky import SkyTab
from crdist_dashboards.app.theme import DARK, LIGHT, Theme, style_of_choices
from crdist_dashboards.overlays import ALL

__all__ = ["Page", "build", "page_title", "warm_up"]

logger = logging.getLogger("crdist")

GROWTH_MS = 5000
"""How often a store that is still written is looked at."""

TAB_TYPES: dict[str, type[Tab]] = {
    "slices": SlicesTab,
    "projections": ProjectionsTab,
    "sky": SkyTab,
    "profiles": ProfilesTab,
    "samples": SamplesTab,
    "compare": CompareTab,
    "beside": BesideTab,
    "run": RunTab,
}

SWITCH_THEME = """
const url = new URL(window.location);
url.searchParams.set("theme", wanted);
window.location = url;
"""


class Page:
    """What a browser shows.

    Parameters
    ----------
    stores : Stores
    search : str
        Query of the page's URL.
    location : panel Location, optional
        Kept at a URL that opens the same view.

    Raises
    ------
    SchemaError
        If the first store cannot be opened.
    """

    def __init__(self, stores: Stores, search: str = "", location: Any = None) -> None:
        self.theme = theme_of(search)
        self._location = location
        self._keep = {"theme": self.theme.name} if self.theme is DARK else {}
        self.state = state_of(stores)
        self.session = Session(stores, self.theme, self.state)
        notices = from_query(self.state, search)
        if any(item in search for item in ("store=", "other=")):
            self.session.open()
            # products are those of the store that the link names
            notices = from_query(self.state, search)
        names = [name for name in TABS if name not in SEVERAL_STORES or len(stores.names) > 1]
        self.tabs = {name: TAB_TYPES[name](self.session) for name in names}
        if self.state.tab not in names or ("tab=" not in search and not self._has(self.state.tab)):
            # one that has something to show
            self.state.tab = next(filter(self._has, names), names[0])
        self._notice = pn.pane.Alert("", alert_type="warning", visible=False, sizing_mode="stretch_width")
        self._notice.param.update(object=escape("; ".join(notices)), visible=bool(notices))
        self._about = pn.pane.HTML("", margin=(4, 10), styles={"color": self.theme.faint})
        self._panes = pn.Tabs(
            *((tab.title, tab.view) for tab in self.tabs.values()),
            active=names.index(self.state.tab),
            dynamic=False,
            sizing_mode="stretch_width",
            stylesheets=style_of_choices(self.theme),
        )
        self.view = pn.Column(self._header(), self._notice, self._panes, sizing_mode="stretch_width", margin=0)
        self._panes.param.watch(self._tab_changed, "active")
        self.state.param.watch(self._state_changed, [name for name in self.state.param if name != "name"])
        self._tell()
        self.tabs[self.state.tab].open()
        if location is not None:
            location.search = to_query(self.state, self._keep)

    def grow(self) -> None:
        """Look whether stores have changed, and show what has."""
        tab = self.tabs[self.state.tab]
        try:
            if not self.session.refresh():
                return
        except CrdistError as error:
            tab.say(str(error))
            return
        self._stale()

    def _has(self, tab: str) -> bool:
        """Whether the store holds what a tab shows."""
        product = TAB_TYPES[tab].product
        return not product or getattr(self.state, product) is not None

    def _header(self) -> pn.Row:
        theme, state = self.theme, self.state
        chosen = style_of_choices(theme)
        title = pn.pane.HTML(
            f"<b style='font-size:17px'>{escape(_heading(self.session))}</b>",
            margin=(6, 10),
            styles={"color": theme.text},
        )
        scale = pn.widgets.RadioButtonGroup.from_param(state.param.scale, width=170, align="center", stylesheets=chosen)
        overlays = pn.widgets.CheckButtonGroup(
            options=list(ALL), value=list(state.overlays), width=330, align="center", margin=(5, 10), stylesheets=chosen
        )
        overlays.link(state, value="overlays")
        switch = pn.widgets.Button(label="light" if theme is DARK else "dark", width=60, align="center")
        wanted = LIGHT if theme is DARK else DARK
        switch.js_on_click(args={"wanted": wanted.name}, code=SWITCH_THEME)
        items: list[Any] = [title, self._about, pn.layout.HSpacer()]
        if len(self.session.stores.names) > 1:
            items.append(pn.widgets.Select.from_param(state.param.store, label="", width=180, align="center"))
        items += [scale, overlays, switch]
        return pn.FlexBox(*items, align_items="center", sizing_mode="stretch_width", styles={"background": theme.panel})

    def _tell(self) -> None:
        source = self.session.source
        frame = source.frame
        running = "" if source.status == "complete" else " | <b>run not complete: what is missing is grey</b>"
        self._about.object = (
            f"{escape(self.state.store)} | {source.n_sample} posterior samples | {frame.name} frame, "
            f"R₀ = {frame.r0_kpc:g} kpc, Sun at z = {1e3 * frame.z_sun_kpc:g} pc{running}"
        )

    def _tab_changed(self, event: Any) -> None:
        self.state.tab = list(self.tabs)[event.new]

    def _state_changed(self, *events: Any) -> None:
        changed = {event.name for event in events}
        if changed & {"store", "other"}:
            self._reopen()
            return
        for name, tab in self.tabs.items():
            if changed & set(tab.watches):
                tab.stale = True
            if name == self.state.tab:
                tab.open()
        active = list(self.tabs).index(self.state.tab)
        if self._panes.active != active:
            self._panes.active = active
        if self._location is not None:
            self._location.search = to_query(self.state, self._keep)

    def _reopen(self) -> None:
        tab = self.tabs[self.state.tab]
        try:
            self.session.open()
        except CrdistError as error:
            tab.say(str(error))
            return
        self._stale()

    def _stale(self) -> None:
        for tab in self.tabs.values():
            tab.stale = True
        self._tell()
        self.tabs[self.state.tab].open()


def build(stores: Stores) -> Any:
    """The page of the session that asks for one.

    A store that cannot be opened is said on the page.
    """
    location = pn.state.location
    search = str(location.search) if location is not None else ""
    theme = theme_of(search)
    try:
        page = Page(stores, search, location)
    except CrdistError as error:
        logger.warning("a page could not be made: %s", error)
        content: Any = pn.pane.Alert(escape(str(error)), alert_type="danger", sizing_mode="stretch_width")
    except Exception as error:
        logger.exception("a page could not be made")
        text = f"This should not happen ({type(error).__name__}: {error}); the server's log has more."
        content = pn.pane.Alert(escape(text), alert_type="danger", sizing_mode="stretch_width")
    else:
        content = page.view
        if pn.state.curdoc is not None and pn.state.curdoc.session_context is not None:
            pn.state.add_periodic_callback(page.grow, period=GROWTH_MS)
    template = _Template((Path(__file__).parent / "page.html").read_text(), nb_template=None)
    # else the browser's address bar does not follow
    template.location = location is not None
    template.add_variable("theme", theme)
    template.add_variable("has_location", template.location)
    template.add_panel("page", content)
    return template


class _Template(pn.Template):  # type: ignore[misc]
    """A template of Panel's, which writes down its whole page in words when it is given one."""

    def __repr__(self) -> str:
        return "page"


def page_title(stores: Stores) -> str:
    """Title of the browser's tab."""
    return f"{', '.join(stores.names)} | crdist"


def warm_up(stores: Stores) -> None:
    """Open every tab as a browser would, so that libraries are loaded and planes, scales and rasters are kept."""
    page = Page(stores)
    page.view.get_root()
    for name, tab in page.tabs.items():
        if not tab.product or getattr(page.state, tab.product) is not None:
            page.state.tab = name


def state_of(stores: Stores) -> State:
    """The first state of a page."""
    state = State()
    for name, chosen in (("store", stores.names[0]), ("other", stores.names[1] if len(stores.names) > 1 else None)):
        state.param[name].objects = list(stores.names)
        state.param[name].default = chosen
        setattr(state, name, chosen)
    return state


def theme_of(search: str) -> Theme:
    """The theme that a URL asks for."""
    return DARK if parse_qs(search.lstrip("?")).get("theme") == [DARK.name] else LIGHT


def _heading(session: Session) -> str:
    name = session.source.quantity.long_name
    return name[:1].upper() + name[1:]
