"""A disk that is nearly full: nothing new is taken, all that is there goes on, and it recovers by itself."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
from types import SimpleNamespace

import pytest

from kbatch_server.errors import Forbidden, InsufficientStorage, KBatchError, TooManyRequests, Unavailable
from kbatch_server.jobs.service import Jobs
from kbatch_server.keyring import Keyring
from kbatch_server.limits.config import Limits
from kbatch_server.logs.reader import LogReader
from kbatch_server.logs.recorder import LogRecorder
from kbatch_server.metrics import LIMITS_HELD
from kbatch_server.models.job import Status
from kbatch_server.models.listing import JobQuery
from kbatch_server.models.request import JobRequest
from kbatch_server.models.results import JobOutputs
from kbatch_server.models.times import utcnow
from kbatch_server.models.user import User
from kbatch_server.profiles.profiles import Profiles
from kbatch_server.ratelimit import RecentSums
from kbatch_server.storage import diskspace
from kbatch_server.storage.base import Storage
from kbatch_server.storage.diskspace import DiskSpace
from kbatch_server.storage.file import FileStorage
from kbatch_server.store import Store
from kbatch_server.store.logs import LogRecord, LogSegment
from kbatch_server.store.outputs import KeptOutputs
from tests.support.doubles import MemoryStorage
from tests.support.launcher_doubles import ScriptedLauncher
from tests.support.tars import pieces_of
from tests.support.world import make_uploads
from tests.support.zips import make_mixed_zip

ALICE, BOB = User("alice"), User("bob")
MIB = 2**20


def make_jobs(store, storage, *, disk=None, **limits):
    launcher = ScriptedLauncher()
    recorder = LogRecorder(launcher=launcher, storage=storage, logs=store.logs)
    return Jobs(
        disk=disk,
        launcher=launcher,
        limits=Limits(**limits),
        profiles=Profiles(),
        reader=LogReader(recorder=recorder, storage=storage, logs=store.logs),
        store=store,
        on_submit=lambda job: None,
        on_change=lambda job_id: None,
    )


async def submit(jobs, user=ALICE, **fields):
    fields = {"name": "job", "image": "busybox", "command": ["true"]} | fields
    return (await jobs.submit(user, JobRequest(**fields)))[0]


@pytest.fixture
async def store(db_url):
    async with opened(db_url) as store:
        yield store


def fill_with_zeros(path):
    """Write a file until there is no room left."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(65536))


class opened:
    """A store, from its beginning to its end."""

    def __init__(self, url):
        self.store = Store(url, Keyring(["k" * 32]), log=logging.getLogger("test"), auto_upgrade=True)

    async def __aenter__(self):
        await self.store.open()
        return self.store

    async def __aexit__(self, *_):
        await self.store.close()


@pytest.fixture
def small_disk(tmp_path):
    """A folder with a disk of its own, which others may pass through."""
    if os.geteuid() != 0:
        pytest.skip("a disk is mounted by root only")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={24 * MIB},mode=777", "tmpfs", folder]
    subprocess.run(mount, check=True, timeout=10)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True, timeout=10)


# --- the rule


class Part:
    """What a test says how much room it has."""

    looks = 0
    free = None

    async def get_free_bytes(self):
        self.looks += 1
        if isinstance(self.free, Exception):
            raise self.free
        return self.free


class SaidStore(Part, Store):
    """A database."""

    is_full = False

    def __init__(self, free):
        self.free = free


class SaidStorage(Part, Storage):
    """A storage."""


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(diskspace.time, "monotonic", lambda: clock.now)
    return clock


def make_disk(*, database=None, storage=None):
    said = SaidStorage()
    said.free = storage
    return DiskSpace(min_free_bytes=100, store=SaidStore(database), storage=said)


@pytest.mark.parametrize(("database", "storage", "low"), [(99, 500, "database"), (500, 99, "storage")])
async def test_what_is_new_is_refused_below_the_margin_and_taken_again_above(clock, database, storage, low):
    disk = make_disk(database=database, storage=storage)
    before = LIMITS_HELD.labels("min_free_bytes")._value.get()
    with pytest.raises(InsufficientStorage, match=f"The disk of the {low} is nearly full") as refused:
        await disk.check("alice")
    assert (refused.value.status, refused.value.retry_after_seconds) == (507, 60)
    assert LIMITS_HELD.labels("min_free_bytes")._value.get() == before + 1
    with pytest.raises(InsufficientStorage, match=f"disk of the {low} is nearly full: 99 bytes are free"):
        await disk.check_health()
    disk.store.free = disk.storage.free = 100
    clock.now += 2
    await disk.check("alice")
    await disk.check_health()


