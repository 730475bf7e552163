"""The manifests of a job, compared whole."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kbatch_server.launchers.kube.manifests import job as objects
from kbatch_server.launchers.kube.manifests.filled import fill_templates
from kbatch_server.launchers.kube.manifests.gates import is_gated, make_open_patch
from kbatch_server.launchers.kube.manifests.home import (
    HOME_DIR,
    HOME_SCRIPT,
    NOT_FOUND_CODE,
    NOT_FOUND_MESSAGE,
    wrap_command,
)
from kbatch_server.launchers.kube.manifests.job import FETCH_SCRIPT
from kbatch_server.launchers.kube.manifests.secrets import make_file_data
from kbatch_server.launchers.kube.manifests.sidecar import (
    CODE_DIR,
    LISTS_MOUNT,
    NOTE_SCRIPT,
    OUTPUT_DIR,
    ROOT,
    SEND_SCRIPT,
)
from kbatch_server.models.job import Job, JobSpec
from kbatch_server.models.results import OutputLimits
from kbatch_server.models.secret import RegistryLogin
from kbatch_server.notebooks.files import make_files
from kbatch_server.notebooks.launch import make_command
from kbatch_server.slugs import make_slug
from kbatch_server.templates import expand, fill_label
from tests.support.cluster.images import find_busybox
from tests.support.zips import make_zip

NOW = datetime(2026, 1, 1, tzinfo=UTC)

LABELS = {
    "app.kubernetes.io/name": "kbatch-job",
    "app.kubernetes.io/managed-by": "kbatch-server",
    "app.kubernetes.io/component": "job",
    "kbatch.jupyter.org/instance": "hub",
    "kbatch.jupyter.org/job-id": "train-1",
    "kbatch.jupyter.org/username": "alice",
}
ANNOTATIONS = {"kbatch.jupyter.org/username": "alice", "kbatch.jupyter.org/job-name": "Train"}
STAYS = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}
ACCOUNT = [{"name": "USER", "value": "alice"}, {"name": "LOGNAME", "value": "alice"}]


def make(
    user: str = "alice",
    env_names: list[str] | None = None,
    code_sha256: str | None = None,
    **spec: Any,
) -> dict[str, Any]:
    return objects.make_job(
        fill_templates(make_record(user, **spec), namespace="jobs", hub_namespace="hub"),
        env_names=env_names or [],
        namespace="jobs",
        instance="hub",
        init_image="busybox:1.36",
        output_limits=OutputLimits(2**30, 50),
        code_sha256=code_sha256,
    )


def make_record(user: str = "alice", **spec: Any) -> Job:
    fields: dict[str, Any] = {"image": "python:3.12"} | spec
    return Job(id="train-1", user=user, name="Train", spec=JobSpec(**fields), created_at=NOW)


def pod_of(manifest: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return spec


def test_what_the_scripts_of_a_pod_name_is_where_its_manifest_has_it():
    assert f"cd {CODE_DIR} ||" in FETCH_SCRIPT
    assert f"HOME={HOME_DIR}\n" in HOME_SCRIPT
    assert f'echo "{NOT_FOUND_MESSAGE}" >/dev/termination-log\n  exit {NOT_FOUND_CODE}\n' in HOME_SCRIPT
    assert f"root={ROOT} " in SEND_SCRIPT
    for folder, name in ((CODE_DIR, "workdir"), (OUTPUT_DIR, "outputs")):
        assert f"{folder}/*) at={name}/${{to#{folder}/}} ;;" in SEND_SCRIPT
    assert f">{LISTS_MOUNT['mountPath']}/before " in NOTE_SCRIPT
    for script in (FETCH_SCRIPT, HOME_SCRIPT, SEND_SCRIPT, NOTE_SCRIPT):
        assert "shellcheck" not in script


def test_smallest_job() -> None:
    assert make() == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "train-1",
            "namespace": "jobs",
            "labels": LABELS,
            "annotations": ANNOTATIONS,
        },
        "spec": {
            "suspend": True,
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "ttlSecondsAfterFinished": 30 * 86400,
            "template": {
                "metadata": {"labels": LABELS, "annotations": ANNOTATIONS | STAYS},
                "spec": {
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 30,
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
                    "containers": [
                        {
                            "name": "job",
                            "image": "python:3.12",
                            "env": ACCOUNT,
                            "resources": {},
                            "securityContext": {"allowPrivilegeEscalation": False},
                            "volumeMounts": [],
                        }
                    ],
                    "volumes": [{"name": "kbatch-code", "emptyDir": {}}],
                },
            },
        },
    }


def test_job_with_everything() -> None:
    manifest = make(
        env_names=["B", "A"],
        command=["python", "main.py"],
        args=["--fast"],
        upload="u1",
        code_sha256="abc",
        cpu_limit=2,
        cpu_guarantee=0.25,
        mem_limit=2**30,
        mem_guarantee=2**20,
        extra_resource_limits={"nvidia.com/gpu": "1"},
        extra_resource_guarantees={"ephemeral-storage": "1Gi"},
        shm_size=2**20,
        code_volume_size=2**32,
        home_volume_size=2**31,
        node_selector={"pool": "{username}"},
        tolerations=[{"key": "batch", "operator": "Exists"}],
        volumes=[{"name": "home", "persistentVolumeClaim": {"claimName": "claim-{username}"}}],
        volume_mounts=[{"name": "home", "mountPath": "/home/{unescaped_username}"}],
        service_account="sa-{username}",
        pod_security_context={"runAsUser": 1000, "seccompProfile": {"type": "Localhost"}},
        container_security_context={"capabilities": {"drop": ["ALL"]}},
        image_pull_policy="Always",
        image_pull_secrets=["registry"],
        priority_class_name="low",
        extra_labels={"team": "{username}", "kbatch.jupyter.org/instance": "not yours"},
        extra_annotations={"contact": "{unescaped_username}@example.org"},
        termination_grace_period_seconds=5,
        ttl_seconds_after_finished=60,
        retries=3,
        active_deadline_seconds=100,
    )
    labels = {"team": "alice", **LABELS}
    annotations = {"contact": "alice@example.org", **ANNOTATIONS}
    assert manifest["metadata"]["labels"] == labels
    assert manifest["metadata"]["annotations"] == annotations | {"kbatch.jupyter.org/retries": "3"}
    assert manifest["spec"]["template"]["metadata"] == {"labels": labels, "annotations": annotations}
    assert {key: manifest["spec"][key] for key in ("backoffLimit", "activeDeadlineSeconds")} == {
        "backoffLimit": 3,
        "activeDeadlineSeconds": 100,
    }
    assert manifest["spec"]["ttlSecondsAfterFinished"] == 30 * 86400  # until its end is on record
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert pod_of(manifest) == {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 5,
        "enableServiceLinks": False,
        "securityContext": {"seccompProfile": {"type": "Localhost"}, "runAsUser": 1000},
        "initContainers": [
            {
                "name": "fetch-code",
                "image": "busybox:1.36",
                "command": ["sh", "-c", FETCH_SCRIPT],
                "env": [
                    {
                        "name": "KBATCH_CODE_URL",
                        "valueFrom": {"secretKeyRef": {"name": "train-1", "key": "code-url"}},
                    },
                    {"name": "KBATCH_CODE_SHA256", "value": "abc"},
                ],
                "resources": {
                    "limits": {"cpu": "2", "memory": "1073741824"},
                    "requests": {"cpu": "250m", "memory": "1048576"},
                },
                "securityContext": security,
                "volumeMounts": [{"name": "kbatch-code", "mountPath": "/code"}],
            }
        ],
        "containers": [
            {
                "name": "job",
                "image": "python:3.12",
                "imagePullPolicy": "Always",
                "workingDir": "/code",
                "command": ["/bin/sh", "-c", HOME_SCRIPT, "sh", "python", "main.py"],
                "args": ["--fast"],
                "env": [
                    {"name": "A", "valueFrom": {"secretKeyRef": {"name": "train-1", "key": "env.A"}}},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "train-1", "key": "env.B"}}},
                    *ACCOUNT,
                ],
                "resources": {
                    "limits": {"cpu": "2", "memory": "1073741824", "nvidia.com/gpu": "1"},
                    "requests": {"cpu": "250m", "memory": "1048576", "ephemeral-storage": "1Gi"},
                },
                "securityContext": security,
                "volumeMounts": [
                    {"name": "kbatch-code", "mountPath": "/code"},
                    {"name": "kbatch-home", "mountPath": "/kbatch-home"},
                    {"name": "kbatch-shm", "mountPath": "/dev/shm"},
                    {"name": "home", "mountPath": "/home/alice"},
                ],
            }
        ],
        "volumes": [
            {"name": "kbatch-code", "emptyDir": {"sizeLimit": "4294967296"}},
            {"name": "kbatch-home", "emptyDir": {"sizeLimit": "2147483648"}},
            {"name": "kbatch-shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1048576"}},
            {"name": "home", "persistentVolumeClaim": {"claimName": "claim-alice"}},
        ],
        "nodeSelector": {"pool": "alice"},
        "tolerations": [{"key": "batch", "operator": "Exists"}],
        "serviceAccountName": "sa-alice",
        "imagePullSecrets": [{"name": "registry"}],
        "priorityClassName": "low",
    }


def test_affinities_and_the_scheduler_are_those_of_the_settings() -> None:
    node, pod = {"matchExpressions": [{"key": "pool", "operator": "Exists"}]}, {"topologyKey": "zone"}
    made = pod_of(
        make(
            node_affinity_preferred=[{"weight": 1, "preference": node}],
            node_affinity_required=[node],
            pod_affinity_preferred=[{"weight": 2, "podAffinityTerm": pod}],
            pod_anti_affinity_required=[pod],
            scheduler_name="user-scheduler",
        )
    )
    assert made["affinity"] == {
        "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": node}],
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [node]},
        },
        "podAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 2, "podAffinityTerm": pod}]
        },
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [pod]},
    }
    assert made["schedulerName"] == "user-scheduler"
    assert {"affinity", "schedulerName"}.isdisjoint(pod_of(make()))


@pytest.mark.parametrize(
    ("settings", "pod", "container"),
    [
        ({}, {}, {"allowPrivilegeEscalation": False}),
        (
            {"uid": 1000, "gid": 100, "fs_gid": 100, "supplemental_gids": [5, 6]},
            {"fsGroup": 100, "supplementalGroups": [5, 6]},
            {"runAsUser": 1000, "runAsGroup": 100, "allowPrivilegeEscalation": False},
        ),
        ({"uid": 0, "fs_gid": 0, "allow_privilege_escalation": None}, {"fsGroup": 0}, {"runAsUser": 0}),
        (
            {"uid": 1, "container_security_context": {"runAsUser": 2}, "allow_privilege_escalation": True},
            {},
            {"runAsUser": 2, "allowPrivilegeEscalation": True},
        ),
        (
            {"fs_gid": 1, "pod_security_context": {"fsGroup": 2}},
            {"fsGroup": 2},
            {"allowPrivilegeEscalation": False},
        ),
    ],
)
def test_every_container_has_the_account_of_the_settings(
    settings: dict[str, Any], pod: dict[str, Any], container: dict[str, Any]
) -> None:
    made = pod_of(make(keep_outputs=True, upload="u1", **settings))
    assert made["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}, **pod}
    containers = [*made["initContainers"], *made["containers"]]
    assert [each["securityContext"] for each in containers] == [container] * 3


@pytest.mark.parametrize(
    ("spec", "env_names", "is_wrapped"),
    [
        ({}, [], True),
        ({}, ["HOME"], False),
        ({"ensure_home": False}, [], False),
        ({"command": None}, [], False),
    ],
)
def test_a_home_is_seen_to_whoever_the_user_of_the_image_is(
    spec: dict[str, Any], env_names: list[str], is_wrapped: bool
) -> None:
    pod = pod_of(make(env_names=env_names, **({"command": ["env", "$(X)"]} | spec)))
    [container] = pod["containers"]
    wrap = ["/bin/sh", "-c", HOME_SCRIPT, "sh"] if is_wrapped else []
    own = [] if spec.get("command", "") is None else ["env", "$$(X)"]
    assert container.get("command", []) == wrap + own
    volumes = {each["name"] for each in (*pod["volumes"], *container["volumeMounts"])}
    assert ("kbatch-home" in volumes) == is_wrapped


SHELLS = [("dash",), (str(find_busybox()), "sh")]
XDG_NAMES = ["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"]


@pytest.fixture
def image() -> Iterator[Path]:
    """A folder that is there for any account, as an image's: tmp_path is for ours alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def run_in_home(image: Path, shell: tuple[str, ...], env: dict[str, str], command: str) -> str:
    """Run a command by the script, with a home at ``image/own``, as an account that is not root."""
    own = image / "own"
    own.mkdir(exist_ok=True)
    own.chmod(0o777)
    script = HOME_SCRIPT.replace(HOME_DIR, str(own))
    done = subprocess.run(
        [*shell, "-c", script, "sh", "sh", "-euc", command],
        env={"PATH": "/usr/bin:/bin", **env},
        capture_output=True,
        text=True,
        user=65534 if os.geteuid() == 0 else None,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", XDG_NAMES)
def test_a_folder_of_the_image_that_is_not_writable_is_not_used_in_the_place_of_the_home(
    image: Path, shell: tuple[str, ...], name: str
) -> None:
    (image / "there").mkdir(mode=0o555)
    for place in (image / "there", image / "there/deeper"):
        env = {"HOME": "/nonexistent", name: str(place)}
        command = f'mkdir -p "${{{name}:-$HOME/x}}/fontconfig"; echo $HOME'
        assert run_in_home(image, shell, env, command) == f"{image}/own\n"
    assert (image / "own/x/fontconfig").is_dir()


@pytest.mark.parametrize("shell", SHELLS)
def test_a_folder_of_the_image_that_is_writable_or_can_be_made_stays(
    image: Path, shell: tuple[str, ...]
) -> None:
    (image / "there").mkdir()
    (image / "there").chmod(0o777)
    places = [str(image / "there"), *(str(image / "there" / str(number)) for number in range(3))]
    env = {"HOME": "/nonexistent", **dict(zip(XDG_NAMES, places, strict=True))}
    command = "echo " + " ".join(f"${name}" for name in XDG_NAMES)
    assert run_in_home(image, shell, env, command) == " ".join(places) + "\n"


def test_a_writable_home_stays_as_the_image_has_it(image: Path) -> None:
    (image / "home").mkdir()
    (image / "home").chmod(0o777)
    env = {"HOME": str(image / "home"), "XDG_CONFIG_HOME": "/etc/of-the-image"}
    assert run_in_home(image, SHELLS[0], env, "echo $HOME $XDG_CONFIG_HOME") == (
        f"{image}/home /etc/of-the-image\n"
    )


@pytest.mark.parametrize(("user", "name"), [("ada", "ada"), ("a.b@c.org", "a.b@c.org"), ("A b", None)])
def test_a_program_that_asks_for_its_account_finds_a_name(user: str, name: str | None) -> None:
    [container] = pod_of(make(user, env_names=["LOGNAME"]))["containers"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert env["USER"] == (name or make_slug(user))
    assert env["LOGNAME"] is None  # the user's own, from the Secret


def test_the_folder_of_the_image_holds_where_there_is_no_code() -> None:
    [container] = pod_of(make(command=["pwd"]))["containers"]
    assert "workingDir" not in container
    assert "/code" not in [each["mountPath"] for each in container["volumeMounts"]]
    [container] = pod_of(make(command=["pwd"], upload="u1"))["containers"]
    assert container["workingDir"] == "/code"


def test_an_autoscaler_keeps_a_node_for_a_job_that_cannot_be_run_again() -> None:
    def annotations(**spec: Any) -> dict[str, str]:
        found: dict[str, str] = make(**spec)["spec"]["template"]["metadata"]["annotations"]
        return found

    assert annotations().items() >= STAYS.items()
    assert not annotations(retries=1).keys() & STAYS.keys()
    own = {"karpenter.sh/do-not-disrupt": "false"}
    assert annotations(extra_annotations=own).items() >= own.items()


SIDECAR = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}}


