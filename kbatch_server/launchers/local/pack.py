"""Packs the files that a job left in its folders as a tar, trusting none of it. It blocks: use a thread.

The job owned these folders: they may have links to the service's files, FIFOs without a writer, or a million
empty folders inside each other. So this module opens everything by descriptors from the top down, without
following links. The tar contains the files by path, as far as they fit, and links as such: ``selection``
follows them. ``tarfile`` makes the headers; its ``add`` opens files by their paths.
"""

from __future__ import annotations

import heapq
import json
import os
import stat
import tarfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from ...models.results import OmittedFile, OutputLimits, OutputTar
from ...outputs.selection import (
    ENTRIES_FOR_EACH_FILE,
    LinkResolver,
    Omitted,
    format_omitted,
)
from ...outputs.tarindex import OMITTED_LIST
from ..base import LauncherUnavailable

PIECE_BYTES = 256 * 1024
"""Bytes that one call in a thread packs."""

MAX_DEPTH = 100
"""The maximum depth of nested folders: each takes a descriptor while it is read."""

MAX_LINKED_FOLDERS = 100
"""The maximum number of folders that are read again because a link leads to them."""

_NO_FOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | _NO_FOLLOW
_FILE = os.O_RDONLY | os.O_NONBLOCK | _NO_FOLLOW

KnownFiles = dict[str, tuple[int, int]]
"""Size and time (nanoseconds since 1970) of files and links, by path."""


class PackedFolder(NamedTuple):
    """A folder to pack, under a name; with a manifest, only what has changed since the manifest.

    In that case it omits hidden files and the caches of Python and npm, which nobody wants as results. A link
    that is not in the manifest comes with its target, even if the target is in the manifest.
    """

    name: str
    path: str
    manifest_path: str | None = None


def read_folders(
    folders: Sequence[PackedFolder], limits: OutputLimits, in_thread: Callable[..., Awaitable[Any]]
) -> OutputTar:
    """Return a tar of folders, which is packed while it is read: piece by piece, by ``in_thread``.

    If two files have the same path, the first folder's counts. Reading the tar raises LauncherUnavailable if
    a folder itself, or the disk, cannot be read.
    """
    packer = Packer(folders, limits)

    async def read() -> AsyncIterator[bytes]:
        try:
            while piece := await in_thread(packer.read):
                tar.left_out = packer.left_out
                yield piece
        except OSError as error:
            raise LauncherUnavailable(f"a job's output folder cannot be read now: {error}") from error
        finally:
            await in_thread(packer.close)

    tar = OutputTar(read(), folders={folder.name: folder.path for folder in folders})
    return tar


def write_manifest(path: str, manifest_path: str) -> None:
    """Record the contents of a folder, which nobody else writes to now."""
    manifest: KnownFiles = {}
    for folder, folders, files in os.walk(path):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders[:] = [name for name in folders if not is_ignored(name)]
        for name in (*files, *links):
            info = os.lstat(os.path.join(folder, name))
            manifest[os.path.relpath(os.path.join(folder, name), path)] = (info.st_size, info.st_mtime_ns)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NO_FOLLOW
    with open(os.open(manifest_path, flags, 0o600), "w") as file:
        json.dump(manifest, file)


def _read_manifest(path: str) -> KnownFiles:
    with open(os.open(path, os.O_RDONLY | _NO_FOLLOW), "rb") as file:
        return {name: (size, moment) for name, (size, moment) in json.load(file).items()}


def is_ignored(name: str) -> bool:
    """Whether nobody would miss this file or folder of the working folder in the results."""
    return name.startswith(".") or name in ("__pycache__", "node_modules")


class _Entry(NamedTuple):
    """A file or a link; the first two fields define its place in the order."""

    path: str
    rank: int
    folder: int
    name: str


