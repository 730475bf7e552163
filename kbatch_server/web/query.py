"""Reads and checks query parameters, and a Range header (RFC 9110, section 14) with a single range.

Tornado has a parser of ranges for its own files only, and does not offer it to others.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, Literal, TypeVar

from tornado.web import RequestHandler

from ..errors import InvalidRequest, RangeNotSatisfiable
from ..models.job import Status
from ..models.times import utcnow

_ONE_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def read_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return start and end of the range in a Range header, or None for the whole content.

    It ignores an invalid header, and one with several ranges, as RFC 9110 allows. Raises RangeNotSatisfiable
    if the content has no byte of the range.
    """
    match = _ONE_RANGE.fullmatch(header or "")
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    if first and last and int(last) < int(first):
        return None  # not a range
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if start >= end:
        raise RangeNotSatisfiable(size)
    return start, end


MAX_TAGS = 10
"""Maximum number of tags in one search: each adds a condition to the database query."""

Value = TypeVar("Value")

Schema = dict[str, Any]


@dataclass(frozen=True)
class Parameter(Generic[Value]):
    """A parameter of a request, with the function that reads it and the schema that describes it."""

    name: str
    read: Callable[[RequestHandler], Value]
    """Returns the value, or the default if the parameter is absent. Raises InvalidRequest."""
    schema: Schema
    place: Literal["query", "header"] = "query"


def flag(name: str, description: str) -> Parameter[bool]:
    """Return a parameter that is true or false; the default is false."""
    schema = {"type": "boolean", "default": False, "description": description}
    return Parameter(name, lambda handler: read_flag(handler, name), schema)


def whole_number(name: str, description: str, *, minimum: int, maximum: int) -> Parameter[int | None]:
    """Return a parameter that is a whole number between two limits, or absent."""
    schema = _number_schema(description, minimum, maximum)
    return Parameter(name, lambda handler: read_int(handler, name, minimum=minimum, maximum=maximum), schema)


def limit(description: str = "", *, maximum: int, default: int) -> Parameter[int]:
    """Return the parameter ``limit``: the maximum number of items in an answer."""

    def read(handler: RequestHandler) -> int:
        return read_int(handler, "limit", minimum=1, maximum=maximum) or default

    return Parameter("limit", read, _number_schema(description, 1, maximum) | {"default": default})


def _number_schema(description: str, minimum: int, maximum: int) -> Schema:
    schema: Schema = {"type": "integer", "minimum": minimum, "maximum": maximum}
    return schema | ({"description": description} if description else {})


def text(name: str, description: str, *, maximum: int | None = None) -> Parameter[str | None]:
    """Return a parameter that is a text of one line, or absent; without ``maximum``, any text."""
    schema: Schema = {"type": "string", "description": description}
    if maximum is None:
        return Parameter(name, lambda handler: handler.get_query_argument(name, None), schema)
    schema |= {"minLength": 1, "maxLength": maximum}
    return Parameter(name, lambda handler: read_text(handler, name, maximum=maximum), schema)


def moment(name: str, description: str) -> Parameter[datetime | None]:
    """Return a parameter that is a time, or absent."""
    schema = {"type": "string", "format": "date-time", "description": description}
    return Parameter(name, lambda handler: read_time(handler, name), schema)


def read_flag(handler: RequestHandler, name: str) -> bool:
    """Return whether a parameter like ``follow=true`` is present and true."""
    text = handler.get_query_argument(name, "false").lower()
    if text in {"true", "1", "yes", ""}:
        return True
    if text in {"false", "0", "no"}:
        return False
    raise InvalidRequest.of_field(name, "must be true or false")


def read_int(handler: RequestHandler, name: str, *, minimum: int, maximum: int) -> int | None:
    """Return a whole number between two limits, or None if the parameter is absent."""
    text = handler.get_query_argument(name, None)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and minimum <= int(text) <= maximum):
        raise InvalidRequest.of_field(name, f"must be a number from {minimum} to {maximum}")
    return int(text)


def read_time(handler: RequestHandler, name: str) -> datetime | None:
    """Return an aware datetime, or None if the parameter is absent; a time without a zone is UTC."""
    text = handler.get_query_argument(name, None)
    if text is None:
        return None
    try:
        # a "+" in a query means a space, so "+02:00" arrives as " 02:00"
        moment = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest.of_field(name, "must be a time in ISO 8601, like 2030-01-31T12:00:00Z") from None


def read_age(handler: RequestHandler, name: str) -> datetime | None:
    """Return a moment from a time, or from an age like ``90``, ``90s``, ``10m`` or ``2h``."""
    text = handler.get_query_argument(name, "")
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text, re.ASCII)
    if match is None:
        return read_time(handler, name)
    unit_seconds = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
    try:
        return utcnow() - timedelta(seconds=int(match[1]) * unit_seconds)
    except OverflowError:
        raise InvalidRequest.of_field(name, "is too long ago") from None


def read_text(handler: RequestHandler, name: str, *, maximum: int) -> str | None:
    """Return a text on one line, or None if the parameter is absent."""
    text = handler.get_query_argument(name, None, strip=False)
    if text is not None and not (0 < len(text) <= maximum and "\n" not in text):
        raise InvalidRequest.of_field(name, f"must be 1 to {maximum} characters on one line")
    return text


def read_statuses(handler: RequestHandler, name: str = "status") -> tuple[Status, ...]:
    """Return the statuses in a parameter that may repeat and may contain several, separated by commas."""
    words = [word for text in handler.get_query_arguments(name) for word in text.split(",")]
    try:
        return tuple(dict.fromkeys(Status(word) for word in words))
    except ValueError:
        raise InvalidRequest.of_field(name, f"must be one of {', '.join(Status)}") from None


def read_tags(handler: RequestHandler, name: str = "tag") -> tuple[tuple[str, str | None], ...]:
    """Return the tags in a parameter that may repeat: ``tag=key`` (any value) or ``tag=key:value``."""
    tags = []
    texts = handler.get_query_arguments(name)
    if len(texts) > MAX_TAGS:
        raise InvalidRequest.of_field(name, f"may be given at most {MAX_TAGS} times")
    for text in texts:
        key, colon, value = text.partition(":")
        if not key:
            raise InvalidRequest.of_field(name, "must be a tag's name, or name:value")
        tags.append((key, value if colon else None))
    return tuple(tags)
