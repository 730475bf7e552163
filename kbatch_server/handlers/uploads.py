"""``api/v1/uploads``: streams a ZIP of code to the storage; jobs fetch it at ``code/…``."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

from ..errors import InvalidRequest, NotFound, TooLarge, Unavailable
from ..models.upload import Upload, UploadJson
from ..storage.base import ObjectNotFound, StorageError
from ..web.access import needs_nothing, needs_scope
from ..web.answers import answers
from ..web.body import IDLE_SECONDS, BodyStream
from ..web.multipart import ROOM_BYTES, FilePart
from ..web.query import read_range
from .base import BaseHandler


class ReceivingHandler(BaseHandler):
    """A handler whose body is a ZIP, raw or in a multipart form, which it streams to the storage."""

    def initialize(self, services: object) -> None:
        """Take the services."""
        super().initialize(services)  # type: ignore[arg-type]
        self._body_stream: BodyStream[Upload] = BodyStream(self.services.uploads.max_upload_seconds)
        self._part: FilePart | None = None
        self._is_complete = False

    @property
    def body_limit(self) -> int:
        """The maximum size of the body in bytes: the ZIP's limit, plus the parts around it."""
        limit = self.services.uploads.max_upload_bytes
        return limit + ROOM_BYTES if self._is_multipart() else limit

    def _check_length(self, size: int, **known: int) -> None:
        if size > self.body_limit:  # of a form, which has more than the ZIP, the ZIP's limit is told
            raise TooLarge.of_body(self.services.uploads.max_upload_bytes, size=size)

    def _is_multipart(self) -> bool:
        return self.request.headers.get("Content-Type", "").lower().startswith("multipart/form-data")

    async def begin(self) -> None:
        """Begin to receive; rejects a wrong type of body before it is sent."""
        content_type = self.request.headers.get("Content-Type", "")
        if self._is_multipart():
            self._part = FilePart(content_type)
        elif content_type.partition(";")[0].strip().lower() not in {
            "application/zip",
            "application/x-zip-compressed",
            "application/octet-stream",
        }:
            raise InvalidRequest.of_field("Content-Type", "must be application/zip or multipart/form-data")
        uploads = self.services.uploads
        self._held.enter_context(uploads.place(self.user))
        connection: Any = self.request.connection
        connection.set_body_timeout(uploads.max_upload_seconds + IDLE_SECONDS)  # were the storage to hang
        self._size = 0
        size = self.request.headers.get("Content-Length")
        declared = int(size) if size is not None and self._part is None else None
        receiving = asyncio.create_task(
            uploads.receive(self.user, self._body_stream.pieces(), declared_size=declared)
        )
        await self._body_stream.start(receiving)
        receiving.add_done_callback(self._refuse_unasked)

    def _refuse_unasked(self, receiving: asyncio.Task[Upload]) -> None:
        """Answer with an error that occurs while the client sends nothing, so that nobody waits for it."""
        if not (receiving.cancelled() or self._is_complete or self._client_gone):
            error = receiving.exception()
            if isinstance(error, Exception):
                self.refuse_soon(error)

    async def receive(self, chunk: bytes) -> None:
        """Pass on the part of the ZIP in a piece of the body."""
        piece = self._part.feed(chunk) if self._part is not None else chunk
        self._size += len(piece)
        if self._size > (limit := self.services.uploads.max_upload_bytes):
            raise TooLarge.of_body(limit, received=self._size)
        if piece:
            await self._body_stream.send(piece)

    async def finish_upload(self) -> Upload | None:
        """Return the upload, after the complete body; None if the client has gone."""
        self._is_complete = True
        if self._part is not None:
            self._part.finish()
        return await self.run_while_connected(self._body_stream.finish())

    def on_connection_close(self) -> None:
        """Discard what was received so far."""
        super().on_connection_close()
        self._body_stream.cancel()

    def on_finish(self) -> None:
        """Discard what was received so far, unless it is complete."""
        super().on_finish()
        self._body_stream.cancel()


class UploadsHandler(ReceivingHandler):
    """All uploads."""

    @needs_scope("submit", whose="self", body=("application/zip", "multipart/form-data"), spends="upload")
    @answers(UploadJson, status=201)
    async def post(self) -> None:
        """Store a ZIP of code."""
        upload = await self.finish_upload()
        if upload is None:
            return
        self.set_header("Location", f"{self.services.auth.base_url}api/v1/uploads/{upload.id}")
        self.send_json(upload.to_dict(), status=201)


class UploadHandler(BaseHandler):
    """One upload."""

    @needs_scope("submit", whose="upload")
    @answers(UploadJson)
    async def get(self, upload_id: str) -> None:
        """Show an upload."""
        self.send_json((await self.services.uploads.get(self.user, upload_id)).to_dict())


class CodeHandler(BaseHandler):
    """The ZIP of a job's code, for the holder of the signed URL: the job's init container."""

    @needs_nothing(whose="link")
    async def get(self, signed: str) -> None:
        """Send the ZIP, or the requested range of it."""
        upload = await self._find_code(signed)
        start, end = self._read_range(upload)
        if end - start < upload.code_size:
            self.set_status(206)
            self.set_header("Content-Range", f"bytes {start}-{end - 1}/{upload.code_size}")
        self._set_headers(upload, end - start)
        await self.run_while_connected(self._send(upload, start, end - start))

    @needs_nothing(whose="link")
    async def head(self, signed: str) -> None:
        """Send only the headers; a Range header has no effect."""
        upload = await self._find_code(signed)
        self._set_headers(upload, upload.code_size)

    async def _find_code(self, signed: str) -> Upload:
        upload = await self.services.links.get_code(signed)
        self.owner = upload.user
        self.know_sender()  # it may wait: then no stranger may take its connection
        return upload

    def _read_range(self, upload: Upload) -> tuple[int, int]:
        """Return start and end of the requested range; the whole ZIP if that is of another version."""
        condition = self.request.headers.get("If-Range")
        if condition not in {None, make_etag(upload)}:
            return 0, upload.code_size
        return read_range(self.request.headers.get("Range"), upload.code_size) or (0, upload.code_size)

    def _set_headers(self, upload: Upload, length: int) -> None:
        self.set_header("Content-Type", "application/zip")
        self.set_header("Accept-Ranges", "bytes")
        self.set_header("ETag", make_etag(upload))
        self.set_header("Content-Length", length)

    async def _send(self, upload: Upload, start: int, length: int) -> None:
        read = self.services.uploads.read(upload, start=start, length=length)
        try:
            async with self.services.throttle.fetch(upload.user), aclosing(read) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    self.write(piece)
                    await self.flush()
        except ObjectNotFound as error:
            self.log.error("the code of upload %s is not in the storage", upload.id)
            raise NotFound("The uploaded code no longer exists.") from error
        except StorageError as error:
            raise Unavailable(f"The code cannot be read now: {error}") from error


def make_etag(upload: Upload) -> str:
    """Return the ETag of an upload's code."""
    return f'"{upload.code_sha256}"'


default_handlers = [
    (r"api/v1/uploads/?", UploadsHandler),
    (r"api/v1/uploads/([^/]+)/?", UploadHandler),
    (r"code/([^/]+)", CodeHandler),
]
