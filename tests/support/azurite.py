"""Azure Blob Storage on this machine: Azurite, from npm, kept in a cache outside of the project."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.parts import cache_dir, find_part, making, run_tool
from tests.support.ports import find_ports
from tests.support.servers import STOP_SECONDS, wait_until_it_listens

VERSION = "3.37.0"  # the first that knows how azure-storage-blob 12.31 signs URLs for an identity
ACCOUNT = "devstoreaccount1"
# the same in every Azurite: https://learn.microsoft.com/azure/storage/common/storage-use-azurite
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def azurite_dir() -> Path:
    """Where it is installed, or will be."""
    return cache_dir() / f"azurite-{VERSION}"


def find_azurite() -> Path:
    """Return the program; raises PartMissing."""
    return find_part(azurite_dir() / "node_modules/.bin/azurite-blob", f"Azurite {VERSION}")


def install_azurite() -> None:
    """Install it with npm."""
    with making(azurite_dir()) as folder:
        command = ["npm", "install", "--prefix", folder, "--no-audit", "--no-fund"]
        run_tool(*command, f"azurite@{VERSION}")


@contextlib.contextmanager
def running_azurite(
    program: Path, folder: Path, *, host: str = "127.0.0.1", tls: tuple[Path, Path] | None = None
) -> Iterator[str]:
    """Run Azurite with nothing in it, and yield the URL of its account's blobs.

    It listens at that address of this machine. With ``tls``, the files of a certificate and its key, it
    speaks HTTPS and takes OAuth tokens, too, whatever their signature.
    """
    (port,) = find_ports(1)
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
            process.wait(STOP_SECONDS)
