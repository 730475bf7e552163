"""Decides which job is launched next, and when; in the leader only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime

from traitlets import Instance
from traitlets.config import LoggingConfigurable

from ..errors import Unavailable
from ..limits.config import Limits
from ..limits.fairshare import get_month
from ..limits.rules import Wait
from ..models.job import Job
from ..models.times import utcnow
from ..store.queues import Head, QueueStore, make_claim
from ..store.usage import UsageStore
from .pacer import LaunchPacer
from .queues import Queues

HEADS = 16
"""The number of jobs to read per user at a time."""

USERS = 100
"""The number of users whose queues to read at once; then others may use the database."""

AHEAD = 64
"""The maximum number of jobs whose turn has come and whose launch has not begun. The order of the others can
still change."""

KNOWN = 1000
"""The maximum number of jobs in memory until their launch. The launch of another job reads it again."""

REFRESH_SECONDS = 30
"""Seconds between two complete recounts from the record."""

SETTLE_SECONDS = 0.02
"""Seconds to gather changes before the next decision."""

SHARE_OF_TIME = 10
"""After a decision, the scheduler pauses for this many times its duration, to share the event loop."""


class Scheduler(LoggingConfigurable):
    """Decides repeatedly which of the waiting jobs start, from the record, and at which rate.

    The reconciler offers it jobs, and asks for the ``next`` one to launch. Without limits, that is the job
    that was offered first; with limits, the first job whose turn has come. The scheduler has in memory what
    the record says, plus later notifications: a restart, or another leader, decides the same. A complete
    recount corrects whatever happens in between.
    """

    limits = Instance(Limits)
    pacer = Instance(LaunchPacer)
    records = Instance(QueueStore)
    usage = Instance(UsageStore)

    _task: asyncio.Task[None] | None = None

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._ready: dict[str, None] = {}
        self._has_ready = asyncio.Event()
        self._asking = asyncio.Lock()
        self._known: dict[str, Job] = {}
        self._reset()

    def _reset(self) -> None:
        self.queues = Queues(self.limits.accounting)
        self.queues.group_totals = self.limits.group_totals
        self.queues.total_limits = self.limits.total_limits
        self._ready.clear()
        self._has_ready.clear()
        self._known.clear()
        self._granted: set[str] = set()
        self._left: set[str] = set()
        self._told: dict[str, Wait] = {}
        self._has_told = False  # the stored reasons may be those of an earlier leader
        self._month = ""
        self._counted_at = float("-inf")
        self._changed = asyncio.Event()

    def __contains__(self, job_id: str) -> bool:
        """Whether a job's turn has come, and ``next`` has not returned it yet."""
        return job_id in self._ready

    def __len__(self) -> int:
        """Return the number of jobs whose turn has come, and which only the rate of launches holds back."""
        return len(self._ready)

    @property
    def is_needed(self) -> bool:
        """Whether limits are set. Without limits, the turn of each job has come when it is offered."""
        return self.limits.is_set

    async def start(self) -> None:
        """Begin to decide, with everything in the record."""
        if self.is_needed:
            self._task = asyncio.create_task(self._run(), name="scheduler")

    async def stop(self) -> None:
        """Make no more decisions, and forget all waiting jobs. It may be started again."""
        task, self._task = self._task, None
        try:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        finally:
            self._reset()

    async def next(self) -> tuple[str, Job | None]:
        """Wait for the turn of a job, and return its id, and the job itself if it is in memory.

        The caller must launch it: ``next`` returns it again only after another ``offer``.
        """
        async with self._asking:
            while True:
                await self._has_ready.wait()
                await self.pacer.wait()
                if self._ready:  # the job may have been withdrawn meanwhile
                    job_id = next(iter(self._ready))
                    self.pacer.count()
                    return job_id, self.withdraw(job_id)

    def offer(self, job: Job) -> None:
        """Have ``next`` return a job when its turn comes.

        A job whose launch has begun, and which must be launched again, has its turn at once.
        """
        if job.id in self._known or len(self._known) < KNOWN:
            self._known[job.id] = job
        if not self.is_needed or job.launch_begun_at is not None or job.id in self._granted:
            self._make_ready(job.id)
        elif job.id not in self.queues.running:
            self._left.discard(job.id)
            self.queues.get_queue(job.user).insert(make_claim(job))
            self._changed.set()

    def withdraw(self, job_id: str) -> Job | None:
        """Note that a job is not to be launched (any more); return it if it was in memory."""
        self._ready.pop(job_id, None)
        if not self._ready:
            self._has_ready.clear()
        return self._known.pop(job_id, None)

    def _make_ready(self, job_id: str) -> None:
        self._ready.setdefault(job_id)
        self._has_ready.set()

    def begin(self, job: Job) -> None:
        """Note that the record has the launch of a job as begun, so that another can have its turn."""
        if job.id in self._granted:
            self._granted.discard(job.id)
            self._changed.set()

    def leave(self, job_id: str, user: str | None = None) -> None:
        """Note that a job has ended or was deleted. A job that still waits needs ``user``."""
        self.withdraw(job_id)
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
                self._make_ready(claim.id)
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
        granted = [self.queues.running[job_id] for job_id in self._granted]  # in the record soon
        begun = await self.records.list_begun()
        users = await self.records.list_waiting_users()
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
            found = await self.usage.find_group_seconds(unread, now=now)
            self.queues.group_seconds |= dict.fromkeys(unread, 0.0) | found

    async def _read_queues(self, users: list[str], now: datetime) -> None:
        for user in users:
            self.queues.begin_reading(user)
        try:
            heads = await self.records.read_heads(users, limit=HEADS + len(self._granted), now=now)
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
            await self.records.write_waits(changes, only=not self._has_told)
            self._has_told = True
            for user, wait in changes.items():
                if wait is None:
                    del self._told[user]
                else:
                    self._told[user] = wait
