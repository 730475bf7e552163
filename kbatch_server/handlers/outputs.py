"""``api/v1/jobs/{id}/outputs``: results, for users; jobs send them to ``outputs/…``."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from typing_extensions import TypedDict

from ..errors import InvalidRequest, Unavailable
from ..models.job import Job
from ..models.results import JobOutputs, OutputFile, OutputTar
from ..models.times import Moment, show_time
from ..outputs.selection import OUTPUTS, WORKDIR
from ..store.outputs import KeptOutputs
from ..web.access import Needs, needs_nothing, needs_scope
from ..web.answers import answers
from ..web.body import IDLE_SECONDS, BodyStream
from ..web.query import read_range
from .base import BaseHandler

TEXT = "text/plain; charset=utf-8"

SHOWN_TYPES = {
    **dict.fromkeys((".txt", ".log", ".md", ".csv", ".tsv"), TEXT),
    ".json": "application/json",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
}
"""Types that a browser may show, because they cannot contain scripts. It must save other files."""

MAX_UNREADABLE = 10**9

RANGE = {206: "The requested range."}
FILE = {**RANGE, 304: "The file still has the ETag of the request."}


class OutputFileJson(TypedDict):
    """A file of the results."""

    path: str
    size: int
    modified_at: Moment


class OmittedFileJson(TypedDict):
    """A file that was not saved."""

    path: str
    size: int


class OutputListJson(JobOutputs):
    """The results of a job, and the first omitted files."""

    items: list[OutputFileJson]
    omitted: list[OmittedFileJson]


class OutputsHandler(BaseHandler):
    """The list of a job's results."""

    @needs_scope("read", whose="job", is_costly=True)
    @answers(OutputListJson)
    async def get(self, job_id: str) -> None:
        """List the results of a job, by path."""
        job = await self.services.jobs.get(self.user, job_id)
        kept = await self.services.outputs.list(job)
        self.set_header("Content-Type", "application/json")
        # in a thread: ten thousand of them take a while
        self.write(await asyncio.to_thread(make_listing, kept, job.outputs))


class SandboxedHandler(BaseHandler):
    """A handler that sends files of a job, which are not trusted."""

    content_security_policy = "sandbox; default-src 'none'; frame-ancestors 'none'"
    cache_control = "private, no-cache"

    def offer(self, name: str, content_type: str | None) -> None:
        """Set a file's headers: the browser shows it if its type is safe, and saves it otherwise."""
        self.set_header("Content-Type", content_type or "application/octet-stream")
        way = "inline" if content_type in SHOWN_TYPES.values() else "attachment"
        self.set_header("Content-Disposition", make_disposition(way, name))

    async def send(self, pieces: AsyncGenerator[bytes]) -> None:
        """Send the pieces, as fast as the client reads them."""
        async with aclosing(pieces):
            async for piece in pieces:
                await self.send_piece(piece)


class OutputsZipHandler(SandboxedHandler):
    """All results of a job."""

    @needs_scope("read", whose="job", is_costly=True)
    @answers(media=("application/zip",))
    async def get(self, job_id: str) -> None:
        """Send all results of a job as a ZIP, created while it is sent."""
        job = await self.services.jobs.get(self.user, job_id)
        self._held.enter_context(self.services.throttle.download(self.user))
        pieces = await self.services.outputs.zip(job)
        self.offer(f"{job.id}.zip", "application/zip")
        await self.run_while_connected(self.send(pieces))


class OutputHandler(SandboxedHandler):
    """One file of a job's results."""

    @needs_scope("read", whose="job")
    @answers(media=("*/*",), also=FILE, errors=(416,))
    async def get(self, job_id: str, path: str) -> None:
        """Send a result, or the requested range of it."""
        job = await self.services.jobs.get(self.user, job_id)
        # before it is looked for, also for the headers alone: that is what costs, and not a small file
        self._held.enter_context(self.services.throttle.download(self.user))
        key, file = await self.services.outputs.find(job, path)
        self.offer(PurePosixPath(path).name, SHOWN_TYPES.get(PurePosixPath(path).suffix.lower()))
        self.set_header("Accept-Ranges", "bytes")
        self.set_header("Last-Modified", datetime.fromtimestamp(file.modified_at, UTC))
        # what a key names never changes
        self.set_header("Etag", f'"{key.rpartition("/")[2][:16]}-{file.offset}"')
        if self.check_etag_header():
            self.set_status(304)
            return
        start, end = self._read_range(file.size)
        self.set_header("Content-Length", end - start)
        if self.request.method == "GET":
            pieces = self.services.outputs.read(key, file.offset + start, end - start)
            await self.run_while_connected(self.send(pieces))

    @needs_scope("read", whose="job")
    @answers(also=FILE, errors=(416,))
    async def head(self, job_id: str, path: str) -> None:
        """Send only the headers of a result, with its size."""
        await self.get(job_id, path)

    def _read_range(self, size: int) -> tuple[int, int]:
        header = self.request.headers.get("Range")
        condition = self.request.headers.get("If-Range")
        if condition is not None and condition != self._headers["Etag"]:
            header = None
        found = read_range(header, size)
        if found is None:
            return 0, size
        start, end = found
        self.set_status(206)
        self.set_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        return start, end


