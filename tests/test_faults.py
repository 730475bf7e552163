"""Whatever fails on one machine while jobs come in: each of them comes to its right end, exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from faultkit.load import Load
from faultkit.machine import Machine
from faultkit.steps import kill_at_each
from faultkit.table import check
from faultkit.verdict import settle
from hub import Hub

PAUSE_SECONDS = 0.15
SETTLE_SECONDS = 90
STEPS_HERE = (
    "submit.2",
    "launch.3",
    "launch.4",
    "launch.5",
    "finish.1",
    "archive.3",
    "archive.6",
    "cancel.5",
)
"""Those at which a launcher is what it depends on, and one of each phase."""


@pytest.fixture
def machine(tmp_path: Path, hub: Hub) -> Iterator[Machine]:
    machine = Machine(tmp_path, hub)
    yield machine
    machine.remove()


def test_a_service_that_is_killed_in_the_middle_of_its_work_loses_no_job(machine: Machine) -> None:
    machine.service.start()
    with Load(machine.client, machine.ledger, pause_seconds=PAUSE_SECONDS) as load:
        machine.service.kill()
        kill_at_each(machine.service, load, STEPS_HERE)
    check(settle(machine, load, seconds=SETTLE_SECONDS))
