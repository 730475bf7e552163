"""Saves the log and the results of a job before the launcher cleans up after it."""

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
    """Makes the recorder record logs, and gets the results from the launcher, or the reason why they are
    missing.

    Repeating a step is harmless.
    """

    launcher = Instance(JobLauncher)
    outputs = Instance(Outputs)
    recorder = Instance(LogRecorder)
    jobs = Instance(JobStore)

    def begin(self, job: Job) -> None:
        """Record the log of each attempt from now on."""
        self.recorder.ensure(job)

    async def settle(self, job: Job) -> bool:
        """Return whether the log and the results of an ended job are saved; False: try again soon.

        Raises LauncherUnavailable and Unavailable (of the storage or the database); nothing is lost in this
        case.
        """
        if await self.launcher.is_ending(job):
            return False
        if job.spec.keep_outputs:
            found = await self.jobs.find(job.id)  # they may have come since the job was read
            if found is not None:
                await self._settle_outputs(found)
        return self.recorder.settle(job)

    async def delete(self, job: Job) -> None:
        """Delete a job's log and results. Raises StorageError and Unavailable."""
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
        """Save the results of a job if the launcher has any, and return whether it has."""
        tar = await self.launcher.read_outputs(job, self.outputs.limits)
        if tar is None:
            return False
        # the record has TooLarge and InvalidRequest; with Forbidden, the job is to be deleted
        with contextlib.suppress(TooLarge, InvalidRequest, Forbidden):
            await self.outputs.receive(job, tar)
        return True

    async def _say_unsent(self, job: Job) -> None:
        problem = await self.launcher.find_outputs_problem(job)
        if problem is not None:
            await self.outputs.fail(job, problem)
