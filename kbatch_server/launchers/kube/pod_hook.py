"""Calls the admin's ``modify_pod_hook`` with a V1Pod, as KubeSpawner does, and checks what it returns."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import Any

from ...hooks import HookFailed, Hooks
from ...models.job import Job
from .manifests.labels import INSTANCE_LABEL, JOB_ID_LABEL, USERNAME
from .manifests.manifest import Manifest

NAME = "modify_pod_hook"

_CLIENT = "kubernetes.client"
"""Imported only for the hook: its models are large, and a service without the hook needs none of them."""

_KEPT_LABELS = (INSTANCE_LABEL, JOB_ID_LABEL, USERNAME)

_FIXED = ("restartPolicy", "schedulingGates")
"""Fields of the spec that the service relies on."""


async def modify_pod(hooks: Hooks, hook: Any, manifest: Manifest, job: Job, spawner: Any) -> None:
    """Change the pod template of a Job as the hook changes a pod with that content.

    Raises KBatchError as the hook does, Unavailable and HookFailed as ``Hooks.run``, and HookFailed if the
    hook removed what the service needs.
    """
    template, namespace = manifest["spec"]["template"], manifest["metadata"]["namespace"]
    if is_dataclass(spawner) and not isinstance(spawner, type):
        spawner = replace(spawner, namespace=namespace)
    given = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**template["metadata"], "name": job.id, "namespace": namespace},
        "spec": template["spec"],
    }
    await asyncio.to_thread(importlib.import_module, _CLIENT)  # the first time it takes a while
    pod = make_pod(given)
    known = to_manifest(pod)
    changed = await hooks.run(NAME, hook, spawner, pod)
    try:
        after = merge(given, known, to_manifest(pod if changed is None else changed))
    except (TypeError, AttributeError) as error:
        raise HookFailed(f"{NAME} returned a pod that is no manifest: {error}") from error
    check_pod(given, after)
    kept = ("labels", "annotations")
    template["metadata"] = {key: after["metadata"][key] for key in kept if after["metadata"].get(key)}
    template["spec"] = after["spec"]


def make_pod(manifest: Manifest) -> Any:
    """Return the V1Pod of a manifest; lists that hooks append to are never None, as in KubeSpawner's pods."""
    pod = importlib.import_module(_CLIENT).V1Pod.from_dict(manifest)
    metadata, spec = pod.metadata, pod.spec
    metadata.labels, metadata.annotations = metadata.labels or {}, metadata.annotations or {}
    for name in ("volumes", "init_containers", "tolerations", "image_pull_secrets"):
        setattr(spec, name, getattr(spec, name) or [])
    spec.node_selector = spec.node_selector or {}
    for container in [*spec.init_containers, *spec.containers]:
        container.env, container.volume_mounts = container.env or [], container.volume_mounts or []
    return pod


def to_manifest(value: Any) -> Any:
    """Return the JSON of an object of any Kubernetes client for Python, or of dicts and lists of such."""
    names = getattr(value, "attribute_map", None)
    if isinstance(names, Mapping):
        fields = {key: to_manifest(getattr(value, name)) for name, key in names.items()}
        return {key: field for key, field in fields.items() if field is not None}
    if isinstance(value, Mapping):
        return {key: to_manifest(each) for key, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return [to_manifest(each) for each in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"{type(value).__name__} cannot be a part of a pod")


def merge(original: Any, known: Any, after: Any) -> Any:
    """Return ``after`` with the fields of ``original`` that the client's classes do not know.

    ``known`` is what they know of ``original``.
    """
    if after == known:
        return original
    if isinstance(original, dict) and isinstance(known, dict) and isinstance(after, dict):
        unknown = {key: value for key, value in original.items() if key not in known}
        return unknown | {
            key: merge(original.get(key), known.get(key), value) for key, value in after.items()
        }
    if isinstance(original, list) and isinstance(known, list) and isinstance(after, list):
        named = {_get_name(each): number for number, each in enumerate(known) if _get_name(each)}
        return [_merge_item(original, known, each, named.get(_get_name(each))) for each in after]
    return after


def _merge_item(original: list[Any], known: list[Any], item: Any, number: int | None) -> Any:
    return item if number is None else merge(original[number], known[number], item)


def _get_name(item: Any) -> Any:
    return item.get("name") if isinstance(item, dict) else None


def check_pod(before: Manifest, after: Any) -> None:
    """Raise HookFailed if a pod lacks a container, a label or a field that the service relies on."""
    if not isinstance(after, dict) or not isinstance(after.get("spec"), dict):
        raise HookFailed(f"{NAME} returned {type(after).__name__}, not a pod or None")
    labels = (after.get("metadata") or {}).get("labels") or {}
    for label in _KEPT_LABELS:
        if labels.get(label) != before["metadata"]["labels"][label]:
            raise HookFailed(f"{NAME} changed the label {label} of the pod, which the service needs")
    for kind in ("containers", "initContainers"):
        names = {_get_name(each) for each in after["spec"].get(kind) or []}
        for container in before["spec"].get(kind) or []:
            if container["name"] not in names:
                raise HookFailed(f"{NAME} removed the container {container['name']!r} from the pod")
    for field in _FIXED:
        if after["spec"].get(field) != before["spec"].get(field):
            raise HookFailed(f"{NAME} changed {field} of the pod, which the service needs")
