"""PostgreSQL: connections with limits on every wait, locks, notifications, and text without NUL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, select, text

from .errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import ExceptionContext

CONNECT_SECONDS = 5
"""Maximum time for connecting to each of the host's addresses."""

DEAD_SECONDS = 10
"""Maximum time without a sign of life from the other machine."""

STATEMENT_SECONDS = 10
"""Maximum duration of a statement."""

LOCK_SECONDS = 5
"""Maximum time that a statement waits for another process that writes to the same rows."""

IDLE_SECONDS = 30
"""Maximum time that a transaction may be idle before the server ends it, for example in a suspended
process."""

UPGRADE_SECONDS = 600
"""Maximum duration of an upgrade of the tables, for which other processes wait at their start."""

MIGRATION_LOCK = 0x6B62617463680001
"""The advisory lock of the process that changes the tables."""

LEAD_LOCK = 0x6B62617463680002
"""The advisory lock of the leader."""

CHANNEL = "kbatch_jobs"
"""The channel for the ids of jobs that need a step."""

CHANGES_CHANNEL = "kbatch_changes"
"""The channel for changed jobs."""

READ_ONLY = "25006"
"""The SQLSTATE of a write to a read-only server
(https://www.postgresql.org/docs/current/errcodes-appendix.html)."""

_ANNOUNCE_CHANGES = text(
    f"SELECT pg_notify('{CHANGES_CHANNEL}', word) FROM unnest(CAST(:words AS text[])) AS word"  # noqa: S608
)

_LIMITS = {
    "statement_timeout": f"{STATEMENT_SECONDS}s",
    "lock_timeout": f"{LOCK_SECONDS}s",
    "idle_in_transaction_session_timeout": f"{IDLE_SECONDS}s",
    # keepalives of the server: a replica whose machine has failed must not keep its locks
    "tcp_keepalives_idle": f"{DEAD_SECONDS // 2}s",
    "tcp_keepalives_interval": "2s",
    "tcp_keepalives_count": "2",
}

SET_LIMITS = "SELECT " + ", ".join(
    f"set_config('{name}', '{value}', false)" for name, value in _LIMITS.items()
)
"""The first statement of each session."""

_ADDRESS = "postgresql://USER@HOST/DATABASE"


def check_url(url: URL) -> URL:
    """Return the URL with our driver, or raise StoreError."""
    if not url.database:
        raise StoreError(f"the database's URL must name a database, like {_ADDRESS}")
    try:
        import psycopg  # noqa: F401  # an extra: asked for here, where an admin is told
    except ImportError:
        raise StoreError("PostgreSQL needs psycopg: pip install kbatch-server[postgresql]") from None
    return url.set(drivername="postgresql+psycopg")


def make_connect_args(url: URL) -> dict[str, Any]:
    """Return psycopg's arguments: the address, and our limits unless the URL's query sets them."""
    limits: dict[str, Any] = {
        "application_name": "kbatch-server",
        "connect_timeout": CONNECT_SECONDS,
        "keepalives_idle": DEAD_SECONDS // 2,
        "keepalives_interval": 2,
        "keepalives_count": 2,
        "tcp_user_timeout": DEAD_SECONDS * 1000,
        # after a failover, the address may lead to the old server for a while, which accepts no writes
        "target_session_attrs": "read-write",
    }
    address: dict[str, Any] = url.translate_connect_args(database="dbname", username="user")
    return limits | address | dict(url.query)


def make_engines(url: URL, *, readers: int) -> tuple[Engine, Engine]:
    """Return an engine for reading with ``readers`` connections, and one for writing with one."""
    options: dict[str, Any] = {
        "connect_args": make_connect_args(url),
        "max_overflow": 0,
        "use_native_hstore": False,
        "hide_parameters": True,
    }
    plain = URL.create(url.drivername)  # all of the address is in connect_args
    reader = create_engine(
        plain,
        pool_size=readers,
        pool_reset_on_return=None,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        **options,
    )
    writer = create_engine(
        plain, pool_size=1, pool_pre_ping=True, isolation_level="READ COMMITTED", **options
    )
    for engine in (reader, writer):
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "handle_error", _leave_read_only)
    return reader, writer


def _leave_read_only(context: ExceptionContext) -> None:
    """Reconnect if the server accepts no writes any more, for example because it is a standby now."""
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
        context.is_disconnect = True


def lock_migrations(connection: Connection) -> None:
    """Wait until no other process changes the tables, and prevent it until the end of this transaction."""
    for name in ("statement_timeout", "lock_timeout"):
        connection.execute(select(func.set_config(name, f"{UPGRADE_SECONDS}s", True)))
    connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))


def lock_word(connection: Connection, word: str) -> None:
    """Lock a word until the end of the transaction; waits for other processes with the same word."""
    connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(word, 0))))


def lock_words(connection: Connection, words: Sequence[str]) -> None:
    """Lock several words as ``lock_word`` does, always in the same order, to avoid deadlocks."""
    numbers = select(func.hashtextextended(func.unnest(list(words)), 0).label("number")).order_by("number")
    connection.execute(select(func.count(func.pg_advisory_xact_lock(numbers.subquery().c.number))))


def announce(connection: Connection, words: Sequence[str]) -> None:
    """Send words without spaces to listeners when the transaction is committed; 8000 bytes at most."""
    connection.execute(select(func.pg_notify(CHANNEL, " ".join(words))))


def announce_changes(connection: Connection, words: Sequence[str]) -> None:
    """Send changed jobs to listeners when the transaction is committed; each 8000 bytes at most."""
    connection.execute(_ANNOUNCE_CHANGES, {"words": list(words)})


def _prepare(connection: Any, record: Any) -> None:
    """Set the limits and the conversions of a session, before its first transaction."""
    was = connection.autocommit
    connection.autocommit = True
    connection.execute(SET_LIMITS)
    connection.autocommit = was
    connection.adapters.register_dumper(str, _make_text_dumper())


def _make_text_dumper() -> type[Any]:
    from psycopg.types.string import StrDumper

    class TextDumper(StrDumper):
        """Sends text, with U+FFFD for NUL, which PostgreSQL's text cannot have and JSON and URLs can."""

        def dump(self, obj: str) -> Any:
            """Return the bytes to send."""
            return super().dump(obj.replace("\0", "\ufffd"))

    return TextDumper
