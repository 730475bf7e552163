"""Passes a large body from a client to the storage, piece by piece and within time limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Generic, TypeVar

from ..aio import wait_unless_ended
from ..errors import InvalidRequest

IDLE_SECONDS = 60
"""Seconds for which a client may send nothing in the middle of a body."""

QUEUE_PIECES = 4
"""Pieces of a body (Tornado's 64 KiB each) that wait for the storage. When the queue is full, the client
waits."""

Kept = TypeVar("Kept")


class BodyStream(Generic[Kept]):
    """Passes the body of a request to the storage: a short queue that a task reads."""

    def __init__(self, max_seconds: float) -> None:
        """Take the seconds within which the whole body must arrive."""
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE_PIECES)
        self._is_wanted = asyncio.Event()
        self._max_seconds = max_seconds
        self._receiving: asyncio.Task[Kept] | None = None

    async def start(self, receiving: asyncio.Task[Kept]) -> None:
        """Take the task that reads the pieces, and wait until it wants the first; raises its errors."""
        self._receiving = receiving
        # `send` or `finish` raises its error; nobody calls them after the client has gone
        receiving.add_done_callback(lambda done: done.cancelled() or done.exception())
        await self._unless_ended(self._is_wanted.wait())

    async def send(self, piece: bytes | None) -> None:
        """Pass on a piece, or None for the end; waits while the storage is slower than the client.

        Raises the task's error if the task failed.
        """
        await self._unless_ended(self._queue.put(piece))

    async def _unless_ended(self, step: Coroutine[Any, Any, object]) -> None:
        assert self._receiving is not None  # noqa: S101 - started before the body comes
        await wait_unless_ended(step, self._receiving)
        if self._receiving.done() and not self._receiving.cancelled():  # cancelled: the client has gone
            self._receiving.result()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the pieces until the end; raises InvalidRequest if the client stops or is too slow."""
        self._is_wanted.set()
        now = asyncio.get_running_loop().time
        end = now() + self._max_seconds
        while True:
            try:
                async with asyncio.timeout_at(min(end, now() + IDLE_SECONDS)):
                    piece = await self._queue.get()
            except TimeoutError:
                if now() < end:
                    why = f"no data arrived for {IDLE_SECONDS} s"
                else:
                    why = f"did not arrive within the limit of {self._max_seconds} s"
                raise InvalidRequest.of_field("body", why) from None
            if piece is None:
                return
            yield piece

    async def finish(self) -> Kept:
        """Pass on that the body is complete, and return the task's result."""
        await self.send(None)
        assert self._receiving is not None  # noqa: S101
        return await self._receiving

    def cancel(self) -> None:
        """End the task if it still runs, so that it keeps nothing of an incomplete body."""
        if self._receiving is not None:
            self._receiving.cancel()
