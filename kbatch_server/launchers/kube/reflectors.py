"""Watches each namespace that has jobs by itself, where the service may not watch all of them."""

from __future__ import annotations

import time
from collections.abc import Callable

from .reflector import Reflector, Seen


class Reflectors:
    """A reflector for each namespace, started when it is first needed, and stopped when it is not any more.

    It has the methods of one Reflector that ``JobObjects`` and the launcher use.
    """

    namespace: str | None = None
    """The namespace that a test of the connection may ask about: one that is watched, if any."""

    def __init__(self, make: Callable[[str], Reflector], *, idle_seconds: float) -> None:
        self._make = make
        self._idle_seconds = idle_seconds
        self._reflectors: dict[str, Reflector] = {}
        self._used_at: dict[str, float] = {}
        self._tidied_at = 0.0
        self._is_running = False

    async def start(self) -> None:
        """Allow watches from now on."""
        self._is_running = True

    async def stop(self) -> None:
        """End all watches."""
        self._is_running = False
        for name in list(self._reflectors):
            await self._end(name)

    async def of(self, namespace: str) -> Reflector:
        """Return the reflector of a namespace; one that does not run if this was not started."""
        if not self._is_running:
            return self._make(namespace)
        self._used_at[namespace] = time.monotonic()
        await self._tidy()
        reflector = self._reflectors.get(namespace)
        if reflector is None:
            reflector = self._reflectors[namespace] = self._make(namespace)
            await reflector.start()
        self.namespace = namespace
        return reflector

    def find(self, namespace: str, job_id: str) -> Seen | None:
        """Return the known objects of a job, or None."""
        reflector = self._reflectors.get(namespace)
        return None if reflector is None else reflector.find(namespace, job_id)

    async def _tidy(self) -> None:
        """Stop the watches of namespaces that nobody asked about for long: running jobs are polled."""
        now = time.monotonic()
        if now - self._tidied_at < self._idle_seconds:
            return
        self._tidied_at = now
        for name in [name for name, at in self._used_at.items() if now - at >= self._idle_seconds]:
            await self._end(name)

    async def _end(self, name: str) -> None:
        self._used_at.pop(name, None)
        reflector = self._reflectors.pop(name, None)
        if self.namespace == name:
            self.namespace = None
        if reflector is not None:
            await reflector.stop()
