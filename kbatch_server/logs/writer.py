"""Appends the log of one attempt to segments in the storage, and to their rows in the store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ..aio import back_off
from ..errors import Unavailable
from ..failpoints import reach
from ..launchers.base import LogPiece
from ..models.times import utcnow
from ..storage.base import Storage, StorageError
from ..store.logs import LogRecord, LogSegment, LogStore
from .memory import LogMemory

MAX_TIMES = 2000
"""The maximum number of time stamps in one segment: each write of its row includes them all."""

MARKS = 64
"""The number of recent pieces whose positions are remembered: a segment can end only at or after the first of
them."""

TIME_BYTES, MARK_BYTES = 160, 600
"""The approximate memory of one time stamp, and of the position of one piece."""

RETRY_SECONDS = (0.5, 60.0)
"""Seconds to wait for a storage or a database that does not respond: the first and the last interval."""

STOP_SECONDS = 10
"""Seconds to wait for a write in progress when the service stops."""

Result = TypeVar("Result")


class JobGone(Exception):
    """The job was deleted, so nothing of it is saved any more."""


@dataclass(frozen=True, slots=True)
class LogLimits:
    """The size of a segment and of a log, in bytes."""

    segment_bytes: int
    max_log_bytes: int

    @property
    def head_bytes(self) -> int:
        """The size of the beginning, which is always kept."""
        return self.max_log_bytes // 2


def make_key(job_id: str, attempt: int, number: int) -> str:
    """Return the key of a segment in the storage."""
    return f"logs/{job_id}/{attempt}-{number:06}"


class LogWriter:
    """The end of one log: an open segment in memory, and the state to continue.

    It writes an object before its row, and the row says how much of the object counts. So a kill at any line
    neither loses nor duplicates data. It writes the open segment again, longer, under the same key. If the
    storage or the database does not respond, it waits and reads nothing more. Only one task at a time may
    write; any number may read.
    """

    def __init__(
        self,
        log: LogRecord,
        segments: list[LogSegment],
        *,
        limits: LogLimits,
        memory: LogMemory,
        storage: Storage,
        logs: LogStore,
        logger: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self._log = log
        self._limits = limits
        self._memory = memory
        self._storage = storage
        self._logs = logs
        self._logger = logger
        self._sum = 0  # of all segments
        # number and size of the segments that may be cut out if the log is too long
        self._middle: deque[tuple[int, int]] = deque()
        for each in segments:
            self._note_segment(each)
        self._number = segments[-1].number + 1 if segments else 0
        self._line = segments[-1].first_line + segments[-1].lines if segments else 1
        self._buffer = bytearray()
        self._times: list[list[int]] = []
        self._kept = 0  # bytes of the buffer that are kept already
        self._is_keeping = False
        self._dirty_since = 0.0
        self._is_head = log.size < limits.head_bytes
        self._skip = int(log.position.get("skip", 0))
        self._position: dict[str, Any] | None = log.position.get("from")
        # the beginnings of the last pieces: the launcher's position and the offset in the log
        self._marks: deque[tuple[dict[str, Any] | None, int]] = deque(maxlen=MARKS)
        self.start = log.size
        """The offset in the whole log of the data in memory; the data before it is in the storage."""
        self.news = asyncio.Event()
        """Set, and replaced by another, when new data arrives."""

    @property
    def end(self) -> int:
        """The offset after all data that was read."""
        return self.start + len(self._buffer)

    @property
    def is_complete(self) -> bool:
        """Whether all data of the log is saved."""
        return self._log.is_complete

    @property
    def position(self) -> dict[str, Any] | None:
        """The position from which the launcher must continue."""
        return self._position

    @property
    def open_segment(self) -> LogSegment:
        """The segment in memory."""
        return self._make_segment(len(self._buffer))

    def read(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes from an offset on, which is not before ``start``."""
        at = offset - self.start
        return bytes(self._buffer[at : at + size])

    async def add(self, piece: LogPiece) -> None:
        """Take the next piece, and save each full segment."""
        self._marks.append((self._position, self.end - self._skip))
        data = piece.data[self._skip :]
        self._skip -= len(piece.data) - len(data)
        self._position = piece.position
        if not data:
            return
        second = int((piece.time or utcnow()).timestamp())
        if not self._times or self._times[-1][1] != second:
            self._times.append([len(self._buffer), second])
        if self._kept == len(self._buffer):
            self._dirty_since = time.monotonic()
        self._buffer += data
        self._note_memory()
        self._tell()
        while cut := self._find_cut():
            await self._keep(cut)
            self._close_segment(cut)

    async def flush(self, *, older_than_seconds: float = 0) -> None:
        """Save the data in memory if some of it has been unsaved for this time."""
        is_new = self._kept < len(self._buffer)
        if is_new and time.monotonic() - self._dirty_since >= older_than_seconds:
            await self._keep(len(self._buffer))
        while cut := self._find_cut():  # others may need the memory
            await self._keep(cut)
            self._close_segment(cut)

    def release(self) -> None:
        """Release the data in memory: all of it is saved, and no write is in progress."""
        self._close_segment(self._kept)

    async def finish(self, problem: str) -> None:
        """Save everything, and mark the log as complete; ``problem`` says what is missing, or is empty."""
        self._log = replace(self._log, problem=problem)
        await self._keep(len(self._buffer), is_complete=True)
        self._close_segment(len(self._buffer))
        self._memory.forget(self)

    def forget(self) -> None:
        """Release the memory without saving; nothing may be added after that."""
        self._memory.forget(self)

    def _note_memory(self) -> None:
        entries = TIME_BYTES * len(self._times) + MARK_BYTES * len(self._marks)
        is_idle = self._kept == len(self._buffer) and not self._is_keeping
        self._memory.note(self, len(self._buffer) + entries, is_idle=is_idle)

    def _note_segment(self, segment: LogSegment) -> None:
        self._sum += segment.size
        if segment.end > self._limits.head_bytes:
            self._middle.append((segment.number, segment.size))

    def _tell(self) -> None:
        news, self.news = self.news, asyncio.Event()
        news.set()

    def _find_cut(self) -> int:
        """Return the size of a full segment in the buffer, or 0; it ends at a newline if possible.

        It never ends before the remembered pieces: only from these can the launcher continue.
        """
        size, head = len(self._buffer), self._limits.head_bytes - self.start
        is_head = self._is_head and 0 < head <= size
        most = self._memory.get_limit(self._limits.segment_bytes)
        if not size or (size < most and len(self._times) < MAX_TIMES and not is_head):
            return 0
        self._is_head = self._is_head and not is_head
        first_mark = max(self._marks[0][1] - self.start, 0)
        limit = max(min(size, most, head if is_head else size), first_mark)
        return self._buffer.rfind(b"\n", first_mark, limit) + 1 or limit

    def _close_segment(self, size: int) -> None:
        """Release the first bytes in memory, which are saved."""
        if size:
            segment = self._make_segment(size)
            self._note_segment(segment)
            self._line += segment.lines
            self._number += 1
            later = [[at - size, second] for at, second in self._times if at > size]
            if size < len(self._buffer):
                now = next(second for at, second in reversed(self._times) if at <= size)
                later.insert(0, [0, now])
            self._times = later
            del self._buffer[:size]
            self.start += size
            self._kept = max(self._kept - size, 0)
            self._note_memory()
        self._tell()

    def _make_segment(self, size: int) -> LogSegment:
        times = [each for each in self._times if each[0] < size]
        lines = self._buffer.count(b"\n", 0, size)
        return LogSegment(self._number, self.start, size, self._line, lines, times)

    def _make_position(self, end: int) -> dict[str, Any]:
        """Return the position to continue from when all data before an offset is saved."""
        if end == self.end:
            return {"from": self._position, "skip": self._skip}
        before, offset = next(mark for mark in reversed(self._marks) if mark[1] <= end)
        return {"from": before, "skip": end - offset}

    def _find_dropped(self, size: int) -> list[int]:
        """Return the segments from the middle to delete, so that the log does not exceed its limit."""
        over = self._sum + size - self._limits.max_log_bytes
        dropped = []
        for number, length in self._middle:
            if over <= 0:
                break
            dropped.append(number)
            over -= length
        return dropped

    async def _keep(self, size: int, *, is_complete: bool = False) -> None:
        """Save the first bytes in memory, however long that takes."""
        self._is_keeping = True
        try:
            await self._keep_long(size, is_complete=is_complete)
        finally:
            self._is_keeping = False
            self._note_memory()

    async def _keep_long(self, size: int, *, is_complete: bool) -> None:
        log = replace(
            self._log,
            position=self._make_position(self.start + size),
            size=self.start + size,
            is_complete=is_complete,
        )
        segment = self._make_segment(size) if size > self._kept else None
        dropped = self._find_dropped(size)
        failures = 0
        while True:
            try:
                await _finish(self._keep_once(log, segment, dropped))
                break
            except (StorageError, Unavailable) as error:
                if not failures:
                    self._logger.warning("job %s: its log cannot be saved now: %s", log.job_id, error)
                failures += 1
            await asyncio.sleep(back_off(failures, *RETRY_SECONDS))
        if failures:
            self._logger.info("job %s: its log is being saved again", log.job_id)
        self._log = log
        for _ in dropped:
            self._sum -= self._middle.popleft()[1]
        self._kept = max(size, self._kept)

    async def _keep_once(self, log: LogRecord, segment: LogSegment | None, dropped: list[int]) -> None:
        if segment is not None:
            async with self._memory.writes:
                with memoryview(self._buffer) as view:
                    content = bytes(view[: segment.size])
                await self._storage.write(make_key(log.job_id, log.attempt, segment.number), _once(content))
            reach("archive.1")
        for number in dropped:
            await self._storage.delete(make_key(log.job_id, log.attempt, number))
        segments = [] if segment is None else [segment]
        after = self._log.size
        if not await self._logs.keep(log, after=after, segments=segments, dropped=dropped):
            raise JobGone(log.job_id)
        reach("archive.2")


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def _finish(work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of the work. If cancelled, wait for it within a time limit, then raise.

    Overwriting an object must not be cancelled: the storage might then have neither the new nor the old one.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=STOP_SECONDS)
        task.cancel()
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await task
        raise
