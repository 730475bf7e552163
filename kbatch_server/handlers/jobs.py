"""``api/v1/jobs``: submit, list, read, cancel, delete, run again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from pydantic import WithJsonSchema
from tornado.web import RequestHandler
from typing_extensions import TypedDict

from ..errors import InvalidRequest
from ..jobs.timeline import TimelineJson, make_timeline
from ..models.job import Job, JobBriefJson, JobEvent, JobJson, Status
from ..models.listing import SMALL_PAGE_BYTES, JobPage, JobQuery
from ..models.progress import ProgressRequest
from ..models.request import CancelRequest, JobRequest
from ..models.summary import JobSummary
from ..validation import checked
from ..web.access import needs_scope
from ..web.answers import answers
from ..web.query import Parameter, limit, moment, read_statuses, read_tags, text
from .base import BaseHandler

MAX_PAGE = 500
MAX_SUMS = 100

LARGE_BYTES = 128 * 1024
"""The size from which on the JSON of a page is made in a thread."""

MAX_CANCEL_BYTES = 16 * 1024
"""Maximum size of a body with the reason for a cancel: a thousand characters of up to twelve bytes each."""

MAX_PROGRESS_BYTES = 16 * 1024
"""Maximum size of a report of progress."""

STATUS = Parameter(
    "status",
    read_statuses,
    {
        "type": "array",
        "items": {"enum": [*Status]},
        "description": "Only jobs with these statuses: repeat the parameter, or separate them by commas.",
    },
)
NAME = text("name", "Only jobs with exactly this name.")
SEARCH = text("search", "Only jobs whose name contains this text, in upper or lower case.", maximum=63)
TAG = Parameter(
    "tag",
    read_tags,
    {
        "type": "array",
        "items": {"type": "string"},
        "description": "Only jobs with this tag: NAME or NAME:VALUE; may be repeated.",
    },
)
SINCE = moment("since", "Only jobs submitted at or after this time.")
PARENT = text("parent", "Only the jobs that the job with this id has submitted.", maximum=63)
CURSOR = text("cursor", "The next_cursor of the previous page.")
LIMIT = limit(maximum=MAX_PAGE, default=50)
SUMMARY_LIMIT = limit("The maximum number of users, and of reasons.", maximum=MAX_SUMS, default=10)
OWNER = text("user", "For admins: the user whose jobs to read, or * for all users.")


def _read_idempotency_key(handler: RequestHandler) -> str | None:
    key: str | None = handler.request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
        raise InvalidRequest.of_field("Idempotency-Key", "must be 1 to 255 printable ASCII characters")
    return key


IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key", _read_idempotency_key, {"type": "string", "maxLength": 255}, place="header"
)


class JobPageJson(TypedDict):
    """A page of jobs."""

    items: list[JobJson]
    next_cursor: str | None


class JobCountsJson(TypedDict):
    """The number of jobs by status."""

    counts: Annotated[
        dict[Status, int],
        WithJsonSchema(
            {
                "type": "object",
                "properties": {each: {"type": "integer"} for each in Status},
                "required": [*Status],
            }
        ),
    ]


class JobEventListJson(TypedDict):
    """The events of a job, oldest first."""

    items: list[JobEvent]


class JobModelHandler(BaseHandler):
    """A handler that answers with jobs."""

    async def make_model(self, job: Job, env: Mapping[str, str] | None = None) -> dict[str, object]:
        """Return the JSON of one job with its environment, which it reads unless it is given.

        A token without the scope for reading gets only the job's identity and status. Only the job's own user
        gets the values of the environment.
        """
        if "read" not in self.user.actions:
            shown = job.to_dict(env={})
            return {name: shown[name] for name in JobBriefJson.model_fields}
        own: Mapping[str, str | None] = await self.services.jobs.read_env(job) if env is None else env
        return job.to_dict(env=own if job.user == self.user.name else dict.fromkeys(own))

    def read_owner(self) -> str | None:
        """Return whose jobs the request is about: by default the user's own; None means all users'."""
        name = OWNER.read(self)
        return None if name == "*" else self.user.name if name is None else name

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

    @needs_scope(
        "submit",
        whose="self",
        parameters=(IDEMPOTENCY_KEY,),
        body=JobRequest,
        spends="submit",
        admits_jobs=True,
    )
    @answers(
        JobJson | JobBriefJson,
        status=201,
        also={200: "The job of an earlier, equal request."},
        errors=(404, 409),
    )
    async def post(self) -> None:
        """Submit a job: 201, or 200 if an earlier, equal request had the same Idempotency-Key."""
        request = JobRequest.from_json(self.get_json())
        job, is_new = await self.services.jobs.submit(
            self.user, request, idempotency_key=IDEMPOTENCY_KEY.read(self)
        )
        # what a server is like has more in it
        env = None if request.like else await self.services.jobs.read_new_env(job, request)
        await self.send_job(job, status=201 if is_new else 200, env=env)

    @needs_scope(
        "read",
        whose="self",
        parameters=(STATUS, NAME, SEARCH, TAG, SINCE, PARENT, CURSOR, LIMIT, OWNER),
        admits_jobs=True,
    )
    @answers(JobPageJson)
    async def get(self) -> None:
        """List jobs, newest first, page by page."""
        query = JobQuery(
            user=self.read_owner(),
            statuses=STATUS.read(self),
            name=NAME.read(self),
            search=SEARCH.read(self),
            tags=TAG.read(self),
            since=SINCE.read(self),
            parent=PARENT.read(self),
            cursor=CURSOR.read(self),
            limit=LIMIT.read(self),
        )
        if query.is_costly:
            self.hold_costly_read()
        else:
            query = replace(query, max_bytes=SMALL_PAGE_BYTES)
        page = await self.services.jobs.list(self.user, query)
        self.set_header("Content-Type", "application/json")
        is_large = page.size > LARGE_BYTES
        self.write(await asyncio.to_thread(make_listing, page) if is_large else make_listing(page))


class CountsHandler(JobModelHandler):
    """The number of a user's jobs."""

    @needs_scope("read", whose="self", parameters=(OWNER,))
    @answers(JobCountsJson)
    async def get(self) -> None:
        """Return the number of jobs by status."""
        counts = await self.services.jobs.count(self.user, self.read_owner())
        self.send_json({"counts": counts})


