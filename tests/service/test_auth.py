"""Who a request is from: against a real hub, and against one that is slow, broken or gone."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from itertools import cycle
from urllib.parse import parse_qs

import httpx
import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler
from traitlets import TraitError

from kbatch_server import handlers
from kbatch_server.errors import Unavailable
from kbatch_server.metrics import LIMITS_HELD
from kbatch_server.web.auth import CachingHubOAuth, HubAuthenticator
from kbatch_server.web.forwarded import CLIENT
from tests.support.hub import find_ports
from tests.support.hub_double import ACCESS, ACTIONS, HubDouble
from tests.support.service import Service
from tests.support.waiting import until
from tests.support.web import PREFIX, running_web, running_web_of


@pytest.fixture
async def real_web(hub, tmp_path):
    """The service behind the real hub and proxy, at ``hub.kbatch_url``."""
    async with running_web_of(hub, tmp_path) as running:
        yield running


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


BROWSER = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate"}


def make_browser(**options):
    return httpx.AsyncClient(headers=BROWSER, timeout=30, follow_redirects=True, **options)


async def log_in(browser, login, name="bob"):
    """Fill in the hub's form, and return what comes after it."""
    assert login.url.path == "/hub/login"
    fields = {"username": name, "password": "test", "_xsrf": browser.cookies.get("_xsrf", path="/hub/")}
    action = re.search(r'<form action="([^"]+)"', login.text)[1].replace("&amp;", "&")
    return await browser.post(httpx.URL(login.url).join(action), data=fields)


def find_logins(browser):
    """Return the cookies of logins that were begun and have not ended."""
    return [cookie for cookie in browser.cookies.jar if "-oauth-state" in cookie.name]


async def test_a_browser_logs_in_through_the_hub_and_must_show_its_xsrf_token_to_write(hub, real_web):
    async with make_browser() as browser:
        page = await log_in(browser, await browser.get(hub.kbatch_url))
        assert page.status_code == 200, page.text
        assert str(page.url) == hub.kbatch_url
        assert 'user="bob"' in page.text
        assert find_logins(browser) == []
        # a page of another site can make the browser send this, with the cookie
        forged = await browser.post(
            hub.kbatch_url + "api/v1/jobs", json={"name": "a"}, headers={"Sec-Fetch-Mode": "cors"}
        )
        assert (forged.status_code, forged.json()["reason"]) == (403, "XsrfCheckFailed")
        assert (await browser.get(hub.kbatch_url + "api/v1/jobs")).json()["items"] == []
        token = re.search(r'xsrf-token="([^"]+)"', page.text)[1]
        ours = {"Sec-Fetch-Mode": "cors", "X-XSRFToken": token}
        written = await browser.post(hub.kbatch_url + "api/v1/jobs", json={"name": "a"}, headers=ours)
        assert written.status_code == 201, written.text


async def test_a_script_of_another_page_of_the_origin_gets_nothing_with_the_cookie_alone(hub, real_web):
    """As the page of another user's server is one, where the hub has no ``subdomain_host``."""
    async with make_browser() as browser:
        assert (await log_in(browser, await browser.get(hub.kbatch_url))).status_code == 200
        script = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}
        for path, method in list_routes_of_users():
            answer = await browser.request(
                method, hub.kbatch_url + path, headers=script, follow_redirects=False
            )
            assert answer.status_code in {403, 302}, f"{method} {path}"
            if answer.status_code == 302:  # a page, which sends to the login
                assert "/oauth2/authorize" in answer.headers["Location"]


def list_routes_of_users():
    for module in handlers.MODULES:
        for pattern, handler in module.default_handlers:
            path = re.sub(r"\(\?:.*\)\?$|/\?$|\\", "", pattern).replace("([^/]+)", "x").replace("(.+)", "x")
            for method in ("get", "head", "post", "delete"):
                needs = getattr(getattr(handler, method), "needs", None)
                if needs is not None and needs.user:
                    yield path, method


class TurnAbout(RequestHandler):
    """Hands each request to the next of some servers, as a load balancer without a memory does."""

    async def get(self):
        target = next(self.settings["targets"])
        self.settings["asked"][target] += 1
        asking = {**self.request.headers, "Connection": "close"}
        answer = await AsyncHTTPClient().fetch(
            target + self.request.uri, headers=asking, follow_redirects=False, raise_error=False
        )
        self.set_status(answer.code)
        for name, value in answer.headers.get_all():
            if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                self.add_header(name, value)
        self.write(answer.body)


