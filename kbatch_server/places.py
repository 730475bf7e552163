"""How much of something may go on at a time: by user, and in all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import TooManyRequests, Unavailable

RETRY_AFTER_SECONDS = 10


class Places:
    """A number of places, of which each user may take a few."""

    def __init__(self, *, per_user: int, total: int, what: str = "uploads") -> None:
        self._what = what
        self._per_user = per_user
        self._total = total
        self._taken: Counter[str] = Counter()

    @contextmanager
    def take(self, user: str) -> Iterator[None]:
        """Hold a place; raises TooManyRequests when the user has no other, Unavailable when nobody has."""
        if self._taken[user] >= self._per_user:
            raise TooManyRequests(
                f"{self._per_user} {self._what} of yours are under way, which is the limit:"
                " wait for one to end.",
                details={"limit": self._per_user},
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        if self._taken.total() >= self._total:
            raise Unavailable(
                f"Too many {self._what} are under way. Try again in a moment.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        self._taken[user] += 1
        try:
            yield
        finally:
            self._taken[user] -= 1
            if not self._taken[user]:
                del self._taken[user]
