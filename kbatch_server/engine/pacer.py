"""Lets jobs go to their launcher one after the other, at a pace; requests of users come before them."""

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
"""How soon the end of a rush of requests is noticed."""


class LaunchPacer(LoggingConfigurable):
    """The line of the jobs that are to be launched, in the order in which they came.

    The launcher says how many may go in a second. While many requests come in, only a few do: a launch costs
    about as much as ten requests, and nobody waits for it at a keyboard. What has joined the line is in
    memory only: who looks at a job that waits has it join (again).
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
    """Called with the id of a job that may be launched now."""

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
        """Begin to let jobs go."""
        self._task = asyncio.create_task(self._run(), name="pacer")

    async def stop(self) -> None:
        """Let no more go, and forget those that wait. It may be started again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._line.clear()
        self._called.clear()

    def join(self, job_id: str) -> None:
        """Put a job at the end of the line, unless it is in it; it goes at once when it may."""
        if job_id in self._called:
            return
        if self._is_next_free():
            self._call(job_id)
        else:
            self._line.setdefault(job_id)
            self._has_some.set()

    def leave(self, job_id: str) -> None:
        """Forget a job that is not to be launched (any more)."""
        self._line.pop(job_id, None)
        self._called.discard(job_id)

    def take(self, job_id: str) -> bool:
        """Return whether a job may be launched now, which holds once; else it is in the line now."""
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
        """Return whether one that comes now may go, because nobody waits and it is time."""
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
        """Return how many may go in a second now; 0 is no limit."""
        rate = self.launcher.max_launches_per_second
        if not 0 < self.busy_requests_per_second <= self.inflight.get_requests_per_second():
            return rate
        return min(rate, self.busy_launches_per_second) if rate else self.busy_launches_per_second
