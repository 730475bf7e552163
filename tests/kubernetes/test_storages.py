"""A job's code, log and results in each storage, on a real Kubernetes: there when all else is gone."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import kubernetes
import pytest

from tests.support.azurite import ACCOUNT, KEY, find_azurite, running_azurite
from tests.support.cluster import ClusterLike
from tests.support.installation import API, Installation
from tests.support.s3server import find_s3server, running_s3server

SECONDS = 90


@dataclass
class Place:
    """An installation that keeps everything in one storage, and a way to stop that storage for a while."""

    kind: str
    installation: Installation
    away: Callable[[], object]

    @property
    def alice(self) -> API:
        return self.installation.client("alice")


@contextmanager
def azure_place(cluster: ClusterLike, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the configuration of a service that keeps things in an Azurite of its own."""
    from azure.storage.blob import BlobServiceClient

    with running_azurite(find_azurite(), folder, host=cluster.host_address) as endpoint:
        with BlobServiceClient(endpoint, {"account_name": ACCOUNT, "account_key": KEY}) as client:
            client.create_container("code")
        settings = {
            "account_name": ACCOUNT,
            "account_key": KEY,
            "container": "code",
            "endpoint": endpoint,
        }
        yield make_config("azure", "AzureBlobStorage", settings), lambda: frozen("azurite")


@contextmanager
def s3_place(cluster: ClusterLike, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the configuration of a service that keeps things in an S3 server of its own."""
    with running_s3server(find_s3server(), folder, host=cluster.host_address) as server:
        yield make_config("s3", "S3Storage", server.settings()), lambda: frozen("versitygw")


@contextmanager
def file_place(cluster: ClusterLike, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the configuration of a service that keeps things in its own folder."""
    yield "", lambda: pytest.fail("a folder cannot be stopped")


def make_config(name: str, cls: str, settings: dict[str, object]) -> str:
    lines = [f"c.{cls}.{trait} = {value!r}" for trait, value in settings.items()]
    return "\n".join([f"c.KBatchServer.storage_class = {name!r}", *lines, ""])


@contextmanager
def frozen(program: str) -> Iterator[None]:
    """Let the storage's processes, children of this one, neither answer nor end for a while."""
    found = subprocess.run(
        ["pgrep", "-P", str(os.getpid()), "-f", program], capture_output=True, text=True, check=True
    )
    groups = [int(line) for line in found.stdout.split()]
    for pid in groups:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in groups:
            os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module", params=["file", "azure", "s3"])
def place(request, cluster: ClusterLike, tmp_path_factory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp(request.param)
    namespace = f"jobs-{secrets.token_hex(4)}"
    with kubernetes.config.new_client_from_config(str(cluster.kubeconfig)) as api_client:
        kubernetes.client.CoreV1Api(api_client).create_namespace({"metadata": {"name": namespace}})
    open_place = {"file": file_place, "azure": azure_place, "s3": s3_place}[request.param]
    with ExitStack() as stack:
        config, away = stack.enter_context(open_place(cluster, folder))
        installation = Installation(folder / "installation", cluster, namespace=namespace, config=config)
        stack.callback(installation.stop)
        yield Place(request.param, installation, away)


def wait_for(is_true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_true():
        assert time.monotonic() < deadline, f"not in {SECONDS} s: {what}"
        time.sleep(0.1)


SCRIPT = """
echo begin
head -c 3000000 /dev/urandom > "$KBATCH_OUTPUT_DIR/noise.bin"
mkdir "$KBATCH_OUTPUT_DIR/tables"
cp data.csv "$KBATCH_OUTPUT_DIR/tables/data.csv"
sha256sum "$KBATCH_OUTPUT_DIR/noise.bin"
for i in $(seq 2000); do echo "line $i of a log"; done
exit 3
"""


def test_code_log_and_results_are_there_after_pod_job_and_namespace_are_gone(place, cluster):
    alice = place.alice
    upload = alice.upload({"run.sh": SCRIPT, "data.csv": "a,b\n1,2\n"})
    job = alice.wait(alice.submit(command=["sh", "run.sh"], upload=upload)["id"])
    assert (job["status"], job["exit_code"]) == ("failed", 3), job
    with kubernetes.config.new_client_from_config(str(cluster.kubeconfig)) as api_client:
        core = kubernetes.client.CoreV1Api(api_client)
        core.delete_namespace(place.installation.namespace)

        def is_gone() -> bool:
            names = {each.metadata.name for each in core.list_namespace().items}
            return place.installation.namespace not in names

        wait_for(is_gone, "the namespace is gone")
        core.create_namespace({"metadata": {"name": place.installation.namespace}})
    url = f"api/v1/jobs/{job['id']}"
    log = alice.logs(job["id"]).splitlines()
    assert (log[0], log[2:]) == ("begin", [f"line {i} of a log" for i in range(1, 2001)])
    assert alice.logs(job["id"], tail=1) == "line 2000 of a log\n"
    assert alice.logs(job["id"], search="LINE 1999") == "2001:line 1999 of a log\n"
    listed = alice.call("GET", f"{url}/outputs")
    assert {each["path"]: each["size"] for each in listed["items"]} == {
        "noise.bin": 3_000_000,
        "tables/data.csv": 8,
    }
    assert alice.http.get(f"{url}/outputs/tables/data.csv").text == "a,b\n1,2\n"
    noise = alice.http.get(f"{url}/outputs/noise.bin").content
    assert hashlib.sha256(noise).hexdigest() == log[1].split()[0]
    fetched = "/services/kbatch/code/" in place.installation.service.log.read_text()
    assert fetched == (place.kind == "file")  # the others hand it out themselves


@pytest.mark.parametrize("place", ["azure", "s3"], indirect=True)
def test_a_storage_that_hangs_for_a_while_costs_neither_log_nor_results(place):
    alice = place.alice
    script = 'for i in $(seq 40); do echo "line $i"; sleep 0.1; done; echo done > $KBATCH_OUTPUT_DIR/result'
    job = alice.submit(script)
    alice.wait(job["id"], "running")
    with place.away():
        time.sleep(8)  # the job ends meanwhile
        answer = alice.http.get("api/v1/health")
        assert answer.status_code == 200
    done = alice.wait(job["id"])
    assert done["status"] == "succeeded", done
    url = f"api/v1/jobs/{job['id']}/outputs"
    wait_for(lambda: alice.get(job["id"])["outputs"], "the results are known")
    assert alice.http.get(f"{url}/result").text == "done\n"
    assert alice.logs(job["id"]) == "".join(f"line {i}\n" for i in range(1, 41))
