"""Ten minutes of what strangers and users could send to do harm, and what others notice: ``make soak``.

The real service, with SQLite, files and jobs of this machine, in a process of its own, and the attackers in
another. Meanwhile somebody works: lists jobs, submits some, and reads what became of them. Printed are the
service's memory, how late its event loop came to a timer, and what that somebody waited for and was answered.
``SOAK_SECONDS=60 make soak`` is a shorter one.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.hub import find_ports
from tests.service import Service

from .hub import FakeHub

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
ONLY = os.environ.get("SOAK_ONLY", "").split()
"""The names of some attackers, to see what one of them does; else all."""

PREFIX = "/services/kbatch/"
ACCESS = "access:services"
ACTIONS = [f"custom:kbatch:jobs:{action}" for action in ("submit", "read", "cancel")]
USERS = {
    "alice": {"name": "alice", "scopes": [ACCESS, *ACTIONS]},
    "mallory": {"name": "mallory", "scopes": [ACCESS, *ACTIONS]},
    "prometheus": {"name": "prometheus", "kind": "service", "scopes": [ACCESS, "read:metrics"]},
}

CONFIG = """
c.KBatchServer.bind_url = "http://127.0.0.1:{port}"
c.KBatchServer.launcher_class = "local"
c.JobConfig.image = "this-machine"
c.LocalProcessJobLauncher.root = "{folder}/jobs"
"""

MALLORY = "Authorization: token mallory"
MIB = 2**20
SETTLE_SECONDS = 30


# The attackers: each is one request, or what looks like the beginning of one


def make_head(method: str, path: str, *headers: str) -> bytes:
    """Return the head of a request."""
    return "\r\n".join([f"{method} {PREFIX}{path} HTTP/1.1", "Host: x", *headers, "", ""]).encode("latin-1")


class Attackers:
    """Everything that is sent to do harm, each again and again until the end."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.sent: collections.Counter[str] = collections.Counter()
        self._numbers = itertools.count()

    def all(self) -> list[tuple[Any, int, float]]:
        """Return each with how many do it at a time, and how many seconds one waits between."""
        return [
            (self.send_half_heads, 300, 1.0),
            (self.send_half_bodies, 100, 1.0),
            (self.send_unknown_methods, 4, 0.1),
            (self.send_words, 4, 0.1),
            (self.send_made_up_tokens, 4, 0.1),
            (self.begin_logins, 2, 0.1),
            (self.read_pages_slowly, 50, 1.0),
            (self.send_large_json, 2, 0.5),
            (self.send_deep_json, 2, 0.5),
            (self.send_half_json, 20, 1.0),
            (self.send_many_parts, 2, 0.5),
            (self.ask_for_sums, 8, 0.1),
            (self.ask_for_lists, 4, 0.2),
            (self.follow_logs, 20, 1.0),
            (self.submit_and_cancel, 1, 0.5),
        ]

    async def run(self, seconds: float) -> None:
        """Do all of it for so long."""
        end = time.monotonic() + seconds
        tasks = [
            asyncio.create_task(self._repeat(attack, pause, end))
            for attack, count, pause in self.all()
            if not ONLY or attack.__name__ in ONLY
            for _ in range(count)
        ]
        await asyncio.gather(*tasks)

    async def _repeat(self, attack: Any, pause: float, end: float) -> None:
        await asyncio.sleep(random.random() * pause)
        while time.monotonic() < end:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(max(end - time.monotonic(), 0.1)):
                    await attack()
            self.sent[attack.__name__] += 1
            await asyncio.sleep(pause)

    @contextlib.asynccontextmanager
    async def _connect(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=65536)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def _send(self, *pieces: bytes, wait: float = 5.0) -> None:
        async with self._connect() as (reader, writer):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(65536), wait)

    async def send_half_heads(self) -> None:
        """Begin a request."""
        await self._send(b"GET /services/kbatch/api/v1/jobs HTTP/1.1\r\nHost: x\r\nX-Slow: ", wait=30)

    async def send_half_bodies(self) -> None:
        """Begin a body, of nobody."""
        await self._send(make_head("POST", "api/v1/jobs", "Content-Length: 1000000"), b"{", wait=30)

    async def send_unknown_methods(self) -> None:
        """Send a method that nobody knows, with a body."""
        method = random.choice(["PROPFIND", "QUERY", "FINISH", "MKCOL"])
        await self._send(make_head(method, "api/v1/health", "Content-Length: 5"), b"hello")

    async def send_words(self) -> None:
        """Send what expressions are slow with, in a URL and in headers."""
        word = random.choice(["token", "code=", "a=", "/code/", "//@", "%74", "&", "a.", "-"]) * 3000
        await self._send(make_head("GET", f"api/v1/health?{word[:14_000]}"))
        await self._send(
            make_head("GET", "api/v1/health", f"Cookie: a={word[:14_000]}", f"Range: {word[:900]}")
        )

    async def send_made_up_tokens(self) -> None:
        """Have the hub asked for a token that there is not."""
        await self._send(make_head("GET", "api/v1/jobs", f"Authorization: token {next(self._numbers)}"))

    async def begin_logins(self) -> None:
        """Begin a login, and never end it."""
        await self._send(make_head("GET", "submit", "Accept: text/html", "Sec-Fetch-Mode: navigate"))

    async def read_pages_slowly(self) -> None:
        """Ask for a script, and do not read it."""
        async with self._connect() as (reader, writer):
            writer.write(make_head("GET", "", MALLORY, "Accept: text/html"))
            page = (await reader.read(65536)).decode("latin-1")
            script = re.search(r'static/[\w.-]+\.js"', page.replace("theme", ""))
            writer.write(make_head("GET", script[0].rstrip('"') if script else "static/none"))
            await asyncio.sleep(20)

    async def send_large_json(self) -> None:
        """Send as much JSON as may be, with little in it."""
        body = b'{"name": "x", "description": "' + b"x" * (15 * MIB) + b'"}'
        await self._send(make_head("POST", "api/v1/jobs", MALLORY, f"Content-Length: {len(body)}"), body)

    async def send_deep_json(self) -> None:
        """Send a body of a megabyte with very many elements, or very deep ones."""
        many = b'{"name": "x", "args": [' + b"1," * 500_000 + b"1]}"
        deep = b"[" * 100_000
        body = random.choice([many, deep])
        await self._send(make_head("POST", "api/v1/jobs", MALLORY, f"Content-Length: {len(body)}"), body)

    async def send_half_json(self) -> None:
        """Send a megabyte of a body, and no more."""
        head = make_head("POST", "api/v1/jobs", MALLORY, "Content-Length: 16000000")
        await self._send(head, b" " * MIB, wait=40)

    async def send_many_parts(self) -> None:
        """Send a form with very many tiny parts."""
        body = b"--a\r\n\r\n\r\n" * 300_000
        kind = "Content-Type: multipart/form-data; boundary=a"
        await self._send(
            make_head("POST", "api/v1/uploads", MALLORY, kind, f"Content-Length: {len(body)}"), body
        )

    async def ask_for_sums(self) -> None:
        """Have all jobs counted, and searched."""
        path = random.choice(["api/v1/jobs/summary", "api/v1/jobs?search=a&limit=500", "api/v1/jobs?tag=a:b"])
        await self._send(make_head("GET", path, MALLORY))

    async def ask_for_lists(self) -> None:
        """Have everything listed."""
        path = random.choice(["api/v1/jobs?limit=500", "jobs/", "pods/", "api/v1/openapi.json", "metrics"])
        await self._send(make_head("GET", path, MALLORY))

    async def follow_logs(self) -> None:
        """Watch, and follow a log that there is not, without reading."""
        await self._send(make_head("GET", "api/v1/jobs/watch", MALLORY), wait=30)

    async def submit_and_cancel(self) -> None:
        """Submit a job with an environment as large as may be, and cancel it."""
        job = {"name": "x", "command": ["true"], "env": {"X": "x" * 100_000}}
        body = json.dumps(job).encode()
        head = make_head(
            "POST", "api/v1/jobs", MALLORY, "Content-Type: application/json", f"Content-Length: {len(body)}"
        )
        async with self._connect() as (reader, writer):
            writer.write(head + body)
            answer = await reader.read(1000)
            job_id = re.search(rb'"id": "([^"]+)"', answer)
            if job_id:
                writer.write(make_head("DELETE", f"api/v1/jobs/{job_id[1].decode()}", MALLORY))
                await reader.read(1000)


