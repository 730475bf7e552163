"""Streams: when they end, and the pieces of a log for clients, as events or by line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Concatenate, ParamSpec, TypeVar

from ..aio import until
from ..logs.reader import LogPlace, ShownPiece
from ..logs.terminal import fold, has_controls, show_styled
from .base import BaseHandler
from .exchange import FLUSH_BYTES

Item = TypeVar("Item")
Params = ParamSpec("Params")
Result = TypeVar("Result")

SLICE_BYTES = 16 * 1024
"""Size of the slices of a log that must be drawn. Each takes a thread some milliseconds."""

MAX_LINE_BYTES = 64 * 1024
"""A longer line is sent in parts, so that a log of one endless line does not fill the memory."""

LEAST_PART_BYTES = 8 * 1024

STYLED_FACTOR = 4
"""A line with changes of colours may become at most this many times as long as it was written."""

BAR_SECONDS = 0.25
"""Minimum seconds between two states of a progress bar sent as events: nobody can read more."""

BAR_BYTES_PER_SECOND = 16 * 1024
"""A long bar is sent less often, because each change of one character sends all of it again."""

CUT_OFF = "the service is stopping: follow the log again to read on"
"""Why a followed log ends before its job does: this must not look like the end of the job."""

REVOKED = "your token has expired or lost its scope: follow the log again with a valid one"
"""The same, if the hub no longer accepts the token."""


def make_last_line(why: str) -> str:
    """Return the last line for a client that follows a log as text."""
    return f"\n[... {why} ...]\n"


class StreamHandler(BaseHandler):
    """A handler whose answer may last for days: until it is complete, the service stops, or the user loses
    access."""

    _watching: asyncio.Task[None] | None = None
    _is_revoked = False

    @property
    def cut_off(self) -> str:
        """Why a stream ended early; empty if it ended by itself."""
        if self._is_revoked:
            return REVOKED
        return CUT_OFF if self.is_stream and self.services.inflight.is_stopping else ""

    def until_cut_off(self, items: AsyncIterator[Item], *, owner: str | None) -> AsyncGenerator[Item]:
        """Yield the items until their end, or until the stream must end.

        ``owner`` is the user whose data this is; None means all users'. From time to time the service asks
        the hub whether the user may still read it; while the hub does not respond, the stream continues.
        """
        self.is_stream = True
        ended = asyncio.Event()
        self._watching = asyncio.create_task(self._watch_end(owner, ended), name="stream-end")
        return until(items, ended)

    async def in_parts(self, pieces: AsyncGenerator[ShownPiece]) -> AsyncGenerator[ShownPiece]:
        """Yield pieces of a log in parts that are not much longer than one write when they are encoded."""
        async with aclosing(pieces):
            async for piece in pieces:
                self.piece_bytes, at = len(piece.data), 0
                while at < len(piece.data):
                    end = _find_part_end(piece.data, at)
                    offset = piece.place.offset - (len(piece.data) - end)
                    yield ShownPiece(piece.data[at:end], LogPlace(piece.place.attempt, offset))
                    at = end

    async def draw(
        self,
        drawing: _DrawingT,
        method: Callable[Concatenate[_DrawingT, Params], Result],
        *args: Params.args,
        **kwargs: Params.kwargs,
    ) -> Result:
        """Return the result of a method of what makes a log readable.

        If it must draw lines, it runs in a thread, and users take turns. Drawing takes up to a second per
        megabyte, for which the event loop would do nothing else.
        """
        is_costly = drawing.is_costly or any(isinstance(each, bytes) and has_controls(each) for each in args)
        if not is_costly:
            return method(drawing, *args, **kwargs)
        async with self.services.throttle.draw(self.user):
            return await asyncio.to_thread(method, drawing, *args, **kwargs)

    async def _watch_end(self, owner: str | None, ended: asyncio.Event) -> None:
        """Set ``ended`` when the service stops, or the user may not read this any more."""
        inflight = self.services.inflight
        while not (inflight.is_stopping or self._is_revoked):
            try:
                async with asyncio.timeout(self.services.auth.stream_check_seconds):
                    await inflight.stopping.wait()
            except TimeoutError:
                self._is_revoked = not await self.may_read_on(lambda user: user.admin or user.name == owner)
        ended.set()

    def _end(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        super()._end()


class Drawing:
    """Makes a log readable; it keeps the beginning of a line until the rest arrives."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def is_costly(self) -> bool:
        """Whether what it keeps must be drawn."""
        return has_controls(self._rest)


_DrawingT = TypeVar("_DrawingT", bound=Drawing)


