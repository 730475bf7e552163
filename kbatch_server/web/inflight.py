"""The requests that are under way: counted while the service runs, and ended in order when it stops."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from typing import Protocol
from weakref import WeakSet

from traitlets import Float
from traitlets.config import LoggingConfigurable

LATEST = 16
"""Requests that the rate is taken from: one person's page alone must not look like a rush."""

SPACING_SECONDS = 0.04
"""Of what one user asks, other than new jobs, one request in so long is a part of the rate: no one alone can
slow down the launches of all (``LaunchPacer.busy_requests_per_second``)."""

MAX_USERS = 1000
"""Users that are remembered for that."""

LAST_WORD_SECONDS = 1.0
"""How long those who were told that their time is up get to read it."""


class Request(Protocol):
    """What is under way."""

    is_stream: bool

    async def give_up(self) -> None:
        """Answer now, that the service stops."""


class InflightRequests(LoggingConfigurable):
    """Knows the requests under way: when the service stops, streams end, and the rest gets its time."""

    drain_seconds = Float(
        0,
        min=0,
        help="""Seconds for which a stopping service still accepts requests, while ``api/v1/ready`` reports
        that it is not ready. In this time a load balancer or Kubernetes begins to send requests elsewhere.

        It comes before ``KBatchServer.shutdown_seconds``. The chart sets it. On a single machine requests
        cannot go elsewhere: leave it at 0.
        """,
        config=True,
    )

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.stopping = asyncio.Event()
        """Set when what has no end of its own must come to one."""
        self._open: WeakSet[Request] = WeakSet()
        self._answered: deque[float] = deque(maxlen=LATEST)
        self._counted_at: dict[str, float] = {}
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @property
    def is_stopping(self) -> bool:
        """Whether the service stops."""
        return self.stopping.is_set()

    def begin(self, request: Request) -> None:
        """Take note of a request."""
        self._open.add(request)
        self._is_idle.clear()

    def end(self, request: Request) -> None:
        """Forget one that is answered, or whose client has gone; again does no harm."""
        self._open.discard(request)
        if not self._open:
            self._is_idle.set()

    def count(self) -> dict[str, int]:
        """Return how many are under way: by ``stream`` and ``other``."""
        streams = sum(1 for each in self._open if each.is_stream)
        return {"stream": streams, "other": len(self._open) - streams}

    def note_answer(self, user: str, *, is_submit: bool) -> None:
        """Make a request that a user was answered a part of the rate: each new job, and some of the rest."""
        now = time.monotonic()
        if not is_submit:
            if now < self._counted_at.get(user, 0) + SPACING_SECONDS:
                return
            self._counted_at.pop(user, None)
            self._counted_at[user] = now
            if len(self._counted_at) > MAX_USERS:
                del self._counted_at[next(iter(self._counted_at))]
        self._answered.append(now)

    def get_requests_per_second(self) -> float:
        """Return how many of users are answered, by the latest of them; 0 until there have been some."""
        if len(self._answered) < LATEST:
            return 0
        return LATEST / max(time.monotonic() - self._answered[0], 1e-6)

    async def finish(self, seconds: float) -> None:
        """End the streams, wait so long for what else is under way, and tell the rest that it must go."""
        self.stopping.set()
        if await self._wait_idle(seconds):
            return
        left = list(self._open)
        self.log.warning("%d requests did not finish within %g s", len(left), seconds)
        with suppress(TimeoutError):  # of a client that does not read
            async with asyncio.timeout(LAST_WORD_SECONDS):
                await asyncio.gather(*(each.give_up() for each in left), return_exceptions=True)
        await self._wait_idle(LAST_WORD_SECONDS)

    async def _wait_idle(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._is_idle.wait()
        except TimeoutError:
            return False
        return True
