"""Adds jobs in batches: one transaction, and one wait for the disk, for all jobs that have arrived."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select
from sqlalchemy.exc import IntegrityError

from ..audit import AuditEntry
from ..errors import Conflict, KBatchError, NotFound, Unavailable
from ..failpoints import reach
from ..keyring import Keyring
from ..models.job import Job
from .audit import put_entries
from .changes import Changes, JobChange
from .database.database import Database
from .queuelimits import Queued, QueueLimits, RecordBytes, add_to_groups
from .rows import COLUMNS, make_job, make_row
from .tables import job_tags, jobs, uploads

BATCH = 100
"""The maximum number of jobs in one transaction: with more, the time per job hardly decreases, and other
writers wait longer."""

QUEUE = 2000
"""The maximum number of waiting jobs: about a second's work. More would wait longer than clients do."""

CLOSE_TIMEOUT_SECONDS = 30
"""Seconds to wait for the transaction in progress when the store is closed."""

_INSERT = insert(jobs).returning(jobs.c.id, jobs.c.seq)
_INSERT_TAGS = insert(job_tags)
# selects more than needed (each user with each key), but with the index on both
_SELECT_KEYS = select(*COLUMNS, jobs.c.idempotency_key, jobs.c.request_hash).where(
    jobs.c.user.in_(bindparam("users", expanding=True)),
    jobs.c.idempotency_key.in_(bindparam("keys", expanding=True)),
)
# locked if several processes write: no upload is deleted before the jobs that use it are committed
_SELECT_UPLOADS = (
    select(uploads.c.id, uploads.c.user)
    .where(uploads.c.id.in_(bindparam("ids", expanding=True)), uploads.c.delete_requested_at.is_(None))
    .order_by(uploads.c.id)
    .with_for_update(read=True)
)


@dataclass(slots=True, eq=False)
class _Request:
    """One job to add, and a future for the outcome: the recorded job, and whether it is new."""

    job: Job
    row: dict[str, Any]
    outcome: asyncio.Future[tuple[Job, bool]]
    limits: QueueLimits
    audit: AuditEntry | None = None
    is_second_try: bool = False
    is_written: bool = False
    """Whether the last transaction contains the job."""

    @property
    def key(self) -> tuple[str, str] | None:
        key = self.row["idempotency_key"]
        return None if key is None else (self.job.user, key)

    def succeed(self, job: Job, is_new: bool) -> None:
        if not self.outcome.done():
            self.outcome.set_result((job, is_new))

    def fail(self, error: Exception) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)


