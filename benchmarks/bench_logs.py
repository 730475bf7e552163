"""Show that a log of a gigabyte neither fills the memory nor slows other requests: ``make bench-logs``.

One service with processes as jobs and files as storage. A job prints a GiB of lines of 100 bytes as fast as
it can; then its log is read whole, its end is read, and it is searched. Meanwhile a job is read again and
again, one request at a time, as before anything was printed.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp

from tests.support.ports import find_ports
from tests.support.service import Service

from .hub import FakeHub
from .load import Request, Result, run_load

LOG_BYTES = 2**30 // 100 * 100
LINE = "x" * 99
MAX_GROWTH_BYTES = 64 * 2**20
END_SECONDS = 600
PREFIX = "/services/kbatch/"
HEADERS = {"Authorization": "token a-token-of-alice"}
SCOPES = ["access:services", "custom:kbatch:jobs:submit", "custom:kbatch:jobs:read"]
CONFIG = """
c.KBatchServer.bind_url = "http://127.0.0.1:{port}"
c.KBatchServer.launcher_class = "local"
c.KBatchServer.log_level = "WARN"
c.JobConfig.allowed_images = ["none"]
c.LogRecorder.max_log_bytes = 2 * 2**30
"""
COMMAND = ["sh", "-c", f"yes {LINE} | head -c {LOG_BYTES}"]

READER = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], headers={"Authorization": sys.argv[2]})
size = 0
with urllib.request.urlopen(request) as answer:
    while piece := answer.read(2**20):
        size += len(piece)
print(size)
"""


class Bench:
    """One service under load, and how much memory it takes."""

    def __init__(self, service: Service) -> None:
        assert service.process is not None
        self._status = Path(f"/proc/{service.process.pid}/status")
        self._jobs = f"http://127.0.0.1:{service.port}{PREFIX}api/v1/jobs"
        self._job_url = ""
        self._idle_p99 = 0.0
        self._rss = self.read_rss()
        self.growth_bytes = 0

    def read_rss(self) -> int:
        """Return the memory of the service, in bytes."""
        lines = self._status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024

    async def run(self) -> None:
        """Measure all, and print it."""
        async with aiohttp.ClientSession(headers=HEADERS) as session:
            body = {"name": "bench", "image": "none", "command": ["true"]}
            self._job_url = f"{self._jobs}/{await self.submit(session, body)}"
            await self.read_jobs(1000)
            idle = await self.read_jobs(2000)
            self._idle_p99 = idle.percentile(99)
            self._rss = self.read_rss()
            print(f"{'nothing else':24} a job read: p50 {idle.percentile(50) * 1000:.1f} ms, ", end="")
            print(f"p99 {self._idle_p99 * 1000:.1f} ms; memory {self._rss / 2**20:.0f} MiB")
            job_id = await self.submit(session, body | {"command": COMMAND})
            log = f"{self._jobs}/{job_id}/logs"
            await self.measure("recorded", lambda: self.wait_for_log(session, log))
            await self.measure("read whole", lambda: self.read(log))
            await self.measure("followed", lambda: self.read(f"{log}?follow=true"))
            await self.measure("searched", lambda: self.read(f"{log}?search=needle", expected=0))
            await self.measure("the last 1000 lines", lambda: self.read(f"{log}?tail=1000", expected=10**5))

    async def submit(self, session: aiohttp.ClientSession, body: dict[str, object]) -> str:
        """Submit a job and return its id."""
        async with session.post(self._jobs, json=body) as answer:
            answer.raise_for_status()
            return str((await answer.json())["id"])

    async def wait_for_log(self, session: aiohttp.ClientSession, log: str) -> None:
        """Wait until all of a log can be read."""
        async with asyncio.timeout(END_SECONDS):
            while True:
                async with session.get(log, headers={"Range": "bytes=0-0"}) as answer:
                    if answer.headers.get("Content-Range", "").endswith(f"/{LOG_BYTES}"):
                        return
                await asyncio.sleep(0.2)

    async def read(self, url: str, *, expected: int = LOG_BYTES) -> None:
        """Read an answer of so many bytes, in a process of its own: it must not slow down our clock."""
        command = [sys.executable, "-c", READER, url, HEADERS["Authorization"]]
        reader = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        async with asyncio.timeout(END_SECONDS):
            output, _ = await reader.communicate()
        if int(output or -1) != expected:
            raise RuntimeError(f"{url}: {output!r} bytes, not {expected}")

    async def read_jobs(self, total: int) -> Result:
        """Read a job so many times, one at a time."""
        return await run_load(
            lambda number: Request("GET", self._job_url), total=total, in_flight=1, headers=HEADERS
        )

    async def measure(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work while a job is read, and print what both took."""
        loading = asyncio.create_task(self.load_until_done(task := asyncio.ensure_future(work())))
        began = time.perf_counter()
        try:
            await task
            elapsed = time.perf_counter() - began
        finally:
            durations, peak = await loading
        growth = peak - self._rss
        self.growth_bytes = max(self.growth_bytes, growth)
        p99 = sorted(durations)[int(len(durations) * 0.99)]
        print(f"{name:24} {LOG_BYTES / 1e6 / elapsed:7.0f} MB/s ({elapsed:.1f} s)  ", end="")
        print(f"memory +{growth / 2**20:.0f} MiB  a job read: p99 {p99 * 1000:.1f} ms ", end="")
        print(f"({p99 / self._idle_p99:.1f}x of idle, {len(durations)} reads)", flush=True)

    async def load_until_done(self, task: asyncio.Future[None]) -> tuple[list[float], int]:
        """Read a job until a task is done; return the durations in seconds, and the most memory seen."""
        durations: list[float] = []
        peak = self.read_rss()
        while not task.done() or not durations:
            result = await self.read_jobs(5)
            durations += result.durations_seconds
            peak = max(peak, self.read_rss())
        return durations, peak


async def bench() -> int:
    """Run the service and measure it; return the exit status."""
    async with FakeHub({"a-token-of-alice": {"name": "alice", "scopes": SCOPES}}) as hub:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            os.chmod(folder, 0o755)  # so that the account of the jobs may pass
            (port,) = find_ports(1)
            environment = hub.service_environment(PREFIX)
            service = Service(
                Path(folder), port=port, config=CONFIG.format(port=port), environment=environment
            )
            await asyncio.to_thread(service.start)
            try:
                measured = Bench(service)
                await measured.run()
            finally:
                await asyncio.to_thread(service.stop)
    is_reached = measured.growth_bytes < MAX_GROWTH_BYTES
    limit = MAX_GROWTH_BYTES // 2**20
    print(f"memory grew by less than {limit} MiB: {'reached' if is_reached else 'NOT REACHED'}")
    return 0 if is_reached else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(bench()))
