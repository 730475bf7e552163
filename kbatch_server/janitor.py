"""Clears away, from time to time, what is kept for nobody."""

from __future__ import annotations

import asyncio
import time

from traitlets import Float, Instance
from traitlets.config import LoggingConfigurable

from .uploads import Uploads


class Janitor(LoggingConfigurable):
    """Collects the uploads that have expired, and the objects of those that were never accepted."""

    interval_seconds = Float(600, min=1, help="""Seconds between two rounds.""", config=True)

    orphans_interval_seconds = Float(
        6 * 3600,
        min=1,
        help="""Seconds between two looks at all objects of the storage that are uploads, for those that a
        killed service left behind: they are deleted when they are older than a day.""",
        config=True,
    )

    uploads = Instance(Uploads)

    _task: asyncio.Task[None]

    async def start(self) -> None:
        """Begin the rounds."""
        self._task = asyncio.create_task(self._rounds(), name="janitor")

    async def stop(self) -> None:
        """End them, when the uploads that were broken off are cleared away."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.uploads.settle()

    async def _rounds(self) -> None:
        orphans_at = 0.0
        while True:
            await asyncio.sleep(self.interval_seconds)
            try:
                await self.uploads.collect()
                if time.monotonic() >= orphans_at:
                    await self.uploads.collect_orphans()
                    orphans_at = time.monotonic() + self.orphans_interval_seconds
            except Exception:
                self.log.exception("the uploads could not be collected; trying again later")
