"""``post_finish_hook`` in a real service on one machine, that is killed around the call of the hook."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faultkit.machine import Machine
from tests.support.hub import Hub
from tests.support.waiting import wait_until

HOOK = """
def post_finish_hook(job):
    with open({path!r}, "a") as file:
        file.write(f"{{job.id}} {{job.status.value}}\\n")

c.Hooks.post_finish_hook = post_finish_hook
"""


@pytest.fixture
def machine(tmp_path: Path, hub: Hub) -> Iterator[Machine]:
    machine = Machine(tmp_path, hub)
    yield machine
    machine.remove()


@pytest.mark.parametrize(("step", "calls"), [("finish.2", 1), ("hook.1", 1), ("hook.2", 2)])
def test_after_a_kill_the_hook_is_called(machine: Machine, tmp_path: Path, step: str, calls: int) -> None:
    told = tmp_path / "told"
    config = machine.service.config_file
    config.write_text(config.read_text() + HOOK.format(path=str(told)))
    machine.service.set_environment(KBATCH_TEST_FAILPOINT=f"{step}:1")
    machine.service.start()
    client = machine.client()
    job = client.submit("true")["id"]
    client.http.close()
    machine.service.wait_killed(step, 60)
    machine.service.set_environment(KBATCH_TEST_FAILPOINT=None)
    machine.service.start()
    line = f"{job} succeeded"
    wait_until(
        lambda: told.exists() and told.read_text().splitlines() == [line] * calls, "the hook is called"
    )
