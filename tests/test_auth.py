"""Who a request is from: against a real hub, and against one that is slow, broken or gone."""

from __future__ import annotations

import asyncio
import re
import time

import httpx
import pytest
from hub import Hub
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from traitlets import TraitError
from web_doubles import ACCESS, ACTIONS, PREFIX, HubDouble, Web, running_web

from kbatch_server.auth import CachingHubOAuth, HubAuthenticator


class RealHub:
    """Where the real hub is, for a ``Web``."""

    def __init__(self, hub: Hub):
        self.api_url = hub.api_url
        self.models = {}


@pytest.fixture
async def real_web(hub):
    """The handlers behind the real hub and proxy, at ``hub.kbatch_url``."""
    running = Web(RealHub(hub))
    running.auth.hub_auth.api_token = hub.service_token
    server = HTTPServer(running.application)
    server.add_sockets(bind_sockets(int(hub.service_url.rpartition(":")[2]), "127.0.0.1"))
    yield running
    server.stop()
    await server.close_all_connections()
    await running.stop()


async def get(hub, path, token, **options):
    headers = {"Authorization": f"token {token}"} if token else {}
    async with httpx.AsyncClient(timeout=30) as client:
        return await client.get(hub.kbatch_url + path, headers=headers, **options)


# the real hub


@pytest.mark.parametrize("name", ["alice", "Alice", "a.b", "a_b", "kube-system", "ünïcode", "x" * 300])
async def test_each_hub_user_is_who_they_are(hub, real_web, name):
    answer = await get(hub, "api/v1/user", hub.make_token(name))
    assert answer.status_code == 200, answer.text
    assert (answer.json()["name"], answer.json()["actions"]) == (name, ["submit", "read", "cancel"])
    assert answer.json()["admin"] is False


async def test_bearer_is_as_good_as_token(hub, real_web):
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {hub.make_token('alice')}"}) as client:
        assert (await client.get(hub.kbatch_url + "authorized")).json() == {"name": "alice", "groups": []}


@pytest.mark.parametrize("token", [None, "bad", "ü"])
async def test_no_token_and_a_bad_one_are_401(hub, real_web, token):
    headers = {} if token is None else {"Authorization": f"token {token}".encode()}
    async with httpx.AsyncClient(headers=headers) as client:
        answer = await client.get(hub.kbatch_url + "api/v1/jobs")
    assert answer.status_code == 401
    assert "WWW-Authenticate" in answer.headers


async def test_a_token_of_a_user_without_access_is_403_with_the_scope(hub, real_web):
    answer = await get(hub, "api/v1/jobs", hub.make_token("alice", ["read:users!user"]))
    assert (answer.status_code, answer.json()["details"]) == (403, {"scope": ACCESS})


async def test_a_token_for_one_action_is_good_for_that_alone(hub, real_web):
    token = hub.make_token("alice", [ACCESS, "custom:kbatch:jobs:read"])
    assert (await get(hub, "api/v1/jobs", token)).status_code == 200
    async with httpx.AsyncClient(headers={"Authorization": f"token {token}"}) as client:
        answer = await client.post(hub.kbatch_url + "api/v1/jobs", json={"name": "a"})
    assert (answer.status_code, answer.json()["details"]) == (403, {"scope": "custom:kbatch:jobs:submit"})


async def test_an_admin_of_kbatch_is_in_the_group(hub, real_web):
    hub.add_admin("carol")
    shown = (await get(hub, "api/v1/user", hub.make_token("carol"))).json()
    assert (shown["admin"], shown["groups"]) == (True, ["kbatch-admins"])


async def test_a_revoked_token_is_good_for_the_age_of_the_cache_only(hub, real_web):
    real_web.auth.hub_auth.cache_max_age = 1
    token = hub.make_token("a_b")
    assert (await get(hub, "authorized", token)).status_code == 200
    hub.revoke_tokens("a_b")
    deadline = time.monotonic() + 10
    while (await get(hub, "authorized", token)).status_code == 200:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    assert (await get(hub, "authorized", token)).status_code == 401


async def test_a_browser_logs_in_through_the_hub_and_must_show_its_xsrf_token_to_write(hub, real_web):
    options = {"follow_redirects": True, "headers": {"Accept": "text/html", "Sec-Fetch-Mode": "navigate"}}
    async with httpx.AsyncClient(**options, timeout=30) as browser:
        login = await browser.get(hub.kbatch_url)
        assert login.url.path == "/hub/login"
        fields = {
            "username": "bob",
            "password": "test",
            "_xsrf": browser.cookies.get("_xsrf", path="/hub/"),
        }
        action = re.search(r'<form action="([^"]+)"', login.text)[1].replace("&amp;", "&")
        page = await browser.post(httpx.URL(login.url).join(action), data=fields)
        assert page.status_code == 200, page.text
        assert str(page.url) == hub.kbatch_url
        assert 'user="bob"' in page.text
        # a page of another site can make the browser send this, with the cookie
        forged = await browser.post(
            hub.kbatch_url + "api/v1/jobs", json={"name": "a"}, headers={"Sec-Fetch-Mode": "cors"}
        )
        assert (forged.status_code, forged.json()["reason"]) == (403, "XsrfCheckFailed")
        assert real_web.jobs.requests == []
        token = re.search(r'xsrf-token="([^"]+)"', page.text)[1]
        ours = {"Sec-Fetch-Mode": "cors", "X-XSRFToken": token}
        written = await browser.post(hub.kbatch_url + "api/v1/jobs", json={"name": "a"}, headers=ours)
        assert written.status_code == 201, written.text


# a hub that does not do well


