"""Rewrites a ZIP so that every unpacker produces the same files: names in UTF-8, links uncompressed.

busybox, Info-ZIP and Python differ about names that are not plain UTF-8, backslashes and compressed links, so
the service rewrites a ZIP with any of these. It copies the data of each entry without inflating or
compressing it again, which zipfile cannot do.
"""

from __future__ import annotations

import asyncio
import stat
import struct
import zipfile
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from typing import TypeVar

from .zipdirectory import IN_ZIP64, IN_ZIP64_16, UNIX, Directory, ZipEntry
from .zipnames import IS_UTF8

PIECE_BYTES = 64 * 2**10

ENTRIES_AT_ONCE = 256
"""The number of entries after which other tasks may run: a ZIP may have some hundred thousand without
data."""

Item = TypeVar("Item")

_VERSION, _ZIP64_VERSION = 20, 45
_COMMON = struct.Struct("<HHHLLLLHH")  # of both headers: version, flags, method, time, crc, sizes, lengths
_CENTRAL_REST = struct.Struct("<HHHLL")
_ZIP64_END = struct.Struct("<4sQHHLLQQQQ")
_LOCATOR = struct.Struct("<4sLQL")
_END = struct.Struct("<4sHHHHLLH")


async def rewrite(
    directory: Directory, targets: Mapping[str, str], pieces: AsyncIterator[bytes]
) -> AsyncGenerator[bytes]:
    """Yield the pieces of a plain ZIP of the same files, folders and links.

    ``directory`` and ``targets`` are those of a checked ZIP, ``pieces`` its bytes up to the directory. Links
    come last, so that unpacking never writes through one.
    """
    writer = _Writer()
    source = _Source(pieces)
    async for entry in _paced(directory.entries):
        if entry.is_left_out or entry.is_link:
            continue
        writer.add(entry)
        async for piece in source.read(entry.data_offset, entry.compress_size):
            writer.put(piece)
            if writer.is_full:
                yield writer.take()
        if writer.is_full:
            yield writer.take()
    async for entry in _paced(directory.entries):
        if entry.is_link and not entry.is_left_out:
            writer.add_link(entry, targets[entry.name].encode())
            if writer.is_full:
                yield writer.take()
    writer.begin_directory()
    async for number in _paced(range(writer.count)):
        writer.add_central(number)
        if writer.is_full:
            yield writer.take()
    writer.finish()
    yield writer.take()


async def _paced(items: Iterable[Item]) -> AsyncGenerator[Item]:
    """Yield the items, and let other tasks run from time to time."""
    for number, item in enumerate(items, 1):
        yield item
        if number % ENTRIES_AT_ONCE == 0:
            await asyncio.sleep(0)


