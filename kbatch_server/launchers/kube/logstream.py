"""One connection to a container's log, which ends when the kubelet follows the wrong file of it.

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

import aiohttp

from .client import KubeClient, KubeRefused, KubeUnavailable
from .logplace import LogPlace, Moment, find_moment
from .manifests.job import MAIN_CONTAINER

DOUBT_SECONDS = 1
"""After this silence a connection may be following a file that nobody writes to any more, which must be found
before the next rotation."""

LAG_SECONDS = 3
"""Lines that arrive this late may be from a file that was rotated since: a kubelet rotates each 3 seconds at
most (``containerLogMonitorInterval``, its validation)."""

LOOK_SECONDS = 10
"""The timeout for checking which part of a log a node has."""

_STAMP_BYTES = 64


class BehindError(Exception):
    """A connection has returned its file of the log to the end, and the log continues in a later one."""


async def read_stream(
    client: KubeClient, path: str, place: LogPlace, body: aiohttp.StreamReader
) -> AsyncGenerator[bytes]:
    """Yield the data of a connection to the log of the pod at ``path``, to be taken by ``place``.

    Raises BehindError if no more of it may be taken, and the log must be requested again.
    """
    patience, is_trusted, looked = DOUBT_SECONDS, False, 0.0
    while True:
        is_certain = is_trusted or place.is_at_start  # an empty log is not rotated
        try:
            async with asyncio.timeout(None if is_certain else patience) as limit:
                chunk = await body.readany()
        except TimeoutError:
            if not limit.expired():
                raise
            if place.stop is not None:
                raise BehindError from None
            start = await _find_start(client, path)
            if start is not None and start > place.newest:
                raise BehindError from None
            is_trusted, patience = start is not None, 2 * patience
            continue
        if not chunk:
            return
        yield chunk
        if place.is_stopped:
            raise BehindError
        now = time.time() - client.ahead.total_seconds()
        if place.stop is None and min(now - place.newest[0], now - looked) >= LAG_SECONDS:
            start = await _find_start(client, path)
            looked = now if start is not None else looked  # an empty log is looked at again soon
            if start is not None and start > place.newest:
                # the log was rotated: take only the rest of the earlier files
                place.stop, is_trusted, patience = start, False, DOUBT_SECONDS


async def _find_start(client: KubeClient, path: str) -> Moment | None:
    """Return when the first line of the newest file of a log was written; None if that is unknown."""
    query = {"container": MAIN_CONTAINER, "timestamps": "true", "limitBytes": _STAMP_BYTES}
    try:
        async with (
            asyncio.timeout(LOOK_SECONDS),
            client.stream(path + "/log", query, silence_seconds=LOOK_SECONDS) as body,
        ):
            return find_moment(await body.read(_STAMP_BYTES))
    except (KubeUnavailable, KubeRefused, TimeoutError):
        return None
