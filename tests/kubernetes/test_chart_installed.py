"""The chart on a real Kubernetes: what the API server takes, an upgrade keeps and an uninstall leaves.

The pod of the service is made and admitted here, and not started: that takes the image.
"""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest
import yaml
from kubernetes.aio import client
from kubernetes.dynamic import DynamicClient

from tests.kubernetes.test_chart_rights import make_account
from tests.support.cluster import ClusterLike, schemas
from tests.support.helm import CHART, VARIANTS, Helm, find_helm
from tests.support.installation import Installation
from tests.support.waiting import until

SECONDS = 60
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
NAME = "kbatch-server"
NOBODY = 65534


@pytest.fixture
def installer(cluster: ClusterLike, tmp_path: Path) -> Helm:
    """Helm with the rights of an administrator."""
    return Helm(find_helm(), tmp_path, cluster.kubeconfig)


@pytest.fixture
async def restricted(core_api: client.CoreV1Api) -> AsyncIterator[Callable[[], Any]]:
    """Makes namespaces that take only what keeps to the pod security standard "restricted"."""
    made: list[str] = []

    async def make() -> str:
        made.append(f"test-{secrets.token_hex(4)}")
        await core_api.create_namespace({"metadata": {"name": made[-1], "labels": RESTRICTED}})
        return made[-1]

    yield make
    for name in made:
        await core_api.delete_namespace(name)


@pytest.fixture(scope="module")
def dynamic(cluster: ClusterLike) -> Iterator[DynamicClient]:
    """A client for any kind, also those of the Gateway API and of Prometheus's operator."""
    with kubernetes.config.new_client_from_config(str(cluster.kubeconfig)) as api_client:
        extensions = kubernetes.client.ApiextensionsV1Api(api_client)
        definitions = [yaml.safe_load(path.read_text()) for path in schemas.find_crds()]
        names = [extensions.create_custom_resource_definition(each).metadata.name for each in definitions]
        watch = kubernetes.watch.Watch()
        waiting = set(names)
        for event in watch.stream(extensions.list_custom_resource_definition, timeout_seconds=SECONDS):
            conditions = event["object"].status.conditions or []
            if any(each.type == "Established" and each.status == "True" for each in conditions):
                waiting.discard(event["object"].metadata.name)
            if not waiting:
                break
        assert not waiting
        yield DynamicClient(api_client)
        for name in names:
            extensions.delete_custom_resource_definition(name)


@pytest.mark.parametrize("values", VARIANTS, ids=lambda path: path.stem)
async def test_the_api_server_takes_all_of_it(
    namespace: str, helm: Helm, dynamic: DynamicClient, values: Path
) -> None:
    """By a dry run of the server, which knows what a schema does not say."""
    for manifest in helm.render(values, namespace=namespace).all:
        resource = dynamic.resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])
        manifest["metadata"].pop("namespace", None)  # that of jobs, which is not there
        place = {"namespace": namespace} if resource.namespaced else {}
        query = {"dry_run": "All", "query_params": [("fieldValidation", "Strict")]}
        resource.create(body=manifest, **place, **query)


async def test_an_upgrade_keeps_the_keys_and_an_uninstall_the_data(
    installer: Helm, core_api: client.CoreV1Api, api_client: client.ApiClient, restricted: Callable[[], Any]
) -> None:
    here, jobs = await restricted(), await restricted()
    values: dict[str, Any] = {
        "app": {"jupyterhub_api_token": "sesame-open-this-token", "job_namespace": jobs},
        "image": {"pullPolicy": "Never"},
        "extraConfig": {"one": "pass"},
    }
    install = ("upgrade", "--install", NAME, "CHART")
    notes = installer.call(*install, values=values, namespace=here)
    assert f"http://{NAME}.{here}.svc:80" in notes
    keys = await read_secret(core_api, here, "-keys")
    assert len(base64.b64decode(keys["keys"])) >= 32
    # the strictest pod security takes the pod, which then has no image to run
    pod = await wait_for_pod(core_api, here)
    assert pod.spec.containers[0].security_context.read_only_root_filesystem is True

    values["extraConfig"] = {"two": "pass"}
    installer.call(*install, values=values, namespace=here)
    assert await read_secret(core_api, here, "-keys") == keys
    files = await read_secret(core_api, here, "-config")
    assert "extra-two.py" in files
    assert "extra-one.py" not in files

    installer.call("uninstall", NAME, namespace=here)
    assert await read_secret(core_api, here, "-keys") == keys
    await core_api.read_namespaced_persistent_volume_claim(NAME, here)
    secrets_left = (await core_api.list_namespaced_secret(here)).items
    assert [each.metadata.name for each in secrets_left] == [f"{NAME}-keys"]
    network = client.NetworkingV1Api(api_client)
    assert not (await network.list_namespaced_network_policy(jobs)).items

    installer.call(*install, values=values, namespace=here)  # finds what was left
    assert await read_secret(core_api, here, "-keys") == keys


