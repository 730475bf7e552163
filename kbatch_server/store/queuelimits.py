"""How many jobs may be queued, and what they may take of the database: counted in the transaction that adds
one, so it holds for all who add some."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, bindparam, delete, exists, func, insert, select, text

from ..errors import Forbidden, TooManyRequests
from ..metrics import LIMITS_HELD
from .database import postgresql
from .queues import count_queued
from .tables import SIZED, WAITING, jobs, queued_groups

RETRY_AFTER_SECONDS = 60
"""When somebody whose queue is full may look again: jobs run for minutes, most of them."""

MAX_BOUNDS = 10_000
"""Users whose number of queued jobs is remembered."""

SUM_SECONDS = 60
"""For how long the sum of what a user's jobs take is good."""

_SUM = select(func.sum(jobs.c.record_bytes)).where(jobs.c.user == bindparam("of_user"), text(SIZED))
_OF_GROUPS = queued_groups.c.group.in_(bindparam("groups", expanding=True))
_FORGET = delete(queued_groups).where(
    _OF_GROUPS, ~exists().where(jobs.c.seq == queued_groups.c.job_seq, text(WAITING))
)
_COUNT = select(queued_groups.c.group, func.count()).where(_OF_GROUPS).group_by(queued_groups.c.group)


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How many jobs may be queued of one user, and of his groups, each for all its members."""

    user: float | None = None
    groups: Mapping[str, float] = field(default_factory=dict)
    record_bytes: int | None = None
    """How many bytes of the database all jobs of the user may take."""


class Queued:
    """What is queued of some users and groups, from the moment that it was counted in a transaction."""

    def __init__(
        self,
        connection: Connection,
        wanted: Iterable[tuple[str, QueueLimits]],
        bounds: dict[str, int] | None = None,
    ) -> None:
        """Count for pairs of a user and the limits; who is not limited is not counted.

        They are locked, where several processes write, so that nobody adds others before this is committed.
        Where one alone does, ``bounds`` remembers how many there are at most of each user, between two of
        these: who is far from the limit need not be counted each time.
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
        """Count one more, or return why there may not be one."""
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
    """How much of the database the jobs of each user take, as far as this process must know.

    A sum is good for a while: other processes may add jobs meanwhile, and users delete some. So a limit may
    be passed by what a user submits to several processes in a minute.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[int, float]] = {}

    def add(self, connection: Connection, user: str, size: int, limit: int | None) -> Forbidden | None:
        """Count a job of this size, or return why there may not be one."""
        if limit is None:
            return None
        now = time.monotonic()
        known, at = self._sums.get(user, (0, float("-inf")))
        if now - at > SUM_SECONDS or known + size > limit:
            known, at = int(connection.scalar(_SUM, {"of_user": user}) or 0), now
        if known + size > limit:
            LIMITS_HELD.labels("max_record_bytes").inc()
            return Forbidden(
                f"Your job records use {known} bytes of the database; the limit is {limit}. Delete jobs that"
                " you no longer need.",
                reason="QuotaExceeded",
                details={"limit": limit, "resource": "record_bytes"},
            )
        if len(self._sums) > MAX_BOUNDS:
            self._sums.clear()
        self._sums[user] = known + size, at
        return None


def add_to_groups(connection: Connection, added: Iterable[tuple[int, Collection[str]]]) -> None:
    """Note the numbers of jobs that were added as queued by these groups."""
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
