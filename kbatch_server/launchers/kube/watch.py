"""Follows one kind of object: lists all, then watches for changes, forever, despite all errors.

As Kubernetes recommends:
https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes

The official client's ``Watch`` is not used: it neither lists nor pauses between two connections, ends when a
version has expired twice in a row, and fails at a line longer than its buffer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import aiohttp

from ...aio import back_off
from ...metrics import WATCH_RESTARTS
from .client import KubeClient, KubeError, KubeRefused, KubeUnavailable
from .manifests.manifest import Manifest

FIRST_PAUSE_SECONDS = 0.2
"""The longest pause between two watches that end normally; it doubles with each error in a row."""

PAGE = 250
"""The number of objects in one answer of a list: parsing it blocks the event loop for a few milliseconds
only."""

MAX_LINE_BYTES = 16 * 2**20
"""The maximum length of a line: etcd allows 1.5 MiB per object, so a longer line is not from a watch."""


class Stale(Exception):
    """Changes alone can no longer update the known objects: list again."""


class Watch:
    """Reports all objects of one kind, and their changes.

    It calls ``on_list(objects)`` with all objects, and ``on_event(type, object)`` with each later change
    (``ADDED``, ``MODIFIED``, ``DELETED``), both with only the parts that ``trim`` keeps. The server ends each
    watch after ``watch_seconds``. The watch gives up a connection that is silent for ``grace_seconds``
    longer, and so notices a dead one, which TCP may keep for hours. It always pauses between two tries, up to
    ``max_pause_seconds``.
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
        """When the API last answered, by ``time.monotonic()``."""
        self._version = ""
        self._failures = 0

    @property
    def is_fresh(self) -> bool:
        """Whether the reported state is current, and not from before a lost connection."""
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
                # the known objects stay valid: the watch continues at the same version
                self._count("unavailable")
                self.log.warning("Watch of %s failed: %s", self.path, error)
                self._failures += 1
            except KubeError as error:
                self._count("refused")
                self.log.error("Cannot watch %s: %s", self.path, error)
                self._version = ""
                self._failures += 1
            except Exception:  # a bug here must not freeze the known objects for ever
                self._count("failed")
                self.log.exception("Watching %s failed", self.path)
                self._version = ""
                self._failures += 1
            await asyncio.sleep(self._pause())

    def _count(self, why: str) -> None:
        WATCH_RESTARTS.labels(self.path.rpartition("/")[2], why).inc()

    def _pause(self) -> float:
        """Return the seconds until the next try: few after a normal end of a watch, more after errors."""
        return back_off(self._failures + 1, FIRST_PAUSE_SECONDS, self.max_pause_seconds)

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
            self._failures += 1  # no tight loop of requests if the server ends each watch at once
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
    """Yield complete lines. aiohttp's own method rejects lines of the size that a pod may have."""
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
