"""Turns the pieces of a log into what a reader gets: as events, or line by line."""

from __future__ import annotations

from ..logreader import LogPlace

MAX_LINE_BYTES = 64 * 1024
"""A line that is longer is sent in parts: a log of one endless line must not be kept in memory."""


CUT_OFF = "\n[... the service is being stopped: follow the log again for the rest ...]\n"
"""The last line for who followed a log as text: its end must not look like the end of the job."""


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
