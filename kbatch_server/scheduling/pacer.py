"""How fast launches may leave: at the launcher's pace, and slower while users wait for answers."""

from __future__ import annotations

import asyncio
import time

from traitlets import Float, Instance
from traitlets.config import LoggingConfigurable

from ..launchers.base import JobLauncher
from ..web.inflight import InflightRequests

LOOK_SECONDS = 0.1
"""How soon the end of a rush of requests is noticed."""


class LaunchPacer(LoggingConfigurable):
    """Spaces launches evenly.

    The launcher says how many may leave in a second. While many requests come in, only a few do: a launch
    costs about as much as ten requests, and nobody waits for it at a keyboard.
    """

    busy_requests_per_second = Float(
        100,
        min=0,
        help="""From how many requests a second on launches give way to them; 0 is never.

        It counts what users were answered by the process that launches: new jobs, and 25 other requests of
        each user in a second. What was refused, and what strangers ask, holds up no launch.
        """,
        config=True,
    )

    busy_launches_per_second = Float(
        2,
        min=0.01,
        help="""The most jobs started per second while requests have priority over launches.""",
        config=True,
    )

    launcher = Instance(JobLauncher)
    inflight = Instance(InflightRequests, ())
    _last = float("-inf")

    async def wait(self) -> None:
        """Return when one more launch may leave; ``count`` says that it does."""
        # the end of a rush is no event: it is that fewer requests come in
        while (wait := self._get_wait_seconds()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(wait, LOOK_SECONDS))

    def count(self) -> None:
        """Note that a launch leaves now."""
        self._last = time.monotonic()

    def _get_wait_seconds(self) -> float:
        rate = self._get_rate()
        return 0 if rate == 0 else self._last + 1 / rate - time.monotonic()

    def _get_rate(self) -> float:
        """Return how many may go in a second now; 0 is no limit."""
        rate = self.launcher.max_launches_per_second
        if not 0 < self.busy_requests_per_second <= self.inflight.get_requests_per_second():
            return rate
        return min(rate, self.busy_launches_per_second) if rate else self.busy_launches_per_second
