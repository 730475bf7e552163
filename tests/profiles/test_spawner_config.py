"""What the admin wrote for the hub's servers is the default for jobs."""

from __future__ import annotations

import json

import pytest
import yaml
from traitlets.config import Config

from kbatch_server.models.request import JobRequest
from kbatch_server.models.user import User
from kbatch_server.profiles.config import JobConfig
from kbatch_server.profiles.profiles import Profiles
from kbatch_server.profiles.spawner_config import load_spawner_config
from kbatch_server.settings.checks import WrongSetting

HUB = """
import os
c = get_config()
load_subconfig("other.py")
c.JupyterHub.ip = "0.0.0.0"
c.JupyterHub.spawner_class = "kubespawner.KubeSpawner"
c.OAuthenticator.client_secret = "secret"
c.Spawner.mem_limit = "1G"
c.Spawner.environment.update({"A": "1"})
c.Spawner.default_url = "/lab"
c.KubeSpawner.mem_limit = "2G"
c.KubeSpawner.image = "hub:1"
c.KubeSpawner.tolerations.append({"key": "hub", "operator": "Exists"})
c.KubeSpawner.volumes = [
    {"name": "home", "persistentVolumeClaim": {"claimName": "{pvc_name}"}},
    {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
]
c.KubeSpawner.volume_mounts = [
    {"name": "home", "mountPath": "/home/jovyan"}, {"name": "data", "mountPath": "/data", "readOnly": True},
]
c.KubeSpawner.profile_list = lambda spawner: [{"display_name": spawner.user.name}]
"""


def load(path, text):
    path.write_text(text)
    return load_spawner_config(path)


def test_a_hubs_own_file_is_run_and_its_spawner_taken(tmp_path):
    (tmp_path / "other.py").write_text("c.KubeSpawner.node_selector = {'pool': 'user'}")
    defaults = load(tmp_path / "jupyterhub_config.py", HUB)
    config = JobConfig(config=defaults.config)
    assert (config.image, config.mem_limit, config.environment) == ("hub:1", 2 * 2**30, {"A": "1"})
    assert config.node_selector == {"pool": "user"}
    assert config.tolerations == [{"key": "hub", "operator": "Exists"}]
    assert [each["name"] for each in config.volumes] == ["data"]
    assert [each["name"] for each in config.volume_mounts] == ["data"]
    assert set(defaults.config) == {"JobConfig", "Profiles"}
    assert "default_url" in defaults.ignored
    assert "secret" not in repr(defaults)


async def test_its_profiles_are_those_of_jobs_and_what_the_service_says_itself_wins(tmp_path):
    (tmp_path / "other.py").write_text("")
    config = load(tmp_path / "jupyterhub_config.py", HUB).config
    config.merge(Config({"JobConfig": {"image": "jobs:1"}}))
    spec = await Profiles(config=config).make_spec(User(name="alice"), JobRequest(name="x", command=["true"]))
    assert (spec.profile, spec.image, spec.mem_limit) == ("alice", "jobs:1", 2 * 2**30)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "import a_module_that_is_missing",
            r"line 1.*ModuleNotFoundError.*a_module_that_is_missing.*install",
        ),
        ("c = get_config()\nc.KubeSpawner.image = ", r"line 2.*invalid syntax"),
        ("raise SystemExit('no')", r"line 1.*SystemExit: no"),
        ("c = get_config()\nc.KubeSpawner.cpu_limit = 'many'", r"cpu_limit"),
    ],
)
def test_a_file_that_cannot_be_run_is_said_in_one_line(tmp_path, text, said):
    with pytest.raises(WrongSetting, match=rf"KBatchServer.spawner_config: .*{said}") as error:
        load(tmp_path / "jupyterhub_config.py", text)
    assert "\n" not in str(error.value)


