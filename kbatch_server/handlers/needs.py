"""What a handler's method needs of a request: declared above the method, checked before the body is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Needs:
    """What a handler's method asks of the request, declared by one of the decorators below.

    A method that declares nothing cannot be called at all (405), so nothing is left open by mistake.
    """

    action: str | None = None
    """``submit``, ``read``, ``cancel`` or ``admin``: a scope (see HubAuthenticator.scopes)."""
    user: bool = True
    """Whether a user is needed."""
    query: tuple[str, ...] = ()
    """The names of query parameters that it knows."""
    spends: str | None = None
    """``submit`` or ``upload``: what a user may do only so often (see Throttle)."""


def needs_scope(
    action: str, *, query: tuple[str, ...] = (), spends: str | None = None
) -> Callable[[Method], Method]:
    """Declare that a method needs the scope of an action, and what of the user's rates it spends."""
    return _declare(Needs(action=action, query=query, spends=spends))


def needs_user(*, query: tuple[str, ...] = ()) -> Callable[[Method], Method]:
    """Declare that a method needs a user with access to the service, whatever else the token may."""
    return _declare(Needs(query=query))


def needs_nothing(*, query: tuple[str, ...] = ()) -> Callable[[Method], Method]:
    """Declare that anybody may call a method; whoever shows a token must show a good one."""
    return _declare(Needs(user=False, query=query))


def _declare(needs: Needs) -> Callable[[Method], Method]:
    def mark(method: Method) -> Method:
        method.needs = needs  # type: ignore[attr-defined]
        return method

    return mark
