"""Hands the bytes of one object to obstore as they come, and stops it so that nothing is left."""

from __future__ import annotations

import asyncio
from typing import Any


class Abandoned(Exception):
    """The object is not wanted any more: obstore aborts its upload for it."""


class PartFeed:
    """An asynchronous iterator of bytes with a writer at its other end, who is always one step ahead."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._is_abandoned = False
        self._is_drained = False

    async def send(self, piece: bytes | None, reader: asyncio.Future[Any]) -> None:
        """Hand over a piece, or the end (None); returns also when the reader has failed and takes no more."""
        sending = asyncio.ensure_future(self._queue.put(piece))
        try:
            await asyncio.wait((sending, reader), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()

    def abandon(self) -> None:
        """Let the reader get Abandoned instead of the rest."""
        self._is_abandoned = True
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(b"")

    def __aiter__(self) -> PartFeed:
        return self

    async def __anext__(self) -> bytes:
        if self._is_drained:
            raise Abandoned
        piece = await self._queue.get()
        if self._is_abandoned:
            # Before it takes a piece, also one of nothing, obstore waits for the part that is on its way. A
            # part that arrives after the abort would be kept, and paid for, by nobody's wish.
            self._is_drained = True
            return b""
        if piece is None:
            raise StopAsyncIteration
        return piece
