"""The port that the service listens at: taken first, served when all else is ready, let go of at the end."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any
from urllib.parse import urlparse

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from .traffic import Traffic

CLOSE_SECONDS = 5
"""How long connections without a request may take to close."""


class WebServer:
    """Serves a Tornado application, in the order ``bind``, ``start``, ``stop``, ``close``."""

    def __init__(
        self,
        application: Application,
        *,
        max_body_bytes: int,
        shutdown_seconds: int,
        traffic: Traffic,
        log: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self._server = HTTPServer(application, xheaders=True, max_body_size=max_body_bytes)
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
        self._server.add_sockets(self._sockets)

    async def stop(self) -> None:
        """Take no more connections, let what is under way end, and close what is open then."""
        self._log.info("stopping")
        self._server.stop()
        await self._traffic.finish(self._shutdown_seconds)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._server.close_all_connections()
        except TimeoutError:
            self._log.warning("some connections did not close within %d s", CLOSE_SECONDS)

    def close(self) -> None:
        """Let go of the port, also when nothing was ever served."""
        for each in self._sockets:
            each.close()
