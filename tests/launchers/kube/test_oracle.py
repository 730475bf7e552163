"""A job's pod against KubeSpawner's: the same for the same user and configuration."""

from __future__ import annotations

import pytest

from tests.support import oracle

NAMES = ["alice", "Alice", "alice@example.com", "a.b", "9lives", "a--b", "ünïcode", "-", "x" * 300]

HOME = {
    "image": "lab:1",
    "volumes": [{"name": "home", "persistentVolumeClaim": {"claimName": "claim-{user_server}"}}],
    "volume_mounts": [{"name": "home", "mountPath": "/home/jovyan", "subPath": "{username}"}],
    "service_account": "{escaped_username}",
    "node_selector": {"pool": "user"},
    "tolerations": [{"key": "hub", "operator": "Exists"}],
    "cpu_limit": 1.5,
    "cpu_guarantee": 0.5,
    "mem_limit": "2G",
    "mem_guarantee": "1G",
    "extra_resource_limits": {"nvidia.com/gpu": "1"},
    "uid": 1000,
    "fs_gid": 100,
    "image_pull_policy": "Always",
    "priority_class_name": "low",
}


@pytest.mark.parametrize("user", NAMES)
async def test_a_job_has_what_its_users_server_has(user):
    job, server = await oracle.compare(user, HOME)
    assert job == server


async def test_the_comparison_sees_a_difference():
    for change in ({"uid": 1001}, {"cpu_limit": 2}, {"volumes": []}, {"priority_class_name": None}):
        server = oracle.compare_server(await oracle.make_server_pod("alice", HOME))
        job = oracle.compare_job(*await oracle.make_job_pod("alice", HOME | change))
        assert job != server
