"""End pods whose command does not end in its own time: Kubernetes would let it use that for results."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ..kube.clients import KubeClient, KubeRefused, make_path
from ..kube.pods import is_past_grace
from ..models import JobSpec, utcnow

KILL_SECONDS = 2
"""The grace that is left to such a pod; what sends its results gets as much, which is Kubernetes's least."""


async def end_overdue(
    client: KubeClient,
    pods: Sequence[dict[str, Any]],
    spec: JobSpec,
    *,
    log: logging.Logger | logging.LoggerAdapter[Any],
) -> None:
    """Kill the command of each pod that was told to end and has used up its grace; raises KubeUnavailable."""
    for pod in pods:
        if not is_past_grace(pod, spec.termination_grace_period_seconds, utcnow()):
            continue
        metadata = pod["metadata"]
        path = f"{make_path('pods', metadata['namespace'])}/{metadata['name']}"
        try:
            await client.ensure_deleted(path, uid=metadata["uid"], grace_seconds=KILL_SECONDS)
        except KubeRefused as error:
            # without the right to delete pods it ends all the same, later
            log.warning("%s goes on after its grace period and cannot be ended: %s", path, error.message)
