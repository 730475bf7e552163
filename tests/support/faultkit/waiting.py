"""Waiting for what a fault is to bring about, never for longer than a limit."""

from __future__ import annotations

import time
from collections.abc import Callable

WAIT_SECONDS = 60


def until(is_true: Callable[[], object], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait until it is true."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)