# The one who works, and who looks


class Worker:
    """Somebody with work to do: how long each answer took, and what it was."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}{PREFIX}"
        self.seconds: list[float] = []
        self.answers: collections.Counter[str] = collections.Counter()
        self.jobs: collections.Counter[str] = collections.Counter()
        self.start_seconds: list[float] = []

    async def run(self, seconds: float) -> None:
        """List jobs twice a second, and have a job run every ten."""
        end = time.monotonic() + seconds
        timeout = aiohttp.ClientTimeout(total=60)
        headers = {"Authorization": "token alice"}
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
            await asyncio.gather(self._list(session, end), self._work(session, end))

    async def _ask(self, session: aiohttp.ClientSession, method: str, path: str, **options: Any) -> Any:
        began = time.monotonic()
        try:
            async with session.request(method, self._url + path, **options) as answer:
                data = await answer.json()
                self.answers[str(answer.status)] += 1
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.answers[type(error).__name__] += 1
            return {}
        finally:
            self.seconds.append(time.monotonic() - began)
        return data

    async def _list(self, session: aiohttp.ClientSession, end: float) -> None:
        while time.monotonic() < end:
            await self._ask(session, "GET", "api/v1/jobs")
            await asyncio.sleep(0.5)

    async def _work(self, session: aiohttp.ClientSession, end: float) -> None:
        while time.monotonic() < end - 10:
            began = time.monotonic()
            job = await self._ask(session, "POST", "api/v1/jobs", json={"name": "work", "command": ["true"]})
            status = job.get("status", "not accepted")
            while status in {"queued", "pending", "running"} and time.monotonic() < began + 60:
                await asyncio.sleep(0.25)
                status = (await self._ask(session, "GET", f"api/v1/jobs/{job['id']}")).get("status", status)
            self.jobs[status] += 1
            self.start_seconds.append(time.monotonic() - began)
            await asyncio.sleep(max(0, began + 10 - time.monotonic()))


class Watcher:
    """Memory of the service, and how late its event loop was, once a second."""

    def __init__(self, service: Service) -> None:
        assert service.process is not None
        self._pid = service.process.pid
        self._url = f"http://127.0.0.1:{service.port}{PREFIX}metrics"
        self.memory: list[int] = []
        self.metrics = ""

    async def run(self, seconds: float) -> None:
        """Look for so long."""
        end = time.monotonic() + seconds
        headers = {"Authorization": "token prometheus"}
        async with aiohttp.ClientSession(
            headers=headers, timeout=aiohttp.ClientTimeout(total=120)
        ) as session:
            asked = time.monotonic()
            while time.monotonic() < end:
                self.memory.append(self.read_memory())
                if time.monotonic() > asked + 10:
                    asked = time.monotonic()
                    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                        async with session.get(self._url) as answer:
                            self.metrics = await answer.text() if answer.status == 200 else self.metrics
                await asyncio.sleep(1)
            async with session.get(self._url) as answer:
                self.metrics = await answer.text()

    def read_memory(self) -> int:
        """Return the bytes that the process has in memory."""
        pages = int(Path(f"/proc/{self._pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def read_peak(self) -> int:
        """Return the most that it ever had."""
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self._pid}/status").read_text())
        return int(found[1]) * 1024 if found else 0

    def count(self, name: str) -> dict[str, float]:
        """Return the values of a metric, by its labels."""
        return {
            labels: float(value)
            for labels, value in re.findall(rf"^{name}(\S*) (\S+)$", self.metrics, re.MULTILINE)
        }

    def show_lag(self) -> str:
        """Return how many of the timers were later than some times."""
        buckets = self.count("kbatch_event_loop_lag_seconds_bucket")
        total = buckets.get('{le="+Inf"}', 0)
        if not total:
            return "none"
        later = []
        for limit in ("0.05", "0.1", "0.25", "0.5", "1.0"):
            share = 1 - buckets['{le="' + limit + '"}'] / total
            later.append(f"{100 * share:.2f} % later than {limit} s")
        return ", ".join(later)


def percentiles(values: list[float]) -> str:
    """Return the median, the 99th percentile and the most of some seconds."""
    if len(values) < 2:
        return "none"
    hundredths = statistics.quantiles(values, n=100, method="inclusive")
    return f"{hundredths[49]:.3f} s, {hundredths[98]:.3f} s, {max(values):.3f} s"


async def soak(folder: Path) -> None:
    """Run all of it, and print the figures."""
    async with FakeHub(USERS) as hub:
        (port,) = find_ports(1)
        config = CONFIG.format(port=port, folder=folder)
        service = Service(folder, port=port, config=config, environment=hub.service_environment(PREFIX))
        await asyncio.to_thread(service.start)
        try:
            watcher, worker = Watcher(service), Worker(port)
            before = watcher.read_memory()
            command = [sys.executable, "-m", "benchmarks.bench_hostile", str(port), str(SECONDS)]
            attackers = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            await asyncio.gather(watcher.run(SECONDS), worker.run(SECONDS))
            sent = json.loads((await attackers.communicate())[0])
            await asyncio.sleep(SETTLE_SECONDS)  # what was broken off is let go of
            report(watcher, worker, sent, before)
        finally:
            await asyncio.to_thread(service.stop)


def report(watcher: Watcher, worker: Worker, sent: dict[str, int], before: int) -> None:
    """Print the figures."""
    memory = sorted(watcher.memory)
    rows = {
        "sent to do harm": f"{sum(sent.values()) / SECONDS:.0f} a second for {SECONDS:.0f} s",
        "memory before, median, most, after": ", ".join(
            f"{size / MIB:.0f} MiB"
            for size in (before, memory[len(memory) // 2], watcher.read_peak(), watcher.read_memory())
        ),
        "timers of the event loop": watcher.show_lag(),
        "others' answers: median, 99 %, most": percentiles(worker.seconds),
        "others' answers": dict(worker.answers),
        "others' jobs": dict(worker.jobs),
        "from submit to end: median, 99 %, most": percentiles(worker.start_seconds),
        "connections closed": watcher.count("kbatch_connections_closed_total"),
        "requests limited": watcher.count("kbatch_requests_limited_total"),
    }
    for name, value in rows.items():
        print(f"{name:42} {value}")
    for name, count in sorted(sent.items()):
        print(f"    {name:38} {count}")


def attack(port: int, seconds: float) -> None:
    """Be the attackers, and print how often each did what it does."""
    attackers = Attackers(port)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(attackers.run(seconds))
    print(json.dumps(attackers.sent))


def main() -> None:
    """Do one or the other."""
    if len(sys.argv) > 1:
        attack(int(sys.argv[1]), float(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        Path(folder).chmod(0o711)
        asyncio.run(soak(Path(folder)))


if __name__ == "__main__":
    main()
