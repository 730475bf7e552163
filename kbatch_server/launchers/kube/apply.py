"""Applies what a Job needs in addition: its Secret, and changes to its pods."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from ...models.job import Job, JobSpec
from ...notebooks.files import make_files
from ..base import Launch
from .client import KubeClient, KubeRefused, KubeUnavailable, make_path
from .job_objects import Place
from .manifests import job as manifests
from .manifests.gates import is_gated, make_open_patch
from .manifests.secrets import make_file_data
from .status.pods import get_wanted_limit, is_ending

MIN_GRACE_SECONDS = 5
"""The minimum grace period of a pod. Its sidecar has the part that the command leaves, to send the
results."""


async def end_pods(
    client: KubeClient,
    pods: Iterable[dict[str, Any]],
    spec: JobSpec,
    *,
    log: logging.Logger | logging.LoggerAdapter[Any],
) -> None:
    """Delete each pod that is not being deleted yet; raises KubeUnavailable.

    A command that ignores TERM, as most do as the first process of a container, is killed after its own grace
    period. This period must be in the first request: with a sidecar in the pod, the kubelet (1.35) ignores a
    grace period that is shortened later.
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
            log.warning("%s cannot be stopped with its grace period: %s", path, error.message)


async def open_gates(client: KubeClient, pods: Sequence[dict[str, Any]]) -> None:
    """Remove the service's scheduling gate from the pods that have it; raises KubeError."""
    for pod in filter(is_gated, pods):
        await client.patch(_make_pod_path(pod), make_open_patch(pod))


async def raise_limit(
    client: KubeClient, job: dict[str, Any] | None, pods: Sequence[dict[str, Any]], spec: JobSpec
) -> None:
    """Allow a Job one more attempt for each pod that a node rejected; raises KubeError."""
    limit = get_wanted_limit(pods, spec)
    if job is not None and spec.retries and job["spec"].get("backoffLimit", 0) < limit:
        metadata = job["metadata"]
        path = f"{make_path('jobs', metadata['namespace'])}/{metadata['name']}"
        await client.patch(path, {"metadata": {"uid": metadata["uid"]}, "spec": {"backoffLimit": limit}})


def _make_pod_path(pod: dict[str, Any]) -> str:
    return make_path("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])


async def ensure_secrets(
    client: KubeClient, job: Job, launch: Launch, place: Place, *, instance: str
) -> None:
    """Create the Secrets, owned by the Job at ``place``, or replace those that an earlier launch left."""
    assert place.uid is not None  # noqa: S101 - for the type checker
    notebook_files = make_files(job.spec.notebook, job.spec.working_dir) if job.spec.notebook else {}
    secret = manifests.make_secret(
        job,
        env=launch.env,
        files=notebook_files | make_file_data(launch.secret_files),
        code_url=launch.code_url,
        outputs_url=launch.outputs_url,
        namespace=place.namespace,
        instance=instance,
        owner_uid=place.uid,
    )
    await _ensure_secret(client, secret, place, instance=instance)
    if launch.registries:
        pull_secret = manifests.make_pull_secret(
            job, launch.registries, namespace=place.namespace, instance=instance, owner_uid=place.uid
        )
        await _ensure_secret(client, pull_secret, place, instance=instance)


async def _ensure_secret(client: KubeClient, secret: dict[str, Any], place: Place, *, instance: str) -> None:
    path, name = make_path("secrets", place.namespace), secret["metadata"]["name"]
    found, is_new = await client.ensure_created(
        path,
        secret,
        is_ours=lambda found: manifests.is_of(found, instance=instance, value=place.name),
    )
    if is_new:
        return
    if found["metadata"].get("ownerReferences", [{}])[0].get("uid") != place.uid:
        raise KubeUnavailable(f"an older {path}/{name} is still being deleted")
    # left by a launch that was cut short: its URL and tokens may have expired
    await client.replace(f"{path}/{name}", secret)


async def check_is_same(
    client: KubeClient, made: dict[str, Any], manifest: dict[str, Any], place: Place
) -> None:
    """Check that a Job left by an interrupted launch needs what its Secret will contain."""
    if made["metadata"].get("deletionTimestamp"):
        raise KubeUnavailable(f"an older {place.path} is still being deleted")
    if manifests.secret_keys(made) != manifests.secret_keys(manifest):
        await client.ensure_deleted(place.path, uid=place.uid)
        raise KubeUnavailable(f"{place.path} has other settings, and is being replaced")
