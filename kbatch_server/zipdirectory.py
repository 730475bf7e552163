"""Reads a ZIP's directory, which stands at its end and says of each entry its name, sizes, kind and place.

What it says is judged here, so that a bomb is refused before a byte of it is inflated; whether the
entries are what the directory says is for ``zipcontent``.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from dataclasses import dataclass

from .errors import InvalidRequest

MAX_ENTRIES = 100_000
"""Files and folders in one ZIP: unpacking more takes a job longer than most jobs take."""

MAX_DIRECTORY_BYTES = 16 * 2**20
"""What is held in memory of a ZIP at most: 100,000 entries with names of 120 characters."""

MAX_UNPACKED_BYTES = 10 * 2**30
"""Bytes that a ZIP may have when unpacked."""

MAX_RATIO = 200
"""How much smaller a large file may be in the ZIP. Code and data are 3 to 20 times smaller; a bomb, 1000."""

RATIO_APPLIES_BYTES = 100 * 2**20
"""The size from which on MAX_RATIO holds: an empty log of a few megabytes harms nobody."""

TOTAL_RATIO_APPLIES_BYTES = 2**30
"""The size of all that is unpacked from which on MAX_RATIO holds for the whole ZIP."""

MAX_DEPTH = 100
"""How deep folders may be inside each other."""

MAX_NAME_BYTES = 255
"""The longest name that a file can have on Linux."""

MAX_PATH_BYTES = 2000
"""The longest path: Linux has 4096, and a job's code stands in a folder that has a path too."""

MAX_END_BYTES = 16_000
"""How far from its end a ZIP may say where its directory is: busybox looks no further."""

_ENCRYPTED = 0x1 | 0x40  # flag_bits: encrypted, strongly encrypted
_LOCAL_HEADER_BYTES = 30
_ENTRY_SIGNATURE = b"PK\x01\x02"
_END = struct.Struct("<10xH4xL")  # of what stands at the end: how many entries, where their directory begins
_END_SIGNATURE = b"PK\x05\x06"
_ZIP64_END_SIGNATURE = b"PK\x06\x06"
_LENGTHS = struct.Struct("<28xHHH12x")  # of an entry in the directory: of its name, extra field and comment
_IS_IN_ZIP64 = 0xFFFFFFFF
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


@dataclass(frozen=True, slots=True)
class Directory:
    """The entries of a ZIP, by their place in it, and where the directory itself begins."""

    entries: list[zipfile.ZipInfo]
    start: int


class NeedsMore(Exception):
    """The directory begins before what was read: read from ``start`` on."""

    def __init__(self, start: int) -> None:
        super().__init__(start)
        self.start = start


def refused(message: str) -> InvalidRequest:
    """Return the error of a ZIP that is not taken."""
    return InvalidRequest(message, details=[{"field": "file", "message": message}])


def refused_entry(name: str, problem: str) -> InvalidRequest:
    """Return the error of one entry; ``problem`` is the end of a sentence."""
    shown = name if len(name) <= 200 else f"{name[:200]}…"
    return refused(f"The ZIP archive's entry {shown!r} {problem}.")


def read_directory(tail: bytes, start: int) -> Directory:
    """Return the directory of the ZIP that ends in ``tail``, whose first byte is the ZIP's byte ``start``.

    Raises NeedsMore, InvalidRequest that names the entry, and BadZipFile for what is none. It blocks: for
    100,000 entries it takes seconds.
    """
    # before zipfile makes an object of each; what is not the directory can only make it more
    if tail.count(_ENTRY_SIGNATURE) > MAX_ENTRIES:
        raise refused(f"The ZIP archive has more than {MAX_ENTRIES:,} entries.")
    try:
        with zipfile.ZipFile(_Tail(tail, start)) as archive:
            entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
            directory = Directory(entries, archive.start_dir)
        _check_end(tail, start, directory)
    except UnicodeDecodeError as error:
        raise refused_entry(error.object.decode(errors="replace"), "has a name that is not UTF-8") from None
    except (NotImplementedError, ValueError, OverflowError, struct.error):
        raise zipfile.BadZipFile from None
    for entry in entries:
        for name in {entry.orig_filename, entry.filename}:
            problem = _find_problem_of_name(name)
            if problem:
                raise refused_entry(name, problem)
        problem = _find_problem(entry)
        if problem:
            raise refused_entry(entry.orig_filename, problem)
    if all(entry.is_dir() for entry in entries):
        raise refused("The ZIP archive has no files.")
    _check_tree(entries)
    _check_places(directory)
    _check_total(entries, start + len(tail))
    return directory


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
            raise NeedsMore(self._position)
        begin = self._position - self._start
        piece = self._data[begin:] if size is None or size < 0 else self._data[begin : begin + size]
        self._position += len(piece)
        return piece


