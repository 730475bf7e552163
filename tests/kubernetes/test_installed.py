"""The service's own image, installed with helm next to a hub: from nothing to a job, and through upgrades."""

from __future__ import annotations

import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import kubernetes
import pytest

from tests.kubernetes.hubpod import BASE, Browser, HubPod
from tests.kubernetes.release import CONFIG, IMAGE, Release, publish
from tests.support import images
from tests.support.clients import KBatch
from tests.support.cluster import ClusterLike
from tests.support.helm import Helm, find_helm
from tests.support.installation import API
from tests.support.postgresql import PostgreSQL
from tests.support.waiting import wait_until

FIRST_CHART = Path(__file__).parents[1] / "data/kbatch-server-chart-c7556b0.tgz"
"""The chart as it was at first (commit c7556b0), made with ``git archive``."""

RESTRICTED_JOBS = {
    "pod_security_context": {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 100, "fsGroup": 100},
    "container_security_context": {"capabilities": {"drop": ["ALL"]}},
}


@pytest.fixture(scope="module")
def api_client(cluster: ClusterLike) -> Iterator[Any]:
    if not cluster.is_ours:
        pytest.skip("images cannot be loaded into the cluster of KUBECONFIG")
    for image in images.IMAGES:
        cluster.load_image(image.find())
    with kubernetes.config.new_client_from_config(str(cluster.kubeconfig)) as api_client:
        yield api_client


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("installed")


@pytest.fixture(scope="module")
def helm_program(cluster: ClusterLike, folder: Path) -> Helm:
    return Helm(find_helm(), folder, cluster.kubeconfig)


@pytest.fixture(scope="module")
def staging(helm_program: Helm, api_client: Any, cluster: ClusterLike, folder: Path) -> Release:
    """The release next to the hub, which is yet to be installed."""
    return Release(helm_program, api_client, cluster, folder / "staging", "staging")


@pytest.fixture(scope="module")
def hub(api_client: Any, cluster: ClusterLike, staging: Release) -> HubPod:
    """A hub in the namespace of the release, which knows it and another with several replicas."""
    hub = HubPod(api_client, cluster, staging.namespace)
    hub.deploy({"kbatch": staging.url, "replicas": "http://kbatch-server.replicas.svc"})
    publish(staging.core, cluster)
    return hub


@pytest.fixture(scope="module")
def values(hub: HubPod, staging: Release) -> dict[str, Any]:
    """The values of the first release's README, for this hub, and what is particular to these tests."""
    app = {
        "jupyterhub_api_token": hub.tokens["kbatch"],
        "jupyterhub_api_url": hub.api_url,
        "job_namespace": staging.jobs,
        "service_prefix": f"{BASE}services/kbatch",
        "service": {
            "type": "LoadBalancer",
            "annotations": {"service.beta.kubernetes.io/azure-dns-label-name": "kbatch-staging"},
        },
    }
    return {"app": app, "image": IMAGE, "config": CONFIG, "test": {"existingSecret": "token"}}


@pytest.fixture(scope="module")
def installed(values: dict[str, Any], staging: Release) -> Release:
    staging.install(values)
    return staging


@pytest.fixture(scope="module")
def browser(installed: Release, hub: HubPod) -> Iterator[Browser]:
    """Alice's, logged in."""
    hub.wait()
    browser = Browser(hub.url, "alice")
    try:
        browser.log_in()
        yield browser
    finally:
        browser.close()


@pytest.fixture(scope="module")
def token(browser: Browser) -> str:
    return browser.make_token()


@contextmanager
def closing_client(url: str, token: str) -> Iterator[API]:
    """A user's client, whose connections are closed."""
    api = API(url, token)
    with api.http:
        yield api


@pytest.fixture(scope="module")
def alice(hub: HubPod, token: str) -> Iterator[API]:
    with closing_client(f"{hub.url}services/kbatch/", token) as api:
        yield api


def test_a_user_logs_in_gets_a_token_submits_code_and_reads_log_and_results_when_all_pods_are_gone(
    hub: HubPod, installed: Release, token: str, alice: API, tmp_path: Path
) -> None:
    kbatch = KBatch("0.5.0b1", tmp_path, url=f"{hub.url}services/kbatch/", token=token)
    (kbatch.home / "project").mkdir()
    code = "import os, pathlib\nprint('by', os.getuid())\n"
    code += "pathlib.Path(os.environ['KBATCH_OUTPUT_DIR'], 'answer.txt').write_text('42')\n"
    (kbatch.home / "project/main.py").write_text(code)
    name = kbatch.submit(name="first", image=images.JOB, command=["python3", "main.py"], code="project")
    job = alice.wait(name)
    assert job["status"] == "succeeded", job
    [made] = installed.batch.list_namespaced_job(installed.jobs).items  # where the values say
    assert made.metadata.name == name
    installed.remove_jobs()
    assert kbatch("job", "logs", name).splitlines()[0] == "by 1000"
    assert alice.http.get(f"api/v1/jobs/{name}/outputs/answer.txt").text == "42"


