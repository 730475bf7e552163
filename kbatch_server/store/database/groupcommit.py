"""Writes many things at a time: one transaction, one wait for the disk, for all that came in meanwhile."""

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
"""Operations in one transaction: past this the disk's share of each is small, and the first waits long."""

CLOSE_TIMEOUT_SECONDS = 30
"""How long to wait for what is being written when the database is closed."""

TRIES = 5
"""How often an operation is done that other processes' writes get into the way of."""

Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Request:
    """One operation, and where goes what it returned or raised."""

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
    """Does operations one after the other, as they come, on one connection of an engine, in its own thread.

    Those that come while others are written wait together and then share a transaction. Each is in a
    savepoint of its own, so that one that raises leaves nothing behind and the others alone; one that the
    database stopped for another process's sake is done again. None of them returns before the COMMIT has;
    when that fails, all of them do.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="database-writer")
        self._waiting: deque[_Request] = deque()
        self._task: asyncio.Task[None] | None = None

    async def run(self, operation: Callable[[Connection], Result]) -> Result:
        """Return what the operation returns, once it is committed, or raise what it or the COMMIT raises.

        A caller that is cancelled while its operation waits has it left out; later, it is done all the same.
        """
        request = _Request(operation, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._task is None:
            self._task = asyncio.create_task(self._work(), name="group-commit")
        result: Result = await request.outcome
        return result

    async def close(self) -> None:
        """Finish what was asked for, within a limit; what is asked for later fails."""
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
        """Return the next of those that wait, and for whom somebody still waits."""
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
        except Exception as error:  # whatever it is belongs to those who wait: this task has nobody to tell
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
    """Do operations in one transaction; return what each returned or raised, once it is committed."""
    outcomes: list[tuple[Any, Exception | None]] = []
    with engine.begin() as connection:
        for operation in operations:
            savepoint = connection.begin_nested()
            try:
                outcomes.append((operation(connection), None))
            except Exception as error:
                if connection.invalidated:  # it broke, and with it all that was done on it
                    raise
                # when the database has ended the whole transaction, this fails, and so do all operations
                savepoint.rollback()
                outcomes.append((None, error))
            else:
                savepoint.commit()
    return outcomes
