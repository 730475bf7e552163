"""The port of the service: bound first, served when everything else is ready, and closed at the end."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from typing import Any
from urllib.parse import urlparse

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPConnection, HTTPMessageDelegate
from tornado.iostream import IOStream
from tornado.netutil import bind_sockets
from tornado.web import Application
from traitlets import Instance, Integer, List, TraitError, Unicode, validate
from traitlets.config import LoggingConfigurable

from .connections import Connections, limit_connections
from .forwarded import ForwardedRequest, ProxyAddresses
from .inflight import InflightRequests
from .throttle import Throttle

IDLE_SECONDS = 1
"""Seconds for which idle connections stay open at a stop. A proxy that sends a request on one in that moment
would take its end for a failure."""

CLOSE_SECONDS = 5
"""Seconds that connections without a request may take to close."""

MAX_HEADER_BYTES = 32 * 1024
"""Maximum size of the header of a request. Cookies and a token take some hundred bytes, and the hub's proxy
accepts 16 KiB at most (Node's ``--max-http-header-size``)."""

MAX_BODY_BYTES = 2**62

MANY_FILES = 65536
"""The limit of open files to set; each connection needs one."""


class BoundedServer(HTTPServer):
    """Tornado's server with a limit on connections; it accepts headers of trusted proxies only."""

    connections: Connections
    proxies: ProxyAddresses

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Take the arguments of Tornado's server."""
        super().initialize(*args, **kwargs)
        self._open = 0
        self._is_unused = asyncio.Event()
        self._is_unused.set()

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Serve a connection, if necessary in place of another."""
        self.connections.add(stream)
        self._open += 1
        self._is_unused.clear()
        super().handle_stream(stream, address)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Return what receives the request, with the client's address and scheme from trusted proxies."""
        return ForwardedRequest(super().start_request(server_conn, request_conn), request_conn, self.proxies)

    def on_close(self, server_conn: Any) -> None:
        """Forget a closed connection."""
        self.connections.remove(server_conn.stream)
        self._open -= 1
        if not self._open:
            self._is_unused.set()
        super().on_close(server_conn)

    async def wait_until_unused(self) -> None:
        """Wait until no connection is open."""
        await self._is_unused.wait()


def allow_many_files() -> int:
    """Raise this process's limit of open files as far as necessary and allowed, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MANY_FILES if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


class WebServer(LoggingConfigurable):
    """Serves a Tornado application, in the order ``bind``, ``start``, ``stop``, ``close``."""

    trusted_downstream_ips = List(
        Unicode(),
        ["127.0.0.0/8", "::1"],
        help="""The addresses, or networks like ``10.0.0.0/8``, of the proxies in front of this service.

        If a request comes from one of them, the service takes the client's address from ``X-Forwarded-For``
        (the last one that is not itself such a proxy) or else from ``X-Real-IP``, and the scheme from
        ``X-Scheme`` or else from ``X-Forwarded-Proto``. It ignores these headers in other requests, because
        anybody can send them. The address appears in the log and in the audit record, and is the one that
        ``HubAuthenticator.concurrent_lookups`` counts. Default: this machine, because the hub's proxy runs on
        the machine of the service. The chart sets the private networks, because the hub's proxy is a pod.
        """,
        config=True,
    )

    @validate("trusted_downstream_ips")
    def _validate_trusted_downstream_ips(self, proposal: Any) -> list[str]:
        try:
            ProxyAddresses(proposal["value"])
        except ValueError as error:
            raise TraitError(f"WebServer.trusted_downstream_ips: {error}") from None
        checked: list[str] = proposal["value"]
        return checked

    application = Instance(Application)
    shutdown_seconds = Integer()
    throttle = Instance(Throttle)
    inflight = Instance(InflightRequests)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._sockets: list[socket.socket] = []
        self._server = BoundedServer(
            self.application,
            # each handler checks the length of its body itself, and rejects longer ones in JSON
            max_body_size=MAX_BODY_BYTES,
            max_header_size=MAX_HEADER_BYTES,
            # applies to a complete header: it also disconnects clients that send one slowly
            idle_connection_timeout=self.throttle.idle_seconds,
        )
        self._server.connections = self.throttle.connections
        self._server.proxies = ProxyAddresses(self.trusted_downstream_ips)

    def bind(self, url: str) -> str:
        """Bind the port of a URL (0: any free port) and return the URL with that port; raises OSError."""
        parsed = urlparse(url)
        self._sockets = bind_sockets(parsed.port or 0, parsed.hostname)
        return f"http://{parsed.hostname}:{self._sockets[0].getsockname()[1]}"

    def start(self) -> None:
        """Serve requests, beginning with those that arrived since ``bind``."""
        connections = self.throttle.connections
        connections.most = limit_connections(connections.most, allow_many_files(), self.log.warning)
        self._server.add_sockets(self._sockets)

    def stop_keeping_connections(self) -> None:
        """Close each connection after the answer that begins next, so that few are left to close at ``stop``.

        The hub's proxy keeps idle connections without a limit. A request that it sends on one while the
        service closes it fails (*socket hang up*, 503), and the proxy does not try it again.
        """
        self._server.conn_params.no_keep_alive = True

    async def stop(self) -> None:
        """Accept no more connections, wait for the requests in progress, and close all connections."""
        self.log.info("stopping")
        self._server.stop()
        self.stop_keeping_connections()
        await self.inflight.finish(self.shutdown_seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE_SECONDS):
                await self._server.wait_until_unused()
        await self.inflight.finish(IDLE_SECONDS)  # requests that arrived on kept connections meanwhile
        await self.close_connections()

    async def close_connections(self) -> None:
        """Close all connections, even those with a request in progress."""
        self._server.stop()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._server.close_all_connections()
        except TimeoutError:
            self.log.warning("some connections did not close within %d s", CLOSE_SECONDS)

    def close(self) -> None:
        """Release the port, even if it never served anything."""
        for each in self._sockets:
            each.close()
