"""Adds jobs, with the checks that need the database: upload, idempotency key, limits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select
from sqlalchemy.exc import IntegrityError

from ..audit import AuditEntry
from ..errors import Conflict, KBatchError, NotFound
from ..failpoints import reach
from ..keyring import Keyring
from ..models.job import Job
from .audit import put_entries
from .changes import Changes, JobChange
from .database.database import Database
from .database.errors import DefeatedError
from .queuelimits import Queued, QueueLimits, RecordBytes, add_child, add_to_groups
from .rows import COLUMNS, make_job, make_row
from .tables import job_tags, jobs, uploads

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
    """One job to add, in the form of its row, too."""

    job: Job
    row: dict[str, Any]
    limits: QueueLimits
    audit: AuditEntry | None = None

    @property
    def key(self) -> tuple[str, str] | None:
        key = self.row["idempotency_key"]
        return None if key is None else (self.job.user, key)


class JobWriter:
    """Adds the jobs that arrive together with the same few statements."""

    def __init__(self, database: Database, keyring: Keyring, *, changes: Changes) -> None:
        self._changes = changes
        self._database = database
        self._keyring = keyring
        # if other processes add jobs as well, the counts cannot be remembered
        self._record_bytes = RecordBytes()
        self._queued_at_most: dict[str, int] | None = None if database.is_shared else {}

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
        request = _Request(job, row, limits, audit)
        try:
            return await self._database.write_together(self._insert, request, on_commit=self._publish)
        except (IntegrityError, DefeatedError):
            message = f"There is already a job with the id {job.id!r}."
            raise Conflict(message, reason="AlreadyExists") from None

    def _publish(self, outcomes: Sequence[tuple[Job, bool]]) -> None:
        self._changes.publish(_list_changes(job for job, is_new in outcomes if is_new))

    def _insert(
        self, connection: Connection, batch: Sequence[_Request]
    ) -> list[tuple[Job, bool] | Exception]:
        """Return the outcome of each job in the batch, valid once the transaction is committed."""
        known_uploads = _find_uploads(connection, batch)
        by_key = self._find_same_keys(connection, batch)
        queued = Queued(
            connection, ((request.job.user, request.limits) for request in batch), self._queued_at_most
        )
        outcomes: list[tuple[Job, bool] | Exception] = []
        new: list[_Request] = []
        for request in batch:
            upload = request.row["upload"]
            if request.key is not None and request.key in by_key:
                outcomes.append(_repeated(request, *by_key[request.key]))
            elif upload is not None and (upload, request.job.user) not in known_uploads:
                outcomes.append(NotFound(f"Upload {upload!r} not found."))
            elif (refusal := queued.add(request.job.user, request.limits)) is not None:
                outcomes.append(refusal)
            elif (full := self._add_bytes(connection, request)) is not None:
                outcomes.append(full)
            # the last one, as it counts in the database
            elif (childless := add_child(connection, request.job, request.limits.children)) is not None:
                outcomes.append(childless)
            else:
                new.append(request)
                outcomes.append((request.job, True))
                if request.key is not None:
                    by_key[request.key] = (request.job, request.row["request_hash"])
        if new:
            try:
                _insert_rows(connection, new)
            except IntegrityError:
                if len(batch) == 1 and batch[0].key is not None:
                    raise DefeatedError from None  # another process has just used the same key
                raise
            reach("submit.2")
            self._changes.announce(connection, _list_changes(each.job for each in new))
        return outcomes

    def _add_bytes(self, connection: Connection, request: _Request) -> KBatchError | None:
        size, limit = request.row["record_bytes"], request.limits.record_bytes
        return self._record_bytes.add(connection, request.job.user, size, limit)

    def _find_same_keys(
        self, connection: Connection, batch: Sequence[_Request]
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


def _list_changes(added: Iterable[Job]) -> list[JobChange]:
    """Return the changes by new jobs: a parent shows the number of its children."""
    found: dict[JobChange, None] = {}
    for job in added:
        found[JobChange(job.user, job.id)] = None
        if job.parent is not None:
            found[JobChange(job.user, job.parent)] = None
    return list(found)


def _find_uploads(connection: Connection, batch: Sequence[_Request]) -> set[tuple[str, str]]:
    """Return id and user of the existing uploads that the batch uses."""
    ids = {request.row["upload"] for request in batch} - {None}
    if not ids:
        return set()
    rows = connection.execute(_SELECT_UPLOADS, {"ids": list(ids)})
    return {(upload, user) for upload, user in rows}


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
