"""Measures the free disk space, and rejects requests when it is low."""

from __future__ import annotations

import time
from contextlib import suppress

from traitlets import Float, Instance
from traitlets.config import LoggingConfigurable

from ..bytesize import ByteSize
from ..errors import Forbidden, InsufficientStorage, Unavailable
from ..metrics import LIMITS_HELD
from ..ratelimit import SUM_SECONDS, RecentSums
from ..store import Store
from .base import Storage, StorageError

FRESH_SECONDS = 1.0
"""Seconds for which to reuse a measurement, because a thousand submits per second may ask."""

RETRY_SECONDS = 10.0
"""Seconds between two attempts to submit a job to a full PostgreSQL database, and between two sums for a user
with too much."""


class DiskSpace(LoggingConfigurable):
    """Rejects new jobs and uploads before a disk is full, so that existing ones can continue and be deleted.

    It checks the disks of a SQLite database and of files. It learns that PostgreSQL's disk is full when a
    write fails. From then on it tries a submit from time to time. Other writes may need space as well;
    their callers repeat them.
    """

    min_free_bytes = ByteSize(
        256 * 2**20,
        help="""Bytes that must be free on the disks of the database (SQLite) and of the files (FileStorage).
        With less, new jobs and uploads get 507. An integer, or a string like ``1G``; 0: no limit.

        Existing jobs continue, with their logs and results, and users can cancel and delete them. Below
        ``FileStorage.min_free_bytes``, the service writes no files at all.
        """,
        config=True,
    )

    max_user_share = Float(
        0.5,
        min=0,
        max=1,
        help="""The maximum share of the disk of the files (FileStorage) for one user's uploads, logs and
        results. A user with more gets 403 for new jobs and uploads, until jobs are deleted or uploads
        expire. 1: no limit.

        The share is of the whole disk, or of ``FileStorage.max_bytes`` if that is less. It does not apply to
        other storages, which have no disk.
        """,
        config=True,
    )

    storage = Instance(Storage)
    store = Instance(Store)

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.free_bytes: dict[str, int] = {}
        """By disk (``database``, ``storage``), from the latest measurement."""
        self._found_at = float("-inf")
        self._tried_at = float("-inf")
        self._is_low = False
        self._capacity: int | None = None
        self._sums = RecentSums()

    async def check(self, user: str, size: int = 0) -> None:
        """Raise an error with a message for the user unless ``size`` more bytes fit.

        That is InsufficientStorage if the disk is nearly full, Forbidden if the user stores too much.
        """
        now = time.monotonic()
        if self.store.is_full and now - self._tried_at < RETRY_SECONDS:
            raise self._refuse("database")
        self._tried_at = now  # the first request tries it
        await self.look()
        if (disk := self._find_low(size)) is not None:
            raise self._refuse(disk)
        if self._is_low:
            self._is_low = False
            self.log.info("enough disk space is free: new jobs and uploads are accepted again")
        await self._check_share(user, size)

    async def _check_share(self, user: str, size: int) -> None:
        if self.max_user_share == 1 or self._capacity is None:
            return
        limit = int(self.max_user_share * self._capacity)
        known, age = self._sums.get(user)
        if age > (SUM_SECONDS if known + size <= limit else RETRY_SECONDS):
            known = await self.store.reports.sum_bytes_of(user)
            self._sums.put(user, known)
        if known + size <= limit:
            self._sums.add(user, size)
            return
        LIMITS_HELD.labels("max_user_share").inc()
        raise Forbidden(
            f"Your uploads, logs and results use {known} bytes of the storage; the limit is {limit}. Delete"
            " jobs that you no longer need.",
            reason="QuotaExceeded",
            details={"limit": limit, "resource": "stored_bytes"},
        )

    async def check_health(self) -> None:
        """Raise InsufficientStorage if ``check`` would reject a job now."""
        await self.look()
        disk = "database" if self.store.is_full else self._find_low(0)
        if disk is not None:
            free = f": {self.free_bytes[disk]} bytes are free" if disk in self.free_bytes else ""
            raise InsufficientStorage(f"The disk of the {disk} is nearly full{free}.")

    def _find_low(self, size: int) -> str | None:
        least = self.min_free_bytes
        if not least:
            return None
        return next((disk for disk, free in self.free_bytes.items() if free - size < least), None)

    async def look(self) -> None:
        """Measure the free space, unless that was done a moment ago."""
        now = time.monotonic()
        if now - self._found_at < FRESH_SECONDS:
            return
        self._found_at = now
        for disk, part in (("database", self.store), ("storage", self.storage)):
            try:
                free = await part.get_free_bytes()
            except (OSError, StorageError, Unavailable):
                free = None  # it does not respond, which other checks report
            if free is None:
                self.free_bytes.pop(disk, None)
            else:
                self.free_bytes[disk] = free
        with suppress(OSError, StorageError):
            self._capacity = await self.storage.get_capacity_bytes()

    def _refuse(self, disk: str) -> InsufficientStorage:
        LIMITS_HELD.labels("min_free_bytes").inc()
        if not self._is_low:
            self._is_low = True
            free = self.free_bytes.get(disk)
            known = "is full" if free is None else f"has {free} bytes free"
            self.log.error("the disk of the %s %s: new jobs and uploads are rejected", disk, known)
        return InsufficientStorage(
            f"The disk of the {disk} is nearly full, so no new jobs or uploads are accepted. Tell an "
            "admin of the hub. Existing jobs continue, and you can delete those that you do not need."
        )
