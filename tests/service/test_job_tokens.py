"""The tokens that a job has, used from inside the job: the service's own, and the hub's on request."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest

from tests.service.test_operations import connect, running
from tests.support.hub import Hub
from tests.support.ports import find_ports
from tests.support.service import Service
from tests.support.waiting import wait_until

MEMBERS = ["alice", "a.b", "ünïcode"]
HUB = f"""
c.JupyterHub.load_groups = {{"kbatch-users": {{"users": {MEMBERS!r}}}}}
c.JupyterHub.load_roles.append(
    {{"name": "kbatch-tokens", "services": ["kbatch"], "scopes": ["tokens!group=kbatch-users"]}}
)
c.JupyterHub.token_expires_in_max_seconds = 3600
"""
SCOPES = ["users:activity!user", "read:users!user", "admin:users", "admin:groups"]
SETTINGS = f"""
c.JobConfig.allowed_hub_scopes = {SCOPES!r}
c.HubTokens.max_token_seconds = 86400
c.Reconciler.resync_seconds = 1
"""

ASK = """
import json, os, sys, urllib.error, urllib.request

def ask(url, token, method="GET", body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": "token " + token, "Content-Type": "application/json"}
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()

hub, hub_token = os.environ.get("JUPYTERHUB_API_URL"), os.environ.get("JUPYTERHUB_API_TOKEN")
url, token, job = (os.environ["KBATCH_" + name] for name in ("URL", "JOB_TOKEN", "JOB_ID"))
told = {}
"""
"""The beginning of each job: how a program with nothing but Python's own library asks."""

TELL = """
print("TOLD " + json.dumps(told), flush=True)
"""


@pytest.fixture(scope="module")
def token_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub that lets the service make tokens for the members of a group."""
    url = f"http://127.0.0.1:{find_ports(1)[0]}"
    hub = Hub(tmp_path_factory.mktemp("hub"), service_url=url, extra=HUB)
    try:
        hub.start()
        yield hub
    finally:
        hub.stop()


@pytest.fixture(scope="module")
def service(token_hub: Hub) -> Iterator[Service]:
    port = int(str(token_hub.service_url).rpartition(":")[2])
    with running(token_hub, SETTINGS, port=port) as service:
        yield service


@pytest.fixture
def alice(token_hub: Hub, service: Service) -> Iterator[httpx.Client]:
    with connect(service, token_hub.make_token("alice")) as client:
        yield client


def submit(client: httpx.Client, script: str, **fields: object) -> str:
    body = {"name": "asks", "command": ["python3", "-c", ASK + script + TELL], **fields}
    answer = client.post("api/v1/jobs", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def wait_for_end(client: httpx.Client, job_id: str, status: str = "succeeded") -> dict:
    job = wait_until(lambda: (job := read(client, job_id))["ended_at"] and job, "the job has ended")
    assert job["status"] == status, (job, client.get(f"api/v1/jobs/{job_id}/logs").text)
    return job


def read(client: httpx.Client, job_id: str) -> dict:
    return client.get(f"api/v1/jobs/{job_id}").json()


def read_told(client: httpx.Client, job_id: str) -> dict:
    """Return what the job has told on its log."""
    log = wait_until(lambda: "TOLD" in (text := client.get(f"api/v1/jobs/{job_id}/logs").text) and text)
    return json.loads(log.partition("TOLD ")[2].splitlines()[0])


def list_tokens(hub: Hub, user: str) -> dict[str, str]:
    """Return the tokens of a user that the service has made: id by note."""
    tokens = hub._call("GET", f"users/{user}/tokens")["api_tokens"]
    return {each["note"]: each["id"] for each in tokens if each["note"].startswith("kbatch job ")}


def read_column(service: Service, job_id: str, column: str = "hub_token") -> object:
    [path] = service.folder.glob("*.sqlite")
    with closing(sqlite3.connect(path)) as connection:
        row = connection.execute(f"SELECT {column} FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return row and row[0]


def ask_hub(hub: Hub, token: str, path: str = "user") -> int:
    return httpx.get(f"{hub.api_url}/{path}", headers={"Authorization": f"token {token}"}).status_code


def is_cleaned(service: Service, job_id: str) -> bool:
    return read_column(service, job_id, "cleaned_at") is not None


# The service's own token


def test_a_job_reads_itself_reports_progress_and_submits_jobs_until_it_ends(alice, service):
    script = """
told["own"] = json.loads(ask(f"{url}api/v1/jobs/{job}", token)[1])["id"]
told["progress"] = ask(f"{url}api/v1/jobs/{job}/progress", token, "PUT", {"done": 2, "total": 4})[0]
status, answer = ask(f"{url}api/v1/jobs", token, "POST", {"name": "part", "command": ["true"]})
told["child"] = json.loads(answer)["id"]
told["statuses"] = [status, ask(f"{url}api/v1/uploads", token)[0], ask(f"{url}api/v1/user", token)[0]]
told["hub"] = [hub, hub_token]
told["token"] = token
"""
    job_id = submit(alice, script)
    job = wait_for_end(alice, job_id)
    told = read_told(alice, job_id)
    assert told["own"] == job_id
    assert told["progress"] == 204
    assert told["statuses"] == [201, 405, 403]
    assert told["hub"] == [None, None]  # none of the hub, unless the job requests one
    assert (job["progress"]["done"], job["progress"]["total"], job["children"]) == (2, 4, 1)
    child = wait_for_end(alice, told["child"])
    assert (child["parent"], child["user"]) == (job_id, "alice")
    with connect(service, told["token"]) as dead:
        wait_until(lambda: dead.get(f"api/v1/jobs/{job_id}").status_code == 401)
        assert dead.post("api/v1/jobs", json={"name": "late", "command": ["true"]}).status_code == 401


def test_two_users_never_meet(alice, service, token_hub):
    script = (
        "told['token'] = token\nprint('TOLD ' + json.dumps(told), flush=True)\nimport time; time.sleep(60)\n"
    )
    with connect(service, token_hub.make_token("bob")) as bob:
        ids = [submit(client, script) for client in (alice, bob)]
        tokens = [
            read_told(client, job_id)["token"] for client, job_id in zip((alice, bob), ids, strict=True)
        ]
        for token, own, other in ((tokens[0], *ids), (tokens[1], *reversed(ids))):
            with connect(service, token) as client:
                assert client.get(f"api/v1/jobs/{own}").status_code == 200
                assert client.get(f"api/v1/jobs/{other}").status_code == 404
                assert client.put(f"api/v1/jobs/{other}/progress", json={"done": 1}).status_code == 404
                assert client.get(f"api/v1/jobs?parent={other}").status_code == 403
        for client, job_id in zip((alice, bob), ids, strict=True):
            client.post(f"api/v1/jobs/{job_id}/cancel")


# The hub's


def test_a_job_has_a_token_of_the_hub_with_what_it_requests_until_it_ends(alice, service, token_hub):
    script = """
seen = {"last_activity": "2026-01-01T00:00:00Z"}
told["activity"] = ask(f"{hub}/users/alice/activity", hub_token, "POST", seen)[0]
told["self"] = json.loads(ask(f"{hub}/user", hub_token)[1])["scopes"]
told["refused"] = [
    ask(f"{hub}/users/alice/server", hub_token, "POST")[0],
    ask(f"{hub}/users/bob", hub_token)[0],
    ask(f"{hub}/users/alice/tokens", hub_token, "POST", {})[0],
    ask(f"{url}api/v1/jobs", hub_token)[0],
]
told["token"] = hub_token
"""
    job_id = submit(alice, script, hub_scopes=["users:activity!user"])
    told = read_told(alice, job_id)
    assert told["activity"] == 200
    assert "users:activity!user=alice" in told["self"]
    assert not [scope for scope in told["self"] if scope.startswith(("servers", "tokens", "access"))]
    assert told["refused"] == [403, 404, 403, 403]
    wait_for_end(alice, job_id)
    wait_until(lambda: is_cleaned(service, job_id))
    assert ask_hub(token_hub, told["token"]) == 403
    assert f"kbatch job {job_id}" not in list_tokens(token_hub, "alice")
    assert read_column(service, job_id) == ""
    # it is in the record and in the log of nobody but the job itself
    assert told["token"] not in service.log.read_text()
    database = b"".join(path.read_bytes() for path in service.folder.glob("*.sqlite*"))
    assert told["token"].encode() not in database


def test_a_token_lives_no_longer_than_the_hub_allows(alice, service, token_hub):
    job_id = submit(alice, "import time; time.sleep(60)", hub_scopes=["read:users!user"])
    tokens = wait_until(lambda: list_tokens(token_hub, "alice"))
    token = token_hub._call("GET", f"users/alice/tokens/{tokens[f'kbatch job {job_id}']}")
    seconds = wait_until(lambda: read(alice, job_id)["started_at"]) and token["expires_at"]
    assert seconds is not None  # the service asked for a day, and the hub gives an hour
    alice.post(f"api/v1/jobs/{job_id}/cancel")
    wait_for_end(alice, job_id, "cancelled")
    wait_until(lambda: not list_tokens(token_hub, "alice"))


def test_a_deleted_job_leaves_no_token(alice, service, token_hub):
    job_id = submit(alice, "import time; time.sleep(60)", hub_scopes=["read:users!user"])
    wait_until(lambda: list_tokens(token_hub, "alice"))
    alice.delete(f"api/v1/jobs/{job_id}")
    wait_until(lambda: read_column(service, job_id, "id") is None)
    assert not list_tokens(token_hub, "alice")


@pytest.mark.parametrize("scope", ["admin:users", "admin:groups"])
def test_a_scope_that_the_user_lacks_fails_the_job_and_is_named(alice, service, token_hub, scope):
    job = wait_for_end(alice, submit(alice, "", hub_scopes=[scope]), "failed")
    assert job["reason"] == "HubTokenRefused"
    assert scope in job["message"]
    wait_until(lambda: is_cleaned(service, job["id"]))
    assert not list_tokens(token_hub, "alice")


def test_the_service_makes_tokens_for_the_members_of_its_group_alone(service, token_hub):
    with connect(service, token_hub.make_token("bob")) as bob:
        job = wait_for_end(bob, submit(bob, "", hub_scopes=["read:users!user"]), "failed")
    assert job["reason"] == "HubTokenRefused"
    assert "tokens!group=NAME" in job["message"]
    wait_until(lambda: is_cleaned(service, job["id"]))
    with connect(service, token_hub.make_token("a.b")) as member:
        wait_for_end(member, submit(member, "", hub_scopes=["read:users!user"]))
    with connect(service, token_hub.make_token("ünïcode")) as member:
        wait_for_end(member, submit(member, "", hub_scopes=["read:users!user"]))


@pytest.mark.parametrize("step", ["token.1", "token.2", "token.3"])
@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_kill_at_any_line_leaves_no_token(alice, service, token_hub, step, is_cancelled):
    service.stop()
    service.set_environment(KBATCH_TEST_FAILPOINT=f"{step}:1")
    service.start()
    script = """
told["status"] = ask(f"{hub}/user", hub_token)[0]
"""
    job_id = submit(alice, script, hub_scopes=["read:users!user"])
    service.wait_killed(step, 30)
    note = f"kbatch job {job_id}"
    assert (note in list_tokens(token_hub, "alice")) == (step != "token.1")
    lost = list_tokens(token_hub, "alice").get(note)
    service.set_environment(KBATCH_TEST_FAILPOINT=None)
    if is_cancelled:
        [path] = service.folder.glob("*.sqlite")
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(
                "UPDATE jobs SET cancel_requested_at = launch_begun_at WHERE id = ?", (job_id,)
            )
            connection.commit()
    service.start()
    job = wait_for_end(alice, job_id, "cancelled" if is_cancelled else "succeeded")
    if not is_cancelled:
        assert read_told(alice, job_id)["status"] == 200
    wait_until(lambda: is_cleaned(service, job["id"]))
    assert note not in list_tokens(token_hub, "alice")
    assert lost not in list_tokens(token_hub, "alice").values()


@pytest.mark.parametrize("step", ["launch.3", "launch.4", "launch.5"])
def test_a_job_that_runs_keeps_its_token_when_the_service_is_killed_before_it_knows(
    alice, service, token_hub, step
):
    service.stop()
    service.set_environment(KBATCH_TEST_FAILPOINT=f"{step}:1")
    service.start()
    script = """
import time
for _ in range(600):
    try:
        if json.loads(ask(f"{url}api/v1/jobs/{job}", token)[1])["status"] != "queued":
            break
    except OSError:
        pass
    time.sleep(0.1)
told["status"] = ask(f"{hub}/user", hub_token)[0]
"""
    job_id = submit(alice, script, hub_scopes=["read:users!user"])
    service.wait_killed(step, 30)
    service.set_environment(KBATCH_TEST_FAILPOINT=None)
    service.start()
    wait_for_end(alice, job_id)
    assert read_told(alice, job_id)["status"] == 200
    wait_until(lambda: is_cleaned(service, job_id))
    assert not list_tokens(token_hub, "alice")
    assert read_column(service, job_id, "hub_secret") is None


def test_tokens_that_are_not_on_record_are_swept_at_the_start_and_no_others(alice, service, token_hub):
    over = submit(alice, "", hub_scopes=["read:users!user"])
    wait_for_end(alice, over)
    runs = submit(alice, "import time; time.sleep(60)", hub_scopes=["read:users!user"])
    wait_until(lambda: list_tokens(token_hub, "alice"))

    def make(note: str) -> None:
        token_hub._call("POST", "users/alice/tokens", json={"note": note, "scopes": ["read:users!user"]})

    make(f"kbatch job {over}")  # as a leader leaves it that has just lost the lead
    make("kbatch job unknown-1")
    make("my own kbatch job")
    make(f"other job {over}")
    service.kill()
    service.start()
    wait_until(lambda: set(list_tokens(token_hub, "alice")) == {f"kbatch job {runs}"})
    notes = {each["note"] for each in token_hub._call("GET", "users/alice/tokens")["api_tokens"]}
    assert {"my own kbatch job", f"other job {over}"} <= notes
    alice.post(f"api/v1/jobs/{runs}/cancel")
    wait_until(lambda: not list_tokens(token_hub, "alice"))


def test_a_hub_that_is_down_delays_launch_and_revoking_and_nothing_else(alice, service, token_hub):
    wait_at = "import time\nfor _ in range(600):\n    if os.path.exists('go'): break\n    time.sleep(0.1)\n"
    with_token = submit(alice, wait_at + "told['ok'] = 1", hub_scopes=["read:users!user"])
    wait_until(lambda: read(alice, with_token)["status"] == "running")
    token_hub._stop_hub()
    try:
        later = submit(
            alice, "told['status'] = ask(f'{hub}/user', hub_token)[0]", hub_scopes=["read:users!user"]
        )
        wait_until(lambda: "JupyterHub does not respond" in read(alice, later)["message"])
        other = submit(alice, "")
        wait_for_end(alice, other)
        alice.post(f"api/v1/jobs/{with_token}/cancel")
        wait_for_end(alice, with_token, "cancelled")
        log = wait_until(lambda: "is not revoked yet" in (text := service.log.read_text()) and text)
        assert not is_cleaned(service, with_token)
        assert "Traceback" not in log
    finally:
        token_hub.start(is_service_up=True)
    wait_for_end(alice, later)
    assert read_told(alice, later)["status"] == 200
    wait_until(lambda: is_cleaned(service, with_token) and is_cleaned(service, later), seconds=90)
    assert not list_tokens(token_hub, "alice")


def test_the_start_warns_of_scopes_that_make_the_service_as_good_as_root(token_hub, service):
    assert "whoever controls the service controls the hub" not in service.log.read_text()


def test_the_log_and_the_jobs_never_have_the_tokens(service):
    log = service.log.read_text()
    assert not re.search(r"kbatch-job-[\w-]{20}", log)
