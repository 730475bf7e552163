"""A real PostgreSQL for tests: a server of our own in a folder of its own, ended with the tests."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg

from tests.support.parts import PartMissing
from tests.support.ports import find_ports
from tests.support.servers import START_SECONDS

ACCOUNT = "postgres"
"""Debian's account, which the server runs as when the tests run as root: it refuses to be root."""

# no wait for the disk: these tests kill processes, and no machine; what was written is in the kernel then
SETTINGS = """
listen_addresses = '{addresses}'
port = {port}
unix_socket_directories = ''
max_connections = 100
shared_buffers = 32MB
fsync = off
full_page_writes = off
autovacuum = off
log_min_messages = fatal
"""


def find_programs() -> Path:
    """Return the folder of the newest server's programs; raises PartMissing."""
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if found := shutil.which("postgres"):
        folders.append(Path(found).resolve().parent)
    if not folders:
        raise PartMissing("PostgreSQL")
    return max(folders, key=lambda folder: _version(folder))


def _version(folder: Path) -> int:
    name = folder.parent.name
    return int(name) if name.isdigit() else 0


class PostgreSQL:
    """One server, as who owns it sees it."""

    def __init__(self, *addresses: str) -> None:
        """It listens at the loopback address, and at these for whoever knows the password."""
        self._programs = find_programs()
        self._account = ACCOUNT if os.geteuid() == 0 else None
        self.password = secrets.token_hex(8)
        (self.port,) = find_ports(1)
        self._folder = Path(tempfile.mkdtemp(prefix="kbatch-postgresql-"))
        password_file = self._folder / "password"
        password_file.write_text(self.password)
        if self._account:
            shutil.chown(self._folder, self._account)
            shutil.chown(password_file, self._account)
        self._data = self._folder / "data"
        self._run("initdb", "--auth=scram-sha-256", f"--pwfile={password_file}", "--no-sync", "-U", "kbatch")
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(SETTINGS.format(port=self.port, addresses=",".join(["127.0.0.1", *addresses])))
        if addresses:
            with (self._data / "pg_hba.conf").open("a") as file:
                file.write("host all all all scram-sha-256\n")

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._run("pg_ctl", "start", "--wait", f"--log={self._folder / 'log'}")

    def stop(self, mode: str = "fast") -> None:
        """End it: ``fast`` ends every session, ``immediate`` is a crash."""
        self._run("pg_ctl", "stop", "--wait", f"--mode={mode}")

    def remove(self) -> None:
        """End it and leave nothing."""
        self.stop("immediate")
        shutil.rmtree(self._folder)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), "--pgdata", str(self._data), *arguments],
            user=self._account,
            group=self._account,
            extra_groups=[] if self._account else None,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # no pipe: the server would keep it open
            stderr=subprocess.STDOUT,
            timeout=START_SECONDS,
            check=False,
        )
        log = self._folder / "log"
        assert done.returncode == 0, f"{program} failed: {log.read_text() if log.exists() else ''}"

    def make_database(self) -> str:
        """Return the URL of a new, empty database."""
        name = f"test_{secrets.token_hex(6)}"
        self.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove one, with every session that is in it."""
        self.execute(f'DROP DATABASE IF EXISTS "{url.rpartition("/")[2]}" WITH (FORCE)')

    def url(self, database: str, *, host: str = "127.0.0.1") -> str:
        """Return the URL of a database."""
        return f"postgresql://kbatch:{self.password}@{host}:{self.port}/{database}"

    def execute(self, sql: str, *values: object, url: str | None = None) -> list[tuple]:
        """Return the rows of a statement, from outside of every transaction."""
        with psycopg.connect(url or self.url("postgres"), autocommit=True) as connection:
            cursor = connection.execute(sql, values or None)
            return cursor.fetchall() if cursor.description else []
