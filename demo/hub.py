"""Starts and stops the demo's hub, with its proxy and its kbatch-server."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Collection
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
START_SECONDS = 60
STOP_SECONDS = 15


class DemoFailed(Exception):
    """The demo cannot go on: the message is for the person who started it."""


def find_port(wanted: int, *, taken: Collection[int] = ()) -> int:
    """Return the port that is wanted if it is free on the loopback address, else another that is."""
    for port in (0,) if wanted in taken else (wanted, 0):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(sock.getsockname()[1])
    raise DemoFailed("There is no free port on 127.0.0.1.")


class Hub:
    """One hub in one folder; ``url`` is what a browser opens."""

    def __init__(self, folder: Path, *, port: int) -> None:
        self.folder = folder
        ports = [find_port(port)]
        for wanted in (8081, 8001, 8050):
            ports.append(find_port(wanted, taken=ports))
        self._port, self._hub_port, self._proxy_port, self._service_port = ports
        self.password = secrets.token_urlsafe(8)
        self._admin_token = secrets.token_hex(16)
        self.url = f"http://127.0.0.1:{self._port}"
        if self._port != port:
            print(f"Port {port} is taken: using {self._port}.")
        self.kbatch_url = f"{self.url}/services/kbatch/"
        self.log = folder / "hub.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the hub and wait until it and kbatch-server answer."""
        proxy = shutil.which("configurable-http-proxy")
        if proxy is None:
            raise DemoFailed("configurable-http-proxy is not there; start the demo with: make demo")
        environment = os.environ | {
            "KBATCH_DEMO_SNIPPET": str(HERE.parent / "jupyterhub_config_snippet.py"),
            "KBATCH_DEMO_URL": self.url,
            "KBATCH_DEMO_HUB_URL": f"http://127.0.0.1:{self._hub_port}",
            "KBATCH_DEMO_PROXY_URL": f"http://127.0.0.1:{self._proxy_port}",
            "KBATCH_DEMO_PROXY": proxy,
            "KBATCH_DEMO_PASSWORD": self.password,
            "KBATCH_DEMO_ADMIN_TOKEN": self._admin_token,
            "KBATCH_DIRECTORY": str(self.folder),
            "KBATCH_PORT": str(self._service_port),
        }
        command = [sys.executable, "-m", "jupyterhub", "-f", str(HERE / "jupyterhub_config.py")]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is ours to handle
            )
        self._wait(f"{self.kbatch_url}api/v1/health")

    def stop(self) -> None:
        """Stop the hub, which stops its proxy and kbatch-server."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def check(self) -> None:
        """Raise DemoFailed when the hub has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise DemoFailed(f"The hub ended. The last lines of its log:\n{self._tail()}")

    def make_token(self, user: str) -> str:
        """Make a user of the hub, and return an API token of theirs that is good for a day."""
        api = f"{self.url}/hub/api/users/{user}"
        headers = {"Authorization": f"token {self._admin_token}"}
        try:
            call(api, headers=headers, data={})
        except urllib.error.HTTPError as error:
            if error.code != 409:  # there already
                raise
        return str(
            call(f"{api}/tokens", headers=headers, data={"note": "demo", "expires_in": 86400})["token"]
        )

    def _wait(self, url: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            self.check()
            try:
                call(url)
                return
            except (OSError, ValueError):
                if time.monotonic() > deadline:
                    message = f"No answer from {url} in {START_SECONDS} s. The log's end:\n{self._tail()}"
                    raise DemoFailed(message) from None
            time.sleep(0.2)

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])


def call(url: str, *, headers: dict[str, str] | None = None, data: Any = None) -> Any:
    """Return the JSON that a URL answers a GET with, or a POST of ``data`` (bytes are sent as they are)."""
    body = data if data is None or isinstance(data, bytes) else json.dumps(data).encode()
    kind = "application/zip" if isinstance(data, bytes) else "application/json"
    request = urllib.request.Request(url, data=body, headers={"Content-Type": kind} | (headers or {}))  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        text = answer.read()
    return json.loads(text) if text else None
