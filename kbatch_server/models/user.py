"""The user of a request, and a user who is being forgotten."""

from __future__ import annotations

from dataclasses import dataclass

JOB = "job"
"""The kind of a user that is a job with its own token."""

JOB_TOKEN_PREFIX = "kbatch-job-"  # noqa: S105 - no token, but how each begins
"""The beginning of a job's own token, by which it differs from the hub's tokens."""


@dataclass(frozen=True, slots=True)
class User:
    """The user of a request: a hub user or service, with the scopes of the token."""

    name: str
    groups: tuple[str, ...] = ()
    scopes: frozenset[str] = frozenset()
    kind: str = "user"
    actions: tuple[str, ...] = ()
    """The actions that the token allows: keys of HubAuthenticator.scopes."""
    admin: bool = False
    """Whether the token has the scope for all users' jobs."""
    job: str | None = None
    """The id of the job whose own token it is; None for a token of the hub."""


@dataclass(frozen=True, slots=True)
class ForgottenUser:
    """The numbers of jobs and uploads of a user that the service has begun to forget."""

    user: str
    jobs: int
    uploads: int
