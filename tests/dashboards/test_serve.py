import os
import re
import signal
import socket
import stat
import subprocess
import sys

import pytest

from crdist.errors import RecipeError
from crdist_dashboards.access import Access, read_token
from crdist_dashboards.serve import Place
from served import START, Server, ask, make_store

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec_WebSocket_Version": "13",
    "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec_WebSocket_Protocol": "bokeh, nothing",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("served") / "n30.zarr")


@pytest.fixture(scope="module")
def tcp(store):
    server = Server(store, "--tcp", "--port", "0")
    yield server
    server.end()


@pytest.fixture(scope="module")
def cookie(tcp):
    """What a browser has after it has opened the printed URL."""
    status, headers, _ = ask(tcp, f"/?token={tcp.token}")
    assert status == 200
    return headers["Set-Cookie"].partition(";")[0]


@pytest.fixture(scope="module")
def unix(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    server = Server(store, environment={"XDG_RUNTIME_DIR": str(folder)})
    yield server
    server.end()


def test_the_printed_url_lets_in_and_leaves_no_token_in_the_address(tcp):
    status, headers, body = ask(tcp, f"/?token={tcp.token}&tab=sky")
    assert status == 200
    assert re.search(r"url=/\?tab=sky", body)
    assert tcp.token not in body
    cookie = headers["Set-Cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert headers["Referrer-Policy"] == "no-referrer"


def test_a_page_comes_with_the_cookie(tcp, cookie):
    status, _, body = ask(tcp, Cookie=cookie)
    assert status == 200
    assert "n30 | crdist" in body
    assert tcp.token not in body


@pytest.mark.parametrize(
    "path", ["/", "/?token=", "/?token=0123456789abcdef0123456789abcdef", "/static/js/bokeh.min.js"]
)
@pytest.mark.parametrize("cookie", [None, "crdist-00000000=0123456789abcdef0123456789abcdef"])
def test_nothing_without_the_token(tcp, path, cookie):
    status, headers, body = ask(tcp, path, Cookie=cookie)
    assert status == 403
    assert headers["Content-Type"].startswith("text/plain")
    assert "Set-Cookie" not in headers
    assert "n30" not in body


def test_a_wrong_token_in_the_right_cookie_is_none(tcp, cookie):
    name = cookie.partition("=")[0]
    assert ask(tcp, Cookie=f"{name}={'0' * 32}")[0] == 403


@pytest.mark.parametrize(
    "path", ["/autoload.js?bokeh-autoload-element=1", "/metadata", "/liveness", "/rest/session_info"]
)
def test_routes_that_hand_out_sessions_are_closed(tcp, cookie, path):
    status, _, body = ask(tcp, path, Cookie=cookie)
    assert status == 404
    assert body == "There is nothing here.\n"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/static/extensions/panel/..%2f..%2f..%2f..%2fetc/passwd",
        "/static//etc/passwd",
        "/components/panel.config/x/../../etc/passwd",
        "//etc/passwd",
    ],
)
def test_no_path_leads_to_other_files(tcp, cookie, path):
    status, _, body = ask(tcp, path, Cookie=cookie)
    assert status in (403, 404)
    assert "root:" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_the_server_is_read_only(tcp, cookie, method):
    assert ask(tcp, method=method, Cookie=cookie)[0] == 405


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:5006", ""])
def test_a_name_of_another_site_that_points_here_is_refused(tcp, cookie, host):
    assert ask(tcp, Host=host, Cookie=cookie)[0] in (400, 403)


@pytest.mark.parametrize(
    "origin", [None, "", "null", "https://evil.example", "http://127.0.0.1:1", "file://", "javascript:0"]
)
def test_a_foreign_page_cannot_open_the_websocket(tcp, cookie, origin):
    assert ask(tcp, "/ws", Cookie=cookie, Origin=origin, **UPGRADE)[0] == 403


def test_the_websocket_needs_the_cookie_and_opens_with_it(tcp, cookie):
    own = f"http://127.0.0.1:{tcp.port}"
    assert ask(tcp, "/ws", Origin=own, **UPGRADE)[0] == 403
    assert ask(tcp, f"/ws?token={tcp.token}", Origin=own, **UPGRADE)[0] == 403
    assert ask(tcp, "/ws", Origin=own, Cookie=cookie, **UPGRADE)[0] == 101


