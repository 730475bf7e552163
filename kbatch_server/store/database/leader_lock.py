"""The lock that one process holds, of all that share a database; and what it hears from the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from sqlalchemy import URL

from ...errors import Unavailable
from . import postgresql
from .errors import first_line

if TYPE_CHECKING:
    from psycopg import AsyncConnection

ANSWER_SECONDS = 10
"""How long the database may take to answer before the lock counts as lost."""


class LeadLock(Protocol):
    """What ``Leader`` needs of a lock."""

    async def take(self) -> bool:
        """Return whether we hold it now; raises Unavailable when the database does not answer."""

    async def listen(self, seconds: float) -> list[str]:
        """Return the ids of jobs that others have announced, or none after some seconds.

        Raises Unavailable as soon as it is known that the lock, which we held, is lost.
        """

    async def release(self) -> None:
        """Let go of it and of its connection, so that another may take it; it may be taken again."""


class SoleLock:
    """Of a database that is of one process alone: held from when it is wanted."""

    async def take(self) -> bool:
        """Return True."""
        return True

    async def listen(self, seconds: float) -> list[str]:
        """Wait, and return nothing."""
        await asyncio.sleep(seconds)
        return []

    async def release(self) -> None:
        """Do nothing."""


class SharedLock:
    """An advisory lock of PostgreSQL, held for as long as a connection of its own lives.

    The server gives it up when the process is killed or its machine no longer answers, and we know that it is
    lost when that connection breaks: there is no clock that has to be right, and nothing to renew in time.
    """

    def __init__(self, url: URL) -> None:
        self._url = url
        self._connection: AsyncConnection | None = None

    async def take(self) -> bool:
        """Return whether we hold it now; raises Unavailable when the database does not answer."""
        with unavailable():
            async with asyncio.timeout(ANSWER_SECONDS):
                if self._connection is None:
                    self._connection = await connect(self._url)
                cursor = await self._connection.execute(
                    "SELECT pg_try_advisory_lock(%s)", (postgresql.LEAD_LOCK,)
                )
                row = await cursor.fetchone()
                is_ours = row is not None and bool(row[0])
                if is_ours:  # not before: nobody would read what is heard meanwhile
                    await self._connection.execute(f"LISTEN {postgresql.CHANNEL}")
                return is_ours

    async def listen(self, seconds: float) -> list[str]:
        """Return the ids of jobs that others have announced; raises Unavailable when the lock is lost."""
        connection = self._connection
        if connection is None:
            raise Unavailable("The leader lock is not held.")
        with unavailable():
            async with asyncio.timeout(seconds + ANSWER_SECONDS):
                heard = connection.notifies(timeout=seconds, stop_after=1)
                ids = [job_id async for notice in heard for job_id in notice.payload.split()]
                if not ids:
                    await connection.execute("SELECT 1")
                return ids

    async def release(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


async def connect(url: URL) -> AsyncConnection:
    """Return a connection of its own, outside of every pool, with our limits."""
    from psycopg import AsyncConnection

    arguments = postgresql.make_connect_args(url) | {"autocommit": True}
    connection = await AsyncConnection.connect(**arguments)
    await connection.execute(postgresql.SET_LIMITS)
    return connection


@contextlib.contextmanager
def unavailable() -> Iterator[None]:
    """Raise what psycopg or the network raises as Unavailable."""
    from psycopg import Error

    try:
        yield
    except (Error, OSError, TimeoutError) as error:
        raise Unavailable(f"The database does not respond: {first_line(error)}") from error
