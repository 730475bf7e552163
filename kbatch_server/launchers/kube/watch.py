"""Follow one kind of object: list all, then watch for changes, for ever, through every fault of the way.

How Kubernetes means it: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import aiohttp

from ...metrics import WATCH_RESTARTS
from .client import KubeClient, KubeError, KubeRefused, KubeUnavailable

Manifest = dict[str, Any]

PAGE = 250
"""Objects in one answer of a list: parsing it holds the event loop for some milliseconds only."""

MAX_LINE_BYTES = 16 * 2**20
"""etcd ends at 1.5 MiB an object; more than this is not a watch."""


class Stale(Exception):
    """What is known can no longer be brought up to date by changes alone: list again."""


class Watch:
    """Keeps somebody informed of all objects of one kind.

    ``on_list(objects)`` is told of everything there is, ``on_event(type, object)`` of each change after
    it (``ADDED``, ``MODIFIED``, ``DELETED``), both only of what ``trim`` leaves of an object. The server
    ends each watch after ``watch_seconds``, and a connection that is silent for ``grace_seconds`` longer
    is given up: so a dead one, which TCP may keep for hours, is noticed. Between two tries there is always
    a pause, up to ``max_pause_seconds``.
    """

    def __init__(
        self,
        client: KubeClient,
        path: str,
        *,
        on_list: Callable[[list[Manifest]], None],
        on_event: Callable[[str, Manifest], None],
        trim: Callable[[Manifest], Manifest],
        label_selector: str = "",
        watch_seconds: float = 60,
        grace_seconds: float = 15,
        max_pause_seconds: float = 10,
        log: logging.Logger | None = None,
    ) -> None:
        self.client = client
        self.path = path
        self.on_list = on_list
        self.on_event = on_event
        self.trim = trim
        self.query = {"labelSelector": label_selector} if label_selector else {}
        self.watch_seconds = watch_seconds
        self.grace_seconds = grace_seconds
        self.max_pause_seconds = max_pause_seconds
        self.log = log or logging.getLogger(__name__)
        self.last_contact: float | None = None
        """When the API last answered, as ``time.monotonic()`` says it."""
        self._version = ""
        self._failures = 0

    @property
    def is_fresh(self) -> bool:
        """Whether what was told is the state of a moment ago, and not of before the connection was lost."""
        if self.last_contact is None:
            return False
        return time.monotonic() - self.last_contact < self.watch_seconds + 2 * self.grace_seconds

    async def run(self) -> None:
        """List and watch until cancelled."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except Stale as error:
                self._count("stale")
                self.log.info("Listing %s again: %s", self.path, error)
                self._version = ""
                self._failures += 1
            except KubeUnavailable as error:
                # what is known stays good: the watch goes on where it was
                self._count("unavailable")
                self.log.warning("Watch of %s failed: %s", self.path, error)
                self._failures += 1
            except KubeError as error:
                self._count("refused")
                self.log.error("Cannot watch %s: %s", self.path, error)
                self._version = ""
                self._failures += 1
            except Exception:  # a defect of ours must not freeze what is known for good
                self._count("failed")
                self.log.exception("Watching %s failed", self.path)
                self._version = ""
                self._failures += 1
            await asyncio.sleep(self._pause())

    def _count(self, why: str) -> None:
        WATCH_RESTARTS.labels(self.path.rpartition("/")[2], why).inc()

    def _pause(self) -> float:
        """Return the seconds until the next try: few after a watch that ended well, more after each fault."""
        longest: float = min(self.max_pause_seconds, 0.2 * 2 ** min(self._failures, 16))
        return longest * random.uniform(0.5, 1)  # noqa: S311 - spreads the clients of one server

    async def _list(self) -> None:
        found: list[Manifest] = []
        query: Mapping[str, Any] = {**self.query, "limit": PAGE}
        while True:
            try:
                page = await self.client.get(self.path, query)
            except KubeRefused as error:
                if error.status == 410 and "continue" in query:
                    raise Stale("the list expired between two pages") from None
                raise
            self._touch()
            found += [self.trim(manifest) for manifest in page.get("items") or []]
            rest = page["metadata"].get("continue")
            if not rest:
                break
            query = {**self.query, "limit": PAGE, "continue": rest}
        self.on_list(found)
        self._version = page["metadata"]["resourceVersion"]

    async def _watch(self) -> None:
        query = {
            **self.query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": max(1, round(self.watch_seconds)),
        }
        silence = self.watch_seconds + self.grace_seconds
        began = time.monotonic()
        try:
            async with self.client.stream(self.path, query, silence_seconds=silence) as body:
                async for line in _lines(body):
                    self._take(line)
        except KubeRefused as error:
            if error.status == 410:
                raise Stale(error.message) from None
            raise
        if time.monotonic() - began < min(1, self.watch_seconds / 2):
            self._failures += 1  # a server that ends each watch at once must not be asked in a circle
        else:
            self._touch()
            self._failures = 0

    def _take(self, line: bytes) -> None:
        try:
            change = json.loads(line)
            kind, manifest = change["type"], change["object"]
            version = manifest.get("metadata", {}).get("resourceVersion", "")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Stale(f"a line of the watch is not JSON: {line[:80]!r}") from None
        if kind == "ERROR":
            raise Stale(manifest.get("message") or "the server ended the watch")
        if kind in ("ADDED", "MODIFIED", "DELETED"):
            self.on_event(kind, self.trim(manifest))
        self._version = version or self._version
        self._failures = 0
        self._touch()

    def _touch(self) -> None:
        self.last_contact = time.monotonic()


async def _lines(body: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield whole lines. aiohttp's own refuses lines of the size that a Pod may have."""
    rest = b""
    async for chunk in body.iter_any():
        *lines, last = chunk.split(b"\n")
        if lines:
            lines[0] = rest + lines[0]
            rest = last
            for line in lines:
                if line.strip():
                    yield line
        else:
            rest += last
        if len(rest) > MAX_LINE_BYTES:
            raise Stale(f"a line of the watch is longer than {MAX_LINE_BYTES} bytes")
    if rest.strip():
        raise Stale("the watch ended in the middle of a line")
