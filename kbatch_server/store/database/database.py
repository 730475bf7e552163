"""The connections to the database, from ``open`` to ``close``.

Reads and writes are separate. Each reader has a connection without a transaction, which never waits for a
writer. Writers share one connection and its commits (``GroupCommit``): SQLite allows one writer at a time in
any case, and PostgreSQL then has one per replica.

An operation is a function of a connection, and runs in one of this module's threads: all its statements need
only one change of threads. SQLAlchemy's asyncio driver for SQLite needs four for each statement, which take
most of the statement's time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from ...errors import InsufficientStorage, Unavailable
from ...metrics import DATABASE_FAILURES
from . import postgresql, sqlite
from .errors import StoreError, first_line, is_disk_full
from .groupcommit import ANSWER_SECONDS, GroupCommit, Item, OnCommit, Work
from .readers import Readers
from .schema import ensure_schema

READERS = 4
"""Connections for reading: a database responds within a millisecond, and each connection needs a thread."""

COSTLY_READERS = 2
"""Connections for reads of many rows: however many there are, the other readers continue."""

_DRIVERS = {
    "sqlite": sqlite,
    "sqlite+aiosqlite": sqlite,
    "postgres": postgresql,
    "postgresql": postgresql,
    "postgresql+psycopg": postgresql,
}
"""The allowed schemes of a URL, with the module for that database."""

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
        """Whether the last write failed, as when the disk is full."""
        self.is_full = False
        """Whether it failed because the disk was full."""

    @property
    def is_shared(self) -> bool:
        """Whether several processes may use the database at the same time."""
        return self.url.drivername != "sqlite"

    async def open(self, *, upgrade: bool) -> None:
        """Connect, and make sure that the tables have this version's schema; raises StoreError.

        It creates the tables in an empty database, and upgrades older ones only with ``upgrade``.
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
            # the URL's query may contain secrets, too
            where = repr(self.url.set(query={}))
            raise StoreError(f"the database {where} cannot be opened: {first_line(error)}") from error
        except StoreError:
            await self.close()
            raise

    async def close(self) -> None:
        """Finish the operations in progress, and close all connections and threads."""
        await self._commits.close()
        await self._readers.close()
        await self._costly_readers.close()
        await asyncio.to_thread(self._dispose)

    def _dispose(self) -> None:
        self._reader.dispose()
        self._writer.dispose()

    async def read(self, operation: Callable[[Connection], Result], *, is_costly: bool = False) -> Result:
        """Return the result of an operation; each of its statements sees committed data. Raises Unavailable.

        Operations that read many rows must set ``is_costly``: they wait for each other. Users take turns
        (``Readers``).
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
            # the connection was older than a restart of the database; now the pool has closed all of these
            return self._read_once(operation)

    def _read_once(self, operation: Callable[[Connection], Result]) -> Result:
        with self._reader.connect() as connection:
            return operation(connection)

    async def write(
        self,
        operation: Callable[[Connection], Result],
        *,
        on_commit: OnCommit | None = None,
    ) -> Result:
        """Return the result of an operation once its writes are durable; raises Unavailable.

        If it raises, it has written nothing. Only if Unavailable results from a connection that broke during
        the commit, or from a timeout, this is uncertain. An operation may run more than once for one result.
        ``on_commit`` is called with a list of the result, also if the caller was cancelled meanwhile.
        """
        return await self._written(self._commits.run(operation, on_commit=on_commit))

    async def write_together(
        self, work: Work[Item, Result], item: Item, *, on_commit: OnCommit | None = None
    ) -> Result:
        """Return the work's result for one item, like ``write``; items that arrive together share the work.

        ``on_commit`` is called with the results of all of them. Raises Unavailable also if too many wait.
        """
        return await self._written(self._commits.run_together(work, item, on_commit=on_commit))

    async def _written(self, writing: Coroutine[Any, Any, Result]) -> Result:
        try:
            with self._unavailable():
                result = await writing
        except Unavailable as error:
            self.is_failing = True
            self.is_full = isinstance(error, InsufficientStorage)
            raise
        self.is_failing = self.is_full = False
        return result

    async def get_free_bytes(self) -> int | None:
        """Return the free space for the database in bytes, or None if it is on another machine."""
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
    """Return the database's URL; raises StoreError, without the URL, which may contain a password."""
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