class SentOutputsHandler(BaseHandler):
    """Receives a job's results from the holder of the signed URL: the job's sidecar."""

    _job: Job
    _body_stream: BodyStream[JobOutputs] | None = None

    async def _identify(self, needs: Needs) -> None:
        # the link identifies the sender, and allows a body
        self._job = await self.services.links.get_sending_job(self.path_args[0])
        self.owner = self._job.user

    def _check_length(self, size: int, **known: int) -> None:
        """Do nothing: ``begin`` and the receiver reject large bodies, because they record that in the job."""

    async def begin(self) -> None:
        """Begin to receive."""
        await self.services.outputs.check_size(self._job, self._read_length())
        max_seconds = self.services.uploads.max_upload_seconds
        connection: Any = self.request.connection
        connection.set_body_timeout(max_seconds + IDLE_SECONDS)
        self._body_stream = BodyStream(max_seconds)
        tar = OutputTar(
            _retried(self._body_stream.pieces()),
            left_out=self._read_unreadable(),
            pod=self.request.headers.get("X-Kbatch-Pod", "")[:253],
            folders=self._read_folders(),
        )
        await self._body_stream.start(asyncio.create_task(self._keep(tar), name=f"outputs {self._job.id}"))

    async def _keep(self, tar: OutputTar) -> JobOutputs:
        async with self.services.throttle.send(self._job.user):
            return await self.services.outputs.receive(self._job, tar)

    def _read_unreadable(self) -> int:
        text = self.request.headers.get("X-Kbatch-Unreadable", "0")
        if not (text.isascii() and text.isdigit() and int(text[:20]) < MAX_UNREADABLE):
            raise InvalidRequest.of_field("X-Kbatch-Unreadable", "must be a number")
        return int(text)

    def _read_folders(self) -> dict[str, str]:
        """Return the folders of the tar, from ``X-Kbatch-Folders: outputs=/kbatch-outputs workdir=/code``."""
        said = self.request.headers.get("X-Kbatch-Folders", "")[:1000].split()
        folders = dict(each.partition("=")[::2] for each in said)
        if not all(name in (OUTPUTS, WORKDIR) and path.startswith("/") for name, path in folders.items()):
            raise InvalidRequest.of_field("X-Kbatch-Folders", "must be like outputs=/PATH workdir=/PATH")
        return folders

    async def receive(self, chunk: bytes) -> None:
        """Pass on a piece of the body."""
        if self._body_stream is not None:
            await self._body_stream.send(chunk)

    @needs_nothing(whose="link", body=True)
    async def post(self, signed: str) -> None:
        """Save a tar of the job's results."""
        assert self._body_stream is not None  # noqa: S101 - admitted, so begun
        self.send_json((await self._body_stream.finish()).model_dump())

    def on_connection_close(self) -> None:
        """Discard what was received so far."""
        self._cancel()
        super().on_connection_close()

    def on_finish(self) -> None:
        """Discard what was received so far, unless it is complete."""
        super().on_finish()
        self._cancel()

    def _cancel(self) -> None:
        if self._body_stream is not None:
            self._body_stream.cancel()


async def _retried(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the pieces; if the connection hangs, raise an error that makes the sidecar try again."""
    try:
        async for piece in pieces:
            yield piece
    except InvalidRequest as error:
        raise Unavailable(error.message) from error


def make_listing(kept: KeptOutputs, summary: JobOutputs | None) -> bytes:
    """Return the JSON of a list of results, and of the first omitted files.

    One by one: a call for all of them would let no other thread run for as long as it takes.
    """
    return b"".join(_make_pieces(kept, summary))


def _make_pieces(kept: KeptOutputs, summary: JobOutputs | None) -> Iterator[bytes]:
    comma = '{"items": ['
    for file in kept.files:
        item: OutputFileJson = {
            "path": file.path,
            "size": file.size,
            "modified_at": show_time(_moment(file)),
        }
        yield f"{comma}{json.dumps(item)}".encode()
        comma = ", "
    left_out: list[OmittedFileJson] = [{"path": file.path, "size": file.size} for file in kept.omitted]
    omitted = json.dumps(left_out)
    known = "" if summary is None else ", " + json.dumps(summary.model_dump())[1:-1]
    yield f'{"" if kept.files else comma}], "omitted": {omitted}{known}}}\n'.encode()


def _moment(file: OutputFile) -> datetime:
    return datetime.fromtimestamp(file.modified_at, UTC)


def make_disposition(way: str, name: str) -> str:
    """Return a Content-Disposition with a name of any characters (RFC 6266)."""
    plain = re.sub(r"[^ !#-$&-\[\]-~]", "_", name)  # printable ASCII but for quote, percent and backslash
    encoded = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'{way}; filename="{plain}"{encoded}'


default_handlers = [
    (r"api/v1/jobs/([^/]+)/outputs/?", OutputsHandler),
    (r"api/v1/jobs/([^/]+)/outputs\.zip", OutputsZipHandler),
    (r"api/v1/jobs/([^/]+)/outputs/(.+)", OutputHandler),
    (r"outputs/([^/]+)", SentOutputsHandler),
]
