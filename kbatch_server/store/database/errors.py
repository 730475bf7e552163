"""Errors of the database, and which operations may be tried again."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError

_DEFEATED = {"40001", "40P01"}
"""The SQLSTATEs with which PostgreSQL stops one of two conflicting writers, mostly in a deadlock."""


_DISK_FULL = "53100"
"""The SQLSTATE of PostgreSQL."""


class StoreError(Exception):
    """The database cannot be used: one line for the admin who starts the service."""


class DefeatedError(Exception):
    """Another process has just written what this operation was to write: to be tried again."""


def is_defeated(error: object) -> bool:
    """Return whether an operation was stopped for another writer's sake: the same again may well work."""
    if isinstance(error, DefeatedError):
        return True
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _DEFEATED


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether the database has no room left for what was to be written."""
    if not isinstance(error, DBAPIError):
        return False
    code = getattr(error.orig, "sqlite_errorcode", None)
    return code == sqlite3.SQLITE_FULL or getattr(error.orig, "sqlstate", None) == _DISK_FULL


def first_line(error: BaseException) -> str:
    """Return what the database's driver says, without the statement and its values."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return str(cause).splitlines()[0] if str(cause) else type(cause).__name__
