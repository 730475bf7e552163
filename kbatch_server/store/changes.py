"""Which jobs were changed, by this process or by another one that has the same database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from sqlalchemy import URL, Connection

from .database import postgresql
from .database.database import Database
from .database.leader_lock import ANSWER_SECONDS, connect, unavailable

if TYPE_CHECKING:
    from psycopg import AsyncConnection

MAX_PENDING = 10_000
"""Changes that wait for somebody who listens; those who want to know of more read it all again."""

Result = TypeVar("Result")


class JobChange(NamedTuple):
    """A job that was added, changed or deleted, and whose it is."""

    user: str
    job_id: str


class Changes(Protocol):
    """What a store tells of what it has written, and hears from others."""

    def announce(self, connection: Connection, changes: Sequence[JobChange]) -> None:
        """Tell other processes, as a part of the transaction that makes the changes."""

    def publish(self, changes: Sequence[JobChange]) -> None:
        """Tell this process, once they are durable."""

    async def listen(self, seconds: float) -> Sequence[JobChange] | None:
        """Return what has changed since the last call as soon as there is something, or nothing in the end.

        None says that it is not known what has changed meanwhile. Raises Unavailable when that cannot be
        found out now; then what was missed is said by None later.
        """

    async def close(self) -> None:
        """Listen no more."""


class SoleChanges:
    """Those of a database that is of one process alone."""

    def __init__(self) -> None:
        self._pending: dict[JobChange, None] = {}
        self._has_some = asyncio.Event()
        self._has_missed = False

    def announce(self, connection: Connection, changes: Sequence[JobChange]) -> None:
        """Do nothing: there are no others."""

    def publish(self, changes: Sequence[JobChange]) -> None:
        """Keep them for who listens."""
        self._pending.update(dict.fromkeys(changes))
        if len(self._pending) > MAX_PENDING:
            self._pending.clear()
            self._has_missed = True
        self._has_some.set()

    async def listen(self, seconds: float) -> Sequence[JobChange] | None:
        """Return what was published."""
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
    """Those of a PostgreSQL: called out by NOTIFY with the commit, and heard on a connection of its own."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self._connection: AsyncConnection | None = None

    def announce(self, connection: Connection, changes: Sequence[JobChange]) -> None:
        """Have them called out once the transaction is committed."""
        if changes:
            postgresql.announce_changes(connection, [json.dumps(change) for change in changes])

    def publish(self, changes: Sequence[JobChange]) -> None:
        """Do nothing: this process hears what it called out itself."""

    async def listen(self, seconds: float) -> Sequence[JobChange] | None:
        """Return what was called out; None after the connection was made (again)."""
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
    """A part of the store that tells which jobs it has changed."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def _write(self, operation: Callable[[Connection], tuple[Result, list[JobChange]]]) -> Result:
        """Return what an operation returns once it is durable, and tell who watches what it has changed."""

        def write(connection: Connection) -> tuple[Result, list[JobChange]]:
            result, changes = operation(connection)
            self._changes.announce(connection, changes)
            return result, changes

        result, changes = await self._database.write(write)
        self._changes.publish(changes)
        return result
