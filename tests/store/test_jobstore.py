"""What the store promises: durable, in order, once, and to its owner only."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import threading
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import psycopg
import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from kbatch_server.audit import Action, AuditQuery, make_entry
from kbatch_server.errors import Conflict, InvalidRequest, KBatchError, NotFound, Unavailable
from kbatch_server.keyring import Keyring
from kbatch_server.models.job import Job, JobSpec, Pod, Status
from kbatch_server.models.listing import JobQuery
from kbatch_server.models.times import utcnow
from kbatch_server.models.upload import Upload
from kbatch_server.slugs import make_job_id
from kbatch_server.store import Store, paging
from kbatch_server.store.database import postgresql
from kbatch_server.store.queuelimits import QueueLimits
from kbatch_server.store.tables import metadata
from tests.support.fuzzing import peak_below

LOG = logging.getLogger("test")
KEYRING = Keyring(["k" * 32])

only_sqlite = pytest.mark.parametrize("db_url", ["sqlite"], indirect=True)


def make_store(url) -> Store:
    return Store(url, KEYRING, log=LOG)


@pytest.fixture
async def store(db_url):
    store = make_store(db_url)
    await store.open()
    yield store
    await store.close()


def make_job(name="train", user="alice", **fields) -> Job:
    spec = JobSpec(image="python:3.12", command=["python", "main.py"], upload=fields.pop("upload", None))
    return Job(id=make_job_id(name), user=user, name=name, spec=spec, created_at=utcnow(), **fields)


def make_upload(upload_id="u1", user="alice", sha256="ab", expires_in_seconds=60) -> Upload:
    now = utcnow()
    expires_at = now + timedelta(seconds=expires_in_seconds)
    return Upload(upload_id, user, 10, sha256, now, expires_at, code_size=10, code_sha256=sha256)


async def add(store: Store, **fields) -> Job:
    return (await store.jobs.add(make_job(**fields)))[0]


@asynccontextmanager
async def writing(store: Store):
    """Keep the database's writer busy, so that what is written in the block waits."""
    begun, free = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def hold(connection):
        loop.call_soon_threadsafe(begun.set)
        free.wait(10)

    held = asyncio.create_task(store._database.write(hold))
    await begun.wait()
    try:
        yield
    finally:
        free.set()
        await held


def hold_commits(store: Store) -> tuple[asyncio.Event, threading.Event]:
    """Hold the store's commits; return what is set when one is held, and what to set to let them go on."""
    committing, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    @event.listens_for(store._database._writer, "commit")
    def hold(connection):
        loop.call_soon_threadsafe(committing.set)
        go_on.wait(10)

    return committing, go_on


async def begin(*calls) -> list[asyncio.Task]:
    """Return the calls as tasks, each of which waits for the writer."""
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0)
    return tasks


async def names(store: Store, **query) -> list[str]:
    query = {"user": "alice"} | query
    return [job.name for job in (await store.jobs.list_page(JobQuery(**query))).jobs]


# --- what is kept


async def test_a_job_comes_back_as_it_was_given_also_after_a_restart(store, db_url):
    job = make_job(
        user="Ünïcode " + "u" * 300,
        description="d",
        message="Waiting.",
        tags={"run": "7", "team": ""},
        groups=["a", "b"],
        state={"uid": "1", "n": [1, None]},
        pods=[Pod(name="p", phase="Running", created_at=utcnow())],
    )
    added, is_new = await store.jobs.add(job, env={"PASSWORD": "s3cret", "EMPTY": ""})
    assert is_new
    assert added.seq > 0
    await store.close()

    again = make_store(db_url)
    await again.open()
    assert await again.jobs.get(job.id, user=job.user) == added
    assert added.has_env
    assert await again.jobs.read_env(job.id) == {"PASSWORD": "s3cret", "EMPTY": ""}
    await again.close()


@only_sqlite
async def test_the_environment_is_sealed_and_the_file_is_private(store, tmp_path):
    await store.jobs.add(make_job(), env={"PASSWORD": "s3cret"})
    await store.close()
    path = tmp_path / "jobs.sqlite"
    assert b"s3cret" not in path.read_bytes()
    assert b"python:3.12" in path.read_bytes()
    assert path.stat().st_mode & 0o077 == 0


async def test_an_environment_is_opened_for_who_asks_for_it_and_for_nobody_else(store, monkeypatch):
    opened = []
    unseal = store.jobs._keyring.unseal
    monkeypatch.setattr(store.jobs._keyring, "unseal", lambda sealed: opened.append(1) or unseal(sealed))
    job, _ = await store.jobs.add(make_job(), env={"A": "1"}, idempotency_key="k", request_hash="h")
    bare, _ = await store.jobs.add(make_job())
    again, is_new = await store.jobs.add(make_job(), env={"A": "1"}, idempotency_key="k", request_hash="h")
    page = (await store.jobs.list_page(JobQuery("alice"))).jobs
    seen = [
        again,
        *page,
        *(await store.jobs.find_some([job.id, bare.id])).values(),
        await store.jobs.get(job.id, user="alice"),
        await store.jobs.update(job.id, status=Status.RUNNING),
        await store.jobs.update(bare.id, status=Status.RUNNING),
        await store.jobs.request_cancel(job.id, user="alice"),
    ]
    assert {each.id: each.has_env for each in seen} == {job.id: True, bare.id: False}
    assert (is_new, opened) == (False, [])
    assert await store.jobs.read_env(job.id) == {"A": "1"}
    assert await store.jobs.read_env(bare.id) == await store.jobs.read_env("none-1") == {}
    assert len(opened) == 1
    await store.jobs.remove(job.id)
    assert len(opened) == 1


async def test_a_page_ends_where_it_has_enough_bytes_and_the_next_goes_on_there(store):
    made = []
    for number in range(25):
        size = 60_000 if number % 5 else 10
        job = make_job()
        job.spec = JobSpec(image="x", args=["é" * size])  # six bytes each, as JSON
        made.append((await store.jobs.add(job, env={"A": "x" * 200_000}))[0].id)
    found, sizes, cursor = [], [], None
    while True:
        page = await store.jobs.list_page(JobQuery("alice", cursor=cursor, limit=20, max_bytes=10**6))
        found += [job.id for job in page.jobs]
        sizes.append(len(json.dumps([job.to_dict() for job in page.jobs])))
        assert sizes[-1] / 2 < page.size < 2 * sizes[-1] + 2000
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == made[::-1]
    assert max(sizes) < 10**6
    assert len(sizes) == 10
    with peak_below(3 * 2**20):  # of 5 MB of environments, and 10 MB of arguments
        one = await store.jobs.list_page(JobQuery("alice", max_bytes=1))
    assert [job.id for job in one.jobs] == made[-1:]
    assert one.next_cursor is not None


