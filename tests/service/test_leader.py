"""Who leads: one process at a time, another when that one is gone, and what the others tell it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest

from kbatch_server.engine.leader import Leader
from kbatch_server.errors import Unavailable
from kbatch_server.logs.recorder import LogRecorder
from tests.support.waiting import until
from tests.support.world import World

LIMIT_SECONDS = 20


class Recorder(LogRecorder):
    """Remembers whether it was to drop what it has in memory."""

    is_dropped = False

    def drop(self):
        self.is_dropped = True
        super().drop()


class Part:
    """Begins and ends as the leader says; fails where a test says."""

    def __init__(self):
        self.is_running = False
        self.fails = None
        self.has_failed = False

    async def start(self):
        if self.fails:
            self.has_failed = True
            raise self.fails
        self.is_running = True

    async def stop(self):
        self.is_running = False


class Replica:
    """What of a process has to do with leading."""

    def __init__(self, url):
        world = World(url)
        self.store, self.reconciler = world.store, world.reconciler
        self.part = Part()
        self.recorder = Recorder(launcher=world.launcher, storage=world.storage, logs=self.store.logs)
        self.looked_at = asyncio.Queue()
        self.reconciler.reconcile = self.looked_at.put
        self.leader = Leader(
            launcher=world.launcher,
            parts=[self.part],
            reconciler=self.reconciler,
            recorder=self.recorder,
            store=self.store,
            retry_seconds=0.1,
        )

    async def start(self):
        await self.store.open()
        await self.leader.start()

    async def stop(self):
        await self.leader.stop()
        await self.store.close()


@asynccontextmanager
async def running(url, count):
    replicas = [Replica(url) for _ in range(count)]
    started = []
    try:
        for replica in replicas:
            started.append(replica)
            await replica.start()
        yield replicas
    finally:
        for replica in started:
            await replica.stop()


def end_session(postgresql, url):
    """End the database's session of the process that leads."""
    [[ended]] = postgresql.execute(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        url=url,
    )
    assert ended == 1


async def test_a_process_with_sqlite_leads_from_its_start(tmp_path):
    async with running(f"sqlite:///{tmp_path}/jobs.sqlite", 1) as [only]:
        assert only.leader.is_leading
        assert only.part.is_running
        only.leader.look("job-1")
        assert await asyncio.wait_for(only.looked_at.get(), LIMIT_SECONDS) == "job-1"
    assert not only.part.is_running
    assert not only.recorder.is_dropped


async def test_one_of_several_leads_and_another_when_it_ends(postgresql_url):
    async with running(postgresql_url, 3) as replicas:
        assert [each.leader.is_leading for each in replicas] == [True, False, False]
        assert [each.part.is_running for each in replicas] == [True, False, False]
        await replicas[0].leader.stop()
        assert not replicas[0].part.is_running
        assert not replicas[0].recorder.is_dropped  # it had the time to keep what it had
        await until(lambda: sum(each.leader.is_leading for each in replicas[1:]) == 1)
        assert sum(each.part.is_running for each in replicas) == 1


async def test_who_loses_its_session_stops_at_once_and_may_lead_again(postgresql, postgresql_url):
    async with running(postgresql_url, 1) as [only]:
        for _ in range(3):
            end_session(postgresql, postgresql_url)
            await until(lambda: not only.leader.is_leading and not only.part.is_running)
            assert only.recorder.is_dropped  # another may record by now
            await until(lambda: only.leader.is_leading)
            assert only.part.is_running
            only.leader.look("job-1")
            assert await asyncio.wait_for(only.looked_at.get(), LIMIT_SECONDS) == "job-1"


async def test_what_is_told_to_any_process_is_looked_at_by_the_one_that_leads(postgresql_url):
    async with running(postgresql_url, 2) as [leader, other]:
        ids = [f"job-{i}" for i in range(250)]
        for job_id in ids:
            other.leader.look(job_id)
        async with asyncio.timeout(LIMIT_SECONDS):
            assert {await leader.looked_at.get() for _ in ids} == set(ids)
        assert other.looked_at.empty()


async def test_news_that_cannot_be_told_do_not_end_the_telling(postgresql_url, monkeypatch):
    async with running(postgresql_url, 2) as [leader, other]:
        announce = other.store.announce

        async def fail(ids):
            monkeypatch.setattr(other.store, "announce", announce)
            raise Unavailable("The database does not answer.")

        monkeypatch.setattr(other.store, "announce", fail)
        other.leader.look("lost")
        await until(lambda: other.store.announce is announce)
        other.leader.look("told")
        assert await asyncio.wait_for(leader.looked_at.get(), LIMIT_SECONDS) == "told"


async def test_who_cannot_start_its_parts_leaves_the_lead_to_another(postgresql_url):
    async with running(postgresql_url, 3) as [first, broken, good]:
        broken.part.fails = OSError("no such folder")
        await good.leader.stop()
        await first.leader.stop()
        await until(lambda: broken.part.has_failed)
        await good.leader.start()
        await until(lambda: good.leader.is_leading)
        assert good.part.is_running
        assert not broken.leader.is_leading


async def test_a_wrong_setting_ends_the_start_and_leaves_nothing_running(postgresql_url):
    replica = Replica(postgresql_url)
    replica.part.fails = ValueError("a wrong setting")
    await replica.store.open()
    with pytest.raises(ValueError, match="a wrong setting"):
        await replica.leader.start()
    assert not replica.leader.is_leading
    async with running(postgresql_url, 1) as [other]:
        assert other.leader.is_leading
    await replica.store.close()


async def test_a_part_that_does_not_stop_holds_up_the_others_for_a_limited_time(
    postgresql_url, monkeypatch, caplog
):
    monkeypatch.setattr("kbatch_server.engine.leader.STOP_SECONDS", 0.1)
    async with running(postgresql_url, 1) as [only]:
        only.part.stop = asyncio.Event().wait
        only.leader.log = logging.getLogger("test")
        await asyncio.wait_for(only.leader.stop(), LIMIT_SECONDS)
        assert "Part did not stop cleanly" in caplog.text
        async with running(postgresql_url, 1) as [other]:
            assert other.leader.is_leading
