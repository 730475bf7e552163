"""The audit record: who did what, written in the same transaction as the action."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from ..audit import Action, AuditEntry, AuditPage, AuditQuery
from ..models.listing import SMALL_PAGE
from .database.database import Database
from .tables import audit

DELETE_AT_ONCE = 5000
"""The number of entries to delete in one transaction: other writers wait for it."""

audit_log = logging.getLogger("kbatch_server.audit")

_NAMES = ("at", "who", "action", "name", "user", "kind", "rights", "address", "request_id", "detail")
_COLUMNS = tuple(audit.c[name] for name in (*_NAMES, "seq"))
_INSERT = insert(audit)


class AuditStore:
    """The rows of the audit record."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, entry: AuditEntry) -> None:
        """Add an entry that belongs to no other change, and log it."""
        await self._database.write(lambda connection: put_entries(connection, [entry]))
        log_entry(entry)

    async def list_page(self, query: AuditQuery) -> AuditPage:
        """Return a page of the audit record, newest first."""
        statement = select(*_COLUMNS).order_by(audit.c.seq.desc()).limit(query.limit + 1)
        for name in ("who", "user", "name", "action"):
            value = getattr(query, name)
            if value is not None:
                statement = statement.where(audit.c[name] == value)
        if query.since is not None:
            statement = statement.where(audit.c.at >= query.since)
        if query.until is not None:
            statement = statement.where(audit.c.at < query.until)
        if query.before is not None:
            statement = statement.where(audit.c.seq < query.before)
        rows = await self._database.read(
            lambda connection: connection.execute(statement).all(), is_costly=query.limit > SMALL_PAGE
        )
        entries = [_make_entry(row) for row in rows[: query.limit]]
        return AuditPage(entries, entries[-1].seq if len(rows) > query.limit else None)

    async def forget(self, before: datetime) -> int:
        """Delete the entries from before a time, and return their number."""
        oldest = select(audit.c.seq).where(audit.c.at < before).order_by(audit.c.at).limit(DELETE_AT_ONCE)
        statement = delete(audit).where(audit.c.seq.in_(oldest))
        total = 0
        while count := await self._database.write(lambda connection: connection.execute(statement).rowcount):
            total += count
        return total


def put_entries(connection: Connection, entries: Sequence[AuditEntry]) -> None:
    """Add entries, in the transaction of their actions."""
    connection.execute(_INSERT, [_make_row(entry) for entry in entries])


def put_entry(
    connection: Connection, entry: AuditEntry | None, *, user: str | None = None
) -> AuditEntry | None:
    """Add an entry, if any, with the user that was found, and return the stored entry."""
    if entry is None:
        return None
    found = entry if user is None else replace(entry, user=user)
    put_entries(connection, [found])
    return found


def log_entry(entry: AuditEntry | None) -> None:
    """Log an entry, if any, that is in the audit record now."""
    if entry is None:
        return
    audit_log.info(
        "%s %s of %s by %s from %s request=%s",
        entry.action.value,
        entry.name or "-",
        entry.user or "-",
        entry.who,
        entry.address or "-",
        entry.request_id or "-",
        extra={"audit": entry},
    )


def _make_row(entry: AuditEntry) -> dict[str, Any]:
    row = {name: getattr(entry, name) for name in _NAMES}
    row["action"] = entry.action.value
    return row


def _make_entry(row: Any) -> AuditEntry:
    values = dict(zip((*_NAMES, "seq"), row, strict=True))
    return AuditEntry(**values | {"action": Action(values["action"])})
