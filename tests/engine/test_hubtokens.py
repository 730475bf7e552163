"""The hub's tokens of jobs, with a hub that fails in ways that a real one cannot be made to."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from datetime import timedelta

import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from kbatch_server.engine.hubtokens import REVOKED, UNKNOWN
from kbatch_server.errors import InvalidRequest
from kbatch_server.hub import api as hubapi
from kbatch_server.hub.api import HubDown
from kbatch_server.launchers.base import LauncherUnavailable
from kbatch_server.models.job import JobStatus, Status
from kbatch_server.models.request import JobRequest
from kbatch_server.models.times import utcnow
from kbatch_server.models.user import User
from tests.support.stepping import do_step
from tests.support.waiting import until
from tests.support.world import World

ALICE = User(name="alice@example.com")


class HubHandler(RequestHandler):
    """``/hub/api`` of the double: answers as the test says, and writes down what it was asked."""

    async def answer(self, path: str) -> None:
        hub = self.settings["hub"]
        body = json.loads(self.request.body) if self.request.body else None
        hub.asked.append((self.request.method, path, body))
        await asyncio.sleep(hub.delay_seconds)
        status, answer = hub.answers.get(self.request.method, (200, {}))
        if callable(answer):
            status, answer = answer(body)
        self.set_status(status)
        if status != 204:
            self.write(answer)

    get = post = delete = answer


class Hub:
    """A hub whose answers a test sets, by method."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, object]] = []
        self.delay_seconds = 0.0
        self.answers: dict[str, tuple[int, object]] = {"POST": (201, {"id": "a7", "token": "t" * 32})}
        sockets = bind_sockets(0, "127.0.0.1")
        app = Application([("/hub/api/(.*)", HubHandler)], hub=self, log_function=lambda _: None)
        self.server = HTTPServer(app)
        self.server.add_sockets(sockets)
        self.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/hub/api"

    def count(self, method: str) -> int:
        return sum(each[0] == method for each in self.asked)


@pytest.fixture
async def hub():
    hub = Hub()
    yield hub
    hub.server.stop()
    await hub.server.close_all_connections()


@pytest.fixture
async def world(tmp_path, hub):
    config = {
        "JobConfig": {"allowed_hub_scopes": ["servers!user"], "image": "python:3"},
        "HubOAuth": {"api_url": hub.url, "api_token": "the-service-token"},
        "HubTokens": {"max_token_seconds": 3600},
    }
    world = await World(f"sqlite:///{tmp_path}/jobs.sqlite", config=config).open()
    yield world
    await world.close()


async def submit(world, **fields):
    request = {"name": "job", "command": ["true"], "hub_scopes": ["servers!user"]} | fields
    return (await world.jobs.submit(ALICE, JobRequest.from_json(request)))[0]


async def step(world, job):
    await do_step(world.make_reconciler(), job.id)
    return await world.store.jobs.find(job.id)


async def finish(world, job):
    """Let a launched job end, and return it; its token is not revoked yet."""
    world.launcher.seen[job.id] = JobStatus(status=Status.FAILED, ended_at=utcnow())
    job = await step(world, job)
    assert job.is_over
    return job


async def until_cleaned(world, job, *, when=None) -> None:
    """Do the last step of an ended job until all is done, or until ``when``: its log takes a moment."""

    async def is_done():
        found = await step(world, job)
        return found.cleaned_at is not None if when is None else when()

    await until(is_done)


def wait_no_more(world) -> None:
    """Let the pause after a failed request be over."""
    world.engine.hub._down_until = 0.0


