"""What stands behind the handlers in tests: a hub that does what a test says, parts that run nothing."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import httpx
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from kbatch_server.audit import AuditPage
from kbatch_server.errors import Conflict, Forbidden, InvalidRequest, NotFound, TooLarge
from kbatch_server.handlers import make_handlers
from kbatch_server.handlers.services import Services
from kbatch_server.jobs.watch import Reset, SeenChange
from kbatch_server.log import log_request
from kbatch_server.logs.reader import ALL, LogPlace, ShownPiece
from kbatch_server.logs.text import LogText, TextPart
from kbatch_server.models.job import Job, JobEvent, JobSpec, Profile, Status
from kbatch_server.models.listing import JobPage
from kbatch_server.models.results import JobOutputs, OutputFile
from kbatch_server.models.summary import JobSummary, UserSum
from kbatch_server.models.times import utcnow
from kbatch_server.models.upload import Upload
from kbatch_server.ratelimit import ConcurrencyLimit
from kbatch_server.store.outputs import KeptOutputs
from kbatch_server.uploads.zipdirectory import refused
from kbatch_server.web.auth import HubAuthenticator
from kbatch_server.web.server import WebServer
from kbatch_server.web.throttle import Throttle
from tests.support.zips import make_zip

PREFIX = "/services/kbatch/"
ACCESS = "access:services!service=kbatch"
ACTIONS = ("custom:kbatch:jobs:submit", "custom:kbatch:jobs:read", "custom:kbatch:jobs:cancel")


class HubHandler(RequestHandler):
    """``/hub/api/user`` of the hub double."""

    async def get(self):
        hub = self.settings["hub"]
        token = self.request.headers.get("Authorization", "").removeprefix("token ")
        hub.asked.append(token)
        await hub.answers.wait()
        if hub.delay_seconds:
            await asyncio.sleep(hub.delay_seconds)
        if hub.status != 200:
            self.send_error(hub.status)
        elif token in hub.models:
            self.write(hub.models[token])
        else:
            self.send_error(403)


class HubDouble:
    """A hub that knows some tokens, and is slow or broken when a test says so."""

    def __init__(self):
        self.models = {}
        self.asked = []
        self.status = 200
        self.delay_seconds = 0.0
        self.answers = asyncio.Event()
        self.answers.set()
        sockets = bind_sockets(0, "127.0.0.1")
        self.server = HTTPServer(
            Application([("/hub/api/user", HubHandler)], hub=self, log_function=lambda _: None)
        )
        self.server.add_sockets(sockets)
        self.api_url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/hub/api"

    def add_token(self, token, name="alice", *, scopes=(ACCESS, *ACTIONS), kind="user", groups=()):
        self.models[token] = {"name": name, "kind": kind, "scopes": list(scopes), "groups": list(groups)}

    async def stop(self):
        self.answers.set()
        self.server.stop()
        await self.server.close_all_connections()


class RealHub:
    """Where a real hub is, for a ``Web``."""

    def __init__(self, hub):
        self.api_url = hub.api_url
        self.models = {}


def make_job(job_id="train-1", *, user="alice", status=Status.RUNNING, **fields):
    """Return a job as the store would."""
    spec = fields.pop("spec", JobSpec(image="python:3", command=["python", "main.py"]))
    return Job(id=job_id, user=user, name="train", spec=spec, created_at=utcnow(), status=status, **fields)


class JobsDouble:
    """Keeps jobs in a dict, newest last, and logs as lists of pieces: bytes, seconds to wait, errors."""

    def __init__(self):
        self.jobs = {}
        self.envs = {}
        self.pieces = {}
        self.asked = []
        self.hold = asyncio.Event()
        self.closed = asyncio.Event()
        self.requests = []
        self.queries = []
        self.keys = {}
        self.entries = []
        self.audit_queries = []

    def add(self, job, *, env=None):
        job.has_env = bool(env)
        self.jobs[job.id] = job
        self.envs[job.id] = env or {}
        return job

    async def read_env(self, job):
        return self.envs[job.id]

    async def make_spec(self, user, request):
        if request.image == "forbidden":
            raise InvalidRequest.of_field("image", "is not an image that may be used")

    async def submit(self, user, request, *, idempotency_key=None):
        if idempotency_key in self.keys:
            return self.keys[idempotency_key], False
        self.requests.append(request)
        spec = JobSpec(
            image=request.image or "python:3",
            command=request.command,
            args=request.args,
            upload=request.upload,
        )
        job = self.add(
            make_job(f"{request.name}-{len(self.requests)}", user=user.name, spec=spec), env=request.env
        )
        if idempotency_key is not None:
            self.keys[idempotency_key] = job
        return job, True

    async def get(self, user, job_id):
        job = self.jobs.get(job_id)
        if job is None or not (user.admin or job.user == user.name):
            raise NotFound(f"There is no job {job_id!r}.")
        return job

    async def list(self, user, query):
        if query.user != user.name and not user.admin:
            raise Forbidden("Only admins can list jobs of other users.", reason="MissingScope")
        self.queries.append(query)
        start = int(query.cursor or 0)
        found = [job for job in reversed(self.jobs.values()) if query.user in (None, job.user)]
        end = start + query.limit
        page = found[start:end]
        size = sum(500 + len(job.message) for job in page)
        return JobPage(page, str(end) if end < len(found) else None, size)

    async def describe(self, user):
        return {
            "limits": {"running": 4},
            "group_totals": {},
            "usage": {"queued": 0, "running": 1, "cpu": 2, "memory": 0, "job_hours_per_month": 1.5},
            "queue": {"reason": "", "message": "", "jobs": []},
        }

    async def count(self, user, owner):
        return Counter(job.status for job in self.jobs.values() if owner in (None, job.user))

    async def summarize(self, user, owner, *, since, limit):
        self.asked.append((owner, since, limit))
        users = [UserSum(user="alice", jobs=1, active=1, run_seconds=0)]
        return JobSummary(jobs=len(self.jobs), users=users, reasons=[])

    async def follow_changes(self, user, owner, *, after=None):
        self.asked.append((owner, after))
        return self._follow(owner)

    async def _follow(self, owner):
        yield Reset("x-0")
        for number, job in enumerate(self.jobs.values(), 1):
            if owner in (None, job.user):
                yield SeenChange(f"x-{number}", job.user, job.id, json.dumps(job.to_dict()))
        yield SeenChange("x-9", "alice", "gone-1", None)

    async def cancel(self, user, job_id, *, note=None):
        job = await self.get(user, job_id)
        if job.is_over:
            raise Conflict(f"Job {job_id!r} is over.")
        job.status, job.cancelled_by, job.cancel_note = Status.CANCELLED, user.name, note
        return job

    async def delete(self, user, job_id):
        del self.jobs[(await self.get(user, job_id)).id]

    async def rerun(self, user, job_id):
        job = await self.get(user, job_id)
        return self.add(replace(job, id=f"{job_id}-again"))

    async def logs(self, user, job_id, selection=ALL, *, follow=False, after=None):
        self.asked.append((selection, follow, after))
        job = await self.get(user, job_id)
        if job_id not in self.pieces:
            raise NotFound(f"Job {job_id!r} has no log. {job.message}", reason="LogNotFound")
        return self._iterate(self.pieces[job_id], follow)

    async def open_log(self, user, job_id, selection=ALL):
        self.asked.append((selection, False, None))
        await self.get(user, job_id)
        data = b"".join(self.pieces[job_id])
        part = TextPart(len(data), len(data), data.count(b"\n"), data=data, first_line=1)
        return LogText([part], None, end=len(data), is_complete=True), 1

    async def _iterate(self, pieces, follow):
        end = 0
        try:
            for piece in pieces:
                if isinstance(piece, Exception):
                    raise piece
                if isinstance(piece, float):
                    await asyncio.sleep(piece)
                    continue
                end += len(piece)
                yield ShownPiece(piece, LogPlace(1, end))
            if follow:
                await self.hold.wait()
        finally:
            self.closed.set()

    async def audit(self, query):
        self.audit_queries.append(query)
        start = query.before or 0
        end = start + query.limit
        return AuditPage(self.entries[start:end], end if end < len(self.entries) else None)

    async def events(self, user, job_id):
        await self.get(user, job_id)
        return [JobEvent(time=utcnow(), type="Normal", reason="Scheduled", message="<b>placed</b>")]


class UploadsDouble:
    """Keeps what it receives in memory, and takes nothing that does not begin as a ZIP does."""

    max_upload_bytes = 4 * 1024**2
    max_upload_seconds = 60

    def __init__(self):
        self.places = ConcurrencyLimit(per_user=2, total=3, limit="concurrent_uploads", what="uploads")
        self.decoding = asyncio.Semaphore(1)
        self.kept = {}
        self.owners = {}
        self.receiving = asyncio.Event()
        self.cancelled = asyncio.Event()

    def place(self, user):
        return self.places.take(user.name)

    async def receive(self, user, chunks, *, declared_size):
        data = bytearray()
        try:
            async for chunk in chunks:
                self.receiving.set()
                data += chunk
                if not data.startswith(b"PK"):
                    raise refused("The submitted file must be a ZIP archive.")
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if not data.startswith(b"PK"):
            raise refused("The submitted file must be a ZIP archive.")
        now = utcnow()
        upload = Upload(
            f"u{len(self.kept)}",
            user.name,
            len(data),
            "0" * 64,
            now,
            now + timedelta(days=1),
            code_size=len(data),
            code_sha256="0" * 64,
        )
        self.kept[upload.id] = bytes(data)
        self.owners[upload.id] = upload
        return upload

    async def get(self, user, upload_id):
        if upload_id not in self.owners or self.owners[upload_id].user != user.name:
            raise NotFound("There is no such upload.")
        return self.owners[upload_id]

    async def read(self, upload, *, start=0, length=None):
        data = self.kept[upload.id][start:][:length]
        for start in range(0, len(data), 50):
            yield data[start : start + 50]


class OutputsDouble:
    """Keeps the results of jobs in memory: content by path, by job's id."""

    max_tar_bytes = 2**20

    def __init__(self):
        self.files = {}
        self.omitted = []
        self.sent = {}
        self.looked_for = []
        self.fails = None
        self.receiving = asyncio.Event()
        self.cancelled = asyncio.Event()

    def _find(self, job):
        if job.id not in self.files:
            raise NotFound("It is not over.", reason="OutputsNotFound")
        return self.files[job.id]

    async def list(self, job):
        files = [OutputFile(path, 512, len(data), 1_700_000_000) for path, data in self._find(job).items()]
        return KeptOutputs(f"outputs/{job.id}/0", 10_000, files, self.omitted)

    async def find(self, job, path):
        self.looked_for.append(path)
        files = self._find(job)
        if path not in files:
            raise NotFound(f"There is no file {path!r}.")
        start = sum(len(data) for each, data in files.items() if each < path)
        return f"outputs/{job.id}/0123456789abcdef", OutputFile(path, start, len(files[path]), 1_700_000_000)

    async def read(self, key, start, length):
        data = b"".join(data for _, data in sorted(self.files[key.split("/")[1]].items()))
        for at in range(start, start + length, 50):
            yield data[at : min(at + 50, start + length)]

    async def zip(self, job):
        files = self._find(job)

        async def pieces():
            yield make_zip(files)

        return pieces()

    async def check_size(self, job, size):
        if size > self.max_tar_bytes:
            raise TooLarge("They are too large.")

    async def receive(self, job, tar):
        data = bytearray()
        try:
            async for piece in tar.chunks:
                data += piece
                self.receiving.set()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.fails:
            raise self.fails
        self.sent[job.id] = bytes(data), tar
        return JobOutputs(state="kept", pod=tar.pod)


