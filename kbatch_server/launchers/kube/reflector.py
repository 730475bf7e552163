"""Keeps a copy of this service's Jobs and pods and their events, so that nobody needs to ask the API."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from .client import KubeClient, make_path
from .manifests.home import unwrap_command
from .manifests.labels import INSTANCE_LABEL, JOB_ID_LABEL, LAUNCHED_ANNOTATION, RETRIES_ANNOTATION
from .manifests.manifest import Manifest
from .manifests.serverhome import CLAIM_ANNOTATION, NODE_ANNOTATION
from .status.events import Event
from .status.kueue import find_owner, make_workloads_path, trim_workload
from .watch import Watch

Key = tuple[str, str]
"""Namespace and job id: a Job has the id of its job as its name."""

MAX_EVENTS = 20
"""The number of newest events to keep for one job."""

MAX_UNCLAIMED = 256
"""The number of names whose events to keep without a known Job of that name (which may be about to be
reported)."""


@dataclass(slots=True)
class Seen:
    """All known objects of one job: its Job, its pods by name (also those removed since), its events."""

    job: Manifest
    pods: dict[str, Manifest] = field(default_factory=dict)
    events: OrderedDict[str, Event] = field(default_factory=OrderedDict)
    workload: Manifest | None = None
    """Kueue's Workload, if the Job was submitted to Kueue."""


