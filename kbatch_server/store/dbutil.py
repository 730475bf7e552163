"""The database: its address, its connections, and the version of its tables.

Reading and writing go apart. Readers each have a connection without a transaction, which in SQLite (WAL)
never waits for a writer. Writers share one connection and its commits (``GroupCommit``): SQLite has one
writer at a time in any case.

What is asked of the database is a function of a connection, run in a thread of ours: one change of threads
for all its statements. SQLAlchemy's asyncio driver for SQLite takes four for each statement, which is most of
the time that one takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from ..errors import Unavailable
from .groupcommit import GroupCommit

READERS = 4
"""Connections for reading: SQLite answers in a millisecond, and each is a thread."""

BUSY_TIMEOUT_SECONDS = 10
"""How long to wait for another process that writes to the same SQLite file."""

MIN_SQLITE = (3, 35)
"""The first with RETURNING."""

_MIGRATIONS = Path(__file__).parent / "migrations"

Result = TypeVar("Result")


class StoreError(Exception):
    """The database cannot be used as it is: one line for the admin who starts the service."""


class Database:
    """The connections to one database, from ``open`` to ``close``."""

    def __init__(self, url: str, *, log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._url = parse_url(url)
        self._log = log
        self._reader: Engine
        self._writer: Engine
        self._readers: ThreadPoolExecutor
        self._commits: GroupCommit

    async def open(self, *, upgrade: bool) -> None:
        """Connect, and see to it that the tables are those of this version, or raise StoreError.

        An empty database gets its tables. An older one is brought up to date only with ``upgrade``.
        """
        self._reader, self._writer = _make_engines(self._url)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="database-reader")
        self._commits = GroupCommit(self._writer)
        try:
            _ensure_private_file(self._url)
            await self._commits.run(lambda connection: _ensure_schema(connection, upgrade))
        except (OSError, DBAPIError) as error:
            await self.close()
            raise StoreError(f"the database {self._url!r} cannot be opened: {_first_line(error)}") from error
        except StoreError:
            await self.close()
            raise

    async def close(self) -> None:
        """Finish what was asked for, and let go of every connection and thread."""
        await self._commits.close()
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._readers.shutdown()
        self._reader.dispose()
        self._writer.dispose()

    async def read(self, operation: Callable[[Connection], Result]) -> Result:
        """Return what an operation finds: each statement of it sees what is committed; raises Unavailable."""
        with self._unavailable():
            return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, operation)

    def _read(self, operation: Callable[[Connection], Result]) -> Result:
        with self._reader.connect() as connection:
            return operation(connection)

    async def write(self, operation: Callable[[Connection], Result]) -> Result:
        """Return what an operation returns once all that it wrote is durable; raises Unavailable.

        When it raises, it has written nothing.
        """
        with self._unavailable():
            return await self._commits.run(operation)

    @contextlib.contextmanager
    def _unavailable(self) -> Iterator[None]:
        try:
            yield
        except OperationalError as error:
            self._log.error("the database did not do it: %s", _first_line(error))
            raise Unavailable("The database does not answer now. Try again in a moment.") from error


def parse_url(url: str) -> URL:
    """Return the database's address, or raise StoreError."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StoreError("the database's URL must be like sqlite:///kbatch-server.sqlite") from None
    if parsed.drivername not in {"sqlite", "sqlite+aiosqlite"}:
        raise StoreError(f"the database's URL must begin with sqlite:///, not {parsed.drivername}:")
    if parsed.database in {None, "", ":memory:"}:
        raise StoreError("the database's URL must name a file, like sqlite:///kbatch-server.sqlite")
    return parsed.set(drivername="sqlite")


def _make_engines(url: URL) -> tuple[Engine, Engine]:
    """Return the engine for reading and the one for writing."""
    if sqlite3.sqlite_version_info < MIN_SQLITE:
        raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old: 3.35 or later is needed")
    options: dict[str, Any] = {"connect_args": {"timeout": BUSY_TIMEOUT_SECONDS}, "max_overflow": 0}
    # without a transaction there is nothing to roll back when a connection is given back
    reader = create_engine(
        url,
        pool_size=READERS,
        pool_reset_on_return=None,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        **options,
    )
    writer = create_engine(url, pool_size=1, **options)
    event.listen(reader, "connect", _set_pragmas)
    event.listen(writer, "connect", _set_pragmas)
    event.listen(writer, "connect", _begin_nothing_by_itself)
    event.listen(writer, "begin", _begin_immediate)
    return reader, writer


def _set_pragmas(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    # FULL: what was answered with "accepted" survives a power cut too
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_nothing_by_itself(connection: Any, record: Any) -> None:
    # https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#pysqlite-serializable
    connection.isolation_level = None


def _begin_immediate(connection: Connection) -> None:
    # a transaction that reads first and writes later can fail at the write, at once and for good
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _ensure_private_file(url: URL) -> None:
    """Make the file readable by the service alone, before SQLite makes it readable by all."""
    assert url.database is not None  # noqa: S101  # parse_url saw to it
    os.close(os.open(url.database, os.O_CREAT | os.O_RDWR, 0o600))


def _ensure_schema(connection: Connection, upgrade: bool) -> None:
    config = make_alembic_config(connection)
    scripts = ScriptDirectory.from_config(config)
    found = MigrationContext.configure(connection).get_current_revision()
    if found == scripts.get_current_head():
        return
    if found is None and inspect(connection).get_table_names():
        raise StoreError("the database has tables that are not of kbatch-server: give it one of its own")
    if found is not None:
        _check_known(scripts, found)
        if not upgrade:
            raise StoreError("the database is of an older kbatch-server: run kbatch-server upgrade-db")
    command.upgrade(config, "head")


def _check_known(scripts: ScriptDirectory, revision: str) -> None:
    try:
        scripts.get_revision(revision)
    except CommandError:
        raise StoreError(
            f"the database (revision {revision}) is of a newer kbatch-server than this"
        ) from None


def make_alembic_config(connection: Connection) -> Config:
    """Return what alembic needs to work on a connection, in its transaction; there is no alembic.ini."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _first_line(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(cause).splitlines()[0] if str(cause) else type(cause).__name__
