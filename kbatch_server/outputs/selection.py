"""Selects the files in a job's tar that are its results: follows links, joins folders, applies limits.

Pure. The tar may contain one folder, that of the results, or two, which its ``folders`` name: ``outputs/…``
(from ``$KBATCH_OUTPUT_DIR``) and ``workdir/…`` (new and changed files of the working folder). A tar with two
may also have a file ``lists/omitted``, in which the packer lists files that it omitted because of the limits.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import TypeVar

from ..models.results import OmittedFile, OutputFile, OutputLimits
from .tarindex import TarIndex

OUTPUTS, WORKDIR = "outputs", "workdir"
"""The names of folders in a tar; of two files of the same path that of the first counts."""

OMITTED_LIST = "lists/omitted"
"""Its first line has ``FILES BYTES`` of all omitted files, the others have ``SIZE PATH`` of the first
ones."""

MAX_NAMED = 1000
"""The maximum number of omitted files to name; the others are only counted."""

MAX_LIST_BYTES = 256 * 1024

ENTRIES_FOR_EACH_FILE = 10
"""The maximum number of entries per allowed file: folders, links, long names."""

MAX_HOPS = 40
"""The maximum number of links on the way to a file, as on Linux."""

MAX_STEPS = 1_000_000
"""The maximum number of path parts to follow for all links of one tar: malicious ones may have long paths."""


Entry = TypeVar("Entry")


@dataclass(slots=True)
class Omitted:
    """The files omitted because of the limits: their number and size, and the first ones by path."""

    files: int = 0
    size: int = 0
    named: list[OmittedFile] = field(default_factory=list)

    def add(self, file: OmittedFile) -> None:
        """Count a file, whose path comes after those of the others."""
        self.files += 1
        self.size += file.size
        if len(self.named) < MAX_NAMED:
            self.named.append(file)

    def joined(self, other: Omitted) -> Omitted:
        """Return the sum of both."""
        named = nsmallest(MAX_NAMED, [*self.named, *other.named])
        return Omitted(self.files + other.files, self.size + other.size, named)


@dataclass(slots=True)
class Selection:
    """The files that are results, by path, and the omitted ones."""

    files: list[OutputFile]
    omitted: Omitted
    left_out: int = 0
    """Entries that are neither readable files nor links to such."""


def select(index: TarIndex, folders: Mapping[str, str], limits: OutputLimits) -> Selection:
    """Return the results in a tar; if they exceed the limits, the first ones by path that fit.

    ``folders`` has the original absolute paths of the tar's folders, by name; it is empty for a tar of one
    folder.
    """
    tree = _Tree(index, folders or {"": ""})
    files: dict[str, OutputFile] = {}
    for top in [folders[name] for name in (WORKDIR, OUTPUTS) if name in folders] or [""]:
        files |= tree.find_linked(top, ENTRIES_FOR_EACH_FILE * limits.max_files - len(files))
        files |= tree.find_files(top)
    selection = Selection([], Omitted(), index.left_out + tree.left_out)
    size = 0
    for path in sorted(files):
        file = files[path]
        if len(selection.files) < limits.max_files and size + file.size <= limits.max_bytes:
            selection.files.append(file)
            size += file.size
        else:
            selection.omitted.add(OmittedFile(path, file.size))
    return selection


class LinkResolver:
    """Resolves links to their final targets; ``read_link`` returns None for a path that is not a link."""

    def __init__(self, read_link: Callable[[str], str | None]) -> None:
        self._read_link = read_link
        self._steps = MAX_STEPS

    def resolve(self, path: str) -> str | None:
        """Return an absolute path without links, or None for a loop or too many links."""
        left, done, hops = path.split("/")[:0:-1], list[str](), 0
        while left:
            self._steps -= 1 + len(done)
            part = left.pop()
            if part == "..":
                del done[-1:]
            elif part not in ("", "."):
                done.append(part)
                target = self._read_link("/" + "/".join(done))
                if target is None:
                    continue
                hops += 1
                if hops > MAX_HOPS or self._steps < 0:
                    return None
                done = [] if target.startswith("/") else done[:-1]
                left += target.split("/")[::-1]
        return "".join(f"/{part}" for part in done)


class _Tree:
    """The files and links of a tar under their original absolute paths."""

    def __init__(self, index: TarIndex, folders: Mapping[str, str]) -> None:
        self._folders = folders
        self.left_out = 0
        self._files = dict(self._make_absolute(index.files))
        self._links = dict(self._make_absolute(index.links))
        self._sorted = sorted(self._files)
        self._resolver = LinkResolver(self._links.get)

    def _make_absolute(self, entries: Mapping[str, Entry]) -> Iterator[tuple[str, Entry]]:
        for path, each in entries.items():
            name, _, rest = path.partition("/") if "" not in self._folders else ("", "", path)
            if name in self._folders and rest:
                yield f"{self._folders[name]}/{rest}", each
            elif path != OMITTED_LIST:
                self.left_out += 1

    def find_files(self, top: str) -> dict[str, OutputFile]:
        """Return the regular files of a folder, by their paths in it."""
        return {path[len(top) + 1 :]: self._show(path, path, top) for path in self._list_below(top)}

    def find_linked(self, top: str, most: int) -> dict[str, OutputFile]:
        """Return the files that the links of a folder lead to, under the links' paths; at most ``most``."""
        found: dict[str, OutputFile] = {}
        for path in sorted(self._links):
            if not path.startswith(f"{top}/"):
                continue
            target = self._resolve(path)
            if target is None:
                self.left_out += 1
                continue
            before = len(found)
            for each in [target] if target in self._files else self._list_below(target):
                if len(found) >= most:
                    return found
                file = self._show(each, path + each[len(target) :], top)
                found[file.path] = file
            # whoever packed it may have put what the link leads to in its own place
            self.left_out += len(found) == before and next(self._list_below(path), None) is None
        return found

    def _show(self, path: str, shown: str, top: str) -> OutputFile:
        return self._files[path]._replace(path=shown[len(top) + 1 :])

    def _list_below(self, folder: str) -> Iterator[str]:
        for at in range(bisect_left(self._sorted, f"{folder}/"), len(self._sorted)):
            if not self._sorted[at].startswith(f"{folder}/"):
                return
            yield self._sorted[at]

    def _resolve(self, path: str) -> str | None:
        """Return the final target of a link, or None if it is outside or the links form a loop."""
        found = self._resolver.resolve(path)
        is_inside = any(f"{found}/".startswith(f"{top}/") for top in self._folders.values())
        return found if is_inside else None


def read_omitted(text: str) -> Omitted:
    """Return the contents of an ``OMITTED_LIST``, ignoring invalid parts."""
    first, *lines = text.split("\n")
    files, _, size = first.partition(" ")
    omitted = Omitted(_read_number(files), _read_number(size))
    for line in lines[:MAX_NAMED]:
        number, _, path = line.partition(" ")
        if path:
            omitted.named.append(OmittedFile(path[:1000], _read_number(number)))
    return omitted


def _read_number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else 0


def format_omitted(omitted: Omitted) -> str:
    """Return the list that ``read_omitted`` reads, without names that contain a line break."""
    lines, room = [f"{omitted.files} {omitted.size}"], MAX_LIST_BYTES
    for path, size in omitted.named:
        room -= len(path.encode("utf-8", "surrogateescape")) + 24
        if room < 0:
            break
        if "\n" not in path:
            lines.append(f"{size} {path}")
    return "\n".join(lines) + "\n"
