"""Saves the results of jobs, and provides them: file by file, or all as a ZIP."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial

from traitlets import Instance, Integer
from traitlets.config import LoggingConfigurable

from ..audit import AuditEntry
from ..bytesize import ByteSize
from ..errors import Forbidden, InvalidRequest, KBatchError, NotFound, TooLarge, Unavailable
from ..failpoints import reach
from ..metrics import LIMITS_HELD
from ..models.job import Job
from ..models.results import JobOutputs, OutputFile, OutputLimits, OutputTar
from ..storage.base import Storage, StorageError, StorageFull
from ..store.outputs import KeptOutputs, OutputStore
from .selection import ENTRIES_FOR_EACH_FILE, Selection, read_omitted, select
from .tarindex import MAX_LIST_BYTES, OMITTED_LIST, BadTar, TarIndex, TooManyEntries
from .zipstream import make_zip

HEAD_BYTES = 32 * 1024
"""Bytes of a tar to read before writing it to the storage: most jobs write nothing at all."""

SLICE_BYTES = 64 * 1024
"""Bytes of a tar after which other tasks may run: they may be all headers, which take 50 µs each."""


class Outputs(LoggingConfigurable):
    """The results of jobs: for each job one tar in the storage, as it was sent, and its index in the store.

    A file is a range of the tar's bytes. The service writes the object before its record, so that a record's
    object always exists.
    """

    max_output_bytes = ByteSize(
        OutputLimits().max_bytes,
        help="""The maximum size, in bytes, of a job's results; an integer, or a string like ``2G``.

        If a job writes more, the service keeps the files that fit, in the order of their paths. The job's
        message says so, and the list of results names the other files, as far as it has room. The service
        streams results: larger ones need no more memory.
        """,
        config=True,
    )

    max_output_files = Integer(
        OutputLimits().max_files,
        min=1,
        help="""The maximum number of files in a job's results. If a job writes more, the service keeps the
        first by path.

        The service looks at no more than ten times as many files, links and folders. For their paths it
        uses at most one megabyte of memory, plus 800 bytes for each file that this setting allows.
        """,
        config=True,
    )

    storage = Instance(Storage)
    records = Instance(OutputStore)

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._recordings: set[asyncio.Task[None]] = set()

    @property
    def limits(self) -> OutputLimits:
        """The limits on the results of one job."""
        return OutputLimits(self.max_output_bytes, self.max_output_files)

    @property
    def max_tar_bytes(self) -> int:
        """The maximum size of a tar: the files, and the overhead of each."""
        return self.max_output_bytes + 4096 * self.max_output_files + 2**20

    async def check_size(self, job: Job, size: int) -> None:
        """Raise TooLarge, and record it, if a tar of this size is too large."""
        if size > self.max_tar_bytes:
            raise await self._refuse(job, self._say_too_large(size))

    async def receive(self, job: Job, tar: OutputTar) -> JobOutputs:
        """Save the files in a tar that fit, replacing those of an earlier attempt.

        Raises TooLarge (the packer did not omit what exceeds the limits) and InvalidRequest (it is not a
        tar), and records either. Raises Unavailable (of the storage or the database) and any error from
        reading the tar; then the sender may try again. Raises Forbidden if the job accepts no more results.
        If it raises, it leaves no object behind.
        """
        max_entries = ENTRIES_FOR_EACH_FILE * self.max_output_files + 100
        index = TarIndex(max_entries, folders=tuple(tar.folders.values()))
        key = f"outputs/{job.id}/{secrets.token_hex(16)}"
        try:
            size = await self._keep(key, tar, index)
            selection = await self._select(key, tar, index)
        except BaseException as error:
            await asyncio.shield(self._discard(key))
            if isinstance(error, StorageError):
                raise _unavailable(error) from error
            if isinstance(error, (TooLarge, BadTar)):
                raise await self._refuse(job, error) from error
            raise
        reach("archive.3")
        summary = self._make_summary(selection, tar)
        is_empty = size is None or not (selection.files or selection.omitted.files)
        if is_empty:
            await self._discard(key)
        kept = None if is_empty else KeptOutputs(key, size or 0, selection.files, selection.omitted.named)
        await self._record(job, summary, kept)
        reach("archive.4")
        self.log.info("job %s: %d result files saved, %d bytes", job.id, summary.files, summary.size)
        return summary

    async def fail(self, job: Job, why: str) -> None:
        """Record that a job's results could not be saved, with the reason as a sentence."""
        self.log.warning("job %s: its results could not be saved: %s", job.id, why)
        await self._record(job, JobOutputs(state="failed", message=why), None)

    async def list(self, job: Job) -> KeptOutputs:
        """Return a job's files, by path; raises NotFound while nothing is known of them."""
        if job.outputs is None:
            raise NotFound(_say_none(job), reason="OutputsNotFound")
        return await self.records.find(job.id) or KeptOutputs("", 0, [])

    async def find(self, job: Job, path: str) -> tuple[str, OutputFile]:
        """Return one file and the key of its object; raises NotFound with the reason."""
        found = await self.records.find_file(job.id, path)
        if found is None:
            raise NotFound(_say_none(job), reason="OutputsNotFound")
        key, file = found
        if file is not None:
            return key, file
        raise NotFound(f"Job {job.id!r} has no result file {path[:200]!r}.")

    async def zip(self, job: Job) -> AsyncGenerator[bytes]:
        """Return all files as a ZIP that is created while it is read; raises NotFound with the reason."""
        kept = await self._get_kept(job)
        return make_zip(kept.files, partial(self.read, kept.key))

    async def read(self, key: str, start: int, length: int) -> AsyncGenerator[bytes]:
        """Yield ``length`` bytes of an object from ``start`` on; raises Unavailable if any are missing."""
        if not length:
            return
        try:
            pieces = self.storage.read(key, start=start, length=length)
            async with aclosing(pieces):  # type: ignore[type-var]
                async for piece in pieces:
                    length -= len(piece)
                    yield piece
        except StorageError as error:
            raise Unavailable(f"The results cannot be read now: {error}") from error
        if length:
            raise Unavailable("The results cannot be read now: the storage has lost a part of them.")

    async def delete(
        self, job_id: str, *, why: str = "They were deleted.", audit: AuditEntry | None = None
    ) -> None:
        """Delete a job's files, if any: the object, then its record. Raises StorageError and Unavailable.

        The job's record then contains the sentence ``why``.
        """
        key = await self.records.find_key(job_id)
        if key is not None:
            await self.storage.delete(key)
            await self.records.remove(job_id, key, why=why, audit=audit)

    async def _get_kept(self, job: Job) -> KeptOutputs:
        kept = await self.records.find(job.id)
        if kept is None:
            raise NotFound(_say_none(job), reason="OutputsNotFound")
        return kept

    async def _keep(self, key: str, tar: OutputTar, index: TarIndex) -> int | None:
        """Write the tar to the storage while indexing it; return its size, or None if it has no files."""
        chunks = self._watch(tar.chunks, index)
        async with aclosing(chunks):
            head = bytearray()
            async for chunk in chunks:
                head += chunk
                if len(head) >= HEAD_BYTES:
                    break
            else:
                if not index.files:
                    return None
            return await self.storage.write(key, _chain(bytes(head), chunks))

    async def _select(self, key: str, tar: OutputTar, index: TarIndex) -> Selection:
        """Return the files that are results, and those that this service or the packer omitted."""
        selection = await asyncio.to_thread(select, index, tar.folders, self.limits)
        listed = index.files.get(OMITTED_LIST) if tar.folders else None
        if listed is not None:
            pieces = self.storage.read(key, start=listed.offset, length=min(listed.size, MAX_LIST_BYTES))
            text = b"".join([piece async for piece in pieces]).decode("utf-8", "backslashreplace")
            selection.omitted = read_omitted(text).joined(selection.omitted)
        return selection

    def _make_summary(self, selection: Selection, tar: OutputTar) -> JobOutputs:
        """Return a summary of the saved and the omitted files of a tar."""
        omitted, left_out = selection.omitted, selection.left_out + tar.left_out
        said = []
        if omitted.files:
            files = "1 file" if omitted.files == 1 else f"{omitted.files} files"
            was = "was" if omitted.files == 1 else "were"
            said.append(
                f"{files} ({omitted.size} bytes) {was} not saved; the limits are "
                f"{self.max_output_files} files and {self.max_output_bytes} bytes."
            )
        if left_out:
            entries = "1 entry was" if left_out == 1 else f"{left_out} entries were"
            said.append(
                f"{entries} skipped: only readable files, and links to files that can be results, are saved."
            )
        if selection.is_cut:
            LIMITS_HELD.labels("max_output_files").inc()
            said.append(
                "There are too many paths and links, or they are too long: pack the files into an archive."
            )
        sizes = [file.size for file in selection.files]
        return JobOutputs(
            state="kept",
            files=len(sizes),
            size=sum(sizes),
            omitted_files=omitted.files,
            omitted_size=omitted.size,
            message=" ".join(said),
            pod=tar.pod,
        )

    async def _watch(self, chunks: AsyncIterator[bytes], index: TarIndex) -> AsyncGenerator[bytes]:
        """Yield the chunks while indexing them; raises if the tar exceeds a limit."""
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > self.max_tar_bytes:  # also counts bytes after the end of the tar, which are not read
                raise self._say_too_large(size)
            for start in range(0, len(chunk), SLICE_BYTES):
                piece = chunk[start : start + SLICE_BYTES]
                self._feed(index, piece)
                yield piece
                await asyncio.sleep(0)
        index.finish()

    def _feed(self, index: TarIndex, piece: bytes) -> None:
        try:
            index.feed(piece)
        except TooManyEntries:
            raise self._say_too_many(f"more than {index.max_entries} entries") from None
        if index.least_size > self.max_tar_bytes:
            raise self._say_too_large(index.least_size)

    def _say_too_large(self, size: int) -> TooLarge:
        limit = self.max_output_bytes
        message = (
            f"The results have {size} bytes or more; the limit is {limit} bytes. Write less to "
            "$KBATCH_OUTPUT_DIR, or store large files elsewhere."
        )
        return TooLarge(message, details={"limit": limit, "size": size})

    def _say_too_many(self, what: str) -> TooLarge:
        message = (
            f"The results have {what}; the limit is {self.max_output_files} files. Pack small files into an "
            "archive."
        )
        return TooLarge(message, details={"limit": self.max_output_files})

    async def _refuse(self, job: Job, error: TooLarge | BadTar) -> KBatchError:
        """Record that the results are not saved, and return the error for the sender."""
        if isinstance(error, TooLarge):
            await self.fail(job, error.message)
            return error
        await self.fail(job, f"The pod did not send a valid tar archive: {error}.")
        return InvalidRequest.of_field("body", f"is not a tar archive: {error}")

    async def _record(self, job: Job, summary: JobOutputs, kept: KeptOutputs | None) -> None:
        """Record the outcome; the recording continues even if this is cancelled."""
        recording = asyncio.create_task(self._record_or_discard(job, summary, kept), name=f"record-{job.id}")
        self._recordings.add(recording)
        recording.add_done_callback(self._recordings.discard)
        try:
            await asyncio.shield(recording)
        except asyncio.CancelledError:
            recording.add_done_callback(self._log_unheard)
            raise

    def _log_unheard(self, recording: asyncio.Task[None]) -> None:
        """Log the error of a recording whose caller was cancelled."""
        error = None if recording.cancelled() else recording.exception()
        if error is not None:
            self.log.warning("%s: %s", recording.get_name(), error)

    async def _record_or_discard(self, job: Job, summary: JobOutputs, kept: KeptOutputs | None) -> None:
        is_recorded, unnamed = False, None if kept is None else kept.key
        try:
            is_recorded, old_key = await self.records.put(job.id, summary, kept)
            unnamed = old_key if is_recorded else unnamed
        finally:
            if unnamed is not None:
                await self._discard(unnamed)
        if not is_recorded:
            raise Forbidden("This job accepts no more results.", reason="BadLink")

    async def _discard(self, key: str) -> None:
        """Delete an object without a record."""
        try:
            await self.storage.delete(key)
        except StorageError:
            self.log.warning("%s: this unreferenced object could not be deleted", key, exc_info=True)


def _say_none(job: Job) -> str:
    """Return the reason why a job has no results to read."""
    if job.outputs is not None and job.outputs.state == "failed":
        return f"The results of job {job.id!r} could not be saved: {job.outputs.message}"
    if job.outputs is not None and job.outputs.state == "removed":
        return f"The results of job {job.id!r} no longer exist. {job.outputs.message}"
    if job.outputs is not None:
        return f"Job {job.id!r} has no results: it wrote no files to $KBATCH_OUTPUT_DIR."
    if not job.is_over:
        return f"Job {job.id!r} has not ended yet. Its results are available after it ends."
    if job.launch_begun_at is not None and job.cleaned_at is None:
        return f"The results of job {job.id!r} are being saved."
    return f"Job {job.id!r} has no results: its command did not run, or saving results is off."


def _unavailable(error: StorageError) -> Unavailable:
    """Return the error for the sender if the storage fails."""
    if isinstance(error, StorageFull):
        return Unavailable("The storage is full. Tell an admin of the hub.", retry_after_seconds=600)
    return Unavailable(f"The storage does not respond: {error}")


async def _chain(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for chunk in rest:
        yield chunk
