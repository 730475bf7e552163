"""The helm chart: what it makes of values, and what it refuses."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kbatch_server.app import KBatchServer
from kbatch_server.launchers.kube.launcher import KubeJobLauncher
from kbatch_server.templates import expand
from tests.support.cluster import schemas
from tests.support.helm import CHART, ROOT, VARIANTS, Helm, Made

TOKEN = "sesame-open-this-token"

VALUES: dict[str, Any] = {
    "hub": {"apiToken": TOKEN},
    "jobs": {"namespace": "batch-jobs"},
    "config": {"JobConfig": {"max_cpu_limit": 8, "max_mem_limit": 68719476736}},
}
POSTGRESQL = {"type": "postgresql", "existingSecret": "database"}
AZURE = {"KBatchServer": {"storage_class": "azure"}}
PREFIX = "/services/kbatch/"

Render = Callable[..., Made]


@pytest.fixture
def render(helm: Helm) -> Render:
    """Return what the chart makes of our values, changed."""
    return lambda **changed: helm.render(VALUES | changed)


def read_file(name: str) -> dict[str, Any]:
    [path] = [path for path in VARIANTS if path.stem == name]
    values: dict[str, Any] = yaml.safe_load(path.read_text())
    return values


@pytest.fixture(scope="session")
def kubeconform() -> Path:
    return schemas.find_kubeconform()


@pytest.mark.parametrize("values", VARIANTS, ids=lambda path: path.stem)
def test_it_is_a_good_chart_and_makes_good_manifests(helm: Helm, kubeconform: Path, values: Path) -> None:
    helm.call("lint", "CHART", "--strict", values=values)
    text = helm.render(values).text
    checked = check_manifests(kubeconform, text)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    # the check is one: what is not there is found
    for right, wrong in [("targetPort:", "targetPrt:"), ("podSelector:", "podSelectr:")]:
        assert check_manifests(kubeconform, text.replace(right, wrong)).returncode == 1


def check_manifests(kubeconform: Path, text: str) -> subprocess.CompletedProcess[str]:
    command = [kubeconform / "kubeconform", "-schema-location", f"{kubeconform}/{schemas.LOCATION}"]
    return subprocess.run(command, input=text, capture_output=True, text=True)


@pytest.mark.parametrize("values", VARIANTS, ids=lambda path: path.stem)
def test_what_a_pod_writes_to_its_nodes_disk_has_a_limit(helm: Helm, values: Path) -> None:
    assert all("sizeLimit" in each for each in find_node_volumes(helm.render(values)).values())


def test_the_limits_of_what_a_pod_writes_are_values(render: Render) -> None:
    made = render(tmpSize="300Mi", persistence={"enabled": False, "size": "7Gi"})
    assert find_node_volumes(made) == {"tmp": {"sizeLimit": "300Mi"}, "data": {"sizeLimit": "7Gi"}}


def find_node_volumes(made: Made) -> dict[str, Any]:
    volumes = made.get("Deployment")["spec"]["template"]["spec"]["volumes"]
    return {each["name"]: each["emptyDir"] for each in volumes if "emptyDir" in each}


def test_the_values_of_the_first_release_make_a_whole_installation(helm: Helm) -> None:
    made = helm.render(read_file("first-release"), namespace="staging")
    assert made.kinds >= {"Deployment", "Service", "Secret", "ServiceAccount", "Role", "RoleBinding"}
    assert made.env["JUPYTERHUB_SERVICE_PREFIX"]["value"] == "/compute/services/kbatch/"
    assert made.env["JUPYTERHUB_BASE_URL"]["value"] == "/compute/"
    url = "https://pcc-staging.westeurope.cloudapp.azure.com/compute/hub/api"
    assert made.env["JUPYTERHUB_API_URL"]["value"] == url
    assert base64.b64decode(made.get("Secret")["data"]["token"]) == b"<secret-token>"
    assert made.get("Role")["metadata"]["namespace"] == "staging"
    service = made.get("Service")
    assert (service["spec"]["type"], service["spec"]["ports"][0]["port"]) == ("LoadBalancer", 80)
    label = "service.beta.kubernetes.io/azure-dns-label-name"
    assert service["metadata"]["annotations"] == {label: "kbatch-staging"}
    # the hub is in another cluster and comes through the load balancer
    assert made.get("NetworkPolicy")["spec"]["ingress"] == [{"ports": [{"port": "http"}]}]


def test_it_makes_these_and_no_more(render: Render) -> None:
    kinds = {"Deployment", "NetworkPolicy", "PersistentVolumeClaim", "Role", "RoleBinding", "Secret"}
    made = render()
    assert made.kinds == kinds | {"Service", "ServiceAccount"}
    assert made.names("Secret") == {"kbatch-server", "kbatch-server-config", "kbatch-server-keys"}
    assert "PersistentVolumeClaim" not in render(persistence={"enabled": False}).kinds
    assert not {"Role", "RoleBinding"} & render(rbac={"create": False}).kinds
    off = {"service": {"enabled": False}, "jobs": {"enabled": False}}
    assert "NetworkPolicy" not in render(networkPolicy=off).kinds


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"confg": {}}, "confg"),
        ({"jobs": {"namespace": "batch-jobs", "namspace": "x"}}, "namspace"),
        ({"app": {"service": {"prt": 80}}}, "prt"),
        ({"networkPolicy": {"jobs": {"allowHubb": True}}}, "allowHubb"),
        ({"extraFiles": {"a": {"mountPath": "/a", "stringData": "", "modus": 1}}}, "modus"),
        ({"extraEnv": [{"name": "A", "val": "b"}]}, "val"),
        ({"hub": {"apiToken": TOKEN, "apiUrl": "hub:8081"}}, "apiUrl"),
        ({"config": {"JobConfig": 3}}, "JobConfig"),
        ({"image": {"name": "x", "pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"jobs": {}}, "jobs.namespace: must name"),
        ({"jobs": {"namespace": "x-{user}"}}, "namespace"),
        ({"jobs": {"namespace": "x-{username}"}}, "namespace"),
        ({"jobs": {"namespace": "x", "userNamespaces": {"enabled": True}}}, "only one of them can be set"),
        (
            {"jobs": {"userNamespaces": {"enabled": True, "existing": ["x"]}}},
            "jobs.userNamespaces.existing: is for",
        ),
        ({"jobs": {"userNamespaces": {"enabled": True, "template": "jobs"}}}, "template"),
        ({"jobs": {"userNamespaces": {"objects": [{"kind": "Secret"}]}}}, "objects"),
        ({"hub": {}}, "hub.apiToken or hub.existingSecret: one of them must be set"),
        ({"hub": {"apiToken": "x", "existingSecret": "x"}}, "hub.apiToken and hub.existingSecret: only"),
        (
            {"hub": {"apiToken": TOKEN, "existingValues": {"secret": "hub", "singleuser": {"uid": 1}}}},
            "hub.existingValues: only one of",
        ),
        (
            {
                "hub": {"apiToken": TOKEN, "existingValues": {"secret": "hub"}},
                "config": {"KBatchServer": {"spawner_config": "x"}},
            },
            "config.KBatchServer.spawner_config: is set by hub.existingValues",
        ),
        ({"hub": {"apiToken": TOKEN, "existingValues": {"secrets": "hub"}}}, "secrets"),
        ({"replicas": 2}, "replicas: 2, but SQLite is for one process: db.type must be postgresql"),
        ({"replicas": 2, "db": POSTGRESQL}, "replicas: 2, but the volume is for one node"),
        (
            {"replicas": 2, "db": POSTGRESQL, "persistence": {"enabled": False}},
            "replicas: 2, but each replica would keep uploads for itself",
        ),
        ({"db": {"type": "postgresql"}}, "db.existingSecret: must name"),
        ({"config": {"KBatchServer": {"db_url": "x"}}}, "config.KBatchServer.db_url: is set by db"),
        ({"extraEnv": {"JUPYTERHUB_API_TOKEN": "x"}}, "extraEnv.JUPYTERHUB_API_TOKEN: is set by"),
        ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs: must name a gateway"),
    ],
)
def test_a_wrong_value_is_refused_by_name(helm: Helm, changed: dict[str, Any], words: str) -> None:
    done = helm.run("template", "kbatch", "CHART", values=VALUES | changed)
    assert done.returncode != 0
    assert words in done.stderr


def test_the_schema_knows_every_value_and_no_other() -> None:
    def compare(values: dict[str, Any], schema: dict[str, Any], path: str) -> None:
        assert set(values) == set(schema["properties"]) - {"global"}, path
        assert schema["additionalProperties"] is False, path
        for name, value in values.items():
            below = schema["properties"][name]
            if "properties" in below and name != "resources":
                compare(value, below, f"{path}.{name}")

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    compare(values, json.loads((CHART / "values.schema.json").read_text()), "")


def test_secrets_are_in_secrets_alone(render: Render) -> None:
    made = render(config={"AzureBlobStorage": {"account_key": TOKEN + "-azure"}})
    keys = made.get("Secret", "-keys")["data"]["keys"]
    encoded = made.get("Secret")["data"]["token"]
    for manifest in made.all:
        text = yaml.safe_dump(manifest)
        assert TOKEN not in text, manifest["kind"]
        assert manifest["kind"] == "Secret" or not {encoded, keys} & set(text.split())
    assert len(base64.b64decode(keys)) >= 32
    assert render().get("Secret", "-keys")["data"]["keys"] != keys


def test_the_token_may_be_in_a_secret_of_the_hub(helm: Helm) -> None:
    made = helm.render(read_file("beside-a-hub"))
    reference = made.env["JUPYTERHUB_API_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert reference == {"name": "hub", "key": "hub.services.kbatch.apiToken"}
    assert made.names("Secret") == {"kbatch-server-config", "kbatch-server-keys"}


def test_the_keys_may_be_given(render: Render) -> None:
    made = render(keys={"value": "one two"})
    assert base64.b64decode(made.get("Secret", "-keys")["data"]["keys"]) == b"one two"
    made = render(keys={"existingSecret": "mine", "existingSecretKey": "k"})
    assert made.env["KBATCH_KEYS"]["valueFrom"]["secretKeyRef"] == {"name": "mine", "key": "k"}
    assert "kbatch-server-keys" not in made.names("Secret")


def test_the_probes_ask_below_the_prefix(render: Render) -> None:
    [container] = render().pod["containers"]
    probes = [
        container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")
    ]
    assert probes == [f"{PREFIX}api/v1/{name}" for name in ("health", "health", "ready")]


def test_one_pod_goes_before_the_next_comes_unless_they_can_share(helm: Helm, render: Render) -> None:
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    assert render().get("Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    assert render(db=POSTGRESQL).get("Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    for name, replicas in [("replicas", 3), ("shared-folder", 2)]:
        made = helm.render(read_file(name))
        spec = made.get("Deployment")["spec"]
        assert (spec["replicas"], spec["strategy"]) == (replicas, rolling)
        disruption = made.get("PodDisruptionBudget")["spec"]
        assert disruption["maxUnavailable"] == 1
        assert disruption["selector"]["matchLabels"] == made.get("Service")["spec"]["selector"]
        url = made.env["KBATCH_DB_URL"]["valueFrom"]["secretKeyRef"]
        assert url == {"name": "kbatch-database", "key": "url"}


def test_a_pod_that_others_take_over_from_goes_on_until_nobody_sends_it_requests(
    helm: Helm, render: Render
) -> None:
    assert read_values(helm.render(read_file("replicas")))["InflightRequests"] == {"drain_seconds": 5}
    # nobody takes over: it would be a longer pause
    assert read_values(render())["InflightRequests"] == {"drain_seconds": 0}


def test_the_pods_are_selected_as_by_the_first_chart(render: Render) -> None:
    """Kubernetes lets nobody change that: an upgrade from it would be refused."""
    labels = {"app.kubernetes.io/name": "kbatch-server", "app.kubernetes.io/instance": "kbatch-server"}
    assert render().get("Deployment")["spec"]["selector"] == {"matchLabels": labels}


def test_a_change_of_the_configuration_makes_a_new_pod(render: Render) -> None:
    def sums(**changed: Any) -> dict[str, str]:
        found: dict[str, str] = render(**changed).get("Deployment")["spec"]["template"]["metadata"][
            "annotations"
        ]
        return found

    assert sums() == sums()
    for changed in (
        {"config": {}},
        {"extraConfig": {"a": "pass"}},
        {"hub": {"apiToken": TOKEN + "2"}},
        {"extraFiles": {"a": {"mountPath": "/a", "stringData": "a"}}},
    ):
        assert sums(**changed) != sums(), changed


def test_everything_goes_where_it_belongs(helm: Helm) -> None:
    made = helm.render(read_file("everything"))
    pod = made.pod
    [container] = pod["containers"]
    assert container["image"].startswith("registry.example.org/kbatch-server@sha256:4bcf")
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert made.env["HTTPS_PROXY"]["value"] == "http://proxy.example.org:3128"
    assert made.env["AZURE_SAS_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "azure", "key": "token"}}
    files = made.get("Secret", "-files")["data"]
    assert {name: base64.b64decode(data) for name, data in files.items()} == {
        "ca.crt": b"a certificate\n",
        "seed.bin": b"\0\1\2\xff",
    }
    mounts = {mount["mountPath"]: mount.get("subPath") for mount in container["volumeMounts"]}
    assert mounts["/etc/ssl/own/ca.crt"] == "ca.crt"
    for name in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert pod[name], name
    assert made.get("ServiceMonitor")["spec"]["endpoints"][0]["path"] == "/compute/services/batch/metrics"
    for host in made.get("Ingress")["spec"]["rules"]:
        assert host["http"]["paths"][0]["path"] == "/compute/services/batch/"
    [rule] = made.get("HTTPRoute")["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": made.get("Service")["metadata"]["name"], "port": 8050}]


def test_all_that_is_made_for_pods_selects_them_alone(helm: Helm) -> None:
    """Not the pod of ``helm test``, nor those of a hub."""
    made = helm.render(read_file("everything"))
    labels = made.get("Deployment")["spec"]["template"]["metadata"]["labels"]
    test_labels = made.get("Pod", "-test")["metadata"]["labels"]
    for selector in (
        made.get("Service")["spec"]["selector"],
        made.get("Deployment")["spec"]["selector"]["matchLabels"],
        made.get("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
        assert not selector.items() <= test_labels.items()


def read_values(made: Made) -> dict[str, Any]:
    """Return the configuration that the chart makes of its values."""
    data = made.get("Secret", "-config")["data"]["values.json"]
    found: dict[str, Any] = json.loads(base64.b64decode(data))
    return found


def read_configuration(made: Made, folder: Path, monkeypatch: pytest.MonkeyPatch) -> KBatchServer:
    """Return a service that has read what the chart mounts, with the environment that it sets."""
    for name, data in made.get("Secret", "-config")["data"].items():
        (folder / name).write_bytes(base64.b64decode(data))
    [container] = made.pod["containers"]
    command, option, path = container["command"]
    assert (command, option, Path(path).parent) == ("kbatch-server", "--config", Path("/etc/kbatch"))
    assert {"name": "config", "mountPath": "/etc/kbatch", "readOnly": True} in container["volumeMounts"]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable.get("value", "x" * 32))
    monkeypatch.chdir(folder)
    server = KBatchServer()
    server.config_file = str(folder / Path(path).name)
    server.init_config_file()  # refuses what there is not
    return server


def test_the_service_reads_the_configuration_that_the_chart_mounts(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = render(extraConfig={"labels": "c.JobConfig.extra_labels = {'team': 'a'}\n"})
    server = read_configuration(made, tmp_path, monkeypatch)
    config = server.config
    assert config.JobConfig.max_cpu_limit == 8
    assert config.JobConfig.max_mem_limit == 2**36
    assert config.JobConfig.extra_labels == {"team": "a"}
    assert config.JobConfig.pod_security_context["runAsUser"] == 1000
    assert config.KubeJobLauncher.namespace == "batch-jobs"
    assert config.SignedLinks.url_for_jobs == f"http://kbatch-server.jupyterhub.svc:80{PREFIX}"
    assert (server.bind_url, server.service_prefix) == ("http://0.0.0.0:8050", PREFIX)
    assert server.db_url == "sqlite:////srv/kbatch/jobs.sqlite"


def test_the_hubs_own_values_are_defaults_for_jobs(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"image": {"name": "lab", "tag": "1"}, "uid": 1000, "profileList": [{"display_name": "A"}]}
    made = render(hub={"apiToken": TOKEN, "existingValues": {"singleuser": values}})
    server = read_configuration(made, tmp_path, monkeypatch)
    assert server.spawner_config == "/etc/kbatch/hub-values.json"
    server.spawner_config = str(tmp_path / "hub-values.json")
    server.init_spawner_config()
    assert (server.config.JobConfig.image, server.config.JobConfig.max_cpu_limit) == ("lab:1", 8)
    assert server.config.Profiles.profile_list == [{"display_name": "A"}]


@pytest.mark.parametrize(("kind", "name"), [("secret", "secretName"), ("configMap", "name")])
def test_they_may_be_in_a_secret_or_a_config_map(render: Render, kind: str, name: str) -> None:
    made = render(hub={"apiToken": TOKEN, "existingValues": {kind: "hub", "key": "all.yaml"}})
    [volume] = [each for each in made.pod["volumes"] if each["name"] == "hub-values"]
    assert volume[kind] == {
        name: "hub", "defaultMode": 0o440, "items": [{"key": "all.yaml", "path": "values.yaml"}]
    }  # fmt: skip
    [mount] = [each for each in made.pod["containers"][0]["volumeMounts"] if each["name"] == "hub-values"]
    config = read_values(made)
    assert config["KBatchServer"]["spawner_config"] == f"{mount['mountPath']}/values.yaml"
    assert "hub-values" not in str(render().pod["volumes"])


def test_the_configuration_of_the_values_wins_and_python_is_last(
    helm: Helm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = read_file("everything")
    values["config"]["JobConfig"]["pod_security_context"] = {"runAsUser": 7}
    values["config"]["KubeJobLauncher"] = {"instance": "mine"}
    config = read_configuration(helm.render(values), tmp_path, monkeypatch).config
    assert config.JobConfig.extra_annotations == {"made-by": "20-hook"}
    assert config.JobConfig.pod_security_context == {"runAsUser": 7}
    assert (
        config.JobConfig.extra_labels
        == {"team": "a", "hub.jupyter.org/network-access-hub": "true"} | NO_MESH[0]
    )
    assert "container_security_context" not in config.JobConfig


NO_MESH = (
    {"sidecar.istio.io/inject": "false", "kuma.io/sidecar-injection": "disabled"},
    {
        "sidecar.istio.io/inject": "false",
        "linkerd.io/inject": "disabled",
        "consul.hashicorp.com/connect-inject": "false",
    },
)
"""The labels and the annotations that tell a service mesh to leave a pod alone."""


def test_a_service_mesh_leaves_jobs_alone_unless_it_may(render: Render) -> None:
    jobs = read_values(render())["JobConfig"]
    assert (jobs["extra_labels"], jobs["extra_annotations"]) == NO_MESH
    own = {"extra_labels": {"team": "a"}, "extra_annotations": {"linkerd.io/inject": "enabled"}}
    jobs = read_values(render(config={"JobConfig": own}))["JobConfig"]
    assert jobs["extra_labels"] == {"team": "a"} | NO_MESH[0]
    assert jobs["extra_annotations"] == NO_MESH[1] | own["extra_annotations"]
    may = read_values(render(jobs={"namespace": "batch-jobs", "serviceMesh": True}))["JobConfig"]
    assert not {"extra_labels", "extra_annotations"} & may.keys()


def test_the_role_is_that_of_the_documents(helm: Helm, render: Render) -> None:
    text = (ROOT / "docs" / "install.md").read_text()
    [block] = [code for code in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "kind: Role\n" in code]
    documented = {each["kind"]: each for each in yaml.safe_load_all(block)}
    role = render().get("Role")
    assert role["rules"] == documented["Role"]["rules"]
    assert role["metadata"]["namespace"] == documented["Role"]["metadata"]["namespace"]
    assert render().get("RoleBinding")["roleRef"]["kind"] == documented["RoleBinding"]["roleRef"]["kind"]


def test_a_namespace_for_each_user_takes_a_cluster_role(helm: Helm, render: Render) -> None:
    values = read_file("per-user")
    made = helm.render(values, namespace="b")
    assert not {"Role", "RoleBinding"} & made.kinds
    [role] = [each for each in made.all if each["kind"] == "ClusterRole"]
    [binding] = [each for each in made.all if each["kind"] == "ClusterRoleBinding"]
    own = render().get("Role")["rules"]
    assert role["rules"][: len(own)] == own
    more = {resource for rule in role["rules"][len(own) :] for resource in rule["resources"]}
    kept = {"persistentvolumeclaims", "services", "cronjobs", "deployments", "statefulsets"}
    assert more == {"namespaces", *kept, "resourcequotas", "serviceaccounts", "networkpolicies"}
    # a cluster may have two releases of one name
    assert role["metadata"]["name"] == binding["roleRef"]["name"] == "b-kbatch-server"
    assert binding["subjects"][0]["namespace"] == "b"
    values["jobs"]["userNamespaces"] |= {"create": False, "objects": []}
    values["networkPolicy"] = {"jobs": {"enabled": False}}
    [role] = [each for each in helm.render(values).all if each["kind"] == "ClusterRole"]
    assert role["rules"] == own


def test_users_namespaces_that_exist_take_a_role_in_each(helm: Helm) -> None:
    made = helm.render(read_file("existing-namespaces"), namespace="b")
    assert not {"ClusterRole", "ClusterRoleBinding"} & made.kinds
    for kind in ("Role", "RoleBinding"):
        found = [each for each in made.all if each["kind"] == kind]
        assert [each["metadata"]["namespace"] for each in found] == ["jhub-alice", "jhub-bob"]
    launcher = read_values(made)["KubeJobLauncher"]
    assert (launcher["create_user_namespaces"], launcher["watch_all_namespaces"]) == (False, False)


def test_the_settings_of_users_namespaces_are_taken_by_the_launcher(helm: Helm, render: Render) -> None:
    made = helm.render(read_file("per-user"), namespace="b")
    launcher = KubeJobLauncher(**read_values(made)["KubeJobLauncher"])
    assert launcher.get_namespace("Alice") == expand("kbatch-{username}", "Alice")
    assert launcher.hub_namespace == "b"
    assert launcher.watch_all_namespaces
    kinds = [each["kind"] for each in launcher.user_namespace_objects]
    assert kinds == ["ResourceQuota", "ServiceAccount", "NetworkPolicy"]
    # the policy is the one that the chart makes where all jobs have one namespace
    [one] = [each for each in render().all if each["metadata"]["name"] == "kbatch-server-jobs"]
    policy = launcher.user_namespace_objects[-1]
    assert policy["spec"]["egress"][0] == one["spec"]["egress"][0]
    assert len(policy["spec"]["egress"]) == len(one["spec"]["egress"])


def test_kueue_is_watched_with_the_right_to_where_it_is_set_alone(helm: Helm) -> None:
    right = {"apiGroups": ["kueue.x-k8s.io"], "resources": ["workloads"], "verbs": ["list", "watch"]}
    for version in ("", "v1beta1"):
        values = {"hub": {"apiToken": "x"}, "jobs": {"namespace": "jobs", "kueueVersion": version}}
        made = helm.render(values)
        assert (right in made.get("Role")["rules"]) == bool(version)
        assert read_values(made)["KubeJobLauncher"]["kueue_version"] == version


def test_the_published_chart_installs_the_published_image_of_its_version(helm: Helm, tmp_path: Path) -> None:
    image = "ghcr.io/example/kbatch-server"
    environ = helm.environ | {"PATH": f"{helm.program.parent}:{helm.environ['PATH']}"}
    subprocess.run([ROOT / "scripts" / "package-chart", image, tmp_path], env=environ, check=True, timeout=60)
    [package] = tmp_path.glob("kbatch-server-*.tgz")
    values = {"hub": {"apiToken": "x"}, "jobs": {"namespace": "jobs"}}
    made = Made(helm.call("template", "kbatch-server", str(package), values=values))
    [container] = made.pod["containers"]
    assert container["image"] == f"{image}:{KBatchServer.version}"


def test_a_failing_test_needs_no_cluster_to_be_seen(helm: Helm, tmp_path: Path, unused_tcp_port: int) -> None:
    """The script of ``helm test`` ends with 1 and a reason; how it succeeds is tested with a service."""
    environ = os.environ | {
        "KBATCH_URL": f"http://127.0.0.1:{unused_tcp_port}/",
        "TOKEN": "x",
        "JOB": "{}",
        "TIMEOUT_SECONDS": "1",
    }
    command = ["python3", CHART / "files" / "submit.py"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "refused" in done.stderr
