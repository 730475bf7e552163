"""What limits cost: ``make bench-limits``. All ratios are of one run, by turns.

How long a decision takes whose turn it is, with 100,000 queued jobs of 1,000 users and with 100 of 100, where
one place comes free each time; and how many submits a second the service answers with limits and without. No
job ever runs: what is measured is what comes before.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from sqlalchemy import insert

from kbatch_server.keyring import Keyring
from kbatch_server.launchers.base import JobLauncher
from kbatch_server.limits.config import Limits
from kbatch_server.models.job import Job, JobSpec, Status
from kbatch_server.models.times import utcnow
from kbatch_server.scheduling.pacer import LaunchPacer
from kbatch_server.scheduling.scheduler import Scheduler
from kbatch_server.store import Store
from kbatch_server.store.rows import make_row
from kbatch_server.store.tables import jobs
from tests.support.ports import find_ports
from tests.support.service import Service

from .hub import FakeHub
from .load import Request, run_load

PREFIX = "/services/kbatch/"
TOKEN = "a-token-of-alice"
SCOPES = ["access:services", "custom:kbatch:jobs:submit", "custom:kbatch:jobs:read"]
DECISIONS = 200
RUNNING = 50
ROUNDS = 11
SUBMITS = 200
IN_FLIGHT = 16
MAX_RATIO = 15
MIN_SHARE = 0.8

ROWS = 5000

CONFIG = """
from kbatch_server.launchers.base import JobLauncher
from kbatch_server.models.job import JobStatus, Status


class IdleLauncher(JobLauncher):
    async def launch(self, job, launch):
        return {{}}

    async def poll(self, job):
        return JobStatus(status=Status.PENDING)


c.KBatchServer.bind_url = "http://127.0.0.1:{port}"
c.KBatchServer.launcher_class = IdleLauncher
c.IdleLauncher.max_launches_per_second = 0.0001
c.JobConfig.image = "none"
c.JobConfig.cpu_limit = 1
"""
LIMITS = """
c.Limits.user_limits = {"queued": 100000, "running": 4, "cpu": 16, "job_hours_per_month": 500}
c.Limits.total_limits = {"running": 100, "cpu": 400}
c.Throttle.submits_per_minute = 1e6
c.Throttle.submit_burst = 100000
"""


KINDS = {"without-limits": "", "with-limits": LIMITS}


async def measure_decisions(folder: Path, *, users: int, per_user: int) -> list[float]:
    """Return how long each decision took, in milliseconds, of a leader that has so many queued."""
    url = f"sqlite:///{folder}/{users}-{per_user}.sqlite"
    store = Store(url, Keyring(["k" * 32]), log=logging.getLogger())
    await store.open()
    await fill(store, users=users, per_user=per_user)
    limits = Limits(user_limits={"running": 4, "cpu": 16}, total_limits={"running": RUNNING})
    pacer = LaunchPacer(launcher=JobLauncher())
    scheduler = Scheduler(limits=limits, pacer=pacer, records=store.queues, usage=store.usage)
    started: list[str] = []

    async def decide() -> None:
        await scheduler.decide()
        while scheduler:
            started.append((await scheduler.next())[0])

    await decide()
    assert len(started) == RUNNING, len(started)
    taken = []
    for number in range(min(DECISIONS, users * per_user - RUNNING)):
        job = await store.jobs.find(started[number])
        assert job is not None
        await store.jobs.begin_launch(job.id)
        scheduler.begin(job)
        now = utcnow()
        await store.jobs.update(job.id, status=Status.SUCCEEDED, started_at=now, ended_at=now)
        scheduler.leave(job.id, job.user)
        before = len(started)
        begin = time.perf_counter()
        await decide()
        taken.append((time.perf_counter() - begin) * 1000)
        assert len(started) == before + 1
    await store.close()
    return taken


async def fill(store: Store, *, users: int, per_user: int) -> None:
    """Put queued jobs into the database, at once."""
    spec = JobSpec(image="i", command=["true"], cpu_limit=1)
    rows = []
    for number in range(users * per_user):
        job = Job(f"j{number}", f"user-{number % users}", "bench", spec, utcnow())
        rows.append(make_row(job, store.jobs._keyring))
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        await store._database.write(lambda connection, some=some: connection.execute(insert(jobs), some))


async def measure_submits(folder: Path) -> dict[str, list[float]]:
    """Return how many submits a second two services answer, without limits and with, by turns."""
    users = {TOKEN: {"name": "alice", "scopes": SCOPES}}
    async with FakeHub(users) as hub, AsyncExitStack() as stack:
        urls = {}
        for (kind, limits), port in zip(KINDS.items(), find_ports(len(KINDS)), strict=True):
            (folder / kind).mkdir()
            config = CONFIG.format(port=port) + limits
            environment = hub.service_environment(PREFIX)
            service = Service(folder / kind, port=port, config=config, environment=environment)
            await asyncio.to_thread(service.start)
            stack.push_async_callback(asyncio.to_thread, service.stop)
            urls[kind] = f"http://127.0.0.1:{port}{PREFIX}api/v1/jobs"
        rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(ROUNDS):
            for kind, url in urls.items():
                rates[kind].append(await submit(url))
        return rates


async def submit(url: str) -> float:
    """Return how many submits a second were answered, of some."""
    result = await run_load(
        lambda _: Request("POST", url, {"name": "bench", "command": ["true"]}),
        total=SUBMITS,
        in_flight=IN_FLIGHT,
        headers={"Authorization": f"token {TOKEN}"},
    )
    assert set(result.statuses) == {201}, result
    return result.rate


async def main() -> bool:
    """Measure and print; return whether the targets were reached."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        many = statistics.median(await measure_decisions(folder, users=1000, per_user=100))
        few = statistics.median(await measure_decisions(folder, users=100, per_user=1))
        ratio = many / few
        print(f"a decision, 100,000 queued of 1,000 users: {many:6.2f} ms")
        print(f"a decision, 100 queued of 100 users:       {few:6.2f} ms")
        print(f"{ratio:.1f} times as long, at most {MAX_RATIO}")
        rates = await measure_submits(folder)
        medians = {kind: statistics.median(found) for kind, found in rates.items()}
        for kind, found in rates.items():
            print(f"submits, {kind:14} {medians[kind]:7.0f}/s ({min(found):.0f} to {max(found):.0f})")
        share = medians["with-limits"] / medians["without-limits"]
        print(f"with limits {share:.2f} of those without, at least {MIN_SHARE}")
    return ratio <= MAX_RATIO and share >= MIN_SHARE


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
