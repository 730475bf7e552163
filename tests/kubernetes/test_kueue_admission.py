"""A job that is handed to Kueue, on a real cluster.

Kueue itself is not here: the test makes the definition of its Workload, reduced to what we read of it, and
plays its controller by hand. So this shows that our part keeps to the contract, not that Kueue does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from kubernetes.aio import client

from kbatch_server.launchers.base import Launch
from kbatch_server.launchers.kube.client import make_path
from kbatch_server.launchers.kube.launcher import KubeJobLauncher
from kbatch_server.launchers.kube.status.kueue import make_workloads_path
from kbatch_server.models.job import Job, JobSpec, JobStatus, Status
from kbatch_server.models.times import utcnow
from kbatch_server.slugs import make_job_id
from tests.support.cluster import ClusterLike
from tests.support.waiting import until

SECONDS = 60
VERSION = "v1beta1"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "workloads.kueue.x-k8s.io",
        # the group is Kubernetes's own, which the API server guards
        "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/kueue"},
    },
    "spec": {
        "group": "kueue.x-k8s.io",
        "scope": "Namespaced",
        "names": {"kind": "Workload", "plural": "workloads", "singular": "workload"},
        "versions": [
            {
                "name": VERSION,
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
                },
            }
        ],
    },
}


class Kueue:
    """What Kueue's controller does with the Job of one job, a step at a time."""

    def __init__(self, launcher: KubeJobLauncher, namespace: str, job: Job) -> None:
        self.api = launcher.client
        self.workloads = make_workloads_path(VERSION, namespace)
        self.job_path = make_path("jobs", namespace, job.id)
        self.job = job

    async def take_up(self) -> None:
        uid = self.job.state["uid"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": self.job.id, "uid": uid}
        manifest = {
            "apiVersion": f"kueue.x-k8s.io/{VERSION}",
            "kind": "Workload",
            "metadata": {
                "name": f"job-{self.job.id}",
                "labels": {"kueue.x-k8s.io/job-uid": uid},
                "ownerReferences": [owner],
            },
        }
        await self.api.ensure_created(self.workloads, manifest, is_ours=lambda found: True)

    async def say(self, **conditions: tuple[bool, str, str]) -> None:
        """Set the conditions, by type: whether it is so, the reason and the message."""
        found = [
            {
                "type": kind,
                "status": str(is_so),
                "reason": reason,
                "message": message,
                "lastTransitionTime": "2026-01-01T10:00:00Z",
            }
            for kind, (is_so, reason, message) in conditions.items()
        ]
        await self.api.patch(f"{self.workloads}/job-{self.job.id}/status", {"status": {"conditions": found}})

    async def suspend(self, is_suspended: bool) -> None:
        await self.api.patch(self.job_path, {"spec": {"suspend": is_suspended}})


@pytest.fixture
async def launcher(cluster: ClusterLike, namespace: str) -> AsyncIterator[KubeJobLauncher]:
    launcher = KubeJobLauncher(
        kubeconfig=str(cluster.kubeconfig),
        namespace=namespace,
        init_image=cluster.image,
        instance=namespace,
        kueue_version=VERSION,
    )
    await launcher.open()
    await launcher.client.ensure_created(DEFINITIONS, DEFINITION, is_ours=lambda found: True)

    async def is_established() -> bool:
        found = await launcher.client.get(f"{DEFINITIONS}/workloads.kueue.x-k8s.io")
        conditions = found.get("status", {}).get("conditions") or []
        return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)

    await until(is_established, seconds=SECONDS)
    await launcher.start(lambda job_id: None)
    yield launcher
    await launcher.stop()
    await launcher.close()


async def wait(launcher: KubeJobLauncher, job: Job, reason: str) -> JobStatus:
    """Wait until a job's reason is this."""
    seen: JobStatus | None = None
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                seen = await launcher.poll(job)
                if seen is not None and seen.reason == reason:
                    return seen
                await launcher.reflector.wait_change(str(job.state["namespace"]), job.id, 1)
    except TimeoutError:
        pytest.fail(f"not {reason}: {seen!r}")


async def test_kueue_lets_a_job_go_stops_it_and_lets_it_go_again(
    launcher: KubeJobLauncher, cluster: ClusterLike, namespace: str, core_api: client.CoreV1Api
) -> None:
    script = "trap 'exit 1' TERM; [ $FAST = no ] && sleep 100 & wait; echo done"
    spec = JobSpec(
        image=cluster.image,
        command=["sh", "-c", script],
        queue_name="team-a",
        kueue_priority_class="low",
        termination_grace_period_seconds=1,
    )
    job = Job(
        id=make_job_id("test"),
        user="alice",
        name="test",
        spec=spec,
        created_at=utcnow(),
        launch_begun_at=utcnow(),
    )
    for _ in range(2):  # as after a kill: it is let go by nobody but Kueue
        job.state = await launcher.launch(job, Launch(env={"FAST": "no"}))
    path = make_path("jobs", namespace, job.id)
    made: dict[str, Any] = await launcher.client.get(path)
    assert made["spec"]["suspend"] is True
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert made["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "low"
    assert (await core_api.read_namespaced_secret(job.id, namespace)).data
    assert "Waiting for Kueue's queue" in (await wait(launcher, job, "Suspended")).message

    kueue = Kueue(launcher, namespace, job)
    await kueue.take_up()
    await kueue.say(QuotaReserved=(False, "Pending", "insufficient unused quota for cpu in flavor f, 1 more"))
    seen = await wait(launcher, job, "Pending")
    assert (
        seen.message
        == "Waiting in Kueue's queue 'team-a': insufficient unused quota for cpu in flavor f, 1 more."
    )
    assert seen.status == Status.PENDING
    await kueue.say(QuotaReserved=(True, "QuotaReserved", "in ClusterQueue a"))
    await wait(launcher, job, "QuotaReserved")
    await kueue.say(QuotaReserved=(True, "QuotaReserved", ""), Admitted=(True, "Admitted", ""))
    await kueue.suspend(False)
    assert (await wait(launcher, job, "Running")).status == Status.RUNNING

    await kueue.say(
        QuotaReserved=(False, "Pending", "Preempted to make room"),
        Admitted=(False, "NoReservation", ""),
        Evicted=(True, "Preempted", "Preempted to make room"),
    )
    await kueue.suspend(True)
    seen = await wait(launcher, job, "Preempted")
    assert seen.status == Status.PENDING
    assert "Stopped by Kueue: Preempted to make room." in seen.message

    # what the API alone says is the same, when the watches cannot be asked
    asked = await launcher.job_objects.ask(launcher._find_place(job))
    assert asked is not None
    assert asked.workload is not None

    secret = await core_api.read_namespaced_secret(job.id, namespace)
    key = next(name for name in secret.data if name.endswith("FAST"))
    await core_api.patch_namespaced_secret(job.id, namespace, {"stringData": {key: "yes"}})
    await kueue.say(QuotaReserved=(True, "QuotaReserved", ""), Admitted=(True, "Admitted", ""))
    await kueue.suspend(False)
    seen = await wait(launcher, job, "Complete")
    assert (seen.status, seen.exit_code) == (Status.SUCCEEDED, 0)
