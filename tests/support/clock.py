"""A clock that tests move on, for modules that wait: what is tested is the plan, not a machine's speed."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import pytest

SETTLE_TURNS = 20
"""Turns of the event loop after which all that a moment brings about has come about."""


class Clock:
    """The time in seconds since its making, and who sleeps until when."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Wait until the test has moved the clock on by this."""
        woken = asyncio.Event()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), woken))
        await woken.wait()

    async def advance(self, seconds: float) -> None:
        """Move on, moment by moment, and let everybody wake up whose time has come."""
        end = self.now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self.now, _, woken = heapq.heappop(self._sleepers)
            woken.set()
            await settle()
        self.now = end

    @contextmanager
    def used_by(self, *modules: ModuleType) -> Iterator[None]:
        """Let these modules ask this clock, wherever they say ``time.monotonic`` and ``asyncio.sleep``."""
        with pytest.MonkeyPatch.context() as patch:
            for module in modules:
                patch.setattr(module, "time", SimpleNamespace(monotonic=self.monotonic))
                if hasattr(module, "asyncio"):
                    names = vars(asyncio) | {"sleep": self.sleep}
                    patch.setattr(module, "asyncio", SimpleNamespace(**names))
            yield


async def settle() -> None:
    """Let what can go on without the time do so."""
    for _ in range(SETTLE_TURNS):
        await asyncio.sleep(0)