@pytest.mark.parametrize(
    ("spec", "requests"),
    [
        ({}, SIDECAR["requests"]),
        ({"cpu_limit": 1}, SIDECAR["requests"]),
        ({"cpu_limit": 1, "mem_limit": 2**30}, SIDECAR["limits"]),  # a pod of the class Guaranteed stays one
        ({"cpu_limit": 1, "mem_limit": 2**30, "cpu_guarantee": 0.5}, SIDECAR["requests"]),
        (
            {"extra_resource_guarantees": {"ephemeral-storage": "1Gi"}},
            {**SIDECAR["requests"], "ephemeral-storage": "16Mi"},
        ),
    ],
)
def test_no_container_of_ours_is_left_to_a_limit_range(
    spec: dict[str, Any], requests: dict[str, str]
) -> None:
    pod = pod_of(make(keep_outputs=True, upload="u1", sidecar_resources=SIDECAR, **spec))
    fetch, keep = pod["initContainers"]
    [main] = pod["containers"]
    assert keep["resources"] == {"limits": SIDECAR["limits"], "requests": requests}
    for kind, amounts in main["resources"].items():
        assert fetch["resources"][kind] == {
            name: amounts[name] for name in ("cpu", "memory") if name in amounts
        }
    own = {"requests": {"cpu": "1"}}
    pod = pod_of(make(upload="u1", init_resources=own, **spec))
    assert pod["initContainers"][0]["resources"] == own


