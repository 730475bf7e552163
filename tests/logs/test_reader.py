"""Reading logs: whole, in part, searched and followed, from the storage and from what is in memory."""

from __future__ import annotations

import asyncio
import itertools
import threading
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from kbatch_server.errors import NotFound, Unavailable
from kbatch_server.launchers.base import LogNotFound
from kbatch_server.logs import follower as logfollower
from kbatch_server.logs import reader as logreader
from kbatch_server.logs import recorder as logrecorder
from kbatch_server.logs import text as log_text
from kbatch_server.logs import writer as logwriter
from kbatch_server.logs.lines import MAX_LINE_BYTES, MAX_SHOWN_BYTES, LineSearch
from kbatch_server.logs.reader import LogPlace, LogSelection
from kbatch_server.logs.terminal import show_plain
from kbatch_server.logs.text import LogText, TextPart
from kbatch_server.metrics import LIMITS_HELD
from kbatch_server.models.job import Status
from kbatch_server.models.times import utcnow
from kbatch_server.storage.base import StorageError
from tests.support.fuzzing import peak_below
from tests.support.log_doubles import numbered, running_logs
from tests.support.waiting import until

LINES = numbered(1000)  # 40,000 bytes
START = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch):
    for module in (logwriter, logrecorder):
        monkeypatch.setattr(module, "RETRY_SECONDS", (0.001, 0.01))
    for module in (logreader, logfollower):
        monkeypatch.setattr(module, "POLL_SECONDS", (0.005, 0.02))


@pytest.fixture
async def world(db_url):
    async with running_logs(db_url, segment_bytes=4096) as running:
        yield running


async def begin(world, data, pod="p"):
    """Let a pod write, and wait until that was read; it goes on."""
    log = world.launcher.logs[pod]
    log.write(data)
    await world.add_pods(pod)
    world.recorder.ensure(world.job)
    size = len(log.data)
    await until(lambda: (w := world.recorder.find_writer("job-1", pod)) is not None and w.end == size)
    return log


async def collect(pieces):
    return b"".join([piece.data async for piece in pieces])


# in part


@pytest.mark.parametrize("ends", ["a line", "in the middle of a line"])
@pytest.mark.parametrize("is_running", [True, False])
async def test_the_last_lines(world, ends, is_running):
    data = LINES if ends == "a line" else LINES + b"unfinished"
    if is_running:
        await begin(world, data)
    else:
        await world.record(data=data)
    lines = data.splitlines(keepends=True)
    for count in (1, 2, 99, 102, 103, 104, 500, len(lines) - 1, len(lines)):
        assert await world.read(LogSelection(tail=count)) == b"".join(lines[-count:]), count
    assert await world.read(LogSelection(tail=0)) == b""
    assert await world.read(LogSelection(tail=10**7)) == data


@pytest.mark.parametrize("is_running", [True, False])
async def test_what_was_written_since_a_time(world, is_running):
    log = world.launcher.logs["p"]
    log.piece_bytes = 40
    for number in range(1000):
        log.write(LINES[number * 40 : number * 40 + 40], time=START + timedelta(seconds=number))
    await (begin(world, b"") if is_running else world.record())
    for second in (0, 1, 101, 102, 103, 500, 999):
        for moment in (START + timedelta(seconds=second), START + timedelta(seconds=second, microseconds=9)):
            assert await world.read(LogSelection(since=moment)) == LINES[second * 40 :]
    assert await world.read(LogSelection(since=START - timedelta(days=1))) == LINES
    assert await world.read(LogSelection(since=START + timedelta(days=1))) == b""
    both = LogSelection(since=START + timedelta(seconds=990), tail=20)
    assert await world.read(both) == LINES[990 * 40 :]


@pytest.mark.parametrize("is_running", [True, False])
async def test_any_part_of_the_text(world, is_running):
    await (begin(world, LINES) if is_running else world.record(data=LINES))
    text, _ = await world.reader.open(world.job)
    assert text.size == len(LINES)
    for start, end in [(0, 1), (4095, 4097), (1, 39_999), (39_990, 99_999), (4096, 8192), (77, 77)]:
        assert b"".join([data async for data, _ in text.read(start, end)]) == LINES[start:end]