async def test_a_large_page_is_read_among_the_costly_reads(store, monkeypatch):
    database, costly = store._database, []
    read = database.read

    def note(operation, *, is_costly=False):
        costly.append(is_costly)
        return read(operation, is_costly=is_costly)

    monkeypatch.setattr(database, "read", note)
    for query in ({"limit": 100}, {"limit": 101}, {"search": "x"}, {"tags": (("a", None),)}):
        await store.jobs.list_page(JobQuery("alice", **query))
    for limit in (100, 500):
        await store.audit.list_page(AuditQuery(limit=limit))
    assert costly == [False, True, True, True, False, True]


async def test_pages_of_many_jobs_are_whole(store, monkeypatch):
    monkeypatch.setattr(paging, "STEP", 3)
    made = [(await add(store)).id for _ in range(10)]
    for limit in (1, 2, 3, 4, 6, 7, 9, 10, 11):
        found, cursor = [], None
        while True:
            page = await store.jobs.list_page(JobQuery("alice", cursor=cursor, limit=limit))
            assert len(page.jobs) == limit or page.next_cursor is None
            found += [job.id for job in page.jobs]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert found == made[::-1]
    assert (await store.jobs.list_page(JobQuery("bob"))).jobs == []


async def test_a_moment_is_kept_in_utc_and_a_naive_one_is_refused(store):
    job = make_job()
    job.created_at = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    await store.jobs.add(job)
    found = await store.jobs.get(job.id, user="alice")
    assert found.created_at == datetime(2026, 1, 1, 10, tzinfo=UTC)
    assert found.created_at.tzinfo is UTC
    naive = make_job()
    naive.created_at = datetime(2026, 1, 1)
    with pytest.raises(Exception, match="no time zone"):
        await store.jobs.add(naive)


# --- adding


async def test_many_callers_at_once_each_get_their_own_job(store):
    jobs = [make_job(tags={"i": str(i)}) for i in range(300)]
    results = await asyncio.gather(*[store.jobs.add(job) for job in jobs])
    assert all(is_new for _, is_new in results)
    assert [job.id for job, _ in results] == [job.id for job in jobs]
    assert len({job.seq for job, _ in results}) == 300
    for i in (0, 150, 299):
        assert (await store.jobs.list_page(JobQuery("alice", tags=(("i", str(i)),)))).jobs == [jobs[i]]


async def test_a_job_that_cannot_be_written_fails_alone(store):
    twice, good, naive = make_job(), [make_job() for _ in range(5)], make_job()
    naive.created_at = datetime(2026, 1, 1)
    await store.jobs.add(twice)
    results = await asyncio.gather(
        *[store.jobs.add(job) for job in (*good[:2], twice, naive, *good[2:])], return_exceptions=True
    )
    assert isinstance(results[2], Conflict)
    assert isinstance(results[3], Exception)
    assert [job for job, _ in (*results[:2], *results[4:])] == good
    assert len(await names(store)) == 6


async def test_the_same_key_and_request_is_the_same_job_also_at_the_same_moment(store):
    outcomes = await asyncio.gather(
        *[store.jobs.add(make_job(), idempotency_key="k", request_hash="h") for _ in range(20)]
    )
    assert sum(is_new for _, is_new in outcomes) == 1
    assert len({job.id for job, _ in outcomes}) == 1
    again, is_new = await store.jobs.add(make_job(), idempotency_key="k", request_hash="h")
    assert (again.id, is_new) == (outcomes[0][0].id, False)
    assert len(await names(store)) == 1


async def test_a_key_of_another_request_is_refused_and_of_another_user_is_another(store):
    first, _ = await store.jobs.add(make_job(), idempotency_key="k", request_hash="h")
    with pytest.raises(Conflict) as refused:
        await store.jobs.add(make_job(), idempotency_key="k", request_hash="other")
    assert refused.value.reason == "IdempotencyKeyReused"
    await store.jobs.request_delete(first.id, user="alice")
    anew, is_new = await store.jobs.add(make_job(), idempotency_key="k", request_hash="other")
    assert is_new, "the job of the key is not there any more for its user"
    assert anew.id != first.id
    _, is_new = await store.jobs.add(make_job(user="bob"), idempotency_key="k", request_hash="h")
    assert is_new


async def test_a_job_with_code_that_is_not_there_is_refused_and_the_others_are_not(store):
    await store.uploads.add(make_upload())
    good, gone, foreign = make_job(upload="u1"), make_job(upload="u2"), make_job(user="bob", upload="u1")
    results = await asyncio.gather(
        *[store.jobs.add(job) for job in (gone, good, foreign)], return_exceptions=True
    )
    assert results[1] == (good, True)
    for error in (results[0], results[2]):
        assert isinstance(error, NotFound)


async def test_a_caller_that_gave_up_leaves_the_others_alone(store):
    async with writing(store):  # so that the first batch waits
        given_up = asyncio.create_task(store.jobs.add(make_job("given-up")))
        other = asyncio.create_task(store.jobs.add(make_job("other")))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up])
    assert (await asyncio.wait_for(other, 5))[1]


async def test_closing_writes_what_waits_and_refuses_what_comes_later(store):
    async with writing(store):
        waiting = [asyncio.create_task(store.jobs.add(make_job())) for _ in range(150)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0)
    await asyncio.wait_for(closing, 5)
    assert all(is_new for _, is_new in await asyncio.gather(*waiting))
    with pytest.raises(Unavailable, match="is stopping"):
        await store.jobs.add(make_job())


async def test_more_jobs_than_are_written_in_a_second_or_two_are_refused(store, monkeypatch):
    monkeypatch.setattr("kbatch_server.store.database.groupcommit.MAX_WAITING", 3)
    async with writing(store):
        waiting = await begin(*[store.jobs.add(make_job()) for _ in range(3)])
        with pytest.raises(Unavailable, match="too much to write"):
            await store.jobs.add(make_job())
    assert all(is_new for _, is_new in await asyncio.gather(*waiting))


