"""A large body on its way from a client into the storage, a piece at a time and within limits of time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Generic, TypeVar

from ..errors import InvalidRequest

IDLE_SECONDS = 60
"""How long a client may send nothing in the middle of a body."""

QUEUE_PIECES = 4
"""How much of a body waits for the storage, at Tornado's 64 KiB a piece: then the client has to wait."""

Kept = TypeVar("Kept")


class BodyStream(Generic[Kept]):
    """The body of a request on its way into the storage: a short queue with a task at its other end."""

    def __init__(self, max_seconds: float) -> None:
        """Take how long the whole body may take to come."""
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE_PIECES)
        self._is_wanted = asyncio.Event()
        self._max_seconds = max_seconds
        self._receiving: asyncio.Task[Kept] | None = None

    async def start(self, receiving: asyncio.Task[Kept]) -> None:
        """Take the task that reads the pieces, and wait until it wants the first; raises what it raised."""
        self._receiving = receiving
        # its error is read by whoever sends or finishes; nobody does when the client has gone
        receiving.add_done_callback(lambda done: done.cancelled() or done.exception())
        await self._unless_ended(self._is_wanted.wait())

    async def send(self, piece: bytes | None) -> None:
        """Pass on a piece, or the end (None); waits while the storage is slower than the client.

        Raises what the reader raised, when it does not want more.
        """
        await self._unless_ended(self._queue.put(piece))

    async def _unless_ended(self, step: Coroutine[Any, Any, object]) -> None:
        assert self._receiving is not None  # noqa: S101 - started before the body comes
        doing = asyncio.ensure_future(step)
        await asyncio.wait({doing, self._receiving}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            doing.cancel()
        if self._receiving.done() and not self._receiving.cancelled():  # that is when the client has gone
            self._receiving.result()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the pieces until the end; raises InvalidRequest when the client stops, or is too slow."""
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
        """Say that the body is complete and return what was made of it."""
        await self.send(None)
        assert self._receiving is not None  # noqa: S101
        return await self._receiving

    def cancel(self) -> None:
        """End the task, if it has not ended: nothing is kept of a half of a body."""
        if self._receiving is not None:
            self._receiving.cancel()
