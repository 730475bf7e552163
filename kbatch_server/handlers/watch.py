"""``api/v1/jobs/watch``: the changes of jobs as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ..aio import with_ticks
from ..jobs.watch import Reset, SeenChange
from ..web.access import needs_scope
from ..web.answers import answers
from .jobs import OWNER, JobModelHandler
from .streams import EventEncoder, StreamHandler

KEEP_ALIVE_SECONDS = 15.0
"""Proxies and load balancers close silent connections, most of them after 60 s."""

SEND_SECONDS = 30
"""Seconds within which a client must read one event: the service disconnects a slower one, which may
reconnect."""

WATCH_SECONDS = 15 * 60
"""The duration of one connection: the service notices a revoked token when the client reconnects."""


class WatchHandler(StreamHandler, JobModelHandler):
    """The changes of a user's jobs."""

    log_success_debug = True

    @needs_scope("read", whose="self", parameters=(OWNER,))
    @answers(media=("text/event-stream",))
    async def get(self) -> None:
        """Send changes of jobs as server-sent events, as they happen.

        The answer ends when the client disconnects, or after a quarter of an hour; the client then
        continues from the last id.
        """
        after = self.request.headers.get("Last-Event-ID")
        owner = self.read_owner()
        changes = await self.services.jobs.follow_changes(self.user, owner, after=after)
        self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        self.set_header("X-Accel-Buffering", "no")  # nginx would collect what should be seen at once
        self.counts_unread = True
        await self.run_while_connected(self._send(self.until_cut_off(changes, owner=owner)))

    async def _send(self, changes: AsyncGenerator[SeenChange | Reset]) -> None:
        async with aclosing(with_ticks(changes, KEEP_ALIVE_SECONDS)) as ticking:
            try:
                async with asyncio.timeout(WATCH_SECONDS):
                    # the hub's proxy sends no headers before the first byte
                    self.write(EventEncoder.KEEP_ALIVE)
                    await self.flush()
                    async for change in ticking:
                        event = EventEncoder.KEEP_ALIVE if change is None else self._make_event(change)
                        await self.send_piece(event)
            except TimeoutError:
                return

    @property
    def write_seconds(self) -> float:
        """Seconds within which a client must read one event."""
        return SEND_SECONDS

    def _make_event(self, change: SeenChange | Reset) -> bytes:
        if isinstance(change, Reset):
            return EventEncoder.make_event("{}", event="reset", event_id=change.place)
        if change.data is None:
            data = json.dumps({"id": change.job_id})
            return EventEncoder.make_event(data, event="deleted", event_id=change.place)
        return EventEncoder.make_event(change.data, event="job", event_id=change.place)


default_handlers = [(r"api/v1/jobs/watch/?", WatchHandler)]
