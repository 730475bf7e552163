"""The published kbatch commands, each in an environment of its own, run as a user types them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.support.environments import Environment

HERE = Path(__file__).parent
VERSIONS = ("0.4.2", "0.5.0b1")
COMMAND_SECONDS = 90


ENVIRONMENTS = {
    version: Environment(f"kbatch-{version}", HERE / f"kbatch-{version}.txt") for version in VERSIONS
}


class KBatch:
    """One user's kbatch command of one version, configured by the environment and its own home folder."""

    def __init__(self, version: str, home: Path, *, url: str, token: str) -> None:
        self.version = version
        self._bin = ENVIRONMENTS[version].find() / "bin"
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.environment = {
            "PATH": f"{self._bin}:/usr/bin:/bin",
            "HOME": str(home),
            "COLUMNS": "300",
            "LANG": "C.UTF-8",
            "KBATCH_URL": url,
            "JUPYTERHUB_API_TOKEN": token,
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``kbatch ARGUMENTS`` and return what it printed and its exit status."""
        return subprocess.run(
            ["kbatch", *arguments],
            executable=self._bin / "kbatch",
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )

    def __call__(self, *arguments: str) -> str:
        """Run a command that must succeed and return what it printed."""
        done = self.run(*arguments)
        assert done.returncode == 0, f"kbatch {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
        # 0.4.2 logs each request on standard output
        lines = done.stdout.splitlines(keepends=True)
        return "".join(line for line in lines if "HTTP Request: " not in line)

    def json(self, *arguments: str) -> dict:
        """Run a command that must succeed and return the JSON that it printed."""
        return json.loads(self(*arguments))

    def submit(self, **options: object) -> str:
        """Submit a job and return its name, as ``job submit --output name`` prints it."""
        words = []
        for name, value in options.items():
            words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
        return self("job", "submit", "--output", "name", *words).strip()
