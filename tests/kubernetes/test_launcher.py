"""KubeJobLauncher on a real cluster: every way a job ends, and what its user is told."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.server
import json
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import kubernetes
import pytest
from kubernetes.aio import client

from kbatch_server.launchers.base import Launch, LauncherUnavailable, LaunchRefused, LogNotFound
from kbatch_server.launchers.kube.client import KubeClient, KubeUnavailable
from kbatch_server.launchers.kube.launcher import KubeJobLauncher
from kbatch_server.launchers.kube.manifests import job as objects
from kbatch_server.models.job import Job, JobSpec, JobStatus, Status
from kbatch_server.models.results import OutputLimits
from kbatch_server.models.secret import RegistryLogin
from kbatch_server.models.times import utcnow
from kbatch_server.models.user import User
from kbatch_server.profiles.spawner import make_spawner
from kbatch_server.slugs import make_job_id
from tests.support.cluster import ClusterLike
from tests.support.waiting import until
from tests.support.zips import make_zip

SECONDS = 60


@pytest.fixture
async def launcher(cluster: ClusterLike, namespace: str) -> AsyncIterator[KubeJobLauncher]:
    launcher = KubeJobLauncher(
        kubeconfig=str(cluster.kubeconfig),
        namespace=namespace,
        init_image=cluster.image,
        instance=namespace,
    )
    await launcher.open()
    await launcher.start(lambda job_id: None)
    yield launcher
    await launcher.stop()
    await launcher.close()


def bind(node: str, selector: dict[str, str]) -> Callable[..., None]:
    """Return a hook that sends a pod to a node, whatever the scheduler would say."""

    def hook(spawner: Any, pod: Any) -> None:
        pod.spec.node_name, pod.spec.node_selector = node, selector

    return hook


@pytest.fixture
def our_kubelet(cluster: ClusterLike) -> None:
    """A node that rotates a log of 256 KiB, each 3 seconds."""
    if not cluster.is_ours:
        pytest.skip("the kubelet of KUBECONFIG's cluster rotates at a size of its own")


@pytest.fixture
def make_job(cluster: ClusterLike) -> Callable[..., Job]:
    def make(script: str = "echo hello", **spec: Any) -> Job:
        fields: dict[str, Any] = {
            "image": cluster.image,
            "command": ["sh", "-c", script],
            "termination_grace_period_seconds": 1,
        }
        return Job(
            id=make_job_id("test"),
            user="Alice",
            name="test",
            spec=JobSpec(**(fields | spec)),
            created_at=utcnow(),
        )

    return make


@pytest.fixture
def code_server(cluster: ClusterLike) -> Iterator[tuple[str, str]]:
    """A server with one ZIP at /code.zip, and 404 elsewhere: its URL, and the ZIP's SHA-256."""
    body = make_zip({"main.sh": "echo from the zip in $(pwd); touch new", "folder/data.txt": "data\n"})

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path.startswith("/code.zip")
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(body if found else b"no")

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    with http.server.ThreadingHTTPServer(("", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{cluster.host_address}:{server.server_port}", hashlib.sha256(body).hexdigest()
        server.shutdown()


async def launch(launcher: KubeJobLauncher, job: Job, **kwargs: Any) -> None:
    job.state = await launcher.launch(job, Launch(**kwargs))


async def wait_until(
    launcher: KubeJobLauncher, job: Job, done: Callable[[JobStatus], bool], seconds: float = SECONDS
) -> JobStatus:
    """Wait until what is seen of a job is as wished, and print the words."""
    seen = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                seen = await launcher.poll(job)
                assert seen is not None
                if done(seen):
                    print(f"{seen.status.value} {seen.reason}: {seen.message}")
                    return seen
                await launcher.reflector.wait_change(job.state["namespace"], job.id, 1)  # type: ignore[arg-type]
    except TimeoutError:
        pytest.fail(f"still {seen!r}")


async def run(launcher: KubeJobLauncher, job: Job, **kwargs: Any) -> JobStatus:
    await launch(launcher, job, **kwargs)
    return await wait_until(launcher, job, lambda seen: seen.status.is_end)


async def wait_blocked(launcher: KubeJobLauncher, job: Job, reason: str) -> JobStatus:
    seen = await wait_until(launcher, job, lambda seen: seen.reason == reason)
    assert seen.status == Status.PENDING
    assert seen.blocked_since is not None
    assert abs((utcnow() - seen.blocked_since).total_seconds()) < SECONDS
    return seen


async def find_pod(launcher: KubeJobLauncher, job: Job) -> str:
    """Return the name of the job's newest pod, once it has one."""
    return (await wait_until(launcher, job, lambda seen: bool(seen.pods))).pods[-1].name


async def read(
    launcher: KubeJobLauncher, job: Job, pod: str = "", position: dict[str, Any] | None = None
) -> str:
    """Return the log of a pod, the newest if none is named, to its end."""
    pod = pod or await find_pod(launcher, job)
    async with asyncio.timeout(SECONDS):
        return b"".join([piece.data async for piece in launcher.read_log(job, pod, position)]).decode()


async def test_a_launch_is_three_requests_and_a_look_at_a_job_is_none(
    launcher: KubeJobLauncher, make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API server's time is what a launch costs; what becomes of jobs is told by its watches."""
    calls: list[tuple[str, str]] = []
    request = KubeClient._request

    async def count(self: KubeClient, method: str, path: str, **kwargs: Any) -> Any:
        calls.append((method, path.split("/")[-1] if method == "POST" else path.split("/")[-2]))
        return await request(self, method, path, **kwargs)

    monkeypatch.setattr(KubeClient, "_request", count)
    job = make_job("true")
    await launch(launcher, job, env={"A": "1"})
    assert calls == [("POST", "jobs"), ("POST", "secrets"), ("PATCH", "jobs")]
    calls.clear()
    assert (await wait_until(launcher, job, lambda seen: seen.status.is_end)).exit_code == 0
    assert calls == []


async def test_job_succeeds_with_env_and_no_secret_of_ours(
    launcher: KubeJobLauncher, make_job: Callable[..., Job], core_api: client.CoreV1Api
) -> None:
    job = make_job("echo $GREETING from $(pwd); env | grep CODE_URL; ls /var/run/secrets 2>/dev/null; true")
    seen = await run(launcher, job, env={"GREETING": "hello $(X) $$"})
    assert (seen.status, seen.exit_code) == (Status.SUCCEEDED, 0)
    assert seen.started_at is not None
    assert seen.ended_at is not None
    assert seen.started_at <= seen.ended_at
    assert [pod.exit_code for pod in seen.pods] == [0]
    assert await read(launcher, job) == "hello $(X) $$ from /\n"  # the image's folder, as there is no code
    secret = await core_api.read_namespaced_secret(job.id, job.state["namespace"])
    assert secret.metadata.owner_references[0].uid == job.state["uid"]
    assert {event.reason for event in await launcher.events(job)} >= {"Scheduled", "SuccessfulCreate"}


async def test_an_admins_containers_prepare_a_job_run_beside_it_and_end_with_it(
    launcher: KubeJobLauncher, make_job: Callable[..., Job], cluster: ClusterLike
) -> None:
    shared = {"name": "data", "mountPath": "/data"}
    prepare = {
        "name": "prepare",
        "image": cluster.image,
        "command": ["sh", "-c", "echo prepared for {unescaped_username} > /data/prepared"],
        "volumeMounts": [shared],
    }
    beside = {
        "name": "beside",
        "image": cluster.image,
        "command": [
            "sh",
            "-c",
            "trap 'exit 1' TERM; echo beside > /data/beside; while :; do sleep 0.1; done",
        ],
        "volumeMounts": [shared],
    }
    job = make_job(
        "while ! [ -e /data/beside ]; do sleep 0.1; done; cat /data/prepared /data/beside; echo $NODE; pwd",
        volumes=[{"name": "data", "emptyDir": {}}],
        volume_mounts=[shared],
        init_containers=[prepare],
        extra_containers=[beside],
        env_sources=[{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}],
        image_working_dir="/data",
        extra_pod_config={"hostname": "{username}"},
    )
    seen = await run(launcher, job)
    assert (seen.status, seen.exit_code) == (Status.SUCCEEDED, 0)
    expected = f"prepared for Alice\nbeside\n{job.state['namespace']}\n/data\n"
    assert await read(launcher, job) == expected


async def test_a_container_beside_a_job_that_ignores_its_end_is_told_and_can_be_stopped(
    launcher: KubeJobLauncher, make_job: Callable[..., Job], cluster: ClusterLike
) -> None:
    stubborn = {
        "name": "stubborn",
        "image": cluster.image,
        "command": ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"],
    }
    job = make_job(
        "exit 3",
        extra_containers=[stubborn],
        sidecar_timeout_seconds=1,
        termination_grace_period_seconds=5,
    )
    await launch(launcher, job)
    seen = await wait_until(launcher, job, lambda seen: seen.reason == "SidecarRunning")
    assert seen.exit_code == 3
    assert "the container stubborn, which is not the job's own" in seen.message
    assert seen.finish_at is not None
    await launcher.finish(job)
    seen = await wait_until(launcher, job, lambda seen: seen.status.is_end)
    assert (seen.status, seen.exit_code) == (Status.FAILED, 3)


async def test_exit_code(launcher: KubeJobLauncher, make_job: Callable[..., Job]) -> None:
    seen = await run(launcher, make_job("exit 3"))
    assert (seen.status, seen.reason, seen.exit_code) == (Status.FAILED, "Error", 3)
    assert seen.message == "The command ended with exit code 3."


async def test_out_of_memory(launcher: KubeJobLauncher, make_job: Callable[..., Job]) -> None:
    seen = await run(launcher, make_job("head -c 200m /dev/zero | tail", mem_limit=32 * 2**20))
    assert (seen.status, seen.reason) == (Status.FAILED, "OOMKilled")
    assert seen.message == "Out of memory: the limit is 32 MiB (mem_limit). Set a larger limit."


async def test_image_that_is_not_there(launcher: KubeJobLauncher, make_job: Callable[..., Job]) -> None:
    job = make_job(image="localhost/nope:1")
    await launch(launcher, job)
    seen = await wait_until(launcher, job, lambda seen: seen.reason in ("ErrImagePull", "ImagePullBackOff"))
    assert seen.status == Status.PENDING
    assert seen.blocked_since is not None
    assert seen.blocked_on == "start"
    assert seen.message.startswith('The image "localhost/nope:1" cannot be pulled: ')
    # it may yet start: whoever follows its log waits, until it is ended
    following = asyncio.create_task(read(launcher, job))
    done, _ = await asyncio.wait([following], timeout=1)
    assert not done
    await until(lambda: launcher.terminate(job))
    with pytest.raises(LogNotFound):
        await following


async def test_image_name_that_is_none(launcher: KubeJobLauncher, make_job: Callable[..., Job]) -> None:
    job = make_job(image="UPPER/case:1")
    await launch(launcher, job)
    # Kubernetes says InvalidImageName, or fails to pull it, depending on who finds it first
    seen = await wait_until(
        launcher, job, lambda seen: "UPPER" in seen.message and seen.blocked_since is not None
    )
    assert seen.message == '"UPPER/case:1" is not a valid image name.'


async def test_command_that_is_not_there(launcher: KubeJobLauncher, make_job: Callable[..., Job]) -> None:
    job = make_job(command=["nosuchprogram", "--help"])
    seen = await run(launcher, job)
    assert (seen.status, seen.reason, seen.exit_code) == (Status.FAILED, "StartError", 127)
    assert seen.message == (
        'The command "nosuchprogram" cannot be started: '
        f'the program does not exist in the image "{job.spec.image}".'
    )
    assert await read(launcher, job) == ""


async def test_no_node_has_room(launcher: KubeJobLauncher, make_job: Callable[..., Job]) -> None:
    job = make_job(cpu_limit=1000)
    await launch(launcher, job)
    seen = await wait_blocked(launcher, job, "Unschedulable")
    assert seen.blocked_on == "schedule"
    assert seen.message == (
        "No node has room: the job requests 1000 CPUs, and the only node does not have enough CPU free."
    )
    job = make_job(node_selector={"gpu": "a100"})
    await launch(launcher, job)
    seen = await wait_blocked(launcher, job, "Unschedulable")
    assert "a node with gpu=a100" in seen.message


async def test_deadline(launcher: KubeJobLauncher, make_job: Callable[..., Job]) -> None:
    seen = await run(launcher, make_job("sleep 1000", active_deadline_seconds=3))
    assert (seen.status, seen.reason) == (Status.FAILED, "DeadlineExceeded")
    assert seen.message == (
        "The job exceeded its time limit of 3 seconds (active_deadline_seconds) and was stopped."
    )


async def test_quota(
    launcher: KubeJobLauncher, make_job: Callable[..., Job], core_api: client.CoreV1Api, namespace: str
) -> None:
    quota = {"metadata": {"name": "compute"}, "spec": {"hard": {"limits.memory": "64Mi"}}}
    await core_api.create_namespaced_resource_quota(namespace, quota)
    await wait_for_quota(core_api, namespace)
    job = make_job(mem_limit=128 * 2**20)
    await launch(launcher, job)
    seen = await wait_blocked(launcher, job, "FailedCreate")
    assert seen.blocked_on == "start"
    assert seen.message == (
        'The ResourceQuota "compute" leaves no room: the job requests 128 MiB of memory of at most 64 MiB.'
    )
    # one that fits runs, and another waits until it has ended
    small, waiting = make_job("sleep 1000", mem_limit=48 * 2**20), make_job(mem_limit=48 * 2**20)
    await launch(launcher, small)
    await wait_until(launcher, small, lambda seen: seen.status == Status.RUNNING)
    await launch(launcher, waiting)
    assert (await wait_blocked(launcher, waiting, "FailedCreate")).blocked_on == "schedule"


async def wait_for_quota(core_api: client.CoreV1Api, namespace: str) -> None:
    async def is_counted() -> bool:
        return bool((await core_api.read_namespaced_resource_quota("compute", namespace)).status.hard)

    await until(is_counted)


async def test_admission(
    launcher: KubeJobLauncher, make_job: Callable[..., Job], core_api: client.CoreV1Api, namespace: str
) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    await core_api.patch_namespace(namespace, {"metadata": {"labels": labels}})
    job = make_job()
    await launch(launcher, job)
    seen = await wait_blocked(launcher, job, "FailedCreate")
    assert seen.blocked_on == "start"
    assert seen.message.startswith("The cluster's Pod Security Standard (restricted) denies the pod")
    # what the administrator sets to satisfy them does so
    job = make_job(
        pod_security_context={"runAsNonRoot": True, "runAsUser": 1000},
        container_security_context={"capabilities": {"drop": ["ALL"]}},
    )
    assert (await run(launcher, job)).status == Status.SUCCEEDED


async def test_evicted_job_starts_again(
    launcher: KubeJobLauncher, make_job: Callable[..., Job], core_api: client.CoreV1Api, namespace: str
) -> None:
    job = make_job("trap 'exit 1' TERM; sleep 1000 & wait", retries=1)
    await launch(launcher, job)
    seen = await wait_until(launcher, job, lambda seen: seen.status == Status.RUNNING)
    name = seen.pods[0].name
    eviction = {"metadata": {"name": name, "namespace": namespace}}
    await core_api.create_namespaced_pod_eviction(name, namespace, eviction)
    seen = await wait_until(launcher, job, lambda seen: seen.reason == "Evicted")
    assert seen.status == Status.PENDING
    assert seen.message == (
        "The job was stopped: its pod was evicted, for example because an admin drains the node. The "
        "job will be restarted."
    )
    seen = await wait_until(launcher, job, lambda seen: len(seen.pods) == 2 and seen.status == Status.RUNNING)
    assert seen.pods[0].name == name


async def test_pod_deleted_by_hand(
    launcher: KubeJobLauncher, make_job: Callable[..., Job], core_api: client.CoreV1Api, namespace: str
) -> None:
    job = make_job("sleep 1000")
    await launch(launcher, job)
    seen = await wait_until(launcher, job, lambda seen: seen.status == Status.RUNNING)
    await core_api.delete_namespaced_pod(seen.pods[0].name, namespace)
    seen = await wait_until(launcher, job, lambda seen: seen.status.is_end)
    assert (seen.status, seen.reason) == (Status.FAILED, "Deleted")
    assert seen.message == "The pod was deleted from outside this service."


async def test_retries(launcher: KubeJobLauncher, make_job: Callable[..., Job]) -> None:
    job = make_job("exit 7", retries=1)
    await launch(launcher, job)
    seen = await wait_until(launcher, job, lambda seen: "Attempt 2 of 2 starts soon." in seen.message)
    assert seen.status == Status.PENDING
    seen = await wait_until(launcher, job, lambda seen: seen.status.is_end)
    assert seen.message == "The command ended with exit code 7. That was attempt 2 of 2."
    assert [pod.exit_code for pod in seen.pods] == [7, 7]


async def test_code_is_fetched(
    launcher: KubeJobLauncher, make_job: Callable[..., Job], code_server: tuple[str, str]
) -> None:
    url, sha256 = code_server
    job = make_job("sh main.sh && cat folder/data.txt && ls -a", upload="u")
    seen = await run(launcher, job, code_url=f"{url}/code.zip?signature=secret", code_sha256=sha256)
    assert seen.status == Status.SUCCEEDED
    assert await read(launcher, job) == "from the zip in /code\ndata\n.\n..\nfolder\nmain.sh\nnew\n"


@pytest.mark.parametrize(
    ("path", "sha256", "words"),
    [
        ("/nope", None, "the service answered 404 Not Found"),
        ("/code.zip", "0" * 64, "the SHA-256 of the ZIP differs from that of the upload"),
    ],
)
async def test_code_fetch_fails(
    launcher: KubeJobLauncher,
    make_job: Callable[..., Job],
    code_server: tuple[str, str],
    path: str,
    sha256: str | None,
    words: str,
) -> None:
    url = f"{code_server[0]}{path}?signature=secret"
    job = make_job(upload="u")
    seen = await run(launcher, job, code_url=url, code_sha256=sha256 or code_server[1])
    assert (seen.status, seen.reason) == (Status.FAILED, "CodeFetchFailed")
    assert seen.message == f"The code could not be fetched: {words}."
    assert seen.exit_code is None
    with pytest.raises(LogNotFound):
        await read(launcher, job)


async def test_launching_twice_makes_one_job(
    launcher: KubeJobLauncher,
    make_job: Callable[..., Job],
    batch_api: client.BatchV1Api,
    namespace: str,
) -> None:
    job = make_job("echo once; sleep 1000")
    states = await asyncio.gather(
        *(launcher.launch(job, Launch(env={"A": "1"})) for _ in range(3)), return_exceptions=True
    )
    job.state = await launcher.launch(job, Launch(env={"A": "1"}))
    assert all(state == job.state or isinstance(state, LauncherUnavailable) for state in states)
    await wait_until(launcher, job, lambda seen: seen.status == Status.RUNNING)
    await launch(launcher, job, env={"A": "1"})
    assert len((await batch_api.list_namespaced_job(namespace)).items) == 1
    seen = await launcher.poll(job)
    assert seen is not None
    assert [pod.phase for pod in seen.pods] == ["Running"]


async def test_launch_repairs_one_that_was_cut_short(
    launcher: KubeJobLauncher, make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job("echo $TOKEN")

    async def cut_short(*args: object, **kwargs: object) -> None:
        raise LauncherUnavailable("killed here")

    with monkeypatch.context() as patch:
        patch.setattr("kbatch_server.launchers.kube.launcher.ensure_secrets", cut_short)
        with pytest.raises(LauncherUnavailable):
            await launcher.launch(job, Launch(env={"TOKEN": "old"}))
    with monkeypatch.context() as patch:
        patch.setattr(launcher.client, "patch", cut_short)
        with pytest.raises(LauncherUnavailable):
            await launcher.launch(job, Launch(env={"TOKEN": "old"}))
    seen = await launcher.poll(job)
    assert seen is not None
    assert (seen.status, seen.reason) == (Status.PENDING, "Suspended")
    assert (await run(launcher, job, env={"TOKEN": "new"})).status == Status.SUCCEEDED
    assert await read(launcher, job) == "new\n"


async def test_what_others_made_is_left_alone(
    launcher: KubeJobLauncher, make_job: Callable[..., Job], batch_api: client.BatchV1Api, namespace: str
) -> None:
    job = make_job("sleep 1000")
    theirs = objects.make_job(
        job,
        env_names=[],
        namespace=namespace,
        instance="other",
        init_image=job.spec.image,
        output_limits=OutputLimits(),
    )
    made = await batch_api.create_namespaced_job(namespace, theirs)
    with pytest.raises(LaunchRefused) as refused:
        await launcher.launch(job, Launch())
    assert refused.value.reason == "AlreadyExists"
    assert await launcher.poll(job) is None
    assert await launcher.terminate(job)
    assert (await batch_api.read_namespaced_job(job.id, namespace)).metadata.uid == made.metadata.uid


async def test_refused_for_good(launcher: KubeJobLauncher, make_job: Callable[..., Job]) -> None:
    job = make_job(volume_mounts=[{"name": "nope", "mountPath": "/data"}])
    with pytest.raises(LaunchRefused) as refused:
        await launcher.launch(job, Launch())
    print(refused.value.message)
    assert refused.value.reason == "Invalid"
    assert "volumeMounts" in refused.value.message
    launcher.namespace = f"nope-{secrets.token_hex(4)}"
    with pytest.raises(LaunchRefused) as refused:
        await launcher.launch(make_job(), Launch())
    print(refused.value.message)
    assert refused.value.reason == "NamespaceNotFound"


async def test_a_namespace_for_each_user(
    cluster: ClusterLike, make_job: Callable[..., Job], core_api: client.CoreV1Api, namespace: str
) -> None:
    launcher = KubeJobLauncher(
        kubeconfig=str(cluster.kubeconfig),
        enable_user_namespaces=True,
        user_namespace_template=f"{namespace}-{{username}}",
        instance=namespace,
        init_image=cluster.image,
    )
    await launcher.open()
    await launcher.start(lambda job_id: None)
    job = make_job()
    try:
        async with asyncio.timeout(SECONDS):
            await launch(launcher, job)
        assert str(job.state["namespace"]).startswith(f"{namespace}-alice---")
        await wait_until(launcher, job, lambda seen: seen.status == Status.SUCCEEDED)
        assert await launcher.launch(job, Launch()) == job.state
        # where jobs run now does not matter to one that was launched
        launcher.enable_user_namespaces = False
        assert await read(launcher, job) == "hello\n"
    finally:
        await launcher.stop()
        await launcher.close()
        await core_api.delete_namespace(str(job.state["namespace"]))


@pytest.mark.parametrize("when", ["pending", "running", "finished"])
async def test_terminate(
    launcher: KubeJobLauncher,
    make_job: Callable[..., Job],
    core_api: client.CoreV1Api,
    namespace: str,
    when: str,
) -> None:
    job = {
        "pending": make_job(cpu_limit=1000),
        "running": make_job("sleep 1000"),
        "finished": make_job("true"),
    }[when]
    await launch(launcher, job)
    status = {"pending": Status.PENDING, "running": Status.RUNNING, "finished": Status.SUCCEEDED}[when]
    await wait_until(launcher, job, lambda seen: seen.status == status)
    assert await launcher.terminate(job) is False
    await until(lambda: launcher.terminate(job))
    assert (await core_api.list_namespaced_pod(namespace)).items == []
    assert await launcher.poll(job) is None

    async def secret_is_gone() -> bool:  # the garbage collector's part
        return not (await core_api.list_namespaced_secret(namespace)).items

    await until(secret_is_gone)
    with pytest.raises(LogNotFound):
        await read(launcher, job, pod=f"{job.id}-0-abcde")


async def test_log_is_followed_from_before_its_start_and_read_on_from_any_place(
    launcher: KubeJobLauncher, make_job: Callable[..., Job]
) -> None:
    job = make_job("for i in 1 2 3 4 5; do echo line $i; sleep 0.3; done; printf 'no newline at the end'")
    await launch(launcher, job)
    pod = await find_pod(launcher, job)
    pieces = [piece async for piece in launcher.read_log(job, pod, None)]
    whole = "".join(f"line {i}\n" for i in range(1, 6)) + "no newline at the end"
    assert b"".join(piece.data for piece in pieces).decode() == whole
    times = [piece.time for piece in pieces if piece.time is not None]
    assert times == sorted(times)
    assert abs((utcnow() - times[0]).total_seconds()) < SECONDS
    done = 0
    for piece in pieces:
        done += len(piece.data)
        position = json.loads(json.dumps(piece.position))
        assert await read(launcher, job, pod, position) == whole[done:]
    with pytest.raises(LogNotFound):
        await read(launcher, job, pod="another")


@pytest.mark.usefixtures("our_kubelet")
async def test_log_that_the_kubelet_rotates_is_followed_whole(
    launcher: KubeJobLauncher, make_job: Callable[..., Job]
) -> None:
    # each time 50 KB, which are rotated at 256 KiB
    job = make_job(
        "for j in $(seq 80); do for i in $(seq 1000); do echo $j line $i of the log ................; done;"
        "sleep 0.2; done"
    )
    await launch(launcher, job)
    lines = (await read(launcher, job)).splitlines()
    expected = [f"{j} line {i} of the log ................" for j in range(1, 81) for i in range(1, 1001)]
    assert lines == expected


@pytest.mark.usefixtures("our_kubelet")
async def test_log_that_is_rotated_while_it_is_read_for_the_first_time_goes_on(
    cluster: ClusterLike,
    launcher: KubeJobLauncher,
    make_job: Callable[..., Job],
    core_api: client.CoreV1Api,
) -> None:
    """The kubelet does not notice it: it watches for a rotation once it has read the log to its end."""
    text, is_waiting, may_go_on = "7" * 2000, asyncio.Event(), asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_waiting.set()
        await may_go_on.wait()
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
        writer.close()

    async def is_rotated() -> bool:
        return (await core_api.read_namespaced_pod_log(*where, limit_bytes=1)) != "7"

    async def is_written() -> bool:
        return "1" in await core_api.read_namespaced_pod_log(*where, tail_lines=1)

    async with asyncio.timeout(SECONDS), await asyncio.start_server(hold, "0.0.0.0", 0) as server:
        # right after a rotation more than all buffers on the way take, then lines too few to be rotated
        url = f"http://{cluster.host_address}:{server.sockets[0].getsockname()[1]}"
        job = make_job(
            f"set -e; yes {text} | head -n 1000; wget -q -O - {url}; yes {text} | head -n 20000;"
            "for i in $(seq 60); do echo $i; sleep 0.1; done"
        )
        await launch(launcher, job)
        seen = await wait_until(launcher, job, lambda seen: seen.status == Status.RUNNING)
        where, lines, at_50 = (seen.pods[-1].name, job.state["namespace"]), bytearray(), None
        await is_waiting.wait()
        await until(is_rotated)
        may_go_on.set()
        await until(is_written)
        async with aclosing(launcher.read_log(job, where[0], None)) as pieces:
            async for piece in pieces:
                if not lines:
                    await until(is_rotated)
                lines += piece.data
                if not at_50 and b"\n50\n" in lines[-100:]:
                    at_50 = await launcher.poll(job)
    assert lines.split() == [text.encode()] * 20000 + [b"%d" % n for n in range(1, 61)]
    assert at_50 is not None
    assert at_50.status == Status.RUNNING


@pytest.mark.usefixtures("our_kubelet")
async def test_log_that_is_rotated_while_nobody_takes_it_says_what_is_missing_and_repeats_nothing(
    launcher: KubeJobLauncher, make_job: Callable[..., Job], core_api: client.CoreV1Api
) -> None:
    """As when the storage is away. The kubelet goes on with the newest file, once for each rotation."""
    # each time 2 MB; not before somebody reads
    job = make_job(
        "sleep 2;"
        f"for i in $(seq 75); do for j in $(seq 100 999); do echo $i$j {'7' * 2000}; done; sleep 0.3; done"
    )
    await launch(launcher, job)
    rest, words = b"", list[str]()
    where = await find_pod(launcher, job), job.state["namespace"]

    async def read_start() -> str:
        """Return how the newest file of the log begins."""
        return str(await core_api.read_namespaced_pod_log(*where, limit_bytes=8))

    async def wait_for_rotations(count: int, lines: int) -> None:
        starts = set[str]()

        async def are_enough() -> bool:
            start = await read_start()
            if not start[:1].isdigit():  # a new file is empty at first, or not there: "failed to ..."
                return False
            starts.add(start)
            # a busy node rotates small files, which the buffers on the way may take
            number = int(start.split()[0])
            return len(starts) > count and (number // 1000 - 1) * 900 + number % 1000 - 100 > lines

        await until(are_enough)

    log = launcher.read_log(job, where[0], None)
    async with asyncio.timeout(SECONDS), aclosing(log) as pieces:
        async for piece in pieces:
            *lines, rest = (rest + piece.data).split(b"\n")
            if len(words) < 5000 <= len(words) + len(lines):
                # the two connections on the way may hold 36 MB each (tcp_rmem and tcp_wmem, 32 and 4)
                await wait_for_rotations(3, lines=58_000)
            words += [line.partition(b" ")[0].decode() for line in lines]
    expected = [f"{i}{j}" for i in range(1, 76) for j in range(100, 1000)]
    gaps = [at for at, word in enumerate(words) if word == "[..."]
    assert gaps
    begin, end = gaps[0], len(words) - gaps[-1] - 1
    # the runtime cuts a line where it begins another file of the log, which then begins with its rest
    last, first = words[begin - 1], words[gaps[-1] + 1]
    assert words[: begin - 1] == expected[: begin - 1]
    assert expected[begin - 1].startswith(last)
    assert expected[-end].endswith(first) or set(first) == {"7"}
    assert words[gaps[-1] + 2 :] == expected[1 - end :]
    assert begin + end < len(expected)


async def test_a_replica_that_does_not_lead_shows_events_and_may_lead_later(
    launcher: KubeJobLauncher, make_job: Callable[..., Job]
) -> None:
    job = make_job("echo hello; exec sleep 60")
    await launch(launcher, job)
    await wait_until(launcher, job, lambda seen: seen.status == Status.RUNNING)
    known = {(event.reason, event.message) for event in await launcher.events(job)}
    other = KubeJobLauncher(
        kubeconfig=launcher.kubeconfig, namespace=launcher.namespace, instance=launcher.instance
    )
    await other.open()
    async with asyncio.timeout(10):  # the watches, which it has none of, are not waited for
        shown = await other.events(job)
    assert known
    assert {(event.reason, event.message) for event in shown} >= known
    for _ in range(2):  # the lead may come and go
        await launcher.stop()
        await other.start(lambda job_id: None)
        assert (await wait_until(other, job, lambda seen: seen.status == Status.RUNNING)).pods
        assert other.reflector.is_healthy
        await other.stop()
        await launcher.start(lambda job_id: None)
        assert (await wait_until(launcher, job, lambda seen: seen.status == Status.RUNNING)).pods
    await other.close()


async def test_followed_log_survives_the_api_server(
    cluster: ClusterLike, launcher: KubeJobLauncher, make_job: Callable[..., Job]
) -> None:
    if not cluster.is_ours:
        pytest.skip("the cluster of KUBECONFIG is not ours to stop")
    job = make_job("for i in $(seq 1 60); do echo line $i; sleep 0.1; done")
    await launch(launcher, job)
    await wait_until(launcher, job, lambda seen: seen.status == Status.RUNNING)
    pod = await find_pod(launcher, job)
    following = asyncio.create_task(read(launcher, job, pod))
    async with aclosing(launcher.read_log(job, pod, None)) as pieces:  # type: ignore[type-var]
        await anext(pieces)
    await asyncio.to_thread(cluster.stop_apiserver)
    seen = await poll_or_none(launcher, job)
    assert seen is None or seen.status == Status.RUNNING
    await asyncio.to_thread(cluster.start_apiserver)
    async with asyncio.timeout(SECONDS):
        assert await following == "".join(f"line {i}\n" for i in range(1, 61))
    await wait_until(launcher, job, lambda seen: seen.status == Status.SUCCEEDED)


async def test_a_job_that_ran_when_its_node_refused_it_is_not_one_that_never_began(
    cluster: ClusterLike,
    launcher: KubeJobLauncher,
    make_job: Callable[..., Job],
    core_api: client.CoreV1Api,
) -> None:
    """A kubelet that is started again refuses what runs there, too, and may leave no trace of that it ran."""
    if not cluster.is_ours:
        pytest.skip("the kubelet of KUBECONFIG's cluster is not ours to stop")
    [node] = (await core_api.list_node()).items
    job = make_job("sleep 1000", node_selector={"kbatch-test": job_label(launcher)})

    async def label(value: str | None) -> None:
        await core_api.patch_node(node.metadata.name, {"metadata": {"labels": {"kbatch-test": value}}})

    await label(job_label(launcher))
    await launch(launcher, job)
    await wait_until(launcher, job, lambda seen: seen.status == Status.RUNNING)
    await label(None)
    await asyncio.to_thread(cluster.stop_kubelet)
    await asyncio.to_thread(cluster.start_kubelet)
    seen = await wait_until(launcher, job, lambda seen: seen.status.is_end)
    assert seen.status == Status.FAILED
    assert not seen.never_began
    never = make_job("true")
    launcher.modify_pod_hook = bind(node.metadata.name, {"kbatch-test": "none"})
    seen = await run(launcher, never)
    assert (seen.reason, seen.never_began, seen.pods) == ("NodeAffinity", True, [])


async def test_an_attempt_that_its_node_refused_takes_none_of_the_retries(
    launcher: KubeJobLauncher,
    make_job: Callable[..., Job],
    core_api: client.CoreV1Api,
    batch_api: client.BatchV1Api,
) -> None:
    [node] = (await core_api.list_node()).items
    label = f"kbatch-test/{job_label(launcher)}"
    # sent to the node whether it has the label or not, as if it had lost it just then
    launcher.modify_pod_hook = bind(node.metadata.name, {label: "there"})
    job = make_job("exit 3", retries=1)
    await launch(launcher, job)
    seen = await wait_until(launcher, job, lambda seen: seen.reason == "NodeAffinity")
    assert (seen.status, seen.pods) == (Status.PENDING, [])
    assert seen.message.endswith("The job will be restarted.")
    assert seen.held_until is not None
    await launcher.release(job)
    made = await batch_api.read_namespaced_job(job.id, job.state["namespace"])
    assert made.spec.backoff_limit == 2
    await core_api.patch_node(node.metadata.name, {"metadata": {"labels": {label: "there"}}})
    try:
        seen = await wait_until(launcher, job, lambda seen: seen.status.is_end, seconds=2 * SECONDS)
    finally:
        await core_api.patch_node(node.metadata.name, {"metadata": {"labels": {label: None}}})
    assert (seen.status, seen.exit_code, len(seen.pods)) == (Status.FAILED, 3, 2)
    assert seen.message == "The command ended with exit code 3. That was attempt 2 of 2."


def job_label(launcher: KubeJobLauncher) -> str:
    return launcher.instance


async def poll_or_none(launcher: KubeJobLauncher, job: Job) -> JobStatus | None:
    try:
        seen = await launcher.poll(job)
    except LauncherUnavailable:
        return None
    assert seen is not None, "an API server that is away is no word that the job is gone"
    return seen


async def test_dropped_streams_leave_nothing(launcher: KubeJobLauncher, make_job: Callable[..., Job]) -> None:
    job = make_job("echo begun; sleep 1000")
    await launch(launcher, job)
    await wait_until(launcher, job, lambda seen: seen.status == Status.RUNNING)
    before = len(asyncio.all_tasks()), count_connections(launcher)
    pod = await find_pod(launcher, job)
    streams = [launcher.read_log(job, pod, None) for _ in range(60)]
    await asyncio.gather(*(anext(stream) for stream in streams))
    waiting = [asyncio.ensure_future(anext(stream)) for stream in streams[:30]]
    await asyncio.sleep(0)
    assert count_connections(launcher) >= 60
    for task in waiting:  # readers that are cut off while they wait for more
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for stream in streams[30:]:  # readers that stop by themselves
        await stream.aclose()  # type: ignore[attr-defined]
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) <= before[0]
    assert count_connections(launcher) <= before[1]


def count_connections(launcher: KubeJobLauncher) -> int:
    """Connections in use, as aiohttp's pool counts them."""
    pool = launcher.client._api.rest_client.pool_manager
    return len(pool.connector._acquired)


async def test_many_jobs_at_once(launcher: KubeJobLauncher, make_job: Callable[..., Job]) -> None:
    launcher.max_launches_per_second = 0
    jobs = [make_job("true") for _ in range(12)]
    await asyncio.gather(*(launch(launcher, job, env={"A": "1"}) for job in jobs))
    seen = await asyncio.gather(*(wait_until(launcher, job, lambda seen: seen.status.is_end) for job in jobs))
    assert {each.status for each in seen} == {Status.SUCCEEDED}


async def test_modify_pod_hook(launcher: KubeJobLauncher, make_job: Callable[..., Job]) -> None:
    async def hook(spawner: Any, pod: Any) -> Any:
        pod.spec.containers[0].env.append(
            kubernetes.client.V1EnvVar(name="FROM_HOOK", value=spawner.user.name)
        )
        pod.metadata.labels["team"] = spawner.namespace
        return pod

    launcher.modify_pod_hook = hook
    job = make_job("echo $FROM_HOOK")
    spawner = make_spawner(User(job.user), job_id=job.id)
    job.state = await launcher.launch(job, Launch(spawner=spawner))
    seen = await wait_until(launcher, job, lambda seen: seen.status.is_end)
    assert seen.status == Status.SUCCEEDED
    assert await read(launcher, job) == "Alice\n"


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"uid": 1234, "gid": 1234}, "-r--r--r-- 0 0"),
        ({"uid": 1234, "gid": 1234, "fs_gid": 555}, "-r--r----- 0 555"),
        ({}, "-r--r--r-- 0 0"),
    ],
    ids=["user", "user-and-group", "root"],
)
async def test_a_job_reads_its_secret_files_whichever_user_it_runs_as(
    launcher: KubeJobLauncher, make_job: Callable[..., Job], fields: dict[str, Any], shown: str
) -> None:
    script = (
        'cd $KBATCH_SECRETS_DIR; pwd; stat -Lc "%A %u %g" key.json; cat key.json; echo $TOKEN; ls;'
        "touch new 2>/dev/null || echo read-only"
    )
    job = make_job(script, secret_files={"key.json": "gcp"}, secret_env={"TOKEN": "token"}, **fields)
    seen = await run(launcher, job, env={"TOKEN": "s3cr3t"}, secret_files={"key.json": "line 1\nline 2\n"})
    assert (seen.status, seen.exit_code) == (Status.SUCCEEDED, 0)
    lines = (await read(launcher, job)).splitlines()
    assert lines == ["/kbatch-secrets", shown, "line 1", "line 2", "s3cr3t", "key.json", "read-only"]


