"""Launchers that run nothing: one that does what a test says, as an extension's author would write one."""

from __future__ import annotations

from collections.abc import AsyncIterator

from tars import as_sent

from kbatch_server.launchers.base import JobLauncher, Launch, LogNotFound, OutputTar
from kbatch_server.models import Job, JobStatus, Status


class ScriptedLauncher(JobLauncher):
    """Shows of each job what ``seen`` says, and raises ``fails`` where it is set."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen: dict[str, JobStatus | None] = {}
        self.launched: list[tuple[str, Launch]] = []
        self.logs_of: dict[str, list[bytes | Exception]] = {}
        self.fails: Exception | None = None
        self.ends_slowly = False
        self.is_slow = False
        self.outputs_of: dict[str, list[bytes | AsyncIterator[bytes]]] = {}
        self.problem: str | None = None

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

    async def is_ending(self, job: Job) -> bool:
        return self.is_slow

    async def read_outputs(self, job: Job) -> OutputTar | None:
        if not self.outputs_of.get(job.id):
            return None
        made = self.outputs_of[job.id].pop(0)
        return as_sent(made) if isinstance(made, bytes) else OutputTar(made)

    async def find_outputs_problem(self, job: Job) -> str | None:
        return self.problem

    async def logs(self, job: Job, *, follow=False, tail=None, pod=None) -> AsyncIterator[bytes]:
        pieces = self.logs_of.get(pod or job.id, self.logs_of.get(job.id))
        if pieces is None:
            raise LogNotFound
        for piece in pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece
