"""Notices immediately when a local job's supervisor ends, even one from an earlier run of the service."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from .folder import JobFolder

POLL_SECONDS = 0.5
"""Seconds between two checks of a supervisor if the kernel has no pidfds (before 5.3)."""


class Watcher:
    """Calls ``on_change(job_id)`` once for each watched job whose supervisor has ended."""

    def __init__(self, on_change: Callable[[str], None], log: logging.Logger) -> None:
        self._on_change = on_change
        self._log = log
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def watch(self, job_id: str, folder: JobFolder) -> None:
        """Watch a job, unless it is watched already."""
        if job_id not in self._tasks:
            task = asyncio.create_task(self._wait_for_end(job_id, folder), name=f"watch {job_id}")
            self._tasks[job_id] = task

    async def stop(self) -> None:
        """Cancel every task."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _wait_for_end(self, job_id: str, folder: JobFolder) -> None:
        try:
            pidfd = await asyncio.to_thread(_open_supervisor, folder)
            if pidfd is not None:
                await _wait_until_readable(pidfd)
            while await asyncio.to_thread(folder.find_supervisor) is not None:  # noqa: ASYNC110
                await asyncio.sleep(POLL_SECONDS)
        except OSError:
            self._log.warning("Job %s cannot be watched", job_id, exc_info=True)
        finally:
            del self._tasks[job_id]
        self._on_change(job_id)


def _open_supervisor(folder: JobFolder) -> int | None:
    """Return a pidfd of the job's living supervisor, or None."""
    pid = folder.find_supervisor()
    if pid is None:
        return None
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:  # it has just ended, or the kernel has none
        return None
    if folder.find_supervisor() != pid:
        os.close(pidfd)
        return None
    return pidfd


async def _wait_until_readable(fd: int) -> None:
    """Wait until ``fd`` is readable, as a pidfd is when its process ends, and close it."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)
