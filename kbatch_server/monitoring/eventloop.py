"""Measures how late the event loop is: what blocks it is seen here, whatever it is."""

from __future__ import annotations

import asyncio
from collections import deque

from ..metrics import LOOP_LAG_MAX_SECONDS, LOOP_LAG_SECONDS

EVERY_SECONDS = 0.5
"""How often: what blocks the loop for less than this may go unseen, but not for long."""

REMEMBERED = 120
"""The number of lags of the last minute."""


class LoopLag:
    """A timer that says by how much it came late, from ``start`` to ``stop``."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to measure."""
        self._task = asyncio.create_task(self._measure(), name="loop-lag")

    async def stop(self) -> None:
        """Measure no more."""
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
