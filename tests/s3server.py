"""S3 on this machine: versitygw, from a Go module, over a folder, kept in a cache outside of the project."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from servers import wait_until_it_listens

from tests.cluster.build import cache_dir

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
            self.process.wait(10)
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
        return sorted(path for path in (self.folder / self.bucket).rglob("*") if path.is_file())


def find_s3server() -> Path | None:
    """Return the program, built when it is not there yet (two minutes), or None where there is no Go."""
    program = cache_dir() / f"versitygw-{VERSION}" / "versitygw"
    if not program.exists():
        if shutil.which("go") is None:
            return None
        program.parent.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=program.parent.parent, prefix="building-") as scratch:
            environment = os.environ | {"GOBIN": scratch, "CGO_ENABLED": "0"}
            command = ["go", "install", f"{PACKAGE}@{VERSION}"]
            subprocess.run(command, check=True, timeout=900, env=environment, capture_output=True)
            program.parent.mkdir(exist_ok=True)
            (Path(scratch) / "versitygw").replace(program)
    return program


@contextlib.contextmanager
def running_s3server(program: Path, folder: Path, host: str = "127.0.0.1") -> Iterator[S3Server]:
    """Run a server with one empty bucket that keeps its files in the folder; it listens at that address."""
    with socket.socket() as free:
        free.bind((host, 0))
        port = free.getsockname()[1]
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
