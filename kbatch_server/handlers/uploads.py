"""``api/v1/uploads``: a ZIP of code goes to the storage as it arrives; jobs fetch it at ``code/…``."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Generic, TypeVar

from ..errors import InvalidRequest, Unavailable
from ..models import Upload
from ..storage.base import StorageError
from .base import BaseHandler, too_large
from .multipart import FilePart
from .needs import needs_nothing, needs_scope

IDLE_SECONDS = 60
"""How long a client may send nothing in the middle of an upload."""

MULTIPART_ROOM_BYTES = 64 * 1024
"""What a multipart body may have beside the file: boundaries, headers, small other parts."""

QUEUE_PIECES = 16
"""How much of a body waits for the storage, at Tornado's 64 KiB a piece: then the client has to wait."""


Kept = TypeVar("Kept")


class Inflow(Generic[Kept]):
    """The body of a request on its way into the storage: a short queue with a task at its other end."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE_PIECES)
        self._receiving: asyncio.Task[Kept] | None = None

    def start(self, receiving: asyncio.Task[Kept]) -> None:
        """Take the task that reads the pieces."""
        self._receiving = receiving
        # its error is read by whoever sends or finishes; nobody does when the client has gone
        receiving.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def send(self, piece: bytes | None) -> None:
        """Pass on a piece, or the end (None); waits while the storage is slower than the client.

        Raises what the reader raised, when it does not want more.
        """
        assert self._receiving is not None  # noqa: S101 - started before the body comes
        put = asyncio.ensure_future(self._queue.put(piece))
        await asyncio.wait({put, self._receiving}, return_when=asyncio.FIRST_COMPLETED)
        if not put.done():
            put.cancel()
        if self._receiving.done():
            self._receiving.result()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the pieces until the end; raises InvalidRequest when the client stops in the middle."""
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    piece = await self._queue.get()
            except TimeoutError:
                raise InvalidRequest.of_field("body", f"nothing came for {IDLE_SECONDS} s") from None
            if piece is None:
                return
            yield piece

    async def finish(self) -> Kept:
        """Say that the body is complete and return what was made of it."""
        await self.send(None)
        assert self._receiving is not None  # noqa: S101
        return await self._receiving

    def cancel(self) -> None:
        """End the task, if it has not ended: nothing is kept of a half of an upload."""
        if self._receiving is not None:
            self._receiving.cancel()


class ReceivingHandler(BaseHandler):
    """A handler whose body is a ZIP, raw or in a multipart form, that is streamed to the storage."""

    def initialize(self, services: object) -> None:
        """Take the services."""
        super().initialize(services)  # type: ignore[arg-type]
        self._inflow: Inflow[Upload] = Inflow()
        self._part: FilePart | None = None

    @property
    def body_limit(self) -> int:
        """How many bytes the body may have: the ZIP's limit, and room for what is around it."""
        limit = self.services.uploads.max_upload_bytes
        return limit + MULTIPART_ROOM_BYTES if self._is_multipart() else limit

    def _is_multipart(self) -> bool:
        return self.request.headers.get("Content-Type", "").lower().startswith("multipart/form-data")

    async def begin(self) -> None:
        """Start to receive: a wrong kind of body is refused before it is sent."""
        content_type = self.request.headers.get("Content-Type", "")
        if self._is_multipart():
            self._part = FilePart(content_type)
        elif content_type.partition(";")[0].strip().lower() not in {
            "application/zip",
            "application/x-zip-compressed",
            "application/octet-stream",
        }:
            raise InvalidRequest.of_field("Content-Type", "must be application/zip or multipart/form-data")
        self._size = 0
        size = self.request.headers.get("Content-Length")
        declared = int(size) if size is not None and self._part is None else None
        receiving = self.services.uploads.receive(self.user, self._inflow.pieces(), declared_size=declared)
        self._inflow.start(asyncio.create_task(receiving))

    async def receive(self, chunk: bytes) -> None:
        """Pass a piece of the body on."""
        self._size += len(chunk)
        if self._size > self.body_limit:
            raise too_large(None, self.body_limit)
        piece = self._part.feed(chunk) if self._part is not None else chunk
        if piece:
            await self._inflow.send(piece)

    async def finish_upload(self) -> Upload:
        """Return the upload: the body is complete."""
        if self._part is not None:
            self._part.finish()
        return await self._inflow.finish()

    def on_connection_close(self) -> None:
        """Give up what was received so far."""
        self._inflow.cancel()
        super().on_connection_close()

    def on_finish(self) -> None:
        """Give up what was received so far, unless it is complete."""
        self._inflow.cancel()


class UploadsHandler(ReceivingHandler):
    """All uploads."""

    @needs_scope("submit")
    async def post(self) -> None:
        """Keep a ZIP of code."""
        upload = await self.finish_upload()
        self.set_header("Location", f"{self.services.auth.base_url}api/v1/uploads/{upload.id}")
        self.send_json(upload.to_dict(), status=201)


class UploadHandler(BaseHandler):
    """One upload."""

    @needs_scope("submit")
    async def get(self, upload_id: str) -> None:
        """Show the upload."""
        self.send_json((await self.services.uploads.get(self.user, upload_id)).to_dict())


class CodeHandler(BaseHandler):
    """The ZIP of a job's code, for whoever holds the signed URL: the job's init container."""

    @needs_nothing()
    async def get(self, signed: str) -> None:
        """Send the ZIP, or the one range of it that is asked for."""
        upload = await self.services.launchpad.get_code(signed)
        start, length = self._prepare_headers(upload.size)
        if self.request.method == "GET":
            await self.run_while_connected(self._send(upload, start, length))

    @needs_nothing()
    async def head(self, signed: str) -> None:
        """Send the headers only."""
        await self.get(signed)

    def _prepare_headers(self, size: int) -> tuple[int, int]:
        self.set_header("Content-Type", "application/zip")
        self.set_header("Accept-Ranges", "bytes")
        start, end = find_range(self.request.headers.get("Range"), size) or (0, size)
        if (start, end) != (0, size):
            self.set_status(206)
            self.set_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.set_header("Content-Length", end - start)
        return start, end - start

    async def _send(self, upload: Upload, start: int, length: int) -> None:
        try:
            async with aclosing(self.services.uploads.read(upload)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    part = piece[start : start + length]
                    start, length = max(start - len(piece), 0), length - len(part)
                    self.write(part)
                    await self.flush()
                    if not length:
                        return
        except StorageError as error:
            raise Unavailable(f"The code cannot be read now: {error}") from error


def find_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return start and end of the one range that a Range header names, or None for the whole.

    A header that is not understood, or that names several ranges, may be passed over (RFC 9110, 14.2).
    """
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header or "")
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    return (start, end) if start < end else None


default_handlers = [
    (r"api/v1/uploads/?", UploadsHandler),
    (r"api/v1/uploads/([^/]+)/?", UploadHandler),
    (r"code/([^/]+)", CodeHandler),
]
