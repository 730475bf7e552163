"""Reads the directory at the end of a ZIP, which has the name, sizes, kind and position of each entry.

It checks the directory here, so that it can reject a bomb before inflating any of it; ``zipcontent`` checks
that the entries are what the directory says.

It does not use zipfile, which makes an object of a kilobyte for each entry before anything can be checked,
ignores contradictions, and names entries differently in different Python versions.
"""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidRequest
from .zipnames import IS_UTF8, decode_name, has_unicode_path, is_litter, iterate_extra, use_slashes
from .ziptree import BadTree, TooManyPlaces, Tree

MAX_ENTRIES = 100_000
"""The maximum number of files and folders in one ZIP, including folders that only appear in the paths of
others. Unpacking more takes a job longer than most jobs run."""

MAX_DIRECTORY_BYTES = 16 * 2**20
"""The maximum size of a directory, which is held in memory: 100,000 entries with names of 120 characters."""

MAX_UNPACKED_BYTES = 10 * 2**30
"""The maximum size of a ZIP's contents in bytes."""

MAX_RATIO = 200
"""The maximum compression ratio of a large file. Code and data have 3 to 20; a bomb has 1000."""

RATIO_APPLIES_BYTES = 100 * 2**20
"""The size from which MAX_RATIO applies: an empty log of a few megabytes is harmless."""

TOTAL_RATIO_APPLIES_BYTES = 2**30
"""The total unpacked size from which MAX_RATIO applies to the whole ZIP."""

MAX_DEPTH = 100
"""The maximum depth of nested folders."""

MAX_NAME_BYTES = 255
"""The maximum length of a file's name on Linux."""

MAX_PATH_BYTES = 2000
"""The maximum length of a path. Linux allows 4096, and the folder of a job's code has a path too."""

MAX_LINK_BYTES = 2**20
"""The maximum size of the targets of all links together, which are held in memory."""

MAX_END_BYTES = 16_000
"""The maximum distance of the end record, which locates the directory, from the end of the ZIP: busybox looks
no further."""

ENCRYPTED = 0x1 | 0x40
"""Flags of an entry: encrypted, strongly encrypted."""

LOCAL_HEADER_BYTES = 30
IN_ZIP64, IN_ZIP64_16 = 0xFFFFFFFF, 0xFFFF
"""The placeholder for a number that is too large for its field."""

UNIX = 3
"""The system that created an entry, if it is Unix: then the entry has Unix permissions."""

_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ZIP64_FIELD = 0x0001
_ENTRY = struct.Struct("<4sBBHHHLLLLHHHHHLL")
_ENTRY_SIGNATURE = b"PK\x01\x02"
_END = struct.Struct("<4sHHHHLLH")
_END_SIGNATURE = b"PK\x05\x06"
_ZIP64_END = struct.Struct("<4sQHHLLQQQQ")
_ZIP64_END_SIGNATURE = b"PK\x06\x06"
_ZIP64_END_REST = _ZIP64_END.size - 12  # its size field does not count the first 12 bytes
_LOCATOR = struct.Struct("<4sLQL")
_LOCATOR_SIGNATURE = b"PK\x06\x07"


@dataclass(slots=True)
class ZipEntry:
    """One entry, according to the directory."""

    name: str
    """With ``/`` between folders, and at the end of a folder's name."""
    raw_name: bytes
    flags: int
    method: int
    crc: int
    compress_size: int
    size: int
    offset: int
    """The offset of the entry's local header."""
    mode: int
    """The kind and the permissions as in Unix; 0 if unknown."""
    modified: int
    """The time in MS-DOS format: 16 bits of time, and above them 16 of date."""
    is_odd: bool = False
    """Whether an unpacker that uses the bytes of the name would see a different name."""
    data_offset: int = 0
    """The offset of the entry's data; known after the content check."""

    @property
    def is_folder(self) -> bool:
        """Whether the entry is a folder."""
        return self.name.endswith("/")

    @property
    def is_link(self) -> bool:
        """Whether the entry is a symbolic link, whose content is its target."""
        return stat.S_ISLNK(self.mode)

    @property
    def is_left_out(self) -> bool:
        """Whether the entry is not unpacked."""
        return is_litter(self.name)


@dataclass(frozen=True, slots=True)
class Directory:
    """The entries of a ZIP in the order of their positions, their tree, and where the directory begins."""

    entries: list[ZipEntry]
    tree: Tree
    start: int

    @property
    def is_plain(self) -> bool:
        """Whether every unpacker produces the same, correct files from it."""
        return not any(entry.is_odd or entry.is_link or entry.is_left_out for entry in self.entries)

    @property
    def size(self) -> int:
        """Unpacked bytes of all entries."""
        return sum(entry.size for entry in self.entries)


class NeedsMore(Exception):
    """The directory begins before the bytes that were read: read from ``start`` on."""

    def __init__(self, start: int) -> None:
        super().__init__(start)
        self.start = start


