"""What an admin sees of the real service, beside a real hub: health, metrics, JSON logs, an orderly stop."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from kbatch_server.errors import Unavailable
from kbatch_server.keyring import Keyring
from kbatch_server.launchers.local.unpack import remove_tree
from kbatch_server.monitoring.health import CheckedPart, Health
from kbatch_server.store import Store
from kbatch_server.web.auth import HubUnavailable
from tests.support.hub import Hub
from tests.support.ports import find_ports
from tests.support.service import Service
from tests.support.waiting import wait_until
from tests.support.web import PREFIX
from tests.support.zips import make_zip

CONFIG = """
c.KBatchServer.bind_url = {url!r}
c.KBatchServer.launcher_class = "local"
c.KBatchServer.log_json = True
c.JobConfig.image = "this-machine"
c.LocalProcessJobLauncher.root = "{folder}/jobs"
c.Health.interval_seconds = 0.2
c.HubAuthenticator.cache_max_age_seconds = 3600
"""


@contextmanager
def running(hub: Hub, extra: str = "", port: int = 0) -> Iterator[Service]:
    """The service, in a folder that the account of its jobs can reach, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="kbatch-test-"))
    folder.chmod(0o711)
    port = port or find_ports(1)[0]
    config = CONFIG.format(url=f"http://127.0.0.1:{port}", folder=folder) + extra
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


def run_job(client: httpx.Client, *command: str) -> str:
    """Return the id of a job that has ended."""
    job_id = client.post("api/v1/jobs", json={"name": "seen", "command": list(command)}).json()["id"]
    wait_until(lambda: client.get(f"api/v1/jobs/{job_id}").json()["ended_at"])
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
    # the loop's lag is measured each half second, and two jobs may take less
    wait_until(lambda: read_metrics(service, hub.metrics_token)["kbatch_event_loop_lag_seconds_count", ()])
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


async def test_how_the_hub_is_found_out_with_the_services_own_token(web):
    web.hub.add_token("the-service-token", "kbatch", kind="service")
    await web.auth.check()
    web.hub.status = 503
    with pytest.raises(HubUnavailable, match=r"^JupyterHub does not respond \(\w+\)\.$"):
        await web.auth.check()
    web.hub.status = 200
    del web.hub.models["the-service-token"]
    with pytest.raises(HubUnavailable, match="does not know this service's token"):
        await web.auth.check()


async def test_a_part_that_hangs_has_failed_and_since_is_when_its_state_changed(caplog):
    caplog.set_level(logging.INFO, "traitlets")
    answers = asyncio.Event()
    health = Health(parts=[CheckedPart("storage", answers.wait)], check_seconds=0.1)
    await health.look()
    [part] = health.parts
    assert (part.state, part.message) == ("failed", "No response within 0.1 s.")
    since, part.checked_at = part.since, 0.0
    await health.look()
    assert part.since == since
    answers.set()
    part.checked_at = 0.0
    await health.look()
    assert (part.state, part.message, part.since > since) == ("ok", "", True)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["storage: failed: No response within 0.1 s.", "storage: recovered after 0 s"]
    await health.stop()


async def test_a_database_that_takes_no_writes_is_seen_and_seen_to_be_well_again(tmp_path):
    store = Store(f"sqlite:///{tmp_path}/jobs.sqlite", Keyring(["k" * 32]), log=logging.getLogger("test"))
    await store.open()

    def forbid(connection, on):
        connection.exec_driver_sql(f"PRAGMA query_only = {on}")

    def add_nothing(connection):
        connection.exec_driver_sql("UPDATE jobs SET name = name")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = version_num")

    await store.check_writes()
    await store._database.write(lambda connection: forbid(connection, 1))
    with pytest.raises(Unavailable):
        await store._database.write(add_nothing)
    with pytest.raises(Unavailable):
        await store.check_writes()
    await store.check()  # reads work
    store._database._commits._engine.dispose()
    await store.check_writes()
    assert not store._database.is_failing
    await store.close()


def read_log(service: Service) -> list[dict[str, object]]:
    return [json.loads(line) for line in service.log.read_text().splitlines()]