async def test_parts_of_a_text_with_a_gap(db_url):
    async with running_logs(db_url, max_log_bytes=2**16, segment_bytes=4096) as world:
        await world.record(data=numbered(10_000))
        text, _ = await world.reader.open(world.job)
        whole = await world.read()
        gap = whole.index(b"[...")
        assert text.size == len(whole)
        for start, end in [(gap - 5, gap + 5), (gap + 1, gap + 90), (0, gap), (gap, len(whole))]:
            assert b"".join([data async for data, _ in text.read(start, end)]) == whole[start:end]
        count = whole[gap:].count(b"\n")
        for lines in (count - 1, count, count + 1):
            assert await world.read(LogSelection(tail=lines)) == b"".join(
                whole.splitlines(keepends=True)[-lines:]
            )
        numbers = [hit.line async for hit in text.search(" ...")]
        shown = [int(line.split()[0]) for line in whole.splitlines() if not line.startswith(b"[")]
        assert numbers == shown


# which


async def test_each_attempt_by_number_and_by_pod(world):
    for pod in ("p", "q"):
        world.launcher.logs[pod].write(f"from {pod}\n".encode())
        world.launcher.logs[pod].end()
    await world.add_pods("p", "q")
    await world.settle()
    assert await world.read() == b"from q\n"
    assert await world.read(LogSelection(attempt=1)) == await world.read(LogSelection(pod="p")) == b"from p\n"
    with pytest.raises(NotFound, match="no attempt 3"):
        await world.read(LogSelection(attempt=3))
    with pytest.raises(NotFound, match="no pod 'x'"):
        await world.read(LogSelection(pod="x"))


async def test_a_job_that_waits_has_no_log_and_a_silent_one_an_empty_one(world):
    await world.add_pods("p")
    await world.update(status=Status.PENDING, message="No node has room.")
    with pytest.raises(NotFound, match="No node has room"):
        await world.read()
    await world.update(status=Status.RUNNING)
    assert await world.read() == b""


async def test_a_command_that_never_started_has_no_log(world):
    await world.add_pods("p")
    await world.update(status=Status.FAILED, message="There is no such program.")
    await world.settle()
    with pytest.raises(NotFound, match="no such program"):
        await world.read()


async def test_a_log_that_was_removed_says_so(world):
    await world.record(data=LINES)
    await world.update(status=Status.FAILED, message="Exit code 3.", cleaned_at=utcnow())
    assert await world.read() == LINES
    await world.recorder.delete_log("job-1")
    with pytest.raises(NotFound, match=r"Job 'job-1' has no log\."):
        await world.read()


# while things happen


async def test_a_reader_of_a_job_that_has_just_ended_gets_all_of_it(world):
    log = await begin(world, b"begun\n")
    await world.update(status=Status.SUCCEEDED)
    reading = asyncio.create_task(world.read())
    await asyncio.sleep(0.05)
    log.write(b"ended\n")
    log.end()
    assert await asyncio.wait_for(reading, 5) == b"begun\nended\n"


async def test_a_reader_does_not_wait_for_ever_and_says_what_is_missing(world):
    await begin(world, b"begun")
    await world.update(status=Status.SUCCEEDED)
    assert (
        await world.read(LogSelection(patience_seconds=0.05))
        == f"begun\n[... {logreader.NOT_YET} ...]\n".encode()
    )


async def test_a_storage_that_does_not_answer_is_said(world):
    await world.record(data=LINES)
    world.storage.fails_always = StorageError("away")
    with pytest.raises(Unavailable, match="away"):
        await world.read()
    with pytest.raises(Unavailable, match="away"):
        await world.read(LogSelection(tail=2000))


async def test_what_is_cut_out_while_it_is_read_is_said(db_url):
    async with running_logs(db_url, max_log_bytes=2**16, segment_bytes=4096) as world:
        log = await begin(world, numbered(1500))  # nearly full
        pieces = await world.reader.read(world.job)
        await anext(pieces)
        log.write(numbered(1500, start=1501))
        await until(lambda: world.recorder.find_writer("job-1", "p").end == 120_000)
        shown = await collect(pieces)
        assert b"bytes were cut out here ...]\n" in shown


async def test_another_process_reads_the_record(world):
    log = await begin(world, LINES)
    await world.recorder.stop()
    world.start()
    assert await world.read() == LINES
    assert log.begun_at == [0]


# following


async def test_a_log_is_followed_as_it_grows_through_memory_and_storage(world):
    log = world.launcher.logs["p"]
    await world.add_pods("p")
    world.recorder.ensure(world.job)
    following = [asyncio.create_task(collect(world.follow())) for _ in range(5)]
    slow = world.follow()
    for start in range(0, 40_000, 777):
        log.write(LINES[start : start + 777])
        await asyncio.sleep(0)
    first = await anext(slow)
    log.end()
    await world.settle()
    await world.update(status=Status.SUCCEEDED)
    async with asyncio.timeout(10):
        assert await asyncio.gather(*following) == [LINES] * 5
        assert first.data + await collect(slow) == LINES
    assert log.begun_at == [0]