VALUES = {
    "imagePullSecrets": ["all"],
    "scheduling": {
        "userPods": {
            "tolerations": [{"key": "hub.jupyter.org/dedicated", "operator": "Equal", "value": "user"}],
            "nodeAffinity": {"matchNodePurpose": "require"},
        },
        "podPriority": {"enabled": True},
    },
    "hub": {"config": {"KubeSpawner": {"supplemental_gids": [5]}, "OAuthenticator": {"client_secret": "s"}}},
    "singleuser": {
        "image": {
            "name": "quay.io/lab",
            "tag": "1",
            "pullPolicy": "Always",
            "pullSecrets": [{"name": "mine"}],
        },
        "cmd": "jupyterhub-singleuser",
        "cpu": {"limit": 2, "guarantee": 0.5},
        "memory": {"limit": "4G", "guarantee": "1G"},
        "extraResource": {"limits": {"nvidia.com/gpu": "1"}, "guarantees": {}},
        "extraEnv": {"A": "1", "GONE": None},
        "nodeSelector": {"pool": "user"},
        "extraTolerations": [{"key": "x", "operator": "Exists"}],
        "extraNodeAffinity": {"required": [{"matchExpressions": []}], "preferred": []},
        "extraPodAffinity": {"required": [], "preferred": []},
        "extraPodAntiAffinity": {"required": [{"topologyKey": "x"}], "preferred": []},
        "storage": {
            "type": "dynamic",
            "homeMountPath": "/home/jovyan",
            "dynamic": {"pvcNameTemplate": "claim-{username}", "volumeNameTemplate": "volume-{username}"},
            "extraVolumes": {"b": {"name": "data", "emptyDir": {}}},
            "extraVolumeMounts": [{"name": "data", "mountPath": "/data"}],
        },
        "uid": 1000,
        "fsGid": 100,
        "serviceAccountName": None,
        "allowPrivilegeEscalation": False,
        "cloudMetadata": {"blockWithIptables": True, "ip": "169.254.169.254"},
        "extraFiles": {"a": {"mountPath": "/etc/a", "stringData": "a"}},
        "profileList": [{"display_name": "P", "kubespawner_override": {"image": "p:1"}}],
    },
}


def check_values(config):
    job = JobConfig(config=config)
    assert (job.image, job.image_pull_policy, job.uid, job.fs_gid) == ("quay.io/lab:1", "Always", 1000, 100)
    assert (job.cpu_limit, job.cpu_guarantee, job.mem_guarantee) == (2, 0.5, 2**30)
    assert (job.extra_resource_limits, job.environment) == ({"nvidia.com/gpu": "1"}, {"A": "1"})
    assert job.volumes == [{"name": "data", "emptyDir": {}}]
    assert job.volume_mounts == [{"name": "data", "mountPath": "/data"}]
    assert job.node_selector == {"pool": "user"}
    assert len(job.pod_anti_affinity_required) == 1
    assert job.priority_class_name is None
    assert config.Profiles.profile_list[0]["display_name"] == "P"
    return job


@pytest.mark.parametrize(("name", "write"), [("v.yaml", yaml.safe_dump), ("v.json", json.dumps)])
def test_the_values_of_zero_to_jupyterhub_are_taken(tmp_path, name, write):
    defaults = load(tmp_path / name, write(VALUES))
    job = check_values(defaults.config)
    assert job.image_pull_secrets == ["all", "mine"]
    assert [each["key"] for each in job.tolerations] == ["hub.jupyter.org/dedicated", "x"]
    assert [each["matchExpressions"] for each in job.node_affinity_required][1][0]["values"] == ["user"]
    assert job.supplemental_gids == [5]
    assert {"cloudMetadata", "extraFiles", "cmd"} <= set(defaults.ignored)


def test_so_are_those_below_singleuser_alone(tmp_path):
    job = check_values(load(tmp_path / "v.yaml", yaml.safe_dump(VALUES["singleuser"])).config)
    assert job.image_pull_secrets == ["mine"]


def test_a_home_in_a_folder_of_a_shared_claim_is_left_out_as_well(tmp_path):
    storage = {"type": "static", "static": {"pvcName": "homes", "subPath": "{username}"}}
    config = load(tmp_path / "v.yaml", yaml.safe_dump({"storage": storage})).config
    assert (JobConfig(config=config).volumes, JobConfig(config=config).volume_mounts) == ([], [])


@pytest.mark.parametrize("text", ["[1]", "{", "singleuser: 1"])
def test_values_that_are_none_are_said_in_one_line(tmp_path, text):
    with pytest.raises(WrongSetting, match=r"KBatchServer.spawner_config: .*v.yaml: ") as error:
        load(tmp_path / "v.yaml", text)
    assert "\n" not in str(error.value)
