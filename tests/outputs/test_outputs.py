"""Results are kept whole or not at all, with the reason on record; read file by file, in ranges, as a ZIP."""

from __future__ import annotations

import asyncio
import io
import os
import resource
import zipfile

import pytest

from kbatch_server.errors import Forbidden, InvalidRequest, NotFound, TooLarge, Unavailable
from kbatch_server.launchers.base import LauncherUnavailable
from kbatch_server.metrics import LIMITS_HELD
from kbatch_server.models.job import Job, JobSpec, Pod, Status
from kbatch_server.models.results import JobOutputs, OmittedFile, OutputFile, OutputLimits, OutputTar
from kbatch_server.models.times import utcnow
from kbatch_server.outputs import selection as outputfiles
from kbatch_server.outputs import tarindex
from kbatch_server.outputs.selection import select
from kbatch_server.outputs.tarindex import TarIndex
from kbatch_server.outputs.zipstream import make_zip
from kbatch_server.storage.base import StorageError, StorageFull
from tests.support.doubles import MemoryStorage
from tests.support.fuzzing import peak_below
from tests.support.tars import as_sent, make_tar
from tests.support.world import World

FILES = {"a.txt": b"hello\n", "sub/b.bin": bytes(range(256)) * 400, "empty": b"", "ünï.txt": b"u"}


