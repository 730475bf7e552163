"""A real hub, kbatch-server beside it with jobs as processes of this machine, and a real Chromium."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.browser.visitor import Site, Visitor
from tests.support.hub import Hub
from tests.support.ports import find_ports
from tests.support.service import Service

ROOT = Path(__file__).parents[2]

CONFIG = """
c.KBatchServer.bind_url = "http://127.0.0.1:{port}"
c.KBatchServer.launcher_class = "local"
c.KBatchServer.db_url = "sqlite:///{folder}/jobs.sqlite"
c.FileStorage.root = "{folder}/storage"
c.LocalProcessJobLauncher.root = "{folder}/jobs"
c.JobConfig.image = "this-machine"
c.JobConfig.termination_grace_period_seconds = 1
c.JobConfig.max_cpu_limit = 8
c.Outputs.max_output_files = 20
c.Limits.limits_hook = lambda user, groups, limits: {{"running": 1, "cpu": 4}} if user == "a.b" else None
c.Profiles.profile_list = [
    {{
        "display_name": "Small",
        "slug": "small",
        "default": True,
        "description": "For a first try",
        "kbatch_override": {{"cpu_limit": 0.5, "mem_limit": "512M"}},
    }},
    {{
        "display_name": "Large",
        "slug": "large",
        "description": "When it has to be done today",
        "kbatch_override": {{"cpu_limit": 8, "mem_limit": "16G"}},
    }},
    {{
        "display_name": "Simulation",
        "profile_options": {{
            "model": {{
                "display_name": "Model",
                "choices": {{
                    "fine": {{
                        "display_name": "Fine grid",
                        "kubespawner_override": {{"environment": {{"GRID": "1"}}}},
                    }},
                    "coarse": {{
                        "display_name": "Coarse grid",
                        "default": True,
                        "kubespawner_override": {{"environment": {{"GRID": "9"}}}},
                    }},
                }},
                "unlisted_choice": {{
                    "enabled": True,
                    "display_name": "Size of the grid",
                    "display_name_in_choices": "Another…",
                    "validation_regex": "[0-9]+ km",
                    "validation_message": "A number of kilometres, like 5 km.",
                    "kubespawner_override": {{"environment": {{"GRID": "{{value}}"}}}},
                }},
            }},
            "season": {{
                "display_name": "Season",
                "choices": {{"dry": {{"display_name": "Dry"}}, "wet": {{"display_name": "Wet"}}}},
            }},
        }},
    }},
]
"""


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """Return the hub and the service, both running."""
    # not pytest's own folder: jobs run as another account, which must be able to get there
    folder = Path(tempfile.mkdtemp(prefix="kbatch-browser-"))
    folder.chmod(0o711)
    (port,) = find_ports(1)
    (folder / "hub").mkdir()
    hub = Hub(folder / "hub", service_url=f"http://127.0.0.1:{port}")
    service = None
    try:
        hub.start()
        hub.add_admin("carol")
        config = CONFIG.format(port=port, folder=folder)
        service = Service(folder, port=port, config=config, environment=hub.service_environment)
        service.start()
        site = Site(hub, service)
        yield site
        site.close()
    finally:
        if service is not None:
            service.stop()
        hub.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")  # while it is there, tests that are coroutines cannot run
def browser() -> Iterator[Browser]:
    """Return Debian's Chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    expect.set_options(timeout=20_000)  # jobs are processes of a machine that may be busy
    assert program, "the tests need Chromium: tests/install_system_packages.sh installs it"
    with sync_playwright() as playwright:
        options = [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
        ]
        browser = playwright.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def logins() -> dict[str, dict]:
    """Return what browsers of users that are logged in have stored, as it comes."""
    return {}


@pytest.fixture
def visit(
    site: Site, browser: Browser, logins: dict[str, dict], request: pytest.FixtureRequest
) -> Iterator[Callable[..., Visitor]]:
    """Return what opens the pages as a user, in a browser of their own."""
    contexts: list[BrowserContext] = []
    visitors: list[Visitor] = []

    def open_as(user: str, path: str = "", *, width: int = 1280, theme: str = "light") -> Visitor:
        context = browser.new_context(
            storage_state=logins.get(user),
            viewport={"width": width, "height": 900},
            color_scheme=theme,
            locale="en-GB",
        )
        context.set_default_timeout(20_000)
        contexts.append(context)
        page: Page = context.new_page()
        visitor = Visitor(site, page)
        visitors.append(visitor)
        visitor.open(user, path)
        logins[user] = context.storage_state()
        return visitor

    yield open_as
    problems = [problem for visitor in visitors for problem in visitor.problems]
    for context in contexts:
        context.close()
    assert not problems, problems
