"""What a storage must do: keep named objects, write them whole or not at all, read them in pieces."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from traitlets.config import LoggingConfigurable


class StorageError(Exception):
    """The storage did not do what was asked, and may do it later: full, away, or slow."""


class StorageFull(StorageError):
    """There is no room left for what was to be written."""


class ObjectNotFound(StorageError):
    """There is no object with that key."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What ``list`` says of an object: its key, its size in bytes, when it was last written (aware)."""

    key: str
    size: int
    modified_at: datetime


class Storage(LoggingConfigurable):
    """A place for objects, each a run of bytes under a key like ``uploads/3f2a…``.

    A subclass defines ``write``, ``read``, ``get_size``, ``delete`` and ``list``; one that can sign URLs of
    its own defines ``make_url`` as well. Keys are made by the service (lower-case letters, digits, ``-``,
    ``.`` and ``/``), never by users. Every method raises StorageError, and nothing else, when the storage
    fails.
    """

    async def open(self) -> None:
        """Get ready, once, before anything else is called."""

    async def close(self) -> None:
        """Let go of connections and threads, once, at the end."""

    async def write(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        """Keep what ``chunks`` yields under ``key`` and return its size in bytes.

        The object appears whole when this returns, replacing an older one, or not at all: also when
        ``chunks`` raises (that error is passed on) or the task is cancelled; one that was there before is
        as it was then. When it is cancelled after the last chunk, the new one may be there, whole. Of
        two that write the same key at the same time, one may get StorageError. Never holds more than a few
        chunks in memory.
        """
        raise NotImplementedError

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield the object's bytes from ``start``, ``length`` of them or all, in pieces of a moderate size.

        Raises ObjectNotFound, before the first piece. When the object is replaced meanwhile, the bytes are
        those of the old one to its end, or, from some piece on, those of the new one at the same place: so
        one that may be being read is replaced only by one that begins with it.
        """
        raise NotImplementedError

    async def get_size(self, key: str) -> int:
        """Return the object's size in bytes, or raise ObjectNotFound."""
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        """See to it that there is no object with that key: also when there was none."""
        raise NotImplementedError

    def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        """Yield the objects in a folder like ``uploads/``, or all of them (``""``), in any order.

        Folders in the folder count, too. What is written or deleted meanwhile may be among them or not.
        Never holds more than a page of them in memory.
        """
        raise NotImplementedError

    async def get_free_bytes(self) -> int | None:
        """Return how much room is left for objects, or None, the default, where that is not known."""
        return None

    async def check(self) -> None:
        """Raise StorageError unless the storage answers."""
        with contextlib.suppress(ObjectNotFound):
            await self.get_size("uploads/none")

    async def make_url(self, key: str, *, expires_in_seconds: int) -> str | None:
        """Return a URL that a job may GET this one object from until it expires, or None.

        None, the default, means that the service hands the object out itself, under a URL that it signs.
        """
        return None
