"""The test cluster itself does what the other tests here rely on."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from kubernetes.aio import client

from tests.support.cluster import ClusterLike
from tests.support.cluster.images import make_images
from tests.support.waiting import until

SECONDS_TO_RUN = 60


@pytest.fixture
def greeter() -> Iterator[int]:
    """The port of a server on this machine that greets who asks."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello from the host\n")

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    with http.server.ThreadingHTTPServer(("", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def make_job(name: str, image: str, script: str) -> dict[str, object]:
    """A Job of the shape that the service makes: fetch, a native sidecar, and the user's command.

    The sidecar leaves its TERM trap only when the main container has ended.
    """
    volume = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}
    sidecar = "trap 'echo packed; exit 0' TERM; touch /shared/sidecar; while :; do sleep 0.1; done"
    template = {
        "restartPolicy": "Never",
        "volumes": [{"name": "shared", "emptyDir": {}}],
        "initContainers": [
            volume | {"name": "fetch", "image": image, "command": ["touch", "/shared/code"]},
            volume
            | {
                "name": "sidecar",
                "image": image,
                "restartPolicy": "Always",
                "command": ["sh", "-c", sidecar],
                "startupProbe": {
                    "exec": {"command": ["test", "-e", "/shared/sidecar"]},
                    "periodSeconds": 1,
                },
            },
        ],
        "containers": [volume | {"name": "main", "image": image, "command": ["sh", "-c", script]}],
    }
    return {"metadata": {"name": name}, "spec": {"backoffLimit": 0, "template": {"spec": template}}}


async def wait_for_end(batch_api: client.BatchV1Api, name: str, namespace: str) -> str:
    """Wait until the Job has ended and return how: Complete or Failed."""

    async def find_end() -> str | None:
        job = await batch_api.read_namespaced_job(name, namespace)
        ends = [each.type for each in job.status.conditions or [] if each.type in ("Complete", "Failed")]
        return ends[0] if ends else None

    return str(await until(find_end, seconds=SECONDS_TO_RUN))


async def read_log(core_api: client.CoreV1Api, job: str, namespace: str, container: str) -> str:
    selector = f"batch.kubernetes.io/job-name={job}"
    pods = await core_api.list_namespaced_pod(namespace, label_selector=selector)
    name = pods.items[0].metadata.name
    return str(await core_api.read_namespaced_pod_log(name, namespace, container=container))


async def test_job_runs_with_init_container_and_sidecar(
    cluster: ClusterLike,
    batch_api: client.BatchV1Api,
    core_api: client.CoreV1Api,
    namespace: str,
) -> None:
    script = "ls /shared; echo to the log"
    await batch_api.create_namespaced_job(namespace, make_job("run", cluster.image, script))
    assert await wait_for_end(batch_api, "run", namespace) == "Complete"
    assert await read_log(core_api, "run", namespace, "main") == "code\nsidecar\nto the log\n"
    assert await read_log(core_api, "run", namespace, "sidecar") == "packed\n"


async def test_pod_reaches_the_host(
    cluster: ClusterLike,
    batch_api: client.BatchV1Api,
    core_api: client.CoreV1Api,
    namespace: str,
    greeter: int,
) -> None:
    script = f"wget -qO- http://{cluster.host_address}:{greeter}/"
    await batch_api.create_namespaced_job(namespace, make_job("ask", cluster.image, script))
    assert await wait_for_end(batch_api, "ask", namespace) == "Complete"
    assert await read_log(core_api, "ask", namespace, "main") == "hello from the host\n"


async def test_failing_command_fails_the_job(
    cluster: ClusterLike, batch_api: client.BatchV1Api, namespace: str
) -> None:
    await batch_api.create_namespaced_job(namespace, make_job("fail", cluster.image, "exit 3"))
    assert await wait_for_end(batch_api, "fail", namespace) == "Failed"


async def test_pod_security_is_enforced(
    cluster: ClusterLike, core_api: client.CoreV1Api, namespace: str
) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "baseline"}
    await core_api.patch_namespace(namespace, {"metadata": {"labels": labels}})
    container = {
        "name": "main",
        "image": cluster.image,
        "securityContext": {"privileged": True},
    }
    pod = {"metadata": {"name": "privileged"}, "spec": {"containers": [container]}}
    with pytest.raises(client.exceptions.ForbiddenException, match="PodSecurity"):
        await core_api.create_namespaced_pod(namespace, pod)


async def test_apiserver_stops_and_starts(
    cluster: ClusterLike, core_api: client.CoreV1Api, namespace: str
) -> None:
    if not cluster.is_ours:
        pytest.skip("the cluster of KUBECONFIG is not ours to stop")
    cluster.stop_apiserver()
    try:
        with pytest.raises(aiohttp.ClientConnectionError):
            await core_api.read_namespace(namespace)
    finally:
        cluster.start_apiserver()
    assert (await core_api.read_namespace(namespace)).metadata.name == namespace


def test_images_are_the_same_each_time(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        make_images(folder)
    for name in ("busybox.tar", "pause.tar"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