async def test_a_token_is_requested_once_with_the_least_that_does(world, hub):
    job = await step(world, await submit(world))
    [(method, path, body)] = hub.asked
    assert (method, path) == ("POST", "users/alice@example.com/tokens")
    assert body == {"scopes": ["servers!user"], "expires_in": 3600, "note": f"kbatch job {job.id}"}
    [(_, launch)] = world.launcher.launched
    assert launch.env["JUPYTERHUB_API_TOKEN"] == "t" * 32
    assert launch.env["JUPYTERHUB_API_URL"] == hub.url
    assert job.hub_token == "a7"
    assert "t" * 32 not in json.dumps(job.to_dict())
    await until_cleaned(world, await finish(world, job))
    job = await world.store.jobs.find(job.id)
    assert hub.asked[-1] == ("DELETE", "users/alice@example.com/tokens/a7", None)
    assert job.hub_token == REVOKED


async def test_a_job_that_requests_none_costs_the_hub_nothing(world, hub):
    job = await step(world, await submit(world, hub_scopes=[]))
    await step(world, await finish(world, job))
    assert hub.asked == []
    assert "JUPYTERHUB_API_TOKEN" not in world.launcher.launched[0][1].env


async def test_the_hubs_own_maximum_is_used_and_asked_for_once(world, hub):
    def limit(body):
        if body["expires_in"] <= 600:
            return 201, {"id": "a8", "token": "t"}
        return 400, {"message": f"token expires_in: {body['expires_in']} must not exceed 600"}

    hub.answers["POST"] = (0, limit)
    await step(world, await submit(world))
    assert [each[2]["expires_in"] for each in hub.asked] == [3600, 600]
    hub.asked.clear()
    hub.answers["POST"] = (400, {"message": "must not exceed 10"})
    job = await step(world, await submit(world))
    assert (job.status, job.reason) == (Status.FAILED, "HubTokenRefused")
    assert hub.count("POST") == 2


@pytest.mark.parametrize("status", [500, 502, 503, 429])
async def test_a_hub_with_errors_of_its_own_delays_the_launch(world, hub, status):
    hub.answers["POST"] = (status, {"message": "no"})
    job = await submit(world)
    with pytest.raises(LauncherUnavailable, match=f"JupyterHub answered with {status}"):
        await step(world, job)
    job = await world.store.jobs.find(job.id)
    assert (job.hub_token, job.status, world.launcher.launched) == (UNKNOWN, "queued", [])
    assert "cannot get its hub token" in job.message
    # it may have made one all the same, of which nobody knows the id
    note = f"kbatch job {job.id}"
    hub.answers["POST"] = (201, {"id": "a9", "token": "t"})
    others = [{"id": "a1", "note": "mine"}, {"id": "a2", "note": None}, {"id": "a3", "note": note + "x"}]
    hub.answers["GET"] = (200, {"api_tokens": [*others, {"id": "a4", "note": note}]})
    job = await step(world, job)
    assert job.hub_token == "a9"
    assert [path for method, path, _ in hub.asked if method == "DELETE"] == [
        "users/alice@example.com/tokens/a4"
    ]


async def test_after_a_request_without_an_answer_others_fail_at_once(world, hub, monkeypatch):
    world.engine.hub.timeout_seconds = 0.2
    hub.delay_seconds = 5
    with pytest.raises(HubDown):
        await world.engine.hub.list_tokens("alice")
    asked, begun = len(hub.asked), time.monotonic()
    for _ in range(20):
        with pytest.raises(HubDown):
            await world.engine.hub.list_tokens("alice")
    assert time.monotonic() - begun < 0.2
    assert len(hub.asked) == asked
    monkeypatch.setattr(hubapi, "PAUSE_SECONDS", 0)
    hub.delay_seconds = 0
    wait_no_more(world)
    hub.answers["GET"] = (200, {"api_tokens": []})
    assert await world.engine.hub.list_tokens("alice") == []


