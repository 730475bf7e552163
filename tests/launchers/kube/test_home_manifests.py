"""What a home adds to the pod of a job, and how a job that waits for its node says so."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from kbatch_server.hub.claims import HomeVolume
from kbatch_server.launchers.kube.manifests import job as objects
from kbatch_server.launchers.kube.manifests.serverhome import add_home
from kbatch_server.launchers.kube.reflector import trim_pod
from kbatch_server.launchers.kube.status import sentences
from kbatch_server.launchers.kube.status.status import make_status
from kbatch_server.models.job import Job, JobSpec
from kbatch_server.models.results import OutputLimits

SOURCE = {"persistentVolumeClaim": {"claimName": "claim-alice"}}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
AFFINITY = {
    "labelSelector": {"matchLabels": {"kbatch.jupyter.org/home": "claim-alice"}},
    "topologyKey": "kubernetes.io/hostname",
}
ON_NODE = {"key": "metadata.name", "operator": "In", "values": ["node-1"]}


def make(home: HomeVolume, **spec: Any) -> dict[str, Any]:
    fields = {"image": "x", "command": ["true"], "home": "server", "keep_outputs": True} | spec
    made_at = datetime(2026, 1, 1, tzinfo=UTC)
    job = Job(id="train-1", user="alice", name="train", spec=JobSpec(**fields), created_at=made_at)
    manifest = objects.make_job(
        job,
        env_names=["HOME"],
        namespace="jobs",
        instance="kbatch",
        init_image="busybox",
        output_limits=OutputLimits(),
    )
    add_home(manifest, job, home, image="busybox")
    return manifest["spec"]["template"]


def mounts_of(pod: dict[str, Any], container: str) -> dict[str, dict[str, Any]]:
    containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    [found] = [each for each in containers if each["name"] == container]
    return {each["mountPath"]: each for each in found["volumeMounts"]}


def test_a_home_is_mounted_where_the_server_has_it() -> None:
    pod = make(HomeVolume(SOURCE, "homes/alice"))
    assert {"name": "kbatch-server-home", **SOURCE} in pod["spec"]["volumes"]
    mount = {"name": "kbatch-server-home", "mountPath": "/home/jovyan", "subPath": "homes/alice"}
    assert mounts_of(pod, "job")["/home/jovyan"] == mount
    assert "affinity" not in pod["spec"]
    assert "kbatch.jupyter.org/home" not in pod["metadata"]["labels"]


def test_the_pods_of_one_claim_are_on_one_node() -> None:
    pod = make(HomeVolume(SOURCE, is_on_one_node=True))
    assert pod["metadata"]["labels"]["kbatch.jupyter.org/home"] == "claim-alice"
    assert pod["spec"]["affinity"] == {"podAffinity": {REQUIRED: [AFFINITY]}}
    pod = make(HomeVolume(SOURCE, is_on_one_node=True, node="node-1"))
    assert pod["spec"]["affinity"]["nodeAffinity"] == {
        REQUIRED: {"nodeSelectorTerms": [{"matchFields": [ON_NODE]}]}
    }
    assert pod["metadata"]["annotations"]["kbatch.jupyter.org/home-node"] == "node-1"


def test_the_admins_affinities_stay() -> None:
    terms = [{"matchExpressions": [{"key": key, "operator": "Exists"}]} for key in ("a", "b")]
    other = [{"labelSelector": {"matchLabels": {"app": "cache"}}, "topologyKey": "zone"}]
    spec = {"node_affinity_required": terms, "pod_affinity_required": other}
    affinity = make(HomeVolume(SOURCE, is_on_one_node=True, node="node-1"), **spec)["spec"]["affinity"]
    assert affinity["nodeAffinity"][REQUIRED]["nodeSelectorTerms"] == [
        term | {"matchFields": [ON_NODE]} for term in terms
    ]
    assert affinity["podAffinity"] == {REQUIRED: other}


def test_results_are_files_of_the_home_in_a_folder_that_the_jobs_own_user_makes() -> None:
    spec = {"results_to_home": True, "container_security_context": {"runAsUser": 1234}}
    pod = make(HomeVolume(SOURCE, "homes/alice"), **spec)
    folder = {"name": "kbatch-server-home", "subPath": "homes/alice/jobs/train-1"}
    assert mounts_of(pod, "job")["/kbatch-outputs"] == folder | {"mountPath": "/kbatch-outputs"}
    sent = mounts_of(pod, "keep-outputs")["/kbatch/outputs"]
    assert sent == folder | {"mountPath": "/kbatch/outputs", "readOnly": True}
    assert "kbatch-outputs" not in [each["name"] for each in pod["spec"]["volumes"]]
    maker = pod["spec"]["initContainers"][0]
    assert maker["securityContext"]["runAsUser"] == 1234
    assert maker["command"][-1] == "/kbatch-server-home/jobs/train-1"
    assert mounts_of(pod, maker["name"])["/kbatch-server-home"]["subPath"] == "homes/alice"


def test_results_of_the_working_folder_are_copied_into_the_home() -> None:
    pod = make(HomeVolume(SOURCE), results_to_home=True, collect="workdir")
    [keeper] = [each for each in pod["spec"]["initContainers"] if each["name"] == "keep-outputs"]
    assert {"name": "KBATCH_TO_HOME", "value": "1"} in keeper["env"]
    assert "readOnly" not in mounts_of(pod, "keep-outputs")["/kbatch/outputs"]
    pod = make(HomeVolume(SOURCE), results_to_home=True)
    [keeper] = [each for each in pod["spec"]["initContainers"] if each["name"] == "keep-outputs"]
    assert "KBATCH_TO_HOME" not in [each["name"] for each in keeper["env"]]


def wait(message: str, home: HomeVolume) -> str:
    pod = make(home)
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    made = {
        "name": "train-1-x",
        "namespace": "jobs",
        "uid": "u",
        "resourceVersion": "1",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    pod |= {"metadata": pod["metadata"] | made, "status": {"phase": "Pending", "conditions": [condition]}}
    job = {"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {}, "status": {}}
    status = make_status(job, [trim_pod(pod)], [])
    assert status.blocked_on == "schedule"
    return status.message


def test_a_job_that_waits_for_the_node_of_the_home_says_so() -> None:
    home = HomeVolume(SOURCE, is_on_one_node=True, node="node-1")
    others = "2 node(s) didn't match Pod's node affinity/selector"
    message = f"0/3 nodes are available: 1 Insufficient cpu, {others}. preemption: none"
    assert wait(message, home) == "Waiting for room on the node of your server: not enough CPU free."
    message = "0/3 nodes are available: 3 node(s) didn't satisfy plugin(s) [NodeAffinity]."
    assert wait(message, home) == (
        "Waiting for room on the node of your server, which does not accept this job. "
        "Stop what uses your home there, or submit the job without home."
    )


def test_a_job_that_waits_for_the_node_of_another_job_says_so() -> None:
    home = HomeVolume(SOURCE, is_on_one_node=True)
    others = "2 node(s) didn't match pod affinity rules"
    message = f"0/3 nodes are available: 1 Too many pods, {others}."
    words = "Waiting for room on the node where your home is in use: already full of pods."
    assert wait(message, home) == words
    assert wait("0/1 nodes are available: 1 Insufficient cpu.", home).startswith("No node has room")


def test_a_home_that_is_attached_elsewhere_is_explained() -> None:
    message = 'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) jupyter-alice'
    words = sentences.volume_problem("A volume cannot be attached", message)
    assert "in use on another node: stop what uses it there, which is your server or another job." in words
    assert message in words
