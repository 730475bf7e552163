"""Streams: how long they go on, and the pieces of a log as a reader gets them: as events, or by line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

from ..errors import Forbidden, Unavailable
from ..logs.reader import LogPlace
from ..logs.terminal import fold, has_controls, show_styled
from ..ticks import until
from .base import BaseHandler

Item = TypeVar("Item")

MAX_LINE_BYTES = 64 * 1024
"""A line that shows more is sent in parts: a log of one endless line must not be kept in memory."""

BAR_SECONDS = 0.25
"""The least time between two states of a progress bar that are sent as events: more cannot be read."""

BAR_BYTES_PER_SECOND = 16 * 1024
"""A long bar is sent less often: with each change of one character all of it is sent again."""

CUT_OFF = "the service is stopping: follow the log again to read on"
"""Why a log that is followed ends before the job does: that must not look like the end of the job."""

REVOKED = "your token has expired or lost its scope: follow the log again with a valid one"
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
        return CUT_OFF if self.is_stream and self.services.inflight.is_stopping else ""

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
        inflight = self.services.inflight
        while not (inflight.is_stopping or self._is_revoked):
            try:
                async with asyncio.timeout(self.services.auth.stream_check_seconds):
                    await inflight.stopping.wait()
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
    """Makes server-sent events of text: a line of the log, as a terminal shows it, is a ``data:`` line.

    A progress bar is one of its own each time that ``show_bar`` finds it changed.
    https://html.spec.whatwg.org/multipage/server-sent-events.html
    """

    KEEP_ALIVE = b": keep-alive\n\n"

    def __init__(self) -> None:
        self._rest = b""
        self._rest_size = 0  # of which ``_rest`` may be a shorter form
        self._bar = b""
        self._has_news = False  # in what is drawn again
        self._bar_due = 0.0

    def encode(self, piece: bytes, place: LogPlace | None = None) -> bytes:
        """Return the event of the lines that are complete with this piece; nothing if there are none.

        Its id is the place after those lines, if ``place`` is that after the piece.
        """
        self._rest += piece
        self._rest_size += len(piece)
        lines, newline, rest = self._rest.rpartition(b"\n")
        if newline:
            self._rest, self._rest_size = rest, len(rest)
        self._rest, is_too_long = _shorten(self._rest)
        if is_too_long:
            cut = _find_cut(self._rest)
            lines += newline + self._rest[:cut]
            self._rest, self._rest_size = self._rest[cut:], len(self._rest) - cut
        self._has_news = b"\r" in self._rest
        return self._make_lines(lines, place) if lines or newline else b""

    def get_bar_wait(self, now: float) -> float | None:
        """Return in how many seconds ``show_bar`` is to be called; None where there is nothing to show."""
        return max(self._bar_due - now, 0) if self._has_news else None

    def show_bar(self, now: float, place: LogPlace | None = None) -> bytes:
        """Return the event of a line that is drawn again, if it is due and shows something else than before.

        ``now`` is the time of a clock in seconds, ``place`` that after the last piece.
        """
        if self.get_bar_wait(now) != 0:
            return b""
        self._has_news = False
        self._rest = fold(self._rest, columns=MAX_LINE_BYTES)
        self._bar_due = now + max(BAR_SECONDS, len(self._rest) / BAR_BYTES_PER_SECOND)
        bar = show_styled(self._rest)
        if not bar or bar == self._bar:
            return b""
        self._bar = bar
        return self._make_event(bar, place)

    def finish(self, place: LogPlace | None = None) -> bytes:
        """Return the event of a last line that no newline ended; nothing if there is none."""
        line, self._rest, self._rest_size = self._rest, b"", 0
        return self._make_lines(line, place) if line else b""

    def _make_lines(self, lines: bytes, place: LogPlace | None) -> bytes:
        shown = show_styled(lines)
        if self._bar:  # which was sent, as it then was
            first, newline, rest = shown.partition(b"\n")
            is_sent, self._bar = first == self._bar, b""
            if is_sent and not newline:
                return b""
            shown = rest if is_sent else shown
        return self._make_event(shown, place)

    def _make_event(self, shown: bytes, place: LogPlace | None) -> bytes:
        event_id = f"{place.attempt}-{place.offset - self._rest_size}" if place is not None else None
        return self.make_event(shown.decode("utf-8", "replace"), event_id=event_id)

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
        self._is_too_long = False  # the line that is not ended

    def add(self, piece: bytes) -> None:
        """Take a piece of the log."""
        self._rest += piece
        start = self._rest.rfind(b"\n") + 1
        line, self._is_too_long = _shorten(self._rest[start:])
        self._rest = self._rest[:start] + line

    @property
    def is_full(self) -> bool:
        """Whether there is enough to be sent, however busy the log is."""
        return self._is_too_long or self._rest.rfind(b"\n") > MAX_LINE_BYTES

    def take(self, *, final: bool = False) -> bytes:
        """Return the lines that are complete, as a terminal shows them, or nothing; with ``final`` all that
        is left."""
        lines, _, rest = self._rest.rpartition(b"\n")
        if (final and rest) or (self._is_too_long and not lines):
            lines, rest, self._is_too_long = self._rest, b"", False
        elif not lines:
            return b""  # an empty line cannot be a chunk of its own: it goes with the next one
        shown = show_styled(lines)
        if not shown and not final:
            return b""
        self._rest = rest
        return shown

    def show_bar(self) -> bytes:
        """Return what the last line shows now, if it is one that is drawn again and again; else nothing."""
        line = self._rest.rpartition(b"\n")[2]
        return show_styled(line) if has_controls(line) else b""


def _shorten(line: bytes) -> tuple[bytes, bool]:
    """Return a line that is not ended yet, and whether it shows too much to be kept.

    What was drawn over is left out, but only where the line is twice as long as it may be: else each piece of
    a line of about that length would have all of it read again.
    """
    if not has_controls(line):
        return line, len(line) > MAX_LINE_BYTES
    if len(line) <= 2 * MAX_LINE_BYTES:
        return line, False
    line = fold(line, columns=MAX_LINE_BYTES)
    return line, len(line) > MAX_LINE_BYTES


def _find_cut(line: bytes) -> int:
    """Return where a long line can be parted: not within a character."""
    cut = len(line)
    while cut > len(line) - 4 and line[cut - 1] & 0xC0 == 0x80:
        cut -= 1
    return cut - (line[cut - 1] >= 0xC0)
