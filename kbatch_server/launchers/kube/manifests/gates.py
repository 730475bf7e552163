"""The gate in front of each attempt of a job whose attempts are apart by a time of its own. Pure."""

from __future__ import annotations

from typing import Any

from ....models.job import JobSpec
from ....models.request import RETRY_DELAY_SECONDS

Manifest = dict[str, Any]

ATTEMPT_GATE = "kbatch.jupyter.org/attempt"
"""A scheduling gate: it keeps a pod from a node until the service opens it."""


def has_own_delay(spec: JobSpec) -> bool:
    """Whether a job's attempts are apart by another time than the Job controller's own."""
    own = spec.retry_delay_seconds != RETRY_DELAY_SECONDS or spec.retry_backoff != "exponential"
    return bool(spec.retries) and own


def is_gated(pod: Manifest) -> bool:
    """Whether our gate keeps a pod from a node."""
    return any(gate["name"] == ATTEMPT_GATE for gate in pod["spec"].get("schedulingGates") or [])


def make_open_patch(pod: Manifest) -> Manifest:
    """Return the patch that opens our gate of this very pod; another one's stays shut."""
    others = [gate for gate in pod["spec"]["schedulingGates"] if gate["name"] != ATTEMPT_GATE]
    return {"metadata": {"uid": pod["metadata"]["uid"]}, "spec": {"schedulingGates": others}}
