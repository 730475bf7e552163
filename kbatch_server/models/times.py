"""The current time, and times in JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import WithJsonSchema

Moment = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
"""A time in JSON."""


def utcnow() -> datetime:
    """Return the current time in UTC, as an aware datetime with microseconds."""
    return datetime.now(UTC)


def show_time(moment: datetime) -> Moment:
    """Return an aware datetime as ISO 8601 with a Z."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def to_iso(moment: datetime | None) -> Moment | None:
    """Return an aware datetime as ISO 8601 with a Z, or None."""
    return None if moment is None else show_time(moment)
