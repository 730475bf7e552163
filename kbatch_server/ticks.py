"""Waits for the next item of a stream, and returns at intervals, or for good, without one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TypeVar, cast

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
