"""Steps at which tests kill the service: never on by accident, and all of them are there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kbatch_server
from kbatch_server import failpoints
from kbatch_server.failpoints import STEPS, WrongFailpoint, arm, reach


@pytest.mark.slow
def test_outside_of_a_test_the_service_refuses_to_start_with_one(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    done = subprocess.run(
        [sys.executable, "-m", "kbatch_server"],
        cwd=tmp_path,
        env=environment | {"KBATCH_TEST_FAILPOINT": "launch.3:1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert "KBATCH_TEST_FAILPOINT: kills the service, for its own tests only" in line


@pytest.mark.parametrize("wanted", ["", "launch.3", "launch.3:0", "launch.3:x", "nowhere.1:1"])
def test_one_that_is_none_is_refused(monkeypatch, wanted):
    monkeypatch.setenv("KBATCH_TEST_FAILPOINT", wanted)
    with pytest.raises(WrongFailpoint, match="a step and a count"):
        arm()


def test_the_process_is_killed_when_the_step_is_reached_so_often(monkeypatch):
    killed = []
    monkeypatch.setattr(failpoints, "_left", {})
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
    monkeypatch.setenv("KBATCH_TEST_FAILPOINT", "launch.3:2")
    arm()
    for step in ("launch.3", "launch.2"):
        reach(step)
    assert killed == []
    reach("launch.3")
    assert killed == [(os.getpid(), 9)]


def test_the_code_reaches_every_step_and_no_other():
    modules = Path(kbatch_server.__file__).parent.rglob("*.py")
    text = "\n".join(path.read_text() for path in modules if path.name != "failpoints.py")
    assert set(re.findall(r'\breach\("([^"]+)"\)', text)) == set(STEPS)