def test_secret_is_owned_by_its_job() -> None:
    secret = objects.make_secret(
        make_record(),
        env={"A": "1", "dotted.name": "2"},
        code_url="http://example.org/code?signature=x",
        files={},
        outputs_url="http://example.org/outputs/signed",
        namespace="jobs",
        instance="hub",
        owner_uid="uid-1",
    )
    assert secret == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "train-1",
            "namespace": "jobs",
            "labels": LABELS,
            "annotations": ANNOTATIONS,
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "train-1", "uid": "uid-1"}],
        },
        "type": "Opaque",
        "stringData": {
            "env.A": "1",
            "env.dotted.name": "2",
            "code-url": "http://example.org/code?signature=x",
            "outputs-url": "http://example.org/outputs/signed",
        },
    }
    job = make(env_names=["A", "dotted.name"], upload="u1", keep_outputs=True)
    assert objects.secret_keys(job) == set(secret["stringData"])


@pytest.mark.parametrize(
    "user", ["Alice", "a_b", "ü" * 300, "kube-system", "{unescaped_username}", "x" * 300]
)
def test_any_user_has_valid_names_of_his_own(user: str) -> None:
    manifest = make(user, volumes=[{"name": "v", "hostPath": {"path": "/data/{username}"}}])
    assert manifest["metadata"]["labels"]["kbatch.jupyter.org/username"] == make_slug(user)
    assert manifest["metadata"]["annotations"]["kbatch.jupyter.org/username"] == user
    assert pod_of(manifest)["volumes"][1]["hostPath"]["path"] == expand("/data/{username}", user)
    namespace = fill_label("kbatch-{username}", user)
    assert namespace.startswith("kbatch-")
    assert len(namespace) <= 63
    assert namespace == expand("kbatch-{username}", user)
    assert fill_label("jobs", user) == "jobs"


