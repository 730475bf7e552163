"""A user in front of a browser: logs in, looks, and notes what the browser complains about."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import ConsoleMessage, Locator, Page, Response

from tests.support.hub import Hub
from tests.support.installation import API
from tests.support.service import Service

ROOT = Path(__file__).parents[2]

SCREENSHOTS = ROOT / "artifacts" / "screenshots"

AXE = ROOT / "ui" / "node_modules" / "axe-core" / "axe.min.js"

WIDTHS = (1280, 390)

THEMES = ("light", "dark")


@dataclass
class Site:
    """The hub and the service that a test visits."""

    hub: Hub
    service: Service
    clients: dict[str, API] = field(default_factory=dict)

    def client(self, user: str) -> API:
        """Return a client of ``api/v1`` for a user."""
        if user not in self.clients:
            self.clients[user] = API(self.hub.kbatch_url, self.hub.make_token(user))
        return self.clients[user]

    def close(self) -> None:
        """Close the clients' connections."""
        for client in self.clients.values():
            client.http.close()


class Visitor:
    """One user in one tab."""

    def __init__(self, site: Site, page: Page) -> None:
        self.site = site
        self.page = page
        self.problems: list[str] = []
        self.expected: list[str] = []
        self.sizes: dict[str, int] = {}
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("response", self._measure)

    def open(self, user: str, path: str = "") -> None:
        """Go to a page, by way of the hub's login when that is asked for."""
        self.page.goto(self.site.hub.kbatch_url + path)
        if "/hub/login" in self.page.url:
            self.page.fill("#username_input", user)
            self.page.fill("#password_input", "test")
            self.page.click("#login_submit")
            self.page.wait_for_url(re.compile(re.escape(self.site.hub.kbatch_url)))
        self.page.locator("kbatch-app header").wait_for()

    def go(self, path: str) -> None:
        """Go to another page."""
        self.page.goto(self.site.hub.kbatch_url + path)

    def find(self, selector: str, text: str | re.Pattern[str] | None = None) -> Locator:
        """Return what a selector finds, and only where it has that text."""
        return self.page.locator(selector, has_text=text) if text else self.page.locator(selector)

    def shoot(self, name: str) -> None:
        """Keep screenshots of the page, at each width and in each theme, and see that all can read it."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        for theme in THEMES:
            self.page.emulate_media(color_scheme=theme)
            for width in WIDTHS:
                self.page.set_viewport_size({"width": width, "height": 900})
                self.page.wait_for_timeout(50)  # for what is drawn with the next frame
                self.page.screenshot(path=SCREENSHOTS / f"{name}-{width}-{theme}.png", full_page=True)
                overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                assert self.page.evaluate(overflow) <= 0, f"{name} is too wide at {width}"
            self.check_access(f"{name} {theme}")
        self.page.emulate_media(color_scheme="light")
        self.page.set_viewport_size({"width": 1280, "height": 900})

    def check_access(self, name: str) -> None:
        """See that axe finds nothing that a keyboard or a screen reader cannot do."""
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(AXE.read_text())
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        told = [
            f"{each['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
            for each in found["violations"]
            for node in each["nodes"]
        ]
        assert not told, f"{name}:\n" + "\n".join(told)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not any(words in message.text for words in self.expected):
            self.problems.append(message.text)

    def _measure(self, response: Response) -> None:
        if "/services/kbatch/" in response.url:
            self.sizes[response.url] = int(response.headers.get("content-length", 0))
