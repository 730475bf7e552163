"""A user of the hub who was deleted, and another one of the same name: with a real hub and service."""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.service.test_operations import connect, run_job, running
from tests.support.folders import find_files
from tests.support.hub import Hub
from tests.support.ports import find_ports
from tests.support.service import Service
from tests.support.zips import make_zip

DOCS = (Path(__file__).parents[2] / "docs/operations.md").read_text().partition("## Users who leave")[2]
ROLE, HOOK = (
    textwrap.dedent(block)
    for block in re.findall(r"^  ```python\n(.*?)^  ```$", DOCS, re.DOTALL | re.MULTILINE)
)
"""What the docs say to put into jupyterhub_config.py."""

TOKEN = secrets.token_hex(16)
HOOK_S_TOKEN = f"""
import os
os.environ["KBATCH_ADMIN_TOKEN"] = {TOKEN!r}
from jupyterhub.auth import DummyAuthenticator as TheAuthenticatorThatYouUse
c.ForgettingAuthenticator.allow_all = True
c.JupyterHub.services.append({{"name": "forgetter", "api_token": {TOKEN!r}}})
c.JupyterHub.load_roles.append(
    {{
        "name": "forgetter",
        "services": ["forgetter"],
        "scopes": ["access:services!service=kbatch", "custom:kbatch:admin"],
    }}
)
"""


