"""Errors of remote storage services, and calls that are not cancelled halfway."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import TypeVar

from .base import StorageError, StorageFull

Result = TypeVar("Result")

_FULL_CODES = {
    "InsufficientStorage",
    "QuotaExceeded",
    "XMinioAdminBucketQuotaExceeded",
    "XMinioStorageFull",
}


class ServiceRefused(StorageError):
    """A service rejected a request, with this HTTP status and a code of its own."""

    def __init__(self, service: str, status: int, code: str) -> None:
        super().__init__(f"{service} answered {status} {code}".rstrip())
        self.status = status
        self.code = code


def make_error(service: str, status: int, code: str) -> StorageError:
    """Return the error for a service's response: StorageFull if it means that no space is free."""
    if status == 507 or code in _FULL_CODES:
        return StorageFull(f"the storage is full: {service} answered {status} {code}".rstrip())
    return ServiceRefused(service, status, code)


async def finish(call: Awaitable[Result]) -> Result:
    """Return the result of the call, and wait for its end even if this task is cancelled.

    A request that was sent cannot be taken back. The caller may delete the object after the cancellation, and
    it must not appear after that. The call must have its own timeout.
    """
    running = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # retrieves the error, so that asyncio does not complain
        raise
