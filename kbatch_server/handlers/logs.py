"""``api/v1/jobs/{id}/logs``: a job's log as text or as server-sent events, whole or followed."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from .base import BaseHandler
from .needs import needs_scope
from .query import read_flag, read_int
from .streams import EventEncoder, with_ticks

KEEP_ALIVE_SECONDS = 15.0
"""Proxies and load balancers cut a connection that is silent, most of them after 60 s."""


class LogHandler(BaseHandler):
    """The log of one job."""

    @needs_scope("read", query=("follow", "tail", "pod"))
    async def get(self, job_id: str) -> None:
        """Send the log: the whole, its last lines (``tail``), or as it grows (``follow``)."""
        as_events = "text/event-stream" in self.request.headers.get("Accept", "")
        await self.run_while_connected(self._send(job_id, as_events=as_events))

    async def _send(self, job_id: str, *, as_events: bool) -> None:
        pieces = await self.services.jobs.logs(
            self.user,
            job_id,
            follow=read_flag(self, "follow"),
            tail=read_int(self, "tail", minimum=0, maximum=10_000_000),
            pod=self.get_query_argument("pod", None),
        )
        async with aclosing(pieces):
            self.set_header("X-Accel-Buffering", "no")  # nginx would collect what should be seen at once
            if as_events:
                await self._send_events(job_id, pieces)
            else:
                await self._send_text(pieces)

    async def _send_text(self, pieces: AsyncGenerator[bytes]) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        await self.flush()  # the reader of a job that waits sees that the log is being followed
        async for piece in pieces:
            self.write(piece)
            await self.flush()

    async def _send_events(self, job_id: str, pieces: AsyncGenerator[bytes]) -> None:
        self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        encoder = EventEncoder()
        self.write(encoder.KEEP_ALIVE)  # the hub's proxy sends no headers before the first byte
        await self.flush()
        async with aclosing(with_ticks(pieces, KEEP_ALIVE_SECONDS)) as ticking:
            async for piece in ticking:
                self.write(encoder.KEEP_ALIVE if piece is None else encoder.encode(piece))
                await self.flush()
        self.write(encoder.encode(b"", final=True))
        job = await self.services.jobs.get(self.user, job_id)
        end = {
            "status": job.status.value,
            "reason": job.reason,
            "message": job.full_message,
            "exit_code": job.exit_code,
        }
        self.write(encoder.make_event(json.dumps(end), event="end"))


default_handlers = [(r"api/v1/jobs/([^/]+)/logs/?", LogHandler)]
