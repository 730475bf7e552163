"""The logs of many jobs at a time: what they take of memory, and that each of them goes on."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from kbatch_server.launchers.base import LogPiece
from kbatch_server.logs.memory import LEAST_BYTES, WRITES, LogMemory
from kbatch_server.logs.writer import LogLimits, LogWriter
from kbatch_server.metrics import LIMITS_HELD
from kbatch_server.models.times import utcnow
from kbatch_server.store.logs import LogRecord
from tests.support.fuzzing import peak_below

MIB = 2**20


class Storage:
    """Keeps nothing, and takes a turn of the event loop, or waits for a test, for each object."""

    def __init__(self):
        self.written = []
        self.sizes = 0
        self.opens = asyncio.Event()
        self.opens.set()
        self.at_once = self.most_at_once = 0

    async def write(self, key, chunks):
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        await self.opens.wait()
        async for chunk in chunks:
            self.sizes += len(chunk)
        self.at_once -= 1
        self.written.append(key)

    async def delete(self, key):
        pass


class Store:
    """Takes every row down."""

    def __init__(self):
        self.kept = {}

    async def keep_log(self, log, *, after, segments, dropped):
        await asyncio.sleep(0)
        self.kept[log.job_id] = log.size
        return True


class World:
    def __init__(self, total):
        self.memory, self.storage, self.store = LogMemory(total), Storage(), Store()
        self.most_used = 0
        note = self.memory.note

        def noting(holder, size, **options):
            note(holder, size, **options)
            self.most_used = max(self.most_used, self.memory.used)

        self.memory.note = noting

    def make_writer(self, number):
        return LogWriter(
            LogRecord(f"job-{number}", "p", 1, {}, 0, False, ""),
            [],
            limits=LogLimits(MIB, 2**30),
            memory=self.memory,
            storage=self.storage,
            store=self.store,
            logger=logging.getLogger("test"),
        )


def make_piece(size, number=0):
    return LogPiece(b"x" * 99 + b"\n" if size == 100 else b"x" * (size - 1) + b"\n", {"n": number}, utcnow())


async def write(writer, pieces, size=16 * 1024):
    for number in range(pieces):
        await writer.add(make_piece(size, number))
    await writer.finish("")


@pytest.mark.slow
async def test_seven_hundred_jobs_that_write_much_stay_within_the_memory_and_none_is_left_behind():
    total, count, pieces = 16 * MIB, 700, 12
    world = World(total)
    before = LIMITS_HELD.labels("max_memory_bytes")._value.get()
    writers = [world.make_writer(number) for number in range(count)]
    with peak_below(2 * total + 24 * MIB):  # of 131 MiB in all
        await asyncio.gather(*(write(writer, pieces) for writer in writers))
    assert world.most_used < 2 * total + count * LEAST_BYTES // 2
    assert set(world.store.kept.values()) == {pieces * 16 * 1024}
    assert len(world.store.kept) == count
    assert world.storage.most_at_once <= WRITES
    assert world.memory.used == 0
    assert LIMITS_HELD.labels("max_memory_bytes")._value.get() > before


async def test_as_long_as_there_is_room_a_log_is_kept_in_whole_segments():
    world = World(64 * MIB)
    await asyncio.gather(*(write(world.make_writer(number), 130) for number in range(10)))
    assert len(world.storage.written) == 10 * 3  # two of a megabyte, and the rest


async def test_what_is_kept_and_idle_makes_room_for_others_without_being_written_again():
    world = World(4 * MIB)
    idle = [world.make_writer(number) for number in range(5)]
    for writer in idle:
        for _ in range(40):
            await writer.add(make_piece(16 * 1024))
        await writer.flush()
    assert 3 * MIB < world.memory.used < 4 * MIB
    written = len(world.storage.written)
    busy = world.make_writer(9)
    for _ in range(63):
        await busy.add(make_piece(16 * 1024))
    assert world.memory.used <= 4 * MIB
    assert len(world.storage.written) == written
    for writer in idle:  # each goes on where it was
        await writer.add(make_piece(100))
        await writer.finish("")
        assert world.store.kept[writer._log.job_id] == 40 * 16 * 1024 + 100


async def test_a_job_that_writes_little_is_kept_soon_beside_many_that_write_much():
    world = World(4 * MIB)
    writers = [world.make_writer(number) for number in range(100)]
    writing = [asyncio.create_task(write(writer, 60)) for writer in writers]
    quiet = world.make_writer(1000)
    while not world.memory.is_full:  # noqa: ASYNC110 - each turn something is written
        await asyncio.sleep(0)
    begun = len(world.storage.written)
    await quiet.add(make_piece(100))
    assert quiet.read(0, 100) == b"x" * 99 + b"\n"  # a reader has it at once
    await quiet.flush()
    assert world.store.kept["job-1000"] == 100
    assert len(world.storage.written) - begun <= len(writers) + 3 * WRITES
    assert not all(task.done() for task in writing)
    await asyncio.gather(*writing)


async def test_while_the_storage_hangs_nobody_reads_on_past_the_share():
    world = World(4 * MIB)
    world.storage.opens.clear()
    writers = [world.make_writer(number) for number in range(50)]
    writing = [asyncio.create_task(write(writer, 200)) for writer in writers]
    for _ in range(2000):
        await asyncio.sleep(0)
    assert 4 * MIB < world.memory.used < 8 * MIB
    world.storage.opens.set()
    await asyncio.gather(*writing)
    assert set(world.store.kept.values()) == {200 * 16 * 1024}


async def test_what_is_remembered_of_each_second_counts_as_memory():
    world = World(MIB)
    writer = world.make_writer(1)
    for second in range(1500):
        piece = make_piece(100)
        await writer.add(replace(piece, time=datetime.fromtimestamp(second, UTC)))
    assert world.memory.used > 1500 * 100 + 1500 * 100


async def test_a_log_that_is_given_up_leaves_no_memory_taken():
    world = World(MIB)
    writer = world.make_writer(1)
    await writer.add(make_piece(LEAST_BYTES))
    assert world.memory.used > LEAST_BYTES
    writer.forget()
    assert world.memory.used == 0
