"""The files, folders and links of an unpacked ZIP, and a check that each link stays inside. Pure.

A folder is a number, and its contents are found by this number and a name. So deep paths need no more memory
than their names, and folders that only appear in paths count like those with entries.
"""

from __future__ import annotations

from collections.abc import Mapping

from .zipnames import split_path

MAX_HOPS = 40
"""The maximum number of links in a chain, as on Linux."""

_ROOT = 0
_FILE, _LINK = -1, -2
_WORDS = {_FILE: "file", _LINK: "link"}

EntryPlace = tuple[int, int]
"""A folder, and the number of folders below it that are not in the ZIP."""


class BadTree(ValueError):
    """An entry conflicts with others. ``path`` names it; the text is the end of a sentence."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(problem)
        self.path = path


class TooManyPlaces(Exception):
    """The tree has more files and folders than allowed."""


class Tree:
    """An unpacked ZIP: add all entries, and then check the links."""

    def __init__(self, max_places: int) -> None:
        self._max_places = max_places
        self._places: dict[tuple[int, str], int] = {}
        self._parents = [_ROOT]
        self._links: dict[tuple[int, str], str] = {}

    def add_folder(self, name: str) -> None:
        """Add a folder and its parents; raises BadTree and TooManyPlaces."""
        self._add_folders(split_path(name))

    def add_file(self, name: str) -> None:
        """Add a file; raises BadTree (the path exists already) and TooManyPlaces."""
        self._add(name, _FILE)

    def add_link(self, name: str) -> None:
        """Add a link; raises as ``add_file``."""
        self._links[self._add(name, _LINK)] = name

    def find_top_folder(self) -> str | None:
        """Return the only top folder, if it contains everything else, or None."""
        tops = [key[1] for key, place in self._places.items() if key[0] == _ROOT]
        if len(tops) != 1 or self._places[_ROOT, tops[0]] < 0:
            return None
        return tops[0]

    def check_links(self, targets: Mapping[str, str]) -> None:
        """Raise BadTree unless each link (by name) leads to a path inside, also through other links."""
        found: dict[tuple[int, str], EntryPlace] = {}
        by_key = {key: targets[name] for key, name in self._links.items()}
        for key, name in self._links.items():
            self._follow(key, name, by_key, found, [])

    def _add(self, name: str, kind: int) -> tuple[int, str]:
        *folders, last = split_path(name)
        key = self._add_folders(folders), last
        there = self._places.get(key)
        if there is not None and there > _ROOT:
            raise BadTree(name, f"is both a {_WORDS[kind]} and a folder")
        if there is not None:
            raise BadTree(name, "appears twice")
        self._put(key, kind)
        return key

    def _add_folders(self, parts: list[str]) -> int:
        folder = _ROOT
        for depth, part in enumerate(parts, 1):
            there = self._places.get((folder, part))
            if there is None:
                self._put((folder, part), len(self._parents))
                self._parents.append(folder)
                folder = len(self._parents) - 1
            elif there < _ROOT:
                raise BadTree("/".join(parts[:depth]), f"is both a {_WORDS[there]} and a folder")
            else:
                folder = there
        return folder

    def _put(self, key: tuple[int, str], kind: int) -> None:
        if len(self._places) >= self._max_places:
            raise TooManyPlaces
        self._places[key] = kind

    def _follow(
        self,
        key: tuple[int, str],
        name: str,
        targets: Mapping[tuple[int, str], str],
        found: dict[tuple[int, str], EntryPlace],
        way: list[tuple[int, str]],
    ) -> EntryPlace:
        """Return the target of a link; ``way`` contains the links that led to it."""
        if key in found:
            return found[key]
        if key in way or len(way) >= MAX_HOPS:
            raise BadTree(name, "is a link to itself, or follows too many links")
        target = targets[key]
        if target.startswith("/"):
            raise BadTree(name, "is a link to an absolute path: make it relative")
        folder, beyond = key[0], 0
        for part in target.split("/"):
            if part in {"", "."}:
                continue
            if part == "..":
                if beyond:
                    beyond -= 1
                elif folder == _ROOT:
                    raise BadTree(name, f"is a link to a place outside the ZIP: {target[:200]!r}")
                else:
                    folder = self._parents[folder]
                continue
            there = None if beyond else self._places.get((folder, part))
            if there is not None and there > _ROOT:
                folder = there
            elif there == _LINK:
                folder, beyond = self._follow((folder, part), name, targets, found, [*way, key])
            else:
                beyond += 1  # a file, or nothing: no link can be below it
        found[key] = folder, beyond
        return folder, beyond
