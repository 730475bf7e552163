"""The routes of the published kbatch client, and of the first one: they translate bodies and use the same
services."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from datetime import timedelta
from functools import partial
from typing import Any

from ...aio import with_ticks
from ...errors import Conflict, InvalidRequest, KBatchError, NotFound, NotSupported
from ...logs.reader import LogSelection, ShownPiece
from ...models.job import Job
from ...models.listing import JobPage, JobQuery
from ...models.times import utcnow
from ...web.access import needs_nothing, needs_scope, needs_user
from ...web.query import read_flag
from ..base import BaseHandler
from ..exchange import FLUSH_BYTES
from ..streams import LineChunker, StreamHandler, make_last_line, part_lines
from ..uploads import ReceivingHandler
from . import answers as manifests
from . import first_client as flat
from . import requests as kbatch

MAX_LISTED = 10_000
"""The maximum number of jobs in a list, the newest ones: this client cannot read pages."""

PAGE = 500

LARGE_BODY_BYTES = 2**20
"""JSON larger than this counts as an upload; few such bodies are decoded at a time, in a thread."""

GATHER_SECONDS = 0.2
"""Seconds to gather lines into one chunk for the client that prints each chunk."""

BAR_SECONDS = 60.0
"""Seconds without output after which a progress bar is printed in its current state, a line each time."""

KEEP_ALIVE_SECONDS = 20.0
"""The client gives up when it reads nothing for 60 s, although the followed job may well be silent."""


class KBatchHandler(BaseHandler):
    """A handler whose errors contain ``detail``, which the client prints."""

    strict_query = False

    def make_error_body(self, error: KBatchError) -> dict[str, Any]:
        """Return the usual form of an error, with its message as ``detail``."""
        return {**error.to_dict(), "detail": error.message}

    @property
    def root(self) -> str:
        """The URL of this service as the client used it, with a slash at the end."""
        return f"{self.request.protocol}://{self.request.host}{self.services.auth.base_url}"

    async def send_list(
        self, kind: str, pages: AsyncIterator[list[Job]], make: Callable[[Job], list[dict[str, Any]]]
    ) -> None:
        """Answer with a list that is sent page by page, so that a long one is never in memory as a whole.

        ``make`` returns the items of a job.
        """

        def dump(jobs: list[Job]) -> list[str]:
            return [json.dumps(item) for job in jobs for item in make(job)]

        self.set_header("Content-Type", "application/json")
        self.write(f'{{"kind": "{kind}List", "metadata": {{}}, "items": [')
        comma = ""
        async for jobs in pages:
            unsent = 0
            # in a thread: a page may have megabytes
            for item in await asyncio.to_thread(dump, jobs):
                self.write(comma + item)
                comma, unsent = ", ", unsent + len(item)
                if unsent >= FLUSH_BYTES:
                    await self.flush()
                    unsent = 0
            await self.flush()
        self.write("]}\n")

    async def pages(self) -> AsyncIterator[list[Job]]:
        """Yield the user's active and recently ended jobs, newest first, page by page."""
        ended_since = utcnow() - timedelta(days=self.services.kbatch_list_days)
        cursor: str | None = None
        left = MAX_LISTED
        while left:
            limit = min(left, PAGE)
            query = JobQuery(user=self.user.name, unless_ended_before=ended_since, cursor=cursor, limit=limit)
            page: JobPage = await self.services.jobs.list(self.user, query)
            yield page.jobs
            left -= len(page.jobs)
            cursor = page.next_cursor
            if cursor is None:
                return

    async def find_job_of(self, name: str) -> tuple[Job, str | None]:
        """Return the job for a name, and the pod's name if it is that of a pod; raises NotFound."""
        try:
            return await self.services.jobs.get(self.user, name), None
        except NotFound:
            job_id = name.rpartition("-")[0]  # a pod is called like its job, a dash and some letters
            try:
                job = await self.services.jobs.get(self.user, job_id or name)
            except NotFound:
                job = None
            if job is None or all(pod.name != name for pod in job.pods):
                raise NotFound(f"Job or pod {name!r} not found.") from None
            return job, name


