"""Doubles of what may be plugged in, as short as their contracts allow."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from datetime import datetime

from kbatch_server.models.times import utcnow
from kbatch_server.storage.base import ObjectNotFound, Storage, StoredObject
from kbatch_server.storage.pieces import check_prefix


class MemoryStorage(Storage):
    """Keeps objects in a dictionary."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.objects: dict[str, bytes] = {}
        self.modified_at: dict[str, datetime] = {}

    async def write(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        content = b"".join([chunk async for chunk in chunks])
        self.objects[key] = content
        self.modified_at[key] = utcnow()
        return len(content)

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        content = self._find(key)[start:]
        yield content if length is None else content[:length]

    async def get_size(self, key: str) -> int:
        return len(self._find(key))

    async def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    async def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        check_prefix(prefix)
        for key, content in tuple(self.objects.items()):
            if key.startswith(prefix):
                yield StoredObject(key, len(content), self.modified_at[key])

    def _find(self, key: str) -> bytes:
        if key not in self.objects:
            raise ObjectNotFound("the object is not in the storage")
        return self.objects[key]
