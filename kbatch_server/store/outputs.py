"""The records of results: where a job's files are in the storage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection, delete, insert, select, update

from ..audit import AuditEntry
from ..models.results import JobOutputs, OmittedFile, OutputFile
from ..models.times import utcnow
from .audit import log_entry, put_entry
from .changes import ChangingStore, JobChange
from .resultindex import find_in_index, pack_index, unpack_index
from .tables import job_outputs, jobs

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class KeptOutputs:
    """The object with a job's files, and their positions in it."""

    key: str
    size: int
    """The size of the object in bytes."""
    files: Sequence[OutputFile]
    """All files, sorted by path."""
    omitted: Sequence[OmittedFile] = ()
    """The first, by path, of the files that exceeded the limits."""


class OutputStore(ChangingStore):
    """The rows of results."""

    async def put(
        self, job_id: str, summary: JobOutputs, kept: KeptOutputs | None
    ) -> tuple[bool, str | None]:
        """Record the outcome of a job's results, replacing an earlier one.

        Returns whether it was recorded (not if the job was cleaned up or is to be deleted), and the key of an
        object that no record names any more, if any.
        """
        # before the transaction: others wait for it
        index = None if kept is None else await asyncio.to_thread(pack_index, kept.files, kept.omitted)
        may_have = jobs.c.id == job_id, jobs.c.cleaned_at.is_(None), jobs.c.delete_requested_at.is_(None)

        changed = (
            update(jobs).where(*may_have).values(outputs=summary.model_dump_json()).returning(jobs.c.user)
        )

        def put(connection: Connection) -> tuple[tuple[bool, str | None], list[JobChange]]:
            owner = connection.scalar(changed)
            if owner is None:
                return (False, None), []
            old = _take_key(connection, job_id)
            if kept is not None:
                row = {"job_id": job_id, "key": kept.key, "size": kept.size, "created_at": utcnow()}
                connection.execute(insert(job_outputs), row | {"files": index})
            return (True, old), [JobChange(owner, job_id)]

        return await self._write(put)

    async def find(self, job_id: str) -> KeptOutputs | None:
        """Return a job's files and their object; None if it has none."""
        return await self._read(job_id, lambda key, size, index: KeptOutputs(key, size, *unpack_index(index)))

    async def find_file(self, job_id: str, path: str) -> tuple[str, OutputFile | None] | None:
        """Return the key of the object with a job's files, and one of them; None if the job has none."""
        return await self._read(job_id, lambda key, _, index: (key, find_in_index(index, path)))

    async def _read(self, job_id: str, make: Callable[[str, int, bytes], Found]) -> Found | None:
        columns = job_outputs.c.key, job_outputs.c.size, job_outputs.c.files
        statement = select(*columns).where(job_outputs.c.job_id == job_id)

        def read(connection: Connection) -> Found | None:
            row = connection.execute(statement).first()
            return None if row is None else make(row.key, row.size, row.files)

        return await self._database.read(read, is_costly=True)

    async def find_key(self, job_id: str) -> str | None:
        """Return the key of the object with a job's files, or None if it has none."""
        statement = select(job_outputs.c.key).where(job_outputs.c.job_id == job_id)
        return await self._database.read(lambda connection: connection.scalar(statement))

    async def remove(self, job_id: str, key: str, *, why: str, audit: AuditEntry | None = None) -> None:
        """Remove the record of a job's files, whose object is deleted, unless others replaced them.

        ``why`` is the sentence for users who look for them.
        """
        mine = job_outputs.c.job_id == job_id, job_outputs.c.key == key

        def remove(connection: Connection) -> AuditEntry | None:
            if connection.execute(delete(job_outputs).where(*mine)).rowcount:
                summary = JobOutputs(state="removed", message=why)
                values = {"outputs": summary.model_dump_json()}
                connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))
                return put_entry(connection, audit)
            return None

        log_entry(await self._database.write(remove))


def _take_key(connection: Connection, job_id: str) -> str | None:
    """Remove a job's row and return its key."""
    statement = delete(job_outputs).where(job_outputs.c.job_id == job_id).returning(job_outputs.c.key)
    key: str | None = connection.execute(statement).scalar()
    return key
