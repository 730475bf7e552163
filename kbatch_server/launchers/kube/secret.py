"""See to the Secret of a job's Job: what the job needs and nobody may see."""

from __future__ import annotations

from typing import Any

from ...models.job import Job
from ...notebooks.files import make_files
from ..base import Launch
from .client import KubeClient, KubeUnavailable, make_path
from .job_objects import Place
from .manifests import job as manifests


async def ensure_secret(client: KubeClient, job: Job, launch: Launch, place: Place, *, instance: str) -> None:
    """Make the Secret, owned by the Job at ``place``, or put it in the place of one that is left of it."""
    assert place.uid is not None  # noqa: S101 - for the type checker
    secret = manifests.make_secret(
        job,
        env=launch.env,
        files=make_files(job.spec.notebook, job.spec.working_dir) if job.spec.notebook is not None else {},
        code_url=launch.code_url,
        outputs_url=launch.outputs_url,
        namespace=place.namespace,
        instance=instance,
        owner_uid=place.uid,
    )
    path = make_path("secrets", place.namespace)
    found, is_new = await client.ensure_created(
        path,
        secret,
        is_ours=lambda found: manifests.is_of(found, instance=instance, value=place.name),
    )
    if is_new:
        return
    if found["metadata"].get("ownerReferences", [{}])[0].get("uid") != place.uid:
        raise KubeUnavailable(f"an older {path}/{place.name} is just being deleted")
    # left by a launch that was cut short: its URL and tokens may have expired
    await client.replace(f"{path}/{place.name}", secret)


async def check_is_same(
    client: KubeClient, made: dict[str, Any], manifest: dict[str, Any], place: Place
) -> None:
    """See that a Job left by a launch that was cut short asks for what its Secret will have."""
    if made["metadata"].get("deletionTimestamp"):
        raise KubeUnavailable(f"an older {place.path} is just being deleted")
    if manifests.secret_keys(made) != manifests.secret_keys(manifest):
        await client.ensure_deleted(place.path, uid=place.uid)
        raise KubeUnavailable(f"{place.path} was made with other settings, and is made anew")
