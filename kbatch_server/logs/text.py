"""The log of one attempt for display: its pieces in order, and a line for each missing part."""

from __future__ import annotations

import asyncio
import bisect
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import dataclass, field
from datetime import datetime

from ..metrics import LIMITS_HELD
from ..storage.base import ObjectNotFound, Storage
from .lines import Hit, LineCutter, LineSearch
from .terminal import has_controls

DRAWN_SLICE_BYTES = 64 * 1024
"""Size of the slices that a thread searches where lines must be drawn for that."""

PLAIN_SLICE_BYTES = 1024 * 1024
"""The same for text without control characters, which is searched much faster."""

TakeTurn = Callable[[], AbstractAsyncContextManager[None]]
"""Holds the place to search a slice when it is the user's turn."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """A part of the text: an object, or ``data`` in memory."""

    size: int
    end: int
    """The offset after this part in the attempt's output."""
    lines: int
    """The number of lines that end in this part."""
    key: str = ""
    data: bytes = b""
    first_line: int = 0
    """The number, from 1, of the line that the first byte belongs to; 0 in a line that the service
    inserts."""
    times: list[list[int]] = field(default_factory=list)
    """Offsets in the part, each with the time (seconds since 1970) from which the data was written."""


def say(words: str, *, end: int, on_new_line: bool = True) -> TextPart:
    """Return a line that the service inserts before the offset ``end``."""
    data = f"[... {words} ...]\n".encode()
    data = data if on_new_line else b"\n" + data
    return TextPart(len(data), end, data.count(b"\n"), data=data)