@pytest.mark.parametrize(
    ("word", "sent"),
    [
        ("echo $HOME", "echo $HOME"),
        ("echo $(date)", "echo $$(date)"),
        ("kill $$", "kill $$$$"),
        ("$A $(B)", "$$A $$(B)"),
    ],
)
def test_command_is_taken_as_it_is_written(word: str, sent: str) -> None:
    container = pod_of(make(command=["sh", "-c", word], args=[word]))["containers"][0]
    assert container["command"][-1] == container["args"][0] == sent


@pytest.mark.parametrize(
    ("cpu", "text"), [(1, "1"), (0.1, "100m"), (1.5, "1500m"), (0.0001, "1m"), (0.001, "1m"), (1e-10, "1m")]
)
def test_cpu_is_written_in_thousandths(cpu: float, text: str) -> None:
    assert pod_of(make(cpu_limit=cpu))["containers"][0]["resources"] == {"limits": {"cpu": text}}


@pytest.mark.parametrize(
    ("instance", "value", "ours"),
    [("hub", "train-1", True), ("other", "train-1", False), ("hub", "x", False)],
)
def test_what_is_ours_has_our_labels(instance: str, value: str, ours: bool) -> None:
    assert objects.is_of(make(), instance=instance, value=value) is ours
    assert not objects.is_of({"metadata": {"name": "train-1"}}, instance="hub", value="train-1")


