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
    """Return the security context of the service's own containers in a job's pod."""
    return _make_own(spec) | spec.container_security_context


def make_main_security(spec: JobSpec) -> Manifest:
    """Return the security context of a job's own container, which alone may be privileged."""
    privileged = {"privileged": True} if spec.privileged else {}
    return _make_own(spec) | privileged | spec.container_security_context


def _make_own(spec: JobSpec) -> Manifest:
    return _without_none(
        {
            "runAsUser": spec.uid,
            "runAsGroup": spec.gid,
            "allowPrivilegeEscalation": spec.allow_privilege_escalation,
        }
    )


def _without_none(values: Manifest) -> Manifest:
    return {name: value for name, value in values.items() if value is not None}
