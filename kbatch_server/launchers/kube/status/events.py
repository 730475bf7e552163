"""A Kubernetes event about a job. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ....models.job import JobEvent
from ..manifests.manifest import Manifest
from .pods import parse_time


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes event and its object: the part that is kept."""

    kind: str
    name: str
    type: str
    reason: str
    message: str
    first: datetime
    last: datetime
    count: int = 1

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> Event:
        """Return an event, from the old form (first, last, count) or the new one (a series)."""
        about, series = manifest.get("involvedObject") or {}, manifest.get("series") or {}
        created = manifest["metadata"]["creationTimestamp"]
        first = manifest.get("eventTime") or manifest.get("firstTimestamp") or created
        last = series.get("lastObservedTime") or manifest.get("lastTimestamp") or first
        message = manifest.get("message") or ""
        return cls(
            kind=about.get("kind", ""),
            name=about.get("name", ""),
            type=manifest.get("type") or "Normal",
            reason=manifest.get("reason") or "",
            message=message.removeprefix("(combined from similar events): ")[:2048],
            first=parse_time(first),
            last=parse_time(last),
            count=series.get("count") or manifest.get("count") or 1,
        )

    def to_job_event(self) -> JobEvent:
        """Return the event for users."""
        return JobEvent(
            time=self.last, type=self.type, reason=self.reason, message=self.message, count=self.count
        )
