"""Reads a ZIP's directory, which stands at its end and says of each entry its name, sizes, kind and place.

What it says is judged here, so that a bomb is refused before a byte of it is inflated; whether the
entries are what the directory says is for ``zipcontent``.

It is read by hand, not by zipfile: that makes an object of a kilobyte for each entry before anything can be
judged, passes over what contradicts itself, and names entries differently from one Python to the next.
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
"""Files and folders in one ZIP, those included that only the paths of others name: unpacking more takes a job
longer than most jobs take."""

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

MAX_LINK_BYTES = 2**20
"""What all links of a ZIP may say together of where they lead: they are held in memory."""

MAX_END_BYTES = 16_000
"""How far from its end a ZIP may say where its directory is: busybox looks no further."""

ENCRYPTED = 0x1 | 0x40
"""In an entry's flags: encrypted, strongly encrypted."""

LOCAL_HEADER_BYTES = 30
IN_ZIP64, IN_ZIP64_16 = 0xFFFFFFFF, 0xFFFF
"""What stands in the place of a number that is too large for it."""

UNIX = 3
"""The system that an entry was made on, where it says so: its rights are those of Unix then."""

_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ZIP64_FIELD = 0x0001
_ENTRY = struct.Struct("<4sBBHHHLLLLHHHHHLL")
_ENTRY_SIGNATURE = b"PK\x01\x02"
_END = struct.Struct("<4sHHHHLLH")
_END_SIGNATURE = b"PK\x05\x06"
_ZIP64_END = struct.Struct("<4sQHHLLQQQQ")
_ZIP64_END_SIGNATURE = b"PK\x06\x06"
_ZIP64_END_REST = _ZIP64_END.size - 12  # it says its own size without what stands up to there
_LOCATOR = struct.Struct("<4sLQL")
_LOCATOR_SIGNATURE = b"PK\x06\x07"


@dataclass(slots=True)
class Entry:
    """One entry, as the directory says it is."""

    name: str
    """With ``/`` between folders, and at the end of a folder's."""
    raw_name: bytes
    flags: int
    method: int
    crc: int
    compress_size: int
    size: int
    offset: int
    """Where its local header begins."""
    mode: int
    """Its kind and rights as Unix has them; 0 where they are not known."""
    modified: int
    """Its time, as MS-DOS has it: 16 bits of time, and above them 16 of date."""
    is_odd: bool = False
    """Whether an unpacker that goes by the bytes of its name would call it otherwise."""
    data_offset: int = 0
    """Where its data begins; known when the content has been followed."""

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.name.endswith("/")

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link, which has its target as content."""
        return stat.S_ISLNK(self.mode)

    @property
    def is_left_out(self) -> bool:
        """Whether it is not unpacked."""
        return is_litter(self.name)


@dataclass(frozen=True, slots=True)
class Directory:
    """The entries of a ZIP, by their place in it, what they unpack to, and where the directory begins."""

    entries: list[Entry]
    tree: Tree
    start: int

    @property
    def is_plain(self) -> bool:
        """Whether every unpacker makes the same of it, and that is what it should."""
        return not any(entry.is_odd or entry.is_link or entry.is_left_out for entry in self.entries)

    @property
    def size(self) -> int:
        """Bytes of all entries when unpacked."""
        return sum(entry.size for entry in self.entries)


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
    100,000 entries it takes a second or two.
    """
    place = _find_directory(tail, start)
    entries: list[Entry] = []
    tree = Tree(MAX_ENTRIES)
    link_bytes = 0
    for entry in _read_entries(memoryview(tail)[place.start - start :], place):
        problem = _find_problem(entry)
        if problem:
            raise refused_entry(entry.name, problem)
        entries.append(entry)
        link_bytes += entry.size if entry.is_link else 0
        if link_bytes > MAX_LINK_BYTES:
            raise refused(f"The ZIP archive has links of more than {MAX_LINK_BYTES:,} bytes.")
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
    """Where the directory is, and how many entries it has."""

    start: int
    size: int
    count: int


def _find_directory(tail: bytes, start: int) -> _Place:
    """Return where the directory is, by what stands at the end; all that is said of it must agree.

    Some unpackers find one that was moved, or that a wrong length hides a part of; others do not.
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
        raise refused("The ZIP archive has data before it, which some unzip programs do not accept.")
    if offset != end - size:
        raise zipfile.BadZipFile
    if len(tail) - at > MAX_END_BYTES:
        raise refused(f"The ZIP archive has a comment of more than {MAX_END_BYTES:,} bytes.")
    if count > MAX_ENTRIES:
        raise refused(f"The ZIP archive has more than {MAX_ENTRIES:,} entries.")
    if offset < start:
        raise NeedsMore(offset)
    return _Place(offset, size, count)


def _read_entries(data: memoryview, place: _Place) -> Iterator[Entry]:
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


def _make_entry(fields: tuple[Any, ...], raw: bytes, extra: bytes) -> Entry:
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
    return Entry(
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
    """Return the numbers of an entry, with those that are too large for their place from its extra field."""
    long = next((content for kind, content in iterate_extra(extra) if kind == _ZIP64_FIELD), b"")
    wanted = numbers.count(IN_ZIP64)
    if len(long) < 8 * wanted:
        raise zipfile.BadZipFile
    found = iter(struct.unpack_from(f"<{wanted}Q", long))
    return [next(found) if number == IN_ZIP64 else number for number in numbers]


def _find_problem_of_name(name: str, slashed: str) -> str | None:
    """Return what is wrong with an entry's name, as the end of a sentence.

    ``slashed`` is what it is unpacked as.
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
        return f"has too long a name: {MAX_NAME_BYTES} bytes is the limit, and {MAX_PATH_BYTES} with folders"
    if all(part in {"", "."} for part in parts) and not slashed.endswith("/"):
        return "has no name"
    return None


def _find_problem(entry: Entry) -> str | None:
    """Return what else is wrong with an entry by itself, as the end of a sentence."""
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


def _add_to_tree(tree: Tree, entry: Entry) -> None:
    """See that no two entries want the same place: which of them a job finds would be chance."""
    if entry.is_left_out:
        return
    add = tree.add_folder if entry.is_folder else tree.add_link if entry.is_link else tree.add_file
    try:
        add(entry.name)
    except BadTree as error:
        raise refused_entry(error.path, str(error)) from None
    except TooManyPlaces:
        raise refused(
            f"The ZIP archive has more than {MAX_ENTRIES:,} files and folders, those in its paths included."
        ) from None


def _check_places(directory: Directory) -> None:
    """See that each entry ends where the next begins, or before: else bytes are missing, or used twice."""
    end = 0
    for entry in directory.entries:
        if entry.offset < end:
            raise refused_entry(entry.name, "overlaps another")
        end = entry.offset + LOCAL_HEADER_BYTES + entry.compress_size
    if end > directory.start:
        raise zipfile.BadZipFile


def _check_total(entries: list[Entry], size: int) -> None:
    """See that what is unpacked of a ZIP of ``size`` bytes is not too much in all."""
    total = sum(entry.size for entry in entries)
    largest = max(entries, key=lambda entry: entry.size)
    said = f"its largest entry, {largest.name[:200]!r}, has {largest.size}"
    if total > MAX_UNPACKED_BYTES:
        raise refused(f"The ZIP archive has more than {MAX_UNPACKED_BYTES} bytes when unpacked; {said}.")
    if total > max(TOTAL_RATIO_APPLIES_BYTES, MAX_RATIO * size):
        raise refused(f"The ZIP archive is more than {MAX_RATIO} times larger when unpacked; {said}.")
