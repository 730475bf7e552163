"""Counts and sums over many jobs, computed in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    bindparam,
    case,
    extract,
    func,
    select,
    text,
    union_all,
)

from ..models.job import ENDS, Status
from ..models.summary import JobSummary, NewestJob, ReasonSum, UserSum
from ..models.times import utcnow
from .database.database import Database
from .tables import DUE, WAITING, job_outputs, jobs, log_segments, uploads

KeptBytes = dict[str, int]
"""Bytes in the storage, by kind: ``uploads``, ``logs``, ``outputs``."""

_DELETED = jobs.c.delete_requested_at.is_not(None).label("is_deleted")
# with the partial indexes: it does not read jobs that need no more steps
_ACTIVE = union_all(
    *(select(jobs.c.status, _DELETED, jobs.c.created_at).where(text(which)) for which in (DUE, WAITING))
).subquery()
_COUNT = select(
    _ACTIVE.c.status, _ACTIVE.c.is_deleted, func.count(), func.min(_ACTIVE.c.created_at)
).group_by(_ACTIVE.c.status, _ACTIVE.c.is_deleted)
_JOBS = func.count().label("count")
_STILL_ACTIVE = func.sum(case((jobs.c.status.in_(sorted(ENDS)), 0), else_=1))
_END = func.coalesce(jobs.c.ended_at, bindparam("now", type_=jobs.c.ended_at.type))
_RUN_SECONDS = func.sum(extract("epoch", _END) - extract("epoch", jobs.c.started_at))
_OF_USER: BindParameter[str] = bindparam("of_user")
_SIZES_OF_USER = union_all(
    select(uploads.c.code_size.label("size")).where(uploads.c.user == _OF_USER),
    *(
        select(kept.c.size).join(jobs, jobs.c.id == kept.c.job_id).where(jobs.c.user == _OF_USER)
        for kept in (log_segments, job_outputs)
    ),
).subquery()
_SUM_OF_USER = select(func.sum(_SIZES_OF_USER.c.size))


@dataclass(frozen=True, slots=True)
class ActiveJobs:
    """The jobs that still need a step."""

    counts: dict[Status, int]
    """Jobs that have not ended, by status."""
    oldest_queued_at: datetime | None
    to_clean: int
    """Jobs that have ended or are to be deleted, and are not cleaned up."""


class ReportStore:
    """Counts and sums over the jobs of one user, or of all."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count_active(self) -> ActiveJobs:
        """Return how many jobs of all users have not ended, or are not cleaned up."""
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

    async def sum_bytes_of(self, user: str) -> int:
        """Return the bytes of a user's uploads, logs and results in the storage."""
        return await self._database.read(
            lambda connection: int(connection.scalar(_SUM_OF_USER, {"of_user": user}) or 0), is_costly=True
        )

    async def sum_bytes(self) -> KeptBytes:
        """Return the bytes of all recorded objects in the storage; it reads all records."""
        kinds = {"uploads": uploads.c.code_size, "logs": log_segments.c.size, "outputs": job_outputs.c.size}

        def add_up(connection: Connection) -> KeptBytes:
            return {
                kind: int(connection.scalar(select(func.coalesce(func.sum(size), 0))) or 0)
                for kind, size in kinds.items()
            }

        return await self._database.read(add_up)

    async def summarize(self, user: str | None, *, since: datetime | None, limit: int) -> JobSummary:
        """Return sums over the jobs, of one user or (None) of all, that were accepted since a time.

        ``limit`` is the maximum number of users, and of reasons: it includes those with the most jobs.
        """
        wanted = _make_conditions(user, since)
        users = (
            select(jobs.c.user, _JOBS, _STILL_ACTIVE, _RUN_SECONDS)
            .where(*wanted)
            .group_by(jobs.c.user)
            .order_by(_JOBS.desc(), jobs.c.user)
            .limit(limit)
        )
        reasons = (
            select(jobs.c.reason, _JOBS, func.max(jobs.c.seq))
            .where(*wanted, jobs.c.status == Status.FAILED.value)
            .group_by(jobs.c.reason)
            .order_by(_JOBS.desc(), jobs.c.reason)
            .limit(limit)
        )

        def add_up(connection: Connection) -> JobSummary:
            return JobSummary(
                jobs=connection.scalar(select(_JOBS).select_from(jobs).where(*wanted)) or 0,
                users=[_make_user_sum(*row) for row in connection.execute(users, {"now": utcnow()})],
                reasons=_add_newest(connection, connection.execute(reasons).all()),
            )

        return await self._database.read(add_up, is_costly=True)


def _make_conditions(user: str | None, since: datetime | None) -> list[ColumnElement[bool]]:
    whose = [] if user is None else [jobs.c.user == user]
    wanted = [*whose, jobs.c.delete_requested_at.is_(None)]
    if since is not None:
        wanted.append(jobs.c.created_at >= since)
    return wanted


def _make_user_sum(user: str, count: int, active: int, seconds: float | None) -> UserSum:
    # clocks may differ, so the end of a short job may be before its start
    return UserSum(user=user, jobs=count, active=active, run_seconds=max(float(seconds or 0), 0))


def _add_newest(connection: Connection, sums: Sequence[Any]) -> list[ReasonSum]:
    """Return sums by reason with the newest job of each, without jobs that were just removed."""
    columns = (jobs.c.seq, jobs.c.id, jobs.c.user, jobs.c.name, jobs.c.message)
    statement = select(*columns).where(jobs.c.seq.in_([seq for _, _, seq in sums]))
    newest = {
        seq: NewestJob(id=job_id, user=user, name=name, message=message)
        for seq, job_id, user, name, message in connection.execute(statement)
    }
    return [
        ReasonSum(reason=reason, jobs=count, newest=newest[seq])
        for reason, count, seq in sums
        if seq in newest
    ]
