"""Which namespace a user's jobs have, and what an admin may want in it; KubeSpawner says the name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubespawner import KubeSpawner
from traitlets import TraitError

from kbatch_server.launchers.kube.launcher import KubeJobLauncher
from kbatch_server.launchers.kube.manifests import namespaces
from kbatch_server.launchers.kube.manifests.labels import TEMPLATE_ANNOTATION
from kbatch_server.launchers.kube.reflector import Reflector
from kbatch_server.launchers.kube.reflectors import Reflectors
from kbatch_server.slugs import make_slug

QUOTA = {
    "apiVersion": "v1",
    "kind": "ResourceQuota",
    "metadata": {"name": "jobs"},
    "spec": {"hard": {"pods": "5"}},
}
USERS = ["alice", "Alice", "alice@example.com", "a.b", "9lives", "ünïcode", "x" * 300, "kube-system", "a--b"]


def ask_kubespawner(user: str, template: str, hub_namespace: str) -> str:
    """Return what KubeSpawner's own code makes of a template, without a hub and a cluster."""
    spawner = SimpleNamespace(
        name="",
        user=SimpleNamespace(name=user, id=1),
        slug_scheme="safe",
        _namespace_default=lambda: hub_namespace,
    )
    return str(KubeSpawner._expand_user_properties(spawner, template))


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("hub_namespace", ["jhub", "default"])
@pytest.mark.parametrize(
    "template", ["{hubnamespace}-{username}", "kbatch-{user_server}", "{escaped_username}-jobs"]
)
def test_the_namespace_is_the_one_of_the_users_server(user: str, hub_namespace: str, template: str) -> None:
    launcher = KubeJobLauncher(
        enable_user_namespaces=True, user_namespace_template=template, hub_namespace=hub_namespace
    )
    assert launcher.get_namespace(user) == ask_kubespawner(user, template, hub_namespace)


@given(st.text(min_size=1))
def test_so_it_is_for_any_user_and_two_never_share_one(user: str) -> None:
    launcher = KubeJobLauncher(enable_user_namespaces=True, hub_namespace="hub")
    name = launcher.get_namespace(user)
    assert name == ask_kubespawner(user, KubeSpawner.user_namespace_template.default_value, "hub")
    assert namespaces.is_namespace(name)
    assert (launcher.get_namespace("alice") == name) == (user == "alice")


def test_the_defaults_are_kubespawners() -> None:
    for name in (
        "enable_user_namespaces",
        "user_namespace_template",
        "user_namespace_labels",
        "user_namespace_annotations",
    ):
        ours, theirs = KubeJobLauncher.class_traits()[name], KubeSpawner.class_traits()[name]
        assert ours.default() == theirs.default(), name


def test_one_namespace_for_all() -> None:
    assert KubeJobLauncher(namespace="jobs").get_namespace("Alice") == "jobs"


