"""Waits that end: for the next item of a stream, for a step that may become useless, between tries."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar, cast

Item = TypeVar("Item")

_END = object()


async def with_ticks(
    items: AsyncIterator[Item], seconds: float | Callable[[], float]
) -> AsyncGenerator[Item | None]:
    """Yield the items, and None after each ``seconds`` without one; closes ``items`` at the end.

    If ``seconds`` is a function, it is called again after each item and each None.
    """
    upcoming: asyncio.Future[object] | None = None
    try:
        while True:
            upcoming = upcoming or asyncio.ensure_future(anext(items, _END))
            timeout = seconds() if callable(seconds) else seconds
            done, _ = await asyncio.wait({upcoming}, timeout=timeout)
            if not done:
                yield None
                continue
            item, upcoming = upcoming.result(), None
            if item is _END:
                return
            yield cast(Item, item)
    finally:
        if upcoming is not None:
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)
        await items.aclose()  # type: ignore[attr-defined]


async def until(items: AsyncIterator[Item], ended: asyncio.Event) -> AsyncGenerator[Item]:
    """Yield the items until their end, or until ``ended`` is set; closes ``items`` at the end."""
    ending = asyncio.ensure_future(ended.wait())
    upcoming: asyncio.Future[object] | None = None
    try:
        while not ended.is_set():
            upcoming = asyncio.ensure_future(anext(items, _END))
            await asyncio.wait({upcoming, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not upcoming.done():
                return
            item, upcoming = upcoming.result(), None
            if item is _END:
                return
            yield cast(Item, item)
    finally:
        ending.cancel()
        if upcoming is not None:
            upcoming.cancel()
        await asyncio.gather(ending, *([] if upcoming is None else [upcoming]), return_exceptions=True)
        await items.aclose()  # type: ignore[attr-defined]


async def wait_unless_ended(step: Coroutine[Any, Any, object], other: asyncio.Future[Any]) -> None:
    """Wait for a step, such as room in a queue, unless ``other`` ends first, which was to make it possible.

    Then, and if the caller is cancelled, the step is cancelled.
    """
    doing = asyncio.ensure_future(step)
    try:
        await asyncio.wait({doing, other}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        doing.cancel()


def spread(seconds: float) -> float:
    """Return half of a delay or more, at random, so that not everybody tries again at the same time."""
    return seconds * random.uniform(0.5, 1)  # noqa: S311 - guards nothing


def back_off(failures: int, first: float, longest: float) -> float:
    """Return the delay in seconds after so many failures in a row, at random.

    The longest possible one is ``first`` seconds after the first failure, and doubles with each, up to
    ``longest``.
    """
    return spread(min(longest, first * 2 ** min(failures - 1, 30)))
