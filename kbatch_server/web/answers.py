"""Declares the answers of a handler's method, for OpenAPI."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of a method, without the errors that any request may get."""

    model: Any = None
    """The type of the JSON: a pydantic model, a TypedDict, or a union of them. None for no JSON."""
    status: int = 200
    media: tuple[str, ...] = ()
    """The types of content other than JSON, like ``text/plain``."""
    also: Mapping[int, str] | None = None
    """Other statuses with the same content, and the meaning of each."""
    errors: tuple[int, ...] = ()
    """Statuses of errors that only some methods have."""


def answers(
    model: Any = None,
    *,
    status: int = 200,
    media: tuple[str, ...] = (),
    also: Mapping[int, str] | None = None,
    errors: tuple[int, ...] = (),
) -> Callable[[Method], Method]:
    """Declare the answers of a method (see ``Answers``). Its docstring begins with the summary."""

    def mark(method: Method) -> Method:
        method.answers = Answers(model, status, media, also, errors)  # type: ignore[attr-defined]
        return method

    return mark
