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
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler, stream_request_body

from kbatch_server.launchers.kube.manifests import sidecar
from kbatch_server.launchers.kube.manifests.job import FETCH_SCRIPT
from kbatch_server.launchers.kube.manifests.sidecar import NOTE_SCRIPT, SEND_SCRIPT, explain_unsent
from tests.launchers.kube.test_manifests import ACCOUNT, make, pod_of
from tests.support.cluster.images import find_busybox

APPLETS = (
    *("sh", "nc", "tar", "timeout", "sed", "wc", "sleep", "ssl_client"),
    *("find", "stat", "awk", "sort", "xargs", "tr", "head", "cat", "ln", "mkdir", "readlink"),
)
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
            },
            {"name": "KBATCH_FOLDERS", "value": "outputs=/kbatch-outputs"},
            {"name": "KBATCH_MAX_BYTES", "value": str(2**30)},
            {"name": "KBATCH_MAX_FILES", "value": "50"},
        ],
        "resources": {"limits": {"cpu": "100m"}},
        "securityContext": security,
        "volumeMounts": [
            {"name": "kbatch-outputs", "mountPath": "/kbatch/outputs", "readOnly": True},
            {"name": "kbatch-lists", "mountPath": "/kbatch/lists"},
        ],
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
        {"name": "kbatch-lists", "emptyDir": {"sizeLimit": "512Mi"}},
        {"name": "home", "emptyDir": {}},
    ]
    assert "kbatch-outputs" not in str(plain)


def test_a_job_whose_working_folder_is_collected_has_a_list_of_what_was_unpacked_that_it_does_not_see() -> (
    None
):
    pod = pod_of(make(upload="u1", keep_outputs=True, collect="workdir"))
    fetch, keep = pod["initContainers"]
    lists = {"name": "kbatch-lists", "mountPath": "/kbatch/lists"}
    assert fetch["command"][2] == FETCH_SCRIPT + NOTE_SCRIPT
    assert fetch["volumeMounts"] == [{"name": "kbatch-code", "mountPath": "/code"}, lists]
    assert keep["volumeMounts"][1:] == [
        lists,
        {"name": "kbatch-code", "mountPath": "/kbatch/workdir", "readOnly": True},
    ]
    assert {"name": "KBATCH_FOLDERS", "value": "outputs=/kbatch-outputs workdir=/code"} in keep["env"]
    assert "kbatch-lists" not in str(pod["containers"])


def make_pod(message: str | None) -> dict:
    state = {"terminated": {"exitCode": 137, "message": message}} if message is not None else {"running": {}}
    return {"status": {"initContainerStatuses": [{"name": sidecar.KEEP_CONTAINER, "state": state}]}}


