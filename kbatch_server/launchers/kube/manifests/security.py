"""The security contexts of a job's pod and of its containers. Pure.

The traits for single values come first, and the whole contexts take precedence, as in KubeSpawner.
"""

from __future__ import annotations

from ....models.job import JobSpec
from .manifest import Manifest


def make_pod_security(spec: JobSpec) -> Manifest:
    """Return the security context of a job's pod."""
    own = {"fsGroup": spec.fs_gid, "supplementalGroups": spec.supplemental_gids or None}
    return {"seccompProfile": {"type": "RuntimeDefault"}} | _without_none(own) | spec.pod_security_context


def make_container_security(spec: JobSpec) -> Manifest:
    """Return the security context of each container of a job's pod."""
    own = {
        "runAsUser": spec.uid,
        "runAsGroup": spec.gid,
        "allowPrivilegeEscalation": spec.allow_privilege_escalation,
    }
    return _without_none(own) | spec.container_security_context


def _without_none(values: Manifest) -> Manifest:
    return {name: value for name, value in values.items() if value is not None}