def test_its_pod_starts_at_once_with_a_root_file_system_that_is_read_only(installed: Release) -> None:
    [pod] = installed.pods()
    [status] = pod.status.container_statuses
    assert (status.restart_count, pod.spec.containers[0].security_context.read_only_root_filesystem) == (
        0,
        True,
    )
    said = installed.core.read_namespaced_pod_log(pod.metadata.name, installed.namespace)
    assert "listens at" in said
    assert "Traceback" not in said


def test_helm_test_submits_a_job(installed: Release, token: str) -> None:
    secret = {"metadata": {"name": "token"}, "stringData": {"token": token}}
    installed.core.create_namespaced_secret(installed.namespace, secret)
    said = installed.test()
    assert "submitted helm-test-" in said
    assert "succeeded" in said


def test_an_upgrade_is_a_pause_in_which_jobs_run_on(
    installed: Release, values: dict[str, Any], alice: API
) -> None:
    job = alice.submit("echo begun; sleep 15; echo ended")
    alice.wait(job["id"], "running")
    [before] = installed.pods()
    installed.install(values | {"podAnnotations": {"changed": "yes"}})
    [after] = installed.pods()
    assert after.metadata.uid != before.metadata.uid
    ended = wait_through_the_proxy(alice, job["id"])
    assert (ended["status"], ended["attempts"]) == ("succeeded", 1), ended
    assert alice.logs(job["id"]) == "begun\nended\n"


def test_an_uninstall_leaves_the_records_and_a_new_installation_finds_them(
    installed: Release, values: dict[str, Any], alice: API
) -> None:
    upload = alice.upload({"main.sh": "echo from code"})
    job = alice.submit("sh main.sh", upload=upload, env={"WORD": "sealed"})
    assert alice.wait(job["id"])["status"] == "succeeded"
    running = alice.submit("sleep 20; echo after all")
    alice.wait(running["id"], "running")
    installed.uninstall()
    left = {each.metadata.name for each in installed.core.list_namespaced_secret(installed.namespace).items}
    assert left == {"kbatch-server-keys", "token"}
    installed.core.read_namespaced_persistent_volume_claim("kbatch-server", installed.namespace)
    assert installed.batch.read_namespaced_job(running["id"], installed.jobs).status.active == 1
    installed.install(values)
    found = wait_through_the_proxy(alice, job["id"])
    assert (found["status"], found["env"]) == ("succeeded", {"WORD": "sealed"})
    assert alice.logs(job["id"]) == "from code\n"
    assert alice.wait(running["id"])["status"] == "succeeded"
    assert alice.logs(running["id"]) == "after all\n"


def unpack_first_chart(folder: Path) -> Path:
    """Return the first chart for the image of today, in which a class has another name."""
    with tarfile.open(FIRST_CHART) as chart:
        chart.extractall(folder, filter="data")
    for template in folder.glob("*/templates/*"):
        template.write_text(template.read_text().replace("Launchpad", "SignedLinks"))
    [unpacked] = folder.iterdir()
    return unpacked


def test_the_first_chart_s_data_are_there_after_an_upgrade_to_this_one(
    hub: HubPod,
    helm_program: Helm,
    api_client: Any,
    cluster: ClusterLike,
    folder: Path,
    token: str,
) -> None:
    """Another installation that the hub takes for the same service: it is asked without the proxy."""
    release = Release(helm_program, api_client, cluster, folder / "first", "first")
    old = {
        "image": IMAGE,
        "hub": {"apiToken": hub.tokens["kbatch"], "apiUrl": hub.api_url, "baseUrl": BASE},
        "jobs": {"namespace": release.jobs},
        "config": CONFIG | {"JobConfig": CONFIG["JobConfig"] | RESTRICTED_JOBS},
        "service": {"port": 80},
    }
    release.install(old, chart=str(unpack_first_chart(folder / "first-chart")))
    with closing_client(f"{release.address}{BASE}services/kbatch/", token) as alice:
        job = alice.submit("echo $WORD", env={"WORD": "kept"})
        assert alice.wait(job["id"])["status"] == "succeeded"
    keys = release.read_secret("kbatch-server")["keys"]

    release.install(old)
    assert release.read_secret("kbatch-server-keys")["keys"] == keys
    with closing_client(f"{release.address}{BASE}services/kbatch/", token) as alice:
        found = alice.get(job["id"])
        assert (found["status"], found["env"]) == ("succeeded", {"WORD": "kept"})
        assert alice.logs(job["id"]) == "kept\n"
        assert alice.wait(alice.submit("true")["id"])["status"] == "succeeded"
    release.uninstall()


@pytest.fixture
def database(cluster: ClusterLike) -> Iterator[str]:
    """The URL, for pods, of a PostgreSQL on this machine."""
    server = PostgreSQL(cluster.host_address)
    try:
        server.start()
        name = server.make_database().rpartition("/")[2]
        yield server.url(name, host=cluster.host_address)
    finally:
        server.remove()


def test_a_rolling_upgrade_under_load_fails_no_request_and_neither_loses_nor_doubles_a_job(
    hub: HubPod,
    helm_program: Helm,
    api_client: Any,
    cluster: ClusterLike,
    folder: Path,
    database: str,
    token: str,
) -> None:
    release = Release(helm_program, api_client, cluster, folder / "replicas", "replicas")
    secret = {"metadata": {"name": "database"}, "stringData": {"url": database}}
    release.core.create_namespaced_secret(release.namespace, secret)
    values = {
        "image": IMAGE,
        "hub": {
            "apiToken": hub.tokens["replicas"],
            "apiUrl": hub.api_url,
            "baseUrl": BASE,
            "serviceName": "replicas",
        },
        "jobs": {"namespace": release.jobs},
        "config": CONFIG,
        "db": {"type": "postgresql", "existingSecret": "database"},
        "persistence": {"accessModes": ["ReadWriteMany"]},
        "replicas": 2,
    }
    release.install(values)
    before = {pod.metadata.name for pod in release.pods()}
    urls = [f"{hub.url}services/replicas/", f"{release.address}{BASE}services/replicas/"]
    load = Load(urls, token)
    load.start()
    try:
        load.wait_for_jobs(3)
        release.install(values | {"podAnnotations": {"changed": "yes"}})
        load.wait_for_jobs(len(load.submitted) + 3)
    finally:
        load.stop()
    assert not load.failures, f"{load.failures}\n{hub.log()}"
    after = {pod.metadata.name for pod in release.pods() if not pod.metadata.deletion_timestamp}
    assert len(after) == 2
    assert not after & before
    with closing_client(urls[0], token) as alice:
        ended = [alice.wait(job_id, seconds=120) for job_id in load.submitted]
        listed = alice.call("GET", "api/v1/jobs", params={"limit": 500})["items"]
        logs = [alice.logs(job_id) for job_id in load.submitted]
    assert {(job["status"], job["attempts"]) for job in ended} == {("succeeded", 1)}
    assert sorted(job["id"] for job in listed) == sorted(load.submitted)
    assert logs == ["once\n"] * len(load.submitted)
    print(f"{len(load.submitted)} jobs and {load.reads} reads while both pods were replaced")


class Load:
    """Users who submit and read, each request on its own, and note what goes wrong."""

    def __init__(self, urls: list[str], token: str) -> None:
        self.submitted: list[str] = []
        self.failures: list[str] = []
        self.reads = 0
        self._urls = urls
        self._headers = {"Authorization": f"Bearer {token}"}
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(url, what))
            for url in urls
            for what in (self._submit, self._read)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def wait_for_jobs(self, count: int) -> None:
        wait_until(
            lambda: len(self.submitted) >= count or self.failures, lambda: f"{len(self.submitted)} jobs"
        )

    def _work(self, url: str, what: Any) -> None:
        while not self._ended.wait(what(url)):
            pass

    def _submit(self, url: str) -> float:
        body = {"name": "load", "command": ["echo", "once"]}
        answer = self._ask("POST", f"{url}api/v1/jobs", json=body)
        if answer is not None:
            self.submitted.append(answer.json()["id"])
        return 1.0

    def _read(self, url: str) -> float:
        if self._ask("GET", f"{url}api/v1/jobs") is not None:
            self.reads += 1
        return 0.1

    def _ask(self, method: str, url: str, **kwargs: Any) -> httpx.Response | None:
        try:
            answer = httpx.request(method, url, headers=self._headers, timeout=30, **kwargs)
        except httpx.HTTPError as error:
            self.failures.append(f"{method} {url}: {error!r}")
            return None
        if answer.is_success:
            return answer
        self.failures.append(f"{method} {url}: {answer.status_code} {answer.text[-300:]}")
        return None


def wait_through_the_proxy(api: API, job_id: str) -> dict[str, Any]:
    """Return a job when it is over; the proxy answers with errors, or not, for as long as no pod is there."""
    wait_until(lambda: is_answered(api, job_id), f"nothing of {job_id}")
    return api.wait(job_id)


def is_answered(api: API, job_id: str) -> bool:
    """Return whether a job is shown; a connection to a pod that has just gone is given up soon."""
    try:
        answer = api.http.get(f"api/v1/jobs/{job_id}", timeout=5)
    except httpx.TransportError:
        return False
    assert answer.is_success or answer.status_code in (502, 503), answer.text
    return answer.is_success
