"""Reads one job's objects: from the cache of the watches while it is reliable, otherwise from the API."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ...models.job import JobSpec, JobStatus
from .client import KubeClient, KubeRefused, make_path
from .manifests import job as manifests
from .manifests.gates import has_own_delay, is_gated
from .manifests.labels import INSTANCE_LABEL, JOB_ID_LABEL
from .manifests.manifest import Manifest
from .reflector import Reflector, Seen, trim_event, trim_job, trim_pod
from .reflectors import Reflectors
from .status import sentences
from .status.events import Event
from .status.kueue import JOB_UID_LABEL, is_handed_over, make_workloads_path, trim_workload
from .status.pods import (
    ended_at,
    explain_failure,
    find_condition,
    get_wanted_limit,
    has_failed,
    is_keeping,
    is_over,
    never_began,
    parse_time,
    sort_pods,
)
from .status.status import make_status

MAX_PODS = 5
"""The number of a job's newest pods whose events to read: each needs a request."""


@dataclass(frozen=True, slots=True)
class Place:
    """The identity of a job's Job: from its state, or as launch() would name it."""

    namespace: str
    name: str
    uid: str | None

    @property
    def path(self) -> str:
        """The Job's path in the API."""
        return make_path("jobs", self.namespace, self.name)

    @property
    def state(self) -> dict[str, object]:
        """The state to store with a job, to find its Job again."""
        return {"namespace": self.namespace, "name": self.name, "uid": self.uid}


class JobObjects:
    """The objects of jobs. Each method may raise KubeError: then nothing is known."""

    def __init__(
        self,
        client: KubeClient,
        reflector: Reflector | Reflectors,
        *,
        instance: str,
        load_seconds: float,
        kueue_version: str = "",
    ) -> None:
        self._kueue_version = kueue_version
        self._client = client
        self._reflector = reflector
        self._instance = instance
        self._load_seconds = load_seconds

    def is_ours(self, manifest: Manifest, place: Place) -> bool:
        """Whether this is the very object of this job, and not another with the same name."""
        same = place.uid in (None, manifest["metadata"]["uid"])
        return same and manifests.is_of(manifest, instance=self._instance, value=place.name)

    async def find_job(self, place: Place) -> Manifest | None:
        """Return the Job from the API, or None if this job has none."""
        found = await self._client.find(place.path)
        return found if found is not None and self.is_ours(found, place) else None

    async def list_pods(self, place: Place) -> list[Manifest]:
        """Return the job's pods from the API."""
        pods = await self._client.get(make_path("pods", place.namespace), self._selector(place))
        return [trim_pod(pod) for pod in pods.get("items") or []]

    async def look(self, place: Place, *, pods: Iterable[str] = ()) -> Seen | None:
        """Return the job's objects from the watches, or from the API if the watches are unreliable.

        They also are if they lack one of these pods: each watch recovers at a different time.
        """
        reflector = await self._reflector.of(place.namespace)
        await reflector.wait_loaded(self._load_seconds)
        seen = self._find_seen(place) if reflector.is_healthy else None
        if seen is None or not seen.pods.keys() >= set(pods):
            return await self.ask(place)
        return seen

    async def find_pod(self, place: Place, name: str) -> Manifest | None:
        """Return a pod of the job, even one that is still ending after its Job was deleted."""
        seen = await self.look(place, pods=[name])
        if seen is not None:
            return seen.pods.get(name)
        pods = await self.list_pods(place)
        return next((pod for pod in pods if pod["metadata"]["name"] == name), None)

    async def ask(self, place: Place) -> Seen | None:
        """Return the job's objects from the API, and known pods that no longer exist."""
        found = await self.find_job(place)
        if found is None:
            return None
        pods = await self.list_pods(place)
        newest = [pod["metadata"]["name"] for pod in sort_pods(pods)[-MAX_PODS:]]
        events = await asyncio.gather(
            *(self._list_events(place.namespace, name) for name in (place.name, *newest))
        )
        seen, known = Seen(trim_job(found)), self._find_seen(place)
        if known is not None:
            seen.pods = {name: pod for name, pod in known.pods.items() if pod.get("isGone")}
        seen.pods |= {pod["metadata"]["name"]: pod for pod in pods}
        seen.workload = await self._find_workload(found)
        for event in itertools.chain(*events):
            seen.events[event["metadata"]["name"]] = Event.from_manifest(trim_event(event))
        return seen

    async def _list_events(self, namespace: str, name: str) -> list[Manifest]:
        path, selector = make_path("events", namespace), {"fieldSelector": f"involvedObject.name={name}"}
        found: list[Manifest] = (await self._client.get(path, selector)).get("items") or []
        return found

    async def _find_workload(self, job: Manifest) -> Manifest | None:
        """Return Kueue's Workload of a Job; None without Kueue, or without the right to read it."""
        if not self._kueue_version or not is_handed_over(job):
            return None
        path = make_workloads_path(self._kueue_version, job["metadata"]["namespace"])
        selector = {"labelSelector": f"{JOB_UID_LABEL}={job['metadata']['uid']}"}
        try:
            found = (await self._client.get(path, selector)).get("items") or []
        except KubeRefused:
            return None
        return trim_workload(found[0]) if found else None

    def _find_seen(self, place: Place) -> Seen | None:
        seen = self._reflector.find(place.namespace, place.name)
        return seen if seen is not None and self.is_ours(seen.job, place) else None

    def _selector(self, place: Place) -> dict[str, Any]:
        labels = f"{INSTANCE_LABEL}={self._instance},{JOB_ID_LABEL}={place.name}"
        return {"labelSelector": labels}


