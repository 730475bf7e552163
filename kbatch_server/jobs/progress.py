"""Writes the progress that jobs report: the latest report of each job, not each report."""

from __future__ import annotations

import asyncio

from traitlets import Instance
from traitlets.config import LoggingConfigurable

from ..errors import Unavailable
from ..models.progress import JobProgress
from ..store.jobs import JobStore

WRITE_SECONDS = 1.0
"""Minimum seconds between two writes for one job."""

WRITES_PER_SECOND = 50
"""With more jobs that report all the time, each of them is written less often: a write is also a change that
each client that watches gets."""


class ProgressReports(LoggingConfigurable):
    """Keeps the newest report of each job for a moment, and writes it when it is time.

    A report after a pause is written at once. It needs memory only for jobs that reported just now.
    """

    jobs = Instance(JobStore)

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._newest: dict[str, JobProgress] = {}
        self._writers: dict[str, asyncio.Task[None]] = {}

    async def report(self, job_id: str, progress: JobProgress) -> None:
        """Record the progress of a job, now or soon; raises Unavailable if it is written now and cannot be.

        The caller has checked that the job exists and has not ended. A report from before the end is written
        even if the job ends before the write.
        """
        if job_id in self._writers:
            self._newest[job_id] = progress
            return
        self._writers[job_id] = asyncio.create_task(self._write_later(job_id), name="progress")
        await self._write(job_id, progress)

    async def close(self) -> None:
        """Write what is not written yet; a report that cannot be written is lost."""
        for writer in self._writers.values():
            writer.cancel()
        await asyncio.gather(*self._writers.values(), return_exceptions=True)
        newest, self._newest = self._newest, {}
        for job_id, progress in newest.items():
            await self._try(job_id, progress)

    async def _write_later(self, job_id: str) -> None:
        try:
            while True:
                await asyncio.sleep(max(WRITE_SECONDS, len(self._writers) / WRITES_PER_SECOND))
                newest = self._newest.pop(job_id, None)
                if newest is None:
                    return
                await self._try(job_id, newest)
        finally:
            del self._writers[job_id]

    async def _try(self, job_id: str, progress: JobProgress) -> None:
        try:
            await self._write(job_id, progress)
        except Unavailable as error:
            self.log.warning("job %s: its progress is not recorded: %s", job_id, error)

    async def _write(self, job_id: str, progress: JobProgress) -> None:
        await self.jobs.update(job_id, progress=progress)
