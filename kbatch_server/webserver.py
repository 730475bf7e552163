"""The port that the service listens at: taken first, served when all else is ready, let go of at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Any
from urllib.parse import urlparse

from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.netutil import bind_sockets
from tornado.web import Application

IDLE_SECONDS = 1
"""How long idle connections are kept open at a stop: a proxy that sends a request on one just then would take
its end for a failure."""

CLOSE_SECONDS = 5
"""How long connections may take to close when nobody is waited for any more."""


def mark_endless(request: HTTPServerRequest) -> None:
    """Say that an answer goes on as long as a job does: a stop of the service does not wait for its end."""
    connection: Any = request.server_connection
    connection.is_endless = True


class WebServer:
    """Serves a Tornado application, in the order ``bind``, ``start``, ``stop``, ``close``."""

    def __init__(
        self,
        application: Application,
        *,
        max_body_bytes: int,
        shutdown_seconds: int,
        log: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self._server = _Server(application, xheaders=True, max_body_size=max_body_bytes)
        self._shutdown_seconds = shutdown_seconds
        self._log = log
        self._sockets: list[socket.socket] = []

    def bind(self, url: str) -> str:
        """Take the port of a URL, or a free one for port 0, and return the URL with it; raises OSError."""
        parsed = urlparse(url)
        self._sockets = bind_sockets(parsed.port or 0, parsed.hostname)
        return f"http://{parsed.hostname}:{self._sockets[0].getsockname()[1]}"

    def start(self) -> None:
        """Take requests, those first that came since ``bind``."""
        self._server.add_sockets(self._sockets)

    async def stop(self) -> None:
        """Take no more connections, let requests come to their end, and close what is open."""
        self._log.info("stopping")
        self._server.stop()
        self._server.conn_params.no_keep_alive = True  # each answer from now on is its connection's last
        try:
            async with asyncio.timeout(self._shutdown_seconds):
                await self._server.wait_until_idle()
        except TimeoutError:
            self._log.warning("some requests did not end within %d s", self._shutdown_seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE_SECONDS):
                await self._server.wait_until_unused()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._server.close_all_connections()
        except TimeoutError:
            self._log.warning("some connections did not close within %d s", CLOSE_SECONDS)

    def close(self) -> None:
        """Let go of the port, also when nothing was ever served."""
        for each in self._sockets:
            each.close()


class _Server(HTTPServer):
    """Tornado's server, which would close connections in the middle of an answer; it knows which are busy."""

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        super().initialize(*args, **kwargs)
        self._open: set[Any] = set()
        self._busy: set[Any] = set()
        self._changed = asyncio.Event()

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Get ready for a connection's next request: the one before is over."""
        self._set_idle(server_conn)
        connection: Any = server_conn
        connection.is_endless = False
        self._open.add(connection)
        return _Watched(super().start_request(server_conn, request_conn), self._busy, server_conn)

    def on_close(self, server_conn: object) -> None:
        """Forget a connection."""
        self._open.discard(server_conn)
        self._set_idle(server_conn)
        super().on_close(server_conn)

    def _set_idle(self, connection: object) -> None:
        self._busy.discard(connection)
        self._changed.set()

    async def wait_until_idle(self) -> None:
        """Wait for the end of all requests but those whose answers are endless."""
        await self._wait_while_used(self._busy)

    async def wait_until_unused(self) -> None:
        """Wait until there is no connection but those whose answers are endless."""
        await self._wait_while_used(self._open)

    async def _wait_while_used(self, connections: set[Any]) -> None:
        while not all(each.is_endless for each in connections):
            self._changed.clear()
            await self._changed.wait()


class _Watched(HTTPMessageDelegate):
    """Passes a request on, and notes that its connection is busy from its first line."""

    def __init__(self, inner: HTTPMessageDelegate, busy: set[Any], connection: object) -> None:
        self._inner = inner
        self._busy = busy
        self._connection = connection

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> Any:
        self._busy.add(self._connection)
        return self._inner.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Any:
        return self._inner.data_received(chunk)

    def finish(self) -> None:
        self._inner.finish()

    def on_connection_close(self) -> None:
        self._inner.on_connection_close()
