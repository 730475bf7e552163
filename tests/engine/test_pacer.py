"""The line of the jobs that are to be launched: its pace, its order, and that requests come first."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from kbatch_server.engine import pacer
from kbatch_server.engine.pacer import LaunchPacer
from kbatch_server.web import inflight
from kbatch_server.web.inflight import LATEST, MAX_USERS, InflightRequests
from tests.support.clock import Clock
from tests.support.launcher_doubles import ScriptedLauncher


@pytest.fixture
async def line():
    """A line that goes, with when each left it, and its clock."""
    left: dict[str, float] = {}
    clock = Clock()
    line = LaunchPacer(
        launcher=ScriptedLauncher(), on_launch=lambda job_id: left.setdefault(job_id, clock.now)
    )
    with clock.used_by(pacer, inflight):
        line.start()
        yield SimpleNamespace(pacer=line, launcher=line.launcher, left=left, clock=clock)
        await line.stop()


def ask(inflight: InflightRequests, times: int) -> None:
    for _ in range(times):
        inflight.note_answer("alice", is_submit=True)


async def wait_for(line, count: int) -> list[str]:
    for _ in range(10_000):
        if len(line.left) >= count:
            return list(line.left)
        await line.clock.advance(0.005)
    raise AssertionError(f"only {line.left} have left after {line.clock.now:.0f} s")


async def test_jobs_leave_in_their_order_and_evenly_apart(line):
    line.launcher.max_launches_per_second = 20
    for job_id in "abcd":
        line.pacer.join(job_id)
    line.pacer.join("a")
    assert await wait_for(line, 4) == list("abcd")
    assert [round(line.left[job_id], 3) for job_id in "abcd"] == [0, 0.05, 0.1, 0.15]
    assert len(line.pacer) == 0


async def test_a_job_that_left_may_be_launched_once(line):
    line.launcher.max_launches_per_second = 1
    line.pacer.join("a")
    await wait_for(line, 1)
    assert line.pacer.take("a")
    assert not line.pacer.take("a")
    assert "a" in line.pacer


async def test_who_comes_alone_need_not_join(line):
    line.launcher.max_launches_per_second = 2
    assert line.pacer.take("a")
    assert not line.pacer.take("b")
    assert await wait_for(line, 1) == ["b"]


async def test_without_a_limit_nobody_waits(line):
    assert all(line.pacer.take(str(number)) for number in range(100))


async def test_who_is_not_to_be_launched_any_more_takes_nobodys_place(line):
    line.launcher.max_launches_per_second = 5
    assert line.pacer.take("first")
    for job_id in "ab":
        line.pacer.join(job_id)
    line.pacer.leave("a")
    assert await wait_for(line, 1) == ["b"]
    line.pacer.leave("b")
    assert not line.pacer.take("b")


@pytest.mark.parametrize("most", [0, 1000])
async def test_launches_give_way_to_many_requests_and_go_on_when_those_are_over(line, most):
    line.launcher.max_launches_per_second = most
    line.pacer.busy_launches_per_second = 5
    ask(line.pacer.inflight, LATEST)
    for number in range(30):
        line.pacer.join(str(number))
    while line.clock.now < 0.5:
        ask(line.pacer.inflight, 10)
        await line.clock.advance(0.01)
    assert len(line.left) == 3  # one at once, and one each fifth of a second
    await wait_for(line, 30)
    assert line.clock.now < 2


async def test_a_few_requests_or_a_limit_of_0_slow_nothing(line):
    ask(line.pacer.inflight, LATEST - 1)
    assert all(line.pacer.take(str(number)) for number in range(10))
    line.pacer.busy_requests_per_second = 0
    ask(line.pacer.inflight, 100)
    assert all(line.pacer.take(str(number)) for number in range(10))


def test_one_user_who_asks_all_the_time_is_no_rush_and_many_are(monkeypatch):
    now = 1000.0
    monkeypatch.setattr("kbatch_server.web.inflight.time.monotonic", lambda: now)
    inflight = InflightRequests()
    for _ in range(10 * LATEST):
        inflight.note_answer("alice", is_submit=False)
        now += 0.001
    assert inflight.get_requests_per_second() == 0  # too few are counted to say
    for _ in range(1000):
        inflight.note_answer("alice", is_submit=False)
        now += 0.001
    assert inflight.get_requests_per_second() < 26
    for number in range(200):
        inflight.note_answer(f"user-{number % 50}", is_submit=False)
        now += 0.001
    assert inflight.get_requests_per_second() > 900


def test_of_users_who_have_asked_some_are_remembered():
    inflight = InflightRequests()
    for number in range(MAX_USERS + 10):
        inflight.note_answer(str(number), is_submit=False)
    assert len(inflight._counted_at) == MAX_USERS


async def test_a_line_that_is_stopped_forgets_and_can_be_started_again(line):
    line.launcher.max_launches_per_second = 0.1
    for job_id in "ab":
        line.pacer.join(job_id)
    await wait_for(line, 1)
    await line.pacer.stop()
    assert len(line.pacer) == 0
    line.launcher.max_launches_per_second = 0
    line.pacer.start()
    line.pacer.join("c")
    assert await wait_for(line, 2) == ["a", "c"]
