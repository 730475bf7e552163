"""Launches a job again if the node rejected its pod, so that nothing of it has run."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any

from ..launchers.base import JobLauncher
from ..metrics import LAUNCHES
from ..models.job import Job, JobStatus, Status
from ..models.request import RETRY_DELAY_SECONDS
from ..models.times import to_iso, utcnow
from ..store.jobs import JobStore
from .workqueue import WorkQueue

RELAUNCH = "_relaunch"
"""The key in a job's ``state`` for the number of relaunches and the time of the next one."""

TERMINATING_SECONDS = 2
"""Seconds between two checks whether the objects of the previous launch are gone."""


class Relaunch:
    """Resets a job to the state before its launch, a limited number of times, with a doubling delay.

    This is not a retry: the command did not run, so this also applies to jobs without retries. The record has
    all the state, and the objects of one launch are gone before the next.
    """

    def __init__(
        self,
        launcher: JobLauncher,
        jobs: JobStore,
        queue: WorkQueue,
        log: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self._launcher = launcher
        self._jobs = jobs
        self._queue = queue
        self._log = log

    async def take(self, job: Job, seen: JobStatus | None, *, most: int) -> bool:
        """Do the next step towards another launch; return False if the job is not to be launched again.

        ``most`` is the maximum number of relaunches.
        """
        count = job.state.get(RELAUNCH, {}).get("count", 0)
        at = job.state.get(RELAUNCH, {}).get("at")
        if seen is not None and not (seen.never_began and job.started_at is None):
            return False
        if at is None:
            if seen is None or count >= most:
                return False
            await self._plan(job, seen, count)
            return True
        left = (datetime.fromisoformat(at) - utcnow()).total_seconds()
        if left > 0:
            self._queue.put_after(job.id, left)
        elif await self._launcher.terminate(job):
            await self._jobs.update(job.id, launched_at=None, state={RELAUNCH: {"count": count}})
            self._queue.put(job.id)
        else:
            self._queue.put_after(job.id, TERMINATING_SECONDS)
        return True

    async def _plan(self, job: Job, seen: JobStatus, count: int) -> None:
        delay = RETRY_DELAY_SECONDS * 2**count
        state = job.state | {
            RELAUNCH: {"count": count + 1, "at": to_iso(utcnow() + timedelta(seconds=delay))}
        }
        message = f"{seen.message} The command did not start. Retrying in {delay:g} s."
        await self._jobs.update(
            job.id,
            status=Status.PENDING,
            reason=seen.reason,
            message=message,
            state=state,
            # a pod may have been seen, and counted, before its node refused it
            pods=seen.pods,
            attempts=len(seen.pods),
        )
        LAUNCHES.labels("again").inc()
        self._log.info("job %s: %s, launching again in %g s", job.id, seen.reason, delay)
        self._queue.put_after(job.id, delay)


def keep_count(job: Job, state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a new launch, with the number of relaunches so far."""
    return state | {RELAUNCH: job.state[RELAUNCH]} if RELAUNCH in job.state else state
