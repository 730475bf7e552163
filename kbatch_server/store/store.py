"""The store: one database, with an object for each kind of record."""

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
from .secrets import SecretStore
from .uploads import UploadStore
from .usage import UsageStore

# the row that always exists, written without a change
_TOUCH = text("UPDATE alembic_version SET version_num = version_num")


class Store:
    """All records in one database, for all callers on one event loop.

    Several processes may share a PostgreSQL database. Every method of the store and its parts raises
    Unavailable while the database does not respond. When a method returns, its changes are durable.
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
        self.secrets = SecretStore(self._database, keyring)
        self.uploads = UploadStore(self._database)
        self.usage = UsageStore(self._database)
        self.jobs = JobStore(self._database, self.changes, keyring, self.usage)

    async def open(self) -> None:
        """Connect; raises StoreError, with advice, if the database cannot be used."""
        await self._database.open(upgrade=self._auto_upgrade)

    async def close(self) -> None:
        """Finish the writes in progress, and close the database; later ones raise Unavailable."""
        await self.changes.close()
        await self._database.close()

    async def check(self) -> None:
        """Raise Unavailable unless the database responds."""
        await self.jobs.find("")

    async def check_writes(self) -> None:
        """Raise Unavailable while the database accepts no writes: its disk is full, or it is read-only.

        It only tries this after a failed write, so it costs nothing as long as writes succeed.
        """
        if self._database.is_failing:
            await self._database.write(lambda connection: connection.execute(_TOUCH))

    @property
    def is_full(self) -> bool:
        """Whether the last write failed because the disk was full."""
        return self._database.is_full

    async def get_free_bytes(self) -> int | None:
        """Return the free space for the database in bytes, or None if it is on another machine."""
        return await self._database.get_free_bytes()

    async def upgrade(self) -> None:
        """Upgrade the tables, without opening the store; raises StoreError."""
        await self._database.open(upgrade=True)
        await self._database.close()

    def make_lead_lock(self) -> LeadLock:
        """Return the lock that the leader of the processes that share this database holds."""
        return SharedLock(self._database.url) if self._database.is_shared else SoleLock()

    async def announce(self, job_ids: Sequence[str]) -> None:
        """Notify the leader of at most 100 jobs that need a step."""
        if self._database.is_shared:
            await self._database.write(lambda connection: postgresql.announce(connection, job_ids))
