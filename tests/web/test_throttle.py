"""Limits of rates, concurrency and connections: what one client may take, with real sockets."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import pytest
from tornado.iostream import IOStream
from tornado.web import Application, RequestHandler

from kbatch_server.errors import Unavailable
from kbatch_server.handlers import exchange
from kbatch_server.metrics import LIMITS_HELD
from kbatch_server.ratelimit import MAX_KEPT, FairLimit, RateLimit
from kbatch_server.web import throttle
from kbatch_server.web.inflight import InflightRequests
from kbatch_server.web.server import WebServer
from kbatch_server.web.throttle import Throttle
from tests.support.tars import make_tar
from tests.support.waiting import until
from tests.support.web import PREFIX, ask_and_read_nothing, make_job, running_web
from tests.support.zips import make_zip

WORK = {"name": "train", "command": ["python", "main.py"]}
KBATCH_WORK = {
    "job": {
        "metadata": {"generate_name": "train-"},
        "spec": {"template": {"spec": {"containers": [{"name": "job", "image": "python:3"}]}}},
    }
}


class ClockedRateLimit(RateLimit):
    now = 1000.0

    def time(self) -> float:
        return self.now


def test_a_burst_may_come_at_once_and_then_one_at_a_time():
    rates = ClockedRateLimit(per_second=0.5, burst=3)
    assert [rates.take("alice") for _ in range(4)] == [0, 0, 0, 2]
    assert rates.take("bob") == 0
    rates.now += 2
    assert [rates.take("alice") for _ in range(2)] == [0, 2]
    rates.now += 3600
    assert [rates.take("alice") for _ in range(4)] == [0, 0, 0, 2]


def test_rates_of_many_fill_no_memory():
    rates = ClockedRateLimit(per_second=1, burst=1)
    for number in range(MAX_KEPT + 10):
        rates.take(str(number))
    assert len(rates._buckets) == MAX_KEPT


def test_without_a_rate_nothing_is_counted():
    rates = RateLimit(per_second=0, burst=1)
    assert [rates.take("alice") for _ in range(100)] == [0] * 100
    assert not rates._buckets


@pytest.mark.parametrize(
    ("path", "body"), [("api/v1/jobs", WORK), ("jobs/", WORK), ("jobs/", KBATCH_WORK), ("rerun", None)]
)
async def test_who_submits_too_often_is_told_when_to_go_on_on_every_wire(tmp_path, path, body):
    settings = {"Throttle": {"submits_per_minute": 2, "submit_burst": 1}}
    async with running_web(tmp_path, settings) as web:
        await web.add()
        path = "api/v1/jobs/train-1/rerun" if path == "rerun" else path
        async with web.client() as client, web.client("bob-token") as bob:
            first, second = [await client.post(path, json=body) for _ in range(2)]
            assert first.is_success
            assert (second.status_code, second.json()["reason"]) == (429, "RateLimited")
            assert 25 <= int(second.headers["Retry-After"]) <= 30
            if path == "jobs/":
                assert "too often" in second.json()["detail"]
            assert (await bob.post("api/v1/jobs", json=WORK)).status_code == 201
            assert (await client.get("api/v1/jobs")).status_code == 200


@pytest.mark.parametrize("path", ["api/v1/uploads", "uploads/"])
async def test_uploads_have_a_rate_of_their_own(tmp_path, path):
    settings = {"Throttle": {"uploads_per_minute": 1, "upload_burst": 1}}
    async with running_web(tmp_path, settings) as web, web.client() as client:
        answers = [await client.post(path, files={"file": ("c.zip", make_zip())}) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [201, 429]
        assert "Retry-After" in answers[1].headers
        assert (await client.post("api/v1/jobs", json=WORK)).status_code == 201


@pytest.mark.parametrize("path", ["api/v1/jobs/{}/logs?follow=true", "pods/logs/{}?stream=true"])
async def test_of_streams_a_user_has_so_many_and_all_together_so_many(tmp_path, path):
    settings = {"Throttle": {"concurrent_streams_per_user": 1, "concurrent_streams": 2}}
    async with running_web(tmp_path, settings) as web:
        for user in ("alice", "bob", "root"):
            await web.add(make_job(f"{user}-1", user=user), log=[b"x\n"])
        of_alice, of_bob, of_root = [path.format(f"{user}-1") for user in ("alice", "bob", "root")]
        async with web.client() as alice, web.client("bob-token") as bob, web.client("admin-token") as root:
            async with alice.stream("GET", of_alice) as followed:
                assert followed.status_code == 200
                refused = await alice.get(of_alice)
                assert (refused.status_code, refused.headers["Retry-After"]) == (429, "10")
                assert "You already have 1 log streams" in refused.json()["message"]
                async with bob.stream("GET", of_bob) as followed:
                    assert followed.status_code == 200
                    assert (await root.get(of_root)).status_code == 503
                    assert (await root.get("api/v1/jobs/root-1/logs")).status_code == 200
            # the place is free when the client has gone
            for _ in range(100):
                async with alice.stream("GET", of_alice) as followed:
                    if followed.status_code == 200:
                        break
                await asyncio.sleep(0.02)
            assert followed.status_code == 200


async def test_requests_of_a_user_at_a_time_are_limited_and_health_is_not(tmp_path, monkeypatch):
    async with running_web(tmp_path, {"Throttle": {"concurrent_requests_per_user": 1}}) as web:
        go_on = asyncio.Event()
        submit = web.jobs.submit

        async def slow_submit(*args, **kwargs):
            await go_on.wait()
            return await submit(*args, **kwargs)

        monkeypatch.setattr(web.jobs, "submit", slow_submit)
        async with web.client() as client, web.client("bob-token") as bob:
            first = asyncio.create_task(client.post("api/v1/jobs", json=WORK))
            await until(lambda: web.throttle._requests._taken)
            assert (await client.get("api/v1/jobs")).status_code == 429
            assert (await bob.get("api/v1/jobs")).status_code == 200
            for path in ("version", "health"):
                answer = await client.get(f"api/v1/{path}", headers={"Authorization": ""})
                assert answer.status_code == 200
            go_on.set()
            assert (await first).status_code == 201
            assert (await client.get("api/v1/jobs")).status_code == 200
            assert not web.throttle._requests._taken


async def test_a_client_that_reads_nothing_is_let_go_of(web, monkeypatch):
    monkeypatch.setattr(exchange, "WRITE_SECONDS", 0.3)
    size = 48 * 2**20  # more than the kernels on both sides take
    await web.add(log=[b"x" * size])
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port, limit=1024)
    path = f"{PREFIX}api/v1/jobs/train-1/logs"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: token alice-token\r\n\r\n".encode())
    await until(lambda: web.throttle._downloads._taken)
    await until(lambda: not web.inflight._open)
    assert not web.throttle._downloads._taken
    received = 0
    with contextlib.suppress(ConnectionResetError):
        while piece := await asyncio.wait_for(reader.read(65536), 10):
            received += len(piece)
    assert received < size
    writer.close()


LONG_LIST = "api/v1/jobs?limit=500"


async def add_long(web, *users, count=40):
    """Put jobs on record of which a page is longer than what a kernel takes."""
    jobs = [
        make_job(f"{user}-{number}", user=user, message="\n" * 2**17)
        for user in users
        for number in range(count)
    ]
    await asyncio.gather(*map(web.add, jobs))


async def test_lists_that_are_not_read_fill_no_memory(tmp_path, monkeypatch):
    settings = {"Throttle": {"max_unread_bytes": 2**20, "max_unread_bytes_per_user": 2**20}}
    async with (
        running_web(tmp_path, settings) as web,
        web.client() as alice,
        web.client("bob-token") as bob,
    ):
        limits = web.throttle
        assert (await alice.post("api/v1/jobs", json=WORK)).status_code == 201
        await add_long(web, "alice", "bob")
        held = LIMITS_HELD.labels("max_unread_bytes_per_user")._value.get()
        first = ask_and_read_nothing(web, LONG_LIST)
        await until(lambda: limits._answers.held)
        assert limits._answers.held == 2**20  # of one that is longer than all together may be
        refused = await alice.get(LONG_LIST)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "10")
        assert "unread responses" in refused.json()["message"]
        assert LIMITS_HELD.labels("max_unread_bytes_per_user")._value.get() == held + 1
        assert (await bob.get(LONG_LIST)).status_code == 503
        assert (await alice.get("api/v1/version")).status_code == 200
        # what the request has taken is its own until the answer is read
        assert limits._requests._taken["alice"] == 1
        assert limits.connections.count()["user"] == 1
        first.close()
        await until(lambda: not limits._answers.held)
        assert not limits._requests._taken
        assert (await bob.get(LONG_LIST)).status_code == 200
        monkeypatch.setattr(exchange, "WRITE_SECONDS", 0.2)
        with contextlib.closing(ask_and_read_nothing(web, LONG_LIST)):
            await until(lambda: limits._answers.held)
            await until(lambda: not limits._answers.held)  # it is cut off
            assert not limits._requests._taken


async def test_what_is_held_for_an_answer_is_let_go_of_when_the_client_goes(web):
    await add_long(web, "alice")
    throttle = web.throttle
    connections = [ask_and_read_nothing(web, LONG_LIST) for _ in range(3)]
    await until(lambda: throttle._requests._taken["alice"] == 3 and throttle._answers.held)
    for sock in connections:
        sock.close()
    await until(lambda: not throttle._answers.held and not throttle._requests._taken)


async def test_the_lists_of_the_kbatch_command_are_sent_a_little_at_a_time(web, api, monkeypatch):
    await add_long(web, "alice", count=100)
    sizes, write = [], IOStream.write
    monkeypatch.setattr(IOStream, "write", lambda self, data: (sizes.append(len(data)), write(self, data))[1])
    assert len((await api.get("jobs/")).json()["items"]) == 100
    assert max(sizes) < 2**19


# what is read from the storage, or goes there


async def test_users_with_several_places_take_turns_and_whoever_waits_is_counted():
    before = LIMITS_HELD.labels("concurrent_fetches")._value.get()
    places = FairLimit(per_user=2, total=3, limit="concurrent_fetches", what="jobs that fetch")
    order, gates = [], {}

    async def fetch(name):
        gates[name] = asyncio.Event()
        async with places.take(name[0], wait_seconds=10):
            order.append(name)
            await gates[name].wait()

    names = ["a1", "a2", "a3", "a4", "b1", "b2", "c1"]
    fetching = [asyncio.create_task(fetch(name)) for name in names]
    await asyncio.sleep(0.01)
    assert order == ["a1", "a2", "b1"]
    assert LIMITS_HELD.labels("concurrent_fetches")._value.get() == before + 4
    for ended, begun in [("a1", "b2"), ("b1", "c1"), ("b2", "a3"), ("c1", None), ("a2", "a4")]:
        gates[ended].set()
        await asyncio.sleep(0.01)
        assert order[-1] == (begun or order[-1])
    gates["a3"].set()
    gates["a4"].set()
    await asyncio.gather(*fetching)
    assert not places._waiting
    assert not places._taken


async def test_each_user_has_a_part_of_fair_places_and_waits_for_a_turn():
    places = FairLimit(per_user=1, total=2, limit="concurrent_fetches", what="jobs that fetch")
    order, go_on = [], asyncio.Event()

    async def fetch(user):
        async with places.take(user, wait_seconds=10):
            order.append(user)
            await go_on.wait()

    fetching = [asyncio.create_task(fetch(user)) for user in ("alice", "alice", "alice", "bob", "carol")]
    await asyncio.sleep(0.01)
    assert order == ["alice", "bob"]
    with pytest.raises(Unavailable, match="too many jobs that fetch"):
        async with places.take("dave", wait_seconds=0.01):
            pytest.fail("there is no place")
    fetching[2].cancel()
    go_on.set()
    await asyncio.gather(*fetching, return_exceptions=True)
    assert sorted(order) == ["alice", "alice", "bob", "carol"]
    assert not places._waiting
    assert not places._taken
    async with places.take("dave", wait_seconds=0.01):
        pass


async def test_of_those_who_wait_one_has_a_part_and_refuses_no_other():
    places = FairLimit(per_user=1, total=1, limit="concurrent_lookups", what="questions", most_waiting=20)

    order = []

    async def hold(user):
        async with places.take(user, wait_seconds=10):
            order.append(user)

    async with places.take("first", wait_seconds=1):
        waiting = [asyncio.create_task(hold(user)) for user in "aaabbb" + "cdefghijklmnopqrstuvwxyz" * 2]
        await asyncio.sleep(0.01)
        refused = [task for task in waiting if task.done()]
        assert [type(task.exception()) for task in refused] == [Unavailable] * 26
    await asyncio.gather(*waiting, return_exceptions=True)
    assert "".join(order) == "abcdefghijklmnopqrstuvwxyzab"
    assert places._count_waiting == 0


async def test_jobs_wait_for_their_turn_to_fetch_code_and_are_told_to_come_again_with_results(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(throttle, "SEND_WAIT_SECONDS", 0.1)
    settings = {"Throttle": {"concurrent_fetches": 1, "concurrent_sends": 1}}
    async with (
        running_web(tmp_path, settings) as web,
        web.client() as alice,
        web.client(token=None) as client,
    ):
        limits, job = web.throttle, await web.add_with_code(make_zip())
        async with limits.fetch("bob"):
            fetching = asyncio.create_task(client.get(await web.sign_code(job)))
            await asyncio.sleep(0.1)
            assert not fetching.done()
            assert (await alice.get("api/v1/jobs")).status_code == 200
        assert (await fetching).content == make_zip()
        tar = make_tar({"a.txt": b"x"})
        async with limits.send("bob"):
            refused = await client.post(web.sign_outputs(job), content=tar)
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
        assert (await client.post(web.sign_outputs(job), content=tar)).status_code == 200


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("api/v1/jobs/train-1/logs", {}),
        ("api/v1/jobs/train-1/logs", {"Range": "bytes=0-1"}),
        ("api/v1/jobs/train-1/logs?line=1", {}),
        ("jobs/logs/train-1", {}),
        ("api/v1/jobs/train-1/outputs/a.txt", {}),
        ("api/v1/jobs/train-1/outputs.zip", {}),
    ],
)
async def test_a_user_reads_some_results_and_logs_at_a_time(tmp_path, path, headers):
    settings = {"Throttle": {"concurrent_downloads_per_user": 1}}
    async with running_web(tmp_path, settings) as web, web.client() as alice:
        limits = web.throttle
        await web.send_results(await web.add(log=[b"hello\n"]), {"a.txt": b"x"})
        with limits.download(web.auth.make_user({"name": "alice", "scopes": []})):
            assert (await alice.get(path, headers=headers)).status_code == 429
            assert (await alice.get("api/v1/jobs/train-1")).status_code == 200
        assert (await alice.get(path, headers=headers)).is_success
        assert not limits._downloads._taken


# connections


class Hello(RequestHandler):
    def get(self):
        self.write("hello")


@pytest.fixture
async def server():
    made = []

    def start(**options):
        options = {"max_connections": 100, "idle_seconds": 60} | options
        server = WebServer(
            application=Application([("/", Hello)], log_function=lambda _: None),
            shutdown_seconds=1,
            throttle=Throttle(**options),
            inflight=InflightRequests(),
        )
        url = server.bind("http://127.0.0.1:0")
        server.start()
        made.append(server)
        return httpx.URL(url).port

    yield start
    for server in made:
        await server.stop()
        server.close()


async def ask(port, head, *, wait=5.0):
    """Send bytes and return what comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head)
    answer = await asyncio.wait_for(reader.read(), wait)
    writer.close()
    return answer


async def test_an_idle_connection_is_closed(server):
    port = server(idle_seconds=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"hello")
    writer.close()


async def test_a_client_that_sends_its_head_slowly_is_closed_however_much_comes(server):
    port = server(idle_seconds=0.5)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def drip():
        writer.write(b"GET / HTTP/1.1\r\n")
        while True:
            writer.write(b"X-Slow: 1\r\n")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    assert await asyncio.wait_for(reader.read(), 5) == b""
    dripping.cancel()
    writer.close()


async def test_a_head_that_is_too_large_is_refused(server):
    port = server()
    with contextlib.suppress(ConnectionResetError):
        assert await ask(port, b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000) == b""
    assert b"hello" in await ask(port, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
