"""Fixtures of more than one module: the web with doubles behind it, and a real hub."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from hub import Hub, find_ports
from web_doubles import Web, running_web


def pytest_configure() -> None:
    """Let the services that tests start in folders of their own find the settings file of this run."""
    if "KBATCH_SETTINGS_PATH" in os.environ:
        os.environ["KBATCH_SETTINGS_PATH"] = str(Path(os.environ["KBATCH_SETTINGS_PATH"]).resolve())


@pytest_asyncio.fixture
async def web() -> AsyncIterator[Web]:
    """The handlers, served for real, with doubles behind them."""
    async with running_web() as running:
        yield running


@pytest_asyncio.fixture
async def api(web: Web) -> AsyncIterator[httpx.AsyncClient]:
    """Alice's client."""
    async with web.client() as client:
        yield client


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A real hub and proxy; the service is one that a test runs at ``hub.service_url``, if it needs one."""
    running = Hub(tmp_path_factory.mktemp("hub"), service_url=f"http://127.0.0.1:{find_ports(1)[0]}")
    try:
        running.start()
        yield running
    finally:
        running.stop()
