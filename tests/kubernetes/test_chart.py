"""The helm chart: what it makes of values, what it refuses, and that its rights are enough and no more."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.aio import client

from kbatch_server.app import KBatchServer
from kbatch_server.kube.clients import KubeUnavailable
from kbatch_server.launchers.base import Launch, LauncherUnavailable
from kbatch_server.launchers.kube import KubeJobLauncher
from kbatch_server.models import Job, JobSpec, Status, utcnow
from kbatch_server.slugs import make_job_id
from tests.cluster import ClusterLike, build

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "kbatch-server"
SECONDS = 60
TOKEN = "sesame-open-this-token"

VALUES: dict[str, Any] = {
    "hub": {"apiToken": TOKEN},
    "jobs": {"namespace": "batch-jobs"},
    "config": {"JobConfig": {"max_cpu_limit": 8, "max_mem_limit": 68719476736}},
}

Manifests = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def helm() -> Path:
    """The helm of the test cluster's build, or one that is installed."""
    built = build.bin_dir() / "helm"
    installed = shutil.which("helm")
    if not built.exists() and not installed:
        if os.environ.get("KBATCH_TEST_CLUSTER") != "required":
            pytest.skip("helm is not installed, and the test cluster is not built")
        build.ensure_binaries()
    return built if built.exists() else Path(str(installed))


