"""A stop of the service, as clients see it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from tornado.web import Application, RequestHandler

from kbatch_server.web import server as webserver
from kbatch_server.web.inflight import InflightRequests
from kbatch_server.web.server import WebServer
from kbatch_server.web.throttle import Throttle

pytestmark = pytest.mark.timeout(120)
"""What would be waited for in vain is a thousand seconds away."""


class SlowHandler(RequestHandler):
    """Answers when it is told to."""

    is_stream = False

    def prepare(self) -> None:
        self.settings["inflight"].begin(self)

    def on_finish(self) -> None:
        self.settings["inflight"].end(self)

    async def give_up(self) -> None:
        """It goes on."""

    async def get(self) -> None:
        self.write("begun ")
        await self.flush()
        self.settings["begun"].set()
        await self.settings["go_on"].wait()
        self.write("ended")

    async def post(self) -> None:
        self.write(f"{len(self.request.body)} bytes")


class Running:
    """A server, its URL, and the two events of its handler."""

    def __init__(self, shutdown_seconds: int = 1000) -> None:
        self.begun, self.go_on, inflight = asyncio.Event(), asyncio.Event(), InflightRequests()
        self.server = WebServer(
            application=Application(
                [("/", SlowHandler)], begun=self.begun, go_on=self.go_on, inflight=inflight
            ),
            shutdown_seconds=shutdown_seconds,
            throttle=Throttle(),
            inflight=inflight,
        )
        self.url = self.server.bind("http://127.0.0.1:0")
        self.server.start()


@pytest_asyncio.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=20) as client:
        yield client


async def test_an_answer_that_has_begun_comes_whole_and_nobody_new_is_let_in(client):
    running = Running()
    answer = asyncio.create_task(client.get(running.url))
    await running.begun.wait()
    stopping = asyncio.create_task(running.server.stop())
    await asyncio.sleep(0)
    async with httpx.AsyncClient() as other:
        with pytest.raises(httpx.ConnectError):
            await other.get(running.url)
    assert not stopping.done()
    running.go_on.set()
    assert (await answer).text == "begun ended"
    await asyncio.wait_for(stopping, 5)


async def test_a_connection_that_is_kept_but_idle_is_waited_for_no_longer_than_a_moment(client):
    running = Running()
    assert (await client.post(running.url, content=b"four")).text == "4 bytes"
    start = time.monotonic()
    await running.server.stop()  # not for as long as an idle connection, or a request, may last
    assert time.monotonic() - start > 0.9


async def test_a_request_that_comes_on_a_kept_connection_meanwhile_is_answered_as_its_last(
    client, monkeypatch
):
    """As the hub's proxy sends them, which keeps its connections."""
    monkeypatch.setattr(webserver, "IDLE_SECONDS", 1000)
    running = Running()
    assert "connection" not in (await client.post(running.url, content=b"four")).headers
    stopping = asyncio.create_task(running.server.stop())
    await asyncio.sleep(0)
    answer = await client.post(running.url, content=b"more!")
    assert (answer.text, answer.headers["Connection"]) == ("5 bytes", "close")
    await stopping  # nothing is left to wait for


async def test_a_request_that_does_not_end_is_waited_for_no_longer_than_was_set(client, caplog):
    running = Running(shutdown_seconds=1)
    answer = asyncio.create_task(client.get(running.url))
    await running.begun.wait()
    start = time.monotonic()
    await running.server.stop()
    assert time.monotonic() - start > 0.9
    assert "1 requests did not finish within 1 s" in caplog.text
    with pytest.raises(httpx.RemoteProtocolError):
        await answer
