"""Clears away, from time to time, what is kept for nobody."""

from __future__ import annotations

import asyncio

from traitlets import Float, Instance
from traitlets.config import LoggingConfigurable

from .uploads import Uploads


class Janitor(LoggingConfigurable):
    """Collects the uploads that have expired."""

    interval_seconds = Float(600, min=1, help="""Seconds between two rounds.""", config=True)

    uploads = Instance(Uploads)

    _task: asyncio.Task[None]

    async def start(self) -> None:
        """Begin the rounds."""
        self._task = asyncio.create_task(self._rounds(), name="janitor")

    async def stop(self) -> None:
        """End them."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _rounds(self) -> None:
        while True:
            await asyncio.sleep(self.interval_seconds)
            try:
                await self.uploads.collect()
            except Exception:
                self.log.exception("the expired uploads could not be collected; trying again later")