async def test_a_change_is_told_even_if_who_asked_for_it_has_gone(store):
    job = await add(store)
    while await store.changes.listen(0.2) != []:
        pass
    committing, go_on = hold_commits(store)
    other = make_job("other")
    tasks = await begin(store.jobs.request_cancel(job.id, user="alice"), store.jobs.add(other))
    await committing.wait()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    go_on.set()
    told: set[str] = set()
    async with asyncio.timeout(10):
        while told < {job.id, other.id}:
            told |= {change.job_id for change in await store.changes.listen(1) or ()}


async def test_a_database_that_another_process_holds_is_an_answer_in_a_limited_time(
    db_url, monkeypatch, caplog
):
    monkeypatch.setattr("kbatch_server.store.database.sqlite.BUSY_TIMEOUT_SECONDS", 0.1)
    limits = postgresql.SET_LIMITS.replace("'lock_timeout', '5s'", "'lock_timeout', '100ms'")
    monkeypatch.setattr("kbatch_server.store.database.postgresql.SET_LIMITS", limits)
    store = make_store(db_url)
    await store.open()
    job = await add(store)
    if store._database.is_shared:
        other = psycopg.connect(db_url, autocommit=True)
        other.execute("BEGIN")
        other.execute("LOCK TABLE jobs IN SHARE ROW EXCLUSIVE MODE")
    else:
        other = sqlite3.connect(store._database.url.database, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable):
        await asyncio.wait_for(store.jobs.add(make_job()), 5)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(store.jobs.update(job.id, message="m"), 5)
    assert await store.jobs.get(job.id, user="alice") == job  # reading goes on
    other.execute("ROLLBACK")
    other.close()
    assert (await store.jobs.add(make_job()))[1]
    await store.close()


async def test_two_processes_on_one_database_both_get_their_jobs_written(store, db_url):
    other = make_store(db_url)
    await other.open()

    async def submit(one: Store, name: str) -> None:
        for i in range(
            30
        ):  # looks for the key first, then writes: what a transaction begun too late fails at
            await one.jobs.add(make_job(), idempotency_key=f"{name}-{i}", request_hash="h")

    await asyncio.gather(submit(store, "a"), submit(other, "b"))
    assert (await store.jobs.count("alice"))[Status.QUEUED] == 60
    await other.close()


# --- several processes: each store stands for one, with connections of its own


@pytest.fixture
async def stores(postgresql_url):
    stores = [make_store(postgresql_url) for _ in range(2)]
    for store in stores:
        await store.open()
    yield stores
    for store in stores:
        await store.close()


async def test_the_same_key_is_one_job_also_in_two_processes_at_the_same_moment(stores):
    one, two = stores
    calls = [
        store.jobs.add(make_job(), idempotency_key=f"k{i}", request_hash="h")
        for i in range(100)
        for store in ((one, two) if i % 2 else (two, one))
    ]
    outcomes = await asyncio.gather(*calls)
    assert sum(is_new for _, is_new in outcomes) == 100
    assert len({job.id for job, _ in outcomes}) == 100
    for (left, _), (right, _) in zip(outcomes[::2], outcomes[1::2], strict=True):
        assert left.id == right.id
    assert (await one.jobs.count("alice"))[Status.QUEUED] == 100
    for i in range(30):  # and each in a transaction of its own
        job = {"idempotency_key": f"single-{i}", "request_hash": "h"}
        outcomes = await asyncio.gather(*[store.jobs.add(make_job(), **job) for store in stores])
        assert sorted(is_new for _, is_new in outcomes) == [False, True]
        assert outcomes[0][0].id == outcomes[1][0].id


async def test_the_same_key_for_another_request_is_refused_also_by_another_process(stores):
    one, two = stores
    outcomes = await asyncio.gather(
        one.jobs.add(make_job(), idempotency_key="k", request_hash="a"),
        two.jobs.add(make_job(), idempotency_key="k", request_hash="b"),
        return_exceptions=True,
    )
    [error] = [each for each in outcomes if isinstance(each, Exception)]
    assert isinstance(error, Conflict)
    assert error.reason == "IdempotencyKeyReused"


async def test_an_upload_is_named_by_a_job_or_given_up_whichever_process_does_it(stores):
    one, two = stores
    for i in range(30):
        upload = make_upload(f"u{i}", sha256=f"{i}", expires_in_seconds=-1)
        await one.uploads.add(upload)
        added, given_up, withdrawn = await asyncio.gather(
            one.jobs.add(make_job(upload=upload.id)),
            two.uploads.begin_delete(upload.id, now=utcnow()),
            two.uploads.withdraw(upload) if i % 2 else asyncio.sleep(0),
            return_exceptions=True,
        )
        assert isinstance(added, NotFound) == bool(given_up or withdrawn), (added, given_up, withdrawn)


async def test_the_same_content_is_one_upload_also_in_two_processes_at_the_same_moment(stores):
    for i in range(20):
        added = await asyncio.gather(
            *[store.uploads.add(make_upload(f"u{i}-{n}", sha256=f"{i}")) for n, store in enumerate(stores)]
        )
        assert added[0].id == added[1].id


async def test_cancel_and_launch_at_the_same_moment_agree_also_in_two_processes(stores):
    one, two = stores
    for _ in range(30):
        job = await add(one)
        begun, cancelled = await asyncio.gather(
            one.jobs.begin_launch(job.id), two.jobs.request_cancel(job.id, user="alice")
        )
        assert begun != (cancelled.status == Status.CANCELLED)


async def test_two_processes_that_block_each_other_both_get_it_done(stores):
    a, b = await add(stores[0]), await add(stores[0])
    both_have_one = threading.Barrier(2)

    def write(first, second):
        tries = []

        def operation(connection):
            tries.append(1)
            connection.exec_driver_sql("UPDATE jobs SET attempts = attempts + 1 WHERE id = %s", (first,))
            if len(tries) == 1:
                both_have_one.wait(10)
            connection.exec_driver_sql("UPDATE jobs SET attempts = attempts + 1 WHERE id = %s", (second,))

        return operation

    await asyncio.gather(
        stores[0]._database.write(write(a.id, b.id)), stores[1]._database.write(write(b.id, a.id))
    )
    assert [(await stores[0].jobs.find(job.id)).attempts for job in (a, b)] == [2, 2]


