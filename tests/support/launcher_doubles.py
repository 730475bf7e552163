"""Launchers that run nothing: one that does what a test says, as an extension's author would write one."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import datetime

from kbatch_server.launchers.base import JobLauncher, Launch, LauncherUnavailable, LogNotFound, LogPiece
from kbatch_server.models.job import Job, JobStatus, Status
from kbatch_server.models.results import OutputLimits, OutputTar
from kbatch_server.models.server import HubServer, ServerPod
from tests.support.tars import as_sent


class ScriptedLauncher(JobLauncher):
    """Shows of each job what ``seen`` says, and raises ``fails`` where it is set."""

    has_secret_files = True
    has_registries = True

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen: dict[str, JobStatus | None] = {}
        self.launched: list[tuple[str, Launch]] = []
        self.logs: defaultdict[str, ScriptedLog] = defaultdict(ScriptedLog)
        self.open_logs = 0
        self.released: list[str] = []
        self.finished: list[str] = []
        self.fails: Exception | None = None
        self.ends_slowly = False
        self.is_slow = False
        self.outputs_of: dict[str, list[bytes | AsyncIterator[bytes]]] = {}
        self.problem: str | None = None
        self.server_pods: dict[tuple[str, str], ServerPod] = {}

    mounts_homes = True

    async def launch(self, job: Job, launch: Launch) -> dict[str, object]:
        if self.fails:
            raise self.fails
        self.launched.append((job.id, launch))
        self.seen.setdefault(job.id, JobStatus(status=Status.PENDING, reason="Scripted"))
        return {"name": job.id}

    async def poll(self, job: Job) -> JobStatus | None:
        if self.fails:
            raise self.fails
        return self.seen.get(job.id)

    async def terminate(self, job: Job) -> bool:
        if self.fails:
            raise self.fails
        if not self.ends_slowly:
            self.seen.pop(job.id, None)
        return not self.ends_slowly

    async def release(self, job: Job) -> None:
        self.released.append(job.id)

    async def finish(self, job: Job) -> None:
        self.finished.append(job.id)

    async def is_ending(self, job: Job) -> bool:
        return self.is_slow

    async def read_outputs(self, job: Job, limits: OutputLimits) -> OutputTar | None:
        if not self.outputs_of.get(job.id):
            return None
        made = self.outputs_of[job.id].pop(0)
        return as_sent(made) if isinstance(made, bytes) else OutputTar(made)

    async def read_server(self, user: str, server: HubServer) -> ServerPod | None:
        if self.fails:
            raise self.fails
        return self.server_pods.get((user, server.name))

    async def find_outputs_problem(self, job: Job) -> str | None:
        return self.problem

    async def read_log(self, job: Job, pod: str, position) -> AsyncIterator[LogPiece]:
        if pod not in self.logs:
            raise LogNotFound("Nothing was written.")
        log = self.logs[pod]
        at = position["at"] if position else 0
        log.begun_at.append(at)
        self.open_logs += 1
        try:
            while True:
                changed = log.changed
                if log.fails:
                    raise log.fails.pop(0)
                while at < len(log.data):
                    end = min(at + log.piece_bytes, len(log.data))
                    if log.breaks_at and at < log.breaks_at[0] <= end:
                        end = log.breaks_at[0]
                    piece = bytes(log.data[at:end])
                    at = end
                    yield LogPiece(piece, {"at": at}, log.find_time(at - len(piece)))
                    if log.breaks_at and at == log.breaks_at[0]:
                        log.breaks_at.pop(0)
                        raise log.error
                if log.is_over:
                    return
                await changed.wait()
        finally:
            self.open_logs -= 1


class ScriptedLog:
    """What a pod writes, as a test says it, and where the reading of it breaks."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.times: list[tuple[int, datetime]] = []
        self.is_over = False
        self.piece_bytes = 100
        self.breaks_at: list[int] = []
        self.error: Exception = LauncherUnavailable("the node is away")
        self.fails: list[Exception] = []
        self.begun_at: list[int] = []
        self.changed = asyncio.Event()

    def write(self, data: bytes, *, time: datetime | None = None) -> None:
        if time is not None:
            self.times.append((len(self.data), time))
        self.data += data
        self.tell()

    def end(self) -> None:
        self.is_over = True
        self.tell()

    def tell(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def find_time(self, offset: int) -> datetime | None:
        return next((time for at, time in reversed(self.times) if at <= offset), None)
