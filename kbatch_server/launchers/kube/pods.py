"""Tell a job's pods what the service decides about them: that they are to end, or may begin."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from ...models.job import JobSpec
from .client import KubeClient, KubeRefused, make_path
from .manifests.gates import is_gated, make_open_patch
from .status.pods import get_wanted_limit, is_ending

MIN_GRACE_SECONDS = 5
"""What a pod gets at least, of which its sidecar has what the command leaves: to send what was written."""


async def end_pods(
    client: KubeClient,
    pods: Iterable[dict[str, Any]],
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
        path = _make_pod_path(pod)
        try:
            await client.ensure_deleted(path, uid=metadata["uid"], grace_seconds=grace_seconds)
        except KubeRefused as error:
            # without the right to delete pods, deleting the Job ends it all the same, but later
            log.warning("%s cannot be ended in its own time: %s", path, error.message)


async def open_gates(client: KubeClient, pods: Sequence[dict[str, Any]]) -> None:
    """Open our gate of each pod that has it; raises KubeError."""
    for pod in filter(is_gated, pods):
        await client.patch(_make_pod_path(pod), make_open_patch(pod))


async def raise_limit(
    client: KubeClient, job: dict[str, Any] | None, pods: Sequence[dict[str, Any]], spec: JobSpec
) -> None:
    """Let a Job have an attempt more for each pod that a node did not take; raises KubeError."""
    limit = get_wanted_limit(pods, spec)
    if job is not None and spec.retries and job["spec"].get("backoffLimit", 0) < limit:
        metadata = job["metadata"]
        path = f"{make_path('jobs', metadata['namespace'])}/{metadata['name']}"
        await client.patch(path, {"metadata": {"uid": metadata["uid"]}, "spec": {"backoffLimit": limit}})


def _make_pod_path(pod: dict[str, Any]) -> str:
    return make_path("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
