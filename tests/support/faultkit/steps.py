"""The service, killed at one step of its work after the other, while jobs come in."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.faultkit.load import BAD, CANCELLED, GOOD, Kind, Load
from tests.support.faultkit.waiting import until
from tests.support.service import Service

REACH_SECONDS = 60


def kinds_for(step: str) -> tuple[Kind, ...]:
    """Return what jobs are to come in while a step is waited for: such as reach it."""
    return (CANCELLED, GOOD) if step.startswith("cancel.") else (GOOD, BAD)


def kill_at_each(service: Service, load: Load, steps: Sequence[str]) -> None:
    """Start the service, which is down, so that it dies at each step in turn, and then for good."""
    for step in steps:
        load.begin(f"kill -9 at {step}", kinds_for(step))
        service.set_environment(KBATCH_TEST_FAILPOINT=f"{step}:1")
        # a job is submitted when it starts, so that there is one which this kill may hit
        until(lambda: load.is_under_way, "a job is submitted")
        service.spawn()  # it may die before it has answered anybody
        service.wait_killed(step, REACH_SECONDS)
    service.set_environment(KBATCH_TEST_FAILPOINT=None)
    service.start()
