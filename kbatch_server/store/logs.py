"""The records of logs: how far each is saved, and in which segments."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, literal, select, update

from ..audit import AuditEntry
from .audit import log_entry, put_entry
from .database.database import Database
from .tables import job_logs, jobs, log_segments


class LogTaken(Exception):
    """Another process writes this log."""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """The saved part of the log of one attempt."""

    job_id: str
    pod: str
    attempt: int
    """Counted from 1."""
    position: dict[str, Any]
    """The position to continue reading from, in the launcher's own format."""
    size: int
    """Bytes that the attempt has written, including those that were cut out."""
    is_complete: bool
    problem: str
    """Why the log is not the attempt's complete output, as a sentence; otherwise empty."""


@dataclass(frozen=True, slots=True)
class LogSegment:
    """A segment of a log: the first ``size`` bytes of an object in the storage, which may be longer."""

    number: int
    start: int
    """The offset of its first byte in the attempt's output."""
    size: int
    first_line: int
    """The number, from 1, of the line that the first byte belongs to."""
    lines: int
    """The number of lines that end in this segment."""
    times: list[list[int]]
    """Offsets in the segment, ascending, each with the time (seconds since 1970) when the data there was
    written."""

    @property
    def end(self) -> int:
        """The offset after its last byte."""
        return self.start + self.size


_IS_IT = (job_logs.c.job_id == bindparam("of_job"), job_logs.c.pod == bindparam("of_pod"))
_SEGMENTS_OF = (log_segments.c.job_id == bindparam("of_job"), log_segments.c.pod == bindparam("of_pod"))
_COLUMNS = tuple(job_logs.c)
_SEGMENT_COLUMNS = tuple(log_segments.c)[2:-1]

_SELECT_LOGS = select(*_COLUMNS).where(job_logs.c.job_id == bindparam("of_job")).order_by(job_logs.c.attempt)
_SELECT_LOG = select(*_COLUMNS).where(*_IS_IT)
_SELECT_SEGMENTS = (
    select(*_SEGMENT_COLUMNS)
    .where(*_SEGMENTS_OF, log_segments.c.start + log_segments.c.size > bindparam("after"))
    .order_by(log_segments.c.number)
    .limit(bindparam("most"))
)
_SELECT_TIMES = _SELECT_SEGMENTS.add_columns(log_segments.c.times)
_SELECT_JOB = select(jobs.c.seq).where(jobs.c.id == bindparam("of_job"))
_DELETE_SEGMENTS = delete(log_segments).where(
    *_SEGMENTS_OF, log_segments.c.number.in_(bindparam("numbers", expanding=True))
)
_DELETE_LOGS = delete(job_logs).where(job_logs.c.job_id == bindparam("of_job"))


class LogStore:
    """The rows of logs and their segments."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_logs(self, job_id: str) -> list[LogRecord]:
        """Return the saved logs of a job, in the order of its attempts."""
        values = {"of_job": job_id}
        rows = await self._database.read(lambda connection: connection.execute(_SELECT_LOGS, values).all())
        return [_make_record(row) for row in rows]

    async def find(self, job_id: str, pod: str) -> LogRecord | None:
        """Return the log of one attempt, or None if nothing of it is saved."""
        values = {"of_job": job_id, "of_pod": pod}
        row = await self._database.read(lambda connection: connection.execute(_SELECT_LOG, values).first())
        return None if row is None else _make_record(row)

    async def list_segments(
        self, job_id: str, pod: str, *, after: int = 0, limit: int = 1_000_000, times: bool = False
    ) -> list[LogSegment]:
        """Return up to ``limit`` segments of a log that end after an offset, in order.

        Their ``times`` are empty unless ``times`` is set: they may be larger than all other fields.
        """
        values = {"of_job": job_id, "of_pod": pod, "after": after, "most": limit}
        statement = _SELECT_TIMES if times else _SELECT_SEGMENTS
        return await self._database.read(
            lambda connection: [_make_segment(*row) for row in connection.execute(statement, values)]
        )

    async def keep(
        self,
        log: LogRecord,
        *,
        after: int = 0,
        segments: Iterable[LogSegment] = (),
        dropped: Iterable[int] = (),
    ) -> bool:
        """Record, in one transaction, how far a log is saved.

        It adds new or longer segments and removes the ``dropped`` ones. Returns False, and writes nothing, if
        the job does not exist (any more). Raises LogTaken, and writes nothing, unless the log is saved
        exactly up to ``after``: otherwise another process, the new leader, writes it. Repeating a call is
        harmless.
        """
        values = {column.name: getattr(log, column.name) for column in _COLUMNS}
        values["position"] = json.dumps(log.position)
        numbers = list(dropped)
        new = list(segments)

        def keep(connection: Connection) -> bool:
            if connection.execute(_SELECT_JOB, {"of_job": log.job_id}).first() is None:
                return False
            place = {"of_job": log.job_id, "of_pod": log.pod}
            is_open = job_logs.c.is_complete.is_(False)
            again = (job_logs.c.size == log.size) & (job_logs.c.position == values["position"])
            again &= is_open | literal(log.is_complete)
            change = update(job_logs).where(*_IS_IT, (is_open & (job_logs.c.size == after)) | again)
            change = change.values(values)
            if connection.execute(change, place).rowcount == 0:
                if after or connection.execute(_SELECT_LOG, place).first() is not None:
                    raise LogTaken(log.job_id)
                connection.execute(insert(job_logs), values)
            for segment in new:
                _keep_segment(connection, log, segment)
            if numbers:
                connection.execute(_DELETE_SEGMENTS, place | {"numbers": numbers})
            return True

        return await self._database.write(keep)

    async def remove(self, job_id: str, *, audit: AuditEntry | None = None) -> None:
        """Remove the rows of a job's logs, whose objects are deleted."""

        def remove(connection: Connection) -> AuditEntry | None:
            is_there = connection.execute(_DELETE_LOGS, {"of_job": job_id}).rowcount > 0
            return put_entry(connection, audit) if is_there else None

        log_entry(await self._database.write(remove))


def _keep_segment(connection: Connection, log: LogRecord, segment: LogSegment) -> None:
    row = {
        "job_id": log.job_id,
        "pod": log.pod,
        "number": segment.number,
        "start": segment.start,
        "size": segment.size,
        "first_line": segment.first_line,
        "lines": segment.lines,
        "times": json.dumps(segment.times, separators=(",", ":")),
    }
    place = {"of_job": log.job_id, "of_pod": log.pod}
    it = update(log_segments).where(*_SEGMENTS_OF, log_segments.c.number == segment.number)
    if connection.execute(it.values(row), place).rowcount == 0:
        connection.execute(insert(log_segments), row)


def _make_record(row: Any) -> LogRecord:
    job_id, pod, attempt, position, size, is_complete, problem = row
    return LogRecord(job_id, pod, attempt, json.loads(position), size, is_complete, problem)


def _make_segment(
    number: int, start: int, size: int, first_line: int, lines: int, times: str = "[]"
) -> LogSegment:
    return LogSegment(number, start, size, first_line, lines, json.loads(times))
