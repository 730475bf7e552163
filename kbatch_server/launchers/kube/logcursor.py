"""A reader's place in a container's log: takes lines with timestamps, returns the new ones without; pure."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

OVERLAP_SECONDS = 1
"""How much older than the newest line a later one may be: stdout and stderr get their timestamps
separately."""

NEAR_SECONDS = 1
"""Between lines whose seconds differ by no more than this, no complete file of the log can be missing: a
kubelet rotates each 3 seconds at most (``containerLogMonitorInterval``, its validation)."""

GAP = b"[... lines may be missing here: the node had put them away before they were read ...]\n"
"""Inserted where the kubelet has rotated a log and no longer has the lines that were not read."""

_RUN = re.compile(rb"([^ \n]{19})[^ \n]* [^\n]*\n(?:\1[^ \n]* [^\n]*\n)*+")
"""Complete lines with the same second."""
_STAMP = re.compile(rb"\n[^ \n]+ ")
_ANY_FRACTION = "~"
"""Later than any fraction: for a record that does not contain the fraction of the newest line."""
_IS_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")
_MAX_STAMP = 40

LineTime = tuple[int, str]
"""When a line was written: the second since 1970, and the digits after the point (a kubelet writes nine)."""


def find_moment(log: bytes) -> LineTime | None:
    """Return when the first line of a log was written, or None if no line begins there."""
    return _parse(log[: _MAX_STAMP + 1].partition(b" ")[0].decode("ascii", "replace"))


def _parse(stamp: str) -> LineTime | None:
    if not (found := _IS_STAMP.fullmatch(stamp)):
        return None
    return _find_second(stamp[:19] + found[2]), found[1] or ""


@functools.lru_cache(maxsize=128)  # many lines have the same second
def _find_second(stamp: str) -> int:
    return int(datetime.fromisoformat(stamp).timestamp())


@dataclass(frozen=True, slots=True)
class Stamped:
    """Some bytes of a log, the time of their first line (seconds since 1970), and the place after them."""

    data: bytes
    second: int
    position: dict[str, Any]


class LogCursor:
    """Takes the data of connections, one after the other, and returns each byte of the log once.

    A new connection requests the log since a whole second, and so repeats some lines. LogCursor counts the
    lines of this second and later ones, and the bytes of the last line that it has returned: a connection may
    break in the middle of it. (Timestamps alone are not enough: stdout and stderr get theirs separately, not
    always in order.) If a line is later than all known ones, before these were skipped, it is from another
    file: the kubelet has rotated the log.
    """

    def __init__(self, position: dict[str, Any] | None = None) -> None:
        self._counts: dict[int, int] = {}
        self._given = 0
        if position:
            self._counts = {int(second): count for second, count in position["counts"]}
            self._given = position["given"]
        self._newest = (max(self._counts, default=0), (position or {}).get("fraction", _ANY_FRACTION))
        self._is_cut = bool((position or {}).get("cut"))  # whether the last line has no end yet
        self.rewind()

    @property
    def is_at_start(self) -> bool:
        """Whether no line has begun yet."""
        return not self._counts

    @property
    def since(self) -> str:
        """The second to request the log from."""
        return datetime.fromtimestamp(self._newest[0] - OVERLAP_SECONDS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    @property
    def newest(self) -> LineTime:
        """When the latest known line was written."""
        return self._newest

    def rewind(self, *, was_read_up: bool = False) -> None:
        """Prepare for another connection; say whether the last one returned its whole file of the log."""
        self._was_read_up = was_read_up
        self._stop: LineTime | None = None
        self.is_stopped = False
        """Whether the first line has come that ``stop_at`` excludes."""
        self._head: bytearray | None = bytearray()
        self.is_refused = False
        """Whether the answer so far is only the kubelet's message that it has no log.

        An answer without a known line is not such a message: the log may have been rotated at its end.
        """
        self._skip = 0
        self._second = 0
        self._is_first = True
        self._lines_to_skip = sum(self._counts.values())

    @property
    def is_stopping(self) -> bool:
        """Whether a part of what this connection returns must not be taken."""
        return self._stop is not None

    def stop_at(self, moment: LineTime) -> None:
        """Take no line of this connection that was written at this time or later, nor anything after it."""
        self._stop = moment

    def take(self, chunk: bytes) -> Iterator[Stamped]:
        """Yield the new parts of the next bytes of the connection."""
        at = 0
        if not self._is_at_line or self._lines_to_skip or self._is_first:
            # line by line, until all known lines are skipped
            while at < len(chunk):
                fresh, at = self._take_one(chunk, at)
                if fresh:
                    yield self._make(fresh)
                if self._is_at_line and not self._lines_to_skip:
                    break
        end = chunk.rfind(b"\n") + 1
        while at < end and (run := _RUN.match(chunk, at, end)):
            moment = find_moment(run[0])
            if moment is None or (self._stop is not None and moment[0] >= self._stop[0]):
                break
            at, self._second = run.end(), moment[0]
            yield self._take_run(run[0])
        while at < len(chunk):
            fresh, at = self._take_one(chunk, at)
            if fresh:
                yield self._make(fresh)

    @property
    def _is_at_line(self) -> bool:
        return self._head is not None and not self._head

    def _make(self, data: bytes) -> Stamped:
        counts = [[second, count] for second, count in self._counts.items()]
        self._is_cut = not data.endswith(b"\n")
        position = {
            "counts": counts,
            "given": self._given,
            "fraction": self._newest[1],
            "cut": self._is_cut,
        }
        return Stamped(data, self._second, position)

    def _take_run(self, run: bytes) -> Stamped:
        """Return complete lines of one second without their timestamps, all at once: one by one is slow."""
        # all lines begin with the same second, so the greatest line has the latest timestamp
        latest = find_moment(max(run.split(b"\n")))
        self._count((self._second, latest[1] if latest else _ANY_FRACTION), run.count(b"\n"))
        data = _STAMP.sub(b"\n", b"\n" + run)[1:]
        self._given = len(data) - (data.rfind(b"\n", 0, -1) + 1)
        self._note_age()
        return self._make(data)

    def _take_one(self, chunk: bytes, at: int) -> tuple[bytes, int]:
        """Take the rest of a line, or a part of it; return its new bytes, and the offset after it."""
        lead = b""
        if self._head is not None:
            stamp, space, _ = chunk[at : at + _MAX_STAMP + 1].partition(b" ")
            if b"\n" in stamp or len(self._head) + len(stamp) > _MAX_STAMP:
                stamp, space = b"", b""  # no timestamp at all
            elif not space:
                self._head += stamp
                return b"", len(chunk)
            at += len(stamp + space)
            lead = self._begin_line((self._head + stamp).decode("ascii", "replace"))
            if self.is_stopped:
                return b"", len(chunk)
            self._head = None
        end = chunk.find(b"\n", at) + 1
        line = chunk[at : end or len(chunk)]
        fresh = line[self._skip :]
        self._skip -= len(line) - len(fresh)
        self._given = min(self._given + len(fresh), sys.maxsize)
        if end:
            self._head = bytearray()
        return lead + fresh, at + len(line)

    def _begin_line(self, stamp: str) -> bytes:
        """Decide which part of a line is new; return what to insert before it."""
        is_first, self._is_first = self._is_first, False
        if (moment := _parse(stamp)) is None:
            # the end of a long line from before ``since``, or a message of the kubelet: neither counts
            self._skip = sys.maxsize
            self.is_refused |= is_first
            return b""
        self.is_refused = False
        if self._stop is not None and moment >= self._stop:
            self.is_stopped = True
            return b""
        if self._lines_to_skip and moment <= self._newest:
            self._lines_to_skip -= 1
            self._skip = sys.maxsize if self._lines_to_skip else self._given
            return b""
        is_next = self._was_read_up and moment[0] - self._newest[0] <= NEAR_SECONDS
        lead = b""
        if self._lines_to_skip and not is_next:
            lead = b"\n" + GAP if self._is_cut else GAP
        self._lines_to_skip = 0
        self._second = moment[0]
        self._skip = self._given = 0
        self._count(moment, 1)
        self._note_age()
        return lead

    def _count(self, latest: LineTime, lines: int) -> None:
        self.is_refused = False
        second = latest[0]
        self._counts[second] = self._counts.get(second, 0) + lines
        is_later = second > self._newest[0]
        self._newest = max(self._newest, latest)
        if is_later:
            oldest = second - OVERLAP_SECONDS
            self._counts = {each: n for each, n in self._counts.items() if each >= oldest}

    def _note_age(self) -> None:
        """Forget a line that is too old to be repeated; nothing of the last repeated line is new."""
        if self._second < self._newest[0] - OVERLAP_SECONDS:
            self._counts.pop(self._second, None)
            self._given = sys.maxsize
