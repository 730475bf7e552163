"""Fixtures of the tests that need a real Kubernetes, and what a failed one reports about it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest
from kubernetes.aio import client, config

from kbatch_server.launchers.kube.client import RESTClient
from tests.support.cluster import ClusterLike, ensure_cluster
from tests.support.helm import Helm, find_helm
from tests.support.installation import Installation
from tests.support.waiting import until

Report = Iterator[str]


@pytest.fixture(scope="session")
def cluster() -> Iterator[ClusterLike]:
    """A running Kubernetes: the one that ``KUBECONFIG`` names, else one of our own."""
    cluster = ensure_cluster()
    yield cluster
    cluster.stop()


@pytest.fixture
def helm(tmp_path: Path) -> Helm:
    """Helm, which needs no cluster to show what the chart makes."""
    return Helm(find_helm(), tmp_path)


@pytest.fixture(scope="session")
def installation(cluster: ClusterLike, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A hub and a kbatch-server whose jobs run in a namespace of their own."""
    namespace = f"jobs-{secrets.token_hex(4)}"
    with kubernetes.config.new_client_from_config(str(cluster.kubeconfig)) as api_client:
        kubernetes.client.CoreV1Api(api_client).create_namespace({"metadata": {"name": namespace}})
    installation = Installation(tmp_path_factory.mktemp("installation"), cluster, namespace=namespace)
    yield installation
    installation.stop()


@pytest.fixture
async def api_client(cluster: ClusterLike) -> AsyncIterator[client.ApiClient]:
    """An administrator's client; one for each test, as it belongs to the test's event loop."""
    configuration = client.Configuration()
    await config.load_kube_config(str(cluster.kubeconfig), client_configuration=configuration)
    async with client.ApiClient(configuration) as api_client:
        api_client.rest_client = RESTClient(configuration)  # whose connections end with the test
        yield api_client


@pytest.fixture
def core_api(api_client: client.ApiClient) -> client.CoreV1Api:
    return client.CoreV1Api(api_client)


@pytest.fixture
def batch_api(api_client: client.ApiClient) -> client.BatchV1Api:
    return client.BatchV1Api(api_client)


@pytest.fixture
async def namespace(core_api: client.CoreV1Api) -> AsyncIterator[str]:
    """A namespace of the test's own, in which pods can be made at once."""
    name = f"test-{secrets.token_hex(4)}"
    await core_api.create_namespace({"metadata": {"name": name}})
    await _wait_for_service_account(core_api, name)
    yield name
    await core_api.delete_namespace(name)  # begins the deletion; nobody waits for its end


async def _wait_for_service_account(core_api: client.CoreV1Api, namespace: str) -> None:
    """Until the controller has made it, pods are refused."""

    async def is_made() -> bool:
        return bool((await core_api.list_namespaced_service_account(namespace)).items)

    await until(is_made)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Add to a failed test's report what was in its namespace."""
    report = yield
    funcargs = getattr(item, "funcargs", {})
    if report.failed and report.when != "teardown" and "namespace" in funcargs:
        text = describe_namespace(funcargs["cluster"], funcargs["namespace"])
        report.sections.append((f"Kubernetes namespace {funcargs['namespace']}", text))
    return report


def describe_namespace(cluster: ClusterLike, namespace: str) -> str:
    """The Jobs, Pods, Events and logs of a namespace, as text; never raises."""
    try:
        with kubernetes.config.new_client_from_config(str(cluster.kubeconfig)) as api_client:
            core_api = kubernetes.client.CoreV1Api(api_client)
            batch_api = kubernetes.client.BatchV1Api(api_client)
            lines = [
                *_describe_jobs(batch_api, namespace),
                *_describe_pods(core_api, namespace),
                *_describe_events(core_api, namespace),
            ]
    except Exception as error:  # the API server may be what the test has stopped
        return f"cannot be read: {error!r}"
    return "\n".join(lines) or "nothing in it"


def _describe_jobs(batch_api: Any, namespace: str) -> Report:
    for job in batch_api.list_namespaced_job(namespace).items:
        status = job.status
        counts = f"active {status.active}, succeeded {status.succeeded}, failed {status.failed}"
        yield f"Job {job.metadata.name}: {counts}"
        for each in status.conditions or []:
            yield f"  {each.type}={each.status} {each.reason or ''} {each.message or ''}"


def _describe_pods(core_api: Any, namespace: str) -> Report:
    for pod in core_api.list_namespaced_pod(namespace).items:
        status = pod.status
        why = f"{status.reason or ''} {status.message or ''}"
        yield f"Pod {pod.metadata.name}: {status.phase} {why}"
        for each in [*(status.init_container_statuses or []), *(status.container_statuses or [])]:
            yield f"  {each.name}: {_describe_state(each.state)}, {each.restart_count} restarts"
            try:
                log = core_api.read_namespaced_pod_log(
                    pod.metadata.name, namespace, container=each.name, tail_lines=50
                )
            except kubernetes.client.ApiException as error:
                log = f"(no log: {error.status} {error.reason})"
            yield from (f"    | {line}" for line in log.splitlines())


def _describe_state(state: Any) -> str:
    if state.terminated:
        return f"exit code {state.terminated.exit_code} {state.terminated.reason or ''}"
    if state.waiting:
        return f"waiting {state.waiting.reason or ''} {state.waiting.message or ''}"
    return "running"


def _describe_events(core_api: Any, namespace: str) -> Report:
    for event in core_api.list_namespaced_event(namespace).items:
        about = event.involved_object
        yield f"Event {about.kind} {about.name}: {event.type} {event.reason}: {event.message}"