async def read_secret(core_api: client.CoreV1Api, namespace: str, suffix: str) -> dict[str, str]:
    found: dict[str, str] = (await core_api.read_namespaced_secret(NAME + suffix, namespace)).data
    return found


async def wait_for_pod(core_api: client.CoreV1Api, namespace: str) -> Any:
    """Return the service's pod; a refusal would be an event."""

    async def find_pods() -> list[Any]:
        found: list[Any] = (await core_api.list_namespaced_pod(namespace)).items
        if not found:
            events = (await core_api.list_namespaced_event(namespace)).items
            refusals = [each.message for each in events if each.reason == "FailedCreate"]
            assert not [each for each in refusals if "serviceaccount" not in each], refusals
        return found

    return (await until(find_pods, seconds=SECONDS))[0]


async def test_jobs_run_in_a_restricted_namespace_with_the_chart_s_settings_and_rights(
    cluster: ClusterLike,
    namespace: str,
    core_api: client.CoreV1Api,
    api_client: client.ApiClient,
    helm: Helm,
    restricted: Callable[[], Any],
    tmp_path: Path,
) -> None:
    """What the chart makes of the service (rights, configuration, ``helm test``), but for its pod."""
    jobs = await restricted()
    account = {"runAsUser": NOBODY, "runAsGroup": NOBODY, "fsGroup": NOBODY}
    values: dict[str, Any] = {
        "hub": {"apiToken": "sesame-open-this-token"},
        "jobs": {"namespace": jobs, **account},
        "test": {"existingSecret": "token"},
    }
    made = helm.render(values, namespace=namespace)
    kubeconfig = await make_account(
        cluster, jobs, core_api, api_client, made.get("Role"), tmp_path, name="service"
    )
    settings = yaml.safe_load(base64.b64decode(made.get("Secret", "-config")["data"]["values.json"]))
    config = "".join(f"c.JobConfig.{name} = {value!r}\n" for name, value in settings["JobConfig"].items())
    installation = await asyncio.to_thread(
        Installation, tmp_path / "all", cluster, namespace=jobs, config=config, kubeconfig=kubeconfig
    )
    try:
        await asyncio.to_thread(run_jobs, installation)
        environ = read_test_environment(made) | {
            "KBATCH_URL": installation.hub.kbatch_url,
            "TOKEN": installation.token("alice"),
        }
        done = await asyncio.to_thread(run_script, environ)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "submitted helm-test-" in done.stdout
        environ["JOB"] = '{"name": "fails", "command": ["false"]}'
        done = await asyncio.to_thread(run_script, environ)
        assert done.returncode == 1
        assert "exit code 1" in done.stdout
        environ["TOKEN"] = "nobody's"
        done = await asyncio.to_thread(run_script, environ)
        assert done.returncode == 1
        assert "401" in done.stderr or "403" in done.stderr
    finally:
        await asyncio.to_thread(installation.stop)


def run_jobs(installation: Installation) -> None:
    """Run a job with code: the container that fetches it is restricted, too."""
    alice = installation.client("alice")
    upload = alice.upload({"main.sh": "id -u; id -g; grep Cap[EPB] /proc/self/status; touch here\n"})
    job = alice.submit("sh main.sh", upload=upload)
    ended = alice.wait(job["id"])
    assert ended["status"] == "succeeded", ended
    user, group, *capabilities = alice.logs(job["id"]).split("\n", 2)
    assert (user, group) == (str(NOBODY), str(NOBODY))
    assert {line.split()[1] for line in capabilities[0].splitlines()} == {"0" * 16}


def read_test_environment(made: Any) -> dict[str, str]:
    """Return the environment of the pod of ``helm test``, without what only a pod has."""
    pod = made.get("Pod", "-test")["spec"]
    [container] = pod["containers"]
    assert container["command"] == ["python3", "/test/submit.py"]
    assert made.get("ConfigMap", "-test")["data"]["submit.py"] == (CHART / "files/submit.py").read_text()
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


def run_script(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, CHART / "files" / "submit.py"]
    environ = {"PATH": os.environ["PATH"], **environ}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
