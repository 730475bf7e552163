"""``api/v1/jobs``: submit, list, read, cancel, delete, run again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace

from ..errors import InvalidRequest
from ..jobs.request import CancelRequest, JobRequest
from ..jobs.timeline import make_timeline
from ..models.job import Job
from ..models.listing import SMALL_PAGE_BYTES, JobPage, JobQuery
from ..validation import checked
from ..web.access import needs_scope
from ..web.query import read_int, read_statuses, read_tags, read_text, read_time
from .base import BaseHandler
from .schemas import BRIEF

MAX_PAGE = 500
MAX_SUMS = 100

LARGE_BYTES = 128 * 1024
"""The size from which on the JSON of a page is made in a thread."""

MAX_CANCEL_BYTES = 16 * 1024
"""Bytes of a body that says why a job is cancelled: a thousand characters, each in up to twelve."""


class JobModelHandler(BaseHandler):
    """A handler that answers with jobs."""

    async def make_model(self, job: Job, env: Mapping[str, str] | None = None) -> dict[str, object]:
        """Return the JSON of one job with its environment, which is read where it is not given.

        A token that may not read is told which job it is, and its status. Values of the environment are for
        the job's own user.
        """
        if "read" not in self.user.actions:
            shown = job.to_dict(env={})
            return {name: shown[name] for name in BRIEF}
        own: Mapping[str, str | None] = await self.services.jobs.read_env(job) if env is None else env
        return job.to_dict(env=own if job.user == self.user.name else dict.fromkeys(own))

    def read_owner(self) -> str | None:
        """Return whose jobs are asked for: the user's own where nothing is said, None for everybody's."""
        name = self.get_query_argument("user", self.user.name)
        return None if name == "*" else name

    async def send_job(self, job: Job, *, status: int = 200, env: Mapping[str, str] | None = None) -> None:
        """Answer with a job; a new one has its URL in the header Location."""
        if status == 201:
            prefix = self.services.auth.base_url
            self.set_header("Location", f"{prefix}api/v1/jobs/{job.id}")
        self.send_json(await self.make_model(job, env), status=status)


class JobsHandler(JobModelHandler):
    """All jobs of a user."""

    @property
    def body_limit(self) -> int:
        """How many bytes the body may have: that of a job."""
        return self.services.max_job_bytes

    @needs_scope("submit", whose="self", body=True, spends="submit")
    async def post(self) -> None:
        """Submit a job: 201, or 200 when the Idempotency-Key is that of an earlier, equal request."""
        request = JobRequest.from_json(self.get_json())
        job, is_new = await self.services.jobs.submit(
            self.user, request, idempotency_key=self._get_idempotency_key()
        )
        await self.send_job(job, status=201 if is_new else 200, env=request.env)

    @needs_scope(
        "read",
        whose="self",
        query=("status", "name", "search", "tag", "since", "cursor", "limit", "user"),
    )
    async def get(self) -> None:
        """List jobs, newest first, a page at a time."""
        query = JobQuery(
            user=self.read_owner(),
            statuses=read_statuses(self),
            name=self.get_query_argument("name", None),
            search=read_text(self, "search", maximum=63),
            tags=read_tags(self),
            since=read_time(self, "since"),
            cursor=self.get_query_argument("cursor", None),
            limit=read_int(self, "limit", minimum=1, maximum=MAX_PAGE) or 50,
        )
        if query.is_costly:
            self.hold_costly_read()
        else:
            query = replace(query, max_bytes=SMALL_PAGE_BYTES)
        page = await self.services.jobs.list(self.user, query)
        self.set_header("Content-Type", "application/json")
        is_large = page.size > LARGE_BYTES
        self.write(await asyncio.to_thread(make_listing, page) if is_large else make_listing(page))

    def _get_idempotency_key(self) -> str | None:
        key: str | None = self.request.headers.get("Idempotency-Key")
        if key is not None and not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
            raise InvalidRequest.of_field("Idempotency-Key", "must be 1 to 255 printable ASCII characters")
        return key


class CountsHandler(JobModelHandler):
    """How many jobs a user has."""

    @needs_scope("read", whose="self", query=("user",))
    async def get(self) -> None:
        """Count them by status."""
        counts = await self.services.jobs.count(self.user, self.read_owner())
        self.send_json({"counts": counts})


class SummaryHandler(JobModelHandler):
    """Sums over many jobs."""

    @needs_scope("read", whose="self", query=("since", "limit", "user"), is_costly=True)
    async def get(self) -> None:
        """Say who has most jobs, and why they failed."""
        summary = await self.services.jobs.summarize(
            self.user,
            self.read_owner(),
            since=read_time(self, "since"),
            limit=read_int(self, "limit", minimum=1, maximum=MAX_SUMS) or 10,
        )
        self.send_json(summary.model_dump())


class JobHandler(JobModelHandler):
    """One job."""

    @needs_scope("read", whose="job")
    async def get(self, job_id: str) -> None:
        """Show the job."""
        await self.send_job(await self.services.jobs.get(self.user, job_id))

    @needs_scope("cancel", whose="job")
    async def delete(self, job_id: str) -> None:
        """Cancel the job if it is not over, and forget it."""
        await self.services.jobs.delete(self.user, job_id)
        self.set_status(204)


class CancelHandler(JobModelHandler):
    """The end of a job."""

    body_limit = MAX_CANCEL_BYTES

    @needs_scope("cancel", whose="job", body=True)
    async def post(self, job_id: str) -> None:
        """Cancel the job; a body may say why."""
        asked = checked(CancelRequest, self.get_json()) if self._body else CancelRequest()
        await self.send_job(await self.services.jobs.cancel(self.user, job_id, note=asked.note))


class RerunHandler(JobModelHandler):
    """A job again."""

    @needs_scope("submit", whose="own-job", spends="submit")
    async def post(self, job_id: str) -> None:
        """Submit a new job like this one."""
        await self.send_job(await self.services.jobs.rerun(self.user, job_id), status=201)


class TimelineHandler(BaseHandler):
    """What a job went through."""

    @needs_scope("read", whose="job")
    async def get(self, job_id: str) -> None:
        """List its steps and its attempts."""
        self.send_json(make_timeline(await self.services.jobs.get(self.user, job_id)))


class EventsHandler(BaseHandler):
    """What happened to a job."""

    @needs_scope("read", whose="job", is_costly=True)
    async def get(self, job_id: str) -> None:
        """List the events, oldest first."""
        events = await self.services.jobs.events(self.user, job_id)
        self.send_json({"items": [event.model_dump(mode="json") for event in events]})


def make_listing(page: JobPage) -> bytes:
    """Return the JSON of a page of jobs.

    One by one: a call for all of them would let no other thread run for as long as it takes.
    """
    items = ", ".join(json.dumps(job.to_dict()) for job in page.jobs)
    return f'{{"items": [{items}], "next_cursor": {json.dumps(page.next_cursor)}}}\n'.encode()


default_handlers = [
    (r"api/v1/jobs/?", JobsHandler),
    (r"api/v1/jobs/counts/?", CountsHandler),
    (r"api/v1/jobs/summary/?", SummaryHandler),
    (r"api/v1/jobs/([^/]+)/?", JobHandler),
    (r"api/v1/jobs/([^/]+)/cancel/?", CancelHandler),
    (r"api/v1/jobs/([^/]+)/rerun/?", RerunHandler),
    (r"api/v1/jobs/([^/]+)/events/?", EventsHandler),
    (r"api/v1/jobs/([^/]+)/timeline/?", TimelineHandler),
]
