"""A query for jobs, and a page of its result. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from .job import Job, Status

PAGE_BYTES = 4 * 2**20
"""Maximum size of a page of jobs: each job may have 130 kB of command and arguments."""


SMALL_PAGE = 100
"""Maximum number of jobs of an ordinary page; a larger one is a costly read."""

SMALL_PAGE_BYTES = 2**20
"""Maximum size of an ordinary page."""


@dataclass(frozen=True, slots=True)
class JobQuery:
    """The jobs to list, newest first. ``user`` None: of all users; ``cursor``: the end of a page."""

    user: str | None
    statuses: tuple[Status, ...] = ()
    name: str | None = None
    search: str | None = None
    """A part of the job's name, in upper or lower case."""
    tags: tuple[tuple[str, str | None], ...] = ()
    since: datetime | None = None
    """Only jobs that were accepted at this time or later."""
    parent: str | None = None
    """Only the jobs that this job has submitted."""
    unless_ended_before: datetime | None = None
    """Only jobs that have not ended, or that ended at this time or later; without ``statuses``."""
    cursor: str | None = None
    limit: int = 50
    max_bytes: int = PAGE_BYTES
    """Approximate maximum size of the page; it has at least one job, of any size."""

    @property
    def is_costly(self) -> bool:
        """Whether finding or reading the page costs much more than an ordinary one."""
        return bool(self.search or self.tags) or self.limit > SMALL_PAGE


@dataclass(frozen=True, slots=True)
class JobPage:
    """One page of jobs; ``next_cursor`` is None on the last."""

    jobs: list[Job]
    next_cursor: str | None
    size: int = 0
    """Approximate size of all jobs as JSON, in bytes."""
