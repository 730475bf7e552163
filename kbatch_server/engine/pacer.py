"""Launches jobs one after another at a limited rate; requests of users take precedence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import traitlets
from traitlets import Float, Instance
from traitlets.config import LoggingConfigurable

from ..launchers.base import JobLauncher
from ..web.inflight import InflightRequests

LOOK_SECONDS = 0.1
"""Seconds until the pacer notices that many requests are over."""


class LaunchPacer(LoggingConfigurable):
    """A queue of the jobs to launch, first in, first out.

    The launcher sets the maximum rate. While many requests arrive, the rate is low: a launch costs about as
    much as ten requests, and nobody waits for it at a keyboard. The queue is in memory only: the reconciler
    adds a waiting job (again) when it looks at it.
    """

    busy_requests_per_second = Float(
        100,
        min=0,
        help="""The rate of requests per second above which launches slow down. 0: never.

        It counts the users' requests that the launching process answered: each new job, and up to 25 other
        requests per second of each user. Rejected requests, and those without a known user, do not slow down
        launches.
        """,
        config=True,
    )

    busy_launches_per_second = Float(
        2,
        min=0.01,
        help="""The maximum number of jobs that are launched per second while launches are slowed down.""",
        config=True,
    )

    launcher = Instance(JobLauncher)
    inflight = Instance(InflightRequests, ())
    on_launch: Callable[[str], None] = traitlets.Callable()  # type: ignore[assignment]
    """Called with the id of a job to launch now."""

    _task: asyncio.Task[None] | None = None

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._line: dict[str, None] = {}
        self._called: set[str] = set()
        self._has_some = asyncio.Event()
        self._last = float("-inf")

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._line

    def __len__(self) -> int:
        return len(self._line)

    def start(self) -> None:
        """Begin to launch jobs."""
        self._task = asyncio.create_task(self._run(), name="pacer")

    async def stop(self) -> None:
        """Launch no more jobs, and forget those in the queue. It may be started again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._line.clear()
        self._called.clear()

    def join(self, job_id: str) -> None:
        """Add a job to the end of the queue, unless it is in it already; launch it at once if possible."""
        if job_id in self._called:
            return
        if self._is_next_free():
            self._call(job_id)
        else:
            self._line.setdefault(job_id)
            self._has_some.set()

    def leave(self, job_id: str) -> None:
        """Remove a job that is not to be launched (any more)."""
        self._line.pop(job_id, None)
        self._called.discard(job_id)

    def take(self, job_id: str) -> bool:
        """Return True, once, if a job may be launched now; otherwise add it to the queue."""
        if job_id in self._called:
            self._called.discard(job_id)
            return True
        if self._is_next_free():
            self._last = time.monotonic()
            return True
        self.join(job_id)
        return False

    async def _run(self) -> None:
        while True:
            await self._has_some.wait()
            while self._line:
                wait = self._get_wait_seconds()
                if wait > 0:
                    await asyncio.sleep(min(wait, LOOK_SECONDS))
                else:
                    self._call(next(iter(self._line)))
            self._has_some.clear()

    def _is_next_free(self) -> bool:
        """Return whether a job may be launched without waiting: the queue is empty and the rate allows it."""
        return not self._line and self._get_wait_seconds() <= 0

    def _call(self, job_id: str) -> None:
        self._line.pop(job_id, None)
        self._called.add(job_id)
        self._last = time.monotonic()
        self.on_launch(job_id)

    def _get_wait_seconds(self) -> float:
        rate = self._get_rate()
        return 0 if rate == 0 else self._last + 1 / rate - time.monotonic()

    def _get_rate(self) -> float:
        """Return the maximum number of launches per second now; 0 means no limit."""
        rate = self.launcher.max_launches_per_second
        if not 0 < self.busy_requests_per_second <= self.inflight.get_requests_per_second():
            return rate
        return min(rate, self.busy_launches_per_second) if rate else self.busy_launches_per_second