async def test_a_hub_that_is_down_at_the_end_holds_up_nothing_but_the_mark(world, hub, caplog, monkeypatch):
    cleaned = []

    async def clean(job):
        cleaned.append(job.id)

    monkeypatch.setattr(world.launcher, "clean", clean)
    job = await finish(world, await step(world, await submit(world)))
    hub.answers["DELETE"] = (503, {})
    await until_cleaned(world, job, when=lambda: cleaned)
    await step(world, job)
    job = await step(world, job)
    assert cleaned == [job.id]  # once: the log and the results are saved
    assert (job.hub_token, job.cleaned_at) == ("a7", None)
    assert "its hub token is not revoked yet" in caplog.text
    hub.answers["DELETE"] = (404, {"message": "No such token"})  # as it has expired
    job = await step(world, job)
    assert (job.hub_token, job.cleaned_at is not None) == (REVOKED, True)


async def test_a_deleted_job_stays_on_record_until_its_token_is_revoked(world, hub):
    job = await step(world, await submit(world))
    world.launcher.seen[job.id] = None
    await world.jobs.delete(ALICE, job.id)
    hub.answers["DELETE"] = (503, {})
    assert (await step(world, job)).hub_token == "a7"
    hub.answers["DELETE"] = (204, {})
    assert await step(world, job) is None


async def test_a_token_that_may_not_be_revoked_is_reported_and_waited_for(world, hub, caplog):
    job = await finish(world, await step(world, await submit(world)))
    hub.answers["DELETE"] = (403, {"message": "Action is not authorized"})
    job = await step(world, job)
    assert job.cleaned_at is None
    [error] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "does not let the service revoke token a7 of alice@example.com" in error.getMessage()
    await world.store.jobs.update(job.id, ended_at=utcnow() - timedelta(hours=1))
    await until_cleaned(world, job)


async def test_a_user_who_is_gone_has_no_tokens(world, hub):
    job = await finish(world, await step(world, await submit(world)))
    await world.store.jobs.update(job.id, hub_token=UNKNOWN)
    hub.answers["GET"] = (404, {"message": "No such user"})
    assert (await step(world, job)).hub_token == REVOKED


@pytest.mark.parametrize(
    ("scopes", "warned"),
    [
        (["tokens!group=kbatch-users", "read:users!group=kbatch-users", "access:services"], []),
        (["tokens", "read:tokens", "read:users"], ["tokens"]),
        (["admin:users", "tokens!group=g"], ["admin:users"]),
        ([], []),
    ],
)
async def test_the_log_warns_of_scopes_that_are_as_good_as_root(world, hub, caplog, scopes, warned):
    hub.answers["GET"] = (200, {"kind": "service", "name": "kbatch", "scopes": scopes})
    await world.engine.hub_tokens.warn_of_scopes()
    messages = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert len(messages) == len(warned)
    for scope, message in zip(warned, messages, strict=True):
        assert f"has the hub scope {scope!r} for all users" in message
        assert "controls the hub" in message


async def test_services_of_the_hub_request_no_tokens(world):
    robot = User(name="service/ci", kind="service")
    request = JobRequest.from_json({"name": "job", "command": ["true"], "hub_scopes": ["servers!user"]})
    with pytest.raises(InvalidRequest, match=r"hub_scopes: .*only jobs of users"):
        await world.jobs.submit(robot, request)


async def test_a_token_with_an_unknown_id_is_never_forgotten(world, hub):
    hub.answers["POST"] = (500, {})
    job = await submit(world)
    with pytest.raises(LauncherUnavailable):
        await step(world, job)
    # then the service loses its right
    hub.answers |= {"GET": (403, {"message": "no"}), "POST": (403, {"message": "no"})}
    job = await step(world, job)
    assert (job.status, job.reason, job.hub_token) == (Status.FAILED, "HubTokenRefused", UNKNOWN)
    assert (await step(world, job)).cleaned_at is None
    # and gets it back
    hub.answers["GET"] = (200, {"api_tokens": [{"id": "a4", "note": f"kbatch job {job.id}"}]})
    await until_cleaned(world, job)
    assert ("DELETE", "users/alice@example.com/tokens/a4", None) in hub.asked
