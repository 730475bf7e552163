"""Many jobs in a few sums: who has most of them, and why they failed."""

from __future__ import annotations

from pydantic import BaseModel


class UserSum(BaseModel):
    """The jobs of one user."""

    user: str
    jobs: int
    active: int
    """Those of them that are not over."""
    run_seconds: float
    """For how long they ran, each from its first start to its end, or till now."""


class NewestJob(BaseModel):
    """The newest of some jobs."""

    id: str
    user: str
    name: str
    message: str


class ReasonSum(BaseModel):
    """The jobs that failed for one reason."""

    reason: str
    jobs: int
    newest: NewestJob


class JobSummary(BaseModel):
    """How many jobs there are, the users who have most of them, and the reasons that most failed for."""

    jobs: int
    users: list[UserSum]
    reasons: list[ReasonSum]
