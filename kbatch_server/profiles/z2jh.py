"""The values of zero-to-jupyterhub's chart as traits of KubeSpawner, as that chart sets them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TRAITS = {
    "allow_privilege_escalation": "allowPrivilegeEscalation",
    "automount_service_account_token": "automountServiceAccountToken",
    "cmd": "cmd",
    "cpu_guarantee": "cpu.guarantee",
    "cpu_limit": "cpu.limit",
    "default_url": "defaultUrl",
    "environment": "extraEnv",
    "events_enabled": "events",
    "extra_annotations": "extraAnnotations",
    "extra_containers": "extraContainers",
    "extra_labels": "extraLabels",
    "extra_pod_config": "extraPodConfig",
    "extra_resource_guarantees": "extraResource.guarantees",
    "extra_resource_limits": "extraResource.limits",
    "fs_gid": "fsGid",
    "image_pull_policy": "image.pullPolicy",
    "init_containers": "initContainers",
    "lifecycle_hooks": "lifecycleHooks",
    "mem_guarantee": "memory.guarantee",
    "mem_limit": "memory.limit",
    "node_affinity_preferred": "extraNodeAffinity.preferred",
    "node_affinity_required": "extraNodeAffinity.required",
    "node_selector": "nodeSelector",
    "pod_affinity_preferred": "extraPodAffinity.preferred",
    "pod_affinity_required": "extraPodAffinity.required",
    "pod_anti_affinity_preferred": "extraPodAntiAffinity.preferred",
    "pod_anti_affinity_required": "extraPodAntiAffinity.required",
    "profile_list": "profileList",
    "service_account": "serviceAccountName",
    "start_timeout": "startTimeout",
    "uid": "uid",
}
"""Where the chart has the value of a trait, below ``singleuser``."""

_NODE_PURPOSE = {
    "matchExpressions": [{"key": "hub.jupyter.org/node-purpose", "operator": "In", "values": ["user"]}]
}

NOT_TAKEN = ("cloudMetadata", "extraFiles", "networkPolicy")
"""Parts of ``singleuser`` that are no traits, and that a job does not get."""


class WrongValues(Exception):
    """The values are not those of the chart: the message says where."""


def read_values(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the traits of KubeSpawner that the values set, and the parts that are left out.

    ``values`` are those of the whole chart, or only those below ``singleuser``. Of the whole chart,
    ``imagePullSecret``, ``imagePullSecrets``, ``scheduling.userPods`` and ``hub.config`` count, too. The
    privileged container that keeps servers from the cloud's metadata (``cloudMetadata.blockWithIptables``) is
    left out: the network policy of jobs does that.
    """
    is_whole = "singleuser" in values
    user = values["singleuser"] if is_whole else values
    if not isinstance(user, Mapping):
        raise WrongValues("singleuser: must be a map of zero-to-jupyterhub's values")
    traits: dict[str, Any] = {}
    for trait, path in _TRAITS.items():
        value = _find(user, path)
        if value is not None:
            traits[trait] = value
    if isinstance(traits.get("environment"), Mapping):
        traits["environment"] = {k: v for k, v in traits["environment"].items() if v is not None}
    image = _find(user, "image.name")
    if image:
        tag = _find(user, "image.tag")
        traits["image"] = f"{image}:{tag}" if tag else image
    _add_secrets(traits, values if is_whole else {}, user)
    _add_scheduling(traits, values if is_whole else {}, user)
    _add_volumes(traits, user)
    left_out = [name for name in NOT_TAKEN if user.get(name)]
    for section in ("Spawner", "KubeSpawner"):
        own = _find(values, f"hub.config.{section}")
        traits |= own if isinstance(own, Mapping) else {}
    return traits, left_out


def _add_secrets(traits: dict[str, Any], values: Mapping[str, Any], user: Mapping[str, Any]) -> None:
    names = [*_find_list(values, "imagePullSecrets"), *_find_list(user, "image.pullSecrets")]
    own = _find(values, "imagePullSecret")
    if isinstance(own, Mapping) and own.get("create") and own.get("automaticReferenceInjection", True):
        names.insert(0, "image-pull-secret")
    if names:
        traits["image_pull_secrets"] = [each["name"] if isinstance(each, Mapping) else each for each in names]


def _add_scheduling(traits: dict[str, Any], values: Mapping[str, Any], user: Mapping[str, Any]) -> None:
    tolerations = [
        *_find_list(values, "scheduling.userPods.tolerations"),
        *_find_list(user, "extraTolerations"),
    ]
    if tolerations:
        traits["tolerations"] = tolerations
    match _find(values, "scheduling.userPods.nodeAffinity.matchNodePurpose"):
        case "prefer":
            term = {"weight": 100, "preference": _NODE_PURPOSE}
            traits["node_affinity_preferred"] = [*traits.get("node_affinity_preferred", []), term]
        case "require":
            traits["node_affinity_required"] = [*traits.get("node_affinity_required", []), _NODE_PURPOSE]


def _add_volumes(traits: dict[str, Any], user: Mapping[str, Any]) -> None:
    """Add the volumes as the chart does: the user's home, which a job may not get, and the others."""
    storage = user.get("storage") or {}
    path = storage.get("homeMountPath", "/home/jovyan")
    volumes, mounts = [], []
    kind = storage.get("type")
    if kind == "dynamic":
        own = storage.get("dynamic") or {}
        claim = own.get("pvcNameTemplate") or "{pvc_name}"
        if own.get("pvcNameTemplate"):
            traits["pvc_name_template"] = claim
        name = own.get("volumeNameTemplate") or "volume-{user_server}"
        volumes = [{"name": name, "persistentVolumeClaim": {"claimName": claim}}]
        mounts = [{"mountPath": path, "name": name} | _get_folder(own)]
    elif kind == "static":
        own = storage.get("static") or {}
        volumes = [{"name": "home", "persistentVolumeClaim": {"claimName": own.get("pvcName")}}]
        mounts = [{"mountPath": path, "name": "home"} | _get_folder({"subPath": "{username}"} | own)]
    volumes += _list_values(storage.get("extraVolumes"))
    mounts += _list_values(storage.get("extraVolumeMounts"))
    if volumes:
        traits["volumes"] = volumes
    if mounts:
        traits["volume_mounts"] = mounts


def _get_folder(own: Mapping[str, Any]) -> dict[str, Any]:
    return {"subPath": own["subPath"]} if own.get("subPath") else {}


def _list_values(part: Any) -> list[Any]:
    """Return a list, or the values of a map in the order of its keys, as KubeSpawner takes both."""
    return [part[key] for key in sorted(part)] if isinstance(part, Mapping) else list(part or [])


def _find(values: Any, path: str) -> Any:
    for name in path.split("."):
        if not isinstance(values, Mapping):
            return None
        values = values.get(name)
    return values


def _find_list(values: Any, path: str) -> list[Any]:
    found = _find(values, path)
    return found if isinstance(found, list) else []
