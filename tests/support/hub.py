"""A real JupyterHub with its real proxy, for tests: configured by the very file that an admin pastes."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote

import httpx

from tests.support.parts import PartMissing
from tests.support.ports import find_ports
from tests.support.servers import START_SECONDS, STOP_SECONDS

ROOT = Path(__file__).resolve().parents[2]
USERS = ("alice", "Alice", "a.b", "a_b", "bob", "kube-system", "ünïcode", "x" * 300)
KBATCH_SCOPES = (
    "access:services!service=kbatch",
    "custom:kbatch:jobs:submit",
    "custom:kbatch:jobs:read",
    "custom:kbatch:jobs:cancel",
)

CONFIG = """
{before}
exec(open({snippet!r}).read())  # as if it were pasted here
c.JupyterHub.bind_url = {url!r}
c.JupyterHub.hub_bind_url = {hub_url!r}
c.ConfigurableHTTPProxy.api_url = {proxy_api_url!r}
c.ConfigurableHTTPProxy.command = [{proxy!r}]
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = "test"
c.Authenticator.allow_all = True
c.JupyterHub.log_level = 10
c.JupyterHub.services.append({{"name": "tests", "api_token": {admin_token!r}}})
c.JupyterHub.services.append({{"name": "prometheus", "api_token": {metrics_token!r}}})
c.JupyterHub.services.append({{"name": "ci", "api_token": {ci_token!r}}})
c.JupyterHub.load_roles.append({{"name": "ci-jobs", "services": ["ci"], "scopes": {kbatch_scopes!r}}})
c.JupyterHub.load_roles.append(
    {{
        "name": "prometheus",
        "services": ["prometheus"],
        "scopes": ["read:metrics", "access:services!service=kbatch"],
    }}
)
c.JupyterHub.load_roles.append(
    {{"name": "tests", "services": ["tests"], "scopes": ["admin:users", "admin:groups", "tokens", "inherit"]}}
)
{extra}
"""


def find_proxy() -> str:
    """Return the command configurable-http-proxy: this environment's, or another one; raises PartMissing."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = shutil.which("configurable-http-proxy", path=path)
    if found is None:
        raise PartMissing("configurable-http-proxy")
    return found