def run_fetch_script(
    tmp_path: Path, url: str, sha256: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the script with this machine's sh, and a wget that copies the file that the URL names."""
    bin_dir, code = tmp_path / "bin", tmp_path / "code"
    bin_dir.mkdir(exist_ok=True)
    code.mkdir(exist_ok=True)
    wget = bin_dir / "wget"
    wget.write_text(
        "#!/bin/sh\n"
        f'echo >>{tmp_path}/tries; tries=$(wc -l <{tmp_path}/tries); busy="${{BUSY_TRIES:-0}}"\n'
        '[ $tries -gt "$busy" ] || { echo "wget: server returned error: HTTP/1.1 $BUSY" >&2; exit 1; }\n'
        'case "$4" in *.zip) cp "$4" "$3";; *) echo "wget: $4" >&2; exit 1;; esac\n'
    )
    wget.chmod(0o755)
    unzip = bin_dir / "unzip"
    unzip.write_text(f'#!/bin/sh\nexec {find_busybox()} unzip "$@"\n')
    unzip.chmod(0o755)
    sleep = bin_dir / "sleep"
    sleep.write_text(f'#!/bin/sh\necho "$1" >>{tmp_path}/pauses\n')
    sleep.chmod(0o755)
    date = bin_dir / "date"  # which goes on as the pauses do
    date.write_text(
        f"#!/bin/sh\ncd {tmp_path} && touch pauses && awk '{{ s += $1 }} END {{ print 1000 + s }}' pauses\n"
    )
    date.chmod(0o755)
    script = FETCH_SCRIPT.replace("/code", str(code)).replace("/dev/termination-log", str(tmp_path / "log"))
    env = {
        "PATH": f"{bin_dir}:/usr/local/bin:/usr/bin:/bin",
        "KBATCH_CODE_URL": url,
        "KBATCH_CODE_SHA256": sha256,
        **variables,
    }
    return subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True, check=False)


