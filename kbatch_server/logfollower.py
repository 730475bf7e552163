"""Follows a job's log from before its start to its end, over its attempts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from .errors import Unavailable
from .launchers.base import JobLauncher, LauncherUnavailable, LogNotFound
from .models import Job
from .store import JobStore

POLL_SECONDS = (0.1, 2.0)
"""How often the record is read while nothing is there to follow: at first, and at last."""


class LogFollower:
    """Yields a job's log as it is written.

    The end of a stream says nothing about the job (a connection may break, a pod be followed by the next
    attempt's), so what ends the following is the record: the job is over and its last log was read out.
    """

    def __init__(self, store: JobStore, launcher: JobLauncher, job: Job) -> None:
        self._log = launcher.log
        self._store = store
        self._launcher = launcher
        self._job = job

    async def pieces(self, *, tail: int | None = None, pod: str | None = None) -> AsyncGenerator[bytes]:
        """Yield the log's bytes until the job is over; ``pod`` follows that one alone."""
        seen: set[str] = set()
        while True:
            name = pod or await self._wait_for_pod(seen)
            if name is None:
                return
            seen.add(name)
            begun = False
            log = self._launcher.logs(self._job, follow=True, tail=tail, pod=name)
            try:
                async with aclosing(log):  # type: ignore[type-var]
                    async for piece in log:
                        begun = True
                        yield piece
            except LogNotFound:
                self._log.debug("job %s: pod %s has no log", self._job.id, name)
            except LauncherUnavailable as error:
                if begun:  # from its beginning again would be twice
                    raise Unavailable("The log was cut off, as what runs the job does not answer.") from error
                await asyncio.sleep(POLL_SECONDS[1])
                seen.discard(name)
                if not await self._reload() or self._job.is_over:
                    return
                continue
            if pod:
                return

    async def _wait_for_pod(self, seen: set[str]) -> str | None:
        """Return the name of the first pod that was not followed yet, or None when there will be none."""
        delay, limit = POLL_SECONDS
        while True:
            fresh = [pod.name for pod in self._job.pods if pod.name not in seen]
            if fresh:
                return fresh[0]
            if self._job.is_over:
                return None
            await asyncio.sleep(delay)
            delay = min(delay * 1.5, limit)
            if not await self._reload():
                return None

    async def _reload(self) -> bool:
        job = await self._store.find_job(self._job.id)
        if job is None or job.delete_requested_at is not None:
            return False
        self._job = job
        return True
