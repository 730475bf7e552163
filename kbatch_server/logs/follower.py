"""Follows a job's log from before its start to its end, over its attempts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ..errors import Unavailable
from ..models.job import Job
from .reader import (
    ALL,
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
"""How long the end of the log of a job that is over is waited for."""

NEWS_SECONDS = 10
"""How long news of a log that this process records is waited for before the record is read."""

PIECE_BYTES = 64 * 1024


class LogFollower:
    """Yields a job's log as it is written, until the job is over and its logs are complete.

    What is new comes from the memory of this process's recorder; where another process records, the record is
    read again and again.
    """

    def __init__(self, reader: LogReader, job: Job) -> None:
        self._reader = reader
        self._job = job
        self._over_since: float | None = None

    async def pieces(
        self, selection: LogSelection = ALL, *, after: LogPlace | None = None
    ) -> AsyncGenerator[ShownPiece]:
        """Yield the log of all attempts, or of the one that is selected.

        ``tail`` and ``since`` are for what there is at the beginning; ``after`` is where an earlier reading
        ended, and to go on from. Raises Unavailable when the end of the log does not come.
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
        """Return the next attempt that is wanted, or None when there will be none."""
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
        """Yield the log of one attempt to its end; ``begin`` says from where on, or from which offset."""
        at = begin if isinstance(begin, int) else 0
        selection = None if isinstance(begin, int) else begin
        delay, limit = POLL_SECONDS
        while True:
            text, start = await self._find_text(attempt, at, selection)
            selection = None
            if text is not None:
                async with aclosing(show(text, attempt, start)) as pieces:
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
    ) -> tuple[LogText | None, int]:
        """Return what is kept beyond an offset, and where to begin in it."""
        with reading_errors():
            times = selection is not None and selection.since is not None
            # what is in memory is followed, a little at a time, but where it must be looked at from its end
            with_live = times or (selection is not None and selection.tail is not None)
            text = await self._reader.make_text(
                self._job, attempt, after=at, times=times, with_live=with_live
            )
            if text is None:
                return None, 0
            return text, text.find_offset(at) if selection is None else await find_begin(text, selection)

    async def _follow_live(self, attempt: Attempt, at: int) -> AsyncGenerator[ShownPiece]:
        """Yield what comes after an offset, for as long as the recorder of this process has it in memory."""
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
        """Return whether there may be more; raises Unavailable when that is overdue."""
        if not await self._reload():
            return False
        if self._job.is_over:
            self._over_since = self._over_since or time.monotonic()
            if time.monotonic() - self._over_since > COMPLETE_SECONDS:
                raise Unavailable(f"The log is cut off: {NOT_YET}.")
        return True

    async def _reload(self) -> bool:
        """Read the job again; return False when it is (to be) deleted."""
        job = await self._reader.store.jobs.find(self._job.id)
        if job is None or job.delete_requested_at is not None:
            return False
        self._job = job
        return True
