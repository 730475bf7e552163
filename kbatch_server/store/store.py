"""The store: one database, and for each kind of record an object that reads and writes it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from sqlalchemy import text

from ..keyring import Keyring
from .audit import AuditStore
from .changes import Changes, SharedChanges, SoleChanges
from .database import postgresql
from .database.database import Database
from .database.leader_lock import LeadLock, SharedLock, SoleLock
from .jobs import JobStore
from .logs import LogStore
from .outputs import OutputStore
from .queues import QueueStore
from .reports import ReportStore
from .retention import RetentionStore
from .uploads import UploadStore
from .usage import UsageStore

# the one row that is always there, written as it is
_TOUCH = text("UPDATE alembic_version SET version_num = version_num")


class Store:
    """All records in one database, for all callers of one event loop.

    Other processes may use the same database, where it is one that several can.

    Every method of the store and its parts raises Unavailable while the database does not answer. What a
    method has returned from is durable.
    """

    def __init__(
        self,
        url: str,
        keyring: Keyring,
        *,
        log: logging.Logger | logging.LoggerAdapter[Any],
        auto_upgrade: bool = False,
    ) -> None:
        self._database = Database(url, log=log)
        self._auto_upgrade = auto_upgrade
        is_shared = self._database.is_shared
        self.changes: Changes = SharedChanges(self._database.url) if is_shared else SoleChanges()
        self.audit = AuditStore(self._database)
        self.logs = LogStore(self._database)
        self.outputs = OutputStore(self._database, self.changes)
        self.queues = QueueStore(self._database)
        self.reports = ReportStore(self._database)
        self.retention = RetentionStore(self._database, self.changes)
        self.uploads = UploadStore(self._database)
        self.usage = UsageStore(self._database)
        self.jobs = JobStore(self._database, self.changes, keyring, self.usage, log=log)

    async def open(self) -> None:
        """Connect; raises StoreError when the database cannot be used, with what to do about it."""
        await self._database.open(upgrade=self._auto_upgrade)
        self.jobs.start()

    async def close(self) -> None:
        """Let go of the database; those who wait to add a job get Unavailable."""
        await self.jobs.stop()
        await self.changes.close()
        await self._database.close()

    async def check(self) -> None:
        """Raise Unavailable unless the database answers."""
        await self.jobs.find("")

    async def check_writes(self) -> None:
        """Raise Unavailable while the database takes no writes: its disk is full, or may only be read.

        It is tried only after a write has failed, so that asking costs nothing as long as all is well.
        """
        if self._database.is_failing:
            await self._database.write(lambda connection: connection.execute(_TOUCH))

    @property
    def is_full(self) -> bool:
        """Whether the last write was not done because there was no room for it."""
        return self._database.is_full

    async def get_free_bytes(self) -> int | None:
        """Return how much room is left for the database, or None where another machine has it."""
        return await self._database.get_free_bytes()

    async def upgrade(self) -> None:
        """Bring the tables up to date, without opening the store; raises StoreError."""
        await self._database.open(upgrade=True)
        await self._database.close()

    def make_lead_lock(self) -> LeadLock:
        """Return what this process has to hold to lead those that share the database."""
        return SharedLock(self._database.url) if self._database.is_shared else SoleLock()

    async def announce(self, job_ids: Sequence[str]) -> None:
        """Tell the process that leads of at most 100 jobs that there is something to do about them."""
        if self._database.is_shared:
            await self._database.write(lambda connection: postgresql.announce(connection, job_ids))
