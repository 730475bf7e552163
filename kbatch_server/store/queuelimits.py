"""The limits on queued jobs, on the bytes of records, and on the jobs that a job submits.

It counts them in the transaction that adds a job, so that the limits hold for all processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, bindparam, delete, exists, func, insert, select, text, update

from ..errors import Conflict, Forbidden, TooManyRequests
from ..metrics import LIMITS_HELD
from ..models.job import ENDS, Job
from ..ratelimit import SUM_SECONDS, RecentSums
from .database import postgresql
from .queues import count_queued
from .tables import SIZED, WAITING, jobs, queued_groups

RETRY_AFTER_SECONDS = 60
"""When a user with a full queue may try again: most jobs run for minutes."""

MAX_BOUNDS = 10_000
"""The number of users whose counts to remember."""

_SUM = select(func.sum(jobs.c.record_bytes)).where(jobs.c.user == bindparam("of_user"), text(SIZED))
_OF_GROUPS = queued_groups.c.group.in_(bindparam("groups", expanding=True))
_FORGET = delete(queued_groups).where(
    _OF_GROUPS, ~exists().where(jobs.c.seq == queued_groups.c.job_seq, text(WAITING))
)
_ADD_CHILD = (
    update(jobs)
    .where(
        jobs.c.id == bindparam("parent_id"),
        jobs.c.user == bindparam("of_user"),
        jobs.c.children < bindparam("most"),
        jobs.c.status.not_in(sorted(ENDS)),
        jobs.c.cancel_requested_at.is_(None),
        jobs.c.delete_requested_at.is_(None),
    )
    .values(children=jobs.c.children + 1)
)
_SELECT_CHILDREN = select(jobs.c.children).where(
    jobs.c.id == bindparam("parent_id"), jobs.c.user == bindparam("of_user")
)
_COUNT = select(queued_groups.c.group, func.count()).where(_OF_GROUPS).group_by(queued_groups.c.group)


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """The maximum number of queued jobs of one user, and of each of the user's groups for all its members."""

    user: float | None = None
    groups: Mapping[str, float] = field(default_factory=dict)
    record_bytes: int | None = None
    """The maximum size, in bytes, of all jobs of the user in the database."""
    children: int = 0
    """For a job with a parent: the maximum number of jobs that the parent may submit."""


class Queued:
    """The number of queued jobs of some users and groups, as counted in a transaction."""

    def __init__(
        self,
        connection: Connection,
        wanted: Iterable[tuple[str, QueueLimits]],
        bounds: dict[str, int] | None = None,
    ) -> None:
        """Count for pairs of a user and the limits; users without a limit are not counted.

        If several processes write, it locks them, so that no other process adds jobs before this is
        committed. If only one process writes, ``bounds`` remembers the maximum of each user from one call to
        the next: users far from the limit need not be counted each time.
        """
        self._bounds = bounds
        asked: Counter[str] = Counter()
        most: dict[str, float] = {}
        groups: set[str] = set()
        for user, limits in wanted:
            groups.update(limits.groups)
            if limits.user is not None:
                asked[user] += 1
                most[user] = min(limits.user, most.get(user, limits.user))
        known = {user: bounds[user] for user in asked if user in bounds} if bounds else {}
        near = {user for user, count in asked.items() if known.get(user, most[user]) + count > most[user]}
        if (near or groups) and connection.dialect.name == "postgresql":
            words = [f"queued {user}" for user in near] + [f"queued by group {each}" for each in groups]
            postgresql.lock_words(connection, words)
        counted = dict.fromkeys(near, 0) | count_queued(connection, near) if near else {}
        self._of_user = Counter(known | counted)
        self._of_group = Counter(_count_groups(connection, groups) if groups else {})

    def add(self, user: str, limits: QueueLimits) -> TooManyRequests | None:
        """Count one more job, or return the error if the limit is reached."""
        if limits.user is not None and self._of_user[user] >= limits.user:
            return _make_refusal(f"{limits.user:g} of your jobs", limits.user)
        for group, limit in limits.groups.items():
            if self._of_group[group] >= limit:
                return _make_refusal(f"{limit:g} jobs of the group {group!r}", limit)
        self._of_user[user] += 1
        if self._bounds is not None and limits.user is not None:
            if len(self._bounds) > MAX_BOUNDS:
                self._bounds.clear()
            self._bounds[user] = self._of_user[user]
        self._of_group.update(limits.groups.keys())
        return None


class RecordBytes:
    """The bytes of each user's jobs in the database, as far as this process needs them."""

    def __init__(self) -> None:
        self._sums = RecentSums()

    def add(self, connection: Connection, user: str, size: int, limit: int | None) -> Forbidden | None:
        """Count a job of this size, or return the error if the limit is reached."""
        if limit is None:
            return None
        known, age = self._sums.get(user)
        if age > SUM_SECONDS or known + size > limit:
            known = int(connection.scalar(_SUM, {"of_user": user}) or 0)
            self._sums.put(user, known)
        if known + size > limit:
            LIMITS_HELD.labels("max_record_bytes").inc()
            return Forbidden(
                f"Your job records use {known} bytes of the database; the limit is {limit}. Delete jobs that"
                " you no longer need.",
                reason="QuotaExceeded",
                details={"limit": limit, "resource": "record_bytes"},
            )
        self._sums.add(user, size)
        return None


def add_child(connection: Connection, job: Job, most: int) -> Forbidden | Conflict | None:
    """Count a new job at the job that submits it, or return the error.

    One statement checks that the parent may submit and counts, so the limit holds for all processes, and no
    job is added after its parent has ended.
    """
    if job.parent is None:
        return None
    values = {"parent_id": job.parent, "of_user": job.user}
    if connection.execute(_ADD_CHILD, values | {"most": most}).rowcount:
        return None
    children = connection.scalar(_SELECT_CHILDREN, values)
    if children is None or children < most:
        return Conflict("The job has ended, so it cannot submit other jobs.", reason="JobEnded")
    return Forbidden(
        f"The job has submitted {children} jobs; the limit is {most} (max_children).",
        reason="QuotaExceeded",
        details={"limit": most, "resource": "children"},
    )


def add_to_groups(connection: Connection, added: Iterable[tuple[int, Collection[str]]]) -> None:
    """Record the numbers of new jobs as queued for these groups."""
    rows = [{"group": group, "job_seq": seq} for seq, groups in added for group in groups]
    if rows:
        connection.execute(insert(queued_groups), rows)


def _count_groups(connection: Connection, groups: Collection[str]) -> dict[str, int]:
    values = {"groups": sorted(groups)}
    connection.execute(_FORGET, values)
    return {row[0]: row[1] for row in connection.execute(_COUNT, values)}


def _make_refusal(whose: str, limit: float) -> TooManyRequests:
    return TooManyRequests(
        f"{whose} are queued, which is the limit. Submit again after some have started.",
        reason="QuotaExceeded",
        details={"limit": int(limit), "resource": "queued"},
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )
