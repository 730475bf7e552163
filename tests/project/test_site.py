"""The documentation as a site: it builds without a warning, has every page, loads nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(path.stem for path in DOCS.glob("*.md"))

LOADED = {
    "src": None,
    "srcset": None,
    "poster": None,
    "data": "object",
    "href": "link",
}
"""The attributes whose URLs a browser loads by itself, and the element that this holds for (None: any)."""

NOT_LOADED = {"author", "canonical", "help", "license", "next", "prev", "search", "top"}
"""The kinds of ``<link>`` that a browser does not load."""


class Finder(HTMLParser):
    """Finds the URLs that a browser loads with a page, and the text of its styles."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.styles: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_style = tag == "style"
        values = dict(attrs)
        self.styles.append(values.get("style") or "")
        if tag == "link" and set((values.get("rel") or "").split()) <= NOT_LOADED:
            return
        self.urls += [
            value for name, value in attrs if value and name in LOADED and LOADED[name] in (None, tag)
        ]

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.styles.append(data)
            self._in_style = False


def find_styled(text: str) -> list[str]:
    """Return the URLs that a style sheet loads."""
    return re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s;]+)""", text)


def find_loaded(html: str) -> list[str]:
    """Return the URLs that a browser loads with a page."""
    finder = Finder()
    finder.feed(html)
    return [*finder.urls, *(url for text in finder.styles for url in find_styled(text))]


def is_elsewhere(url: str) -> bool:
    return re.match(r"(?!data:)[a-z]+:|//", url, re.IGNORECASE) is not None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    # without a network where the machine allows that: a build that fetches something then fails
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", DOCS, folder]
    done = subprocess.run(
        [*alone(), *command], capture_output=True, text=True, timeout=240, cwd=tmp_path_factory.getbasetemp()
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def alone() -> list[str]:
    """Return the command that runs another one without a network, or nothing where that is not allowed."""
    command = ["unshare", "--net"]
    try:
        allowed = subprocess.run([*command, "true"], capture_output=True, timeout=60).returncode == 0
    except FileNotFoundError:
        return []
    return command if allowed else []


@pytest.mark.parametrize("name", PAGES)
def test_the_site_has_the_page_and_its_parts_lead_to_it(name: str, site: Path) -> None:
    assert (site / f"{name}.html").is_file()
    leading = [part for part in ("index", "how-to", "reference", "explanation") if part != name]
    links = [re.findall(r'href="(\w[\w-]*)\.html', (site / f"{part}.html").read_text()) for part in leading]
    assert name in {link for found in links for link in found}


def test_the_reference_has_what_a_launcher_and_a_storage_define(site: Path) -> None:
    text = (site / "api.html").read_text()
    for name in ("JobLauncher.launch", "JobLauncher.poll_seconds", "Storage.write", "JobSpec.shm_size"):
        assert re.search(rf'id="kbatch_server[\w.]*\.{re.escape(name)}"', text), name
    assert re.search(r'href="api\.html#[\w.]+JobLauncher"', (site / "launchers.html").read_text())


def test_nothing_is_loaded_from_elsewhere_when_a_page_is_read(site: Path) -> None:
    pages, styles = list(site.rglob("*.html")), list(site.rglob("*.css"))
    assert len(pages) > len(PAGES)
    assert styles
    for path in pages:
        loaded = find_loaded(path.read_text())
        assert loaded, path.name
        assert not [url for url in loaded if is_elsewhere(url)], path.name
    for path in styles:
        assert not [url for url in find_styled(path.read_text()) if is_elsewhere(url)], path.name


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example.org/x.js"></script>',
        '<script src="//cdn.example.org/x.js"></script>',
        '<link rel="stylesheet" href="https://cdn.example.org/x.css">',
        '<link rel="preconnect" href="https://fonts.example.org">',
        '<img src="HTTPS://example.org/x.png">',
        '<iframe src="https://example.org/"></iframe>',
        '<style>@import "https://example.org/x.css";</style>',
        '<p style="background: url(https://example.org/x.png)">',
    ],
)
def test_what_comes_from_elsewhere_is_found(html: str) -> None:
    assert [url for url in find_loaded(html) if is_elsewhere(url)]


def test_a_link_to_elsewhere_is_not_loaded() -> None:
    html = '<a href="https://example.org/">x</a><img src="data:image/png;base64,AA"><img src="_images/x.png">'
    assert not [url for url in find_loaded(html) if is_elsewhere(url)]
