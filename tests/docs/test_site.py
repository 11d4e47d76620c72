"""The documentation site, built without its notebooks: warning-free, complete, asking for nothing from elsewhere."""

import html.parser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

DOCS = Path(__file__).parents[2] / "docs"
SOURCES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
LOADED = {
    "script": "src",
    "img": "src",
    "link": "href",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "object": "data",
}


class Loaded(html.parser.HTMLParser):
    """What a browser fetches for a page, and the page's text."""

    def __init__(self):
        super().__init__()
        self.places = []
        self.text = []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        # a link that is followed by a reader only is not loaded
        if tag in LOADED and attributes.get("rel") not in ("search", "index", "next", "prev", "canonical"):
            self.places.append(attributes.get(LOADED[tag]) or "")

    def handle_data(self, data):
        self.text.append(data)


def loaded(page):
    parser = Loaded()
    parser.feed(page.read_text())
    return parser


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("furo", reason="the documentation's packages are not installed")
    pytest.importorskip("myst_nb", reason="the documentation's packages are not installed")
    out = tmp_path_factory.mktemp("site")
    # the language of a notebook's cells, in which ! is a command, is known once it has been run
    settings = ["-D", "nb_execution_mode=off", "-D", "suppress_warnings=misc.highlighting_failure"]
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", *settings]
    done = subprocess.run([*command, str(DOCS), str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_every_page_is_built_and_can_be_reached(site):
    pages = {path.relative_to(DOCS).with_suffix(".html").as_posix() for path in SOURCES}
    assert all((site / page).exists() for page in pages)
    linked = set()
    for page in pages:
        hrefs = re.findall(r'class="reference internal" href="([^"#]+\.html)', (site / page).read_text())
        linked |= {os.path.normpath(os.path.join(os.path.dirname(page), href)) for href in hrefs}
    assert pages - linked <= {"index.html"}


@pytest.mark.slow
def test_no_page_loads_anything_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    places = {place for page in pages for place in loaded(page).places}
    assert len(pages) > 20
    assert len(places) > 5
    assert [place for place in places if re.match(r"(?:[a-z]+:)?//", place)] == []
    fetched = re.compile(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//")
    assert [sheet for sheet in site.rglob("*.css") if fetched.search(sheet.read_text())] == []


@pytest.mark.slow
def test_commands_are_those_of_the_command_line(site):
    from typer.main import get_command

    from crdist.cli import app

    text = "".join(loaded(site / "reference" / "commands.html").text)
    for name, command in get_command(app).commands.items():
        assert f"crdist {name}" in text
        for option in getattr(command, "params", []):
            if option.param_type_name == "option" and not option.hidden:
                assert option.opts[0] in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "module", "name"),
    [
        ("recipe", "crdist_postproc.recipe", "Recipe"),
        ("runfile", "crdist_inference.runfile", "RunFile"),
        ("cluster", "crdist_cluster.recipe", "ClusterRecipe"),
    ],
)
def test_every_key_of_a_settings_file_is_listed_with_its_meaning(site, page, module, name):
    module = pytest.importorskip(module)
    text = " ".join("".join(loaded(site / "reference" / f"{page}.html").text).split())
    for key, field in getattr(module, name).model_fields.items():
        assert re.search(rf"\b{key}\b", text)
        first_words = " ".join(re.split(r"[\"'`]", field.description)[0].split()[:4])
        assert first_words in text


@pytest.mark.slow
def test_every_public_name_has_its_place_in_the_reference(site):
    import crdist
    import crdist_dashboards

    text = "".join((site / "reference" / "api" / page).read_text() for page in ("core.html", "dashboards.html"))
    for package in (crdist, crdist_dashboards):
        names = {f"{package.__name__}.{name}" for name in package.__all__ if not name.startswith("_")}
        assert {name for name in names if f'id="{name}"' not in text} == set()


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.relative_to(DOCS).as_posix())
def test_links_between_pages_lead_to_files(source):
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", source.read_text()):
        if not re.match(r"[a-z]+:", link):
            assert (source.parent / link).exists(), link


def test_examples_of_settings_on_a_page_can_be_followed():
    """Recipes that notebooks write are read here as `crdist post` reads them."""
    from crdist_postproc.recipe import Recipe

    found = 0
    for source in SOURCES:
        for name, text in re.findall(r"%%writefile (\S+\.yaml)\n(.*?)```", source.read_text(), flags=re.DOTALL):
            assert Recipe.from_mapping(yaml.safe_load(text), source=f"{source.name}, {name}").products
            found += 1
    assert found >= 3
