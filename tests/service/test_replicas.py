"""Several service processes over one PostgreSQL: one leads, jobs run once, whoever is killed meanwhile."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psycopg
import pytest

from kbatch_server.launchers.local.folder import JobFolder
from kbatch_server.store.database.postgresql import LEAD_LOCK
from tests.support.hub import Hub
from tests.support.installation import API
from tests.support.ports import find_ports
from tests.support.postgresql import PostgreSQL
from tests.support.service import Service
from tests.support.waiting import wait_until

CONFIG = """
c.KBatchServer.bind_url = "http://127.0.0.1:{port}"
c.KBatchServer.launcher_class = "local"
c.LocalProcessJobLauncher.root = "{root}/jobs"
c.FileStorage.root = "{root}/storage"
c.JobConfig.image = "this-machine"
c.JobConfig.termination_grace_period_seconds = 1
{extra}
"""
PREFIX = "/services/kbatch/"
TAKE_OVER_SECONDS = 15
WAIT_SECONDS = 90
LEADERS = (
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    # the upper and the lower half of the lock's number: submits lock the words of their limits in the same
    # way, and one whose connection is cut is answered with 503, as it should be
    f" AND classid = {LEAD_LOCK >> 32} AND objid = {LEAD_LOCK & 0xFFFFFFFF}"
)


class Replicas:
    """Services that share database, storage, jobs' folder and keys, each on a port of its own."""

    def __init__(self, folder: Path, root: Path, hub: Hub, url: str, *, count: int, extra: str) -> None:
        self.ran = root / "ran"
        self.ran.touch()
        self.ran.chmod(0o666)
        shared = hub.service_environment | {
            "KBATCH_DB_URL": url,
            "KBATCH_KEYS": secrets.token_hex(32),
            "JUPYTERHUB_SERVICE_URL": "",
        }
        self.services = []
        for i, port in enumerate(find_ports(count)):
            (folder / str(i)).mkdir()
            config = CONFIG.format(port=port, root=root, extra=extra)
            self.services.append(Service(folder / str(i), port=port, config=config, environment=shared))
        self._token = hub.make_token("alice")
        self.clients = [API(f"http://127.0.0.1:{each.port}{PREFIX}", self._token) for each in self.services]

    def find_leader(self) -> int | None:
        """Return the number of the replica that leads now."""
        for i, client in enumerate(self.clients):
            try:
                if client.http.get("api/v1/ready").json()["leads"]:
                    return i
            except httpx.TransportError:
                continue
        return None

    def wait_leader(self, seconds: float = WAIT_SECONDS) -> int:
        """Return the number of the replica that leads, once one does."""
        leaders: list[int] = []

        def find() -> bool:
            leaders[:] = [i for i in (self.find_leader(),) if i is not None]
            return bool(leaders)

        wait_until(find, seconds=seconds)
        return leaders[0]

    def check_each_ran_once(self, ids: set[str]) -> None:
        """See that each of the jobs succeeded, and ran exactly once, and no other did."""
        pairs = zip(self.clients, self.services, strict=True)
        client = next(client for client, service in pairs if service.process.poll() is None)
        left = set(ids)

        def are_over() -> bool:
            for job_id in list(left):
                job = client.get(job_id)
                assert job["status"] not in ("failed", "cancelled"), job
                if job["status"] == "succeeded":
                    left.discard(job_id)
            return not left

        wait_until(are_over, seconds=WAIT_SECONDS)
        assert Counter(self.ran.read_text().split()) == Counter(ids)

    @property
    def body(self) -> dict[str, object]:
        """A job that writes down that it ran."""
        return {"name": "once", "command": ["sh", "-c", f"echo $KBATCH_JOB_ID >> {self.ran}"]}


