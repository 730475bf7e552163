"""Checks the version of the tables at the start, and upgrades or rejects them."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, inspect

from . import postgresql
from .errors import StoreError

_MIGRATIONS = Path(__file__).parents[1] / "migrations"


def ensure_schema(connection: Connection, upgrade: bool) -> None:
    """Make sure that the tables have this version's schema, or raise StoreError.

    It creates the tables in an empty database, and upgrades older ones only with ``upgrade``. If several
    processes start at the same time, one does this, and the others find it done.
    """
    if connection.dialect.name == "postgresql":
        postgresql.lock_migrations(connection)  # SQLite has only one writer in any case
    config = make_alembic_config(connection)
    scripts = ScriptDirectory.from_config(config)
    found = MigrationContext.configure(connection).get_current_revision()
    if found == scripts.get_current_head():
        return
    if found is None and inspect(connection).get_table_names():
        raise StoreError(
            "the database has tables of another application: use a database for kbatch-server alone"
        )
    if found is not None:
        _check_known(scripts, found)
        if not upgrade:
            raise StoreError(
                "the database has the schema of an older kbatch-server: run kbatch-server upgrade-db"
            )
    command.upgrade(config, "head")


def make_alembic_config(connection: Connection) -> Config:
    """Return alembic's configuration for a connection and its transaction, without an alembic.ini."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _check_known(scripts: ScriptDirectory, revision: str) -> None:
    try:
        scripts.get_revision(revision)
    except CommandError:
        raise StoreError(
            f"the database (revision {revision}) has the schema of a newer kbatch-server"
        ) from None