class KBatchJobsHandler(KBatchHandler):
    """All jobs: in the form of a V1Job, or flat if the body has no ``job``."""

    _is_flat = False

    @property
    def body_limit(self) -> int:
        """The maximum size of the body in bytes; it may contain code."""
        return 3 * self.services.max_body_bytes

    @needs_scope("read", whose="self", is_costly=True)
    async def get(self) -> None:
        """List the active and recently ended jobs."""
        await self.send_list("Job", self.pages(), lambda job: [manifests.make_job(job)])

    async def begin(self) -> None:
        """Prepare for the body; a large one, with code in it, counts as an upload as well."""
        await super().begin()
        if self._read_length() > LARGE_BODY_BYTES or "Transfer-Encoding" in self.request.headers:
            self._held.enter_context(self.services.uploads.place(self.user))

    @needs_scope("submit", whose="self", body=True, spends="submit")
    async def post(self) -> None:
        """Submit a job."""
        if len(self._body) <= LARGE_BODY_BYTES:
            await self._submit(self.get_json())
            return
        async with self.services.uploads.decoding:
            await self._submit(await asyncio.to_thread(self.get_json))

    async def _submit(self, data: Any) -> None:
        self._body.clear()
        self._is_flat = not (isinstance(data, dict) and "job" in data)
        await (self._post_flat(data) if self._is_flat else self._post_kbatch(data))

    async def _post_kbatch(self, data: Any) -> None:
        profiles = await self.services.profiles.list(self.user)
        request, code = kbatch.read_body(data, {profile.slug: profile for profile in profiles})
        try:
            keep_code = None if code is None else partial(self._keep_encoded, code)
            job, _ = await self.services.jobs.submit(self.user, request, keep_code=keep_code)
        except InvalidRequest as error:
            raise kbatch.rename_fields(error) from None
        self.send_json(manifests.make_job(job, env=await self.services.jobs.read_new_env(job, request)))

    async def _post_flat(self, data: Any) -> None:
        request, inline = flat.read_body(data)
        keep_code = None if inline is None else partial(self._keep_inline, inline)
        job, _ = await self.services.jobs.submit(self.user, request, keep_code=keep_code)
        env = await self.services.jobs.read_new_env(job, request)
        self.send_json(flat.make_job(job, self.root, env=env), status=201)

    async def _keep_encoded(self, code: str) -> str:
        return await self._keep(kbatch.decode_code(code))

    async def _keep_inline(self, inline: flat.InlineFile) -> str:
        return await self._keep([await asyncio.to_thread(inline.to_zip)])

    async def _keep(self, pieces: Iterable[bytes]) -> str:
        async def chunks() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        return (await self.services.uploads.receive(self.user, chunks(), declared_size=None)).id

    def make_error_body(self, error: KBatchError) -> dict[str, Any]:
        """Return the error; in the flat form, each wrong field is a key as well."""
        fields = flat.make_error_fields(error) if self._is_flat else {}
        return {**fields, **super().make_error_body(error)}


class KBatchJobHandler(KBatchHandler):
    """One job."""

    @needs_scope("read", whose="job")
    async def get(self, name: str) -> None:
        """Show the job."""
        job = await self.services.jobs.get(self.user, name)
        env: Mapping[str, str | None] = await self.services.jobs.read_env(job)
        if job.user != self.user.name:
            env = dict.fromkeys(env)
        self.send_json(manifests.make_job(job, env=env))

    @needs_scope("cancel", whose="job")
    async def delete(self, name: str) -> None:
        """Cancel the job if it has not ended, and delete it."""
        await self.services.jobs.delete(self.user, name)
        self.send_json(manifests.make_deleted(name))


class KBatchPodsHandler(KBatchHandler):
    """The attempts of all jobs, or of one, as pods."""

    @needs_scope("read", whose="self", is_costly=True)
    async def get(self) -> None:
        """List pods; ``job_name`` is the id of a job whose pods to list."""
        job_name = self.get_query_argument("job_name", "")
        await self.send_list("Pod", self._job(job_name) if job_name else self.pages(), _make_pods)

    async def _job(self, name: str) -> AsyncIterator[list[Job]]:
        with suppress(NotFound):  # Kubernetes, too, lists no pods of a job that does not exist
            yield [await self.services.jobs.get(self.user, name)]


