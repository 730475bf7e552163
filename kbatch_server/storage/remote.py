"""What the storages that are services have in common: their errors, and calls that are seen to their end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import TypeVar

from .base import StorageError, StorageFull

Result = TypeVar("Result")

_FULL_CODES = {
    "AccountQuotaExceeded",
    "InsufficientStorage",
    "QuotaExceeded",
    "XMinioAdminBucketQuotaExceeded",
    "XMinioStorageFull",
}


class ServiceRefused(StorageError):
    """A service did not do what was asked, and said so: with this status, and a code of its own."""

    def __init__(self, service: str, status: int, code: str) -> None:
        super().__init__(f"{service} answered {status} {code}".rstrip())
        self.status = status
        self.code = code


def make_error(service: str, status: int, code: str) -> StorageError:
    """Return the error for what a service answered: StorageFull where it means that there is no room."""
    if status == 507 or code in _FULL_CODES:
        return StorageFull(f"the storage is full: {service} answered {status} {code}".rstrip())
    return ServiceRefused(service, status, code)


async def finish(call: Awaitable[Result]) -> Result:
    """Return what the call returns, and wait for its end also when this task is cancelled.

    A request that was sent cannot be taken back: who is told that it was given up may delete the object,
    which must not appear after that. The call must have a time limit of its own.
    """
    running = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # it is looked at, so that asyncio does not complain
        raise
