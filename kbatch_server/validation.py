"""From parsed JSON to checked values: every wrong field is named by its path, with what it may be."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from .errors import InvalidRequest

MAX_FIELDS = 100
"""Fields of an object: more than any of ours has, and few enough to name each that is wrong."""

MAX_DETAILS = 50
"""Wrong fields that are named at once."""

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


def parse_json(body: bytes | bytearray) -> Any:
    """Return parsed JSON, or raise InvalidRequest of ``body``: also for NaN, which is not JSON."""
    try:
        return json.loads(body.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        why = "is nested too deeply" if isinstance(error, RecursionError) else f"is not JSON: {error}"
        raise InvalidRequest.of_field("body", why) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


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
        return "is not a field that can be set here"
    return str(error["msg"]).removeprefix("Value error, ")