def test_fetch_script_unpacks(tmp_path: Path) -> None:
    source = tmp_path / "source.zip"
    source.write_bytes(make_zip())
    digest = subprocess.run(["sha256sum", source], capture_output=True, text=True, check=True).stdout.split()[
        0
    ]
    done = run_fetch_script(tmp_path, str(source), digest)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert [path.name for path in (tmp_path / "code").iterdir()] == ["main.py"]


def test_fetch_script_begins_anew_what_was_broken_off_and_unpacks_links(tmp_path: Path) -> None:
    source = tmp_path / "source.zip"
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    # busybox reads the target of a link as it is stored
    source.write_bytes(make_zip(("main.py", "print()"), (link, "main.py"), compress_type=zipfile.ZIP_STORED))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    for _ in range(2):
        done = run_fetch_script(tmp_path, str(source), digest)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
        (tmp_path / "code/.left").write_text("half of a file")
    assert (tmp_path / "code/link").readlink() == Path("main.py")
    assert sorted(path.name for path in (tmp_path / "code").iterdir()) == [".left", "link", "main.py"]


@pytest.mark.parametrize("answer", ["429 Too Many Requests", "503 Service Unavailable"])
def test_fetch_script_comes_again_for_long_while_there_is_no_place_for_it(
    tmp_path: Path, answer: str
) -> None:
    source = tmp_path / "source.zip"
    source.write_bytes(make_zip())
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    done = run_fetch_script(tmp_path, str(source), digest, BUSY=answer, BUSY_TRIES="40")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    pauses = [int(line) for line in (tmp_path / "pauses").read_text().split()]
    assert pauses == [1, 2, 4, 8, *36 * [16]]
    (tmp_path / "pauses").unlink()
    (tmp_path / "tries").unlink()
    done = run_fetch_script(tmp_path, str(source), digest, BUSY=answer, BUSY_TRIES="1000")
    assert (done.returncode, (tmp_path / "log").read_text()) == (81, f"the service answered {answer}\n")
    assert sum(int(line) for line in (tmp_path / "pauses").read_text().split()) < 1000


@pytest.mark.parametrize(("folder", "code"), [("repo-main", 0), ("repo-main/src", 0), ("repo-mian", 84)])
def test_fetch_script_looks_for_the_folder_to_run_in(tmp_path: Path, folder: str, code: int) -> None:
    source = tmp_path / "source.zip"
    source.write_bytes(make_zip({"repo-main/src/main.py": "print()"}))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    done = run_fetch_script(tmp_path, str(source), digest, KBATCH_WORKING_DIR=folder)
    assert done.returncode == code
    if code:
        words = f"the ZIP has no folder '{folder}' (working_dir)\n"
        assert (tmp_path / "log").read_text() == words


