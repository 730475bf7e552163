"""Turns the pieces of a log into what a reader gets: as events, or line by line."""

from __future__ import annotations

from ..logreader import LogPlace
from ..terminal import fold, has_controls, show_styled

MAX_LINE_BYTES = 64 * 1024
"""A line that shows more is sent in parts: a log of one endless line must not be kept in memory."""


CUT_OFF = "\n[... the service is being stopped: follow the log again for the rest ...]\n"
"""The last line for who followed a log as text: its end must not look like the end of the job."""


class EventEncoder:
    """Makes server-sent events of text: a line of the log, as a terminal shows it, is a ``data:`` line.

    A progress bar is one of its own each time that it is seen to go on.
    https://html.spec.whatwg.org/multipage/server-sent-events.html
    """

    KEEP_ALIVE = b": keep-alive\n\n"

    def __init__(self) -> None:
        self._rest = b""
        self._rest_size = 0  # of which ``_rest`` may be a shorter form
        self._bar = b""

    def encode(self, piece: bytes, place: LogPlace | None = None) -> bytes:
        """Return the event of the lines that are complete with this piece; nothing if there are none.

        Its id is the place after those lines, if ``place`` is that after the piece.
        """
        self._rest += piece
        self._rest_size += len(piece)
        lines, newline, rest = self._rest.rpartition(b"\n")
        if newline:
            self._rest, self._rest_size = rest, len(rest)
        self._rest = _fold_long(self._rest)
        if len(self._rest) > MAX_LINE_BYTES:
            cut = _find_cut(self._rest)
            lines += newline + self._rest[:cut]
            self._rest, self._rest_size = self._rest[cut:], len(self._rest) - cut
        event = self._make_lines(lines, place) if lines or newline else b""
        return event + self._make_bar(place)

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

    def _make_bar(self, place: LogPlace | None) -> bytes:
        """Return the event of a line that is drawn again, if it shows something else than before."""
        bar = show_styled(self._rest) if b"\r" in self._rest else b""
        if not bar or bar == self._bar:
            return b""
        self._bar = bar
        return self._make_event(bar, place)

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
    def make_retry(seconds: float) -> bytes:
        """Return what has a browser come again after some time, with the id of its last event."""
        return f"retry: {round(1000 * seconds)}\n: the service is being stopped\n\n".encode()


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
        start = self._rest.rfind(b"\n") + 1
        self._rest = self._rest[:start] + _fold_long(self._rest[start:])

    @property
    def is_full(self) -> bool:
        """Whether there is enough to be sent, however busy the log is."""
        return len(self._rest) > MAX_LINE_BYTES

    def take(self, *, final: bool = False) -> bytes:
        """Return the lines that are complete, as a terminal shows them, or nothing; with ``final`` all that
        is left."""
        lines, newline, rest = self._rest.rpartition(b"\n")
        if not newline and (final or self.is_full):
            lines, rest = rest, b""
        elif final and rest:
            lines, rest = self._rest, b""
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


def _fold_long(line: bytes) -> bytes:
    """Return a line that is not ended yet, without what was drawn over if it is long."""
    return fold(line, columns=MAX_LINE_BYTES) if len(line) > MAX_LINE_BYTES else line


def _find_cut(line: bytes) -> int:
    """Return where a long line can be parted: not within a character."""
    cut = len(line)
    while cut > len(line) - 4 and line[cut - 1] & 0xC0 == 0x80:
        cut -= 1
    return cut - (line[cut - 1] >= 0xC0)
