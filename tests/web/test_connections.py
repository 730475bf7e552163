"""Connections: strangers lock nobody out, and what is answered before a body was read says that it closes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from functools import partial

import pytest

from kbatch_server import handlers
from kbatch_server.errors import TooManyRequests, Unavailable
from kbatch_server.handlers import exchange
from kbatch_server.metrics import LIMITS_HELD
from kbatch_server.web import throttle
from kbatch_server.web.connections import FILES_FOR_OTHERS, SPARE, Connections, limit_connections
from tests.service.test_authorization import METHODS
from tests.support.tars import make_tar
from tests.support.waiting import until
from tests.support.web import PREFIX, make_job, running_web
from tests.support.zips import make_zip

ALICE = "Authorization: token alice-token"
BOB = "Authorization: token bob-token"


def make_head(method, path, *headers):
    return "\r\n".join([f"{method} {PREFIX}{path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


async def ask(web, data):
    """Send bytes on a connection of its own, and return what comes until it is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    with contextlib.closing(writer):
        writer.write(data)
        return await asyncio.wait_for(reader.read(), 10)


async def read_answer(reader):
    """Return status, headers and body of one answer, after a word that the body may be sent."""
    head = "HTTP/1.1 100"
    while head.startswith("HTTP/1.1 100"):
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode("latin-1")
    lines = head.split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    body = await asyncio.wait_for(reader.readexactly(int(headers.get("content-length", 0))), 10)
    return int(lines[0].split()[1]), headers, body


@contextlib.asynccontextmanager
async def strangers(web, count, data):
    """Open connections, one after the other, each of which sends a part of a request and no more."""
    opened = []
    try:
        for _ in range(count):
            opened.append(socket.create_connection(("127.0.0.1", web.port)))
            opened[-1].sendall(data)
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        yield opened
    finally:
        for each in opened:
            each.close()


# who has a place

FEW = {"Throttle": {"max_connections": 10, "reserved_connections": 4}}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET /services/kbatch/api/v1/jobs HTTP/1.1\r\nHost: x\r\n",
        make_head("POST", "api/v1/jobs", "Content-Length: 100") + b"{",
        make_head("POST", "api/v1/jobs", ALICE + "x", "Content-Length: 100") + b"{",
        make_head("PUT", "nothing", "Transfer-Encoding: chunked"),
        make_head("GET", "api/v1/health"),
    ],
    ids=[
        "nothing",
        "half a head",
        "half a body",
        "a bad token",
        "half of what is not there",
        "whole and idle",
    ],
)
async def test_half_sent_requests_of_strangers_lock_nobody_out(tmp_path, data):
    async with running_web(tmp_path, FEW) as web, strangers(web, 40, data):
        for _ in range(3):
            answer = await ask(web, make_head("GET", "api/v1/jobs", ALICE, "Connection: close"))
            assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_connection_that_a_user_keeps_is_not_closed_for_those_of_strangers(tmp_path):
    async with running_web(tmp_path, FEW) as web:
        kept = [await asyncio.open_connection("127.0.0.1", web.port) for _ in range(4)]
        for reader, writer in kept:
            writer.write(make_head("GET", "api/v1/jobs", ALICE))
            assert (await read_answer(reader))[0] == 200
        async with strangers(web, 40, b"GET"):
            await until(lambda: len(web.throttle.connections) == 10)
            assert web.throttle.connections.count() == {"stranger": 6, "user": 0, "kept": 4}
            for reader, writer in kept:
                writer.write(make_head("GET", "api/v1/jobs", ALICE))
                assert (await read_answer(reader))[0] == 200
        for _, writer in kept:
            writer.close()


