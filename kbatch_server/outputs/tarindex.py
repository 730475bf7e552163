"""Finds the files in a tar while it streams through, from its headers alone; it skips the contents.

The standard library's ``TarInfo.frombuf`` decodes each header block. The rest is not ``TarFile``, because
that reads by itself: for a body that arrives piece by piece, it would occupy a thread all the time. It also
limits neither the size of an extended header, nor the number of members that it remembers, nor
(CVE-2025-8194, Python before 3.13.6) how often it reads the same block. This module looks at each byte a
bounded number of times.
"""

from __future__ import annotations

import re
import sys
import tarfile
from dataclasses import dataclass, field

from ..models.results import OmittedFile, OutputFile

BLOCK = 512

MAX_HEADER_BYTES = 64 * 1024
"""The maximum size of an extended header: a long name, a time. No system creates longer names."""

MAX_PATH_LENGTH = 1000
"""The maximum length of a path in characters: a list of the files has all paths in memory."""

MAX_TIME = 253402300799
"""The last second of the year 9999: a job can set any number as a file's time."""

# in the header of a sparse file of GNU tar: whether more of its map follows, and in each block of that
_MAP_BEGINS, _MAP_GOES_ON = 482, 504

_PAX = frozenset({tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE})
_LONG = frozenset({tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, *_PAX})
_WITHOUT_CONTENT = frozenset(
    {
        tarfile.LNKTYPE,
        tarfile.SYMTYPE,
        tarfile.DIRTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
    }
)
_ZEROS = bytes(BLOCK)
_PLAIN = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE})

_KEYWORDS = frozenset({"path", "linkpath", "size", "mtime"})
"""The keywords of an extended header that matter here; it may have any number of others."""
_SPARSE = "GNU.sparse"

# the standard's "%d %s=%s\n": https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html
_RECORD_LENGTH = re.compile(rb"([0-9]{1,20}) ")
_NUMBER = re.compile(r"(-?[0-9]{1,18})(?:\.|$)")
_MIN_RECORD_BYTES = len(b"5 a=\n")


OMITTED_LIST = "lists/omitted"
"""Its first line has ``FILES BYTES`` of all omitted files, the others have ``SIZE PATH`` of the first
ones."""

MAX_NAMED = 1000
"""The maximum number of omitted files to name; the others are only counted."""

MAX_LIST_BYTES = 256 * 1024

BYTES_FOR_EACH_ENTRY = 80
"""The memory for paths and targets, for each entry that is allowed, as far as they are remembered."""

LEAST_BYTES = 2**20
"""The memory for those however few entries are allowed."""

ENTRY_BYTES = 200
"""The memory that a remembered entry takes beside its path and target, approximately."""


class BadTar(ValueError):
    """The data is not a tar, or an incomplete one."""


class TooManyEntries(Exception):
    """The tar has many times more entries than the allowed number of files."""


