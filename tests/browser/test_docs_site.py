"""The documentation's site in a browser: its scripts ask nobody else, and its search finds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from playwright.sync_api import Browser, expect

DOCS = Path(__file__).parents[2] / "docs"


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, and prints nothing."""

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Build the site, and return the URL that it is served at."""
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", DOCS, folder]
    subprocess.run(command, check=True, timeout=240)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_reader_finds_a_setting_and_nothing_is_fetched_from_elsewhere(browser: Browser, docs: str) -> None:
    context = browser.new_context()
    asked: list[str] = []
    failed: list[str] = []
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.goto(f"{docs}/index.html")
    page.get_by_role("link", name="Reference").first.click()
    expect(page.get_by_role("heading", name="Reference")).to_be_visible()
    page.goto(f"{docs}/search.html?q=max_cpu_limit")
    expect(page.locator("#search-results a", has_text="Settings").first).to_be_visible()
    page.wait_for_load_state("networkidle")  # the search reads the pages that it has found
    context.close()
    assert len(asked) > 5
    assert not [url for url in asked if not url.startswith((docs, "data:"))]
    assert not failed