def refused(message: str) -> InvalidRequest:
    """Return the error for a rejected ZIP."""
    return InvalidRequest(message, details=[{"field": "file", "message": message}])


def refused_entry(name: str, problem: str) -> InvalidRequest:
    """Return the error for one entry; ``problem`` is the end of a sentence."""
    shown = name if len(name) <= 200 else f"{name[:200]}…"
    return refused(f"The ZIP archive's entry {shown!r} {problem}.")


def read_directory(tail: bytes, start: int) -> Directory:
    """Return the directory of a ZIP from its last bytes ``tail``, which begin at the byte ``start``.

    Raises NeedsMore, InvalidRequest with the entry, and BadZipFile if this is no ZIP. It blocks: for 100,000
    entries it takes a second or two.
    """
    place = _find_directory(tail, start)
    entries: list[ZipEntry] = []
    tree = Tree(MAX_ENTRIES)
    link_bytes = 0
    for entry in _read_entries(memoryview(tail)[place.start - start :], place):
        problem = _find_problem(entry)
        if problem:
            raise refused_entry(entry.name, problem)
        entries.append(entry)
        link_bytes += entry.size if entry.is_link else 0
        if link_bytes > MAX_LINK_BYTES:
            raise refused(f"The targets of the links in the ZIP archive exceed {MAX_LINK_BYTES:,} bytes.")
        _add_to_tree(tree, entry)
    if all(entry.is_folder or entry.is_left_out for entry in entries):
        raise refused("The ZIP archive has no files.")
    entries.sort(key=lambda entry: entry.offset)
    directory = Directory(entries, tree, place.start)
    _check_places(directory)
    _check_total(entries, start + len(tail))
    return directory


@dataclass(frozen=True, slots=True)
class _Place:
    """The position and size of the directory, and its number of entries."""

    start: int
    size: int
    count: int


def _find_directory(tail: bytes, start: int) -> _Place:
    """Return the position of the directory from the end record; all its fields must agree.

    Unpackers differ in whether they find a directory that was moved, or that a wrong length hides in part.
    """
    at = tail.rfind(_END_SIGNATURE)
    if at < 0 or at + _END.size > len(tail):
        raise zipfile.BadZipFile
    _, _, _, _, count, size, offset, _ = _END.unpack_from(tail, at)
    end = start + at
    if tail[max(at - _LOCATOR.size, 0) : at].startswith(_LOCATOR_SIGNATURE):
        end -= _LOCATOR.size + _ZIP64_END.size
        if end < start:
            raise NeedsMore(max(end, 0))
        signature, rest, _, _, _, _, _, long_count, long_size, long_offset = _ZIP64_END.unpack_from(
            tail, end - start
        )
        if signature != _ZIP64_END_SIGNATURE or rest != _ZIP64_END_REST:
            raise zipfile.BadZipFile
        if count not in {long_count, IN_ZIP64_16} or not {size, offset} <= {long_size, long_offset, IN_ZIP64}:
            raise zipfile.BadZipFile
        count, size, offset = long_count, long_size, long_offset
    if end - size < 0:
        raise zipfile.BadZipFile
    if offset < end - size:
        raise refused(
            "The ZIP archive has data before its beginning, which some unzip programs do not accept."
        )
    if offset != end - size:
        raise zipfile.BadZipFile
    if len(tail) - at > MAX_END_BYTES:
        raise refused(f"The ZIP archive has a comment of more than {MAX_END_BYTES:,} bytes.")
    if count > MAX_ENTRIES:
        raise refused(f"The ZIP archive has more than {MAX_ENTRIES:,} entries.")
    if offset < start:
        raise NeedsMore(offset)
    return _Place(offset, size, count)


def _read_entries(data: memoryview, place: _Place) -> Iterator[ZipEntry]:
    """Yield the entries of a directory, which must fill it; raises BadZipFile and InvalidRequest."""
    at = 0
    for _ in range(place.count):
        if at + _ENTRY.size > place.size or data[at : at + 4] != _ENTRY_SIGNATURE:
            raise zipfile.BadZipFile
        fields = _ENTRY.unpack_from(data, at)
        lengths = fields[10:13]
        end = at + _ENTRY.size + sum(lengths)
        if end > place.size:
            raise zipfile.BadZipFile
        name_end = at + _ENTRY.size + lengths[0]
        yield _make_entry(
            fields, bytes(data[at + _ENTRY.size : name_end]), bytes(data[name_end : name_end + lengths[1]])
        )
        at = end
    if at != place.size:
        raise zipfile.BadZipFile