@pytest.mark.parametrize(
    ("pods", "said"),
    [
        ([], "The results were not sent before the pod ended."),
        ([make_pod("")], "The results were not sent before the pod ended."),
        (
            [make_pod("old"), make_pod("the service answered 503\n")],
            "The results were not sent before the pod ended: the service answered 503.",
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

    def files(self) -> dict[str, bytes | str]:
        """Return the content of files, and where links lead, by path."""
        with tarfile.open(fileobj=io.BytesIO(self.requests[-1].body), ignore_zeros=True) as archive:
            return {
                member.name: archive.extractfile(member).read() if member.isreg() else member.linkname  # type: ignore[union-attr]
                for member in archive
                if not member.isdir()
            }


def write_all(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


class Sidecar:
    """The script, run as the pod would run it, in a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.outputs = folder / "outputs"
        self.workdir = folder / "workdir"
        self.log = folder / "log"
        self.printed = folder / "printed"
        self.max_bytes, self.max_files = 2**30, 50
        self.to_home = ""
        self._output = self.printed.open("wb")
        self.outputs.mkdir()
        (folder / "lists").mkdir()
        (folder / "bin").mkdir()
        busybox = find_busybox()
        assert busybox is not None, "no busybox (Debian: busybox-static)"
        for applet in APPLETS:
            (folder / "bin" / applet).symlink_to(busybox)
        self._path = f"{folder}/bin"
        self._root = str(folder)
        script = SEND_SCRIPT.replace("root=/kbatch\n", f"root={folder}\n")
        script = script.replace("root=/kbatch ", f"root={folder} ")
        self._script = script.replace("/dev/termination-log", str(self.log))

    def __enter__(self) -> Sidecar:
        return self

    def __exit__(self, *_: object) -> None:
        self._output.close()

    def unpack(self, files: dict[str, str]) -> None:
        """Make the working folder as the container that fetches the code does."""
        write_all(self.workdir, files)
        for path in self.workdir.rglob("*"):
            os.utime(path, (1e9, 1e9), follow_symlinks=False)
        script = NOTE_SCRIPT.replace("/kbatch/", f"{self._root}/")
        subprocess.run(
            [f"{self._path}/sh", "-c", script], cwd=self.workdir, env={"PATH": self._path}, check=True
        )

    async def run(self, url: str, *, seconds: float = SECONDS) -> int:
        """Start it, tell it that the command has ended, and return its exit code."""
        process = await asyncio.create_subprocess_exec(
            f"{self._path}/sh",
            "-c",
            self._script,
            env={
                "PATH": self._path,
                "KBATCH_OUTPUTS_URL": url,
                "KBATCH_FOLDERS": "outputs=/kbatch-outputs workdir=/code",
                "KBATCH_MAX_BYTES": str(self.max_bytes),
                "KBATCH_MAX_FILES": str(self.max_files),
                "HOSTNAME": "train-1-abcde",
                "KBATCH_TO_HOME": self.to_home,
            },
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
    assert sink.files() == {"outputs/sub/x.bin": CONTENT, "outputs/ünï \n x": b"odd"}
    [sent] = sink.requests
    assert sent.request.headers["X-Kbatch-Pod"] == "train-1-abcde"
    assert sent.request.headers["X-Kbatch-Unreadable"] == "0"
    assert sent.request.headers["X-Kbatch-Folders"] == "outputs=/kbatch-outputs workdir=/code"


async def test_results_of_the_working_folder_come_home_once_they_are_sent(job: Sidecar, make_sink) -> None:
    job.to_home = "1"
    job.unpack({"main.py": "1"})
    write_all(job.workdir, {"run.ipynb": "2", "a b/fig  1.txt": "3", "both": "of the working folder"})
    write_all(job.outputs, {"both": "of the outputs"})
    sink = make_sink(statuses=(503,))
    sink.start()
    assert await job.run(f"http://127.0.0.1:{sink.port}/up/signed.x") == 0
    sent = sink.files()
    assert sent.pop("workdir/both", None) in (None, b"of the working folder")
    names = {"workdir/run.ipynb": b"2", "workdir/a b/fig  1.txt": b"3", "outputs/both": b"of the outputs"}
    assert sent == names
    at_home = {str(each.relative_to(job.outputs)): each for each in job.outputs.rglob("*") if each.is_file()}
    assert {name: path.read_text() for name, path in at_home.items()} == {
        "run.ipynb": "2",
        "a b/fig  1.txt": "3",
        "both": "of the outputs",
    }


async def test_what_is_new_or_changed_in_the_working_folder_is_sent_too_and_nothing_else(
    job: Sidecar, make_sink
) -> None:
    job.unpack({"main.py": "1", "data/x.csv": "2", "data/y.csv": "3", ".git/config": "4"})
    (job.workdir / "data/y.csv").write_text("4")  # of the same size
    (job.workdir / "main.py").chmod(0o755)
    write_all(
        job.workdir, {"trial.csv": "5", "a b/fig  1.txt": "6", ".cache/x": "7", "__pycache__/m.pyc": "8"}
    )
    write_all(job.workdir, {"node_modules/x": "9", ".env": "10"})
    write_all(job.outputs, {"both": "yes", ".hidden": "yes"})
    (job.workdir / "new").symlink_to("trial.csv")
    sink = make_sink()
    sink.start()
    assert await job.run(f"http://127.0.0.1:{sink.port}/up/signed.x") == 0
    assert sink.files() == {
        "outputs/.hidden": b"yes",
        "outputs/both": b"yes",
        "workdir/a b/fig  1.txt": b"6",
        "workdir/data/y.csv": b"4",
        "workdir/new": "trial.csv",
        "workdir/trial.csv": b"5",
    }
    assert sink.requests[0].request.headers["X-Kbatch-Unreadable"] == "0"


async def test_a_new_link_comes_with_what_it_leads_to_though_that_is_unchanged(
    job: Sidecar, make_sink
) -> None:
    write_all(
        job.workdir,
        {"data/x 1.csv": "1", "data/deep/y.csv": "2", "data/.hidden": "3", ".env": "4", "old.csv": "5"},
    )
    (job.workdir / "old").symlink_to("data")
    (job.workdir / "data/out").symlink_to("/etc/passwd")
    job.unpack({})
    write_all(job.workdir, {"data/new.csv": "6", "a\\tb/ü.csv": "7"})
    links = {
        "best  a\\tb.csv": "data/x 1.csv",
        "chain.csv": "/code/best  a\\tb.csv",
        "sub/up.csv": "../old/../../workdir/old/deep/y.csv",
        "folder": "/code/data",
        "fresh.csv": "data/new.csv",
        "hidden": ".env",
        "outside": "/etc/passwd",
        "above": "../log",
        "injected": "data/x 1.csv\nworkdir/above",
        "round": "round",
    }
    for name, target in links.items():
        (job.workdir / name).parent.mkdir(exist_ok=True)
        (job.workdir / name).symlink_to(target)
    (job.outputs / "in outputs.csv").symlink_to("/code/data/x 1.csv")
    (job.outputs / "in-outputs").symlink_to("/code/data")
    (job.workdir / "data/x 1.csv\nworkdir").mkdir()
    (job.workdir / "data/x 1.csv\nworkdir/above").write_text("8")
    sink = make_sink()
    sink.start()
    url = f"http://127.0.0.1:{sink.port}/up/signed.x"
    assert await job.run(url) == 0
    unchanged: dict[str, bytes | str] = {
        "outputs/in outputs.csv": b"1",
        "outputs/in-outputs": "/code/data",
        "outputs/in-outputs/deep/y.csv": b"2",
        "outputs/in-outputs/x 1.csv": b"1",
        "workdir/best  a\\tb.csv": b"1",
        "workdir/chain.csv": b"1",
        "workdir/folder/deep/y.csv": b"2",
        "workdir/folder/x 1.csv": b"1",
        "workdir/sub/up.csv": b"2",
    }
    is_link = {f"workdir/{name}": target for name, target in links.items()}
    new = {"workdir/data/new.csv": b"6", "workdir/a\\tb/ü.csv": b"7"}
    assert sink.files() == is_link | new | unchanged
    assert sink.requests[0].request.headers["X-Kbatch-Unreadable"] == "0"
    job.max_files = 3
    assert await job.run(url) == 0
    files = sink.files()
    named = ("data/new.csv", "folder/deep/y.csv", "folder/x 1.csv")
    named += ("in outputs.csv", "in-outputs/deep/y.csv", "in-outputs/x 1.csv", "sub/up.csv")
    assert files.pop("lists/omitted") == ("7 7\n" + "".join(f"1 {path}\n" for path in named)).encode()
    assert {name for name, content in files.items() if isinstance(content, bytes)} == {
        "workdir/a\\tb/ü.csv",
        "workdir/best  a\\tb.csv",
        "workdir/chain.csv",
    }
    assert not {"workdir/best  a\\tb.csv", "workdir/chain.csv"} & {
        name for name, content in files.items() if isinstance(content, str)
    }


async def test_all_of_a_working_folder_without_code_is_sent(job: Sidecar, make_sink) -> None:
    write_all(job.workdir, {"x": "1", ".hidden": "2"})
    sink = make_sink()
    sink.start()
    assert await job.run(f"http://127.0.0.1:{sink.port}/up/signed.x") == 0
    assert sink.files() == {"workdir/x": b"1"}


async def test_of_too_many_files_the_first_by_path_are_sent_and_the_rest_is_named(
    job: Sidecar, make_sink
) -> None:
    job.unpack({"main.py": "1"})
    write_all(job.workdir, {"both": "not this", "d/x": "1" * 30, "z": "1"})
    write_all(job.outputs, {"both": "this", "d-": "2" * 20, "d.txt": "3" * 50, "a a": "4", "b": "5"})
    job.max_files = 4
    sink = make_sink()
    sink.start()
    assert await job.run(f"http://127.0.0.1:{sink.port}/up/signed.x") == 0
    assert sink.files() == {
        "outputs/a a": b"4",
        "outputs/b": b"5",
        "outputs/both": b"this",
        "outputs/d-": b"2" * 20,
        "lists/omitted": b"3 81\n50 d.txt\n30 d/x\n1 z\n",
    }


async def test_links_take_no_place_of_files(job: Sidecar, make_sink) -> None:
    job.unpack({"main.py": "1"})
    for number in range(4):
        (job.outputs / f"a{number}").symlink_to("/etc/passwd")
        (job.workdir / f"a-{number}").symlink_to("/etc/passwd")
    write_all(job.outputs, {"b": "1", "c": "2", "d": "3"})
    job.max_files = 2
    sink = make_sink()
    sink.start()
    assert await job.run(f"http://127.0.0.1:{sink.port}/up/signed.x") == 0
    files = sink.files()
    assert {path: content for path, content in files.items() if content != "/etc/passwd"} == {
        "outputs/b": b"1",
        "outputs/c": b"2",
        "lists/omitted": b"1 1\n1 d\n",
    }
    assert len(files) == 8 + 3


async def test_of_too_many_bytes_the_first_that_fit_are_sent(job: Sidecar, make_sink) -> None:
    write_all(job.outputs, {"a": "1" * 70, "b": "2" * 50, "c": "3" * 30, "sub/d": "4"})
    job.max_bytes = 100
    sink = make_sink()
    sink.start()
    assert await job.run(f"http://127.0.0.1:{sink.port}/up/signed.x") == 0
    assert sink.files() == {
        "outputs/a": b"1" * 70,
        "outputs/c": b"3" * 30,
        "lists/omitted": b"2 51\n50 b\n1 sub/d\n",
    }


async def test_a_huge_tree_is_cut_in_little_memory_and_named_up_to_a_limit(job: Sidecar, make_sink) -> None:
    for folder in range(30):
        write_all(job.outputs / f"run-{folder:02}", {f"file-{number:04}": "" for number in range(100)})
    job.max_files = 500
    sink = make_sink()
    sink.start()
    assert await job.run(f"http://127.0.0.1:{sink.port}/up/signed.x") == 0
    files = sink.files()
    first, *named = files.pop("lists/omitted").decode().splitlines()  # type: ignore[union-attr]
    assert first == "2500 0"
    assert (len(files), len(named)) == (500, 1000)
    assert max(files) == "outputs/run-04/file-0099"
    assert named[0] == "0 run-05/file-0000"


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
    assert sink.files() == {"outputs/x.bin": CONTENT}
    assert len(sink.requests) == 2


async def test_it_tries_again_until_the_service_is_there_and_well(job: Sidecar, make_sink) -> None:
    (job.outputs / "x.bin").write_bytes(CONTENT)
    sink = make_sink(statuses=(503, 500, 200))
    for sock in sink.sockets:
        sock.listen(0)
    asyncio.get_running_loop().call_later(1.5, sink.start)
    assert await job.run(f"http://127.0.0.1:{sink.port}/up/signed.x") == 0
    assert sink.files() == {"outputs/x.bin": CONTENT}
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
