"""A whole installation for tests: a real hub and proxy, kbatch-server, a namespace for its jobs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx

from tests.support.cluster import ClusterLike
from tests.support.hub import Hub
from tests.support.ports import find_ports
from tests.support.service import Service
from tests.support.zips import make_zip

CONFIG = """
c.KBatchServer.bind_url = "http://0.0.0.0:{port}"
c.KBatchServer.launcher_class = "kubernetes"
c.KBatchServer.log_level = "DEBUG"
c.SignedLinks.url_for_jobs = "http://{host}:{port}/services/kbatch/"
c.KubeJobLauncher.namespace = "{namespace}"
c.KubeJobLauncher.init_image = "{image}"
c.JobConfig.allowed_images = ["{image}", "localhost/nope:1"]
c.JobConfig.image = "{image}"
c.JobConfig.cpu_limit = 0.5
c.JobConfig.max_cpu_limit = 2000
c.JobConfig.termination_grace_period_seconds = 2
c.Outputs.max_output_files = 50
c.Profiles.profile_list = [
    {{"display_name": "As set for all", "slug": "plain"}},
    {{
        "display_name": "Small",
        "slug": "small",
        "description": "For a first try",
        "kbatch_override": {{"cpu_limit": 0.5, "mem_limit": "64M"}},
    }},
    {{
        "display_name": "Impatient",
        "slug": "impatient",
        "description": "What cannot start fails soon",
        "kbatch_override": {{"start_timeout_seconds": 2, "schedule_timeout_seconds": 2}},
    }},
]
"""
WAIT_SECONDS = 90


class Installation:
    """One hub, one kbatch-server beside it, and the clients of the hub's users."""

    def __init__(
        self,
        folder: Path,
        cluster: ClusterLike,
        *,
        namespace: str,
        config: str = "",
        last_config: str = "",
        kubeconfig: Path | None = None,
        hub_config: str = "",
    ) -> None:
        """``config`` is read before the rest of it, ``last_config`` after it; ``kubeconfig`` has the
        service's rights, else all; ``hub_config`` is the hub's own."""
        (port,) = find_ports(1)
        self.cluster = cluster
        self.namespace = namespace
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hub").mkdir()
        (folder / "service").mkdir()
        self.hub = Hub(folder / "hub", service_url=f"http://127.0.0.1:{port}", extra=hub_config)
        self.hub.start()
        config = config + CONFIG.format(
            port=port, host=cluster.host_address, namespace=namespace, image=cluster.image
        )
        config += last_config
        environment = self.hub.service_environment | {"KUBECONFIG": str(kubeconfig or cluster.kubeconfig)}
        self.service = Service(folder / "service", port=port, config=config, environment=environment)
        self.service.start()
        self._tokens: dict[str, str] = {}
        self._clients: dict[str, API] = {}

    def stop(self) -> None:
        """Stop the service and the hub."""
        for client in self._clients.values():
            client.http.close()
        self.service.stop()
        self.hub.stop()

    def token(self, user: str) -> str:
        """Return a token with all that a user may do."""
        if user not in self._tokens:
            self._tokens[user] = self.hub.make_token(user)
        return self._tokens[user]

    def client(self, user: str) -> API:
        """Return a client for a user, through the hub's proxy."""
        if user not in self._clients:
            self._clients[user] = API(self.hub.kbatch_url, self.token(user))
        return self._clients[user]


class API:
    """``api/v1`` as a user's script asks it."""

    def __init__(self, url: str, token: str) -> None:
        self.http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60, follow_redirects=True
        )

    def call(self, method: str, path: str, *, status: int = 200, **kwargs: Any) -> Any:
        """Return the JSON of an answer that has this status."""
        answer = self.http.request(method, path, **kwargs)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def upload(self, files: dict[str, str | bytes]) -> str:
        """Send a ZIP of these files and return the upload's id."""
        headers = {"Content-Type": "application/zip"}
        return self.call("POST", "api/v1/uploads", status=201, content=make_zip(files), headers=headers)["id"]

    def submit(self, script: str | None = None, **fields: Any) -> dict[str, Any]:
        """Submit a job, which runs a shell script if one is given, and return it."""
        body: dict[str, Any] = {"name": "test", "command": ["sh", "-c", script or "true"]} | fields
        return self.call("POST", "api/v1/jobs", status=201, json=body)

    def get(self, job_id: str) -> dict[str, Any]:
        """Return a job."""
        return self.call("GET", f"api/v1/jobs/{job_id}")

    def wait(self, job_id: str, *statuses: str, seconds: float = WAIT_SECONDS) -> dict[str, Any]:
        """Return a job when it has one of the statuses, or is over if none is given."""
        statuses = statuses or ("succeeded", "failed", "cancelled")
        deadline = time.monotonic() + seconds
        while True:
            job = self.get(job_id)
            if job["status"] in statuses:
                return job
            assert time.monotonic() < deadline, f"not {statuses} in {seconds} s: {job}"
            time.sleep(0.1)

    def logs(self, job_id: str, **params: Any) -> str:
        """Return a job's log as text."""
        answer = self.http.get(f"api/v1/jobs/{job_id}/logs", params=params)
        assert answer.status_code == 200, answer.text
        return answer.text
