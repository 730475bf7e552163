"""kbatch-server as a process of its own, beside a hub: so that tests can kill it and start it again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.support.servers import START_SECONDS, STOP_SECONDS


class Service:
    """One service in one folder; what the folder keeps (database, uploads, jobs) outlives the process."""

    def __init__(self, folder: Path, *, port: int, config: str, environment: dict[str, str]) -> None:
        self.folder = folder
        self.port = port
        self.environment = environment
        self.log = folder / "service.log"
        self.config_file = folder / "kbatch_server_config.py"
        self.config_file.write_text(config)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and wait until it answers."""
        self.spawn()
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.kill()
            raise

    def spawn(self) -> None:
        """Start the process, and wait for nothing."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kbatch_server", "--config", str(self.config_file)],
                cwd=self.folder,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_until_it_answers(self) -> None:
        prefix = self.environment["JUPYTERHUB_SERVICE_PREFIX"]
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self.process is not None, "not started"
            assert self.process.poll() is None, f"the service ended at its start:\n{self.tail()}"
            assert time.monotonic() < deadline, f"the service does not answer:\n{self.tail()}"
            try:
                httpx.get(f"http://127.0.0.1:{self.port}{prefix}api/v1/health", timeout=5).raise_for_status()
                return
            except httpx.HTTPError:
                time.sleep(0.1)

    def set_environment(self, **environment: str | None) -> None:
        """Have other variables in the environment from the next start on (None: without)."""
        kept = self.environment | environment
        self.environment = {name: value for name, value in kept.items() if value is not None}

    def wait_killed(self, what: str, seconds: float) -> None:
        """Wait until it has ended itself, by KILL."""
        assert self.process is not None, "not started"
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{what} is not reached:\n{self.tail()}") from None
        assert code == -signal.SIGKILL, self.tail()

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def stop(self) -> None:
        """Ask it to end, and see that it does."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
                raise

    def tail(self, lines: int = 60) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
