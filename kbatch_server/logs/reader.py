"""Reads a job's log in its current state, from the storage and from the memory of this process's recorder."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime

from traitlets import Float, Instance
from traitlets.config import LoggingConfigurable

from ..errors import NotFound, Unavailable
from ..models.job import Job, Status
from ..storage.base import ObjectNotFound, Storage, StorageError
from ..store.logs import LogRecord, LogSegment, LogStore
from .recorder import LogRecorder, find_attempts
from .text import LogText, TextPart, ends_line, say
from .writer import LogWriter, make_key

FOLLOWED_BYTES = 128 * 1024
"""Size of the pieces for a reader who follows a log: many may, each slowly, and holds one in memory."""

POLL_SECONDS = (0.1, 1.0)
"""Seconds between two reads of a record while waiting for a change: the first and the last interval."""

NOT_YET = "the rest of the log is not available yet, because the launcher or the storage does not respond"


@dataclass(frozen=True, slots=True)
class LogSelection:
    """Selects a log of a job, and a part of it."""

    pod: str | None = None
    attempt: int | None = None
    """Counted from 1. Without ``pod`` and ``attempt``, the newest attempt is selected."""
    tail: int | None = None
    """The number of last lines to read."""
    since: datetime | None = None
    """Only data that was written at this time or later."""
    patience_seconds: float = 30
    """Seconds to wait for the log of an ended job to be complete."""


ALL = LogSelection()


@dataclass(frozen=True, slots=True)
class LogPlace:
    """A position in a job's log: an attempt, from 1, and an offset in the attempt's output."""

    attempt: int
    offset: int


@dataclass(frozen=True, slots=True)
class ShownPiece:
    """Some bytes to show, and the place after them."""

    data: bytes
    place: LogPlace


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a job: its number, from 1, and the name of its pod."""

    number: int
    pod: str


class LogReader(LoggingConfigurable):
    """Provides logs to any number of clients, without a request to Kubernetes for any of them."""

    max_search_seconds = Float(
        30,
        min=0.1,
        help="""Seconds that a search of one log may take. After that the service answers with the lines
        found so far, and marks the answer as ``truncated``.

        It searches ordinary text at some hundred megabytes per second, and a log that constantly redraws its
        lines at a few megabytes per second.""",
        config=True,
    )

    recorder = Instance(LogRecorder)
    storage = Instance(Storage)
    logs = Instance(LogStore)

    async def open(self, job: Job, selection: LogSelection = ALL) -> tuple[LogText, int]:
        """Return the log as it is now, with ``begin`` at the start of the selected part, and its attempt.

        It waits a while for the log of an ended job to be complete. Raises NotFound (``LogNotFound``) if
        there is none, Unavailable if the storage or the database does not respond.
        """
        text, attempt = await self._open(job, selection)
        return text, attempt.number

    async def read(
        self, job: Job, selection: LogSelection = ALL, *, most: int | None = None
    ) -> AsyncGenerator[ShownPiece]:
        """Return an iterator over the log as it is now, after reading its first piece; raises likewise."""
        text, attempt = await self._open(job, selection)
        return await _begun(show(text, attempt, text.begin, most))

    async def _open(self, job: Job, selection: LogSelection) -> tuple[LogText, Attempt]:
        attempt = find_attempt(job, selection)
        if attempt is None:
            raise _no_log(job)
        if job.is_over and job.cleaned_at is None:
            await self._wait_until_complete(job, attempt, selection.patience_seconds)
        with reading_errors():
            times = selection.since is not None
            text = await self.make_text(job, attempt, times=times, is_last=job.is_over)
            if text is None or (text.problem and not text.end):
                raise _no_log(job)
            text.begin = await find_begin(text, selection)
        return text, attempt

    async def _wait_until_complete(self, job: Job, attempt: Attempt, seconds: float) -> None:
        give_up_at = time.monotonic() + seconds
        delay, limit = POLL_SECONDS
        while time.monotonic() < give_up_at:
            log = await self.logs.find(job.id, attempt.pod)
            if log is not None and log.is_complete:
                return
            await asyncio.sleep(delay)
            delay = min(delay * 1.5, limit)

    async def make_text(
        self,
        job: Job,
        attempt: Attempt,
        *,
        after: int = 0,
        times: bool = False,
        is_last: bool = False,
        with_live: bool = True,
    ) -> LogText | None:
        """Return the stored and recorded parts of a log, without pieces before the offset ``after``.

        Without ``with_live`` it omits the data in the recorder's memory, of which the client would hold a
        copy. It returns None if nothing exists, and nothing is expected soon. With ``is_last``, a line at the
        end says so if the log is incomplete. Raises StorageError.
        """
        # read the memory before the record: data that leaves the memory meanwhile is in the record
        writer = self.recorder.find_writer(job.id, attempt.pod)
        is_live = with_live and writer is not None and not writer.is_complete
        live = _look(writer) if writer is not None and is_live else None
        log = await self.logs.find(job.id, attempt.pod)
        if log is None and (live is None or not live.size) and job.status != Status.RUNNING:
            return None
        segments = await self.logs.list_segments(job.id, attempt.pod, after=after, times=times)
        parts = []
        if live is not None:
            live_start = live.end - live.size
            segments = [each for each in segments if each.end <= live_start]
        for each in segments:
            parts.append(_make_part(job.id, attempt.number, each))
        if live is not None and live.size:
            parts.append(live)
        return await self._join(parts, log, after, is_last=is_last)

    async def _join(
        self, parts: list[TextPart], log: LogRecord | None, after: int, *, is_last: bool
    ) -> LogText:
        """Insert a line for each missing part."""
        joined: list[TextPart] = []
        end = after
        for part in parts:
            start = part.end - part.size
            if start > end:
                why = f"the log is longer than {self.recorder.max_log_bytes} bytes"
                words = f"{start - end} bytes were cut out here: {why}"
                joined.append(say(words, end=start, on_new_line=await self._ends_line(joined)))
            joined.append(part)
            end = part.end
        is_complete = log is not None and log.is_complete and end >= log.size
        problem = log.problem if log is not None and is_complete else ""
        words = NOT_YET if is_last and not is_complete else problem
        if words and end:
            joined.append(say(words, end=end, on_new_line=await self._ends_line(joined)))
        text = LogText(joined, self.storage, end=end, is_complete=is_complete, problem=problem)
        text.search_seconds = self.max_search_seconds
        return text

    async def _ends_line(self, parts: list[TextPart]) -> bool:
        try:
            return not parts or await ends_line(parts[-1], self.storage)
        except ObjectNotFound:  # cut out just now
            return True


