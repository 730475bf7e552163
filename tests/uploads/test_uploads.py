"""Uploads: kept when they are good, gone without a trace when they are not."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import zipfile
from collections.abc import AsyncIterator
from contextlib import ExitStack
from datetime import timedelta

import pytest

from kbatch_server.engine.retention import Retention
from kbatch_server.errors import InvalidRequest, KBatchError, NotFound, TooLarge, TooManyRequests, Unavailable
from kbatch_server.logs.recorder import LogRecorder
from kbatch_server.metrics import LIMITS_HELD
from kbatch_server.models.job import Job, JobSpec
from kbatch_server.models.times import utcnow
from kbatch_server.models.user import User
from kbatch_server.outputs.outputs import Outputs
from kbatch_server.ratelimit import ConcurrencyLimit, FairLimit
from kbatch_server.storage.base import StorageError, StorageFull
from kbatch_server.storage.file import FileStorage
from kbatch_server.store import Store
from kbatch_server.uploads.uploads import Uploads
from tests.support.doubles import MemoryStorage
from tests.support.world import make_store, make_uploads
from tests.support.zips import make_zip

ALICE, BOB = User("alice"), User("bob")


@pytest.fixture
async def store(db_url):
    store = make_store(db_url)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def uploads(store):
    return make_uploads(store, MemoryStorage())


GOOD = make_zip(("main.py", b"print('hello')\n"), ("data/x.csv", b"1,2\n"))


async def chunked(content: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for at in range(0, len(content), size):
        yield content[at : at + size]


async def nothing_is_left(uploads: Uploads) -> bool:
    forever = utcnow() + timedelta(days=9999)
    return not uploads.storage.objects and not await uploads.records.list_expired(forever)


# --- receiving


async def test_a_good_zip_is_kept_with_its_size_and_hash(uploads):
    upload = await uploads.receive(ALICE, chunked(GOOD), declared_size=len(GOOD))
    assert (upload.size, upload.sha256) == (len(GOOD), hashlib.sha256(GOOD).hexdigest())
    assert upload.expires_at - upload.created_at == timedelta(days=7)
    assert await uploads.get(ALICE, upload.id) == upload
    assert b"".join([piece async for piece in uploads.read(upload)]) == GOOD
    assert b"".join([piece async for piece in uploads.read(upload, start=2, length=5)]) == GOOD[2:7]
    with pytest.raises(NotFound):
        await uploads.get(BOB, upload.id)


async def test_the_same_content_of_the_same_user_is_kept_once_and_longer(uploads):
    first = await uploads.receive(ALICE, chunked(GOOD))
    again = await uploads.receive(ALICE, chunked(GOOD))
    assert again.id == first.id
    assert again.expires_at > first.expires_at
    other = await uploads.receive(BOB, chunked(GOOD))
    assert other.id != first.id
    assert sorted(uploads.storage.objects) == sorted([first.key, other.key])


@pytest.mark.parametrize("left", [None, b"half of it"])
async def test_the_same_content_is_there_again_when_the_storage_lost_it_for_earlier_jobs_too(uploads, left):
    first = await uploads.receive(ALICE, chunked(GOOD))
    uploads.storage.objects.clear()
    if left is not None:
        uploads.storage.objects[first.key] = left
    again = await uploads.receive(ALICE, chunked(GOOD))
    assert again.id == first.id
    assert uploads.storage.objects == {first.key: GOOD}


async def test_the_same_content_sent_at_the_same_time_is_kept_once(uploads):
    sent = [uploads.receive(ALICE, chunked(GOOD, 10)) for _ in range(8)]
    kept = await asyncio.gather(*sent, uploads.receive(BOB, chunked(GOOD, 10)))
    assert len({upload.id for upload in kept[:8]}) == 1
    assert sorted(uploads.storage.objects) == sorted({upload.key for upload in kept})
    assert (await uploads.get(ALICE, kept[0].id)).expires_at == max(each.expires_at for each in kept[:8])


async def test_one_that_is_broken_off_takes_nothing_from_another_that_was_answered_with_it(
    uploads, store, monkeypatch
):
    """The first is recorded and then cancelled; meanwhile the same content came again."""
    recorded, add = asyncio.Event(), store.uploads.add

    async def hanging(upload):
        await add(upload)
        recorded.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(store.uploads, "add", hanging)
        first = asyncio.create_task(uploads.receive(ALICE, chunked(GOOD)))
        await asyncio.wait_for(recorded.wait(), 5)
    second = await uploads.receive(ALICE, chunked(GOOD))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await uploads.get(ALICE, second.id)).id == second.id
    assert uploads.storage.objects == {second.key: GOOD}


async def test_too_large_is_said_with_the_limit_and_the_size_before_or_while_it_comes(uploads):
    uploads.max_upload_bytes = 2500
    with pytest.raises(TooLarge, match="has 2501 bytes; the limit is 2500") as refused:
        await uploads.receive(ALICE, chunked(b""), declared_size=2501)
    assert refused.value.details == {"limit": 2500, "size": 2501}
    came = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal came
        while True:
            came += 1000
            yield b"x" * 1000

    with pytest.raises(TooLarge, match=r"larger than the limit of 2500 bytes \(3000 received\)") as refused:
        await uploads.receive(ALICE, endless())
    assert refused.value.details == {"limit": 2500, "size": None, "received": 3000}
    assert came == 3000
    assert await nothing_is_left(uploads)


async def test_what_is_no_zip_leaves_nothing(uploads):
    with pytest.raises(InvalidRequest) as refused:
        await uploads.receive(ALICE, chunked(b"print('no zip')"))
    assert refused.value.details == [
        {"field": "file", "message": "The submitted file must be a ZIP archive."}
    ]
    assert await nothing_is_left(uploads)


async def test_a_client_that_goes_away_leaves_nothing(uploads):
    async def broken() -> AsyncIterator[bytes]:
        yield GOOD[:100]
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        await uploads.receive(ALICE, broken())
    assert await nothing_is_left(uploads)


@pytest.mark.parametrize("method", ["get_size", "add"])
async def test_a_cancelled_request_leaves_nothing(uploads, monkeypatch, method):
    """Cancelled after the object was written, and after the row was."""
    reached = asyncio.Event()
    part = uploads.records if method == "add" else uploads.storage
    done = getattr(part, method)

    async def hanging(*args):
        await done(*args)
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(part, method, hanging)
    if method == "get_size":
        first = await uploads.receive(ALICE, chunked(GOOD))
    receiving = asyncio.create_task(uploads.receive(ALICE, chunked(GOOD)))
    await asyncio.wait_for(reached.wait(), 5)
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    if method == "get_size":
        assert list(uploads.storage.objects) == [first.key]
    else:
        assert await nothing_is_left(uploads)


STEPS = ["write", "write-middle", "write-end", "read", "read-content"]


def break_down(storage: MemoryStorage, monkeypatch, step: str, fault) -> None:
    """Let one step of the storage do ``fault``, a coroutine function, instead of its work or after it."""
    write, read = storage.write, storage.read
    reads = 0

    async def faulty_write(key, chunks):
        if step == "write":
            await fault()
        if step == "write-middle":
            async for _ in chunks:
                await fault()
        size = await write(key, chunks)
        if step == "write-end":
            await fault()
        return size

    async def faulty_read(key, *, start=0, length=None):
        nonlocal reads
        reads += 1
        if step == ("read" if reads == 1 else "read-content"):
            await fault()
        async for piece in read(key, start=start, length=length):
            yield piece

    monkeypatch.setattr(storage, "write", faulty_write)
    monkeypatch.setattr(storage, "read", faulty_read)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("error", "said"), [(StorageFull("full"), "storage is full"), (StorageError("away"), "does not respond")]
)
async def test_a_storage_that_fails_at_any_step_is_said_plainly_and_nothing_stays(
    uploads, monkeypatch, step, error, said
):
    async def fail():
        raise error

    break_down(uploads.storage, monkeypatch, step, fail)
    with pytest.raises(Unavailable, match=said):
        await uploads.receive(ALICE, chunked(GOOD))
    assert await nothing_is_left(uploads)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("step", STEPS)
async def test_a_request_that_is_cancelled_while_the_storage_hangs_leaves_nothing(
    uploads, monkeypatch, step, times
):
    """Once, or once more while what it left is cleared away."""
    reached, deleting, delete = asyncio.Event(), asyncio.Event(), uploads.storage.delete

    async def hang():
        reached.set()
        await asyncio.Event().wait()

    async def slow_delete(key):
        deleting.set()
        await asyncio.sleep(0.01)
        await delete(key)

    break_down(uploads.storage, monkeypatch, step, hang)
    monkeypatch.setattr(uploads.storage, "delete", slow_delete)
    receiving = asyncio.create_task(uploads.receive(ALICE, chunked(GOOD)))
    await asyncio.wait_for(reached.wait(), 5)
    receiving.cancel()
    if times == 2:
        await asyncio.wait_for(deleting.wait(), 5)
        receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    await uploads.settle()
    assert await nothing_is_left(uploads)


async def test_what_cannot_be_cleared_away_at_once_is_collected_when_it_is_a_day_old(uploads, monkeypatch):
    with monkeypatch.context() as patched:

        async def failing(key):
            raise StorageError("away")

        patched.setattr(uploads.storage, "delete", failing)
        with pytest.raises(InvalidRequest, match="must be a ZIP archive"):
            await uploads.receive(ALICE, chunked(b"print('no zip')"))
    [key] = uploads.storage.objects
    assert await collect(uploads, with_orphans=True) == 0
    uploads.storage.modified_at[key] -= timedelta(days=1)
    assert await collect(uploads, with_orphans=True) == 1
    assert await nothing_is_left(uploads)


async def test_a_check_that_takes_too_long_is_given_up(uploads, monkeypatch):
    async def hang():
        await asyncio.Event().wait()

    break_down(uploads.storage, monkeypatch, "read-content", hang)
    monkeypatch.setattr("kbatch_server.uploads.uploads.CHECK_SECONDS", 0.05)
    with pytest.raises(Unavailable, match="could not be checked in time"):
        await uploads.receive(ALICE, chunked(GOOD))
    assert await nothing_is_left(uploads)


async def test_what_the_user_sent_before_is_not_looked_at_again(uploads, monkeypatch):
    await uploads.receive(ALICE, chunked(GOOD))
    monkeypatch.setattr("kbatch_server.uploads.uploads.check_archive", None)
    await uploads.receive(ALICE, chunked(GOOD))
    with pytest.raises(TypeError):
        await uploads.receive(BOB, chunked(GOOD))


# --- places


MAC = make_zip(("project/main.py", b"print()"), ("project/.DS_Store", b""), ("__MACOSX/._project", b""))


async def test_what_is_kept_of_a_zip_is_what_every_unpacker_makes_the_same_of(uploads):
    upload = await uploads.receive(ALICE, chunked(MAC))
    assert (upload.size, upload.sha256) == (len(MAC), hashlib.sha256(MAC).hexdigest())
    assert list(uploads.storage.objects) == [upload.key]
    kept = b"".join([piece async for piece in uploads.read(upload)])
    assert (upload.code_size, upload.code_sha256) == (len(kept), hashlib.sha256(kept).hexdigest())
    assert zipfile.ZipFile(io.BytesIO(kept)).namelist() == ["project/main.py"]
    assert upload.top_folder == "project"
    assert await uploads.get(ALICE, upload.id) == upload
    assert (await uploads.receive(ALICE, chunked(GOOD))).top_folder is None


async def test_a_zip_is_made_plain_while_its_turn_to_be_checked_lasts(uploads, monkeypatch):
    write, busy = uploads.storage.write, []

    async def look(key, chunks):
        async def looked():
            async for chunk in chunks:
                busy.append(uploads._checks._free)
                yield chunk

        return await write(key, looked())

    free = uploads._checks._free
    monkeypatch.setattr(uploads.storage, "write", look)
    await uploads.receive(ALICE, chunked(MAC))
    assert set(busy[:-1]) == {free}
    assert busy[-1] == free - 1
    assert uploads._checks._free == free


async def test_a_zip_that_was_made_plain_is_known_again_when_it_is_sent_again(uploads, monkeypatch):
    first = await uploads.receive(ALICE, chunked(MAC))
    monkeypatch.setattr("kbatch_server.uploads.uploads.check_archive", None)
    again = await uploads.receive(ALICE, chunked(MAC))
    assert (again.id, again.code_sha256) == (first.id, first.code_sha256)
    assert list(uploads.storage.objects) == [first.key]


async def test_a_zip_that_was_made_plain_is_there_again_when_the_storage_lost_it(uploads):
    first = await uploads.receive(ALICE, chunked(MAC))
    lost = uploads.storage.objects.pop(first.key)
    again = await uploads.receive(ALICE, chunked(MAC))
    assert (again.id, uploads.storage.objects) == (first.id, {first.key: lost})


@pytest.mark.parametrize("fault", [StorageFull("full"), StorageError("away"), asyncio.CancelledError()])
async def test_when_a_zip_cannot_be_made_plain_nothing_is_left(uploads, monkeypatch, fault):
    write, writes = uploads.storage.write, []

    async def fail_the_second_time(key, chunks):
        writes.append(key)
        if len(writes) == 2:
            async for _ in chunks:
                raise fault
        return await write(key, chunks)

    monkeypatch.setattr(uploads.storage, "write", fail_the_second_time)
    with pytest.raises(asyncio.CancelledError if isinstance(fault, asyncio.CancelledError) else KBatchError):
        await uploads.receive(ALICE, chunked(MAC))
    assert len(writes) == 2
    assert await nothing_is_left(uploads)


async def test_a_user_has_one_zip_checked_at_a_time_and_users_take_turns():
    places = FairLimit(per_user=1, total=2, limit="concurrent_checks", what="checks")
    order = []
    gates = {name: asyncio.Event() for name in ("a1", "a2", "a3", "b1", "b2", "c1")}

    async def check(name):
        async with places.take(name[0], wait_seconds=5):
            order.append(name)
            await gates[name].wait()

    tasks = [asyncio.create_task(check(name)) for name in ("a1", "a2", "a3", "b1", "b2", "c1")]
    steps = [["a1", "b1"], ["c1"], ["a2"], ["b2"], ["a3"]]
    for step, ended in zip(steps, ["a1", "b1", "c1", "a2", "b2"], strict=True):
        for _ in range(5):
            await asyncio.sleep(0)
        assert order[-len(step) :] == step
        gates[ended].set()
    gates["a3"].set()
    await asyncio.gather(*tasks)
    assert sorted(order) == sorted(gates)


async def test_a_turn_that_is_not_waited_for_any_more_is_another_ones():
    places = FairLimit(per_user=1, total=1, limit="concurrent_checks", what="checks")
    async with places.take("a", wait_seconds=1):
        with pytest.raises(Unavailable, match="too many checks"):
            async with places.take("b", wait_seconds=0.01):
                pass
        waiting = asyncio.create_task(anext(aiter(hold(places, "c"))))
        await asyncio.sleep(0)
    waiting.cancel()  # just when its turn has come
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with places.take("d", wait_seconds=1):
        pass


async def hold(places, user):
    async with places.take(user, wait_seconds=1):
        yield


async def test_what_a_user_has_inflated_in_an_hour_is_limited(store, monkeypatch):
    uploads = make_uploads(store, MemoryStorage(), inflated_bytes_per_hour=1000)
    monkeypatch.setattr(uploads._inflated, "time", lambda: now)
    now = 0.0
    before = LIMITS_HELD.labels("inflated_bytes_per_hour")._value.get()
    await uploads.receive(ALICE, chunked(make_zip(("a", b"x" * 600))))
    with pytest.raises(TooManyRequests, match="exceed the limit of 1000 unpacked bytes") as refused:
        await uploads.receive(ALICE, chunked(make_zip(("b", b"x" * 600))))
    assert refused.value.retry_after_seconds == 720
    assert LIMITS_HELD.labels("inflated_bytes_per_hour")._value.get() == before + 1
    assert len(uploads.storage.objects) == 1
    await uploads.receive(BOB, chunked(make_zip(("b", b"x" * 600))))
    now = 720.0
    await uploads.receive(ALICE, chunked(make_zip(("b", b"x" * 600))))
    now = 7200.0
    await uploads.receive(ALICE, chunked(make_zip(("c", b"x" * 5000))))  # it could never be sent otherwise


def test_a_user_has_some_places_and_everybody_together_has_more():
    places = ConcurrencyLimit(per_user=2, total=3, limit="concurrent_uploads", what="uploads")
    with ExitStack() as held:
        held.enter_context(places.take("alice"))
        held.enter_context(places.take("alice"))
        with pytest.raises(TooManyRequests, match="You already have 2 uploads") as refused:
            places.take("alice").__enter__()
        assert refused.value.retry_after_seconds
        held.enter_context(places.take("bob"))
        with pytest.raises(Unavailable, match="too many uploads"):
            places.take("carol").__enter__()
    with places.take("carol"), places.take("alice"), pytest.raises(ZeroDivisionError), places.take("bob"):
        raise ZeroDivisionError
    with places.take("bob"), places.take("bob"):
        pass


# --- collecting


async def collect(uploads: Uploads, *, with_orphans: bool = False) -> int:
    """Remove what the service would in one of its rounds, and return how many things went."""
    storage, store = uploads.storage, uploads.disk.store
    retention = Retention(
        storage=storage,
        store=store,
        uploads=uploads,
        logs=LogRecorder(storage=storage, logs=store.logs),
        outputs=Outputs(storage=storage, records=store.outputs),
    )
    return await retention.sweep(with_orphans=with_orphans)


async def test_what_has_expired_is_deleted_unless_a_job_names_it(uploads, store):
    named = await uploads.receive(ALICE, chunked(make_zip(("a", b"1"))))
    gone = await uploads.receive(ALICE, chunked(make_zip(("b", b"2"))))
    spec = JobSpec(image="i", upload=named.id)
    await store.jobs.add(Job(id="j", user="alice", name="j", spec=spec, created_at=utcnow()))
    assert await collect(uploads) == 0
    uploads.upload_ttl_seconds = 60
    await expire(store, named.id, gone.id)
    fresh = await uploads.receive(ALICE, chunked(GOOD))
    assert await collect(uploads) == 1
    assert sorted(uploads.storage.objects) == sorted([named.key, fresh.key])
    with pytest.raises(NotFound):
        await uploads.get(ALICE, gone.id)
    await store.jobs.remove("j")
    assert await collect(uploads) == 1


async def test_a_deletion_that_failed_is_done_the_next_time(uploads, store, monkeypatch):
    upload = await uploads.receive(ALICE, chunked(GOOD))
    await expire(store, upload.id)
    with monkeypatch.context() as patched:

        async def failing(key):
            raise StorageError("away")

        patched.setattr(uploads.storage, "delete", failing)
        assert await collect(uploads) == 0
    with pytest.raises(NotFound):
        await uploads.get(ALICE, upload.id)
    assert await collect(uploads) == 1
    assert await nothing_is_left(uploads)


async def expire(store: Store, *upload_ids: str) -> None:
    from sqlalchemy import update

    from kbatch_server.store.tables import uploads

    statement = update(uploads).where(uploads.c.id.in_(upload_ids))
    statement = statement.values(expires_at=utcnow() - timedelta(seconds=1))
    await store._database.write(lambda connection: connection.execute(statement))


async def test_more_than_a_page_is_collected_and_one_that_cannot_be_deleted_holds_up_no_other(
    uploads, store, monkeypatch
):
    kept = [await uploads.receive(ALICE, chunked(make_zip((f"{i}", b"")))) for i in range(5)]
    await expire(store, *[upload.id for upload in kept])
    stuck, delete = kept[0].key, uploads.storage.delete

    async def failing(key):
        if key == stuck:
            raise StorageError("held")
        await delete(key)

    monkeypatch.setattr(uploads.storage, "delete", failing)
    monkeypatch.setattr("kbatch_server.engine.retention.AT_ONCE", 2)
    assert await collect(uploads) == 4
    assert list(uploads.storage.objects) == [stuck]


@pytest.mark.slow
async def test_a_job_that_is_submitted_while_its_upload_is_collected_has_its_code_or_is_refused(
    uploads, store
):
    """Many times, each with another order of the two."""
    accepted = 0
    for i in range(60):
        upload = await uploads.receive(ALICE, chunked(make_zip((f"{i}", b""))))
        await expire(store, upload.id)
        spec = JobSpec(image="i", upload=upload.id)
        job = Job(id=f"j{i}", user="alice", name="j", spec=spec, created_at=utcnow())

        async def submit(job=job, pauses=i % 6):
            for _ in range(pauses):
                await asyncio.sleep(0)
            await store.jobs.add(job)

        outcome, _ = await asyncio.gather(submit(), collect(uploads), return_exceptions=True)
        if outcome is None:
            accepted += 1
            assert upload.key in uploads.storage.objects
            assert await uploads.get(ALICE, upload.id)
        else:
            assert isinstance(outcome, NotFound)
            assert upload.key not in uploads.storage.objects
    assert len(uploads.storage.objects) == accepted
    assert accepted > 0


async def test_the_same_content_sent_while_it_is_collected_is_there(uploads, store):
    for i in range(30):
        content = make_zip((f"{i}", b""))
        first = await uploads.receive(ALICE, chunked(content))
        await expire(store, first.id)
        again, _ = await asyncio.gather(uploads.receive(ALICE, chunked(content)), collect(uploads))
        assert uploads.storage.objects[again.key] == content
        assert await uploads.get(ALICE, again.id)


async def test_orphans_are_collected_and_uploads_and_what_is_not_ours_are_not(uploads, tmp_path):
    storage = uploads.storage = FileStorage(root=str(tmp_path / "storage"))
    await storage.open()
    assert await collect(uploads, with_orphans=True) == 0  # there is not even a folder
    kept = await uploads.receive(ALICE, chunked(GOOD))
    orphan, fresh, other = (f"uploads/{name}" for name in ("a" * 40, "b" * 40, "notes.txt"))
    for key in (orphan, fresh, other):
        await storage.write(key, chunked(b"x"))
    for key in (kept.key, orphan, other):
        os.utime(f"{storage.root}/{key}", (0, 0))
    assert sorted([found.key async for found in storage.list("uploads/")]) == sorted(
        [kept.key, orphan, fresh, other]
    )
    assert await collect(uploads, with_orphans=True) == 1
    assert sorted([found.key async for found in storage.list("uploads/")]) == sorted([kept.key, fresh, other])
    assert await collect(uploads, with_orphans=True) == 0