async def test_where_users_have_all_places_the_next_is_told_to_come_again_and_they_go_on(tmp_path):
    async with running_web(tmp_path, {"Throttle": {"max_connections": 2}}) as web:
        jobs = [
            await web.add(make_job(f"train-{number}", user=user), log=[b"first\n"])
            for number, user in enumerate(("alice", "root"), 1)
        ]
        before = LIMITS_HELD.labels("max_connections")._value.get()
        following = []
        for number, token in enumerate(("alice-token", "admin-token"), 1):
            reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
            following.append((reader, writer))
            path = f"api/v1/jobs/train-{number}/logs?follow=true"
            writer.write(make_head("GET", path, f"Authorization: token {token}"))
            assert b"200" in await asyncio.wait_for(reader.readuntil(b"first\n"), 5)
        answer = await ask(web, make_head("GET", "api/v1/jobs", BOB, "Connection: close"))
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"Retry-After: 5" in answer
        assert LIMITS_HELD.labels("max_connections")._value.get() == before + 1
        for headers in ([], [BOB]):
            answer = await ask(web, make_head("GET", "api/v1/health", "Connection: close", *headers))
            assert answer.startswith(b"HTTP/1.1 200")
        for job in jobs:
            await web.write_log(job, b"last\n")
            await web.finish(job)
        for reader, writer in following:
            rest = await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 5)
            assert b"last\n" in rest
            writer.close()


async def stays(condition):
    """Whether something holds for a tenth of a second."""
    for _ in range(10):
        if not condition():
            return False
        await asyncio.sleep(0.01)
    return True


async def test_the_links_of_one_users_jobs_leave_places_for_others_however_many_read_nothing(
    tmp_path, monkeypatch
):
    async def read(*_, **__):
        await asyncio.Event().wait()
        yield

    monkeypatch.setattr(throttle, "SEND_WAIT_SECONDS", 600)
    settings = {"Throttle": {"max_connections": 200, "reserved_connections": 40}}
    async with running_web(tmp_path, settings) as web:
        job = await web.add_with_code(make_zip())
        fetch = make_head("GET", await web.sign_code(job))
        half = make_head("POST", web.sign_outputs(job), "Content-Length: 4") + b"ta"
        monkeypatch.setattr(web.storage, "read", read)
        async with strangers(web, 150, fetch), strangers(web, 150, half):
            # 8 fetch, 8 wait; 4 send, 8 wait
            # as soon as the others of the strangers were told so
            await until(partial(stays, lambda: web.throttle.connections.count()["user"] == 28))
            for head in (
                make_head("GET", "api/v1/health", "Connection: close"),
                make_head("GET", "api/v1/jobs", ALICE, "Connection: close"),
                make_head("GET", "api/v1/jobs", BOB, "Connection: close"),
            ):
                assert (await ask(web, head)).startswith(b"HTTP/1.1 200")
            answer = await ask(web, make_head("GET", await web.sign_code(job), "Connection: close"))
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"Retry-After: 10" in answer


async def test_a_user_has_a_part_of_the_connections_and_the_next_request_is_told_so(tmp_path):
    async with running_web(tmp_path, {"Throttle": {"max_connections": 8}}) as web:
        await web.add(log=[b"first\n"])
        follow = make_head("GET", "api/v1/jobs/train-1/logs?follow=true", ALICE)
        async with strangers(web, 2, follow):
            await until(lambda: web.throttle.connections.count()["user"] == 2)
            before = LIMITS_HELD.labels("max_connections_per_user")._value.get()
            answer = await ask(web, make_head("GET", "api/v1/jobs", ALICE, "Connection: close"))
            assert answer.startswith(b"HTTP/1.1 429")
            assert LIMITS_HELD.labels("max_connections_per_user")._value.get() == before + 1
            for path, header in [("jobs", BOB), ("health", "X: y"), ("health", ALICE)]:
                answer = await ask(web, make_head("GET", f"api/v1/{path}", header, "Connection: close"))
                assert answer.startswith(b"HTTP/1.1 200")
        await until(lambda: not web.throttle.connections.count()["user"])
        async with web.client() as alice:
            assert (await alice.get("api/v1/jobs")).status_code == 200


