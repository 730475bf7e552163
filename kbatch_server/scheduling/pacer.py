"""Limits the rate of launches: to the launcher's maximum, and further while many requests arrive."""

from __future__ import annotations

import asyncio
import time

from traitlets import Float, Instance
from traitlets.config import LoggingConfigurable

from ..launchers.base import JobLauncher
from ..web.inflight import InflightRequests

LOOK_SECONDS = 0.1
"""Seconds until the pacer notices that many requests are over."""


class LaunchPacer(LoggingConfigurable):
    """Spaces launches evenly.

    The launcher sets the maximum rate. While many requests arrive, the rate is low: a launch costs about as
    much as ten requests, and nobody waits for it at a keyboard.
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
    _last = float("-inf")

    async def wait(self) -> None:
        """Wait until the rate allows another launch; the caller then calls ``count``."""
        # polls, because no event tells that fewer requests arrive
        while (wait := self._get_wait_seconds()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(wait, LOOK_SECONDS))

    def count(self) -> None:
        """Note that a launch begins now."""
        self._last = time.monotonic()

    def _get_wait_seconds(self) -> float:
        rate = self._get_rate()
        return 0 if rate == 0 else self._last + 1 / rate - time.monotonic()

    def _get_rate(self) -> float:
        """Return the maximum number of launches per second now; 0 means no limit."""
        rate = self.launcher.max_launches_per_second
        if not 0 < self.busy_requests_per_second <= self.inflight.get_requests_per_second():
            return rate
        return min(rate, self.busy_launches_per_second) if rate else self.busy_launches_per_second
