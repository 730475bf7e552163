"""``modify_pod_hook`` as admins have it for KubeSpawner: what it may do to a job's pod, and what not."""

from __future__ import annotations

import copy
from typing import Any

import kubernetes_asyncio.client
import pytest
from kubernetes import client

from kbatch_server.hooks import HookFailed, Hooks
from kbatch_server.launchers.kube.manifests.job import make_job
from kbatch_server.launchers.kube.pod_hook import modify_pod
from kbatch_server.models.job import Job, JobSpec
from kbatch_server.models.results import OutputLimits
from kbatch_server.models.times import utcnow
from kbatch_server.models.user import User
from kbatch_server.profiles.spawner import make_spawner

SPAWNER = make_spawner(User("Alice", ("climate",)), {"profile": "gpu"}, job_id="a-1")


def make() -> tuple[Job, dict[str, Any]]:
    spec = JobSpec(image="i", command=["x"], retries=2, retry_delay_seconds=30, upload="u")
    job = Job(id="a-1", user="Alice", name="a", spec=spec, created_at=utcnow())
    manifest = make_job(
        job,
        env_names=["PASSWORD"],
        namespace="jobs",
        instance="k",
        init_image="busybox",
        output_limits=OutputLimits(),
    )
    return job, manifest


async def change(hook: Any) -> dict[str, Any]:
    """Return the pod's template after the hook."""
    job, manifest = make()
    await modify_pod(Hooks(), hook, manifest, job, SPAWNER)
    template: dict[str, Any] = manifest["spec"]["template"]
    return template


@pytest.mark.parametrize("hook", [lambda spawner, pod: pod, lambda spawner, pod: None])
async def test_a_hook_that_changes_nothing_changes_nothing(hook):
    assert await change(hook) == make()[1]["spec"]["template"]


async def test_a_hook_written_for_kubespawner_works():
    async def hook(spawner, pod):
        assert (pod.kind, pod.metadata.name, pod.metadata.namespace) == ("Pod", "a-1", "jobs")
        pod.metadata.labels["team"] = spawner.user_options["profile"]
        pod.metadata.annotations["of"] = f"{spawner.user.name} {spawner.namespace} {spawner.job_id}"
        pod.spec.runtime_class_name = "gvisor"
        pod.spec.security_context = {"runAsUser": 5}
        pod.spec.volumes.append(client.V1Volume(name="a", empty_dir=client.V1EmptyDirVolumeSource()))
        pod.spec.volumes.append({"name": "b", "emptyDir": {}})
        pod.spec.tolerations.append(kubernetes_asyncio.client.V1Toleration(key="gpu", operator="Exists"))
        container = pod.spec.containers[0]
        container.volume_mounts.append(client.V1VolumeMount(name="a", mount_path="/a"))
        container.env.append(client.V1EnvVar(name="TEAM", value="x"))
        pod.spec.node_selector["pool"] = "batch"
        return pod

    before, after = make()[1]["spec"]["template"], await change(hook)
    assert after["metadata"]["labels"] == before["metadata"]["labels"] | {"team": "gpu"}
    assert after["metadata"]["annotations"]["of"] == "Alice jobs a-1"
    spec = after["spec"]
    assert spec["runtimeClassName"] == "gvisor"
    assert spec["securityContext"] == {"runAsUser": 5}
    new = [{"name": "a", "emptyDir": {}}, {"name": "b", "emptyDir": {}}]
    assert spec["volumes"] == before["spec"]["volumes"] + new
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert spec["nodeSelector"] == {"pool": "batch"}
    was, container = before["spec"]["containers"][0], spec["containers"][0]
    assert container["env"] == was["env"] + [{"name": "TEAM", "value": "x"}]
    assert container["volumeMounts"] == was["volumeMounts"] + [{"name": "a", "mountPath": "/a"}]
    assert {key for key in was if was[key] != container[key]} == {"env", "volumeMounts"}


async def test_fields_that_the_package_does_not_know_stay():
    job, manifest = make()
    spec = manifest["spec"]["template"]["spec"]
    spec["future"] = {"a": [1]}
    spec["containers"][0]["future"] = 2

    def hook(spawner, pod):
        pod.spec.containers[0].image = "other"

    await modify_pod(Hooks(), hook, manifest, job, SPAWNER)
    spec = manifest["spec"]["template"]["spec"]
    assert spec["future"] == {"a": [1]}
    assert (spec["containers"][0]["future"], spec["containers"][0]["image"]) == (2, "other")


async def test_the_values_of_variables_are_not_in_what_a_hook_sees():
    def hook(spawner, pod):
        [secret] = [each for each in pod.spec.containers[0].env if each.name == "PASSWORD"]
        assert secret.value is None
        assert secret.value_from.secret_key_ref.name == "a-1"

    await change(hook)


def _drop_label(pod):
    pod.metadata.labels.pop("kbatch.jupyter.org/job-id")


def _change_label(pod):
    pod.metadata.labels["kbatch.jupyter.org/instance"] = "other"


def _drop_container(pod):
    pod.spec.containers = [client.V1Container(name="mine", image="i")]


def _drop_fetch(pod):
    pod.spec.init_containers = []


def _restart(pod):
    pod.spec.restart_policy = "OnFailure"


def _open_gate(pod):
    pod.spec.scheduling_gates = None


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (_drop_label, "changed the label kbatch.jupyter.org/job-id"),
        (_change_label, "changed the label kbatch.jupyter.org/instance"),
        (_drop_container, "removed the container 'job'"),
        (_drop_fetch, "removed the container 'fetch-code'"),
        (_restart, "changed restartPolicy"),
        (_open_gate, "changed schedulingGates"),
    ],
)
async def test_a_hook_cannot_remove_what_the_service_needs(harm, words):
    job, manifest = make()
    before = copy.deepcopy(manifest)
    with pytest.raises(HookFailed, match=f"modify_pod_hook {words}"):
        await modify_pod(Hooks(), lambda spawner, pod: harm(pod), manifest, job, SPAWNER)
    assert manifest == before


@pytest.mark.parametrize("result", ["a pod", 3, {"kind": "Pod"}, [object()]])
async def test_what_is_no_pod_is_said(result):
    with pytest.raises(HookFailed, match="modify_pod_hook returned"):
        await change(lambda spawner, pod: result)


async def test_an_attribute_that_a_job_has_not_is_said():
    with pytest.raises(HookFailed, match="a job's spawner has no 'pvc_name'; it has: user, "):
        await change(lambda spawner, pod: spawner.pvc_name)
