"""The records of results: where a job's files are in the storage."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from ..audit import AuditEntry
from ..models.results import JobOutputs, OmittedFile, OutputFile
from ..models.times import utcnow
from .audit import log_entry, put_entry
from .changes import ChangingStore, JobChange
from .tables import job_outputs, jobs


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
                connection.execute(insert(job_outputs), row | {"files": _pack(kept)})
            return (True, old), [JobChange(owner, job_id)]

        return await self._write(put)

    async def find(self, job_id: str) -> KeptOutputs | None:
        """Return a job's files and their object; None if it has none."""
        columns = job_outputs.c.key, job_outputs.c.size, job_outputs.c.files
        statement = select(*columns).where(job_outputs.c.job_id == job_id)

        def find(connection: Connection) -> KeptOutputs | None:
            row = connection.execute(statement).first()
            return None if row is None else KeptOutputs(row.key, row.size, *_unpack(row.files))

        return await self._database.read(find)

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


def _pack(kept: KeptOutputs) -> bytes:
    return zlib.compress(json.dumps({"files": kept.files, "omitted": kept.omitted}).encode(), 1)


def _unpack(packed: bytes) -> tuple[list[OutputFile], list[OmittedFile]]:
    found: Any = json.loads(zlib.decompress(packed))
    if isinstance(found, list):  # as it was written before anything could be omitted, in the tar's order
        return sorted(OutputFile(*each) for each in found), []
    return [OutputFile(*each) for each in found["files"]], [OmittedFile(*each) for each in found["omitted"]]