async def test_strangers_end_no_jobs_request_once_its_link_was_found_good(tmp_path):
    code, tar = make_zip(), make_tar({"a.txt": b"a" * 100_000})
    async with running_web(tmp_path, {"Throttle": FEW["Throttle"] | {"concurrent_fetches": 1}}) as web:
        job = await web.add_with_code(code)
        throttle = web.throttle
        sender, fetcher = [await asyncio.open_connection("127.0.0.1", web.port) for _ in range(2)]
        head = make_head("POST", web.sign_outputs(job), f"Content-Length: {len(tar)}")
        sender[1].write(head + tar[:70_000])
        await until(lambda: any(key.startswith("outputs/") for key in web.storage.written))
        async with throttle.fetch("bob"):
            fetcher[1].write(make_head("GET", await web.sign_code(job)))
            await until(lambda: throttle._fetches._waiting)
            half = make_head("POST", "outputs/forged", "Content-Length: 4") + b"ta"
            async with strangers(web, 40, half):
                await until(lambda: len(throttle.connections) == 8)
                count = throttle.connections.count()
                assert (count["user"], count["stranger"]) == (2, 6)
        sender[1].write(tar[70_000:])
        for (reader, writer), answer in [(fetcher, code), (sender, b'"state": "kept"')]:
            status, _, body = await read_answer(reader)
            assert status == 200
            assert answer in body
            writer.close()


def test_a_body_is_taken_only_from_users_and_from_who_shows_a_link():
    """Who may send one is known, as far as connections are concerned."""
    methods = [
        (handler, declared)
        for module in handlers.MODULES
        for _, handler in module.default_handlers
        for declared in (getattr(getattr(handler, name), "needs", None) for name in METHODS)
        if declared is not None and declared.body
    ]
    assert len(methods) > 5
    for handler, declared in methods:
        assert declared.user or (declared.whose == "link" and "_identify" in vars(handler)), handler


def test_the_one_that_was_a_strangers_for_longest_has_to_go():
    closed = []

    class Stream:
        def close(self):
            closed.append(self)

    connections = Connections(most=4, reserved=2)
    first, second, third, user = (Stream() for _ in range(4))
    for each in (user, first):
        connections.add(each)
    connections.know(user, "alice")
    connections.end(user)
    connections.add(second)
    connections.begin(first)  # it asks for something: now the second has been silent for longer
    connections.add(third)
    assert closed == [second]
    assert connections.count() == {"stranger": 2, "user": 0, "kept": 1}
    connections.remove(user)
    connections.remove(second)
    assert len(connections) == 2


def test_where_users_have_all_places_some_more_are_for_strangers_who_have_to_go_in_turn():
    closed, streams = [], []

    class Stream:
        def close(self):
            closed.append(self)

    connections = Connections(most=8, reserved=4, per_user=5)
    for number in range(8 + 2 * SPARE):
        streams.append(Stream())
        connections.add(streams[-1])
        if number < 8:
            connections.know(streams[-1], f"user-{number // 2}")
    assert connections.count()["user"] == 8
    assert len(connections) <= 8 + SPARE
    assert not set(streams[:8]) & set(closed)
    with pytest.raises(Unavailable):
        connections.know(streams[-1], "somebody else")
    with pytest.raises(TooManyRequests):
        connections.know(streams[-1], "user-0")
    connections.know(streams[0], "user-0")  # again: it has its place
    connections.end(streams[0])
    connections.know(streams[-1], "user-0")
    for each in streams:
        connections.remove(each)
    assert not len(connections)
    assert not connections._count_by_user


@pytest.mark.parametrize(
    ("files", "most"), [(65536, 5000), (5000 + FILES_FOR_OTHERS, 5000), (1024, 768), (10, 1)]
)
def test_there_are_no_more_connections_than_the_process_may_have_files(files, most):
    said = []
    assert limit_connections(5000, files, lambda *words: said.append(words[0] % words[1:])) == most
    assert bool(said) == (most < 5000)


# what is answered before its body was read

