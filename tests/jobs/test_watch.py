"""Watching jobs: what readers are told, also after a lost connection, when they are slow, or too many."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import aclosing, asynccontextmanager

import pytest

from kbatch_server.errors import TooManyRequests, Unavailable
from kbatch_server.jobs import watch as jobwatch
from kbatch_server.jobs.watch import Reset, SeenChange
from kbatch_server.metrics import LIMITS_HELD
from kbatch_server.models.job import Job, JobSpec, Status
from kbatch_server.models.results import JobOutputs
from kbatch_server.models.times import utcnow
from kbatch_server.slugs import make_job_id
from kbatch_server.store import jobs as jobstore
from kbatch_server.store.changes import SharedChanges
from tests.support.world import World


@asynccontextmanager
async def running(db_url, **traits):
    """Return a store and what watches it, as in one process."""
    world = await World(db_url, config={"JobWatch": traits}).open()
    store, watch = world.store, world.jobs.watch
    await watch.start()
    try:
        async with asyncio.timeout(10):
            while isinstance(store.changes, SharedChanges) and not watch._last:  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # until it listens, which is told as a reset
        yield store, watch
    finally:
        await watch.stop()
        await store.close()


@asynccontextmanager
async def following(watch, user="alice", *, after=None, owner="same"):
    """Return a reader that has been told to read everything."""
    reader = await watch.follow(user, user=user if owner == "same" else owner, after=after)
    async with aclosing(reader):
        yield reader


async def see(reader):
    async with asyncio.timeout(10):
        return await anext(reader)


async def see_past_resets(reader):
    while isinstance(seen := await see(reader), Reset):
        pass
    return seen


def status_of(seen):
    return json.loads(seen.data)["status"]


def make_job(name="train", user="alice", **fields):
    spec = JobSpec(image="python:3", command=["true"])
    return Job(id=make_job_id(name), user=user, name=name, spec=spec, created_at=utcnow(), **fields)


async def test_a_reader_sees_each_change_of_own_jobs_and_no_others(db_url):
    async with running(db_url) as (store, watch), following(watch) as reader:
        assert isinstance(await see(reader), Reset)
        await store.jobs.add(make_job("not-mine", user="bob"))
        job, _ = await store.jobs.add(make_job())
        seen = await see_past_resets(reader)
        assert (seen.job_id, status_of(seen)) == (job.id, Status.QUEUED)
        await store.jobs.update(job.id, launched_at=utcnow())  # nothing that a user sees
        await store.jobs.update(job.id, status=Status.RUNNING)
        assert status_of(await see(reader)) == Status.RUNNING
        await store.outputs.put(job.id, JobOutputs(state="kept"), None)
        assert json.loads((await see(reader)).data)["outputs"]["state"] == "kept"
        await store.jobs.request_delete(job.id, user="alice")
        seen = await see(reader)
        assert (seen.job_id, seen.data) == (job.id, None)


async def test_an_admin_sees_everybodys(db_url):
    async with running(db_url) as (store, watch), following(watch, "carol", owner=None) as reader:
        await see(reader)
        jobs = [(await store.jobs.add(make_job(user=user)))[0] for user in ("alice", "bob")]
        seen = {(await see_past_resets(reader)).job_id, (await see_past_resets(reader)).job_id}
        assert seen == {job.id for job in jobs}


async def test_a_reader_that_comes_back_goes_on_after_the_last_that_it_saw(db_url):
    async with running(db_url) as (store, watch), following(watch, "bob", owner=None) as other:
        await see(other)  # somebody always watches, so that changes are kept
        async with following(watch) as reader:
            await see(reader)
            first, _ = await store.jobs.add(make_job())
            place = (await see_past_resets(reader)).place
        second, _ = await store.jobs.add(make_job())
        async with following(watch, after=place) as reader:
            assert (await see(reader)).job_id == second.id
        async with following(watch, after="of-another-process-7") as reader:
            assert isinstance(await see(reader), Reset)
        assert first.id != second.id


async def test_a_reader_that_was_away_while_nobody_watched_reads_all_anew(db_url):
    async with running(db_url) as (store, watch):
        async with following(watch) as reader:
            await see(reader)
            await store.jobs.add(make_job())
            place = (await see_past_resets(reader)).place
        job, _ = await store.jobs.add(make_job())
        for _ in range(100):  # the change is passed over a moment later
            if watch._find(place) != watch._last:
                break
            await asyncio.sleep(0.02)
        async with following(watch, after=place) as reader:
            assert isinstance(await see(reader), Reset)
            await store.jobs.update(job.id, status=Status.RUNNING)
            assert (await see_past_resets(reader)).job_id == job.id


@pytest.mark.slow
async def test_a_slow_reader_costs_no_memory_and_reads_all_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(jobwatch, "KEPT", 3)
    async with running(f"sqlite:///{tmp_path}/jobs.sqlite") as (store, watch), following(watch) as reader:
        await see(reader)
        job, _ = await store.jobs.add(make_job())
        await see(reader)
        for code in range(8):
            await store.jobs.update(job.id, exit_code=code)
            for _ in range(500):
                if watch._kept and json.loads(watch._kept[-1].data)["exit_code"] == code:
                    break
                await asyncio.sleep(0.01)
        assert len(watch._kept) == 3
        seen = await see(reader)
        assert isinstance(seen, Reset)
        await store.jobs.update(job.id, status=Status.RUNNING)
        assert isinstance(await see(reader), SeenChange)


async def test_too_many_readers_of_one_user_are_refused(tmp_path):
    url = f"sqlite:///{tmp_path}/jobs.sqlite"
    async with running(url, max_watchers_per_user=1, max_watchers=2) as (_, watch):
        async with following(watch) as one:
            await see(one)
            with pytest.raises(TooManyRequests, match="You already have 1 connections"):
                await watch.follow("alice", user="alice")
            async with following(watch, "bob") as two:
                await see(two)
                with pytest.raises(Unavailable):
                    await watch.follow("carol", user="carol")
        async with following(watch) as again:
            assert isinstance(await see(again), Reset)


async def test_changes_by_another_process_are_seen(postgresql_url):
    async with (
        running(postgresql_url) as (one, _),
        running(postgresql_url) as (_, watch),
        following(watch) as reader,
    ):
        await see(reader)
        job, _ = await one.jobs.add(make_job())
        assert (await see_past_resets(reader)).job_id == job.id
        await one.jobs.request_cancel(job.id, user="alice")
        assert status_of(await see_past_resets(reader)) == Status.CANCELLED


async def test_a_database_that_was_away_is_a_reset(postgresql, postgresql_url):
    async with running(postgresql_url) as (store, watch), following(watch) as reader:
        await see(reader)
        job, _ = await store.jobs.add(make_job())
        assert (await see_past_resets(reader)).job_id == job.id
        postgresql.stop("fast")
        postgresql.start()
        assert isinstance(await see(reader), Reset)
        await store.jobs.update(job.id, status=Status.RUNNING)
        assert status_of(await see_past_resets(reader)) == Status.RUNNING


async def test_what_readers_are_told_is_read_and_made_while_others_are_answered(db_url, monkeypatch):
    in_loop, dumps = [], json.dumps

    def note(call):
        def noted(value, *args, **options):
            if threading.current_thread() is threading.main_thread():
                in_loop.append(value)
            return call(value, *args, **options)

        return noted

    async with running(db_url) as (store, watch), following(watch) as reader:
        await see(reader)
        job, _ = await store.jobs.add(make_job())
        monkeypatch.setattr(json, "dumps", note(dumps))
        monkeypatch.setattr(jobstore, "make_job", note(jobstore.make_job))
        assert json.loads((await see_past_resets(reader)).data)["id"] == job.id
    assert in_loop == []


async def test_no_more_bytes_are_kept_than_may_be_and_who_needs_an_older_change_reads_anew(db_url):
    async with running(db_url, max_kept_bytes=200_000) as (store, watch), following(watch) as reader:
        place = (await see(reader)).place
        before = LIMITS_HELD.labels("max_kept_bytes")._value.get()
        for _ in range(10):
            job = make_job()
            job.spec = JobSpec(image="x", args=["y" * 50_000])
            await store.jobs.add(job, env={"SECRET": "s3cret" * 10_000})
        async with asyncio.timeout(10):
            while watch._last < 10:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert sum(len(each.data) for each in watch._kept) == watch._kept_bytes <= 200_000
        assert 0 < len(watch._kept) < 5
        assert not any("s3cret" in each.data for each in watch._kept)
        assert LIMITS_HELD.labels("max_kept_bytes")._value.get() > before
        assert isinstance(await see(reader), Reset)
    async with running(db_url, max_kept_bytes=10) as (store, watch), following(watch, after=place) as reader:
        await see(reader)
        large, _ = await store.jobs.add(make_job())
        assert (await see_past_resets(reader)).job_id == large.id  # the newest is there, however large
