"""From parsed JSON to checked values: every wrong field is named by its path, with what it may be."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic_core import from_json

from .errors import InvalidRequest

MAX_FIELDS = 100
"""Fields of an object: more than any of ours has, and few enough to name each that is wrong."""

MAX_DETAILS = 50
"""Wrong fields that are named at once."""

MAX_VALUES = 40_000
"""Strings, commas and brackets of a body: more than the largest good request has."""

MAX_DEPTH = 32
"""How deep a body may be nested: a Job's manifest needs ten."""

_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# possessive: it goes forward only, and remembers nothing of where it was
_STRING_REST = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)

Model = TypeVar("Model", bound=BaseModel)


def checked(model: type[Model], data: Any, *, at: str = "") -> Model:
    """Return ``model`` made of parsed JSON, or raise InvalidRequest that names each wrong field.

    ``at`` is the path of ``data`` in the whole body, which the names of the fields begin with.
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
    """Return a validator of a list or an object, for its place in an Annotated type.

    It refuses one of more than ``limit`` elements before any of them is looked at: an error for each of them
    costs a kilobyte.
    """

    def check(value: Any) -> Any:
        if isinstance(value, list | dict) and len(value) > limit:
            raise ValueError(f"has {len(value)} {noun}, the limit is {limit}")
        return value

    return BeforeValidator(check)


def parse_json(body: bytes | bytearray) -> Any:
    """Return parsed JSON, or raise InvalidRequest of ``body``: also for NaN, which is not JSON.

    A body of more than MAX_VALUES, or nested deeper than MAX_DEPTH, is refused before any of it is an
    object: that takes up to 60 times the memory. Nor is it decoded as a whole, which takes up to four times.
    """
    _check_structure(body)
    try:
        return from_json(body, allow_inf_nan=False)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest.of_field("body", f"is not JSON: {error}") from None


def _check_structure(body: bytes | bytearray) -> None:
    """Count values and depth by the characters outside of strings, at the speed of memory."""
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
            return  # it does not end: what parses it says so
        at = rest.end()


def join_path(parts: Iterable[str | int]) -> str:
    """Return ``containers[0].env`` of ``("containers", 0, "env")``."""
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
