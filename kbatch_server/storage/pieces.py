"""Regroups bytes into pieces of equal size, and checks the keys of objects."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator

from .base import StorageError

_KEY = re.compile(r"[a-z0-9-][a-z0-9.-]*(/[a-z0-9-][a-z0-9.-]*)*")


def check_key(key: str) -> str:
    """Return the key; raises StorageError for other characters, or a part that begins with a dot."""
    if not is_key(key):
        raise StorageError(f"{key[:100]!r} cannot be the key of an object")
    return key


def is_key(text: str) -> bool:
    """Return whether this could be the key of this service's object: others may use the same storage."""
    return len(text) <= 512 and _KEY.fullmatch(text) is not None


def check_prefix(prefix: str) -> str:
    """Return the prefix; raises StorageError unless it is empty, or a folder's name with ``/``."""
    if prefix and not (prefix.endswith("/") and is_key(prefix[:-1])):
        raise StorageError(f"{prefix[:100]!r} cannot be the prefix of keys, it must be empty or end with '/'")
    return prefix


async def regroup(chunks: AsyncIterable[bytes], size: int) -> AsyncIterator[bytes]:
    """Yield the same bytes in pieces of ``size``, the last one shorter; holds one piece and one chunk."""
    held = bytearray()
    async for chunk in chunks:
        held += chunk
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)