def find_attempt(job: Job, selection: LogSelection) -> Attempt | None:
    """Return the selected attempt, or None if there is none yet.

    Raises NotFound for one that the job does not have.
    """
    attempts = [Attempt(number, pod) for number, pod in enumerate(find_attempts(job), 1)]
    if selection.pod is None and selection.attempt is None:
        return attempts[-1] if attempts else None
    for each in attempts:
        if selection.pod in (None, each.pod) and selection.attempt in (None, each.number):
            return each
    what = f"pod {selection.pod!r}" if selection.pod is not None else f"attempt {selection.attempt}"
    raise NotFound(f"Job {job.id!r} has no {what}.", reason="LogNotFound")


async def find_begin(text: LogText, selection: LogSelection) -> int:
    """Return the offset of the selected part in a text."""
    begin = 0
    if selection.since is not None:
        begin = text.find_time(selection.since)
    if selection.tail is not None:
        begin = max(begin, await text.find_tail(selection.tail))
    return begin


async def show(
    text: LogText, attempt: Attempt, begin: int, most: int | None = None
) -> AsyncGenerator[ShownPiece]:
    """Yield a text from an offset on, ``most`` bytes at a time; raises Unavailable."""
    with reading_errors():
        async with aclosing(text.read(begin, most=most)) as pieces:
            async for data, end in pieces:
                yield ShownPiece(data, LogPlace(attempt.number, end))


@contextlib.contextmanager
def reading_errors() -> Iterator[None]:
    """Turn a StorageError into an error for the user."""
    try:
        yield
    except StorageError as error:
        raise Unavailable(f"The log cannot be read now: {error}") from error


def _look(writer: LogWriter) -> TextPart:
    """Return the data in a recorder's memory."""
    segment = writer.open_segment
    return TextPart(
        segment.size,
        segment.end,
        segment.lines,
        data=writer.read(segment.start, segment.size),
        first_line=segment.first_line,
        times=segment.times,
    )


def _make_part(job_id: str, attempt: int, segment: LogSegment) -> TextPart:
    return TextPart(
        segment.size,
        segment.end,
        segment.lines,
        key=make_key(job_id, attempt, segment.number),
        first_line=segment.first_line,
        times=segment.times,
    )


def _no_log(job: Job) -> NotFound:
    why = f". {job.message}" if job.message and job.cleaned_at is None else ""
    return NotFound(f"Job {job.id!r} has no log{why or '.'}", reason="LogNotFound")


async def _begun(pieces: AsyncIterator[ShownPiece]) -> AsyncGenerator[ShownPiece]:
    """Return an iterator over the same pieces, after reading the first, so that errors are raised now."""
    first = await anext(pieces, None)

    async def all_pieces() -> AsyncGenerator[ShownPiece]:
        async with aclosing(pieces):  # type: ignore[type-var]
            nonlocal first
            if first is not None:
                yield first
                first = None  # it is in memory no longer than the others
            async for piece in pieces:
                yield piece

    return all_pieces()
