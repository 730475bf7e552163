"""Send many HTTP requests, some at a time, and say how fast they were answered."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp


@dataclass(frozen=True)
class Request:
    """One request; ``json`` is sent as its body when there is one."""

    method: str
    url: str
    json: Any = None


@dataclass
class Result:
    """The answers to one load: durations in seconds, and how often each status came."""

    elapsed_seconds: float = 0.0
    durations_seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    received_bytes: int = 0

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.durations_seconds) / self.elapsed_seconds

    def percentile(self, percent: float) -> float:
        """The duration that so many percent of the requests did not exceed."""
        ordered = sorted(self.durations_seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]

    def __str__(self) -> str:
        p50, p99 = (self.percentile(percent) * 1000 for percent in (50, 99))
        statuses = ", ".join(f"{count} x {status}" for status, count in self.statuses.items())
        return f"{self.rate:.1f}/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms ({statuses})"


async def run_load(
    make_request: Callable[[int], Request],
    *,
    total: int,
    in_flight: int,
    headers: Mapping[str, str],
    timeout_seconds: float = 120,
) -> Result:
    """Send ``make_request(0)`` to ``make_request(total - 1)``, ``in_flight`` at a time.

    Connections are kept open. A refused connection or a timeout raises: a rate over requests that
    were not answered would mean nothing. An answer of any status counts, so look at ``statuses``.
    """
    result = Result()
    numbers = iter(range(total))

    async def send_in_turn(session: aiohttp.ClientSession) -> None:
        for number in numbers:  # shared: whoever is free takes the next
            request = make_request(number)
            start = time.perf_counter()
            async with session.request(request.method, request.url, json=request.json) as response:
                body = await response.read()
            result.durations_seconds.append(time.perf_counter() - start)
            result.statuses[response.status] += 1
            result.received_bytes += len(body)

    async with aiohttp.ClientSession(
        headers=headers,
        connector=aiohttp.TCPConnector(limit=in_flight),
        timeout=aiohttp.ClientTimeout(total=timeout_seconds),
    ) as session:
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(send_in_turn(session))
        result.elapsed_seconds = time.perf_counter() - start
    return result
