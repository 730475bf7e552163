"""Follows the log of one attempt of a local job, with the times that the supervisor recorded."""

from __future__ import annotations

import asyncio
import bisect
import os
import re
import time
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, datetime

from ...models.job import Job
from ..base import LogNotFound, LogPiece
from .folder import JobFolder
from .logfile import NOTE

PIECE_BYTES = 256 * 1024
POLL_SECONDS = 0.2
"""Seconds between two reads of a log that is being followed."""

_LOG = re.compile(r"log\.([1-9][0-9]*)")
_NOTES_AT_ONCE = 4096


def make_pod_name(job_id: str, number: int) -> str:
    """Return the name of an attempt, in place of the name of a pod."""
    return f"{job_id}-{number}"


def find_attempt(folder: JobFolder, job_id: str, pod: str) -> int | None:
    """Return the number of the attempt that ``pod`` names, or None if it has no log."""
    try:
        names = os.listdir(folder.path)
    except FileNotFoundError:
        return None
    numbers = [int(match[1]) for name in names if (match := _LOG.fullmatch(name))]
    return next((number for number in numbers if make_pod_name(job_id, number) == pod), None)


async def wait_for_attempt(folder: JobFolder, job: Job, pod: str, *, seconds: float) -> int:
    """Return the number of the attempt that ``pod`` names, after waiting for its log."""
    give_up_at = time.monotonic() + seconds
    while True:
        number = await asyncio.to_thread(find_attempt, folder, job.id, pod)
        if number is not None:
            return number
        if job.is_over or time.monotonic() >= give_up_at:
            raise LogNotFound("The command was not started, or its log file was deleted.")
        await asyncio.sleep(POLL_SECONDS)


async def read_log(folder: JobFolder, number: int, *, start: int) -> AsyncGenerator[LogPiece]:
    """Yield the log from an offset on, until that attempt has ended and everything was read.

    Nothing stays open in between, so a reader that goes away leaves nothing behind. Raises LogNotFound if the
    file is removed in the meantime.
    """
    path, times = folder.get_path(f"log.{number}"), _Times(folder.get_path(f"times.{number}"))
    while True:
        # Asked before reading: what was written before the end is then not missed.
        is_over = await asyncio.to_thread(_is_over, folder, number)
        while pieces := await asyncio.to_thread(_read_pieces, path, start, times):
            for piece in pieces:
                start = piece.position["offset"]
                yield piece
        if is_over:
            return
        await asyncio.sleep(POLL_SECONDS)


def _is_over(folder: JobFolder, number: int) -> bool:
    if folder.find_supervisor() is None:
        return True
    attempts = folder.read_status().get("attempts", [])
    return any(each["number"] == number and each["ended_at"] for each in attempts)


def _read(path: str, size: int, start: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.pread(fd, size, start)
    finally:
        os.close(fd)


def _read_pieces(path: str, start: int, times: _Times) -> list[LogPiece]:
    """Return the next bytes of the log, divided where the time changes."""
    try:
        data = _read(path, PIECE_BYTES, start)
    except FileNotFoundError:
        raise LogNotFound("The log file was deleted before all of it was read.") from None
    if not data:
        return []
    pieces, end = [], start + len(data)
    for at, until, second in times.cut(start, end):
        moment = None if second is None else datetime.fromtimestamp(second, UTC)
        pieces.append(LogPiece(data[at - start : until - start], {"offset": until}, moment))
    return pieces


class _Times:
    """The recorded times of a log, a few of them in memory. They may be missing, or late."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._first = 0
        self._notes: list[tuple[int, int]] = []

    def cut(self, start: int, end: int) -> Iterator[tuple[int, int, int | None]]:
        """Yield the parts of a range of the log, each with its time (seconds since 1970), or None."""
        while start < end:
            self._load(start)
            index = bisect.bisect(self._notes, start, key=lambda note: note[0]) - 1
            following = self._notes[index + 1][0] if index + 1 < len(self._notes) else end
            until = min(following, end)
            yield start, until, self._notes[index][1] if index >= 0 else None
            start = until

    def _load(self, offset: int) -> None:
        """Load the times around an offset; offsets must be ascending."""
        while not self._notes or self._notes[-1][0] <= offset:
            first = self._first + max(len(self._notes) - 1, 0)
            try:
                data = _read(self._path, _NOTES_AT_ONCE * NOTE.size, first * NOTE.size)
            except FileNotFoundError:
                return
            notes = list(NOTE.iter_unpack(data[: len(data) // NOTE.size * NOTE.size]))
            if len(notes) <= min(len(self._notes), 1):
                return  # no news
            self._first, self._notes = first, notes
