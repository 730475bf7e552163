"""The sidecar that sends results: its manifest, and its script run by this machine's busybox."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import ssl
import subprocess
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from test_kube_objects import ACCOUNT, make, pod_of
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler, stream_request_body

from kbatch_server.kube import sidecar
from kbatch_server.kube.sidecar import SEND_SCRIPT, explain_unsent
from tests.cluster.images import find_busybox

APPLETS = ("sh", "nc", "tar", "timeout", "sed", "wc", "sleep", "ssl_client")
SECONDS = 30


def test_a_job_whose_results_are_kept_has_a_sidecar_and_a_place_for_them() -> None:
    manifest = make(
        env_names=["A", "KBATCH_OUTPUT_DIR"],
        upload="u1",
        code_sha256="abc",
        keep_outputs=True,
        output_timeout_seconds=100,
        termination_grace_period_seconds=5,
        active_deadline_seconds=60,
        cpu_limit=2,
        mem_guarantee=2**20,
        extra_resource_limits={"nvidia.com/gpu": "1"},
        container_security_context={"capabilities": {"drop": ["ALL"]}},
        sidecar_resources={"limits": {"cpu": "100m"}},
        volumes=[{"name": "home", "emptyDir": {}}],
        volume_mounts=[{"name": "home", "mountPath": "/home"}],
    )
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod, plain = pod_of(manifest), pod_of(make(upload="u1"))
    assert manifest["spec"]["activeDeadlineSeconds"] == 160
    assert pod["terminationGracePeriodSeconds"] == 105
    assert [each["name"] for each in pod["initContainers"]] == ["fetch-code", "keep-outputs"]
    assert pod["initContainers"][1] == {
        "name": "keep-outputs",
        "image": "busybox:1.36",
        "restartPolicy": "Always",
        "command": ["sh", "-c", SEND_SCRIPT],
        "env": [
            {
                "name": "KBATCH_OUTPUTS_URL",
                "valueFrom": {"secretKeyRef": {"name": "train-1", "key": "outputs-url"}},
            }
        ],
        "resources": {"limits": {"cpu": "100m"}},
        "securityContext": security,
        "volumeMounts": [{"name": "kbatch-outputs", "mountPath": "/kbatch-outputs", "readOnly": True}],
    }
    [main] = pod["containers"]
    assert main["env"] == [
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "train-1", "key": "env.A"}}},
        *ACCOUNT,
        {"name": "KBATCH_OUTPUT_DIR", "value": "/kbatch-outputs"},
    ]
    assert main["volumeMounts"] == [
        {"name": "kbatch-code", "mountPath": "/code"},
        {"name": "kbatch-outputs", "mountPath": "/kbatch-outputs"},
        {"name": "home", "mountPath": "/home"},
    ]
    assert pod["volumes"] == [
        {"name": "kbatch-code", "emptyDir": {}},
        {"name": "kbatch-outputs", "emptyDir": {}},
        {"name": "home", "emptyDir": {}},
    ]
    assert "kbatch-outputs" not in str(plain)


def make_pod(message: str | None) -> dict:
    state = {"terminated": {"exitCode": 137, "message": message}} if message is not None else {"running": {}}
    return {"status": {"initContainerStatuses": [{"name": sidecar.KEEP_CONTAINER, "state": state}]}}


@pytest.mark.parametrize(
    ("pods", "said"),
    [
        ([], "They were not sent before its pod ended."),
        ([make_pod("")], "They were not sent before its pod ended."),
        (
            [make_pod("old"), make_pod("the service answered 503\n")],
            "They were not sent before its pod ended: the service answered 503.",
        ),
    ],
)
def test_results_that_were_not_sent_are_explained_by_the_sidecars_last_word(pods, said) -> None:
    assert explain_unsent(pods) == said


# The script


@stream_request_body
class SinkHandler(RequestHandler):
    """Takes what is posted, and answers with the statuses that a test lined up."""

    async def prepare(self) -> None:
        self.request.connection.set_max_body_size(2**30)
        self.body = bytearray()
        sink = self.settings["sink"]
        sink.requests.append(self)
        if sink.statuses and sink.statuses[0] == 413:
            self.send_error(sink.statuses.pop(0))

    def data_received(self, chunk: bytes) -> None:
        self.body += chunk

    def post(self) -> None:
        statuses = self.settings["sink"].statuses
        self.set_status(statuses.pop(0) if statuses else 200)
        self.write("ok")


class Sink:
    """A server for results, over http or https."""

    def __init__(self, options: ssl.SSLContext | None = None, *, statuses: tuple[int, ...] = ()) -> None:
        self.statuses = list(statuses)
        self.requests: list[SinkHandler] = []
        application = Application([("/up/signed.x", SinkHandler)], sink=self, log_function=lambda _: None)
        self.server = HTTPServer(application, ssl_options=options)
        self.sockets = bind_sockets(0, "127.0.0.1")
        self.port = self.sockets[0].getsockname()[1]

    def start(self) -> None:
        self.server.add_sockets(self.sockets)

    async def stop(self) -> None:
        self.server.stop()
        for sock in self.sockets:
            sock.close()
        await self.server.close_all_connections()

    def files(self) -> dict[str, bytes]:
        with tarfile.open(fileobj=io.BytesIO(self.requests[-1].body)) as archive:
            return {
                member.name: archive.extractfile(member).read()  # type: ignore[union-attr]
                for member in archive
                if member.isreg()
            }


class Sidecar:
    """The script, run as the pod would run it, in a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.outputs = folder / "outputs"
        self.log = folder / "log"
        self.printed = folder / "printed"
        self._output = self.printed.open("wb")
        self.outputs.mkdir()
        (folder / "bin").mkdir()
        busybox = find_busybox()
        assert busybox is not None, "no busybox (Debian: busybox-static)"
        for applet in APPLETS:
            (folder / "bin" / applet).symlink_to(busybox)
        self._path = f"{folder}/bin"
        script = SEND_SCRIPT.replace("/kbatch-outputs", str(self.outputs))
        self._script = script.replace("/dev/termination-log", str(self.log))

    def __enter__(self) -> Sidecar:
        return self

    def __exit__(self, *_: object) -> None:
        self._output.close()

    async def run(self, url: str, *, seconds: float = SECONDS) -> int:
        """Start it, tell it that the command has ended, and return its exit code."""
        process = await asyncio.create_subprocess_exec(
            f"{self._path}/sh",
            "-c",
            self._script,
            env={"PATH": self._path, "KBATCH_OUTPUTS_URL": url, "HOSTNAME": "train-1-abcde"},
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(seconds):
                while b"sleep" not in read_children(process.pid):  # noqa: ASYNC110 - nobody tells when it waits
                    await asyncio.sleep(0.01)
                process.send_signal(signal.SIGTERM)
                await process.wait()
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # what is left of it, as the end of a container does
            await process.wait()
        assert "signed" not in self.printed.read_text()
        assert process.returncode is not None
        return process.returncode


def read_children(pid: int) -> bytes:
    """Return the command lines of a process's children."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return b" ".join(Path(f"/proc/{child}/cmdline").read_bytes() for child in found)


@pytest.fixture
async def make_sink() -> AsyncIterator[Callable[..., Sink]]:
    sinks = []

    def make(*args: ssl.SSLContext, **kwargs: tuple[int, ...]) -> Sink:
        sinks.append(Sink(*args, **kwargs))
        return sinks[-1]

    yield make
    for sink in sinks:
        await sink.stop()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Sidecar]:
    with Sidecar(tmp_path) as running:
        yield running


CONTENT = bytes(range(256)) * 4000


async def test_what_the_job_wrote_arrives_byte_for_byte(job: Sidecar, make_sink) -> None:
    (job.outputs / "sub").mkdir()
    (job.outputs / "sub" / "x.bin").write_bytes(CONTENT)
    (job.outputs / "ünï \n x").write_bytes(b"odd")
    sink = make_sink()
    sink.start()
    assert await job.run(f"http://127.0.0.1:{sink.port}/up/signed.x") == 0
    assert sink.files() == {"./sub/x.bin": CONTENT, "./ünï \n x": b"odd"}
    [sent] = sink.requests
    assert sent.request.headers["X-Kbatch-Pod"] == "train-1-abcde"
    assert sent.request.headers["X-Kbatch-Unreadable"] == "0"


async def test_it_is_sent_by_https_too(job: Sidecar, make_sink, tmp_path: Path) -> None:
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 1 -subj /CN=x"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)  # noqa: ASYNC221
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_ciphers("ALL:@SECLEVEL=0")  # busybox 1.35 does not say which signatures it takes
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    (job.outputs / "x.bin").write_bytes(CONTENT)
    sink = make_sink(context, statuses=(503, 200))
    sink.start()
    assert await job.run(f"https://127.0.0.1:{sink.port}/up/signed.x") == 0
    assert sink.files() == {"./x.bin": CONTENT}
    assert len(sink.requests) == 2


async def test_it_tries_again_until_the_service_is_there_and_well(job: Sidecar, make_sink) -> None:
    (job.outputs / "x.bin").write_bytes(CONTENT)
    sink = make_sink(statuses=(503, 500, 200))
    for sock in sink.sockets:
        sock.listen(0)
    asyncio.get_running_loop().call_later(1.5, sink.start)
    assert await job.run(f"http://127.0.0.1:{sink.port}/up/signed.x") == 0
    assert sink.files() == {"./x.bin": CONTENT}
    assert job.log.read_text() == ""


@pytest.mark.parametrize("status", [403, 413])
async def test_it_gives_up_when_it_is_refused_and_says_what_the_service_said(
    job: Sidecar, make_sink, status
) -> None:
    (job.outputs / "x.bin").write_bytes(CONTENT)
    sink = make_sink(statuses=(status,))
    sink.start()
    assert await job.run(f"http://127.0.0.1:{sink.port}/up/signed.x") == 1
    assert job.log.read_text() == f"the service answered {status}\n"
    assert len(sink.requests) == 1


async def test_its_last_word_is_there_when_it_is_killed(job: Sidecar) -> None:
    [sock] = bind_sockets(0, "127.0.0.1")
    port = sock.getsockname()[1]
    sock.close()
    with pytest.raises(TimeoutError):
        await job.run(f"http://127.0.0.1:{port}/up/signed.x", seconds=2)
    assert job.log.read_text() == "the service could not be reached, or did not answer\n"
