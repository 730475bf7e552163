"""Streams: how long they go on, and the pieces of a log as a reader gets them: as events, or by line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

from ..errors import Forbidden, Unavailable
from ..logreader import LogPlace
from ..ticks import until
from .base import BaseHandler

Item = TypeVar("Item")

MAX_LINE_BYTES = 64 * 1024
"""A line that is longer is sent in parts: a log of one endless line must not be kept in memory."""


CUT_OFF = "the service is being stopped: follow the log again for the rest"
"""Why a log that is followed ends before the job does: that must not look like the end of the job."""

REVOKED = "your token is not good for this any more: show another one, and follow the log again"
"""The same, where the hub says so."""


def make_last_line(why: str) -> str:
    """Return the last line for a reader who follows a log as text."""
    return f"\n[... {why} ...]\n"


class StreamHandler(BaseHandler):
    """A handler whose answer may go on for days: until its end, the service's, or that of a user's rights."""

    _watching: asyncio.Task[None] | None = None
    _is_revoked = False

    @property
    def cut_off(self) -> str:
        """Why a stream ended that would have gone on; empty where it ended by itself."""
        if self._is_revoked:
            return REVOKED
        return CUT_OFF if self.is_stream and self.services.traffic.is_stopping else ""

    def until_cut_off(self, items: AsyncIterator[Item], *, owner: str | None) -> AsyncGenerator[Item]:
        """Yield what is streamed until it ends, or is cut off.

        ``owner`` is whose it is; None is everybody's. The hub is asked now and then whether the user may
        still read it, and as long as it does not answer the stream goes on.
        """
        self.is_stream = True
        ended = asyncio.Event()
        self._watching = asyncio.create_task(self._watch_end(owner, ended), name="stream-end")
        return until(items, ended)

    async def _watch_end(self, owner: str | None, ended: asyncio.Event) -> None:
        """Set ``ended`` when the service stops, or the user may not read this any more."""
        traffic = self.services.traffic
        while not (traffic.is_stopping or self._is_revoked):
            try:
                async with asyncio.timeout(self.services.auth.stream_check_seconds):
                    await traffic.stopping.wait()
            except TimeoutError:
                self._is_revoked = not await self._may_still_read(owner)
        ended.set()

    async def _may_still_read(self, owner: str | None) -> bool:
        try:
            user = await self.services.auth.find_user_again(self)
        except Unavailable:
            return True
        except Forbidden:
            return False
        return (
            user is not None and self._needs().action in user.actions and (user.admin or user.name == owner)
        )

    def _end(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        super()._end()


class EventEncoder:
    """Makes server-sent events of text: a line of the log is a ``data:`` line.

    https://html.spec.whatwg.org/multipage/server-sent-events.html
    """

    KEEP_ALIVE = b": keep-alive\n\n"

    def __init__(self) -> None:
        self._rest = b""

    def encode(self, piece: bytes, place: LogPlace | None = None) -> bytes:
        """Return the event of the lines that are complete with this piece; nothing if there are none.

        Its id is the place after those lines, if ``place`` is that after the piece.
        """
        self._rest += piece
        cut = self._find_cut()
        lines, self._rest = self._rest[:cut], self._rest[cut:]
        return self._make_lines(lines, place) if lines else b""

    def finish(self, place: LogPlace | None = None) -> bytes:
        """Return the event of a last line that no newline ended; nothing if there is none."""
        lines, self._rest = self._rest, b""
        return self._make_lines(lines, place) if lines else b""

    def _find_cut(self) -> int:
        rest = self._rest
        # a bare carriage return, as progress bars write it, ends a line in this format too; not the last one,
        # as the newline that belongs to it may come with the next piece
        cut = max(rest.rfind(b"\n"), rest.rfind(b"\r", 0, len(rest) - 1)) + 1
        if len(rest) - cut > MAX_LINE_BYTES:
            cut = len(rest)
            while cut > len(rest) - 4 and rest[cut - 1] & 0xC0 == 0x80:
                cut -= 1  # not within a character
            cut -= rest[cut - 1] >= 0xC0
        return cut

    def _make_lines(self, lines: bytes, place: LogPlace | None) -> bytes:
        text = lines.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
        event_id = f"{place.attempt}-{place.offset - len(self._rest)}" if place is not None else None
        return self.make_event(text.removesuffix("\n"), event_id=event_id)

    @staticmethod
    def make_event(data: str, *, event: str | None = None, event_id: str | None = None) -> bytes:
        """Return one event."""
        head = f"event: {event}\n" if event else ""
        head += f"id: {event_id}\n" if event_id else ""
        body = "".join(f"data: {line}\n" for line in data.split("\n"))
        return f"{head}{body}\n".encode()

    @staticmethod
    def make_retry(seconds: float, why: str) -> bytes:
        """Return what has a browser come again after some time, with the id of its last event."""
        return f"retry: {round(1000 * seconds)}\n: {why}\n\n".encode()


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