class Packer:
    """Packs folders, once, in one thread at a time."""

    def __init__(self, folders: Sequence[PackedFolder], limits: OutputLimits) -> None:
        self._folders = folders
        self._limits = limits
        self._tops: list[int] = []
        self._uids: list[int] = []
        self._manifests: list[KnownFiles | None] = []
        self._room = ENTRIES_FOR_EACH_FILE * limits.max_files + 100
        self._files = self._size = 0
        self._linked_folders = MAX_LINKED_FOLDERS
        self._resolver = LinkResolver(self._read_link)
        self._omitted = Omitted()
        self._lock = threading.Lock()  # `close` may run while another thread reads
        self._pieces = self._group()
        self.left_out = 0
        """Entries that are neither links nor regular files of the job's own, or that cannot be read."""

    def read(self) -> bytes:
        """Return the next piece, empty at the end; raises OSError."""
        with self._lock:
            return next(self._pieces, b"")

    def close(self) -> None:
        """Close every descriptor."""
        with self._lock:
            self._pieces.close()

    def _group(self) -> Generator[bytes]:
        """Yield the whole tar in pieces of moderate size."""
        held = bytearray()
        for piece in self._pack():
            held += piece
            if len(held) >= PIECE_BYTES:
                yield bytes(held)
                held.clear()
        yield bytes(held + bytes(2 * tarfile.BLOCKSIZE))

    def _pack(self) -> Iterator[bytes]:
        with ExitStack() as stack:
            for folder in self._folders:
                top = os.open(folder.path, _FOLDER)
                stack.callback(os.close, top)
                self._tops.append(top)
                # a hard link to the file of another account must not be a way to read it
                self._uids.append(os.fstat(top).st_uid)
                manifest = folder.manifest_path
                self._manifests.append(None if manifest is None else _read_manifest(manifest))
            walks = [self._walk(top, rank, "", 0) for rank, top in enumerate(self._tops)]
            for walk in walks:
                stack.callback(walk.close)
            last = ""
            for entry in heapq.merge(*walks):
                if entry.path != last:
                    last = entry.path
                    yield from self._pack_entry(entry)
        if self._omitted.files:
            text = format_omitted(self._omitted).encode("utf-8", "surrogateescape")
            yield _make_header(OMITTED_LIST, size=len(text)) + _padded(text)

    def _pack_entry(self, entry: _Entry) -> Iterator[bytes]:
        try:
            target = os.readlink(entry.name, dir_fd=entry.folder)
        except OSError:  # EINVAL: not a link
            yield from self._pack_file(entry)
        else:
            # a link does not count as a file: its target decides whether it is a result
            yield _make_header(self._get_name(entry), target=target)
            if any(manifest is not None for manifest in self._manifests):
                yield from self._pack_linked(entry)

    def _get_name(self, entry: _Entry) -> str:
        return f"{self._folders[entry.rank].name}/{entry.path}"

    def _pack_linked(self, link: _Entry) -> Iterator[bytes]:
        """Yield the unchanged files that a link leads to, under the path of the link."""
        found = self._locate(self._resolver.resolve(f"{self._folders[link.rank].path}/{link.path}"))
        if found is None or self._manifests[found[0]] is None:
            return
        rank, path = found
        *above, name = path.split("/")
        if any(map(is_ignored, (*above, name))):
            return
        with ExitStack() as stack:
            folder = self._tops[rank]
            for part in above:
                below = self._open_folder(folder, part, 1)
                if below is None:
                    return
                stack.callback(os.close, below)
                folder = below
            if self._is_unchanged(rank, folder, name, path):
                yield from self._pack_file(link._replace(folder=folder, name=name))
            elif self._linked_folders and (below := self._open_folder(folder, name, 1)) is not None:
                stack.callback(os.close, below)
                self._linked_folders -= 1
                for each in self._walk(below, rank, f"{path}/", 1, unchanged=True):
                    shown = link.path + each.path[len(path) :]
                    yield from self._pack_file(each._replace(path=shown, rank=link.rank))

    def _is_unchanged(self, rank: int, folder: int, name: str, path: str) -> bool:
        """Whether a plain file has the size and time of the folder's manifest."""
        try:
            info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError:
            return False
        manifest = self._manifests[rank] or {}
        return stat.S_ISREG(info.st_mode) and manifest.get(path) == (info.st_size, info.st_mtime_ns)

    def _locate(self, path: str | None) -> tuple[int, str] | None:
        """Return the number of the folder that an absolute path is in, and the path in it."""
        for rank, folder in enumerate(self._folders):
            if path is not None and path.startswith(f"{folder.path}/"):
                return rank, path[len(folder.path) + 1 :]
        return None

    def _read_link(self, path: str) -> str | None:
        found = self._locate(path)
        if found is None:
            return None
        try:
            return os.readlink(found[1], dir_fd=self._tops[found[0]])
        except OSError:
            return None

    def _pack_file(self, entry: _Entry) -> Iterator[bytes]:
        file = self._open(entry)
        if file is None:
            self.left_out += 1
            return
        try:
            status = os.fstat(file)
            if self._has_room(entry.path, status.st_size):
                name = self._get_name(entry)
                yield _make_header(name, size=status.st_size, moment=int(status.st_mtime))
                yield from _read_file(file, status.st_size)
        finally:
            os.close(file)

    def _has_room(self, path: str, size: int) -> bool:
        limits = self._limits
        if self._files >= limits.max_files or self._size + size > limits.max_bytes:
            self._omitted.add(OmittedFile(path, size))
            return False
        self._files += 1
        self._size += size
        return True

    def _walk(
        self, folder: int, rank: int, prefix: str, depth: int, *, unchanged: bool = False
    ) -> Generator[_Entry]:
        """Yield the entries of a folder, by path; each entry's descriptor stays open until the next.

        It omits what has not changed since the manifest; with ``unchanged``, it yields only files that have
        not.
        """
        for name in self._scan(folder, rank, prefix, unchanged):
            if not name.endswith("/"):
                yield _Entry(prefix + name, rank, folder, name)
            elif (below := self._open_folder(folder, name[:-1], depth + 1)) is None:
                self.left_out += 1
            else:
                try:
                    yield from self._walk(below, rank, prefix + name, depth + 1, unchanged=unchanged)
                finally:
                    os.close(below)

    def _scan(self, folder: int, rank: int, prefix: str, unchanged: bool) -> list[str]:
        """Return the names in a folder, those of folders with a slash, so that they sort like whole paths."""
        names: list[str] = []
        manifest = self._manifests[rank]
        with os.scandir(folder) as entries:
            for entry in entries:
                is_folder = entry.is_dir(follow_symlinks=False)
                if unchanged:
                    if is_ignored(entry.name) or not (
                        is_folder or self._is_unchanged(rank, folder, entry.name, prefix + entry.name)
                    ):
                        continue
                elif manifest is not None and self._is_known(entry, prefix, is_folder, manifest):
                    continue
                if not (is_folder or entry.is_symlink() or entry.is_file(follow_symlinks=False)):
                    self.left_out += 1
                    continue
                names.append(f"{entry.name}/" if is_folder else entry.name)
                if len(names) > 2 * self._room:  # the names are in memory until they are sorted
                    names = self._keep_first(names)
        names = self._keep_first(names)
        self._room -= len(names)
        return sorted(names)

    def _keep_first(self, names: list[str]) -> list[str]:
        """Return the first names, as many as allowed in memory, and count the others as omitted."""
        kept = heapq.nsmallest(self._room, names)
        self._omitted.files += len(names) - len(kept)
        return kept

    def _is_known(self, entry: os.DirEntry[str], prefix: str, is_folder: bool, manifest: KnownFiles) -> bool:
        if is_folder or is_ignored(entry.name):
            return is_ignored(entry.name)
        info = entry.stat(follow_symlinks=False)
        return manifest.get(prefix + entry.name) == (info.st_size, info.st_mtime_ns)

    def _open_folder(self, parent: int, name: str, depth: int) -> int | None:
        try:
            return os.open(name, _FOLDER, dir_fd=parent) if depth <= MAX_DEPTH else None
        except OSError:
            return None

    def _open(self, entry: _Entry) -> int | None:
        """Open a regular file of the job's own, or return None."""
        try:
            file = os.open(entry.name, _FILE, dir_fd=entry.folder)
        except OSError:
            return None
        info = os.fstat(file)
        if stat.S_ISREG(info.st_mode) and info.st_uid == self._uids[entry.rank]:
            return file
        os.close(file)
        return None


def _make_header(path: str, *, size: int = 0, moment: int = 0, target: str | None = None) -> bytes:
    info = tarfile.TarInfo(path)
    info.size, info.mtime = size, moment
    if target is not None:
        info.type, info.linkname = tarfile.SYMTYPE, target
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _read_file(file: int, size: int) -> Iterator[bytes]:
    """Yield exactly as much of a file's content as its header says, padded."""
    left = size
    while left:
        # zeros if the file was truncated meanwhile: its size is in the tar already
        piece = os.read(file, min(PIECE_BYTES, left)) or bytes(min(PIECE_BYTES, left))
        left -= len(piece)
        yield piece
    yield bytes(-size % tarfile.BLOCKSIZE)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % tarfile.BLOCKSIZE)
