"""Sums over many jobs: the part of the JobStore that adds them up, so that nobody reads them all."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, case, extract, func, select

from ..models.job import ENDS, Status
from ..models.summary import JobSummary, NewestJob, ReasonSum, UserSum
from ..models.times import utcnow
from .database.database import Database
from .tables import jobs

_COUNT = func.count().label("count")
_ACTIVE = func.sum(case((jobs.c.status.in_(sorted(ENDS)), 0), else_=1))
_END = func.coalesce(jobs.c.ended_at, bindparam("now", type_=jobs.c.ended_at.type))
_RUN_SECONDS = func.sum(extract("epoch", _END) - extract("epoch", jobs.c.started_at))


class SummaryStore:
    """What JobStore adds up."""

    _database: Database

    async def summarize_jobs(self, user: str | None, *, since: datetime | None, limit: int) -> JobSummary:
        """Return the sums over the jobs of the user's (None: of everybody's) that were accepted since a time.

        ``limit`` is how many users, and how many reasons, there are in it at most: those with most jobs.
        """
        wanted = _make_conditions(user, since)
        users = (
            select(jobs.c.user, _COUNT, _ACTIVE, _RUN_SECONDS)
            .where(*wanted)
            .group_by(jobs.c.user)
            .order_by(_COUNT.desc(), jobs.c.user)
            .limit(limit)
        )
        reasons = (
            select(jobs.c.reason, _COUNT, func.max(jobs.c.seq))
            .where(*wanted, jobs.c.status == Status.FAILED.value)
            .group_by(jobs.c.reason)
            .order_by(_COUNT.desc(), jobs.c.reason)
            .limit(limit)
        )

        def add_up(connection: Connection) -> JobSummary:
            return JobSummary(
                jobs=connection.scalar(select(_COUNT).select_from(jobs).where(*wanted)) or 0,
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
    # clocks may differ, and the end of a short job come before its start
    return UserSum(user=user, jobs=count, active=active, run_seconds=max(float(seconds or 0), 0))


def _add_newest(connection: Connection, sums: Sequence[Any]) -> list[ReasonSum]:
    """Return sums by reason with the newest job of each; one that was removed just now is left out."""
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
