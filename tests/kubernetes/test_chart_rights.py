"""The rights that the chart gives are what the service needs, and no more: a real job is run with them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.aio import client

from kbatch_server.launchers.base import Launch, LauncherUnavailable
from kbatch_server.launchers.kube.client import KubeClient, KubeUnavailable, make_path
from kbatch_server.launchers.kube.homes import Homes
from kbatch_server.launchers.kube.launcher import KubeJobLauncher
from kbatch_server.models.job import Job, JobSpec, Status
from kbatch_server.models.server import HubServer
from kbatch_server.models.times import utcnow
from kbatch_server.slugs import make_job_id
from tests.support.cluster import ClusterLike
from tests.support.helm import Helm, Manifest

SECONDS = 60
HUB = {"apiToken": "sesame-open-this-token"}

Right = tuple[str, str]
"""A resource and a verb."""


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> set[Right]:
    """What is asked of Kubernetes from now on."""
    found: set[Right] = set()
    send = KubeClient._send

    async def record(self: KubeClient, method: str, path: str, query: Any, *rest: Any) -> Any:
        found.add(find_right(method, path, query or {}))
        return await send(self, method, path, query, *rest)

    monkeypatch.setattr(KubeClient, "_send", record)
    return found


def find_right(method: str, path: str, query: Mapping[str, Any]) -> Right:
    """Return the right that a request takes."""
    words = re.sub("^/(api|apis/[^/]+)/v1/", "", path).strip("/").split("/")
    if words[0] == "namespaces" and len(words) > 2:
        words = words[2:]
    resource = "/".join([words[0], *words[2:]])
    verbs = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
    if method != "GET":
        return resource, verbs[method]
    if query.get("watch"):
        return resource, "watch"
    return resource, "get" if len(words) > 1 else "list"


def list_rights(role: Manifest) -> set[Right]:
    return {
        (resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]
    }


async def test_a_job_runs_with_the_rights_of_the_role_and_uses_each(
    cluster: ClusterLike,
    namespace: str,
    core_api: client.CoreV1Api,
    api_client: client.ApiClient,
    helm: Helm,
    tmp_path: Path,
    used: set[Right],
) -> None:
    made = helm.render({"hub": HUB, "jobs": {"namespace": namespace}}, namespace=namespace)
    role = made.get("Role")
    kubeconfig = await make_account(cluster, namespace, core_api, api_client, role, tmp_path)
    await run_job(cluster, kubeconfig, namespace=namespace, instance=namespace)
    assert used == list_rights(role)


async def test_with_a_namespace_for_each_user_it_uses_the_cluster_role(
    cluster: ClusterLike,
    namespace: str,
    core_api: client.CoreV1Api,
    api_client: client.ApiClient,
    helm: Helm,
    tmp_path: Path,
    used: set[Right],
) -> None:
    template = f"{namespace}-{{username}}"
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {}}
    spaces = {"enabled": True, "template": template, "objects": [quota]}
    values = {"hub": HUB, "jobs": {"userNamespaces": spaces}, "networkPolicy": {"jobs": {"enabled": False}}}
    made = helm.render(values, namespace=namespace)
    [role] = [each for each in made.all if each["kind"] == "ClusterRole"]
    kubeconfig = await make_account(cluster, namespace, core_api, api_client, role, tmp_path)
    traits: dict[str, Any] = {"enable_user_namespaces": True, "user_namespace_template": template}
    for amount in (50, 60):  # as a new process after the admin has changed the quota
        quota["spec"] = {"hard": {"pods": str(amount)}}
        await run_job(cluster, kubeconfig, instance=namespace, user_namespace_objects=[quota], **traits)
    found = await core_api.read_namespaced_resource_quota("q", f"{namespace}-alice")
    assert found.spec.hard == {"pods": "60"}
    await forget(cluster, kubeconfig, instance=namespace, **traits)
    # an object whose change is refused is made anew, which this quota's never is
    assert used == list_rights(role) - {("resourcequotas", "delete")}
    rbac_api = client.RbacAuthorizationV1Api(api_client)
    await rbac_api.delete_cluster_role(namespace)
    await rbac_api.delete_cluster_role_binding(namespace)


async def test_with_namespaces_that_exist_the_rights_of_a_role_in_each_are_enough(
    cluster: ClusterLike,
    namespace: str,
    core_api: client.CoreV1Api,
    api_client: client.ApiClient,
    helm: Helm,
    tmp_path: Path,
    used: set[Right],
) -> None:
    template = namespace.replace("test", "{username}")
    spaces = {"enabled": True, "template": template, "create": False, "existing": [namespace]}
    values = {"hub": HUB, "jobs": {"userNamespaces": spaces}, "networkPolicy": {"jobs": {"enabled": False}}}
    role = helm.render(values, namespace=namespace).get("Role")
    kubeconfig = await make_account(cluster, namespace, core_api, api_client, role, tmp_path)
    await run_job(
        cluster,
        kubeconfig,
        user="test",
        instance=namespace,
        enable_user_namespaces=True,
        user_namespace_template=template,
        create_user_namespaces=False,
    )
    assert used - {("version", "list")} == list_rights(role)


async def test_homes_take_one_right_more_and_servers_elsewhere_a_role_there(
    cluster: ClusterLike,
    namespace: str,
    core_api: client.CoreV1Api,
    api_client: client.ApiClient,
    helm: Helm,
    tmp_path: Path,
    used: set[Right],
) -> None:
    values = {"hub": HUB | {"readServers": True}, "jobs": {"namespace": namespace, "homes": True}}
    made = helm.render(values, namespace=namespace)
    role, elsewhere = (each for each in made.all if each["kind"] == "Role")
    assert list_rights(elsewhere) == {("pods", "get"), ("pods", "list")}
    kubeconfig = await make_account(cluster, namespace, core_api, api_client, role, tmp_path)
    claim = {
        "metadata": {"name": "claim-alice", "annotations": {"hub.jupyter.org/username": "alice"}},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "none",
            "resources": {"requests": {"storage": "1Mi"}},
        },
    }
    await core_api.create_namespaced_persistent_volume_claim(namespace, claim)
    launcher = KubeJobLauncher(kubeconfig=str(kubeconfig), namespace=namespace, instance=namespace)
    await launcher.open()
    job = make_job(cluster)
    job.spec = job.spec.model_copy(update={"home": "server", "home_placement": "same-node"})
    try:
        home = await Homes(launcher.client, launcher.log).find(job, None, namespace)
        assert home.claim == "claim-alice"
        assert await launcher.read_server("alice", HubServer("", pod_name="jupyter-alice")) is None
    finally:
        await launcher.close()
    assert ("persistentvolumeclaims", "get") in used
    assert used <= list_rights(role)


async def forget(cluster: ClusterLike, kubeconfig: Path, **traits: Any) -> None:
    """Forget the user once the jobs are gone, as the leader does."""
    launcher = KubeJobLauncher(kubeconfig=str(kubeconfig), init_image=cluster.image, **traits)
    await launcher.open()
    try:
        assert await launcher.list_owners() == {"alice"}
        await launcher.forget_user("alice")
        assert await launcher.list_owners() == set()
        for name in [each["metadata"]["name"] for each in await list_jobs(launcher)]:
            path = make_path("jobs", launcher.get_namespace("alice"), name)
            await launcher.client.ensure_deleted(path)
        async with asyncio.timeout(SECONDS):
            while not await is_going(launcher):
                await launcher.remove_forgotten()
                await asyncio.sleep(0.5)
    finally:
        await launcher.close()


async def list_jobs(launcher: KubeJobLauncher) -> list[dict[str, Any]]:
    path = make_path("jobs", launcher.get_namespace("alice"))
    found: list[dict[str, Any]] = (await launcher.client.get(path))["items"]
    return found


async def is_going(launcher: KubeJobLauncher) -> bool:
    name = launcher.get_namespace("alice")
    found = await launcher.client.find(make_path("namespaces", name=name))
    return found is None or "deletionTimestamp" in found["metadata"]


async def make_account(
    cluster: ClusterLike,
    namespace: str,
    core_api: client.CoreV1Api,
    api_client: client.ApiClient,
    role: Manifest,
    folder: Path,
    *,
    name: str = "kbatch",
) -> Path:
    """Return a kubeconfig of an account that has the rights of this (Cluster)Role and no others."""
    rbac_api = client.RbacAuthorizationV1Api(api_client)
    await core_api.create_namespaced_service_account(namespace, {"metadata": {"name": name}})
    body = {"metadata": {"name": namespace}, "rules": role["rules"]}
    binding = {
        "metadata": {"name": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role["kind"], "name": namespace},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    }
    if role["kind"] == "Role":
        await rbac_api.create_namespaced_role(namespace, body)
        await rbac_api.create_namespaced_role_binding(namespace, binding)
    else:
        await rbac_api.create_cluster_role(body)
        await rbac_api.create_cluster_role_binding(binding)
    request = {"spec": {"audiences": [], "expirationSeconds": 3600}}
    answer = await core_api.create_namespaced_service_account_token(name, namespace, request)
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    config["users"] = [
        {"name": each["name"], "user": {"token": answer.status.token}} for each in config["users"]
    ]
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


async def run_job(cluster: ClusterLike, kubeconfig: Path, *, user: str = "alice", **traits: Any) -> None:
    """Do all that the service does with a job, and again what a crash would have it do again."""
    launcher = KubeJobLauncher(kubeconfig=str(kubeconfig), init_image=cluster.image, **traits)
    await launcher.open()
    await launcher.start(lambda job_id: None)
    try:
        await launcher.check()
        reflector = await launcher.reflector.of(launcher.get_namespace(user))
        assert await reflector.wait_loaded(SECONDS)
        await run_to_end(launcher, make_job(cluster, user=user))
        await delete_while_it_runs(launcher, make_job(cluster, "sleep 600", user=user))
    finally:
        await launcher.stop()
        await launcher.close()


def make_job(cluster: ClusterLike, script: str = "echo $GREETING", *, user: str = "alice") -> Job:
    spec = JobSpec(
        image=cluster.image,
        command=["sh", "-c", script],
        termination_grace_period_seconds=1,
        retries=1,
        retry_delay_seconds=1,  # so that the service says when an attempt begins
    )
    return Job(id=make_job_id("rights"), user=user, name="rights", spec=spec, created_at=utcnow())


async def wait_change(launcher: KubeJobLauncher, job: Job, seconds: float) -> None:
    namespace = str(job.state["namespace"])
    await (await launcher.reflector.of(namespace)).wait_change(namespace, job.id, seconds)


async def run_to_end(launcher: KubeJobLauncher, job: Job) -> None:
    launch = Launch(env={"GREETING": "hello"})
    patch = launcher.client.patch

    async def crash(*_: object) -> dict[str, Any]:
        raise KubeUnavailable("cut short between Secret and start")

    launcher.client.patch = crash  # type: ignore[method-assign]
    with pytest.raises(LauncherUnavailable):
        await launcher.launch(job, launch)
    launcher.client.patch = patch  # type: ignore[method-assign]
    for _ in range(2):
        job.state = await launcher.launch(job, launch)
    async with asyncio.timeout(SECONDS):
        while (seen := await launcher.poll(job)) is None or not seen.status.is_end:
            if seen is not None and seen.held_until is not None:
                await launcher.release(job)
            await wait_change(launcher, job, 1)
        assert seen.status is Status.SUCCEEDED, seen.message
        log = launcher.read_log(job, seen.pods[0].name, None)
        assert b"".join([piece.data async for piece in log]) == b"hello\n"
        assert {event.reason for event in await launcher.events(job)} >= {"SuccessfulCreate"}
        await launcher.clean(job)


async def delete_while_it_runs(launcher: KubeJobLauncher, job: Job) -> None:
    job.state = await launcher.launch(job, Launch(env={}))
    async with asyncio.timeout(SECONDS):
        while (seen := await launcher.poll(job)) is None or seen.status is not Status.RUNNING:
            if seen is not None and seen.held_until is not None:
                await launcher.release(job)
            await wait_change(launcher, job, 1)
        job.delete_requested_at = utcnow()
        while not await launcher.terminate(job):
            await wait_change(launcher, job, 0.5)
