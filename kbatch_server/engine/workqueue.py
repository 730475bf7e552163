"""A queue of unique keys: each is in it once, and only one worker at a time works on it.

It is the queue of Kubernetes's own controllers (https://pkg.go.dev/k8s.io/client-go/util/workqueue), for
asyncio. In an ``asyncio.Queue``, a key could be twice, and two workers could have it.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable

from ..aio import back_off


class WorkQueue:
    """A queue of unique keys, with delays, and with a backoff for failed ones.

    If somebody puts a key while a worker has it, the key comes up again after ``done``: so no change is
    missed, and no two workers have the same key. Times are seconds of the event loop's clock.
    """

    def __init__(self, *, backoff_base_seconds: float = 0.5, backoff_max_seconds: float = 30) -> None:
        self._base = backoff_base_seconds
        self._max = backoff_max_seconds
        self._ready: asyncio.Queue[str] = asyncio.Queue()
        self._waiting: dict[str, float] = {}  # since when
        self._active: set[str] = set()
        self._again: set[str] = set()
        self._later: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at: float | None = None
        self.on_take: Callable[[float], None] = lambda seconds: None
        """Called with the seconds that a key has waited, each time that a worker takes one."""

    def __len__(self) -> int:
        return len(self._waiting) + len(self._active) + len(self._due)

    def count(self) -> dict[str, int]:
        """Return the number of keys: waiting, active (a worker has them) and for later."""
        return {"waiting": len(self._waiting), "active": len(self._active), "later": len(self._due)}

    def get_lag_seconds(self) -> float:
        """Return how long the first waiting key has waited; 0 if none waits."""
        return time.monotonic() - next(iter(self._waiting.values())) if self._waiting else 0.0

    def clear(self) -> None:
        """Forget all keys except the active ones."""
        while not self._ready.empty():
            self._ready.get_nowait()
        for each in (self._waiting, self._again, self._later, self._due, self._failures):
            each.clear()
        self._set_alarm()

    def put(self, key: str) -> None:
        """Work on ``key`` as soon as possible; this ends its delay."""
        self._due.pop(key, None)
        if key in self._active:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting[key] = time.monotonic()
            self._ready.put_nowait(key)

    def ensure(self, key: str) -> None:
        """Work on ``key`` unless it is in the queue or active already; this keeps its delay or backoff."""
        if key not in self._due and key not in self._active:
            self.put(key)

    def put_after(self, key: str, delay_seconds: float) -> None:
        """Work on ``key`` after a delay, or earlier if it already has a shorter one."""
        if key in self._waiting or key in self._again:
            return
        due = asyncio.get_running_loop().time() + delay_seconds
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._later, (due, key))
            if len(self._later) > 2 * len(self._due) + 64:  # keys that came up earlier left their old entries
                self._later = [(due, key) for key, due in self._due.items()]
                heapq.heapify(self._later)
            self._set_alarm()

    def put_backoff(self, key: str) -> float:
        """Work on ``key``, which failed, after a delay that doubles with each failure; return the delay."""
        self._failures[key] = self._failures.get(key, 0) + 1
        delay = back_off(self._failures[key], self._base, self._max)
        self.put_after(key, delay)
        return delay

    def forget(self, key: str) -> None:
        """Note that ``key`` succeeded: its next failure begins with a short delay again."""
        self._failures.pop(key, None)

    async def get(self) -> str:
        """Return the next key, which is active until ``done``."""
        while True:
            key = await self._ready.get()
            self.on_take(time.monotonic() - self._waiting.pop(key))
            if self.take(key):
                return key
            self._again.add(key)

    def take(self, key: str) -> bool:
        """Make a key active until ``done``, and return True; return False if it is active already."""
        if key in self._active:
            return False
        self._active.add(key)
        return True

    def done(self, key: str) -> None:
        """Give back an active key; it comes up again if it was put in the meantime."""
        self._active.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.put(key)

    def _move_due(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._later and self._later[0][0] <= now:
            due, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                self.put(key)
        self._alarm_at = None
        self._set_alarm()

    def _set_alarm(self) -> None:
        """Set a timer for the first delayed key."""
        first = self._later[0][0] if self._later else None
        if first == self._alarm_at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        loop = asyncio.get_running_loop()
        self._alarm = None if first is None else loop.call_at(first, self._move_due)
        self._alarm_at = first