REFUSALS = {
    "unknown method": (make_head("PROPFIND", "api/v1/health"), 405),
    "method that is an attribute": (make_head("FINISH", "api/v1/health"), 405),
    "method that is not there": (make_head("PUT", "api/v1/health"), 405),
    "no such URL": (make_head("GET", "nothing"), 404),
    "no such URL, unknown method": (make_head("QUERY", "nothing"), 404),
    "no token": (make_head("GET", "api/v1/jobs"), 401),
    "a bad token": (make_head("GET", "api/v1/jobs", ALICE + "x"), 401),
    "a bad query": (make_head("GET", "api/v1/jobs?x=1", ALICE), 400),
    "a bad path": (make_head("GET", "api/v1/jobs/%ff", ALICE), 400),
    "a bad header": (make_head("GET", "api/v1/jobs/train-1/logs?follow=1", ALICE, "Last-Event-ID: x"), 400),
    "no login": (make_head("GET", "", "Accept: text/html"), 302),
    "a login that nobody began": (
        make_head("GET", "oauth_callback?state=x&code=y", "Accept: text/html"),
        403,
    ),
}
"""Requests without a body, and what they are answered with."""


@pytest.mark.parametrize(("data", "status"), REFUSALS.values(), ids=REFUSALS)
async def test_after_a_refusal_without_a_body_the_connection_is_kept(web, data, status):
    await web.add()
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    with contextlib.closing(writer):
        for _ in range(2):
            writer.write(data)
            answer = await read_answer(reader)
            assert (answer[0], answer[1].get("connection")) == (status, None)
            writer.write(make_head("GET", "api/v1/jobs", ALICE))
            assert (await read_answer(reader))[0] == 200


CLOSING = {
    "too large": (make_head("POST", "api/v1/jobs", ALICE, "Content-Length: 99999999"), 413),
    "not one length": (make_head("POST", "api/v1/jobs", ALICE, "Content-Length: 5, 5"), 400),
    **{
        f"{name}, with a body": (
            data.replace(b"Host: x", b"Host: x\r\nContent-Length: 5"),
            # a method that would be called takes none
            400 if "login" in name or name == "a bad header" else status,
        )
        for name, (data, status) in REFUSALS.items()
    },
}
"""Requests with a body, and what they are answered with."""