class StandIn(BaseHTTPRequestHandler):
    """Answers every GET with nothing."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Hub:
    """One hub in one folder, on free ports.

    With ``service_url`` the service is one that somebody else runs at that URL (its environment is
    ``service_environment``); else the hub starts kbatch-server itself, in the folder. ``prefix`` is the path
    of all of the hub. ``before`` and ``extra`` come before and after the snippet in its configuration. With
    ``internal_ssl`` the hub's own parts show each other certificates.
    """

    def __init__(
        self,
        folder: Path,
        *,
        service_url: str | None = None,
        prefix: str = "/",
        before: str = "",
        extra: str = "",
        internal_ssl: bool = False,
    ) -> None:
        port, hub_port, proxy_port, service_port = find_ports(4)
        self.folder = folder
        self.prefix = prefix
        self.url = f"http://127.0.0.1:{port}{prefix}".rstrip("/")
        scheme = "https" if internal_ssl else "http"
        self.api_url = f"{scheme}://127.0.0.1:{hub_port}{prefix}hub/api"
        self.kbatch_url = f"{self.url}/services/kbatch/"
        self.service_token = secrets.token_hex(16)
        self.service_url = service_url
        self.log = folder / "hub.log"
        self._admin_token = secrets.token_hex(16)
        self.metrics_token = secrets.token_hex(16)
        self.ci_token = secrets.token_hex(16)
        self.process: subprocess.Popen[bytes] | None = None
        self._config = folder / "jupyterhub_config.py"
        self._config.write_text(
            CONFIG.format(
                snippet=str(ROOT / "jupyterhub_config_snippet.py"),
                url=self.url,
                hub_url=f"{scheme}://127.0.0.1:{hub_port}",
                proxy_api_url=f"{scheme}://127.0.0.1:{proxy_port}",
                proxy=find_proxy(),
                admin_token=self._admin_token,
                metrics_token=self.metrics_token,
                ci_token=self.ci_token,
                kbatch_scopes=list(KBATCH_SCOPES),
                before=f"c.JupyterHub.internal_ssl = {internal_ssl}\n{before}",
                extra=extra,
            )
        )
        self._certificates = folder / "internal-ssl" if internal_ssl else None
        self._environment = {"KBATCH_PORT": str(service_port), "KBATCH_DIRECTORY": str(folder)}
        if service_url is not None:
            self._environment = {"KBATCH_SERVICE_URL": service_url, "KBATCH_API_TOKEN": self.service_token}

    @property
    def service_environment(self) -> dict[str, str]:
        """What a service that the hub did not start has in its environment to find the hub."""
        return {
            "JUPYTERHUB_API_URL": self.api_url,
            "JUPYTERHUB_BASE_URL": self.prefix,
            "JUPYTERHUB_API_TOKEN": self.service_token,
            "JUPYTERHUB_SERVICE_PREFIX": f"{self.prefix}services/kbatch/",
            "JUPYTERHUB_SERVICE_URL": self.service_url or "",
        }

    def start(self, *, is_service_up: bool = False) -> None:
        """Start the hub and wait until it and its proxy answer, and the service if that is up already."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("JUPYTERHUB_")
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub", "-f", str(self._config)],
                cwd=self.folder,
                env=environment | self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        with nullcontext() if is_service_up else self._answering_service():
            self._wait()
        for name in USERS:
            self.add_user(name)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self.process is not None
            assert self.process.poll() is None, f"the hub ended at its start:\n{self.tail()}"
            assert time.monotonic() < deadline, f"the hub does not answer:\n{self.tail()}"
            try:
                httpx.get(f"{self.url}/hub/api/", timeout=5).raise_for_status()
                httpx.get(f"{self.kbatch_url}", timeout=5).raise_for_status()
                return
            except httpx.HTTPError:
                time.sleep(0.1)

    @contextmanager
    def _answering_service(self) -> Iterator[None]:
        """Answer for a service that is yet to be started: the hub waits 30 s for it at its start."""
        if self.service_url is None:
            yield
            return
        port = int(self.service_url.rpartition(":")[2])
        with ThreadingHTTPServer(("127.0.0.1", port), StandIn) as server:
            answering = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            answering.start()
            try:
                yield
            finally:
                server.shutdown()
                answering.join()

    def stop(self) -> None:
        """Stop the hub, and its proxy."""
        if self.process is None or self.process.poll() is not None:
            return
        pid_file = self.folder / "jupyterhub-proxy.pid"
        proxy = int(pid_file.read_text()) if pid_file.exists() else None
        try:
            self._stop_hub()
        finally:
            # The hub ends the process that it started. Where that is a wrapper around the real node, as
            # the one from PyPI is, the proxy goes on; it is in a session of its own.
            if proxy is not None:
                with suppress(ProcessLookupError):
                    os.killpg(proxy, signal.SIGKILL)

    def _stop_hub(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)  # its own session: nobody else is in this group
            self.process.wait()

    def add_user(self, name: str) -> None:
        """Make a user, unless there is one of that name."""
        self._call("POST", f"users/{quote(name)}", allow=(409,))

    def delete_user(self, name: str) -> None:
        """Delete a user, with all tokens."""
        self._call("DELETE", f"users/{quote(name)}")

    def add_admin(self, name: str) -> None:
        """Make a user who is an admin of kbatch: none of those that all tests share, who have no rights."""
        assert name not in USERS
        self.add_user(name)
        self._call("POST", "groups/kbatch-admins", allow=(409,))
        self._call("POST", "groups/kbatch-admins/users", json={"users": [name]})

    def make_token(self, name: str, scopes: list[str] | None = None) -> str:
        """Return a new API token of a user, with these scopes or with all that the user has."""
        body = {"note": "tests"} if scopes is None else {"note": "tests", "scopes": scopes}
        return str(self._call("POST", f"users/{quote(name)}/tokens", json=body)["token"])

    def revoke_tokens(self, name: str) -> None:
        """Revoke all API tokens of a user."""
        tokens = self._call("GET", f"users/{quote(name)}/tokens")["api_tokens"]
        for token in tokens:
            self._call("DELETE", f"users/{quote(name)}/tokens/{token['id']}")

    def tail(self, lines: int = 60) -> str:
        """Return the end of the hub's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _make_ssl_context(self) -> ssl.SSLContext | bool:
        """Return what the hub's own parts show each other with ``internal_ssl``."""
        if self._certificates is None:
            return True
        context = ssl.create_default_context(cafile=self._certificates / "hub-ca_trust.crt")
        pair = self._certificates / "hub-internal/hub-internal"
        context.load_cert_chain(pair.with_suffix(".crt"), pair.with_suffix(".key"))
        return context

    def _call(self, method: str, path: str, *, json: object = None, allow: tuple[int, ...] = ()) -> dict:
        headers = {"Authorization": f"token {self._admin_token}"}
        answer = httpx.request(
            method,
            f"{self.api_url}/{path}",
            headers=headers,
            json=json,
            timeout=30,
            verify=self._make_ssl_context(),
        )
        assert answer.is_success or answer.status_code in allow, (
            f"{method} {path}: {answer.text}\n{self.tail()}"
        )
        return answer.json() if answer.content else {}
