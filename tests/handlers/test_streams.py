"""What is streamed for long: the hub is asked again whether the reader may go on."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager

import pytest

from kbatch_server.handlers import streams
from kbatch_server.handlers.streams import EventEncoder, LineChunker
from kbatch_server.logs import terminal
from kbatch_server.models.user import User
from kbatch_server.web.throttle import Throttle
from tests.support.hub_double import ACCESS
from tests.support.waiting import until

READ = (ACCESS, "custom:kbatch:jobs:read")
ADMIN = (*READ, "custom:kbatch:admin")
STREAMS = [
    "api/v1/jobs/train-1/logs?follow=true",
    "pods/logs/train-1?stream=true",
    "jobs/logs/train-1?stream=true",
    "api/v1/jobs/watch",
]


@pytest.fixture
def web_settings():
    return {"HubAuthenticator": {"stream_check_seconds": 0.1}}


@pytest.fixture
async def web(web):
    web.auth.hub_auth.cache_max_age = 0
    web.hub.add_token("token", scopes=READ)
    web.hub.add_token("admin", "root", scopes=ADMIN)
    await web.add(log=[b"first\n"])
    return web


@asynccontextmanager
async def follow(web, path, *, token="token", events=False):
    headers = {"Accept": "text/event-stream"} if events else {}
    async with (
        web.client(token, timeout=10) as client,
        client.stream("GET", path, headers=headers) as answer,
    ):
        yield answer


async def read_rest(answer):
    return b"".join([piece async for piece in answer.aiter_bytes()]).decode()


async def is_open(answer, reading):
    await asyncio.sleep(0.3)
    return not reading.done()


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize("change", ["revoked", "without the scope", "without access", "somebody else's"])
async def test_a_stream_ends_when_its_token_is_not_good_for_it_any_more(web, path, change):
    async with follow(web, path) as answer:
        assert answer.status_code == 200
        reading = asyncio.create_task(read_rest(answer))
        assert await is_open(answer, reading)
        if change == "revoked":
            del web.hub.models["token"]
        elif change == "without the scope":
            web.hub.add_token("token", scopes=(ACCESS,))
        elif change == "without access":
            web.hub.add_token("token", scopes=READ[1:])
        else:
            web.hub.add_token("token", "bob", scopes=READ)
        text = await asyncio.wait_for(reading, 5)
        if "logs" in path:
            assert text.startswith("first\n")
            assert text.rstrip("\n").endswith(
                "\n[... your token has expired or lost its scope: follow the log again with a valid one ...]"
            )
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "stream-end"]


async def test_events_of_a_log_end_with_a_word_to_come_again(web):
    async with follow(web, STREAMS[0], events=True) as answer:
        reading = asyncio.create_task(read_rest(answer))
        assert await is_open(answer, reading)
        del web.hub.models["token"]
        text = await asyncio.wait_for(reading, 5)
    assert "retry: 2000\n: your token has expired or lost its scope" in text
    assert "event: end" not in text


@pytest.mark.parametrize("path", [STREAMS[0], "api/v1/jobs/watch?user=*"])
async def test_an_admin_who_is_none_any_more_reads_no_more_of_others(web, path):
    async with follow(web, path, token="admin") as answer:
        reading = asyncio.create_task(read_rest(answer))
        assert await is_open(answer, reading)
        web.hub.add_token("admin", "root", scopes=READ)
        await asyncio.wait_for(reading, 5)


@pytest.mark.parametrize("path", STREAMS)
async def test_while_the_hub_does_not_answer_a_stream_goes_on(web, path):
    async with follow(web, path) as answer:
        reading = asyncio.create_task(read_rest(answer))
        web.hub.status = 500
        assert await is_open(answer, reading)
        web.hub.status = 200
        assert await is_open(answer, reading)
        del web.hub.models["token"]
        await asyncio.wait_for(reading, 5)


@pytest.mark.parametrize("path", STREAMS)
async def test_who_goes_is_not_asked_for_any_more(web, path):
    async with follow(web, path) as answer:
        assert answer.status_code == 200
    await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "stream-end"])
    asked = len(web.hub.asked)
    await asyncio.sleep(0.25)
    assert len(web.hub.asked) == asked


async def test_a_followed_log_ends_at_a_stop_as_before(web):
    async with follow(web, STREAMS[0]) as answer:
        reading = asyncio.create_task(read_rest(answer))
        assert await is_open(answer, reading)
        web.inflight.stopping.set()
        assert "the service is stopping: follow the log again" in await asyncio.wait_for(reading, 5)


@pytest.fixture
def drawn(monkeypatch):
    """The sizes of the lines that are read to be drawn."""
    sizes = []

    class Counted(terminal._Line):
        def write(self, text):
            sizes.append(len(text))
            return super().write(text)

    def read_one(text, read=terminal._type):
        sizes.append(len(text))
        return read(text)

    monkeypatch.setattr(terminal, "_Line", Counted)
    monkeypatch.setattr(terminal, "_type", read_one)
    return sizes


LONG_BAR = b"\r" + b"#" * (streams.MAX_LINE_BYTES - 100)


def test_a_long_bar_that_changes_all_the_time_is_sent_as_often_as_it_can_be_read(drawn):
    encoder, sent, seconds = EventEncoder(), b"", 20
    encoder.encode(LONG_BAR)
    for step in range(100 * seconds):
        encoder.encode(b"\r%d" % step)
        sent += encoder.show_bar(step / 100)
    most = seconds * streams.BAR_BYTES_PER_SECOND + 2 * streams.MAX_LINE_BYTES
    assert streams.MAX_LINE_BYTES < len(sent) <= most
    assert sum(drawn) <= 3 * most


def test_a_short_bar_is_sent_now_and_then_and_its_last_state_without_another_piece(drawn):
    encoder, events = EventEncoder(), []
    for step in range(1001):
        encoder.encode(b"\rstep %d" % step)
        events.append(encoder.show_bar(step / 100))
    assert sum(map(bool, events)) == 10 / streams.BAR_SECONDS + 1
    assert encoder.get_bar_wait(10.0) is None  # it was just sent
    encoder.encode(b"\r\x1b[Kdone")
    assert encoder.show_bar(10.01) == b""
    assert encoder.get_bar_wait(10.0) == streams.BAR_SECONDS
    assert encoder.show_bar(10.0 + streams.BAR_SECONDS) == b"data: done\n\n"
    assert encoder.finish() == b""
    assert sum(drawn) <= 1000 * 30  # never again what was drawn over


@pytest.mark.parametrize("make", [EventEncoder, LineChunker])
def test_a_line_that_is_nearly_too_long_is_not_read_again_with_each_piece(drawn, make):
    line, size = make(), 100_000
    add = line.encode if make is EventEncoder else line.add
    add(LONG_BAR + b"\r")
    for _ in range(size // 10):
        add(b"\r123456789")
    assert sum(drawn) <= 4 * (size + len(LONG_BAR))


@pytest.fixture
def work(monkeypatch):
    """What is drawn: its size, and whether that was in the thread of the event loop."""
    calls, loop_thread = [], threading.current_thread()

    def watch(name):
        draw = getattr(streams, name)

        def drawn(text, **kwargs):
            if terminal.has_controls(text):
                calls.append((len(text), threading.current_thread() is loop_thread))
            return draw(text, **kwargs)

        monkeypatch.setattr(streams, name, drawn)

    watch("show_styled")
    watch("fold")
    return calls


HEAVY = {
    "backspaces": b"\b\n" * 2**18,
    "carriage returns": b"a\rb\n" * 2**17,
    "a bar": b"".join(b"\r%d%%" % each for each in range(2**17)) + b"\n",
    "a bar and lines": b"a bar\r\x1b[K" + b"text\n" * 2**16,
}
READERS = {
    "events": ("api/v1/jobs/train-1/logs", {"Accept": "text/event-stream"}),
    "chunks": ("jobs/logs/train-1?stream=true", {"User-Agent": "python-httpx/0.27"}),
    "lines": ("jobs/logs/train-1", {"User-Agent": "python-httpx/0.27"}),
}


async def end_log(web, *pieces):
    """Let the job write this, and end."""
    job = await web.store.jobs.get("train-1", user="alice")
    await web.write_log(job, *pieces)
    await web.finish(job)


@pytest.mark.parametrize("log", HEAVY)
@pytest.mark.parametrize("reader", READERS)
async def test_the_event_loop_draws_no_lines_and_a_thread_few_at_a_time(web, work, log, reader):
    path, headers = READERS[reader]
    await end_log(web, HEAVY[log], b"the end\n")
    async with web.client("token", timeout=30) as client:
        answer = await client.get(path, headers=headers)
    assert "the end" in answer.text
    assert work
    assert not any(is_on_loop for _, is_on_loop in work)
    # a line of its own may be kept that is twice as long as one that is shown
    most = 2 * streams.MAX_LINE_BYTES if log == "a bar" else streams.MAX_LINE_BYTES
    assert max(size for size, _ in work) <= most + 2 * streams.SLICE_BYTES


async def test_text_without_control_characters_needs_no_thread(web, work, monkeypatch):
    monkeypatch.setattr(Throttle, "draw", lambda *_: pytest.fail("a thread was used"))
    await end_log(web, b"a line\n" * 2**17, b"the end")
    async with web.client("token", timeout=30) as client:
        for path, headers in READERS.values():
            answer = await client.get(path, headers=headers)
            assert answer.text.count("a line") == 2**17
            assert "the end" in answer.text
    assert not work


async def test_users_take_turns_to_have_their_logs_drawn():
    throttle, turns, began = Throttle(), [], asyncio.Event()

    async def draw(name, times=1):
        for _ in range(times):
            async with throttle.draw(User(name=name)):
                turns.append(name)
                began.set()
                await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(50):
            group.create_task(draw("mallory"))
        await began.wait()
        group.create_task(draw("ana", times=3))
    assert max(at for at, name in enumerate(turns) if name == "ana") < 12