async def test_a_follower_in_another_process_reads_the_rows(db_url):
    async with running_logs(db_url, segment_bytes=4096, flush_seconds=0.1) as world:
        recorder = world.recorder
        log = await begin(world, LINES[:20_000])
        world.start()  # a reader beside a recorder that knows nothing
        following = asyncio.create_task(collect(world.follow()))
        for start in range(20_000, 40_000, 5000):
            log.write(LINES[start : start + 5000])
            await asyncio.sleep(0.05)
        log.end()
        while not recorder.settle(world.job):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await world.update(status=Status.SUCCEEDED)
        assert await asyncio.wait_for(following, 10) == LINES


async def test_the_last_lines_are_followed_by_what_comes(world):
    log = await begin(world, LINES)
    following = world.follow(LogSelection(tail=2))
    assert (await anext(following)).data == LINES[-80:]
    log.write(b"more\n")
    assert (await anext(following)).data == b"more\n"
    log.end()
    await world.settle()
    await world.update(status=Status.SUCCEEDED)
    assert await collect(following) == b""


@pytest.mark.parametrize("is_running", [True, False])
async def test_who_follows_a_log_holds_little_of_it_in_memory(world, monkeypatch, is_running):
    monkeypatch.setattr(logfollower, "FOLLOWED_BYTES", 1000)
    await (begin(world, LINES) if is_running else world.record(data=LINES))
    texts, make_text = [], world.reader.make_text

    async def kept(*args, **options):
        text = await make_text(*args, **options)
        texts[:] = [text]
        return text

    monkeypatch.setattr(world.reader, "make_text", kept)
    for begins in (LogSelection(), LogSelection(tail=800)):
        async with asyncio.timeout(10), aclosing(world.follow(begins)) as pieces:
            got = [await anext(pieces) for _ in range(10)]
        assert max(len(piece.data) for piece in got) <= 1000
        assert not sum(len(part.data) for part in texts[0]._parts)
        whole = LINES[-40 * (begins.tail or 1000) :]
        data = b"".join(piece.data for piece in got)
        assert whole.startswith(data)
        assert got[-1].place.offset == len(LINES) - len(whole) + len(data)
    pieces = [piece async for piece in await world.reader.read(world.job, most=1000)]
    assert max(len(piece.data) for piece in pieces) <= 1000
    assert b"".join(piece.data for piece in pieces) == LINES


async def test_the_last_lines_of_a_log_with_a_gap_are_followed(db_url):
    async with running_logs(db_url, max_log_bytes=2**16, segment_bytes=4096) as world:
        log = await begin(world, numbered(10_000) + b"half a line")
        whole = await world.read()
        lines = whole.splitlines(keepends=True)
        gap = next(number for number, line in enumerate(reversed(lines), 1) if line.startswith(b"[..."))
        following = {}
        for tail in (0, 1, 2, 50, gap - 1, gap, gap + 1, len(lines), 20_000):
            following[tail] = asyncio.create_task(collect(world.follow(LogSelection(tail=tail))))
        await asyncio.sleep(0.1)
        log.write(b"; more\n")
        log.end()
        await world.settle()
        await world.update(status=Status.SUCCEEDED)
        async with asyncio.timeout(10):
            for tail, task in following.items():
                last = b"".join(lines[-tail:]) if tail else b""
                assert (await task) == last + b"; more\n", tail


async def test_following_goes_on_after_a_place_over_attempts(world):
    for pod in ("p", "q"):
        world.launcher.logs[pod].write(f"from {pod}\n".encode() * 10)
        world.launcher.logs[pod].end()
    await world.add_pods("p", "q")
    await world.settle()
    await world.update(status=Status.SUCCEEDED)
    pieces = [piece async for piece in world.follow()]
    whole = b"from p\n" * 10 + b"from q\n" * 10
    assert b"".join(piece.data for piece in pieces) == whole
    for place, rest in [
        (LogPlace(1, 0), whole),
        (LogPlace(1, 9), whole[9:]),
        (LogPlace(1, 70), whole[70:]),
        (LogPlace(2, 7), whole[77:]),
        (LogPlace(2, 70), b""),
        (LogPlace(3, 0), b""),
        (pieces[0].place, b"".join(piece.data for piece in pieces[1:])),
    ]:
        assert await collect(world.follow(after=place)) == rest


