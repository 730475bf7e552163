"""One connection to a container's log, which is left when the kubelet follows the wrong file of it.

A kubelet rotates a log that has grown, and answers from the newest file alone. Its follower (ReadLogs of
cri-client) reads a file to its end, and then, for each rotation that it has noticed, the file that is there
by now. That goes wrong in two ways. It begins to notice when it has read a file to its end for the first
time: a rotation before that is passed over, and the log stands still until the next. And if what it reads is
taken so slowly, by us or the network, that there are several rotations meanwhile, it leaves out what lies
between, and repeats the newest file.
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
"""A connection that is silent for so long may follow a file that nobody writes to any more, which must be
found before the next rotation."""

LAG_SECONDS = 3
"""Lines that come so long after they were written may be of a file that was rotated since: a kubelet rotates
each 3 seconds at most (``containerLogMonitorInterval``, its validation)."""

LOOK_SECONDS = 10
"""The limit of a look at what a node has of a log."""

_STAMP_BYTES = 64


class BehindError(Exception):
    """A connection has given its file of the log to the end, and the log goes on in a later one."""


async def read_stream(
    client: KubeClient, path: str, place: LogPlace, body: aiohttp.StreamReader
) -> AsyncGenerator[bytes]:
    """Yield what comes over a connection to the log of the pod at ``path``, for ``place`` to take.

    Raises BehindError when no more of it is to be taken, and the log to be asked for anew.
    """
    patience, is_trusted, looked = DOUBT_SECONDS, False, 0.0
    while True:
        is_certain = is_trusted or place.is_at_start  # a log that is empty is not rotated
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
            looked = now if start is not None else looked  # one that is still empty is soon looked at again
            if start is not None and start > place.newest:
                # what is still to come of the files before is taken, and then no more
                place.stop, is_trusted, patience = start, False, DOUBT_SECONDS


async def _find_start(client: KubeClient, path: str) -> Moment | None:
    """Return when the first line of the newest file of a log was written; None if that cannot be told."""
    query = {"container": MAIN_CONTAINER, "timestamps": "true", "limitBytes": _STAMP_BYTES}
    try:
        async with (
            asyncio.timeout(LOOK_SECONDS),
            client.stream(path + "/log", query, silence_seconds=LOOK_SECONDS) as body,
        ):
            return find_moment(await body.read(_STAMP_BYTES))
    except (KubeUnavailable, KubeRefused, TimeoutError):
        return None
