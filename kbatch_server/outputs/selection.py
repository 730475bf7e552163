"""Selects the files in a job's tar that are its results: follows links, joins folders, applies limits.

Pure. The tar may contain one folder, that of the results, or two, which its ``folders`` name: ``outputs/…``
(from ``$KBATCH_OUTPUT_DIR``) and ``workdir/…`` (new and changed files of the working folder). A tar with two
may also have a file ``lists/omitted``, in which the packer lists files that it omitted because of the limits.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import merge, nsmallest

from ..models.results import OmittedFile, OutputFile, OutputLimits
from .tarindex import ENTRY_BYTES, MAX_LIST_BYTES, MAX_NAMED, MAX_PATH_LENGTH, OMITTED_LIST, TarIndex

OUTPUTS, WORKDIR = "outputs", "workdir"
"""The names of folders in a tar; of two files of the same path that of the first counts."""

ENTRIES_FOR_EACH_FILE = 10
"""The maximum number of entries per allowed file: folders, links, long names."""

MAX_HOPS = 40
"""The maximum number of links on the way to a file, as on Linux."""

MAX_STEPS = 1_000_000
"""The maximum number of path parts to follow for all links of one tar: malicious ones may have long paths."""

Shown = tuple[str, OutputFile]
"""The path of a result, and the file of the tar that it is."""


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
    is_cut: bool = False
    """Whether the paths are too long together, so that not all of them were looked at."""


def select(index: TarIndex, folders: Mapping[str, str], limits: OutputLimits) -> Selection:
    """Return the results in a tar; if they exceed the limits, the first ones by path that fit.

    ``folders`` has the original absolute paths of the tar's folders, by name; it is empty for a tar of one
    folder.
    """
    tree = _Tree(index, folders or {"": ""}, most=ENTRIES_FOR_EACH_FILE * limits.max_files)
    sources: list[Iterable[Shown]] = []
    for name in [name for name in (WORKDIR, OUTPUTS) if name in folders] or [""]:
        sources += [tree.find_linked(name), tree.list_files(name)]
    selection = Selection([], Omitted(), index.left_out + tree.left_out, index.is_cut or tree.is_cut)
    size = 0
    for path, file in _merge(sources):
        if len(selection.files) < limits.max_files and size + file.size <= limits.max_bytes:
            selection.files.append(file._replace(path=path))
            size += file.size
        else:
            selection.omitted.add(OmittedFile(path, file.size))
    named = [OmittedFile(tree.show(each.path), each.size) for each in index.omitted_named]
    selection.omitted = Omitted(index.omitted_files, index.omitted_size, named).joined(selection.omitted)
    return selection


def _merge(sources: list[Iterable[Shown]]) -> Iterator[Shown]:
    """Yield the files of all sources, each by path, without those that a later source has, too."""

    def rank(number: int, source: Iterable[Shown]) -> Iterator[tuple[str, int, OutputFile]]:
        for path, file in source:
            yield path, -number, file

    last = None
    for path, _, file in merge(*(rank(number, source) for number, source in enumerate(sources))):
        if path != last:
            last = path
            yield path, file


class LinkResolver:
    """Finds the final targets of links. ``read_link`` returns the target of one link, or None for no link."""

    def __init__(self, read_link: Callable[[str], str | None]) -> None:
        self._read_link = read_link
        self._steps = MAX_STEPS

    def resolve(self, path: str) -> str | None:
        """Return an absolute path with all links followed, or None if the links form a loop."""
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
    """The files and links of a tar, found by their original absolute paths; none of these paths is kept."""

    def __init__(self, index: TarIndex, folders: Mapping[str, str], *, most: int) -> None:
        """Take the maximum number of files that links may lead to, too."""
        self._folders = folders
        self._prefixes = {name: f"{name}/" if name else "" for name in folders}
        self._files, self._links = index.files, index.links
        self._sorted, self._sorted_links = sorted(index.files), sorted(index.links)
        self._resolver = LinkResolver(self._read_link)
        self._most, self._room = most, index.max_bytes
        self.is_cut = False
        entries = (*self._sorted, *self._sorted_links)
        self.left_out = sum(1 for path in entries if not (self._is_in_folder(path) or path == OMITTED_LIST))

    def _is_in_folder(self, path: str) -> bool:
        return any(len(path) > len(each) and path.startswith(each) for each in self._prefixes.values())

    def show(self, path: str) -> str:
        """Return the path that a user sees of a file in the tar: that in its folder."""
        return path if "" in self._folders else path.partition("/")[2]

    def list_files(self, name: str) -> Iterator[Shown]:
        """Yield the regular files of a folder and their paths in it, by path."""
        prefix = self._prefixes[name]
        for path in self._list_prefixed(prefix):
            yield path[len(prefix) :], self._files[path]

    def find_linked(self, name: str) -> list[Shown]:
        """Return the files that the links of a folder lead to, under the links' paths, by path."""
        found: dict[str, OutputFile] = {}
        for path in self._sorted_links:
            if path.startswith(self._prefixes[name]) and not self._follow(name, path, found):
                self.is_cut = True
                break
        return sorted(found.items())

    def _follow(self, name: str, path: str, found: dict[str, OutputFile]) -> bool:
        """Add what a link leads to; return whether there is room for more."""
        link = path[len(self._prefixes[name]) :]
        target = self._resolve(f"{self._folders[name]}/{link}")
        if target is None:
            self.left_out += 1
            return True
        is_empty = True
        for each, below in self._list_target(target):
            self._most -= 1
            self._room -= sys.getsizeof(link) + len(below) + ENTRY_BYTES
            if self._most < 0 or self._room < 0:
                return False
            if len(link) + len(below) <= MAX_PATH_LENGTH:
                found[link + below] = self._files[each]
                is_empty = False
        # the packer may have packed the target under the path of the link
        self.left_out += is_empty and next(self._list_prefixed(f"{path}/"), None) is None
        return True

    def _list_target(self, target: str) -> Iterator[tuple[str, str]]:
        """Yield the file at an absolute path, or those below it: the path in the tar, and that below."""
        for path in self._locate(target):
            if path in self._files:
                yield path, ""
                return
        for name, top in self._folders.items():
            prefix = self._prefixes[name]
            if f"{target}/".startswith(f"{top}/"):
                inner = f"{prefix}{target[len(top) + 1 :]}/" if target != top else prefix
                before = "/"
            elif top.startswith(f"{target}/"):
                inner, before = prefix, f"{top[len(target) :]}/"
            else:
                continue
            for path in self._list_prefixed(inner):
                yield path, before + path[len(inner) :]

    def _list_prefixed(self, prefix: str) -> Iterator[str]:
        for at in range(bisect_left(self._sorted, prefix), len(self._sorted)):
            if not self._sorted[at].startswith(prefix):
                return
            yield self._sorted[at]

    def _locate(self, absolute: str) -> Iterator[str]:
        """Yield the paths in the tar that an absolute path may have."""
        for name, top in self._folders.items():
            if absolute.startswith(f"{top}/"):
                yield self._prefixes[name] + absolute[len(top) + 1 :]

    def _read_link(self, absolute: str) -> str | None:
        return next((self._links[path] for path in self._locate(absolute) if path in self._links), None)

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
