"""Measures the lag of the event loop, and so finds code that blocks it."""

from __future__ import annotations

import asyncio
from collections import deque

from ..metrics import LOOP_LAG_MAX_SECONDS, LOOP_LAG_SECONDS

EVERY_SECONDS = 0.5
"""Seconds between two measurements. A block shorter than this may go unnoticed once, but not repeatedly."""

REMEMBERED = 120
"""The number of lags of the last minute."""


class LoopLag:
    """A timer that measures its own delay, from ``start`` to ``stop``."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to measure."""
        self._task = asyncio.create_task(self._measure(), name="loop-lag")

    async def stop(self) -> None:
        """Stop measuring."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _measure(self) -> None:
        now = asyncio.get_running_loop().time
        lags: deque[float] = deque(maxlen=REMEMBERED)
        while True:
            began = now()
            await asyncio.sleep(EVERY_SECONDS)
            lags.append(max(0.0, now() - began - EVERY_SECONDS))
            LOOP_LAG_SECONDS.observe(lags[-1])
            LOOP_LAG_MAX_SECONDS.set(max(lags))
