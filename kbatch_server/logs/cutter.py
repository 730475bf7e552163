"""Cut lines out of a long text by their numbers, a piece of the text at a time; pure."""

from __future__ import annotations

from .search import MAX_SHOWN_BYTES, Hit, show_line, show_text
from .terminal import fold, has_controls

MAX_REST_BYTES = 64 * 1024
"""A longer line that is drawn again and again is made shorter: what was drawn over does not count."""


class LineCutter:
    """Takes the pieces of a text in their order. It blocks for a moment for each megabyte: use a thread."""

    def __init__(self, first: int, end: int) -> None:
        """``first`` is the number of the first line that is wanted, ``end`` that after the last."""
        self._first = first
        self._end = end
        self._rest = b""
        self._next_line = 0

    def add(self, piece: bytes, first_line: int) -> list[Hit]:
        """Return the wanted lines that are complete with this piece.

        ``first_line`` is the number of the line that its first byte belongs to.
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
        """Return the last line, which no newline ended, if it is wanted; ``is_open`` says that it goes on."""
        if not self._rest:
            return []
        line, self._rest = Hit(self._next_line, show_line(self._rest, is_open=is_open)), b""
        self._next_line += 1
        return [line]

    def _keep(self, part: bytes) -> None:
        """Keep the beginning of a line, which may be as long as the log."""
        self._rest += part
        if not has_controls(self._rest):
            self._rest = self._rest[: MAX_SHOWN_BYTES + 1]  # what is more is not shown
        elif len(self._rest) > MAX_REST_BYTES:
            self._rest = fold(self._rest, columns=MAX_SHOWN_BYTES + 1)


def find_line(content: bytes, number: int) -> int:
    """Return the offset after the newline with this number, counted from 1, or -1 where there are fewer.

    By halves, counting in each: at the speed of memory, however short the lines are.
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
