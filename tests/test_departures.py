"""The line of the jobs that are to be launched: its pace, its order, and that requests come first."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from clock import Clock
from launcher_doubles import ScriptedLauncher

from kbatch_server.engine import pacer as departures
from kbatch_server.engine.pacer import Departures
from kbatch_server.web import inflight as traffic
from kbatch_server.web.inflight import LATEST, MAX_USERS, Traffic


@pytest.fixture
async def line():
    """A line that goes, with when each left it, and its clock."""
    left: dict[str, float] = {}
    clock = Clock()
    line = Departures(
        launcher=ScriptedLauncher(), on_departure=lambda job_id: left.setdefault(job_id, clock.now)
    )
    with clock.used_by(departures, traffic):
        line.start()
        yield SimpleNamespace(departures=line, launcher=line.launcher, left=left, clock=clock)
        await line.stop()


def ask(traffic: Traffic, times: int) -> None:
    for _ in range(times):
        traffic.note_answer("alice", is_submit=True)


async def wait_for(line, count: int) -> list[str]:
    for _ in range(10_000):
        if len(line.left) >= count:
            return list(line.left)
        await line.clock.advance(0.005)
    raise AssertionError(f"only {line.left} have left after {line.clock.now:.0f} s")


async def test_jobs_leave_in_their_order_and_evenly_apart(line):
    line.launcher.max_launches_per_second = 20
    for job_id in "abcd":
        line.departures.join(job_id)
    line.departures.join("a")
    assert await wait_for(line, 4) == list("abcd")
    assert [round(line.left[job_id], 3) for job_id in "abcd"] == [0, 0.05, 0.1, 0.15]
    assert len(line.departures) == 0


async def test_a_job_that_left_may_be_launched_once(line):
    line.launcher.max_launches_per_second = 1
    line.departures.join("a")
    await wait_for(line, 1)
    assert line.departures.take("a")
    assert not line.departures.take("a")
    assert "a" in line.departures


async def test_who_comes_alone_need_not_join(line):
    line.launcher.max_launches_per_second = 2
    assert line.departures.take("a")
    assert not line.departures.take("b")
    assert await wait_for(line, 1) == ["b"]


async def test_without_a_limit_nobody_waits(line):
    assert all(line.departures.take(str(number)) for number in range(100))


async def test_who_is_not_to_be_launched_any_more_takes_nobodys_place(line):
    line.launcher.max_launches_per_second = 5
    assert line.departures.take("first")
    for job_id in "ab":
        line.departures.join(job_id)
    line.departures.leave("a")
    assert await wait_for(line, 1) == ["b"]
    line.departures.leave("b")
    assert not line.departures.take("b")


@pytest.mark.parametrize("most", [0, 1000])
async def test_launches_give_way_to_many_requests_and_go_on_when_those_are_over(line, most):
    line.launcher.max_launches_per_second = most
    line.departures.busy_launches_per_second = 5
    ask(line.departures.traffic, LATEST)
    for number in range(30):
        line.departures.join(str(number))
    while line.clock.now < 0.5:
        ask(line.departures.traffic, 10)
        await line.clock.advance(0.01)
    assert len(line.left) == 3  # one at once, and one each fifth of a second
    await wait_for(line, 30)
    assert line.clock.now < 2


async def test_a_few_requests_or_a_limit_of_0_slow_nothing(line):
    ask(line.departures.traffic, LATEST - 1)
    assert all(line.departures.take(str(number)) for number in range(10))
    line.departures.busy_requests_per_second = 0
    ask(line.departures.traffic, 100)
    assert all(line.departures.take(str(number)) for number in range(10))


def test_one_user_who_asks_all_the_time_is_no_rush_and_many_are(monkeypatch):
    now = 1000.0
    monkeypatch.setattr("kbatch_server.web.inflight.time.monotonic", lambda: now)
    traffic = Traffic()
    for _ in range(10 * LATEST):
        traffic.note_answer("alice", is_submit=False)
        now += 0.001
    assert traffic.get_requests_per_second() == 0  # too few are counted to say
    for _ in range(1000):
        traffic.note_answer("alice", is_submit=False)
        now += 0.001
    assert traffic.get_requests_per_second() < 26
    for number in range(200):
        traffic.note_answer(f"user-{number % 50}", is_submit=False)
        now += 0.001
    assert traffic.get_requests_per_second() > 900


def test_of_users_who_have_asked_some_are_remembered():
    traffic = Traffic()
    for number in range(MAX_USERS + 10):
        traffic.note_answer(str(number), is_submit=False)
    assert len(traffic._counted_at) == MAX_USERS


async def test_a_line_that_is_stopped_forgets_and_can_be_started_again(line):
    line.launcher.max_launches_per_second = 0.1
    for job_id in "ab":
        line.departures.join(job_id)
    await wait_for(line, 1)
    await line.departures.stop()
    assert len(line.departures) == 0
    line.launcher.max_launches_per_second = 0
    line.departures.start()
    line.departures.join("c")
    assert await wait_for(line, 2) == ["a", "c"]
