"""How much of something may go on at a time: by user, and in all."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

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


class FairPlaces:
    """Some places for which users wait in line: each has one at a time, and they take turns."""

    def __init__(self, total: int) -> None:
        self._free = total
        self._busy: set[str] = set()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def take(self, user: str, *, wait_seconds: float) -> AsyncIterator[None]:
        """Hold a place of the user's, once it is their turn; raises TimeoutError when that takes longer."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, deque()).append(turn)
        self._give()
        try:
            async with asyncio.timeout(wait_seconds):
                await asyncio.shield(turn)  # cancelled, it could not be told that its turn has come
        except BaseException:
            self._leave(user, turn)
            raise
        try:
            yield
        finally:
            self._release(user)

    def _give(self) -> None:
        """Give free places to those whose turn it is: the users by when they had one last."""
        for user in list(self._waiting):
            if not self._free:
                return
            if user in self._busy:
                continue
            line = self._waiting[user]
            turn = line.popleft()
            if not line:
                del self._waiting[user]
            self._free -= 1
            self._busy.add(user)
            turn.set_result(None)

    def _leave(self, user: str, turn: asyncio.Future[None]) -> None:
        """Give back a turn that came too late, or leave the line."""
        line = self._waiting.get(user)
        if line is None or turn not in line:
            self._release(user)
            return
        line.remove(turn)
        if not line:
            del self._waiting[user]

    def _release(self, user: str) -> None:
        self._free += 1
        self._busy.discard(user)
        if user in self._waiting:
            self._waiting.move_to_end(user)
        self._give()
