"""The space for files: a quota for a folder, and the minimum free space of its disk."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from .base import StorageFull

RECOUNT_SECONDS = 60
"""Seconds between two counts of a folder that seems full: another replica may have deleted something."""


class Space:
    """The bytes in a folder: counted at the beginning, then updated on each call; for use in threads."""

    def __init__(self, folder: Path, *, max_bytes: int, min_free_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self.lock = threading.Lock()
        self._used = 0
        self._count()

    def reserve(self, size: int) -> None:
        """Count bytes that are about to be written; raises StorageFull, with the limit and the usage."""
        self._check_disk(size)
        with self.lock:
            if self._is_over(size) and time.monotonic() > self._counted_at + RECOUNT_SECONDS:
                self._count()
            if self._is_over(size):
                raise StorageFull(
                    f"the storage is full: {self._used} bytes are used of the {self._max_bytes} that "
                    f"FileStorage.max_bytes allows, and {size} more do not fit"
                )
            self._used += size

    def release(self, size: int) -> None:
        """Count bytes that were deleted. The caller must hold the lock since before the deletion."""
        self._used = max(0, self._used - size)

    def _is_over(self, size: int) -> bool:
        return bool(self._max_bytes) and self._used + size > self._max_bytes

    def _check_disk(self, size: int) -> None:
        free = get_free_bytes(self._folder)
        if free - size < self._min_free_bytes:
            raise StorageFull(
                f"the storage is full: its disk has {free} bytes free, of which "
                f"FileStorage.min_free_bytes keeps {self._min_free_bytes}"
            )

    def _count(self) -> None:
        if self._max_bytes:
            self._used = sum(_find_sizes(self._folder))
        self._counted_at = time.monotonic()


def get_free_bytes(folder: str | Path) -> int:
    """Return the free space on a folder's disk, in bytes; it blocks while the disk does."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def get_disk_bytes(folder: str | Path) -> int:
    """Return the size of a folder's disk, in bytes; it blocks while the disk does."""
    disk = os.statvfs(folder)
    return disk.f_blocks * disk.f_frsize


def _find_sizes(folder: Path) -> Iterator[int]:
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                yield os.lstat(os.path.join(parent, name)).st_size