async def test_following_ends_when_the_job_is_deleted(world, monkeypatch):
    monkeypatch.setattr(logfollower, "NEWS_SECONDS", 0.02)
    await begin(world, b"begun\n")
    following = world.follow()
    assert (await anext(following)).data == b"begun\n"
    await world.store.jobs.request_delete("job-1", user=None)
    async with asyncio.timeout(5):
        assert await collect(following) == b""


async def test_an_end_that_does_not_come_breaks_the_following_off(world, monkeypatch):
    monkeypatch.setattr(logfollower, "NEWS_SECONDS", 0.02)
    monkeypatch.setattr(logfollower, "COMPLETE_SECONDS", 0.05)
    await begin(world, b"begun\n")
    await world.update(status=Status.SUCCEEDED)
    following = world.follow()
    assert (await anext(following)).data == b"begun\n"
    with pytest.raises(Unavailable, match="cut off"):
        await asyncio.wait_for(collect(following), 5)


async def test_a_log_with_a_problem_says_so_to_a_follower(world):
    log = await begin(world, b"begun\n")
    following = world.follow()
    assert (await anext(following)).data == b"begun\n"
    log.breaks_at, log.error = [7], LogNotFound("Its pod was removed.")
    log.write(b"x")
    await world.settle()
    await world.update(status=Status.FAILED)
    assert await asyncio.wait_for(collect(following), 5) == b"x\n[... Its pod was removed. ...]\n"


async def test_dropped_followers_leave_no_task(world):
    await begin(world, b"begun\n")
    before = asyncio.all_tasks()
    for _ in range(60):
        following = world.follow()
        await anext(following)
        await following.aclose()
    assert asyncio.all_tasks() == before
    assert world.launcher.open_logs == 1


# searching


@pytest.mark.parametrize("is_running", [True, False])
async def test_lines_are_found_with_their_numbers(world, is_running):
    data = LINES.replace(b"\n500 .", b"\nAn Error, caf\xc3\x89: 500 .").replace(b"\n999 .", b"\nERROR 999 .")
    await (begin(world, data) if is_running else world.record(data=data))
    text, _ = await world.reader.open(world.job)
    for words, lines in [("error", [500, 999]), ("CAFé", [500]), ("none such", []), ("1000 .", [1000])]:
        assert [hit.line async for hit in text.search(words)] == lines
    assert [hit.text async for hit in text.search("error 9")] == ["ERROR 999 " + "." * 35]


