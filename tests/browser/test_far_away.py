"""The pages where the hub has a prefix of its own, and a proxy with TLS is before it."""

from __future__ import annotations

import copy
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import CONFIG
from tests.browser.visitor import Site, Visitor
from tests.support.hub import Hub, find_proxy
from tests.support.ports import find_ports
from tests.support.servers import wait_until_it_listens
from tests.support.service import Service
from tests.support.storages import make_certificate

PREFIX = "/compute/"


@pytest.fixture
def front(tmp_path: Path, hub: Hub) -> Iterator[str]:
    """Return the address of a proxy with TLS before the hub's own."""
    certificate, key = make_certificate(tmp_path)
    port, api_port = find_ports(2)
    target = httpx.URL(hub.url).copy_with(path="/")
    command = [find_proxy(), "--ip", "127.0.0.1", "--port", str(port), "--api-ip", "127.0.0.1"]
    command += ["--api-port", str(api_port), "--ssl-cert", str(certificate), "--ssl-key", str(key)]
    with (tmp_path / "front.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--default-target", str(target)], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        wait_until_it_listens(process, ("127.0.0.1", port), tmp_path / "front.log")
        yield f"https://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def folder() -> Iterator[Path]:
    # not pytest's own folder: jobs run as another account, which must be able to get there
    folder = Path(tempfile.mkdtemp(prefix="kbatch-browser-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def hub(folder: Path) -> Iterator[Hub]:
    (folder / "hub").mkdir()
    (port,) = find_ports(1)
    hub = Hub(folder / "hub", service_url=f"http://127.0.0.1:{port}", prefix=PREFIX)
    try:
        hub.start()
        yield hub
    finally:
        hub.stop()


@pytest.fixture
def service(folder: Path, hub: Hub) -> Iterator[Service]:
    port = int(str(hub.service_url).rpartition(":")[2])
    config = CONFIG.format(port=port, folder=folder)
    service = Service(folder, port=port, config=config, environment=hub.service_environment)
    service.start()
    yield service
    service.stop()


def test_a_user_logs_in_submits_sees_the_log_and_cancels(
    hub: Hub, service: Service, front: str, browser: Browser
) -> None:
    seen = copy.copy(hub)
    seen.kbatch_url = f"{front}{PREFIX}services/kbatch/"
    context = browser.new_context(ignore_https_errors=True)
    visitor = Visitor(Site(seen, service), context.new_page())
    visitor.open("alice", "submit")
    page = visitor.page
    page.get_by_label("Name", exact=True).fill("far")
    page.get_by_label("Command").fill("echo 'from far away'; sleep 300")
    page.get_by_label("Run in a shell").check()
    page.get_by_role("button", name="Submit").click()
    expect(visitor.find(".line .text", "from far away")).to_have_count(1)
    assert page.url.startswith(f"{seen.kbatch_url}job/far-")
    page.get_by_role("button", name="Cancel").click()
    expect(visitor.find("[role=status].status")).to_have_text("cancelled")
    cookies = {each["name"]: each for each in context.cookies()}
    assert cookies["service-kbatch"]["secure"]
    assert cookies["service-kbatch"]["path"] == f"{PREFIX}services/kbatch/"
    context.close()
    assert not visitor.problems
