"""A job whose pods write what a test says, recorded by real parts into a storage that fails on demand."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import replace

from kbatch_server.keyring import Keyring
from kbatch_server.logs.follower import LogFollower
from kbatch_server.logs.reader import ALL, LogReader
from kbatch_server.logs.recorder import LogRecorder
from kbatch_server.models.job import Job, JobSpec, Pod, Status
from kbatch_server.models.times import utcnow
from kbatch_server.store import Store
from tests.support.doubles import MemoryStorage
from tests.support.launcher_doubles import ScriptedLauncher

SECONDS = 20


class FaultyStorage(MemoryStorage):
    """Counts what is written, and waits or fails before it, or after it, where a test says so."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.written: list[str] = []
        self.errors: list[Exception] = []
        self.fails_always: Exception | None = None
        self.piece_bytes: int | None = None
        """The size of the pieces in which an object is read; None: whole."""
        self.opens = asyncio.Event()
        self.opens.set()

    async def write(self, key, chunks):
        self.written.append(key)
        await self.opens.wait()
        self._fail()
        return await super().write(key, chunks)

    async def read(self, key, *, start=0, length=None):
        self._fail()
        async for content in super().read(key, start=start, length=length):
            size = self.piece_bytes or len(content) or 1
            for at in range(0, len(content), size):
                yield content[at : at + size]

    async def delete(self, key):
        self._fail()
        await super().delete(key)

    def _fail(self):
        if self.fails_always:
            raise self.fails_always
        if self.errors:
            raise self.errors.pop(0)


class LogWorld:
    """One job, what runs it, and the parts that record and read its log."""

    def __init__(self, store: Store, **settings) -> None:
        self.store = store
        self.settings = settings
        self.storage = FaultyStorage()
        self.launcher = ScriptedLauncher()
        self.recorders: list[LogRecorder] = []
        self.job = Job(
            id="job-1",
            user="alice",
            name="job",
            spec=JobSpec(image="busybox", command=["true"]),
            created_at=utcnow(),
            status=Status.RUNNING,
            launch_begun_at=utcnow(),
        )
        self.start()

    def start(self) -> None:
        """Begin as a process that was just started."""
        self.recorder = LogRecorder(
            launcher=self.launcher, storage=self.storage, logs=self.store.logs, **self.settings
        )
        self.recorders.append(self.recorder)
        self.reader = LogReader(recorder=self.recorder, storage=self.storage, logs=self.store.logs)

    async def kill(self) -> None:
        """End as a kill -9 does, nothing more is written; and begin anew."""
        everything = [each for by_pod in self.recorder._recordings.values() for each in by_pod.values()]
        for recording in everything:
            recording.is_discarded = True
            recording.task.cancel()
        await asyncio.gather(*(each.task for each in everything), return_exceptions=True)
        self.start()

    async def add_pods(self, *names: str) -> None:
        """Let the job have these pods, on record."""
        self.job.pods = [Pod(name=name, phase="Running", created_at=utcnow()) for name in names]
        if await self.store.jobs.find(self.job.id) is None:
            self.job, _ = await self.store.jobs.add(self.job)
        await self.update(pods=self.job.pods)

    async def update(self, **columns) -> None:
        self.job = await self.store.jobs.update(self.job.id, **columns) or replace(self.job, **columns)

    async def settle(self) -> None:
        """Wait until all logs are kept, as the reconciler does before it lets the job go."""
        async with asyncio.timeout(SECONDS):
            while not self.recorder.settle(self.job):  # noqa: ASYNC110 - each look begins what is missing
                await asyncio.sleep(0.005)

    async def record(self, pod: str = "p", data: bytes = b"") -> None:
        """Let a pod write, end, and be recorded."""
        self.launcher.logs[pod].write(data)
        self.launcher.logs[pod].end()
        await self.add_pods(pod)
        await self.settle()

    async def read(self, selection=ALL) -> bytes:
        return b"".join([piece.data async for piece in await self.reader.read(self.job, selection)])

    def follow(self, selection=ALL, **options):
        return LogFollower(self.reader, self.store.jobs, self.job).pieces(selection, **options)

    async def read_kept(self, pod: str = "p") -> bytes:
        """Return what the rows say is kept, from the objects alone."""
        [log] = [log for log in await self.store.logs.list_logs(self.job.id) if log.pod == pod]
        segments = await self.store.logs.list_segments(self.job.id, pod)
        objects = self.storage.objects
        return b"".join(
            objects[f"logs/job-1/{log.attempt}-{each.number:06}"][: each.size] for each in segments
        )


@asynccontextmanager
async def running_logs(db_url, **settings):
    """Yield a LogWorld; ``settings`` are the recorder's."""
    store = Store(
        db_url,
        Keyring(["k" * 32]),
        log=logging.getLogger("test"),
        auto_upgrade=True,
    )
    await store.open()
    world = LogWorld(store, **settings)
    try:
        yield world
    finally:
        world.storage.opens.set()
        world.storage.fails_always = None
        for recorder in world.recorders:
            await recorder.stop()
        await store.close()


def numbered(count: int, *, start: int = 1, width: int = 40) -> bytes:
    """Return so many lines, each with its number."""
    return b"".join(f"{n} ".ljust(width - 1, ".").encode() + b"\n" for n in range(start, start + count))
