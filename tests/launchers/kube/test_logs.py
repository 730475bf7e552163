"""A container's log is followed to its end, whatever node, network and rotation do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from kbatch_server.launchers.kube import logs
from kbatch_server.launchers.kube.client import KubeClient, KubeRefused
from kbatch_server.launchers.kube.logcursor import GAP
from kbatch_server.launchers.kube.logs import FollowedLog

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

SECONDS = 10


def answer_pod(*, is_over: bool) -> web.Response:
    state = {"terminated": {"exitCode": 0}} if is_over else {"running": {}}
    status = {"phase": "Running", "containerStatuses": [{"name": "job", "state": state}]}
    return web.json_response({"metadata": {"name": "p"}, "spec": {}, "status": status})


class FakeLog:
    """A pod whose log is given in pieces, each over a connection of its own that breaks at its end."""

    def __init__(self, lines: list[bytes], breaks: list[int]) -> None:
        self.whole = b"".join(lines)
        self.lines = lines
        self.breaks = breaks
        self.queries: list[dict[str, str]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if not request.path.endswith("/log"):
            return answer_pod(is_over=not self.breaks)
        if "limitBytes" in request.query:
            return web.Response(body=self.lines[0])
        self.queries.append(dict(request.query))
        since = request.query.get("sinceTime", "")[:19]
        data = b"".join(line for line in self.lines if line.decode()[:19] >= since)
        response = web.StreamResponse()
        await response.prepare(request)
        if self.breaks:
            await response.write(data[: self.breaks.pop(0)])
            await asyncio.sleep(0.01)
            assert request.transport is not None
            request.transport.abort()
        else:
            await response.write(data)
        return response


STAMPS = ["05.100000000", "05.100000000", "05.200000000", "06.000000001", "06.000000000", "07.000000000"]


@pytest.mark.parametrize(
    "breaks", [[], [0], [1], [45], [100, 60, 70], [200, 200], *([n] for n in range(30, 260, 13))]
)
async def test_followed_log_is_whole_however_it_breaks(
    breaks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.01)
    lines = make_lines()
    lines[-1] = lines[-1].rstrip(b"\n")
    log = FakeLog(lines, breaks)
    got = await follow(log.answer)
    assert got.decode().splitlines() == [f"line {n}" for n in range(len(lines))]
    assert not got.endswith(b"\n")
    assert "sinceTime" not in log.queries[0]


def make_lines() -> list[bytes]:
    return [f"2026-01-01T10:00:{stamp}Z line {n}\n".encode() for n, stamp in enumerate(STAMPS)]


async def follow(answer: Answer) -> bytes:
    """Return all of the log of a pod for which this answers."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = KubeClient(Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}"))
    try:
        async with asyncio.timeout(SECONDS), aclosing(FollowedLog(client, "jobs", "p").follow()) as pieces:
            return b"".join([piece.data async for piece in pieces])
    finally:
        await client.close()
        await runner.cleanup()


class FakeNode:
    """Ends each stream in order as long as there are answers left, and then has the whole log, or no pod."""

    def __init__(
        self, answers: list[bytes | int], *, is_removed: bool = False, is_over: bool = False
    ) -> None:
        self.answers = answers
        self.is_removed = is_removed
        self.is_over = is_over

    async def answer(self, request: web.Request) -> web.StreamResponse:
        missing = {"kind": "Status", "reason": "NotFound", "message": 'pod "p" does not exist'}
        if not request.path.endswith("/log"):
            if self.is_removed and not self.answers:
                return web.json_response(missing, status=404)
            return answer_pod(is_over=self.is_over or not self.answers)
        if "limitBytes" in request.query:
            return web.Response(body=make_lines()[0])
        since = request.query.get("sinceTime", "")[:19]
        whole = b"".join(line for line in make_lines() if line.decode()[:19] >= since)
        given = self.answers.pop(0) if self.answers else whole
        if isinstance(given, bytes):
            return web.Response(body=given)
        if given == GONE:
            return web.json_response(missing | {"message": 'pods "p" not found'}, status=404)
        return web.json_response(
            missing | ({} if given == 404 else {"reason": "InternalError"}), status=given
        )


