"""A job's pod against KubeSpawner's: the same for the same user and configuration."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubespawner import KubeSpawner

from kbatch_server.profiles.config import JobConfig
from tests.support import oracle

NAMES = [
    "alice",
    "Alice",
    "alice@example.com",
    "a.b",
    "9lives",
    "a--b",
    "ünïcode",
    "名前",
    "-",
    "x" * 47,
    "x" * 300,
    "{username}",
]

TEMPLATE = (
    "{username}/{user_server}/{servername}/{unescaped_username}/{safe_username}/{safe_user_server}/"
    "{escaped_username}/{escaped_user_server}/{namespace}/{hubnamespace}/{pvc_name}/{{braces}}"
)

HOME = {"name": "home", "persistentVolumeClaim": {"claimName": "{pvc_name}"}}
SCRATCH = {"name": "scratch", "empty_dir": {"sizeLimit": "1Gi"}}
MOUNT = {"name": "home", "mountPath": "/home/jovyan", "sub_path": "{username}"}
PREPARE = {"name": "prepare", "image": "busybox", "command": ["chown", "{unescaped_username}", "/home"]}
PROXY = {
    "name": "proxy",
    "image": "proxy:1",
    "image_pull_policy": "Always",
    "args": ["--user={username}"],
    "resources": {"limits": {"cpu": "100m"}},
    "livenessProbe": {"httpGet": {"path": "/", "port": 8080}},
}
NEAR = {"topologyKey": "kubernetes.io/hostname", "label_selector": {"matchLabels": {"app": "dask"}}}
TERM = {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["user"]}]}


async def find_uid(spawner: Any) -> int:
    return 1000 + len(spawner.user.name)


def make_context(spawner: Any) -> dict[str, Any]:
    return {"runAsUser": 1000 + len(spawner.user.groups), "fsGroup": 200}


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "image": {"image": "lab:1", "image_pull_policy": "IfNotPresent"},
    "size": {"cpu_limit": 1.5, "cpu_guarantee": 0.25, "mem_limit": "1.5G", "mem_guarantee": 2**29},
    "whole CPUs": {"cpu_limit": 2, "cpu_guarantee": 1, "mem_limit": 2**30},
    "no guarantee": {"cpu_limit": 1, "cpu_guarantee": 0, "mem_limit": "1G", "mem_guarantee": 0},
    "numbers": {
        "extra_resource_limits": {"nvidia.com/gpu": 1},
        "extra_resource_guarantees": {"ephemeral-storage": 2**30},
    },
    "GPU": {"extra_resource_limits": {"nvidia.com/gpu": "2"}},
    "device": {
        "extra_resource_limits": {"ephemeral-storage": "2Gi"},
        "extra_resource_guarantees": {"ephemeral-storage": "1Gi"},
    },
    "secret as text": {"image_pull_secrets": ["one", "two"]},
    "secret as dict": {"image_pull_secrets": [{"name": "one"}, "two"]},
    "nodes": {"node_selector": {"pool": "user"}, "scheduler_name": "packer", "priority_class_name": "low"},
    "tolerations": {"tolerations": [{"key": "hub", "operator": "Exists", "toleration_seconds": 3}]},
    "tolerations by key": {"tolerations": {"b": {"key": "b", "operator": "Exists"}, "a": {"key": "a"}}},
    "node affinity": {
        "node_affinity_preferred": [{"weight": 1, "preference": TERM}],
        "node_affinity_required": {"only": {"match_expressions": TERM["matchExpressions"]}},
    },
    "pod affinity": {
        "pod_affinity_preferred": [{"weight": 1, "pod_affinity_term": {"topologyKey": "zone"}}],
        "pod_affinity_required": [NEAR],
    },
    "pod anti-affinity": {
        "pod_anti_affinity_preferred": {"a": {"weight": 1, "podAffinityTerm": {"topologyKey": "zone"}}},
        "pod_anti_affinity_required": [NEAR],
    },
    "ids": {"uid": 1000, "gid": 100, "fs_gid": 200, "supplemental_gids": [1, 2]},
    "root": {"uid": 0, "gid": 0, "fs_gid": 0, "allow_privilege_escalation": True},
    "privileged": {"privileged": True, "allow_privilege_escalation": None},
    "ids by function": {
        "uid": find_uid,
        "gid": lambda spawner: 100,
        "fs_gid": lambda spawner: None,
        "supplemental_gids": lambda spawner: [len(spawner.user.groups)],
    },
    "contexts": {
        "uid": 1000,
        "fs_gid": 100,
        "container_security_context": {"runAsUser": 7, "capabilities": {"drop": ["ALL"]}},
        "pod_security_context": {"fsGroup": 8, "fsGroupChangePolicy": "OnRootMismatch"},
    },
    "contexts by function": {
        "container_security_context": lambda spawner: {"runAsUser": len(spawner.user.name)},
        "pod_security_context": make_context,
    },
    "volumes": {"volumes": [HOME, SCRATCH], "volume_mounts": [MOUNT]},
    "volumes by key": {
        "volumes": {"b": SCRATCH, "a": HOME},
        "volume_mounts": {"z": MOUNT, "b": {"name": "scratch", "mountPath": "/tmp"}},
    },
    "other claim": {"pvc_name_template": "{escaped_username}-home", "volumes": [HOME]},
    "escape": {
        "slug_scheme": "escape",
        "volumes": [HOME, {"name": "all", "hostPath": {"path": TEMPLATE}}],
        "extra_annotations": {"all": TEMPLATE},
        "environment": {"WHO": "{username}--{servername}"},
    },
    "service account": {"service_account": "user-{username}"},
    "token": {"service_account": "sa", "automount_service_account_token": True},
    "no token": {"service_account": "sa", "automount_service_account_token": False},
    "token of the default": {"automount_service_account_token": True},
    "labels": {"extra_labels": {"team": "a", "who": "{username}"}, "extra_annotations": {"all": TEMPLATE}},
    "working folder": {"working_dir": "/home/{username}/work"},
    "hooks": {"lifecycle_hooks": {"postStart": {"exec": {"command": ["sh", "-c", "echo {username}"]}}}},
    "init containers": {"init_containers": [PREPARE, {"name": "next", "image": "busybox"}]},
    "init containers by key": {
        "init_containers": {"2": {"name": "next", "image": "busybox"}, "1": PREPARE},
    },
    "extra containers": {"extra_containers": [PROXY]},
    "extra containers by key": {"extra_containers": {"b": {"name": "other"}, "a": PROXY}},
    "more of the container": {
        "extra_container_config": {
            "envFrom": [{"configMapRef": {"name": "settings"}}],
            "stdin": True,
            "termination_message_policy": "FallbackToLogsOnError",
        },
    },
    "another context": {
        "uid": 1000,
        "extra_container_config": {"security_context": {"runAsGroup": 3}, "imagePullPolicy": "Never"},
        "image_pull_policy": "Always",
    },
    "more of the pod": {
        "extra_pod_config": {
            "dns_config": {"searches": ["{username}.example.org"]},
            "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["data"]}],
            "runtimeClassName": "gvisor",
        },
    },
    "replaced in the pod": {
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "node_selector": {"pool": "user"},
        "service_account": "mine",
        "extra_pod_config": {
            "tolerations": [{"key": "b", "operator": "Exists"}],
            "nodeSelector": {"pool": "other"},
            "service_account_name": "theirs",
        },
    },
    "environment": {
        "environment": {
            "PLAIN": "x",
            "WHO": "{unescaped_username} {username} {pvc_name}",
            "JSON": '{{"a": 1}}',
            "MADE": lambda spawner: f"{{literally}} {spawner.user.name}",
            "EMPTY": "",
        },
    },
    "environment from elsewhere": {
        "environment": {
            "PASSWORD": {"valueFrom": {"secretKeyRef": {"name": "db-{username}", "key": "password"}}},
            "NODE": {"value_from": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            "KEY": {"name": "OTHER", "value": "{username} in {namespace}"},
        },
    },
    "references": {
        "environment": {
            "A": "$(B) and $(C)",
            "B": "$(SCRATCH)!",
            "SCRATCH": "s3://scratch/$(JUPYTERHUB_USER)",
            "LITERAL": "$$(B) costs $$5 or $5 $(NOBODY) $(",
            "SELF": "$(SELF)",
            "X": "$(Y)",
            "Y": "$(X)",
            "URL": {"value": "postgres://me:$(SECRET)@$(B)"},
            "SECRET": {"valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}},
        },
    },
}  # fmt: skip
"""A configuration for each trait and form; most users of KubeSpawner have several of them."""

EVERYTHING = {
    name: value
    for title in (
        "image", "size", "GPU", "secret as dict", "nodes", "tolerations by key", "node affinity",
        "pod affinity", "pod anti-affinity", "ids by function", "contexts by function", "volumes by key",
        "token", "labels", "working folder", "hooks", "init containers by key", "extra containers by key",
        "more of the pod", "references",
    )
    for name, value in CONFIGURATIONS[title].items()
}  # fmt: skip


@pytest.mark.parametrize("title", CONFIGURATIONS)
async def test_a_job_has_what_its_users_server_has(title):
    for user, groups in (("alice@example.com", ["a", "b"]), ("bob", [])):
        job, server = await oracle.compare(user, CONFIGURATIONS[title], groups=groups)
        assert job == server


@pytest.mark.parametrize("user", NAMES)
async def test_whatever_its_user_is_called(user):
    for config in (EVERYTHING, CONFIGURATIONS["escape"]):
        job, server = await oracle.compare(user, config)
        assert job == server


@pytest.mark.exhaustive("the matrix above, with two users, and the users, with two configurations")
@pytest.mark.parametrize("user", NAMES)
async def test_all_of_it_for_everybody(user):
    for title, config in CONFIGURATIONS.items():
        job, server = await oracle.compare(user, config, groups=["a"])
        assert job == server, title


@given(user=st.text(min_size=1), scheme=st.sampled_from(["safe", "escape"]))
async def test_every_field_of_a_template_is_the_servers(user, scheme):
    config = {
        "slug_scheme": scheme,
        "extra_annotations": {"all": TEMPLATE, "claim": "claim-{user_server}", "end": "x-{servername}"},
    }
    job, server = await oracle.compare(user, config)
    assert job == server


KEYS = st.sampled_from(["a", "B", "c"])
TEXTS = st.sampled_from(["x", "{username}", "{{x}}", "$(A)", "$(B) $$(c)", ""])
VARIABLES = st.dictionaries(KEYS, TEXTS)
PARTS = {
    "volumes": st.sampled_from([HOME, SCRATCH]),
    "init_containers": st.sampled_from([PREPARE, {"name": "next", "image": "{username}"}]),
    "tolerations": st.builds(lambda key: {"key": key, "operator": "Exists"}, KEYS),
}
CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "environment": VARIABLES,
        "extra_labels": VARIABLES,
        "uid": st.none() | st.integers(0, 2**31),
        "supplemental_gids": st.lists(st.integers(0, 2**31), max_size=2),
        "container_security_context": st.dictionaries(
            st.sampled_from(["runAsUser", "runAsGroup"]), st.integers(0, 9)
        ),
        "extra_pod_config": st.fixed_dictionaries(
            {}, optional={"hostname": TEXTS, "nodeSelector": VARIABLES, "tolerations": st.just([])}
        ),
        **{
            name: st.lists(parts, max_size=2, unique_by=str) | st.dictionaries(KEYS, parts, max_size=1)
            for name, parts in PARTS.items()
        },
    },
)


@given(config=CONFIGS, user=st.sampled_from(NAMES))
async def test_settings_together_are_what_they_are_for_a_server(config, user):
    job, server = await oracle.compare(user, config)
    assert job == server


async def test_the_comparison_sees_a_difference():
    config = {**EVERYTHING, "uid": 1000}
    server = oracle.compare_server(await oracle.make_server_pod("alice", config))
    changes: list[dict[str, Any]] = [
        {"cpu_limit": 2},
        {"environment": {"A": "b"}},
        {"extra_containers": []},
        {"extra_labels": {}},
        {"init_containers": []},
        {"priority_class_name": None},
        {"supplemental_gids": [3]},
        {"volumes": []},
    ]
    for change in changes:
        job = oracle.compare_job(*await oracle.make_job_pod("alice", config | change))
        assert job != server, change


def test_the_matrix_has_every_trait_that_a_job_has():
    shared = JobConfig.class_traits(config=True).keys() & KubeSpawner.class_traits(config=True).keys()
    assert shared - {name for config in CONFIGURATIONS.values() for name in config} == set()