@pytest.fixture
async def auth():
    hub = HubDouble()
    hub.add_token("good")
    made = HubAuthenticator(base_url=PREFIX, hub_timeout_seconds=0.3)
    made.hub_auth.api_url = hub.api_url
    made.hub_auth.api_token = "service"
    made.double = hub
    yield made
    await made.close()
    await hub.stop()


async def ask(auth, token="good"):
    return await auth.hub_auth.user_for_token(token, sync=False)


@pytest.mark.parametrize("fault", ["500", "404", "slow", "gone"])
async def test_a_hub_that_does_not_answer_is_503_with_retry_after(fault):
    async with running_web(hub_timeout_seconds=0.3) as web, web.client() as client:
        if fault == "gone":
            web.hub.server.stop()
        elif fault == "slow":
            web.hub.answers.clear()
        else:
            web.hub.status = int(fault)
        answer = await client.get("api/v1/jobs")
        assert (answer.status_code, answer.json()["reason"]) == (503, "Unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        assert web.hub.api_url not in answer.text
        page = await client.get("", headers={"Accept": "text/html"})
        assert (page.status_code, page.headers["Content-Type"]) == (503, "text/html; charset=utf-8")
        assert (await client.get("api/v1/health")).status_code == 503  # it shows a token
        assert (await client.get("api/v1/health", headers={"Authorization": ""})).status_code == 200


async def test_the_loop_goes_on_while_the_hub_is_slow_and_no_token_waits_for_another():
    async with running_web(hub_timeout_seconds=60) as web:
        web.hub.answers.clear()
        tokens = {f"token-{number}" for number in range(6)}
        for token in tokens:
            web.hub.add_token(token)
        async with web.client(token=None, timeout=60) as client:
            asking = [
                asyncio.create_task(client.get("authorized", headers={"Authorization": f"token {token}"}))
                for token in tokens
            ]
            # the hub, which is in the same event loop, answers none of them before it was asked for all
            async with asyncio.timeout(30):
                while not tokens <= set(web.hub.asked):  # noqa: ASYNC110 - the double tells nobody
                    await asyncio.sleep(0.01)
            # nor is anybody else held up
            assert (await client.get("api/v1/health")).status_code == 200
            assert not any(task.done() for task in asking)
            web.hub.answers.set()
            answers = await asyncio.gather(*asking)
        assert [answer.status_code for answer in answers] == [200] * 6


async def test_requests_at_once_with_one_token_ask_the_hub_once(auth):
    auth.double.answers.clear()
    asking = [asyncio.create_task(ask(auth)) for _ in range(20)]
    await asyncio.sleep(0.05)
    asking[0].cancel()  # one that goes away takes nobody along
    auth.double.answers.set()
    models = await asyncio.gather(*asking[1:])
    assert [model["name"] for model in models] == ["alice"] * 19
    assert auth.double.asked == ["good"]


async def test_an_answer_is_remembered_for_a_while(auth, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("kbatch_server.auth.time.monotonic", lambda: now)
    await ask(auth)
    await ask(auth)
    assert auth.double.asked == ["good"]
    del auth.double.models["good"]
    now += 59
    assert await ask(auth)
    now += 2
    assert await ask(auth) is None
    auth.double.add_token("good")
    assert await ask(auth) is None  # also that it was not known, but not for long
    now += 6
    assert await ask(auth)


async def test_a_failure_is_not_remembered(auth):
    auth.double.status = 500
    with pytest.raises(Exception, match="JupyterHub"):
        await ask(auth)
    auth.double.status = 200
    assert (await ask(auth))["name"] == "alice"


async def test_bad_tokens_fill_no_memory(auth, monkeypatch):
    monkeypatch.setattr("kbatch_server.auth.MAX_CACHED_TOKENS", 10)
    for number in range(30):
        await ask(auth, f"bad-{number}")
    assert len(auth.hub_auth._models) == 10


async def test_a_session_that_ended_at_the_hub_is_asked_for_again(auth):
    await auth.hub_auth.user_for_token("good", session_id="one", sync=False)
    await auth.hub_auth.user_for_token("good", session_id="two", sync=False)
    assert auth.double.asked == ["good", "good"]


def test_nothing_can_ask_the_hub_in_the_event_loops_thread():
    hub_auth = CachingHubOAuth(base_url=PREFIX)
    with pytest.raises(RuntimeError):
        hub_auth.user_for_token("x")
    with pytest.raises(RuntimeError):
        hub_auth.token_for_code("x")


def test_a_hub_service_is_not_the_user_of_its_name():
    auth = HubAuthenticator(base_url=PREFIX)
    model = {"name": "alice", "kind": "service", "scopes": []}
    assert auth.make_user(model).name == "service/alice"
    assert auth.make_user(model | {"kind": "user"}).name == "alice"


def test_scopes_that_are_not_set_keep_their_default_and_an_empty_admin_is_nobody():
    auth = HubAuthenticator(base_url=PREFIX, scopes={"read": "", "admin": ""})
    assert auth.scopes["submit"] == "custom:kbatch:jobs:submit"
    user = auth.make_user({"name": "alice", "scopes": [ACCESS]})
    assert (user.actions, user.admin) == (("read",), False)
    with pytest.raises(TraitError, match="sumbit"):
        HubAuthenticator(scopes={"sumbit": "x"})


def test_without_the_hubs_environment_access_is_still_asked_for(monkeypatch):
    for name in ("JUPYTERHUB_OAUTH_ACCESS_SCOPES", "JUPYTERHUB_OAUTH_SCOPES", "JUPYTERHUB_SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/services/kbatch/")
    auth = HubAuthenticator()
    assert auth.hub_auth.access_scopes == {ACCESS}
    assert auth.hub_auth.oauth_client_id == "service-kbatch"
    assert tuple(auth.scopes.values())[:3] == ACTIONS
