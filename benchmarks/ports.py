"""Free ports on this machine."""

from __future__ import annotations

import socket


def find_port() -> int:
    """Return a port on the loopback address that nobody listens at now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
