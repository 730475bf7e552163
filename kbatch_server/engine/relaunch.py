"""Launches a job again of which nothing began: the node that it was sent to did not take it."""

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
"""In a job's ``state``: how often it was launched again, and when it is to be, which stays over launches."""

TERMINATING_SECONDS = 2
"""How often it is looked whether what is left of the launch before is gone."""


class Relaunch:
    """Puts a job back to before its launch, a number of times, each after twice as long as the one before.

    It is no retry: the command did not run, so a job that is not to be run twice may be launched again. All
    of it is in the record, and what there was of the launch is gone before there can be another.
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
        """Do the next step towards another launch; return False if there is to be none.

        ``most`` is how often a job may be launched again.
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
    """Return the state of a launch with how often it was one that follows another."""
    return state | {RELAUNCH: job.state[RELAUNCH]} if RELAUNCH in job.state else state
