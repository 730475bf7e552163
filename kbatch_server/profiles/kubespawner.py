"""What a job takes from KubeSpawner's settings, wherever the admin has written them. Pure.

A trait that a job has too is taken under its name. The others are for a server only: its URL, its volume's
size, its stop. A job never gets the user's home by what the admin wrote for servers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from .config import JobConfig

JOB_TRAITS = frozenset(JobConfig.class_traits(config=True))
"""The traits of a job."""

KUBESPAWNER_TRAITS = frozenset({
    "additional_profile_form_template_paths", "after_pod_created_hook", "allow_privilege_escalation",
    "apply_user_options", "args", "auth_state_hook", "automount_service_account_token", "cmd",
    "common_labels", "component_label", "consecutive_failure_limit", "container_security_context",
    "cpu_guarantee", "cpu_limit", "debug", "default_url", "delete_grace_period", "delete_pvc",
    "delete_stopped_pods", "disable_user_config", "dns_name_template", "enable_user_namespaces",
    "env_keep", "environment", "events_enabled", "extra_annotations", "extra_container_config",
    "extra_containers", "extra_labels", "extra_pod_config", "extra_resource_guarantees",
    "extra_resource_limits", "fs_gid", "get_pod_url", "gid", "group_overrides", "handle_legacy_names",
    "http_timeout", "hub_connect_ip", "hub_connect_port", "hub_connect_url", "image", "image_pull_policy",
    "image_pull_secrets", "init_containers", "ip", "k8s_api_host", "k8s_api_request_retry_timeout",
    "k8s_api_request_timeout", "k8s_api_ssl_ca_cert", "k8s_api_threadpool_workers", "k8s_api_verify_ssl",
    "lifecycle_hooks", "mem_guarantee", "mem_limit", "modify_pod_hook", "namespace",
    "node_affinity_preferred", "node_affinity_required", "node_selector", "notebook_dir",
    "oauth_client_allowed_scopes", "oauth_roles", "options_form", "options_from_form",
    "pod_affinity_preferred", "pod_affinity_required", "pod_anti_affinity_preferred",
    "pod_anti_affinity_required", "pod_connect_ip", "pod_name_template", "pod_security_context",
    "poll_interval", "poll_jitter", "port", "post_stop_hook", "pre_spawn_hook", "priority_class_name",
    "privileged", "profile_form_template", "profile_list", "progress_ready_hook", "pvc_name_template",
    "remember_pvc_name", "scheduler_name", "secret_mount_path", "secret_name_template",
    "server_token_scopes", "service_account", "services_enabled", "slow_spawn_message",
    "slow_spawn_message_frequency", "slow_spawn_message_threshold", "slug_scheme", "ssl_alt_names",
    "ssl_alt_names_include_local", "start_timeout", "storage_access_modes", "storage_capacity",
    "storage_class", "storage_extra_annotations", "storage_extra_labels", "storage_pvc_ensure",
    "storage_selector", "supplemental_gids", "tolerations", "uid", "user_namespace_annotations",
    "user_namespace_labels", "user_namespace_template", "volume_mounts", "volumes", "working_dir",
})  # fmt: skip
"""The traits of KubeSpawner 7.1, and of JupyterHub's own Spawner."""

_PROPERTIES = frozenset({"dns_name", "pod_name", "pvc_name", "secret_name"})
"""What a profile of KubeSpawner may override, too, though it is no setting."""

_FIELD = re.compile(r"\{([a-z_]{1,30})\}")

_NOT_OF_USER = frozenset({"namespace", "hubnamespace", "value"})
"""The fields of a template that are the same for all users."""


@dataclass
class Taken:
    """What a job takes of some settings: values of its traits, and the names of those that it does not."""

    values: dict[str, Any] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)


def get_trait_name(name: str) -> str | None:
    """Return the present name of a trait of KubeSpawner, which may be an older one; None for any other."""
    name = name.removeprefix("singleuser_")
    if name.startswith("user_storage_"):
        name = name.removeprefix("user_")
    if name == "image_spec":
        name = "image"
    return name if name in KUBESPAWNER_TRAITS or name in _PROPERTIES else None


def take_traits(traits: Mapping[str, Any], *, homes: set[str] | None = None) -> Taken:
    """Return what a job takes of KubeSpawner's traits, by name: the one place that decides it.

    Volumes of the user's own (a claim or a folder with the user's name) are left out, and so are their
    mounts: a job gets a home only by a setting of its own. ``homes`` are the names of the volumes that were
    left out before; it is extended.
    """
    taken = Taken()
    for old, value in traits.items():
        name = get_trait_name(old)
        if name in JOB_TRAITS:
            taken.values[name] = value
        else:
            taken.ignored.append(old)
    _leave_out_homes(taken, set() if homes is None else homes)
    return taken


def _leave_out_homes(taken: Taken, homes: set[str]) -> None:
    """Remove the volumes of the user's own, and their mounts."""
    mounts = taken.values.get("volume_mounts")
    mounted: dict[Any, list[bool]] = {}  # by volume, whether each of its mounts is one user's
    for each in _list_parts(mounts):
        mounted.setdefault(each.get("name"), []).append(_is_of_user(each))
    volumes = taken.values.get("volumes")
    found = {
        str(each.get("name"))
        for each in _list_parts(volumes)
        if _is_of_user(each) or (mounted.get(each.get("name")) and all(mounted[each.get("name")]))
    }
    homes.update(found)

    def is_home(part: Any) -> bool:
        return isinstance(part, Mapping) and part.get("name") in homes

    if found:
        taken.values["volumes"] = _without(volumes, is_home)
    kept = _without(mounts, lambda part: is_home(part) or (isinstance(part, Mapping) and _is_of_user(part)))
    if kept != mounts:
        taken.values["volume_mounts"] = kept
    if found or kept != mounts:
        taken.ignored.append("the user's home in volumes and volume_mounts")


def drop_mounts(mounts: Any, volumes: Any, homes: Collection[str]) -> Any:
    """Return mounts without those of volumes that were left out, unless another volume has the name.

    Such a mount is the admin's own, for a volume that an override has replaced by a user's home.
    """
    left = {str(each.get("name")) for each in _list_parts(volumes)}
    return _without(mounts, lambda part: isinstance(part, Mapping) and part.get("name") in set(homes) - left)


def _list_parts(parts: Any) -> list[Mapping[str, Any]]:
    """Return the volumes or mounts of a list, or of a dict, in which each may be None."""
    listed = list(parts.values()) if isinstance(parts, Mapping) else parts
    return [each for each in listed if isinstance(each, Mapping)] if isinstance(listed, list) else []


def _without(parts: Any, is_out: Callable[[Any], bool]) -> Any:
    if isinstance(parts, Mapping):
        return {key: each for key, each in parts.items() if not is_out(each)}
    return [each for each in parts if not is_out(each)] if isinstance(parts, list) else parts


def _is_of_user(part: Any) -> bool:
    """Whether a string in it is a template with the user's name, or with that of the user's claim."""
    if isinstance(part, str):
        return any(name not in _NOT_OF_USER for name in _FIELD.findall(part))
    if isinstance(part, Mapping):
        return any(_is_of_user(each) for each in part.values())
    return isinstance(part, list) and any(_is_of_user(each) for each in part)