class LogText:
    """A log at one moment. Offsets are those in the text, not those in the attempt's output."""

    def __init__(
        self, parts: list[TextPart], storage: Storage, *, end: int, is_complete: bool, problem: str = ""
    ) -> None:
        self._parts = parts
        self._storage = storage
        self._starts = [0]
        for part in parts:
            self._starts.append(self._starts[-1] + part.size)
        self.end = end
        """The offset after this text in the attempt's output."""
        self.is_complete = is_complete
        """Whether nothing will follow."""
        self.problem = problem
        """Why this is not the attempt's complete output; otherwise empty."""
        self.search_seconds = math.inf
        """Seconds that a search may take."""
        self.search_took_too_long = False
        """Whether the last search ended early because of that."""
        self.begin = 0
        """The offset of the selected part."""

    @property
    def size(self) -> int:
        """Bytes of the text."""
        return self._starts[-1]

    async def read(
        self, start: int = 0, end: int | None = None, *, most: int | None = None
    ) -> AsyncGenerator[tuple[bytes, int]]:
        """Yield the text between two offsets in pieces, each with the offset after it in the output.

        A piece has ``most`` bytes at most; None leaves that to the storage. Raises StorageError. An object
        that was removed in the meantime becomes a line that says so.
        """
        end = self.size if end is None else min(end, self.size)
        missing = 0
        for index in range(max(bisect.bisect(self._starts, start) - 1, 0), len(self._parts)):
            part, at = self._parts[index], self._starts[index]
            first, last = max(start - at, 0), min(end - at, part.size)
            if first >= last:
                break
            try:
                async with aclosing(self._read_part(part, first, last, most)) as pieces:
                    async for piece in pieces:
                        if missing:
                            yield _say_missing(missing), part.end - part.size
                            missing = 0
                        first += len(piece)
                        yield piece, part.end - part.size + first if part.first_line else part.end
            except ObjectNotFound:
                missing += last - first
        if missing:
            yield _say_missing(missing), self.end

    async def _read_part(
        self, part: TextPart, first: int, last: int, most: int | None = None
    ) -> AsyncGenerator[bytes]:
        step = last - first if most is None else most
        for at in range(first, last, step or 1):
            end = min(at + step, last)
            if not part.key:
                yield part.data[at:end]
                continue
            pieces = self._storage.read(part.key, start=at, length=end - at)
            async with aclosing(pieces):  # type: ignore[type-var]
                async for piece in pieces:
                    yield piece

    async def _load(self, part: TextPart) -> bytes:
        return b"".join([piece async for piece in self._read_part(part, 0, part.size)])

    async def find_tail(self, lines: int) -> int:
        """Return the offset of the last ``lines`` lines, reading no more than necessary."""
        if lines <= 0 or not self._parts:
            return self.size
        left = lines + await ends_line(self._parts[-1], self._storage)
        for part, at in zip(reversed(self._parts), reversed(self._starts[:-1]), strict=True):
            if part.lines < left:
                left -= part.lines
                continue
            content = await self._load(part)
            return at + await asyncio.to_thread(_find_line_end, content, left)
        return 0

    async def find_last_line(self) -> tuple[int, bool]:
        """Return the number of the last line (from 1; 0: no line), and whether a newline ends it."""
        for part in reversed(self._parts):
            if part.first_line and part.size:
                is_ended = await ends_line(part, self._storage)
                return part.first_line + part.lines - is_ended, is_ended
        return 0, True

    async def read_lines(self, first: int, count: int) -> AsyncGenerator[Hit]:
        """Yield the lines with up to ``count`` numbers from ``first`` on.

        It omits lines that were cut out. It reads only the objects that contain the lines.
        """
        cutter = LineCutter(first, first + count)
        for part in self._parts:
            if not part.first_line or part.first_line + part.lines < first:
                continue
            if part.first_line >= first + count:
                break
            try:
                content = await self._load(part)
            except ObjectNotFound:
                continue
            lines = await asyncio.to_thread(cutter.add, content, part.first_line)
            del content  # not in memory for as long as its reader takes the lines
            for line in lines:
                yield line
        for line in await asyncio.to_thread(cutter.finish, is_open=not self.is_complete):
            yield line

    def find_time(self, moment: datetime) -> int:
        """Return the offset of the data that was written at a moment or later."""
        second = int(moment.timestamp())
        for part, at in zip(self._parts, self._starts, strict=False):
            if part.times and part.times[-1][1] >= second:
                return at + next(offset for offset, found in part.times if found >= second)
        return self.size

    def find_offset(self, offset: int) -> int:
        """Return the offset in the text of a byte with this offset in the attempt's output."""
        for part, at in zip(self._parts, self._starts, strict=False):
            if part.end > offset:
                return at + (max(offset - (part.end - part.size), 0) if part.first_line else 0)
        return self.size

    def find_place(self, at: int) -> int:
        """Return the offset in the attempt's output from which to read this text from ``at`` on."""
        before = 0
        for part, start in zip(self._parts, self._starts, strict=False):
            if start + part.size > at:
                return part.end - part.size + at - start if part.first_line else before
            before = part.end
        return self.end

    async def search(
        self, words: str, *, most: int | None = None, take_turn: TakeTurn = nullcontext
    ) -> AsyncGenerator[Hit]:
        """Yield the lines from ``begin`` on that contain the words, ignoring case; raises StorageError.

        After ``most`` lines, and after ``search_seconds``, it reads nothing more. Threads search, a slice at
        a time, each while it holds what ``take_turn`` returns.
        """
        search = LineSearch(words, most)
        left = self.search_seconds  # without the time that the client takes to read
        for part, at in zip(self._parts, self._starts, strict=False):
            if not part.first_line or at + part.size <= self.begin:
                continue
            began = time.monotonic()
            hits, is_cut = await self._search_part(search, part, max(self.begin - at, 0), left, take_turn)
            left -= time.monotonic() - began
            for hit in hits:
                yield hit
            if search.is_done:
                return
            if is_cut:
                self.search_took_too_long = True
                LIMITS_HELD.labels("max_search_seconds").inc()
                return
        async with take_turn():
            hits = await asyncio.to_thread(search.finish)
        for hit in hits:
            yield hit

    async def _search_part(
        self, search: LineSearch, part: TextPart, start: int, seconds: float, take_turn: TakeTurn
    ) -> tuple[list[Hit], bool]:
        """Return the lines found in a part, and whether the time was over before its end.

        The part is not in memory for as long as the client takes to read the lines.
        """
        end = time.monotonic() + seconds
        hits: list[Hit] = []
        try:
            content = await self._load(part)
        except ObjectNotFound:
            return hits, False
        for data, first_line in _slice(content, part.first_line, start):
            if time.monotonic() > end:
                return hits, True
            async with take_turn():
                hits += await asyncio.to_thread(search.add, data, first_line)
            if search.is_done:
                break
        return hits, False


def _slice(content: bytes, first_line: int, start: int) -> Iterator[tuple[bytes, int]]:
    """Yield the content from ``start`` on in slices, each with the number of its first line."""
    first_line += content.count(b"\n", 0, start)
    size = DRAWN_SLICE_BYTES if has_controls(content) else PLAIN_SLICE_BYTES
    for at in range(start, len(content), size):
        data = content[at : at + size]
        yield data, first_line
        first_line += data.count(b"\n")


async def ends_line(part: TextPart, storage: Storage) -> bool:
    """Return whether a part ends with a newline; for an object this reads one byte."""
    if not part.key:
        return part.data.endswith(b"\n")
    pieces = storage.read(part.key, start=part.size - 1, length=1)
    return b"".join([piece async for piece in pieces]) == b"\n"


def _say_missing(size: int) -> bytes:
    return say(f"{size} bytes were cut out here", end=0).data


def _find_line_end(content: bytes, count: int) -> int:
    """Return the offset after a newline: the one with this number, counted from the end."""
    at = len(content)
    for _ in range(count):
        at = content.rfind(b"\n", 0, at)
    return at + 1
