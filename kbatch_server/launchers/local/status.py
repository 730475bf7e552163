"""Determines the status of a local job from its folder and its supervisor's lock. It blocks: use a thread."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ...models.job import JobStatus, Pod, Status
from .folder import JobFolder
from .logreader import make_pod_name

LOST = "The machine or the job's supervisor stopped while the job ran."


def find_status(job_id: str, folder: JobFolder) -> JobStatus | None:
    """Return the job's status; None if it was never started, or was removed.

    The order matters: the supervisor takes the lock before it creates ``started``, and releases it after it
    has written the end. So whatever happens in between, a running job never seems to be lost.
    """
    if not folder.has("started"):
        return None
    is_alive = folder.find_supervisor() is not None
    try:
        return _make_status(job_id, folder.read_status(), is_alive, folder.has("cancel"))
    except (KeyError, TypeError, ValueError):
        # Where service and job are one account, the job may have written this; its end is not known.
        return JobStatus(status=Status.FAILED, reason="Lost", message=LOST)


def _make_status(job_id: str, record: dict[str, Any], is_alive: bool, is_cancelled: bool) -> JobStatus:
    attempts = record.get("attempts", [])
    started_at = datetime.fromisoformat(attempts[0]["started_at"]) if attempts else None
    pods = [_make_pod(job_id, attempt, is_alive) for attempt in attempts]
    if end := record.get("end"):
        return JobStatus(
            status=Status(end["status"]),
            reason=end["reason"],
            message=end["message"],
            exit_code=end["exit_code"],
            started_at=started_at,
            ended_at=datetime.fromisoformat(end["ended_at"]),
            pods=pods,
        )
    if is_alive:
        reason, message = record.get("reason", ""), record.get("message", "")
        return JobStatus(
            status=Status.RUNNING, reason=reason, message=message, started_at=started_at, pods=pods
        )
    if is_cancelled:  # and had to be killed together with its supervisor
        return JobStatus(
            status=Status.CANCELLED,
            reason="Cancelled",
            message="Cancelled by the user.",
            started_at=started_at,
            pods=pods,
        )
    return JobStatus(status=Status.FAILED, reason="Lost", message=LOST, started_at=started_at, pods=pods)


def _make_pod(job_id: str, attempt: dict[str, Any], is_alive: bool) -> Pod:
    exit_code = attempt["exit_code"]
    if exit_code is None:
        phase = "Running" if is_alive else "Failed"
    else:
        phase = "Failed" if exit_code else "Succeeded"
    return Pod(
        name=make_pod_name(job_id, attempt["number"]),
        phase=phase,
        created_at=datetime.fromisoformat(attempt["started_at"]),
        exit_code=exit_code,
        started_at=datetime.fromisoformat(attempt["started_at"]),
        ended_at=datetime.fromisoformat(attempt["ended_at"]) if attempt["ended_at"] else None,
    )
