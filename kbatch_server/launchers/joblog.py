"""Read the log of one attempt of a local job: its end, all of it, or on as it grows."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator

from .jobfolder import JobFolder

PIECE_BYTES = 64 * 1024
POLL_SECONDS = 0.2
"""How often a log that is followed is looked at."""

_LOG = re.compile(r"log\.([1-9][0-9]*)")


def make_pod_name(job_id: str, number: int) -> str:
    """Return the name of an attempt, which takes the place of a pod's."""
    return f"{job_id}-{number}"


def find_attempt(folder: JobFolder, job_id: str, pod: str | None) -> int | None:
    """Return the number of the attempt that ``pod`` names, or of the newest; None if it has no log."""
    try:
        names = os.listdir(folder.path)
    except FileNotFoundError:
        return None
    numbers = [int(match[1]) for name in names if (match := _LOG.fullmatch(name))]
    if pod is not None:
        numbers = [number for number in numbers if make_pod_name(job_id, number) == pod]
    return max(numbers, default=None)


async def read_log(
    folder: JobFolder, number: int, *, follow: bool, tail: int | None
) -> AsyncGenerator[bytes, None]:
    """Yield the log in pieces; with ``follow``, until that attempt is over and all was read.

    Nothing is kept open in between, so a reader who goes away leaves nothing behind.
    """
    path = folder.get_path(f"log.{number}")
    start = 0 if tail is None else await asyncio.to_thread(_find_tail, path, tail)
    while True:
        # Asked before reading: what was written before the end is then not missed.
        is_over = not follow or await asyncio.to_thread(_is_over, folder, number)
        while piece := await asyncio.to_thread(_read_piece, path, start):
            start += len(piece)
            yield piece
        if is_over:
            return
        await asyncio.sleep(POLL_SECONDS)


def _is_over(folder: JobFolder, number: int) -> bool:
    if folder.find_supervisor() is None:
        return True
    attempts = folder.read_status().get("attempts", [])
    return any(each["number"] == number and each["ended_at"] for each in attempts)


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _read_piece(path: str, start: int) -> bytes:
    try:
        fd = _open(path)
    except FileNotFoundError:  # the job was deleted meanwhile
        return b""
    try:
        return os.pread(fd, PIECE_BYTES, start)
    finally:
        os.close(fd)


def _find_tail(path: str, lines: int) -> int:
    """Return where the last ``lines`` lines begin, reading backwards and no more than is needed."""
    fd = _open(path)
    try:
        end = os.fstat(fd).st_size
        if lines <= 0:
            return end
        if end and os.pread(fd, 1, end - 1) != b"\n":
            lines -= 1  # the last line is not finished, so no newline ends it
        position = end
        while position > 0:
            start = max(position - PIECE_BYTES, 0)
            piece = os.pread(fd, position - start, start)
            at = len(piece)
            while (at := piece.rfind(b"\n", 0, at)) >= 0:
                if lines == 0:
                    return start + at + 1
                lines -= 1
            position = start
        return 0
    finally:
        os.close(fd)
