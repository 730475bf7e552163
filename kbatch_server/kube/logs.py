"""Read a container's log, and follow it to its end through broken connections, no line lost or doubled."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from .clients import KubeClient, KubeRefused, KubeUnavailable, make_path
from .objects import MAIN_CONTAINER
from .pods import find_state, is_over

SILENCE_SECONDS = 300
"""A followed log without a byte for so long is asked for anew: its connection may be dead."""

MAX_FAILURES = 8
"""Tries in a row, in about two minutes, after which a follower is told that the API is away."""


async def read_log(
    client: KubeClient, namespace: str, pod: str, *, tail: int | None = None
) -> AsyncGenerator[bytes, None]:
    """Yield the log as it is now, or its last ``tail`` lines.

    Raises KubeRefused, as all here: 404 without such a pod, 400 when the container has not started.
    """
    query: dict[str, Any] = {"container": MAIN_CONTAINER}
    if tail is not None:
        query["tailLines"] = tail
    path = make_path("pods", namespace, pod) + "/log"
    async with client.stream(path, query, silence_seconds=60) as body:
        async for chunk in body.iter_any():
            yield chunk


async def follow_log(
    client: KubeClient, namespace: str, pod: str, *, tail: int | None = None
) -> AsyncGenerator[bytes, None]:
    """Yield the log, or its last ``tail`` lines, and what is added to it, until the container has ended.

    A connection that ends or breaks before that is made anew, from the last line on.
    """
    path = make_path("pods", namespace, pod)
    place, failures = _Place(), 0
    while True:
        query: dict[str, Any] = {"container": MAIN_CONTAINER, "follow": "true", "timestamps": "true"}
        if place.since:
            query["sinceTime"] = place.since
        elif tail is not None:
            query["tailLines"] = tail
        began = time.monotonic()
        failures += 1
        try:
            # asked before we read: if it was over then, what we read is all of it
            was_over = await _is_over(client, path)
            async with client.stream(path + "/log", query, silence_seconds=SILENCE_SECONDS) as body:
                place.rewind()
                async for chunk in body.iter_any():
                    failures = 0
                    for piece in place.take(chunk):
                        yield piece
            if was_over:
                return
        except KubeUnavailable:
            if time.monotonic() - began >= SILENCE_SECONDS:
                failures = 0  # a job may well be silent for hours
            elif failures > MAX_FAILURES:
                raise
        except KubeRefused as error:
            if error.status == 404 and place.since:
                return  # the pod was removed; what it had said is said
            raise
        await asyncio.sleep(min(30, 0.25 * 2 ** min(failures, 8)) * random.uniform(0.5, 1))  # noqa: S311


async def _is_over(client: KubeClient, path: str) -> bool:
    pod = await client.get(path)
    return is_over(pod) or not find_state(pod)


class _Place:
    """Where in a log we are: takes what comes, timestamps on, and gives what is new of it, timestamps off.

    ``sinceTime`` counts whole seconds, so that a new connection repeats the newest second. How many lines
    of it were begun is counted, and how many bytes of the last one were given: a connection may break in
    its middle. (Not by the timestamps alone: stdout and stderr are stamped apart, not always in order.)
    """

    def __init__(self) -> None:
        self._second = ""
        self._zone = ""
        self._first = ""
        self._count = 0
        self._given = 0
        self.rewind()

    @property
    def since(self) -> str:
        """The newest second, to ask for the log from there on; empty before the first line."""
        return self._second + self._zone

    def rewind(self) -> None:
        """Get ready for another connection."""
        self._head: bytearray | None = bytearray()
        self._skip = 0
        self._lines_to_skip = self._count

    def take(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what is new in the next bytes of the connection."""
        while chunk:
            if self._head is not None:
                stamp, space, chunk = chunk.partition(b" ")
                self._head += stamp
                if not space:
                    return
                self._begin_line(self._head.decode("ascii", "replace"))
                self._head = None
            body, newline, chunk = chunk.partition(b"\n")
            fresh = (body + newline)[self._skip :]
            self._skip -= len(body + newline) - len(fresh)
            if fresh:
                self._given += len(fresh)
                yield fresh
            if newline:
                self._head = bytearray()

    def _begin_line(self, stamp: str) -> None:
        second = stamp[:19]
        if self._lines_to_skip:
            if second < self._second or stamp < self._first:
                self._skip = sys.maxsize  # before the place where a tail began
                return
            self._lines_to_skip -= 1
            self._skip = sys.maxsize if self._lines_to_skip else self._given
            return
        self._first = self._first or stamp
        self._skip = self._given = 0
        if second > self._second:
            self._second, self._zone = second, stamp[19:].lstrip(".0123456789")
            self._count = 1
        elif second == self._second:
            self._count += 1
        else:
            self._given = sys.maxsize  # late, of a second before: it will not be repeated, nor the last line