def _check_end(tail: bytes, start: int, directory: Directory) -> None:
    """See that what stands at the end says the same of the directory as was found of it.

    zipfile finds one that was moved, or that a wrong length hides a part of; other unpackers do not.
    """
    end = max(0, tail.rfind(_END_SIGNATURE))
    count, said = _END.unpack_from(tail, end)
    if said < directory.start:
        raise refused("The ZIP archive has something else before it, which not every unzip passes over.")
    if said not in {directory.start, _IS_IN_ZIP64} or count not in {len(directory.entries), 0xFFFF}:
        raise zipfile.BadZipFile
    at = directory.start - start
    for _ in directory.entries:
        at += _LENGTHS.size + sum(_LENGTHS.unpack_from(tail, at))
    if at != end and tail[at : at + 4] != _ZIP64_END_SIGNATURE:
        raise zipfile.BadZipFile
    if len(tail) - end > MAX_END_BYTES:
        raise refused(f"The ZIP archive has a comment of more than {MAX_END_BYTES:,} bytes.")


def _find_problem_of_name(raw: str) -> str | None:
    """Return what is wrong with an entry's name, as the end of a sentence."""
    name = raw.replace("\\", "/")
    if not name or "\0" in name:
        return "has no name, or one with a NUL character"
    if name.startswith("/") or name[1:2] == ":":
        return "has an absolute path"
    parts = name.split("/")
    if ".." in parts:
        return "has '..' in its path"
    if "\\" in raw:
        return "has a backslash in its path: make the ZIP with '/' between folders"
    if len(parts) - 1 > MAX_DEPTH:
        return f"is more than {MAX_DEPTH} folders deep"
    if len(raw.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        return f"has too long a name: {MAX_NAME_BYTES} bytes is the limit, and {MAX_PATH_BYTES} with folders"
    return None


def _find_problem(entry: zipfile.ZipInfo) -> str | None:
    """Return what else is wrong with an entry by itself, as the end of a sentence."""
    mode = entry.external_attr >> 16
    if entry.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if stat.S_ISLNK(mode):
        return "is a link: put the file itself into the ZIP"
    if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
        return "is neither a file nor a folder"
    if entry.compress_type not in _METHODS:
        return "is compressed in a way that not every unzip knows: use the usual one (deflate)"
    if entry.file_size > max(RATIO_APPLIES_BYTES, MAX_RATIO * entry.compress_size):
        return f"is more than {MAX_RATIO} times larger when unpacked"
    return None


def _check_tree(entries: list[zipfile.ZipInfo]) -> None:
    """See that no two entries want the same place: which of them a job finds would be chance."""
    files: set[tuple[str, ...]] = set()
    folders: set[tuple[str, ...]] = {()}
    for entry in entries:
        path = tuple(part for part in entry.filename.split("/") if part not in {"", "."})
        if entry.is_dir():
            folders.add(path)
        elif path in files:
            raise refused_entry(entry.orig_filename, "is there twice")
        else:
            files.add(path)
        while path and (path := path[:-1]) not in folders:
            folders.add(path)
    for entry in entries:
        path = tuple(part for part in entry.filename.split("/") if part not in {"", "."})
        if path in files and path in folders:
            raise refused_entry(entry.orig_filename, "is a file, and a folder as well")


def _check_places(directory: Directory) -> None:
    """See that each entry ends where the next begins, or before: else bytes are missing, or used twice."""
    end = 0
    for entry in directory.entries:
        if entry.header_offset < 0:
            raise zipfile.BadZipFile
        if entry.header_offset < end:
            raise refused_entry(entry.orig_filename, "overlaps another")
        end = entry.header_offset + _LOCAL_HEADER_BYTES + entry.compress_size
    if end > directory.start:
        raise zipfile.BadZipFile


def _check_total(entries: list[zipfile.ZipInfo], size: int) -> None:
    """See that what is unpacked of a ZIP of ``size`` bytes is not too much in all."""
    total = sum(entry.file_size for entry in entries)
    largest = max(entries, key=lambda entry: entry.file_size)
    said = f"its largest entry, {largest.filename[:200]!r}, has {largest.file_size}"
    if total > MAX_UNPACKED_BYTES:
        raise refused(f"The ZIP archive has more than {MAX_UNPACKED_BYTES} bytes when unpacked; {said}.")
    if total > max(TOTAL_RATIO_APPLIES_BYTES, MAX_RATIO * size):
        raise refused(f"The ZIP archive is more than {MAX_RATIO} times larger when unpacked; {said}.")
