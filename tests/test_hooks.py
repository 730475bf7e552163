"""How an admin's hook is called, for how long, and what its errors become."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from kbatch_server import hooks as hooks_module
from kbatch_server.errors import InvalidRequest, Unavailable
from kbatch_server.hooks import HookFailed, Hooks
from tests.support.waiting import until


@pytest.fixture
def let_go():
    """Set at the end of a test, so that no thread of a hook outlives it."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_function_runs_in_a_thread_and_an_async_one_on_the_loop():
    async def on_the_loop(number):
        await asyncio.sleep(0)
        return number, threading.current_thread()

    def in_a_thread(number):
        return number, threading.current_thread()

    class Both:
        async def __call__(self, number):
            return await on_the_loop(number)

    hooks = Hooks()
    here = threading.current_thread()
    assert await hooks.run("x", on_the_loop, 1) == (1, here)
    assert await hooks.run("x", Both(), 2) == (2, here)
    assert await hooks.run("x", lambda number: on_the_loop(number), 3) == (3, here)
    number, thread = await hooks.run("x", in_a_thread, 4)
    assert number == 4
    assert thread is not here


async def test_a_hook_that_hangs_holds_nobody_up_and_is_reported(let_go, caplog):
    hooks = Hooks(timeout_seconds=0.2, max_threads=1)
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="pre_submit_hook did not return in time"):
        await hooks.run("pre_submit_hook", let_go.wait)
    assert time.monotonic() - begun < 5
    assert "pre_submit_hook has not returned after 0.2 s" in caplog.text
    # its thread is the only one, until it returns
    with pytest.raises(Unavailable):
        await hooks.run("pre_submit_hook", lambda: 1)
    let_go.set()
    hooks.timeout_seconds = 10
    assert await hooks.run("pre_submit_hook", lambda: 1) == 1

    async def for_ever():
        await asyncio.Event().wait()

    hooks.timeout_seconds = 0.1
    with pytest.raises(Unavailable, match="did not return in time"):
        await hooks.run("pre_submit_hook", for_ever)


async def test_only_so_many_calls_wait_for_a_thread(let_go, monkeypatch, caplog):
    monkeypatch.setattr(hooks_module, "MAX_WAITING", 2)
    hooks = Hooks(max_threads=1)
    tasks = [asyncio.create_task(hooks.run("x", let_go.wait)) for _ in range(3)]
    await until(lambda: hooks._waiting == 2)
    with pytest.raises(Unavailable, match="Too many jobs wait"):
        await hooks.run("x", let_go.wait)
    assert "x: 2 calls wait for one of 1 threads" in caplog.text
    let_go.set()
    assert await asyncio.gather(*tasks) == [True, True, True]


async def test_what_a_hook_raises_is_for_the_user_or_names_the_hook():
    def refuse():
        raise InvalidRequest.of_field("image", "no")

    def fail():
        raise ZeroDivisionError("by zero")

    def leave():
        raise SystemExit(3)

    def late():
        raise TimeoutError("its own")

    hooks = Hooks()
    with pytest.raises(InvalidRequest, match="image: no"):
        await hooks.run("x_hook", refuse)
    with pytest.raises(HookFailed, match="x_hook raised ZeroDivisionError: by zero") as failed:
        await hooks.run("x_hook", fail)
    assert isinstance(failed.value.__cause__, ZeroDivisionError)
    with pytest.raises(HookFailed, match="x_hook raised SystemExit"):
        await hooks.run("x_hook", leave)
    with pytest.raises(HookFailed, match="TimeoutError: its own"):
        await hooks.run("x_hook", late)
