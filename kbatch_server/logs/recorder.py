"""Records the logs of jobs while they run: follows the log of each attempt, and saves all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import traitlets
from traitlets import Float, Instance
from traitlets.config import LoggingConfigurable

from ..aio import back_off, with_ticks
from ..audit import AuditEntry
from ..bytesize import ByteSize
from ..errors import Unavailable
from ..launchers.base import JobLauncher, LauncherUnavailable, LogNotFound
from ..models.job import Job, Status
from ..storage.base import Storage, StorageError
from ..store.logs import LogRecord, LogStore, LogTaken
from .memory import LogMemory
from .writer import RETRY_SECONDS, STOP_SECONDS, JobGone, LogLimits, LogWriter, make_key

DELETE_AT_ONCE = 16
"""The number of objects of a log to delete at the same time."""


def find_attempts(job: Job) -> list[str]:
    """Return the names of a job's pods that have a log, or will have one; the first is attempt 1.

    If the launcher reports no pods, the job's id stands for its only pod.
    """
    if job.pods:
        return [pod.name for pod in job.pods]
    is_begun = job.launch_begun_at is not None and (job.is_over or job.status == Status.RUNNING)
    return [job.id] if is_begun else []


def _find_unbegun(job: Job) -> set[str]:
    """Return the pods that only wait so far: a thousand jobs without a node must not be a thousand tasks."""
    return set() if job.is_over else {pod.name for pod in job.pods if pod.phase == "Pending"}


@dataclass(slots=True, eq=False)
class _Recording:
    """The recording of one attempt, and its task."""

    job: Job
    pod: str
    attempt: int
    writer: LogWriter | None = None
    task: asyncio.Task[None] | None = None
    is_done: bool = False
    is_discarded: bool = False


class LogRecorder(LoggingConfigurable):
    """Runs a task for each attempt of a running job, and for each log that is not saved completely.

    A task has at most one segment in memory, and all together no more than LogMemory allows. Each reads on
    only when its segment is saved, so that neither many logs nor a slow storage fill the memory. The store
    knows how far each log was read, so a task continues from there after a kill.
    """

    segment_bytes = ByteSize(
        2**20,
        min=2**12,
        help="""Bytes of a log in one object of the storage. The service holds them in memory until the object
        is full. Objects are smaller while ``max_memory_bytes`` is used up. The service reads and searches a
        log in pieces of this size.
        """,
        config=True,
    )

    flush_seconds = Float(
        5,
        min=0.1,
        help="""Seconds after which the service writes what it has read of a log to the storage, however
        little it is.

        Users see it immediately in any case. If the job's node fails together with this service, you lose up
        to this much of a log. A longer time means fewer requests to the storage.
        """,
        config=True,
    )

    max_memory_bytes = ByteSize(
        128 * 2**20,
        min=2**20,
        help="""The maximum memory, in bytes, for the unsaved ends of all logs.

        When it is used up, the service writes logs that have more than an even share of it in smaller
        objects, and reads on when these are saved. Until then it may use twice as much, and also needs memory
        for the data in transit on each connection.
        """,
        config=True,
    )

    max_log_bytes = ByteSize(
        2**30,
        min=2**16,
        help="""Bytes to keep of the log of one attempt. The service cuts out the middle of a longer log.

        It keeps the first and the last half of this size, and a line between them says how much is missing.
        """,
        config=True,
    )

    launcher = Instance(JobLauncher)
    storage = Instance(Storage)
    logs = Instance(LogStore)

    on_complete: Callable[[str], None] = traitlets.Callable(lambda job_id: None)  # type: ignore[assignment]
    """Called with a job's id when the log of one of its attempts is complete."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._recordings: dict[str, dict[str, _Recording]] = {}
        self._is_stopping = False
        self._memory = LogMemory(self.max_memory_bytes)

    async def start(self) -> None:
        """Begin: from now on this process, and no other, records logs."""
        self._is_stopping = False

    def drop(self) -> None:
        """Save nothing more: another process may be recording now, and will read the data again."""
        self._is_stopping = True
        for by_pod in self._recordings.values():
            for each in by_pod.values():
                each.is_discarded = True

    async def stop(self) -> None:
        """Save the data in memory, within a time limit, and end all tasks. It may be started again."""
        self._is_stopping = True
        # forget them at once: the caller may give up waiting, and start the recorder again
        recordings, self._recordings = self._recordings, {}
        everything = [each for by_pod in recordings.values() for each in by_pod.values()]
        await _end([each.task for each in everything if each.task is not None])

    def ensure(self, job: Job) -> None:
        """Start a recording for each attempt of a job that has begun.

        Attempts that are being recorded already stay as they are.
        """
        if self._is_stopping:
            return
        unbegun = _find_unbegun(job)
        for number, pod in enumerate(find_attempts(job), 1):
            if pod in unbegun:
                continue
            by_pod = self._recordings.setdefault(job.id, {})
            if pod in by_pod:
                by_pod[pod].job = job
                continue
            recording = by_pod[pod] = _Recording(job, pod, number)
            recording.task = asyncio.create_task(self._run(recording), name=f"log-{pod}")

    def settle(self, job: Job) -> bool:
        """Return whether all logs of an ended job are saved; then release the memory for it.

        Until then the launcher must keep the job's logs. ``on_complete`` tells when to ask again.
        """
        self.ensure(job)
        recordings = self._recordings.get(job.id, {})
        if self._is_stopping or not all(each.is_done for each in recordings.values()):
            return False
        self._recordings.pop(job.id, None)
        return True

    def find_writer(self, job_id: str, pod: str) -> LogWriter | None:
        """Return the writer of a log that this process records, to read data that is not saved yet."""
        recording = self._recordings.get(job_id, {}).get(pod)
        return None if recording is None else recording.writer

    async def delete_log(self, job_id: str, *, audit: AuditEntry | None = None) -> None:
        """Delete all of a job's logs: the objects first, then the rows.

        Raises StorageError or Unavailable; then the caller must call it again.
        """
        recordings = self._recordings.pop(job_id, {})
        for recording in recordings.values():
            recording.is_discarded = True
        await _end([each.task for each in recordings.values() if each.task is not None])
        keys = []
        kept = await self.logs.list_logs(job_id)
        for log in kept:
            segments = await self.logs.list_segments(job_id, log.pod)
            # also the next object, which a killed service may have written without its row
            numbers = [each.number for each in segments] + [segments[-1].number + 1 if segments else 0]
            keys += [make_key(job_id, log.attempt, number) for number in numbers]
        keys.append(make_key(job_id, max((log.attempt for log in kept), default=0) + 1, 0))
        for at in range(0, len(keys), DELETE_AT_ONCE):
            await asyncio.gather(*(self.storage.delete(key) for key in keys[at : at + DELETE_AT_ONCE]))
        await self.logs.remove(job_id, audit=audit)

    async def _run(self, recording: _Recording) -> None:
        """Record one attempt, and retry as often as necessary."""
        try:
            await self._record_to_end(recording)
        except asyncio.CancelledError:
            await self._save(recording)
            raise
        finally:
            if recording.writer is not None:
                recording.writer.forget()
        recording.is_done = True
        self.on_complete(recording.job.id)

    async def _save(self, recording: _Recording) -> None:
        """Save the data in memory, within a time limit; after the next start the rest is read again."""
        writer = recording.writer
        if writer is None or writer.is_complete or recording.is_discarded:
            return
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await writer.flush()
        except (TimeoutError, JobGone, LogTaken):
            self.log.warning("job %s: the end of its log is not saved yet", recording.job.id)

    async def _record_to_end(self, recording: _Recording) -> None:
        failures, is_told = 0, False
        while True:
            before = recording.writer.end if recording.writer else 0
            try:
                await self._record(recording)
                return
            except JobGone:
                return
            except LogTaken:
                self.log.info(
                    "job %s: another process also wrote the log of %s", recording.job.id, recording.pod
                )
                if recording.writer is not None:
                    recording.writer.forget()
                recording.writer = None  # the data in memory does not continue the saved log: read it again
            except (LauncherUnavailable, StorageError, Unavailable) as error:
                if not is_told:
                    self.log.warning(
                        "job %s: the log of %s waits: %s", recording.job.id, recording.pod, error
                    )
                is_told = True
            except Exception:
                self.log.exception("job %s: recording the log of %s failed", recording.job.id, recording.pod)
            if recording.writer and recording.writer.end > before:
                failures, is_told = 0, False
            failures += 1
            await asyncio.sleep(back_off(failures, *RETRY_SECONDS))

    async def _record(self, recording: _Recording) -> None:
        """Follow one attempt from where its recording ended to its end, and save everything."""
        if recording.writer is None:
            recording.writer = await self._open(recording)
        writer = recording.writer
        if writer.is_complete:
            return
        problem = ""
        log = self.launcher.read_log(recording.job, recording.pod, writer.position)
        try:
            async with aclosing(with_ticks(log, self.flush_seconds)) as pieces:
                async for piece in pieces:
                    if piece is not None:
                        await writer.add(piece)
                    await writer.flush(older_than_seconds=self.flush_seconds)
        except LogNotFound as error:
            problem = str(error) or "The rest of the log is no longer available."
            self.log.info("job %s: no more of the log of %s: %s", recording.job.id, recording.pod, problem)
        except LauncherUnavailable:
            await writer.flush()
            raise
        await writer.finish(problem)

    async def _open(self, recording: _Recording) -> LogWriter:
        job_id, pod = recording.job.id, recording.pod
        log = await self.logs.find(job_id, pod)
        segments = await self.logs.list_segments(job_id, pod) if log is not None else []
        # at least eight segments in a log of maximum size, so that cutting out one removes little
        size = min(self.segment_bytes, max(self.max_log_bytes // 8, 1))
        return LogWriter(
            log or LogRecord(job_id, pod, recording.attempt, {}, 0, False, ""),
            segments,
            limits=LogLimits(size, self.max_log_bytes),
            memory=self._memory,
            storage=self.storage,
            logs=self.logs,
            logger=self.log,
        )


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks, and wait for them within a time limit."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=2 * STOP_SECONDS)
