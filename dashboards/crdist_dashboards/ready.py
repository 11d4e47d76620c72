"""A page that is made before it is asked for, so that the next browser need not wait for it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from bokeh.util.token import generate_jwt_token, generate_session_id, get_token_payload

from crdist_dashboards.app.session import seconds_since_last_step, steps_of

if TYPE_CHECKING:
    from bokeh.document import Document
    from bokeh.server.session import ServerSession
    from bokeh.server.tornado import BokehTornado
    from tornado.httputil import HTTPServerRequest
    from tornado.ioloop import IOLoop

__all__ = ["ReadyPage"]

logger = logging.getLogger("crdist")

QUIET_SECONDS = 2.0
"""A page is made when nobody has asked for anything this long: meanwhile nobody else is answered."""


class ReadyPage:
    """Keeps one page of a server ready, with the document as it is sent.

    It goes to the first who asks for the page without saying in the URL what it shows; then another one is made. Who
    asks before it is there gets a page of his own, as without it.

    Parameters
    ----------
    app : BokehTornado
        Has one application.
    loop : IOLoop
    linger_seconds : float
        How long the page is kept for its browser once it was given away.
    """

    def __init__(self, app: BokehTornado, loop: IOLoop, linger_seconds: float) -> None:
        self._app, self._loop, self._linger = app, loop, linger_seconds
        (context,) = app._applications.values()
        self._make = context.create_session_if_needed
        self._kept: ServerSession | None = None
        self._request: HTTPServerRequest | None = None
        """As a browser asks for the page: what a page is made for."""
        self._payload: Any = None
        self._asked = time.monotonic()
        self._is_due = self._is_filling = False
        # the handlers of both page and websocket come here
        context.create_session_if_needed = self._session

    async def _session(
        self, session_id: Any, request: HTTPServerRequest | None = None, token: str | None = None
    ) -> ServerSession:
        self._asked = time.monotonic()
        if request is None or request.path.endswith("/ws"):
            return await self._make(session_id, request, token)
        if not request.query:
            self._request, self._payload = request, get_token_payload(token) if token else {}
        self._wish()
        if request.query or self._kept is None:
            return await self._make(session_id, request, token)
        session, self._kept = self._kept, None
        self._loop.call_later(self._linger, session.unblock_expiration)
        return session

    def _wish(self) -> None:
        if not self._is_due and self._request is not None:
            self._is_due = True
            self._loop.call_later(QUIET_SECONDS, self._fill)

    async def _fill(self) -> None:
        self._is_due = False
        if min(time.monotonic() - self._asked, seconds_since_last_step()) < QUIET_SECONDS:
            self._wish()
        else:
            await self.fill()

    async def fill(self) -> None:
        """Make a page now, if there is none and one has been asked for before."""
        if self._kept is not None or self._request is None or self._is_filling:
            return
        self._is_filling = True
        try:
            self._kept = await self._made()
        finally:
            self._is_filling = False

    async def _made(self) -> ServerSession | None:
        app = self._app
        session_id = generate_session_id(secret_key=app.secret_key, signed=app.sign_sessions)
        payload = {key: value for key, value in self._payload.items() if key not in ("session_id", "session_expiry")}
        token = generate_jwt_token(
            session_id,
            secret_key=app.secret_key,
            signed=app.sign_sessions,
            expiration=app.session_token_expiration,
            extra_payload=payload,
        )
        try:
            session = await self._make(session_id, self._request, token)
        except Exception:
            logger.exception("no page could be made ahead")
            return None
        # one that shows an error alone does not follow its store, and would show it for ever
        if not session.document.session_callbacks:
            return None
        session.block_expiration()
        self._write(session)
        _send_as_it_is(session.document)
        return session

    def _write(self, session: ServerSession) -> None:
        """Write the page down once: Panel then puts the server's own addresses in place of a CDN's."""
        from panel.io.resources import Resources
        from panel.io.server import server_html_page_for_session
        from panel.io.state import set_curdoc

        document = session.document
        with set_curdoc(document):
            resources = Resources.from_bokeh(self._app.resources())
            server_html_page_for_session(
                session,
                resources=resources,
                title=document.title,
                template=document.template,
                template_variables=document.template_variables,
            )


def _send_as_it_is(document: Document) -> None:
    """Put down what the browser will pull; it counts unless the page has changed since."""
    pulled, steps = document.to_json(), steps_of(document)

    def once() -> Any:
        del document.to_json
        return pulled if steps_of(document) == steps else document.to_json()

    document.to_json = once
