"""What became of each job, from what its user reads and from the runs that were counted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from tests.support.faultkit.ledger import Ledger
from tests.support.faultkit.load import Accepted, Load
from tests.support.faultkit.table import Row
from tests.support.installation import API

ENDS = ("succeeded", "failed", "cancelled")


class Place(Protocol):
    """Where the jobs ran."""

    ledger: Ledger

    def client(self) -> API: ...
    def find_leftovers(self, job_ids: Iterable[str]) -> list[str]: ...


def settle(place: Place, load: Load, *, seconds: float) -> list[Row]:
    """Return a row for each fault when all jobs are over, or the seconds are; nothing runs after that."""
    client = place.client()
    rows = judge(client, load, seconds=seconds)
    client.http.close()
    leftovers = place.find_leftovers(each.id for each in load.jobs)
    count_doubled(rows, load.jobs, place.ledger.count())
    for row in rows:
        row.said = load.health.get(row.fault, "")
    for each in leftovers:
        fault = next((job.faults[-1] for job in load.jobs if job.id in each), rows[-1].fault)
        next(row for row in rows if row.fault == fault).leftovers.append(each)
    return rows


def judge(client: API, load: Load, *, seconds: float) -> list[Row]:
    """Wait, for so long in all, until every job is over; return a row for each fault, in their order.

    A job belongs to every fault that came while it was submitted.
    """
    rows = {fault: Row(fault) for fault in load.faults}
    deadline = time.monotonic() + seconds
    for each in load.jobs:
        wrong = _find_wrong(client, each, _wait(client, each, deadline))
        for row in (rows[fault] for fault in each.faults):
            row.accepted += 1
            row.right += not wrong
            if wrong:
                row.lost.append(f"{each.kind.name} job {each.id}: {wrong}")
    return list(rows.values())


def count_doubled(rows: list[Row], jobs: list[Accepted], runs: Counter[str]) -> None:
    """Add to the rows what ran too often, or not at all; every run is of a job that was accepted."""
    by_fault = {row.fault: row for row in rows}
    for each in jobs:
        ran, row = runs[each.id], by_fault[each.faults[-1]]
        if ran > each.kind.runs:
            row.doubled.append(f"{each.kind.name} job {each.id} ran {ran} times")
        if ran == 0 and each.kind.ends == ("succeeded",):
            row.lost.append(f"{each.kind.name} job {each.id} has succeeded, and never ran")
    unknown = set(runs) - {each.id for each in jobs}
    if unknown:
        rows[-1].doubled.append(f"ran and was never accepted: {', '.join(sorted(unknown))}")


def _wait(client: API, accepted: Accepted, deadline: float) -> dict[str, object]:
    """Return a job when it is over, and its results are kept."""
    while True:
        job = client.get(accepted.id)
        is_kept = job["outputs"] is not None or not accepted.kind.keeps_output
        if (job["status"] in ENDS and is_kept) or time.monotonic() > deadline:
            return job
        time.sleep(0.1)


def _find_wrong(client: API, accepted: Accepted, job: dict[str, object]) -> str:
    """Return in words what of a job is not as it should be; empty when all is."""
    kind, status = accepted.kind, job["status"]
    if status not in kind.ends:
        return f"{status} ({job['reason']}: {job['message']})"
    if kind.exit_code is not None and job["exit_code"] != kind.exit_code:
        return f"exit code {job['exit_code']}"
    if kind.is_cancelled or kind.exit_code is None:
        return ""
    log = client.logs(accepted.id)
    if log != "ran\n":
        return f"its log is {log!r}"
    if kind.keeps_output:
        outputs = client.call("GET", f"api/v1/jobs/{accepted.id}/outputs")
        if [each["path"] for each in outputs["items"]] != ["f"]:
            return f"its results are {outputs}"
    return ""
