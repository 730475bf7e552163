"""The service in the process of a test: its own parts and its own server, over one database.

Only what is outside of it is a double: the hub, the launcher and the storage do what a test says.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from traitlets.config import Config

from kbatch_server.app import KBatchServer
from kbatch_server.models.job import Job, JobSpec, Pod, Status
from kbatch_server.models.times import utcnow
from tests.support.hub import Hub
from tests.support.hub_double import HubDouble
from tests.support.launcher_doubles import ScriptedLauncher, ScriptedLog
from tests.support.log_doubles import FaultyStorage
from tests.support.tars import as_sent, make_tar
from tests.support.waiting import SECONDS, until

PREFIX = "/services/kbatch/"

Settings = dict[str, dict[str, Any]]
"""What an admin's file would say, by class."""

PROFILES = [
    {"display_name": name, "kbatch_override": {"image": "python:3", "cpu_limit": cpu, "mem_limit": memory}}
    for name, cpu, memory in [("Small", 0.5, "1G"), ("Large", 8, "16G")]
]


def make_job(
    job_id: str = "train-1", *, user: str = "alice", status: Status = Status.RUNNING, **fields: Any
) -> Job:
    """Return a job as the store would."""
    spec = fields.pop("spec", None) or JobSpec(image="python:3", command=["python", "main.py"])
    return Job(id=job_id, user=user, name="train", spec=spec, created_at=utcnow(), status=status, **fields)


class HeldLock:
    """The leader's lock, as a process finds it that does not lead."""

    async def take(self) -> bool:
        return False

    async def release(self) -> None:
        pass