class Reflector:
    """Lists and watches Jobs, pods and events of one namespace, or of all (``namespace=""``).

    It calls ``on_change(job_id)`` when a job may have changed. It keeps only the parts of an object that
    ``status`` and ``logs`` read. Use ``find()`` after ``wait_loaded()``, and trust it while ``is_healthy``.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        instance: str,
        on_change: Callable[[str], None],
        kueue_version: str = "",
        log: logging.Logger | None = None,
        **watch_options: float,
    ) -> None:
        self.namespace = namespace
        self.on_change = on_change
        self.log = log or logging.getLogger(__name__)
        self._seen: dict[Key, Seen] = {}
        self._orphans: dict[Key, dict[str, Manifest]] = {}
        self._unclaimed: OrderedDict[Key, OrderedDict[str, Event]] = OrderedDict()
        self._waiters: dict[Key, set[asyncio.Future[None]]] = {}
        self._loaded: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._workloads: dict[str, Manifest] = {}
        selector = f"{INSTANCE_LABEL}={instance}"
        watched = [
            ("jobs", make_path("jobs", namespace), self._list_jobs, self._take_job, trim_job),
            ("pods", make_path("pods", namespace), self._list_pods, self._take_pod, trim_pod),
            ("events", make_path("events", namespace), self._list_events, self._take_event, trim_event),
        ]
        if kueue_version:
            path = make_workloads_path(kueue_version, namespace)
            watched.append(("workloads", path, self._list_workloads, self._take_workload, trim_workload))
        self.watches = {
            kind: Watch(
                client,
                path,
                on_list=self._loading(kind, on_list),
                on_event=on_event,
                trim=trim,
                label_selector=selector if kind in ("jobs", "pods") else "",
                log=self.log,
                **watch_options,
            )
            for kind, path, on_list, on_event, trim in watched
        }

    async def start(self) -> None:
        """Begin to list and watch, in the background."""
        self._tasks = [
            asyncio.create_task(watch.run(), name=f"watch {watch.path}") for watch in self.watches.values()
        ]

    async def stop(self) -> None:
        """End the watches, and every wait."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    @property
    def is_running(self) -> bool:
        """Whether the reflector was started, and not stopped since."""
        return bool(self._tasks)

    @property
    def is_healthy(self) -> bool:
        """Whether the copy of Jobs and pods is complete and current."""
        return (
            self.is_running
            and all(self._loaded[kind].is_set() and self.watches[kind].is_fresh for kind in ("jobs", "pods"))
            and all(not task.done() for task in self._tasks)
        )

    @property
    def last_contact(self) -> float | None:
        """When the API last answered the watch with the oldest answer (``time.monotonic()``), or None."""
        times = [watch.last_contact for watch in self.watches.values()]
        return None if None in times else min(moment for moment in times if moment is not None)

    async def wait_loaded(self, timeout_seconds: float) -> bool:
        """Wait until all Jobs and pods were listed once; return False after the timeout, or if stopped."""
        if not self.is_running:
            return False
        try:
            async with asyncio.timeout(timeout_seconds):
                for kind in ("jobs", "pods"):
                    await self._loaded[kind].wait()
        except TimeoutError:
            return False
        return True

    async def of(self, namespace: str) -> Reflector:
        """Return the reflector of a namespace: this one."""
        return self

    def find(self, namespace: str, job_id: str) -> Seen | None:
        """Return the known objects of a job, or None."""
        seen = self._seen.get((namespace, job_id))
        if seen is not None:
            seen.workload = self._workloads.get(seen.job["metadata"]["uid"])
        return seen

    async def wait_change(self, namespace: str, job_id: str, timeout_seconds: float) -> None:
        """Return when an object of the job has changed, or after the timeout."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault((namespace, job_id), set())
        waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout_seconds):
                await waiter
        except TimeoutError:
            pass  # the caller looks again anyway
        finally:
            waiters.discard(waiter)
            if not waiters and self._waiters.get((namespace, job_id)) is waiters:
                del self._waiters[namespace, job_id]

    def _loading(
        self, kind: str, on_list: Callable[[list[Manifest]], None]
    ) -> Callable[[list[Manifest]], None]:
        loaded = self._loaded[kind] = asyncio.Event()

        def take(manifests: list[Manifest]) -> None:
            on_list(manifests)
            loaded.set()

        return take

    def _notify(self, key: Key) -> None:
        for waiter in self._waiters.get(key, ()):
            if not waiter.done():
                waiter.set_result(None)
        self.on_change(key[1])

    # Jobs

    def _list_jobs(self, manifests: list[Manifest]) -> None:
        listed = {_key(manifest["metadata"]) for manifest in manifests}
        for key in self._seen.keys() - listed:
            self._forget(key)
        for manifest in manifests:
            self._take_job("ADDED", manifest)

    def _take_job(self, kind: str, job: Manifest) -> None:
        key = _key(job["metadata"])
        if kind == "DELETED":
            self._forget(key)
            return
        seen = self._seen.get(key)
        if seen and seen.job["metadata"]["resourceVersion"] == job["metadata"]["resourceVersion"]:
            return
        if seen and seen.job["metadata"]["uid"] == job["metadata"]["uid"]:
            seen.job = job
        else:
            events = self._unclaimed.pop(key, OrderedDict())
            self._seen[key] = Seen(job, self._orphans.pop(key, {}), events)
        self._notify(key)

    def _forget(self, key: Key) -> None:
        seen = self._seen.pop(key, None)
        if seen:
            alive = {name: pod for name, pod in seen.pods.items() if not pod.get("isGone")}
            if alive:
                self._orphans[key] = alive  # until these pods are gone, too
            self._notify(key)

    # Pods

    def _list_pods(self, manifests: list[Manifest]) -> None:
        listed = {_key(pod["metadata"]) for pod in manifests}
        everywhere = [(key, seen.pods) for key, seen in self._seen.items()] + list(self._orphans.items())
        for key, pods in everywhere:
            for pod in list(pods.values()):
                if (key[0], pod["metadata"]["name"]) not in listed and not pod.get("isGone"):
                    self._remove_pod(key, pod["metadata"]["name"])
        for manifest in manifests:
            self._take_pod("ADDED", manifest)

    def _take_pod(self, kind: str, pod: Manifest) -> None:
        metadata = pod["metadata"]
        job_id = metadata["labels"].get(JOB_ID_LABEL)
        if not job_id:
            return
        key = (metadata["namespace"], job_id)
        pods = self._seen[key].pods if key in self._seen else self._orphans.setdefault(key, {})
        known = pods.get(metadata["name"])
        if kind == "DELETED":
            pods[metadata["name"]] = pod
            self._remove_pod(key, metadata["name"])
        elif not known or known["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
            pods[metadata["name"]] = pod
            self._notify(key)

    def _remove_pod(self, key: Key, name: str) -> None:
        """Mark a pod as gone while its Job exists: only the pod may show how an attempt ended."""
        if key in self._seen:
            self._seen[key].pods[name] = {**self._seen[key].pods[name], "isGone": True}
        else:
            self._orphans[key].pop(name, None)
            if not self._orphans[key]:
                del self._orphans[key]
        self._notify(key)

    # Events

    def _list_events(self, manifests: list[Manifest]) -> None:
        # events that are gone from the API (after an hour, as a rule) stay with their job
        for manifest in manifests:
            self._take_event("ADDED", manifest)

    def _take_event(self, kind: str, manifest: Manifest) -> None:
        if kind == "DELETED":
            return
        key = find_event_key(manifest)
        if key is None:
            return
        if key in self._seen:
            events = self._seen[key].events
        else:
            events = self._unclaimed.setdefault(key, OrderedDict())
            while len(self._unclaimed) > MAX_UNCLAIMED:
                self._unclaimed.popitem(last=False)
        event, name = Event.from_manifest(manifest), manifest["metadata"]["name"]
        if events.get(name) == event:
            return
        events[name] = event
        events.move_to_end(name)
        while len(events) > MAX_EVENTS:
            events.popitem(last=False)
        if key in self._seen:
            self._notify(key)

    # Workloads

    def _list_workloads(self, manifests: list[Manifest]) -> None:
        self._workloads.clear()
        for manifest in manifests:
            self._take_workload("ADDED", manifest)

    def _take_workload(self, kind: str, workload: Manifest) -> None:
        owner = find_owner(workload)
        if owner is None:
            return
        name, uid = owner
        if kind == "DELETED":
            self._workloads.pop(uid, None)
        else:
            self._workloads[uid] = workload
        key = (workload["metadata"]["namespace"], name)
        if key in self._seen:
            self._notify(key)


def find_event_key(manifest: Manifest) -> Key | None:
    """Return the Job that an event may belong to: of that name, or of a pod ``<job id>-<5 characters>``."""
    about = manifest.get("involvedObject") or {}
    namespace, name = about.get("namespace") or "", about.get("name") or ""
    if about.get("kind") == "Pod":
        name = name.rpartition("-")[0]
    elif about.get("kind") != "Job":
        return None
    return (namespace, name) if name else None


def trim_job(manifest: Manifest) -> Manifest:
    """Return the part of a Job to keep."""
    metadata, spec, status = manifest["metadata"], manifest["spec"], manifest.get("status") or {}
    kept = _pick(metadata, "name", "namespace", "uid", "resourceVersion", "labels", "creationTimestamp")
    if metadata.get("deletionTimestamp"):
        kept["deletionTimestamp"] = metadata["deletionTimestamp"]
    if annotations := _pick(metadata.get("annotations") or {}, LAUNCHED_ANNOTATION, RETRIES_ANNOTATION):
        kept["annotations"] = annotations
    return {
        "metadata": kept,
        "spec": _pick(spec, "suspend", "backoffLimit", "activeDeadlineSeconds"),
        "status": _pick(status, "startTime", "completionTime", "conditions"),
    }


def trim_pod(manifest: Manifest) -> Manifest:
    """Return the part of a pod to keep."""
    metadata, spec, status = manifest["metadata"], manifest["spec"], manifest.get("status") or {}
    kept = _pick(
        metadata,
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    )
    if status.get("phase") == "Failed" and not status.get("containerStatuses"):
        kept["statusWrittenAt"] = _find_status_time(metadata)
    labels = metadata.get("labels") or {}
    kept["labels"] = _pick(labels, JOB_ID_LABEL, INSTANCE_LABEL)
    if home := _pick(metadata.get("annotations") or {}, CLAIM_ANNOTATION, NODE_ANNOTATION):
        kept["annotations"] = home
    return {
        "metadata": kept,
        "spec": {
            **_pick(spec, "nodeName", "nodeSelector", "schedulingGates"),
            "initContainers": [_trim_container(each) for each in spec.get("initContainers") or []],
            "containers": [_trim_container(each) for each in spec["containers"]],
        },
        "status": {
            **_pick(status, "phase", "reason", "message", "conditions", "startTime"),
            "initContainerStatuses": [
                _pick(each, "name", "state") for each in status.get("initContainerStatuses") or []
            ],
            "containerStatuses": [
                _pick(each, "name", "state") for each in status.get("containerStatuses") or []
            ],
        },
    }


def _find_status_time(metadata: Manifest) -> str | None:
    """Return when the node wrote the status of a pod."""
    for each in metadata.get("managedFields") or []:
        if each.get("subresource") == "status" and each.get("manager") == "kubelet":
            time: str | None = each.get("time")
            return time
    return None


def trim_event(manifest: Manifest) -> Manifest:
    """Return the part of an event to keep."""
    return {
        **_pick(manifest, "involvedObject", "eventTime", "firstTimestamp", "lastTimestamp", "series"),
        **_pick(manifest, "type", "reason", "message", "count"),
        "metadata": _pick(manifest["metadata"], "name", "creationTimestamp"),
    }


def _trim_container(container: Manifest) -> Manifest:
    """Keep the program of the user's command, but not its arguments, which may be long."""
    kept = _pick(container, "name", "image", "resources", "restartPolicy")
    for name in ("command", "args"):
        if words := unwrap_command(container.get(name) or []):
            kept[name] = [words[0][:256]]
            break
    return kept


def _pick(source: Manifest, *names: str) -> Manifest:
    return {name: source[name] for name in names if source.get(name) is not None}


def _key(metadata: Manifest) -> Key:
    return (metadata["namespace"], metadata["name"])