@pytest.fixture
async def replicas(hub, tmp_path):
    """Two processes of the service with the same keys, asked by turns; yields how often each was asked."""
    services = []
    environment = hub.service_environment | {"KBATCH_KEYS": "k" * 32}
    for port in find_ports(2):
        folder = tmp_path / str(port)
        folder.mkdir()
        config = (
            f"c.KBatchServer.bind_url = 'http://127.0.0.1:{port}'\nc.KBatchServer.launcher_class = 'local'\n"
        )
        services.append(Service(folder, port=port, config=config, environment=environment))
    urls = [f"http://127.0.0.1:{service.port}" for service in services]
    asked = Counter()
    balancer = HTTPServer(Application([(".*", TurnAbout)], targets=cycle(urls), asked=asked))
    balancer.add_sockets(bind_sockets(httpx.URL(hub.service_url).port, "127.0.0.1"))
    try:
        await asyncio.gather(*(asyncio.to_thread(service.start) for service in services))
        yield asked
    finally:
        balancer.stop()
        await balancer.close_all_connections()
        await asyncio.gather(*(asyncio.to_thread(service.stop) for service in services))


async def test_logins_through_two_replicas_end_whichever_has_begun_them(hub, replicas):
    for number in range(20):
        async with make_browser() as browser:
            page = await log_in(browser, await browser.get(f"{hub.kbatch_url}?tag=n{number}"))
            assert (page.status_code, str(page.url)) == (200, f"{hub.kbatch_url}?tag=n{number}"), page.text
            assert 'user="bob"' in page.text
            assert find_logins(browser) == []
    assert len(replicas) == 2
    assert min(replicas.values()) >= 30


async def test_logins_that_were_begun_in_several_tabs_all_end(hub, replicas):
    async with make_browser() as browser:
        tabs = [await browser.get(f"{hub.kbatch_url}submit?tab={number}") for number in range(3)]
        assert len(find_logins(browser)) == 3
        for number, tab in enumerate(tabs):
            # the first form logs in at the hub; the others find that this is done
            page = await log_in(browser, tab) if number == 0 else await browser.get(return_url(tab))
            assert (page.status_code, str(page.url)) == (200, f"{hub.kbatch_url}submit?tab={number}")
        assert find_logins(browser) == []


def return_url(login):
    """Return where the hub's form leads to."""
    return httpx.URL(login.url).join(parse_qs(login.url.query.decode())["next"][0])


async def test_a_login_is_its_browsers_own_and_ends_once(hub, real_web):
    seen = []

    async def see(request):
        if request.url.path.endswith("oauth_callback"):
            seen.append(request)

    async with (
        make_browser(event_hooks={"request": [see]}) as browser,
        make_browser() as another,
        make_browser() as new,
    ):
        page = await log_in(browser, await browser.get(hub.kbatch_url))
        assert page.status_code == 200
        [end] = seen
        # the URL of the end, with neither cookie and in another browser that has begun a login itself
        await another.get(hub.kbatch_url)
        assert find_logins(another)
        for stranger in (another, new):
            answer = await stranger.get(end.url)
            assert answer.status_code == 403
            assert not stranger.cookies.get("service-kbatch")
        # again, with the cookie that it had
        async with make_browser() as copy:
            answer = await copy.get(end.url, headers={"Cookie": end.headers["Cookie"]})
            assert answer.status_code == 403
            assert "Open the page again" in answer.text
            assert not copy.cookies.get("service-kbatch")
        # "back" in the browser that is logged in
        assert str((await browser.get(end.url)).url) == hub.kbatch_url


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


async def ask(auth, token="good", *, address="203.0.113.1"):
    CLIENT.set(address)
    return await auth.hub_auth.user_for_token(token, sync=False)


@pytest.mark.parametrize("fault", ["500", "404", "slow", "gone"])
async def test_a_hub_that_does_not_answer_is_503_with_retry_after(tmp_path, fault):
    settings = {"HubAuthenticator": {"hub_timeout_seconds": 0.3}}
    async with running_web(tmp_path, settings) as web, web.client() as client:
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


async def test_the_loop_goes_on_while_the_hub_is_slow_and_no_token_waits_for_another(tmp_path):
    settings = {"HubAuthenticator": {"hub_timeout_seconds": 60}}
    async with running_web(tmp_path, settings) as web:
        web.hub.answers.clear()
        tokens = {f"token-{number}" for number in range(3)}
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
        assert [answer.status_code for answer in answers] == [200] * 3


