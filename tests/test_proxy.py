"""What a stranger's refused request costs others, through the real hub's proxy: nothing.

The proxy keeps connections to the service and sends requests of anybody on them: one that the service closes
without a word fails the next request on it, whose ever that is.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter

import httpx
import pytest
from test_connections import CLOSING, REFUSALS
from web_doubles import PREFIX, RealHub, Web, make_job

REQUESTS = 150
"""Of each of two users' connections: where one kind of refusal closes without a word, some of them fail."""


@pytest.fixture
async def proxied(hub):
    """The handlers behind the real hub and proxy, at ``hub.kbatch_url``, and a token of Alice's."""
    running = Web(RealHub(hub), url=hub.service_url)
    running.auth.hub_auth.api_token = hub.service_token
    running.jobs.add(make_job())
    running.token = hub.make_token("alice")
    yield running
    await running.stop()


def in_chunks(data: bytes) -> bytes:
    return data.replace(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n")


def when_told_to(data: bytes) -> bytes:
    return data.replace(b"Host: x", b"Host: x\r\nExpect: 100-continue")


BODY, CHUNKED = b"hello", b"5\r\nhello\r\n0\r\n\r\n"

KINDS = {
    "without a body": [data for data, _ in REFUSALS.values()],
    "with a body": [data + BODY for data, _ in CLOSING.values()],
    "with half a body": [data + b"hel" for data, _ in CLOSING.values()],
    "in chunks": [in_chunks(data) + CHUNKED for data, _ in CLOSING.values()],
    "when told to": [when_told_to(data) + BODY for data, _ in CLOSING.values()],
    "in chunks, when told to": [when_told_to(in_chunks(data)) + CHUNKED for data, _ in CLOSING.values()],
}


@pytest.mark.parametrize("refused", KINDS.values(), ids=KINDS)
async def test_a_refused_request_fails_no_request_of_others(hub, proxied, refused):
    url = httpx.URL(hub.kbatch_url)
    answers, ended = Counter(), asyncio.Event()

    async def refuse():
        for data in itertools.cycle(refused):
            if ended.is_set():
                return
            data = data.replace(PREFIX.encode(), url.path.encode())
            data = data.replace(b"alice-token", proxied.token.encode())
            reader, writer = await asyncio.open_connection(url.host, url.port)
            with contextlib.closing(writer), contextlib.suppress(ConnectionError, TimeoutError):
                writer.write(data)
                await asyncio.wait_for(reader.readline(), 0.5)

    async def ask():
        async with httpx.AsyncClient(headers={"Authorization": f"token {proxied.token}"}, timeout=20) as user:
            for _ in range(REQUESTS):
                answers[(await user.get(f"{hub.kbatch_url}api/v1/jobs")).status_code] += 1

    refusing = [asyncio.create_task(refuse()) for _ in range(2)]
    try:
        await asyncio.gather(ask(), ask())
    finally:
        ended.set()
        await asyncio.gather(*refusing)
    assert answers == {200: 2 * REQUESTS}


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
