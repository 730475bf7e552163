"""SQLite: one file, any number of readers, one writer at a time."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event

from ...private import make_private
from .errors import StoreError

BUSY_TIMEOUT_SECONDS = 10
"""Seconds to wait for another process that writes to the same SQLite file."""

MIN_SQLITE = (3, 35)
"""The first version with RETURNING."""


def check_url(url: URL) -> URL:
    """Return the URL with our driver, or raise StoreError."""
    if url.database in {None, "", ":memory:"}:
        raise StoreError("the database's URL must name a file, like sqlite:///kbatch-server.sqlite")
    return url.set(drivername="sqlite")


def make_engines(url: URL, *, readers: int) -> tuple[Engine, Engine]:
    """Return an engine for reading with ``readers`` connections, and one for writing with one."""
    if sqlite3.sqlite_version_info < MIN_SQLITE:
        raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old: 3.35 or later is required")
    options: dict[str, Any] = {"connect_args": {"timeout": BUSY_TIMEOUT_SECONDS}, "max_overflow": 0}
    # autocommit: without a transaction, returning a connection to the pool needs no rollback
    reader = create_engine(
        url,
        pool_size=readers,
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


def get_free_bytes(connection: Connection, url: URL) -> int:
    """Return the free bytes on the disk of the database's file, and inside the file.

    Deleting data frees space in the file, which does not become smaller.
    """
    assert url.database is not None  # noqa: S101  # check_url saw to it
    pages, page_bytes = (
        int(connection.exec_driver_sql(f"PRAGMA {name}").scalar() or 0)
        for name in ("freelist_count", "page_size")
    )
    disk = os.statvfs(os.path.dirname(os.path.abspath(url.database)))
    return disk.f_bavail * disk.f_frsize + pages * page_bytes


def ensure_private_file(url: URL) -> None:
    """Create the file readable by the service alone, before SQLite creates it readable by all."""
    assert url.database is not None  # noqa: S101  # check_url saw to it
    os.close(os.open(url.database, os.O_CREAT | os.O_RDWR, 0o600))


def make_files_private(url: URL) -> None:
    """Make existing files readable by the service alone; they are known to be its own."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        make_private(Path(f"{url.database}{suffix}"))


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
