"""What a stranger's refused request costs others, through the real hub's proxy: nothing.

The proxy keeps connections to the service and sends requests of anybody on them: one that the service closes
without a word fails the next request on it, whose ever that is. What is refused is made from the routes, so
that a new one cannot be missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from dataclasses import dataclass

import httpx
import pytest

from kbatch_server import handlers
from tests.service.test_authorization import METHODS, PAGES
from tests.support.web import PREFIX, running_web_of
from tests.web.test_connections import ALICE, make_head

ALL_METHODS = (*METHODS, "options")

UNKNOWN_METHODS = ("PROPFIND", "QUERY")
"""One that the proxy's HTTP library has known for long, and one that newer ones know."""

ROUTES = [
    (pattern, handler)
    for module in handlers.MODULES
    for pattern, handler in module.default_handlers
    if not (pattern.startswith("oauth_callback"))
]
"""All but the one whose refusals end a login."""


@dataclass(frozen=True)
class Refusal:
    """A request that is refused before its body was read: the lines of its head, and what it is answered."""

    method: str
    path: str
    headers: tuple[str, ...]
    status: int

    def make(self, kind: str) -> bytes:
        """Return its bytes, with a body of a kind."""
        lines, body = BODIES[kind]
        return make_head(self.method, self.path, *self.headers, *lines) + body


BODIES = {
    "whole": (("Content-Length: 5",), b"hello"),
    "half": (("Content-Length: 5",), b"hel"),
    "in chunks": (("Transfer-Encoding: chunked",), b"5\r\nhello\r\n0\r\n\r\n"),
    "when told to": (("Content-Length: 5", "Expect: 100-continue"), b"hello"),
    "in chunks, when told to": (
        ("Transfer-Encoding: chunked", "Expect: 100-continue"),
        b"5\r\nhello\r\n0\r\n\r\n",
    ),
    "upgrade": (("Connection: Upgrade", "Upgrade: websocket"), b""),
    "too large": (("Content-Length: 99999999",), b"hello"),
    "none": ((), b""),
}


def make_path(pattern: str) -> str:
    """Return a path of a route."""
    signed = pattern.startswith(("code/", "outputs/"))
    path = pattern.replace("([^/]+)", "good" if signed else "train-1").replace("(.+)", "a.txt")
    return path.removesuffix("(?:/.*)?").removesuffix("/?").replace("\\", "")


def list_declared(handler):
    return {name.upper(): getattr(getattr(handler, name), "needs", None) for name in ALL_METHODS}


def find_missing_methods():
    """Yield a request for each route and each method that it does not have."""
    for pattern, handler in ROUTES:
        for method, needs in list_declared(handler).items():
            if needs is None:
                yield Refusal(method, make_path(pattern), (), 405)
        for method in UNKNOWN_METHODS:
            yield Refusal(method, make_path(pattern), (), 405)
    for method in (*map(str.upper, ALL_METHODS), *UNKNOWN_METHODS):
        yield Refusal(method, "nothing", (), 404)


def find_methods():
    """Yield each route and each method that it has, with what it needs."""
    for pattern, handler in ROUTES:
        for method, needs in list_declared(handler).items():
            if needs is not None:
                yield pattern, method, needs


def find_bodies_of_strangers():
    """Yield what needs a user, from nobody and from somebody whose token the hub does not know."""
    for pattern, method, needs in find_methods():
        if needs.user:
            yield Refusal(method, make_path(pattern), (), 302 if pattern in PAGES else 401)
            yield Refusal(method, make_path(pattern), (ALICE + "x",), 401)


def find_bodies_that_are_not_taken():
    """Yield what takes no body, of a user."""
    for pattern, method, needs in find_methods():
        if not needs.body and needs.action not in {"admin", "metrics"}:
            yield Refusal(method, make_path(pattern), (ALICE,), 400)


def find_bodies_that_are_too_large():
    """Yield what takes a body."""
    for pattern, method, needs in find_methods():
        if needs.body:
            yield Refusal(method, make_path(pattern), (ALICE, "Content-Type: application/zip"), 413)


def find_uploads_of_a_wrong_type():
    for pattern, method, needs in find_methods():
        if needs.spends == "upload":
            yield Refusal(method, make_path(pattern), (ALICE, "Content-Type: text/plain"), 400)


WITH_BODY = ("whole", "half", "in chunks", "when told to", "in chunks, when told to")
WITHOUT_BODY = ("none", "upgrade")
KINDS = {
    "a method that the URL does not have": (find_missing_methods, WITH_BODY),
    "the same without a body": (find_missing_methods, WITHOUT_BODY),
    "a body of nobody who is known": (find_bodies_of_strangers, WITH_BODY),
    "a body that is not taken": (find_bodies_that_are_not_taken, WITH_BODY),
    "a body that is too large": (find_bodies_that_are_too_large, ("too large",)),
    "a body of a wrong type": (find_uploads_of_a_wrong_type, WITH_BODY),
}
"""What is refused, and the bodies that it has in turn."""