async def test_a_database_that_is_restarted_keeps_what_was_accepted_and_is_used_again(postgresql, stores):
    one, _ = stores
    jobs = [await add(one) for _ in range(3)]
    await asyncio.gather(*[one.jobs.find(job.id) for job in jobs * 4])  # every reader has a connection
    postgresql.stop("immediate")
    try:
        for call in (add(one), one.jobs.find(jobs[0].id), one.jobs.update(jobs[0].id, message="m")):
            with pytest.raises(Unavailable):
                await call
    finally:
        postgresql.start()
    found = await asyncio.gather(*[one.jobs.find(job.id) for job in jobs * 4])
    assert found == jobs * 4
    assert (await one.jobs.update(jobs[0].id, message="m")).message == "m"
    assert (await one.jobs.add(make_job()))[1]


async def test_a_server_that_takes_no_writes_any_more_is_left_for_one_that_does(stores):
    """After a failover the address may lead to what is a standby now, whose connections are sound."""
    store = stores[0]
    job = await add(store)
    await store._database.write(
        lambda connection: connection.exec_driver_sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
    )
    with pytest.raises(Unavailable):
        await store.jobs.update(job.id, message="m")
    assert store._database.is_failing
    assert (await store.jobs.update(job.id, message="m")).message == "m"


async def test_a_connection_that_breaks_fails_all_that_share_it_and_nothing_of_them_is_kept(stores):
    store = stores[0]
    jobs = [await add(store) for _ in range(2)]

    def end_session(connection):
        connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    async with writing(store):
        tasks = await begin(
            store.jobs.update(jobs[0].id, message="m"),
            store._database.write(end_session),
            store.jobs.update(jobs[1].id, message="m"),
            store.jobs.add(make_job()),
        )
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in errors] == [Unavailable] * 4
    assert [await store.jobs.find(job.id) for job in jobs] == jobs
    assert (await store.jobs.update(jobs[0].id, message="m")).message == "m"


async def test_a_statement_that_takes_too_long_is_ended_and_no_other(stores, monkeypatch):
    limits = postgresql.SET_LIMITS.replace("'statement_timeout', '10s'", "'statement_timeout', '100ms'")
    monkeypatch.setattr("kbatch_server.store.database.postgresql.SET_LIMITS", limits)
    store = make_store(str(stores[0]._database.url.render_as_string(hide_password=False)))
    await store.open()
    job = await add(store)
    results = await asyncio.gather(
        store._database.read(lambda connection: connection.exec_driver_sql("SELECT pg_sleep(20)")),
        store._database.write(lambda connection: connection.exec_driver_sql("SELECT pg_sleep(20)")),
        store.jobs.update(job.id, message="m"),
        return_exceptions=True,
    )
    assert [type(each) for each in results] == [Unavailable, Unavailable, Job]
    await store.close()


async def test_text_that_postgresql_cannot_have_is_no_error(stores):
    job = await add(stores[0], description="a\0b", tags={"k": "\0"})
    assert (await stores[0].jobs.find(job.id)).description == "a\ufffdb"
    assert await stores[0].jobs.find("no\0job") is None
    assert await names(stores[0], name="no\0name") == []


async def test_moments_are_in_utc_whatever_the_time_zone_of_the_server_is(postgresql, postgresql_url):
    postgresql.execute(
        f"ALTER DATABASE \"{postgresql_url.rpartition('/')[2]}\" SET timezone = 'Asia/Kolkata'"
    )
    store = make_store(postgresql_url)
    await store.open()
    job = await add(store)
    found = await store.jobs.find(job.id)
    assert found.created_at == job.created_at
    assert found.created_at.utcoffset() == timedelta(0)
    await store.close()


# --- reading and listing


async def test_the_job_of_another_user_is_not_there(store):
    job = await add(store)
    for call in (store.jobs.get, store.jobs.request_cancel, store.jobs.request_delete):
        with pytest.raises(NotFound, match=f"Job '{job.id}' not found."):
            await call(job.id, user="Alice")
    assert (await store.jobs.get(job.id, user=None)).id == job.id
    assert await store.jobs.find("no-such-job") is None


async def test_pages_show_every_job_once_newest_first(store):
    for i in range(7):
        await add(store, name=f"j{i}")
    await add(store, name="other", user="bob")
    page = await store.jobs.list_page(JobQuery("alice", limit=3))
    assert [job.name for job in page.jobs] == ["j6", "j5", "j4"]
    await add(store, name="newer")  # between two pages: shifts nothing
    page = await store.jobs.list_page(JobQuery("alice", limit=3, cursor=page.next_cursor))
    assert [job.name for job in page.jobs] == ["j3", "j2", "j1"]
    page = await store.jobs.list_page(JobQuery("alice", limit=3, cursor=page.next_cursor))
    assert [job.name for job in page.jobs] == ["j0"]
    assert page.next_cursor is None
    assert len(await names(store, user=None)) == 9


@pytest.mark.parametrize(
    "cursor", ["", "x", "nonsense", "ü", "c2VxOg", "c2VxOi0x", "c2VxOjk5OTk5OTk5OTk5OTk5OTk5OTk5"]
)
async def test_a_cursor_that_is_none_of_ours_is_refused(store, cursor):
    with pytest.raises(InvalidRequest) as refused:
        await store.jobs.list_page(JobQuery("alice", cursor=cursor))
    assert refused.value.details[0]["field"] == "cursor"


