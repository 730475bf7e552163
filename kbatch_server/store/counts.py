"""Numbers of all users' things: the part of the JobStore that metrics read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select, text, union_all

from ..models.job import ENDS, Status
from .database.database import Database
from .tables import DUE, WAITING, job_outputs, jobs, log_segments, uploads

KeptBytes = dict[str, int]
"""Bytes in the storage, by kind: ``uploads``, ``logs``, ``outputs``."""

_DELETED = jobs.c.delete_requested_at.is_not(None).label("is_deleted")
# by the partial indexes: what is over and done with is not looked at
_ACTIVE = union_all(
    *(select(jobs.c.status, _DELETED, jobs.c.created_at).where(text(which)) for which in (DUE, WAITING))
).subquery()
_COUNT = select(
    _ACTIVE.c.status, _ACTIVE.c.is_deleted, func.count(), func.min(_ACTIVE.c.created_at)
).group_by(_ACTIVE.c.status, _ACTIVE.c.is_deleted)


@dataclass(frozen=True, slots=True)
class ActiveJobs:
    """The jobs that something is still to be done for."""

    counts: dict[Status, int]
    """Of those that are not over, by status."""
    oldest_queued_at: datetime | None
    to_clean: int
    """Those that are over or to be deleted, and not cleaned up after."""


class CountStore:
    """What JobStore counts."""

    _database: Database

    async def count_active(self) -> ActiveJobs:
        """Return how many jobs of everybody's are not over, or not cleaned up after."""
        rows = await self._database.read(lambda connection: connection.execute(_COUNT).all())
        counts = {status: 0 for status in Status if status not in ENDS}
        oldest: datetime | None = None
        to_clean = 0
        for status, is_deleted, count, first in rows:
            if is_deleted or Status(status) in ENDS:
                to_clean += count
            else:
                counts[Status(status)] = count
                oldest = first if status == Status.QUEUED else oldest
        return ActiveJobs(counts, oldest, to_clean)

    async def sum_bytes(self) -> KeptBytes:
        """Return how many bytes in the storage the records name; it reads all of them."""
        kinds = {"uploads": uploads.c.code_size, "logs": log_segments.c.size, "outputs": job_outputs.c.size}

        def add_up(connection: Connection) -> KeptBytes:
            return {
                kind: int(connection.scalar(select(func.coalesce(func.sum(size), 0))) or 0)
                for kind, size in kinds.items()
            }

        return await self._database.read(add_up)