def test_a_job_runs_in_the_folder_of_its_code_that_it_names() -> None:
    pod = make(upload="u", working_dir="repo-main/$(KBATCH_CODE_URL)")["spec"]["template"]["spec"]
    assert pod["containers"][0]["workingDir"] == "/code/repo-main/$(KBATCH_CODE_URL)"
    [fetch] = [each for each in pod["initContainers"] if each["name"] == "fetch-code"]
    variables = {each["name"]: each.get("value") for each in fetch["env"]}
    assert variables["KBATCH_WORKING_DIR"] == "repo-main/$$(KBATCH_CODE_URL)"  # no variable's value


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("server returned error: HTTP/1.1 403 Forbidden", 81, "the service answered 403 Forbidden"),
        ("server returned error: HTTP/1.1 502 Bad", 81, "the service answered 502 Bad"),
        ("can't connect (10.0.0.1): Connection refused", 81, "the service refused the connection"),
        ("bad address 'hub'", 81, "the host name of the service cannot be resolved"),
        ("not an http or ftp url: http://secret", 81, "the service could not be reached"),
    ],
)
def test_fetch_script_says_why_it_failed_and_no_url(tmp_path: Path, url: str, code: int, words: str) -> None:
    done = run_fetch_script(tmp_path, url, "0")
    assert (done.returncode, (tmp_path / "log").read_text()) == (code, words + "\n")
    assert "secret" not in done.stdout + done.stderr


def test_fetch_script_refuses_what_is_not_what_was_uploaded(tmp_path: Path) -> None:
    source = tmp_path / "source.zip"
    source.write_bytes(b"not a ZIP")
    done = run_fetch_script(tmp_path, str(source), "0" * 64)
    assert done.returncode == 82
    assert "SHA-256" in (tmp_path / "log").read_text()


def test_fetch_script_refuses_what_is_not_a_zip(tmp_path: Path) -> None:
    source = tmp_path / "source.zip"
    source.write_bytes(b"not a ZIP")
    digest = subprocess.run(["sha256sum", source], capture_output=True, text=True, check=True).stdout.split()[
        0
    ]
    done = run_fetch_script(tmp_path, str(source), digest)
    assert (done.returncode, (tmp_path / "log").read_text()) == (83, "the ZIP could not be unpacked\n")


def test_only_a_job_that_may_be_tried_again_is_started_again_after_it_had_to_give_way() -> None:
    assert "podFailurePolicy" not in make(retries=0)["spec"]
    [rule] = make(retries=1)["spec"]["podFailurePolicy"]["rules"]
    assert rule == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


def test_attempts_are_held_back_only_where_their_time_is_not_kubernetes_own() -> None:
    def find_gates(**spec: object) -> list[dict[str, str]]:
        return make(**spec)["spec"]["template"]["spec"].get("schedulingGates", [])

    assert find_gates(retries=3) == find_gates(retries=0, retry_delay_seconds=60) == []
    for own in ({"retry_delay_seconds": 60}, {"retry_backoff": "fixed"}):
        assert find_gates(retries=3, **own) == [{"name": "kbatch.jupyter.org/attempt"}]


def test_only_our_gate_of_a_pod_is_opened() -> None:
    gates = [{"name": "kbatch.jupyter.org/attempt"}, {"name": "example.org/theirs"}]
    pod = {"metadata": {"uid": "u1"}, "spec": {"schedulingGates": gates}}
    assert is_gated(pod)
    assert make_open_patch(pod) == {
        "metadata": {"uid": "u1"},
        "spec": {"schedulingGates": [{"name": "example.org/theirs"}]},
    }


def test_a_notebook_has_its_files_from_the_secret_and_runs_by_them() -> None:
    notebook = {"path": "a b/train.ipynb", "parameters": {"key": "s3cr3t"}}
    job = make(notebook=notebook, upload="u1", keep_outputs=True, collect="workdir")
    pod = pod_of(job)
    [main] = pod["containers"]
    assert main["command"] == wrap_command(make_command("/kbatch-notebook"))
    assert "args" not in main
    assert {"name": "kbatch-notebook", "mountPath": "/kbatch-notebook", "readOnly": True} in main[
        "volumeMounts"
    ]
    names = ["run_notebook.py", "notebook_setup.py", "notebook.json"]
    items = [{"key": name, "path": name} for name in names]
    assert {"name": "kbatch-notebook", "secret": {"secretName": "train-1", "items": items}} in pod["volumes"]
    assert set(names) <= objects.secret_keys(job)
    assert "kbatch-notebook" not in str(pod["initContainers"])
    assert "s3cr3t" not in str(job)
    record = make_record(notebook=notebook)
    secret = objects.make_secret(
        record,
        env={"A": "1"},
        files=make_files(record.spec.notebook),
        code_url=None,
        outputs_url=None,
        namespace="jobs",
        instance="hub",
        owner_uid="uid-1",
    )
    assert set(secret["stringData"]) == {"env.A", *names}
    assert "s3cr3t" in secret["stringData"]["notebook.json"]


