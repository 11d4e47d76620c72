"""One page that somebody looks at: its state, its stores, and how its errors are shown."""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from crdist.errors import CrdistError
from crdist_dashboards.app.state import State, offer
from crdist_dashboards.app.stores import Stores
from crdist_dashboards.app.theme import Theme
from crdist_dashboards.products import ProductsSource

if TYPE_CHECKING:
    from bokeh.document import Document

__all__ = ["Session", "Tab", "at_once", "seconds_since_last_step", "steps_of"]

logger = logging.getLogger("crdist")


class Session:
    """What the tabs of a page share.

    Parameters
    ----------
    stores : Stores
    theme : Theme
    state : State
        Its ``store`` is set.
    """

    def __init__(self, stores: Stores, theme: Theme, state: State) -> None:
        self.stores = stores
        self.theme = theme
        self.state = state
        self.source: ProductsSource
        self.other: ProductsSource | None = None
        self.gas: ProductsSource | None = None
        self.generation = 0
        """Grows when a store has changed."""
        self.open()

    def open(self) -> None:
        """Open what the state names.

        Raises
        ------
        SchemaError
            If a store is gone or damaged.
        """
        self.source = self.stores.source(self.state.store)
        self.gas = self.stores.gas_source()
        self.other = self.stores.source(self.state.other) if self.state.other else None
        self.generation += 1
        offer(self.state, self.source, self.other)

    def refresh(self) -> bool:
        """Whether a store has changed since the last look.

        Raises
        ------
        SchemaError
            If one is gone or damaged.
        """
        changed = [source.refresh() for source in (self.source, self.other, self.gas) if source is not None]
        if any(changed):
            self.generation += 1
            offer(self.state, self.source, self.other)
        return any(changed)

    @property
    def running(self) -> bool:
        """Whether a store is still being written."""
        return any(source.status != "complete" for source in (self.source, self.other) if source is not None)


@contextlib.contextmanager
def at_once(*, is_new: bool = False) -> Iterator[None]:
    """What changes inside is sent as one message.

    Parameters
    ----------
    is_new : bool
        Whether models are added: the page's models are then looked through once, at the end, not at each change. Where
        none is added, that one look would be most of a slider's step.
    """
    import panel as pn

    with pn.io.hold(pn.state.curdoc, freeze=is_new):
        yield
    _note_step()


def seconds_since_last_step() -> float:
    """How long ago a page of this server has last changed what it shows."""
    return time.monotonic() - _last_step


def steps_of(document: Document) -> int:
    """How often the page of a document has changed what it shows; Panel tells a document's own listeners late."""
    return _steps.get(document, 0)


def _note_step() -> None:
    import panel as pn

    global _last_step
    _last_step = time.monotonic()
    document = pn.state.curdoc
    if document is not None:
        _steps[document] = _steps.get(document, 0) + 1


_last_step = time.monotonic()
_steps: weakref.WeakKeyDictionary[Document, int] = weakref.WeakKeyDictionary()


class Tab:
    """A tab, filled when it is first opened; what goes wrong in it is said in it."""

    title = ""
    product = ""
    """Parameter of the state that names what it shows, if one does."""
    watches: tuple[str, ...] = ()
    """Parameters of the state that change what it shows."""

    def __init__(self, session: Session) -> None:
        import panel as pn

        self.session = session
        self.stale = True
        self.built = False
        self._message = pn.pane.Alert("", alert_type="danger", visible=False, sizing_mode="stretch_width")
        self._body = pn.Column(sizing_mode="stretch_width", margin=0)
        self.view = pn.Column(self._message, self._body, sizing_mode="stretch_width", margin=(8, 0))

    @property
    def state(self) -> State:
        """The page's state."""
        return self.session.state

    def _build(self) -> list[Any]:
        """What it consists of; called once."""
        raise NotImplementedError

    def _update(self) -> None:
        """Show what the state says now."""
        raise NotImplementedError

    def open(self) -> None:
        """Show it, built and up to date."""
        with at_once(is_new=not self.built):
            parts: list[Any] = []
            if not self.built:
                self.safely(lambda: parts.extend(self._build()))
                self.built = bool(parts)
            if self.built and self.stale:
                self.stale = False
                self.safely(self._update)
            if parts:
                # last: what belongs to a page already is looked through at each change
                self._body.objects = parts

    def safely(self, do: Callable[[], Any]) -> None:
        """Do something; an error becomes a message in this tab, and in the log."""
        try:
            with at_once():
                do()
        except CrdistError as error:
            logger.warning("tab %s: %s", self.title, error)
            self.say(str(error))
            self.stale = True
        except Exception as error:
            logger.exception("tab %s", self.title)
            self.say(f"This should not happen ({type(error).__name__}: {error}); the server's log has more.")
            self.stale = True
        else:
            self.say("")

    def say(self, text: str) -> None:
        """Show a message above the tab; nothing for an empty one."""
        # names of files come from the command line, but may hold anything
        self._message.object = text.translate(ESCAPES)
        self._message.visible = bool(text)
        _note_step()


ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "*": "\\*", "_": "\\_", "`": "\\`", "[": "\\["})
