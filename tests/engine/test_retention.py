"""What goes when it was kept for long enough, what stays, and what an admin is shown of it."""

from __future__ import annotations

import io
import tarfile
from datetime import timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy import update
from traitlets import TraitError

from kbatch_server.commands.gc import format_removal, format_size
from kbatch_server.engine.retention import Removal, Retention
from kbatch_server.logs.writer import make_key
from kbatch_server.models.job import Job, JobSpec, Status
from kbatch_server.models.results import OutputTar
from kbatch_server.models.times import utcnow
from kbatch_server.models.user import User
from kbatch_server.storage.base import StorageError
from kbatch_server.store.logs import LogRecord, LogSegment
from kbatch_server.store.tables import jobs, uploads
from tests.support.world import World
from tests.support.zips import make_zip

DAY = 86400


@pytest.fixture
async def world(db_url):
    """A store and a storage with all that is kept in them, and what removes it."""
    world = await World(db_url).open()
    yield SimpleNamespace(retention=world.engine.retention, store=world.store, storage=world.storage)
    await world.close()


async def chunks(*pieces):
    for piece in pieces:
        yield piece


async def add_job(world, job_id, *, days, user="alice", status=Status.SUCCEEDED):
    """Record a job that ended some days ago, with a log and a result."""
    spec = JobSpec(image="python:3")
    await world.store.jobs.add(Job(id=job_id, user=user, name="train", spec=spec, created_at=utcnow()))
    await world.storage.write(make_key(job_id, 1, 0), chunks(b"hello\n"))
    await world.store.logs.keep(
        LogRecord(job_id, f"{job_id}-1", 1, {}, 6, True, ""), segments=[LogSegment(0, 0, 6, 1, 1, [])]
    )
    job = await world.store.jobs.get(job_id, user=user)
    await world.retention.outputs.receive(job, OutputTar(chunks(make_tar())))
    ended = utcnow() - timedelta(days=days)
    values = {"status": status.value, "ended_at": ended, "cleaned_at": ended}
    statement = update(jobs).where(jobs.c.id == job_id).values(values)
    await world.store._database.write(lambda connection: connection.execute(statement))


def make_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("result.csv")
        entry.size = 4
        archive.addfile(entry, io.BytesIO(b"1,2\n"))
    return buffer.getvalue()


async def find(world, *, with_orphans=False) -> list[tuple[str, str]]:
    return [(each.kind, each.name) async for each in world.retention.find(with_orphans=with_orphans)]


async def age(world, prefix: str, days: float) -> None:
    for key in world.storage.objects:
        if key.startswith(prefix):
            world.storage.modified_at[key] -= timedelta(days=days)


async def test_by_default_results_go_after_ninety_days_and_logs_after_half_a_year_and_records_never(world):
    for days in (89, 91, 181, 3000):
        await add_job(world, f"j-{days}", days=days)
    assert await find(world) == [
        ("results", "j-3000"),
        ("results", "j-181"),
        ("results", "j-91"),
        ("log", "j-3000"),
        ("log", "j-181"),
    ]
    assert await world.retention.sweep(with_orphans=False) == 5
    assert await find(world) == []
    job = await world.store.jobs.get("j-91", user="alice")
    assert job.outputs.state == "removed"
    assert job.outputs.message == "They expired 90 days after the job's end."
    assert {key.split("/")[0] + "/" + key.split("/")[1] for key in world.storage.objects} == {
        "logs/j-89",
        "outputs/j-89",
        "logs/j-91",
    }


async def test_a_record_goes_with_all_that_belongs_to_it_and_is_named_once(world):
    world.retention.job_ttl_seconds = 200 * DAY
    await add_job(world, "old", days=201)
    await add_job(world, "new", days=1)
    assert await find(world) == [("job", "old")]
    await world.retention.sweep(with_orphans=False)
    assert "old" in await world.store.jobs.list_due_ids()  # for the reconciler, which removes the rest
    assert await find(world) == []


async def test_of_very_many_records_some_go_in_each_round_and_all_else_at_once(world, monkeypatch):
    monkeypatch.setattr("kbatch_server.engine.retention.RECORDS_AT_ONCE", 2)
    for number in range(5):
        await add_job(world, f"j{number}", days=201)
    await add_job(world, "zz-other", days=100, user="zoe")
    world.retention.job_ttl_seconds = 200 * DAY
    assert await world.retention.sweep(with_orphans=False) == 3
    assert await find(world) == [("job", "j2"), ("job", "j3"), ("job", "j4")]
    assert await world.retention.sweep(with_orphans=False) == 2


async def test_what_runs_or_is_not_cleaned_up_after_stays(world):
    await add_job(world, "runs", days=500, status=Status.RUNNING)
    running = update(jobs).where(jobs.c.id == "runs").values(ended_at=None, cleaned_at=None)
    await add_job(world, "ends", days=500)
    ending = update(jobs).where(jobs.c.id == "ends").values(cleaned_at=None, launch_begun_at=utcnow())
    for statement in (running, ending):
        await world.store._database.write(lambda connection, each=statement: connection.execute(each))
    assert await find(world) == []


