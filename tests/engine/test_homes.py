"""The launch of a job with a home: what the hub says of the server, and while the hub does not respond."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from jupyterhub.services.auth import HubAuth

from kbatch_server.launchers.base import LauncherUnavailable
from kbatch_server.models.job import JobStatus, Status
from kbatch_server.models.request import JobRequest
from kbatch_server.models.times import utcnow
from kbatch_server.models.user import User
from tests.support.hub_double import HubDouble
from tests.support.stepping import do_step
from tests.support.world import World

CONFIG = {
    "HubServers": {"enabled": True, "cache_max_age_seconds": 0, "timeout_seconds": 2},
    "JobConfig": {"home": "same-node"},
}
STATE = {"pod_name": "jupyter-alice", "namespace": "jobs", "pvc_name": "claim-alice", "dns_name": "x"}


@pytest.fixture
async def hub() -> AsyncIterator[HubDouble]:
    hub = HubDouble()
    yield hub
    await hub.stop()


@pytest.fixture
async def world(db_url: str, hub: HubDouble) -> AsyncIterator[World]:
    world = await World(db_url, config=CONFIG).open()
    world.servers.api.hub_auth = HubAuth(api_url=hub.api_url, api_token="sesame")
    yield world
    await world.servers.stop()
    await world.close()


async def submit(world: World, **fields: object) -> str:
    request = JobRequest.from_json({"name": "job", "image": "x", "command": ["true"]} | fields)
    return (await world.jobs.submit(User(name="alice"), request))[0].id


async def test_the_launcher_gets_what_the_hub_says_of_the_server(world: World, hub: HubDouble) -> None:
    hub.add_server("alice", state={"pvc_name": "claim-alice"})
    hub.add_server("alice", "gpu", state=STATE | {"pvc_name": None})
    await do_step(world.make_reconciler(), await submit(world, home="server:gpu"))
    [(_, launch)] = world.launcher.launched
    server = launch.server
    assert (server.name, server.pod_name, server.namespace, server.pvc_name) == (
        "gpu",
        "jupyter-alice",
        "jobs",
        None,
    )
    await do_step(world.make_reconciler(), await submit(world))
    assert world.launcher.launched[1][1].server is None
    assert hub.asked == ["users/alice"]  # not for a job without a home


async def test_while_the_hub_does_not_respond_the_job_waits(world: World, hub: HubDouble) -> None:
    hub.add_server("alice", state=STATE)
    job_id = await submit(world, home=True)
    hub.status = 500
    with pytest.raises(LauncherUnavailable):
        await do_step(world.make_reconciler(), job_id)
    waiting = await world.store.jobs.get(job_id, user="alice")
    assert waiting.status == "queued"
    assert "JupyterHub does not respond" in waiting.message
    hub.status = 200
    await do_step(world.make_reconciler(), job_id)
    assert (await world.store.jobs.get(job_id, user="alice")).status == "pending"


async def test_without_the_scope_the_home_is_looked_for_without_the_hub(world: World, hub: HubDouble) -> None:
    hub.service_scopes = []
    job_id = await submit(world, home=True)
    with pytest.raises(LauncherUnavailable):
        await do_step(world.make_reconciler(), job_id)  # now it is known
    await do_step(world.make_reconciler(), job_id)
    [(_, launch)] = world.launcher.launched
    assert launch.server is None


async def test_a_job_whose_node_is_no_longer_that_of_its_home_is_launched_again(world: World) -> None:
    world.servers.enabled = False
    job_id = await submit(world, home=True)
    await do_step(world.make_reconciler(), job_id)
    message = "Waiting for room on the node of your server."
    world.launcher.seen[job_id] = JobStatus(
        status=Status.PENDING,
        reason="Unschedulable",
        message=message,
        blocked_since=utcnow(),
        blocked_on="schedule",
        never_began=True,
    )
    await do_step(world.make_reconciler(), job_id)
    job = await world.store.jobs.get(job_id, user="alice")
    assert (job.status, job.launched_at is None) == ("pending", False)
    assert job.message == f"{message} The command did not start. Retrying in 10 s."


async def test_the_hub_is_not_waited_for_longer_than_its_time(world: World, hub: HubDouble) -> None:
    world.servers.timeout_seconds = 0.2
    hub.delay_seconds = 5
    job_id = await submit(world, home=True)
    with pytest.raises(LauncherUnavailable):
        await do_step(world.make_reconciler(), job_id)
    hub.delay_seconds = 0