@pytest.mark.parametrize(
    ("traits", "words"),
    [
        ({"namespace": "kbatch-{username}"}, "enable_user_namespaces = True and user_namespace_template"),
        ({"namespace": "Jobs"}, "namespace must be the name of a namespace"),
        ({"namespace": ""}, "namespace must be the name of a namespace"),
        ({"user_namespace_template": "jobs"}, r"must contain \{username\}"),
        ({"user_namespace_template": "{hubnamespace}"}, r"must contain \{username\}"),
        ({"user_namespace_template": "{username}"}, "must contain other text"),
        ({"user_namespace_template": "x-{userid}"}, "which no job knows"),
        ({"user_namespace_template": "X-{username}"}, "not the name of a namespace"),
        ({"user_namespace_labels": {"a": 1}}, "user_namespace_labels must be a dict of texts"),
        ({"user_namespace_annotations": {"a": "{b}"}}, "user_namespace_annotations: .* known field"),
        ({"user_namespace_objects": [{"kind": "Secret"}]}, "one of these kinds: LimitRange, NetworkPolicy, "),
        ({"user_namespace_objects": [QUOTA | {"apiVersion": "v2"}]}, "ResourceQuota must be v1"),
        ({"user_namespace_objects": [QUOTA | {"metadata": {}}]}, r"must have metadata\.name"),
        (
            {"user_namespace_objects": [QUOTA | {"metadata": {"name": "q", "namespace": "x"}}]},
            r"must not have metadata\.namespace",
        ),
        ({"user_namespace_objects": [QUOTA | {"metadata": {"name": "A b"}}]}, "cannot have the name"),
        ({"user_namespace_objects": [QUOTA | {"spec": {"a": "{x}"}}]}, "without a known field"),
        ({"user_namespace_objects": [QUOTA, QUOTA]}, "two objects have one kind and name"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_its_name(traits: dict[str, Any], words: str) -> None:
    with pytest.raises(TraitError, match=words) as refused:
        KubeJobLauncher(**traits)
    assert f"KubeJobLauncher.{next(iter(traits))}" in str(refused.value)


def test_an_object_has_the_users_fields_and_is_new_only_if_its_content_is() -> None:
    template = {
        **QUOTA,
        "metadata": {"name": "q-{username}", "labels": {"of": "{namespace}", "app": "x"}},
        "spec": {"hard": {"pods": "5"}, "text": "{{{unescaped_username}}}", "number": 3},
    }
    fields = {"hubnamespace": "hub", "namespace": "hub-al"}
    made = namespaces.make_object(template, user="al", instance="k", fields=fields)
    assert made["metadata"]["name"] == "q-al"
    assert made["metadata"]["namespace"] == "hub-al"
    assert made["metadata"]["labels"] == {
        "of": "hub-al",
        "app": "x",
        "app.kubernetes.io/managed-by": "kbatch-server",
        "kbatch.jupyter.org/instance": "k",
        "kbatch.jupyter.org/username": make_slug("al"),
    }
    assert made["spec"] == {"hard": {"pods": "5"}, "text": "{al}", "number": 3}
    again = namespaces.make_object(template, user="al", instance="k", fields=fields)
    assert namespaces.is_current(made, again)
    other = namespaces.make_object(template | {"spec": {}}, user="al", instance="k", fields=fields)
    assert not namespaces.is_current(made, other)
    assert template["metadata"]["labels"] == {"of": "{namespace}", "app": "x"}
    del made["metadata"]["annotations"][TEMPLATE_ANNOTATION]
    assert not namespaces.is_current(made, again)


def test_namespace() -> None:
    assert namespaces.make_namespace(
        "kbatch-x", user="Alice", instance="hub", labels={"a": "b", "kbatch.jupyter.org/instance": "z"}
    ) == {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": "kbatch-x",
            "labels": {
                "a": "b",
                "app.kubernetes.io/managed-by": "kbatch-server",
                "kbatch.jupyter.org/instance": "hub",
                "kbatch.jupyter.org/username": make_slug("Alice"),
            },
            "annotations": {"kbatch.jupyter.org/username": "Alice"},
        },
    }


class _IdleReflector(Reflector):
    """A reflector that asks nobody."""

    async def start(self) -> None:
        self.runs = True

    async def stop(self) -> None:
        self.runs = False


async def test_a_namespace_is_watched_while_it_is_asked_about() -> None:
    made: list[Any] = []

    def make(namespace: str) -> Reflector:
        made.append(
            _IdleReflector(None, namespace=namespace, instance="k", on_change=print)  # type: ignore[arg-type]
        )
        return made[-1]

    reflectors = Reflectors(make, idle_seconds=0)
    stopped = await reflectors.of("a")
    assert not hasattr(stopped, "runs")  # of a process that does not lead
    assert reflectors.namespace is None
    await reflectors.start()
    first = await reflectors.of("a")
    assert first.runs  # type: ignore[attr-defined]
    assert reflectors.namespace == "a"
    assert reflectors.find("a", "x") is None
    reflectors._idle_seconds = 100
    assert await reflectors.of("a") is first
    reflectors._used_at["a"] = reflectors._tidied_at = -1000.0
    second = await reflectors.of("b")
    assert (first.runs, second.runs) == (False, True)  # type: ignore[attr-defined]
    await reflectors.stop()
    assert second.runs is False  # type: ignore[attr-defined]
