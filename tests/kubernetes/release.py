"""The chart installed on the test cluster with the service's image: namespaces, a volume, helm and a wait."""

from __future__ import annotations

import contextlib
import shutil
import socket
from pathlib import Path
from typing import Any

import kubernetes

from tests.support.cluster import ClusterLike
from tests.support.helm import Helm, Manifest
from tests.support.images import JOB, SERVICE
from tests.support.waiting import wait_until

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
USER = 1000
WAIT_SECONDS = 60

IMAGE = {"name": SERVICE.partition(":")[0], "tag": SERVICE.partition(":")[2], "pullPolicy": "Never"}
CONFIG = {
    "JobConfig": {
        "image": JOB,
        "allowed_images": [JOB],
        "image_pull_policy": "Never",
        "termination_grace_period_seconds": 2,
    },
    "KubeJobLauncher": {"init_image": JOB},
}


class Release:
    """One release, ``kbatch-server``, in a namespace of its own, with another for its jobs."""

    name = "kbatch-server"

    def __init__(
        self, helm: Helm, api_client: Any, cluster: ClusterLike, folder: Path, namespace: str
    ) -> None:
        """``folder`` is for the files of its volume; both namespaces take restricted pods only."""
        self._helm = helm
        self.core = kubernetes.client.CoreV1Api(api_client)
        self.batch = kubernetes.client.BatchV1Api(api_client)
        self._apps = kubernetes.client.AppsV1Api(api_client)
        self._cluster = cluster
        self.namespace = namespace
        self.jobs = f"{namespace}-jobs"
        for each in (self.namespace, self.jobs):
            self.core.create_namespace({"metadata": {"name": each, "labels": RESTRICTED}})
        self._make_volume(folder)

    def _make_volume(self, folder: Path) -> None:
        """Make a volume for the claim, as a provisioner would: this cluster has none."""
        folder.mkdir()
        shutil.chown(folder, USER, USER)
        spec = {
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "hostPath": {"path": str(folder)},
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": self.namespace, "name": self.name},
        }
        self.core.create_persistent_volume({"metadata": {"name": self.namespace}, "spec": spec})

    @property
    def url(self) -> str:
        """The address of its Service in the cluster, by name."""
        return f"http://{self.name}.{self.namespace}.svc"

    @property
    def address(self) -> str:
        """The same by number, for the tests."""
        return f"http://{self.core.read_namespaced_service(self.name, self.namespace).spec.cluster_ip}"

    def install(self, values: Manifest, *, chart: str = "CHART") -> str:
        """Run ``helm upgrade --install``, wait until all pods are new and reached; return what it printed."""
        said = self._helm.call(
            "upgrade", "--install", self.name, chart, values=values, namespace=self.namespace
        )
        publish(self.core, self._cluster)
        self.wait()
        self._wait_until_reached()
        return said

    def wait(self) -> None:
        """Wait until the Deployment is as it was asked for, as ``kubectl rollout status`` does."""

        def is_done() -> bool:
            found = self._apps.read_namespaced_deployment(self.name, self.namespace)
            wanted, status = found.spec.replicas, found.status
            counts = (status.updated_replicas, status.replicas, status.ready_replicas)
            return bool(status.observed_generation == found.metadata.generation and counts == (wanted,) * 3)

        wait_until(is_done, lambda: f"the pods are not ready:\n{self.describe()}", WAIT_SECONDS)

    def _wait_until_reached(self) -> None:
        """Wait until its Service leads to a pod: the node learns of a pod a moment after that is ready."""
        address = (self.core.read_namespaced_service(self.name, self.namespace).spec.cluster_ip, 80)

        def is_reached() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(address, 1):
                return True
            return False

        wait_until(is_reached, lambda: f"the Service leads nowhere:\n{self.describe()}", WAIT_SECONDS)

    def remove_jobs(self) -> None:
        """Remove all Jobs and their pods, as a clean cluster has them when their time is over, and wait."""
        self.batch.delete_collection_namespaced_job(self.jobs, propagation_policy="Foreground")
        wait_until(
            lambda: not self.core.list_namespaced_pod(self.jobs).items,
            "pods of jobs are still there",
            WAIT_SECONDS,
        )

    def describe(self) -> str:
        """Return what its pods are doing, and what they said."""
        lines = []
        for pod in self.pods():
            lines += [
                f"{pod.metadata.name}: {pod.status.phase} {each.state}"
                for each in pod.status.container_statuses or []
            ]
            try:
                lines.append(
                    self.core.read_namespaced_pod_log(pod.metadata.name, self.namespace, tail_lines=40)
                )
            except kubernetes.client.ApiException as error:
                lines.append(f"no log: {error.status}")
        events = self.core.list_namespaced_event(self.namespace).items
        return "\n".join([*lines, *(f"{each.reason}: {each.message}" for each in events)])

    def uninstall(self) -> None:
        """Run ``helm uninstall`` and wait until its pods are gone."""
        self._helm.call("uninstall", self.name, namespace=self.namespace)
        wait_until(lambda: not self.pods(), self.describe, WAIT_SECONDS)

    def test(self) -> str:
        """Run ``helm test`` and return what it and its pod printed."""
        return self._helm.call("test", self.name, "--logs", namespace=self.namespace)

    def read_secret(self, name: str) -> dict[str, str]:
        """Return the data of a Secret in its namespace, in base64."""
        data: dict[str, str] = self.core.read_namespaced_secret(name, self.namespace).data
        return data

    def pods(self) -> list[Any]:
        """Return the pods of the service."""
        selector = f"app.kubernetes.io/name=kbatch-server,app.kubernetes.io/instance={self.name}"
        found: list[Any] = self.core.list_namespaced_pod(self.namespace, label_selector=selector).items
        return found


def publish(core: Any, cluster: ClusterLike) -> None:
    """Let pods find all Services by name, as a cluster's DNS does."""
    services = core.list_service_for_all_namespaces().items
    cluster.serve_names(
        {
            f"{each.metadata.name}.{each.metadata.namespace}.svc.cluster.local": each.spec.cluster_ip
            for each in services
        }
    )
