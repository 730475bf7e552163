"""Stores objects as files in a folder of this machine, or of a mounted volume."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import stat
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import ParamSpec, TypeVar

from traitlets import Unicode

from ..bytesize import ByteSize
from ..private import make_private
from .base import ObjectNotFound, Storage, StorageError, StorageFull, StoredObject
from .pieces import check_key, check_prefix, is_key, regroup
from .space import Space, get_disk_bytes, get_free_bytes

PIECE_BYTES = 2**20
"""Bytes that one call in a thread reads or writes: enough to make its overhead small, and little memory."""

STALE_SECONDS = 24 * 3600
"""An unfinished file of this age was left by a killed process."""

PAGE_OBJECTS = 1000
"""The number of objects that one call in a thread lists."""

MOVES = 3
"""The number of tries to move a finished file into a folder that another replica may remove."""

_INCOMING = ".incoming"

_FOLDERS = (_INCOMING, "uploads", "logs", "outputs")
"""This service's folders in the root, which may also contain other things."""

Params = ParamSpec("Params")
Result = TypeVar("Result")


class FileStorage(Storage):
    """A folder of files, named by their keys.

    It writes a new file under a temporary name, forces it to the disk, and then renames it: so the file is
    complete or does not exist, even after a power cut. Threads do all work with files.
    """

    root = Unicode(
        "./kbatch-storage",
        help="""The folder for objects. The service creates it if it is missing, readable by the service
        alone.

        If several replicas of the service run, it must be on a volume that they share.
        """,
        config=True,
    )

    max_bytes = ByteSize(
        0,
        min=0,
        help="""The maximum size, in bytes, of all objects together. 0, the default, means no limit.

        The service counts the bytes at its start and keeps the count. Each of several replicas counts only
        its own later writes, so together they may exceed the limit a little.
        """,
        config=True,
    )

    min_free_bytes = ByteSize(
        64 * 2**20,
        min=0,
        help="""The minimum free space, in bytes, on the disk. The service rejects a write that would leave
        less.

        The database is often on the same disk, and must be able to continue.
        """,
        config=True,
    )

    async def open(self) -> None:
        """Create the folder, remove unfinished files of killed processes, count the existing bytes."""
        await _in_thread(self._prepare)

    def _prepare(self) -> None:
        incoming = Path(self.root, _INCOMING)
        Path(self.root).mkdir(mode=0o700, parents=True, exist_ok=True)
        incoming.mkdir(mode=0o700, exist_ok=True)
        for name in _FOLDERS:
            make_private(Path(self.root, name))
        for path in incoming.iterdir():
            if path.stat().st_mtime < time.time() - STALE_SECONDS:
                path.unlink(missing_ok=True)
        self._space = Space(Path(self.root), max_bytes=self.max_bytes, min_free_bytes=self.min_free_bytes)

    async def write(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        """Store the data of ``chunks`` under ``key`` and return its size in bytes."""
        file = _NewFile(Path(self.root), self._path(key), self._space)
        size = 0
        try:
            await _in_thread(file.open)
            async for piece in regroup(chunks, PIECE_BYTES):
                await _in_thread(file.write, piece)
                size += len(piece)
            await _in_thread(file.finish)
        except BaseException:
            # if this task was cancelled, a thread may still use the file: `abandon` waits for it
            await asyncio.shield(asyncio.to_thread(file.abandon))
            raise
        return size

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield the object's bytes, or raise ObjectNotFound."""
        path = self._path(key)
        left = float("inf") if length is None else length
        file = await _in_thread(path.open, "rb")
        try:
            await _in_thread(file.seek, start)
            while left > 0:
                piece = await _in_thread(file.read, int(min(PIECE_BYTES, left)))
                if not piece:
                    break
                left -= len(piece)
                yield piece
        finally:
            await asyncio.shield(asyncio.to_thread(file.close))

    async def get_size(self, key: str) -> int:
        """Return the object's size in bytes, or raise ObjectNotFound."""
        return (await _in_thread(self._path(key).stat)).st_size

    async def get_free_bytes(self) -> int:
        """Return the free space on the disk, in bytes."""
        return await _in_thread(get_free_bytes, self.root)

    async def get_capacity_bytes(self) -> int:
        """Return the size of the disk in bytes, or ``max_bytes`` if that is less."""
        size = await _in_thread(get_disk_bytes, self.root)
        return min(size, self.max_bytes or size)

    async def delete(self, key: str) -> None:
        """Delete the object with that key, if it exists."""
        path = self._path(key)

        def unlink() -> None:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), self._space.lock:
                size = path.stat().st_size
                path.unlink()
                self._space.release(size)
                _sync_folder(_remove_empty_folders(path.parent, Path(self.root)))

        await _in_thread(unlink)

    async def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        """Yield the objects in a folder like ``uploads/``, or all of them (``""``), in any order."""
        check_prefix(prefix)
        found = _find_objects(Path(self.root, prefix), prefix)
        while page := await _in_thread(lambda: tuple(islice(found, PAGE_OBJECTS))):
            for each in page:
                yield each

    def _path(self, key: str) -> Path:
        return Path(self.root, check_key(key))


