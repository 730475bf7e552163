"""Servers that tests start as processes of their own: when they are ready."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from pathlib import Path

START_SECONDS = 120
"""After this time a server that does not answer is taken to hang. Nothing that is tested depends on it.
Azurite alone is thousands of files: to read them from a cold disk has taken more than 30 s."""

STOP_SECONDS = 60
"""The same for a server that was told to end."""


def wait_until_it_listens(process: subprocess.Popen[bytes], address: tuple[str, int], log: Path) -> None:
    """Wait until a process listens; raises RuntimeError with its log when it ends, or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(address, 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} does not listen at {address}: {log.read_text()}")
