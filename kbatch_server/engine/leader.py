"""Selects one leader among the processes that share a database, and another when it fails."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Protocol

from traitlets import Float, Instance
from traitlets import List as ListTrait
from traitlets.config import LoggingConfigurable

from ..aio import spread
from ..errors import Unavailable
from ..launchers.base import JobLauncher
from ..logs.recorder import LogRecorder
from ..models.job import Job
from ..store import Store
from ..store.database.leader_lock import LeadLock
from .reconciler import Reconciler

LISTEN_SECONDS = 2
"""Seconds after which a leader without news from other processes checks whether it still leads."""

STOP_SECONDS = 10
"""Seconds that each part may take to stop when the process loses the lead."""

UNTOLD = 10_000
"""Maximum number of job ids that wait to be sent to the leader. It finds others by itself
(``Reconciler.resync_seconds``)."""

TOLD = 100
"""The number of ids in one notification."""


class LeaderPart(Protocol):
    """A part that runs only in the leader, and can be restarted after a stop."""

    async def start(self) -> None:
        """Begin."""

    async def stop(self) -> None:
        """End."""


class Leader(LoggingConfigurable):
    """Runs the parts that may run only once, in the leader; other processes notify it of changes.

    With SQLite, the only process leads from its start. With PostgreSQL, the process that holds a lock of the
    database leads; another takes over when that process ends or loses its connection to the database. If two
    overlap for a moment, it is harmless: the record and the names of objects guard each step of a job.
    """

    retry_seconds = Float(
        2,
        min=0.05,
        help="""Seconds between two attempts of a process to become the leader.

        This matters for several replicas over PostgreSQL: if the leader fails, another process takes over
        after about this time.
        """,
        config=True,
    )

    launcher = Instance(JobLauncher)
    parts: Sequence[LeaderPart] = ListTrait()  # type: ignore[assignment]
    """The parts to run in addition to launcher, recorder and reconciler; they start before the reconciler."""
    reconciler = Instance(Reconciler)
    recorder = Instance(LogRecorder)
    store = Instance(Store)

    is_leading = False
    """Whether this process leads now."""

    _lock: LeadLock
    _tasks: list[asyncio.Task[None]]

    async def start(self) -> None:
        """Try to become the leader. The first time, it raises the errors of the parts that it starts."""
        self._lock = self.store.make_lead_lock()
        self._running = AsyncExitStack()
        self._untold: deque[str] = deque(maxlen=UNTOLD)
        self._has_untold = asyncio.Event()
        self._tasks = []
        try:
            await self._try()
        except Unavailable as error:
            self.log.warning("cannot read the leader lock: %s", error)
        self._tasks = [
            asyncio.create_task(self._lead(), name="leader"),
            asyncio.create_task(self._tell(), name="leader-tell"),
        ]

    async def stop(self) -> None:
        """Stop the parts, and then release the lead."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._end()

    def accept(self, job: Job) -> None:
        """Launch a new job when its turn comes."""
        if self.is_leading:
            self.reconciler.accept(job)
        else:
            self._announce(job.id)

    def look(self, job_id: str) -> None:
        """Reconcile a job, which needs another step."""
        if self.is_leading:
            self.reconciler.queue.put(job_id)
        else:
            self._announce(job_id)

    def _announce(self, job_id: str) -> None:
        self._untold.append(job_id)
        self._has_untold.set()

    async def _tell(self) -> None:
        """Send the queued ids to the leader, many at once."""
        while True:
            await self._has_untold.wait()
            self._has_untold.clear()
            while self._untold:
                ids = [self._untold.popleft() for _ in range(min(TOLD, len(self._untold)))]
                try:
                    await self.store.announce(ids)
                except Unavailable as error:
                    self.log.warning(
                        "cannot notify the leader of %d jobs, which wait for its next poll: %s",
                        len(ids),
                        error,
                    )
                except Exception:
                    self.log.exception(
                        "cannot notify the leader of %d jobs, which wait for its next poll", len(ids)
                    )

    async def _lead(self) -> None:
        """Do the leader's work while this process leads; otherwise try to become the leader."""
        while True:
            try:
                if self.is_leading or await self._try():
                    await self._listen()
            except Unavailable as error:
                self.log.warning("this process is not the leader: %s", error)
            except Exception:
                self.log.exception("this process is not the leader")
            if self.is_leading:
                self.recorder.drop()
                await self._end()
            # random, so that the replicas do not try at the same time
            await asyncio.sleep(spread(self.retry_seconds))

    async def _try(self) -> bool:
        """Try to become the leader; return whether this process leads, with its parts started."""
        try:
            if not await self._lock.take():
                return False
            await self._begin()
        except BaseException:
            await self._end()
            raise
        return True

    async def _begin(self) -> None:
        self.log.info("this process is the leader")
        await self.launcher.start(self.reconciler.notice)
        self._running.push_async_callback(self._stop, self.launcher)
        parts: list[LeaderPart] = [self.recorder, *self.parts, self.reconciler]
        for part in parts:
            await part.start()
            self._running.push_async_callback(self._stop, part)
        self.is_leading = True

    async def _listen(self) -> None:
        """Receive the notifications of other processes; raises Unavailable if the lead is lost."""
        while True:
            for job_id in await self._lock.listen(LISTEN_SECONDS):
                self.reconciler.queue.put(job_id)

    async def _end(self) -> None:
        """Stop the parts in reverse order, and then release the lead."""
        self.is_leading = False
        running, self._running = self._running, AsyncExitStack()
        await running.aclose()
        await self._lock.release()

    async def _stop(self, part: LeaderPart | JobLauncher) -> None:
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await part.stop()
        except Exception:
            self.log.exception("%s did not stop cleanly", type(part).__name__)