def test_a_port_in_use_is_said_in_one_line(tcp, store):
    arguments = [sys.executable, "-c", "import crdist.commands.serve as s; s.serve([__import__('pathlib').Path(%r)],"]
    code = f"{arguments[2] % str(store)} tcp=True, port={tcp.port})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert f"RecipeError: 127.0.0.1 port {tcp.port}: " in done.stderr
    assert "choose another --port" in done.stderr


def test_only_its_user_reaches_the_socket(unix):
    path = unix.socket_path
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    assert f"ssh -N -L 5006:{path}" in " ".join(unix.lines)


@pytest.mark.parametrize(
    ("origin", "status"), [("http://localhost:5006", 101), (None, 403), ("http://localhost:7", 403)]
)
def test_pages_through_the_tunnel_are_let_in_and_others_are_not(unix, origin, status):
    assert ask(unix, unix=True)[0] == 200
    assert ask(unix, "/ws", unix=True, Origin=origin, **UPGRADE)[0] == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_removes_the_socket(store, tmp_path, number):
    server = Server(store, environment={"XDG_RUNTIME_DIR": str(tmp_path)})
    with socket.socket(socket.AF_UNIX) as idle:
        idle.connect(server.socket_path)
        status, said = server.end(number)
    assert status == 0, said
    assert list(tmp_path.iterdir()) == []


def test_a_socket_that_a_killed_server_left_is_taken_over(store, tmp_path):
    tmp_path.chmod(0o700)
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    server = Server(store, "--socket", path)
    try:
        assert ask(server, unix=True)[0] == 200
        second = subprocess.run(
            [sys.executable, "-c", START, str(store), "--socket", str(path)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "another server listens there" in second.stderr
    finally:
        server.end()
    assert not path.exists()


def test_behind_a_proxy(store, tmp_path):
    token = tmp_path / "token"
    token.write_text("a" * 40)
    token.chmod(0o600)
    arguments = (
        "--tcp",
        "--port",
        "0",
        "--token-file",
        token,
        "--prefix",
        "/node/n1/5006",
        "--origin",
        "ood.example.org",
    )
    server = Server(store, *arguments)
    try:
        assert "aaaa" not in " ".join(server.lines)
        host = {"Host": "ood.example.org"}
        status, headers, body = ask(server, f"/node/n1/5006/?token={'a' * 40}", **host)
        assert status == 200
        assert "path=/node/n1/5006" in headers["Set-Cookie"].lower()
        assert "url=/node/n1/5006/" in body
        host["Cookie"] = headers["Set-Cookie"].partition(";")[0]
        assert ask(server, "/node/n1/5006/", **host)[0] == 200
        assert ask(server, "/", **host)[0] == 404
        assert ask(server, "/node/n1/5006/ws", Origin="https://ood.example.org", **host, **UPGRADE)[0] == 101
        assert ask(server, "/node/n1/5006/ws", Origin="https://evil.example.org", **host, **UPGRADE)[0] == 403
    finally:
        server.end()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 5006, "address": "0.0.0.0"}, "needs --token-file FILE"),
        ({"port": 5006, "address": "0.0.0.0", "origins": ("ood.example.org",)}, "needs --token-file FILE"),
        ({"address": "0.0.0.0"}, "goes with --tcp"),
        ({"port": 70000}, "0 to 65535"),
    ],
)
def test_an_unsafe_place_is_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        Place(**options)


@pytest.mark.parametrize("origin", ["*", "*.example.org", "https://a.example.org", ""])
def test_an_origin_is_one_host(origin):
    with pytest.raises(RecipeError, match="one host or host:port"):
        Access(origins=(origin,))


def test_a_token_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "token"
    path.write_text("b" * 40)
    path.chmod(0o644)
    with pytest.raises(RecipeError, match="others may read"):
        read_token(path)
    path.chmod(0o600)
    assert read_token(path) == "b" * 40
    path.write_text("short")
    with pytest.raises(RecipeError, match="at least 32"):
        read_token(path)
