"""The dashboard as its users wait for it: how long a step of a slider takes, for one session and for many.

A server process of its own serves a volume on the loopback, written by the writer of the products from a formula. Each
session is a websocket that does what a page does: it pulls the document, moves the slider of the plane to random
places, one at a time, and waits until the new images of mean, std and significance have all arrived. What a browser
takes to draw them does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from machine import description
from planes import volume, write_volume
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

START = "import typer; from crdist.commands.serve import serve; typer.run(serve)"
START_SECONDS = 180.0
WAIT_SECONDS = 60.0
MAX_SESSIONS = 64


@dataclass
class Session:
    """What a page is to the server."""

    socket: WebSocketClientConnection
    slider: str = ""
    places: tuple[float, float, float] = (0.0, 0.0, 1.0)
    """Start, end and step of the slider."""
    images: frozenset[str] = frozenset()
    """Sources of the images."""
    at: int = -1
    """Step that the slider stands at; a move there would change nothing."""
    n_sent: int = 0
    first_seconds: float = 0.0
    """From the request of the page until its document is here."""
    seconds: list[float] = field(default_factory=list)
    n_bytes: list[int] = field(default_factory=list)


def main() -> None:
    """Serve, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxels", default=["200x200x30"], nargs="+", help="sizes, such as 1024x1024x256")
    parser.add_argument("--store", type=Path, help="a products store that begins with a volume, in place of --voxels")
    parser.add_argument("--sessions", default=[1, 20], nargs="+", type=int, help="(default: 1 20)")
    parser.add_argument("--moves", default=40, type=int, help="moves of each session (default: 40)")
    parser.add_argument("--pause", default=1.0, type=float, help="mean seconds between two moves (default: 1)")
    parser.add_argument(
        "--memory", default=1000, type=int, help="moves over which the memory is watched (default: 1000)"
    )
    parser.add_argument("--folder", type=Path, help="where to write 28 bytes a voxel (default: the temporary folder)")
    options = parser.parse_args()
    if not all(1 <= n <= MAX_SESSIONS for n in options.sessions) or options.moves < 1:
        sys.exit(f"serving.py: --sessions are 1 to {MAX_SESSIONS}, --moves at least 1")
    print(description())
    if options.store is not None:
        measure(options.store, options.store.name, options)
        return
    for text in options.voxels:
        try:
            nx, ny, nz = (int(part) for part in text.split("x"))
        except ValueError:
            sys.exit(f"serving.py: --voxels are three numbers such as 64x64x16, got {text!r}")
        with tempfile.TemporaryDirectory(prefix="crdist-bench-", dir=options.folder) as folder:
            store = Path(folder) / "volume.zarr"
            write_volume(store, volume((nx, ny, nz), "products"))
            measure(store, text, options)


def measure(store: Path, name: str, options: argparse.Namespace) -> None:
    """Serve one store and print a line for each number of sessions."""
    started = time.perf_counter()
    server, url = start_server(store)
    print(f"\n{name}: server up, warm, after {time.perf_counter() - started:.1f} s; load {os.getloadavg()[0]:.1f}")
    try:
        for n in options.sessions:
            asyncio.run(slide(url, server.pid, n, options.moves, options.pause))
        if options.memory:
            asyncio.run(watch_memory(url, server.pid, options.memory))
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)


