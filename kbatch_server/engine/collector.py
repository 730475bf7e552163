"""Keeps what a job leaves, its log and its results, before what ran it lets go of them."""

from __future__ import annotations

import contextlib

from traitlets import Instance
from traitlets.config import LoggingConfigurable

from ..errors import Forbidden, InvalidRequest, TooLarge
from ..launchers.base import JobLauncher
from ..logs.recorder import LogRecorder
from ..models.job import Job
from ..outputs.outputs import Outputs
from ..store.jobs import JobStore


class Collector(LoggingConfigurable):
    """Sees that logs are recorded, and asks the launcher for results or why they were not sent.

    Each step can be repeated.
    """

    launcher = Instance(JobLauncher)
    outputs = Instance(Outputs)
    recorder = Instance(LogRecorder)
    jobs = Instance(JobStore)

    def begin(self, job: Job) -> None:
        """See that the log of each attempt is recorded from now on."""
        self.recorder.ensure(job)

    async def settle(self, job: Job) -> bool:
        """Return whether all that can be kept of a job that is over is kept; False: look again soon.

        Raises LauncherUnavailable and Unavailable (the storage, the database): then nothing is lost yet.
        """
        if await self.launcher.is_ending(job):
            return False
        if job.spec.keep_outputs:
            found = await self.jobs.find(job.id)  # they may have come since the job was read
            if found is not None:
                await self._settle_outputs(found)
        return self.recorder.settle(job)

    async def delete(self, job: Job) -> None:
        """Delete all that is kept of a job beside its record. Raises StorageError and Unavailable."""
        await self.recorder.delete_log(job.id)
        await self.outputs.delete(job.id)

    async def _settle_outputs(self, job: Job) -> None:
        ended = [pod.name for pod in job.pods if pod.exit_code is not None]
        if job.outputs is None:
            if not await self._read(job) and job.started_at is not None:
                await self._say_unsent(job)
        elif job.outputs.pod and ended and ended[-1] != job.outputs.pod:
            message = "These results are from an earlier attempt: the last attempt sent none."
            await self.jobs.update(
                job.id, outputs=job.outputs.model_copy(update={"message": message, "pod": ended[-1]})
            )

    async def _read(self, job: Job) -> bool:
        """Keep what the launcher has of a job's results; return whether it has any."""
        tar = await self.launcher.read_outputs(job, self.outputs.limits)
        if tar is None:
            return False
        # what is too large is on record; a job that takes none is to be deleted
        with contextlib.suppress(TooLarge, InvalidRequest, Forbidden):
            await self.outputs.receive(job, tar)
        return True

    async def _say_unsent(self, job: Job) -> None:
        problem = await self.launcher.find_outputs_problem(job)
        if problem is not None:
            await self.outputs.fail(job, problem)