class _NewFile:
    """A file that is being written, by one thread at a time, until it is finished or abandoned."""

    def __init__(self, root: Path, target: Path, space: Space) -> None:
        self._root = root
        self._target = target
        self._space = space
        self._reserved = 0
        self._path = root / _INCOMING / secrets.token_hex(16)
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._is_abandoned = False
        self._is_finished = False

    def open(self) -> None:
        with self._lock:
            if not self._is_abandoned:
                self._descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)

    def write(self, piece: bytes) -> None:
        with self._lock:
            if self._descriptor is not None:
                self._space.reserve(len(piece))
                self._reserved += len(piece)
            left = memoryview(piece)
            while left and self._descriptor is not None:
                left = left[os.write(self._descriptor, left) :]

    def finish(self) -> None:
        with self._lock:
            if self._descriptor is None:
                return
            os.fsync(self._descriptor)
            self._close()
            with self._space.lock:
                replaced = self._target.stat().st_size if self._target.exists() else 0
                self._move()
                self._space.release(replaced)
            self._is_finished = True
            _sync_folder(self._target.parent)

    def abandon(self) -> None:
        with self._lock:
            self._is_abandoned = True
            self._close()
            if not self._is_finished:  # a finished file is complete, and may have replaced an older one
                self._path.unlink(missing_ok=True)
                with self._space.lock:
                    self._space.release(self._reserved)

    def _move(self) -> None:
        for attempt in range(MOVES):
            self._make_folder()
            try:
                self._path.replace(self._target)
                return
            except FileNotFoundError:  # another replica has just removed the folder, as an empty one
                if attempt == MOVES - 1:
                    raise

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _make_folder(self) -> None:
        folder = self._target.parent
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            while folder != self._root:
                folder = folder.parent
                _sync_folder(folder)


def _find_objects(folder: Path, prefix: str) -> Iterator[StoredObject]:
    """Yield the objects in a folder whose keys begin with ``prefix``; others may add and delete objects
    meanwhile."""
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            key = prefix + entry.name
            if not is_key(key):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _find_objects(folder / entry.name, key + "/")
                continue
            with contextlib.suppress(FileNotFoundError):
                said = entry.stat(follow_symlinks=False)
                if not stat.S_ISREG(said.st_mode):
                    continue
                yield StoredObject(key, said.st_size, datetime.fromtimestamp(said.st_mtime, UTC))


def _remove_empty_folders(folder: Path, root: Path) -> Path:
    """Remove the folder and its parents while they are empty, and return the first one that stays."""
    with contextlib.suppress(OSError):  # not empty
        while folder != root:
            folder.rmdir()
            folder = folder.parent
    return folder


def _sync_folder(path: Path) -> None:
    """Force the folder's list of files to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _in_thread(
    function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
) -> Result:
    """Call ``function`` in a thread and return its result; turns system errors into StorageError."""
    try:
        return await asyncio.to_thread(function, *args, **kwargs)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise ObjectNotFound("the object is not in the storage") from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFull("the storage is full: no space is left on its disk") from error
        raise StorageError(f"the storage failed: {error.strerror or error} ({error.filename})") from error
