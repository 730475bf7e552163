"""The scheduling gate of each attempt of a job that has its own delay between attempts. Pure."""

from __future__ import annotations

from ....models.job import JobSpec
from ....models.request import RETRY_DELAY_SECONDS
from .manifest import Manifest

ATTEMPT_GATE = "kbatch.jupyter.org/attempt"
"""A scheduling gate: Kubernetes assigns the pod to no node until the service removes it."""


def has_own_delay(spec: JobSpec) -> bool:
    """Whether a job's delay between attempts differs from that of the Job controller."""
    own = spec.retry_delay_seconds != RETRY_DELAY_SECONDS or spec.retry_backoff != "exponential"
    return bool(spec.retries) and own


def is_gated(pod: Manifest) -> bool:
    """Whether the service's gate holds a pod back."""
    return any(gate["name"] == ATTEMPT_GATE for gate in pod["spec"].get("schedulingGates") or [])


def make_open_patch(pod: Manifest) -> Manifest:
    """Return the patch that removes the service's gate from this very pod, and no other gates."""
    others = [gate for gate in pod["spec"]["schedulingGates"] if gate["name"] != ATTEMPT_GATE]
    return {"metadata": {"uid": pod["metadata"]["uid"]}, "spec": {"schedulingGates": others}}