class _Writer:
    """The new ZIP: the bytes to be taken, and its directory."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._taken = 0
        self._central: list[tuple[ZipEntry, int, int]] = []
        self._start = 0  # of the directory

    @property
    def is_full(self) -> bool:
        """Whether enough bytes are ready to be taken."""
        return len(self._waiting) >= PIECE_BYTES

    def take(self) -> bytes:
        """Return the bytes that are ready."""
        taken = bytes(self._waiting)
        self._waiting.clear()
        self._taken += len(taken)
        return taken

    def put(self, data: bytes) -> None:
        """Add bytes of an entry's data."""
        self._waiting += data

    def add(self, entry: ZipEntry) -> None:
        """Begin an entry; its data must follow."""
        offset = self._taken + len(self._waiting)
        extra = _make_field(_get_long_sizes(entry))
        self._waiting += b"PK\x03\x04" + _make_common(entry, extra)
        self._waiting += entry.name.encode() + extra
        self._central.append((entry, offset, _make_mode(entry)))

    def add_link(self, entry: ZipEntry, target: bytes) -> None:
        """Add an uncompressed link: busybox does not support compressed ones."""
        plain = ZipEntry(
            name=entry.name,
            raw_name=entry.name.encode(),
            flags=IS_UTF8,
            method=zipfile.ZIP_STORED,
            crc=zlib.crc32(target),
            compress_size=len(target),
            size=len(target),
            offset=0,
            mode=entry.mode,
            modified=entry.modified,
        )
        self.add(plain)
        self.put(target)

    @property
    def count(self) -> int:
        """The number of entries."""
        return len(self._central)

    def begin_directory(self) -> None:
        """Begin the directory, after all entries."""
        self._start = self._taken + len(self._waiting)

    def add_central(self, number: int) -> None:
        """Add an entry, by its number from 0, to the directory."""
        self._waiting += _make_central(*self._central[number])

    def finish(self) -> None:
        """End the directory."""
        start, end = self._start, self._taken + len(self._waiting)
        count, size = self.count, end - start
        if count >= IN_ZIP64_16 or start >= IN_ZIP64:
            version = _ZIP64_VERSION
            long = (_ZIP64_END.size - 12, version, version, 0, 0, count, count, size, start)
            self._waiting += _ZIP64_END.pack(b"PK\x06\x06", *long) + _LOCATOR.pack(b"PK\x06\x07", 0, end, 1)
        short = min(count, IN_ZIP64_16)
        self._waiting += _END.pack(b"PK\x05\x06", 0, 0, short, short, size, min(start, IN_ZIP64), 0)


def _make_common(entry: ZipEntry, extra: bytes) -> bytes:
    """Return the part of an entry's header that is the same before its data and in the directory."""
    name = entry.name.encode()
    sizes = (IN_ZIP64, IN_ZIP64) if _get_long_sizes(entry) else (entry.compress_size, entry.size)
    flags = 0 if name.isascii() else IS_UTF8
    version = _ZIP64_VERSION if extra else _VERSION
    return _COMMON.pack(
        version, flags, entry.method, entry.modified, entry.crc, *sizes, len(name), len(extra)
    )


def _make_central(entry: ZipEntry, offset: int, mode: int) -> bytes:
    """Return the header of an entry in the directory."""
    extra = _make_field(_get_long_sizes(entry) + ((offset,) if offset >= IN_ZIP64 else ()))
    head = b"PK\x01\x02" + struct.pack("<BB", _VERSION, UNIX) + _make_common(entry, extra)
    rest = _CENTRAL_REST.pack(0, 0, 0, mode << 16, min(offset, IN_ZIP64))
    return head + rest + entry.name.encode() + extra


def _get_long_sizes(entry: ZipEntry) -> tuple[int, ...]:
    """Return both sizes of an entry, in the order of the extra field, if one is too large for 32 bits."""
    sizes = entry.size, entry.compress_size
    return sizes if max(sizes) >= IN_ZIP64 else ()


def _make_field(numbers: tuple[int, ...]) -> bytes:
    return struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""


def _make_mode(entry: ZipEntry) -> int:
    """Return the kind and the permissions; the default ones if the entry has none."""
    if entry.is_link:
        return stat.S_IFLNK | 0o777
    kind = stat.S_IFDIR if entry.is_folder else stat.S_IFREG
    rights = stat.S_IMODE(entry.mode) or (0o755 if entry.is_folder else 0o644)
    return kind | (rights & 0o777)


class _Source:
    """Reads the original ZIP from its beginning on."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._position = 0
        self._rest = memoryview(b"")

    async def read(self, start: int, length: int) -> AsyncGenerator[bytes]:
        """Yield a range after the previous one; raises BadZipFile if bytes are missing."""
        while length:
            skipped = min(start - self._position, len(self._rest))
            self._rest, self._position = self._rest[skipped:], self._position + skipped
            if not self._rest:
                piece = await anext(self._pieces, None)
                if piece is None:
                    raise zipfile.BadZipFile
                self._rest = memoryview(piece)
                continue
            taken = bytes(self._rest[:length])
            self._rest = self._rest[len(taken) :]
            self._position += len(taken)
            start, length = start + len(taken), length - len(taken)
            yield taken
