"""Creates a ZIP of files that are consecutive in an object while it is read, without holding it in memory.

The standard library's ``zipfile`` makes it. zipstream-ng, which streams ZIPs as well, is not used: it pulls a
file's content from an iterator, so that each download would occupy a thread that waits for the storage.
"""

from __future__ import annotations

import asyncio
import time
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing

from ..models.results import OutputFile

FIRST_YEAR = 1980
"""The first year of times in a ZIP; ``LAST_YEAR`` is the last."""
LAST_YEAR = 2107

Read = Callable[[int, int], AsyncGenerator[bytes]]
"""``read(start, length)`` yields a range of the object."""


async def make_zip(files: Sequence[OutputFile], read: Read) -> AsyncGenerator[bytes]:
    """Yield the pieces of a ZIP of the files; errors of ``read`` are passed on.

    It reads the object once, from the first file to the last: a request for each of ten thousand small files
    would take minutes. It reads only the content of hard links again.
    """
    sink = _Sink()
    # Deflated: in a ZIP that is written in one pass, not every tool can read uncompressed entries.
    archive = zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1)  # type: ignore[call-overload]
    try:
        for run in _make_runs(files):
            start, end = run[0].offset, max(file.offset + file.size for file in run)
            async with aclosing(read(start, end - start)) as pieces:
                source = _Source(pieces, start)
                for file in run:
                    async with aclosing(_add(archive, sink, file, source.read(file))) as entry:
                        async for made in entry:
                            yield made
    finally:
        await asyncio.to_thread(archive.close)
    yield sink.take()


def _make_runs(files: Sequence[OutputFile]) -> list[list[OutputFile]]:
    """Return the files in runs, each of which can be read from front to back."""
    first: dict[int, OutputFile] = {}
    again = []
    for file in sorted(files, key=lambda file: (file.offset, file.path)):
        if first.setdefault(file.offset, file) is not file:
            again.append([file])
    return [list(first.values()), *again] if first else []


async def _add(
    archive: zipfile.ZipFile, sink: _Sink, file: OutputFile, content: AsyncGenerator[bytes]
) -> AsyncGenerator[bytes]:
    entry = archive.open(_make_info(file), "w")
    try:
        async with aclosing(content):
            async for piece in content:
                await asyncio.to_thread(entry.write, piece)
                if made := sink.take():
                    yield made
    finally:
        await asyncio.to_thread(entry.close)
    yield sink.take()


def _make_info(file: OutputFile) -> zipfile.ZipInfo:
    moment = time.gmtime(file.modified_at)[:6]
    if not FIRST_YEAR <= moment[0] <= LAST_YEAR:
        moment = (FIRST_YEAR, 1, 1, 0, 0, 0)
    info = zipfile.ZipInfo(file.path, moment)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    info.file_size = file.size  # decides whether the entry has fields for a large size
    return info


class _Sink:
    """A write-only file, whose content is taken away from time to time."""

    def __init__(self) -> None:
        self._held: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._held.append(bytes(data))
        return len(data)

    def flush(self) -> None: ...

    def take(self) -> bytes:
        taken, self._held = b"".join(self._held), []
        return taken


class _Source:
    """Reads a range of an object from front to back, one file at a time."""

    def __init__(self, pieces: AsyncIterator[bytes], position: int) -> None:
        self._pieces = pieces
        self._position = position
        self._rest = b""

    async def read(self, file: OutputFile) -> AsyncGenerator[bytes]:
        """Yield the content of a file, which comes after what was read before."""
        position, left = file.offset, file.size
        while left:
            skipped = min(position - self._position, len(self._rest))
            self._rest, self._position = self._rest[skipped:], self._position + skipped
            if not self._rest:
                self._rest = await anext(self._pieces)
                continue
            piece, self._rest = self._rest[:left], self._rest[left:]
            self._position += len(piece)
            position, left = position + len(piece), left - len(piece)
            yield piece