class Load:
    """Submits jobs through replicas in turn, each under a key, until it is accepted."""

    def __init__(self, replicas: Replicas, *, pause_seconds: float) -> None:
        self.ids: set[str] = set()
        self.refused: Counter[object] = Counter()
        """Answers that were no job, by number of the replica and status (0: no answer)."""
        self._replicas = replicas
        self._pause_seconds = pause_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(WAIT_SECONDS)

    def _run(self) -> None:
        number = 0
        while not self._stopping.wait(self._pause_seconds):
            key = secrets.token_hex(8)
            while True:
                number = (number + 1) % len(self._replicas.clients)
                if job_id := self._submit(number, key):
                    self.ids.add(job_id)
                    break
                time.sleep(0.05)

    def _submit(self, number: int, key: str) -> str | None:
        client = self._replicas.clients[number].http
        try:
            answer = client.post(
                "api/v1/jobs", json=self._replicas.body, headers={"Idempotency-Key": key}, timeout=30
            )
        except httpx.TransportError:
            self.refused[number, 0] += 1
            return None
        if answer.status_code in (200, 201):
            return str(answer.json()["id"])
        self.refused[number, answer.status_code] += 1
        return None


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that the accounts of jobs can reach, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="kbatch-replicas-"))
    path.chmod(0o755)
    yield path
    for each in os.listdir(path / "jobs") if (path / "jobs").exists() else ():
        assert JobFolder(str(path / "jobs" / each)).find_supervisor() is None, "a job is left over"
    shutil.rmtree(path)


@pytest.fixture
def start(hub: Hub, postgresql_url: str, tmp_path: Path, root: Path) -> Iterator[Callable[..., Replicas]]:
    """Start so many replicas, and stop them at the end."""
    with ExitStack() as stack:

        def start(count: int, extra: str = "") -> Replicas:
            replicas = Replicas(tmp_path, root, hub, postgresql_url, count=count, extra=extra)
            for service, client in zip(replicas.services, replicas.clients, strict=True):
                stack.callback(service.stop)
                stack.callback(client.http.close)
            start_all(replicas)
            replicas.wait_leader()
            return replicas

        yield start


def start_all(replicas: Replicas) -> None:
    """Start all at once: the tables are made once all the same."""
    threads = [threading.Thread(target=service.start) for service in replicas.services]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_another_leads_after_a_kill_and_every_job_runs_once(start: Callable[..., Replicas]) -> None:
    replicas = start(3)
    leader = replicas.wait_leader()
    with Load(replicas, pause_seconds=0.1) as load:
        wait_until(lambda: len(load.ids) >= 6)
        replicas.services[leader].kill()
        killed_at = time.monotonic()
        assert replicas.wait_leader(TAKE_OVER_SECONDS) != leader
        print(f"another led after {time.monotonic() - killed_at:.1f} s")
        so_far = len(load.ids)
        wait_until(lambda: len(load.ids) >= so_far + 6)
    assert {number for number, _ in load.refused} <= {leader}, load.refused
    replicas.check_each_ran_once(load.ids)


def test_what_a_follower_is_asked_is_done_by_the_leader_soon(start: Callable[..., Replicas]) -> None:
    replicas = start(2, extra="c.Reconciler.resync_seconds = 3600")  # the leader does not look by itself
    leader = replicas.wait_leader()
    client = replicas.clients[1 - leader]
    begun = time.monotonic()
    job = client.submit("echo one; sleep 60; echo two")
    client.wait(job["id"], "running")
    print(f"a job of a follower runs after {time.monotonic() - begun:.2f} s")
    assert client.call("GET", f"api/v1/jobs/{job['id']}/events")["items"] == []
    with client.http.stream("GET", f"api/v1/jobs/{job['id']}/logs", params={"follow": "1"}) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "one"
        client.call("POST", f"api/v1/jobs/{job['id']}/cancel")
        assert list(lines) == []
    assert client.wait(job["id"])["status"] == "cancelled"
    assert client.logs(job["id"]) == "one\n"
    client.call("DELETE", f"api/v1/jobs/{job['id']}", status=204)


def test_an_idempotency_key_is_known_to_every_replica_and_after_a_restart(
    start: Callable[..., Replicas],
) -> None:
    replicas = start(2)
    headers = {"Idempotency-Key": "the same"}
    first = replicas.clients[0].call("POST", "api/v1/jobs", status=201, json=replicas.body, headers=headers)
    replicas.services[0].kill()
    replicas.services[0].start()
    other = replicas.body | {"args": ["x"]}
    for client in replicas.clients:
        again = client.call("POST", "api/v1/jobs", json=replicas.body, headers=headers)
        assert again["id"] == first["id"]
        refused = client.call("POST", "api/v1/jobs", status=409, json=other, headers=headers)
        assert refused["reason"] == "IdempotencyKeyReused"
    replicas.check_each_ran_once({first["id"]})


