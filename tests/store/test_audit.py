"""The audit record: who did what, in the transaction that does it, kept for a while, read by an admin."""

from __future__ import annotations

import json
import logging
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from kbatch_server.audit import ORIGIN, Action, AuditQuery, Origin, make_entry
from kbatch_server.errors import Conflict, NotFound, Unavailable
from kbatch_server.keyring import Keyring
from kbatch_server.models.job import Job, JobSpec, Status
from kbatch_server.models.times import utcnow
from kbatch_server.store import Store

BOB = Origin("bob", "user", "10.0.0.7", "0123456789abcdef", lambda: "POST /x", "submit,cancel")


@pytest.fixture
async def store(db_url):
    store = Store(db_url, Keyring(["k" * 32]), log=logging.getLogger("test"))
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def by_bob():
    token = ORIGIN.set(BOB)
    yield
    ORIGIN.reset(token)


async def add_job(store, job_id: str, **options) -> Job:
    job = Job(id=job_id, user="alice", name="train", spec=JobSpec(image="x"), created_at=utcnow())
    return (await store.jobs.add(job, audit=make_entry(Action.SUBMIT, job_id, "alice"), **options))[0]


async def read(store, **query) -> list[tuple[str, str, str, str]]:
    entries = (await store.audit.list_page(AuditQuery(**query))).entries
    return [(entry.action.value, entry.name, entry.user, entry.who) for entry in entries]


async def test_what_a_request_does_is_on_record_with_who_and_from_where(store, by_bob, caplog):
    with caplog.at_level(logging.INFO, "kbatch_server.audit"):
        await add_job(store, "a-1")
        await store.jobs.request_cancel("a-1", user=None, audit=make_entry(Action.CANCEL, "a-1", "bob"))
        await store.jobs.request_delete("a-1", user=None, audit=make_entry(Action.DELETE, "a-1", "bob"))
    assert await read(store) == [
        ("delete", "a-1", "alice", "bob"),
        ("cancel", "a-1", "alice", "bob"),
        ("submit", "a-1", "alice", "bob"),
    ]
    [entry] = (await store.audit.list_page(AuditQuery(action=Action.SUBMIT))).entries
    assert entry.to_dict() | {"at": ""} == {
        "at": "",
        "who": "bob",
        "kind": "user",
        "action": "submit",
        "name": "a-1",
        "user": "alice",
        "rights": ["submit", "cancel"],
        "address": "10.0.0.7",
        "request_id": "0123456789abcdef",
        "detail": "POST /x",
    }
    assert [record.getMessage() for record in caplog.records] == [
        f"{action} a-1 of alice by bob from 10.0.0.7 request=0123456789abcdef"
        for action in ("submit", "cancel", "delete")
    ]


async def test_what_was_not_done_is_not_on_record(store, by_bob):
    await add_job(store, "a-1", idempotency_key="k", request_hash="h")
    await add_job(store, "a-2", idempotency_key="k", request_hash="h")  # the same request again
    with pytest.raises(Conflict):
        await add_job(store, "a-3", idempotency_key="k", request_hash="other")
    with pytest.raises(NotFound):
        await store.jobs.request_cancel(
            "a-1", user="mallory", audit=make_entry(Action.CANCEL, "a-1", "mallory")
        )
    with pytest.raises(NotFound):
        await store.jobs.request_delete(
            "a-1", user="mallory", audit=make_entry(Action.DELETE, "a-1", "mallory")
        )
    for _ in range(2):  # the second changes nothing
        await store.jobs.request_cancel("a-1", user=None, audit=make_entry(Action.CANCEL, "a-1", "bob"))
    assert [action for action, *_ in await read(store)] == ["cancel", "submit"]


async def test_neither_is_done_without_the_other(store, by_bob):
    await add_job(store, "a-1")
    await store._database.write(lambda connection: connection.execute(text("DROP TABLE audit")))
    with pytest.raises((Unavailable, DBAPIError)):
        await add_job(store, "a-2")
    with pytest.raises((Unavailable, DBAPIError)):
        await store.jobs.request_cancel("a-1", user=None, audit=make_entry(Action.CANCEL, "a-1", "bob"))
    with pytest.raises((Unavailable, DBAPIError)):
        await store.jobs.request_delete("a-1", user=None, audit=make_entry(Action.DELETE, "a-1", "bob"))
    assert await store.jobs.find("a-2") is None
    job = await store.jobs.find("a-1")
    assert (job.status, job.delete_requested_at) == (Status.QUEUED, None)


async def test_the_record_is_read_a_page_at_a_time_and_filtered(store, by_bob):
    for number in range(5):
        await store.audit.add(make_entry(Action.READ, f"a-{number}", "alice"))
    ORIGIN.set(None)
    await store.audit.add(make_entry(Action.REMOVE_LOG, "a-1", "alice", detail="removed 1 day after its end"))
    page = await store.audit.list_page(AuditQuery(who="bob", limit=2))
    assert [entry.name for entry in page.entries] == ["a-4", "a-3"]
    rest = await store.audit.list_page(AuditQuery(who="bob", limit=10, before=page.next_before))
    assert ([entry.name for entry in rest.entries], rest.next_before) == (["a-2", "a-1", "a-0"], None)
    assert await read(store, name="a-1") == [
        ("remove-log", "a-1", "alice", "kbatch-server"),
        ("read", "a-1", "alice", "bob"),
    ]
    assert await read(store, user="carol") == []
    assert await read(store, since=utcnow()) == []
    assert len(await read(store, until=utcnow(), action=Action.READ)) == 5


async def test_it_is_forgotten_after_its_time(store, by_bob, monkeypatch):
    monkeypatch.setattr("kbatch_server.store.audit.DELETE_AT_ONCE", 2)
    for number in range(5):
        await store.audit.add(make_entry(Action.READ, f"a-{number}", "alice"))
    middle = (await store.audit.list_page(AuditQuery())).entries[1].at
    assert await store.audit.forget(middle) == 3
    assert [name for _, name, *_ in await read(store)] == ["a-4", "a-3"]
    assert await store.audit.forget(utcnow() - timedelta(days=1)) == 0


async def test_while_it_cannot_be_written_an_admin_reads_nothing_of_others(store, monkeypatch):
    async def fail(operation):
        raise Unavailable("The database does not respond.")

    monkeypatch.setattr(store._database, "write", fail)
    with pytest.raises(Unavailable):
        await store.audit.add(make_entry(Action.READ, "a-1", "alice"))


async def test_an_admin_reads_it_over_the_web(web, by_bob):
    for number in range(3):
        await web.store.audit.add(make_entry(Action.READ, f"a-{number}", "alice"))
    async with web.client("admin-token") as client:
        pages = [(await client.get("api/v1/audit?limit=2&who=bob")).json()]
        pages.append((await client.get(f"api/v1/audit?who=bob&cursor={pages[0]['next_cursor']}")).json())
        assert [[each["name"] for each in page["items"]] for page in pages] == [["a-2", "a-1"], ["a-0"]]
        assert pages[1]["next_cursor"] is None
        streamed = await client.get("api/v1/audit?who=bob", headers={"Accept": "application/x-ndjson"})
        lines = [json.loads(line) for line in streamed.text.splitlines()]
        assert [line["name"] for line in lines] == ["a-2", "a-1", "a-0"]
        wrong = await client.get("api/v1/audit?action=eat")
        assert (wrong.status_code, wrong.json()["details"][0]["field"]) == (400, "action")
    async with web.client() as client:
        assert (await client.get("api/v1/audit")).status_code == 403
