import asyncio
import json
import re

import pytest
from bokeh.util.token import get_session_id
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets

from crdist_dashboards import ready
from crdist_dashboards.access import Access
from crdist_dashboards.app.stores import Stores
from crdist_dashboards.serve import _server
from served import make_store, set_status


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("ready") / "n30.zarr")


class Served:
    """A server in this process, to look inside."""

    def __init__(self, store):
        self.server, self.http, self.ready = _server(
            Stores((store,)), Access(), IOLoop.current(), xheaders=False, keep_ready=True
        )
        sockets = bind_sockets(0, "127.0.0.1")
        self.port = sockets[0].getsockname()[1]
        self.http.add_sockets(sockets)
        self.server.start()
        (self.context,) = self.server._tornado._applications.values()

    async def ask(self, query=""):
        """The session that a page is of."""
        url = f"http://127.0.0.1:{self.port}/{query}"
        page = await AsyncHTTPClient().fetch(HTTPRequest(url, request_timeout=60))
        return get_session_id(re.search(r'"token":\s*"([^"]+)"', page.body.decode())[1])

    async def kept(self):
        for _ in range(600):
            if self.ready._kept is not None:
                return self.ready._kept
            await asyncio.sleep(0.05)
        raise AssertionError("no page was made ahead")

    async def end(self):
        self.server.stop(wait=False)
        await self.http.close_all_connections()


def pulled(document):
    """What a browser gets, less the arrays."""
    return json.dumps(document.to_json().content, default=lambda buffer: len(buffer.data))


def served(store, use, monkeypatch):
    """Run a test inside of the server's loop."""
    monkeypatch.setattr(ready, "QUIET_SECONDS", 0.05)

    async def run():
        server = Served(store)
        try:
            await use(server)
        finally:
            await server.end()

    asyncio.run(run())


def test_the_page_made_ahead_goes_to_one_browser_and_another_is_made(store, monkeypatch):
    async def use(server):
        first = await server.ask()
        kept = await server.kept()
        assert kept.id != first
        # a link is another page
        assert await server.ask("?tab=sky") not in (first, kept.id)
        assert server.ready._kept is kept
        assert await server.ask() == kept.id
        assert server.ready._kept is not kept
        assert (await server.kept()).id not in (first, kept.id)
        # it is there for its websocket
        assert server.context.get_session(kept.id) is kept

    served(store, use, monkeypatch)


def test_what_is_put_down_is_the_document_and_asks_nothing_of_others(store, monkeypatch):
    async def use(server):
        await server.ask()
        document = (await server.kept()).document
        sent = pulled(document)
        # the second time it is made anew
        assert sent == pulled(document)
        assert "https://" not in sent
        assert "loading.css" in sent

    served(store, use, monkeypatch)


def test_a_page_that_has_changed_is_not_sent_as_it_was(tmp_path, monkeypatch):
    path = make_store(tmp_path / "n30.zarr", status="running")

    async def use(server):
        await server.ask()
        kept = await server.kept()
        (grow,) = kept.document.session_callbacks
        before = pulled(kept.document)
        ready._send_as_it_is(kept.document)
        set_status(path, "complete")
        steps = ready.steps_of(kept.document)
        await kept.with_document_locked(grow.callback)
        for _ in range(100):
            # the callback goes on after it has returned
            await asyncio.sleep(0.05)
            if ready.steps_of(kept.document) > steps:
                break
        after = pulled(kept.document)
        assert "run not complete" in before
        assert "run not complete" not in after

    served(path, use, monkeypatch)


def test_no_page_is_kept_that_shows_an_error_alone(tmp_path, monkeypatch):
    path = make_store(tmp_path / "n30.zarr")

    async def use(server):
        await server.ask()
        (await server.kept()).unblock_expiration()
        (path / "zarr.json").rename(path / "away.json")
        server.ready._kept = None
        await server.ready.fill()
        assert server.ready._kept is None
        (path / "away.json").rename(path / "zarr.json")
        await server.ready.fill()
        assert server.ready._kept is not None

    served(path, use, monkeypatch)