async def test_users_may_have_times_of_their_own_from_a_dict_or_a_function(world):
    for user in ("alice", "bob", "carol"):
        await add_job(world, f"of-{user}", days=100, user=user)
    world.retention.user_ttls = {"alice": {"output_ttl_seconds": 0}, "bob": {"log_ttl_seconds": DAY}}
    assert set(await find(world)) == {("results", "of-bob"), ("log", "of-bob"), ("results", "of-carol")}

    async def times(user):
        return {"job_ttl_seconds": 50 * DAY} if user == "carol" else {"output_ttl_seconds": 0}

    world.retention.user_ttls = times
    assert await find(world) == [("job", "of-carol")]


async def test_a_user_whose_times_cannot_be_found_out_holds_up_nobody_else(world, caplog):
    for user in ("alice", "bob", "carol"):
        await add_job(world, f"of-{user}", days=100, user=user)

    def times(user):
        if user == "bob":
            raise LookupError("bob has left")
        return {"job_ttl_seconds": 50 * DAY}

    world.retention.user_ttls = times
    assert await find(world) == [("job", "of-alice"), ("job", "of-carol")]
    assert "user_ttls failed for bob" in caplog.text


@pytest.mark.parametrize("times", [{"logs": 5}, {"log_ttl_seconds": -1}, {"log_ttl_seconds": "1d"}])
def test_wrong_times_are_refused_at_the_start_and_named(times):
    with pytest.raises(TraitError, match=r"Retention\.user_ttls: 'alice' has .*output_ttl_seconds"):
        Retention(user_ttls={"alice": times})


async def test_many_that_ended_in_the_same_second_are_all_found(world, monkeypatch):
    monkeypatch.setattr("kbatch_server.engine.retention.AT_ONCE", 2)
    for number in range(5):
        await add_job(world, f"j{number}", days=100)
    same = update(jobs).values(ended_at=utcnow() - timedelta(days=100))
    await world.store._database.write(lambda connection: connection.execute(same))
    assert len(await find(world)) == 5
    assert await world.retention.sweep(with_orphans=False) == 5


async def test_objects_that_no_record_names_go_when_they_are_a_day_old_and_nothing_else(world):
    await add_job(world, "kept", days=1)
    upload = await world.retention.uploads.receive(User("alice"), chunks(make_zip(("main.py", b"1"))))
    orphans = [
        f"uploads/{'0' * 40}",
        make_key("kept", 1, 7),
        make_key("gone", 1, 0),
        f"outputs/gone/{'a' * 32}",
    ]
    others = ["uploads/readme.txt", "logs/of-nginx", "other/thing"]
    for key in orphans + others:
        await world.storage.write(key, chunks(b"x"))
    assert await find(world, with_orphans=True) == []
    await age(world, "", 1.1)
    assert sorted(await find(world, with_orphans=True)) == sorted(("object", key) for key in orphans)
    assert await find(world) == []
    before = set(world.storage.objects)
    assert await world.retention.sweep(with_orphans=True) == 4
    assert before - set(world.storage.objects) == set(orphans)
    assert upload.key in world.storage.objects


async def test_what_cannot_be_removed_now_holds_up_nothing_else_and_goes_the_next_time(world, monkeypatch):
    await add_job(world, "first", days=101)
    await add_job(world, "second", days=100)
    delete = world.storage.delete

    async def failing(key):
        if key.startswith("outputs/first"):
            raise StorageError("away")
        await delete(key)

    with monkeypatch.context() as patched:
        patched.setattr(world.storage, "delete", failing)
        assert await world.retention.sweep(with_orphans=False) == 1
    assert await find(world) == [("results", "first")]
    assert await world.retention.sweep(with_orphans=False) == 1


async def test_an_upload_that_expired_and_is_named_by_a_job_is_no_removal(world):
    upload = await world.retention.uploads.receive(User("alice"), chunks(make_zip(("a", b"1"))))
    past = update(uploads).values(expires_at=utcnow() - timedelta(seconds=1))
    await world.store._database.write(lambda connection: connection.execute(past))
    assert await find(world) == [("upload", upload.id)]
    spec = JobSpec(image="i", upload=upload.id)
    await world.store.jobs.add(Job(id="j", user="alice", name="j", spec=spec, created_at=utcnow()))
    assert await find(world) == []
    removal = Removal("upload", upload.id, "alice", 1, "unused")
    assert not await world.retention.remove(removal)


def test_a_removal_is_one_line_for_people():
    line = format_removal(
        Removal("results", "train-1", "alice", 12_900_000, "expired 1 day after the job's end")
    )
    assert " ".join(line.split()) == "results train-1 alice 12.3 MiB expired 1 day after the job's end"
    assert [format_size(size) for size in (0, 1023, 1024, 2**40 * 3)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "3.0 TiB",
    ]
