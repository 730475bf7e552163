"""Ports for servers that tests start: free, and nobody else's for as long as this process lives."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

FIRST, LAST = 10_000, 29_999
"""Below the ports that Linux gives to outgoing connections (32768 and above), any of which could be taken
between the moment that a port is chosen and the one that a server listens there; and below NodePorts."""

_held: list[int] = []
"""The locks of the ports that were given, as open files."""


def find_ports(count: int) -> list[int]:
    """Return ports of the loopback address that nothing listens at, and that no other test run is given."""
    found: list[int] = []
    for port in random.sample(range(FIRST, LAST + 1), LAST + 1 - FIRST):
        if len(found) == count:
            break
        if _reserve(port):
            found.append(port)
    return found


def _reserve(port: int) -> bool:
    """Take the port for this process, unless another has it or something listens there."""
    folder = Path(tempfile.gettempdir()) / f"kbatch-test-ports-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(folder / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", port))
    except OSError:
        os.close(lock)
        return False
    _held.append(lock)
    return True