LOGIN = RegistryLogin(server="quay.io", username="alice", password="hunter22")


@pytest.mark.parametrize(
    ("spec", "mode"),
    [
        ({}, 0o444),
        ({"uid": 1000}, 0o444),
        # Kubernetes lets the group read it
        ({"uid": 1000, "fs_gid": 100}, 0o400),
        ({"pod_security_context": {"fsGroup": 100}}, 0o400),
    ],
)
def test_secret_files_are_a_read_only_volume_of_the_jobs_own_container(spec, mode):
    manifest = make(upload="u1", keep_outputs=True, secret_files={"key.json": "gcp"}, **spec)
    pod = pod_of(manifest)
    assert pod["volumes"][-1] == {
        "name": "kbatch-secrets",
        "secret": {
            "secretName": "train-1",
            "items": [{"key": "secret-file.key.json", "path": "key.json"}],
            "defaultMode": mode,
        },
    }
    [container] = pod["containers"]
    mount = {"name": "kbatch-secrets", "mountPath": "/kbatch-secrets", "readOnly": True}
    assert mount in container["volumeMounts"]
    assert {"name": "KBATCH_SECRETS_DIR", "value": "/kbatch-secrets"} in container["env"]
    assert len(pod["initContainers"]) == 2
    assert mount not in [each for helper in pod["initContainers"] for each in helper["volumeMounts"]]
    assert "secret-file.key.json" in objects.secret_keys(manifest)


def test_without_secret_files_a_pod_has_no_volume_for_them():
    assert "kbatch-secrets" not in str(make(secret_env={"TOKEN": "token"}, env_names=["TOKEN"]))


def test_the_secret_of_a_job_has_the_files_under_the_keys_that_its_volume_names():
    secret = objects.make_secret(
        make_record(secret_files={"key": "gcp"}),
        env={"A": "x"},
        files=make_file_data({"key": "private"}),
        code_url=None,
        outputs_url=None,
        namespace="jobs",
        instance="hub",
        owner_uid="uid-1",
    )
    assert secret["stringData"] == {"env.A": "x", "secret-file.key": "private"}


def test_a_users_credentials_come_before_the_admins():
    pod = pod_of(make(registry_secrets=["quay"], image_pull_secrets=["shared"]))
    assert pod["imagePullSecrets"] == [{"name": "train-1-registry"}, {"name": "shared"}]
    assert pod_of(make(image_pull_secrets=["shared"]))["imagePullSecrets"] == [{"name": "shared"}]
    assert "imagePullSecrets" not in pod_of(make())


def test_credentials_are_a_pull_secret_that_the_job_owns():
    hub = RegistryLogin(server="docker.io", username="al", password="p")
    other = RegistryLogin(server="quay.io", username="other", password="q")
    secret = objects.make_pull_secret(
        make_record(), [LOGIN, hub, other], namespace="jobs", instance="hub", owner_uid="uid-1"
    )
    assert secret["type"] == "kubernetes.io/dockerconfigjson"
    assert secret["metadata"] == {
        "name": "train-1-registry",
        "namespace": "jobs",
        "labels": LABELS,
        "annotations": ANNOTATIONS,
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "train-1", "uid": "uid-1"}],
    }
    [(key, content)] = secret["stringData"].items()
    assert key == ".dockerconfigjson"
    assert json.loads(content) == {
        "auths": {
            "quay.io": {
                "username": "alice",
                "password": "hunter22",
                "auth": base64.b64encode(b"alice:hunter22").decode(),
            },
            "https://index.docker.io/v1/": {"username": "al", "password": "p", "auth": "YWw6cA=="},
        }
    }
