"""What a user can do with jobs: submit, list, read, cancel, delete, run again, and read the log."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence

import traitlets
from traitlets import Instance
from traitlets.config import LoggingConfigurable

from .errors import Forbidden, Unavailable
from .jobrequest import JobRequest
from .jobwatch import JobWatch, Reset, SeenChange
from .launchers.base import JobLauncher, LauncherUnavailable
from .logfollower import LogFollower
from .logreader import ALL, LogPlace, LogReader, LogSelection, ShownPiece, find_attempt
from .logtext import LogText
from .models import Job, JobEvent, JobPage, JobQuery, Status, User, utcnow
from .profiles import Profiles
from .slugs import make_job_id
from .store import JobStore


class Jobs(LoggingConfigurable):
    """The one place that the handlers ask about jobs.

    Every method takes the user who asks and raises NotFound for a job that is not the user's own: an
    admin (who holds the scope for it) sees everybody's. The scope for the action is checked before, by
    the handler.
    """

    launcher = Instance(JobLauncher)
    profiles = Instance(Profiles)
    reader = Instance(LogReader)
    store = Instance(JobStore)
    watch = Instance(JobWatch)

    on_submit: Callable[[Job], None] = traitlets.Callable()  # type: ignore[assignment]
    """Called with a job that was just accepted."""

    on_change: Callable[[str], None] = traitlets.Callable()  # type: ignore[assignment]
    """Called with a job's id when there is something else to do about it."""

    async def submit(
        self, user: User, request: JobRequest, *, idempotency_key: str | None = None
    ) -> tuple[Job, bool]:
        """Record a job and return it, and whether it is new: it is durable when this returns.

        A repeat of an earlier request with the same ``idempotency_key`` returns the job of that one.
        Raises InvalidRequest where the admin does not allow what is asked for, NotFound where the upload is
        not the user's, Conflict where the key was used for another request.
        """
        code_sha256 = None
        if request.upload is not None:
            code_sha256 = (await self.store.get_upload(request.upload, user=user.name)).sha256
        spec = await self.profiles.make_spec(user, request, code_sha256=code_sha256)
        job = Job(
            id=make_job_id(request.name),
            user=user.name,
            name=request.name,
            spec=spec,
            created_at=utcnow(),
            message="Waiting to be started.",
            description=request.description,
            tags=dict(request.tags),
            env=dict(request.env),
            groups=list(user.groups),
        )
        request_hash = None
        if idempotency_key is not None:
            request_hash = hashlib.sha256(request.model_dump_json().encode()).hexdigest()
        job, is_new = await self.store.add_job(
            job, idempotency_key=idempotency_key, request_hash=request_hash
        )
        if is_new:
            self.log.info("job %s: accepted from %s", job.id, job.user)
            self.on_submit(job)
        return job, is_new

    async def get(self, user: User, job_id: str) -> Job:
        """Return a job."""
        return await self.store.get_job(job_id, user=_owner(user))

    async def list(self, user: User, query: JobQuery) -> JobPage:
        """Return a page of jobs; only an admin may ask for those of others."""
        _check_owner(user, query.user)
        return await self.store.list_jobs(query)

    async def count(self, user: User, owner: str | None) -> dict[Status, int]:
        """Return how many jobs of the owner's (None: of everybody's) there are of each status."""
        _check_owner(user, owner)
        return await self.store.count_jobs(owner)

    async def follow_changes(
        self, user: User, owner: str | None, *, after: str | None = None
    ) -> AsyncGenerator[SeenChange | Reset]:
        """Return the changes of the owner's jobs as they come, without an end; see ``JobWatch.follow``."""
        _check_owner(user, owner)
        return await self.watch.follow(user.name, user=owner, after=after)

    async def cancel(self, user: User, job_id: str, *, note: str | None = None) -> Job:
        """Ask a job to end and return it as it is now; raises Conflict when it had ended otherwise.

        Who asks is recorded, and why, if they say so.
        """
        job = await self.store.request_cancel(job_id, user=_owner(user), by=user.name, note=note)
        self.log.info("job %s: cancelled by %s", job.id, user.name)
        self.on_change(job.id)
        return job

    async def delete(self, user: User, job_id: str) -> None:
        """Cancel a job that is not over, and forget it: from now on there is no such job."""
        await self.store.request_delete(job_id, user=_owner(user))
        self.log.info("job %s: deleted by %s", job_id, user.name)
        self.on_change(job_id)

    async def rerun(self, user: User, job_id: str) -> Job:
        """Record a new job that asks for what an earlier one of the user's own was, and return it."""
        job = await self.store.get_job(job_id, user=user.name)
        return (await self.submit(user, make_request(job)))[0]

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
            return LogFollower(self.reader, job).pieces(selection, after=after)
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
        raise Forbidden("Only an admin may list the jobs of others.", reason="MissingScope")


def _owner(user: User) -> str | None:
    return None if user.admin else user.name


def make_request(job: Job) -> JobRequest:
    """Return the request that makes a job like this one."""
    spec = job.spec
    return JobRequest(
        name=job.name,
        command=spec.command,
        args=spec.args,
        image=spec.image or None,
        profile=spec.profile,
        env=job.env,
        upload=spec.upload,
        description=job.description,
        tags=job.tags,
        cpu_limit=spec.cpu_limit,
        mem_limit=spec.mem_limit,
        retries=spec.retries,
        active_deadline_seconds=spec.active_deadline_seconds,
    )