EXCEPT_TEMP = """
class ExceptTemp(ForgettingAuthenticator):
    async def delete_user(self, user):
        if user.name != "temp":
            await super().delete_user(user)

c.JupyterHub.authenticator_class = ExceptTemp
"""
"""Of this user the service hears nothing."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    (port,) = find_ports(1)
    extra = ROLE + HOOK_S_TOKEN + HOOK.replace(":8050", f":{port}") + EXCEPT_TEMP
    hub = Hub(tmp_path_factory.mktemp("hub"), service_url=f"http://127.0.0.1:{port}", extra=extra)
    try:
        hub.start()
        hub.add_admin("warden")
        yield hub
    finally:
        hub.stop()


@pytest.fixture(scope="module")
def service(hub: Hub) -> Iterator[Service]:
    port = int(hub.service_url.rpartition(":")[2])
    with running(hub, "c.Reconciler.resync_seconds = 1\n", port=port) as service:
        yield service


def run(service: Service, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "kbatch_server",
            "forget-user",
            *arguments,
            "--config",
            "kbatch_server_config.py",
        ],
        cwd=service.folder,
        env=os.environ | service.environment | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout if done.returncode == 0 else done.stderr


def run_gc(service: Service) -> None:
    command = [sys.executable, "-m", "kbatch_server", "gc", "--config", "kbatch_server_config.py"]
    subprocess.run(command, cwd=service.folder, env=os.environ | service.environment, check=True, timeout=60)


def submit(client: httpx.Client, command: str) -> str:
    body = {"name": "work", "command": ["sh", "-c", command]}
    answer = client.post("api/v1/jobs", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def list_jobs(client: httpx.Client) -> list[str]:
    return [job["id"] for job in client.get("api/v1/jobs").json()["items"]]


def make_older(service: Service, *job_ids: str) -> None:
    """Let jobs have been submitted an hour ago."""
    with sqlite3.connect(service.folder / "kbatch-server.sqlite", timeout=30) as database:
        for job_id in job_ids:
            database.execute(
                "UPDATE jobs SET created_at = datetime(created_at, '-1 hour') || '.000000' WHERE id = ?",
                [job_id],
            )


def wait_until_gone(path: Path) -> None:
    deadline = time.monotonic() + 60
    while path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.1)


def test_another_user_of_the_same_name_sees_nothing_of_a_user_who_was_deleted(hub, service):
    hub.add_user("temp")
    with connect(service, hub.make_token("temp")) as former, connect(service, hub.make_token("bob")) as bob:
        ended = run_job(former, "sh", "-c", "echo secret")
        runs = submit(former, "exec sleep 300")
        former.post("api/v1/uploads", content=make_zip(), headers={"Content-Type": "application/zip"})
        stays = run_job(bob, "true")
        make_older(service, ended, runs)

        hub.delete_user("temp")
        assert run(service, "--deleted", "--dry-run") == "temp: would be forgotten\n"
        hub.add_user("temp")
        with connect(service, hub.make_token("temp")) as later:
            assert list_jobs(later) == [runs, ended]  # as long as nobody has the former user forgotten
            own = submit(later, "true")
            assert "temp, before" in run(service, "--deleted", "--dry-run")
            assert list_jobs(later) == [own, runs, ended]
            assert "forgotten, 2 jobs, " in run(service, "--deleted")
            assert list_jobs(later) == [own]
            assert later.get(f"api/v1/jobs/{ended}/logs").status_code == 404
            assert run(service, "--deleted") == ""
        wait_until_gone(service.folder / "jobs" / runs)
        assert list_jobs(bob)[0] == stays


def test_an_admin_or_a_hook_of_the_hub_forgets_a_user_by_name(hub, service):
    hub.add_user("leaver")
    with connect(service, hub.make_token("leaver")) as leaver:
        jobs = [run_job(leaver, "true"), submit(leaver, "exec sleep 300")]
        leaver.put("api/v1/secrets/token", json={"value": "s3cr3t"})
        upload = leaver.post(
            "api/v1/uploads", content=make_zip(), headers={"Content-Type": "application/zip"}
        ).json()
        [code] = [path for path in find_files(service.folder) if path.match(f"uploads/{upload['id']}")]
        with connect(service, hub.make_token("warden")) as warden:
            done = warden.delete("api/v1/users/leaver")
            assert (done.status_code, done.json()) == (
                200,
                {"user": "leaver", "jobs": 2, "uploads": 1, "secrets": 1},
            )
            assert warden.delete("api/v1/users/leaver").json() == dict(
                done.json(), jobs=0, uploads=0, secrets=0
            )
            entry = warden.get("api/v1/audit?action=forget-user&limit=2").json()["items"][1]
            assert (entry["who"], entry["user"], entry["detail"]) == (
                "warden",
                "leaver",
                "2 jobs, 1 uploads, 1 secrets",
            )
        assert list_jobs(leaver) == []
        assert leaver.get("api/v1/secrets").json() == {"items": []}
        assert leaver.get(f"api/v1/jobs/{jobs[0]}").status_code == 404
        assert leaver.get("api/v1/user").json()["usage"]["job_hours_per_month"] == 0
        wait_until_gone(service.folder / "jobs" / jobs[1])
        # what the job used that ran until then, too
        assert leaver.get("api/v1/user").json()["usage"]["job_hours_per_month"] == 0
        run_gc(service)
        assert not code.exists()
    assert "leaver: forgotten, 0 jobs, 0 uploads and 0 secrets" in run(service, "leaver")


def test_nobody_is_forgotten_when_the_hub_does_not_say_who_is_there(hub, service):
    with connect(service, hub.make_token("bob")) as bob:
        stays = run_job(bob, "true")
        (closed,) = find_ports(1)
        said = run(service, "--deleted", JUPYTERHUB_API_URL=f"http://127.0.0.1:{closed}/hub/api")
        assert "could not list its users" in said
        # a token that may see nobody: the hub says 404 of each
        said = run(service, "--deleted", JUPYTERHUB_API_TOKEN=hub.ci_token)
        assert "lacks the scope 'read:users'" in said
        assert stays in list_jobs(bob)
    assert "needs names of users, or --deleted" in run(service)


def test_the_hub_forgets_a_user_whom_it_deletes_by_the_documented_hook(hub, service):
    hub.add_user("short")
    with connect(service, hub.make_token("short")) as short:
        run_job(short, "true")
    hub.delete_user("short")
    hub.add_user("short")
    with connect(service, hub.make_token("short")) as another:
        assert list_jobs(another) == []
