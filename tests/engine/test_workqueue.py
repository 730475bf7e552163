"""The queue of keys: merging, one hand per key, delays and backoff."""

import asyncio

import pytest

from kbatch_server.engine.workqueue import WorkQueue


async def _get(queue: WorkQueue) -> str:
    async with asyncio.timeout(2):
        return await queue.get()


async def test_a_key_that_is_put_twice_comes_up_once():
    queue = WorkQueue()
    queue.put("a")
    queue.put("a")
    assert await _get(queue) == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_a_key_put_while_it_is_worked_on_comes_up_again_but_not_before_done():
    queue = WorkQueue()
    queue.put("a")
    assert await _get(queue) == "a"
    queue.put("a")
    queue.put("b")
    assert await _get(queue) == "b"
    queue.done("a")
    assert await _get(queue) == "a"


async def test_a_key_that_was_taken_past_the_queue_is_in_one_hand_alone_and_comes_up_after_it():
    queue = WorkQueue()
    queue.put("a")
    assert queue.take("a")
    assert not queue.take("a")
    queue.put("b")
    assert await _get(queue) == "b"
    queue.done("a")
    assert await _get(queue) == "a"
    assert not queue.take("a")


async def test_a_delayed_key_comes_up_after_its_delay_and_others_before():
    queue = WorkQueue()
    queue.put_after("late", 0.05)
    queue.put_after("later", 0.1)
    queue.put("now")
    assert [await _get(queue) for _ in range(3)] == ["now", "late", "later"]


async def test_a_put_overtakes_the_delay_and_the_key_comes_up_once():
    queue = WorkQueue()
    queue.put_after("a", 0.02)
    queue.put("a")
    assert await _get(queue) == "a"
    queue.done("a")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await queue.get()


async def test_a_waiting_reader_wakes_for_a_key_that_is_put_later():
    queue = WorkQueue()
    reader = asyncio.create_task(_get(queue))
    await asyncio.sleep(0)
    queue.put("a")
    assert await reader == "a"


async def test_two_readers_share_the_keys():
    queue = WorkQueue()
    readers = [asyncio.create_task(_get(queue)) for _ in range(2)]
    await asyncio.sleep(0)
    queue.put("a")
    queue.put("b")
    assert sorted(await asyncio.gather(*readers)) == ["a", "b"]


async def test_the_delay_of_a_failing_key_doubles_up_to_the_limit_and_success_resets_it():
    queue = WorkQueue(backoff_base_seconds=1, backoff_max_seconds=8)
    delays = [queue.put_backoff("a") for _ in range(8)]
    for delay, ceiling in zip(delays, [1, 2, 4, 8, 8, 8, 8, 8], strict=True):
        assert ceiling / 2 <= delay <= ceiling
    queue.forget("a")
    assert queue.put_backoff("a") <= 1


async def test_ensure_leaves_a_delay_as_it_is_and_wakes_a_key_that_nobody_put():
    queue = WorkQueue()
    queue.put_after("late", 60)
    queue.ensure("late")
    queue.ensure("now")
    assert await _get(queue) == "now"
    queue.done("now")
    assert len(queue) == 1


async def test_keys_that_come_up_early_again_and_again_leave_nothing_behind():
    queue = WorkQueue()
    for _ in range(1000):
        queue.put_after("a", 3600)
        queue.put("a")
        queue.done(await _get(queue))
    assert len(queue._later) < 100
