"""Limits for users: on concurrent actions, on rates, and on memory.

Libraries such as aiolimiter or limits have rates only, and let callers wait. A request is rejected at once
instead, with the seconds after which to try again, and where callers do wait, users take turns.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from .errors import TooManyRequests, Unavailable
from .metrics import LIMITS_HELD

RETRY_AFTER_SECONDS = 10


class ConcurrencyLimit:
    """A limited number of places, of which each user may have a few at the same time."""

    def __init__(self, *, per_user: int, total: int, limit: str, what: str) -> None:
        """Take the two limits, the name of the second one's trait, and what the places are for."""
        self._what = what
        self._limit = limit
        self._per_user = per_user
        self._total = total
        self._taken: Counter[str] = Counter()

    @contextmanager
    def take(self, user: str) -> Iterator[None]:
        """Hold a place; raises TooManyRequests at the user's limit, Unavailable at the total limit."""
        if self._taken[user] >= self._per_user:
            LIMITS_HELD.labels(f"{self._limit}_per_user").inc()
            raise TooManyRequests(
                f"You already have {self._per_user} {self._what}, which is the limit. Wait for one to end.",
                details={"limit": self._per_user},
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        if self._taken.total() >= self._total:
            LIMITS_HELD.labels(self._limit).inc()
            raise Unavailable(
                f"The service has too many {self._what}. Try again in a moment.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        self._taken[user] += 1
        try:
            yield
        finally:
            self._taken[user] -= 1
            if not self._taken[user]:
                del self._taken[user]


class FairLimit:
    """A limited number of places that users wait for in turns; each may have a part of them."""

    def __init__(
        self, *, per_user: int, total: int, limit: str, what: str, most_waiting: int | None = None
    ) -> None:
        """Take the two limits, the second one's name in the metric (its trait), and what they are for.

        Without a name, those who wait are not counted: for work that takes turns all the time.
        A user may have a tenth of ``most_waiting``, if that is set. When all together have that many, a user
        who has none yet may still have one: so one user's many requests never cause another's to be rejected.
        """
        self._what = what
        self._limit = limit
        self._per_user = per_user
        self._free = total
        self._most_waiting = most_waiting
        self._count_waiting = 0
        self._taken: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def take(self, user: str, *, wait_seconds: float) -> AsyncIterator[None]:
        """Wait for the user's turn, and hold a place.

        Raises Unavailable if that takes longer than ``wait_seconds``, or too many are waiting.
        """
        await self.wait(user, wait_seconds=wait_seconds)
        try:
            yield
        finally:
            self.release(user)

    async def wait(self, user: str, *, wait_seconds: float | None = None) -> None:
        """Return once the user has a place, which is theirs until ``release``; raises as ``take``."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._join(user, turn)
        self._give()
        if turn.done():
            return
        self._count()
        try:
            async with asyncio.timeout(wait_seconds):
                await asyncio.shield(turn)  # shielded: a cancelled future could not receive its turn
        except TimeoutError:
            self._leave(user, turn)
            raise self._make_refusal() from None
        except BaseException:
            self._leave(user, turn)
            raise

    def _count(self) -> None:
        if self._limit:
            LIMITS_HELD.labels(self._limit).inc()

    def _make_refusal(self) -> Unavailable:
        return Unavailable(
            f"The service has too many {self._what}. Try again in a moment.",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )

    def _join(self, user: str, turn: asyncio.Future[None]) -> None:
        own = len(self._waiting.get(user, ()))
        if own and self._most_waiting is not None:
            is_full = self._count_waiting >= self._most_waiting
            if is_full or own >= self._most_waiting // 10:
                self._count()
                raise self._make_refusal()
        self._waiting.setdefault(user, deque()).append(turn)
        self._count_waiting += 1

    def _give(self) -> None:
        """Give free places to waiting users, first to the one whose last place is longest ago."""
        for user in list(self._waiting):
            if not self._free:
                return
            self._give_to(user)

    def _give_to(self, user: str) -> None:
        if self._taken[user] >= self._per_user:
            return
        line = self._waiting[user]
        turn = line.popleft()
        if line:
            self._waiting.move_to_end(user)
        else:
            del self._waiting[user]
        self._count_waiting -= 1
        self._free -= 1
        self._taken[user] += 1
        turn.set_result(None)

    def _leave(self, user: str, turn: asyncio.Future[None]) -> None:
        """Give back a place that came too late, or leave the queue."""
        line = self._waiting.get(user)
        if line is None or turn not in line:
            self.release(user)
            return
        line.remove(turn)
        self._count_waiting -= 1
        if not line:
            del self._waiting[user]

    def release(self, user: str) -> None:
        """Give back a place, to the next whose turn it is."""
        self._free += 1
        self._taken[user] -= 1
        if not self._taken[user]:
            del self._taken[user]
        if user in self._waiting:
            self._waiting.move_to_end(user)
        self._give()


class BytesBudget:
    """A limited amount of memory for users' data, of which each user may have a part."""

    def __init__(self, *, per_user: int, total: int, limit: str) -> None:
        """Take the two limits, and the name of the second one's trait."""
        self._limit = limit
        self._per_user = per_user
        self._total = total
        self._held: Counter[str] = Counter()
        self._all = 0

    @property
    def held(self) -> int:
        """Bytes that are in use now."""
        return self._all

    @contextmanager
    def hold(self, user: str) -> Iterator[Callable[[int], None]]:
        """Give a function that reserves bytes for the user; all are released at the end.

        It raises TooManyRequests at the user's limit, Unavailable at the total limit.
        """
        own = 0

        def take(size: int) -> None:
            nonlocal own
            if self._held[user] + size > self._per_user:
                LIMITS_HELD.labels(f"{self._limit}_per_user").inc()
                raise TooManyRequests(
                    (
                        f"Your requests in progress reach the limit of {self._per_user} bytes: wait for "
                        "one to end."
                    ),
                    details={"limit": self._per_user},
                    retry_after_seconds=RETRY_AFTER_SECONDS,
                )
            if self._all + size > self._total:
                LIMITS_HELD.labels(self._limit).inc()
                raise Unavailable(
                    "The requests in progress are too large together. Try again in a moment.",
                    retry_after_seconds=RETRY_AFTER_SECONDS,
                )
            own += size
            self._held[user] += size
            self._all += size

        try:
            yield take
        finally:
            self._held[user] -= own
            self._all -= own
            if not self._held[user]:
                del self._held[user]


MAX_SUMS = 10_000
"""The number of users whose sums to remember."""

SUM_SECONDS = 60
"""Seconds for which to reuse a sum."""


class RecentSums:
    """The bytes of each user, as last summed up, plus those added since.

    A sum is a walk over all that a user has, so it is reused for a while. Meanwhile other processes may add
    to it, and users may delete some: so users of several processes may exceed a limit.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[int, float]] = {}

    def get(self, user: str) -> tuple[int, float]:
        """Return a user's bytes and how many seconds ago they were summed up: 0 and infinity if never."""
        size, at = self._sums.get(user, (0, float("-inf")))
        return size, time.monotonic() - at

    def put(self, user: str, size: int) -> None:
        """Take a new sum."""
        if len(self._sums) > MAX_SUMS:
            self._sums.clear()
        self._sums[user] = size, time.monotonic()

    def add(self, user: str, size: int) -> None:
        """Add bytes to a sum, which is as old as before."""
        known, at = self._sums[user]
        self._sums[user] = known + size, at


MAX_KEPT = 10_000
"""The number of buckets to remember; a new one replaces the oldest, which is full or nearly full."""


class RateLimit:
    """A bucket of ``burst`` tokens for each key, refilled with ``per_second``; 0 means no limit."""

    def __init__(self, *, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, amount: float = 1) -> int:
        """Take tokens for a key and return 0, or return the whole seconds until there are enough.

        An amount larger than the burst needs a full bucket.
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
        """Return the seconds of a clock that is never set back."""
        return time.monotonic()
