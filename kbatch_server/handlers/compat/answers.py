"""Jobs and pods for the published kbatch client, in the form of Kubernetes's Python package."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ...models.job import Job, Pod, Status
from .requests import make_limits


def make_job(job: Job, *, env: Mapping[str, str | None] | None = None) -> dict[str, Any]:
    """Return a job as a V1Job, with its environment if given; its name is our id."""
    spec = job.spec
    return {
        "api_version": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job.id,
            "generate_name": f"{job.name}-",
            "creation_timestamp": to_timestamp(job.created_at),
            "labels": {},
            "annotations": {
                "kbatch.jupyter.org/name": job.name,
                "kbatch.jupyter.org/user": job.user,
                "kbatch.jupyter.org/status": job.status.value,
                "kbatch.jupyter.org/reason": job.reason,
                "kbatch.jupyter.org/message": job.full_message,
            },
        },
        "spec": {
            "backoff_limit": spec.retries,
            "active_deadline_seconds": spec.active_deadline_seconds,
            "template": {
                "metadata": {"labels": {"job-name": job.id}},
                "spec": {"restart_policy": "Never", "containers": [_make_container(job, env)]},
            },
        },
        "status": make_status(job),
    }


def make_status(job: Job) -> dict[str, Any]:
    """Return a V1JobStatus from which both versions of the client can tell the status.

    0.4.2 fails for a job that is neither active nor ended, so a waiting one is active too. Both count the
    duration from ``start_time``, so it is always set.
    """
    ended_at = to_timestamp(job.ended_at or job.created_at)
    status: dict[str, Any] = {
        "active": None if job.is_over else 1,
        "ready": 1 if job.status is Status.RUNNING else 0,
        "succeeded": None,
        "failed": None,
        "start_time": to_timestamp(job.started_at or job.created_at),
        "completion_time": None,
        "conditions": None,
    }
    if job.status is Status.SUCCEEDED:
        status |= {"succeeded": 1, "completion_time": ended_at}
        status["conditions"] = [_make_condition(job, "Complete", ended_at)]
    elif job.is_over:
        status |= {"failed": 1, "conditions": [_make_condition(job, "Failed", ended_at)]}
    return status


def make_pod(job: Job, pod: Pod) -> dict[str, Any]:
    """Return one run of a job as a V1Pod."""
    return {
        "api_version": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod.name,
            "creation_timestamp": to_timestamp(pod.created_at),
            "labels": {"job-name": job.id},
            "annotations": {},
        },
        "spec": {"restart_policy": "Never", "containers": [{"name": "job", "image": job.spec.image}]},
        "status": {"phase": pod.phase, "exit_code": pod.exit_code},
    }


def make_deleted(name: str) -> dict[str, Any]:
    """Return the V1Status for a deleted job."""
    return {
        "api_version": "v1",
        "kind": "Status",
        "status": "Success",
        "code": 200,
        "message": None,
        "reason": None,
        "metadata": {},
        "details": {"name": name, "kind": "jobs", "group": "batch"},
    }


def to_timestamp(moment: datetime) -> str:
    """Return a time that the client can parse: ``fromisoformat`` before Python 3.11 does not know Z."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _make_container(job: Job, env: Mapping[str, str | None] | None) -> dict[str, Any]:
    spec = job.spec
    return {
        "name": "job",
        "image": spec.image,
        "command": spec.command,
        "args": spec.args,
        "env": None if env is None else [{"name": name, "value": value} for name, value in env.items()],
        "resources": {"limits": make_limits(spec.cpu_limit, spec.mem_limit)},
        "working_dir": f"/code/{spec.working_dir}" if spec.working_dir else "/code",
    }


def _make_condition(job: Job, kind: str, when: str) -> dict[str, Any]:
    return {
        "type": kind,
        "status": "True",
        "reason": job.reason,
        "message": job.full_message,
        "last_probe_time": when,
        "last_transition_time": when,
    }