class FaultyStorage(MemoryStorage):
    """Raises ``fails`` at the named operation, where a test sets it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.fails: dict[str, Exception] = {}

    async def write(self, key, chunks):
        size = await super().write(key, chunks)
        if "write" in self.fails:
            del self.objects[key]
            raise self.fails["write"]
        return size

    async def read(self, key, *, start=0, length=None):
        async for piece in super().read(key, start=start, length=length):
            for at in range(0, len(piece), 5000):
                yield piece[at : at + 5000]
                if "read" in self.fails:
                    raise self.fails["read"]

    async def delete(self, key):
        if "delete" in self.fails:
            raise self.fails["delete"]
        await super().delete(key)


@pytest.fixture
async def world(db_url):
    """The real Outputs and store; a storage and a launcher that do what a test says."""
    limits = {"max_output_bytes": 200_000, "max_output_files": 20}
    world = await World(db_url, config={"Outputs": limits}, storage=FaultyStorage()).open()
    spec = JobSpec(image="busybox", keep_outputs=True)
    job = Job(id="train-1", user="alice", name="train", spec=spec, created_at=utcnow())
    job, _ = await world.store.jobs.add(job)
    await world.store.jobs.begin_launch(job.id)
    yield world
    await world.close()


async def find_job(world) -> Job:
    job = await world.store.jobs.find("train-1")
    assert job is not None
    return job


async def receive(world, data, **fields):
    return await world.outputs.receive(await find_job(world), as_sent(data, **fields))


async def read_file(world, path, start=0, length=None):
    key, file = await world.outputs.find(await find_job(world), path)
    length = file.size if length is None else length
    return b"".join([piece async for piece in world.outputs.read(key, file.offset + start, length)])


async def test_what_was_sent_is_listed_and_read_file_by_file(world):
    summary = await receive(world, make_tar(FILES), pod="train-1-x")
    job = await find_job(world)
    assert job.outputs == summary
    assert summary.model_dump() == {
        "state": "kept",
        "files": 4,
        "size": sum(map(len, FILES.values())),
        "omitted_files": 0,
        "omitted_size": 0,
        "message": "",
        "pod": "train-1-x",
    }
    assert [(file.path, file.size) for file in (await world.outputs.list(job)).files] == sorted(
        (path, len(content)) for path, content in FILES.items()
    )
    for path, content in FILES.items():
        assert await read_file(world, path) == content
    assert await read_file(world, "sub/b.bin", 1000, 20) == FILES["sub/b.bin"][1000:1020]
    assert len(world.storage.objects) == 1
    with pytest.raises(NotFound, match="no result file 'nope'"):
        await world.outputs.find(job, "nope")


async def test_results_are_looked_up_among_the_costly_reads_and_hold_up_no_other(world, monkeypatch):
    await receive(world, make_tar(FILES))
    job = await find_job(world)
    database, costly = world.store._database, []
    read = database.read

    def note(operation, *, is_costly=False):
        costly.append(is_costly)
        return read(operation, is_costly=is_costly)

    monkeypatch.setattr(database, "read", note)
    await world.outputs.find(job, "a.txt")
    await world.outputs.list(job)
    await (await world.outputs.zip(job)).aclose()
    assert costly == [True] * 3


async def test_a_job_that_wrote_nothing_costs_the_storage_nothing(world):
    world.storage.fails["write"] = StorageError("nobody is to ask it")
    assert (await receive(world, make_tar({}))).files == 0
    with pytest.raises(NotFound, match="wrote no files"):
        await world.outputs.zip(await find_job(world))


async def test_what_a_later_attempt_wrote_replaces_what_an_earlier_one_did(world):
    await receive(world, make_tar({"old": b"1"}))
    await receive(world, make_tar({"new": b"2"}))
    assert [file.path for file in (await world.outputs.list(await find_job(world))).files] == ["new"]
    assert len(world.storage.objects) == 1
    await receive(world, make_tar({}))
    assert world.storage.objects == {}


async def test_entries_that_were_left_out_are_counted_where_a_user_reads_it(world):
    tar = make_tar({"a": b"1"}, others={"link": (b"2", "/etc/passwd"), "fifo": (b"6", "")})
    summary = await receive(world, tar, left_out=3)
    assert summary.message == (
        "5 entries were skipped: only readable files, and links to files that can be results, are saved."
    )
    assert "not saved" not in (await find_job(world)).full_message


async def list_all(world):
    kept = await world.outputs.list(await find_job(world))
    return {file.path: await read_file(world, file.path) for file in kept.files}, kept.omitted


async def test_a_link_inside_the_folder_comes_as_its_file_and_none_that_leads_outside(world):
    links = {
        "latest": "run-2",
        "run-2/best": "../run-1/model",
        "copy": "latest/best",
        "round": "round",
        "outside": "/etc/passwd",
        "up": "../../x",
        "nothing": "missing",
    }
    tar = make_tar({"run-1/model": b"1", "run-2/log": b"2"}, others={k: (b"2", v) for k, v in links.items()})
    summary = await receive(world, tar)
    assert await list_all(world) == (
        {
            "run-1/model": b"1",
            "run-2/log": b"2",
            "run-2/best": b"1",
            "copy": b"1",
            "latest/log": b"2",
        },
        [],
    )
    assert summary.message.startswith("4 entries were skipped")


SENT = {"outputs": "/kbatch-outputs", "workdir": "/code"}


async def test_files_of_the_working_folder_are_beside_those_of_the_outputs_folder_which_count(world):
    files = {"outputs/a": b"1", "workdir/sub/b": b"2", "workdir/a": b"not this", "elsewhere/c": b"3"}
    links = {"outputs/l": "/kbatch-outputs/a", "workdir/m": "../kbatch-outputs/a", "outputs/n": "/code/sub/b"}
    links |= {"outputs/all": "/", "outputs/up": ".."}
    tar = make_tar(files, others={path: (b"2", target) for path, target in links.items()})
    summary = await receive(world, tar, folders=SENT)
    assert await list_all(world) == ({"a": b"1", "sub/b": b"2", "l": b"1", "m": b"1", "n": b"2"}, [])
    assert summary.message.startswith("3 entries were skipped")


async def test_a_link_in_whose_place_its_target_was_sent_is_not_said_to_be_skipped(world):
    files = {"workdir/best": b"1", "workdir/folder/old": b"2", "workdir/data/new": b"3"}
    links = {"workdir/best": "data/old", "workdir/folder": "data", "workdir/other": "unchanged"}
    sent = make_tar({}, others={path: (b"2", target) for path, target in links.items()})
    sent += make_tar(files | {"workdir/other/x": b"4"})
    summary = await receive(world, sent, folders=SENT)
    assert await list_all(world) == (
        {"best": b"1", "folder/old": b"2", "folder/new": b"3", "data/new": b"3", "other/x": b"4"},
        [],
    )
    assert summary.message == ""


async def test_what_whoever_packed_it_has_left_out_is_named_too(world):
    listed = "3 600\n100 b\n200 d d\nnonsense\n"
    summary = await receive(
        world, make_tar({"outputs/a": b"1", "lists/omitted": listed.encode()}), folders=SENT
    )
    assert await list_all(world) == ({"a": b"1"}, [OmittedFile("b", 100), OmittedFile("d d", 200)])
    assert (summary.files, summary.omitted_files, summary.omitted_size) == (1, 3, 600)
    assert "3 files (600 bytes) were not saved" in (await find_job(world)).full_message


async def test_a_job_whose_only_file_is_too_large_keeps_its_name(world):
    summary = await receive(world, make_tar({"lists/omitted": b"1 900000\n900000 big\n"}), folders=SENT)
    assert await list_all(world) == ({}, [OmittedFile("big", 900_000)])
    assert (summary.files, summary.omitted_files) == (0, 1)


def test_links_that_multiply_what_is_there_end_at_a_limit():
    index = TarIndex(max_entries=10**6)
    index.feed(make_tar({f"d/{number}": b"x" for number in range(100)}))
    index.links = {f"l{number}": "d" for number in range(1000)}
    found = select(index, {}, OutputLimits(10**6, 200))
    assert len(found.files) == 200
    assert found.omitted.files <= 2000
    assert found.files[0].path == "d/0"


def test_long_links_that_multiply_long_paths_end_at_a_limit_of_memory():
    index = TarIndex(max_entries=10_100)
    index.feed(make_tar({"d/" + "x" * 400 + f"{number:03}": b"x" for number in range(300)}))
    index.links = {"l" * 500 + f"{number:03}": "d" for number in range(100)}
    with peak_below(6 * 2**20):
        found = select(index, {}, OutputLimits(10**6, 1000))
    assert found.is_cut
    assert len(found.files) == 1000
    index.links = {"l" * 800: "d", "m": "d"}  # through the first the paths are too long
    found = select(index, {}, OutputLimits(10**6, 1000))
    assert {file.path[0] for file in found.files} == {"d", "m"}
    assert (found.left_out, found.is_cut) == (1, False)


def test_files_are_selected_without_a_copy_of_all_paths():
    index = TarIndex(max_entries=100_000)
    index.feed(make_tar({"outputs/" + "x" * 400 + f"{number:04}": b"x" for number in range(8000)}))
    with peak_below(2**20):  # all paths have three times as many
        found = select(index, SENT, OutputLimits(10**6, 100))
    assert (len(found.files), found.omitted.files) == (100, 7900)
    assert found.files[-1].path == "x" * 400 + "0099"


async def test_whose_paths_are_too_long_together_is_told_so_and_what_is_not_kept_is_named(world, monkeypatch):
    monkeypatch.setattr(tarindex, "LEAST_BYTES", 3000)
    monkeypatch.setattr(tarindex, "BYTES_FOR_EACH_ENTRY", 0)
    before = LIMITS_HELD.labels("max_output_files")._value.get()
    summary = await receive(
        world, make_tar({f"outputs/{number:02}" + "x" * 500: b"12" for number in range(6)}), folders=SENT
    )
    files, omitted = await list_all(world)
    assert sorted(path[:2] for path in files) == ["00", "01", "02"]
    assert [(file.path[:2], file.size) for file in omitted] == [("03", 2), ("04", 2), ("05", 2)]
    assert (summary.omitted_files, summary.omitted_size) == (3, 6)
    assert "There are too many paths and links, or they are too long" in summary.message
    assert LIMITS_HELD.labels("max_output_files")._value.get() == before + 1


def test_links_that_lead_a_long_way_round_cost_a_bounded_number_of_steps(monkeypatch):
    monkeypatch.setattr(outputfiles, "MAX_STEPS", 1000)
    index = TarIndex(max_entries=10**6)
    index.feed(make_tar({"x": b"1"}))
    index.links = {f"l{number}": "a/../" * 100 + f"l{number + 1}" for number in range(30)} | {"l30": "x"}
    found = select(index, {}, OutputLimits(10**6, 200))
    assert [file.path for file in found.files] == ["x"]
    assert found.left_out == 31
    monkeypatch.setattr(outputfiles, "MAX_STEPS", 10**6)
    assert len(select(index, {}, OutputLimits(10**6, 200)).files) == 32


def test_a_chain_of_links_ends_where_that_of_linux_does():
    index = TarIndex(max_entries=10**6)
    index.feed(make_tar({"x": b"1"}))
    index.links = {f"l{number:02}": f"l{number + 1:02}" for number in range(49)} | {"l49": "x"}
    found = select(index, {}, OutputLimits(10**6, 200))
    assert [file.path for file in found.files] == [*(f"l{number}" for number in range(10, 50)), "x"]


@pytest.mark.parametrize(
    ("files", "omitted"),
    [
        ({"c": bytes(40_000), "b": bytes(60_000), "a": bytes(150_000)}, ["b"]),
        ({f"{number:02}": b"" for number in reversed(range(22))}, ["20", "21"]),
    ],
)
async def test_over_a_limit_the_first_that_fit_are_kept_and_the_rest_is_named(world, files, omitted):
    await receive(world, make_tar(files))
    job = await find_job(world)
    assert job.outputs.omitted_files == len(omitted)
    assert job.outputs.omitted_size == sum(len(files[path]) for path in omitted)
    kept = await world.outputs.list(job)
    assert [file.path for file in kept.files] == sorted(files.keys() - set(omitted))
    assert [file.path for file in kept.omitted] == omitted
    assert "Results incomplete: " in job.to_dict()["message"]
    assert "the limits are 20 files and 200000 bytes" in job.to_dict()["message"]


async def test_what_nobody_cut_and_is_much_too_large_is_refused_and_the_jobs_message_says_what_to_do(world):
    await receive(world, make_tar({"earlier": b"1"}))
    with pytest.raises(TooLarge):
        await receive(world, make_tar({str(number): b"" for number in range(400)}))
    job = await find_job(world)
    assert (job.outputs.state, world.storage.objects) == ("failed", {})
    message = job.to_dict()["message"]
    assert "Results not saved: The results" in message
    assert all(word in message for word in ("more than 300 entries", "20 files", "into an archive"))
    with pytest.raises(NotFound, match="could not be saved"):
        await world.outputs.find(job, "earlier")


async def test_what_follows_the_end_of_a_tar_is_limited_too(world):
    async def pieces():
        yield make_tar(FILES)
        while True:
            yield bytes(500_000)

    with pytest.raises(TooLarge):
        await world.outputs.receive(await find_job(world), OutputTar(pieces()))
    assert world.storage.objects == {}


async def test_a_size_that_is_said_before_is_refused_before_a_byte_of_it_comes(world):
    job = await find_job(world)
    await world.outputs.check_size(job, 200_000)
    with pytest.raises(TooLarge):
        await world.outputs.check_size(job, 10**9)
    assert "1000000000 bytes" in (await find_job(world)).full_message


async def test_a_file_that_says_it_is_too_large_is_not_waited_for(world):
    header = bytearray(make_tar({"x": b""})[:512])
    header[124:136] = b"00077777777\0"
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)

    async def pieces():
        yield bytes(header)
        pytest.fail("it was read on")

    with pytest.raises(TooLarge):
        await world.outputs.receive(await find_job(world), OutputTar(pieces()))


@pytest.mark.parametrize("data", [b"no tar" * 200, make_tar(FILES)[:60_000]], ids=["noise", "truncated"])
async def test_what_is_no_whole_tar_leaves_nothing_and_the_record_says_so(world, data):
    with pytest.raises(InvalidRequest):
        await receive(world, data)
    assert world.storage.objects == {}
    assert "not send a valid tar" in (await find_job(world)).full_message


@pytest.mark.parametrize(
    ("error", "words"), [(StorageError("timed out"), "timed out"), (StorageFull("full"), "full")]
)
async def test_a_storage_that_fails_records_nothing_and_it_may_come_again(world, error, words):
    world.storage.fails["write"] = error
    with pytest.raises(Unavailable, match=words):
        await receive(world, make_tar(FILES))
    assert ((await find_job(world)).outputs, world.storage.objects) == (None, {})
    world.storage.fails.clear()
    assert (await receive(world, make_tar(FILES))).files == 4


async def test_a_database_that_fails_leaves_no_object(world, monkeypatch):
    async def fail(*args):
        raise Unavailable("The database does not respond.")

    monkeypatch.setattr(world.store.outputs, "put", fail)
    with pytest.raises(Unavailable):
        await receive(world, make_tar(FILES))
    assert world.storage.objects == {}


async def test_a_sender_that_goes_away_leaves_nothing(world):
    came = asyncio.Event()

    async def pieces():
        yield make_tar(FILES)[:50_000]
        came.set()
        await asyncio.Event().wait()

    receiving = asyncio.create_task(world.outputs.receive(await find_job(world), OutputTar(pieces())))
    await came.wait()
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    assert ((await find_job(world)).outputs, world.storage.objects) == (None, {})


async def test_a_sender_that_goes_away_at_the_very_end_leaves_object_and_record_or_neither(world):
    put = world.store.outputs.put
    at_it, go_on, recorded = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(*args):
        at_it.set()
        await go_on.wait()
        try:
            return await put(*args)
        finally:
            recorded.set()

    world.store.outputs.put = slow
    receiving = asyncio.create_task(receive(world, make_tar(FILES)))
    await at_it.wait()
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    go_on.set()
    await recorded.wait()
    assert await read_file(world, "a.txt") == FILES["a.txt"]


async def test_a_job_that_is_cleaned_up_takes_no_more(world):
    await world.store.jobs.update("train-1", cleaned_at=utcnow())
    with pytest.raises(Forbidden):
        await receive(world, make_tar(FILES))
    assert world.storage.objects == {}


async def test_reading_says_that_the_storage_fails_or_has_lost_something(world):
    await receive(world, make_tar(FILES))
    world.storage.fails["read"] = StorageError("away")
    with pytest.raises(Unavailable, match="away"):
        await read_file(world, "sub/b.bin")
    world.storage.fails.clear()
    [key] = world.storage.objects
    world.storage.objects[key] = world.storage.objects[key][:20_000]
    with pytest.raises(Unavailable, match="lost"):
        await read_file(world, "sub/b.bin")


async def test_deleting_takes_object_and_record_and_says_why_they_are_gone(world):
    await receive(world, make_tar(FILES))
    world.storage.fails["delete"] = StorageError("away")
    with pytest.raises(StorageError):
        await world.outputs.delete("train-1")
    assert await read_file(world, "a.txt") == FILES["a.txt"]
    world.storage.fails.clear()
    await world.outputs.delete("train-1", why="They were kept for a week.")
    await world.outputs.delete("train-1")
    assert world.storage.objects == {}
    with pytest.raises(NotFound, match=r"no longer exist. They were kept for a week"):
        await world.outputs.find(await find_job(world), "a.txt")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({}, "has not ended yet"),
        ({"status": Status.SUCCEEDED}, "are being saved"),
        ({"status": Status.SUCCEEDED, "cleaned_at": utcnow()}, "its command did not run"),
    ],
)
async def test_a_job_without_results_says_why_there_are_none(world, columns, words):
    if columns:
        await world.store.jobs.update("train-1", **columns)
    job = await find_job(world)
    for read in (world.outputs.list(job), world.outputs.zip(job), world.outputs.find(job, "x")):
        with pytest.raises(NotFound, match=words) as told:
            await read
        assert told.value.reason == "OutputsNotFound"


# As a ZIP


async def zip_of(world):
    pieces = await world.outputs.zip(await find_job(world))
    return zipfile.ZipFile(io.BytesIO(b"".join([piece async for piece in pieces])))


async def test_all_results_come_as_one_zip(world):
    world.outputs.max_output_bytes = 400_000  # a link counts as much as what it leads to
    others = {"hard": (b"1", "sub/b.bin"), "soft": (b"2", "sub/b.bin")}
    await receive(world, make_tar(FILES, others=others))
    archive = await zip_of(world)
    assert archive.testzip() is None
    read = {name: archive.read(name) for name in archive.namelist()}
    assert read == FILES | {"hard": FILES["sub/b.bin"], "soft": FILES["sub/b.bin"]}
    assert archive.getinfo("a.txt").date_time[0] == 2023


async def test_a_zip_whose_source_fails_is_cut_off_and_lets_go(world):
    await receive(world, make_tar(FILES))
    world.storage.fails["read"] = StorageError("away")
    with pytest.raises(Unavailable):
        await zip_of(world)


async def test_a_reader_of_a_zip_may_go_away(world):
    await receive(world, make_tar({"x": os.urandom(150_000)}))
    pieces = await world.outputs.zip(await find_job(world))
    await anext(pieces)
    await pieces.aclose()


async def test_a_large_zip_takes_little_memory():
    size = 100 * 2**20

    async def read(start, length):
        piece = bytes(2**20)
        for _ in range(length // 2**20):
            yield piece

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = 0
    async for made in make_zip([OutputFile("big", 512, size, 0)], read):
        count += len(made)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert count < size / 50
    assert grown < 32 * 2**20


# At the end of a job


async def settle(world, job):
    """Ask again until all is settled: the log, of which there is none here, is found missing by a task."""
    async with asyncio.timeout(5):
        while not await world.collector.settle(job):  # noqa: ASYNC110 - a task of its own works on it
            await asyncio.sleep(0.01)


async def end(world, **columns):
    values = {"status": Status.SUCCEEDED, "message": "Completed successfully."}
    await world.store.jobs.update("train-1", **(values | columns))
    return await find_job(world)


def pods(*names):
    return [Pod(name=name, phase="Failed", created_at=utcnow(), exit_code=1) for name in names]


async def test_what_the_launcher_has_is_kept_and_asked_for_once(world):
    world.launcher.outputs_of["train-1"] = [make_tar(FILES)]
    await settle(world, await end(world))
    await settle(world, await find_job(world))
    assert await read_file(world, "a.txt") == FILES["a.txt"]


async def test_as_long_as_something_runs_nothing_is_settled(world):
    world.launcher.is_slow = True
    assert not await world.collector.settle(await end(world))
    assert (await find_job(world)).outputs is None


async def test_a_storage_that_fails_is_tried_again_and_the_end_stays(world):
    world.launcher.outputs_of["train-1"] = [make_tar(FILES), make_tar(FILES)]
    world.storage.fails["write"] = StorageError("away")
    with pytest.raises(Unavailable):
        await world.collector.settle(await end(world))
    job = await find_job(world)
    assert (job.status, job.outputs, job.full_message) == ("succeeded", None, "Completed successfully.")
    world.storage.fails.clear()
    await settle(world, job)
    assert (await find_job(world)).outputs.files == 4


async def test_a_folder_that_cannot_be_read_is_tried_again(world):
    async def broken():
        yield make_tar(FILES)[:40_000]
        raise LauncherUnavailable("a disk fails")

    world.launcher.outputs_of["train-1"] = [broken(), make_tar(FILES)]
    with pytest.raises(LauncherUnavailable):
        await world.collector.settle(await end(world))
    assert world.storage.objects == {}
    await settle(world, await find_job(world))


async def test_results_that_are_too_large_settle_it(world):
    world.launcher.outputs_of["train-1"] = [make_tar({"x": bytes(2_000_000)})]
    await settle(world, await end(world))
    assert "the limit is 200000 bytes" in (await find_job(world)).full_message


async def test_results_that_were_not_sent_are_on_the_record_with_the_reason(world):
    world.launcher.problem = "The results were not sent before the pod ended: the service answered 503."
    await settle(world, await end(world, started_at=utcnow()))
    assert (await find_job(world)).full_message == (
        "Completed successfully. Results not saved: "
        "The results were not sent before the pod ended: the service answered 503."
    )


async def test_a_job_whose_command_never_ran_has_none_to_miss(world):
    world.launcher.problem = "They were not sent."
    await settle(world, await end(world, status=Status.FAILED))
    assert (await find_job(world)).outputs is None


async def test_results_of_an_earlier_attempt_are_called_so(world):
    await receive(world, make_tar(FILES), pod="first")
    job = await end(world, started_at=utcnow(), pods=pods("first", "second"))
    await settle(world, job)
    await settle(world, await find_job(world))
    outputs = (await find_job(world)).outputs
    assert outputs.message == "These results are from an earlier attempt: the last attempt sent none."
    assert (outputs.state, outputs.files) == ("kept", 4)


async def test_jobs_that_were_launched_without_are_not_asked_for_results(world):
    job = await end(world, started_at=utcnow())
    job.spec = JobSpec(image="busybox")
    world.launcher.problem = "They were not sent."
    await settle(world, job)
    assert (await find_job(world)).outputs is None


def test_only_a_failure_is_added_to_the_message():
    job = Job(id="x", user="u", name="n", spec=JobSpec(image="i"), created_at=utcnow(), message="Done.")
    for state in ("kept", "removed"):
        job.outputs = JobOutputs(state=state, message="Something.")
        assert job.full_message == "Done."
