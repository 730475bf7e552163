"""Ten minutes of what strangers and users could send to do harm, and what others notice: ``make soak``.

The real service, with SQLite, files and jobs of this machine, in a process of its own, and the attackers in
another. Meanwhile somebody works: lists jobs, submits some, and reads what became of them. Printed are the
service's memory, how late its event loop came to a timer, and what that somebody waited for and was answered;
it ends with exit code 1 where one of these is more than it may be (the bounds are below).
``SOAK_SECONDS=60 make soak`` is a shorter one.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.hub import find_ports
from tests.support.service import Service

from .attacks import MIB, PREFIX, Attackers
from .hub import FakeHub

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
ACCESS = "access:services"
ACTIONS = [f"custom:kbatch:jobs:{action}" for action in ("submit", "read", "cancel")]
USERS = {
    "alice": {"name": "alice", "scopes": [ACCESS, *ACTIONS]},
    "eve": {"name": "eve", "scopes": [ACCESS, *ACTIONS]},
    "mallory": {"name": "mallory", "scopes": [ACCESS, *ACTIONS]},
    "prometheus": {"name": "prometheus", "kind": "service", "scopes": [ACCESS, "read:metrics"]},
}

CONFIG = """
c.KBatchServer.bind_url = "http://127.0.0.1:{port}"
c.KBatchServer.launcher_class = "local"
c.JobConfig.image = "this-machine"
c.LocalProcessJobLauncher.root = "{folder}/jobs"
"""

KEY = "a-key-of-the-service-that-is-under-attack"
SETTLE_SECONDS = 30

MAX_MIB = 900
"""How much memory the service may ever have: the chart gives it 1 GiB."""

MAX_GROWN_MIB = 450
"""How much more it may have after all of it than before: what it remembers (logs that were read, changes of
jobs, tokens) and what the allocator keeps of the most that it had."""

MAX_GROWING_MIB = 100
"""How much more it may have in the last quarter of the time than in the second: more would be a leak."""

MAX_LATE_SHARE = 0.02
"""How many of the timers of the event loop may be later than a second, on a machine that others use, too."""

MAX_WAIT_SECONDS = 5.0
"""How long 99 of 100 answers of others may take."""


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

    def read_lag(self) -> dict[str, float]:
        """Return how many of the timers were later than some seconds, of all; nothing where none was seen."""
        buckets = self.count("kbatch_event_loop_lag_seconds_bucket")
        total = buckets.get('{le="+Inf"}', 0)
        limits = ("0.05", "0.1", "0.25", "0.5", "1.0") if total else ()
        return {limit: 1 - buckets['{le="' + limit + '"}'] / total for limit in limits}


def percentiles(values: list[float]) -> tuple[float, float, float]:
    """Return the median, the 99th percentile and the most of some seconds."""
    if len(values) < 2:
        return (values[0], values[0], values[0]) if values else (0.0, 0.0, 0.0)
    hundredths = statistics.quantiles(values, n=100, method="inclusive")
    return hundredths[49], hundredths[98], max(values)


async def soak(folder: Path) -> bool:
    """Run all of it, print the figures, and return whether all are within their bounds."""
    async with FakeHub(USERS) as hub:
        (port,) = find_ports(1)
        config = CONFIG.format(port=port, folder=folder)
        environment = hub.service_environment(PREFIX) | {"KBATCH_KEYS": KEY}
        service = Service(folder, port=port, config=config, environment=environment)
        await asyncio.to_thread(service.start)
        try:
            watcher, worker = Watcher(service), Worker(port)
            before = watcher.read_memory()
            command = [sys.executable, "-m", "benchmarks.bench_hostile", str(port), str(SECONDS)]
            attackers = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            await asyncio.gather(watcher.run(SECONDS), worker.run(SECONDS))
            sent = json.loads((await attackers.communicate())[0])
            await asyncio.sleep(SETTLE_SECONDS)  # what was broken off is let go of
            return report(watcher, worker, sent, before)
        finally:
            await asyncio.to_thread(service.stop)


@dataclass(frozen=True)
class Figure:
    """A line of the table: what was measured, and where there is a bound, whether it is within it."""

    name: str
    value: str
    bound: str = ""
    is_good: bool = True

    def __str__(self) -> str:
        verdict = "" if not self.bound else "yes" if self.is_good else "NO"
        return f"| {self.name:36} | {self.value:42} | {self.bound:22} | {verdict:6} |"


def make_figures(
    watcher: Watcher, worker: Worker, sent: dict[str, dict[str, int]], before: int
) -> list[Figure]:
    """Return what is printed."""
    quarter = max(len(watcher.memory) // 4, 1)
    quarters = [
        statistics.median(watcher.memory[start : start + quarter]) / MIB
        for start in range(0, quarter * 4, quarter)
        if start < len(watcher.memory)
    ]
    growing = quarters[-1] - quarters[1]
    peak, after = watcher.read_peak() / MIB, watcher.read_memory() / MIB
    grown = after - before / MIB
    median, most_of_them, most = percentiles(worker.seconds)
    failed = {each: count for each, count in worker.answers.items() if not each.startswith("2")}
    unfinished = {each: count for each, count in worker.jobs.items() if each != "succeeded"}
    lag = watcher.read_lag()
    late = lag.get("1.0", 1.0)
    job_median, _, job_most = percentiles(worker.start_seconds)
    return [
        Figure(
            "sent to do harm", f"{sum(map(sum_up, sent.values())) / SECONDS:.0f} a second for {SECONDS:.0f} s"
        ),
        Figure("memory before", f"{before / MIB:.0f} MiB"),
        Figure(
            "memory, median of each quarter",
            ", ".join(f"{each:.0f}" for each in quarters) + " MiB",
            f"{MAX_GROWING_MIB} MiB from 2nd on",
            growing <= MAX_GROWING_MIB,
        ),
        Figure("memory, most", f"{peak:.0f} MiB", f"{MAX_MIB} MiB", peak <= MAX_MIB),
        Figure(
            f"memory {SETTLE_SECONDS} s after it, grown by",
            f"{grown:.0f} MiB",
            f"{MAX_GROWN_MIB} MiB",
            grown <= MAX_GROWN_MIB,
        ),
        *(
            Figure(f"timers of the loop later than {limit} s", f"{100 * share:.2f} %")
            for limit, share in lag.items()
            if limit != "1.0"
        ),
        Figure(
            "timers of the loop later than 1 s",
            f"{100 * late:.2f} %",
            f"{100 * MAX_LATE_SHARE:.0f} %",
            late <= MAX_LATE_SHARE,
        ),
        Figure("others waited: median, most", f"{median:.3f} s, {most:.3f} s"),
        Figure(
            "others waited: 99 %",
            f"{most_of_them:.3f} s",
            f"{MAX_WAIT_SECONDS:.0f} s",
            0 < most_of_them <= MAX_WAIT_SECONDS,
        ),
        Figure("others' answers", show_counts(worker.answers), "2xx alone", not failed),
        Figure("others' jobs", show_counts(worker.jobs), "succeeded alone", not unfinished),
        Figure("from submit to end: median, most", f"{job_median:.3f} s, {job_most:.3f} s"),
        *(
            Figure(f"connections closed: {name_of(labels)}", f"{count:.0f}")
            for labels, count in watcher.count("kbatch_connections_closed_total").items()
        ),
        *(
            Figure(f"limit: {name_of(labels)}", f"{count:.0f}")
            for labels, count in watcher.count("kbatch_limits_held_total").items()
        ),
        *(Figure(f"attack: {name}", show_counts(counts)) for name, counts in sorted(sent.items())),
    ]


def name_of(labels: str) -> str:
    """Return the one label's value, of ``{limit="max_queued"}``."""
    return labels.partition('"')[2].partition('"')[0]


def sum_up(counts: dict[str, int]) -> int:
    """Return how many there were of all kinds."""
    return sum(counts.values())


def show_counts(counts: dict[str, int]) -> str:
    """Return how many there were of each kind, like ``200: 5, none: 3``."""
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))


def report(watcher: Watcher, worker: Worker, sent: dict[str, dict[str, int]], before: int) -> bool:
    """Print the figures, and return whether all are within their bounds."""
    figures = make_figures(watcher, worker, sent, before)
    print(f"| {'figure':36} | {'measured':42} | {'at most':22} | {'within':6} |")
    print(f"|{'-' * 38}|{'-' * 44}|{'-' * 24}|{'-' * 8}|")
    for figure in figures:
        print(figure)
    return all(figure.is_good for figure in figures)


def attack(port: int, seconds: float) -> None:
    """Be the attackers, and print how often each did what it does."""
    attackers = Attackers(port, KEY)
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
        is_good = asyncio.run(soak(Path(folder)))
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