class ProfilesDouble:
    """Two profiles, one of which is for users only."""

    small = Profile(slug="small", display_name="Small", image="python:3", cpu_limit=0.5, mem_limit=2**30)
    large = Profile(slug="large", display_name="Large", image="python:3", cpu_limit=8, mem_limit=2**34)

    async def list(self, user):
        return [self.small] if user is None else [self.small, self.large]


class LinksDouble:
    """Knows the one signed link ``good``."""

    def __init__(self, uploads):
        self.uploads = uploads

    async def get_code(self, signed):
        if signed != "good":
            raise Forbidden("This link is invalid or has expired.", reason="BadLink")
        return self.uploads.owners["u0"]

    async def get_sending_job(self, signed):
        if signed != "good":
            raise Forbidden("This link is invalid or has expired.", reason="BadLink")
        return make_job()


class GaugesDouble:
    """Has one metric."""

    async def make_page(self):
        return b"kbatch_info 1.0\n"


class Web:
    """A running service with doubles behind its handlers."""

    def __init__(self, hub, *, throttle=None, url="http://127.0.0.1:0", **settings):
        self.hub = hub
        self.auth = HubAuthenticator(base_url=PREFIX, **settings)
        self.auth.hub_auth.api_url = hub.api_url
        self.auth.hub_auth.api_token = "the-service-token"
        self.jobs = JobsDouble()
        self.uploads = UploadsDouble()
        self.outputs = OutputsDouble()
        self.profiles = ProfilesDouble()
        self.services = Services(
            auth=self.auth,
            jobs=self.jobs,
            uploads=self.uploads,
            outputs=self.outputs,
            profiles=self.profiles,
            links=LinksDouble(self.uploads),
            gauges=GaugesDouble(),
            version="1.2.3",
            max_body_bytes=1024**2,
            max_job_bytes=1024**2,
            throttle=throttle or Throttle(),
        )
        self.application = Application(
            **make_handlers(PREFIX, self.services), log_function=log_request, cookie_secret=b"0" * 32
        )
        self.server = WebServer(
            application=self.application,
            shutdown_seconds=1,
            throttle=self.services.throttle,
            inflight=self.services.inflight,
        )
        address = self.server.bind(url)
        self.port = httpx.URL(address).port
        self.url = f"{address}{PREFIX}"
        self.server.start()

    def client(self, token="alice-token", **options):
        headers = {"Authorization": f"token {token}"} if token else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers | options.pop("headers", {}), **options)

    def join(self, location):
        """Return the whole URL of a Location header."""
        return httpx.URL(self.url).join(location)

    async def stop(self):
        await self.server.close_connections()
        self.server.close()
        await self.auth.close()


@asynccontextmanager
async def running_web(**settings):
    """Yield a running service, and the hub that it asks as ``.hub``."""
    hub = HubDouble()
    hub.add_token("alice-token")
    hub.add_token("bob-token", "bob")
    hub.add_token("admin-token", "root", scopes=(ACCESS, *ACTIONS, "custom:kbatch:admin"))
    web = Web(hub, **settings)
    try:
        yield web
    finally:
        await web.stop()
        await hub.stop()


def ask_and_read_nothing(web, path, *, token="alice-token", **headers):
    """Return a connection on which an answer waits, little of it in the kernel."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", web.port))
    lines = [f"GET {PREFIX}{path} HTTP/1.1", "Host: x", f"Authorization: token {token}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    return sock
