"""The database: its address, its connections, from ``open`` to ``close``.

Reading and writing go apart. Readers each have a connection without a transaction, which never waits for a
writer. Writers share one connection and its commits (``GroupCommit``): SQLite has one writer at a time in
any case, and PostgreSQL then has one for each replica.

What is asked of the database is a function of a connection, run in a thread of ours: one change of threads
for all its statements. SQLAlchemy's asyncio driver for SQLite takes four for each statement, which is most of
the time that one takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from ...errors import InsufficientStorage, Unavailable
from ...metrics import DATABASE_FAILURES
from . import postgresql, sqlite
from .errors import StoreError, first_line, is_disk_full
from .groupcommit import GroupCommit
from .readers import Readers
from .schema import ensure_schema

READERS = 4
"""Connections for reading: a database answers in a millisecond, and each is a thread."""

COSTLY_READERS = 2
"""The same, for reads that go through many rows: however many are asked for, the other readers go on."""

ANSWER_SECONDS = 30
"""How long anything that is asked of the database may take, the wait for a connection included."""

_DRIVERS = {
    "sqlite": sqlite,
    "sqlite+aiosqlite": sqlite,
    "postgres": postgresql,
    "postgresql": postgresql,
    "postgresql+psycopg": postgresql,
}
"""What an address may begin with, and who knows that database."""

DISK_FULL = "The database's disk is full. Tell an admin of the hub."

Result = TypeVar("Result")


class Database:
    """The connections to one database, from ``open`` to ``close``."""

    def __init__(self, url: str, *, log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self.url = parse_url(url)
        self._log = log
        self._reader: Engine
        self._writer: Engine
        self._readers: Readers
        self._costly_readers: Readers
        self._commits: GroupCommit
        self.is_failing = False
        """Whether the last write was not done, as when the disk is full."""
        self.is_full = False
        """Whether it was not done because there was no room for it."""

    @property
    def is_shared(self) -> bool:
        """Whether several processes may work on it at once."""
        return self.url.drivername != "sqlite"

    async def open(self, *, upgrade: bool) -> None:
        """Connect, and see to it that the tables are those of this version, or raise StoreError.

        An empty database gets its tables. An older one is brought up to date only with ``upgrade``.
        """
        driver = _DRIVERS[self.url.drivername]
        self._reader, self._writer = driver.make_engines(self.url, readers=READERS + COSTLY_READERS)
        self._readers = Readers(READERS, name="database-reader")
        self._costly_readers = Readers(COSTLY_READERS, name="database-costly-reader")
        self._commits = GroupCommit(self._writer)
        try:
            if not self.is_shared:
                sqlite.ensure_private_file(self.url)
            await self._commits.run(lambda connection: ensure_schema(connection, upgrade))
            if not self.is_shared:
                sqlite.make_files_private(self.url)
        except (OSError, DBAPIError) as error:
            await self.close()
            # what the query of an address has may be secret too
            where = repr(self.url.set(query={}))
            raise StoreError(f"the database {where} cannot be opened: {first_line(error)}") from error
        except StoreError:
            await self.close()
            raise

    async def close(self) -> None:
        """Finish what was asked for, and let go of every connection and thread."""
        await self._commits.close()
        await self._readers.close()
        await self._costly_readers.close()
        await asyncio.to_thread(self._dispose)

    def _dispose(self) -> None:
        self._reader.dispose()
        self._writer.dispose()

    async def read(self, operation: Callable[[Connection], Result], *, is_costly: bool = False) -> Result:
        """Return what an operation finds: each statement of it sees what is committed; raises Unavailable.

        One that goes through many rows is to say so: it waits for its turn among such. Users take turns
        (``Readers``): one who asks for much waits for themself.
        """
        readers = self._costly_readers if is_costly else self._readers
        with self._unavailable():
            async with asyncio.timeout(ANSWER_SECONDS):
                return await readers.run(partial(self._read, operation))

    def _read(self, operation: Callable[[Connection], Result]) -> Result:
        try:
            return self._read_once(operation)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            # it was made before the database was restarted; now the pool has dropped all such
            return self._read_once(operation)

    def _read_once(self, operation: Callable[[Connection], Result]) -> Result:
        with self._reader.connect() as connection:
            return operation(connection)

    async def write(self, operation: Callable[[Connection], Result]) -> Result:
        """Return what an operation returns once all that it wrote is durable; raises Unavailable.

        When it raises, it has written nothing; but when Unavailable comes of a connection that broke while
        it was committed, or of a time that was up, that cannot be known. An operation may be run more than
        once, for one result.
        """
        try:
            with self._unavailable():
                async with asyncio.timeout(ANSWER_SECONDS):
                    result = await self._commits.run(operation)
        except Unavailable as error:
            self.is_failing = True
            self.is_full = isinstance(error, InsufficientStorage)
            raise
        self.is_failing = self.is_full = False
        return result

    async def get_free_bytes(self) -> int | None:
        """Return how much room is left for the database, or None where another machine has it."""
        if self.is_shared:
            return None
        return await self.read(lambda connection: sqlite.get_free_bytes(connection, self.url))

    @contextlib.contextmanager
    def _unavailable(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, TimeoutError) as error:
            is_ours = isinstance(error, DBAPIError) and not (
                isinstance(error, OperationalError) or error.connection_invalidated
            )
            if is_ours:
                raise
            DATABASE_FAILURES.inc()
            self._log.error("a database operation failed: %s", first_line(error))
            if is_disk_full(error):
                raise InsufficientStorage(DISK_FULL) from error
            raise Unavailable("The database does not respond. Try again in a moment.") from error


def parse_url(url: str) -> URL:
    """Return the database's address, or raise StoreError, which does not show it: it may have a password."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise StoreError("the database's URL must be like sqlite:///kbatch-server.sqlite") from None
    if parsed.drivername not in _DRIVERS:
        raise StoreError(
            f"the database's URL must begin with sqlite:/// or postgresql://, not {parsed.drivername}:"
        )
    checked: URL = _DRIVERS[parsed.drivername].check_url(parsed)
    return checked