@pytest.fixture
async def proxied(hub, tmp_path):
    """The service behind the real hub and proxy, at ``hub.kbatch_url``, and a token of Alice's."""
    settings = {"Uploads": {"max_upload_bytes": 4 * 1024**2}, "Outputs": {"max_output_bytes": "1M"}}
    async with running_web_of(hub, tmp_path, settings) as running:
        running.signed = running.sign_outputs(await running.add())
        running.token = hub.make_token("alice")
        yield running


async def send(hub, proxied, data):
    """Send the bytes of a request and return the status of the answer; none where it is cut off."""
    url = httpx.URL(hub.kbatch_url)
    for shown, real in [
        (PREFIX, url.path),
        ("alice-token", proxied.token),
        ("/outputs/good ", f"/{proxied.signed} "),
    ]:
        data = data.replace(shown.encode(), real.encode())
    reader, writer = await asyncio.open_connection(url.host, url.port)
    line = b""
    with contextlib.closing(writer), contextlib.suppress(ConnectionError):
        writer.write(data)
        while not line or line.startswith((b"HTTP/1.1 100", b"\r\n")):
            line = await asyncio.wait_for(reader.readline(), 10)
            if not line:
                break
    return int(line.split()[1]) if line else None


async def refuse_and_ask(hub, proxied, refused):
    """Send each of some requests, and after each ask for something as a user, on two connections."""
    answers, wrong = Counter(), []
    left = iter(refused)

    async def work(user):
        for refusal, data in left:
            status = await send(hub, proxied, data)
            # of an upgrade that is refused, the proxy says nothing; of a DELETE, it hides that it has a body
            hidden = b"Upgrade" in data or (
                refusal.status == 400 and refusal.method == "DELETE" and b"chunked" in data
            )
            if status != refusal.status and not hidden:
                wrong.append((refusal, data, status))
            answers[(await user.get(f"{hub.kbatch_url}api/v1/user")).status_code] += 1

    async with httpx.AsyncClient(headers={"Authorization": f"token {proxied.token}"}, timeout=20) as user:
        await asyncio.gather(work(user), work(user))
    return answers, wrong


@pytest.mark.parametrize(("find", "bodies"), KINDS.values(), ids=KINDS)
async def test_a_refused_request_fails_no_request_of_others(hub, proxied, find, bodies):
    # the bodies in turn, so that each route and each method has several of them
    refused = [
        (refusal, refusal.make(body)) for refusal, body in zip(find(), itertools.cycle(bodies), strict=False)
    ]
    answers, wrong = await refuse_and_ask(hub, proxied, refused)
    assert answers == {200: len(refused)}
    assert not wrong


@pytest.mark.parametrize("method", ["DELETE", "OPTIONS"])
async def test_a_body_that_the_proxy_hides_is_not_the_beginning_of_anybody_elses_request(
    hub, proxied, method
):
    """Else the token of whoever comes next on the proxy's connection would be in the stranger's job."""
    path = httpx.URL(hub.kbatch_url).path
    token = ALICE.replace("alice-token", proxied.token)
    lines = [f"POST {path}api/v1/jobs HTTP/1.1", "Host: x", token, "Content-Length: 900", "", '{"name": "']
    hidden = "\r\n".join(lines).encode()
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(hidden), hidden)
    data = make_head(method, "api/v1/jobs/none", ALICE, "Transfer-Encoding: chunked") + chunks
    refused = [(Refusal(method, "", (), 404 if method == "DELETE" else 405), data)] * 20
    answers, wrong = await refuse_and_ask(hub, proxied, refused)
    assert answers == {200: 20}
    assert not wrong
    assert sum((await proxied.store.jobs.count(None)).values()) == 1  # that of the fixture


async def test_a_refusal_is_read_through_the_proxy(hub, proxied):
    answers = []
    async with httpx.AsyncClient() as stranger:
        for method, path, content in [
            ("PROPFIND", "api/v1/health", b"hello"),
            ("POST", "api/v1/jobs", b"x" * 100_000),
            ("POST", "nothing", b""),
            ("GET", "api/v1/health", b"hello"),
        ]:
            answer = await stranger.request(method, hub.kbatch_url + path, content=content)
            answers.append((answer.status_code, answer.json()["reason"]))
    assert answers == [
        (405, "MethodNotAllowed"),
        (401, "Unauthorized"),
        (404, "NotFound"),
        (400, "Invalid"),
    ]
