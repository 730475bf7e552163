"""Where in a container's log a reader is: takes lines with timestamps, gives what is new without; pure."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

OVERLAP_SECONDS = 1
"""How much older than the newest line one that comes after it may be: stdout and stderr are stamped apart."""

NEAR_SECONDS = 1
"""Lines whose seconds are no further apart have no whole file of the log between them: a kubelet rotates each
3 seconds at most (``containerLogMonitorInterval``, its validation)."""

GAP = b"[... lines may be missing here: the node had put them away before they were read ...]\n"
"""Stands where the kubelet has rotated a log and has no more of what was not read."""

_RUN = re.compile(rb"([^ \n]{19})[^ \n]* [^\n]*\n(?:\1[^ \n]* [^\n]*\n)*+")
"""Whole lines of one second."""
_STAMP = re.compile(rb"\n[^ \n]+ ")
_ANY_FRACTION = "~"
"""Later than any: of a second of which it is not on record how far into it the newest line was."""
_IS_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")
_MAX_STAMP = 40

Moment = tuple[int, str]
"""When a line was written: the second since 1970, and the digits after the point (a kubelet writes nine)."""


def find_moment(log: bytes) -> Moment | None:
    """Return when the first line of a log was written, or None if there is none that begins there."""
    return _parse(log[: _MAX_STAMP + 1].partition(b" ")[0].decode("ascii", "replace"))


def _parse(stamp: str) -> Moment | None:
    if not (found := _IS_STAMP.fullmatch(stamp)):
        return None
    return _find_second(stamp[:19] + found[2]), found[1] or ""


@functools.lru_cache(maxsize=128)  # many lines have the same second
def _find_second(stamp: str) -> int:
    return int(datetime.fromisoformat(stamp).timestamp())


@dataclass(frozen=True, slots=True)
class Stamped:
    """Some bytes of a log, the second since 1970 that their first line is of, and the place after them."""

    data: bytes
    second: int
    position: dict[str, Any]


class LogPlace:
    """Takes what connections yield, one after the other, and gives each byte of the log once.

    A new connection is asked for the log since a whole second and so repeats some of it. How many lines of
    that second and later were begun is counted, and how many bytes of the last one were given: a connection
    may break in its middle. (Not by the timestamps alone: stdout and stderr are stamped apart, not always in
    order.) A line later than all that are known, before those were passed over, is of another file: the
    kubelet has rotated the log.
    """

    def __init__(self, position: dict[str, Any] | None = None) -> None:
        self._counts: dict[int, int] = {}
        self._given = 0
        if position:
            self._counts = {int(second): count for second, count in position["counts"]}
            self._given = position["given"]
        self._newest = (max(self._counts, default=0), (position or {}).get("fraction", _ANY_FRACTION))
        self.is_read_up = False
        """Whether the last connection gave all of its file of the log; it counts for the next one."""
        self.rewind()

    @property
    def is_at_start(self) -> bool:
        """Whether no line was begun yet."""
        return not self._counts

    @property
    def since(self) -> str:
        """The second to ask for the log from."""
        return datetime.fromtimestamp(self._newest[0] - OVERLAP_SECONDS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    @property
    def newest(self) -> Moment:
        """When the latest line that is known was written."""
        return self._newest

    def rewind(self) -> None:
        """Get ready for another connection."""
        self._was_read_up, self.is_read_up = self.is_read_up, False
        self.stop: Moment | None = None
        """When the first line was written that is not to be taken of this connection, nor what follows it."""
        self.is_stopped = False
        self._head: bytearray | None = bytearray()
        self.is_refused = False
        """Whether there are only the kubelet's words so far that it has no log, which come in place of one.

        An answer without any line that is known is none such: a log may have been rotated at its end.
        """
        self._skip = 0
        self._second = 0
        self._is_first = True
        self._lines_to_skip = sum(self._counts.values())

    def take(self, chunk: bytes) -> Iterator[Stamped]:
        """Yield what is new in the next bytes of the connection."""
        at = 0
        if not self._is_at_line or self._lines_to_skip or self._is_first:
            # line by line, until all that is known was passed over
            while at < len(chunk):
                fresh, at = self._take_one(chunk, at)
                if fresh:
                    yield self._make(fresh)
                if self._is_at_line and not self._lines_to_skip:
                    break
        end = chunk.rfind(b"\n") + 1
        while at < end and (run := _RUN.match(chunk, at, end)):
            moment = find_moment(run[0])
            if moment is None or (self.stop is not None and moment[0] >= self.stop[0]):
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
        position = {"counts": counts, "given": self._given, "fraction": self._newest[1]}
        return Stamped(data, self._second, position)

    def _take_run(self, run: bytes) -> Stamped:
        """Return whole lines of one second without their timestamps, all at once: line by line is slow."""
        # they begin with the same second: the greatest has the latest timestamp
        latest = find_moment(max(run.split(b"\n")))
        self._count((self._second, latest[1] if latest else _ANY_FRACTION), run.count(b"\n"))
        data = _STAMP.sub(b"\n", b"\n" + run)[1:]
        self._given = len(data) - (data.rfind(b"\n", 0, -1) + 1)
        self._note_age()
        return self._make(data)

    def _take_one(self, chunk: bytes, at: int) -> tuple[bytes, int]:
        """Take the rest of a line, or what is there of it; return what is new of it, and where it ends."""
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
        """Decide what is new of a line; return what is to be said before it."""
        is_first, self._is_first = self._is_first, False
        if (moment := _parse(stamp)) is None:
            # the end of a long line from before ``since``, or the kubelet's own words: neither is counted
            self._skip = sys.maxsize
            self.is_refused |= is_first
            return b""
        self.is_refused = False
        if self.stop is not None and moment >= self.stop:
            self.is_stopped = True
            return b""
        if self._lines_to_skip and moment <= self._newest:
            self._lines_to_skip -= 1
            self._skip = sys.maxsize if self._lines_to_skip else self._given
            return b""
        is_next = self._was_read_up and moment[0] - self._newest[0] <= NEAR_SECONDS
        lead = GAP if self._lines_to_skip and not is_next else b""
        self._lines_to_skip = 0
        self._second = moment[0]
        self._skip = self._given = 0
        self._count(moment, 1)
        self._note_age()
        return lead

    def _count(self, latest: Moment, lines: int) -> None:
        self.is_refused = False
        second = latest[0]
        self._counts[second] = self._counts.get(second, 0) + lines
        is_later = second > self._newest[0]
        self._newest = max(self._newest, latest)
        if is_later:
            oldest = second - OVERLAP_SECONDS
            self._counts = {each: n for each, n in self._counts.items() if each >= oldest}

    def _note_age(self) -> None:
        """Forget a line that is too old to be repeated; of the last one that is repeated nothing is new."""
        if self._second < self._newest[0] - OVERLAP_SECONDS:
            self._counts.pop(self._second, None)
            self._given = sys.maxsize
