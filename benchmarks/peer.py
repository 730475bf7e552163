"""Run kbatch-proxy, the service that benchmarks compare with, from a virtualenv of its own."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from tests.support.environments import Environment
from tests.support.parts import PartMissing

ENVIRONMENT = Environment("peer", Path(__file__).with_name("peer-requirements.txt"))
SECONDS_TO_START = 30


def find_environment() -> Path:
    """Return the folder of its environment, installed first where it is not there."""
    try:
        return ENVIRONMENT.find()
    except PartMissing:
        ENVIRONMENT.install()
        return ENVIRONMENT.find()


class PeerServer:
    """One uvicorn worker of kbatch-proxy: ``with PeerServer(...) as peer``, then ``peer.url``.

    Its log goes to a file, at the level it has by default, so that writing it costs what it would.
    """

    def __init__(self, kubeconfig: Path, hub_api_url: str, api_token: str, port: int) -> None:
        self.kubeconfig = kubeconfig
        self.hub_api_url = hub_api_url
        self.api_token = api_token
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._folder = tempfile.TemporaryDirectory(prefix="peer-")
        self._log = Path(self._folder.name) / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process to read memory and CPU of."""
        assert self._process is not None, "not started"
        return self._process.pid

    def __enter__(self) -> PeerServer:
        uvicorn = [
            str(find_environment() / "bin/python"),
            "-m",
            "uvicorn",
            "kbatch_proxy.main:app",
        ]
        options = ["--host=127.0.0.1", f"--port={self.port}", "--workers=1", "--no-access-log"]
        environ = os.environ | {
            "KUBECONFIG": str(self.kubeconfig),
            "JUPYTERHUB_API_URL": self.hub_api_url,
            "JUPYTERHUB_API_TOKEN": self.api_token,
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*uvicorn, *options],
                cwd=self._folder.name,  # it reads a file .env where it starts
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + SECONDS_TO_START
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/", timeout=5).close()
                return
            except (urllib.error.URLError, ConnectionError) as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = self._log.read_text(errors="replace")[-4000:]
                    raise RuntimeError(f"kbatch-proxy does not answer: {error}\n{log}") from None
                time.sleep(0.1)

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:  # it waits for log streams that nobody reads
                self._process.kill()
                self._process.wait()
        self._folder.cleanup()
