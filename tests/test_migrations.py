"""The tables: made by the migrations, brought up to date when asked to, left alone when they are not ours."""

from __future__ import annotations

import logging
import sqlite3

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from kbatch_server.keyring import Keyring
from kbatch_server.store import JobStore, StoreError
from kbatch_server.store.dbutil import make_alembic_config
from kbatch_server.store.orm import metadata


def make_store(path, **kwargs) -> JobStore:
    return JobStore(f"sqlite:///{path}", Keyring(["k" * 32]), log=logging.getLogger("test"), **kwargs)


@pytest.fixture
async def path(tmp_path):
    """A database of this version."""
    store = make_store(tmp_path / "100% jobs.sqlite")
    await store.open()
    await store.close()
    return tmp_path / "100% jobs.sqlite"


def execute(path, sql: str) -> list[tuple]:
    connection = sqlite3.connect(path)
    with connection:
        rows = connection.execute(sql).fetchall()
    connection.close()
    return rows


async def test_the_migrations_make_the_tables_that_the_code_uses(path):
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()
    # what alembic does not compare
    [[index]] = execute(path, "SELECT sql FROM sqlite_master WHERE name = 'ix_jobs_active'")
    from kbatch_server.store.orm import ACTIVE

    assert index.endswith(f"WHERE {ACTIVE}")
    [[table]] = execute(path, "SELECT sql FROM sqlite_master WHERE name = 'jobs'")
    assert "AUTOINCREMENT" in table


async def test_the_database_waits_for_the_disk_and_lets_readers_read(path):
    store = make_store(path)
    await store.open()

    def read_pragmas(connection):
        return [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]

    for run in (store._database.read, store._database.write):
        assert await run(read_pragmas) == ["wal", 2, 1, 10000]
    await store.close()


async def test_an_older_database_is_upgraded_only_when_that_was_asked_for(path, monkeypatch):
    # the database of this version is an older one to a version that has one migration more
    migrations = path.parent / "migrations"
    copy_migrations(migrations)
    (migrations / "versions/9999_test.py").write_text(
        'import sqlalchemy as sa\nfrom alembic import op\n\nrevision = "9999"\ndown_revision = "0002"\n\n\n'
        'def upgrade():\n    op.add_column("jobs", sa.Column("new", sa.Text()))\n'
    )
    monkeypatch.setattr("kbatch_server.store.dbutil._MIGRATIONS", migrations)
    with pytest.raises(StoreError, match="run kbatch-server upgrade-db"):
        await make_store(path).open()
    await make_store(path).upgrade()
    assert execute(path, "SELECT version_num FROM alembic_version") == [("9999",)]
    assert execute(path, "SELECT new FROM jobs") == []
    store = make_store(path)
    await store.open()
    await store.close()


async def test_a_migration_that_fails_changes_nothing(path, monkeypatch):
    migrations = path.parent / "migrations"
    copy_migrations(migrations)
    (migrations / "versions/9999_test.py").write_text(
        'from alembic import op\n\nrevision = "9999"\ndown_revision = "0002"\n\n\n'
        'def upgrade():\n    op.execute("CREATE TABLE half (a)")\n    op.execute("NONSENSE")\n'
    )
    monkeypatch.setattr("kbatch_server.store.dbutil._MIGRATIONS", migrations)
    with pytest.raises(StoreError, match="syntax error"):
        await make_store(path, auto_upgrade=True).open()
    assert execute(path, "SELECT name FROM sqlite_master WHERE name = 'half'") == []
    assert execute(path, "SELECT version_num FROM alembic_version") == [("0002",)]


async def test_a_job_of_the_first_release_is_there_after_the_upgrade(tmp_path):
    path = tmp_path / "jobs.sqlite"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        command.upgrade(make_alembic_config(connection), "0001")
        connection.exec_driver_sql(
            "INSERT INTO jobs (id, user, name, status, reason, message, spec, description, tags, groups,"
            " attempts, created_at, pods, state) VALUES ('train-1', 'alice', 'train', 'running', '', '',"
            """ '{"image": "python:3"}', '', '{}', '[]', 1, '2026-11-01 10:00:00.000000', '[]', '{}')"""
        )
    engine.dispose()
    store = make_store(path, auto_upgrade=True)
    await store.open()
    job = await store.get_job("train-1", user="alice")
    assert (job.spec.image, job.outputs, job.status) == ("python:3", None, "running")
    await store.close()


async def test_a_newer_database_and_a_foreign_one_are_refused(path, tmp_path):
    execute(path, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match=r"\(revision 9999\) is of a newer kbatch-server"):
        await make_store(path, auto_upgrade=True).open()
    foreign = tmp_path / "foreign.sqlite"
    execute(foreign, "CREATE TABLE theirs (a)")
    with pytest.raises(StoreError, match="not of kbatch-server"):
        await make_store(foreign, auto_upgrade=True).open()
    assert execute(foreign, "SELECT name FROM sqlite_master") == [("theirs",)]


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/db", "sqlite://", "sqlite:///:memory:"])
async def test_an_address_that_cannot_be_used_is_one_line(url):
    with pytest.raises(StoreError, match="the database's URL must") as refused:
        JobStore(url, Keyring(["k" * 32]), log=logging.getLogger("test"))
    assert "\n" not in str(refused.value)


async def test_a_file_that_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / "text.sqlite").write_text("this is no database, and longer than the header of one" * 10)
    for path, said in (
        (tmp_path / "none/jobs.sqlite", "No such file"),
        (tmp_path / "text.sqlite", "not a database"),
    ):
        with pytest.raises(StoreError, match=said) as refused:
            await make_store(path).open()
        assert "\n" not in str(refused.value)


def copy_migrations(target) -> None:
    import shutil

    from kbatch_server.store import dbutil

    shutil.copytree(dbutil._MIGRATIONS, target, ignore=shutil.ignore_patterns("__pycache__"))
