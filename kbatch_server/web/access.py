"""The requirements of a handler's method, declared above the method and checked before the body is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from .query import Parameter

Method = TypeVar("Method", bound=Callable[..., Any])


Whose = Literal["anybody", "self", "job", "own-job", "upload", "everybody", "link"]
"""Whose data a method is about, and so what a caller can get from it:

- ``anybody``: the same for all callers;
- ``self``: the caller's own data;
- ``job``: the job that the path names, if the caller owns it or is an admin; else 404;
- ``own-job``, ``upload``: the same, but admins too can only reach their own;
- ``everybody``: the data of all users;
- ``link``: the object of the signed link in the path; 403 for an invalid link.
"""


@dataclass(frozen=True, slots=True)
class Needs:
    """The requirements of a handler's method, as one of the decorators below declares them.

    A method without a declaration cannot be called at all (405), so that no method is open by mistake.
    """

    action: str | None = None
    """``submit``, ``read``, ``cancel`` or ``admin``: a scope (see HubAuthenticator.scopes)."""
    user: bool = True
    """Whether the method requires a user."""
    parameters: tuple[Parameter[Any], ...] = ()
    """The parameters of the query and of headers that the method supports."""
    body: Any = False
    """Whether the method takes a body. Other methods reject requests with a body. For OpenAPI it may be the
    model of the body's JSON (``Model | None``: it may be left out), or the types of a file, as a tuple."""
    is_costly: bool = False
    """Whether the method costs much more than others, so that a user may have few such requests at a time."""
    spends: str | None = None
    """``submit`` or ``upload``: an action whose rate Throttle limits for each user."""
    admits_jobs: bool = False
    """Whether a job may call the method with its own token; other methods reject it."""
    whose: Whose | None = None
    """Whose data the method is about. tests/service/test_authorization.py calls each method as each kind of
    user, and fails for one without this declaration."""

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
    admits_jobs: bool = False,
) -> Callable[[Method], Method]:
    """Declare that a method requires the scope of an action, and its other requirements."""
    return _declare(
        Needs(
            action=action,
            parameters=parameters,
            body=body,
            is_costly=is_costly,
            spends=spends,
            admits_jobs=admits_jobs,
            whose=whose,
        )
    )


def needs_user(
    *, whose: Whose | None = None, parameters: tuple[Parameter[Any], ...] = (), body: Any = False
) -> Callable[[Method], Method]:
    """Declare that a method requires a user with access to the service, but no scope of an action."""
    return _declare(Needs(parameters=parameters, body=body, whose=whose))


def needs_nothing(
    *, whose: Whose | None = None, parameters: tuple[Parameter[Any], ...] = (), body: Any = False
) -> Callable[[Method], Method]:
    """Declare that a method requires no token. A token that a client sends must be valid all the same."""
    return _declare(Needs(user=False, parameters=parameters, body=body, whose=whose))


def _declare(needs: Needs) -> Callable[[Method], Method]:
    def mark(method: Method) -> Method:
        method.needs = needs  # type: ignore[attr-defined]
        return method

    return mark
