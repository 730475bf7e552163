"""The rules for jobs that a job submits with its own token."""

from __future__ import annotations

from ..errors import Forbidden, InvalidRequest
from ..models.job import Job
from ..models.request import JobRequest
from .secrets import list_names

MAX_KEY_LENGTH = 190
"""Maximum length of the Idempotency-Key of a child: the record has the parent's id before it."""


def check_child(parent: Job, request: JobRequest) -> None:
    """Raise Forbidden or InvalidRequest unless a job may submit this one.

    A child never has a right that its parent lacks: its groups are the parent's, and so are its hub
    scopes, its secrets and its home.
    How many children there may be is checked with the record.
    """
    depth = parent.spec.max_child_depth
    if not parent.spec.max_children or not depth:
        raise Forbidden("Jobs cannot submit jobs here (max_children is 0).", reason="ChildrenNotAllowed")
    if parent.depth >= depth:
        message = (
            "This job was submitted by a job, and cannot submit others: the maximum depth is "
            f"{depth} (max_child_depth)."
        )
        raise Forbidden(message, reason="ChildrenNotAllowed")
    for scope in request.hub_scopes:
        if scope not in parent.spec.hub_scopes:
            raise InvalidRequest.of_field(
                "hub_scopes", f"{scope!r} is not among the scopes of the job that submits this one"
            )
    if request.home and request.home != parent.spec.home:
        raise InvalidRequest.of_field("home", "the job that submits this one does not have this home")
    if request.like is not None and request.like != parent.spec.like:
        raise InvalidRequest.of_field("like", "the job that submits this one is not like this server")
    if missing := set(list_names(request)) - set(list_names(parent.spec)):
        raise InvalidRequest.of_field(
            _find_field(request, missing),
            f"the job that submits this one does not have the secret {sorted(missing)[0]!r}",
        )


def _find_field(request: JobRequest, names: set[str]) -> str:
    """Return the first field of a request that names one of these secrets."""
    if names & set(request.secret_env.values()):
        return "secret_env"
    return "secret_files" if names & set(request.secret_files.values()) else "registry_secrets"


def scope_key(parent: Job | None, key: str | None) -> str | None:
    """Return the Idempotency-Key in the record: a job's keys are apart from its user's and other jobs'.

    Raises InvalidRequest if it is too long.
    """
    if parent is None or key is None:
        return key
    if len(key) > MAX_KEY_LENGTH:
        raise InvalidRequest.of_field("Idempotency-Key", f"must be at most {MAX_KEY_LENGTH} characters here")
    return f"{parent.id} {key}"
