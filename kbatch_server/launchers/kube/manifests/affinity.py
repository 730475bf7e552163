"""The affinities of a job's pod to nodes and to other pods. Pure."""

from __future__ import annotations

from typing import Any

from ....models.job import JobSpec
from .manifest import Manifest

PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def make_affinity(spec: JobSpec) -> Manifest:
    """Return the affinity of a job's pod; empty without one."""
    node_terms = {"nodeSelectorTerms": spec.node_affinity_required} if spec.node_affinity_required else None
    kinds = {
        "nodeAffinity": _without_empty(spec.node_affinity_preferred, node_terms),
        "podAffinity": _without_empty(spec.pod_affinity_preferred, spec.pod_affinity_required),
        "podAntiAffinity": _without_empty(spec.pod_anti_affinity_preferred, spec.pod_anti_affinity_required),
    }
    return {kind: terms for kind, terms in kinds.items() if terms}


def _without_empty(preferred: Any, required: Any) -> Manifest:
    terms = {PREFERRED: preferred, REQUIRED: required}
    return {name: each for name, each in terms.items() if each}
