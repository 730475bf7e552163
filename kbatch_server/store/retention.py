"""Finds what has expired: jobs by the time of their end."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, delete, exists, func, literal, select, true, union_all, update

from ..audit import AuditEntry
from ..limits.fairshare import get_month_end
from ..models.times import utcnow
from .audit import log_entry, put_entry
from .changes import ChangingStore, JobChange
from .tables import job_logs, job_outputs, jobs, log_segments, monthly_use, recent_use, secrets, uploads

FORGOTTEN_AT_ONCE = 500
"""The number of a forgotten user's jobs in one transaction: others write, too."""

JobPart = Literal["record", "log", "outputs"]
"""A part of a job: its record, its logs, or its results."""

_HAS = {
    "record": true(),
    "log": exists().where(job_logs.c.job_id == jobs.c.id),
    "outputs": exists().where(job_outputs.c.job_id == jobs.c.id),
}


_SIZE = {
    "record": literal(0),
    "log": select(func.coalesce(func.sum(log_segments.c.size), 0))
    .where(log_segments.c.job_id == jobs.c.id)
    .scalar_subquery(),
    "outputs": select(job_outputs.c.size).where(job_outputs.c.job_id == jobs.c.id).scalar_subquery(),
}


@dataclass(frozen=True, slots=True)
class EndedJob:
    """The facts about an ended job that are needed to remove a part of it."""

    id: str
    user: str
    ended_at: datetime
    size: int
    """Bytes of the part in the storage."""


class RetentionStore(ChangingStore):
    """Finds, and begins to remove, expired data and the data of users to be forgotten."""

    async def list_users(self) -> list[str]:
        """Return the users with jobs in the database."""
        statement = select(jobs.c.user).distinct().order_by(jobs.c.user)
        return await self._database.read(lambda connection: list(connection.scalars(statement)))

    async def list_ended(
        self,
        user: str,
        part: JobPart,
        *,
        before: datetime,
        since: datetime | None = None,
        after: EndedJob | None = None,
        limit: int = 500,
    ) -> list[EndedJob]:
        """Return a user's jobs that ended before a time and still have that part, oldest first.

        It lists a job only after it was cleaned up: until then the launcher may need its data. ``since``
        omits jobs that ended before that time; ``after`` is the last job of the previous page.
        """
        statement = (
            select(jobs.c.id, jobs.c.user, jobs.c.ended_at, _SIZE[part])
            .where(jobs.c.user == user, jobs.c.ended_at < before, _HAS[part])
            .where(jobs.c.delete_requested_at.is_(None))
            .where(jobs.c.cleaned_at.is_not(None) | jobs.c.launch_begun_at.is_(None))
            .order_by(jobs.c.ended_at, jobs.c.id)
            .limit(limit)
        )
        if since is not None:
            statement = statement.where(jobs.c.ended_at >= since)
        if after is not None:
            end = jobs.c.ended_at
            statement = statement.where(
                (end > after.ended_at) | ((end == after.ended_at) & (jobs.c.id > after.id))
            )
        rows = await self._database.read(lambda connection: connection.execute(statement).all())
        return [EndedJob(*row) for row in rows]

    async def find_log_numbers(self, job_ids: Collection[str]) -> set[tuple[str, int, int]]:
        """Return job id, attempt and number of every saved log segment of these jobs."""
        statement = (
            select(log_segments.c.job_id, job_logs.c.attempt, log_segments.c.number)
            .join(
                job_logs,
                (job_logs.c.job_id == log_segments.c.job_id) & (job_logs.c.pod == log_segments.c.pod),
            )
            .where(log_segments.c.job_id.in_(job_ids))
        )
        rows = await self._database.read(lambda connection: connection.execute(statement).all())
        return {(job_id, attempt, number) for job_id, attempt, number in rows}

    async def find_output_keys(self, job_ids: Collection[str]) -> set[str]:
        """Return the keys of the saved results of these jobs."""
        statement = select(job_outputs.c.key).where(job_outputs.c.job_id.in_(job_ids))
        return await self._database.read(lambda connection: set(connection.scalars(statement)))

    async def list_owners(self) -> dict[str, datetime]:
        """Return the users with jobs, uploads, secrets or usage, each with the time of the oldest.

        The time of usage is that of its last change: the record has no times of earlier changes.
        """
        kept = union_all(
            select(jobs.c.user, jobs.c.created_at.label("at")).where(jobs.c.delete_requested_at.is_(None)),
            select(uploads.c.user, uploads.c.created_at).where(uploads.c.expires_at > utcnow()),
            select(recent_use.c.user, recent_use.c.as_of),
            select(secrets.c.user, secrets.c.updated_at),
        ).subquery()
        oldest = select(kept.c.user, func.min(kept.c.at).label("at")).group_by(kept.c.user)
        months = (
            select(monthly_use.c.name, func.min(monthly_use.c.month))
            .where(monthly_use.c.kind == "user")
            .group_by(monthly_use.c.name)
        )

        def read(connection: Connection) -> dict[str, datetime]:
            owners = {row.user: row.at for row in connection.execute(oldest)}
            for user, month in connection.execute(months):
                at = get_month_end(month)
                owners[user] = min(owners.get(user, at), at)
            return dict(sorted(owners.items()))

        return await self._database.read(read)

    async def forget_jobs(self, user: str, *, before: datetime | None = None) -> list[str]:
        """Request the removal of some of a user's jobs, and return their ids; empty if none is left.

        The caller repeats it until it returns none. ``before`` omits jobs that were accepted at that time or
        later.
        """
        chosen = select(jobs.c.seq).where(jobs.c.user == user, jobs.c.delete_requested_at.is_(None))
        if before is not None:
            chosen = chosen.where(jobs.c.created_at < before)
        statement = (
            update(jobs)
            .where(jobs.c.seq.in_(chosen.limit(FORGOTTEN_AT_ONCE).scalar_subquery()))
            .values(delete_requested_at=utcnow(), idempotency_key=None, request_hash=None)
            .returning(jobs.c.id)
        )

        def ask(connection: Connection) -> tuple[list[str], list[JobChange]]:
            job_ids = list(connection.scalars(statement))
            return job_ids, [JobChange(user, job_id) for job_id in job_ids]

        return await self._write(ask)

    async def forget_uploads(self, user: str, *, before: datetime | None = None) -> int:
        """Let a user's uploads expire now, and return their number; each is removed once no job uses it."""
        now = utcnow()
        statement = update(uploads).where(uploads.c.user == user, uploads.c.expires_at > now)
        if before is not None:
            statement = statement.where(uploads.c.created_at < before)
        return await self._database.write(
            lambda connection: connection.execute(statement.values(expires_at=now)).rowcount
        )

    async def forget_usage(self, user: str, *, audit: AuditEntry) -> None:
        """Forget a user's usage, so that a new user of that name is not charged for it.

        The same applies to jobs that are being removed, and may still run for a moment.
        """
        removed = update(jobs).where(jobs.c.user == user, jobs.c.delete_requested_at.is_not(None))

        def forget(connection: Connection) -> AuditEntry | None:
            connection.execute(removed.values(is_forgotten=True))
            connection.execute(delete(recent_use).where(recent_use.c.user == user))
            connection.execute(
                delete(monthly_use).where(monthly_use.c.kind == "user", monthly_use.c.name == user)
            )
            return put_entry(connection, audit)

        log_entry(await self._database.write(forget))
