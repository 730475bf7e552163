"""Send four ZIPs of a gigabyte at the same time and see what it costs the service: ``make bench-uploads``.

The real service, with files as its storage, in a process of its own. The ZIPs are made while they are
sent, and nothing in them is compressed: all of it is written, hashed, read again and checked. Meanwhile the
service's memory is looked at, and how long others wait for an answer. It needs 5 GB of disk for a minute.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import sys
import tempfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.ports import find_ports
from tests.support.service import Service

from .hub import FakeHub

CLIENTS = 4
ENTRIES = 8
ENTRY_BYTES = 2**27 - 4096  # with what is around them, just under a gigabyte in all
PIECE_BYTES = 2**20
MAX_GROWTH_BYTES = 64 * 2**20
IDLE_SECONDS = 5
PREFIX = "/services/kbatch/"
TOKEN = "a-token-of-alice"
USER = {"name": "alice", "scopes": ["access:services", "custom:kbatch:jobs:submit"]}

CONFIG = """
c.KBatchServer.bind_url = "http://127.0.0.1:{port}"
c.KBatchServer.launcher_class = "local"
"""


class Sink(io.RawIOBase):
    """A file that can only be written to, and that passes on or counts what is."""

    def __init__(self, connection: http.client.HTTPConnection | None = None) -> None:
        self.size = 0
        self._connection = connection

    def writable(self) -> bool:
        """Say that it is."""
        return True

    def write(self, data: bytes) -> int:
        """Send the bytes, where there is a connection."""
        if self._connection is not None:
            self._connection.send(data)
        self.size += len(data)
        return len(data)


def write_zip(sink: Sink, piece: bytes) -> int:
    """Write a ZIP of a gigabyte, not compressed, and return its size."""
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for number in range(ENTRIES):
            with archive.open(f"data-{number}", "w", force_zip64=False) as entry:
                for at in range(0, ENTRY_BYTES, len(piece)):
                    entry.write(piece[: ENTRY_BYTES - at])
    return sink.size


def upload(port: int, size: int) -> float:
    """Send a ZIP and return how many seconds it took to be accepted."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    start = time.monotonic()
    connection.putrequest("POST", f"{PREFIX}api/v1/uploads")
    for name, value in (("Authorization", f"token {TOKEN}"), ("Content-Type", "application/zip")):
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(size))
    connection.endheaders()
    write_zip(Sink(connection), os.urandom(PIECE_BYTES))
    answer = connection.getresponse()
    said = json.loads(answer.read())
    if (answer.status, said.get("size")) != (201, size):
        raise RuntimeError(f"{answer.status}: {said}")
    return time.monotonic() - start


class Watch(threading.Thread):
    """Looks at the memory of a process, and at how long it takes to answer, until it is stopped."""

    def __init__(self, pid: int, port: int) -> None:
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self._port = port
        self._is_stopped = threading.Event()
        self.resident_bytes: list[int] = []
        self.seconds: list[float] = []

    def run(self) -> None:
        """Look, and ask, fifty times a second at most."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        while not self._is_stopped.wait(0.02):
            line = next(line for line in self._status.read_text().splitlines() if line.startswith("VmRSS"))
            self.resident_bytes.append(int(line.split()[1]) * 1024)
            start = time.monotonic()
            connection.request("GET", f"{PREFIX}api/v1/health")
            connection.getresponse().read()
            self.seconds.append(time.monotonic() - start)

    def stop(self) -> Watch:
        """End, and return what was seen."""
        self._is_stopped.set()
        self.join()
        return self

    def __str__(self) -> str:
        ordered = sorted(self.seconds)
        p50, p99 = (1000 * ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
        return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {1000 * ordered[-1]:.0f} ms"


def measure(service: Service) -> int:
    """Send the ZIPs, print what was seen, and return by how many bytes the service grew."""
    assert service.process is not None, "not started"
    pid, size = service.process.pid, write_zip(Sink(), bytes(PIECE_BYTES))
    idle = Watch(pid, service.port)
    idle.start()
    time.sleep(IDLE_SECONDS)
    idle.stop()
    busy = Watch(pid, service.port)
    busy.start()
    start = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as clients:
        seconds = list(clients.map(lambda _: upload(service.port, size), range(CLIENTS)))
    elapsed = time.monotonic() - start
    busy.stop()
    before, most = max(idle.resident_bytes), max(busy.resident_bytes)
    rate = CLIENTS * size / 1e6 / elapsed
    print(
        f"{CLIENTS} x {size} bytes in {elapsed:.1f} s: {rate:.0f} MB/s, each in {max(seconds):.1f} s at most"
    )
    print(f"resident memory: {before / 2**20:.1f} MiB, grew by {(most - before) / 2**20:.1f} MiB at most")
    print(f"api/v1/health, idle:      {idle}")
    print(f"api/v1/health, meanwhile: {busy}")
    return most - before


async def main() -> int:
    """Measure; the exit status says whether memory stayed in bounds."""
    with tempfile.TemporaryDirectory(prefix="bench-uploads-") as folder:
        async with FakeHub({TOKEN: USER}) as hub:
            (port,) = find_ports(1)
            environment = hub.service_environment(PREFIX)
            service = Service(
                Path(folder), port=port, config=CONFIG.format(port=port), environment=environment
            )
            await asyncio.to_thread(service.start)
            try:
                growth = await asyncio.to_thread(measure, service)
            finally:
                await asyncio.to_thread(service.stop)
    return 0 if growth < MAX_GROWTH_BYTES else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
