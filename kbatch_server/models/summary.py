"""Sums over many jobs: by user, and by the reason of a failure."""

from __future__ import annotations

from pydantic import BaseModel


class UserSum(BaseModel):
    """The jobs of one user."""

    user: str
    jobs: int
    active: int
    """The number of jobs that have not ended."""
    run_seconds: float
    """The sum of their running times, each from the first start to the end, or until now."""


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
    """The number of jobs, the users with the most jobs, and the most frequent reasons of failures."""

    jobs: int
    users: list[UserSum]
    reasons: list[ReasonSum]
