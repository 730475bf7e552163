"""Azure Blob Storage on this machine: Azurite, from npm, kept in a cache outside of the project."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from servers import wait_until_it_listens

from tests.cluster.build import cache_dir

VERSION = "3.37.0"  # the first that knows how azure-storage-blob 12.31 signs URLs for an identity
ACCOUNT = "devstoreaccount1"
# the same in every Azurite: https://learn.microsoft.com/azure/storage/common/storage-use-azurite
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def find_azurite() -> Path | None:
    """Return the program, installed when it is not there yet, or None where there is no npm."""
    folder = cache_dir() / f"azurite-{VERSION}"
    program = folder / "node_modules/.bin/azurite-blob"
    if not program.exists():
        npm = shutil.which("npm")
        if npm is None:
            return None
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="installing-") as scratch:
            command = [npm, "install", "--prefix", f"{scratch}/new", "--no-audit", "--no-fund"]
            subprocess.run(
                [*command, f"azurite@{VERSION}"], check=True, timeout=600, stdout=subprocess.DEVNULL
            )
            with contextlib.suppress(OSError):  # another process was first
                os.rename(f"{scratch}/new", folder)
    return program


@contextlib.contextmanager
def running_azurite(
    program: Path, folder: Path, *, host: str = "127.0.0.1", tls: tuple[Path, Path] | None = None
) -> Iterator[str]:
    """Run Azurite with nothing in it, and yield the URL of its account's blobs.

    It listens at that address of this machine. With ``tls``, the files of a certificate and its key, it
    speaks HTTPS and takes OAuth tokens, too, whatever their signature.
    """
    with socket.socket() as free:
        free.bind((host, 0))
        port = free.getsockname()[1]
    log = folder / "azurite.log"
    command = [program, "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    command += ["--blobHost", host, "--blobPort", str(port)]
    if tls is not None:
        command += ["--cert", tls[0], "--key", tls[1], "--oauth", "basic"]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            wait_until_it_listens(process, (host, port), log)
            yield f"http{'' if tls is None else 's'}://{host}:{port}/{ACCOUNT}"
        finally:
            # the group: node may be a wrapper around the real one, which would go on
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(10)