def test_each_line_of_a_json_log_is_an_object_with_the_ids_and_no_secret(hub, service, alice):
    token = alice.headers["Authorization"].removeprefix("token ")
    job_id = run_job(alice, "echo", "hello")
    answer = alice.get(f"api/v1/jobs/{job_id}?token={token}", headers={"X-Request-ID": "from-the-proxy-1"})
    assert answer.headers["X-Request-ID"] == "from-the-proxy-1"
    odd = alice.get("api/v1/user", headers={"X-Request-ID": "no id: ' --"}).headers["X-Request-ID"]
    assert odd.isalnum()
    lines = read_log(service)
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    [access] = [line for line in lines if line.get("request_id") == "from-the-proxy-1"]
    assert (access["status"], access["user"], access["method"]) == (200, "alice", "GET")
    assert access["url"].endswith(f"/jobs/{job_id}?token=[secret]")
    about = [line for line in lines if line.get("job_id") == job_id]
    said = " ".join(line["message"] for line in about)
    assert all(word in said for word in ("launched", "succeeded"))
    [submit] = [line for line in lines if line.get("audit_name") == job_id]
    assert (submit["audit_action"], submit["audit_who"]) == ("submit", "alice")
    [accepted] = [line for line in lines if "url" in line and line["request_id"] == submit["request_id"]]
    assert (accepted["method"], accepted["status"]) == ("POST", 201)
    text = service.log.read_text()
    assert token not in text
    assert hub.service_token not in text


LONG_JOB = ("sh", "-c", "echo first; sleep 60")


class Follower:
    """Somebody who follows a log on a connection of their own, to read on while the service stops."""

    def __init__(self, client: httpx.Client, path: str, **headers: str) -> None:
        self._stream = client.stream("GET", path, headers=headers)
        self._lines = self._stream.__enter__().iter_lines()
        self.lines: list[str] = []

    def read_until(self, word: str) -> None:
        while word not in "\n".join(self.lines):
            self.lines.append(next(self._lines))

    def read_rest(self) -> str:
        """Return what comes until the answer is complete; a connection that is cut raises."""
        self.lines += list(self._lines)
        self._stream.__exit__(None, None, None)
        return "\n".join(self.lines)


def begin_upload(service: Service, token: str, code: bytes, length: int) -> socket.socket:
    """Send the head and the beginning of an upload."""
    head = (
        f"POST {PREFIX}api/v1/uploads HTTP/1.1\r\nHost: x\r\nAuthorization: token {token}\r\n"
        f"Content-Type: application/zip\r\nContent-Length: {length}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=20)
    connection.sendall(head.encode() + code)
    return connection


def test_a_service_that_is_told_to_stop_ends_everything_in_order(hub):
    """Not ready first; streams end and say so; an upload gets its time; one that takes longer is told."""
    extra = "c.InflightRequests.drain_seconds = 1.5\nc.KBatchServer.shutdown_seconds = 2\n"
    token = hub.make_token("alice")
    code = make_zip({"main.py": "print(1)" * 100})
    with running(hub, extra) as service, connect(service, token) as client, connect(service, token) as other:
        job_id = client.post("api/v1/jobs", json={"name": "long", "command": list(LONG_JOB)}).json()["id"]
        path = f"api/v1/jobs/{job_id}/logs?follow=true"
        events, text = Follower(client, path, Accept="text/event-stream"), Follower(other, path)
        for follower in (events, text):
            follower.read_until("first")
        quick = begin_upload(service, token, code[:100], len(code))
        slow = begin_upload(service, token, code[:100], len(code))

        service.process.send_signal(signal.SIGTERM)
        with connect(service, token) as late:
            ready = wait_until(lambda: (said := late.get("api/v1/ready")).status_code == 503 and said)
            assert ready.json()["status"] == "stopping"
            user = late.get("api/v1/user")  # who comes now is still answered
            assert (user.status_code, user.headers["Connection"]) == (200, "close")  # once
        said = events.read_rest()
        assert "retry: 2000" in said
        assert "event: end" not in said
        assert "[... the service is stopping: follow the log again to read on ...]" in text.read_rest()

        quick.sendall(code[100:])
        answer = quick.recv(1000)
        assert answer.startswith(b"HTTP/1.1 201 ")
        assert b"\r\nConnection: close\r\n" in answer
        told = slow.recv(4000)
        assert told.startswith(b"HTTP/1.1 503 ")
        assert b"The service is stopping." in told
        assert service.process.wait(15) == 0
        for connection in (quick, slow):
            connection.close()
        log = service.log.read_text()
        assert "Traceback" not in log
        service.start()
        with connect(service, token) as client:
            client.delete(f"api/v1/jobs/{job_id}")
            wait_until(lambda: client.get(f"api/v1/jobs/{job_id}").status_code == 404)
