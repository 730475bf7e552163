"""Groups writes: one transaction, and one wait for the disk, for all operations that have arrived."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from .errors import is_defeated

GROUP = 100
"""The maximum number of operations in one transaction: with more, the time per operation hardly decreases,
and the first one waits longer."""

CLOSE_TIMEOUT_SECONDS = 30
"""Seconds to wait for the writes in progress when the database is closed."""

TRIES = 5
"""The maximum number of tries of an operation that conflicts with other processes' writes."""

Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Request:
    """One operation, and a future for its result or error."""

    operation: Callable[[Connection], Any]
    outcome: asyncio.Future[Any]
    tries: int = 0

    def settle(self, result: Any, error: Exception | None) -> None:
        if self.outcome.done():  # the caller gave up meanwhile
            return
        if error is None:
            self.outcome.set_result(result)
        else:
            self.outcome.set_exception(error)


class GroupCommit:
    """Runs operations in order on one connection of an engine, in its own thread.

    Operations that arrive during a transaction wait and then share the next one. Each has its own savepoint:
    if one raises, it leaves nothing behind and does not affect the others. An operation that the database
    stopped in favour of another process is repeated. None returns before the COMMIT; if that fails, all fail.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="database-writer")
        self._waiting: deque[_Request] = deque()
        self._task: asyncio.Task[None] | None = None

    async def run(self, operation: Callable[[Connection], Result]) -> Result:
        """Return the result of the operation once it is committed; raises its error, or that of the COMMIT.

        If the caller is cancelled while its operation waits, the operation does not run; later, it runs all
        the same.
        """
        request = _Request(operation, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._task is None:
            self._task = asyncio.create_task(self._work(), name="group-commit")
        result: Result = await request.outcome
        return result

    async def close(self) -> None:
        """Finish the waiting operations, within a time limit; later ones fail."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=CLOSE_TIMEOUT_SECONDS)
        self._thread.shutdown(wait=False)

    async def _work(self) -> None:
        try:
            while group := self._take():
                await self._commit(group)
        finally:
            self._task = None

    def _take(self) -> list[_Request]:
        """Return the next waiting operations whose callers still wait."""
        group: list[_Request] = []
        while self._waiting and len(group) < GROUP:
            request = self._waiting.popleft()
            if not request.outcome.done():
                group.append(request)
        return group

    async def _commit(self, group: list[_Request]) -> None:
        operations = [request.operation for request in group]
        try:
            outcomes = await asyncio.get_running_loop().run_in_executor(
                self._thread, _write, self._engine, operations
            )
        except Exception as error:  # any error is for the waiting callers
            outcomes = [(None, error)] * len(group)
        for request, outcome in zip(group, outcomes, strict=True):
            request.tries += 1
            if is_defeated(outcome[1]) and request.tries < TRIES:
                self._waiting.append(request)
            else:
                request.settle(*outcome)


def _write(
    engine: Engine, operations: Sequence[Callable[[Connection], Any]]
) -> list[tuple[Any, Exception | None]]:
    """Run operations in one transaction; return the result or error of each, once it is committed."""
    outcomes: list[tuple[Any, Exception | None]] = []
    with engine.begin() as connection:
        for operation in operations:
            savepoint = connection.begin_nested()
            try:
                outcomes.append((operation(connection), None))
            except Exception as error:
                if connection.invalidated:  # the connection broke, and the transaction with it
                    raise
                # if the database has ended the whole transaction, this raises, and all operations fail
                savepoint.rollback()
                outcomes.append((None, error))
            else:
                savepoint.commit()
    return outcomes
