"""The copy of what is on the cluster stays true through every fault of the API server on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from kbatch_server.launchers.kube import watch
from kbatch_server.launchers.kube.client import KubeClient, KubeRefused, KubeUnavailable, make_path
from kbatch_server.launchers.kube.job_objects import JobObjects, Place
from kbatch_server.launchers.kube.manifests.labels import INSTANCE_LABEL, JOB_ID_LABEL
from kbatch_server.launchers.kube.reflector import MAX_EVENTS, Reflector

Manifest = dict[str, Any]
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

SECONDS = 10


class FakeApi:
    """An API server that keeps objects and tells of changes, and answers a watch wrongly when told to.

    ``faults[kind]`` are used up one by one, each by one watch of that kind.
    """

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Manifest]] = {"jobs": {}, "pods": {}, "events": {}}
        self.history: dict[str, list[tuple[int, str, Manifest]]] = {"jobs": [], "pods": [], "events": []}
        self.version = 1
        self.faults: dict[str, list[Answer]] = {"jobs": [], "pods": [], "events": []}
        self.lists = {"jobs": 0, "pods": 0, "events": 0}
        self.watches: dict[str, list[str]] = {"jobs": [], "pods": [], "events": []}
        self.is_away = False
        self.changed = asyncio.Event()
        self.url = ""

    def put(self, kind: str, name: str, *, quietly: bool = False, **fields: Any) -> None:
        self.version += 1
        old = self.objects[kind].get(name)
        metadata = {
            "name": name,
            "namespace": "jobs",
            "uid": f"uid-{name}",
            "resourceVersion": str(self.version),
            "creationTimestamp": "2026-01-01T10:00:00Z",
            **fields.pop("metadata", {}),
        }
        manifest = {"metadata": metadata, "spec": {"containers": []}, "status": {}, **fields}
        self.objects[kind][name] = manifest
        if not quietly:
            self._tell(kind, "MODIFIED" if old else "ADDED", manifest)

    def remove(self, kind: str, name: str, *, quietly: bool = False) -> None:
        self.version += 1
        manifest = self.objects[kind].pop(name)
        manifest = {**manifest, "metadata": manifest["metadata"] | {"resourceVersion": str(self.version)}}
        if not quietly:
            self._tell(kind, "DELETED", manifest)

    def _tell(self, kind: str, change: str, manifest: Manifest) -> None:
        self.history[kind].append((self.version, change, manifest))
        self.changed.set()
        self.changed = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self.is_away:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        parent, _, kind = request.path.rpartition("/")
        if kind not in self.objects:
            return self._find(parent.rpartition("/")[2], kind)
        if "watch" not in request.query:
            return self._list(kind, request)
        self.watches[kind].append(request.query["resourceVersion"])
        if self.faults[kind]:
            return await self.faults[kind].pop(0)(request)
        return await self._watch(kind, request)

    def _find(self, kind: str, name: str) -> web.Response:
        found = self.objects[kind].get(name)
        return web.json_response(
            found or {"kind": "Status", "reason": "NotFound"}, status=200 if found else 404
        )

    def _list(self, kind: str, request: web.Request) -> web.Response:
        """Give one object a page, as no cluster does, so that paging is always used."""
        start = int(request.query.get("continue") or 0)
        if not start:
            self.lists[kind] += 1
        items = list(self.objects[kind].values())
        more = str(start + 1) if start + 1 < len(items) else ""
        metadata = {"resourceVersion": str(self.version), "continue": more}
        return web.json_response({"metadata": metadata, "items": items[start : start + 1]})

    async def _watch(self, kind: str, request: web.Request) -> web.StreamResponse:
        since = int(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        deadline = asyncio.get_running_loop().time() + float(request.query["timeoutSeconds"])
        while (left := deadline - asyncio.get_running_loop().time()) > 0:
            changed = self.changed
            for version, change, manifest in self.history[kind]:
                if version > since:
                    await response.write(make_line(change, manifest))
                    since = version
            try:
                await asyncio.wait_for(changed.wait(), left)
            except TimeoutError:
                break
        return response


def make_line(change: str, manifest: Manifest) -> bytes:
    return json.dumps({"type": change, "object": manifest}).encode() + b"\n"


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    api = FakeApi()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield api
    await runner.cleanup()


@pytest.fixture
async def client(api: FakeApi) -> AsyncIterator[KubeClient]:
    client = KubeClient(Configuration(host=api.url), request_timeout_seconds=2)
    yield client
    await client.close()


@pytest.fixture
async def reflector(api: FakeApi, client: KubeClient) -> AsyncIterator[Reflector]:
    reflector = make_reflector(client)
    await reflector.start()
    assert await reflector.wait_loaded(SECONDS)
    yield reflector
    await reflector.stop()


def make_reflector(client: KubeClient, **options: Any) -> Reflector:
    fields: dict[str, Any] = {
        "namespace": "jobs",
        "instance": "hub",
        "on_change": lambda job_id: None,
        "watch_seconds": 30,
        "grace_seconds": 5,
        "max_pause_seconds": 0.02,
    }
    return Reflector(client, **(fields | options))


def put_pod(api: FakeApi, name: str, phase: str, **options: Any) -> None:
    job_id = name.rpartition("-")[0]
    labels = {"kbatch.jupyter.org/job-id": job_id}
    api.put("pods", name, metadata={"labels": labels}, status={"phase": phase}, **options)


def put_event(api: FakeApi, name: str, about: str, kind: str = "Pod", reason: str = "Pulling") -> None:
    api.put(
        "events",
        name,
        involvedObject={"kind": kind, "name": about, "namespace": "jobs"},
        reason=reason,
        type="Normal",
        lastTimestamp="2026-01-01T10:00:00Z",
    )


async def wait_until(reflector: Reflector, done: Callable[[], object], job_id: str = "train-1") -> None:
    async with asyncio.timeout(SECONDS):
        while not done():
            await reflector.wait_change("jobs", job_id, 0.05)


async def test_it_follows_jobs_pods_and_events(api: FakeApi, client: KubeClient) -> None:
    for name in ("train-1", "train-2", "train-3"):  # three pages
        api.put("jobs", name, spec={"suspend": True, "secretStuff": "x"})
    changes: list[str] = []
    reflector = make_reflector(client, on_change=changes.append)
    await reflector.start()
    try:
        assert await reflector.wait_loaded(SECONDS)
        assert sorted(changes) == ["train-1", "train-2", "train-3"]
        seen = reflector.find("jobs", "train-1")
        assert seen is not None
        assert seen.job["spec"] == {"suspend": True}
        changes.clear()
        put_pod(api, "train-1-aaaaa", "Pending")
        put_event(api, "e1", "train-1-aaaaa")
        put_event(api, "e2", "train-1", "Job", "SuccessfulCreate")
        put_event(api, "e3", "node1", "Node")
        await wait_until(reflector, lambda: seen.pods and len(seen.events) == 2)
        assert set(changes) == {"train-1"}
        api.put("jobs", "train-1", spec={"suspend": False})
        await wait_until(reflector, lambda: not seen.job["spec"]["suspend"])
        assert reflector.is_healthy
        assert reflector.last_contact is not None
        api.remove("jobs", "train-1")
        await wait_until(reflector, lambda: reflector.find("jobs", "train-1") is None)
        assert reflector.find("jobs", "train-2") is not None
    finally:
        await reflector.stop()


async def test_a_pod_that_the_watch_has_not_told_of_is_no_pod_that_is_gone(
    api: FakeApi, client: KubeClient, reflector: Reflector
) -> None:
    """The watch of Jobs may come back seconds before that of Pods: a log that is then given up is lost."""
    job_objects = JobObjects(client, reflector, instance="hub", load_seconds=SECONDS)
    labels = {INSTANCE_LABEL: "hub", JOB_ID_LABEL: "train-1"}
    api.put("jobs", "train-1", metadata={"labels": labels})
    await wait_until(reflector, lambda: reflector.find("jobs", "train-1"))
    api.put("pods", "train-1-aaaaa", quietly=True, metadata={"labels": labels})
    place = Place("jobs", "train-1", "uid-train-1")
    assert reflector.is_healthy
    behind = await job_objects.look(place)
    assert behind is not None
    assert not behind.pods
    seen = await job_objects.look(place, pods=["train-1-aaaaa"])
    assert seen is not None
    assert list(seen.pods) == ["train-1-aaaaa"]


async def test_what_comes_before_its_job_is_kept(api: FakeApi, reflector: Reflector) -> None:
    put_event(api, "e1", "train-1-aaaaa")
    put_pod(api, "train-1-aaaaa", "Running")
    await wait_until(reflector, lambda: reflector._unclaimed and reflector._orphans)
    api.put("jobs", "train-1")
    await wait_until(reflector, lambda: reflector.find("jobs", "train-1"))
    seen = reflector.find("jobs", "train-1")
    assert seen is not None
    assert (list(seen.pods), list(seen.events)) == (["train-1-aaaaa"], ["e1"])
    api.remove("jobs", "train-1")
    await wait_until(reflector, lambda: reflector._orphans)
    api.remove("pods", "train-1-aaaaa")
    await wait_until(reflector, lambda: not reflector._orphans)


async def test_removed_pod_stays_with_its_job(api: FakeApi, reflector: Reflector) -> None:
    api.put("jobs", "train-1")
    put_pod(api, "train-1-aaaaa", "Failed")
    await wait_until(reflector, lambda: has_pod(reflector, "train-1-aaaaa", "Failed"))
    api.remove("pods", "train-1-aaaaa")
    seen = reflector.find("jobs", "train-1")
    assert seen is not None
    await wait_until(reflector, lambda: seen.pods["train-1-aaaaa"].get("isGone"))
    assert seen.pods["train-1-aaaaa"]["status"]["phase"] == "Failed"


async def test_events_are_bounded(api: FakeApi, reflector: Reflector) -> None:
    api.put("jobs", "train-1")
    await wait_until(reflector, lambda: reflector.find("jobs", "train-1"))
    for number in range(MAX_EVENTS + 5):
        put_event(api, f"e{number}", "train-1", "Job")
    seen = reflector.find("jobs", "train-1")
    assert seen is not None
    await wait_until(reflector, lambda: f"e{MAX_EVENTS + 4}" in seen.events)
    assert len(seen.events) == MAX_EVENTS


def has_pod(reflector: Reflector, name: str, phase: str) -> bool:
    seen = reflector.find("jobs", name.rpartition("-")[0])
    return bool(seen and name in seen.pods and seen.pods[name]["status"]["phase"] == phase)


async def gone(request: web.Request) -> web.StreamResponse:
    return web.json_response({"kind": "Status", "code": 410, "message": "too old"}, status=410)


async def gone_in_the_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
    await response.write(make_line("ERROR", status))
    return response


async def truncated_line(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b'{"type": "MODIFIED", "object": {"metada')
    return response


async def html(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>504 Gateway Timeout</html>\n", content_type="text/html")


async def gateway_timeout(request: web.Request) -> web.StreamResponse:
    return web.Response(status=504, text="<html>504 Gateway Timeout</html>", content_type="text/html")


async def dropped(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    assert request.transport is not None
    request.transport.abort()
    return response


async def refused_watch(request: web.Request) -> web.StreamResponse:
    return web.json_response(
        {"kind": "Status", "code": 403, "reason": "Forbidden", "message": "no"}, status=403
    )


async def silent(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await asyncio.sleep(SECONDS)
    return response


RELIST = [gone, gone_in_the_stream, truncated_line, html, refused_watch]
RESUME = [gateway_timeout, dropped, silent]


@pytest.mark.parametrize("fault", [*RELIST, *RESUME], ids=lambda fault: fault.__name__)
async def test_faults(api: FakeApi, client: KubeClient, fault: Answer) -> None:
    """After each fault it knows what changed meanwhile, by listing again or going on where it was."""
    api.put("jobs", "train-1", spec={"backoffLimit": 1})
    api.put("jobs", "train-2")

    async def change_and_fail(request: web.Request) -> web.StreamResponse:
        quietly = fault in RELIST  # what only a new list can tell
        api.put("jobs", "train-1", quietly=quietly, spec={"backoffLimit": 2})
        api.remove("jobs", "train-2", quietly=quietly)
        return await fault(request)

    api.faults["jobs"] = [change_and_fail]
    options = {"watch_seconds": 0.1, "grace_seconds": 0.2} if fault is silent else {}
    reflector = make_reflector(client, **options)
    await reflector.start()
    try:
        assert await reflector.wait_loaded(SECONDS)
        seen = reflector.find("jobs", "train-1")
        assert seen is not None
        await wait_until(reflector, lambda: seen.job["spec"]["backoffLimit"] == 2)
        await wait_until(reflector, lambda: reflector.find("jobs", "train-2") is None, "train-2")
        assert api.lists["jobs"] == (2 if fault in RELIST else 1)
        await wait_until(reflector, lambda: reflector.is_healthy)
    finally:
        await reflector.stop()


async def test_pods_that_went_unseen_are_marked(api: FakeApi, client: KubeClient) -> None:
    api.put("jobs", "train-1")
    put_pod(api, "train-1-aaaaa", "Running")

    async def remove_and_fail(request: web.Request) -> web.StreamResponse:
        api.remove("pods", "train-1-aaaaa", quietly=True)
        return await gone(request)

    reflector = make_reflector(client)
    await reflector.start()
    try:
        assert await reflector.wait_loaded(SECONDS)
        await wait_until(reflector, lambda: has_pod(reflector, "train-1-aaaaa", "Running"))
        seen = reflector.find("jobs", "train-1")
        assert seen is not None
        api.faults["pods"] = [remove_and_fail]
        put_pod(api, "train-1-bbbbb", "Running")
        await wait_until(reflector, lambda: "train-1-bbbbb" in seen.pods)
        await reflector.stop()  # for another watch, which goes on where the first one was, and fails
        await reflector.start()
        await wait_until(reflector, lambda: seen.pods["train-1-aaaaa"].get("isGone"))
        assert not seen.pods["train-1-bbbbb"].get("isGone")
    finally:
        await reflector.stop()


@pytest.mark.slow
async def test_watch_resumes_where_it_was(api: FakeApi, client: KubeClient) -> None:
    api.put("jobs", "train-1")
    reflector = make_reflector(client, watch_seconds=1, grace_seconds=1)
    await reflector.start()
    try:
        assert await reflector.wait_loaded(SECONDS)
        api.put("jobs", "train-1", spec={"backoffLimit": 5})
        async with asyncio.timeout(SECONDS):
            while len(api.watches["jobs"]) < 2:
                await reflector.wait_change("jobs", "train-1", 0.05)
        assert api.lists["jobs"] == 1
        assert api.watches["jobs"] == ["2", "3"]
    finally:
        await reflector.stop()


async def test_api_that_is_away_is_noticed_and_waited_for(api: FakeApi, client: KubeClient) -> None:
    api.is_away = True
    reflector = make_reflector(client)
    await reflector.start()
    try:
        assert not await reflector.wait_loaded(0.1)
        assert not reflector.is_healthy
        assert reflector.last_contact is None
        api.put("jobs", "train-1")
        api.is_away = False
        assert await reflector.wait_loaded(SECONDS)
        assert reflector.find("jobs", "train-1") is not None
    finally:
        await reflector.stop()


async def test_frozen_copy_is_not_healthy(
    api: FakeApi, reflector: Reflector, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reflector.is_healthy
    monkeypatch.setattr(reflector.watches["pods"], "last_contact", watch.time.monotonic() - 100)
    assert not reflector.is_healthy


async def test_there_is_always_a_pause(api: FakeApi, client: KubeClient) -> None:
    async def ends_at_once(request: web.Request) -> web.StreamResponse:
        return web.Response()

    api.faults["jobs"] = [ends_at_once] * 100000
    reflector = make_reflector(client, max_pause_seconds=30)
    await reflector.start()
    try:
        assert await reflector.wait_loaded(SECONDS)
        await asyncio.sleep(0.5)
        assert len(api.watches["jobs"]) <= 5
    finally:
        await reflector.stop()


async def test_stop_leaves_no_task(api: FakeApi, client: KubeClient) -> None:
    before = asyncio.all_tasks()
    reflector = make_reflector(client)
    await reflector.start()
    await reflector.wait_loaded(SECONDS)
    await reflector.stop()
    await client.close()
    assert {task for task in asyncio.all_tasks() - before if "watch" in task.get_name()} == set()


# The client


async def test_what_the_client_raises(api: FakeApi, client: KubeClient) -> None:
    api.is_away = True
    with pytest.raises(KubeUnavailable):
        await client.get(make_path("jobs", "jobs"))
    api.is_away = False

    async def answer(request: web.Request) -> web.StreamResponse:
        return await answers[request.path.rpartition("/")[2]](request)

    async def missing(request: web.Request) -> web.StreamResponse:
        return web.Response(status=404, text="<h1>404: no such page</h1>", content_type="text/html")

    # a page of a proxy in between says nothing of what Kubernetes has
    answers: dict[str, Answer] = {
        "missing": missing,
        "html": html,
        "gateway": gateway_timeout,
        "refused": refused_watch,
    }
    api_app = web.Application()
    api_app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(api_app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    other = KubeClient(Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}"))
    try:
        for name, error in (
            ("html", KubeUnavailable),
            ("missing", KubeUnavailable),
            ("gateway", KubeUnavailable),
            ("refused", KubeRefused),
        ):
            with pytest.raises(error):
                await other.get(f"/{name}")
    finally:
        await other.close()
        await runner.cleanup()
