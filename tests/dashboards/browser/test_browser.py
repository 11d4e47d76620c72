"""The dashboard in a real browser, on a real server: what is drawn, what is asked for, what a link opens."""

import os
import shutil
from pathlib import Path

import pytest

from crdist_dashboards.app.downloads import FORMATS
from served import Server, make_store

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
SCREENSHOTS = Path(__file__).parent / "screenshots"
TABS = ("slices", "projections", "sky", "profiles", "samples", "compare", "beside", "run")

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


MODELS = "Array.from(Bokeh.documents[0]._all_models.values())"
TITLES = f"{MODELS}.filter(m => m.type === 'Title').map(m => m.text).join(' ')"
RANGES = f"{MODELS}.filter(m => m.type === 'Figure').map(m => [m.x_range.start, m.x_range.end])"


def maps_of(page):
    """What is drawn on the three maps."""
    return [page.locator("canvas:visible").nth(i).screenshot() for i in range(3)]


def all_change(page, before):
    """Whether all three maps are drawn anew, however busy the machine is."""
    for _ in range(40):
        if all(old != new for old, new in zip(before, maps_of(page), strict=True)):
            return True
        page.wait_for_timeout(500)
    return False


def test_a_step_of_the_slider_changes_the_maps_their_titles_and_the_link(watched, server):
    watched.open(server, "&slice=volume")
    page = watched.page
    before, titles = maps_of(page), page.evaluate(TITLES)
    page.locator(".noUi-handle:visible").first.press("ArrowRight")
    page.wait_for_function(f"{TITLES} !== {titles!r}", timeout=20_000)
    watched.settle()
    assert all_change(page, before)
    assert "at=" in page.url


def test_maps_move_together_and_come_back(watched, server):
    watched.open(server)
    page = watched.page
    before, ranges = maps_of(page), page.evaluate(RANGES)
    box = page.locator("canvas:visible").nth(0).bounding_box()
    x, y = box["x"] + 0.4 * box["width"], box["y"] + 0.5 * box["height"]
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y + 10, steps=4)
    page.mouse.up()
    watched.settle()
    assert all_change(page, before)
    moved = page.evaluate(RANGES)
    assert moved[0] == moved[1] == moved[2] != ranges[0]
    page.mouse.move(x, y)
    page.locator("[title=Reset]:visible").first.click()
    watched.settle()
    assert page.evaluate(RANGES)[:3] == ranges[:3]


STARTS = {
    "PNG": b"\x89PNG",
    "SVG": b"<?xml",
    "PDF": b"%PDF",
    "CSV": b"# title",
    "FITS": b"SIMPLE",
    "Zarr, zipped": b"PK",
}


def test_a_file_of_each_format_is_downloaded(watched, server, tmp_path):
    watched.open(server)
    page = watched.page
    for format_, start in STARTS.items():
        page.locator("select:visible").filter(has_text="FITS").first.select_option(format_)
        page.wait_for_timeout(500)
        with page.expect_download(timeout=60_000) as download:
            page.get_by_text("Download", exact=True).first.click()
        path = tmp_path / "file"
        download.value.save_as(path)
        assert path.read_bytes().startswith(start)
        assert download.value.suggested_filename.endswith(FORMATS[format_])


def test_dark_is_dark_and_stays_in_the_link(watched, server):
    watched.open(server, "&theme=dark&tab=profiles")
    ground = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in ground[4:-1].split(",")) < 60
    assert "theme=dark" in watched.page.url


def test_a_store_that_is_damaged_is_said_in_its_tab_and_the_others_go_on(browser, tmp_path):
    path = make_store(tmp_path / "n30.zarr")
    chunk = next(file for file in (path / "radial" / "per_sample" / "c").rglob("*") if file.is_file())
    whole = bytearray(chunk.read_bytes())
    own = Server(path, "--tcp", "--port", "0")
    try:
        watched = Watched(browser)
        watched.open(own)
        # in what tells the codec: the arrays of this store have no checksum
        whole[0] ^= 0xFF
        chunk.write_bytes(whole)
        watched.page.get_by_text("Profiles", exact=True).click()
        watched.page.wait_for_selector(".alert-danger:visible", timeout=20_000)
        watched.page.wait_for_selector("text=radial/per_sample", timeout=20_000)
        shutil.rmtree(path)
        watched.page.get_by_text("Sky", exact=True).click()
        watched.page.wait_for_selector(".alert-danger:visible", timeout=20_000)
        watched.page.get_by_text("Slices", exact=True).click()
        watched.settle()
        assert watched.page.locator("canvas:visible").count() >= 3
        watched.check(own)
        watched.page.context.close()
    finally:
        own.end()


@pytest.mark.slow
def test_nothing_is_asked_of_others_when_the_websocket_is_late(watched, server):
    watched.page.add_init_script(
        "const Socket = WebSocket; window.WebSocket = function (...given) {"
        "  const end = Date.now() + 20000; while (Date.now() < end); return new Socket(...given); };"
    )
    watched.page.goto(server.url, timeout=120_000)
    watched.page.wait_for_selector("text=posterior samples", timeout=120_000)
    watched.settle()