class KBatchPodHandler(KBatchHandler):
    """One attempt of a job, as a pod."""

    @needs_scope("read", whose="job")
    async def get(self, name: str) -> None:
        """Show the pod."""
        job, pod_name = await self.find_job_of(name)
        for pod in job.pods:
            if pod.name == pod_name:
                self.send_json(manifests.make_pod(job, pod))
                return
        raise NotFound(f"Pod {name!r} not found.")


class KBatchLogHandler(StreamHandler, KBatchHandler):
    """The log of a job or of a pod, by the name of either: 0.4.2 requests both at the same URL."""

    @needs_scope("read", whose="job")
    async def get(self, name: str) -> None:
        """Send the log: all of it, or with ``stream`` as it grows."""
        await self.run_while_connected(self._send(name, follow=read_flag(self, "stream")))

    async def _send(self, name: str, *, follow: bool) -> None:
        place = self.services.throttle.stream if follow else self.services.throttle.download
        self._held.enter_context(place(self.user))
        self.counts_unread = follow
        job, pod = await self.find_job_of(name)
        try:
            selection = LogSelection(pod=pod)
            pieces = await self.services.jobs.logs(self.user, job.id, selection, follow=follow)
        except NotFound as error:
            if job.is_over:
                raise
            raise Conflict(error.message, reason=error.reason) from None  # not 404: the log will exist later
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_header("X-Accel-Buffering", "no")
        if follow:
            pieces = self.until_cut_off(pieces, owner=job.user)
        is_kbatch = self.request.headers.get("User-Agent", "").startswith("python-httpx")
        async with aclosing(pieces):
            if not is_kbatch:
                await self._send_bytes(pieces)
            elif follow:
                await self._send_chunks(self.in_parts(pieces))
            else:
                await self._send_lines(self.in_parts(pieces))

    async def _send_bytes(self, pieces: AsyncGenerator[ShownPiece]) -> None:
        await self.flush()
        async for piece in pieces:
            await self.send_piece(piece.data)
        if self.cut_off:
            self.write(make_last_line(self.cut_off))

    async def _send_lines(self, pieces: AsyncGenerator[ShownPiece]) -> None:
        """Send the lines as a terminal shows them."""
        chunker = LineChunker()
        async for piece in pieces:
            await self.draw(chunker, LineChunker.add, piece.data)
            if lines := await self.draw(chunker, LineChunker.take):
                await self.send_piece(lines + b"\n")
        self.write(await self.draw(chunker, LineChunker.take, final=True))

    async def _send_chunks(self, pieces: AsyncGenerator[ShownPiece]) -> None:
        """Send chunks of complete lines without their last newline: see LineChunker.

        They are compressed, because an empty block of deflate is no text but is traffic: it keeps the client
        from giving up on a job that is silent for a minute.
        """
        encoder: Compressor | None = None
        if "gzip" in self.request.headers.get("Accept-Encoding", ""):
            encoder = Compressor()
            self.set_header("Content-Encoding", "gzip")
            self.write(encoder.head)
        await self.flush()
        now = asyncio.get_running_loop().time
        chunker, sent_at = LineChunker(), now()
        looked_at = sent_at  # when a progress bar was last looked for
        async with aclosing(with_ticks(pieces, GATHER_SECONDS)) as ticking:
            async for piece in ticking:
                if piece is not None:
                    await self.draw(chunker, LineChunker.add, piece.data)
                # since this handler wrote, not the job: a job that always writes must be shown, too
                silent_seconds = now() - sent_at
                lines = b""
                if chunker.is_full or silent_seconds >= GATHER_SECONDS:
                    lines = await self.draw(chunker, LineChunker.take)
                if lines or now() - looked_at >= BAR_SECONDS:
                    lines = lines or await self.draw(chunker, LineChunker.show_bar)
                    looked_at = now()
                if not lines and encoder and silent_seconds >= KEEP_ALIVE_SECONDS:
                    await self.send_piece(encoder.EMPTY_BLOCK)
                elif not lines:
                    continue
                for chunk in part_lines(lines, FLUSH_BYTES):
                    await self.send_piece(encoder.compress(chunk) if encoder else chunk, is_whole=True)
                sent_at = now()
        rest = await self.draw(chunker, LineChunker.take, final=True)
        if self.cut_off:
            rest += make_last_line(self.cut_off).rstrip().encode()
        self.write(encoder.compress(rest, final=True) if encoder else rest)


