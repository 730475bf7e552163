"""The memory for the unsaved ends of all logs: shared by need, and evenly when it is used up."""

from __future__ import annotations

import asyncio
from typing import Protocol

from ..metrics import LIMITS_HELD

LEAST_BYTES = 16 * 1024
"""The minimum memory of each log: shorter segments would be too many objects."""

WRITES = 32
"""The number of segments to write at the same time: each is in memory twice while it is written."""


class Holder(Protocol):
    """The part that holds the end of a log in memory."""

    def release(self) -> None:
        """Release the memory of saved data; called only while the holder does nothing else."""


class LogMemory:
    """Tracks how much memory each log has, and how much it may have.

    While memory is free, each log may have a whole segment. When it is used up, LogMemory closes segments
    that are saved and idle. Logs that have more than an even share of the remaining memory (up to twice
    ``total``) close their segments too, and read on only when these are saved. The others continue.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._held: dict[Holder, int] = {}
        self._idle: dict[Holder, None] = {}
        self.used = 0
        """Bytes of all logs together."""
        self.writes = asyncio.Semaphore(WRITES)
        """Held by the task that writes a segment; first come, first served."""

    @property
    def is_full(self) -> bool:
        """Whether all memory is used."""
        return self.used > self._total

    def get_limit(self, segment_bytes: int) -> int:
        """Return how many bytes one log may have in memory now."""
        if not self.is_full:
            return segment_bytes
        return min(segment_bytes, max(LEAST_BYTES, (2 * self._total - self.used) // len(self._held)))

    def note(self, holder: Holder, size: int, *, is_idle: bool = False) -> None:
        """Record how many bytes a log has; ``is_idle`` if all are saved, so that it can release them."""
        before = self._held.get(holder, 0)
        had_room = self.used <= self._total
        self.used += size - before
        self._held[holder] = size
        self._idle.pop(holder, None)
        if is_idle and size > LEAST_BYTES:
            self._idle[holder] = None
        if size > before and self.used > self._total:
            if had_room:
                LIMITS_HELD.labels("max_memory_bytes").inc()
            self._make_room()

    def _make_room(self) -> None:
        while self._idle and self.used > self._total:
            holder = next(iter(self._idle))
            del self._idle[holder]
            holder.release()

    def forget(self, holder: Holder) -> None:
        """Record that a log has nothing in memory any more."""
        self.used -= self._held.pop(holder, 0)
        self._idle.pop(holder, None)