async def test_jobs_are_found_by_every_filter_and_all_together(store):
    a = await add(store, name="a", tags={"run": "1", "team": "x"})
    b = await add(store, name="b", tags={"run": "2", "team": "x"})
    c = await add(store, name="a", tags={"run": "1"})
    await add(store, name="a", user="bob", tags={"run": "1", "team": "x"})
    await store.jobs.update(b.id, status=Status.RUNNING)
    await store.jobs.update(c.id, status=Status.FAILED)

    async def found(**query) -> list[str]:
        return [job.id for job in (await store.jobs.list_page(JobQuery(**({"user": "alice"} | query)))).jobs]

    running, failed, queued = (Status.RUNNING,), (Status.FAILED,), (Status.QUEUED,)
    assert await found(name="a") == [c.id, a.id]
    assert await found(statuses=running) == [b.id]
    assert await found(statuses=running + failed) == [c.id, b.id]
    assert await found(statuses=running + failed + queued, limit=2) == [c.id, b.id]
    assert await found(tags=(("run", "1"),)) == [c.id, a.id]
    assert await found(tags=(("team", None),)) == [b.id, a.id]
    assert await found(tags=(("run", "1"), ("team", "x"))) == [a.id]
    assert await found(tags=(("team", None), ("run", "2"))) == [b.id]
    assert await found(tags=(("run", "3"),)) == []
    assert await found(since=b.created_at) == [c.id, b.id]
    assert len(await found(user=None, tags=(("run", "1"), ("team", "x")))) == 2
    everything = {"name": "a", "statuses": queued + failed, "tags": (("run", "1"),), "since": a.created_at}
    assert await found(**everything) == [c.id, a.id]
    page = await store.jobs.list_page(JobQuery("alice", **everything, limit=1))
    assert await found(**everything, cursor=page.next_cursor) == [a.id]


async def test_jobs_that_ended_long_ago_are_left_out_and_active_ones_are_not(store):
    now = utcnow()
    waiting, running, old, late, others = [
        await add(store, name=name, user=user)
        for name, user in (("w", "alice"), ("r", "alice"), ("o", "alice"), ("l", "alice"), ("x", "bob"))
    ]
    await store.jobs.update(running.id, status=Status.RUNNING)
    for job, ended in ((old, now - timedelta(days=9)), (late, now), (others, now)):
        await store.jobs.update(job.id, status=Status.FAILED, ended_at=ended)

    query = JobQuery("alice", unless_ended_before=now - timedelta(days=7), limit=2)
    page = await store.jobs.list_page(query)
    assert [job.id for job in page.jobs] == [late.id, running.id]
    page = await store.jobs.list_page(replace(query, cursor=page.next_cursor))
    assert ([job.id for job in page.jobs], page.next_cursor) == ([waiting.id], None)


async def test_jobs_are_counted_by_status(store):
    await add(store)
    running = await add(store)
    deleted = await add(store)
    await add(store, user="bob")
    await store.jobs.update(running.id, status=Status.RUNNING)
    await store.jobs.request_delete(deleted.id, user="alice")
    counts = await store.jobs.count("alice")
    assert counts == dict.fromkeys(Status, 0) | {Status.QUEUED: 1, Status.RUNNING: 1}
    assert await store.jobs.count("alice", statuses=[Status.RUNNING]) == {Status.RUNNING: 1}


@pytest.mark.parametrize("is_forgotten", [True, False])
async def test_what_a_job_uses_whose_user_was_forgotten_is_charged_to_nobody(store, is_forgotten):
    runs = [await add(store), await add(store)]
    for job in runs:
        await store.jobs.begin_launch(job.id)
        started_at = utcnow() - timedelta(seconds=1)
        await store.jobs.update(job.id, status=Status.RUNNING, started_at=started_at)
        await store.jobs.request_delete(job.id, user="alice")
    if is_forgotten:
        await store.retention.forget_usage("alice", audit=make_entry(Action.FORGET_USER, "alice", "alice"))
    assert bool(await store.queues.list_begun_of("alice", limit=9)) != is_forgotten
    assert len(await store.queues.list_begun()) == 2  # they take their places until they are gone
    await store.jobs.update(runs[0].id, status=Status.CANCELLED)
    for job in runs:
        await store.jobs.remove(job.id)
    used = (await store.usage.find(["alice"], now=utcnow()))["alice"]
    assert (used.amount == 0, used.month_seconds == 0) == (is_forgotten, is_forgotten)


async def end_after(store: Store, job: Job, **took) -> None:
    """Let a job have run for some time until now, and be charged for."""
    await store.jobs.begin_launch(job.id)
    await store.jobs.update(job.id, status=Status.RUNNING, started_at=utcnow() - timedelta(**took))
    await store.jobs.update(job.id, status=Status.SUCCEEDED, ended_at=utcnow())


async def test_a_user_of_whom_only_usage_is_left_is_found_to_be_forgotten(store):
    job = await add(store)
    await end_after(store, job, hours=1)
    await store.jobs.request_delete(job.id, user="alice")
    await store.jobs.remove(job.id)
    owners = await store.retention.list_owners()
    assert list(owners) == ["alice"]
    # a user who was made again and has used something since is not charged less each time this is asked
    assert utcnow() - owners["alice"] < timedelta(minutes=1)
    await store.retention.forget_usage("alice", audit=make_entry(Action.FORGET_USER, "alice", "alice"))
    assert await store.retention.list_owners() == {}


def test_each_table_that_names_users_is_looked_at_for_those_to_be_forgotten():
    others = {
        "job_tags",  # goes with its job
        "waits",  # of queued jobs only, written anew by who leads
        "audit",  # stays
    }
    named = {name for name, table in metadata.tables.items() if {"user", "name"} & set(table.columns.keys())}
    assert named - others == {"jobs", "uploads", "secrets", "recent_use", "monthly_use"}


async def test_usage_of_a_month_that_is_over_is_older_than_the_next(store):
    await end_after(store, await add(store, user="bob", groups=["physics"]), hours=1)
    for statement in ("DELETE FROM recent_use", "UPDATE monthly_use SET month = '2000-01'"):
        await store._database.write(
            lambda connection, statement=statement: connection.exec_driver_sql(statement)
        )
    assert await store.retention.list_owners() == {"bob": datetime(2000, 2, 1, tzinfo=UTC)}


