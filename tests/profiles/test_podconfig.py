"""KubeSpawner's traits of a job: what stops the start, functions, and what jobs of earlier versions have."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from traitlets import TraitError
from traitlets.config import Config

from kbatch_server.launchers.kube.manifests.filled import fill_templates
from kbatch_server.launchers.kube.manifests.job import OWN_CONTAINERS, make_pod_spec
from kbatch_server.models.job import Job, JobSpec
from kbatch_server.models.request import JobRequest
from kbatch_server.models.results import OutputLimits
from kbatch_server.models.user import User
from kbatch_server.profiles.config import JobConfig
from kbatch_server.profiles.podconfig import WrongFunction
from kbatch_server.profiles.profiles import Profiles
from kbatch_server.settings.checks import WrongSetting, check_config

ALICE = User(name="alice@example.com", groups=("staff",))


def ask(**fields: Any) -> JobRequest:
    return JobRequest(name="job", command=["true"], **fields)


def make_pod(request: JobRequest | None = None, **settings: Any) -> dict[str, Any]:
    spec = JobConfig(image="x", **settings).make_spec(request or ask())
    job = Job(id="j", user="alice", name="job", spec=spec, created_at=datetime.now(UTC))
    filled = fill_templates(job, namespace="jobs", hub_namespace="hub")
    return make_pod_spec(filled, OutputLimits(), env_names=["HOME", "MINE"], init_image="busybox")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"volumes": [{"name": "a", "persistentVolumeClaim": {"claimname": "x"}}]},
            "volumes[0]: persistentVolumeClaim.claimname is unknown to Kubernetes; did you mean claimName?",
        ),
        (
            {"volumes": {"home": {"name": "a", "emptydir": {}}}},
            "volumes['home']: emptydir is unknown to Kubernetes; did you mean emptyDir?",
        ),
        ({"volumes": [{"emptyDir": {}}]}, "volumes[0]: name is missing"),
        ({"volumes": {"a": []}}, "volumes['a']: [] is no dict"),
        ({"volume_mounts": [{"name": "a"}]}, "volume_mounts[0]: mountPath is missing"),
        (
            {"volume_mounts": [{"name": "a", "mountPath": "/code"}]},
            "volume_mounts: /code is the service's own",
        ),
        (
            {"volume_mounts": {"a": {"name": "a", "mountPath": "/x", "readOnly": "yes"}}},
            "volume_mounts['a']: readOnly is 'yes': input should be a valid boolean",
        ),
        (
            {"tolerations": [{"key": "a", "tolerationSeconds": "3"}]},
            "tolerations[0]: tolerationSeconds is '3': input should be a valid integer",
        ),
        ({"init_containers": [{"name": "a", "comand": []}]}, "init_containers[0]: comand is unknown"),
        ({"init_containers": [{"name": "job"}]}, "init_containers: job is the service's own"),
        (
            {"init_containers": [{"name": "a"}], "extra_containers": {"b": {"name": "a"}}},
            "a is the name of another container of the pod",
        ),
        ({"lifecycle_hooks": {"onStart": {}}}, "lifecycle_hooks: onStart is unknown"),
        ({"lifecycle_hooks": {"preStop": []}}, "lifecycle_hooks: preStop is []; it must be a dict"),
        (
            {"container_security_context": {"runAsuser": 1}},
            "container_security_context: runAsuser is unknown to Kubernetes; did you mean runAsUser?",
        ),
        (
            {"extra_container_config": {"volume_mounts": []}},
            "extra_container_config: volumeMounts cannot be replaced here: a job needs its own; use "
            "JobConfig.volume_mounts",
        ),
        ({"extra_container_config": {"name": "x"}}, "extra_container_config: name cannot be replaced here"),
        ({"extra_pod_config": {"containers": []}}, "extra_pod_config: containers cannot be replaced here"),
        ({"extra_pod_config": {"dnsconfig": {}}}, "extra_pod_config: dnsconfig is unknown"),
        ({"extra_pod_config": {"hostname": "{pod_name}"}}, "extra_pod_config: '{pod_name}' has {pod_name},"),
        ({"extra_labels": {"id": "{userid}"}}, "has {userid}, which no job knows: the hub does not tell"),
        ({"pvc_name_template": "{pvc_name}"}, "pvc_name_template: '{pvc_name}' has a brace without"),
        ({"image_pull_secrets": [{"nam": "x"}]}, "image_pull_secrets: {'nam': 'x'} must be a name, or like"),
        ({"environment": {"A": "{namespace}"}}, "environment['A']: '{namespace}' has a brace without"),
        ({"environment": {"A": '{"a": 1}'}}, "write {{ for a brace"),
        ({"environment": {"A": {"valueFom": {}}}}, "environment['A']: valueFom is unknown"),
        ({"slug_scheme": "unsafe"}, "slug_scheme"),
        ({"privileged": True}, "privileged: needs JobConfig.allow_privilege_escalation = True or None"),
        ({"uid": -1}, "uid"),
        ({"supplemental_gids": ["users"]}, "supplemental_gids"),
    ],
)
def test_a_wrong_value_stops_the_start_with_its_place(settings, message):
    for make in (
        lambda: JobConfig(**settings),
        lambda: JobConfig(config=Config(JobConfig=settings)),
        lambda: Profiles(profile_list=[{"display_name": "x", "kbatch_override": settings}]),
    ):
        with pytest.raises(TraitError) as caught:
            make()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", OWN_CONTAINERS)
def test_the_jobs_own_containers_are_those_whose_names_no_admin_may_take(name):
    for trait in ("init_containers", "extra_containers"):
        with pytest.raises(TraitError, match=f"{name} is the service's own"):
            JobConfig(**{trait: [{"name": name}]})
    spec = JobSpec(image="x", upload="u", keep_outputs=True)
    job = Job(id="j", user="alice", name="job", spec=spec, created_at=datetime.now(UTC))
    pod = make_pod_spec(job, OutputLimits(), env_names=[], init_image="busybox")
    assert {each["name"] for each in pod["containers"] + pod["initContainers"]} == set(OWN_CONTAINERS)


def test_an_old_name_stops_the_start_with_the_new_one():
    with pytest.raises(
        WrongSetting, match=r"^c\.JobConfig\.labels is now c\.JobConfig\.extra_labels: rename"
    ):
        check_config(Config(JobConfig={"labels": {"a": "b"}}), [JobConfig])
    override = {"display_name": "x", "kbatch_override": {"annotations": {}}}
    with pytest.raises(
        TraitError,
        match=r"annotations: JobConfig has no such trait; it is now extra_annotations: rename it",
    ):
        Profiles(profile_list=[override])


def test_a_job_that_an_earlier_version_recorded_keeps_its_labels():
    recorded = JobSpec.model_validate_json(
        '{"image": "x", "labels": {"team": "a"}, "annotations": {"n": "{username}"}}'
    )
    assert (recorded.extra_labels, recorded.extra_annotations) == ({"team": "a"}, {"n": "{username}"})
    again = JobSpec.model_validate_json(recorded.model_dump_json())
    assert again == recorded
    assert "labels" not in recorded.model_dump()


def test_the_code_is_fetched_first_and_the_results_are_sent_before_other_containers_end():
    pod = make_pod(
        ask(upload="u1"),
        init_containers=[{"name": "prepare"}],
        extra_containers=[{"name": "proxy", "restartPolicy": "Never"}],
    )
    assert [(each["name"], each.get("restartPolicy")) for each in pod["initContainers"]] == [
        ("fetch-code", None),
        ("prepare", None),
        # Kubernetes ends sidecars from the last to the first
        ("proxy", "Always"),
        ("keep-outputs", "Always"),
    ]
    assert len(pod["containers"]) == 1


def test_a_job_with_code_starts_in_its_code_and_any_other_in_the_admins_folder():
    assert make_pod(working_dir="/home/{username}")["containers"][0]["workingDir"] == "/home/alice"
    with_code = make_pod(ask(upload="u1", working_dir="src"), working_dir="/home/{username}")
    assert with_code["containers"][0]["workingDir"] == "/code/src"
    assert "workingDir" not in make_pod()["containers"][0]


def test_only_the_jobs_own_container_is_privileged():
    pod = make_pod(ask(upload="u1"), privileged=True, allow_privilege_escalation=None)
    assert pod["containers"][0]["securityContext"] == {"privileged": True}
    assert [each["securityContext"] for each in pod["initContainers"]] == [{}, {}]


def test_what_a_user_sets_takes_precedence_over_what_the_admin_takes_from_a_secret():
    source = {"valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    env = make_pod(environment={"NODE": source, "MINE": source, "USER": source})["containers"][0]["env"]
    assert {"name": "NODE"} | source in env
    assert [each["valueFrom"] for each in env if each["name"] == "MINE"] == [
        {"secretKeyRef": {"name": "j", "key": "env.MINE"}}
    ]
    assert [each for each in env if each["name"] == "USER"] == [{"name": "USER"} | source]


async def test_functions_know_the_user_and_may_be_async():
    async def find_uid(spawner: Any) -> int:
        await asyncio.sleep(0)
        assert spawner.user.groups[0].name == "staff"
        return 1000

    def find_token(spawner: Any) -> str:
        return f"{{{spawner.user.name}}}"

    config = {"image": "x", "uid": find_uid, "fs_gid": lambda spawner: None}
    profiles = Profiles(config=Config(JobConfig=config | {"environment": {"TOKEN": find_token, "N": "1"}}))
    spec = await profiles.make_spec(ALICE, ask())
    assert (spec.uid, spec.fs_gid) == (1000, None)
    assert await profiles.get_environment(ALICE, JobSpec(image="x")) == {
        "TOKEN": "{alice@example.com}",
        "N": "1",
    }
    assert "{alice" not in spec.model_dump_json(), "it may be secret"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"uid": lambda spawner: "root"}, r"^JobConfig\.uid: the function returned 'root': "),
        (
            {"supplemental_gids": lambda spawner: 1},
            r"^JobConfig\.supplemental_gids: the function returned 1: ",
        ),
        (
            {"pod_security_context": lambda spawner: {"fsgroup": 1}},
            r"^JobConfig\.pod_security_context: fsgroup is unknown .* \(returned by the function\)$",
        ),
        (
            {"gid": lambda spawner: spawner.user.id},
            r"^a job's spawner\.user has no 'id'; it has: name, groups$",
        ),
    ],
)
async def test_a_mistake_in_a_function_is_not_the_users(settings, message):
    profiles = Profiles(config=Config(JobConfig={"image": "x"} | settings))
    with pytest.raises((WrongFunction, AttributeError), match=message):
        await profiles.make_spec(ALICE, ask())


async def test_a_function_for_a_variable_must_return_text():
    profiles = Profiles(config=Config(JobConfig={"environment": {"A": lambda spawner: ["x"]}}))
    with pytest.raises(TypeError, match=r"JobConfig\.environment\['A'\]: the function must return a string"):
        await profiles.get_environment(ALICE, JobSpec(image="x"))