def _make_entry(fields: tuple[Any, ...], raw: bytes, extra: bytes) -> ZipEntry:
    _, _, system, _, flags, method, modified, crc, compress_size, size, *_, attributes, offset = fields
    try:
        name = decode_name(raw, flags=flags, extra=extra)
    except UnicodeDecodeError:
        raise refused_entry(raw.decode(errors="replace"), "has a name that is not UTF-8") from None
    slashed = use_slashes(name, system=system)
    if problem := _find_problem_of_name(name, slashed):
        raise refused_entry(name, problem)
    if IN_ZIP64 in (size, compress_size, offset):
        size, compress_size, offset = _read_zip64(extra, size, compress_size, offset)
    return ZipEntry(
        name=slashed,
        raw_name=raw,
        flags=flags,
        method=method,
        crc=crc,
        compress_size=compress_size,
        size=size,
        offset=offset,
        mode=attributes >> 16,
        modified=modified,
        is_odd=slashed.encode() != raw or not (flags & IS_UTF8 or raw.isascii()) or has_unicode_path(extra),
    )


def _read_zip64(extra: bytes, *numbers: int) -> list[int]:
    """Return the numbers of an entry, with those that are too large for 32 bits from its extra field."""
    long = next((content for kind, content in iterate_extra(extra) if kind == _ZIP64_FIELD), b"")
    wanted = numbers.count(IN_ZIP64)
    if len(long) < 8 * wanted:
        raise zipfile.BadZipFile
    found = iter(struct.unpack_from(f"<{wanted}Q", long))
    return [next(found) if number == IN_ZIP64 else number for number in numbers]


def _find_problem_of_name(name: str, slashed: str) -> str | None:
    """Return the problem with an entry's name, as the end of a sentence, or None.

    ``slashed`` is the name for unpacking.
    """
    if not name or "\0" in name:
        return "has no name, or one with a NUL character"
    anywhere = name.replace("\\", "/")
    if anywhere.startswith("/") or name[1:2] == ":":
        return "has an absolute path"
    parts = anywhere.split("/")
    if ".." in parts:
        return "has '..' in its path"
    if "\\" in slashed:
        return "has a backslash in its path: make the ZIP with '/' between folders"
    if len(parts) - 1 > MAX_DEPTH:
        return f"is more than {MAX_DEPTH} folders deep"
    if len(slashed.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        return f"has too long a name: the limit is {MAX_NAME_BYTES} bytes, {MAX_PATH_BYTES} with folders"
    if all(part in {"", "."} for part in parts) and not slashed.endswith("/"):
        return "has no name"
    return None


def _find_problem(entry: ZipEntry) -> str | None:
    """Return any other problem of a single entry, as the end of a sentence, or None."""
    if entry.flags & ENCRYPTED:
        return "is encrypted"
    if stat.S_IFMT(entry.mode) not in {0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}:
        return "is neither a file, a folder nor a link"
    if entry.is_link and (entry.is_folder or entry.size > MAX_PATH_BYTES):
        return f"is a link that cannot be read, or is longer than {MAX_PATH_BYTES} bytes"
    if entry.method not in _METHODS:
        return "has a compression method that some unzip programs do not know: use deflate"
    if entry.size > max(RATIO_APPLIES_BYTES, MAX_RATIO * entry.compress_size):
        return f"is more than {MAX_RATIO} times larger when unpacked"
    return None


def _add_to_tree(tree: Tree, entry: ZipEntry) -> None:
    """Reject two entries with the same path: which of them a job would find is chance."""
    if entry.is_left_out:
        return
    add = tree.add_folder if entry.is_folder else tree.add_link if entry.is_link else tree.add_file
    try:
        add(entry.name)
    except BadTree as error:
        raise refused_entry(error.path, str(error)) from None
    except TooManyPlaces:
        raise refused(
            f"The ZIP archive has more than {MAX_ENTRIES:,} files and folders, including those in paths."
        ) from None


def _check_places(directory: Directory) -> None:
    """Check that entries do not overlap and end before the directory; otherwise the ZIP is damaged."""
    end = 0
    for entry in directory.entries:
        if entry.offset < end:
            raise refused_entry(entry.name, "overlaps another")
        end = entry.offset + LOCAL_HEADER_BYTES + entry.compress_size
    if end > directory.start:
        raise zipfile.BadZipFile


def _check_total(entries: list[ZipEntry], size: int) -> None:
    """Check that the contents of a ZIP of ``size`` bytes are not too large in total."""
    total = sum(entry.size for entry in entries)
    largest = max(entries, key=lambda entry: entry.size)
    said = f"its largest entry, {largest.name[:200]!r}, has {largest.size}"
    if total > MAX_UNPACKED_BYTES:
        raise refused(f"The ZIP archive has more than {MAX_UNPACKED_BYTES} bytes when unpacked; {said}.")
    if total > max(TOTAL_RATIO_APPLIES_BYTES, MAX_RATIO * size):
        raise refused(f"The ZIP archive is more than {MAX_RATIO} times larger when unpacked; {said}.")