async def test_jobs_are_summed_up_by_user_and_by_why_they_failed(store):
    start = utcnow().replace(microsecond=0) - timedelta(hours=2)

    async def fail(reason, seconds, **fields):
        job = await add(store, **fields)
        ended = start + timedelta(seconds=seconds)
        changes = {"status": Status.FAILED, "reason": reason, "message": f"{reason}.", "ended_at": ended}
        return await store.jobs.update(job.id, started_at=start, **changes)

    await fail("Error", 10)
    newest = await fail("Error", 20, user="bob", name="newest")
    await fail("OOMKilled", 30)
    running = await add(store)
    await store.jobs.update(running.id, status=Status.RUNNING, started_at=utcnow() - timedelta(seconds=1000))
    await add(store, user="bob")
    deleted = await add(store, user="eve")
    await store.jobs.request_delete(deleted.id, user="eve")
    summary = await store.reports.summarize(None, since=start, limit=10)
    assert summary.jobs == 5
    assert [(each.user, each.jobs, each.active) for each in summary.users] == [("alice", 3, 1), ("bob", 2, 1)]
    assert 1040 <= summary.users[0].run_seconds < 1100
    assert summary.users[1].run_seconds == 20
    assert [(each.reason, each.jobs) for each in summary.reasons] == [("Error", 2), ("OOMKilled", 1)]
    assert summary.reasons[0].newest.model_dump() == {
        "id": newest.id,
        "user": "bob",
        "name": "newest",
        "message": "Error.",
    }
    own = await store.reports.summarize("bob", since=None, limit=10)
    assert (own.jobs, [each.user for each in own.users]) == (2, ["bob"])
    few = await store.reports.summarize(None, since=None, limit=1)
    assert (few.jobs, len(few.users), len(few.reasons)) == (5, 1, 1)
    none = await store.reports.summarize(None, since=utcnow() + timedelta(hours=1), limit=10)
    assert (none.jobs, none.users, none.reasons) == (0, [], [])


# --- changing


async def test_a_job_never_leaves_its_end(store):
    job = await add(store)
    now = utcnow()
    done = await store.jobs.update(job.id, status=Status.SUCCEEDED, exit_code=0, ended_at=now)
    assert (done.status, done.exit_code, done.ended_at) == (Status.SUCCEEDED, 0, now)
    assert await store.jobs.update(job.id, status=Status.RUNNING, message="late") is None
    assert await store.jobs.get(job.id, user="alice") == done
    assert (await store.jobs.update(job.id, cleaned_at=now)).cleaned_at == now
    assert await store.jobs.update("no-such-job", message="m") is None


async def test_the_reconciler_cannot_change_what_the_user_asked_for(store):
    job = await add(store)
    for columns in ({"cancel_requested_at": None}, {"user": "bob"}, {"id": "x"}, {}):
        with pytest.raises(TypeError):
            await store.jobs.update(job.id, **columns)


async def test_a_job_whose_launch_has_not_begun_is_cancelled_at_once_and_never_launched(store):
    job = await add(store)
    cancelled = await store.jobs.request_cancel(job.id, user="alice")
    assert (cancelled.status, cancelled.reason) == (Status.CANCELLED, "Cancelled")
    assert cancelled.message == "Cancelled before it started."
    assert cancelled.ended_at is not None
    assert not await store.jobs.begin_launch(job.id)
    assert await store.jobs.request_cancel(job.id, user="alice") == cancelled
    assert await store.jobs.list_due_ids() == []


async def test_a_job_whose_launch_has_begun_is_asked_to_end(store):
    job = await add(store)
    assert await store.jobs.begin_launch(job.id)
    begun = (await store.jobs.find(job.id)).launch_begun_at
    assert await store.jobs.begin_launch(job.id)  # again, after the service was killed
    assert (await store.jobs.find(job.id)).launch_begun_at == begun
    asked = await store.jobs.request_cancel(job.id, user="alice")
    assert asked.status == Status.QUEUED
    assert asked.cancel_requested_at is not None
    assert await store.jobs.request_cancel(job.id, user="alice") == asked
    assert not await store.jobs.begin_launch(job.id)


async def test_cancel_and_launch_at_the_same_moment_agree(store):
    for _ in range(20):
        job = await add(store)
        begun, cancelled = await asyncio.gather(
            store.jobs.begin_launch(job.id), store.jobs.request_cancel(job.id, user="alice")
        )
        assert begun != (cancelled.status == Status.CANCELLED)


async def test_a_job_that_is_over_cannot_be_cancelled(store):
    job = await add(store)
    await store.jobs.update(job.id, status=Status.FAILED)
    with pytest.raises(Conflict) as refused:
        await store.jobs.request_cancel(job.id, user="alice")
    assert refused.value.reason == "JobEnded"
    assert (await store.jobs.find(job.id)).cancel_requested_at is None


async def test_a_deleted_job_is_there_for_the_reconciler_only_until_it_is_removed(store):
    job = await add(store, tags={"a": "b"})
    await store.jobs.request_delete(job.id, user="alice")
    for call in (store.jobs.get, store.jobs.request_cancel, store.jobs.request_delete):
        with pytest.raises(NotFound):
            await call(job.id, user="alice")
    assert await names(store) == []
    assert not await store.jobs.begin_launch(job.id)
    assert (await store.jobs.find(job.id)).delete_requested_at is not None
    assert await store.jobs.list_due_ids() == [job.id]
    await store.jobs.remove(job.id)
    await store.jobs.remove(job.id)
    assert await store.jobs.find(job.id) is None
    assert await names(store, tags=(("a", "b"),)) == []
    assert (await add(store)).seq > job.seq


async def test_due_is_what_something_is_to_be_done_for_and_launched_what_the_launcher_has(store):
    queued, begun, running, ending, dirty, clean, never = [(await add(store)).id for _ in range(7)]
    for job_id in (begun, running, ending, dirty, clean):
        await store.jobs.begin_launch(job_id)
    for job_id in (running, ending, dirty, clean):
        await store.jobs.update(job_id, status=Status.RUNNING, launched_at=utcnow())
    await store.jobs.request_cancel(ending, user="alice")
    await store.jobs.update(dirty, status=Status.SUCCEEDED)
    await store.jobs.update(clean, status=Status.SUCCEEDED, cleaned_at=utcnow())
    await store.jobs.update(never, status=Status.FAILED)
    assert await store.jobs.list_due_ids() == [queued, begun, ending, dirty]
    assert await store.jobs.list_due_ids(with_waiting=False) == [begun, ending, dirty]
    assert await store.jobs.list_launched_ids() == [running]
    await store.jobs.request_delete(running, user="alice")
    assert running in await store.jobs.list_due_ids()
    assert await store.jobs.list_launched_ids() == []


# --- writing at the same time


