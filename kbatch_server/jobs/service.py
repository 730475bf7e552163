"""The actions of users on jobs: submit, list, read, cancel, delete, run again, and read the log."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from datetime import datetime

import traitlets
from traitlets import Instance, default
from traitlets.config import LoggingConfigurable

from ..audit import Action, AuditPage, AuditQuery, is_first, make_entry
from ..errors import Conflict, Forbidden, InvalidRequest, NotFound, Unavailable
from ..failpoints import reach
from ..hooks import HookFailed, Hooks
from ..hub.servers import HubServers
from ..launchers.base import JobLauncher, LauncherUnavailable
from ..limits.config import Limits
from ..logs.follower import LogFollower
from ..logs.reader import ALL, FOLLOWED_BYTES, LogPlace, LogReader, LogSelection, ShownPiece, find_attempt
from ..logs.text import LogText
from ..metrics import SUBMITTED
from ..models.job import Job, JobEvent, JobSpec, Status
from ..models.listing import JobPage, JobQuery
from ..models.progress import JobProgress, ProgressRequest
from ..models.request import JobRequest
from ..models.server import ServerJson, make_reference
from ..models.summary import JobSummary
from ..models.times import show_time, utcnow
from ..models.user import ForgottenUser, User
from ..profiles.profiles import Profiles
from ..scheduling.report import UsageJson, UsageReport
from ..slugs import make_job_id
from ..storage.diskspace import DiskSpace
from ..store import Store
from ..store.queuelimits import QueueLimits
from .children import check_child, scope_key
from .like import LikeServer, Taken
from .progress import ProgressReports
from .secrets import Secrets, list_names
from .watch import JobWatch, Reset, SeenChange


class Jobs(LoggingConfigurable):
    """The actions on jobs, for the handlers.

    Every method takes the user of the request, and raises NotFound for jobs of other users. Admins (with the
    scope for it) can see all jobs. The handler has already checked the scope for the action.
    """

    disk = Instance(DiskSpace, allow_none=True)
    hooks = Instance(Hooks, ())
    launcher = Instance(JobLauncher)
    limits = Instance(Limits, ())
    profiles = Instance(Profiles)
    progress = Instance(ProgressReports)
    reader = Instance(LogReader)
    secrets = Instance(Secrets)
    servers = Instance(HubServers, ())
    usage_report = Instance(UsageReport)
    store = Instance(Store)
    watch = Instance(JobWatch)

    @default("usage_report")
    def _default_standing(self) -> UsageReport:
        return UsageReport(limits=self.limits, records=self.store.queues, usage=self.store.usage)

    @default("progress")
    def _default_progress(self) -> ProgressReports:
        return ProgressReports(parent=self.parent, jobs=self.store.jobs)

    @default("secrets")
    def _default_secrets(self) -> Secrets:
        return Secrets(parent=self.parent, records=self.store.secrets)

    like_server = Instance(LikeServer)

    @default("like_server")
    def _default_like_server(self) -> LikeServer:
        return LikeServer(launcher=self.launcher, profiles=self.profiles, servers=self.servers)

    @default("watch")
    def _default_watch(self) -> JobWatch:
        return JobWatch(
            parent=self.parent,
            usage_report=self.usage_report,
            changes=self.store.changes,
            jobs=self.store.jobs,
        )

    on_submit: Callable[[Job], None] = traitlets.Callable()  # type: ignore[assignment]
    """Called with each new job."""

    on_change: Callable[[str], None] = traitlets.Callable()  # type: ignore[assignment]
    """Called with the id of a job that needs another step."""

    async def submit(
        self,
        user: User,
        request: JobRequest,
        *,
        idempotency_key: str | None = None,
        rerun_of: str | None = None,
        keep_code: Callable[[], Awaitable[str]] | None = None,
        taken: Taken | None = None,
    ) -> tuple[Job, bool]:
        """Record a job and return it, durably stored, and whether it is new.

        If an earlier request had the same ``idempotency_key``, it returns that request's job. ``keep_code``
        saves code that came with the request, and returns the id of its upload: it is called only after the
        request was checked. Raises InvalidRequest if the admin does not allow the request or it exceeds the
        user's limits as a whole, TooManyRequests if the user has too many queued jobs, NotFound if the upload
        is not the user's, Conflict if another request had the key. A job's new job is its child. A request
        that is like a server becomes a whole one first, unless ``taken`` says what it has from there.
        """
        parent = None if user.job is None else await self.store.jobs.get(user.job, user=user.name)
        if parent is not None:
            check_child(parent, request)
        if self.disk is not None:
            await self.disk.check(user.name)
        request_hash = None if idempotency_key is None else _hash_request(request)
        request, spec = await self._prepare(user, request, keep_code, taken)
        limits = await self.limits.find(user.name, user.groups)
        self.limits.check(spec, limits, user.groups)
        job = _make_job(user, request, spec, parent)
        action = Action.SUBMIT if rerun_of is None else Action.RERUN
        reach("submit.1")
        job, is_new = await self.store.jobs.add(
            job,
            env=request.env,
            idempotency_key=scope_key(parent, idempotency_key),
            request_hash=request_hash,
            limits=QueueLimits(
                self.limits.find_queue(limits),
                self.limits.find_group_queues(user.groups),
                record_bytes=self.limits.max_record_bytes or None,
                children=0 if parent is None else parent.spec.max_children,
            ),
            audit=make_entry(action, job.id, job.user, detail=_describe_origin(job, rerun_of)),
        )
        if is_new:
            reach("submit.3")
            SUBMITTED.inc()
            self.on_submit(job)
            reach("submit.4")
        return job, is_new

    async def _prepare(
        self,
        user: User,
        request: JobRequest,
        keep_code: Callable[[], Awaitable[str]] | None,
        taken: Taken | None,
    ) -> tuple[JobRequest, JobSpec]:
        """Return the request after the hook, with its upload and its server's part, and the spec."""
        request = await self._call_hook(request, user)
        if request.like is not None and taken is None:
            request, taken = await self.like_server.apply(user, request)
        if keep_code is not None:
            await self.make_spec(user, request)
            request = request.model_copy(update={"upload": await keep_code()})
        if request.working_dir and request.upload is None:
            raise InvalidRequest.of_field("working_dir", "requires upload: it names a folder in the code")
        spec = await self.make_spec(user, request)
        return request, spec if taken is None else taken.apply(spec)

    async def _call_hook(self, request: JobRequest, user: User) -> JobRequest:
        """Return the request as the admin's hook changed it, checked like a user's.

        Raises InvalidRequest, or what else the hook does to reject it.
        """
        hook = self.hooks.pre_submit_hook
        if hook is None:
            return request
        given = request.model_copy(deep=True)
        changed = await self.hooks.run("pre_submit_hook", hook, given, user)
        changed = given if changed is None else changed
        if not isinstance(changed, JobRequest):
            raise HookFailed(f"pre_submit_hook returned {type(changed).__name__}, not a request or None")
        return JobRequest.from_json(changed.model_dump())

    async def make_spec(self, user: User, request: JobRequest) -> JobSpec:
        """Return the spec of the requested job.

        Raises InvalidRequest, with the field, if the admin does not allow the request, the launcher cannot
        run it, or the user does not have a secret that it names.
        """
        spec = await self.profiles.make_spec(user, request)
        if spec.hub_scopes and "/" in user.name:  # as the names of the hub's services: see HubAuthenticator
            raise InvalidRequest.of_field(
                "hub_scopes", "cannot be set here: only jobs of users can have tokens"
            )
        self.launcher.check_spec(spec)
        await self.secrets.check(user, spec)
        return self.launcher.round_spec(spec)

    async def get(self, user: User, job_id: str) -> Job:
        """Return a job. Audits the read if an admin reads the job of another user.

        A user that is a job gets only this job and its children; raises NotFound for others.
        """
        job = await self.store.jobs.get(job_id, user=_owner(user))
        if user.job not in {None, job.id, job.parent}:
            raise NotFound(f"Job {job_id!r} not found.")
        if job.user != user.name and is_first(Action.READ, job.id):
            await self.store.audit.add(make_entry(Action.READ, job.id, job.user))
        await self.usage_report.explain([job])
        return job

    async def list(self, user: User, query: JobQuery) -> JobPage:
        """Return a page of jobs; only admins may list those of others, and a job only its children."""
        if user.job is not None and query.parent != user.job:
            raise Forbidden(
                f"A job can only list the jobs that it has submitted: add ?parent={user.job}.",
                reason="JobToken",
            )
        await self._begin_listing(user, query.user)
        page = await self.store.jobs.list_page(query)
        await self.usage_report.explain(page.jobs)
        return page

    async def count(self, user: User, owner: str | None) -> dict[Status, int]:
        """Return the number of jobs by status, of one user or (None) of all."""
        await self._begin_listing(user, owner)
        return await self.store.jobs.count(owner)

    async def summarize(
        self, user: User, owner: str | None, *, since: datetime | None, limit: int
    ) -> JobSummary:
        """Return sums over the jobs of one user, or (None) of all, that were accepted since a time."""
        await self._begin_listing(user, owner)
        return await self.store.reports.summarize(owner, since=since, limit=limit)

    async def _begin_listing(self, user: User, owner: str | None) -> None:
        """Raise Forbidden unless a user may list the owner's jobs; audits the listing of an admin."""
        _check_owner(user, owner)
        if owner != user.name:
            await self.store.audit.add(make_entry(Action.LIST, "", owner or "*"))

    async def follow_changes(
        self, user: User, owner: str | None, *, after: str | None = None
    ) -> AsyncGenerator[SeenChange | Reset]:
        """Return an endless iterator over the changes of the owner's jobs: see ``JobWatch.follow``."""
        await self._begin_listing(user, owner)
        return await self.watch.follow(user.name, user=owner, after=after)

    async def describe(self, user: User) -> UsageJson:
        """Return a user's limits, usage and queue as JSON."""
        return await self.usage_report.describe(user)

    async def cancel(self, user: User, job_id: str, *, note: str | None = None) -> Job:
        """Ask a job to end, and return its current state; raises Conflict if it ended otherwise.

        The record keeps who asked, and the ``note`` with their reason.
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
        """Cancel a job that has not ended, and delete it: from now on it does not exist for users."""
        entry = make_entry(Action.DELETE, job_id, user.name)
        await self.store.jobs.request_delete(job_id, user=_owner(user), audit=entry)
        self.on_change(job_id)

    async def rerun(self, user: User, job_id: str) -> Job:
        """Record a new job with the request of an earlier one of the same user, and return it."""
        job = await self.store.jobs.get(job_id, user=user.name)
        env = await self.store.jobs.read_env(job_id)
        if env is None:
            message = (
                "The job's environment can no longer be decrypted. Submit the job again, with a new env."
            )
            raise Conflict(message, reason="EnvironmentLost")
        spec = job.spec
        taken = Taken(spec.taken, spec.image if spec.unpinned_image else None) if spec.taken else None
        return (await self.submit(user, make_request(job, env), rerun_of=job_id, taken=taken))[0]

    async def list_servers(self, user: User) -> Sequence[ServerJson]:
        """Return the servers that a user's job can be like, none if it cannot be; raises Unavailable."""
        if user.kind != "user" or not self.servers.enabled:
            return []
        return [
            ServerJson(
                name=each.name,
                display_name=each.display_name,
                is_running=each.is_running,
                like=make_reference(each.name),
            )
            for each in await self.servers.list(user.name)
        ]

    async def report_progress(self, user: User, job_id: str, report: ProgressRequest) -> None:
        """Record how far a job of the user is; raises Conflict if it has ended.

        A user that is a job reports only about itself; raises NotFound for others.
        """
        if user.job is None:
            job = await self.store.jobs.get(job_id, user=user.name)
            if job.is_over:
                raise Conflict(f"Job {job_id!r} has already ended: {job.status.value}.", reason="JobEnded")
        elif user.job != job_id:
            raise NotFound(f"Job {job_id!r} is not the job of this token.")
        progress = JobProgress(**report.model_dump(), at=show_time(utcnow()))
        await self.progress.report(job_id, progress)

    async def read_env(self, job: Job) -> dict[str, str]:
        """Return the decrypted environment of a job; empty if the key was removed."""
        return (await self.store.jobs.read_env(job.id) or {}) if job.has_env else {}

    async def read_new_env(self, job: Job, request: JobRequest) -> dict[str, str]:
        """Return the environment of a job that was just submitted, with what a hook has added."""
        return request.env if self.hooks.pre_submit_hook is None else await self.read_env(job)

    async def forget_user(self, name: str, *, before: datetime | None = None) -> ForgottenUser:
        """Begin to forget a user: all jobs with their logs and results, all uploads, secrets and the usage.

        From now on nobody can see these jobs, and running ones are cancelled. ``before`` keeps newer things,
        which belong to a later user of that name, as does the namespace. Repeating this is harmless. The
        audit record stays. Raises Unavailable if the launcher cannot be told: then repeat it.
        """
        jobs = 0
        while job_ids := await self.store.retention.forget_jobs(name, before=before):
            jobs += len(job_ids)
            for job_id in job_ids:
                self.on_change(job_id)
        uploads = await self.store.retention.forget_uploads(name, before=before)
        secrets = await self.store.secrets.forget(name, before=before)
        detail = f"{jobs} jobs, {uploads} uploads, {secrets} secrets"
        entry = make_entry(Action.FORGET_USER, name, name, detail=detail)
        await self.store.retention.forget_usage(name, audit=entry)
        if before is None:
            try:
                await self.launcher.forget_user(name)
            except LauncherUnavailable as error:
                raise Unavailable(f"The user is forgotten except for the namespace: {error}") from error
        return ForgottenUser(name, jobs, uploads, secrets)

    async def audit(self, query: AuditQuery) -> AuditPage:
        """Return a page of the audit record, newest first, after auditing this read."""
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

        Raises NotFound before the first piece if there is no log (reason ``LogNotFound``, with an
        explanation). With ``follow`` it waits for the job to start, and ends when the job has ended.
        ``after`` is the place where an earlier following ended.
        """
        job = await self.get(user, job_id)
        if after is not None or (follow and not job.is_over):
            find_attempt(job, LogSelection(pod=selection.pod))  # an attempt that does not exist raises now
            return LogFollower(self.reader, self.store.jobs, job).pieces(selection, after=after)
        return await self.reader.read(job, selection, most=FOLLOWED_BYTES if follow else None)

    async def open_log(self, user: User, job_id: str, selection: LogSelection = ALL) -> tuple[LogText, int]:
        """Return the log as it is now, to read a part of it or to search it, and the number of its attempt.

        Raises as ``logs``.
        """
        return await self.reader.open(await self.get(user, job_id), selection)

    async def events(self, user: User, job_id: str) -> Sequence[JobEvent]:
        """Return the events of a job, oldest first; raises Unavailable."""
        job = await self.get(user, job_id)
        try:
            return await self.launcher.events(job)
        except LauncherUnavailable as error:
            raise Unavailable(f"The events cannot be read now: {error}") from error


def _make_job(user: User, request: JobRequest, spec: JobSpec, parent: Job | None) -> Job:
    """Return the record of a new job, and so its id; ``parent`` is the job that submits it, if one does."""
    return Job(
        id=make_job_id(request.name),
        user=user.name,
        name=request.name,
        spec=spec,
        created_at=utcnow(),
        message="Waiting to start.",
        description=request.description,
        tags=dict(request.tags),
        groups=list(user.groups),
        parent=user.job,
        depth=0 if parent is None else parent.depth + 1,
    )


def _describe_origin(job: Job, rerun_of: str | None) -> str:
    """Return the details of a submit for the audit record: the job that it follows, the names of secrets."""
    origin = f"by {job.parent}" if job.parent is not None else f"of {rerun_of}" if rerun_of else ""
    names = ", ".join(list_names(job.spec))
    return ", ".join(filter(None, [origin, f"with the secrets {names}" if names else ""]))


def _check_owner(user: User, owner: str | None) -> None:
    if owner != user.name and not user.admin:
        raise Forbidden("Only admins can list jobs of other users.", reason="MissingScope")


def _owner(user: User) -> str | None:
    return None if user.admin else user.name


def _hash_request(request: JobRequest) -> str:
    """Return the hash of a request as its client sent it: what a hook makes of it may change.

    It is without defaults: the defaults that a later version adds must not change the hash.
    """
    return hashlib.sha256(request.model_dump_json(exclude_defaults=True).encode()).hexdigest()


def make_request(job: Job, env: dict[str, str]) -> JobRequest:
    """Return a request for a job like this one, with its environment."""
    requested = job.spec.get_requested() | {"image": job.spec.unpinned_image or job.spec.image or None}
    return JobRequest(**requested, name=job.name, env=env, description=job.description, tags=job.tags)