class EventEncoder(Drawing):
    """Encodes text as server-sent events: each line of the log, as a terminal shows it, is a ``data:`` line.

    A progress bar is an event of its own each time that ``show_bar`` finds it changed.
    https://html.spec.whatwg.org/multipage/server-sent-events.html
    """

    KEEP_ALIVE = b": keep-alive\n\n"

    def __init__(self) -> None:
        super().__init__()
        self._rest_size = 0  # the original size: ``_rest`` may be shortened
        self._bar = b""
        self._has_news = False  # whether the redrawn line has changed
        self._bar_due = 0.0

    def encode(self, piece: bytes, place: LogPlace | None = None) -> bytes:
        """Return an event with the lines that this piece completes; empty if there are none.

        Its id is the place after those lines, if ``place`` is the one after the piece.
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
        """Return the seconds until ``show_bar`` must be called; None if it has nothing to show."""
        return max(self._bar_due - now, 0) if self._has_news else None

    def show_bar(self, now: float, place: LogPlace | None = None) -> bytes:
        """Return an event with a redrawn line, if it is due and has changed.

        ``now`` is the time of a clock in seconds, ``place`` the one after the last piece.
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
        """Return an event with the last line, which has no newline; empty if there is none."""
        line, self._rest, self._rest_size = self._rest, b"", 0
        return self._make_lines(line, place) if line else b""

    def _make_lines(self, lines: bytes, place: LogPlace | None) -> bytes:
        shown = show_styled(lines)
        if self._bar:  # the line as it was sent before
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
        body = data.replace("\n", "\ndata: ")
        return f"{head}data: {body}\n\n".encode()

    @staticmethod
    def make_retry(seconds: float, why: str) -> bytes:
        """Return an event that makes a browser reconnect after some time, with the id of its last event."""
        return f"retry: {round(1000 * seconds)}\n: {why}\n\n".encode()


class LineChunker(Drawing):
    """Makes chunks of complete lines without the last newline, for a client that adds one to each chunk.

    The published kbatch client prints each chunk that it receives, and each ``print`` ends a line: with the
    last newline, an empty line would follow each chunk; a chunk that ends in the middle of a line would break
    the line.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_too_long = False  # whether the incomplete line is too long

    def add(self, piece: bytes) -> None:
        """Take a piece of the log."""
        self._rest += piece
        start = self._rest.rfind(b"\n") + 1
        line, self._is_too_long = _shorten(self._rest[start:])
        self._rest = self._rest[:start] + line

    @property
    def is_full(self) -> bool:
        """Whether there is enough to send, however busy the log is."""
        return self._is_too_long or self._rest.rfind(b"\n") > MAX_LINE_BYTES

    def take(self, *, final: bool = False) -> bytes:
        """Return the complete lines as a terminal shows them, or nothing.

        With ``final``, return everything that is left.
        """
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
        """Return the last line as it is now if it is one that is redrawn repeatedly; else nothing."""
        line = self._rest.rpartition(b"\n")[2]
        return show_styled(line) if has_controls(line) else b""


def part_lines(lines: bytes, most: int) -> Iterator[bytes]:
    """Yield chunks of whole lines, as LineChunker has them, of ``most`` bytes or of one longer line."""
    at = 0
    while len(lines) - at > most:
        cut = lines.rfind(b"\n", at + 1, at + most)
        if cut < 0:
            cut = lines.find(b"\n", at + most)
        if not 0 <= cut < len(lines) - 1:  # an empty line cannot be a chunk of its own
            break
        yield lines[at:cut]
        at = cut + 1
    if lines:
        yield lines[at:]


def _find_part_end(data: bytes, at: int) -> int:
    """Return the end of a part of a log: after a line if possible."""
    size = SLICE_BYTES if has_controls(data[at : at + FLUSH_BYTES]) else FLUSH_BYTES
    while size > LEAST_PART_BYTES and _measure(data, at, at + size) > 2 * FLUSH_BYTES:
        size //= 2
    if at + size >= len(data):
        return len(data)
    return data.rfind(b"\n", at, at + size) + 1 or at + size


def _measure(data: bytes, start: int, end: int) -> int:
    """Return about how long a part is as an event, which has ``data: `` before each line."""
    lines = data.count(b"\n", start, end)
    size = min(end, len(data)) - start
    return (STYLED_FACTOR if has_controls(data[start:end]) else 1) * size + len("data: ") * lines


def _shorten(line: bytes) -> tuple[bytes, bool]:
    """Return an incomplete line, and whether it is too long to be kept.

    It removes overwritten text, but only if the line is twice as long as allowed: otherwise it would read all
    of a line of about that length again for each piece.
    """
    if not has_controls(line):
        return line, len(line) > MAX_LINE_BYTES
    if len(line) <= 2 * MAX_LINE_BYTES:
        return line, False
    line = fold(line, columns=MAX_LINE_BYTES)
    return line, len(line) > MAX_LINE_BYTES


def _find_cut(line: bytes) -> int:
    """Return where to divide a long line: not within a character."""
    cut = len(line)
    while cut > len(line) - 4 and line[cut - 1] & 0xC0 == 0x80:
        cut -= 1
    return cut - (line[cut - 1] >= 0xC0)
