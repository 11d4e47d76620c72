"""Who may talk to the server: every request passes one gate before it reaches a handler.

Bokeh protects some of its routes and takes a websocket without an ``Origin``. The gate stands in front of all routes,
so that a new one, or one of another library, is closed until it is named here.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest
from tornado.routing import Router
from tornado.web import Application, RequestHandler

from crdist.errors import RecipeError

__all__ = ["MIN_TOKEN", "Access", "Gate", "new_token", "own_hosts", "read_token"]

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

MIN_TOKEN = 32
"""Characters of a token: 128 bit, written in hexadecimal."""

TOKEN_ARGUMENT = "token"

ROUTES = re.compile(r"/ws|/favicon\.ico|/static/[A-Za-z0-9_@^.\-/]+")
"""The routes that the app needs. Others that Bokeh and Panel offer, such as ``autoload.js``, hand out sessions."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Type": "text/plain; charset=utf-8",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
}


@dataclass(frozen=True, slots=True)
class Access:
    """Who may come in."""

    token: str | None = None
    """What a URL or a cookie must carry; None where the socket's permissions keep others out."""
    origins: tuple[str, ...] = ()
    """``host`` or ``host:port`` of pages that may open the websocket, beside the server's own on the loopback."""
    prefix: str = ""
    """What all paths start with, such as ``/node/n1/5006``; no slash at its end."""

    def __post_init__(self) -> None:
        for origin in self.origins:
            if "*" in origin or "/" in origin or not origin:
                raise RecipeError(f"--origin is one host or host:port, such as ondemand.example.org; got {origin!r}")
        if self.token is not None and len(self.token) < MIN_TOKEN:
            raise RecipeError(f"a token has at least {MIN_TOKEN} characters, this one has {len(self.token)}")
        if self.prefix and not re.fullmatch(r"(/[A-Za-z0-9_.~\-@]+)+", self.prefix):
            raise RecipeError(f"--prefix is a path such as /node/n1/5006, got {self.prefix!r}")

    @property
    def cookie(self) -> str:
        """Name of the cookie; servers on other ports of one host have other names and do not disturb."""
        digest = hashlib.sha256((self.token or "").encode()).hexdigest()
        return f"crdist-{digest[:8]}"

    def is_token(self, given: str | None) -> bool:
        """Whether a token is the right one; takes as long for any wrong one."""
        if self.token is None:
            return True
        return given is not None and hmac.compare_digest(given.encode(), self.token.encode())

    def is_host(self, host: str) -> bool:
        """Whether a request may be addressed to this ``Host``: what a name of another site that points here is not."""
        return _name_of(host) in LOOPBACK or self._is_named(host)

    def is_origin(self, origin: str | None, host: str) -> bool:
        """Whether a page of this ``Origin`` may open the websocket."""
        if not origin:
            return False
        place = urlsplit(origin)
        if place.scheme not in ("http", "https"):
            return False
        if _name_of(place.netloc) in LOOPBACK:
            # another port of the same machine is another server's page
            return place.netloc.lower() == host.lower()
        return self._is_named(place.netloc)

    def _is_named(self, host: str) -> bool:
        given = host.lower()
        return any(given == origin.lower() or _without_port(given) == origin.lower() for origin in self.origins)


@dataclass(frozen=True, slots=True)
class _Reply:
    """What the gate answers itself."""

    status: int
    text: str
    cookie: tuple[str, str, str] | None = None
    """Name, value and path."""
    onward: str | None = None
    """Where the browser goes next."""


class Gate(Router):
    """The way in: lets a request through to the app, or answers it itself with one line of text.

    Parameters
    ----------
    app : tornado Application
        What is behind.
    access : Access
    """

    def __init__(self, app: Application, access: Access) -> None:
        self._app = app
        self._access = access

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> HTTPMessageDelegate | None:
        """Called for every request, the websocket's opening included."""
        reply = self._reply(request)
        if reply is None:
            return self._app.find_handler(request, **kwargs)
        return Application([(r".*", _Answer, {"reply": reply})]).find_handler(request, **kwargs)

    def _reply(self, request: HTTPServerRequest) -> _Reply | None:
        """The answer to a request that goes no further."""
        access = self._access
        if not access.is_host(request.host):
            return _Reply(403, "This server answers under localhost, or a host that it was told by --origin.")
        is_upgrade = "upgrade" in request.headers or request.path.endswith("/ws")
        origin = request.headers.get("Origin")
        if (is_upgrade or origin is not None) and not access.is_origin(origin, request.host):
            return _Reply(403, "This server talks to its own pages only.")
        if request.method not in ("GET", "HEAD"):
            return _Reply(405, "This server is read-only.")
        path = unquote(request.path.removeprefix(access.prefix))
        is_page = request.path.startswith(access.prefix) and path in ("", "/")
        if access.token is not None:
            query = parse_qs(request.query)
            given = query.pop(TOKEN_ARGUMENT, [None])[0]
            if is_page and given is not None and access.is_token(given):
                # A page of our own that goes on from here, not a redirect: a browser that came from another site, such
                # as a link in a mail, would not send the cookie along.
                onward = f"{access.prefix}/" + (f"?{urlencode(query, doseq=True)}" if query else "")
                return _Reply(200, "", (access.cookie, access.token, access.prefix or "/"), onward)
            cookie = request.cookies.get(access.cookie)
            if cookie is None or not access.is_token(cookie.value):
                return _Reply(403, "This page needs the address with its token, as 'crdist serve' printed it.")
        is_route = request.path.startswith(access.prefix) and (is_page or ROUTES.fullmatch(path))
        if not is_route or ".." in path.split("/"):
            return _Reply(404, "There is nothing here.")
        return None


class _Answer(RequestHandler):
    def initialize(self, reply: _Reply) -> None:
        self._reply = reply

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        reply = self._reply
        self.set_status(reply.status)
        if reply.cookie is not None:
            name, value, path = reply.cookie
            is_secure = self.request.protocol == "https"
            self.set_cookie(name, value, path=path, httponly=True, samesite="Strict", secure=is_secure)
        if reply.onward is None:
            self.finish(reply.text + "\n")
        else:
            self.set_header("Content-Type", "text/html; charset=utf-8")
            self.finish(f'<!doctype html><meta http-equiv="refresh" content="0; url={escape(reply.onward)}">\n')


def new_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_hex(MIN_TOKEN // 2)


def read_token(path: Path) -> str:
    """A token from a file that nobody else can read.

    Parameters
    ----------
    path : path
        One line; a regular file of this user, with mode 0600 or 0400.

    Raises
    ------
    RecipeError
        If others may read it, or it is too short.
    """
    try:
        with path.open() as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
                raise RecipeError(f"{path}: others may read this token; make it your own and run chmod 600 {path}")
            token = file.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: the token cannot be read ({error})") from error
    if len(token) < MIN_TOKEN or not re.fullmatch(r"[A-Za-z0-9_\-]+", token):
        raise RecipeError(f"{path}: a token is at least {MIN_TOKEN} of A-Z a-z 0-9 _ -; make one: openssl rand -hex 32")
    return token


def own_hosts(access: Access) -> Sequence[str]:
    """Patterns of hosts that Bokeh, behind the gate, is to let in as well."""
    return [*(f"{name}:*" for name in LOOPBACK), *(o if ":" in o else f"{o}:*" for o in access.origins)]


def _without_port(host: str) -> str:
    return re.sub(r":\d+$", "", host)


def _name_of(host: str) -> str:
    return _without_port(host).lower()