async def test_a_user_who_stores_half_of_the_disk_stores_no_more_and_others_do(db_url, tmp_path):
    storage = FileStorage(root=str(tmp_path / "files"), max_bytes=4 * MIB)
    store = Store(db_url, Keyring(["k" * 32]), log=logging.getLogger("test"), auto_upgrade=True)
    await store.open()
    await storage.open()
    disk = DiskSpace(min_free_bytes=0, store=store, storage=storage)
    uploads, jobs = make_uploads(store, storage, disk=disk), make_jobs(store, storage, disk=disk)
    try:
        job = await submit(jobs)
        segment = LogSegment(number=0, start=0, size=3 * MIB // 2, first_line=1, lines=1, times=[])
        log = LogRecord(job.id, "pod", 1, {}, segment.size, True, "")
        assert await store.logs.keep(log, segments=[segment])
        await store.outputs.put(job.id, JobOutputs(state="kept"), KeptOutputs("outputs/1", MIB, []))
        before = LIMITS_HELD.labels("max_user_share")._value.get()
        disk._sums = RecentSums()
        for attempt in (submit(jobs), uploads.receive(ALICE, pieces_of(make_mixed_zip()))):
            with pytest.raises(
                Forbidden, match=f"results use {5 * MIB // 2} bytes .*limit is {2 * MIB}"
            ) as no:
                await attempt
            assert (no.value.reason, no.value.details["resource"]) == ("QuotaExceeded", "stored_bytes")
        assert LIMITS_HELD.labels("max_user_share")._value.get() == before + 2
        await uploads.receive(BOB, pieces_of(make_mixed_zip()))
        await submit(jobs, BOB)
        disk.max_user_share = 1
        await submit(jobs)
    finally:
        await store.close()


async def test_what_is_to_come_counts_as_if_it_were_there(clock):
    disk = make_disk(database=None, storage=150)
    await disk.check("alice", 50)
    with pytest.raises(InsufficientStorage):
        await disk.check("alice", 51)


async def test_the_disks_are_looked_at_once_a_second(clock):
    disk = make_disk(database=500, storage=500)
    for _ in range(1000):
        await disk.check("alice")
    assert disk.store.looks == disk.storage.looks == 1
    clock.now += 1.5
    await disk.check("alice")
    assert disk.store.looks == 2


@pytest.mark.parametrize("free", [None, OSError("away"), Unavailable("away")])
async def test_a_disk_of_which_nothing_is_known_refuses_nothing(clock, free):
    disk = make_disk(database=free, storage=None)
    await disk.check("alice", 10**9)
    assert disk.free_bytes == {}


async def test_without_a_margin_nothing_is_refused(clock):
    disk = make_disk(database=0, storage=0)
    disk.min_free_bytes = 0
    await disk.check("alice", 10**9)


async def test_of_a_database_that_says_it_is_full_one_submit_is_tried_now_and_then(clock):
    disk = make_disk()
    await disk.check("alice")
    disk.store.is_full = True
    for _ in range(3):
        with pytest.raises(InsufficientStorage, match="The disk of the database is nearly full"):
            await disk.check("alice")
    with pytest.raises(InsufficientStorage):
        await disk.check_health()
    clock.now += 11
    await disk.check("alice")  # this one tries
    with pytest.raises(InsufficientStorage):
        await disk.check("alice")
    disk.store.is_full = False
    await disk.check("alice")
    await disk.check_health()


# --- real disks


async def fill(jobs, count=200, size=100_000):
    """Submit jobs until one is refused, and return them and why it was."""
    made = []
    for _ in range(count):
        try:
            made.append(await submit(jobs, env={"A": os.urandom(size).hex()}))
        except KBatchError as error:
            return made, error
    raise AssertionError("none was refused")


async def test_a_full_disk_of_sqlite_takes_no_jobs_and_lets_all_others_go_on(small_disk, monkeypatch):
    monkeypatch.setattr(diskspace, "FRESH_SECONDS", 0)
    async with opened(f"sqlite:///{small_disk}/jobs.sqlite") as store:
        disk = DiskSpace(store=store, storage=MemoryStorage(), min_free_bytes=8 * MIB)
        jobs = make_jobs(store, disk.storage, disk=disk)
        made, error = await fill(jobs)
        assert error.status == 507
        assert len(made) > 10
        assert 6 * MIB < disk.free_bytes["database"] < 8 * MIB
        # all else goes on, many times over
        for job in made:
            await store.jobs.begin_launch(job.id)
            await store.jobs.update(job.id, status=Status.RUNNING, message="m" * 500, launched_at=utcnow())
        assert (await jobs.cancel(ALICE, made[0].id)).cancel_requested_at is not None
        assert len((await jobs.list(ALICE, JobQuery("alice", limit=500))).jobs) == len(made)
        with pytest.raises(InsufficientStorage):
            await submit(jobs, BOB)
        # what is deleted makes room, though the file does not become smaller
        for job in made[: len(made) // 2]:
            await jobs.delete(ALICE, job.id)
            await store.jobs.remove(job.id)
        again = await submit(jobs, BOB)
        assert again.status is Status.QUEUED


async def test_a_disk_that_is_full_to_the_last_byte_loses_nothing_and_recovers(small_disk, monkeypatch):
    monkeypatch.setattr(diskspace, "FRESH_SECONDS", 0)
    monkeypatch.setattr(diskspace, "RETRY_SECONDS", 0)
    async with opened(f"sqlite:///{small_disk}/jobs.sqlite") as store:
        disk = DiskSpace(store=store, storage=MemoryStorage(), min_free_bytes=0)
        jobs = make_jobs(store, disk.storage, disk=disk)
        first = await submit(jobs)
        filler = small_disk / "filler"
        fill_with_zeros(filler)
        made, error = await fill(jobs)
        assert error.status == 507
        assert store.is_full
        with pytest.raises(InsufficientStorage):
            await disk.check_health()
        assert {job.id for job in (await jobs.list(ALICE, JobQuery("alice", limit=500))).jobs} == {
            each.id for each in (first, *made)
        }
        filler.unlink()
        await submit(jobs)
        assert not store.is_full
        await disk.check_health()


@pytest.mark.parametrize("db_url", ["postgresql"], indirect=True)
async def test_a_postgresql_whose_disk_is_full_takes_no_jobs_until_there_is_room(
    small_disk, postgresql, db_url, monkeypatch
):
    monkeypatch.setattr(diskspace, "RETRY_SECONDS", 0)
    place = small_disk / "space"
    place.mkdir()
    if postgresql._account:
        shutil.chown(place, postgresql._account)
    for each in (*small_disk.parents,):
        if each.stat().st_uid == os.geteuid() and not each.stat().st_mode & 0o001:
            each.chmod(each.stat().st_mode | 0o011)
    postgresql.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
    name = db_url.rpartition("/")[2]
    postgresql.execute(f'ALTER DATABASE "{name}" SET default_tablespace = small')
    try:
        async with opened(db_url) as store:
            disk = DiskSpace(store=store, storage=MemoryStorage())
            jobs = make_jobs(store, disk.storage, disk=disk)
            filler = small_disk / "filler"
            filler.write_bytes(bytes(8 * MIB))
            made, error = await fill(jobs)
            assert error.status == 507
            assert store.is_full
            with pytest.raises(InsufficientStorage):
                await disk.check_health()
            assert len((await jobs.list(ALICE, JobQuery("alice", limit=500))).jobs) == len(made)
            filler.unlink()
            for job in made[:-1]:
                await jobs.delete(ALICE, job.id)
                await store.jobs.remove(job.id)
            await submit(jobs)
            await disk.check_health()
    finally:
        postgresql.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        postgresql.execute("DROP TABLESPACE small")


async def test_a_full_disk_of_files_takes_no_uploads_while_logs_and_results_are_still_kept(
    small_disk, store, monkeypatch
):
    monkeypatch.setattr(diskspace, "FRESH_SECONDS", 0)
    storage = FileStorage(root=str(small_disk / "files"), min_free_bytes=MIB)
    await storage.open()
    disk = DiskSpace(store=store, storage=storage, min_free_bytes=8 * MIB)
    uploads = make_uploads(store, storage, disk=disk)
    upload = await uploads.receive(ALICE, pieces_of(make_mixed_zip()))
    with pytest.raises(InsufficientStorage):
        await uploads.receive(ALICE, pieces_of(b""), declared_size=20 * MIB)
    (small_disk / "filler").write_bytes(bytes(17 * MIB))
    with pytest.raises(InsufficientStorage, match="The disk of the storage is nearly full"):
        await uploads.receive(ALICE, pieces_of(make_mixed_zip()))
    with pytest.raises(InsufficientStorage):
        await submit(make_jobs(store, storage, disk=disk))
    await storage.write("logs/x/1-000000", pieces_of(bytes(MIB)))
    (small_disk / "filler").write_bytes(b"")
    assert (await uploads.receive(ALICE, pieces_of(make_mixed_zip()))).id == upload.id


# --- what one user may have


async def test_one_user_cannot_queue_without_end_and_others_can(store):
    jobs = make_jobs(store, MemoryStorage(), max_queued=3)
    for _ in range(3):
        await submit(jobs)
    with pytest.raises(TooManyRequests, match="3 of your jobs are queued, which is the limit"):
        await submit(jobs)
    await submit(jobs, BOB)
    generous = make_jobs(store, MemoryStorage(), max_queued=3, user_limits={"queued": 5})
    await submit(generous)
    unlimited = make_jobs(store, MemoryStorage(), max_queued=0)
    await submit(unlimited)


async def test_the_records_of_one_user_cannot_fill_the_database_and_others_go_on(store):
    jobs = make_jobs(store, MemoryStorage(), max_record_bytes=1_000_000)
    made, error = await fill(jobs, size=50_000)
    assert (error.status, error.reason, len(made)) == (403, "QuotaExceeded", 7)
    assert "Delete jobs that you no longer need" in error.message
    env = {"A": os.urandom(50_000).hex()}
    await submit(jobs, BOB, env=env)
    await store.jobs.remove(made[0].id)
    await submit(jobs, env=env)
    with pytest.raises(Forbidden):
        await submit(jobs, env=env)
    await submit(jobs)  # a small one fits


def test_the_defaults_let_a_scientist_work():
    limits = Limits()
    assert limits.max_queued >= 5000
    assert limits.max_record_bytes >= 10_000 * 2000
    assert not limits.is_set
