"""What limits cost: ``make bench-limits``. All ratios are of one run, by turns.

How long a decision takes whose turn it is, with 100,000 queued jobs of 1,000 users and with 100 of 100, where one
place comes free each time; and how many submits a second the service answers with limits set and without. Nothing
runs: the launcher of the first is none, that of the second starts no job, as no user may run any now.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path

from sqlalchemy import insert

from kbatch_server.keyring import Keyring
from kbatch_server.limits import Limits
from kbatch_server.models import Job, JobSpec, Status, utcnow
from kbatch_server.store import JobStore
from kbatch_server.store.orm import jobs
from kbatch_server.store.rows import make_row
from kbatch_server.turns import Turns
from tests.hub import find_ports
from tests.service import Service

from .hub import FakeHub
from .load import Request, run_load

PREFIX = "/services/kbatch/"
TOKEN = "a-token-of-alice"
SCOPES = ["access:services", "custom:kbatch:jobs:submit", "custom:kbatch:jobs:read"]
DECISIONS = 200
RUNNING = 50
ROUNDS = 3
SUBMITS = 1500
IN_FLIGHT = 16
MAX_RATIO = 15
MIN_SHARE = 0.8

CONFIG = """
c.KBatchServer.bind_url = "http://127.0.0.1:{port}"
c.KBatchServer.launcher_class = "local"
c.JobConfig.image = "this-machine"
c.JobConfig.cpu_limit = 1
# one job of an hour holds each up: what is measured is the submit
c.Limits.total_limits = {limits}
"""
WITH = """{"running": 1}
c.Limits.user_limits = {"queued": 100000, "running": 4, "cpu": 16, "job_hours_per_month": 500}
c.Traffic.submits_per_minute = 1e6
"""


async def measure_decisions(folder: Path, *, users: int, per_user: int) -> list[float]:
    """Return how long each decision took, in milliseconds, of a leader that has so many queued."""
    store = JobStore(
        f"sqlite:///{folder}/{users}-{per_user}.sqlite", Keyring(["k" * 32]), log=logging.getLogger()
    )
    await store.open()
    await fill(store, users=users, per_user=per_user)
    limits = Limits(user_limits={"running": 4, "cpu": 16}, total_limits={"running": RUNNING})
    turns = Turns(limits=limits, store=store)
    started: list[str] = []
    turns.on_turn = started.append
    await turns.decide()
    assert len(started) == RUNNING, len(started)
    taken = []
    for number in range(min(DECISIONS, users * per_user - RUNNING)):
        job = await store.find_job(started[number])
        assert job is not None
        await store.begin_launch(job.id)
        turns.begin(job)
        now = utcnow()
        await store.update_job(job.id, status=Status.SUCCEEDED, started_at=now, ended_at=now)
        turns.leave(job.id, job.user)
        before = len(started)
        begin = time.perf_counter()
        await turns.decide()
        taken.append((time.perf_counter() - begin) * 1000)
        assert len(started) == before + 1
    await store.close()
    return taken


async def fill(store: JobStore, *, users: int, per_user: int) -> None:
    """Put queued jobs into the database, at once."""
    spec = JobSpec(image="i", command=["true"], cpu_limit=1)
    rows = []
    for number in range(users * per_user):
        job = Job(f"j{number}", f"user-{number % users}", "bench", spec, utcnow())
        rows.append(make_row(job, store._keyring))
    await store._database.write(lambda connection: connection.execute(insert(jobs), rows))


async def measure_submits(folder: Path, limits: str) -> float:
    """Return how many submits a second a service with these limits answers."""
    users = {TOKEN: {"name": "alice", "scopes": SCOPES}}
    async with FakeHub(users) as hub:
        [port] = find_ports(1)
        config = CONFIG.format(port=port, limits=limits)
        service = Service(folder, port=port, config=config, environment=hub.service_environment(PREFIX))
        await asyncio.to_thread(service.start)
        try:
            url = f"http://127.0.0.1:{port}{PREFIX}api/v1/jobs"
            job = {"name": "bench", "command": ["sleep", "3600"]}
            result = await run_load(
                lambda _: Request("POST", url, job),
                total=SUBMITS,
                in_flight=IN_FLIGHT,
                headers={"Authorization": f"token {TOKEN}"},
            )
            assert set(result.statuses) == {201}, result
            return result.rate
        finally:
            await asyncio.to_thread(service.stop)


async def main() -> bool:
    """Measure and print; return whether the targets were reached."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        many = statistics.median(await measure_decisions(folder, users=1000, per_user=100))
        few = statistics.median(await measure_decisions(folder, users=100, per_user=1))
        print(f"a decision, 100,000 queued of 1,000 users: {many:6.2f} ms")
        print(
            f"a decision, 100 queued of 100 users:       {few:6.2f} ms  {many / few:.1f} times, at most {MAX_RATIO}"
        )
        rates: dict[str, list[float]] = {"without": [], "with": []}
        for number in range(ROUNDS):
            for kind, limits in (("without", '{"running": 1}'), ("with", WITH)):
                place = folder / f"{kind}-{number}"
                place.mkdir()
                rates[kind].append(await measure_submits(place, limits))
        share = statistics.median(rates["with"]) / statistics.median(rates["without"])
        for kind, found in rates.items():
            print(
                f"submits, limits {kind:8} {statistics.median(found):7.0f}/s ({min(found):.0f} to {max(found):.0f})"
            )
        print(f"with limits {share:.2f} of those without, at least {MIN_SHARE}")
    return many / few <= MAX_RATIO and share >= MIN_SHARE


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