@pytest.mark.parametrize("expect", [False, True], ids=["at once", "when told to"])
@pytest.mark.parametrize("body", [b"", b"hello", "chunked"])
@pytest.mark.parametrize(("data", "status"), CLOSING.values(), ids=CLOSING)
async def test_a_refusal_before_a_body_says_that_the_connection_closes_and_it_does(
    web, monkeypatch, data, status, body, expect
):
    monkeypatch.setattr(exchange, "LINGER_SECONDS", 0.1)
    await web.add()
    if body == "chunked":
        data = data.replace(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n")
        body = b"5\r\nhello\r\n0\r\n\r\n"
    if expect:
        data = data.replace(b"Host: x", b"Host: x\r\nExpect: 100-Continue")
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    with contextlib.closing(writer):
        writer.write(data + body)
        answer = await read_answer(reader)
        assert (answer[0], answer[1].get("connection")) == (status, "close")
        # Tornado's last word, where the end of the body cannot be found
        assert await asyncio.wait_for(reader.read(), 5) in {b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"}


@pytest.mark.parametrize("length", [[], ["Content-Length: 0"]])
@pytest.mark.parametrize(("method", "status"), [("DELETE", 204), ("OPTIONS", 405)])
async def test_after_a_method_whose_body_the_proxy_hides_the_connection_closes(web, method, status, length):
    await web.add()
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    with contextlib.closing(writer):
        writer.write(make_head(method, "api/v1/jobs/train-1", ALICE, *length))
        answer = await read_answer(reader)
        assert (answer[0], answer[1].get("connection")) == (status, "close")
        assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_an_empty_body_in_chunks_is_no_body(web):
    """As the hub's proxy sends a POST of whoever gave no length."""
    await web.add()
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    with contextlib.closing(writer):
        for _ in range(2):
            head = make_head("POST", "api/v1/jobs/train-1/rerun", ALICE, "Transfer-Encoding: chunked")
            writer.write(head + b"0\r\n\r\n")
            assert (await read_answer(reader))[0] == 201


async def test_a_method_that_takes_no_body_says_so(web, api):
    for method, path in [
        ("GET", "api/v1/jobs"),
        ("DELETE", "api/v1/jobs/train-1"),
        ("GET", "api/v1/version"),
    ]:
        answer = await api.request(method, path, content=b"{}")
        assert (answer.status_code, answer.json()["message"]) == (
            400,
            "body: is not supported: do not send it",
        )


async def test_a_refused_client_that_sends_no_end_is_read_a_part_only(web, monkeypatch):
    monkeypatch.setattr(exchange, "LINGER_SECONDS", 0.5)
    monkeypatch.setattr(exchange, "LINGER_BYTES", 2**20)
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(make_head("POST", "api/v1/jobs", "Content-Length: 9999999999"))
    assert (await read_answer(reader))[0] == 401
    sent = 0
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(b"x" * 65536)
            await asyncio.wait_for(writer.drain(), 5)
            sent += 65536
    writer.close()
    assert sent < 64 * 2**20  # what the kernels hold on the way, and our part


async def test_what_was_refused_is_in_the_access_log_also_when_the_client_never_ends(
    web, monkeypatch, caplog
):
    monkeypatch.setattr(exchange, "LINGER_SECONDS", 0.1)
    with caplog.at_level("INFO", "tornado.access"):
        await ask(web, make_head("POST", "api/v1/jobs", "Content-Length: 5"))
        await ask(web, make_head("PROPFIND", "api/v1/jobs", "Connection: close"))
    said = [record.getMessage().split(" (")[0] for record in caplog.records]
    assert said == [f"401 POST {PREFIX}api/v1/jobs", f"405 PROPFIND {PREFIX}api/v1/jobs"]


# bodies


async def test_a_body_that_comes_too_slowly_is_refused(tmp_path):
    async with running_web(tmp_path, {"Throttle": {"body_seconds": 0.2}}) as web:
        reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
        with contextlib.closing(writer):
            writer.write(make_head("POST", "api/v1/jobs", ALICE, "Content-Length: 1000"))
            answering = asyncio.create_task(read_answer(reader))
            while not answering.done():
                writer.write(b"x")
                await asyncio.sleep(0.02)
            status, headers, body = answering.result()
            assert (status, headers["connection"]) == (408, "close")
            assert json.loads(body)["reason"] == "RequestTimeout"


async def test_a_large_body_has_more_time(tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "BODY_BYTES_PER_SECOND", 1000)
    async with running_web(tmp_path, {"Throttle": {"body_seconds": 0.1}}) as web:
        reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
        with contextlib.closing(writer):
            body = b'{"name": "train", "command": ["true"], "description": "' + b"x" * 1200 + b'"}'
            writer.write(
                make_head("POST", "api/v1/jobs", ALICE, f"Content-Length: {len(body)}") + body[:1200]
            )
            await asyncio.sleep(0.3)
            writer.write(body[1200:])
            assert (await read_answer(reader))[0] == 201


async def test_all_bodies_together_have_a_budget_and_each_user_a_part_of_it(tmp_path):
    limits = {"max_body_bytes_in_memory": 2**20, "max_body_bytes_in_memory_per_user": 2**20}
    async with running_web(tmp_path, {"Throttle": limits}) as web:
        half = make_head("POST", "api/v1/jobs", ALICE, "Content-Length: 1000000") + b"x" * 900_000
        async with strangers(web, 1, half):
            await until(lambda: web.throttle._bodies.held == 900_000)
            work = {"name": "train", "command": ["true"], "description": "x" * 200_000}
            async with web.client() as alice, web.client("bob-token") as bob:
                own, other = [await each.post("api/v1/jobs", json=work) for each in (alice, bob)]
                assert (own.status_code, own.headers["Retry-After"]) == (429, "10")
                assert (other.status_code, other.headers["Retry-After"]) == (503, "10")
                small = await bob.post("api/v1/jobs", json={"name": "train", "command": ["true"]})
                assert small.status_code == 201
        await until(lambda: not web.throttle._bodies.held)
