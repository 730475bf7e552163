"""The tutorial: every command of it is run as it stands there, on the demo, with the kbatch command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import ENVIRONMENTS
from tests.support.ports import find_ports

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs/tutorial.md").read_text()
VERSION = "0.5.0b1"

WAIT_FOR_RESULTS = """\
url="${KBATCH_URL}api/v1/jobs/$JOB"
until curl -fsS -H "Authorization: token $JUPYTERHUB_API_TOKEN" "$url" | grep '"outputs": {'
do sleep 0.2; done
"""


def find_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)


@pytest.fixture
def demo() -> Iterator[dict[str, str]]:
    """Start the demo, and return the variables that it prints for another shell."""
    [port] = find_ports(1)
    command = [sys.executable, "-m", "demo", "--port", str(port)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        text=True,
        # as in the background of a shell without job control
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    ) as process:
        try:
            found = {}
            for line in process.stdout:
                if match := re.fullmatch(r"export (\w+)=(\S+)\n", line):
                    found[match[1]] = match[2]
                if "Ctrl-C" in line:
                    break
            yield found
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


@pytest.mark.slow
def test_what_the_tutorial_says_works(demo: dict[str, str], tmp_path: Path) -> None:
    start, install, *blocks = find_blocks("console")
    assert start == "make demo\n"  # which starts what the fixture has started
    assert f"'kbatch=={VERSION}'" in install  # which the tests have installed already
    [program] = find_blocks("python")
    script = ["set -euo pipefail\n"]
    for block in blocks:
        script += [WAIT_FOR_RESULTS if "/outputs" in block else "", block]
        if block == "mkdir experiment\n":
            path = re.match(r"# (\S+)\n", program)[1]
            (tmp_path / "program.py").write_text(program)
            script.append(f"cp program.py {path}\n")
    environment = {
        **demo,
        "PATH": f"{ENVIRONMENTS[VERSION].find()}/bin:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "COLUMNS": "200",
    }
    done = subprocess.run(
        ["bash", "-c", "".join(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    example, after = done.stdout.split("5000000 points: pi is about 3.1")
    assert "hello-" in example.partition("pi-")[0]  # the demo's own job is listed first
    assert example.count(" points: pi is about 3.1") == 4
    assert "points,pi\n5000000,3.1" in after
    assert "mian.py" in after
    assert '"exit_code": 2' in after
    assert '"status": "Success"' in after  # of the last command, which deletes the job