@pytest.mark.parametrize("before", [[], [b"".join(make_lines()[:3])]])
async def test_a_node_that_was_just_started_does_not_know_its_pods_yet(
    before: list[bytes | int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kubelet that is killed ends a stream in order; while it is away there is a 502, then, soon, a 404."""
    monkeypatch.setattr("random.uniform", lambda low, high: 0.01)
    got = await follow(FakeNode([*before, 502, 502, 404, 404]).answer)
    assert got.decode().splitlines() == [f"line {n}" for n in range(len(STAMPS))]


COMPLAINT = b"unable to retrieve container logs for containerd://0123456789abcdef"


@pytest.mark.parametrize(
    "before",
    [
        [COMPLAINT, COMPLAINT],
        [b""],
        [b"".join(make_lines())[:50]],
        [400, 404, 502],
        [make_lines()[0], COMPLAINT],
    ],
)
async def test_what_a_node_says_when_it_is_asked_may_be_passing(
    before: list[bytes | int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a container that is over, too: what breaks behind the API server looks like an end."""
    monkeypatch.setattr("random.uniform", lambda low, high: 0.01)
    got = await follow(FakeNode(before, is_over=True).answer)
    assert got.decode().splitlines() == [f"line {n}" for n in range(len(STAMPS))]


@pytest.mark.parametrize("before", [[], [b"".join(make_lines()[:3])]])
@pytest.mark.parametrize("given", [400, 404, COMPLAINT])
async def test_a_log_that_the_node_never_has_is_given_up(
    given: bytes | int, before: list[bytes | int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.001)
    node = FakeNode([*before, *[given] * 100], is_over=True)
    with pytest.raises(KubeRefused) as error:
        await follow(node.answer)
    assert (error.value.status, error.value.reason) == (404, logs.NO_LOG)
    assert len(node.answers) >= 100 - 1 - logs.MAX_FAILURES


async def test_a_log_that_was_rotated_at_its_end_is_at_its_end() -> None:
    lines = make_lines()
    got = await follow(FakeNode([b"".join(lines), b"", b""], is_over=True).answer)
    assert got.decode().splitlines() == [f"line {n}" for n in range(len(STAMPS))]


async def test_a_container_that_wrote_nothing_has_an_empty_log() -> None:
    assert await follow(FakeNode([b""] * 3, is_over=True).answer) == b""


GONE = -404
"""What the API server itself says of a pod's log: the pod was removed since we looked at it."""


@pytest.mark.parametrize("then", [[], [COMPLAINT], [GONE], [COMPLAINT, COMPLAINT, GONE]])
@pytest.mark.parametrize("is_over", [False, True])
async def test_a_pod_that_is_removed_when_its_stream_has_ended_was_read_to_its_end(
    then: list[bytes | int], is_over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.01)
    got = await follow(FakeNode([b"".join(make_lines()), *then], is_removed=True, is_over=is_over).answer)
    assert got.decode().splitlines() == [f"line {n}" for n in range(len(STAMPS))]


@pytest.mark.parametrize(
    "answers",
    [
        [502],
        [b"".join(make_lines()[:3]), 502],
        [make_lines()[0], 404],
        [make_lines()[0], 502, COMPLAINT],
        [make_lines()[0], 502, GONE],
        [COMPLAINT, GONE],
    ],
)
async def test_a_pod_that_is_removed_before_its_log_was_read_is_no_end(
    answers: list[bytes | int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.01)
    with pytest.raises(KubeRefused, match=r"does not exist|not found"):
        await follow(FakeNode(answers, is_removed=True).answer)


class FakeRotation:
    """What the kubelet's follower gives, and what the log's newest file has, which may be another.

    The first connection is held, and a piece comes on it before each look at where the newest file begins.
    Those after it are given that file.
    """

    def __init__(
        self,
        pieces: list[bytes],
        *,
        newest: bytes = b"",
        looks: list[bytes | int],
        hold_seconds: float = 2 * SECONDS,
    ) -> None:
        self.pieces = pieces
        self.newest = newest
        self.looks = looks
        self.hold_seconds = hold_seconds
        self.followed = self.looked = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if not request.path.endswith("/log"):
            return answer_pod(is_over=self.followed > 0)
        if "limitBytes" in request.query:
            look = self.looks[min(self.looked, len(self.looks) - 1)]
            self.looked += 1
            return web.Response(body=look) if isinstance(look, bytes) else web.Response(status=look)
        self.followed += 1
        if self.followed > 1:
            return web.Response(body=self.newest)
        response = web.StreamResponse()
        await response.prepare(request)
        end, given = time.monotonic() + self.hold_seconds, 0
        while request.transport and time.monotonic() < end:
            if given < len(self.pieces) and given <= self.looked:
                await response.write(self.pieces[given])
                given += 1
            await asyncio.sleep(0.01)
        return response


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Silence is soon doubted, and lines are never late."""
    monkeypatch.setattr(logs, "DOUBT_SECONDS", 0.05)
    monkeypatch.setattr(logs, "LAG_SECONDS", float("inf"))
    monkeypatch.setattr("random.uniform", lambda low, high: 0.01)
    return monkeypatch


@pytest.mark.usefixtures("patience")
async def test_a_connection_that_follows_a_file_of_before_is_left() -> None:
    lines = make_lines()
    # it cannot be asked; it says that it has no log; nothing was written yet; and then it shows
    looks = [500, COMPLAINT, b"", lines[3]]
    node = FakeRotation([b"".join(lines[:3])], newest=b"".join(lines[3:]), looks=looks)
    assert (await follow(node.answer)).decode().splitlines() == [f"line {n}" for n in range(len(STAMPS))]
    assert node.looked == len(looks)


@pytest.mark.parametrize(("is_empty", "looked"), [(False, 1), (True, 0)])
@pytest.mark.usefixtures("patience")
async def test_a_silent_connection_is_asked_about_once_and_that_of_an_empty_log_never(
    is_empty: bool, looked: int
) -> None:
    lines = [] if is_empty else make_lines()
    node = FakeRotation([b"".join(lines)], looks=[b"".join(lines)], hold_seconds=0.5)
    assert len((await follow(node.answer)).splitlines()) == len(lines)
    assert node.looked == looked


@pytest.mark.parametrize("is_near", [True, False])
@pytest.mark.parametrize("looks", [[], [500, b""]])
async def test_of_lines_that_come_late_none_is_doubled_or_left_out_without_a_word(
    patience: pytest.MonkeyPatch, looks: list[bytes | int], is_near: bool
) -> None:
    """The kubelet goes on with the newest file, from its start for each rotation that it comes upon."""
    patience.setattr(logs, "LAG_SECONDS", 3)
    patience.setattr(logs, "DOUBT_SECONDS", 2 * SECONDS)
    lines = make_lines()
    if not is_near:
        lines[3:] = [line.replace(b"10:00", b"10:01") for line in lines[3:]]
    old, newest = lines[:3], b"".join(lines[3:])
    # a look that tells nothing is made again after the next piece
    pieces = old if looks else [b"".join(old)]
    node = FakeRotation([*pieces, newest + newest], newest=newest, looks=[*looks, lines[3]])
    words = [b"line %d\n" % n for n in range(len(lines))]
    words.insert(3, b"" if is_near else GAP)
    assert await follow(node.answer) == b"".join(words)


async def test_late_lines_of_the_newest_file_are_taken(patience: pytest.MonkeyPatch) -> None:
    patience.setattr(logs, "LAG_SECONDS", 3)
    lines = make_lines()
    node = FakeRotation([lines[0], b"".join(lines[1:])], looks=[lines[0]], hold_seconds=0.5)
    assert (await follow(node.answer)).decode().splitlines() == [f"line {n}" for n in range(len(STAMPS))]
    assert node.looked == 2  # of silence, once more; but not for each piece
