"""Decides from the record which queued jobs start next, and has them launched; in the leader only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import datetime

import traitlets
from traitlets import Instance
from traitlets.config import LoggingConfigurable

from ..errors import Unavailable
from ..limits.config import Limits
from ..limits.fairshare import get_month
from ..limits.rules import Wait
from ..models.job import Job
from ..models.times import utcnow
from ..store import Store
from ..store.queues import Head, make_claim
from .queues import Queues

HEADS = 16
"""The number of jobs to read per user at a time."""

USERS = 100
"""The number of users whose queues to read at once; then others may use the database."""

AHEAD = 64
"""Maximum number of jobs that have had their turn and are not launched yet; for the others, the order can
still change."""

REFRESH_SECONDS = 30
"""Seconds between two complete recounts from the record."""

SETTLE_SECONDS = 0.02
"""Seconds to gather changes before the next decision."""

SHARE_OF_TIME = 10
"""After a decision, the scheduler pauses for this many times its duration, to share the event loop."""


class Scheduler(LoggingConfigurable):
    """Decides repeatedly which of the queued jobs start, from the record.

    It has in memory what the record says, plus later notifications: a restart, or another leader, decides the
    same. The reconciler offers each job when it looks at it. The scheduler calls ``on_turn`` with the id of a
    job whose turn has come; the reconciler then calls ``take``, and ``begin`` when the launch has begun. A
    complete recount corrects whatever happens in between.
    """

    limits = Instance(Limits)
    store = Instance(Store)
    on_turn: Callable[[str], None] = traitlets.Callable(lambda job_id: None)  # type: ignore[assignment]
    """Called with the id of a job to launch."""

    _task: asyncio.Task[None] | None = None

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._reset()

    def _reset(self) -> None:
        self.queues = Queues(self.limits.accounting)
        self.queues.group_totals = self.limits.group_totals
        self.queues.total_limits = self.limits.total_limits
        self._granted: set[str] = set()
        self._left: set[str] = set()
        self._told: dict[str, Wait] = {}
        self._has_told = False  # what is there yet may be an earlier leader's
        self._month = ""
        self._counted_at = float("-inf")
        self._changed = asyncio.Event()

    @property
    def is_needed(self) -> bool:
        """Whether limits are set: without limits, each job is launched as it comes."""
        return self.limits.is_set

    async def start(self) -> None:
        """Begin to decide, with everything in the record."""
        if self.is_needed:
            self._reset()
            self._task = asyncio.create_task(self._run(), name="scheduler")

    async def stop(self) -> None:
        """Make no more decisions. It may be started again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def offer(self, job: Job) -> None:
        """Put a waiting job into its user's queue."""
        if job.id in self.queues.running:
            return
        self._left.discard(job.id)
        self.queues.get_queue(job.user).insert(make_claim(job))
        self._changed.set()

    def take(self, job: Job) -> bool:
        """Return whether it is the turn of a waiting job; if not, the job is in its queue now."""
        if not self.is_needed or job.launch_begun_at is not None or job.id in self._granted:
            return True
        self.offer(job)
        return False

    def begin(self, job: Job) -> None:
        """Note that the launch of a job has begun, so that another can have its turn."""
        if job.id in self._granted:
            self._granted.discard(job.id)
            self._changed.set()

    def leave(self, job_id: str, user: str | None = None) -> None:
        """Note that a job has ended or was deleted. A job that still waits needs ``user``."""
        if not self.is_needed:
            return
        self._left.add(job_id)
        self._granted.discard(job_id)
        claim = self.queues.stop(job_id)
        user = claim.user if claim is not None else user
        is_known = user is not None and self.queues.drop(job_id, user, has_run=claim is not None)
        for group in claim.groups if claim is not None else ():
            self.queues.group_seconds.pop(group, None)
        if is_known or claim is not None:
            self._changed.set()

    async def _run(self) -> None:
        while True:
            try:
                started = time.monotonic()
                await self.decide()
                pause = max(SETTLE_SECONDS, SHARE_OF_TIME * (time.monotonic() - started))
                await asyncio.sleep(min(pause, REFRESH_SECONDS))
                async with asyncio.timeout(REFRESH_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                continue
            except Unavailable as error:
                self.log.warning("scheduling failed: %s", error)
                await asyncio.sleep(1)
            except Exception:
                self.log.exception("scheduling failed")
                await asyncio.sleep(1)

    async def decide(self) -> None:
        """Decide once: start the jobs whose turn it is, and store why the other users wait."""
        self._changed.clear()
        await self._refresh()
        waits: dict[str, Wait] = {}
        while True:
            await self._read_stale()
            decision = self.queues.choose(utcnow(), most=AHEAD - len(self._granted))
            waits = decision.waits
            for claim in decision.started:
                self._granted.add(claim.id)
                self.on_turn(claim.id)
            if decision.unread is None:
                break
            self.queues.get_queue(decision.unread).is_stale = True
        await self._tell(waits, is_whole=not decision.is_full)

    async def _refresh(self) -> None:
        """Recount all running and waiting jobs if it is time to."""
        now = time.monotonic()
        if now - self._counted_at < REFRESH_SECONDS:
            return
        self._left.clear()
        granted = [self.queues.running[job_id] for job_id in self._granted]  # on record any moment
        begun = await self.store.queues.list_begun()
        users = await self.store.queues.list_waiting_users()
        self.queues.replace_running(claim for claim in [*begun, *granted] if claim.id not in self._left)
        for user in users:
            self.queues.get_queue(user)
        for queue in self.queues.by_user.values():
            queue.is_stale = True
        self.queues.group_seconds.clear()
        self._counted_at = now

    async def _read_stale(self) -> None:
        """Read the stale queues, and the groups' job-hours, from the record."""
        now = utcnow()
        if get_month(now) != self._month:
            self._month = get_month(now)
            self.queues.group_seconds.clear()
            for queue in self.queues.by_user.values():
                queue.is_stale = True
        stale = [user for user, queue in self.queues.by_user.items() if queue.is_stale]
        for start in range(0, len(stale), USERS):
            await self._read_queues(stale[start : start + USERS], now)
        unread = [group for group in self.limits.group_totals if group not in self.queues.group_seconds]
        if unread:
            found = await self.store.usage.find_group_seconds(unread, now=now)
            self.queues.group_seconds |= dict.fromkeys(unread, 0.0) | found

    async def _read_queues(self, users: list[str], now: datetime) -> None:
        for user in users:
            self.queues.begin_reading(user)
        try:
            heads = await self.store.queues.read_heads(users, limit=HEADS + len(self._granted), now=now)
        except BaseException:
            for user in users:
                self.queues.get_queue(user).is_stale = True
            raise
        limits = await asyncio.gather(*(self._find_limits(user, head) for user, head in heads.items()))
        for (user, head), found in zip(heads.items(), limits, strict=True):
            self.queues.fill(user, head, found, without=self._left)

    async def _find_limits(self, user: str, head: Head) -> Mapping[str, float] | None:
        if not head.claims:
            return {}
        try:
            return await self.limits.find(user, head.claims[0].groups)
        except Unavailable:
            return None

    async def _tell(self, waits: Mapping[str, Wait], *, is_whole: bool) -> None:
        """Store the changed reasons why users wait, for the usage report."""
        changes: dict[str, Wait | None] = {
            user: wait for user, wait in waits.items() if self._told.get(user) != wait
        }
        if is_whole:
            changes |= dict.fromkeys(self._told.keys() - waits.keys(), None)
        if changes or not self._has_told:
            await self.store.queues.write_waits(changes, only=not self._has_told)
            self._has_told = True
            for user, wait in changes.items():
                if wait is None:
                    del self._told[user]
                else:
                    self._told[user] = wait
