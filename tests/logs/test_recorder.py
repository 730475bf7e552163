"""Logs on their way into the storage: nothing lost, nothing doubled, whatever fails and whoever is killed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from kbatch_server.errors import Unavailable
from kbatch_server.launchers.base import LauncherUnavailable, LogNotFound
from kbatch_server.logs import recorder as logrecorder
from kbatch_server.logs import writer as logwriter
from kbatch_server.models.job import Status
from kbatch_server.storage.base import StorageError, StorageFull
from kbatch_server.store.logs import LogTaken
from tests.support.log_doubles import numbered, running_logs
from tests.support.waiting import until

LINES = numbered(3000)  # 120,000 bytes


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch):
    for module in (logwriter, logrecorder):
        monkeypatch.setattr(module, "RETRY_SECONDS", (0.001, 0.01))


@pytest.fixture
async def world(db_url):
    async with running_logs(db_url, segment_bytes=4096) as running:
        yield running


async def test_a_log_is_kept_in_segments_of_whole_lines(world):
    await world.record(data=LINES)
    assert await world.read_kept() == LINES
    segments = await world.store.logs.list_segments("job-1", "p")
    assert len(segments) == len(world.storage.objects) > 25
    assert max(each.size for each in segments) <= 4096
    assert all(each.start % 40 == 0 for each in segments)
    assert [each.start for each in segments[1:]] == [each.end for each in segments[:-1]]
    assert [each.first_line for each in segments] == [each.start // 40 + 1 for each in segments]
    [log] = await world.store.logs.list_logs("job-1")
    assert (log.attempt, log.size, log.is_complete, log.problem) == (1, len(LINES), True, "")


@pytest.mark.parametrize("piece_bytes", [1, 7, 4095, 4096, 4097, 50_000])
async def test_pieces_of_any_size(world, piece_bytes):
    world.launcher.logs["p"].piece_bytes = piece_bytes
    await world.record(data=LINES[:20_000])
    assert await world.read_kept() == LINES[:20_000]


async def test_lines_longer_than_a_segment_and_bytes_that_are_no_text(world):
    data = b"x" * 10_000 + b"\n\n\n" + bytes(range(256)) * 40 + b"no end"
    await world.record(data=data)
    assert await world.read_kept() == data


async def test_a_little_is_kept_soon_and_the_same_object_grows(db_url):
    async with running_logs(db_url, flush_seconds=0.1) as world:
        log = world.launcher.logs["p"]
        await world.add_pods("p")
        world.recorder.ensure(world.job)
        for text in (b"one\n", b"two\n"):
            before = len(world.storage.written)
            log.write(text)
            await until(lambda before=before: len(world.storage.written) > before)
        await until(lambda: list(world.storage.objects.values()) == [b"one\ntwo\n"])
        assert set(world.storage.written) == {"logs/job-1/1-000000"}


async def test_each_attempt_has_its_own_log(world):
    for pod, text in (("p", b"first\n"), ("q", b"second\n")):
        world.launcher.logs[pod].write(text)
        world.launcher.logs[pod].end()
    await world.add_pods("p", "q")
    await world.settle()
    assert [(log.pod, log.attempt) for log in await world.store.logs.list_logs("job-1")] == [
        ("p", 1),
        ("q", 2),
    ]
    assert (await world.read_kept("p"), await world.read_kept("q")) == (b"first\n", b"second\n")


async def test_a_pod_that_waits_costs_no_task_and_is_recorded_once_it_runs(world):
    world.launcher.logs["p"].write(b"it ran\n")
    world.launcher.logs["p"].end()
    await world.add_pods("p")
    [pod] = world.job.pods
    world.recorder.ensure(replace(world.job, pods=[pod.model_copy(update={"phase": "Pending"})]))
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "log-p"]
    world.recorder.ensure(world.job)
    await world.settle()
    assert await world.read_kept() == b"it ran\n"


@pytest.mark.parametrize("breaks_at", [[1], [5, 45, 4100], [39], [40], [4096, 4097, 8000, 119_999]])
async def test_a_stream_that_drops_goes_on_where_it_was(world, breaks_at):
    begun_at = list(breaks_at)
    world.launcher.logs["p"].breaks_at = breaks_at
    await world.record(data=LINES)
    assert await world.read_kept() == LINES
    assert world.launcher.logs["p"].begun_at == [0, *begun_at]


async def test_an_error_of_the_launcher_s_own_is_logged_and_survived(world, caplog):
    log = world.launcher.logs["p"]
    log.breaks_at, log.error = [1000], ZeroDivisionError("a defect")
    await world.record(data=LINES)
    assert await world.read_kept() == LINES
    assert "a defect" in caplog.text


async def test_a_launcher_that_cannot_be_asked_is_asked_again_and_said_once(world, caplog):
    world.launcher.logs["p"].fails = [LauncherUnavailable("no route")] * 5
    await world.record(data=LINES)
    assert await world.read_kept() == LINES
    assert caplog.text.count("no route") == 1


@pytest.mark.parametrize("step", range(1, 9))
@pytest.mark.parametrize("when", ["before the object", "between object and row", "after the row"])
async def test_a_kill_at_any_step_loses_nothing_and_doubles_nothing(world, monkeypatch, when, step):
    killed = asyncio.Event()
    count = 0
    write, keep = world.storage.write, world.store.logs.keep

    async def reach() -> None:
        nonlocal count
        count += 1
        if count == step:
            killed.set()
            await asyncio.Event().wait()

    async def write_or_die(key, chunks):
        if when == "before the object":
            await reach()
        return await write(key, chunks)

    async def keep_or_die(*args, **kwargs):
        if when == "between object and row":
            await reach()
        kept = await keep(*args, **kwargs)
        if when == "after the row":
            await reach()
        return kept

    monkeypatch.setattr(logwriter, "STOP_SECONDS", 0.01)
    monkeypatch.setattr(world.storage, "write", write_or_die)
    monkeypatch.setattr(world.store.logs, "keep", keep_or_die)
    log = world.launcher.logs["p"]
    log.piece_bytes = 1333
    log.write(LINES[:33_333])
    log.end()
    await world.add_pods("p")
    world.recorder.ensure(world.job)
    await asyncio.wait_for(killed.wait(), 10)
    await world.kill()
    await world.settle()
    assert await world.read_kept() == LINES[:33_333]
    assert await world.read() == LINES[:33_333]


FAULTS = [StorageError("away"), StorageFull("full")]


@pytest.mark.parametrize("error", FAULTS)
async def test_a_storage_that_fails_is_waited_for_and_nothing_is_lost(world, caplog, error):
    world.storage.errors = [error] * 12
    await world.record(data=LINES)
    assert await world.read_kept() == LINES
    assert caplog.text.count("its log cannot be saved now") == 1


async def test_a_database_that_is_away_is_waited_for_and_nothing_is_lost(world, monkeypatch):
    keep, failures = world.store.logs.keep, [Unavailable("away")] * 7

    async def keep_or_fail(*args, **kwargs):
        if failures:
            raise failures.pop()
        return await keep(*args, **kwargs)

    monkeypatch.setattr(world.store.logs, "keep", keep_or_fail)
    await world.record(data=LINES)
    assert await world.read_kept() == LINES


async def test_a_slow_storage_stops_the_reading_and_not_the_readers(world):
    world.storage.opens.clear()
    log = world.launcher.logs["p"]
    log.write(LINES)
    log.end()
    await world.add_pods("p")
    world.recorder.ensure(world.job)
    await until(lambda: bool(world.storage.written))
    await asyncio.sleep(0.05)  # time in which it would read on
    writer = world.recorder.find_writer("job-1", "p")
    assert writer.end <= 4096 + log.piece_bytes
    assert await world.read() == LINES[: writer.end]
    assert not world.recorder.settle(world.job)
    world.storage.opens.set()
    await world.settle()
    assert await world.read_kept() == LINES


async def test_stopping_keeps_what_is_in_memory_and_the_next_start_goes_on(world):
    log = world.launcher.logs["p"]
    log.write(LINES[:50_001])
    await world.add_pods("p")
    world.recorder.ensure(world.job)
    await until(lambda: (w := world.recorder.find_writer("job-1", "p")) is not None and w.end == 50_001)
    await world.recorder.stop()
    assert await world.read_kept() == LINES[:50_001]
    assert world.launcher.open_logs == 0
    world.start()
    log.write(LINES[50_001:])
    log.end()
    await world.settle()
    assert await world.read_kept() == LINES
    assert log.begun_at == [0, 50_001]


async def test_stopping_does_not_wait_for_ever_for_a_storage(world, monkeypatch):
    monkeypatch.setattr(logwriter, "STOP_SECONDS", 0.05)
    monkeypatch.setattr(logrecorder, "STOP_SECONDS", 0.05)
    world.storage.opens.clear()
    world.launcher.logs["p"].write(LINES)
    await world.add_pods("p")
    world.recorder.ensure(world.job)
    await until(lambda: bool(world.storage.written))
    async with asyncio.timeout(5):
        await world.recorder.stop()


async def test_a_stop_that_is_cut_off_does_not_keep_the_next_start_from_recording(world, monkeypatch):
    """Who leads waits a while for each part to stop, and may lead again: its logs must not stay forgotten."""
    monkeypatch.setattr(logwriter, "STOP_SECONDS", 0.5)
    world.storage.opens.clear()
    world.launcher.logs["p"].write(LINES)
    world.launcher.logs["p"].end()
    await world.add_pods("p")
    world.recorder.ensure(world.job)
    await until(lambda: bool(world.storage.written))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await world.recorder.stop()
    world.storage.opens.set()
    await world.recorder.start()
    await world.settle()
    assert await world.read_kept() == LINES


async def test_who_has_lost_the_lead_neither_doubles_a_log_nor_opens_it_again(world):
    """Another leads already, and has read to the end, when what the first one writes comes through."""
    world.launcher.logs["p"].write(b"one\n")
    await world.record(data=b"two\n")
    [log] = await world.store.logs.list_logs("job-1")
    assert (log.size, log.is_complete) == (8, True)
    late = replace(log, is_complete=False)
    for each, after in ((late, 4), (late, 8), (replace(late, size=4), 0), (replace(late, size=12), 4)):
        with pytest.raises(LogTaken):
            await world.store.logs.keep(each, after=after)
    assert await world.store.logs.list_logs("job-1") == [log]
    assert await world.store.logs.keep(log, after=4), "the same again, whose answer was lost"


async def test_a_pod_that_is_gone_for_good_leaves_what_was_read_and_says_so(world):
    log = world.launcher.logs["p"]
    log.write(LINES)
    log.breaks_at, log.error = [50_001], LogNotFound("Its pod was removed.")
    await world.add_pods("p")
    await world.settle()
    [record] = await world.store.logs.list_logs("job-1")
    assert (record.is_complete, record.problem) == (True, "Its pod was removed.")
    assert await world.read() == LINES[:50_001] + b"\n[... Its pod was removed. ...]\n"


async def test_a_job_of_a_launcher_without_pods_has_one_log(world):
    world.job, _ = await world.store.jobs.add(world.job)
    world.launcher.logs["job-1"].write(b"hello\n")
    world.launcher.logs["job-1"].end()
    await world.update(status=Status.SUCCEEDED)
    await world.settle()
    assert await world.read() == b"hello\n"


async def test_of_a_long_log_the_middle_is_cut_out_and_the_rest_is_kept(db_url):
    async with running_logs(db_url, max_log_bytes=2**16, segment_bytes=4096) as world:
        data = numbered(10_000)  # 400,000 bytes
        await world.record(data=data)
        segments = await world.store.logs.list_segments("job-1", "p")
        sizes = [each.size for each in segments]
        assert 2**16 - 2 * 4096 <= sum(sizes) <= 2**16
        assert len(world.storage.objects) == len(segments)
        head = [each for each in segments if each.end <= 2**15]
        cut = segments[len(head)].start - head[-1].end
        gap = f"[... {cut} bytes were cut out here: the log is longer than 65536 bytes ...]\n".encode()
        assert await world.read() == data[: head[-1].end] + gap + data[segments[len(head)].start :]
        assert 2**15 - 40 <= head[-1].end <= 2**15


async def test_a_log_that_is_cut_while_storage_and_service_fail_is_what_the_rows_say(db_url):
    async with running_logs(db_url, max_log_bytes=2**16, segment_bytes=4096) as world:
        data = numbered(10_000)
        log = world.launcher.logs["p"]
        log.breaks_at = [70_001, 250_000]
        log.write(data)
        await world.add_pods("p")
        for size in (50_000, 150_000, 300_000):
            world.recorder.ensure(world.job)
            await until(
                lambda size=size: (
                    (w := world.recorder.find_writer("job-1", "p")) is not None and w.end >= size
                )
            )
            world.storage.errors = [StorageError("away")] * 3
            await world.kill()
        log.end()
        await world.settle()
        shown = await world.read()
        head, _, rest = shown.partition(b"[... ")
        assert data.startswith(head)
        assert data.endswith(rest.partition(b"\n")[2])
        assert 2**16 - 3 * 4096 <= len(shown) <= 2**16 + 100


async def test_nothing_is_left_of_a_deleted_log_not_even_an_object_without_a_row(world):
    log = world.launcher.logs["p"]
    log.write(LINES)
    await world.add_pods("p")
    world.recorder.ensure(world.job)
    await until(lambda: len(world.storage.objects) > 20)
    await world.recorder.delete_log("job-1")
    assert world.launcher.open_logs == 0
    [*_, last] = sorted(world.storage.written)
    assert world.storage.objects == {}
    assert await world.store.logs.list_logs("job-1") == []
    await world.store.jobs.remove("job-1")
    await world.recorder.delete_log("job-1")
    assert last.startswith("logs/job-1/1-")


async def test_a_log_whose_objects_cannot_be_deleted_now_stays_known(world):
    await world.record(data=LINES)
    world.storage.fails_always = StorageError("away")
    with pytest.raises(StorageError):
        await world.recorder.delete_log("job-1")
    assert await world.store.logs.list_logs("job-1")
    world.storage.fails_always = None
    await world.recorder.delete_log("job-1")
    assert world.storage.objects == {}


async def test_the_recorder_of_a_job_that_is_removed_meanwhile_ends(world):
    log = world.launcher.logs["p"]
    log.write(LINES)
    await world.add_pods("p")
    await world.store.jobs.remove("job-1")
    world.recorder.ensure(world.job)
    await world.settle()
    assert world.launcher.open_logs == 0


async def test_many_seconds_in_one_segment_make_no_endless_row(world, monkeypatch):
    monkeypatch.setattr(logwriter, "MAX_TIMES", 50)
    log = world.launcher.logs["p"]
    log.piece_bytes = 10
    for number in range(200):
        log.write(f"{number:9}\n".encode(), time=datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=number))
    log.end()
    await world.add_pods("p")
    await world.settle()
    segments = await world.store.logs.list_segments("job-1", "p", times=True)
    assert [len(each.times) for each in segments] == [50, 50, 50, 50]
