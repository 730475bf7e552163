"""S3 on this machine: versitygw, from a Go module, over a folder, kept in a cache outside of the project."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.cluster.build import run_go
from tests.support.folders import find_files
from tests.support.parts import cache_dir, find_part, making
from tests.support.ports import find_ports
from tests.support.servers import STOP_SECONDS, wait_until_it_listens

VERSION = "v1.8.0"
PACKAGE = "github.com/versity/versitygw/cmd/versitygw"
BUCKET = "code"


@dataclass
class S3Server:
    """A server: where it listens, its bucket, the key of its owner, and the folder where it keeps files."""

    address: tuple[str, int]
    bucket: str
    access_key_id: str
    secret_access_key: str
    folder: Path
    program: Path
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return "http://{}:{}".format(*self.address)

    def start(self) -> None:
        """Start it (again), with all that the folder has, and wait until it listens."""
        environment = {
            "ROOT_ACCESS_KEY": self.access_key_id,
            "ROOT_SECRET_KEY": self.secret_access_key,
            "PATH": os.environ["PATH"],
        }
        where = "{}:{}".format(*self.address)
        command = [self.program, "--port", where, "--keep-alive", "--quiet", "posix", self.folder]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                command, cwd=self.log.parent, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        wait_until_it_listens(self.process, self.address, self.log)

    def stop(self) -> None:
        """End it; what is in the folder stays."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(STOP_SECONDS)
            self.process = None

    def settings(self) -> dict[str, object]:
        """Return what S3Storage must be told."""
        return {
            "endpoint": self.endpoint,
            "bucket": self.bucket,
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
            "allow_http": True,
        }

    def find_files(self) -> list[Path]:
        """Return every file of the bucket, those of unfinished uploads, too."""
        return find_files(self.folder / self.bucket)


def s3server_dir() -> Path:
    """Where the program is, or will be."""
    return cache_dir() / f"versitygw-{VERSION}"


def find_s3server() -> Path:
    """Return the program; raises PartMissing."""
    return find_part(s3server_dir() / "versitygw", f"versitygw {VERSION}")


def build_s3server() -> None:
    """Build it: two minutes when nothing is cached."""
    with making(s3server_dir()) as folder:
        run_go("install", f"{PACKAGE}@{VERSION}", GOBIN=str(folder))


@contextlib.contextmanager
def running_s3server(program: Path, folder: Path, host: str = "127.0.0.1") -> Iterator[S3Server]:
    """Run a server with one empty bucket that keeps its files in the folder; it listens at that address."""
    (port,) = find_ports(1)
    root = folder / "root"
    (root / BUCKET).mkdir(parents=True)
    server = S3Server(
        (host, port),
        BUCKET,
        secrets.token_hex(10),
        secrets.token_hex(20),
        root,
        program,
        folder / "s3server.log",
    )
    try:
        server.start()
        yield server
    finally:
        server.stop()
