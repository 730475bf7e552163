"""Users' secrets in the database: encrypted, limited, counted right by replicas, gone with their user."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from kbatch_server.audit import Action, AuditQuery, make_entry
from kbatch_server.errors import Forbidden, NotFound
from kbatch_server.keyring import Keyring
from kbatch_server.models.secret import RegistryLogin, SecretContent
from kbatch_server.models.times import utcnow
from kbatch_server.store import Store
from kbatch_server.store.tables import secrets

OLD, NEW = "o" * 32, "n" * 32
QUAY = RegistryLogin(server="quay.io", username="alice+robot", password="hunter22")


@pytest.fixture
async def store(db_url):
    async with opened(db_url, OLD) as store:
        yield store


class opened:
    """A store of the database with these keys."""

    def __init__(self, db_url, *keys):
        self.store = Store(db_url, Keyring([*keys]), log=logging.getLogger("test"))

    async def __aenter__(self):
        await self.store.open()
        return self.store

    async def __aexit__(self, *error):
        await self.store.close()


async def put(store, name="token", value="s3cr3t", *, user="alice", most=5):
    content = SecretContent("registry", registry=value) if isinstance(value, RegistryLogin) else None
    content = content or SecretContent("value", value=value)
    entry = make_entry(Action.SET_SECRET, name, user)
    return await store.secrets.put(user, name, content, max_secrets=most, audit=entry)


async def names(store, user="alice"):
    return [each.name for each in await store.secrets.list(user)]


async def read_rows(store):
    return await store._database.read(lambda connection: connection.execute(select(secrets)).all())


async def test_a_secret_is_set_replaced_used_and_deleted_by_its_user_alone(store):
    first, is_new = await put(store)
    assert is_new
    assert (first.name, first.kind, first.size, first.used_at) == ("token", "value", 6, None)
    await put(store, "quay", QUAY)
    await put(store, "token", "of bob", user="bob")
    again, is_new = await put(store, "token", "changed")
    assert not is_new
    assert again.created_at == first.created_at < again.updated_at
    assert await names(store) == ["quay", "token"]
    used = await store.secrets.use("alice", ["token", "quay", "missing"])
    assert used == {
        "token": SecretContent("value", value="changed"),
        "quay": SecretContent("registry", registry=QUAY),
    }
    assert all(each.used_at for each in await store.secrets.list("alice"))
    assert [each.used_at for each in await store.secrets.list("bob")] == [None]
    await store.secrets.delete("alice", "token", audit=make_entry(Action.DELETE_SECRET, "token", "alice"))
    with pytest.raises(NotFound):
        await store.secrets.delete("alice", "token", audit=make_entry(Action.DELETE_SECRET, "x", "alice"))
    assert (await names(store), await names(store, "bob")) == (["quay"], ["token"])
    entries = (await store.audit.list_page(AuditQuery(user="alice"))).entries
    assert [(entry.action.value, entry.name) for entry in entries] == [
        ("delete-secret", "token"),
        ("set-secret", "token"),
        ("set-secret", "quay"),
        ("set-secret", "token"),
    ]


async def test_the_database_has_no_secret_in_the_clear(store, db_url):
    await put(store, "token", "s3cr3t-s3cr3t")
    await put(store, "quay", QUAY)
    stored = repr(await read_rows(store))
    assert "token" in stored
    for secret in ("s3cr3t", "hunter22", "robot", "quay.io"):
        assert secret not in stored


async def test_the_row_of_one_users_secret_is_no_use_to_another(store):
    await put(store, "token", "of alice")
    # somebody who can write to the database gives it to themself
    moved = update(secrets).values(user="mallory")
    await store._database.write(lambda connection: connection.execute(moved))
    assert await store.secrets.use("mallory", ["token"]) == {"token": None}


async def test_secrets_are_limited_in_number_and_size(store):
    for number in range(3):
        await put(store, f"s-{number}", "x", most=3)
    with pytest.raises(Forbidden, match="You have 3 secrets; the limit is 3"):
        await put(store, "s-3", "x", most=3)
    await put(store, "s-0", "replaced", most=3)
    with pytest.raises(Forbidden, match="turned them off"):
        await put(store, user="bob", most=0)
    for number in range(4):
        await put(store, f"large-{number}", "é" * 32 * 1024, user="carol")
    with pytest.raises(Forbidden, match="would have 262145 bytes in total; the limit is 262144"):
        await put(store, "one-more", "x", user="carol")
    await put(store, "large-3", "smaller", user="carol")
    await put(store, "one-more", "x", user="carol")


async def test_the_limits_hold_when_many_arrive_at_once_at_two_replicas(store, db_url):
    async with opened(db_url, OLD) as other:
        results = await asyncio.gather(
            *(put((store, other)[number % 2], f"s-{number}") for number in range(12)), return_exceptions=True
        )
    refused = [each for each in results if isinstance(each, Forbidden)]
    assert (len(refused), len(await names(store))) == (7, 5)
    assert all(isinstance(each, Forbidden | tuple) for each in results)


async def test_one_secret_that_two_replicas_set_at_once_is_one(store, db_url):
    async with opened(db_url, OLD) as other:
        results = await asyncio.gather(*(put((store, other)[i % 2], "token", f"v{i}") for i in range(10)))
    assert [is_new for _, is_new in results].count(True) == 1
    assert await names(store) == ["token"]


async def test_after_a_change_of_keys_secrets_are_encrypted_anew_and_without_their_key_they_are_lost(db_url):
    async with opened(db_url, OLD) as store:
        for number in range(3):
            await put(store, f"s-{number}", "value")
    async with opened(db_url, NEW, OLD) as store:
        await put(store, "new")
        assert await store.secrets.renew() == 3
        assert await store.secrets.renew() == 0
    async with opened(db_url, NEW) as store:
        assert [each.is_lost for each in await store.secrets.list("alice")] == [False] * 4
        assert (await store.secrets.use("alice", ["s-1"]))["s-1"].value == "value"
    async with opened(db_url, OLD) as store:
        assert [each.is_lost for each in await store.secrets.list("alice")] == [True] * 4
        assert await store.secrets.use("alice", ["new"]) == {"new": None}
        assert await store.secrets.renew() == 0
        await put(store, "new", "again")
        assert [each.name for each in await store.secrets.list("alice") if not each.is_lost] == ["new"]


async def test_a_users_secrets_are_forgotten_but_for_those_that_a_later_user_has_set(store):
    await put(store, "old")
    await put(store, "replaced")
    await put(store, "of-bob", user="bob")
    assert list(await store.retention.list_owners()) == ["alice", "bob"]
    before = utcnow() + timedelta(microseconds=1)
    await asyncio.sleep(0.001)
    await put(store, "replaced", "by the later user")
    assert await store.secrets.forget("alice", before=before) == 1
    assert await names(store) == ["replaced"]
    assert await store.secrets.forget("alice") == 1
    assert (await names(store), await names(store, "bob")) == ([], ["of-bob"])
