"""Looks at a ZIP in the storage before any job unpacks it, reading no more of it than its directory.

A ZIP's directory stands at its end, and says of each entry its name, sizes, kind and place.
"""

from __future__ import annotations

import asyncio
import io
import stat
import zipfile
from collections.abc import AsyncIterator, Callable

from .errors import InvalidRequest

MAX_ENTRIES = 100_000
"""Files and folders in one ZIP: unpacking more takes a job longer than most jobs take."""

MAX_DIRECTORY_BYTES = 16 * 2**20
"""What is held in memory of a ZIP at most: 100,000 entries with names of 120 characters."""

MAX_UNPACKED_BYTES = 10 * 2**30
"""Bytes that a ZIP may have when unpacked, by what it says."""

MAX_RATIO = 200
"""How much smaller a large file may be in the ZIP. Code and data are 3 to 20 times smaller; a bomb, 1000."""

RATIO_APPLIES_BYTES = 100 * 2**20
"""The size from which on MAX_RATIO holds: an empty log of a few megabytes harms nobody."""

TAIL_BYTES = 128 * 2**10
"""What is read at first: enough for the whole directory of a thousand files."""

_ENCRYPTED = 0x1 | 0x40  # flag_bits: encrypted, strongly encrypted
_LOCAL_HEADER_BYTES = 30
_ENTRY_SIGNATURE = b"PK\x01\x02"
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}

Reader = Callable[[int, int], AsyncIterator[bytes]]
"""Given a start and a length, yields those bytes of the ZIP."""


async def check_archive(size: int, read: Reader) -> None:
    """Raise InvalidRequest, naming the entry, unless what ``read`` reads is a ZIP that may be unpacked.

    ``size`` is the ZIP's, in bytes. Reads its end, in memory up to MAX_DIRECTORY_BYTES.
    """
    start = max(0, size - TAIL_BYTES)
    while True:
        tail = b"".join([piece async for piece in read(start, size - start)])
        try:
            await asyncio.to_thread(_check, tail, start)
        except _NeedsMore as more:
            if size - more.start > MAX_DIRECTORY_BYTES:
                raise _refused("The ZIP archive has too many entries, or too long names.") from None
            start = more.start
        except zipfile.BadZipFile:
            head = b"".join([piece async for piece in read(0, min(4, size))])
            if head == b"PK\x03\x04":
                raise _refused("The ZIP archive is damaged: was it cut off?") from None
            raise _refused("The submitted file must be a ZIP archive.") from None
        else:
            return


class _NeedsMore(Exception):
    """The directory begins before what was read: read from ``start`` on."""

    def __init__(self, start: int) -> None:
        super().__init__(start)
        self.start = start


class _Tail(io.RawIOBase):
    """A file of which only the end is there. It is all that zipfile reads when it is not asked to unpack."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data = data
        self._start = start
        self._position = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        size = self._start + len(self._data)
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: size}[whence]
        if base + offset < 0:
            raise OSError("before the beginning of the file")
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        if self._position < self._start:
            raise _NeedsMore(self._position)
        begin = self._position - self._start
        piece = self._data[begin:] if size is None or size < 0 else self._data[begin : begin + size]
        self._position += len(piece)
        return piece


def _check(tail: bytes, start: int) -> None:
    """Check the ZIP that ends in ``tail``: in a thread, for 100,000 entries take seconds."""
    # before zipfile makes an object of each; what is not the directory can only make it more
    if tail.count(_ENTRY_SIGNATURE) > MAX_ENTRIES:
        raise _refused(f"The ZIP archive has more than {MAX_ENTRIES:,} entries.")
    try:
        with zipfile.ZipFile(_Tail(tail, start)) as archive:
            entries = archive.infolist()
            directory_start = archive.start_dir
    except (NotImplementedError, UnicodeDecodeError, ValueError, OverflowError):
        raise zipfile.BadZipFile from None
    for entry in entries:
        problem = _find_problem(entry)
        if problem:
            raise _refused(f"The ZIP archive's entry {entry.orig_filename[:200]!r} {problem}.")
    if all(entry.is_dir() for entry in entries):
        raise _refused("The ZIP archive has no files.")
    _check_places(entries, directory_start)
    if sum(entry.file_size for entry in entries) > MAX_UNPACKED_BYTES:
        largest = max(entries, key=lambda entry: entry.file_size)
        raise _refused(
            f"The ZIP archive has more than {MAX_UNPACKED_BYTES} bytes when unpacked; its largest entry,"
            f" {largest.filename[:200]!r}, has {largest.file_size}."
        )


def _find_problem(entry: zipfile.ZipInfo) -> str | None:
    """Return what is wrong with an entry by itself, as the end of a sentence."""
    name = entry.orig_filename.replace("\\", "/")
    mode = entry.external_attr >> 16
    if entry.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if not name or "\0" in name:
        return "has no name, or one with a NUL character"
    if name.startswith("/") or name[1:2] == ":":
        return "has an absolute path"
    if ".." in name.split("/"):
        return "has '..' in its path"
    if stat.S_ISLNK(mode):
        return "is a link: put the file itself into the ZIP"
    if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
        return "is neither a file nor a folder"
    if entry.compress_type not in _METHODS:
        return "is compressed in a way that not every unzip knows: use the usual one (deflate)"
    if entry.file_size > max(RATIO_APPLIES_BYTES, MAX_RATIO * entry.compress_size):
        return f"is more than {MAX_RATIO} times larger when unpacked"
    return None


def _check_places(entries: list[zipfile.ZipInfo], directory_start: int) -> None:
    """See that each entry ends where the next begins, or before: else bytes are missing, or used twice."""
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < 0:
            raise zipfile.BadZipFile
        if entry.header_offset < end:
            raise _refused(f"The ZIP archive's entry {entry.orig_filename[:200]!r} overlaps another.")
        end = entry.header_offset + _LOCAL_HEADER_BYTES + entry.compress_size
    if end > directory_start:
        raise zipfile.BadZipFile


def _refused(message: str) -> InvalidRequest:
    return InvalidRequest(message, details=[{"field": "file", "message": message}])
