"""Turns the pieces of a log into what a reader gets: with signs of life, as events, or line by line."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncGenerator

MAX_LINE_BYTES = 64 * 1024
"""A line that is longer is sent in parts: a log of one endless line must not be kept in memory."""

_END = object()


async def with_ticks(pieces: AsyncGenerator[bytes], seconds: float) -> AsyncGenerator[bytes | None]:
    """Yield the pieces, and None whenever none came for so many seconds; closes ``pieces`` at its end."""
    upcoming: asyncio.Future[object] | None = None
    try:
        while True:
            upcoming = upcoming or asyncio.ensure_future(anext(pieces, _END))
            done, _ = await asyncio.wait({upcoming}, timeout=seconds)
            if not done:
                yield None
                continue
            piece, upcoming = upcoming.result(), None
            if not isinstance(piece, bytes):
                return
            yield piece
    finally:
        if upcoming is not None:
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)
        await pieces.aclose()


class EventEncoder:
    """Makes server-sent events of text: a line of the log is a ``data:`` line.

    https://html.spec.whatwg.org/multipage/server-sent-events.html
    """

    KEEP_ALIVE = b": keep-alive\n\n"

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._rest = ""

    def encode(self, piece: bytes, *, final: bool = False) -> bytes:
        """Return the event of the lines that are complete with this piece; nothing if there are none."""
        text = self._rest + self._decode(piece, final)
        if text.endswith("\r") and not final:
            self._rest = text  # the newline that belongs to it may come with the next piece
            return b""
        # a bare carriage return, as progress bars write it, ends a line in this format too
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._rest = lines.pop()
        if self._rest and (final or len(self._rest) > MAX_LINE_BYTES):
            lines.append(self._rest)
            self._rest = ""
        return self.make_event("\n".join(lines)) if lines else b""

    @staticmethod
    def make_event(data: str, *, event: str | None = None) -> bytes:
        """Return one event."""
        head = f"event: {event}\n" if event else ""
        body = "".join(f"data: {line}\n" for line in data.split("\n"))
        return f"{head}{body}\n".encode()


class LineChunker:
    """Makes chunks of whole lines, each without its last newline, for a reader that adds one to each chunk.

    The published kbatch client prints what it receives, chunk by chunk, and each ``print`` ends a line: with
    the newline left in, every chunk would be followed by an empty line; cut in the middle of a line, the
    line would be torn.
    """

    def __init__(self) -> None:
        self._rest = b""

    def add(self, piece: bytes) -> None:
        """Take a piece of the log."""
        self._rest += piece

    @property
    def is_full(self) -> bool:
        """Whether there is enough to be sent, however busy the log is."""
        return len(self._rest) > MAX_LINE_BYTES

    def take(self, *, final: bool = False) -> bytes:
        """Return the lines that are complete, or nothing; with ``final`` all that is left."""
        lines, newline, rest = self._rest.rpartition(b"\n")
        if not newline and (final or self.is_full):
            lines, rest = rest, b""
        elif final and rest:
            lines, rest = self._rest, b""
        elif not lines:
            return b""  # an empty line cannot be a chunk of its own: it goes with the next one
        self._rest = rest
        return lines
