"""Fetch a user's ZIP from the storage to the disk of this machine, and see that it is what was uploaded."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, BinaryIO

from .unpack import BadCode


async def fetch_code(
    pieces: AsyncIterator[bytes], sha256: str | None, path: Path, *, in_thread: Callable[..., Awaitable[Any]]
) -> None:
    """Write pieces to a file; raises BadCode when their SHA-256 is another, and what reading them raises."""
    digest = hashlib.sha256()
    with await in_thread(open, path, "wb") as file:
        async with contextlib.aclosing(pieces):  # type: ignore[type-var]
            async for piece in pieces:
                await in_thread(_keep, piece, file, digest)
    if sha256 and digest.hexdigest() != sha256:
        raise BadCode("The ZIP of code is not what was uploaded: its SHA-256 is another.")


def _keep(piece: bytes, file: BinaryIO, digest: hashlib._Hash) -> None:
    file.write(piece)
    digest.update(piece)
