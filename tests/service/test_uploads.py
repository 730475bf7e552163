"""Uploads and code URLs of the real service, in a process of its own: kills, bad ZIPs, secrets, limits."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import sqlite3
import stat
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from kbatch_server.keyring import Keyring
from kbatch_server.launchers.local.unpack import remove_tree
from tests.support.folders import find_files
from tests.support.hub_double import ACCESS, ACTIONS
from tests.support.ports import find_ports
from tests.support.service import Service
from tests.support.waiting import until
from tests.support.web import PREFIX
from tests.support.zips import make_zip

CONFIG = """
c.KBatchServer.bind_url = "http://127.0.0.1:{port}"
c.KBatchServer.launcher_class = "local"
c.KBatchServer.log_level = "DEBUG"
c.JobConfig.image = "this-machine"
c.LocalProcessJobLauncher.root = "{folder}/jobs"
c.Uploads.max_upload_bytes = 3_000_000
c.Janitor.interval_seconds = 1
"""
HEAD = (
    b"POST /services/kbatch/api/v1/uploads HTTP/1.1\r\nHost: x\r\nAuthorization: token alice-token\r\n"
    b"Content-Type: application/zip\r\nContent-Length: 2000000\r\n\r\n"
)


@pytest.fixture(scope="module")
def hub_url() -> Iterator[str]:
    """The API of a hub that knows Alice and Bob."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.headers["Authorization"].removeprefix("token ").removesuffix("-token")
            self.send_response(200)
            self.end_headers()
            user = {"name": name, "kind": "user", "groups": [], "scopes": [ACCESS, *ACTIONS]}
            self.wfile.write(json.dumps(user).encode())

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hub/api"
        server.shutdown()


