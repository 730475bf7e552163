"""The time now, and times as JSON has them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import WithJsonSchema

Moment = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
"""A time as JSON has it."""


def utcnow() -> datetime:
    """Return the time now, aware, in UTC, to the microsecond."""
    return datetime.now(UTC)


def show_time(moment: datetime) -> Moment:
    """Return an aware datetime as ISO 8601 with a Z."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def to_iso(moment: datetime | None) -> Moment | None:
    """Return an aware datetime as ISO 8601 with a Z, or None."""
    return None if moment is None else show_time(moment)