class JobWriter:
    """The task that adds jobs, from ``start`` to ``stop``."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        *,
        changes: Changes,
        log: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self._changes = changes
        self._database = database
        self._keyring = keyring
        self._log = log
        self._queue: asyncio.Queue[_Request | None] = asyncio.Queue(QUEUE)
        self._task: asyncio.Task[None] | None = None
        # if other processes add jobs as well, the counts cannot be remembered
        self._record_bytes = RecordBytes()
        self._queued_at_most: dict[str, int] | None = None if database.is_shared else {}

    def start(self) -> None:
        """Begin to accept jobs."""
        self._task = asyncio.create_task(self._run(), name="job-writer")

    async def stop(self) -> None:
        """Finish the transaction in progress, and fail all jobs that wait for a later one."""
        task, self._task = self._task, None
        if task is None:
            return
        while not self._queue.empty():
            request = self._queue.get_nowait()
            if request is not None:
                request.fail(_stopping())
        self._queue.put_nowait(None)
        try:
            await asyncio.wait_for(task, CLOSE_TIMEOUT_SECONDS)
        except TimeoutError:
            self._log.error("the last jobs were not written within %d s", CLOSE_TIMEOUT_SECONDS)

    async def add(
        self,
        job: Job,
        env: Mapping[str, str],
        *,
        idempotency_key: str | None,
        request_hash: str | None,
        limits: QueueLimits,
        audit: AuditEntry | None = None,
    ) -> tuple[Job, bool]:
        """Return the recorded job and whether it is new, once it is durable."""
        job.has_env = bool(env)
        row = make_row(job, env, self._keyring)
        row["idempotency_key"] = idempotency_key
        row["request_hash"] = request_hash
        request = _Request(job, row, asyncio.get_running_loop().create_future(), limits, audit)
        if self._task is None:
            raise _stopping()
        try:
            self._queue.put_nowait(request)
        except asyncio.QueueFull:
            raise Unavailable("Too many jobs are being submitted. Try again in a moment.") from None
        return await request.outcome

    async def _run(self) -> None:
        while (first := await self._queue.get()) is not None:
            batch = [first]
            while len(batch) < BATCH and not self._queue.empty():
                request = self._queue.get_nowait()
                if request is None:
                    self._queue.put_nowait(None)
                    break
                batch.append(request)
            try:
                await self._add(batch)
            finally:
                for request in batch:  # those with no outcome yet, because this task was cancelled
                    request.fail(_stopping())

    async def _add(self, batch: list[_Request]) -> None:
        """Add a batch in one transaction; if one of its jobs cannot be written, add each separately."""
        batch = [
            request for request in batch if not request.outcome.done()
        ]  # nobody waits for a cancelled request
        try:
            outcomes = await self._database.write(lambda connection: self._insert(connection, batch))
        except KBatchError as error:  # the database does not respond: separate writes would fail, too
            for request in batch:
                request.fail(error)
        except Exception as error:
            if len(batch) > 1:
                await asyncio.gather(*[self._add([request]) for request in batch])
            elif isinstance(error, IntegrityError) and batch[0].key and not batch[0].is_second_try:
                # another process has just used the same key: now its job can be found
                batch[0].is_second_try = True
                await self._add(batch)
            elif isinstance(error, IntegrityError):
                message = f"There is already a job with the id {batch[0].job.id!r}."
                batch[0].fail(Conflict(message, reason="AlreadyExists"))
            else:
                batch[0].fail(error)
        else:
            for request, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, KBatchError):
                    request.fail(outcome)
                else:
                    request.succeed(*outcome)
            self._changes.publish(_changes_of(request for request in batch if request.is_written))

    def _insert(self, connection: Connection, batch: list[_Request]) -> list[tuple[Job, bool] | KBatchError]:
        """Return the outcome of each job in the batch, valid once the transaction is committed."""
        known_uploads = _find_uploads(connection, batch)
        by_key = self._find_same_keys(connection, batch)
        queued = Queued(
            connection, ((request.job.user, request.limits) for request in batch), self._queued_at_most
        )
        outcomes: list[tuple[Job, bool] | KBatchError] = []
        new: list[_Request] = []
        for request in batch:
            upload = request.row["upload"]
            request.is_written = False
            if request.key is not None and request.key in by_key:
                outcomes.append(_repeated(request, *by_key[request.key]))
            elif upload is not None and (upload, request.job.user) not in known_uploads:
                outcomes.append(NotFound(f"Upload {upload!r} not found."))
            elif (refusal := queued.add(request.job.user, request.limits)) is not None:
                outcomes.append(refusal)
            elif (full := self._add_bytes(connection, request)) is not None:
                outcomes.append(full)
            else:
                new.append(request)
                outcomes.append((request.job, True))
                request.is_written = True
                if request.key is not None:
                    by_key[request.key] = (request.job, request.row["request_hash"])
        if new:
            _insert_rows(connection, new)
            reach("submit.2")
            self._changes.announce(connection, _changes_of(new))
        return outcomes

    def _add_bytes(self, connection: Connection, request: _Request) -> KBatchError | None:
        size, limit = request.row["record_bytes"], request.limits.record_bytes
        return self._record_bytes.add(connection, request.job.user, size, limit)

    def _find_same_keys(
        self, connection: Connection, batch: list[_Request]
    ) -> dict[tuple[str, str], tuple[Job, str | None]]:
        """Return the existing jobs with the batch's idempotency keys, and their requests' hashes."""
        keys = [request.key for request in batch if request.key is not None]
        if not keys:
            return {}
        users, words = (list(set(each)) for each in zip(*keys, strict=True))
        found = {}
        rows = connection.execute(_SELECT_KEYS, {"users": users, "keys": words})
        for *columns, key, request_hash in rows:
            job = make_job(columns)
            found[job.user, key] = (job, request_hash)
        return found


def _find_uploads(connection: Connection, batch: list[_Request]) -> set[tuple[str, str]]:
    """Return id and user of the existing uploads that the batch uses."""
    ids = {request.row["upload"] for request in batch} - {None}
    if not ids:
        return set()
    rows = connection.execute(_SELECT_UPLOADS, {"ids": list(ids)})
    return {(upload, user) for upload, user in rows}


def _changes_of(requests: Iterable[_Request]) -> list[JobChange]:
    return [JobChange(request.job.user, request.job.id) for request in requests]


def _insert_rows(connection: Connection, new: list[_Request]) -> None:
    by_id = {request.job.id: request.job for request in new}
    for job_id, seq in connection.execute(_INSERT, [request.row for request in new]):
        by_id[job_id].seq = seq
    tags = [
        {"job_seq": job.seq, "user": job.user, "key": key, "value": value}
        for job in by_id.values()
        for key, value in job.tags.items()
    ]
    if tags:
        connection.execute(_INSERT_TAGS, tags)
    add_to_groups(connection, ((request.job.seq, request.limits.groups.keys()) for request in new))
    entries = [request.audit for request in new if request.audit is not None]
    if entries:
        put_entries(connection, entries)


def _repeated(request: _Request, job: Job, request_hash: str | None) -> tuple[Job, bool] | KBatchError:
    if request.row["request_hash"] == request_hash:
        return job, False
    key = json.dumps(request.row["idempotency_key"])
    message = f"The Idempotency-Key {key} was used for another request. Use a new key for each job."
    return Conflict(message, reason="IdempotencyKeyReused")


def _stopping() -> Unavailable:
    return Unavailable("The service is stopping. Try again in a moment.")
