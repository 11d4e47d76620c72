"""The server of the dashboard: where it listens, whom it tells, how it ends.

By default it listens on a unix socket that only its user can reach, and prints how to reach it through ssh. It needs no
internet and writes nothing but that socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import getpass
import logging
import os
import shlex
import signal
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crdist.errors import RecipeError
from crdist_dashboards.access import Access, Gate, new_token, own_hosts, read_token

if TYPE_CHECKING:
    from bokeh.server.server import BaseServer
    from tornado.httpserver import HTTPServer

    from crdist_dashboards.app.stores import Stores
    from crdist_dashboards.ready import ReadyPage

__all__ = ["PORT", "Place", "serve"]

logger = logging.getLogger("crdist")

PORT = 5006
LOOPBACK_ADDRESS = "127.0.0.1"
MAX_SOCKET_PATH = 107  # bytes of a unix socket's address, less its closing zero: unix(7)

UNUSED_SESSION_MS = 120_000
"""Bokeh forgets a page whose websocket is not open after 15 s; Panel's pages then name style sheets of a CDN."""

TOKEN_SECONDS = 30 * 86_400
"""A page may have been made long before its websocket opens; who may open it, the gate decides."""

KEEP_ALIVE_MS = 10_000
END_SECONDS = 5.0
"""After a signal: how long the server may take to end, whatever it was doing."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the server listens."""

    socket_path: Path | None = None
    """The unix socket; None for one in a fresh folder of its own. Not used if `port` is given."""
    port: int | None = None
    """TCP port; 0 for one that is free."""
    address: str = LOOPBACK_ADDRESS
    token_file: Path | None = None
    """File with the token of a TCP server; None for a fresh one, which is printed."""
    prefix: str = ""
    xheaders: bool = False
    """Whether a proxy in front tells scheme and client in ``X-Scheme``, ``X-Real-Ip``."""
    origins: tuple[str, ...] = ()
    """Hosts of a proxy whose pages may connect."""

    def __post_init__(self) -> None:
        if self.port is None and self.address != LOOPBACK_ADDRESS:
            raise RecipeError(f"--address {self.address} goes with --tcp; the default is a unix socket")
        if self.port is not None and self.socket_path is not None:
            raise RecipeError("--socket and --tcp exclude each other")
        if self.port is not None and not 0 <= self.port <= 65535:
            raise RecipeError(f"--port is 0 to 65535, got {self.port}")
        is_loopback = self.address == LOOPBACK_ADDRESS
        if not is_loopback and (self.token_file is None or not self.origins):
            raise RecipeError(
                f"--address {self.address} can be reached by others: it needs --token-file FILE (a secret that your "
                "proxy adds to the link) and --origin HOST (the proxy's name); without a proxy leave --address out and "
                "use ssh -L"
            )


def serve(
    stores: Stores, place: Place | None = None, *, warm: bool = False, say: Callable[[str], None] | None = None
) -> None:
    """Serve the dashboard until SIGINT, SIGTERM or SIGHUP.

    Parameters
    ----------
    stores : Stores
        What is shown.
    place : Place, optional
        Where to listen; default: a unix socket.
    warm : bool
        Make a page before the first one is asked for, so that it comes at once; and keep the next one ready.
    say : callable, optional
        Gets each line for the user, such as the URL; default: print.

    Raises
    ------
    RecipeError
        If the place cannot be had: a port in use, a folder that others can write to.
    SchemaError
        If a store cannot be opened.
    """
    from tornado.ioloop import IOLoop

    place = place or Place()
    tell = say or _print
    stores.check()
    if warm:
        from crdist_dashboards.app.page import warm_up

        warm_up(stores)
    token = None
    if place.port is not None:
        token = read_token(place.token_file) if place.token_file else new_token()
    access = Access(token=token, origins=place.origins, prefix=place.prefix.rstrip("/"))
    with contextlib.ExitStack() as stack:
        sockets, address = stack.enter_context(_listening(place))
        loop = IOLoop.current()
        server, http, ready = _server(stores, access, loop, xheaders=place.xheaders, keep_ready=warm)
        end = stack.enter_context(_ending_on_signals(loop, stack))
        http.add_sockets(sockets)
        server.start()
        if ready is not None:
            loop.run_sync(lambda: _first_page(place, access, address))
            loop.run_sync(ready.fill)
            # what every session shares need not be looked through by each collection
            gc.collect()
            gc.freeze()
        for line in _directions(stores, place, access, address):
            tell(line)
        loop.start()
        server.stop(wait=False)
        with contextlib.suppress(Exception):
            loop.run_sync(http.close_all_connections, timeout=END_SECONDS / 2)
        end()


async def _first_page(place: Place, access: Access, address: str) -> None:
    """Ask for a page as a browser does: templates and scripts are then read, and their versions known."""
    if place.port is None:
        reader, writer = await asyncio.open_unix_connection(address)
    else:
        reader, writer = await asyncio.open_connection(place.address, int(address))
    cookie = f"Cookie: {access.cookie}={access.token}\r\n" if access.token else ""
    writer.write(f"GET {access.prefix}/ HTTP/1.1\r\nHost: localhost\r\n{cookie}Connection: close\r\n\r\n".encode())
    await reader.read()
    writer.close()


