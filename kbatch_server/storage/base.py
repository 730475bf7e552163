"""The interface of a storage: it stores named objects, entirely or not at all, and reads them in pieces."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from traitlets.config import LoggingConfigurable


class StorageError(Exception):
    """The storage failed, perhaps only for now: it is full, down, or slow."""


class StorageFull(StorageError):
    """The storage has not enough free space for the object."""


class ObjectNotFound(StorageError):
    """No object has that key."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object in a ``list``: its key, its size in bytes, when it was last written (aware)."""

    key: str
    size: int
    modified_at: datetime


class Storage(LoggingConfigurable):
    """Stores objects: bytes under a key like ``uploads/3f2a…``.

    A subclass defines ``write``, ``read``, ``get_size``, ``delete`` and ``list``; a storage that can sign
    URLs also defines ``make_url``. The service, never a user, makes the keys (lower-case letters, digits,
    ``-``, ``.`` and ``/``). Every method raises StorageError, and nothing else, if the storage fails.
    """

    async def open(self) -> None:
        """Prepare the storage; called once, before anything else."""

    async def close(self) -> None:
        """Close connections and threads; called once, at the end."""

    async def write(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        """Store the data of ``chunks`` under ``key`` and return its size in bytes.

        The object appears complete when this returns, and replaces an older one; or not at all: also if
        ``chunks`` raises (this error is passed on) or the task is cancelled. Then an older object stays as it
        was. If the task is cancelled after the last chunk, the new object may exist, complete. If two tasks
        write the same key at the same time, one of them may get StorageError. Never holds more than a few
        chunks in memory.
        """
        raise NotImplementedError

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield ``length`` bytes of the object (or all) from ``start`` on, in pieces of moderate size.

        Raises ObjectNotFound before the first piece. If the object is replaced while it is read, the bytes
        are those of the old object to its end, or, from some piece on, those of the new one at the same
        position. So an object that somebody may be reading may only be replaced by one that begins with the
        same bytes.
        """
        raise NotImplementedError

    async def get_size(self, key: str) -> int:
        """Return the object's size in bytes, or raise ObjectNotFound."""
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        """Delete the object with that key; no error if it does not exist."""
        raise NotImplementedError

    def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        """Yield the objects in a folder like ``uploads/``, or all of them (``""``), in any order.

        This includes folders in the folder. Objects that are written or deleted meanwhile may be missing or
        not. Never holds more than a page of objects in memory.
        """
        raise NotImplementedError

    async def get_free_bytes(self) -> int | None:
        """Return the free space for objects in bytes; None, the default, if it is unknown."""
        return None

    async def get_capacity_bytes(self) -> int | None:
        """Return how many bytes fit into the storage when it is empty; None, the default, if unknown."""
        return None

    async def check(self) -> None:
        """Raise StorageError unless the storage responds."""
        with contextlib.suppress(ObjectNotFound):
            await self.get_size("uploads/none")

    async def make_url(self, key: str, *, expires_in_seconds: int) -> str | None:
        """Return a URL with which a job can GET this one object until it expires, or None.

        None, the default, means that the service itself serves the object, under a URL that it signs.
        """
        return None
