"""The threads that read the database: users take turns, and one who asks for much waits for themself."""

from __future__ import annotations

import asyncio
import threading

import pytest

from kbatch_server.audit import ORIGIN, Origin
from kbatch_server.metrics import LIMITS_HELD
from kbatch_server.store.database.readers import Readers


class Work:
    """Reads that end when a test says so."""

    def __init__(self, readers):
        self.readers = readers
        self.begun = []
        self.ended = []
        self.may_end = threading.Event()

    async def _ask(self, user, name):
        ORIGIN.set(None if user is None else Origin(who=user))

        def read():
            self.begun.append(name)
            assert self.may_end.wait(30)
            self.ended.append(name)
            return name

        return await self.readers.run(read)

    async def ask(self, user, *names):
        tasks = [asyncio.create_task(self._ask(user, name)) for name in names]
        await asyncio.sleep(0.01)
        return tasks

    async def begin(self, count):
        async with asyncio.timeout(10):
            while len(self.begun) < count:  # noqa: ASYNC110 - a thread adds to it
                await asyncio.sleep(0.01)


@pytest.fixture
async def work():
    work = Work(Readers(3, name="database-reader"))
    yield work
    work.may_end.set()
    await work.readers.close()


async def test_the_many_reads_of_one_user_hold_up_no_other(work):
    held = LIMITS_HELD.labels("database_reader")._value.get()
    many = await work.ask("mallory", *(f"m{i}" for i in range(200)))
    await work.begin(2)
    own = await work.ask(None, "health")
    await work.begin(3)
    assert work.begun == ["m0", "m1", "health"]
    others = await work.ask("alice", "a0") + await work.ask("bob", "b0")
    work.may_end.set()
    assert await asyncio.gather(*own, *others) == ["health", "a0", "b0"]
    assert {"a0", "b0"} <= set(work.begun[:8])  # long before the last of those who came first
    assert await asyncio.gather(*many) == [f"m{i}" for i in range(200)]
    assert LIMITS_HELD.labels("database_reader")._value.get() == held + 200


async def test_a_read_that_nobody_waits_for_has_its_thread_until_it_is_done(work):
    given_up = await work.ask("mallory", "m0", "m1")
    await work.begin(2)
    for task in given_up:
        task.cancel()
    await asyncio.wait(given_up)
    await work.ask("mallory", "m2", "m3")
    alice = await work.ask("alice", "a0")
    await work.begin(3)
    assert work.begun == ["m0", "m1", "a0"]
    work.may_end.set()
    assert await asyncio.gather(*alice) == ["a0"]
    await work.begin(5)


async def test_a_read_that_is_given_up_while_it_waits_is_not_done(work):
    first = await work.ask("mallory", "m0", "m1", "m2")
    first[2].cancel()
    await work.begin(2)
    work.may_end.set()
    await asyncio.wait(first)
    assert await asyncio.gather(*await work.ask("mallory", "m3")) == ["m3"]
    assert "m2" not in work.begun


async def test_what_waits_for_its_turn_is_done_before_the_threads_end(work):
    tasks = await work.ask("alice", "a0", "a1", "a2", "a3")
    closing = asyncio.create_task(work.readers.close())
    await asyncio.sleep(0.01)
    work.may_end.set()
    await closing
    assert await asyncio.gather(*tasks) == ["a0", "a1", "a2", "a3"]


async def test_what_a_read_raises_is_raised_where_it_was_asked_for(work):
    def read():
        raise ValueError("no")

    for _ in range(5):
        with pytest.raises(ValueError, match="no"):
            await work.readers.run(read)
