"""Waiting until something holds, never for longer than a limit: in a coroutine, or without an event loop."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

SECONDS = 90
"""Longer than anything takes on a busy machine: a test that fails may take it, none that passes does."""


async def until(condition: Callable[[], Awaitable[Any] | Any], *, seconds: float = SECONDS) -> Any:
    """Return what a condition gives once that is true; it may be a coroutine. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.01)


def wait_until(
    condition: Callable[[], Any],
    what: str | Callable[[], object] = "it did not become true",
    seconds: float = SECONDS,
) -> Any:
    """Return what a condition gives once that is true. Raises AssertionError, which says what did not.

    If ``what`` is a function, it is asked then.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what() if callable(what) else what}: not within {seconds} s"
        time.sleep(0.05)
    return found
