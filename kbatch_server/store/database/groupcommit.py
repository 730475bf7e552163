"""Groups writes: one transaction, and one wait for the disk, for all operations that have arrived."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from ...errors import Unavailable
from .errors import is_defeated

GROUP = 100
"""The maximum number of operations in one transaction: with more, the time per operation hardly decreases,
and the first one waits longer."""

CLOSE_TIMEOUT_SECONDS = 30
"""Seconds to wait for the writes in progress when the database is closed."""

ANSWER_SECONDS = 30
"""Maximum duration of a transaction; after it, the waiting operations fail as well."""

TRIES = 5
"""The maximum number of tries of an operation that conflicts with other processes' writes."""

MAX_WAITING = 2000
"""The number of waiting operations from which on ``run_together`` rejects more: about a second's work. These
would wait longer than clients do."""

Result = TypeVar("Result")
Item = TypeVar("Item")

Work = Callable[[Connection, Sequence[Item]], Sequence[Result | Exception]]
"""A function for all items that arrived together; it returns a result or an error for each."""

OnCommit = Callable[[Sequence[Any]], None]
"""Called with the results of some work once they are durable; it must not raise."""


@dataclass(slots=True, eq=False)
class _Request:
    """One item of some work, and a future for its result or error."""

    work: Work[Any, Any]
    item: Any
    on_commit: OnCommit | None
    outcome: asyncio.Future[Any]
    tries: int = 0

    def settle(self, outcome: Any) -> None:
        if self.outcome.done():  # the caller gave up meanwhile
            return
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


class GroupCommit:
    """Runs operations in order on one connection of an engine, in its own thread.

    Operations that arrive during a transaction wait and then share the next one. Each has its own savepoint:
    if one raises, it leaves nothing behind and does not affect the others. An operation that the database
    stopped in favour of another process is repeated. None returns before the COMMIT; if that fails, all fail.

    Items of the same work (``run_together``) share its statements, too, and a savepoint. If the work raises,
    it is repeated with each item alone.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="database-writer")
        self._waiting: deque[_Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    async def run(
        self,
        operation: Callable[[Connection], Result],
        *,
        on_commit: OnCommit | None = None,
    ) -> Result:
        """Return the result of the operation once it is committed; raises its error, or that of the COMMIT.

        It raises TimeoutError if that takes too long. If the caller is cancelled while its operation waits,
        the operation does not run; later, it runs all the same, and ``on_commit`` is called.
        """
        return await self._run(lambda connection, _: [operation(connection)], None, on_commit)

    async def run_together(
        self, work: Work[Item, Result], item: Item, *, on_commit: OnCommit | None = None
    ) -> Result:
        """Return the work's result for one item, like ``run``; raises Unavailable if too many wait.

        The work gets all items that arrived with the same function, and ``on_commit`` the results of all.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable("The database has too much to write. Try again in a moment.")
        return await self._run(work, item, on_commit)

    async def _run(self, work: Work[Item, Result], item: Item, on_commit: OnCommit | None) -> Result:
        if self._is_closed:
            raise Unavailable("The service is stopping. Try again in a moment.")
        request = _Request(work, item, on_commit, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._task is None:
            self._task = asyncio.create_task(self._work(), name="group-commit")
        result: Result = await request.outcome
        return result

    async def close(self) -> None:
        """Finish the waiting operations, within a time limit; later ones raise Unavailable."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=CLOSE_TIMEOUT_SECONDS)
        self._is_closed = True
        self._thread.shutdown(wait=False)

    async def _work(self) -> None:
        try:
            while group := self._take():
                await self._commit(group)
                # those who waited continue first: while they send their answers, the thread would only
                # compete with them for the interpreter
                await asyncio.sleep(0)
        finally:
            self._task = None

    def _take(self) -> dict[Work[Any, Any], list[_Request]]:
        """Return the next waiting operations whose callers still wait, by their work."""
        group: dict[Work[Any, Any], list[_Request]] = {}
        taken = 0
        while self._waiting and taken < GROUP:
            request = self._waiting.popleft()
            if not request.outcome.done():
                group.setdefault(request.work, []).append(request)
                taken += 1
        return group

    async def _commit(self, group: dict[Work[Any, Any], list[_Request]]) -> None:
        requests = [request for some in group.values() for request in some]
        items = [(work, [request.item for request in some]) for work, some in group.items()]
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                outcomes = await asyncio.get_running_loop().run_in_executor(
                    self._thread, _write, self._engine, items
                )
        except Exception as error:  # any error is for the waiting callers
            outcomes = [error] * len(requests)
            if isinstance(error, TimeoutError):
                self._fail_waiting(error)
        self._tell(group, outcomes)
        for request, outcome in zip(requests, outcomes, strict=True):
            request.tries += 1
            if is_defeated(outcome) and request.tries < TRIES:
                self._waiting.append(request)
            else:
                request.settle(outcome)

    def _fail_waiting(self, error: Exception) -> None:
        while self._waiting:
            self._waiting.popleft().settle(error)

    @staticmethod
    def _tell(group: dict[Work[Any, Any], list[_Request]], outcomes: Sequence[Any]) -> None:
        at = 0
        for some in group.values():
            results = [each for each in outcomes[at : at + len(some)] if not isinstance(each, Exception)]
            at += len(some)
            if results and some[0].on_commit is not None:
                some[0].on_commit(results)


def _write(engine: Engine, group: Sequence[tuple[Work[Any, Any], Sequence[Any]]]) -> list[Any]:
    """Do all the work in one transaction; return the result or error of each item, once it is committed."""
    outcomes: list[Any] = []
    with engine.begin() as connection:
        for work, items in group:
            outcomes += _write_items(connection, work, items)
    return outcomes


def _write_items(connection: Connection, work: Work[Any, Any], items: Sequence[Any]) -> Sequence[Any]:
    savepoint = connection.begin_nested()
    try:
        outcomes = work(connection, items)
    except Exception as error:
        if connection.invalidated:  # the connection broke, and the transaction with it
            raise
        # if the database has ended the whole transaction, this raises, and all operations fail
        savepoint.rollback()
        if len(items) == 1:
            return [error]
        return [outcome for item in items for outcome in _write_items(connection, work, [item])]
    savepoint.commit()
    return outcomes
