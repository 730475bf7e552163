"""Follows a container's log to its end, despite broken connections, restarts and rotation, without losing or
repeating a line.

A kubelet rotates a log that has grown, and answers from the newest file alone. Its follower (ReadLogs of
cri-client) reads a file to its end, and then, for each rotation that it has noticed, the file that exists at
that time. This fails in two ways. It begins to notice rotations when it has read a file to its end for the
first time: it misses an earlier rotation, and the log stands still until the next. And if we or the network
read so slowly that several rotations happen meanwhile, it omits the files in between, and repeats the newest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import aiohttp

from ...aio import back_off
from .client import KubeClient, KubeRefused, KubeUnavailable, make_path
from .logcursor import LineTime, LogCursor, Stamped, find_moment
from .manifests.job import MAIN_CONTAINER
from .status.pods import find_state, is_over

SILENCE_SECONDS = 300
"""Seconds without a byte after which the log is requested again: the connection may be dead."""

MAX_FAILURES = 8
"""Failed tries in a row, in about two minutes, before reporting that the API is down, or that the node has no
log. A node that was just restarted reports this for each pod until it knows them again."""

RETRY_SECONDS = (0.5, 30)
"""The first and the longest delay between two tries."""

NO_LOG = "The node no longer has the log."

DOUBT_SECONDS = 1
"""After this silence a connection may be following a file that nobody writes to any more, which must be found
before the next rotation."""

LAG_SECONDS = 3
"""Lines that arrive this late may be from a file that was rotated since: a kubelet rotates each 3 seconds at
most (``containerLogMonitorInterval``, its validation)."""

LOOK_SECONDS = 10
"""The timeout for checking which part of a log a node has."""

_STAMP_BYTES = 64


class _Behind(Exception):
    """A connection has returned its file of the log to the end, and the log continues in a later one."""


class FollowedLog:
    """The log of a pod's main container, read once over as many connections as that takes."""

    def __init__(
        self, client: KubeClient, namespace: str, pod: str, *, position: dict[str, Any] | None = None
    ) -> None:
        """Take where to begin: the ``position`` of a Stamped, or None for the start."""
        self._client = client
        self._pod = pod
        self._path = make_path("pods", namespace, pod)
        self._cursor = LogCursor(position)
        self._failures = 0  # tries since there was anything new
        self._empty = 0  # complete answers since then
        self._has_ended = False  # whether a stream ended normally: the kubelet ends it with the container
        self._is_read_up = False  # whether the last connection returned its whole file
        # of the present try: whether the pod exists, and whether the container had ended before it was read
        self._is_there = self._was_over = False

    async def follow(self) -> AsyncGenerator[Stamped]:
        """Yield the log, and later additions, until the container has ended.

        If a connection ends or breaks before that, it makes a new one, from the last lines on. The API server
        also ends an answer normally if its own connection to the node broke: so the end is only an answer
        with nothing new, for a container that had ended. Raises KubeUnavailable, and KubeRefused: 404 if the
        pod is gone before its log was read to the end, with the reason NO_LOG if its node has no more of it.
        """
        while True:
            began = time.monotonic()
            self._failures += 1
            self._is_there = self._was_over = False
            try:
                async with aclosing(self._read()) as pieces:
                    async for piece in pieces:
                        self._failures = self._empty = 0
                        yield piece
                # empty twice if no line was ever read, because no line proves that this was the log
                if self._was_over and self._empty >= (2 if self._cursor.is_at_start else 1):
                    return
            except _Behind:
                self._is_read_up, self._has_ended = True, False
                continue
            except KubeUnavailable:
                self._has_ended, self._empty = False, 0
                if time.monotonic() - began >= SILENCE_SECONDS:
                    self._failures = 0  # a job may well be silent for hours
                elif self._failures > MAX_FAILURES:
                    raise
            except KubeRefused as error:
                if self._is_end(error):
                    return
            await asyncio.sleep(back_off(self._failures, *RETRY_SECONDS))

    async def _read(self) -> AsyncGenerator[Stamped]:
        """Yield what is new over one connection, until that ends normally."""
        # ask before reading: only if the container had ended then, the log may be complete
        pod = await self._client.get(self._path)
        self._was_over = is_over(pod) or not find_state(pod)
        self._is_there = True
        self._empty += 1
        since = {} if self._cursor.is_at_start else {"sinceTime": self._cursor.since}
        async with self._stream({"follow": "true", **since}, silence_seconds=SILENCE_SECONDS) as body:
            self._cursor.rewind(was_read_up=self._is_read_up)
            self._is_read_up = False
            async with aclosing(self._receive(body)) as chunks:
                async for chunk in chunks:
                    for piece in self._cursor.take(chunk):
                        yield piece
        # an answer of a node without the container does not mean that the log has ended
        self._has_ended = self._has_ended or not self._cursor.is_refused
        if self._was_over and self._cursor.is_refused:
            raise KubeRefused(404, NO_LOG, NO_LOG)

    async def _receive(self, body: aiohttp.StreamReader) -> AsyncGenerator[bytes]:
        """Yield the data of a connection, for the cursor to take.

        Raises _Behind if no more of it may be taken, and the log must be requested again.
        """
        cursor, patience, is_trusted, looked = self._cursor, DOUBT_SECONDS, False, 0.0
        while True:
            is_certain = is_trusted or cursor.is_at_start  # an empty log is not rotated
            try:
                async with asyncio.timeout(None if is_certain else patience) as limit:
                    chunk = await body.readany()
            except TimeoutError:
                if not limit.expired():
                    raise
                if cursor.is_stopping:
                    raise _Behind from None
                start = await self._find_start()
                if start is not None and start > cursor.newest:
                    raise _Behind from None
                is_trusted, patience = start is not None, 2 * patience
                continue
            if not chunk:
                return
            yield chunk
            if cursor.is_stopped:
                raise _Behind
            now = time.time() - self._client.ahead.total_seconds()
            if not cursor.is_stopping and min(now - cursor.newest[0], now - looked) >= LAG_SECONDS:
                start = await self._find_start()
                looked = now if start is not None else looked  # an empty log is looked at again soon
                if start is not None and start > cursor.newest:
                    # the log was rotated: take only the rest of the earlier files
                    cursor.stop_at(start)
                    is_trusted, patience = False, DOUBT_SECONDS

    async def _find_start(self) -> LineTime | None:
        """Return when the first line of the log's newest file was written; None if that is unknown."""
        try:
            async with (
                asyncio.timeout(LOOK_SECONDS),
                self._stream({"limitBytes": _STAMP_BYTES}, silence_seconds=LOOK_SECONDS) as body,
            ):
                return find_moment(await body.read(_STAMP_BYTES))
        except (KubeUnavailable, KubeRefused, TimeoutError):
            return None

    def _stream(self, query: dict[str, Any], *, silence_seconds: float) -> Any:
        query = {"container": MAIN_CONTAINER, "timestamps": "true"} | query
        return self._client.stream(self._path + "/log", query, silence_seconds=silence_seconds)

    def _is_end(self, error: KubeRefused) -> bool:
        """Whether a rejection means that the log is complete; raises it, or one with NO_LOG, if not even
        trying again may help."""
        is_gone = error.status == 404 and (
            not self._is_there or error.message == f'pods "{self._pod}" not found'
        )
        if is_gone and self._has_ended and not self._cursor.is_at_start:
            return True  # the kubelet ends a stream where the container does; then the pod was removed
        # 400: the kubelet did not see the end of the container
        has_none = self._is_there and (error.status == 404 or (error.status == 400 and self._was_over))
        if is_gone or not has_none:
            raise error
        self._has_ended, self._empty = self._has_ended and error.reason == NO_LOG, 0
        if self._failures > MAX_FAILURES:
            raise KubeRefused(404, NO_LOG, error.message) from None
        return False
