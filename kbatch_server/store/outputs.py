"""The records of results: where in the storage a job's files are."""

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
    """The object that holds a job's files, and where in it each is."""

    key: str
    size: int
    """Bytes of the object."""
    files: Sequence[OutputFile]
    """By path."""
    omitted: Sequence[OmittedFile] = ()
    """The first, by path, of those that did not fit."""


class OutputStore(ChangingStore):
    """The rows of results."""

    async def put(
        self, job_id: str, summary: JobOutputs, kept: KeptOutputs | None
    ) -> tuple[bool, str | None]:
        """Record what became of a job's results in the place of what was recorded before.

        Returns whether it was recorded, which is not so for a job that is cleaned up or to be deleted, and
        the key of the object that nothing names any more, if there is one.
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
        """Return where a job's files are, and what they are; None when it has none."""
        return await self._read(job_id, lambda key, size, index: KeptOutputs(key, size, *unpack_index(index)))

    async def find_file(self, job_id: str, path: str) -> tuple[str, OutputFile | None] | None:
        """Return the key of the object that holds a job's files, and one of them; None when it has none."""
        return await self._read(job_id, lambda key, _, index: (key, find_in_index(index, path)))

    async def _read(self, job_id: str, make: Callable[[str, int, bytes], Found]) -> Found | None:
        columns = job_outputs.c.key, job_outputs.c.size, job_outputs.c.files
        statement = select(*columns).where(job_outputs.c.job_id == job_id)

        def read(connection: Connection) -> Found | None:
            row = connection.execute(statement).first()
            return None if row is None else make(row.key, row.size, row.files)

        return await self._database.read(read, is_costly=True)

    async def find_key(self, job_id: str) -> str | None:
        """Return the key of the object that holds a job's files, or None when it has none."""
        statement = select(job_outputs.c.key).where(job_outputs.c.job_id == job_id)
        return await self._database.read(lambda connection: connection.scalar(statement))

    async def remove(self, job_id: str, key: str, *, why: str, audit: AuditEntry | None = None) -> None:
        """Forget a job's files, whose object is gone, unless others have come into their place.

        ``why`` is the sentence that who looks for them reads.
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
    """Remove a job's row and return the key that stood there."""
    statement = delete(job_outputs).where(job_outputs.c.job_id == job_id).returning(job_outputs.c.key)
    key: str | None = connection.execute(statement).scalar()
    return key
