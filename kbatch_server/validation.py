"""Turns parsed JSON into checked values, and reports every wrong field by its path."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic_core import from_json

from .errors import InvalidRequest

MAX_FIELDS = 100
"""The maximum number of fields of an object: more than any of ours has, and few enough to report each wrong
one."""

MAX_DETAILS = 50
"""The maximum number of wrong fields to report at once."""

MAX_VALUES = 40_000
"""The maximum number of strings, commas and brackets in a body: more than the largest valid request has."""

MAX_DEPTH = 32
"""The maximum depth of a body: a Job's manifest needs ten."""

_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# possessive: never backtracks, and needs no memory for that
_STRING_REST = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)

Model = TypeVar("Model", bound=BaseModel)


def checked(model: type[Model], data: Any, *, at: str = "") -> Model:
    """Return a ``model`` from parsed JSON, or raise InvalidRequest with each wrong field.

    ``at`` is the path of ``data`` in the whole body, a prefix for the names of the fields.
    """
    if not isinstance(data, dict):
        raise InvalidRequest.of_field(at or "body", "must be a JSON object")
    if len(data) > MAX_FIELDS:
        raise InvalidRequest.of_field(at or "body", f"has {len(data)} fields, which is too many")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        details = [
            {"field": join_path((at, *each["loc"]) if at else each["loc"]), "message": _sentence(each)}
            for each in error.errors(include_url=False, include_context=False, include_input=False)[
                :MAX_DETAILS
            ]
        ]
        first = details[0]
        raise InvalidRequest(f"{first['field']}: {first['message']}", details=details) from None


def at_most(limit: int, noun: str) -> BeforeValidator:
    """Return a validator for the size of a list or an object, for an Annotated type.

    It rejects more than ``limit`` elements before checking any of them: an error for each would take a
    kilobyte.
    """

    def check(value: Any) -> Any:
        if isinstance(value, list | dict) and len(value) > limit:
            raise ValueError(f"has {len(value)} {noun}; the limit is {limit}")
        return value

    return BeforeValidator(check)


def parse_json(body: bytes | bytearray) -> Any:
    """Return parsed JSON, or raise InvalidRequest of ``body``: also for NaN, which is not JSON.

    It rejects a body with more than MAX_VALUES, or deeper than MAX_DEPTH, before creating any objects, which
    take up to 60 times its memory. It does not decode the body as a whole either, which takes up to four
    times its memory.
    """
    _check_structure(body)
    try:
        return from_json(body, allow_inf_nan=False)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest.of_field("body", f"is not JSON: {error}") from None


def _check_structure(body: bytes | bytearray) -> None:
    """Count values and depth from the characters outside of strings, at the speed of memory."""
    if len(body) <= MAX_VALUES and body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return  # most bodies: it cannot have more
    at = values = depth = 0
    while at < len(body):
        quote = body.find(b'"', at)
        end = len(body) if quote < 0 else quote
        values += (quote >= 0) + sum(body.count(each, at, end) for each in b",[]{}")
        if values > MAX_VALUES:
            raise InvalidRequest.of_field("body", f"has more than {MAX_VALUES} names, values and brackets")
        for bracket in body[at:end].translate(None, _NO_BRACKETS):
            depth += 1 if bracket in b"[{" else -1
            if depth > MAX_DEPTH:
                raise InvalidRequest.of_field("body", "is nested too deeply")
        if quote < 0:
            return
        rest = _STRING_REST.match(body, quote + 1)
        if rest is None:
            return  # the string does not end: the parser reports this
        at = rest.end()


def join_path(parts: Iterable[str | int]) -> str:
    """Return ``containers[0].env`` for ``("containers", 0, "env")``."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != "[key]":
            path += f".{part[:100]}" if path else part[:100]
    return path


def _sentence(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "is not a known field"
    return str(error["msg"]).removeprefix("Value error, ")