def make_bar(steps):
    """Return what a progress bar writes, each of its states drawn over the one before."""
    return b"".join(b"\rstep %d/%d [%-50s]" % (n, steps, b"#" * (50 * n // steps)) for n in range(steps + 1))


@pytest.mark.parametrize("is_running", [True, False])
async def test_a_progress_bar_is_its_last_state_and_the_raw_log_its_whole_history(world, is_running):
    data = b"begin\n" + make_bar(1000) + b"\n\x1b[1mINFO\x1b[0m | saved\n" + make_bar(50)
    await (begin(world, data) if is_running else world.record(data=data))
    text, _ = await world.reader.open(world.job)
    for words, lines in [("1000/1000", [2]), ("500/1000", []), ("INFO | saved", [3]), ("50/50", [4])]:
        assert [hit.line async for hit in text.search(words)] == lines, words
    assert [hit.text async for hit in text.search("info")] == ["INFO | saved"]
    last = "step 50/50 [" + "#" * 50 + "]"
    assert [(line.line, line.text) async for line in text.read_lines(1, 100)] == [
        (1, "begin"),
        (2, "step 1000/1000 [" + "#" * 50 + "]"),
        (3, "\x1b[1mINFO\x1b[0m | saved"),
        (4, last),
    ]
    assert [line.line async for line in text.read_lines(4, 1)] == [4]
    assert await world.read() == data


async def test_a_line_that_is_drawn_on_goes_on_from_what_was_shown(world):
    log = await begin(world, b"50% of all\r")
    text, _ = await world.reader.open(world.job)
    (line,) = [line async for line in text.read_lines(1, 1)]
    log.write(b"60%")
    log.end()
    await world.settle()
    text, _ = await world.reader.open(world.job)
    assert [line.text async for line in text.read_lines(1, 1)] == ["60% of all"]
    assert show_plain(line.text.encode() + b"60%") == b"60% of all"


async def test_a_search_begins_where_the_selection_does(world):
    await world.record(data=LINES)
    text, _ = await world.reader.open(world.job, LogSelection(tail=300))
    assert [hit.line async for hit in text.search("00 .")] == [800, 900, 1000]


async def test_a_search_that_takes_long_ends_with_what_it_has_found(world, monkeypatch):
    await world.record(data=LINES)
    world.reader.max_search_seconds = 50
    text, _ = await world.reader.open(world.job)
    seconds = itertools.count(step=10)
    monkeypatch.setattr(log_text, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    held = LIMITS_HELD.labels("max_search_seconds")
    before = held._value.get()
    found = [hit.line async for hit in text.search(".")]
    assert 0 < len(found) < 1000
    assert found == list(range(1, len(found) + 1))
    assert text.search_took_too_long
    assert held._value.get() == before + 1
    whole, _ = await world.reader.open(world.job)
    assert [hit.line async for hit in whole.search(".", most=3)] == [1, 2, 3]
    assert not whole.search_took_too_long


async def test_a_search_draws_little_at_a_time_in_a_thread_when_it_is_its_turn(monkeypatch):
    data = b"50%\r100%\b\n" * 50_000
    begin = data.index(b"\n", 3 * log_text.DRAWN_SLICE_BYTES) + 1
    half = len(data) // 2
    parts = [
        TextPart(half, half, 0, data=data[:half], first_line=1),
        TextPart(len(data) - half, len(data), 0, data=data[half:], first_line=1 + data.count(b"\n", 0, half)),
    ]
    text = LogText(parts, None, end=len(data), is_complete=True)
    text.begin = begin
    sizes, turns, add = [], [], LineSearch.add

    @asynccontextmanager
    async def take_turn():
        turns.append(True)
        yield
        turns.append(False)

    def watch(self, piece, first_line):
        assert turns[-1]
        assert threading.current_thread() is not threading.main_thread()
        sizes.append(len(piece))
        return add(self, piece, first_line)

    monkeypatch.setattr(LineSearch, "add", watch)
    hits = [hit async for hit in text.search("100%", take_turn=take_turn)]
    assert [hit.line for hit in hits] == list(range(data.count(b"\n", 0, begin) + 1, 50_001))
    assert {hit.text for hit in hits} == {"100%"}
    assert sum(sizes) == len(data) - begin
    assert max(sizes) == log_text.DRAWN_SLICE_BYTES


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 1000])
def test_a_search_finds_what_lies_across_pieces(size):
    text = b"eins\nzwei DREI\n\nvier drei\ndreidrei\nend drei"
    search, hits = LineSearch("drei"), []
    for at in range(0, len(text), size):
        hits += search.add(text[at : at + size], text.count(b"\n", 0, at) + 1)
    hits += search.finish()
    assert [(hit.line, hit.text) for hit in hits] == [
        (2, "zwei DREI"),
        (4, "vier drei"),
        (5, "dreidrei"),
        (6, "end drei"),
    ]


def test_a_search_keeps_no_endless_line():
    search, hits = LineSearch("needle"), []
    for number in range(40):
        hits += search.add((b"x" * 99_997 + b"nee") if number == 20 else (b"dle" + b"y" * 99_997), 1)
        assert len(search._rest) <= MAX_LINE_BYTES + 100_000
    hits += search.finish()
    assert [hit.line for hit in hits] == [1]
    assert len(hits[0].text) <= MAX_SHOWN_BYTES + 2


def test_a_search_keeps_of_a_line_that_is_drawn_for_ever_what_is_seen():
    search, hits = LineSearch("needle"), []
    for number in range(40):
        hits += search.add(b"\rstep %d" % number * 20_000 + (b"\rneedle " if number == 39 else b""), 1)
        assert len(search._rest) <= MAX_LINE_BYTES
    assert hits == []
    assert [(hit.line, hit.text) for hit in search.finish()] == [(1, "needle")]


async def test_a_search_reads_no_further_than_to_the_last_hit_that_is_wanted(world):
    await world.record(data=LINES)
    text, _ = await world.reader.open(world.job)
    reads = []
    read = world.storage.read
    world.storage.read = lambda key, **options: reads.append(key) or read(key, **options)
    assert [hit.line async for hit in text.search(".", most=2)] == [1, 2]
    assert len(reads) == 1
    assert [hit.line async for hit in text.search("000 .", most=2)] == [1000]
    assert len(reads) > 10


def test_a_search_for_few_hits_holds_few():
    piece = b"a\n" * 2**19
    search = LineSearch("a", 2)
    with peak_below(4 * 2**20):
        assert [hit.line for hit in search.add(piece, 1)] == [1, 2]
    assert search.add(piece, 2**19 + 1) == search.finish() == []
