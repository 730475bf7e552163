"""Notifies any number of clients of changed jobs, of one user or of all."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from traitlets import Instance, Integer
from traitlets.config import LoggingConfigurable

from ..bytesize import ByteSize
from ..errors import TooManyRequests, Unavailable
from ..metrics import LIMITS_HELD
from ..models.job import Job
from ..scheduling.report import UsageReport
from ..store.changes import Changes, JobChange
from ..store.jobs import JobStore

LISTEN_SECONDS = 5
"""Seconds of one wait for changes from the store."""

RETRY_SECONDS = 2
"""Seconds to wait if the database does not respond."""

GATHER_SECONDS = 0.1
"""Seconds to gather changes: a job changes in bursts, and the service reads it once for all clients."""

BATCH = 50
"""The number of jobs to read at once."""

KEPT = 2000
"""The number of changes to keep for clients that are slow or lost their connection;
``JobWatch.max_kept_bytes`` limits their bytes."""


@dataclass(frozen=True, slots=True)
class SeenChange:
    """A job after a change."""

    place: str
    """The place of this change, from which a client can continue."""
    user: str
    job_id: str
    data: str | None
    """The job as JSON, for clients; None if it was deleted."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The client missed changes, or is new: it must read everything again, and continue from ``place``."""

    place: str


class JobWatch(LoggingConfigurable):
    """Listens to the store for all clients of this process, and keeps the recent changes for them.

    All clients share one list of changes, and each has a place in it. A client whose place is no longer in
    the list must read everything again. So a slow client needs no memory, and more clients mean no more
    database queries.
    """

    max_watchers = Integer(
        2000,
        min=1,
        help="""The maximum number of connections of all users that watch jobs at the same time.""",
        config=True,
    )

    max_watchers_per_user = Integer(
        20,
        min=1,
        help="""The maximum number of connections of one user (such as browser tabs) that watch jobs at the
        same time.
        """,
        config=True,
    )

    max_kept_bytes = ByteSize(
        16 * 2**20,
        help="""Bytes of recent changes to keep for clients that are slow or lost their connection. A client
        that needs an older change must read everything again.
        """,
        config=True,
    )

    usage_report = Instance(UsageReport)
    changes = Instance(Changes)  # type: ignore[type-abstract]
    jobs = Instance(JobStore)

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._epoch = secrets.token_hex(4)
        self._last = 0
        self._kept: deque[SeenChange] = deque()
        self._kept_bytes = 0
        self._news = asyncio.Event()
        self._pending: dict[JobChange, None] = {}
        self._has_pending = asyncio.Event()
        self._watchers: dict[str, int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to listen."""
        self._tasks = [
            asyncio.create_task(self._listen(), name="job-watch-listen"),
            asyncio.create_task(self._show(), name="job-watch-show"),
        ]

    async def stop(self) -> None:
        """Stop listening; clients get no more changes."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def follow(
        self, watcher: str, *, user: str | None, after: str | None = None
    ) -> AsyncGenerator[SeenChange | Reset]:
        """Return an endless iterator over the changes of one user's jobs, or (None) of all jobs.

        It begins with a Reset unless ``after`` is the place of a change that is still in the list. Raises
        TooManyRequests if ``watcher`` has too many such iterators, Unavailable if all watchers together have.
        """
        self._check_room(watcher)
        return self._follow(watcher, user, self._find(after))

    def _check_room(self, watcher: str) -> None:
        if self._watchers.get(watcher, 0) >= self.max_watchers_per_user:
            raise TooManyRequests(
                (
                    f"You already have {self.max_watchers_per_user} connections that watch jobs, which is "
                    "the limit. Close one."
                ),
                details={"limit": self.max_watchers_per_user},
                retry_after_seconds=30,
            )
        if sum(self._watchers.values()) >= self.max_watchers:
            raise Unavailable("Too many connections watch jobs. Try again later.", retry_after_seconds=30)

    async def _follow(
        self, watcher: str, user: str | None, at: int | None
    ) -> AsyncGenerator[SeenChange | Reset]:
        self._watchers[watcher] = self._watchers.get(watcher, 0) + 1
        try:
            while True:
                news = self._news  # before we look
                if at is None or at < self._oldest - 1:
                    at = self._last
                    yield Reset(self._make_place(at))
                    continue
                if at == self._last:
                    await news.wait()
                    continue
                change = self._kept[at + 1 - self._oldest]
                at += 1
                if user in (None, change.user):
                    yield change
        finally:
            self._watchers[watcher] -= 1
            if not self._watchers[watcher]:
                del self._watchers[watcher]

    @property
    def _oldest(self) -> int:
        """The number of the first change in the list, or of the next change if the list is empty."""
        return self._last + 1 - len(self._kept)

    def _make_place(self, number: int) -> str:
        return f"{self._epoch}-{number}"

    def _find(self, place: str | None) -> int | None:
        """Return the number of a place; None for no place, or one of another process."""
        epoch, _, number = (place or "").partition("-")
        if epoch != self._epoch or not (number.isascii() and number.isdigit() and len(number) < 19):
            return None
        return int(number) if int(number) <= self._last else None

    async def _listen(self) -> None:
        while True:
            try:
                changes = await self.changes.listen(LISTEN_SECONDS)
            except Unavailable as error:
                self.log.warning("cannot receive changes of jobs: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except Exception:
                self.log.exception("cannot receive changes of jobs")
                await asyncio.sleep(RETRY_SECONDS)
                changes = None
            if changes is None:
                self._skip()
            elif changes:
                self._pending.update(dict.fromkeys(changes))
                self._has_pending.set()

    async def _show(self) -> None:
        while True:
            await self._has_pending.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._has_pending.clear()
            pending, self._pending = list(self._pending), {}
            if not self._watchers:
                self._skip()
                continue
            try:
                for start in range(0, len(pending), BATCH):
                    await self._keep(pending[start : start + BATCH])
            except Unavailable as error:
                self.log.warning("cannot read changed jobs: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                self._skip()
            except Exception:
                self.log.exception("reading changed jobs failed")
                self._skip()

    async def _keep(self, changes: list[JobChange]) -> None:
        found = await self.jobs.find_some([change.job_id for change in changes])
        await self.usage_report.explain(list(found.values()))
        # in a thread: all of them may have megabytes
        shown = await asyncio.to_thread(_dump, found)
        for change in changes:
            data = shown.get(change.job_id)
            self._last += 1
            self._kept.append(SeenChange(self._make_place(self._last), change.user, change.job_id, data))
            self._kept_bytes += len(data or "")
            self._forget()
        self._wake()

    def _forget(self) -> None:
        """Drop the oldest changes while they are too many or too large; the newest stays."""
        is_full = self._kept_bytes > self.max_kept_bytes
        while len(self._kept) > 1 and (len(self._kept) > KEPT or self._kept_bytes > self.max_kept_bytes):
            self._kept_bytes -= len(self._kept.popleft().data or "")
        if is_full:
            LIMITS_HELD.labels("max_kept_bytes").inc()

    def _skip(self) -> None:
        """Make all clients read everything again."""
        self._kept.clear()
        self._kept_bytes = 0
        self._last += 1
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


def _dump(jobs: dict[str, Job]) -> dict[str, str]:
    """Return the JSON of those that are not to be deleted, by id."""
    return {
        job_id: json.dumps(job.to_dict()) for job_id, job in jobs.items() if job.delete_requested_at is None
    }
