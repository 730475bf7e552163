"""A whole installation whose parts can each be stopped: cluster, database, storage, hub, service, clock."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import kubernetes

from tests.support.cluster import ClusterLike
from tests.support.faultkit.apiproxy import ApiProxy
from tests.support.faultkit.health import wait_failed
from tests.support.faultkit.ledger import Bell
from tests.support.hub import Hub
from tests.support.installation import API
from tests.support.ports import find_ports
from tests.support.postgresql import PostgreSQL
from tests.support.s3server import S3Server
from tests.support.service import Service
from tests.support.waiting import wait_until

PREFIX = "/services/kbatch/"
CONFIG = """
c.KBatchServer.bind_url = "http://0.0.0.0:{port}"
c.KBatchServer.launcher_class = "kubernetes"
c.KBatchServer.db_url = "{db_url}"
c.KBatchServer.storage_class = "s3"
c.SignedLinks.url_for_jobs = "http://{host}:{port}{prefix}"
c.KubeJobLauncher.namespace = "{namespace}"
c.KubeJobLauncher.init_image = "{image}"
c.KubeJobLauncher.request_timeout_seconds = 10
c.JobConfig.image = "{image}"
c.JobConfig.termination_grace_period_seconds = 2
c.JobConfig.output_timeout_seconds = 600
c.LogRecorder.flush_seconds = 0.5
c.Hooks.post_finish_hook = lambda job: None
c.Reconciler.resync_seconds = 10
c.KubeJobLauncher.poll_seconds = 10
"""
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
PAST_SECONDS = 2 * 86400
DELETE_SECONDS = 120


class Site:
    """The service, over PostgreSQL and S3, with its jobs on a real cluster, which it asks through a proxy."""

    def __init__(
        self, folder: Path, cluster: ClusterLike, postgresql: PostgreSQL, s3: S3Server, db_url: str
    ) -> None:
        (port,) = find_ports(1)
        self.cluster, self.postgresql, self.s3 = cluster, postgresql, s3
        self.namespace = f"faults-{secrets.token_hex(4)}"
        self._api_client = kubernetes.config.new_client_from_config(str(cluster.kubeconfig))
        self.core = kubernetes.client.CoreV1Api(self._api_client)
        self.batch = kubernetes.client.BatchV1Api(self._api_client)
        self.core.create_namespace({"metadata": {"name": self.namespace}})
        self.proxy = ApiProxy(cluster.kubeconfig)
        self.ledger = Bell(cluster.host_address)
        for name in ("hub", "service"):
            (folder / name).mkdir()
        self.hub = Hub(folder / "hub", service_url=f"http://127.0.0.1:{port}")
        self.hub.start()
        self._token = self.hub.make_token("alice")
        config = CONFIG.format(
            port=port,
            host=cluster.host_address,
            prefix=PREFIX,
            namespace=self.namespace,
            image=cluster.image,
            db_url=db_url,
        )
        for name, value in s3.settings().items():
            config += f"c.S3Storage.{name} = {value!r}\n"
        environment = self.hub.service_environment | {
            "KUBECONFIG": str(self.proxy.write_kubeconfig(folder / "kubeconfig")),
            "KBATCH_KEYS": secrets.token_hex(32),
        }
        self.clock = folder / "clock"
        self.clock.write_text("+0")
        self.service = Service(folder / "service", port=port, config=config, environment=environment)
        self.service.start()

    def client(self, token: str | None = None) -> API:
        """Return a client of the service itself: the hub and its proxy may be away."""
        return API(f"http://127.0.0.1:{self.service.port}{PREFIX}", token or self._token)

    def wait_failed(self, part: str) -> str:
        """Wait until ``/ready`` names this part as failed, and return what it says in short."""
        return wait_failed(self.client, part)

    def find_pod(self, job_id: str) -> str:
        """Return the name of a job's only pod."""
        [pod] = self.core.list_namespaced_pod(self.namespace, label_selector=self._selector(job_id)).items
        return str(pod.metadata.name)

    def is_node_ready(self) -> bool:
        """Return whether the node is, as the API server says."""
        [node] = self.core.list_node().items
        return any(each.type == "Ready" and each.status == "True" for each in node.status.conditions)

    def say_node_is_lost(self) -> None:
        """Say of the node that it is not heard of any more."""
        [node] = self.core.list_node().items
        lost = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}
        self.core.patch_node_status(node.metadata.name, {"status": {"conditions": [lost]}})
        wait_until(lambda: not self.is_node_ready(), "the node is not ready")

    def _selector(self, job_id: str) -> str:
        return f"kbatch.jupyter.org/job-id={job_id}"

    def find_leftovers(self, job_ids: Iterable[str]) -> list[str]:
        """Delete all jobs, stop the service, and return what is left of them."""
        client = self.client()
        for job_id in job_ids:
            client.call("DELETE", f"api/v1/jobs/{job_id}", status=204)
        client.http.close()
        deadline = time.monotonic() + DELETE_SECONDS
        while (left := self._list_objects() + self._list_records()) and time.monotonic() < deadline:
            time.sleep(0.5)
        self.service.stop()
        return left + [f"object {key}" for key in self._collect()]

    def _list_records(self) -> list[str]:
        rows = self.postgresql.execute("SELECT id FROM jobs", url=self._db_url)
        return [f"record of {job_id}" for (job_id,) in rows]

    @property
    def _db_url(self) -> str:
        words = self.service.config_file.read_text().partition('db_url = "')[2]
        return words.partition('"')[0]

    def _list_objects(self) -> list[str]:
        """Return what there is in the namespace that was made for a job."""
        lists: list[tuple[str, Any]] = [
            ("Job", self.batch.list_namespaced_job(self.namespace)),
            ("Pod", self.core.list_namespaced_pod(self.namespace)),
            ("Secret", self.core.list_namespaced_secret(self.namespace)),
        ]
        return [f"{kind} {each.metadata.name}" for kind, found in lists for each in found.items]

    def _collect(self) -> list[str]:
        """Let two days pass for the storage, remove what nothing names, and return what is there but code."""
        past = time.time() - PAST_SECONDS
        for path in self.s3.find_files():
            os.utime(path, (past, past))
        subprocess.run(
            [sys.executable, "-m", "kbatch_server", "gc", "--config", str(self.service.config_file)],
            cwd=self.service.folder,
            env=os.environ | self.service.environment,
            check=True,
            capture_output=True,
            timeout=60,
        )
        files = [path.relative_to(self.s3.folder).as_posix() for path in self.s3.find_files()]
        uploads = [each for each in files if "/uploads/" in each]
        return [each for each in files if each not in uploads[:1]]

    def remove(self) -> None:
        """End everything of it."""
        self.service.kill()
        self.hub.stop()
        self.proxy.close()
        self.ledger.close()
        self.core.delete_namespace(self.namespace)
        self._api_client.close()