class SummaryHandler(JobModelHandler):
    """Sums over many jobs."""

    @needs_scope("read", whose="self", parameters=(SINCE, SUMMARY_LIMIT, OWNER), is_costly=True)
    @answers(JobSummary)
    async def get(self) -> None:
        """Return the users with the most jobs, and the most frequent reasons of failures."""
        summary = await self.services.jobs.summarize(
            self.user,
            self.read_owner(),
            since=SINCE.read(self),
            limit=SUMMARY_LIMIT.read(self),
        )
        self.send_json(summary.model_dump())


class JobHandler(JobModelHandler):
    """One job."""

    @needs_scope("read", whose="job", admits_jobs=True)
    @answers(JobJson)
    async def get(self, job_id: str) -> None:
        """Show a job."""
        await self.send_job(await self.services.jobs.get(self.user, job_id))

    @needs_scope("cancel", whose="job")
    @answers(status=204)
    async def delete(self, job_id: str) -> None:
        """Cancel a job if it has not ended, and delete it."""
        await self.services.jobs.delete(self.user, job_id)
        self.set_status(204)


class CancelHandler(JobModelHandler):
    """Cancels a job."""

    body_limit = MAX_CANCEL_BYTES

    @needs_scope("cancel", whose="job", body=CancelRequest | None)
    @answers(JobJson | JobBriefJson, errors=(409,))
    async def post(self, job_id: str) -> None:
        """Cancel a job; the body may contain the reason."""
        asked = checked(CancelRequest, self.get_json()) if self._body else CancelRequest()
        await self.send_job(await self.services.jobs.cancel(self.user, job_id, note=asked.note))


class RerunHandler(JobModelHandler):
    """A job again."""

    @needs_scope("submit", whose="own-job", spends="submit")
    @answers(JobJson | JobBriefJson, status=201)
    async def post(self, job_id: str) -> None:
        """Submit a job like this one."""
        await self.send_job(await self.services.jobs.rerun(self.user, job_id), status=201)


class ProgressHandler(BaseHandler):
    """The progress of a job."""

    body_limit = MAX_PROGRESS_BYTES

    @needs_scope("submit", whose="own-job", body=ProgressRequest, admits_jobs=True)
    @answers(status=204, errors=(409,))
    async def put(self, job_id: str) -> None:
        """Report how far a job is; usually the job itself does, with its own token.

        Of many reports in a second, the service keeps the last one.
        """
        report = ProgressRequest.from_json(self.get_json())
        await self.services.jobs.report_progress(self.user, job_id, report)
        self.set_status(204)


class TimelineHandler(BaseHandler):
    """The steps of a job."""

    @needs_scope("read", whose="job")
    @answers(TimelineJson)
    async def get(self, job_id: str) -> None:
        """List the steps of a job, and its attempts."""
        self.send_json(make_timeline(await self.services.jobs.get(self.user, job_id)))


class EventsHandler(BaseHandler):
    """The events of a job."""

    @needs_scope("read", whose="job", is_costly=True)
    @answers(JobEventListJson)
    async def get(self, job_id: str) -> None:
        """List the events of a job, oldest first."""
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
    (r"api/v1/jobs/([^/]+)/progress/?", ProgressHandler),
]
