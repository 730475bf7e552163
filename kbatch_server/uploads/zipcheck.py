"""Checks a ZIP in the storage before a job unpacks it: first its directory, then all of it."""

from __future__ import annotations

import asyncio
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from ..errors import InvalidRequest
from .zipcontent import ContentCheck
from .zipdirectory import MAX_DIRECTORY_BYTES, Directory, NeedsMore, read_directory, refused
from .ziprewrite import rewrite

TAIL_BYTES = 128 * 2**10
"""Bytes to read first: enough for the whole directory of a thousand files."""

Reader = Callable[[int, int], AsyncIterator[bytes]]
"""A function of start and length that yields these bytes of the ZIP."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A checked ZIP: its entries, and the targets of its links by name."""

    directory: Directory
    targets: Mapping[str, str]


Admit = Callable[[int], None]
"""Called with the unpacked size of a ZIP in bytes, before unpacking it; it may raise an error for the
sender."""


async def check_archive(size: int, read: Reader, *, admit: Admit = lambda size: None) -> Archive:
    """Return the contents of a ZIP, or raise InvalidRequest with the entry that is not allowed.

    ``size`` is the size of the ZIP in bytes, and ``read`` reads it. The directory is held in memory, up to
    MAX_DIRECTORY_BYTES; the rest is read once from its beginning and not kept. Threads do the work.
    """
    try:
        directory = await _get_directory(size, read)
        admit(directory.size)
        content = ContentCheck(directory)
        async with aclosing(read(0, directory.start)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                await asyncio.to_thread(content.feed, piece)
        await asyncio.to_thread(content.finish)
    except zipfile.BadZipFile:
        raise await _make_refusal(size, read) from None
    return Archive(directory, content.targets)


async def rewrite_archive(archive: Archive, read: Reader) -> AsyncGenerator[bytes]:
    """Yield the pieces of a plain ZIP with the same contents; see ``ziprewrite``."""
    async with (
        aclosing(read(0, archive.directory.start)) as pieces,  # type: ignore[type-var]
        aclosing(rewrite(archive.directory, archive.targets, pieces)) as made,
    ):
        async for piece in made:
            yield piece


async def _get_directory(size: int, read: Reader) -> Directory:
    start = max(0, size - TAIL_BYTES)
    while True:
        tail = await _read_all(read, start, size - start)
        try:
            return await asyncio.to_thread(read_directory, tail, start)
        except NeedsMore as more:
            if size - more.start > MAX_DIRECTORY_BYTES:
                raise refused("The ZIP archive has too many entries, or too long names.") from None
            start = more.start


async def _make_refusal(size: int, read: Reader) -> InvalidRequest:
    """Return the error for a ZIP that zipfile cannot read, depending on how it begins."""
    if await _read_all(read, 0, min(4, size)) == b"PK\x03\x04":
        return refused("The ZIP archive is damaged, maybe truncated.")
    return refused("The submitted file must be a ZIP archive.")


async def _read_all(read: Reader, start: int, length: int) -> bytes:
    async with aclosing(read(start, length)) as pieces:  # type: ignore[type-var]
        return b"".join([piece async for piece in pieces])
