"""Looks at one job's objects: in the cache of the watches while it can be trusted, else in the API."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ..models import JobSpec, JobStatus
from . import objects, sentences
from .clients import KubeClient, make_path
from .events import Event
from .pods import find_condition, is_keeping, is_over, parse_time, sort_pods
from .reflector import Reflector, Seen, trim_event, trim_job, trim_pod
from .status import make_status

Manifest = dict[str, Any]

MAX_PODS = 5
"""The newest pods of a job whose events are asked for: each takes a request."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job's Job is, and which: as remembered in its state, or as launch() would name it."""

    namespace: str
    name: str
    uid: str | None

    @property
    def path(self) -> str:
        """The Job's path in the API."""
        return make_path("jobs", self.namespace, self.name)

    @property
    def state(self) -> dict[str, object]:
        """What is kept with a job to find its place again."""
        return {"namespace": self.namespace, "name": self.name, "uid": self.uid}


class View:
    """What there is of a job. Each method may raise KubeError: then nothing is known."""

    def __init__(
        self, client: KubeClient, reflector: Reflector, *, instance: str, load_seconds: float
    ) -> None:
        self._client = client
        self._reflector = reflector
        self._instance = instance
        self._load_seconds = load_seconds

    def is_ours(self, manifest: Manifest, place: Place) -> bool:
        """Whether it is the very object of this job: another of the same name is none of our business."""
        same = place.uid in (None, manifest["metadata"]["uid"])
        return same and objects.is_of(manifest, instance=self._instance, value=place.name)

    async def find_job(self, place: Place) -> Manifest | None:
        """Return the Job as the API has it now, or None when it has none of ours."""
        found = await self._client.find(place.path)
        return found if found is not None and self.is_ours(found, place) else None

    async def list_pods(self, place: Place) -> list[Manifest]:
        """Return the Pods of the job that the API has."""
        pods = await self._client.get(make_path("pods", place.namespace), self._selector(place))
        return [trim_pod(pod) for pod in pods.get("items") or []]

    async def look(self, place: Place) -> Seen | None:
        """Return what the watches have seen of the job, or what the API says where they cannot be trusted."""
        await self._reflector.wait_loaded(self._load_seconds)
        seen = self._find_seen(place) if self._reflector.is_healthy else None
        return await self.ask(place) if seen is None else seen

    async def ask(self, place: Place) -> Seen | None:
        """Return what the API says of the job now, with those Pods that are gone and were seen before."""
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
        for event in itertools.chain(*events):
            seen.events[event["metadata"]["name"]] = Event.from_manifest(trim_event(event))
        return seen

    async def _list_events(self, namespace: str, name: str) -> list[Manifest]:
        path, selector = make_path("events", namespace), {"fieldSelector": f"involvedObject.name={name}"}
        found: list[Manifest] = (await self._client.get(path, selector)).get("items") or []
        return found

    def _find_seen(self, place: Place) -> Seen | None:
        seen = self._reflector.find(place.namespace, place.name)
        return seen if seen is not None and self.is_ours(seen.job, place) else None

    def _selector(self, place: Place) -> dict[str, Any]:
        labels = f"{objects.INSTANCE_LABEL}={self._instance},{objects.JOB_ID_LABEL}={place.name}"
        return {"labelSelector": labels}


def make_seen_status(seen: Seen) -> JobStatus:
    """Return what is to be said of a job of which this was seen."""
    return make_status(seen.job, list(seen.pods.values()), list(seen.events.values()))


def set_deadline(status: JobStatus, seen: Seen, spec: JobSpec) -> None:
    """Say in a status when the job is to be ended, and with the job's own number why it was.

    Kubernetes counts from the same time. A command that has ended was in time: only its results are sent.
    """
    message = sentences.deadline(spec.active_deadline_seconds)
    if status.reason == "DeadlineExceeded":
        status.message = message
    started = seen.job.get("status", {}).get("startTime")
    is_sending = any(is_keeping(pod) for pod in seen.pods.values())
    if spec.keep_outputs and started and not is_sending and spec.active_deadline_seconds is not None:
        status.deadline_at = parse_time(started) + timedelta(seconds=spec.active_deadline_seconds)
        status.deadline_message = message


def is_behind(seen: Seen) -> bool:
    """Whether a Job has ended and none of its Pods: the watches of the two are apart."""
    ended = find_condition(seen.job, "SuccessCriteriaMet", "Complete", "FailureTarget", "Failed")
    return ended is not None and not any(is_over(pod) for pod in seen.pods.values())
