"""Finds the lines of a long text by words or by number, piece by piece; pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .terminal import fold, has_controls, show_plain, show_styled

MAX_SHOWN_BYTES = 8192
"""A longer line is shortened."""

MAX_STYLED_BYTES = 4 * MAX_SHOWN_BYTES
"""A line that is longer than this with its colours and links is shown without them."""

MAX_LINE_BYTES = 256 * 1024
"""A longer line is searched in parts, so that a log of one endless line does not fill the memory. For a line
that is redrawn repeatedly, such as a progress bar, only what a terminal shows counts."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A line that contains the words."""

    line: int
    """The number of the line, from 1."""
    text: str


class LineSearch:
    """Finds words in each line as a terminal shows it; colours and links do not separate them.

    It takes the pieces of a text in order, and blocks for a moment per megabyte: use a thread.
    """

    def __init__(self, words: str, most: int | None = None) -> None:
        """``most`` is the maximum number of hits; the search ends there."""
        self._left = most
        self._words = words.lower()
        self._overlap = 4 * len(self._words)
        self._rest = b""
        self._next_line = 0
        self._found = 0

    @property
    def is_done(self) -> bool:
        """Whether the maximum number of hits is reached."""
        return self._left == 0

    def add(self, piece: bytes, first_line: int, skip: int = 0) -> list[Hit]:
        """Return the hits in the lines that this piece completes.

        ``first_line`` is the number of the line that the piece's first byte belongs to. The search skips the
        first ``skip`` bytes.
        """
        if skip:
            first_line += piece.count(b"\n", 0, skip)
            piece = piece[skip:]
        hits: list[Hit] = []
        if first_line != self._next_line:  # there is a gap before it
            hits += self.finish()
            self._next_line = first_line
        text = self._rest + piece
        end = text.rfind(b"\n") + 1
        hits += self._search(text[:end])
        self._next_line += text.count(b"\n", 0, end)
        self._rest = text[end:]
        if len(self._rest) > MAX_LINE_BYTES:
            self._rest = fold(self._rest)
        if len(self._rest) > MAX_LINE_BYTES:
            hits += self._search(self._rest)
            self._rest = self._rest[-self._overlap :]
        return hits

    def finish(self) -> list[Hit]:
        """Return the hit in the last line, which has no newline."""
        hits = self._search(self._rest)
        self._rest = b""
        return hits

    def _search(self, text: bytes) -> list[Hit]:
        hits: list[Hit] = []
        for index, line in _find(show_plain(text), self._words):
            if self.is_done:
                break
            number = self._next_line + index
            if number == self._found:  # two parts of one long line may match
                continue
            self._found = number
            hits.append(Hit(number, show_text(line)))
            if self._left is not None:
                self._left -= 1
        return hits


def _find(text: bytes, words: str) -> Iterator[tuple[int, bytes]]:
    """Yield index and bytes of each line that contains the words, which are in lower case."""
    if words.isascii():
        # without a look at each line: bytes are searched at the speed of memory
        lower, needle = text.lower(), words.encode()
        index = counted = at = 0
        while (at := lower.find(needle, at)) >= 0:
            start, end = lower.rfind(b"\n", 0, at) + 1, lower.find(b"\n", at)
            end = len(lower) if end < 0 else end
            index += lower.count(b"\n", counted, start)
            counted = start
            yield index, text[start:end]
            at = end + 1
    elif words in text.decode("utf-8", "replace").lower():
        for index, line in enumerate(text.split(b"\n")):
            if words in line.decode("utf-8", "replace").lower():
                yield index, line


def show_line(line: bytes, *, is_open: bool = False) -> str:
    """Return a line as text with its colours and links; a long one without them, or shortened.

    ``is_open`` is for a line that is still being written: the result includes the position of the cursor.
    """
    if not is_open:
        line = line.removesuffix(b"\r")
    if not has_controls(line):
        return show_text(line)
    plain = show_plain(line)
    styled = fold(line).removeprefix(b"\r") if is_open else show_styled(line)
    if len(plain) > MAX_SHOWN_BYTES or len(styled) > MAX_STYLED_BYTES:
        return show_text(plain)
    return styled.decode("utf-8", "replace")


def show_text(line: bytes) -> str:
    """Return a line without escape sequences as text, shortened if it is long."""
    text = line[:MAX_SHOWN_BYTES].decode("utf-8", "replace")
    return text + " …" if len(line) > MAX_SHOWN_BYTES else text


MAX_REST_BYTES = 64 * 1024
"""A longer line that is redrawn repeatedly is folded: overwritten text does not count."""


class LineCutter:
    """Extracts lines by number from the pieces of a text, in order. It blocks for a moment per megabyte: use
    a thread."""

    def __init__(self, first: int, end: int) -> None:
        """``first`` is the number of the first wanted line, ``end`` the number after the last one."""
        self._first = first
        self._end = end
        self._rest = b""
        self._next_line = 0

    def add(self, piece: bytes, first_line: int) -> list[Hit]:
        """Return the wanted lines that this piece completes.

        ``first_line`` is the number of the line that the piece's first byte belongs to.
        """
        lines: list[Hit] = []
        if first_line != self._next_line:  # there is a gap before it
            lines += self.finish()
            self._next_line = first_line
        at = 0
        if self._next_line < self._first:
            at = find_line(piece, self._first - self._next_line)
            if at < 0:
                self._next_line += piece.count(b"\n")
                return lines
            self._next_line = self._first
        show = show_line if has_controls(piece) or has_controls(self._rest) else show_text
        while self._next_line < self._end:
            newline = piece.find(b"\n", at)
            if newline < 0:
                self._keep(piece[at:])
                break
            lines.append(Hit(self._next_line, show(self._rest + piece[at:newline])))
            self._rest = b""
            self._next_line += 1
            at = newline + 1
        return lines

    def finish(self, *, is_open: bool = False) -> list[Hit]:
        """Return the last line, which has no newline, if it is wanted; ``is_open`` if it may continue."""
        if not self._rest:
            return []
        line, self._rest = Hit(self._next_line, show_line(self._rest, is_open=is_open)), b""
        self._next_line += 1
        return [line]

    def _keep(self, part: bytes) -> None:
        """Keep the beginning of a line, which may be as long as the log."""
        self._rest += part
        if not has_controls(self._rest):
            self._rest = self._rest[: MAX_SHOWN_BYTES + 1]  # the rest is not shown
        elif len(self._rest) > MAX_REST_BYTES:
            self._rest = fold(self._rest, columns=MAX_SHOWN_BYTES + 1)


def find_line(content: bytes, number: int) -> int:
    """Return the offset after the newline with this number, counted from 1, or -1 if there are fewer.

    It divides the text in halves and counts in each, at the speed of memory, however short the lines are.
    """
    if content.count(b"\n") < number:
        return -1
    low, high, before = 0, len(content), 0
    while high - low > 1:
        middle = (low + high) // 2
        count = content.count(b"\n", low, middle)
        if before + count >= number:
            high = middle
        else:
            low, before = middle, before + count
    return high
