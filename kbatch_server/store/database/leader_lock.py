"""The lock that one of the processes that share a database holds, and notifications from the others.

It is a lock of the database and not a Lease of Kubernetes, for which the official client has a class: who
cannot write must not lead, and a hub without Kubernetes can have replicas, too.
"""

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
"""Seconds within which the database must respond, before the lock counts as lost."""


class LeadLock(Protocol):
    """The lock that ``Leader`` needs."""

    async def take(self) -> bool:
        """Return whether this process holds the lock; raises Unavailable if the database is down."""

    async def listen(self, seconds: float) -> list[str]:
        """Return the ids of jobs that other processes announced; empty after some seconds.

        Raises Unavailable as soon as this process knows that it has lost the lock.
        """

    async def release(self) -> None:
        """Release the lock and its connection, so that another process may take it; it may be taken again."""


class SoleLock:
    """The lock of a database that only one process uses: always available."""

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
    """An advisory lock of PostgreSQL, held for as long as a separate connection lives.

    The server releases it if the process is killed or its machine no longer responds. This process knows that
    it has lost the lock when the connection breaks. So no clock has to be right, and nothing must be renewed
    in time.
    """

    def __init__(self, url: URL) -> None:
        self._url = url
        self._connection: AsyncConnection | None = None

    async def take(self) -> bool:
        """Return whether this process holds the lock; raises Unavailable if the database does not respond."""
        with unavailable():
            async with asyncio.timeout(ANSWER_SECONDS):
                if self._connection is None:
                    self._connection = await connect(self._url)
                cursor = await self._connection.execute(
                    "SELECT pg_try_advisory_lock(%s)", (postgresql.LEAD_LOCK,)
                )
                row = await cursor.fetchone()
                is_ours = row is not None and bool(row[0])
                if is_ours:  # not earlier: nobody would read the notifications
                    await self._connection.execute(f"LISTEN {postgresql.CHANNEL}")
                return is_ours

    async def listen(self, seconds: float) -> list[str]:
        """Return the ids of jobs that others announced; raises Unavailable if the lock is lost."""
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
    """Return a separate connection, outside of every pool, with this module's limits."""
    from psycopg import AsyncConnection

    arguments = postgresql.make_connect_args(url) | {"autocommit": True}
    connection = await AsyncConnection.connect(**arguments)
    await connection.execute(postgresql.SET_LIMITS)
    return connection


@contextlib.contextmanager
def unavailable() -> Iterator[None]:
    """Raise errors of psycopg and of the network as Unavailable."""
    from psycopg import Error

    try:
        yield
    except (Error, OSError, TimeoutError) as error:
        raise Unavailable(f"The database does not respond: {first_line(error)}") from error
