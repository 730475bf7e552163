"""A pace: how long each has to wait for its turn, so that a crowd does not come at once."""

from __future__ import annotations

import time

MAX_KEPT = 10_000
"""Turns that are remembered before those that nobody came for are forgotten."""


TURN_SECONDS = 1.0
"""How long a turn is good for once it has come: who asks again later than that gets another."""


class Pace:
    """Gives turns, evenly apart, to keys; a key keeps its turn however often it asks."""

    def __init__(self) -> None:
        self._next = 0.0
        self._turns: dict[str, float] = {}

    def get_wait_seconds(self, key: str, per_second: float) -> float:
        """Return the seconds until the turn of ``key``; 0 when it has come, and for a moment after that."""
        if not per_second:
            return 0
        now = time.monotonic()
        if self._turns.get(key, 0.0) <= now - TURN_SECONDS:
            turn = max(now, self._next)
            self._next = turn + 1 / per_second
            self._forget(now)
            self._turns[key] = turn
        return max(0.0, self._turns[key] - now)

    def _forget(self, now: float) -> None:
        if len(self._turns) >= MAX_KEPT:
            self._turns = {key: turn for key, turn in self._turns.items() if turn > now}
