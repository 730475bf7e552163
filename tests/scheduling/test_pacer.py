"""Jobs that are to be launched leave in their order and at a pace, and requests of users come first."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from kbatch_server.limits.config import Limits
from kbatch_server.scheduling import pacer as pacing
from kbatch_server.scheduling import scheduler as scheduling
from kbatch_server.scheduling.pacer import LaunchPacer
from kbatch_server.scheduling.scheduler import Scheduler
from kbatch_server.web import inflight
from kbatch_server.web.inflight import LATEST, MAX_USERS, InflightRequests
from tests.support.clock import Clock
from tests.support.launcher_doubles import ScriptedLauncher
from tests.support.web import make_job


@pytest.fixture
async def line():
    """A scheduler without limits, with when each job left it, and its clock."""
    left: dict[str, float] = {}
    clock = Clock()
    launcher = ScriptedLauncher()
    pacer = LaunchPacer(launcher=launcher)
    scheduler = Scheduler(limits=Limits(), pacer=pacer)

    async def launch() -> None:
        while True:
            job_id, _ = await scheduler.next()
            left.setdefault(job_id, clock.now)

    with clock.used_by(pacing, inflight):
        launching = [asyncio.create_task(launch()) for _ in range(3)]
        yield SimpleNamespace(
            scheduler=scheduler, pacer=pacer, launcher=launcher, left=left, clock=clock, launching=launching
        )
        for task in launching:
            task.cancel()
        await asyncio.gather(*launching, return_exceptions=True)


def ask(inflight: InflightRequests, times: int) -> None:
    for _ in range(times):
        inflight.note_answer("alice", is_submit=True)


def offer(line, *job_ids: str) -> None:
    for job_id in job_ids:
        line.scheduler.offer(make_job(job_id))


async def wait_for(line, count: int) -> list[str]:
    for _ in range(10_000):
        if len(line.left) >= count:
            return list(line.left)
        await line.clock.advance(0.005)
    raise AssertionError(f"only {line.left} have left after {line.clock.now:.0f} s")


async def test_jobs_leave_in_their_order_and_evenly_apart(line):
    line.launcher.max_launches_per_second = 20
    offer(line, *"abcd", "a")
    assert await wait_for(line, 4) == list("abcd")
    assert [round(line.left[job_id], 3) for job_id in "abcd"] == [0, 0.05, 0.1, 0.15]
    assert len(line.scheduler) == 0


async def test_a_job_that_was_offered_again_comes_up_again(line):
    line.launcher.max_launches_per_second = 1
    offer(line, "a")
    await wait_for(line, 1)
    line.left.clear()
    offer(line, "b", "a")
    assert await wait_for(line, 2) == ["b", "a"]


async def test_without_a_limit_nobody_waits(line):
    offer(line, *map(str, range(100)))
    await wait_for(line, 100)
    assert line.clock.now < 0.1


async def test_who_is_not_to_be_launched_any_more_takes_nobodys_place(line):
    line.launcher.max_launches_per_second = 5
    offer(line, *"abc")
    line.scheduler.withdraw("b")
    assert await wait_for(line, 2) == ["a", "c"]
    assert round(line.left["c"] - line.left["a"], 3) == 0.2
    offer(line, "d")
    await line.clock.advance(0.005)
    line.scheduler.withdraw("d")
    await line.clock.advance(1)
    assert list(line.left) == ["a", "c"]


async def test_a_job_is_handed_on_as_it_was_offered_last_and_of_many_only_some_are_kept(monkeypatch):
    monkeypatch.setattr(scheduling, "KNOWN", 2)
    scheduler = Scheduler(limits=Limits(), pacer=LaunchPacer(launcher=ScriptedLauncher()))
    for number in range(3):
        scheduler.offer(make_job(str(number)))
    newer = make_job("1")
    scheduler.offer(newer)
    turns = dict([await scheduler.next() for _ in range(3)])
    assert (turns["0"].id, turns["1"] is newer, turns["2"]) == ("0", True, None)


@pytest.mark.parametrize("most", [0, 1000])
async def test_launches_give_way_to_many_requests_and_go_on_when_those_are_over(line, most):
    line.launcher.max_launches_per_second = most
    line.pacer.busy_launches_per_second = 5
    ask(line.pacer.inflight, LATEST)
    offer(line, *map(str, range(30)))
    while line.clock.now < 0.5:
        ask(line.pacer.inflight, 10)
        await line.clock.advance(0.01)
    assert len(line.left) == 3  # one at once, and one each fifth of a second
    await wait_for(line, 30)
    assert line.clock.now < 2


async def test_a_few_requests_or_a_limit_of_0_slow_nothing(line):
    ask(line.pacer.inflight, LATEST - 1)
    offer(line, *map(str, range(10)))
    await wait_for(line, 10)
    line.pacer.busy_requests_per_second = 0
    ask(line.pacer.inflight, 100)
    offer(line, *map(str, range(10, 20)))
    await wait_for(line, 20)
    assert line.clock.now < 0.1


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


async def test_a_scheduler_that_is_stopped_forgets_and_can_be_started_again(line):
    line.launcher.max_launches_per_second = 0.1
    offer(line, *"ab")
    await wait_for(line, 1)
    await line.scheduler.stop()
    assert len(line.scheduler) == 0
    line.launcher.max_launches_per_second = 0
    await line.scheduler.start()
    offer(line, "c")
    assert await wait_for(line, 2) == ["a", "c"]