async def test_what_is_written_at_the_same_time_shares_a_commit(store):
    ids = [(await add(store)).id for _ in range(50)]
    commits = []
    event.listen(store._database._writer, "commit", commits.append)
    async with writing(store):
        tasks = await begin(*[store.jobs.update(job_id, message=job_id) for job_id in ids])
        tasks += await begin(store.jobs.begin_launch(ids[0]), store.jobs.add(make_job("new")))
    *updated, is_begun, (new, _) = await asyncio.gather(*tasks)
    assert [job.message for job in updated] == ids
    assert is_begun
    assert len(commits) == 2  # of what kept the writer busy, and of all the others
    assert (await store.jobs.get(new.id, user="alice")).seq == new.seq


async def test_a_commit_has_a_limited_number_of_writes(store, monkeypatch):
    monkeypatch.setattr("kbatch_server.store.database.groupcommit.GROUP", 10)
    job, commits = await add(store), []
    event.listen(store._database._writer, "commit", commits.append)
    async with writing(store):
        tasks = await begin(*[store.jobs.update(job.id, message=str(i)) for i in range(25)])
    await asyncio.gather(*tasks)
    assert len(commits) == 4
    assert (await store.jobs.find(job.id)).message == "24"  # in the order in which they came


async def test_nothing_returns_before_it_is_durable(store):
    jobs = [await add(store) for _ in range(3)]
    committing, go_on = hold_commits(store)
    tasks = await begin(*[store.jobs.update(job.id, message="m") for job in jobs], store.jobs.add(make_job()))
    await committing.wait()
    assert not any(task.done() for task in tasks)
    assert [await store.jobs.find(job.id) for job in jobs] == jobs  # and reading does not wait
    go_on.set()
    await asyncio.gather(*tasks)
    assert [(await store.jobs.find(job.id)).message for job in jobs] == ["m"] * 3


async def test_a_write_that_fails_leaves_nothing_behind_and_the_others_alone(store):
    a, b, c = [await add(store) for _ in range(3)]

    def write_and_fail(connection):
        connection.exec_driver_sql("UPDATE jobs SET message = 'half'")
        raise LookupError("a defect")

    async with writing(store):
        tasks = await begin(
            store.jobs.update(a.id, status=Status.RUNNING),
            store._database.write(write_and_fail),
            store.jobs.update(b.id, ended_at=datetime(2026, 1, 1)),
            store.jobs.update(c.id, status=Status.RUNNING),
        )
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(done[1], LookupError)
    assert "no time zone" in str(done[2])
    found = [await store.jobs.find(job.id) for job in (a, b, c)]
    assert found == [done[0], b, done[3]]
    assert [job.status for job in found] == [Status.RUNNING, Status.QUEUED, Status.RUNNING]
    assert [job.message for job in found] == [""] * 3


async def test_a_commit_that_fails_fails_all_that_share_it_and_no_later_one(store):
    jobs, failing = [await add(store) for _ in range(3)], [True]

    @event.listens_for(store._database._writer, "commit")
    def fail(connection):
        if failing:
            raise OperationalError("COMMIT", None, sqlite3.OperationalError("disk I/O error"))

    tasks = await begin(*[store.jobs.update(job.id, message="m") for job in jobs])
    for error in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(error, Unavailable)
    assert [await store.jobs.find(job.id) for job in jobs] == jobs
    failing.clear()
    assert (await store.jobs.update(jobs[0].id, message="m")).message == "m"


async def test_a_transaction_that_takes_too_long_fails_with_what_waits_for_it(store, monkeypatch):
    job = await add(store)
    monkeypatch.setattr("kbatch_server.store.database.groupcommit.ANSWER_SECONDS", 0.3)
    committing, go_on = hold_commits(store)
    held = asyncio.create_task(store.jobs.update(job.id, message="held"))
    await committing.wait()
    tasks = await begin(store.jobs.update(job.id, message="m"), store.jobs.add(make_job()))
    async with asyncio.timeout(5):
        for error in await asyncio.gather(held, *tasks, return_exceptions=True):
            assert isinstance(error, Unavailable)
    go_on.set()
    monkeypatch.setattr("kbatch_server.store.database.groupcommit.ANSWER_SECONDS", 30)
    assert (await store.jobs.update(job.id, message="n")).message == "n"


async def test_a_caller_that_is_cancelled_takes_nothing_from_the_others(store):
    jobs = [await add(store) for _ in range(3)]
    async with writing(store):
        tasks = await begin(*[store.jobs.update(job.id, message="m") for job in jobs])
        tasks[1].cancel()  # while it waits
    await asyncio.wait(tasks)
    assert tasks[1].cancelled()
    assert [(await store.jobs.find(job.id)).message for job in jobs] == ["m", "", "m"]

    began, go_on = hold_commits(store)
    tasks = await begin(*[store.jobs.update(job.id, message="n") for job in jobs])
    await began.wait()
    tasks[0].cancel()  # while it is committed
    await asyncio.wait(tasks[:1])
    go_on.set()
    await asyncio.wait(tasks)
    assert tasks[0].cancelled()
    assert [task.result().message for task in tasks[1:]] == ["n", "n"]


async def test_closing_finishes_what_is_being_written(store):
    job = await add(store)
    async with writing(store):
        [update] = await begin(store.jobs.update(job.id, message="m"))
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0)
    await asyncio.wait_for(closing, 5)
    assert (await update).message == "m"


# --- speed: not how fast, but that an index is used, however many jobs there are

INDEXES = [
    ({}, "ix_jobs_page (user=? AND seq<?)"),
    ({"statuses": (Status.RUNNING,)}, "ix_jobs_status (user=? AND status=? AND seq<?)"),
    ({"statuses": (Status.RUNNING, Status.PENDING)}, "ix_jobs_status (user=? AND status=? AND seq<?)"),
    ({"unless_ended_before": utcnow()}, "ix_jobs_ended_at (user=? AND ended_at>?)"),
    ({"name": "a"}, "ix_jobs_name (user=? AND name=? AND seq<?)"),
    ({"tags": (("a", "b"),)}, "ix_job_tags_find (user=? AND key=? AND value=? AND job_seq<?)"),
]


async def explain(store: Store, sql) -> str:
    def read(connection):
        return connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}").all()

    return "\n".join(row[3] for row in await store._database.read(read))


