"""What a handler's method needs of a request: declared above the method, checked before the body is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from .query import Parameter

Method = TypeVar("Method", bound=Callable[..., Any])


Whose = Literal["anybody", "self", "job", "own-job", "upload", "everybody", "link"]
"""Whose things a method is about, and so what somebody gets who may call it:

- ``anybody``: the same for all;
- ``self``: what is theirs;
- ``job``: the job that the path names, if it is theirs, or they are an admin; else 404;
- ``own-job``, ``upload``: the same, but also of an admin only what is theirs;
- ``everybody``: all of everybody's;
- ``link``: what the signed link in the path is for; 403 for a link that is not good.
"""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a handler's method asks of the request, declared by one of the decorators below.

    A method that declares nothing cannot be called at all (405), so nothing is left open by mistake.
    """

    action: str | None = None
    """``submit``, ``read``, ``cancel`` or ``admin``: a scope (see HubAuthenticator.scopes)."""
    user: bool = True
    """Whether a user is needed."""
    parameters: tuple[Parameter[Any], ...] = ()
    """The parameters that it knows, of the query and of headers."""
    body: Any = False
    """Whether it takes a body: one that is sent to another method is refused. For OpenAPI it may say what
    body: the model of its JSON (``Model | None``: it may be left out), or the types of a file, as a tuple."""
    is_costly: bool = False
    """Whether it costs much more than other requests, so that a user may have few of them at a time."""
    spends: str | None = None
    """``submit`` or ``upload``: what a user may do only so often (see Throttle)."""
    whose: Whose | None = None
    """Whose things it is about: tests/service/test_authorization.py calls each method as everybody, and
    fails for one that does not say it."""

    @property
    def query(self) -> tuple[str, ...]:
        """The names of the query parameters that it knows."""
        return tuple(each.name for each in self.parameters if each.place == "query")


def needs_scope(
    action: str,
    *,
    whose: Whose | None = None,
    parameters: tuple[Parameter[Any], ...] = (),
    body: Any = False,
    is_costly: bool = False,
    spends: str | None = None,
) -> Callable[[Method], Method]:
    """Declare that a method needs the scope of an action, and what else it takes of request and user."""
    return _declare(
        Needs(
            action=action, parameters=parameters, body=body, is_costly=is_costly, spends=spends, whose=whose
        )
    )


def needs_user(
    *, whose: Whose | None = None, parameters: tuple[Parameter[Any], ...] = (), body: Any = False
) -> Callable[[Method], Method]:
    """Declare that a method needs a user with access to the service, whatever else the token may."""
    return _declare(Needs(parameters=parameters, body=body, whose=whose))


def needs_nothing(
    *, whose: Whose | None = None, parameters: tuple[Parameter[Any], ...] = (), body: Any = False
) -> Callable[[Method], Method]:
    """Declare that anybody may call a method; whoever shows a token must show a good one."""
    return _declare(Needs(user=False, parameters=parameters, body=body, whose=whose))


def _declare(needs: Needs) -> Callable[[Method], Method]:
    def mark(method: Method) -> Method:
        method.needs = needs  # type: ignore[attr-defined]
        return method

    return mark
