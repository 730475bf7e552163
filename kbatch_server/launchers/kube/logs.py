"""Follows a container's log to its end, despite broken connections and restarts, without losing or repeating
a line."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from .client import KubeClient, KubeRefused, KubeUnavailable, make_path
from .logplace import LogPlace, Stamped
from .logstream import BehindError, read_stream
from .manifests.job import MAIN_CONTAINER
from .status.pods import find_state, is_over

SILENCE_SECONDS = 300
"""Seconds without a byte after which the log is requested again: the connection may be dead."""

MAX_FAILURES = 8
"""Failed tries in a row, in about two minutes, before reporting that the API is down, or that the node has no
log. A node that was just restarted reports this for each pod until it knows them again."""

NO_LOG = "The node no longer has the log."


async def follow_log(
    client: KubeClient, namespace: str, pod: str, *, position: dict[str, Any] | None = None
) -> AsyncGenerator[Stamped, None]:
    """Yield the log after ``position``, and later additions, until the container has ended.

    If a connection ends or breaks before that, it makes a new one, from the last lines on. The API server
    also ends an answer normally if its own connection to the node broke: so the end is only an answer with
    nothing new, for a container that had ended. Raises KubeUnavailable, and KubeRefused: 404 if the pod is
    gone before its log was read to the end, with the reason NO_LOG if its node has no more of the log.
    """
    path = make_path("pods", namespace, pod)
    place, failures, has_ended, empty = LogPlace(position), 0, False, 0
    while True:
        began = time.monotonic()
        failures += 1
        is_there = was_over = False
        try:
            # ask before reading: only if the container had ended then, the log may be complete
            was_over = await _is_over(client, path)
            is_there, empty = True, empty + 1
            async with client.stream(
                path + "/log", _make_query(place), silence_seconds=SILENCE_SECONDS
            ) as body:
                place.rewind()
                async with aclosing(read_stream(client, path, place, body)) as chunks:
                    async for chunk in chunks:
                        for piece in place.take(chunk):
                            failures = empty = 0
                            yield piece
            # an answer of a node without the container does not mean that the log has ended
            has_ended = has_ended or not place.is_refused
            if was_over and place.is_refused:
                raise KubeRefused(404, NO_LOG, NO_LOG)
            # empty twice if no line was ever read, because no line proves that this was the log
            if was_over and empty >= (2 if place.is_at_start else 1):
                return
        except BehindError:
            place.is_read_up, has_ended = True, False
            continue
        except KubeUnavailable:
            has_ended, empty = False, 0
            if time.monotonic() - began >= SILENCE_SECONDS:
                failures = 0  # a job may well be silent for hours
            elif failures > MAX_FAILURES:
                raise
        except KubeRefused as error:
            is_gone = error.status == 404 and (not is_there or error.message == f'pods "{pod}" not found')
            if is_gone and has_ended and not place.is_at_start:
                return  # the kubelet ends a stream where the container does; then the pod was removed
            # 400: the kubelet did not see the end of the container
            has_none = is_there and (error.status == 404 or (error.status == 400 and was_over))
            if is_gone or not has_none:
                raise
            has_ended, empty = has_ended and error.reason == NO_LOG, 0
            if failures > MAX_FAILURES:
                raise KubeRefused(404, NO_LOG, error.message) from None
        await asyncio.sleep(min(30, 0.25 * 2 ** min(failures, 8)) * random.uniform(0.5, 1))  # noqa: S311


def _make_query(place: LogPlace) -> dict[str, Any]:
    query = {"container": MAIN_CONTAINER, "follow": "true", "timestamps": "true"}
    return query if place.is_at_start else query | {"sinceTime": place.since}


async def _is_over(client: KubeClient, path: str) -> bool:
    pod = await client.get(path)
    return is_over(pod) or not find_state(pod)