@dataclass(slots=True)
class TarIndex:
    """The contents of a tar, up to where it was fed.

    Only regular files count, and hard links to earlier ones; symbolic links are noted. Folders are ignored.
    Anything else (devices, sparse files, paths that lead outside) counts as left out. Several tars may follow
    each other, as for ``tar --ignore-zeros``.

    The memory for all paths is limited, and half of it for links: a file that exceeds the limit is counted as
    omitted, a link as left out. A link is left out at once if it leads out of all of ``folders``.
    """

    max_entries: int
    folders: tuple[str, ...] = ()
    """The original absolute paths of the tar's folders; empty if they are unknown."""
    files: dict[str, OutputFile] = field(default_factory=dict)
    """By path; a later file replaces an earlier one, as when unpacking."""
    links: dict[str, str] = field(default_factory=dict)
    """The targets of symbolic links, unresolved, by the links' paths."""
    left_out: int = 0
    omitted_files: int = 0
    omitted_size: int = 0
    omitted_named: list[OmittedFile] = field(default_factory=list)
    """Some of the omitted files."""
    is_cut: bool = False
    """Whether something was left out or omitted because of the limit on memory."""
    is_complete: bool = False
    _bytes: int = 0
    _link_bytes: int = 0
    _named_bytes: int = 0
    _entries: int = 0
    _offset: int = 0
    _skip: int = 0
    _held: bytearray = field(default_factory=bytearray)
    _wanted: int = BLOCK
    _long: tarfile.TarInfo | None = None
    _is_in_map: bool = False
    _is_done: bool = False
    _next: dict[str, str] = field(default_factory=dict)

    def feed(self, chunk: bytes) -> None:
        """Take the next piece; raises BadTar and TooManyEntries."""
        view = memoryview(chunk)
        while view and not self._is_done:
            step = 0 if self._is_in_map else min(self._skip, len(view))
            if not step:
                step = min(self._wanted - len(self._held), len(view))
                self._held += view[:step]
            else:
                self._skip -= step
            self._offset += step
            view = view[step:]
            if len(self._held) == self._wanted:
                self._take_block()

    @property
    def least_size(self) -> int:
        """The minimum size of the tar in bytes, from the headers so far."""
        return self._offset + self._skip

    @property
    def max_bytes(self) -> int:
        """The maximum of memory for the paths and targets of all entries."""
        return LEAST_BYTES + BYTES_FOR_EACH_ENTRY * self.max_entries

    def finish(self) -> None:
        """Note the end of the data; raises BadTar if the tar is incomplete."""
        if not self.is_complete:
            raise BadTar("it is truncated")

    def _take_block(self) -> None:
        block, self._held = bytes(self._held), bytearray()
        if self._long is not None:
            return self._take_long(self._long, block)
        if self._is_in_map:
            self._is_in_map = bool(block[_MAP_GOES_ON])
            return None
        return self._take_header(block)

    def _take_header(self, block: bytes) -> None:
        self._entries += 1
        if self._entries > self.max_entries:
            raise TooManyEntries
        if block == _ZEROS:  # the end, or padding after it
            self.is_complete = True
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
        except tarfile.HeaderError as error:
            if self.is_complete:
                self._is_done = True  # what follows is no tar
                return
            raise BadTar(f"it has an invalid header: {error}") from None
        self.is_complete = False
        if info.type in _LONG:
            if not 0 < info.size <= MAX_HEADER_BYTES:
                raise BadTar("it has an entry whose name is missing or too long")
            self._long, self._wanted = info, _padded(info.size)
        else:
            self._is_in_map = info.type == tarfile.GNUTYPE_SPARSE and bool(block[_MAP_BEGINS])
            self._take_entry(info)

    def _take_long(self, info: tarfile.TarInfo, block: bytes) -> None:
        self._long, self._wanted = None, BLOCK
        data = block[: info.size]
        if info.type == tarfile.GNUTYPE_LONGNAME:
            self._next["path"] = _decode(data.partition(b"\0")[0])
        elif info.type == tarfile.GNUTYPE_LONGLINK:
            self._next["linkpath"] = _decode(data.partition(b"\0")[0])
        else:
            self._next |= _read_pax(data)

    def _take_entry(self, info: tarfile.TarInfo) -> None:
        said, self._next = self._next, {}
        size = _read_int(said.get("size", str(info.size)))
        if size < 0:
            raise BadTar("it has an entry with a negative size")
        # as tarfile does: the others have no content, whatever their header says
        self._skip = 0 if info.type in _WITHOUT_CONTENT else _padded(size)
        if info.isdir() or info.type == tarfile.XGLTYPE:
            return
        path = clean_path(said.get("path", info.name))
        moment = _read_int(said["mtime"]) if "mtime" in said else int(info.mtime)
        moment = min(max(moment, 0), MAX_TIME)
        is_sparse = _SPARSE in said
        target = None
        if info.type == tarfile.LNKTYPE:
            target = self.files.get(clean_path(said.get("linkpath", info.linkname)) or "")
        if path is not None and target is not None:
            self._add(OutputFile(path, target.offset, target.size, moment))
        elif path is not None and info.type in _PLAIN and not is_sparse:
            self._add(OutputFile(path, self._offset, size, moment))
        elif path is not None and info.type == tarfile.SYMTYPE:
            self._add_link(path, said.get("linkpath", info.linkname)[:MAX_PATH_LENGTH])
        else:
            self.left_out += 1

    def _add(self, file: OutputFile) -> None:
        self._drop_link(file.path)
        is_new = self.files.pop(file.path, None) is None
        cost = _get_cost(file.path) if is_new else 0
        if self._bytes + cost > self.max_bytes and file.path != OMITTED_LIST:
            self._omit(OmittedFile(file.path, file.size))
            return
        self._bytes += cost
        self.files[file.path] = file

    def _omit(self, file: OmittedFile) -> None:
        self.is_cut = True
        self.omitted_files += 1
        self.omitted_size += file.size
        self._named_bytes += _get_cost(file.path)
        if len(self.omitted_named) < MAX_NAMED and self._named_bytes <= MAX_LIST_BYTES:
            self.omitted_named.append(file)

    def _add_link(self, path: str, target: str) -> None:
        self._drop_link(path)
        cost = _get_cost(path, target)
        if self._is_outside(target):
            self.left_out += 1
        elif self._bytes + cost > self.max_bytes or self._link_bytes + cost > self.max_bytes // 2:
            self.is_cut = True
            self.left_out += 1
        else:
            self._bytes += cost
            self._link_bytes += cost
            self.links[path] = target

    def _drop_link(self, path: str) -> None:
        target = self.links.pop(path, None)
        if target is not None:
            cost = _get_cost(path, target)
            self._bytes -= cost
            self._link_bytes -= cost

    def _is_outside(self, target: str) -> bool:
        """Whether an absolute target certainly is in none of the folders."""
        if not self.folders or not target.startswith("/") or ".." in target or "//" in target:
            return False
        return not any(f"{target}/".startswith(f"{folder}/") for folder in self.folders)


def _get_cost(*texts: str) -> int:
    return ENTRY_BYTES + sum(map(sys.getsizeof, texts))


def clean_path(path: str) -> str | None:
    """Return a path without ``./`` and the like, or None if it leads outside or is too long."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or "\0" in path or len(path) > MAX_PATH_LENGTH:
        return None
    return "/".join(parts) or None


def _read_pax(data: bytes) -> dict[str, str]:
    r"""Return the records of an extended header that matter here; raises BadTar.

    Each is ``"%d %s=%s\n"``, with the length of the whole record first.
    """
    records: dict[str, str] = {}
    start = 0
    while start < len(data) and data[start]:
        match = _RECORD_LENGTH.match(data, start)
        end = start + int(match[1]) if match else 0
        if match is None or not start + _MIN_RECORD_BYTES <= end <= len(data) or data[end - 1 : end] != b"\n":
            raise BadTar("it has an invalid extended header")
        keyword, equals, value = data[match.end() : end - 1].partition(b"=")
        if not keyword or not equals:
            raise BadTar("it has an invalid extended header")
        name = _decode(keyword)
        if name in _KEYWORDS:
            records[name] = _decode(value)
        elif name.startswith(_SPARSE):
            records[_SPARSE] = ""
        start = end
    return records


def _read_int(text: str) -> int:
    """Return the whole part of a number that may have a fraction; raises BadTar."""
    match = _NUMBER.match(text)
    if match is None:
        raise BadTar(f"it has an invalid number: {text[:20]!r}")
    return int(match[1])


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
