"""The threads that read: those who ask take turns, and nobody has all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from ...audit import ORIGIN, Origin
from ...ratelimit import FairLimit

Result = TypeVar("Result")


class Readers:
    """Some threads, of which one user has all but one at most: the many reads of one hold up no other.

    The service itself is one of the users, with what it reads for nobody in particular.
    """

    def __init__(self, threads: int, *, name: str) -> None:
        """Take how many threads there are, and what they are called, in the metric of limits too."""
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._turns = FairLimit(
            per_user=max(threads - 1, 1), total=threads, limit=name.replace("-", "_"), what="reads"
        )
        self._asked = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def run(self, work: Callable[[], Result]) -> Result:
        """Return what some work returns, in one of the threads once its turn has come.

        There is no limit of time: who asks has one. Work that nobody waits for any more has its thread until
        it is done.
        """
        self._asked += 1
        self._is_idle.clear()
        try:
            return await self._run((ORIGIN.get() or Origin()).who, work)
        finally:
            self._asked -= 1
            if not self._asked:
                self._is_idle.set()

    async def _run(self, user: str, work: Callable[[], Result]) -> Result:
        await self._turns.wait(user)
        try:
            done = asyncio.get_running_loop().run_in_executor(self._threads, work)
        except BaseException:
            self._turns.release(user)
            raise
        done.add_done_callback(partial(self._finish, user))
        return await asyncio.shield(done)

    def _finish(self, user: str, done: asyncio.Future[Result]) -> None:
        self._turns.release(user)
        if not done.cancelled():
            done.exception()  # who asked may have gone

    async def close(self) -> None:
        """Finish what was asked for, and end the threads."""
        await self._is_idle.wait()
        await asyncio.to_thread(self._threads.shutdown)
