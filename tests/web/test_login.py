"""Logins that were begun: sealed cookies of their browsers, few and small, that expire; nothing in memory."""

from __future__ import annotations

import time

import httpx
import pytest

from kbatch_server.keyring import Keyring
from kbatch_server.web.login import LOGIN_SECONDS, MAX_BEGUN, MAX_NEXT_URL
from tests.support.web import PREFIX

BROWSER = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate"}


@pytest.fixture
async def browser(web):
    async with web.client(token=None, headers=BROWSER) as client:
        yield client


def find_logins(client):
    return {cookie.name: cookie for cookie in client.cookies.jar if "-oauth-state" in cookie.name}


def find_state(answer):
    return httpx.URL(answer.headers["Location"]).params["state"]


async def end(browser, state):
    return await browser.get("oauth_callback", params={"state": state, "code": "the-code"})


@pytest.fixture
def tokens(web, monkeypatch):
    """What the hub was asked for tokens with; it gives Alice's."""
    asked = []

    async def token_for_code(self, code, *, sync, **proof):
        asked.append((code, proof))
        return "alice-token"

    monkeypatch.setattr(type(web.auth.hub_auth), "token_for_code", token_for_code)
    return asked


async def test_a_login_ends_where_it_began_and_leaves_no_cookie(web, browser, tokens):
    begun = await browser.get("job/train-1?tab=log")
    [cookie] = find_logins(browser).values()
    assert (begun.status_code, cookie.path) == (302, PREFIX)
    assert {"HttpOnly", "SameSite"} <= {*cookie._rest}
    assert cookie.expires - time.time() <= LOGIN_SECONDS
    ended = await end(browser, find_state(begun))
    assert (ended.status_code, ended.headers["Location"]) == (302, f"{PREFIX}job/train-1?tab=log")
    [(code, proof)] = tokens
    assert code == "the-code"
    assert ("code_challenge" in begun.headers["Location"]) == ("code_verifier" in proof)
    assert find_logins(browser) == {}
    assert browser.cookies.get("service-kbatch")


async def test_views_of_strangers_leave_nothing_in_memory(web, browser):
    for _ in range(20):
        await browser.get("")
        browser.cookies.clear()
    assert len(web.auth.hub_auth._oauth_states) == 0


async def test_what_a_login_is_to_go_on_with_is_sealed(web, browser):
    state = find_state(await browser.get("job/secret-name"))
    [cookie] = find_logins(browser).values()
    assert state not in cookie.value
    assert web.auth.keyring.unseal(cookie.value.encode())["next_url"] == f"{PREFIX}job/secret-name"


async def test_a_browser_has_few_logins_begun_and_the_newest_of_them(web, browser, monkeypatch):
    now = time.time()
    states = []
    for number in range(MAX_BEGUN + 3):
        monkeypatch.setattr("kbatch_server.web.login.time.time", lambda number=number: now + number)
        states.append(find_state(await browser.get(f"submit?tab={number}")))
    assert len(find_logins(browser)) == MAX_BEGUN
    left = {web.auth.keyring.unseal(each.value.encode())["state"] for each in find_logins(browser).values()}
    assert left == set(states[-MAX_BEGUN:])


@pytest.mark.parametrize("length", [MAX_NEXT_URL - 100, 8000])
async def test_a_cookie_is_as_small_as_browsers_want_it(browser, tokens, length):
    query = "x" * length
    begun = await browser.get(f"?search={query}")
    header = begun.headers["Set-Cookie"]
    assert len(header.partition(";")[0]) < 4096
    ended = await end(browser, find_state(begun))
    expected = f"{PREFIX}?search={query}" if length < MAX_NEXT_URL else PREFIX
    assert ended.headers["Location"] == expected


async def test_a_login_that_takes_too_long_is_to_be_begun_again(browser, tokens, monkeypatch):
    state = find_state(await browser.get(""))
    cookies = dict(browser.cookies)
    later = time.time() + LOGIN_SECONDS + 1
    monkeypatch.setattr("kbatch_server.web.login.time.time", lambda: later)
    browser.cookies.update(cookies)
    answer = await end(browser, state)
    assert (answer.status_code, tokens) == (403, [])
    assert "Open the page again." in answer.text


@pytest.mark.parametrize(
    "forgery", ["another keyring", "another purpose", "another state", "junk", "ünïcode"]
)
async def test_a_cookie_that_was_not_made_for_it_is_no_login(web, browser, tokens, forgery):
    state = find_state(await browser.get(""))
    [name] = find_logins(browser)
    value = web.auth.keyring.unseal(find_logins(browser)[name].value.encode())
    forged = {
        "another keyring": lambda: Keyring(["z" * 32]).seal(value).decode(),
        # such as an environment, which is sealed with the same keys
        "another purpose": lambda: web.auth.keyring.seal({**value, "purpose": ""}).decode(),
        "another state": lambda: web.auth.keyring.seal({**value, "state": "x"}).decode(),
        "junk": lambda: "junk",
        "ünïcode": lambda: "ünïcode",
    }[forgery]()
    browser.cookies.clear()
    answer = await browser.get(
        f"oauth_callback?state={state}&code=x", headers=[("Cookie", f"{name}={forged}".encode())]
    )
    assert (answer.status_code, tokens) == (403, [])


async def test_what_the_hub_says_against_a_login_is_shown_as_words(browser):
    answer = await browser.get("oauth_callback?error=denied&error_description=<b>No</b>")
    assert answer.status_code == 400
    assert "&lt;b&gt;No&lt;/b&gt;" in answer.text
