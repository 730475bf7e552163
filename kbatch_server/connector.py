"""Connections of HTTP clients that never outlive their use."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

import aiohttp
from aiohttp.connector import Connection

CLOSE_SECONDS = 5
"""Seconds that ``close`` waits for the event loop to notice that connections have ended."""

_in_use: ContextVar[list[Connection] | None] = ContextVar("connections_in_use", default=None)


class Connector(aiohttp.TCPConnector):
    """aiohttp's connector, whose ``close`` returns when all of its connections have ended.

    aiohttp forgets a TLS connection that is dropped before its answer was read, or while it is created
    (because the request was cancelled, or nobody follows the log any more). asyncio then waits for the other
    side's end of the TLS session, for up to 30 seconds (``ssl_shutdown_timeout`` of
    ``loop.create_connection``).
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(socket_factory=self._make_socket, **kwargs)
        self._sockets: WeakSet[socket.socket] = WeakSet()

    def _make_socket(self, address: tuple[Any, ...]) -> socket.socket:
        """Create a socket for an address in the form of ``getaddrinfo``."""
        family, kind, protocol, *_ = address
        made = socket.socket(family, kind, protocol)
        self._sockets.add(made)
        return made

    async def connect(self, *args: Any, **kwargs: Any) -> Connection:
        """Return a connection for a request, and note it for the surrounding ``closing_on_error``."""
        connection = await super().connect(*args, **kwargs)
        if (in_use := _in_use.get()) is not None:
            in_use.append(connection)
        return connection

    async def close(self, *, abort_ssl: bool = False) -> None:
        """End all connections, including those in use."""
        await super().close(abort_ssl=abort_ssl)
        for each in self._find_open():
            with contextlib.suppress(OSError):  # it is not connected (yet), or not any more
                each.shutdown(socket.SHUT_RDWR)  # asyncio then reads the end, and closes it
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._find_open():  # noqa: ASYNC110 - a socket tells nobody that it was closed
                    await asyncio.sleep(0)

    def _find_open(self) -> list[socket.socket]:
        return [each for each in self._sockets if each.fileno() >= 0]


@contextlib.contextmanager
def closing_on_error() -> Iterator[None]:
    """Close the connections of requests in the block that are in use when an exception leaves it.

    This is for libraries that do not close their connections when cancelled (azure-core 1.41 leaves that to
    the garbage collector). Each connection must come from a Connector.
    """
    connections: list[Connection] = []
    token = _in_use.set(connections)
    try:
        yield
    except BaseException:
        for each in connections:
            each.close()  # nothing happens to one that was given back
        raise
    finally:
        _in_use.reset(token)