@pytest.fixture
def template(helm: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a helm command on the chart with values: ours, and those of the test."""

    def run(*command: str, **changed: Any) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "values.yaml"
        path.write_text(yaml.safe_dump(VALUES | changed))
        return subprocess.run(
            [helm, *command, CHART, "--namespace", "jupyterhub", "--values", path],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture
def render(template: Callable[..., Any]) -> Callable[..., Manifests]:
    """Return the manifests that the chart makes, by kind."""

    def make(**changed: Any) -> Manifests:
        done = template("template", "kbatch", "--kube-version", "1.35.0", **changed)
        assert done.returncode == 0, done.stderr
        return {each["kind"]: each for each in yaml.safe_load_all(done.stdout) if each}

    return make


def test_it_is_a_good_chart(template: Callable[..., Any]) -> None:
    done = template("lint", "--strict")
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_makes_these_and_no_more(render: Callable[..., Manifests]) -> None:
    assert set(render()) == {
        "ConfigMap",
        "Deployment",
        "PersistentVolumeClaim",
        "Role",
        "RoleBinding",
        "Secret",
        "Service",
        "ServiceAccount",
    }
    assert "PersistentVolumeClaim" not in render(persistence={"enabled": False})
    assert not {"Role", "RoleBinding"} & set(render(rbac={"create": False}))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"confg": {}}, "confg"),
        ({"jobs": {"namespace": "batch-jobs", "namspace": "x"}}, "namspace"),
        ({"hub": {"apiToken": TOKEN, "apiUrl": "hub:8081"}}, "apiUrl"),
        ({"config": {"JobConfig": 3}}, "JobConfig"),
        ({"image": {"name": "x", "pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"jobs": {}}, "jobs.namespace: must name"),
        ({"hub": {}}, "hub.apiToken or hub.existingSecret"),
    ],
)
def test_a_wrong_value_is_refused_by_name(
    template: Callable[..., Any], changed: dict[str, Any], words: str
) -> None:
    done = template("template", "kbatch", "--kube-version", "1.35.0", **changed)
    assert done.returncode != 0
    assert words in done.stderr


def test_the_schema_knows_every_value_and_no_other() -> None:
    def compare(values: dict[str, Any], schema: dict[str, Any], path: str) -> None:
        assert set(values) == set(schema["properties"]) - {"global"}, path
        assert schema["additionalProperties"] is False, path
        for name, value in values.items():
            below = schema["properties"][name]
            if "properties" in below and below.get("additionalProperties") is False and name != "resources":
                compare(value, below, f"{path}.{name}")

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    compare(values, json.loads((CHART / "values.schema.json").read_text()), "")


def test_secrets_are_in_the_secret_alone(render: Callable[..., Manifests]) -> None:
    made = render()
    keys = made["Secret"]["data"].pop("keys")
    encoded = made["Secret"]["data"].pop("token")
    for kind, manifest in made.items():
        text = yaml.safe_dump(manifest)
        assert TOKEN not in text, kind
        assert encoded not in text, kind
        assert keys not in text, kind


def test_the_token_may_be_in_a_secret_of_the_admins_own(render: Callable[..., Manifests]) -> None:
    made = render(hub={"existingSecret": "hub-token"})
    [container] = made["Deployment"]["spec"]["template"]["spec"]["containers"]
    environment = {each["name"]: each for each in container["env"]}
    reference = environment["JUPYTERHUB_API_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert reference == {"name": "hub-token", "key": "token"}
    assert set(made["Secret"]["data"]) == {"keys"}


def test_the_pod_is_what_the_strictest_rules_ask_for(render: Callable[..., Manifests]) -> None:
    pod = render()["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    [container] = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not any("hostPath" in volume for volume in pod["volumes"])
    probes = [
        container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")
    ]
    prefix = "/services/kbatch/api/v1/"
    assert probes == [f"{prefix}health", f"{prefix}health", f"{prefix}ready"]


def test_the_service_reads_the_configuration_that_the_chart_mounts(
    render: Callable[..., Manifests], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = render(extraConfig="c.JobConfig.labels = {'team': 'a'}\n")
    for name, text in made["ConfigMap"]["data"].items():
        (tmp_path / name).write_text(text)
    [container] = made["Deployment"]["spec"]["template"]["spec"]["containers"]
    command, option, path = container["command"]
    assert (command, option, Path(path).parent) == ("kbatch-server", "--config", Path("/etc/kbatch"))
    assert any(mount["mountPath"] == "/etc/kbatch" for mount in container["volumeMounts"])
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable.get("value", "x" * 32))
    monkeypatch.chdir(tmp_path)
    server = KBatchServer()
    server.config_file = str(tmp_path / Path(path).name)
    server.init_config_file()  # refuses what there is not
    config = server.config
    assert config.JobConfig.max_cpu_limit == 8
    assert config.JobConfig.max_mem_limit == 2**36
    assert config.JobConfig.labels == {"team": "a"}
    assert config.KubeJobLauncher.namespace == "batch-jobs"
    service = made["Service"]["metadata"]["name"]
    assert config.Launchpad.url_for_jobs == f"http://{service}.jupyterhub.svc:8050/services/kbatch/"
    assert (server.bind_url, server.service_prefix) == ("http://0.0.0.0:8050", "/services/kbatch/")


def test_the_role_is_that_of_the_documents(render: Callable[..., Manifests]) -> None:
    text = (ROOT / "docs" / "install.md").read_text()
    [block] = [code for code in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "kind: Role\n" in code]
    documented = {each["kind"]: each for each in yaml.safe_load_all(block)}
    made = render()
    assert made["Role"]["rules"] == documented["Role"]["rules"]
    assert made["Role"]["metadata"]["namespace"] == documented["Role"]["metadata"]["namespace"]
    assert made["RoleBinding"]["roleRef"]["kind"] == documented["RoleBinding"]["roleRef"]["kind"]


async def test_a_job_runs_with_the_rights_of_the_chart_alone(
    cluster: ClusterLike,
    namespace: str,
    core_api: client.CoreV1Api,
    api_client: client.ApiClient,
    render: Callable[..., Manifests],
    tmp_path: Path,
) -> None:
    role = render()["Role"]
    kubeconfig = await make_account(cluster, namespace, core_api, api_client, role["rules"], tmp_path)
    launcher = KubeJobLauncher(
        kubeconfig=str(kubeconfig), namespace=namespace, init_image=cluster.image, instance=namespace
    )
    await launcher.open()
    await launcher.start(lambda job_id: None)
    try:
        assert await launcher.reflector.wait_loaded(SECONDS)
        await run_job(launcher, cluster)
    finally:
        await launcher.stop()
        await launcher.close()


async def make_account(
    cluster: ClusterLike,
    namespace: str,
    core_api: client.CoreV1Api,
    api_client: client.ApiClient,
    rules: list[dict[str, Any]],
    folder: Path,
) -> Path:
    """Return a kubeconfig of an account that has these rights and no others."""
    rbac_api = client.RbacAuthorizationV1Api(api_client)
    await core_api.create_namespaced_service_account(namespace, {"metadata": {"name": "kbatch"}})
    await rbac_api.create_namespaced_role(namespace, {"metadata": {"name": "kbatch"}, "rules": rules})
    await rbac_api.create_namespaced_role_binding(
        namespace,
        {
            "metadata": {"name": "kbatch"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "kbatch"},
            "subjects": [{"kind": "ServiceAccount", "name": "kbatch", "namespace": namespace}],
        },
    )
    request = {"spec": {"audiences": [], "expirationSeconds": 3600}}
    answer = await core_api.create_namespaced_service_account_token("kbatch", namespace, request)
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    config["users"] = [
        {"name": each["name"], "user": {"token": answer.status.token}} for each in config["users"]
    ]
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


async def run_job(launcher: KubeJobLauncher, cluster: ClusterLike) -> None:
    """Do all that the service does with a job, and again what a crash would have it do again."""
    spec = JobSpec(
        image=cluster.image, command=["sh", "-c", "echo $GREETING"], termination_grace_period_seconds=1
    )
    job = Job(id=make_job_id("rights"), user="alice", name="rights", spec=spec, created_at=utcnow())
    patch = launcher.client.patch

    async def crash(*_: object) -> dict[str, Any]:
        raise KubeUnavailable("cut short between Secret and start")

    launcher.client.patch = crash  # type: ignore[method-assign]
    with pytest.raises(LauncherUnavailable):
        await launcher.launch(job, Launch(env={"GREETING": "hello"}))
    launcher.client.patch = patch  # type: ignore[method-assign]
    for _ in range(2):
        job.state = await launcher.launch(job, Launch(env={"GREETING": "hello"}))
    async with asyncio.timeout(SECONDS):
        while (seen := await launcher.poll(job)) is None or not seen.status.is_end:
            await launcher.reflector.wait_change(str(job.state["namespace"]), job.id, 1)
        assert seen.status is Status.SUCCEEDED, seen.message
        log = launcher.read_log(job, seen.pods[0].name, None)
        assert b"".join([piece.data async for piece in log]) == b"hello\n"
        assert {event.reason for event in await launcher.events(job)} >= {"SuccessfulCreate"}
        job.delete_requested_at = utcnow()
        while not await launcher.terminate(job):
            await launcher.reflector.wait_change(str(job.state["namespace"]), job.id, 0.5)