@pytest.mark.parametrize(
    "times",
    [
        25,
        pytest.param(100, marks=pytest.mark.exhaustive("what goes wrong once in a hundred times")),
    ],
)
def test_forced_changes_of_lead_run_no_job_twice(
    start: Callable[..., Replicas], postgresql: PostgreSQL, postgresql_url: str, times: int
) -> None:
    replicas = start(3, "c.Leader.retry_seconds = 0.1")
    begun = time.monotonic()
    changes = 0
    last = None
    with (
        Load(replicas, pause_seconds=0.3) as load,
        psycopg.connect(postgresql_url, autocommit=True) as database,
    ):
        while changes < times:
            for (pid,) in database.execute(LEADERS).fetchall():
                if pid != last:
                    database.execute("SELECT pg_terminate_backend(%s)", (pid,))
                    changes, last = changes + 1, pid
            time.sleep(random.uniform(0, 0.5))  # some leads end before they have begun, some do work
    print(f"{changes} changes in {time.monotonic() - begun:.0f} s, {len(load.ids)} jobs")
    assert not load.refused
    replicas.check_each_ran_once(load.ids)


def test_a_database_that_is_restarted_under_load_loses_no_job(
    start: Callable[..., Replicas], postgresql: PostgreSQL
) -> None:
    replicas = start(2, "c.Leader.retry_seconds = 0.5")
    with Load(replicas, pause_seconds=0.1) as load:
        wait_until(lambda: len(load.ids) >= 5)
        for mode in ("immediate", "fast"):
            postgresql.stop(mode)
            refused = load.refused.total()
            wait_until(lambda refused=refused: load.refused.total() >= refused + 4)
            postgresql.start()
            so_far = len(load.ids)
            wait_until(lambda so_far=so_far: len(load.ids) >= so_far + 5)
    assert {status for _, status in load.refused} == {503}, load.refused
    replicas.check_each_ran_once(load.ids)
    for service in replicas.services:
        assert "Traceback" not in service.log.read_text()


def test_limits_hold_through_all_replicas_and_after_a_kill_of_the_leader(
    start: Callable[..., Replicas], root: Path
) -> None:
    """No more run or wait than may, on every wire; and each that was accepted runs once, in its order."""
    replicas = start(2, 'c.Limits.user_limits = {"running": 2, "queued": 6}')
    leader = replicas.wait_leader()
    running = root / "running"
    running.touch()
    running.chmod(0o666)
    script = f"echo + >> {running}; sleep 1; echo $KBATCH_JOB_ID >> {replicas.ran}; echo - >> {running}"
    body = {"name": "limited", "command": ["sh", "-c", script]}
    flat = {"image": "this-machine", **body}
    container = {"name": "job", "image": "this-machine", "command": body["command"]}
    manifest = {
        "job": {
            "metadata": {"generate_name": "limited-"},
            "spec": {"template": {"spec": {"containers": [container]}}},
        }
    }
    ids: list[str] = []

    def submit(number: int) -> httpx.Response:
        return replicas.clients[number % 2].http.post("api/v1/jobs", json=body, timeout=30)

    while (answer := submit(len(ids))).status_code == 201:
        ids.append(answer.json()["id"])
    assert 6 <= len(ids) <= 10  # a job may end meanwhile
    for number, client in enumerate(replicas.clients):
        for path, data in (("api/v1/jobs", body), ("jobs/", flat), ("jobs/", manifest)):
            while (answer := client.http.post(path, json=data, timeout=30)).is_success:
                said = answer.json()
                ids.append(said.get("id") or said["metadata"]["name"])
            assert (answer.status_code, answer.headers["Retry-After"]) == (429, "60"), number
            assert answer.json()["reason"] == "QuotaExceeded"
            assert path.startswith("api") or "6 of your jobs are queued" in answer.json()["detail"]
    replicas.services[leader].kill()
    other = replicas.clients[1 - leader]

    def read_message() -> str:
        shown = other.http.get(f"jobs/{ids[-1]}").json()["metadata"]["annotations"]
        return str(shown["kbatch.jupyter.org/message"])

    wait_until(lambda: read_message().startswith("You have 2 of 2 jobs running. This job is "), seconds=10)
    queue = other.http.get("api/v1/user").json()["queue"]
    assert [job["id"] for job in queue["jobs"]] == ids[-len(queue["jobs"]) :]
    replicas.check_each_ran_once(set(ids))
    now, most = 0, 0
    for sign in running.read_text().split():
        now += 1 if sign == "+" else -1
        most = max(most, now)
    assert (now, most) == (0, 2)
    usage = other.http.get("api/v1/user").json()["usage"]
    assert (usage["queued"], usage["running"]) == (0, 0)
    assert len(ids) * 0.9 < usage["job_hours_per_month"] * 3600 < len(ids) * 10
