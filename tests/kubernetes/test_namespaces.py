"""A namespace for each user on a real cluster: what it gets, who may use it, and when it is removed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from kubernetes.aio import client

from kbatch_server.launchers.base import Launch, LauncherUnavailable, LaunchRefused
from kbatch_server.launchers.kube.launcher import KubeJobLauncher
from kbatch_server.models.job import Job, JobSpec
from kbatch_server.models.times import utcnow
from kbatch_server.slugs import make_job_id
from tests.support.cluster import ClusterLike
from tests.support.waiting import until

RBAC = "rbac.authorization.k8s.io"
OBJECTS: list[dict[str, Any]] = [
    {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "jobs"},
        "spec": {"hard": {"count/jobs.batch": "5"}},
    },
    {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "limits"},
        "spec": {"limits": [{"type": "Container", "default": {"memory": "64Mi"}}]},
    },
    {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "closed"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    },
    {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "of-{username}"},
        "imagePullSecrets": [{"name": "registry"}],
    },
    {
        "apiVersion": f"{RBAC}/v1",
        "kind": "Role",
        "metadata": {"name": "reads"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}],
    },
    {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "reads"},
        "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "reads"},
        "subjects": [{"kind": "ServiceAccount", "name": "of-{username}", "namespace": "{namespace}"}],
    },
]


@pytest.fixture
async def launcher(cluster: ClusterLike, namespace: str) -> AsyncIterator[KubeJobLauncher]:
    launcher = make_launcher(cluster, namespace, user_namespace_objects=OBJECTS)
    await launcher.open()
    yield launcher
    await launcher.close()


def make_launcher(cluster: ClusterLike, namespace: str, **traits: Any) -> KubeJobLauncher:
    settings = {
        "kubeconfig": str(cluster.kubeconfig),
        "enable_user_namespaces": True,
        "hub_namespace": namespace,
        "user_namespace_labels": {"team": "{username}"},
        "instance": namespace,
        "init_image": cluster.image,
    }
    return KubeJobLauncher(**(settings | traits))


@pytest.fixture
async def place(core_api: client.CoreV1Api, namespace: str) -> AsyncIterator[str]:
    """The namespace of the user Alice, which does not exist yet."""
    name = make_name(namespace)
    yield name
    found = await core_api.list_namespace(label_selector="team")
    if name in [each.metadata.name for each in found.items]:
        await core_api.delete_namespace(name)


def make_name(namespace: str) -> str:
    return KubeJobLauncher(enable_user_namespaces=True, hub_namespace=namespace).get_namespace("Alice")


def make_job(cluster: ClusterLike) -> Job:
    spec = JobSpec(image=cluster.image, command=["true"], termination_grace_period_seconds=1)
    return Job(id=make_job_id("test"), user="Alice", name="test", spec=spec, created_at=utcnow())


async def launch(launcher: KubeJobLauncher, cluster: ClusterLike) -> Job:
    job = make_job(cluster)
    job.state = await launcher.launch(job, Launch())
    return job


async def test_a_new_namespace_gets_its_objects_and_a_changed_template_reaches_it(
    cluster: ClusterLike,
    launcher: KubeJobLauncher,
    core_api: client.CoreV1Api,
    api_client: client.ApiClient,
    namespace: str,
    place: str,
) -> None:
    assert place.startswith(f"{namespace}-alice---")
    first, second = await asyncio.gather(launch(launcher, cluster), launch(launcher, cluster))
    assert {first.state["namespace"], second.state["namespace"]} == {place}
    made = await core_api.read_namespace(place)
    assert made.metadata.labels["team"] == place.removeprefix(f"{namespace}-")
    quota = await core_api.read_namespaced_resource_quota("jobs", place)
    assert quota.spec.hard == {"count/jobs.batch": "5"}
    account = f"of-{made.metadata.labels['team']}"
    assert (await core_api.read_namespaced_service_account(account, place)).image_pull_secrets
    rbac_api = client.RbacAuthorizationV1Api(api_client)
    binding = await rbac_api.read_namespaced_role_binding("reads", place)
    assert (binding.subjects[0].name, binding.subjects[0].namespace) == (account, place)
    # no object is touched again, in this process or the next
    again = make_launcher(cluster, namespace, user_namespace_objects=OBJECTS)
    await again.open()
    await launch(again, cluster)
    await again.close()
    found = await core_api.read_namespaced_resource_quota("jobs", place)
    assert found.metadata.uid == quota.metadata.uid
    # what may change is changed, and what may not is made anew
    role = {**OBJECTS[5], "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "view"}}
    hard = {**OBJECTS[0], "spec": {"hard": {"count/jobs.batch": "9"}}}
    changed = make_launcher(cluster, namespace, user_namespace_objects=[hard, role])
    await changed.open()
    await launch(changed, cluster)
    await changed.close()
    found = await core_api.read_namespaced_resource_quota("jobs", place)
    assert (found.metadata.uid, found.spec.hard) == (quota.metadata.uid, {"count/jobs.batch": "9"})
    assert (await rbac_api.read_namespaced_role_binding("reads", place)).role_ref.name == "view"


async def test_an_object_that_cannot_be_made_keeps_the_job_waiting_with_the_reason(
    cluster: ClusterLike, core_api: client.CoreV1Api, namespace: str, place: str
) -> None:
    bad = {**OBJECTS[0], "spec": {"hard": {"count/jobs.batch": "many"}}}
    launcher = make_launcher(cluster, namespace, user_namespace_objects=[bad])
    await launcher.open()
    with pytest.raises(LauncherUnavailable, match=f"^The ResourceQuota jobs of the namespace {place} cannot"):
        await launch(launcher, cluster)
    await launcher.close()
    # one of somebody else stays as it is
    await core_api.create_namespaced_resource_quota(place, {"metadata": {"name": "jobs"}})
    launcher = make_launcher(cluster, namespace, user_namespace_objects=OBJECTS[:1])
    await launcher.open()
    with pytest.raises(LauncherUnavailable, match="was not created by this service"):
        await launch(launcher, cluster)
    await launcher.close()


async def test_a_namespace_of_somebody_else_is_used_only_if_the_admin_says_so(
    cluster: ClusterLike, core_api: client.CoreV1Api, namespace: str, place: str
) -> None:
    await core_api.create_namespace({"metadata": {"name": place, "labels": {"team": "x"}}})
    launcher = make_launcher(cluster, namespace)
    await launcher.open()
    with pytest.raises(LaunchRefused, match="use_existing_user_namespaces") as refused:
        await launch(launcher, cluster)
    assert refused.value.reason == "NamespaceTaken"
    launcher.use_existing_user_namespaces = True
    await launch(launcher, cluster)
    # and the service never removes it
    await launcher.forget_user("Alice")
    assert await launcher.list_owners() == set()
    await launcher.remove_forgotten()
    assert (await core_api.read_namespace(place)).metadata.deletion_timestamp is None
    await launcher.close()


async def test_without_the_right_to_create_namespaces_each_must_exist(
    cluster: ClusterLike, core_api: client.CoreV1Api, namespace: str, place: str
) -> None:
    launcher = make_launcher(cluster, namespace, create_user_namespaces=False)
    await launcher.open()
    with pytest.raises(LaunchRefused) as refused:
        await launch(launcher, cluster)
    assert refused.value.reason == "NamespaceNotFound"
    await core_api.create_namespace({"metadata": {"name": place, "labels": {"team": "x"}}})
    assert (await launch(launcher, cluster)).state["namespace"] == place
    await launcher.close()


async def test_the_namespace_of_a_forgotten_user_goes_when_nothing_of_anybody_is_in_it(
    cluster: ClusterLike,
    launcher: KubeJobLauncher,
    core_api: client.CoreV1Api,
    place: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = await launch(launcher, cluster)
    claim = {
        "metadata": {"name": "claim-alice"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1M"}}},
    }
    await core_api.create_namespaced_persistent_volume_claim(place, claim)
    assert await launcher.list_owners() == {"Alice"}
    await launcher.forget_user("Alice")
    await launcher.forget_user("Alice")
    assert await launcher.list_owners() == set()
    job.delete_requested_at = utcnow()
    await until(lambda: launcher.terminate(job))
    caplog.set_level(logging.INFO)
    for _ in range(2):
        await launcher.remove_forgotten()
    said = [each.getMessage() for each in caplog.records if "stays" in each.getMessage()]
    assert len(said) == 1
    assert f"the namespace {place} stays" in said[0]
    assert "persistentvolumeclaims/claim-alice" in said[0]
    # a new user of that name has it, until forgotten in turn
    job = await launch(launcher, cluster)
    assert await launcher.list_owners() == {"Alice"}
    await core_api.delete_namespaced_persistent_volume_claim("claim-alice", place)
    await launcher.forget_user("Alice")
    await launcher.remove_forgotten()
    assert (await core_api.read_namespace(place)).metadata.deletion_timestamp is None  # the job is there
    job.delete_requested_at = utcnow()
    await until(lambda: launcher.terminate(job))

    async def is_removed() -> bool:
        await launcher.remove_forgotten()
        found = await core_api.list_namespace(field_selector=f"metadata.name={place}")
        return not found.items or found.items[0].metadata.deletion_timestamp is not None

    await until(is_removed)
    assert f"removed the namespace {place}" in caplog.text


async def test_a_namespace_that_was_deleted_is_made_again(
    cluster: ClusterLike, launcher: KubeJobLauncher, core_api: client.CoreV1Api, place: str
) -> None:
    await launch(launcher, cluster)
    await core_api.delete_namespace(place)

    async def is_launched() -> bool:
        try:
            await launch(launcher, cluster)
        except LauncherUnavailable:
            return False
        return True

    async def is_gone() -> bool:
        found = await core_api.list_namespace(field_selector=f"metadata.name={place}")
        return not found.items

    await until(is_gone)
    await until(is_launched)
    assert (await core_api.read_namespaced_resource_quota("jobs", place)).metadata.name == "jobs"
