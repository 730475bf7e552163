"""Who asks, and whom the service forgets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class User:
    """Who asks: a hub user (or service), with the scopes of the token that was shown."""

    name: str
    groups: tuple[str, ...] = ()
    scopes: frozenset[str] = frozenset()
    kind: str = "user"
    actions: tuple[str, ...] = ()
    """What the token is good for, of the keys of HubAuthenticator.scopes."""
    admin: bool = False
    """Whether the scope for all users' jobs is held."""


@dataclass(frozen=True, slots=True)
class ForgottenUser:
    """How much of a user the service has begun to forget."""

    user: str
    jobs: int
    uploads: int
