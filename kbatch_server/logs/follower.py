"""Follows a job's log from before its start to its end, through all its attempts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ..errors import Unavailable
from ..models.job import Job
from ..store.jobs import JobStore
from .reader import (
    ALL,
    FOLLOWED_BYTES,
    NOT_YET,
    POLL_SECONDS,
    Attempt,
    LogPlace,
    LogReader,
    LogSelection,
    ShownPiece,
    find_begin,
    reading_errors,
    show,
)
from .recorder import find_attempts
from .text import LogText

COMPLETE_SECONDS = 30
"""Seconds to wait for the end of the log after the job has ended."""

NEWS_SECONDS = 10
"""Seconds to wait for new data from this process's recorder before reading the job's record again."""

PIECE_BYTES = 64 * 1024


class LogFollower:
    """Yields a job's log while it is written, until the job has ended and its log is complete.

    New data comes from the memory of this process's recorder. If another process records the log, it comes
    from the storage, by reading the log's record repeatedly.
    """

    def __init__(self, reader: LogReader, jobs: JobStore, job: Job) -> None:
        self._reader = reader
        self._jobs = jobs
        self._job = job
        self._over_since: float | None = None

    async def pieces(
        self, selection: LogSelection = ALL, *, after: LogPlace | None = None
    ) -> AsyncGenerator[ShownPiece]:
        """Yield the log of all attempts, or of the selected one.

        ``tail`` and ``since`` apply to the log that exists at the beginning. ``after`` is the place where an
        earlier reading ended, to continue from. Raises Unavailable if the end of the log does not arrive.
        """
        at_first = set(find_attempts(self._job))
        done = after.attempt - 1 if after else 0
        while attempt := await self._wait_for_attempt(selection, done):
            done = attempt.number
            begin: LogSelection | int = selection if attempt.pod in at_first else ALL
            if after is not None:
                begin = after.offset if after.attempt == attempt.number else 0
            async with aclosing(self._follow(attempt, begin)) as pieces:
                async for piece in pieces:
                    yield piece
            if selection.pod is not None or selection.attempt is not None or not await self._reload():
                return

    async def _wait_for_attempt(self, selection: LogSelection, done: int) -> Attempt | None:
        """Return the next selected attempt, or None when no more will come."""
        delay, limit = POLL_SECONDS
        while True:
            for number, pod in enumerate(find_attempts(self._job), 1):
                is_wanted = selection.pod in (None, pod) and selection.attempt in (None, number)
                if number > done and is_wanted:
                    return Attempt(number, pod)
            if self._job.is_over:
                return None
            await asyncio.sleep(delay)
            delay = min(delay * 1.5, limit)
            if not await self._reload():
                return None

    async def _follow(self, attempt: Attempt, begin: LogSelection | int) -> AsyncGenerator[ShownPiece]:
        """Yield the log of one attempt to its end; ``begin`` is a selection or an offset."""
        at = begin if isinstance(begin, int) else 0
        selection = None if isinstance(begin, int) else begin
        delay, limit = POLL_SECONDS
        while True:
            text, start, at = await self._find_text(attempt, at, selection)
            selection = None
            if text is not None:
                async with aclosing(show(text, attempt, start, FOLLOWED_BYTES)) as pieces:
                    async for piece in pieces:
                        yield piece
                if text.is_complete:
                    return
                if text.end > at:
                    at, delay = text.end, POLL_SECONDS[0]
                    self._over_since = None
            async with aclosing(self._follow_live(attempt, at)) as pieces:
                async for piece in pieces:
                    at, delay = piece.place.offset, 0
                    yield piece
            await asyncio.sleep(delay)
            delay = min(max(delay, POLL_SECONDS[0]) * 1.5, limit)
            if not await self._goes_on():
                return

    async def _find_text(
        self, attempt: Attempt, at: int, selection: LogSelection | None
    ) -> tuple[LogText | None, int, int]:
        """Return the stored log after an offset, where to begin in it, and from which offset that is."""
        with reading_errors():
            times = selection is not None and selection.since is not None
            # the part in memory is followed later, in small pieces, unless the selection needs it here
            with_live = times or (selection is not None and selection.tail is not None)
            text = await self._reader.make_text(
                self._job, attempt, after=at, times=times, with_live=with_live
            )
            if text is None:
                return None, 0, at
            if selection is None:
                return text, text.find_offset(at), at
            begin = await find_begin(text, selection)
            if with_live:  # the text has a copy of what is in memory: not for as long as its reader takes
                at = text.find_place(begin)
                text = await self._reader.make_text(self._job, attempt, after=at, with_live=False)
                begin = 0 if text is None else text.find_offset(at)
            return text, begin, at

    async def _follow_live(self, attempt: Attempt, at: int) -> AsyncGenerator[ShownPiece]:
        """Yield new data after an offset while this process's recorder has it in memory."""
        while True:
            writer = self._reader.recorder.find_writer(self._job.id, attempt.pod)
            if writer is None or writer.is_complete or not writer.start <= at <= writer.end:
                return
            news = writer.news  # before we look
            if data := writer.read(at, PIECE_BYTES):
                at += len(data)
                self._over_since = None
                yield ShownPiece(data, LogPlace(attempt.number, at))
                continue
            try:
                async with asyncio.timeout(NEWS_SECONDS):
                    await news.wait()
            except TimeoutError:
                if not await self._goes_on():
                    return

    async def _goes_on(self) -> bool:
        """Return whether more data may come; raises Unavailable if it is overdue."""
        if not await self._reload():
            return False
        if self._job.is_over:
            self._over_since = self._over_since or time.monotonic()
            if time.monotonic() - self._over_since > COMPLETE_SECONDS:
                raise Unavailable(f"The log is cut off: {NOT_YET}.")
        return True

    async def _reload(self) -> bool:
        """Read the job again; return False if it was deleted."""
        job = await self._jobs.find(self._job.id)
        if job is None or job.delete_requested_at is not None:
            return False
        self._job = job
        return True