@pytest.mark.parametrize("cut", ["before-the-credentials", "before-it-is-resumed"])
async def test_registry_credentials_are_a_pull_secret_that_goes_with_the_job(
    launcher: KubeJobLauncher,
    make_job: Callable[..., Job],
    core_api: client.CoreV1Api,
    monkeypatch: pytest.MonkeyPatch,
    cut: str,
) -> None:
    job = make_job("sleep 300", registry_secrets=["quay"], image_pull_secrets=["of-the-admin"])
    earlier = RegistryLogin(server="quay.io", username="alice", password="expired")
    login = RegistryLogin(server="quay.io", username="alice", password="hunter22")

    create = launcher.client.ensure_created

    async def fail(*args: Any) -> None:
        raise KubeUnavailable("the service was cut off")

    async def create_but_the_last(path: str, manifest: dict[str, Any], **kwargs: Any) -> Any:
        if manifest.get("type") == "kubernetes.io/dockerconfigjson":
            await fail()
        return await create(path, manifest, **kwargs)

    # a launch that is cut short; the next one has newer credentials
    with monkeypatch.context() as broken:
        if cut == "before-it-is-resumed":
            broken.setattr(launcher.client, "patch", fail)
        else:
            broken.setattr(launcher.client, "ensure_created", create_but_the_last)
        with pytest.raises(LauncherUnavailable):
            await launch(launcher, job, env={"A": "1"}, registries=(earlier,))
    await launch(launcher, job, env={"A": "1"}, registries=(login,))
    namespace = str(job.state["namespace"])
    secret = await core_api.read_namespaced_secret(f"{job.id}-registry", namespace)
    assert secret.type == "kubernetes.io/dockerconfigjson"
    assert secret.metadata.owner_references[0].uid == job.state["uid"]
    auths = json.loads(base64.b64decode(secret.data[".dockerconfigjson"]))["auths"]
    assert auths["quay.io"]["password"] == "hunter22"
    pod = await core_api.read_namespaced_pod(await find_pod(launcher, job), namespace)
    assert [each.name for each in pod.spec.image_pull_secrets] == [f"{job.id}-registry", "of-the-admin"]
    assert "hunter22" not in str(pod)
    await until(lambda: launcher.terminate(job))

    async def are_gone() -> bool:
        left = await core_api.list_namespaced_secret(namespace)
        return not [each for each in left.items if each.metadata.name.startswith(job.id)]

    await until(are_gone)
