"""What an admin sees of the real service, beside a real hub: health, metrics, JSON logs, an orderly stop."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from hub import Hub
from prometheus_client.parser import text_string_to_metric_families
from service import Service
from web_doubles import PREFIX, make_zip

from kbatch_server.launchers.codezip import remove_tree

CONFIG = """
c.KBatchServer.bind_url = {url!r}
c.KBatchServer.launcher_class = "local"
c.KBatchServer.log_json = True
c.JobConfig.image = "this-machine"
c.LocalProcessJobLauncher.root = "{folder}/jobs"
c.Health.interval_seconds = 0.2
c.HubAuthenticator.cache_max_age_seconds = 3600
"""
WAIT_SECONDS = 20


@contextmanager
def running(hub: Hub, extra: str = "") -> Iterator[Service]:
    """The service, in a folder that the account of its jobs can reach, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="kbatch-test-"))
    folder.chmod(0o711)
    config = CONFIG.format(url=hub.service_url, folder=folder) + extra
    port = int(hub.service_url.rpartition(":")[2])
    service = Service(folder, port=port, config=config, environment=hub.service_environment)
    service.start()
    try:
        yield service
    finally:
        service.stop()
        remove_tree(folder)


@pytest.fixture(scope="module")
def service(hub: Hub) -> Iterator[Service]:
    with running(hub) as service:
        yield service


def connect(service: Service, token: str | None) -> httpx.Client:
    headers = {"Authorization": f"token {token}"} if token else {}
    return httpx.Client(
        base_url=f"http://127.0.0.1:{service.port}{PREFIX}", headers=headers, timeout=30, verify=False
    )


@pytest.fixture
def alice(hub: Hub, service: Service) -> Iterator[httpx.Client]:
    with connect(service, hub.make_token("alice")) as client:
        yield client


def wait(condition: Callable[[], object]) -> object:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def run_job(client: httpx.Client, *command: str) -> str:
    """Return the id of a job that has ended."""
    job_id = client.post("api/v1/jobs", json={"name": "seen", "command": list(command)}).json()["id"]
    wait(lambda: client.get(f"api/v1/jobs/{job_id}").json()["ended_at"])
    return job_id


def read_metrics(service: Service, token: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return the values of all metrics, by name and the values of the labels."""
    with connect(service, token) as client:
        page = client.get("metrics")
    assert page.status_code == 200
    assert page.headers["Content-Type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }


def test_prometheus_reads_what_happened_with_its_scope_alone(hub, service, alice):
    before = read_metrics(service, hub.metrics_token)
    job_id = run_job(alice, "true")
    run_job(alice, "false")
    after = read_metrics(service, hub.metrics_token)

    def grown(name: str, *labels: str) -> float:
        return after[name, labels] - before.get((name, labels), 0)

    assert grown("kbatch_jobs_submitted_total") == 2
    assert grown("kbatch_launches_total", "ok") == 2
    assert grown("kbatch_jobs_ended_total", "succeeded") == 1
    assert grown("kbatch_jobs_ended_total", "failed") == 1
    assert grown("kbatch_job_queue_seconds_count") == 2
    assert grown("kbatch_job_start_seconds_count") == 2
    assert grown("kbatch_http_requests_total", "jobs.JobsHandler", "POST", "201") == 2
    assert grown("kbatch_reconcile_lag_seconds_count") > 2
    assert after["kbatch_leader", ()] == 1
    assert after["kbatch_part_up", ("hub",)] == 1
    assert after["kbatch_jobs", ("queued",)] == 0
    assert after["kbatch_event_loop_lag_seconds_count", ()] > 0
    assert after["process_resident_memory_bytes", ()] > 0
    labels = {value for _, values in after for value in values}
    assert not {value for value in labels if "alice" in value or job_id in value}

    assert alice.get("metrics").json()["details"] == {"scope": "read:metrics"}
    with connect(service, None) as client:
        assert client.get("metrics").status_code == 401


def test_uploads_are_counted_and_what_they_take(hub, service, alice):
    code = make_zip({"main.py": f"print({time.time()})"})
    before = read_metrics(service, hub.metrics_token)
    headers = {"Content-Type": "application/zip"}
    assert alice.post("api/v1/uploads", content=code, headers=headers).status_code == 201
    after = read_metrics(service, hub.metrics_token)
    name = "kbatch_uploaded_bytes_total", ()
    assert after[name] - before[name] == len(code)
    assert ("kbatch_kept_bytes", ("logs",)) in after
