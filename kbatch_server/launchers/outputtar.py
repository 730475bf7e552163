"""Pack what a job left in its output folder as a tar, trusting none of it. All of it blocks: use a thread.

The folder was the job's own: it may hold links to the service's files, FIFOs that nobody writes to, a million
empty folders inside each other. So everything is opened by descriptors from the top down, without following.
"""

from __future__ import annotations

import os
import stat
import tarfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any

from .base import LauncherUnavailable, OutputTar

PIECE_BYTES = 256 * 1024
"""What one trip to a thread packs."""

MAX_DEPTH = 100
"""How deep folders may be inside each other: each takes a descriptor while it is read."""

_NO_FOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | _NO_FOLLOW
_FILE = os.O_RDONLY | os.O_NONBLOCK | _NO_FOLLOW


def read_folder(path: str, in_thread: Callable[..., Awaitable[Any]]) -> OutputTar:
    """Return the tar of a folder, which is packed while it is read: a piece at a time, by ``in_thread``.

    Reading it raises LauncherUnavailable when the folder itself, or the disk, cannot be read.
    """
    packer = Packer(path)

    async def read() -> AsyncIterator[bytes]:
        try:
            while piece := await in_thread(packer.read):
                tar.left_out = packer.left_out
                yield piece
        except OSError as error:
            raise LauncherUnavailable(f"a job's output folder cannot be read now: {error}") from error
        finally:
            await in_thread(packer.close)

    tar = OutputTar(read())
    return tar


class Packer:
    """Packs one folder, once, for one thread at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._uid = -1
        self._lock = threading.Lock()  # who gives up may close it while another thread still reads
        self._pieces = self._group()
        self.left_out = 0
        """Entries that are no plain files of the job's own, or that cannot be read."""

    def read(self) -> bytes:
        """Return the next piece, which is empty after the last; raises OSError."""
        with self._lock:
            return next(self._pieces, b"")

    def close(self) -> None:
        """Let go of every descriptor."""
        with self._lock:
            self._pieces.close()

    def _group(self) -> Generator[bytes]:
        """Yield the whole tar in pieces of a moderate size."""
        held = bytearray()
        for piece in self._pack():
            held += piece
            if len(held) >= PIECE_BYTES:
                yield bytes(held)
                held.clear()
        yield bytes(held + bytes(2 * tarfile.BLOCKSIZE))

    def _pack(self) -> Iterator[bytes]:
        top = os.open(self._path, _FOLDER)
        try:
            # a hard link to the file of another account must not be a way to read it
            self._uid = os.fstat(top).st_uid
            yield from self._pack_folder(top, "", 0)
        finally:
            os.close(top)

    def _pack_folder(self, folder: int, prefix: str, depth: int) -> Iterator[bytes]:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    yield from self._pack_below(folder, entry.name, path, depth + 1)
                elif not entry.is_file(follow_symlinks=False) or (file := self._open(folder, entry)) is None:
                    self.left_out += 1
                else:
                    yield from _pack_file(file, path)

    def _pack_below(self, parent: int, name: str, path: str, depth: int) -> Iterator[bytes]:
        try:
            folder = os.open(name, _FOLDER, dir_fd=parent) if depth <= MAX_DEPTH else None
        except OSError:
            folder = None
        if folder is None:
            self.left_out += 1
            return
        try:
            yield from self._pack_folder(folder, f"{path}/", depth)
        finally:
            os.close(folder)

    def _open(self, folder: int, entry: os.DirEntry[str]) -> int | None:
        """Open a plain file of the job's own, or return None."""
        try:
            file = os.open(entry.name, _FILE, dir_fd=folder)
        except OSError:
            return None
        info = os.fstat(file)
        if stat.S_ISREG(info.st_mode) and info.st_uid == self._uid:
            return file
        os.close(file)
        return None


def _pack_file(file: int, path: str) -> Iterator[bytes]:
    """Yield a file's header and exactly as much content as it says, and close it."""
    try:
        status = os.fstat(file)
        info = tarfile.TarInfo(path)
        info.size, info.mtime = status.st_size, int(status.st_mtime)
        yield info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        left = info.size
        while left:
            # zeros for what was cut off meanwhile: a tar has no way to take a size back
            piece = os.read(file, min(PIECE_BYTES, left)) or bytes(min(PIECE_BYTES, left))
            left -= len(piece)
            yield piece
        yield bytes(-info.size % tarfile.BLOCKSIZE)
    finally:
        os.close(file)
