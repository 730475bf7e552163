"""Counts the requests in progress while the service runs, and ends them in order when it stops."""

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
"""The number of requests that determine the rate; more than one person's page sends at once."""

SPACING_SECONDS = 0.04
"""Of one user's requests, except new jobs, the rate counts one per this time, so that a single user cannot
slow down everybody's launches (``LaunchPacer.busy_requests_per_second``)."""

MAX_USERS = 1000
"""The number of users to remember for that."""

LAST_WORD_SECONDS = 1.0
"""Seconds for clients to read that the service ends their requests."""


class Request(Protocol):
    """A request in progress."""

    is_stream: bool

    async def give_up(self) -> None:
        """Answer now that the service stops."""


class InflightRequests(LoggingConfigurable):
    """Tracks the requests in progress. When the service stops, it ends streams and waits for the others."""

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
        """Set when endless answers must end."""
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
        """Add a request."""
        self._open.add(request)
        self._is_idle.clear()

    def end(self, request: Request) -> None:
        """Forget a request that was answered, or whose client has gone; repeating this is harmless."""
        self._open.discard(request)
        if not self._open:
            self._is_idle.set()

    def count(self) -> dict[str, int]:
        """Return the number of requests in progress, by ``stream`` and ``other``."""
        streams = sum(1 for each in self._open if each.is_stream)
        return {"stream": streams, "other": len(self._open) - streams}

    def note_answer(self, user: str, *, is_submit: bool) -> None:
        """Count an answered request of a user for the rate: each new job, and some of the others."""
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
        """Return the rate of the latest requests of users; 0 until there were ``LATEST``."""
        if len(self._answered) < LATEST:
            return 0
        return LATEST / max(time.monotonic() - self._answered[0], 1e-6)

    async def finish(self, seconds: float) -> None:
        """End the streams, wait for the other requests, and after ``seconds`` answer those that are left."""
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
