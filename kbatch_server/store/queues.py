"""Reads the waiting and running jobs for the scheduler, and never a whole long queue."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Executable, Integer, bindparam, delete, func, insert, select, text

from ..limits.rules import Wait, make_demand
from ..models.job import ENDS, Job, JobSpec
from .database.database import Database
from .tables import DUE, WAITING, jobs, waits
from .usage import Use, find_uses

STEP = 100
"""The number of jobs to read at once."""

_LIMIT = bindparam("limit", type_=Integer())
_PART = (
    jobs.c.id,
    jobs.c.user,
    jobs.c.seq,
    jobs.c.rank,
    jobs.c.spec,
    jobs.c.groups,
    jobs.c.launch_begun_at,
    jobs.c.started_at,
)
_SELECT_BEGUN = select(jobs.c.seq).where(
    text(f"({DUE})"), jobs.c.launch_begun_at.is_not(None), jobs.c.status.not_in(sorted(ENDS))
)
_SELECT_SOME = select(*_PART).where(jobs.c.seq.in_(bindparam("seqs", expanding=True)))
_SELECT_BEGUN_OF = _SELECT_BEGUN.where(
    jobs.c.user == bindparam("of_user"), jobs.c.is_forgotten.is_(False)
).limit(_LIMIT)
_SELECT_USERS = select(jobs.c.user).where(text(WAITING)).group_by(jobs.c.user)
_SELECT_HEAD = (
    select(*_PART)
    .where(text(WAITING), jobs.c.user == bindparam("of_user"))
    .order_by(jobs.c.rank, jobs.c.seq)
    .limit(_LIMIT)
)
_SELECT_PLACES = (
    select(jobs.c.id, jobs.c.name)
    .where(text(WAITING), jobs.c.user == bindparam("of_user"))
    .order_by(jobs.c.rank, jobs.c.seq)
    .limit(_LIMIT)
)
_COUNT_QUEUED = (
    select(jobs.c.user, func.count())
    .where(text(WAITING), jobs.c.user.in_(bindparam("users", expanding=True)))
    .group_by(jobs.c.user)
)


@dataclass(frozen=True, slots=True)
class Claim:
    """The resources that a job takes while it runs, its user, and its place in the queue."""

    id: str
    user: str
    seq: int
    rank: int
    demand: Mapping[str, float]
    groups: tuple[str, ...] = ()
    is_handed_over: bool = False
    """Whether Kueue, not the service, gives the job its part of what all users share."""
    begun_at: datetime | None = None
    started_at: datetime | None = None

    @property
    def order(self) -> tuple[int, int]:
        """The place among the user's own jobs."""
        return self.rank, self.seq


def make_claim(job: Job) -> Claim:
    """Return the facts about a job that the scheduler needs."""
    spec = job.spec
    return Claim(
        job.id,
        job.user,
        job.seq,
        -spec.priority,
        make_demand(spec),
        tuple(job.groups),
        spec.queue_name is not None,
        job.launch_begun_at,
        job.started_at,
    )


@dataclass(frozen=True, slots=True)
class Head:
    """The first of a user's waiting jobs, whether these are all, and the user's usage."""

    claims: list[Claim]
    is_whole: bool
    use: Use


@dataclass(frozen=True, slots=True)
class Queue:
    """A user's waiting jobs, in order, and why the first one waits (None: not decided yet)."""

    places: dict[str, int]
    """By id, from 1."""
    names: dict[str, str]
    wait: Wait | None


class QueueStore:
    """The rows of waiting and running jobs, and the reasons why users wait."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_begun(self) -> list[Claim]:
        """Return the jobs whose launch has begun and that have not ended."""
        return await self._database.read(lambda connection: _read_shares(connection, _SELECT_BEGUN, {}))

    async def list_begun_of(self, user: str, *, limit: int) -> list[Claim]:
        """Return such jobs of one user."""
        values = {"of_user": user, "limit": limit}
        return await self._database.read(
            lambda connection: _read_shares(connection, _SELECT_BEGUN_OF, values), is_costly=True
        )

    async def list_waiting_users(self) -> list[str]:
        """Return the users with waiting jobs."""
        return await self._database.read(lambda connection: list(connection.scalars(_SELECT_USERS)))

    async def read_heads(self, users: Sequence[str], *, limit: int, now: datetime) -> dict[str, Head]:
        """Return the first jobs of each user, at most ``limit``, and the user's usage."""

        def read(connection: Connection) -> dict[str, Head]:
            uses = find_uses(connection, list(users), now)
            heads = {}
            for user in users:
                rows = connection.execute(_SELECT_HEAD, {"of_user": user, "limit": limit}).all()
                heads[user] = Head([_make_share(row) for row in rows], len(rows) < limit, uses[user])
            return heads

        return await self._database.read(read)

    async def read_queues(self, users: Collection[str], *, limit: int) -> dict[str, Queue]:
        """Return the queue of each user, at most its first ``limit`` jobs."""
        names = list(users)

        def read(connection: Connection) -> dict[str, Queue]:
            found = connection.execute(select(waits).where(waits.c.user.in_(names)))
            why = {row.user: Wait(row.reason, row.why) for row in found}
            queues = {}
            for user in names:
                rows = connection.execute(_SELECT_PLACES, {"of_user": user, "limit": limit}).all()
                places = {row.id: place for place, row in enumerate(rows, 1)}
                queues[user] = Queue(places, {row.id: row.name for row in rows}, why.get(user))
            return queues

        return await self._database.read(read)

    async def count_queued(self, user: str) -> int:
        """Return the number of a user's waiting jobs."""
        counts = await self._database.read(lambda connection: count_queued(connection, [user]))
        return counts.get(user, 0)

    async def write_waits(self, changes: Mapping[str, Wait | None], *, only: bool = False) -> None:
        """Store why users wait, or (None) that they do not; with ``only``, delete those of all others."""
        rows = [
            {"user": user, "reason": wait.reason, "why": wait.why}
            for user, wait in changes.items()
            if wait is not None
        ]

        def write(connection: Connection) -> None:
            if only:
                connection.execute(delete(waits))
            elif changes:
                connection.execute(
                    delete(waits).where(waits.c.user == bindparam("of_user")),
                    [{"of_user": user} for user in sorted(changes)],
                )
            if rows:
                connection.execute(insert(waits), rows)

        await self._database.write(write)


def count_queued(connection: Connection, users: Iterable[str]) -> dict[str, int]:
    """Return the number of waiting jobs of each of these users that has any."""
    return {row[0]: row[1] for row in connection.execute(_COUNT_QUEUED, {"users": list(users)})}


def _read_shares(connection: Connection, statement: Executable, values: Mapping[str, Any]) -> list[Claim]:
    """Return the claims of the jobs whose numbers a statement selects.

    It reads a few jobs at a time: each has its whole spec, which may be 130 kB.
    """
    seqs = list(connection.scalars(statement, values))
    claims: list[Claim] = []
    for start in range(0, len(seqs), STEP):
        some = connection.execute(_SELECT_SOME, {"seqs": seqs[start : start + STEP]})
        claims += [_make_share(row) for row in some]
    return claims


def _make_share(row: Sequence[Any]) -> Claim:
    job_id, user, seq, rank, spec_json, groups, begun_at, started_at = row
    spec = JobSpec.model_validate_json(spec_json)
    names = () if groups == "[]" else tuple(json.loads(groups))
    handed = spec.queue_name is not None
    return Claim(job_id, user, seq, rank, make_demand(spec), names, handed, begun_at, started_at)
