"""The admin's hooks, and how they are called: in a thread or on the event loop, with a time limit."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any

import traitlets
from traitlets import Float, Integer
from traitlets.config import LoggingConfigurable

from .errors import KBatchError, Unavailable

MAX_WAITING = 64
"""The number of calls that wait for a thread; further calls fail at once."""


class HookFailed(Exception):
    """A hook raised an error, or returned something else than it should: the text names the hook."""


class Hooks(LoggingConfigurable):
    """Functions of the admin that the service calls at certain points of each job.

    Each may be async. The service calls a function that is not async in a thread, so it may wait for a
    server. An async function runs on the service's event loop: it must never block. docs/hooks.md has
    recipes.
    """

    pre_submit_hook: Any = traitlets.Callable(
        None,
        allow_none=True,
        help="""A function that may change or reject each request for a job. It takes (request, user).

        ``request`` is a JobRequest with everything that the user sent, the values of ``env`` included. The
        function returns a new request (``request.model_copy(update={...})``), or None to keep this one. To
        reject the request, it raises ``kbatch_server.errors.InvalidRequest.of_field(FIELD, MESSAGE)``, which
        the user sees. ``user`` has ``name`` and ``groups``. Profiles and limits then apply to the returned
        request. The service calls it for each submit, also by *Run again* and by the kbatch command, and
        again if a client repeats its submit. With any other error, the user gets 500 and a request id.
        Default: none. Example::

            from kbatch_server.errors import InvalidRequest

            def pre_submit_hook(request, user):
                if request.cpu_limit and request.cpu_limit > 4 and "research" not in user.groups:
                    raise InvalidRequest.of_field("cpu_limit", "more than 4 is for the group research")

            c.Hooks.pre_submit_hook = pre_submit_hook
        """,
        config=True,
    )

    post_finish_hook: Any = traitlets.Callable(
        None,
        allow_none=True,
        help="""A function that the service calls after the end of each job. It takes (job): the record, with
        ``id``, ``user``, ``name``, ``status``, ``message``, ``exit_code``, ``started_at``, ``ended_at`` and
        more, but without the environment.

        By then the end is on record, and the log and the results are saved. The service calls it at least
        once, and records that it returned: if the service is killed in between, it calls it again. If the
        function fails, the service logs the error and calls it again, up to ``max_tries`` times. It does not
        call it for a job that its user deletes first. Default: none.
        """,
        config=True,
    )

    timeout_seconds = Float(
        10,
        min=0.1,
        help="""Seconds that the service waits for a hook. A submit then fails with 503, a launch is tried
        again later, and so is ``post_finish_hook``. A function in a thread continues to run, as nothing can
        stop it.
        """,
        config=True,
    )

    max_threads = Integer(
        8,
        min=1,
        help="""The maximum number of hooks that run in threads at the same time. Hooks that hang count.
        Others wait for a thread.
        """,
        config=True,
    )

    max_tries = Integer(
        5,
        min=1,
        help="""How many times the service calls ``post_finish_hook`` for a job if it fails. The second call
        follows after 10 seconds, and each later one after twice the previous delay.
        """,
        config=True,
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._threads = asyncio.Semaphore(self.max_threads)
        self._waiting = 0

    async def run(self, name: str, hook: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a hook returns; ``name`` is its trait.

        Raises the KBatchError that the hook raises, Unavailable if it does not return in time or too many
        calls wait for a thread, and HookFailed, with its cause, for any other error.
        """
        try:
            async with asyncio.timeout(self.timeout_seconds) as limit:
                return await self._call(name, hook, arguments)
        except (KBatchError, HookFailed):
            raise
        except Exception as error:
            if limit.expired():
                self.log.error("%s has not returned after %g s", name, self.timeout_seconds)
                message = f"The hub's {name} did not return in time. Try again later."
                raise Unavailable(message, reason="HookTimeout") from None
            raise HookFailed(f"{name} raised {type(error).__name__}: {error}") from error

    async def _call(self, name: str, hook: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(type(hook).__call__):
            return await hook(*arguments)
        result = await self._call_in_thread(name, hook, arguments)
        return await result if inspect.isawaitable(result) else result

    async def _call_in_thread(self, name: str, hook: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        await self._take_thread(name)
        loop, context = asyncio.get_running_loop(), copy_context()
        returned: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

        def finish(result: Any, error: BaseException | None) -> None:
            self._threads.release()
            if not returned.done():
                returned.set_result((result, error))

        def work() -> None:
            result, failure = None, None
            try:
                result = context.run(hook, *arguments)
            except BaseException as error:  # SystemExit, too, must free the thread
                failure = error
            with suppress(RuntimeError):  # the loop is closed: the service has stopped
                loop.call_soon_threadsafe(finish, result, failure)

        # not a pool: at its end, the interpreter would wait for a thread that hangs
        threading.Thread(target=work, name=name, daemon=True).start()
        result, failure = await returned
        if failure is None:
            return result
        if isinstance(failure, Exception):
            raise failure
        raise HookFailed(f"{name} raised {type(failure).__name__}") from failure

    async def _take_thread(self, name: str) -> None:
        if self._waiting >= MAX_WAITING:
            self.log.error("%s: %d calls wait for one of %d threads", name, self._waiting, self.max_threads)
            raise Unavailable("Too many jobs wait for the hub's hooks. Try again later.", reason="HooksBusy")
        self._waiting += 1
        try:
            await self._threads.acquire()
        finally:
            self._waiting -= 1
