"""End a job's pods with a grace period of their own: theirs also has the time for results in it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ..kube.clients import KubeClient, KubeRefused, make_path
from ..kube.pods import is_ending
from ..models import JobSpec

MIN_GRACE_SECONDS = 5
"""What a pod gets at least, of which its sidecar has what the command leaves: to send what was written."""


async def end_pods(
    client: KubeClient,
    pods: Sequence[dict[str, Any]],
    spec: JobSpec,
    *,
    log: logging.Logger | logging.LoggerAdapter[Any],
) -> None:
    """Tell each pod to end that was not told yet; raises KubeUnavailable.

    A command that ignores TERM, as most do that are a container's first process, is killed when its own
    grace period is over. It has to be said at once: with a sidecar in the pod, kubelet (1.35) does not take
    notice of a grace period that is shortened later.
    """
    grace_seconds = max(spec.termination_grace_period_seconds, MIN_GRACE_SECONDS)
    for pod in pods:
        metadata = pod["metadata"]
        if not is_ending(pod) or metadata.get("deletionTimestamp"):
            continue
        path = f"{make_path('pods', metadata['namespace'])}/{metadata['name']}"
        try:
            await client.ensure_deleted(path, uid=metadata["uid"], grace_seconds=grace_seconds)
        except KubeRefused as error:
            # without the right to delete pods, deleting the Job ends it all the same, but later
            log.warning("%s cannot be ended in its own time: %s", path, error.message)