def make_seen_status(seen: Seen, spec: JobSpec | None = None) -> JobStatus:
    """Return the status of a job with these objects."""
    return make_status(seen.job, list(seen.pods.values()), list(seen.events.values()), seen.workload, spec)


def make_timed_status(seen: Seen, spec: JobSpec, ahead: timedelta) -> JobStatus:
    """Return the same, with the times at which the service must act on the job.

    It adds to them how far this machine's clock is ``ahead`` of the cluster's, so that they compare with this
    clock.
    """
    status = make_seen_status(seen, spec)
    if spec.active_deadline_seconds is not None:
        set_deadline(status, seen, spec)
    if has_own_delay(spec):
        set_hold(status, seen, spec)
    set_free_attempts(status, seen, spec)
    set_finish(status, spec)
    for name in ("blocked_since", "deadline_at", "held_until", "finish_at"):
        moment = getattr(status, name)
        if moment is not None:
            setattr(status, name, moment + ahead)
    return status


def set_deadline(status: JobStatus, seen: Seen, spec: JobSpec) -> None:
    """Set when the job must end, and name the job's own time limit if it has exceeded it.

    Kubernetes counts from the same time. A command that has ended was in time: only its results are being
    sent.
    """
    message = sentences.deadline(spec.active_deadline_seconds)
    if status.reason == "DeadlineExceeded":
        status.message = message
    started = seen.job.get("status", {}).get("startTime")
    is_sending = any(is_keeping(pod) for pod in seen.pods.values())
    if spec.keep_outputs and started and not is_sending and spec.active_deadline_seconds is not None:
        status.deadline_at = parse_time(started) + timedelta(seconds=spec.active_deadline_seconds)
        status.deadline_message = message


def set_hold(status: JobStatus, seen: Seen, spec: JobSpec) -> None:
    """Set when to start the next attempt, if it waits for that; the first starts at once.

    An attempt after a pod that had to give way does not wait longer, because that pod counts as no attempt.
    """
    pods = sort_pods(list(seen.pods.values()))
    if not pods or not is_gated(pods[-1]) or has_failed(pods[-1]):
        return
    failed = [pod for pod in pods[:-1] if not (find_condition(pod, "DisruptionTarget") or never_began(pod))]
    status.blocked_since, status.reason = None, "BackOff"
    if not failed:
        status.held_until = parse_time(pods[-1]["metadata"]["creationTimestamp"])
        status.message = "Starting soon."
        return
    delay = spec.get_retry_delay_seconds(len(failed))
    status.held_until = ended_at(failed[-1]) + timedelta(seconds=delay)
    _, why = explain_failure(failed[-1])
    status.message = f"{why} Attempt {len(failed) + 1} of {spec.retries + 1} starts {delay:g} s after that."


def set_free_attempts(status: JobStatus, seen: Seen, spec: JobSpec) -> None:
    """Set the time to allow the Job one more attempt, if a node rejected a pod."""
    pods = list(seen.pods.values())
    limit = get_wanted_limit(pods, spec)
    if spec.retries and not status.status.is_end and seen.job["spec"].get("backoffLimit", 0) < limit:
        status.held_until = min(parse_time(pod["metadata"]["creationTimestamp"]) for pod in pods)


def set_finish(status: JobStatus, spec: JobSpec) -> None:
    """Set when to end containers that still run after the command has ended."""
    if status.finish_at is not None:
        seconds = spec.sidecar_timeout_seconds
        status.finish_at = status.finish_at + timedelta(seconds=seconds) if seconds else None


def is_behind(seen: Seen) -> bool:
    """Whether a Job has ended, but none of its pods: one watch is behind the other."""
    ended = find_condition(seen.job, "SuccessCriteriaMet", "Complete", "FailureTarget", "Failed")
    return ended is not None and not any(is_over(pod) for pod in seen.pods.values())
