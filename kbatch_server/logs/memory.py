"""The memory for the ends of all logs that are recorded: shared by need, and evenly when it is used up."""

from __future__ import annotations

import asyncio
from typing import Protocol

from ..metrics import LIMITS_HELD

LEAST_BYTES = 16 * 1024
"""What each log may have in memory in any case: shorter segments would be too many objects."""

WRITES = 32
"""Segments that are written at the same time: each is in memory once more meanwhile."""


class Holder(Protocol):
    """What has the end of a log in memory."""

    def release(self) -> None:
        """Let go of all that it has, which is kept: called between two steps of its own only."""


class LogMemory:
    """Knows how much each log has in memory, and how much it may have.

    As long as there is room, each may have a whole segment. When there is none, segments that are kept and
    idle are closed; and logs that have more than an even share of what is left up to twice ``total`` close
    theirs, and read on only when those are kept. The others go on.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._held: dict[Holder, int] = {}
        self._idle: dict[Holder, None] = {}
        self.used = 0
        """Bytes of all logs together."""
        self.writes = asyncio.Semaphore(WRITES)
        """Held by what writes a segment, in the order in which they come."""

    @property
    def is_full(self) -> bool:
        """Whether there is no room left."""
        return self.used > self._total

    def get_limit(self, segment_bytes: int) -> int:
        """Return how many bytes one log may have now."""
        if not self.is_full:
            return segment_bytes
        return min(segment_bytes, max(LEAST_BYTES, (2 * self._total - self.used) // len(self._held)))

    def note(self, holder: Holder, size: int, *, is_idle: bool = False) -> None:
        """Take down how many bytes a log has, and whether all are kept: then it may let go of them."""
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
        """Take down that a log has nothing in memory any more."""
        self.used -= self._held.pop(holder, 0)
        self._idle.pop(holder, None)
