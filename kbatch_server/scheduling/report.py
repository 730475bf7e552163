"""Reports a user's limits and usage, and for each waiting job its place in the queue and the reason."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from traitlets import Instance
from traitlets.config import LoggingConfigurable
from typing_extensions import TypedDict

from ..errors import Unavailable
from ..limits.config import Limits
from ..limits.fairshare import count_in_month
from ..limits.rules import HOURS, QUEUED, UNDECIDED, Wait
from ..models.job import Job, Status
from ..models.times import utcnow
from ..models.user import User
from ..store.queues import Claim, Queue, QueueStore
from ..store.usage import UsageStore

PLACES = 1000
"""The highest place to count in a queue: a page of jobs must not read a long queue to its end."""

SHOWN = 100
"""The number of queued jobs whose place a report shows."""

MAX_RUNNING = 10_000
"""The maximum number of one user's running jobs to add up."""


Amounts = dict[str, float]
"""Amounts by resource; memory is in bytes."""


class QueuedJson(TypedDict):
    """A queued job and its place."""

    id: str
    name: str
    place: int


class QueueJson(TypedDict):
    """A user's queued jobs, and the reason why the first of them waits."""

    reason: str
    message: str
    jobs: list[QueuedJson]


class UsageJson(TypedDict):
    """A user's limits, usage and queue."""

    limits: Amounts | None
    """None if the limits cannot be read now."""
    group_totals: dict[str, Amounts]
    """The limits for all members of a group together, by group."""
    usage: Amounts
    queue: QueueJson


class UsageReport(LoggingConfigurable):
    """Answers from the record, in any of the replicas."""

    limits = Instance(Limits)
    records = Instance(QueueStore)
    usage = Instance(UsageStore)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._reading: dict[str, asyncio.Task[list[Claim]]] = {}

    async def explain(self, jobs: Collection[Job]) -> None:
        """Set the reason and the message of each waiting job, with its place in the queue."""
        waiting = [job for job in jobs if _is_waiting(job)] if self.limits.is_set else []
        if not waiting:
            return
        queues = await self.records.read_queues({job.user for job in waiting}, limit=PLACES)
        for job in waiting:
            queue = queues[job.user]
            wait = queue.wait or UNDECIDED
            job.reason, job.message = wait.reason, wait.make_message(queue.places.get(job.id), PLACES)

    async def describe(self, user: User) -> UsageJson:
        """Return the limits, the usage and the queue of a user, as JSON.

        Memory is in bytes. ``limits`` is None if the limits cannot be read now.
        """
        now = utcnow()
        queues = await self.records.read_queues([user.name], limit=SHOWN)
        uses = await self.usage.find([user.name], now=now)
        claims = await self._list_begun(user.name)
        amounts: Counter[str] = Counter()
        for claim in claims:
            amounts.update(claim.demand)
        seconds = uses[user.name].month_seconds
        seconds += sum(count_in_month(claim.started_at, now) for claim in claims)
        own = {QUEUED: await self.records.count_queued(user.name), **_BASE, **amounts}
        return {
            "limits": await self._find_limits(user),
            "group_totals": {
                group: _as_json(self.limits.group_totals[group])
                for group in self.limits.find_counted(user.groups)
            },
            "usage": _as_json(own) | {HOURS: round(seconds / 3600, 5)},
            "queue": _show(queues[user.name]),
        }

    async def _list_begun(self, user: str) -> list[Claim]:
        """Return a user's running jobs; concurrent calls for the same user share one read.

        Ten thousand jobs take half a second of a thread, so the jobs of a user are never read twice at a
        time.
        """
        reading = self._reading.get(user)
        if reading is None:
            reading = asyncio.create_task(
                self.records.list_begun_of(user, limit=MAX_RUNNING), name=f"standing-{user}"
            )
            self._reading[user] = reading
            reading.add_done_callback(partial(self._forget, user))
        return await asyncio.shield(reading)  # others may wait for it

    def _forget(self, user: str, done: asyncio.Task[list[Claim]]) -> None:
        del self._reading[user]
        if not done.cancelled():
            done.exception()  # whoever waited for it may have gone

    async def _find_limits(self, user: User) -> Amounts | None:
        try:
            return _as_json(await self.limits.find(user.name, user.groups))
        except Unavailable:
            return None  # the hook failed, and its log says why: all else is of use without


_BASE = {"running": 0.0, "cpu": 0.0, "memory": 0.0}
"""Resources that the report shows even if their usage is 0."""


def _is_waiting(job: Job) -> bool:
    return job.status is Status.QUEUED and job.launch_begun_at is None and job.delete_requested_at is None


def _as_json(amounts: Mapping[str, float]) -> Amounts:
    """Return amounts with whole numbers as integers, and without infinite ones, which JSON lacks."""
    return {
        name: int(amount) if float(amount).is_integer() else round(amount, 6)
        for name, amount in amounts.items()
        if amount != float("inf")
    }


def _show(queue: Queue) -> QueueJson:
    wait: Wait | None = (queue.wait or UNDECIDED) if queue.places else None
    return {
        "reason": wait.reason if wait else "",
        "message": wait.make_message(1) if wait else "",
        "jobs": [
            {"id": job_id, "name": queue.names[job_id], "place": place}
            for job_id, place in queue.places.items()
        ],
    }
