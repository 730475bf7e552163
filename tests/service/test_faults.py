"""Whatever fails on one machine while jobs come in: each of them comes to its right end, exactly once."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbatch_server.failpoints import STEPS
from kbatch_server.launchers.local.folder import JobFolder
from tests.support.faultkit.load import BAD, CANCELLED, GOOD, Kind, Load
from tests.support.faultkit.machine import Machine
from tests.support.faultkit.steps import kill_at_each
from tests.support.faultkit.table import check
from tests.support.faultkit.verdict import settle
from tests.support.hub import Hub
from tests.support.waiting import wait_until

PAUSE_SECONDS = 0.15
SETTLE_SECONDS = 90
DISK_BYTES = 24 * 2**20
A_FEW = ("submit.2", "launch.3", "launch.4", "launch.5", "archive.3", "cancel.5")
"""Those at which it matters what runs the jobs, and one of each phase; the cluster has all of them."""
NOT_HERE = {"cancel.6", *(step for step in STEPS if step.startswith("token."))}
"""A process that was told to end says itself that it has: it is not asked for again. And these jobs request
no token of the hub: see test_job_tokens."""
STEPS_HERE = (
    tuple(step for step in STEPS if step not in NOT_HERE)
    if os.environ.get("KBATCH_TEST_FAULTS") == "long"
    else A_FEW
)
MIX = (GOOD, BAD, GOOD, CANCELLED)
LOST = Kind("lost", "echo ran; exec sleep 600", ("failed",))


@pytest.fixture
def machine(tmp_path: Path, hub: Hub) -> Iterator[Machine]:
    machine = Machine(tmp_path, hub)
    yield machine
    machine.remove()


def accept(load: Load, count: int) -> None:
    """Wait until so many more jobs were accepted."""
    wanted = len(load.jobs) + count
    wait_until(lambda: len(load.jobs) >= wanted, f"{count} more jobs")


def test_a_service_that_is_killed_in_the_middle_of_its_work_loses_no_job(machine: Machine) -> None:
    machine.service.start()
    load = Load(machine.client, machine.ledger, pause_seconds=PAUSE_SECONDS)
    load.begin("none", MIX)
    with load:
        accept(load, 4)
        machine.service.kill()
        kill_at_each(machine.service, load, STEPS_HERE)
    check(settle(machine, load, seconds=SETTLE_SECONDS))


@pytest.fixture
def small_disk(machine: Machine) -> Iterator[Machine]:
    """The same, with what it keeps on a disk of its own, which is soon full."""
    if os.geteuid() != 0:
        pytest.skip("a disk is mounted by root only")
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", machine.data], check=True, timeout=10
    )
    yield machine
    machine.service.kill()
    subprocess.run(["umount", "--lazy", machine.data], check=True, timeout=10)


def fill_the_disk(machine: Machine, load: Load) -> None:
    accept(load, 2)
    filler = machine.data / "filler"
    refused = load.answers[507]

    def is_refused() -> bool:
        # again and again: what the service deletes meanwhile makes room
        command = ["dd", "if=/dev/zero", f"of={filler}", "bs=4096", "oflag=append", "conv=notrunc"]
        subprocess.run([*command, "status=none"], check=False, stderr=subprocess.DEVNULL, timeout=30)
        return load.answers[507] >= refused + 3

    wait_until(is_refused, "jobs are refused with 507")
    load.note_health(machine.wait_failed("database_writes"))
    filler.unlink()
    accept(load, 4)


def stop_the_hub(machine: Machine, load: Load) -> None:
    assert machine.hub.process is not None
    machine.hub.process.send_signal(signal.SIGSTOP)
    try:
        accept(load, 2)
        load.note_health(machine.wait_failed("hub"))
    finally:
        machine.hub.process.send_signal(signal.SIGCONT)
    accept(load, 2)


def kill_a_supervisor(machine: Machine, load: Load) -> None:
    job_id = load.submit_and_wait(LOST)
    pid = JobFolder(str(machine.root / "jobs" / job_id)).find_supervisor()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    accept(load, 2)


@pytest.mark.servers
def test_every_accepted_job_ends_right_and_once_whatever_fails_here(small_disk: Machine) -> None:
    small_disk.service.start()
    load = Load(small_disk.client, small_disk.ledger, pause_seconds=PAUSE_SECONDS)
    load.begin("none", MIX)
    with load:
        for name, fail in {
            "disk full": fill_the_disk,
            "hub does not answer": stop_the_hub,
            "supervisor killed": kill_a_supervisor,
        }.items():
            load.begin(name, MIX)
            fail(small_disk, load)
    rows = settle(small_disk, load, seconds=SETTLE_SECONDS)
    check(rows[1:] if not rows[0].accepted else rows)
