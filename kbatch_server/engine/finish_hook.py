"""Calls the admin's ``post_finish_hook`` for each ended job, at least once."""

from __future__ import annotations

import asyncio
from copy import deepcopy

from traitlets import Instance
from traitlets.config import LoggingConfigurable

from ..errors import KBatchError
from ..failpoints import reach
from ..hooks import HookFailed, Hooks
from ..models.job import Job
from ..store.jobs import JobStore
from .workqueue import WorkQueue

FINISH_HOOK = "_post_finish_hook"
"""The key in a job's ``state`` for the number of failed calls, or ``done`` after the last call."""

DONE = "done"

FIRST_DELAY_SECONDS = 10.0

MAX_TASKS = 100
"""The number of jobs whose hook runs or waits for a thread; others wait for a later look."""

LATER_SECONDS = 5.0


class FinishHook(LoggingConfigurable):
    """Runs the hook in tasks of its own, so that a hook that hangs holds up no other job.

    The record says how often the hook has failed, and that it has returned. A kill in between repeats a call.
    """

    hooks = Instance(Hooks)
    jobs = Instance(JobStore)
    queue = Instance(WorkQueue)

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def settle(self, job: Job) -> bool:
        """Return whether an ended job needs no (further) call; otherwise begin one, or do so later."""
        if self.hooks.post_finish_hook is None or job.state.get(FINISH_HOOK) == DONE:
            return True
        if job.id in self._tasks:
            return False
        if len(self._tasks) >= MAX_TASKS:
            self.queue.put_after(job.id, LATER_SECONDS)
            return False
        self._tasks[job.id] = task = asyncio.create_task(self._run(job), name=f"post_finish_hook {job.id}")
        task.add_done_callback(lambda _: self._tasks.pop(job.id, None))
        return False

    async def stop(self) -> None:
        """Cancel the calls; the next leader repeats them."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, job: Job) -> None:
        """Call the hook, with a delay after failures, until it returns or has failed too often."""
        failed = int(job.state.get(FINISH_HOOK, 0))
        try:
            while failed < self.hooks.max_tries and not await self._call(job, failed + 1):
                failed += 1
                await self._record(job, failed)
                if failed < self.hooks.max_tries:
                    await asyncio.sleep(FIRST_DELAY_SECONDS * 2 ** (failed - 1))
            reach("hook.2")
            await self._record(job, DONE)
        except Exception:
            self.log.exception("job %s: what post_finish_hook did is not on record; calling it again", job.id)
            self.queue.put_after(job.id, LATER_SECONDS)
        else:
            self.queue.put(job.id)

    async def _call(self, job: Job, number: int) -> bool:
        """Call the hook once, and return whether it succeeded; the log has the error."""
        reach("hook.1")
        try:
            await self.hooks.run("post_finish_hook", self.hooks.post_finish_hook, deepcopy(job))
        except (HookFailed, KBatchError) as error:
            most = self.hooks.max_tries
            # without the traceback of a time limit, which is all ours
            cause = error.__cause__
            self.log.error("job %s: call %d of %d: %s", job.id, number, most, error, exc_info=cause)
            return False
        return True

    async def _record(self, job: Job, state: int | str) -> None:
        await self.jobs.update(job.id, state=job.state | {FINISH_HOOK: state})
