"""Kueue's labels for a Job, and the conditions of its Workload in words. Pure.

Kueue: https://kueue.sigs.k8s.io/docs/concepts/workload/. Kueue resumes a suspended Job with the label of a
queue, and suspends it again if others take precedence.
"""

from __future__ import annotations

from ..manifests.labels import QUEUE_LABEL
from ..manifests.manifest import Manifest
from . import sentences

JOB_UID_LABEL = "kueue.x-k8s.io/job-uid"
"""The label on a Workload with the uid of its Job."""


def make_workloads_path(version: str, namespace: str) -> str:
    """Return the API's path of the Workloads in a namespace, or in all (``""``)."""
    place = f"namespaces/{namespace}/" if namespace else ""
    return f"/apis/kueue.x-k8s.io/{version}/{place}workloads"


def find_owner(workload: Manifest) -> tuple[str, str] | None:
    """Return name and uid of the Job that owns a Workload, or None if something else owns it."""
    for owner in workload["metadata"].get("ownerReferences") or []:
        if owner.get("kind") == "Job" and str(owner.get("apiVersion", "")).startswith("batch/"):
            return owner["name"], owner["uid"]
    return None


def trim_workload(manifest: Manifest) -> Manifest:
    """Return the part of a Workload to keep."""
    metadata, status = manifest["metadata"], manifest.get("status") or {}
    checks = [
        {"name": each.get("name", ""), "state": each.get("state", "")}
        for each in status.get("admissionChecks") or []
    ]
    return {
        "metadata": {
            name: metadata[name]
            for name in ("name", "namespace", "resourceVersion", "ownerReferences")
            if name in metadata
        },
        "status": {"conditions": status.get("conditions") or [], "admissionChecks": checks},
    }


def is_handed_over(job: Manifest) -> bool:
    """Whether Kueue decides when a Job starts."""
    return QUEUE_LABEL in (job["metadata"].get("labels") or {})


def explain_hold(job: Manifest, workload: Manifest | None) -> tuple[str, str]:
    """Return reason and message for a Job that Kueue has not resumed, or has suspended again."""
    queue = job["metadata"]["labels"][QUEUE_LABEL]
    if workload is None:
        return "Suspended", f"Waiting for Kueue's queue {queue!r} to accept the job."
    evicted = _find(workload, "Evicted", "True")
    if _find(workload, "Admitted", "True") and not evicted:
        return "Admitted", "Admitted by Kueue. Starting soon."
    waits = _find(workload, "QuotaReserved", "False")
    if evicted:
        why = sentences.cut(evicted.get("message") or evicted["reason"])
        again = f" {_explain_wait(queue, waits)}" if waits else ""
        return evicted.get("reason") or "Evicted", f"Stopped by Kueue: {_end(why)}{again}"
    if waits is None and _find(workload, "QuotaReserved", "True"):
        pending = [each["name"] for each in workload["status"]["admissionChecks"] if each["state"] != "Ready"]
        until = f", and is waiting for {', '.join(pending)}" if pending else ""
        return "QuotaReserved", f"Kueue has reserved the quota{until}."
    return (waits or {}).get("reason") or "Suspended", _explain_wait(queue, waits)


def _explain_wait(queue: str, waits: Manifest | None) -> str:
    said = (waits or {}).get("message") or ""
    return _end(f"Waiting in Kueue's queue {queue!r}" + (f": {sentences.cut(said)}" if said else ""))


def _find(workload: Manifest, kind: str, status: str) -> Manifest | None:
    conditions = workload["status"]["conditions"]
    return next((each for each in conditions if (each["type"], each["status"]) == (kind, status)), None)


def _end(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "…")) else f"{sentence}."