async def test_requests_at_once_with_one_token_ask_the_hub_once(auth):
    auth.double.answers.clear()
    asking = [asyncio.create_task(ask(auth)) for _ in range(20)]
    await asyncio.sleep(0.05)
    asking[0].cancel()  # one that goes away takes nobody along
    auth.double.answers.set()
    models = await asyncio.gather(*asking[1:])
    assert [model["name"] for model in models] == ["alice"] * 19
    assert auth.double.asked == ["good"]


async def test_made_up_tokens_of_a_stranger_hold_up_neither_one_that_the_hub_knew_nor_those_of_others(auth):
    await ask(auth)
    auth.hub_auth._models.clear()
    auth.hub_auth.hub_timeout_seconds = 20
    auth.double.add_token("new", "bob")
    auth.double.answers.clear()
    before = LIMITS_HELD.labels("concurrent_lookups")._value.get()
    asking = [asyncio.create_task(ask(auth, f"bad-{number}")) for number in range(200)]
    await asyncio.sleep(0)
    known = asyncio.create_task(ask(auth))
    new = asyncio.create_task(ask(auth, "new", address="203.0.113.2"))
    await until(lambda: {"new", "good"} <= set(auth.double.asked[1:]))
    assert sorted(auth.double.asked[1:]) == ["bad-0", "bad-1", "bad-2", "good", "new"]
    auth.double.answers.set()
    assert ((await known)["name"], (await new)["name"]) == ("alice", "bob")
    # those who may wait were asked for, a hundred; the others were told to come again at once
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert Counter(map(type, answers)) == {type(None): 103, Unavailable: 97}
    assert LIMITS_HELD.labels("concurrent_lookups")._value.get() == before + 197


async def test_logins_of_a_stranger_hold_up_no_token_and_have_no_more_places_than_tokens(auth, monkeypatch):
    codes = []

    async def token_for_code(self, code, *, sync):
        codes.append(code)
        await asyncio.Event().wait()

    monkeypatch.setattr("jupyterhub.services.auth.HubOAuth.token_for_code", token_for_code)
    CLIENT.set("203.0.113.1")
    logins = [
        asyncio.create_task(auth.hub_auth.token_for_code(str(number), sync=False)) for number in range(50)
    ]
    await asyncio.sleep(0)
    assert (await ask(auth, address="203.0.113.2"))["name"] == "alice"
    assert codes == ["0", "1", "2"]
    answers = await asyncio.gather(*logins, return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)


async def test_the_address_that_a_token_is_asked_for_is_the_clients_own(tmp_path):
    settings = {"HubAuthenticator": {"hub_timeout_seconds": 20}}
    async with running_web(tmp_path, settings) as web, web.client(token=None, timeout=20) as client:
        web.hub.answers.clear()

        def get(token, address):
            headers = {"Authorization": f"token {token}", "X-Forwarded-For": address}
            return asyncio.create_task(client.get("api/v1/jobs", headers=headers))

        asking = [get(f"bad-{number}", f"2001:db8::{number}") for number in range(10)]
        await until(lambda: len(web.hub.asked) == 3)
        asking.append(get("alice-token", "2001:db8:0:1::1"))
        await until(lambda: "alice-token" in web.hub.asked)
        assert len(web.hub.asked) == 4
        web.hub.answers.set()
        statuses = [answer.status_code for answer in await asyncio.gather(*asking)]
        assert statuses == [401] * 10 + [200]


async def test_one_that_waits_for_too_long_to_be_asked_for_is_told_to_try_again(auth):
    auth.double.answers.clear()
    asking = [asyncio.create_task(ask(auth, f"bad-{number}")) for number in range(12)]
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    auth.double.answers.set()
    assert (await ask(auth))["name"] == "alice"


async def test_an_answer_is_remembered_for_a_while(auth, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("kbatch_server.web.auth.time.monotonic", lambda: now)
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
    monkeypatch.setattr("kbatch_server.web.auth.MAX_CACHED_TOKENS", 10)
    await ask(auth)
    for number in range(30):
        await ask(auth, f"bad-{number}")
    assert len(auth.hub_auth._refused) == 10
    assert (await ask(auth))["name"] == "alice"
    assert auth.double.asked.count("good") == 1  # they did not make it forgotten


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
