"""The records of jobs: the accepted request, what became of it, and what users asked for since."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    bindparam,
    delete,
    func,
    select,
    text,
    union_all,
    update,
)

from ..audit import AuditEntry
from ..errors import Conflict, NotFound
from ..keyring import Keyring
from ..models.job import ENDS, Job, Status
from ..models.listing import JobPage, JobQuery
from ..models.times import utcnow
from .audit import log_entry, put_entry
from .changes import Changes, ChangingStore, JobChange
from .database.database import Database
from .paging import read_page
from .queuelimits import QueueLimits
from .rows import COLUMNS, SHOWN, make_changes, make_job, open_env, open_secret
from .tables import DUE, LAUNCHED, WAITING, WITH_HUB_TOKEN, jobs
from .usage import UsageStore
from .writer import JobWriter

_IS_NOT_OVER = jobs.c.status.not_in(sorted(ENDS))
_IS_NOT_DELETED = jobs.c.delete_requested_at.is_(None)

# made once: SQLAlchemy takes longer to make a statement than SQLite to run it
_SELECT_JOB = select(*COLUMNS).where(jobs.c.id == bindparam("job_id"))
_SELECT_ENV = select(jobs.c.env).where(jobs.c.id == bindparam("job_id"))
_SELECT_HUB_SECRET = select(jobs.c.hub_secret).where(jobs.c.id == bindparam("job_id"))
_SELECT_JOBS = select(*COLUMNS).where(jobs.c.id.in_(bindparam("job_ids", expanding=True)))
# in no order: SQLite would walk along all jobs rather than sort these few
_SELECT_DUE = select(jobs.c.seq, jobs.c.id).where(text(f"({DUE})"))
_SELECT_LAUNCHED = _SELECT_DUE.where(text(LAUNCHED))
_SELECT_ASKED = _SELECT_DUE.where(text(f"NOT ({LAUNCHED})"))
_SELECT_ASKED_OR_WAITING = union_all(_SELECT_ASKED, select(jobs.c.seq, jobs.c.id).where(text(WAITING)))
_DELETE = delete(jobs).where(jobs.c.id == bindparam("job_id")).returning(*COLUMNS)
_UPDATE = update(jobs).where(jobs.c.id == bindparam("job_id")).returning(*COLUMNS)
_UPDATE_UNLESS_OVER = _UPDATE.where(_IS_NOT_OVER)
_BEGIN_LAUNCH = (
    update(jobs)
    .where(
        jobs.c.id == bindparam("job_id"),
        jobs.c.status.in_([Status.QUEUED.value, Status.PENDING.value]),
        _IS_NOT_DELETED,
        jobs.c.cancel_requested_at.is_(None),
        jobs.c.launched_at.is_(None),
    )
    .values(
        launch_begun_at=func.coalesce(jobs.c.launch_begun_at, bindparam("now", type_=jobs.c.created_at.type))
    )
)


class JobStore(ChangingStore):
    """The rows of jobs.

    A job that has ended keeps its status, whatever is written later. After a request for its deletion, only
    ``find`` still returns a job.
    """

    def __init__(
        self,
        database: Database,
        changes: Changes,
        keyring: Keyring,
        usage: UsageStore,
    ) -> None:
        super().__init__(database, changes)
        self._keyring = keyring
        self._usage = usage
        self._writer = JobWriter(database, keyring, changes=changes)

    async def add(
        self,
        job: Job,
        *,
        env: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        request_hash: str | None = None,
        limits: QueueLimits | None = None,
        audit: AuditEntry | None = None,
    ) -> tuple[Job, bool]:
        """Record a new job, durably, with its environment and its audit entry; return it and True.

        If this user has used the key for the same request, it returns the earlier job and False. Raises
        Conflict (``IdempotencyKeyReused``) if the key was used for another request, NotFound if the job's
        upload does not exist (any more), TooManyRequests or Forbidden at the ``limits``.
        """
        added, is_new = await self._writer.add(
            job,
            env or {},
            idempotency_key=idempotency_key,
            request_hash=request_hash,
            limits=limits or QueueLimits(),
            audit=audit,
        )
        log_entry(audit if is_new else None)
        return added, is_new

    async def get(self, job_id: str, *, user: str | None) -> Job:
        """Return a job of this user (None: of any user), or raise NotFound."""
        job = await self.find(job_id)
        if job is None or _is_hidden(job, user):
            raise _no_such_job(job_id)
        return job

    async def find(self, job_id: str) -> Job | None:
        """Return a job, even if its deletion was requested; None if it does not exist."""
        return await self._database.read(lambda connection: self._find(connection, job_id))

    async def read_env(self, job_id: str) -> dict[str, str] | None:
        """Return a job's decrypted environment; None if its key was removed.

        The caller must not keep it longer than a request, or a launch, takes.
        """
        values = {"job_id": job_id}
        return await self._database.read(
            lambda connection: open_env(connection.execute(_SELECT_ENV, values).scalar(), self._keyring)
        )

    async def find_some(self, job_ids: Collection[str]) -> dict[str, Job]:
        """Return the existing jobs with these ids, by id, even if their deletion was requested."""
        values = {"job_ids": list(job_ids)}
        found = await self._database.read(
            lambda connection: [make_job(row) for row in connection.execute(_SELECT_JOBS, values)]
        )
        return {job.id: job for job in found}

    async def list_page(self, query: JobQuery) -> JobPage:
        """Return a page of jobs, newest first; raises InvalidRequest for an invalid cursor.

        Of two processes, one may commit a job later than the other one with a higher number. Pages that
        continue an earlier one do not contain this job, like any newer job: it was not accepted at that time.
        """
        return await self._database.read(
            lambda connection: read_page(connection, query), is_costly=query.is_costly
        )

    async def count(self, user: str | None, *, statuses: Iterable[Status] = Status) -> dict[Status, int]:
        """Return the number of jobs by status, of one user or (None) of all."""
        wanted = list(statuses)
        statement = (
            select(jobs.c.status, func.count())
            .where(*_of(user), jobs.c.status.in_(wanted), _IS_NOT_DELETED)
            .group_by(jobs.c.status)
        )
        rows = await self._database.read(lambda connection: connection.execute(statement).all())
        found = {Status(status): count for status, count in rows}
        return {status: found.get(status, 0) for status in wanted}

    async def list_due_ids(self, *, with_waiting: bool = True) -> list[str]:
        """Return the ids of the jobs that need a step according to the record, oldest first.

        These are jobs whose launch is not complete, jobs to cancel or delete, and jobs that have ended and
        are not cleaned up (``cleaned_at``); with ``with_waiting`` also queued jobs.
        """
        return await self._list_ids(_SELECT_ASKED_OR_WAITING if with_waiting else _SELECT_ASKED)

    async def list_launched_ids(self) -> list[str]:
        """Return the ids of the launched jobs that may continue, oldest first."""
        return await self._list_ids(_SELECT_LAUNCHED)

    async def _list_ids(self, statement: Executable) -> list[str]:
        rows = await self._database.read(lambda connection: connection.execute(statement).all())
        return [job_id for _, job_id in sorted(tuple(row) for row in rows)]

    async def begin_launch(self, job_id: str) -> bool:
        """Return whether the job may be launched now; from then on cancelling it takes time.

        This and ``request_cancel`` are one statement each, so one of them comes first: a job whose cancel was
        answered with ``cancelled`` is never launched.
        """
        values = {"job_id": job_id, "now": utcnow()}
        return await self._database.write(
            lambda connection: connection.execute(_BEGIN_LAUNCH, values).rowcount > 0
        )

    async def update(self, job_id: str, **columns: Any) -> Job | None:
        """Change the state of a job and return the job, or None if nothing was changed.

        Nothing changes if the job does not exist, or if it has ended and ``status`` was to be changed. The
        columns do not include what the user asks for (cancel, delete). With an end, it records the job's
        usage.
        """
        statement = _UPDATE_UNLESS_OVER if "status" in columns else _UPDATE
        values = make_changes(columns) | {"job_id": job_id}
        is_shown = not SHOWN.isdisjoint(columns)

        def change(connection: Connection) -> tuple[Job | None, list[JobChange]]:
            row = connection.execute(statement, values).first()
            job = None if row is None else make_job(row)
            if job is not None and job.is_over and "status" in columns:
                self._usage.charge(connection, job, job.ended_at or utcnow())
            return job, [JobChange(job.user, job_id)] if job is not None and is_shown else []

        return await self._write(change)

    async def record_hub_token(self, job_id: str, token_id: str, *, token: str | None = None) -> None:
        """Record which token of the hub a job has, and the token itself, encrypted; None: no longer."""
        sealed = None if token is None else self._keyring.seal(token)
        await self.update(job_id, hub_token=token_id, hub_secret=sealed)

    async def read_hub_token(self, job_id: str) -> str | None:
        """Return the decrypted token of the hub of a job; None if it has none, or its key was removed."""
        sealed = await self._database.read(
            lambda connection: connection.execute(_SELECT_HUB_SECRET, {"job_id": job_id}).scalar()
        )
        return None if sealed is None else open_secret(sealed, self._keyring)

    async def list_token_users(self, *, limit: int) -> list[str]:
        """Return the users with a job that has or had a token of the hub, at most ``limit`` of them."""
        statement = select(jobs.c.user).where(text(WITH_HUB_TOKEN)).distinct().limit(limit)
        return await self._database.read(lambda connection: list(connection.scalars(statement)))

    async def request_cancel(
        self,
        job_id: str,
        *,
        user: str | None,
        by: str | None = None,
        note: str | None = None,
        audit: AuditEntry | None = None,
    ) -> Job:
        """Ask a job to end, and return it; it is cancelled at once if its launch has not begun.

        ``by`` and ``note`` say who asks, and why; the record keeps those of the first call. Raises NotFound,
        and Conflict (``JobEnded``) if it ended otherwise.
        """
        now = utcnow()
        asked = {"cancel_requested_at": now, "cancelled_by": by, "cancel_note": note}
        at_once = {
            "status": Status.CANCELLED.value,
            "reason": "Cancelled",
            "message": "Cancelled before it started.",
            "ended_at": now,
            **asked,
        }
        mine = jobs.c.id == job_id, _IS_NOT_OVER, _IS_NOT_DELETED, *_of(user)
        waiting = update(jobs).where(*mine, jobs.c.launch_begun_at.is_(None)).values(at_once)
        begun = update(jobs).where(*mine, jobs.c.cancel_requested_at.is_(None))

        def cancel(connection: Connection) -> tuple[tuple[Job | None, AuditEntry | None], list[JobChange]]:
            at_once = connection.execute(waiting).rowcount
            is_new = connection.execute(begun.values(asked)).rowcount or at_once
            job = self._find(connection, job_id)
            entry = put_entry(connection, audit, user=job.user) if job and is_new else None
            return (job, entry), [JobChange(job.user, job_id)] if job is not None and at_once else []

        job, entry = await self._write(cancel)
        log_entry(entry)
        if job is None or _is_hidden(job, user):
            raise _no_such_job(job_id)
        if job.is_over and job.status != Status.CANCELLED:
            raise Conflict(f"Job {job_id!r} has already ended: {job.status.value}.", reason="JobEnded")
        return job

    async def request_delete(self, job_id: str, *, user: str | None, audit: AuditEntry | None = None) -> None:
        """Ask for a job's removal: from now on it does not exist for its user. Raises NotFound.

        This frees its idempotency key: otherwise a repeat would return a job that does not exist.
        """
        statement = (
            update(jobs)
            .where(jobs.c.id == job_id, _IS_NOT_DELETED, *_of(user))
            .values(delete_requested_at=utcnow(), idempotency_key=None, request_hash=None)
            .returning(jobs.c.user)
        )

        def ask(connection: Connection) -> tuple[tuple[str | None, AuditEntry | None], list[JobChange]]:
            owner: str | None = connection.execute(statement).scalar()
            if owner is None:
                return (None, None), []
            return (owner, put_entry(connection, audit, user=owner)), [JobChange(owner, job_id)]

        owner, entry = await self._write(ask)
        if owner is None:
            raise _no_such_job(job_id)
        log_entry(entry)

    async def remove(self, job_id: str) -> None:
        """Remove a job's rows, except its usage; does nothing if the job does not exist."""

        def remove(connection: Connection) -> None:
            row = connection.execute(_DELETE, {"job_id": job_id}).first()
            job = None if row is None else make_job(row)
            if job is not None and not job.is_over:  # else it was counted at its end
                self._usage.charge(connection, job, utcnow())

        await self._database.write(remove)

    def _find(self, connection: Connection, job_id: str) -> Job | None:
        row = connection.execute(_SELECT_JOB, {"job_id": job_id}).first()
        return None if row is None else make_job(row)


def _is_hidden(job: Job, user: str | None) -> bool:
    return job.delete_requested_at is not None or user not in {None, job.user}


def _of(user: str | None) -> tuple[ColumnElement[bool], ...]:
    return () if user is None else (jobs.c.user == user,)


def _no_such_job(job_id: str) -> NotFound:
    return NotFound(f"Job {job_id!r} not found.")
