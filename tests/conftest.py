"""Fixtures of more than one module: the web with doubles behind it, and a real hub."""

from __future__ import annotations

import pytest
import pytest_asyncio
from web_doubles import running_web


@pytest_asyncio.fixture
async def web():
    """The handlers, served for real, with doubles behind them."""
    async with running_web() as running:
        yield running


@pytest_asyncio.fixture
async def api(web):
    """Alice's client."""
    async with web.client() as client:
        yield client