def start_server(store: Path) -> tuple[subprocess.Popen[str], str]:
    """A server on a free port of the loopback, and its URL."""
    command = [sys.executable, "-W", "ignore", "-c", START, str(store), "--tcp", "--port", "0", "--warm"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    end = time.monotonic() + START_SECONDS
    for line in server.stdout:
        found = re.search(r"open: (\S+)", line)
        if found:
            return server, found[1]
        if time.monotonic() > end:
            break
    server.kill()
    sys.exit("serving.py: the server did not start")


async def slide(url: str, pid: int, n_session: int, moves: int, pause: float) -> None:
    """Move the sliders of some sessions at once, and print what it took."""
    sessions = [await connect(url) for _ in range(n_session)]
    before = cpu_seconds(pid)
    started = time.perf_counter()
    rng = np.random.default_rng(1)

    async def use(session: Session, seed: int) -> None:
        own = np.random.default_rng(seed)
        for _ in range(moves):
            await asyncio.sleep(float(own.uniform(0.0, 2.0 * pause)))
            await move(session, own)

    await asyncio.gather(*(use(session, int(rng.integers(2**32))) for session in sessions))
    spent, wall = cpu_seconds(pid) - before, time.perf_counter() - started
    for session in sessions:
        await leave(session)
    seconds = np.concatenate([session.seconds for session in sessions])
    size = np.median(np.concatenate([session.n_bytes for session in sessions]))
    first = np.median([session.first_seconds for session in sessions])
    print(
        f"{n_session:3} sessions: a step {1e3 * np.median(seconds):.0f} ms (90 % within "
        f"{1e3 * np.percentile(seconds, 90):.0f}), {size / 1e3:.0f} kB and {1e3 * spent / seconds.size:.0f} ms of the "
        f"server's CPU; page {first:.2f} s; {seconds.size / wall:.1f} steps/s; load {os.getloadavg()[0]:.1f}"
    )


async def watch_memory(url: str, pid: int, moves: int) -> None:
    """Move one slider many times, and print the server's memory as it goes."""
    session = await connect(url)
    rng = np.random.default_rng(2)
    found = []
    for i in range(moves + 1):
        if i % max(1, moves // 5) == 0:
            found.append(f"{i}: {resident_bytes(pid) / 2**20:.0f}")
        await move(session, rng)
    await leave(session)
    print(f"    memory of the server, MiB, by step: {', '.join(found)}")


async def connect(url: str) -> Session:
    """Ask for a page and open its websocket, as a browser does."""
    client = AsyncHTTPClient()
    started = time.perf_counter()
    base, _, token = url.partition("?token=")
    entered = await client.fetch(f"{base}?token={token}")
    cookie = entered.headers["Set-Cookie"].partition(";")[0]
    page = await client.fetch(HTTPRequest(base, headers={"Cookie": cookie}, request_timeout=WAIT_SECONDS))
    found = re.search(r'"token":\s*"([^"]+)"', page.body.decode())
    if found is None:
        sys.exit("serving.py: the page names no session")
    headers = {"Cookie": cookie, "Origin": base.rstrip("/")}
    request = HTTPRequest(base.replace("http://", "ws://") + "ws", headers=headers)
    socket = await websocket_connect(request, subprotocols=["bokeh", found[1]], max_message_size=2**28)
    session = Session(socket)
    await _message(session)
    await _send(session, "PULL-DOC-REQ", {})
    while True:
        header, content, _ = await _message(session)
        if header["msgtype"] == "PULL-DOC-REPLY":
            break
    session.first_seconds = time.perf_counter() - started
    # as a browser does; until then Panel keeps what it has to say
    ready = {"type": "event", "name": "document_ready", "values": {"type": "map", "entries": []}}
    await _send(
        session, "PATCH-DOC", {"events": [{"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": ready}]}
    )
    models = {item["id"]: item for item in _objects(content)}
    slider = next(item for item in models.values() if item["name"] == "Slider")
    known = slider["attributes"]
    session.slider, session.places = slider["id"], (known["start"], known["end"], known["step"])
    renderers = [item["attributes"] for item in models.values() if item["name"] == "GlyphRenderer"]
    images = [one for one in renderers if models.get(one["glyph"]["id"], {}).get("name") == "Image"]
    session.images = frozenset(one["data_source"]["id"] for one in images)
    return session


async def leave(session: Session) -> None:
    """Close a websocket and wait until it is; an event loop that ended before would complain of what it leaves."""
    session.socket.close()
    with contextlib.suppress(asyncio.TimeoutError):
        while await asyncio.wait_for(session.socket.read_message(), WAIT_SECONDS) is not None:
            pass


async def move(session: Session, rng: np.random.Generator) -> None:
    """One step: from its message until all images are here."""
    first, last, step = session.places
    n = round((last - first) / step) + 1
    session.at = (session.at + 1 + int(rng.integers(n - 1))) % n if session.at >= 0 else 0
    value = first + step * session.at
    change = {"kind": "ModelChanged", "model": {"id": session.slider}, "attr": "value", "new": value}
    started = time.perf_counter()
    await _send(session, "PATCH-DOC", {"events": [change]})
    waiting, size = set(session.images), 0
    while waiting:
        _, content, n_bytes = await _message(session)
        size += n_bytes
        for event in content.get("events", ()):
            if event.get("kind") == "ColumnDataChanged" or event.get("attr") == "data":
                waiting.discard(event["model"]["id"])
    session.seconds.append(time.perf_counter() - started)
    session.n_bytes.append(size)


async def _send(session: Session, kind: str, content: dict[str, Any]) -> None:
    session.n_sent += 1
    for part in ({"msgid": str(session.n_sent), "msgtype": kind}, {}, content):
        await session.socket.write_message(json.dumps(part))


async def _message(session: Session) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Header, content and bytes of the next message of Bokeh's protocol."""

    async def part() -> Any:
        read = await asyncio.wait_for(session.socket.read_message(), WAIT_SECONDS)
        if read is None:
            sys.exit("serving.py: the server has closed a websocket")
        return read

    parts = [await part() for _ in range(3)]
    header = json.loads(parts[0])
    # each buffer has a header of its own
    parts += [await part() for _ in range(2 * header.get("num_buffers", 0))]
    return header, json.loads(parts[2]), sum(map(len, parts))


def _objects(content: Any) -> Iterator[dict[str, Any]]:
    if isinstance(content, list):
        for item in content:
            yield from _objects(item)
    elif isinstance(content, dict):
        if content.get("type") == "object" and "id" in content:
            yield {"attributes": {}, **content}
        for item in content.values():
            yield from _objects(item)


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Memory of a process now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
