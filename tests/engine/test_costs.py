"""What a job costs: the SQL statements of each thing that is done with it, whatever the machine.

A statement that comes here by and by is a wait for every user of a large hub. One that is saved is to be
taken out of the counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import Engine, event

from kbatch_server.models.job import JobStatus, Status
from kbatch_server.models.listing import JobQuery
from kbatch_server.models.request import JobRequest
from kbatch_server.models.times import utcnow
from kbatch_server.models.user import User
from tests.support.stepping import do_step
from tests.support.tars import pieces_of
from tests.support.waiting import until
from tests.support.zips import make_mixed_zip

ALICE = User(name="alice")


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the statements, by verb and first table, without those that only begin or end a part."""
    counts: Counter[str] = Counter()

    def note(connection, cursor, statement, parameters, context, executemany):
        verb = statement.split()[0].upper()
        if verb in {"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"}:
            table = re.search(r"(?:FROM|INTO|UPDATE)\s+(\w+)", statement)
            counts[f"{verb} {table[1] if table else ''}".strip()] += 1

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield counts
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def submit(world, **fields):
    fields = {"name": "job", "image": "busybox", "command": ["true"]} | fields
    return (await world.jobs.submit(ALICE, JobRequest(**fields)))[0]


def see(world, job, status, **fields):
    started_at = utcnow() - timedelta(minutes=1)
    world.launcher.seen[job.id] = JobStatus(status=status, started_at=started_at, **fields)


@pytest.fixture
def world(world):
    """Without the recording of logs, whose statements come when they come."""
    world.recorder.ensure = lambda job: None
    world.recorder.settle = lambda job: True
    return world


@pytest.mark.parametrize("db_url", ["sqlite"], indirect=True)
async def test_the_statements_of_a_job_from_its_submit_to_its_end(world):
    upload = await world.uploads.receive(ALICE, pieces_of(make_mixed_zip()))
    await submit(world, upload=upload.id)  # the first of a process finds out how much is queued
    await world.reconciler.scheduler.next()
    steps = {}
    with counted() as steps["submit"]:
        job = await submit(world, upload=upload.id)
    with counted() as steps["launch"]:
        await world.reconciler.launch(*await world.reconciler.scheduler.next())
    see(world, job, Status.RUNNING)
    with counted() as steps["change"]:
        await world.reconciler.reconcile(job.id)
    with counted() as steps["no change"]:
        await world.reconciler.reconcile(job.id)
    with counted() as steps["read"]:
        await world.jobs.get(ALICE, job.id)
    see(world, job, Status.SUCCEEDED, exit_code=0, ended_at=utcnow())
    with counted() as steps["end"]:
        await world.reconciler.reconcile(job.id)
    assert steps == {
        # whether its upload is still there when the job is written
        "submit": {"SELECT uploads": 1, "INSERT jobs": 1, "INSERT audit": 1},
        # the job is in memory; that it is begun is on record before anything runs
        "launch": {"SELECT uploads": 1, "UPDATE jobs": 2},
        "change": {"SELECT jobs": 1, "UPDATE jobs": 1},
        "no change": {"SELECT jobs": 1},
        "read": {"SELECT jobs": 1},
        "end": {
            "SELECT jobs": 1,
            "UPDATE jobs": 1,
            "SELECT recent_use": 1,
            "INSERT recent_use": 1,
            "INSERT monthly_use": 1,
        },
    }


@pytest.mark.parametrize("db_url", ["sqlite"], indirect=True)
async def test_a_list_is_one_statement_however_long_and_a_restart_reads_each_job_once(world):
    jobs = [await submit(world) for _ in range(20)]
    for job in jobs:
        await do_step(world.reconciler, job.id)
        see(world, job, Status.RUNNING)
        await do_step(world.reconciler, job.id)
    with counted() as listing:
        assert len((await world.jobs.list(ALICE, JobQuery(user="alice"))).jobs) == 20
    assert listing == {"SELECT jobs": 1}
    polled = set()

    async def poll(job, poll_of=world.launcher.poll):
        polled.add(job.id)
        return await poll_of(job)

    world.launcher.poll = poll
    world.reconciler.queue.clear()  # as of a process that was just started
    with counted() as restart:
        await world.reconciler.start()
        await until(lambda: len(polled) == 20)
        await world.reconciler.stop()
    assert restart == {"SELECT jobs": 2 + 20}
