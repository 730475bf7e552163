"""The tables: made by the migrations, brought up to date when asked to, left alone when they are not ours."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect

from kbatch_server.audit import Action, make_entry
from kbatch_server.keyring import Keyring
from kbatch_server.models.job import Job
from kbatch_server.models.secret import SecretContent
from kbatch_server.store import Store, StoreError
from kbatch_server.store.database import schema
from kbatch_server.store.database.schema import make_alembic_config
from kbatch_server.store.tables import DUE, WAITING, metadata
from tests.support.ports import find_ports

HEAD = ScriptDirectory(str(Path(schema.__file__).parents[1] / "migrations")).get_current_head()
"""The newest of the revisions."""

only_sqlite = pytest.mark.parametrize("db_url", ["sqlite"], indirect=True)
only_postgresql = pytest.mark.parametrize("db_url", ["postgresql"], indirect=True)


def make_store(url, **kwargs) -> Store:
    return Store(url, Keyring(["k" * 32]), log=logging.getLogger("test"), **kwargs)


@pytest.fixture
async def url(db_url):
    """A database of this version."""
    url = db_url.replace("/jobs.sqlite", "/100%25 jobs.sqlite")
    store = make_store(url)
    await store.open()
    await store.close()
    return url


def execute(url, sql: str) -> list[tuple]:
    engine = create_engine(with_driver(url))
    with engine.begin() as connection:
        result = connection.exec_driver_sql(sql)
        rows = [tuple(row) for row in result] if result.returns_rows else []
    engine.dispose()
    return rows


def with_driver(url: str) -> str:
    return url.replace("postgresql:", "postgresql+psycopg:")


def find_tables(url: str) -> set[str]:
    engine = create_engine(with_driver(url))
    with engine.connect() as connection:
        names = set(inspect(connection).get_table_names())
    engine.dispose()
    return names


async def test_the_migrations_make_the_tables_that_the_code_uses(url):
    engine = create_engine(with_driver(url))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


@only_sqlite
async def test_sqlite_has_the_partial_indexes_and_gives_no_number_twice(url):
    # what alembic does not compare
    for name, words in (("ix_jobs_waiting", WAITING), ("ix_jobs_due", DUE)):
        [[index]] = execute(url, f"SELECT sql FROM sqlite_master WHERE name = '{name}'")
        assert index.endswith(f"WHERE {words}")
    [[table]] = execute(url, "SELECT sql FROM sqlite_master WHERE name = 'jobs'")
    assert "AUTOINCREMENT" in table


@only_postgresql
async def test_postgresql_has_the_partial_indexes_and_limits_on_every_wait(url):
    for name, columns in (
        ("ix_jobs_waiting", ("status", "launch_begun_at", "delete_requested_at")),
        ("ix_jobs_due", ("launch_begun_at", "delete_requested_at", "cleaned_at")),
    ):
        [[index]] = execute(url, f"SELECT indexdef FROM pg_indexes WHERE indexname = '{name}'")
        assert all(column in index.partition("WHERE")[2] for column in columns)
    store = make_store(url)
    await store.open()

    def read_limits(connection):
        names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        return [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in names]

    for run in (store._database.read, store._database.write):
        assert await run(read_limits) == ["10s", "5s", "30s"]
    await store.close()


@only_postgresql
async def test_of_replicas_that_start_at_once_one_makes_the_tables(db_url):
    stores = [make_store(db_url, auto_upgrade=True) for _ in range(5)]
    await asyncio.gather(*(store.open() for store in stores))
    assert "jobs" in find_tables(db_url)
    await asyncio.gather(*(store.close() for store in stores))


@only_sqlite
async def test_the_database_waits_for_the_disk_and_lets_readers_read(url):
    store = make_store(url)
    await store.open()

    def read_pragmas(connection):
        return [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]

    for run in (store._database.read, store._database.write):
        assert await run(read_pragmas) == ["wal", 2, 1, 10000]
    await store.close()


async def test_an_older_database_is_upgraded_only_when_that_was_asked_for(url, tmp_path, monkeypatch):
    # the database of this version is an older one to a version that has one migration more
    migrations = tmp_path / "migrations"
    copy_migrations(migrations)
    (migrations / "versions/9999_test.py").write_text(
        f'import sqlalchemy as sa\nfrom alembic import op\nrevision = "9999"\ndown_revision = "{HEAD}"\n\n\n'
        'def upgrade():\n    op.add_column("jobs", sa.Column("new", sa.Text()))\n'
    )
    monkeypatch.setattr("kbatch_server.store.database.schema._MIGRATIONS", migrations)
    with pytest.raises(StoreError, match="run kbatch-server upgrade-db"):
        await make_store(url).open()
    await make_store(url).upgrade()
    assert execute(url, "SELECT version_num FROM alembic_version") == [("9999",)]
    assert execute(url, "SELECT new FROM jobs") == []
    store = make_store(url)
    await store.open()
    await store.close()


async def test_a_migration_that_fails_changes_nothing(url, tmp_path, monkeypatch):
    migrations = tmp_path / "migrations"
    copy_migrations(migrations)
    (migrations / "versions/9999_test.py").write_text(
        f'from alembic import op\n\nrevision = "9999"\ndown_revision = "{HEAD}"\n\n\n'
        'def upgrade():\n    op.execute("CREATE TABLE half (a integer)")\n    op.execute("NONSENSE")\n'
    )
    monkeypatch.setattr("kbatch_server.store.database.schema._MIGRATIONS", migrations)
    with pytest.raises(StoreError, match="syntax error"):
        await make_store(url, auto_upgrade=True).open()
    assert "half" not in find_tables(url)
    assert execute(url, "SELECT version_num FROM alembic_version") == [(HEAD,)]


@pytest.mark.parametrize("revision", ["0001", "0002", "0008"])
async def test_what_an_earlier_release_recorded_is_there_after_the_upgrade(db_url, revision):
    engine = create_engine(with_driver(db_url))
    with engine.begin() as connection:
        command.upgrade(make_alembic_config(connection), revision)
        connection.exec_driver_sql(
            'INSERT INTO jobs (id, "user", name, status, reason, message, spec, description, tags, groups,'
            " attempts, created_at, pods, state, upload, idempotency_key, request_hash)"
            " VALUES ('train-1', 'alice', 'train', 'running', '', '',"
            """ '{"image": "python:3", "retries": 2}', '', '{}', '[]', 1, '2026-11-01 10:00:00.000000',"""
            " '[]', '{}', 'code-1', 'key', 'hash')"
        )
        connection.exec_driver_sql(
            "INSERT INTO uploads (id, \"user\", size, sha256, created_at, expires_at) VALUES ('code-1',"
            " 'alice', 3, 'abc', '2026-11-01 10:00:00.000000', '2026-11-08 10:00:00.000000')"
        )
    engine.dispose()
    store = make_store(db_url, auto_upgrade=True)
    await store.open()
    job = await store.jobs.get("train-1", user="alice")
    assert (job.spec.image, job.outputs, job.status) == ("python:3", None, "running")
    assert (job.spec.retries, job.spec.retry_delay_seconds, job.spec.retry_backoff) == (2, 10, "exponential")
    assert (await store.uploads.get("code-1", user="alice")).size == 3
    new = Job(id="train-2", user="alice", name="train", spec=job.spec, created_at=job.created_at)
    again, is_new = await store.jobs.add(new, idempotency_key="key", request_hash="hash")
    assert (again.id, is_new) == ("train-1", False)
    entry = make_entry(Action.SET_SECRET, "token", "alice")
    await store.secrets.put("alice", "token", SecretContent("value", "x"), max_secrets=1, audit=entry)
    assert [each.name for each in await store.secrets.list("alice")] == ["token"]
    await store.close()


async def test_a_newer_database_is_refused(url):
    execute(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(
        StoreError, match=r"\(revision 9999\) has the schema of a newer kbatch-server"
    ) as refused:
        await make_store(url, auto_upgrade=True).open()
    assert "\n" not in str(refused.value)


async def test_a_database_that_is_not_ours_is_refused(db_url):
    execute(db_url, "CREATE TABLE theirs (a integer)")
    with pytest.raises(StoreError, match="of another application"):
        await make_store(db_url, auto_upgrade=True).open()
    assert find_tables(db_url) == {"theirs"}


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "mysql://u:s3cret@host/db",
        "postgresql+asyncpg://u:s3cret@host/db",
        "sqlite://",
        "sqlite:///:memory:",
        "postgresql://u:s3cret@host",
        "postgresql://u:s3cret@host:port/db",
    ],
)
async def test_an_address_that_cannot_be_used_is_one_line_without_its_password(url):
    with pytest.raises(StoreError, match="the database's URL must") as refused:
        make_store(url)
    assert "\n" not in str(refused.value)
    assert "s3cret" not in str(refused.value)


async def test_a_server_that_cannot_be_used_is_one_line_without_its_password(postgresql, postgresql_url):
    for url, said in (
        (f"postgresql://kbatch:s3cret@127.0.0.1:{find_ports(1)[0]}/jobs", "Connection refused"),
        (postgresql_url.replace(postgresql.password, "s3cret"), "password authentication failed"),
        (f"postgresql://kbatch@127.0.0.1:{postgresql.port}/jobs?password=s3cret", "password authentication"),
        (postgresql.url("nowhere"), 'database "nowhere" does not exist'),
    ):
        with pytest.raises(StoreError, match=said) as refused:
            await make_store(url).open()
        assert "\n" not in str(refused.value)
        assert "s3cret" not in str(refused.value)
        assert postgresql.password not in str(refused.value)


async def test_the_password_may_be_in_the_environment(postgresql, postgresql_url, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", postgresql.password)
    store = make_store(postgresql_url.replace(f":{postgresql.password}", ""))
    await store.open()
    lock = store.make_lead_lock()
    assert await lock.take()
    await lock.release()
    await store.close()


async def test_a_file_that_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / "text.sqlite").write_text("this is no database, and longer than the header of one" * 10)
    for path, said in (
        (tmp_path / "none/jobs.sqlite", "No such file"),
        (tmp_path / "text.sqlite", "not a database"),
    ):
        with pytest.raises(StoreError, match=said) as refused:
            await make_store(f"sqlite:///{path}").open()
        assert "\n" not in str(refused.value)


def copy_migrations(target) -> None:
    import shutil

    from kbatch_server.store.database import schema

    shutil.copytree(schema._MIGRATIONS, target, ignore=shutil.ignore_patterns("__pycache__"))
