"""What the tests of the engine share."""

from __future__ import annotations

import pytest

from tests.support.world import World


@pytest.fixture
async def world(db_url):
    """The parts between the handlers and the launcher, real but for the launcher."""
    config = {
        "JobConfig": {"environment": {"SITE": "here", "A": "admin's"}},
        "Outputs": {"max_output_bytes": 1000},
    }
    world = await World(db_url, config=config).open()
    yield world
    await world.close()
