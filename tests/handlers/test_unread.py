"""What the service holds in memory for clients that do not read their streams."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager, contextmanager

import pytest
from tornado.iostream import IOStream

from kbatch_server.audit import Action, AuditEntry
from kbatch_server.handlers import exchange
from kbatch_server.handlers.exchange import FLUSH_BYTES
from kbatch_server.handlers.streams import part_lines
from kbatch_server.logs.reader import FOLLOWED_BYTES
from kbatch_server.metrics import LIMITS_HELD
from kbatch_server.models.times import utcnow
from kbatch_server.store.audit import put_entries
from tests.support.hub_double import ACCESS, ACTIONS
from tests.support.waiting import until
from tests.support.web import ask_and_read_nothing, make_job, running_web

EVENTS = {"Accept": "text/event-stream"}
KBATCH = {"User-Agent": "python-httpx/0.28"}
LOG = "api/v1/jobs/train-1/logs"
WATCH = "api/v1/jobs/watch"
FOLLOWED = [
    (f"{LOG}?follow=true", {}),
    (f"{LOG}?follow=true", EVENTS),
    (LOG, {**EVENTS, "Last-Event-ID": "1-0"}),
    ("pods/logs/train-1?stream=true", {}),
    ("pods/logs/train-1?stream=true", KBATCH),
    ("jobs/logs/train-1?stream=true", KBATCH),
    (WATCH, {}),
]
READ = [
    *FOLLOWED,
    (LOG, {}),
    (LOG, EVENTS),
    (LOG, {"Range": "bytes=5-"}),
    (f"{LOG}?line=1&limit=10000", {}),
    ("jobs/logs/train-1", {}),
    ("jobs/logs/train-1", KBATCH),
    ("api/v1/jobs/train-1/outputs/a.txt", {}),
    ("api/v1/jobs/train-1/outputs.zip", {}),
]
CONTENT = {
    "newlines": b"\n" * 2**20,
    "lines": b"".join(b"%07d\n" % number for number in range(2**17)),
    "colours": b"\x1b[38;2;255;255;255mx\by\x1b[m\n" * 2**15,
}
NOISE = random.Random(1).randbytes(2**20)
"""What a ZIP does not make shorter."""


@pytest.fixture
def largest(monkeypatch):
    """The most bytes that one connection has had waiting in the process, as a list of one."""
    largest, write = [0], IOStream.write

    def counted(stream, data):
        largest[0] = max(largest[0], len(stream._write_buffer) + len(data))
        return write(stream, data)

    monkeypatch.setattr(IOStream, "write", counted)
    return largest


@asynccontextmanager
async def running(folder, piece, *, count=16, stream_check_seconds=60, **limits):
    """Yield a service with a job that has a long log, in which the piece is repeated, and long results."""
    settings = {"HubAuthenticator": {"stream_check_seconds": stream_check_seconds}, "Throttle": limits}
    async with running_web(folder, settings) as web:
        job = await web.add(log=[piece] * count)
        await web.send_results(job, {"a.txt": NOISE * count})
        yield web


async def change_jobs(web):
    """Let whoever watches jobs have much to read."""
    await until(lambda: web.jobs.watch._watchers)
    for number in range(12):
        await web.add(make_job(f"changed-{number}", message="x" * 2**20))


@pytest.mark.parametrize(
    ("path", "headers", "content"),
    [(*each, "newlines") for each in READ]
    + [(*each, content) for each in FOLLOWED[1:5:3] for content in ("lines", "colours")],
)
async def test_an_answer_that_is_not_read_has_little_in_memory(tmp_path, largest, path, headers, content):
    async with running(tmp_path, CONTENT[content]) as web, web.client("bob-token") as bob:
        sock = ask_and_read_nothing(web, path, **headers)
        if path == WATCH:
            await change_jobs(web)
        await until(lambda: largest[0] and (_find_waiting(web) or not web.inflight._open))
        assert (await bob.get("api/v1/version")).status_code == 200
        assert largest[0] <= 3 * FLUSH_BYTES
        sock.close()
        await until(lambda: not _find_waiting(web))


def _find_waiting(web):
    """Return the handlers whose clients have not read what was written."""
    return [each for each in web.inflight._open if each._stream.writing()]


LITTLE = {"max_unread_bytes": 2**20, "max_unread_bytes_per_user": 2**20}


@contextmanager
def taking_all_room(web):
    """Let Alice have more answers that are not read, up to her limit."""
    alice = web.auth.make_user({"name": "alice", "scopes": []})
    with web.throttle.answer(alice, 2**20 - web.throttle._answers.held):
        assert web.throttle._answers.held == 2**20
        yield


async def test_streams_that_are_not_read_fill_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "UNREAD_SECONDS", 0.1)
    async with running(tmp_path, CONTENT["newlines"], **LITTLE) as web, web.client() as alice:
        await web.add(make_job("short-1"), log=[b"hello\n"])
        answers = web.throttle._answers
        held = LIMITS_HELD.labels("max_unread_bytes_per_user")._value
        before = held.get()
        first = ask_and_read_nothing(web, FOLLOWED[0][0], **EVENTS)
        await until(lambda: answers.held)
        # the piece that the stream is made of is in memory, too
        assert answers.held >= FOLLOWED_BYTES + FLUSH_BYTES
        with taking_all_room(web):
            others = [ask_and_read_nothing(web, path, **headers) for path, headers in FOLLOWED]
            await change_jobs(web)
            await until(lambda: held.get() == before + len(FOLLOWED))
            await until(lambda: len(web.inflight._open) == 1)
            assert _find_waiting(web)[0].request.path.endswith("/logs")
            assert (await alice.get("api/v1/jobs/short-1/logs", headers=EVENTS)).status_code == 200
        for each in [first, *others]:
            each.close()
        await until(lambda: not answers.held)
        assert not web.throttle._streams._taken


async def test_a_stream_that_is_read_slowly_goes_on_while_there_is_no_room(tmp_path):
    async with running(tmp_path, CONTENT["lines"], **LITTLE) as web:
        await web.finish(await web.store.jobs.get("train-1", user="alice"))
        held = LIMITS_HELD.labels("max_unread_bytes_per_user")._value
        before = held.get()
        blocker = ask_and_read_nothing(web, FOLLOWED[0][0], **EVENTS)
        await until(lambda: web.throttle._answers.held)
        with taking_all_room(web):
            async with web.client() as alice, alice.stream("GET", FOLLOWED[0][0], headers=EVENTS) as answer:
                await until(lambda: held.get() > before)
                lines = [line async for line in answer.aiter_lines() if line.startswith("data: ")]
        assert len(lines) == 16 * 2**17 + 1
        blocker.close()


@pytest.mark.parametrize("content", CONTENT)
async def test_each_event_of_a_long_log_says_where_to_go_on(tmp_path, content):
    piece = CONTENT[content]
    async with running(tmp_path, piece, count=2) as web, web.client() as alice:
        text = (await alice.get(LOG, headers=EVENTS)).text
    blocks = [block for block in text.split("\n\n") if block.startswith("id: ")]
    assert len(blocks) >= 2 * len(piece) // FLUSH_BYTES
    written, at = piece * 2, 0
    for block in blocks:
        number, *lines = block.split("\n")
        assert len(block) <= 3 * FLUSH_BYTES
        at += sum(len(line) + 1 for line in written[at : at + 2**18].split(b"\n")[: len(lines)])
        assert number == f"id: 1-{at}"
    assert at == len(written)


@pytest.mark.parametrize(
    "lines", [b"\n" * 1000, b"a\n\n\nb" * 100, b"x" * 50 + b"\n\n", b"x" * 500, b"", b"a\n" + b"x" * 99]
)
def test_chunks_of_lines_print_what_the_lines_are(lines):
    for most in (2, 3, 10, 64, 10_000):
        chunks = list(part_lines(lines, most))
        assert all(chunks)
        assert b"\n".join(chunks) == lines
        assert all(len(chunk) <= most + 1 or b"\n" not in chunk[:-1] for chunk in chunks)


WHOLE = [each for each in READ if each not in FOLLOWED and "line=" not in each[0]]


AUDIT = "api/v1/audit"


async def fill_audit_record(web):
    """Make the audit record longer than what a kernel takes."""
    entry = AuditEntry(
        utcnow(), "alice", Action.CANCEL, "train-1", "alice", "user", "read", "::1", "r", "x" * 500
    )
    await web.store.audit._database.write(lambda connection: put_entries(connection, [entry] * 20_000))


@pytest.mark.parametrize(
    ("path", "headers", "change"),
    [(*each, "revoked") for each in WHOLE]
    + [(*WHOLE[0], change) for change in ("without the scope", "somebody else's")]
    + [(AUDIT, {"Accept": "application/x-ndjson"}, "revoked")],
)
async def test_a_long_answer_ends_when_its_token_is_not_good_for_it_any_more(tmp_path, path, headers, change):
    async with running(tmp_path, CONTENT["lines"], stream_check_seconds=0.1) as web:
        web.auth.hub_auth.cache_max_age = 0
        if path == AUDIT:
            await fill_audit_record(web)
        web.hub.add_token("token", "root", scopes=(ACCESS, *ACTIONS, "custom:kbatch:admin"))
        sock = ask_and_read_nothing(web, path, token="token", **headers)
        await until(lambda: _find_waiting(web))
        web.hub.status = 500  # while the hub does not respond it goes on
        asked = len(web.hub.asked)
        await until(lambda: len(web.hub.asked) >= asked + 3)
        web.hub.status = 200
        asked = len(web.hub.asked)
        await until(lambda: len(web.hub.asked) >= asked + 3)
        assert _find_waiting(web)
        if change == "revoked":
            del web.hub.models["token"]
        elif change == "without the scope":
            web.hub.add_token("token", "root", scopes=(ACCESS, ACTIONS[0]))
        else:
            web.hub.add_token("token", "bob", scopes=(ACCESS, *ACTIONS, "custom:kbatch:admin"))
        await until(lambda: not web.inflight._open)
        sock.close()
        await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "ask-again"])