class Web:
    """A running service that does not lead: a job stays as a test has put it, and none is launched."""

    def __init__(self, hub: Hub | HubDouble, folder: Path, settings: Settings | Config | None = None) -> None:
        config = Config(
            {
                "KBatchServer": {
                    "bind_url": "http://127.0.0.1:0",
                    "db_url": f"sqlite:///{folder}/jobs.sqlite",
                    "key_file": str(folder / "keys"),
                    "launcher_class": ScriptedLauncher,
                    "storage_class": FaultyStorage,
                    "shutdown_seconds": 1,
                },
                "HubOAuth": {"api_token": "the-service-token", "api_url": hub.api_url},
                "JobConfig": {"image": "python:3"},
                "Profiles": {"profile_list": PROFILES},
            }
        )
        config.merge(Config(settings or {}))
        self.hub: Any = hub
        self.parts = parts = KBatchServer(config=config, service_prefix=PREFIX)
        parts.init_keyring()
        parts.init_store()
        parts.init_jobs()
        parts.init_auth()
        parts.init_web()
        self.application, self.auth, self.jobs = parts.web_app, parts.auth, parts.jobs
        self.store, self.uploads, self.outputs = parts.store, parts.uploads, parts.outputs
        self.services, self.throttle, self.inflight = parts.services, parts.throttle, parts.inflight
        self.launcher: ScriptedLauncher = parts.launcher
        self.storage: FaultyStorage = parts.storage
        self.recorder = parts.engine.recorder
        self.server = parts.listen()
        self.port = httpx.URL(parts.bind_url).port
        self.url = f"{parts.bind_url}{PREFIX}"

    async def start(self, running: AsyncExitStack) -> None:
        """Start what a request needs; ``running`` stops it."""
        running.callback(self.server.close)
        running.push_async_callback(self.auth.close)
        await self.store.open()
        running.push_async_callback(self.store.close)
        await self.jobs.watch.start()
        running.push_async_callback(self.jobs.watch.stop)
        running.push_async_callback(self.recorder.stop)
        self.store.make_lead_lock = HeldLock  # type: ignore[method-assign, assignment]
        await self.parts.engine.leader.start()
        running.push_async_callback(self.parts.engine.leader.stop)
        running.push_async_callback(self.uploads.settle)
        self.server.start()
        running.push_async_callback(self.server.close_connections)

    def client(self, token: str | None = "alice-token", **options: Any) -> httpx.AsyncClient:
        headers = {"Authorization": f"token {token}"} if token else {}
        options.setdefault("timeout", SECONDS)
        return httpx.AsyncClient(base_url=self.url, headers=headers | options.pop("headers", {}), **options)

    def join(self, location: str) -> httpx.URL:
        """Return the whole URL of a Location header."""
        return httpx.URL(self.url).join(location)

    async def add(
        self, job: Job | None = None, *, env: dict[str, str] | None = None, log: Iterable[bytes] | None = None
    ) -> Job:
        """Put a job on record, as it is; with ``log``, its pod has written this, and it was recorded."""
        job = job or make_job()
        if log is not None and not job.pods:
            job.pods = [Pod(name=f"{job.id}-x", phase="Running", created_at=utcnow())]
        job, _ = await self.store.jobs.add(replace(job, has_env=bool(env)), env=env)
        if log is not None:
            await self.write_log(job, *log)
        return job

    def find_log(self, job_id: str = "train-1") -> ScriptedLog:
        """Return what the pod of a job writes."""
        return self.launcher.logs[f"{job_id}-x"]

    async def write_log(self, job: Job, *pieces: bytes) -> None:
        """Let a job's newest pod write, and wait until it is read; of a job that is over, until it is kept.

        A reader sees all of it as one piece, unless ``logs.follower.PIECE_BYTES`` is less.
        """
        pod = job.pods[-1]
        log = self.launcher.logs[pod.name]
        log.piece_bytes = 2**16
        for piece in pieces:
            log.write(piece)
        if job.is_over:
            log.end()
            await until(lambda: self.recorder.settle(job))
            return
        self.recorder.ensure(job)
        await until(
            lambda: (
                (writer := self.recorder.find_writer(job.id, pod.name)) is not None
                and writer.end == len(log.data)
            )
        )

    async def finish(self, job: Job, status: Status = Status.SUCCEEDED, **fields: Any) -> Job:
        """Let a job end, with its log kept."""
        job = replace(job, status=status, ended_at=utcnow(), **fields)
        await self.write_log(job)
        await self.store.jobs.update(job.id, status=job.status, ended_at=job.ended_at, **fields)
        return job

    async def send_results(self, job: Job, files: dict[str, bytes]) -> Job:
        """Let a job have sent these files; return it with what is known of them."""
        await self.outputs.receive(job, as_sent(make_tar(files), 2**16, pod=f"{job.id}-x"))
        return await self.store.jobs.get(job.id, user=job.user)

    def sign_outputs(self, job: Job) -> str:
        """Return the path of the signed link to which a job sends its results."""
        return self.parts.engine.links.make_outputs_url(job).removeprefix(self.url)

    async def add_with_code(self, code: bytes) -> Job:
        """Let Alice send a ZIP of code, and put a job on record that runs it."""
        async with self.client(headers={"Content-Type": "application/zip"}) as alice:
            answer = (await alice.post("api/v1/uploads", content=code)).raise_for_status()
        return await self.add(make_job(spec=JobSpec(image="python:3", upload=answer.json()["id"])))

    async def sign_code(self, job: Job) -> str:
        """Return the path of the signed link from which a job fetches its code."""
        upload = await self.store.uploads.get(str(job.spec.upload), user=job.user)
        return self.parts.engine.links.make_code_url(job, upload).removeprefix(self.url)

    async def read_uploads(self) -> dict[str, bytes]:
        """Return all ZIPs, by id, as soon as no upload is under way; for tests whose jobs have no code.

        There is no object without a row, and no row without an object.
        """
        await until(lambda: not self.uploads._under_way)
        rows = await self.store.uploads.list_expired(utcnow() + timedelta(days=365))
        keys = {key for key in self.storage.objects if key.startswith("uploads/")}
        assert {row.key for row in rows} == keys
        return {row.id: self.storage.objects[row.key] for row in rows}


@asynccontextmanager
async def running_web(folder: Path, settings: Settings | None = None) -> AsyncIterator[Web]:
    """Yield a running service, and the hub that it asks as ``.hub``."""
    hub = HubDouble()
    async with AsyncExitStack() as running:
        running.push_async_callback(hub.stop)
        web = Web(hub, folder, settings)
        await web.start(running)
        yield web


@asynccontextmanager
async def running_web_of(hub: Hub, folder: Path, settings: Settings | None = None) -> AsyncIterator[Web]:
    """Yield a running service that a real hub's proxy finds, at ``hub.kbatch_url``."""
    config = Config(settings or {})
    config.KBatchServer.bind_url = hub.service_url
    config.HubOAuth.api_token = hub.service_token
    async with AsyncExitStack() as running:
        web = Web(hub, folder, config)
        await web.start(running)
        yield web


def ask_and_read_nothing(web: Web, path: str, *, token: str = "alice-token", **headers: str) -> socket.socket:
    """Return a connection on which an answer waits, little of it in the kernel."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", web.port))
    lines = [f"GET {PREFIX}{path} HTTP/1.1", "Host: x", f"Authorization: token {token}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    return sock
