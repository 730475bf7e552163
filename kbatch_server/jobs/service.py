"""What a user can do with jobs: submit, list, read, cancel, delete, run again, and read the log."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import datetime

import traitlets
from traitlets import Instance, default
from traitlets.config import LoggingConfigurable

from ..audit import Action, AuditPage, AuditQuery, is_first, make_entry
from ..errors import Conflict, Forbidden, InvalidRequest, Unavailable
from ..failpoints import reach
from ..launchers.base import JobLauncher, LauncherUnavailable
from ..limits.config import Limits
from ..logs.follower import LogFollower
from ..logs.reader import ALL, LogPlace, LogReader, LogSelection, ShownPiece, find_attempt
from ..logs.text import LogText
from ..metrics import SUBMITTED
from ..models.job import Job, JobEvent, JobSpec, Status
from ..models.listing import JobPage, JobQuery
from ..models.request import JobRequest
from ..models.summary import JobSummary
from ..models.times import utcnow
from ..models.user import ForgottenUser, User
from ..scheduling.report import UsageJson, UsageReport
from ..slugs import make_job_id
from ..storage.diskspace import DiskSpace
from ..store import Store
from ..store.queuelimits import QueueLimits
from .profiles import Profiles
from .watch import JobWatch, Reset, SeenChange


class Jobs(LoggingConfigurable):
    """The one place that the handlers ask about jobs.

    Every method takes the user who asks and raises NotFound for a job that is not the user's own: an
    admin (who holds the scope for it) sees everybody's. The scope for the action is checked before, by
    the handler.
    """

    disk = Instance(DiskSpace, allow_none=True)
    launcher = Instance(JobLauncher)
    limits = Instance(Limits, ())
    profiles = Instance(Profiles)
    reader = Instance(LogReader)
    usage_report = Instance(UsageReport)
    store = Instance(Store)
    watch = Instance(JobWatch)

    @default("usage_report")
    def _default_standing(self) -> UsageReport:
        return UsageReport(limits=self.limits, store=self.store)

    @default("watch")
    def _default_watch(self) -> JobWatch:
        return JobWatch(parent=self.parent, usage_report=self.usage_report, store=self.store)

    on_submit: Callable[[Job], None] = traitlets.Callable()  # type: ignore[assignment]
    """Called with a job that was just accepted."""

    on_change: Callable[[str], None] = traitlets.Callable()  # type: ignore[assignment]
    """Called with a job's id when there is something else to do about it."""

    async def submit(
        self,
        user: User,
        request: JobRequest,
        *,
        idempotency_key: str | None = None,
        rerun_of: str | None = None,
    ) -> tuple[Job, bool]:
        """Record a job and return it, and whether it is new: it is durable when this returns.

        A repeat of an earlier request with the same ``idempotency_key`` returns the job of that one.
        Raises InvalidRequest where the admin does not allow what is asked for, or it is more than the user's
        limits as a whole, TooManyRequests where the user has as many queued as may be, NotFound where the
        upload is not the user's, Conflict where the key was used for another request.
        """
        if self.disk is not None:
            await self.disk.check()
        spec = await self.make_spec(user, request, code_sha256=await self._find_code(user, request))
        limits = await self.limits.find(user.name, user.groups)
        self.limits.check(spec, limits, user.groups)
        job = Job(
            id=make_job_id(request.name),
            user=user.name,
            name=request.name,
            spec=spec,
            created_at=utcnow(),
            message="Waiting to start.",
            description=request.description,
            tags=dict(request.tags),
            groups=list(user.groups),
        )
        request_hash = None
        if idempotency_key is not None:
            # of what is asked for, without defaults: those that a later version adds must not change it
            asked = request.model_dump_json(exclude_defaults=True)
            request_hash = hashlib.sha256(asked.encode()).hexdigest()
        action = Action.SUBMIT if rerun_of is None else Action.RERUN
        reach("submit.1")
        job, is_new = await self.store.jobs.add(
            job,
            env=request.env,
            idempotency_key=idempotency_key,
            request_hash=request_hash,
            limits=QueueLimits(
                self.limits.find_queue(limits),
                self.limits.find_group_queues(user.groups),
                record_bytes=self.limits.max_record_bytes or None,
            ),
            audit=make_entry(action, job.id, job.user, detail=(rerun_of and f"of {rerun_of}") or ""),
        )
        if is_new:
            reach("submit.3")
            SUBMITTED.inc()
            self.on_submit(job)
            reach("submit.4")
        return job, is_new

    async def _find_code(self, user: User, request: JobRequest) -> str | None:
        """Return the hash of the code that a job is to run, or None when it has none."""
        if request.upload is not None:
            return (await self.store.uploads.get(request.upload, user=user.name)).code_sha256
        if request.working_dir:
            raise InvalidRequest.of_field("working_dir", "is a folder in the code: set upload, too")
        return None

    async def make_spec(self, user: User, request: JobRequest, *, code_sha256: str | None = None) -> JobSpec:
        """Return what the job that is asked for will be.

        Raises InvalidRequest, naming the field, where the admin does not allow what is asked for or the
        launcher cannot run it.
        """
        spec = await self.profiles.make_spec(user, request, code_sha256=code_sha256)
        self.launcher.check_spec(spec)
        return self.launcher.round_spec(spec)

    async def get(self, user: User, job_id: str) -> Job:
        """Return a job."""
        job = await self.store.jobs.get(job_id, user=_owner(user))
        if job.user != user.name and is_first(Action.READ, job.id):
            await self.store.audit.add(make_entry(Action.READ, job.id, job.user))
        await self.usage_report.explain([job])
        return job

    async def list(self, user: User, query: JobQuery) -> JobPage:
        """Return a page of jobs; only an admin may ask for those of others."""
        await self._begin_listing(user, query.user)
        page = await self.store.jobs.list_page(query)
        await self.usage_report.explain(page.jobs)
        return page

    async def count(self, user: User, owner: str | None) -> dict[Status, int]:
        """Return how many jobs of the owner's (None: of everybody's) there are of each status."""
        await self._begin_listing(user, owner)
        return await self.store.jobs.count(owner)

    async def summarize(
        self, user: User, owner: str | None, *, since: datetime | None, limit: int
    ) -> JobSummary:
        """Return sums over the owner's jobs (None: everybody's), accepted since a time."""
        await self._begin_listing(user, owner)
        return await self.store.reports.summarize(owner, since=since, limit=limit)

    async def _begin_listing(self, user: User, owner: str | None) -> None:
        """Raise Forbidden unless a user may list the owner's jobs; an admin's listing is put on record."""
        _check_owner(user, owner)
        if owner != user.name:
            await self.store.audit.add(make_entry(Action.LIST, "", owner or "*"))

    async def follow_changes(
        self, user: User, owner: str | None, *, after: str | None = None
    ) -> AsyncGenerator[SeenChange | Reset]:
        """Return the changes of the owner's jobs as they come, without an end; see ``JobWatch.follow``."""
        await self._begin_listing(user, owner)
        return await self.watch.follow(user.name, user=owner, after=after)

    async def describe(self, user: User) -> UsageJson:
        """Return what limits a user has, what is used of them, and where the queued jobs stand, as JSON."""
        return await self.usage_report.describe(user)

    async def cancel(self, user: User, job_id: str, *, note: str | None = None) -> Job:
        """Ask a job to end and return it as it is now; raises Conflict when it had ended otherwise.

        Who asks is recorded, and why, if they say so.
        """
        reach("cancel.1")
        entry = make_entry(Action.CANCEL, job_id, user.name, detail=note or "")
        job = await self.store.jobs.request_cancel(
            job_id, user=_owner(user), by=user.name, note=note, audit=entry
        )
        reach("cancel.2")
        self.on_change(job.id)
        reach("cancel.3")
        return job

    async def delete(self, user: User, job_id: str) -> None:
        """Cancel a job that is not over, and forget it: from now on there is no such job."""
        entry = make_entry(Action.DELETE, job_id, user.name)
        await self.store.jobs.request_delete(job_id, user=_owner(user), audit=entry)
        self.on_change(job_id)

    async def rerun(self, user: User, job_id: str) -> Job:
        """Record a new job that asks for what an earlier one of the user's own was, and return it."""
        job = await self.store.jobs.get(job_id, user=user.name)
        env = await self.store.jobs.read_env(job_id)
        if env is None:
            message = (
                "The job's environment can no longer be decrypted. Submit the job again, with a new env."
            )
            raise Conflict(message, reason="EnvironmentLost")
        return (await self.submit(user, make_request(job, env), rerun_of=job_id))[0]

    async def read_env(self, job: Job) -> dict[str, str]:
        """Return the environment of a job, in the clear; empty where the key to it was removed."""
        return (await self.store.jobs.read_env(job.id) or {}) if job.has_env else {}

    async def forget_user(self, name: str, *, before: datetime | None = None) -> ForgottenUser:
        """Begin to forget a user: all jobs with their logs and results, all uploads, and what was used.

        From now on nobody sees the jobs; those that run are cancelled. ``before`` leaves out newer things,
        which belong to a later user of that name. It may be repeated. The audit record stays.
        """
        jobs = 0
        while job_ids := await self.store.retention.forget_jobs(name, before=before):
            jobs += len(job_ids)
            for job_id in job_ids:
                self.on_change(job_id)
        uploads = await self.store.retention.forget_uploads(name, before=before)
        entry = make_entry(Action.FORGET_USER, name, name, detail=f"{jobs} jobs, {uploads} uploads")
        await self.store.retention.forget_usage(name, audit=entry)
        return ForgottenUser(name, jobs, uploads)

    async def audit(self, query: AuditQuery) -> AuditPage:
        """Return a page of the audit record, newest first; that it was read goes on record first."""
        if is_first(Action.AUDIT, ""):
            await self.store.audit.add(make_entry(Action.AUDIT, "", "*"))
        return await self.store.audit.list_page(query)

    async def logs(
        self,
        user: User,
        job_id: str,
        selection: LogSelection = ALL,
        *,
        follow: bool = False,
        after: LogPlace | None = None,
    ) -> AsyncGenerator[ShownPiece]:
        """Return an iterator over the log, which the caller closes.

        Raises NotFound before the first piece when there is no log (reason ``LogNotFound``, the message says
        why). With ``follow`` it waits for the job to start and ends when the job is over; ``after`` is where
        an earlier following ended.
        """
        job = await self.get(user, job_id)
        if after is not None or (follow and not job.is_over):
            find_attempt(job, LogSelection(pod=selection.pod))  # one that there is not is said now
            return LogFollower(self.reader, self.store.jobs, job).pieces(selection, after=after)
        return await self.reader.read(job, selection)

    async def open_log(self, user: User, job_id: str, selection: LogSelection = ALL) -> tuple[LogText, int]:
        """Return the log as it is now, to read a part of it or to search it, and of which attempt it is.

        Raises as ``logs``.
        """
        return await self.reader.open(await self.get(user, job_id), selection)

    async def events(self, user: User, job_id: str) -> Sequence[JobEvent]:
        """Return what happened to a job, oldest first."""
        job = await self.get(user, job_id)
        try:
            return await self.launcher.events(job)
        except LauncherUnavailable as error:
            raise Unavailable(f"The events cannot be read now: {error}") from error


def _check_owner(user: User, owner: str | None) -> None:
    if owner != user.name and not user.admin:
        raise Forbidden("Only admins can list jobs of other users.", reason="MissingScope")


def _owner(user: User) -> str | None:
    return None if user.admin else user.name


def make_request(job: Job, env: dict[str, str]) -> JobRequest:
    """Return the request that makes a job like this one, with its environment."""
    requested = job.spec.get_requested() | {"image": job.spec.image or None}
    return JobRequest(**requested, name=job.name, env=env, description=job.description, tags=job.tags)
