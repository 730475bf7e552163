"""A rate: how much each key may do in a time, with a burst; a token bucket for each."""

from __future__ import annotations

import math
import time
from collections import OrderedDict

MAX_KEPT = 10_000
"""Buckets that are remembered; the oldest, which are full or nearly so, are forgotten first."""


class Rates:
    """A bucket of ``burst`` tokens for each key, into which ``per_second`` come; without a rate, no limit."""

    def __init__(self, *, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, amount: float = 1) -> int:
        """Take tokens of the key's and return 0, or return in how many whole seconds there are enough.

        What is more than the burst is given when the bucket is full.
        """
        if not self._per_second:
            return 0
        now = self.time()
        tokens, at = self._buckets.get(key, (float(self._burst), now))
        tokens = min(float(self._burst), tokens + (now - at) * self._per_second)
        wanted = min(amount, self._burst)
        is_good = tokens >= wanted
        self._buckets[key] = (tokens - amount if is_good else tokens, now)
        self._buckets.move_to_end(key)
        while len(self._buckets) > MAX_KEPT:
            self._buckets.popitem(last=False)
        return 0 if is_good else max(1, math.ceil((wanted - tokens) / self._per_second))

    def time(self) -> float:
        """Return seconds of a clock that is never set back."""
        return time.monotonic()
