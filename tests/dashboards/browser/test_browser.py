"""The dashboard in a real browser, on a real server: what is drawn, what is asked for, what a link opens."""

import os
from pathlib import Path

import pytest

from served import Server, make_store

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
SCREENSHOTS = Path(__file__).parent / "screenshots"
TABS = ("slices", "projections", "sky", "profiles", "samples", "compare", "run")

pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"no browser at {CHROMIUM}; set CHROMIUM")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    stores = make_store(folder / "first.zarr"), make_store(folder / "second.zarr", shift=0.5, seed=2)
    server = Server(*stores, "--tcp", "--port", "0", "--warm")
    yield server
    _, said = server.end()
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page, with what it complained about and whom it asked."""

    def __init__(self, browser, width=1280, height=800):
        context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
        self.page = context.new_page()
        self.complaints, self.asked = [], set()
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.add(request.url))
        self.page.on("websocket", lambda channel: self.asked.add(channel.url))

    def open(self, server, query=""):
        self.page.goto(server.url + query)
        self.page.wait_for_selector("text=posterior samples", timeout=60_000)
        self.settle()

    def settle(self):
        self.page.wait_for_load_state("networkidle")
        self.page.wait_for_timeout(1500)

    def check(self, server):
        own = (f"http://127.0.0.1:{server.port}/", f"ws://127.0.0.1:{server.port}/", "data:", "blob:")
        assert [url for url in self.asked if not url.startswith(own)] == []
        assert self.complaints == []


@pytest.fixture
def watched(browser, server):
    watched = Watched(browser)
    yield watched
    watched.check(server)
    watched.page.context.close()


@pytest.mark.parametrize("width", [1280, 2560])
def test_every_tab_fits_the_window(browser, server, width):
    SCREENSHOTS.mkdir(exist_ok=True)
    watched = Watched(browser, width, 800 if width == 1280 else 1440)
    for tab in TABS:
        watched.open(server, f"&tab={tab}")
        page = watched.page
        page.screenshot(path=SCREENSHOTS / f"{tab}-{width}.png", full_page=True)
        assert page.locator(".alert-danger:visible").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        canvases = page.locator("canvas:visible")
        assert canvases.count() > 0 or tab == "run"
        for i in range(canvases.count()):
            box = canvases.nth(i).bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
    watched.check(server)
    page.close()


def test_a_tap_moves_the_crosshair_and_the_link_opens_it_again(watched, browser, server):
    watched.open(server)
    assert "token" not in watched.page.url
    box = watched.page.locator("canvas:visible").nth(0).bounding_box()
    watched.page.mouse.click(box["x"] + 0.4 * box["width"], box["y"] + 0.5 * box["height"])
    watched.page.wait_for_function("window.location.search.includes('x=')", timeout=20_000)
    watched.settle()
    again = watched.page.context.new_page()
    again.goto(watched.page.url)
    again.wait_for_selector("text=posterior samples", timeout=60_000)
    assert again.url == watched.page.url
    again.close()


def test_the_pointer_reads_values(watched, server):
    watched.open(server)
    box = watched.page.locator("canvas:visible").nth(0).bounding_box()
    watched.page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.5 * box["height"])
    watched.page.wait_for_selector("text=/GeV⁻¹ cm⁻³ .mean \\/ std/", timeout=20_000)


def test_a_file_is_downloaded(watched, server, tmp_path):
    watched.open(server)
    with watched.page.expect_download(timeout=60_000) as download:
        watched.page.get_by_text("Download", exact=True).first.click()
    path = tmp_path / "file"
    download.value.save_as(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert download.value.suggested_filename.endswith(".png")


@pytest.mark.slow
def test_nothing_is_asked_of_others_when_the_websocket_is_late(watched, server):
    watched.page.add_init_script(
        "const Socket = WebSocket; window.WebSocket = function (...given) {"
        "  const end = Date.now() + 20000; while (Date.now() < end); return new Socket(...given); };"
    )
    watched.page.goto(server.url, timeout=120_000)
    watched.page.wait_for_selector("text=posterior samples", timeout=120_000)
    watched.settle()
