"""``post_finish_hook``: called after the end of each job, again if it fails or was cut short."""

from __future__ import annotations

import asyncio
import threading

import pytest

from kbatch_server.engine import finish_hook
from kbatch_server.engine.finish_hook import FINISH_HOOK
from kbatch_server.models.job import JobStatus, Status
from kbatch_server.models.request import JobRequest
from kbatch_server.models.times import utcnow
from kbatch_server.models.user import User
from tests.support.stepping import do_step
from tests.support.waiting import until

ALICE = User(name="alice", groups=("a",))


@pytest.fixture
def called(world):
    """The jobs that the hook was called with."""
    jobs = []
    world.hooks.post_finish_hook = jobs.append
    return jobs


async def end_job(world, **fields):
    """Return a job that was just seen to end."""
    request = JobRequest(**{"name": "job", "image": "busybox", "command": ["true"]} | fields)
    job, _ = await world.jobs.submit(ALICE, request)
    await do_step(world.reconciler, job.id)
    world.launcher.seen[job.id] = JobStatus(status=Status.SUCCEEDED, reason="Done", ended_at=utcnow())
    await do_step(world.reconciler, job.id)
    return job


async def look(world, job):
    await do_step(world.reconciler, job.id)
    return await world.store.jobs.find(job.id)


async def settle(world, job):
    """Look at an ended job until nothing is left to do."""

    async def is_cleaned():
        return (await look(world, job)).cleaned_at is not None

    await until(is_cleaned)


async def test_it_gets_the_job_once_with_its_end_and_without_its_environment(world, called):
    job = await end_job(world, env={"PASSWORD": "sesame"})
    await settle(world, job)
    await look(world, job)
    [seen] = called
    assert (seen.id, seen.user, seen.status, seen.groups) == (job.id, "alice", "succeeded", ["a"])
    assert seen.ended_at is not None
    assert "sesame" not in repr(seen)


async def test_a_job_that_was_cancelled_before_its_start_has_ended_too(world, called):
    request = JobRequest(name="job", image="busybox", command=["true"])
    job, _ = await world.jobs.submit(ALICE, request)
    await world.jobs.cancel(ALICE, job.id)
    await settle(world, job)
    assert [each.status for each in called] == ["cancelled"]


async def test_if_it_fails_it_is_called_again_so_many_times_and_each_is_logged(world, monkeypatch, caplog):
    monkeypatch.setattr(finish_hook, "FIRST_DELAY_SECONDS", 0.01)
    world.hooks.max_tries = 3
    calls = []

    def fail(job):
        calls.append(job.id)
        raise OSError("the chat is down")

    world.hooks.post_finish_hook = fail
    job = await end_job(world)
    await settle(world, job)
    assert calls == [job.id] * 3
    assert "call 3 of 3: post_finish_hook raised OSError: the chat is down" in caplog.text
    assert (await world.store.jobs.find(job.id)).status == Status.SUCCEEDED


async def test_a_process_that_was_just_started_does_not_begin_to_count_anew(world, called):
    world.hooks.max_tries = 3
    job = await end_job(world)
    await world.store.jobs.update(job.id, state={FINISH_HOOK: 2})
    world.hooks.post_finish_hook = lambda job: called.append(job) or 1 / 0
    await settle(world, job)
    assert len(called) == 1


async def test_while_it_hangs_the_job_is_over_and_others_go_on(world):
    hangs = threading.Event()
    world.hooks.post_finish_hook = lambda job: hangs.wait(20)
    try:
        job = await end_job(world)
        async with asyncio.timeout(5):
            for _ in range(3):
                assert (await look(world, job)).is_over
            other = await end_job(world)
            assert (await look(world, other)).is_over
    finally:
        hangs.set()
    await settle(world, job)


async def test_a_leader_that_stops_leaves_the_call_to_the_next(world, called):
    async def for_ever(job):
        await asyncio.Event().wait()

    world.hooks.post_finish_hook = for_ever
    job = await end_job(world)
    await look(world, job)
    await world.reconciler._finish_hook.stop()
    world.hooks.post_finish_hook = called.append
    await settle(world, job)
    assert len(called) == 1
