"""``api/v1/jobs``: submit, list, read, cancel, delete, run again."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import InvalidRequest
from ..jobs.request import CancelRequest, JobRequest
from ..jobs.timeline import make_timeline
from ..models.job import Job
from ..models.listing import JobQuery
from ..validation import checked
from ..web.access import needs_scope
from ..web.query import read_int, read_statuses, read_tags, read_text, read_time
from .base import BaseHandler
from .schemas import BRIEF

MAX_PAGE = 500
MAX_SUMS = 100

MAX_CANCEL_BYTES = 16 * 1024
"""Maximum size of a body with the reason for a cancel: a thousand characters of up to twelve bytes each."""


class JobModelHandler(BaseHandler):
    """A handler that answers with jobs."""

    async def make_model(self, job: Job, env: Mapping[str, str] | None = None) -> dict[str, object]:
        """Return the JSON of one job with its environment, which it reads unless it is given.

        A token without the scope for reading gets only the job's identity and status. Only the job's own user
        gets the values of the environment.
        """
        if "read" not in self.user.actions:
            shown = job.to_dict(env={})
            return {name: shown[name] for name in BRIEF}
        own: Mapping[str, str | None] = await self.services.jobs.read_env(job) if env is None else env
        return job.to_dict(env=own if job.user == self.user.name else dict.fromkeys(own))

    def read_owner(self) -> str | None:
        """Return whose jobs the request is about: by default the user's own; None means all users'."""
        name = self.get_query_argument("user", self.user.name)
        return None if name == "*" else name

    async def send_job(self, job: Job, *, status: int = 200, env: Mapping[str, str] | None = None) -> None:
        """Answer with a job; for a new one, the header Location has its URL."""
        if status == 201:
            prefix = self.services.auth.base_url
            self.set_header("Location", f"{prefix}api/v1/jobs/{job.id}")
        self.send_json(await self.make_model(job, env), status=status)


class JobsHandler(JobModelHandler):
    """All jobs of a user."""

    @property
    def body_limit(self) -> int:
        """The maximum size of the body, which is a job, in bytes."""
        return self.services.max_job_bytes

    @needs_scope("submit", whose="self", body=True, spends="submit")
    async def post(self) -> None:
        """Submit a job: 201, or 200 if an earlier, equal request had the same Idempotency-Key."""
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
        """List jobs, newest first, page by page."""
        if {"search", "tag"} & set(self.request.query_arguments):
            self.hold_costly_read()
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
        page = await self.services.jobs.list(self.user, query)
        self.send_json({"items": [job.to_dict() for job in page.jobs], "next_cursor": page.next_cursor})

    def _get_idempotency_key(self) -> str | None:
        key: str | None = self.request.headers.get("Idempotency-Key")
        if key is not None and not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
            raise InvalidRequest.of_field("Idempotency-Key", "must be 1 to 255 printable ASCII characters")
        return key


class CountsHandler(JobModelHandler):
    """The number of a user's jobs."""

    @needs_scope("read", whose="self", query=("user",))
    async def get(self) -> None:
        """Return the number of jobs by status."""
        counts = await self.services.jobs.count(self.user, self.read_owner())
        self.send_json({"counts": counts})


class SummaryHandler(JobModelHandler):
    """Sums over many jobs."""

    @needs_scope("read", whose="self", query=("since", "limit", "user"), is_costly=True)
    async def get(self) -> None:
        """Return the users with the most jobs, and the most frequent reasons of failures."""
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
        """Cancel the job if it has not ended, and delete it."""
        await self.services.jobs.delete(self.user, job_id)
        self.set_status(204)


class CancelHandler(JobModelHandler):
    """Cancels a job."""

    body_limit = MAX_CANCEL_BYTES

    @needs_scope("cancel", whose="job", body=True)
    async def post(self, job_id: str) -> None:
        """Cancel the job; the body may contain the reason."""
        asked = checked(CancelRequest, self.get_json()) if self._body else CancelRequest()
        await self.send_job(await self.services.jobs.cancel(self.user, job_id, note=asked.note))


class RerunHandler(JobModelHandler):
    """A job again."""

    @needs_scope("submit", whose="own-job", spends="submit")
    async def post(self, job_id: str) -> None:
        """Submit a new job like this one."""
        await self.send_job(await self.services.jobs.rerun(self.user, job_id), status=201)


class TimelineHandler(BaseHandler):
    """The steps of a job."""

    @needs_scope("read", whose="job")
    async def get(self, job_id: str) -> None:
        """List its steps and its attempts."""
        self.send_json(make_timeline(await self.services.jobs.get(self.user, job_id)))


class EventsHandler(BaseHandler):
    """The events of a job."""

    @needs_scope("read", whose="job", is_costly=True)
    async def get(self, job_id: str) -> None:
        """List the events, oldest first."""
        events = await self.services.jobs.events(self.user, job_id)
        self.send_json({"items": [event.model_dump(mode="json") for event in events]})


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
