"""Waits for the next thing of a stream, and comes back in between when there is none for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar, cast

Item = TypeVar("Item")

_END = object()


async def with_ticks(items: AsyncIterator[Item], seconds: float) -> AsyncGenerator[Item | None]:
    """Yield the items, and None whenever none came for so many seconds; closes ``items`` at its end."""
    upcoming: asyncio.Future[object] | None = None
    try:
        while True:
            upcoming = upcoming or asyncio.ensure_future(anext(items, _END))
            done, _ = await asyncio.wait({upcoming}, timeout=seconds)
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
