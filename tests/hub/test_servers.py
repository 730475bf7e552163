"""What the service asks the hub, and what it makes of odd answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from jupyterhub.services.auth import HubAuth

from kbatch_server.errors import InvalidRequest, Unavailable
from kbatch_server.hub import api as module
from kbatch_server.hub.servers import HubServers
from tests.support.hub_double import HubDouble


@pytest.fixture
async def hub() -> AsyncIterator[HubDouble]:
    hub = HubDouble()
    yield hub
    await hub.stop()


@pytest.fixture
async def servers(hub: HubDouble) -> AsyncIterator[HubServers]:
    servers = HubServers(enabled=True, timeout_seconds=5)
    servers.api.hub_auth = HubAuth(api_url=hub.api_url, api_token="sesame")
    yield servers
    await servers.stop()


@pytest.mark.parametrize("user", ["alice@example.com", "a/../b", "ünïcode", "x?y#z", "x" * 300])
async def test_any_user_is_asked_for_by_name(servers: HubServers, hub: HubDouble, user: str) -> None:
    hub.add_server(user, state={"pvc_name": "claim"})
    [server] = await servers.list(user)
    assert server.pvc_name == "claim"
    assert hub.asked == [f"users/{user}"]


async def test_what_the_hub_says_is_taken_with_care(servers: HubServers, hub: HubDouble) -> None:
    odd: list[dict[str, Any]] = [
        {"name": "a", "ready": True, "user_options": None, "state": ["x"], "display_name": None},
        {"name": "b", "ready": True, "user_options": "x", "state": {"pvc_name": 5, "pod_name": ""}},
    ]
    hub.servers["alice"] = odd
    for server in await servers.list("alice"):
        assert (server.user_options, server.pvc_name, server.pod_name) == ({}, None, None)


async def test_an_answer_that_is_too_large_is_none(
    servers: HubServers, hub: HubDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 1000)
    hub.add_server("alice", note="x" * 2000)
    with pytest.raises(Unavailable):
        await servers.list("alice")


async def test_a_user_who_is_not_at_the_hub_has_no_server_and_others_still_do(
    servers: HubServers, hub: HubDouble
) -> None:
    hub.add_server("alice")
    assert await servers.list("gone") == []
    assert len(await servers.list("alice")) == 1
    with pytest.raises(InvalidRequest, match="your servers: none"):
        await servers.get("gone", "")


async def test_one_user_does_not_take_all_turns(servers: HubServers, hub: HubDouble) -> None:
    servers.cache_max_age_seconds = 0
    hub.delay_seconds = 0.2
    for user in ("alice", "bob"):
        hub.add_server(user)
    many = [asyncio.create_task(servers.list("alice")) for _ in range(20)]
    await asyncio.sleep(0.05)
    async with asyncio.timeout(1):
        await servers.list("bob")
    assert not all(each.done() for each in many)
    hub.delay_seconds = 0
    await asyncio.gather(*many)


async def test_a_hub_that_is_away_is_unavailable(servers: HubServers, hub: HubDouble) -> None:
    await hub.stop()
    with pytest.raises(Unavailable, match="JupyterHub does not respond"):
        await servers.list("alice")
    assert servers.is_available  # which says nothing about its scopes
