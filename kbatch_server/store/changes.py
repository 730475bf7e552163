"""Notifies of jobs that this process, or another one with the same database, has changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar, runtime_checkable

from sqlalchemy import URL, Connection

from .database import postgresql
from .database.database import Database
from .database.leader_lock import ANSWER_SECONDS, connect, unavailable

if TYPE_CHECKING:
    from psycopg import AsyncConnection

MAX_PENDING = 10_000
"""The maximum number of changes that wait for a listener; beyond it, listeners must read everything again."""

Result = TypeVar("Result")


class JobChange(NamedTuple):
    """A job that was added, changed or deleted, and its user."""

    user: str
    job_id: str


@runtime_checkable
class Changes(Protocol):
    """Sends notifications of changes in the store, and receives those of other processes."""

    def announce(self, connection: Connection, changes: Sequence[JobChange]) -> None:
        """Notify other processes, as a part of the transaction that makes the changes."""

    def publish(self, changes: Sequence[JobChange]) -> None:
        """Notify this process after the changes are durable."""

    async def listen(self, seconds: float) -> Sequence[JobChange] | None:
        """Return the changes since the last call as soon as there are any; empty after ``seconds``.

        None means that changes may have been missed. Raises Unavailable if the database does not respond; a
        later call then returns None for the missed changes.
        """

    async def close(self) -> None:
        """Stop listening."""


class SoleChanges:
    """The changes of a database that only one process uses."""

    def __init__(self) -> None:
        self._pending: dict[JobChange, None] = {}
        self._has_some = asyncio.Event()
        self._has_missed = False

    def announce(self, connection: Connection, changes: Sequence[JobChange]) -> None:
        """Do nothing: no other processes exist."""

    def publish(self, changes: Sequence[JobChange]) -> None:
        """Keep the changes for a listener."""
        self._pending.update(dict.fromkeys(changes))
        if len(self._pending) > MAX_PENDING:
            self._pending.clear()
            self._has_missed = True
        self._has_some.set()

    async def listen(self, seconds: float) -> Sequence[JobChange] | None:
        """Return the published changes."""
        try:
            async with asyncio.timeout(seconds):
                await self._has_some.wait()
        except TimeoutError:
            return []
        self._has_some.clear()
        pending, self._pending = self._pending, {}
        missed, self._has_missed = self._has_missed, False
        return None if missed else list(pending)

    async def close(self) -> None:
        """Do nothing."""


class SharedChanges:
    """The changes of a PostgreSQL database: sent with NOTIFY at commit, and received on a separate
    connection."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self._connection: AsyncConnection | None = None

    def announce(self, connection: Connection, changes: Sequence[JobChange]) -> None:
        """Send notifications when the transaction is committed."""
        if changes:
            postgresql.announce_changes(connection, [json.dumps(change) for change in changes])

    def publish(self, changes: Sequence[JobChange]) -> None:
        """Do nothing: this process receives its own notifications."""

    async def listen(self, seconds: float) -> Sequence[JobChange] | None:
        """Return the received changes; None after (re)connecting."""
        with unavailable():
            try:
                async with asyncio.timeout(seconds + ANSWER_SECONDS):
                    if self._connection is None:
                        self._connection = await connect(self._url)
                        await self._connection.execute(f"LISTEN {postgresql.CHANGES_CHANNEL}")
                        return None
                    heard = self._connection.notifies(timeout=seconds, stop_after=1)
                    changes = [JobChange(*json.loads(notice.payload)) async for notice in heard]
                    if not changes:
                        await self._connection.execute("SELECT 1")  # whether it lives
                    return changes
            except Exception:
                await self.close()
                raise

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


class ChangingStore:
    """A part of the store that notifies of the jobs that it changes."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def _write(self, operation: Callable[[Connection], tuple[Result, list[JobChange]]]) -> Result:
        """Return the result of an operation once it is durable, and notify of the jobs that it changed."""

        def write(connection: Connection) -> tuple[Result, list[JobChange]]:
            result, changes = operation(connection)
            self._changes.announce(connection, changes)
            return result, changes

        result, _ = await self._database.write(
            write, on_commit=lambda done: self._changes.publish(done[0][1])
        )
        return result