@only_sqlite
@pytest.mark.parametrize(("query", "index"), INDEXES, ids=lambda value: str(value)[:40])
async def test_a_page_is_read_along_an_index(store, query, index):
    from sqlalchemy.dialects import sqlite

    from kbatch_server.store.paging import make_cursor, make_page_statement

    statement, values = make_page_statement(JobQuery("alice", cursor=make_cursor(9), **query), 51)
    sql = statement.params(values).compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
    plan = await explain(store, sql)
    assert index in plan
    if len(query.get("statuses", ())) < 2 and "unless_ended_before" not in query:
        assert "TEMP B-TREE" not in plan


@only_sqlite
async def test_the_jobs_to_look_at_are_read_along_an_index(store):
    from kbatch_server.store.jobs import _SELECT_ASKED, _SELECT_ASKED_OR_WAITING, _SELECT_LAUNCHED

    plan = await explain(store, _SELECT_ASKED_OR_WAITING)
    assert "ix_jobs_due" in plan
    assert "ix_jobs_waiting" in plan
    for statement in (_SELECT_ASKED, _SELECT_LAUNCHED):
        plan = await explain(store, statement)
        assert "ix_jobs_due" in plan
        assert "ix_jobs_waiting" not in plan


@only_sqlite
async def test_whose_turn_it_is_is_read_along_an_index(store):
    from sqlalchemy.dialects import sqlite

    from kbatch_server.store import queues as turnstore

    def ask(statement, **values):
        bound = statement.params(of_user="alice", limit=9, **values)
        return explain(store, bound.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))

    for statement in (turnstore._SELECT_HEAD, turnstore._SELECT_PLACES):
        plan = await ask(statement)
        assert "ix_jobs_waiting (user=? AND status=?)" in plan
        assert "TEMP B-TREE" not in plan
    assert "COVERING INDEX ix_jobs_waiting (user=? AND status=?)" in await ask(
        turnstore._COUNT_QUEUED, users=["alice", "bob"]
    )
    assert "ix_jobs_waiting" in await explain(store, turnstore._SELECT_USERS)
    assert "ix_jobs_due" in await ask(turnstore._SELECT_BEGUN)
    assert "ix_jobs_due (user=?)" in await ask(turnstore._SELECT_BEGUN_OF)


# --- uploads


async def test_an_upload_is_its_users_only(store):
    upload = make_upload()
    await store.uploads.add(upload)
    assert await store.uploads.get("u1", user="alice") == upload
    assert await store.uploads.find_by_sha256("alice", "ab") == upload
    assert await store.uploads.find_by_sha256("bob", "ab") is None
    for upload_id, user in (("u1", "bob"), ("u2", "alice")):
        with pytest.raises(NotFound):
            await store.uploads.get(upload_id, user=user)


async def test_the_same_content_of_a_user_is_one_upload_kept_longer_and_never_shorter(store):
    first = make_upload()
    assert await store.uploads.add(first) == first
    kept = await store.uploads.add(make_upload("u2", expires_in_seconds=120))
    assert (kept.id, kept.created_at) == ("u1", first.created_at)
    assert kept.expires_at > first.expires_at + timedelta(seconds=50)
    again = await store.uploads.add(make_upload("u3", expires_in_seconds=60))
    assert (again.id, again.expires_at > kept.expires_at) == ("u1", True)
    assert await store.uploads.find_ids(["u1", "u2", "u3"]) == {"u1"}
    assert await store.uploads.get("u1", user="alice") == again


async def test_an_upload_is_withdrawn_unless_somebody_relies_on_it(store):
    for upload_id in ("withdrawn", "sent-again", "named"):
        await store.uploads.add(make_upload(upload_id, sha256=upload_id))
    sent_again = await store.uploads.get("sent-again", user="alice")
    await store.uploads.add(replace(sent_again, id="another"))
    await add(store, upload="named")
    assert await store.uploads.withdraw(await store.uploads.get("withdrawn", user="alice"))
    assert not await store.uploads.withdraw(sent_again)
    assert not await store.uploads.withdraw(await store.uploads.get("named", user="alice"))
    assert await store.uploads.withdraw(make_upload("never-added"))
    assert await store.uploads.find_ids(["withdrawn", "sent-again", "named"]) == {"sent-again", "named"}


async def test_only_an_expired_upload_that_no_job_names_is_deleted_and_then_no_job_can_name_it(store):
    for upload_id, seconds in (("expired", -1), ("named", -1), ("fresh", 60)):
        await store.uploads.add(make_upload(upload_id, expires_in_seconds=seconds, sha256=upload_id))
    job = await add(store, upload="named")
    now = utcnow()
    assert [upload.id for upload in await store.uploads.list_expired(now)] == ["expired"]
    assert [
        await store.uploads.begin_delete(each, now=now) for each in ("expired", "named", "fresh", "none")
    ] == [
        True,
        False,
        False,
        False,
    ]
    with pytest.raises(NotFound):
        await add(store, upload="expired")
    with pytest.raises(NotFound):
        await store.uploads.get("expired", user="alice")
    # killed before the object was deleted: it is found again
    assert [upload.id for upload in await store.uploads.list_expired(now)] == ["expired"]
    await store.uploads.delete("expired")
    assert await store.uploads.list_expired(now) == []
    await store.jobs.remove(job.id)
    assert [upload.id for upload in await store.uploads.list_expired(now)] == ["named"]


async def test_of_jobs_that_a_job_submits_at_once_only_so_many_are_added(store):
    parent, _ = await store.jobs.add(make_job("parent-1"))

    async def add(number: int, most: int = 3) -> object:
        child = replace(make_job(f"child-{number}"), parent=parent.id, depth=1)
        try:
            return (await store.jobs.add(child, limits=QueueLimits(children=most)))[0]
        except KBatchError as error:
            return error

    outcomes = await asyncio.gather(*(add(number) for number in range(10)))
    assert sum(isinstance(each, Job) for each in outcomes) == 3
    assert {each.reason for each in outcomes if isinstance(each, KBatchError)} == {"QuotaExceeded"}
    assert (await store.jobs.find(parent.id)).children == 3
    page = await store.jobs.list_page(JobQuery(user=parent.user, parent=parent.id))
    assert {job.parent for job in page.jobs} == {parent.id}
    assert len(page.jobs) == 3
    await store.jobs.update(parent.id, status=Status.SUCCEEDED, ended_at=utcnow())
    assert (await add(11, most=9)).reason == "JobEnded"
    assert len((await store.jobs.list_page(JobQuery(user=parent.user))).jobs) == 4
