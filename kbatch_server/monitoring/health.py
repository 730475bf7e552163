"""Checks the parts that the service depends on, and remembers for each its state, since when, and why."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import traitlets
from traitlets import Float
from traitlets.config import LoggingConfigurable
from typing_extensions import TypedDict

from ..errors import KBatchError
from ..launchers.base import LauncherUnavailable
from ..models.times import Moment, show_time, utcnow
from ..scrub import scrub_text
from ..storage.base import StorageError

FRESH_SECONDS = 1.0
"""Seconds for which to reuse the result of a check, because anybody may ask for the service's health."""

MAX_WORDS = 500
"""The maximum length of a reason, in characters."""

State = Literal["ok", "failed", "unknown"]


class PartJson(TypedDict):
    """The state of a part, since when and why."""

    state: State
    since: Moment
    message: str
    needed: bool


class PartsJson(TypedDict):
    """The state of all parts."""

    status: Literal["ok", "degraded", "unavailable", "stopping"]
    failed: list[str]
    parts: dict[str, PartJson]


@dataclass(slots=True, eq=False)
class CheckedPart:
    """A part that the service depends on, and its state."""

    name: str
    check: Callable[[], Awaitable[None]]
    """Raises if the part does not work or does not respond."""
    is_needed: bool = False
    """Whether the service can answer no request at all without this part."""
    state: State = "unknown"
    since: datetime = field(default_factory=utcnow)
    """The time when this state began."""
    message: str = ""
    """The reason of a failure; otherwise empty."""
    checked_at: float = float("-inf")
    """The time of the last check, by ``time.monotonic()``."""
    asking: asyncio.Task[None] | None = None

    def to_dict(self) -> PartJson:
        """Return the JSON of the part."""
        return {
            "state": self.state,
            "since": show_time(self.since),
            "message": self.message,
            "needed": self.is_needed,
        }


class Health(LoggingConfigurable):
    """Knows the state of each part, and whether this process should receive requests.

    The process is not ready only if a part has failed that every request needs. If any other part has
    failed, some requests still succeed, and a pod that is not ready would receive none of them.
    """

    interval_seconds = Float(
        10,
        min=0.1,
        help="""Seconds between two health checks of the parts that the service depends on.""",
        config=True,
    )

    check_seconds = Float(
        5,
        min=0.1,
        help="""Seconds within which a part must respond to a check, before it counts as failed.""",
        config=True,
    )

    parts: Sequence[CheckedPart] = traitlets.List()  # type: ignore[assignment]

    is_stopping = False
    """Whether the process is about to end: then it is not ready, whatever the state of the parts."""

    _task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin the checks."""
        self._task = asyncio.create_task(self._rounds(), name="health")

    async def stop(self) -> None:
        """End the checks."""
        tasks = [self._task, *(part.asking for part in self.parts)]
        under_way = [task for task in tasks if task is not None]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    async def _rounds(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(self.interval_seconds)

    async def look(self) -> None:
        """Check each part that was not checked a moment ago, and wait for the results."""
        old = time.monotonic() - FRESH_SECONDS
        due = [self._ask(part) for part in self.parts if part.checked_at <= old]
        if due:
            # simultaneous callers share one check; if one is cancelled, the check continues for the others
            await asyncio.wait(due)

    def _ask(self, part: CheckedPart) -> asyncio.Task[None]:
        if part.asking is None or part.asking.done():
            part.asking = asyncio.create_task(self._check(part), name=f"health {part.name}")
        return part.asking

    async def _check(self, part: CheckedPart) -> None:
        state: State = "ok"
        message = ""
        try:
            async with asyncio.timeout(self.check_seconds):
                await part.check()
        except TimeoutError:
            state, message = "failed", f"No response within {self.check_seconds:g} s."
        except Exception as error:
            # a check may fail in any way that its part can
            state, message = "failed", describe(error)
        part.checked_at = time.monotonic()
        self._note(part, state, message)

    def _note(self, part: CheckedPart, state: State, message: str) -> None:
        part.message = message
        if state == part.state:
            return
        if state == "failed":
            self.log.warning("%s: failed: %s", part.name, message)
        elif part.state == "failed":
            seconds = (utcnow() - part.since).total_seconds()
            self.log.info("%s: recovered after %.0f s", part.name, seconds)
        part.state, part.since = state, utcnow()

    @property
    def is_ready(self) -> bool:
        """Whether this process should receive requests."""
        return not self.is_stopping and all(part.state == "ok" for part in self.parts if part.is_needed)

    @property
    def status(self) -> Literal["ok", "degraded", "unavailable", "stopping"]:
        """One word: ``ok``, ``degraded`` (some things work), ``unavailable`` (none) or ``stopping``."""
        if self.is_stopping:
            return "stopping"
        if not self.is_ready:
            return "unavailable"
        return "ok" if all(part.state == "ok" for part in self.parts) else "degraded"

    def to_dict(self) -> PartsJson:
        """Return the JSON of all parts."""
        return {
            "status": self.status,
            "failed": [part.name for part in self.parts if part.state == "failed"],
            "parts": {part.name: part.to_dict() for part in self.parts},
        }


def describe(error: Exception) -> str:
    """Return the reason why a check failed, without secrets, because anybody may read it.

    For this service's own errors this is the message. For others, whose messages may contain anything, it is
    only the type: the log has more.
    """
    if isinstance(error, KBatchError):
        return scrub_text(error.message)[:MAX_WORDS]
    if isinstance(error, (StorageError, LauncherUnavailable)):
        return scrub_text(str(error))[:MAX_WORDS]
    return f"It failed: {type(error).__name__}."
