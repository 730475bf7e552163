"""Finds the address of a client from the headers that trusted proxies, and no others, add to a request."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Iterable
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

CLIENT: ContextVar[str] = ContextVar("client", default="")
"""The client of the request that is being answered, in the form of ``find_network``."""

IPV6_PREFIX = 64
"""Bits of an IPv6 network that counts as one client (RFC 7421)."""

MAX_PROXIES = 20
"""The number of addresses in a header to read; no request passes more proxies."""

MAX_ADDRESS_LENGTH = 64
"""The maximum length of an address: a full IPv6 one with brackets and a port has 47 characters."""

REMEMBERED = 1024
"""Addresses to remember in each form, because the same clients send many requests."""


class ProxyAddresses:
    """The addresses and networks of the trusted proxies."""

    def __init__(self, addresses: Iterable[str]) -> None:
        """Take the addresses as text; raises ValueError for an invalid one."""
        self._networks = [ipaddress.ip_network(each, strict=False) for each in addresses]
        self._is_trusted = lru_cache(REMEMBERED)(self._look)

    def __contains__(self, text: str) -> bool:
        return len(text) <= MAX_ADDRESS_LENGTH and self._is_trusted(text)

    def _look(self, text: str) -> bool:
        address = _parse(text)
        return address is not None and any(address in network for network in self._networks)

    def find_client(self, peer: str, headers: HTTPHeaders) -> str:
        """Return the client's address: ``peer``, unless that is a trusted proxy that names another."""
        if peer not in self:
            return peer
        given = headers.get("X-Forwarded-For") or headers.get("X-Real-IP", "")
        client = peer
        # each proxy appends its client's address; addresses before the last trusted one may be made up
        for text in reversed(given.rsplit(",", MAX_PROXIES)[-MAX_PROXIES:]):
            address = _parse(text)
            if address is None:
                break
            client = str(address)
            if client not in self:
                break
        return client

    def find_scheme(self, peer: str, headers: HTTPHeaders) -> str | None:
        """Return the scheme that the browser used (``http`` or ``https``), if a trusted proxy names it."""
        if peer not in self:
            return None
        given = headers.get("X-Scheme") or headers.get("X-Forwarded-Proto", "")
        scheme = given.partition(",")[0].strip().lower()
        return scheme if scheme in {"http", "https"} else None


def _parse(text: str) -> Address | None:
    """Return the address in a text, without its port; None for an invalid one, or one with a zone."""
    plain = text.strip()
    return _parse_short(plain) if len(plain) <= MAX_ADDRESS_LENGTH else None


@lru_cache(REMEMBERED)
def _parse_short(plain: str) -> Address | None:
    if plain.startswith("["):
        plain = plain[1:].partition("]")[0]
    elif plain.count(":") == 1:
        plain = plain.partition(":")[0]
    try:
        address = ipaddress.ip_address("" if "%" in plain else plain)
    except ValueError:
        return None
    # a socket for both IP versions shows an IPv4 address like this
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def find_network(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or an IPv6 network; other text unchanged."""
    return _find_network(address) if len(address) <= MAX_ADDRESS_LENGTH else address


@lru_cache(REMEMBERED)
def _find_network(address: str) -> str:
    parsed = _parse(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, IPV6_PREFIX), strict=False))
    return str(parsed or address)


class ForwardedRequest(HTTPMessageDelegate):
    """Receives a request with the address and the scheme that the proxies name."""

    def __init__(
        self, delegate: HTTPMessageDelegate, connection: HTTPConnection, proxies: ProxyAddresses
    ) -> None:
        self._delegate = delegate
        self._context: Any = connection.context  # type: ignore[attr-defined]
        self._proxies = proxies

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """Receive the header of the request."""
        context = self._context
        own = context.remote_ip, context.protocol
        context.remote_ip = self._proxies.find_client(own[0], headers)
        context.protocol = self._proxies.find_scheme(own[0], headers) or own[1]
        try:
            # this creates the request, with address and scheme from the context
            return self._delegate.headers_received(start_line, headers)
        finally:
            context.remote_ip, context.protocol = own  # the next request may be another client's

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Pass on a piece of the body."""
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        """Pass on the end of the body."""
        self._delegate.finish()

    def on_connection_close(self) -> None:
        """Pass on that the client has closed the connection."""
        self._delegate.on_connection_close()
