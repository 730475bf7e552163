"""What a job takes from the pod of a server, and what it does not."""

from __future__ import annotations

import pytest

from kbatch_server.hub.pods import MAX_ENV_NAMES, is_of_server, make_user_selector, read_pod, take_env
from kbatch_server.models.server import ServerPod
from tests.support.kube_double import make_server_pod

DIGEST = f"sha256:{'a' * 64}"


def test_the_servers_own_variables_and_secret_ones_are_not_taken():
    kept = {"LANG": "C.UTF-8", "DATA_URL": "https://data.example.org/x", "OMP_NUM_THREADS": "2"}
    own = ["JUPYTERHUB_API_TOKEN", "JUPYTERHUB_USER", "JPY_API_TOKEN", "MEM_LIMIT", "CPU_GUARANTEE"]
    own += ["JUPYTER_IMAGE", "JUPYTER_IMAGE_SPEC"]
    secret = [
        "GITHUB_TOKEN",
        "aws_secret_access_key",
        "DB_PASSWORD",
        "PGPASSFILE",
        "API_KEY",
        "S3_CREDENTIALS",
    ]
    variables = [{"name": name, "value": value} for name, value in kept.items()]
    variables += [{"name": name, "value": "x"} for name in (*own, *secret)]
    variables += [
        {"name": "BROKER", "value": "amqp://me:hunter2@broker/"},
        {"name": "FROM_SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "FROM_FIELD", "value": "", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "not a name", "value": "x"},
    ]
    assert take_env(variables) == kept


def test_no_more_variables_are_taken_than_a_job_may_have():
    assert len(take_env({"name": f"V{i}", "value": ""} for i in range(5000))) == MAX_ENV_NAMES
    assert take_env([{"name": "BIG", "value": "x" * 2**20}]) == {}


@pytest.mark.parametrize(
    ("image", "image_id", "pinned"),
    [
        ("python:3", f"docker.io/library/python@{DIGEST}", f"python@{DIGEST}"),
        ("localhost:5000/a/b", f"localhost:5000/a/b@{DIGEST}", f"localhost:5000/a/b@{DIGEST}"),
        ("quay.io/a/b:1", f"docker-pullable://quay.io/a/b@{DIGEST}", f"quay.io/a/b@{DIGEST}"),
        (f"quay.io/a/b@sha256:{'b' * 64}", f"quay.io/a/b@{DIGEST}", f"quay.io/a/b@{DIGEST}"),
        ("local:1", DIGEST, None),
        ("local:1", "", None),
    ],
)
def test_an_image_has_the_digest_that_the_node_pulled(image, image_id, pinned):
    assert read_pod(make_server_pod(image=image, image_id=image_id)).pinned_image == pinned


def test_only_the_annotations_say_whose_pod_it_is():
    assert is_of_server(make_server_pod("alice"), "alice", "")
    assert not is_of_server(make_server_pod("alice"), "alice", "gpu")
    assert not is_of_server(make_server_pod("mallory", label="alice"), "alice", "")
    assert not is_of_server(make_server_pod("alice", phase="Succeeded"), "alice", "")
    ending = make_server_pod("alice")
    ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not is_of_server(ending, "alice", "")


@pytest.mark.parametrize("user", ["alice", "Alice", "alice@example.com", "ü" * 300, "-", "a,b) x", "a" * 64])
def test_a_selector_has_only_valid_labels(user):
    values = make_user_selector(user).partition("(")[2].rstrip(")").split(",")
    assert values
    for value in values:
        assert len(value) <= 63
        assert value.isascii()
        assert value[0].isalnum()
        assert value[-1].isalnum()


def test_a_secret_is_not_shown_in_a_log():
    assert "hunter2" not in repr(ServerPod("image", env={"A": "hunter2"}))
