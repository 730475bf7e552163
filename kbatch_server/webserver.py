"""The port that the service listens at: taken first, served when all else is ready, let go of at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
from typing import Any
from urllib.parse import urlparse

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.netutil import bind_sockets
from tornado.web import Application

from .traffic import Traffic

IDLE_SECONDS = 1
"""How long idle connections are kept open at a stop: a proxy that sends a request on one just then would take
its end for a failure."""

CLOSE_SECONDS = 5
"""How long connections without a request may take to close."""

MAX_HEADER_BYTES = 64 * 1024
"""How large the head of a request may be: a cookie of the hub and a token take some hundred bytes."""

MANY_FILES = 65536
"""Open files that are enough: each connection is one."""

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
"""What one connection too many is answered with, before anything of it is read."""


class BoundedServer(HTTPServer):
    """Tornado's server with a number of connections that may be open at the same time."""

    max_connections = 0

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Take what Tornado's server takes."""
        super().initialize(*args, **kwargs)
        self._open = 0
        self._is_unused = asyncio.Event()
        self._is_unused.set()

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Serve a connection, or turn it away."""
        if self._open >= self.max_connections:
            stream.write(BUSY).add_done_callback(lambda sent: _close(stream, sent))
            return
        self._open += 1
        self._is_unused.clear()
        super().handle_stream(stream, address)

    def on_close(self, server_conn: object) -> None:
        """Note that a connection has ended."""
        self._open -= 1
        if not self._open:
            self._is_unused.set()
        super().on_close(server_conn)

    async def wait_until_unused(self) -> None:
        """Wait until no connection is open."""
        await self._is_unused.wait()


def _close(stream: IOStream, sent: asyncio.Future[None]) -> None:
    sent.exception()  # whoever was turned away may have gone before
    stream.close()


def allow_many_files() -> None:
    """Raise this process's limit of open files as far as it may be, and needs to be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class WebServer:
    """Serves a Tornado application, in the order ``bind``, ``start``, ``stop``, ``close``."""

    def __init__(
        self,
        application: Application,
        *,
        max_body_bytes: int,
        max_connections: int,
        idle_seconds: float,
        shutdown_seconds: int,
        traffic: Traffic,
        log: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self._server = BoundedServer(
            application,
            xheaders=True,
            max_body_size=max_body_bytes,
            max_header_size=MAX_HEADER_BYTES,
            # for all of a head: it ends a client that sends one slowly, too
            idle_connection_timeout=idle_seconds,
        )
        self._server.max_connections = max_connections
        self._shutdown_seconds = shutdown_seconds
        self._traffic = traffic
        self._log = log
        self._sockets: list[socket.socket] = []

    def bind(self, url: str) -> str:
        """Take the port of a URL, or a free one for port 0, and return the URL with it; raises OSError."""
        parsed = urlparse(url)
        self._sockets = bind_sockets(parsed.port or 0, parsed.hostname)
        return f"http://{parsed.hostname}:{self._sockets[0].getsockname()[1]}"

    def start(self) -> None:
        """Take requests, those first that came since ``bind``."""
        allow_many_files()
        self._server.add_sockets(self._sockets)

    async def stop(self) -> None:
        """Take no more connections, let what is under way end, and close what is open then."""
        self._log.info("stopping")
        self._server.stop()
        self._server.conn_params.no_keep_alive = True  # each answer from now on is its connection's last
        await self._traffic.finish(self._shutdown_seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE_SECONDS):
                await self._server.wait_until_unused()
        await self._traffic.finish(IDLE_SECONDS)  # what came on a kept connection meanwhile
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._server.close_all_connections()
        except TimeoutError:
            self._log.warning("some connections did not close within %d s", CLOSE_SECONDS)

    def close(self) -> None:
        """Let go of the port, also when nothing was ever served."""
        for each in self._sockets:
            each.close()
