"""Clears away, from time to time, what is kept for nobody."""

from __future__ import annotations

import asyncio
import time

from traitlets import Float, Instance
from traitlets.config import LoggingConfigurable

from .retention import Retention


class Janitor(LoggingConfigurable):
    """Removes what was kept for long enough, in rounds."""

    interval_seconds = Float(600, min=1, help="""Seconds between two rounds.""", config=True)

    orphans_interval_seconds = Float(
        6 * 3600,
        min=1,
        help="""Seconds between two looks at all objects of the storage, for those that a killed service left
        behind: they are deleted when they are older than a day.""",
        config=True,
    )

    retention = Instance(Retention)

    _task: asyncio.Task[None]

    async def start(self) -> None:
        """Begin the rounds."""
        self._task = asyncio.create_task(self._rounds(), name="janitor")

    async def stop(self) -> None:
        """End them."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _rounds(self) -> None:
        orphans_at = 0.0
        while True:
            await asyncio.sleep(self.interval_seconds)
            with_orphans = time.monotonic() >= orphans_at
            try:
                await self.retention.sweep(with_orphans=with_orphans)
            except Exception:
                self.log.exception("what was kept for long enough could not be removed; trying again later")
            else:
                if with_orphans:
                    orphans_at = time.monotonic() + self.orphans_interval_seconds
