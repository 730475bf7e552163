"""The tables, and nothing else. A change here needs a migration.

Columns with JSON are plain text, so that every database stores them in the same way and reading a page of
jobs is cheap; ``rows`` reads and writes them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, stored in UTC: SQLite has no time zones, so this removes and adds them."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the moment in UTC; a naive one is a bug."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Return the moment, aware and in UTC; PostgreSQL returns it in the server's time zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)  # type: ignore[no-any-return]


# SQLite counts up by itself only in a column that is exactly INTEGER
_Sequence = BigInteger().with_variant(Integer(), "sqlite")

WAITING = "status = 'queued' AND launch_begun_at IS NULL AND delete_requested_at IS NULL"
"""The condition of waiting jobs. It belongs to a partial index, as those below: queries must use the same
text."""

DUE = "delete_requested_at IS NOT NULL OR (launch_begun_at IS NOT NULL AND cleaned_at IS NULL)"
"""The condition of the other jobs that still need a step."""

LAUNCHED = (
    "launched_at IS NOT NULL AND status IN ('pending', 'running')"
    " AND cancel_requested_at IS NULL AND delete_requested_at IS NULL"
)
"""The condition of those that are launched and that nobody wants to end."""

SIZED = "record_bytes > 0"
"""The condition of jobs with a recorded size: all of them."""

WITH_HUB_TOKEN = "hub_token IS NOT NULL"  # noqa: S105 - a condition
"""The condition of jobs that have or had a token of the hub."""

CHILD = "parent IS NOT NULL"
"""The condition of jobs that another job has submitted."""

jobs = Table(
    "jobs",
    metadata,
    # the order of acceptance; everything else refers to a job by its id
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
    Column("id", String(63), nullable=False, unique=True),
    Column("user", Text, nullable=False),
    Column("name", String(63), nullable=False),
    Column("status", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("exit_code", Integer),
    Column("spec", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("env", LargeBinary),
    Column("groups", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("launch_begun_at", UtcDateTime),
    Column("launched_at", UtcDateTime),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("cleaned_at", UtcDateTime),
    Column("cancel_requested_at", UtcDateTime),
    Column("cancelled_by", Text),
    Column("cancel_note", Text),
    Column("delete_requested_at", UtcDateTime),
    Column("is_forgotten", Boolean, nullable=False, server_default=false()),
    Column("pods", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("outputs", Text),
    Column("upload", String(64), index=True),
    # the negative priority: rank, and then seq, is the order in which jobs have their turn
    Column("rank", Integer, nullable=False, server_default="0"),
    # the approximate size of the job in the database; the sum of a user's jobs is limited
    Column("record_bytes", Integer, nullable=False, server_default="0"),
    Column("idempotency_key", String(255)),
    Column("request_hash", String(64)),
    # the id of the job that submitted this one; without a reference, as it may be deleted before this one
    Column("parent", String(63)),
    Column("depth", Integer, nullable=False, server_default="0"),
    # how many it has submitted, including deleted ones
    Column("children", Integer, nullable=False, server_default="0"),
    Column("progress", Text),
    # the id of its token at the hub, "?" while it may have one with an unknown id, "" after it was revoked
    Column("hub_token", String(32)),
    # the token itself, encrypted, so that a launch that is repeated gives the job the same
    Column("hub_secret", LargeBinary),
    UniqueConstraint("user", "idempotency_key"),
    Index(
        "ix_jobs_parent",
        *("user", "parent", "seq"),
        sqlite_where=text(CHILD),
        postgresql_where=text(CHILD),
    ),
    Index(
        "ix_jobs_hub_token",
        "user",
        "seq",
        sqlite_where=text(WITH_HUB_TOKEN),
        postgresql_where=text(WITH_HUB_TOKEN),
    ),
    # the last column of these two serves to skip jobs without reading them: those from before a time, and
    # those to be deleted
    Index("ix_jobs_page", "user", "seq", "created_at"),
    Index("ix_jobs_status", "user", "status", "seq", "delete_requested_at"),
    Index("ix_jobs_name", "user", "name", "seq"),
    Index("ix_jobs_ended_at", "user", "ended_at"),
    # partial, although it contains all jobs: otherwise SQLite uses it for other statements of one user, too
    Index(
        "ix_jobs_record_bytes",
        *("user", "record_bytes"),
        sqlite_where=text(SIZED),
        postgresql_where=text(SIZED),
    ),
    # with the status, which is always the same: otherwise SQLite prefers the index above; and with the last
    # two columns, which are always null, so that it counts without reading the jobs
    Index(
        "ix_jobs_waiting",
        *("user", "status", "rank", "seq", "launch_begun_at", "delete_requested_at"),
        sqlite_where=text(WAITING),
        postgresql_where=text(WAITING),
    ),
    Index("ix_jobs_due", "user", "seq", sqlite_where=text(DUE), postgresql_where=text(DUE)),
    sqlite_autoincrement=True,  # the number of a removed job is not given to another
)

# the tags again, to search for jobs; users see jobs.tags
job_tags = Table(
    "job_tags",
    metadata,
    Column("job_seq", _Sequence, ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True),
    Column("key", String(63), primary_key=True),
    Column("value", String(256), nullable=False),
    Column("user", Text, nullable=False),
    Index("ix_job_tags_find", "user", "key", "value", "job_seq"),
)

# the log of each attempt: how far it was read, and whether that is all of it
job_logs = Table(
    "job_logs",
    metadata,
    Column("job_id", String(63), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("pod", String(253), primary_key=True),
    Column("attempt", Integer, nullable=False),
    # the launcher's position to continue from; opaque to others
    Column("position", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("is_complete", Boolean, nullable=False),
    # why the log is not the attempt's complete output, as a sentence; otherwise empty
    Column("problem", Text, nullable=False),
)

# the segments of a log, each an object in the storage; offsets and lines count the attempt's output,
# so a gap between two segments was cut out
log_segments = Table(
    "log_segments",
    metadata,
    Column("job_id", String(63), primary_key=True),
    Column("pod", String(253), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("start", BigInteger, nullable=False),
    Column("size", Integer, nullable=False),
    Column("first_line", BigInteger, nullable=False),
    Column("lines", Integer, nullable=False),
    # JSON: [[offset in the segment, seconds since 1970], ...], one where the second changes
    Column("times", Text, nullable=False),
    ForeignKeyConstraint(["job_id", "pod"], ["job_logs.job_id", "job_logs.pod"], ondelete="CASCADE"),
)

# the files that a job wrote under $KBATCH_OUTPUT_DIR: one tar in the storage, and each file's position in it
job_outputs = Table(
    "job_outputs",
    metadata,
    Column("job_id", String(63), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String(255), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # JSON, compressed by zlib: [[path, offset, size, seconds since 1970], ...]
    Column("files", LargeBinary, nullable=False),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("user", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
    # of the stored ZIP, which may differ from the one that was sent
    Column("code_size", BigInteger, nullable=False, server_default="0"),
    Column("code_sha256", String(64), nullable=False, server_default=""),
    Column("top_folder", Text),
    # set before its object is deleted: from then on no new job may use it
    Column("delete_requested_at", UtcDateTime),
    Index("ix_uploads_content", "user", "sha256"),
)

# the queued jobs of groups with a limit on these; counting removes the jobs that have started
queued_groups = Table(
    "queued_groups",
    metadata,
    Column("group", Text, primary_key=True),
    Column("job_seq", _Sequence, ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True),
)

# the seconds that jobs ran in each month; it stays when they are deleted
monthly_use = Table(
    "monthly_use",
    metadata,
    # "user" or "group"
    Column("kind", String(8), primary_key=True),
    Column("name", Text, primary_key=True),
    # in UTC, like 2026-11
    Column("month", String(7), primary_key=True),
    Column("seconds", Float, nullable=False),
)

# each user's recent usage, which decays after a time
recent_use = Table(
    "recent_use",
    metadata,
    Column("user", Text, primary_key=True),
    Column("amount", Float, nullable=False),
    Column("as_of", UtcDateTime, nullable=False),
)

# why the first of a user's queued jobs does not start, according to the leader's last decision
waits = Table(
    "waits",
    metadata,
    Column("user", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("why", Text, nullable=False),
)

# who did what, when and from where; stays when the job is deleted
audit = Table(
    "audit",
    metadata,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False, index=True),
    Column("who", Text, nullable=False),
    Column("action", String(32), nullable=False),
    Column("name", Text, nullable=False, index=True),
    Column("user", Text, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("rights", Text, nullable=False),
    Column("address", String(64), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("detail", Text, nullable=False),
    sqlite_autoincrement=True,
)
