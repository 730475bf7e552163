"""Checks the parts of a pod that an admin wrote for KubeSpawner's traits, when the service starts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from traitlets import TraitError

from ..launchers.kube.manifests.job import OWN_CONTAINERS
from ..launchers.kube.manifests.volumes import OWN_VOLUMES
from ..launchers.kube.shapes import WrongShape, check_part
from ..templates import FIELDS, find_problem

PART_LISTS = {
    "extra_containers": "V1Container",
    "init_containers": "V1Container",
    "node_affinity_preferred": "V1PreferredSchedulingTerm",
    "node_affinity_required": "V1NodeSelectorTerm",
    "pod_affinity_preferred": "V1WeightedPodAffinityTerm",
    "pod_affinity_required": "V1PodAffinityTerm",
    "pod_anti_affinity_preferred": "V1WeightedPodAffinityTerm",
    "pod_anti_affinity_required": "V1PodAffinityTerm",
    "tolerations": "V1Toleration",
    "volume_mounts": "V1VolumeMount",
    "volumes": "V1Volume",
}
"""Traits that are a list of such parts, or a dict of them, and the Kubernetes client's models."""

PART_DICTS = {
    "container_security_context": "V1SecurityContext",
    "extra_container_config": "V1Container",
    "extra_pod_config": "V1PodSpec",
    "lifecycle_hooks": "V1Lifecycle",
    "pod_security_context": "V1PodSecurityContext",
}
"""Traits that are one such part, and the models."""

_INSTEAD = {
    "extra_container_config": {
        "args": "the user's request",
        "command": "the user's request",
        "env": "JobConfig.environment",
        "image": "JobConfig.image",
        "name": "",
        "resources": "JobConfig.cpu_limit, mem_limit and extra_resource_limits",
        "restartPolicy": "",
        "restartPolicyRules": "",
        "terminationMessagePath": "",
        "volumeMounts": "JobConfig.volume_mounts",
        "workingDir": "JobConfig.working_dir",
    },
    "extra_pod_config": {
        "activeDeadlineSeconds": "JobConfig.active_deadline_seconds",
        "containers": "JobConfig.extra_containers",
        "initContainers": "JobConfig.init_containers",
        "restartPolicy": "JobConfig.max_retries",
        "schedulingGates": "",
        "terminationGracePeriodSeconds": "JobConfig.termination_grace_period_seconds",
        "volumes": "JobConfig.volumes",
    },
}
"""What these traits must not replace, because a job depends on it, and where to set it instead."""


def list_parts(value: Any) -> list[Any]:
    """Return a list of parts from a list, or from a dict, whose values are sorted by key, as KubeSpawner."""
    return [value[key] for key in sorted(value)] if isinstance(value, Mapping) else list(value)


def check_list(trait: str, value: Any) -> Any:
    """Return a list or dict of parts with the keys of each in camelCase; raises TraitError."""
    if isinstance(value, Mapping):
        return {key: _check(trait, f"[{key!r}]", PART_LISTS[trait], part) for key, part in value.items()}
    return [_check(trait, f"[{at}]", PART_LISTS[trait], part) for at, part in enumerate(value)]


def check_dict(trait: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a part with its keys in camelCase; raises TraitError."""
    part = _check(trait, "", PART_DICTS[trait], value, is_whole=False)
    for key, instead in _INSTEAD.get(trait, {}).items():
        if key in part:
            where = f"; use {instead}" if instead else ""
            raise TraitError(f"JobConfig.{trait}: {key} cannot be replaced here: a job needs its own{where}")
    return part


def check_containers(trait: str, value: Any, others: Any) -> Any:
    """Return the containers, each with a name of its own; ``others`` are the pod's other containers."""
    checked = check_list(trait, value)
    names = [each["name"] for each in list_parts(checked)]
    check_unique(trait, names, OWN_CONTAINERS)
    for each in list_parts(others):
        if isinstance(each, Mapping) and each.get("name") in names:
            raise TraitError(f"JobConfig.{trait}: {each['name']} is the name of another container of the pod")
    return checked


def check_volumes(value: Any) -> Any:
    """Return the volumes, each with a name of its own; raises TraitError."""
    checked = check_list("volumes", value)
    check_unique("volumes", [each["name"] for each in list_parts(checked)], OWN_VOLUMES)
    return checked


def check_template(trait: str, value: Any, known: Collection[str] = FIELDS) -> None:
    """Raise TraitError for a brace that is no field of a template."""
    problem = find_problem(value, known)
    if problem:
        raise TraitError(f"JobConfig.{trait}: {problem}")


def check_unique(trait: str, names: Sequence[Any], taken: Collection[str]) -> None:
    """Raise TraitError for a name or path that the service, or another entry, uses."""
    for number, name in enumerate(names):
        if name in taken:
            raise TraitError(f"JobConfig.{trait}: {name} is the service's own; choose another")
        if name in names[:number]:
            raise TraitError(f"JobConfig.{trait}: {name} appears twice")


def _check(trait: str, where: str, kind: str, part: Any, *, is_whole: bool = True) -> dict[str, Any]:
    try:
        return check_part(kind, part, is_whole=is_whole)
    except WrongShape as error:
        raise TraitError(f"JobConfig.{trait}{where}: {error}") from None
