"""Which jobs are asked for, and a page of them. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from .job import Job, Status

PAGE_BYTES = 4 * 2**20
"""What a page of jobs may have: each of them may have 130 kB of command and arguments."""


SMALL_PAGE = 100
"""Jobs of a page that is read as any other request is; a larger one is a costly read."""

SMALL_PAGE_BYTES = 2**20
"""What such a page may have."""


@dataclass(frozen=True, slots=True)
class JobQuery:
    """Which jobs to list, newest first: ``user`` None means everybody's, ``cursor`` is a page's end."""

    user: str | None
    statuses: tuple[Status, ...] = ()
    name: str | None = None
    search: str | None = None
    """Some letters of the job's name, in whatever case."""
    tags: tuple[tuple[str, str | None], ...] = ()
    since: datetime | None = None
    """Jobs that were accepted then or later."""
    unless_ended_before: datetime | None = None
    """All that are not over, and of the others those that ended then or later; without ``statuses``."""
    cursor: str | None = None
    limit: int = 50
    max_bytes: int = PAGE_BYTES
    """Of all jobs of the page together, about; it has one at least, however large that is."""

    @property
    def is_costly(self) -> bool:
        """Whether the page costs much more to find or to read than others."""
        return bool(self.search or self.tags) or self.limit > SMALL_PAGE


@dataclass(frozen=True, slots=True)
class JobPage:
    """One page of jobs; ``next_cursor`` is None on the last."""

    jobs: list[Job]
    next_cursor: str | None
    size: int = 0
    """About how many bytes all of them have as JSON."""
