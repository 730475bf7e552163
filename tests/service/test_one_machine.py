"""The guide for one machine with systemd, docs/install.md: its unit, its files and its first job."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub import Hub
from tests.support.installation import API
from tests.support.ports import find_ports
from tests.support.service import Service

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "contrib/kbatch-server.service"
GUIDE = (ROOT / "docs/install.md").read_text()
PROGRAM = Path(sys.executable).with_name("kbatch-server")


def find_block(language: str, words: str) -> str:
    """Return the one block of the guide that has these words."""
    [block] = [each for each in re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL) if words in each]
    return block


def read_unit() -> dict[str, str]:
    lines = [line for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_systemd_takes_the_unit(tmp_path):
    command = ["systemd-analyze", "verify", "--man=no"]
    unit = tmp_path / UNIT.name
    # the program that is there, instead of the one that the guide installs
    unit.write_text(UNIT.read_text().replace("/opt/kbatch-server/bin/kbatch-server", str(PROGRAM)))
    done = subprocess.run([*command, unit], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("KillMode=process", "KillMode=proces"))
    done = subprocess.run([*command, unit], capture_output=True, text=True, timeout=60)
    assert "proces" in done.stderr  # it would have said so


def test_the_unit_and_the_guide_name_the_same_files():
    unit = read_unit()
    program, option, config = unit["ExecStart"].split()
    commands = find_block("console", "contrib/kbatch-server.service")
    assert f"python3 -m venv {Path(program).parents[1]}\n" in commands
    assert f"{Path(program).parent}/pip install ." in commands
    assert f"install -d -m 711 {unit['WorkingDirectory']}\n" in commands
    assert (option, Path(config).parent) == ("--config", Path(unit["WorkingDirectory"]))
    assert f"`{config}`" in GUIDE
    assert f"chmod 600 {unit['EnvironmentFile']} " in find_block("console", "daemon-reload")
    names = re.findall(r"^install -m \d+ (\S+) /", GUIDE, re.MULTILINE)
    assert names == ["contrib/kbatch-server.service", "jupyterhub_config_snippet.py"]
    assert all((ROOT / name).is_file() for name in names)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that others can pass through, as the guide makes it; pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        yield Path(name)


def test_what_the_guide_says_runs_a_job(folder: Path, hub: Hub):
    """The environment file, the configuration and the request of the guide, with this machine's addresses."""
    environ = dict(line.split("=", 1) for line in find_block("ini", "JUPYTERHUB_API_URL").splitlines())
    [port] = find_ports(1)
    given = {
        "JUPYTERHUB_API_TOKEN": hub.service_token,
        "JUPYTERHUB_API_URL": hub.api_url,
        "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{port}",
    }
    assert set(environ) == {*given, "JUPYTERHUB_SERVICE_PREFIX"}
    config = find_block("python", 'launcher_class = "local"')
    service = Service(folder, port=port, config=config, environment=environ | given)
    service.start()
    try:
        url = f"http://127.0.0.1:{port}{environ['JUPYTERHUB_SERVICE_PREFIX']}"
        commands = find_block("console", '"uname", "-a"')
        export, command = commands.split("\n", 1)
        assert export.startswith("export KBATCH_URL=")
        shell = {"PATH": "/usr/bin:/bin", "KBATCH_URL": url, "JUPYTERHUB_API_TOKEN": hub.make_token("alice")}
        job = json.loads(run_shell(command, shell))
        alice = API(url, shell["JUPYTERHUB_API_TOKEN"])
        done = alice.wait(job["id"])
        assert done["status"] == "succeeded", done
        assert alice.logs(job["id"]).startswith("Linux")
        alice.http.close()
    finally:
        service.stop()


def run_shell(command: str, environ: dict[str, str]) -> str:
    done = subprocess.run(["sh", "-c", command], env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