class Compressor:
    """gzip, piece by piece: the client can read each piece immediately."""

    EMPTY_BLOCK = b"\x00\x00\x00\xff\xff"
    """A stored block of no bytes (RFC 1951, 3.2.4); valid at a byte boundary, where each piece ends."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(wbits=31)
        self.head = self._deflate.compress(b"") + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def compress(self, data: bytes, *, final: bool = False) -> bytes:
        """Return the compressed form of these bytes, which decodes to exactly these."""
        return self._deflate.compress(data) + self._deflate.flush(
            zlib.Z_FINISH if final else zlib.Z_SYNC_FLUSH
        )


class KBatchUploadsHandler(ReceivingHandler, KBatchHandler):
    """The first client's uploads."""

    @needs_scope("submit", whose="self", body=True, spends="upload")
    async def post(self) -> None:
        """Store a ZIP of code."""
        upload = await self.finish_upload()
        if upload is None:
            return
        self.send_json({**upload.to_dict(), "url": f"{self.root}uploads/{upload.id}/"}, status=201)

    def make_error_body(self, error: KBatchError) -> dict[str, Any]:
        """Return the error; for a wrong file only the message, which this client expects."""
        if isinstance(error, InvalidRequest) and error.details and error.details[0]["field"] == "file":
            return {"file": [error.details[0]["message"]]}
        return {**flat.make_error_fields(error), **super().make_error_body(error)}


class KBatchUploadHandler(KBatchHandler):
    """One upload."""

    @needs_scope("submit", whose="upload")
    async def get(self, upload_id: str) -> None:
        """Show the upload."""
        upload = await self.services.uploads.get(self.user, upload_id)
        self.send_json({**upload.to_dict(), "url": f"{self.root}uploads/{upload.id}/"})


class KBatchProfilesHandler(KBatchHandler):
    """The profiles, which the client requests without a token."""

    @needs_nothing(whose="anybody")
    async def get(self) -> None:
        """Show the profiles, by slug; without a user, those of all users."""
        self.send_json(kbatch.make_profiles(await self.services.profiles.list(self.current_user)))


class KBatchAuthorizedHandler(KBatchHandler):
    """Whether a token is valid; ``kbatch configure`` asks this."""

    @needs_user(whose="self")
    async def get(self) -> None:
        """Show the token's user."""
        self.send_json({"name": self.user.name, "groups": list(self.user.groups)})


class KBatchCronJobsHandler(KBatchHandler):
    """Schedules, which are not supported yet."""

    @needs_user(whose="anybody", body=True)
    async def get(self, *_: str) -> None:
        """Answer that schedules are not supported."""
        raise NotSupported("Cronjobs are not supported yet: submit jobs instead.")

    post = get
    delete = get


def _make_pods(job: Job) -> list[dict[str, Any]]:
    return [manifests.make_pod(job, pod) for pod in job.pods]


default_handlers = [
    (r"authorized/?", KBatchAuthorizedHandler),
    (r"profiles/?", KBatchProfilesHandler),
    (r"uploads/?", KBatchUploadsHandler),
    (r"uploads/([^/]+)/?", KBatchUploadHandler),
    (r"jobs/?", KBatchJobsHandler),
    (r"jobs/logs/([^/]+)/?", KBatchLogHandler),
    (r"jobs/([^/]+)/?", KBatchJobHandler),
    (r"pods/?", KBatchPodsHandler),
    (r"pods/logs/([^/]+)/?", KBatchLogHandler),
    (r"pods/([^/]+)/?", KBatchPodHandler),
    (r"cronjobs(?:/.*)?", KBatchCronJobsHandler),
]