@pytest.fixture(scope="module")
def running_service(hub_url: str) -> Iterator[Service]:
    """The service in a folder that the account of its jobs can reach, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="kbatch-test-"))
    folder.chmod(0o711)
    (port,) = find_ports(1)
    environment = {
        "JUPYTERHUB_API_TOKEN": "the-service-token",
        "JUPYTERHUB_API_URL": hub_url,
        "JUPYTERHUB_SERVICE_PREFIX": PREFIX,
    }
    config = CONFIG.format(port=port, folder=folder)
    service = Service(folder, port=port, config=config, environment=environment)
    service.start()
    yield service
    service.stop()
    remove_tree(folder)


@pytest.fixture
async def service(running_service):
    """The same, running, and with nothing in its storage that a test before left."""
    if running_service.process.poll() is not None:
        await asyncio.to_thread(running_service.start)
    async with client(running_service) as api:
        for job in (await api.get("api/v1/jobs")).json()["items"]:
            await api.delete(f"api/v1/jobs/{job['id']}")
    await forget_all(running_service)
    return running_service


async def forget_all(service: Service) -> None:
    """Let the janitor collect what no job names."""
    expire_all(service)
    await until(lambda: not find_stored(service))


@pytest.fixture
async def api(service):
    async with client(service) as api:
        yield api


def client(service: Service, token: str | None = "alice-token") -> httpx.AsyncClient:
    headers = {"Authorization": f"token {token}"} if token else {}
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.port}{PREFIX}", headers=headers, timeout=30)


def find_stored(service: Service) -> list[Path]:
    """Return the files of uploads, finished or not: the logs of jobs are no concern of these tests."""
    root = service.folder / "kbatch-storage"
    return [path for path in find_files(root) if not path.is_relative_to(root / "logs")]


async def keep(api: httpx.AsyncClient, content: bytes) -> dict:
    answer = await api.post("api/v1/uploads", content=content, headers={"Content-Type": "application/zip"})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def submit(api: httpx.AsyncClient, script: str, upload: dict, status: str) -> dict:
    """Submit a job and wait until it has a status."""
    body = {"name": "x", "command": ["sh", "-c", script], "upload": upload["id"]}
    answer = await api.post("api/v1/jobs", json=body)
    assert answer.status_code == 201, answer.text
    return await wait_for(api, answer.json(), status)


async def wait_for(api: httpx.AsyncClient, job: dict, status: str) -> dict:
    async with asyncio.timeout(20):
        while job["status"] != status:
            assert job["status"] in {"queued", "pending", "running"}, job
            await asyncio.sleep(0.05)
            job = (await api.get(f"api/v1/jobs/{job['id']}")).json()
    return job


# what is broken off


def send_half(service: Service) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", service.port))
    connection.sendall(HEAD + os.urandom(1_500_000))
    return connection


async def test_a_client_that_vanishes_leaves_no_file(service):
    connection = await asyncio.to_thread(send_half, service)
    await until(lambda: len(find_stored(service)) == 1)
    connection.close()
    await until(lambda: not find_stored(service))


async def test_a_service_that_is_killed_leaves_no_upload_and_nothing_in_the_end(service, api):
    connection = await asyncio.to_thread(send_half, service)
    await until(lambda: len(find_stored(service)) == 1)
    service.kill()
    connection.close()
    [left] = find_stored(service)
    assert left.parent.name == ".incoming"
    # as if it had been killed a moment later, when the object was there and its record was not
    orphan = service.folder / "kbatch-storage/uploads" / ("a" * 40)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"x")
    for path in (left, orphan):
        os.utime(path, (0, 0))  # a day has gone by
    await asyncio.to_thread(service.start)
    await until(lambda: find_stored(service) == [])
    upload = await keep(api, make_zip({"main.py": "print()"}))
    assert [path.name for path in find_stored(service)] == [upload["id"]]


async def test_a_service_that_is_stopped_in_the_middle_leaves_nothing(service):
    with await asyncio.to_thread(send_half, service):
        await until(lambda: len(find_stored(service)) == 1)
        await asyncio.to_thread(service.stop)
        assert find_stored(service) == []
        assert "Traceback" not in service.tail()


# bad ZIPs, on each wire


def make_bad_zips() -> dict[str, tuple[bytes, str]]:
    """Return ZIPs with what must be said of each."""
    link = zipfile.ZipInfo("evil")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    liar = bytearray(make_zip({"liar": bytes(10_000_000)}))
    at = liar.index(b"PK\x01\x02")
    liar[22:26] = liar[at + 24 : at + 28] = (10).to_bytes(4, "little")
    good = make_zip({"main.py": "print()"})
    return {
        "no-zip": (b"print()", "The submitted file must be a ZIP archive."),
        "cut-off": (good[:-30], "The ZIP archive is damaged, maybe truncated."),
        "path": (make_zip({"../x": ""}), "The ZIP archive's entry '../x' has '..' in its path."),
        "link": (
            make_zip((link, "/etc/passwd")),
            "The ZIP archive's entry 'evil' is a link to an absolute path",
        ),
        "liar": (bytes(liar), "The ZIP archive's entry 'liar' has more than its declared 10 bytes."),
    }


BAD_ZIPS = make_bad_zips()


@pytest.fixture(scope="module")
def kbatch_job() -> dict:
    container = {"name": "job", "command": ["true"]}
    return {
        "metadata": {"generate_name": "x-"},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }


async def test_a_bad_zip_is_refused_by_name_on_every_wire_and_leaves_nothing(service, api, kbatch_job):
    for content, said in BAD_ZIPS.values():
        answer = await api.post(
            "api/v1/uploads", content=content, headers={"Content-Type": "application/zip"}
        )
        assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, "file")
        assert answer.json()["message"].startswith(said)
        assert answer.json()["details"][0]["message"].startswith(said)
        answer = await api.post("api/v1/uploads", files={"file": ("code.zip", content)})
        assert answer.status_code == 400
        assert answer.json()["message"].startswith(said)
        answer = await api.post("uploads/", files={"file": ("code.zip", content)})
        assert answer.status_code == 400
        assert answer.json()["file"][0].startswith(said)
        code = {"binary_data": {"code": base64.b64encode(content).decode()}}
        answer = await api.post("jobs/", json={"job": kbatch_job, "code": code})
        assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, "code.binary_data.code")
        assert said in answer.json()["detail"]
    assert find_stored(service) == []
    assert (await api.get("api/v1/jobs")).json()["items"] == []


# how a job gets its code


def sign(service: Service, job: dict, upload: dict) -> str:
    """Return what the service signs for a job: with its own keys, as it does itself."""
    keyring = Keyring.from_file(service.folder / "kbatch-server.keys")
    return keyring.sign({"job": job["id"], "upload": upload["id"]}, purpose="code")


async def test_a_code_url_is_good_for_that_code_until_the_job_is_over_and_for_nothing_else(service, api):
    first, second = [await keep(api, make_zip({"main.py": f"print({i})"})) for i in range(2)]
    jobs = [await submit(api, "sleep 60", upload, "running") for upload in (first, second)]
    signed = [sign(service, job, upload) for job, upload in zip(jobs, (first, second), strict=True)]
    async with client(service, token=None) as nobody:
        for each, upload in zip(signed, (first, second), strict=True):
            answer = await nobody.get(f"code/{each}")
            assert (answer.status_code, len(answer.content)) == (200, upload["size"])
            assert answer.headers["ETag"] == f'"{upload["sha256"]}"'
        parts = [each.split(".") for each in signed]
        mixed = ".".join([parts[0][0], *parts[1][1:]])
        for bad in (
            mixed,
            signed[0][:-1],
            signed[0] + "x",
            "x",
            Keyring(["k" * 32]).sign({}, purpose="code"),
        ):
            answer = await nobody.get(f"code/{bad}")
            assert (answer.status_code, answer.json()["reason"]) == (403, "BadLink"), bad
        keyring = Keyring.from_file(service.folder / "kbatch-server.keys")
        other_purpose = keyring.sign({"job": jobs[0]["id"], "upload": first["id"]}, purpose="outputs")
        assert (await nobody.get(f"code/{other_purpose}")).status_code == 403
        await api.post(f"api/v1/jobs/{jobs[0]['id']}/cancel")
        async with asyncio.timeout(20):
            while (await nobody.get(f"code/{signed[0]}")).status_code != 403:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert (await api.get(f"api/v1/jobs/{jobs[0]['id']}")).json()["status"] == "cancelled"
        assert (await nobody.get(f"code/{signed[1]}")).status_code == 200
    await api.delete(f"api/v1/jobs/{jobs[1]['id']}")


async def test_a_code_url_stands_in_no_log_answer_file_or_database(service, api):
    upload = await keep(api, make_zip({"main.py": "print()"}))
    # its own token, which it may show, is signed at the same moment
    job = await submit(api, "env | grep -v ^KBATCH_JOB_TOKEN=; sleep 60", upload, "running")
    signed = sign(service, job, upload)
    async with client(service, token=None) as nobody:
        assert (await nobody.get(f"code/{signed}")).status_code == 200
        assert (await nobody.get(f"code/{signed}x")).status_code == 403
        assert (await nobody.put(f"code/{signed}")).status_code == 405
    shown = [
        (await api.get(path)).text
        for path in (
            f"api/v1/jobs/{job['id']}",
            f"api/v1/jobs/{job['id']}/logs",
            f"api/v1/jobs/{job['id']}/events",
            f"api/v1/uploads/{upload['id']}",
            f"jobs/{job['id']}",
            "jobs",
        )
    ]
    await api.delete(f"api/v1/jobs/{job['id']}")
    service.stop()  # else files go while they are read
    kept = {path: path.read_bytes() for path in find_files(service.folder)}
    assert upload["id"].encode() in kept[service.log]
    assert b"GET /services/kbatch/code/[secret]" in kept[service.log]
    payload, moment, signature = signed.split(".")
    for secret in (payload, signature, f"code/{payload}", f".{moment}."):
        assert not [path for path, content in kept.items() if secret.encode() in content], secret
        assert not [text for text in shown if secret in text], secret


async def test_a_job_whose_upload_has_expired_is_run_again_with_the_same_code(service, api):
    """A job names its upload for as long as it is there: neither time nor the janitor takes that away."""
    upload = await keep(api, make_zip({"main.py": "print('the very same')"}))
    first = await submit(api, "cat main.py", upload, "succeeded")
    other = await keep(api, make_zip({"other.py": ""}))
    expire_all(service)
    await until(lambda: other["id"] not in [path.name for path in find_stored(service)])
    assert [path.name for path in find_stored(service)] == [upload["id"]]
    again = (await api.post(f"api/v1/jobs/{first['id']}/rerun")).json()
    await wait_for(api, again, "succeeded")
    assert (await api.get(f"api/v1/jobs/{again['id']}/logs")).text == "print('the very same')"
    for job in (first, again):
        assert find_stored(service)
        await api.delete(f"api/v1/jobs/{job['id']}")
    await until(lambda: not find_stored(service))


def expire_all(service: Service) -> None:
    with sqlite3.connect(service.folder / "kbatch-server.sqlite", timeout=10) as database:
        database.execute("UPDATE uploads SET expires_at = '2020-01-01 00:00:00.000000'")


async def test_limits_hold_for_the_real_thing(service, api):
    answer = await api.post(
        "api/v1/uploads", content=bytes(3_000_001), headers={"Content-Type": "application/zip"}
    )
    assert (answer.status_code, answer.json()["details"]) == (413, {"limit": 3_000_000, "size": 3_000_001})
    connections = [await asyncio.to_thread(send_half, service) for _ in range(4)]
    await until(lambda: len(find_stored(service)) == 4)
    answer = await api.post("api/v1/uploads", content=b"PK", headers={"Content-Type": "application/zip"})
    assert (answer.status_code, answer.json()["details"]) == (429, {"limit": 4})
    async with client(service, "bob-token") as bob:
        await keep(bob, make_zip({"main.py": ""}))
    for connection in connections:
        connection.close()
    await until(lambda: len(find_stored(service)) == 1)
    await keep(api, make_zip({"main.py": json.dumps(time.time())}))