def _server(
    stores: Stores, access: Access, loop: Any, *, xheaders: bool, keep_ready: bool
) -> tuple[BaseServer, HTTPServer, ReadyPage | None]:
    """Bokeh's server, behind the gate, and the page that it keeps ready."""
    from bokeh.server.server import BaseServer
    from bokeh.server.tornado import BokehTornado
    from bokeh.settings import settings
    from panel.config import config
    from panel.io.application import build_applications
    from tornado.httpserver import HTTPServer

    from crdist_dashboards.app.page import build, page_title
    from crdist_dashboards.ready import ReadyPage

    # what a user's environment may say of other Bokeh servers
    settings.resources.set_value("server")
    os.environ.pop("BOKEH_ALLOW_WS_ORIGIN", None)
    config.autoreload = False
    # a walk through all models of a page, twice for each; the tests have looked
    settings.perform_document_validation.set_value(False)
    _end_websockets_once()
    applications = build_applications(lambda: build(stores), title=page_title(stores), location=True)
    app = BokehTornado(
        applications,
        prefix=access.prefix,
        extra_websocket_origins=own_hosts(access),
        unused_session_lifetime_milliseconds=UNUSED_SESSION_MS,
        keep_alive_milliseconds=KEEP_ALIVE_MS,
        session_token_expiration=TOKEN_SECONDS,
        # the token of a session is read by the page's scripts; what came with the request need not be in it
        include_headers=["Host"],
        include_cookies=[],
        exclude_headers=None,
        exclude_cookies=None,
    )
    ready = ReadyPage(app, loop, UNUSED_SESSION_MS / 1e3) if keep_ready else None
    http = HTTPServer(Gate(app, access), xheaders=xheaders)
    return BaseServer(loop, app, http), http, ready


def _end_websockets_once() -> None:
    """Let a websocket be told twice of its end, as it is where a page is closed while something is sent to it.

    Bokeh 3.9 takes leave of the session each time, the second time of none, and the log has a traceback.
    """
    from bokeh.server.views.ws import WSHandler

    take_leave = WSHandler.on_close
    if getattr(take_leave, "once", False):
        return

    def on_close(self: WSHandler) -> None:
        connection = self.connection
        if connection is None or connection._session is not None:
            take_leave(self)

    on_close.once = True  # type: ignore[attr-defined]
    WSHandler.on_close = on_close


@contextlib.contextmanager
def _listening(place: Place) -> Iterator[tuple[list[socket.socket], str]]:
    """Bound sockets, and where they can be reached; a unix socket is removed at the end."""
    from tornado import netutil

    if place.port is not None:
        try:
            sockets = netutil.bind_sockets(place.port, place.address)
        except OSError as error:
            raise RecipeError(
                f"{place.address} port {place.port}: {error.strerror or error}; choose another --port, 0 for a free one"
            ) from error
        try:
            yield sockets, str(sockets[0].getsockname()[1])
        finally:
            for one in sockets:
                one.close()
        return
    folder = None
    if place.socket_path is None:
        folder = Path(tempfile.mkdtemp(prefix="crdist-", dir=os.environ.get("XDG_RUNTIME_DIR")))
    path = place.socket_path or folder / "socket"  # type: ignore[operator]
    try:
        _check_socket_path(path)
        bound = netutil.bind_unix_socket(str(path), mode=0o600)
        identity = os.stat(path).st_ino
        try:
            yield [bound], str(path)
        finally:
            bound.close()
            with contextlib.suppress(OSError):
                if os.stat(path).st_ino == identity:
                    path.unlink()
    except OSError as error:
        raise RecipeError(f"{path}: cannot listen there: {error.strerror or error}") from error
    finally:
        if folder is not None:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _check_socket_path(path: Path) -> None:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise RecipeError(f"{path}: longer than the {MAX_SOCKET_PATH} bytes of a unix socket; choose --socket")
    found = os.stat(path.parent)
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise RecipeError(
            f"{path.parent}: others can reach a socket there ({stat.filemode(found.st_mode)}); "
            f"use a folder of your own with mode 0700"
        )
    if not path.exists():
        return
    if not stat.S_ISSOCK(os.stat(path).st_mode):
        raise RecipeError(f"{path}: exists and is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise RecipeError(f"{path}: another server listens there")
    # what a server that was killed has left
    path.unlink()


@contextlib.contextmanager
def _ending_on_signals(loop: Any, stack: contextlib.ExitStack) -> Iterator[Callable[[], None]]:
    """Signals end the loop; a handler that is stuck, on a file system say, is ended with the process after a while."""
    ended = threading.Event()

    def give_up() -> None:
        if not ended.wait(END_SECONDS):
            logger.error("the server did not end within %g s and is stopped", END_SECONDS)
            # handlers of signals cannot be put back from a thread; the socket is removed all the same
            with contextlib.suppress(Exception):
                stack.close()
            os._exit(1)

    def stop(*_: Any) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        threading.Thread(target=give_up, daemon=True).start()
        loop.add_callback_from_signal(loop.stop)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield ended.set
    finally:
        ended.set()
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _directions(stores: Stores, place: Place, access: Access, address: str) -> Iterator[str]:
    """What the user is told."""
    yield f"crdist: serving {', '.join(stores.names)}; end with Ctrl-C"
    here = f"{getpass.getuser()}@{socket.gethostname()}"
    if place.port is None:
        yield f"on your machine: ssh -N -L {PORT}:{shlex.quote(address)} {here}"
        yield f"then open: http://localhost:{PORT}{access.prefix}/"
        return
    token = access.token if place.token_file is None else f"CONTENT-OF-{place.token_file.name}"
    if place.address == LOOPBACK_ADDRESS:
        yield f"from another machine: ssh -N -L {address}:{LOOPBACK_ADDRESS}:{address} {here}"
    yield f"open: http://{place.address}:{address}{access.prefix}/?token={token}"


def _print(line: str) -> None:
    print(line, flush=True)
