"""The common base of S3Storage and GCSStorage: stores objects in a bucket with obstore."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from traitlets import Bool, Integer, Unicode

from ..aio import wait_unless_ended
from .base import ObjectNotFound, Storage, StorageError, StoredObject
from .pieces import check_key, check_prefix, is_key, regroup
from .remote import ServiceRefused, finish, make_error


class Abandoned(Exception):
    """Nobody wants the object any more; raised so that obstore aborts its upload."""


class PartFeed:
    """An asynchronous iterator of bytes, whose writer is always one piece ahead."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._is_abandoned = False
        self._is_drained = False

    async def send(self, piece: bytes | None, reader: asyncio.Future[Any]) -> None:
        """Pass on a piece, or None for the end; also returns if the reader has failed and takes no more."""
        await wait_unless_ended(self._queue.put(piece), reader)

    def abandon(self) -> None:
        """Raise Abandoned in the reader, in place of the remaining data."""
        self._is_abandoned = True
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(b"")

    def __aiter__(self) -> PartFeed:
        return self

    async def __anext__(self) -> bytes:
        if self._is_drained:
            raise Abandoned
        piece = await self._queue.get()
        if self._is_abandoned:
            # Before obstore takes a piece, even an empty one, it waits for the part that it sends. A part
            # that arrived after the abort would stay in the bucket and cost money.
            self._is_drained = True
            return b""
        if piece is None:
            raise StopAsyncIteration
        return piece


PART_BYTES = 5 * 2**20
"""The size of a part of an upload. Services accept no smaller parts, and at most 10,000, so the limit is 48
GiB."""

FED_BYTES = 256 * 1024
"""Bytes to pass to obstore at a time, which makes parts of them."""

READ_BYTES = 4 * 2**20
"""Bytes to read in one request, so that a slow client holds no connection to the storage."""

PAGE_OBJECTS = 1000

MAX_URL_SECONDS = 7 * 86400
"""The maximum validity of a signed URL: a week."""

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_HOST = re.compile(r"Error performing [A-Z]+ \w+://(?:[^/@ ]*@)?([^/ ]+)")


class BucketStorage(Storage):
    """A bucket of objects, named by their keys.

    A subclass makes obstore's client: see S3Storage and GCSStorage.
    """

    bucket = Unicode(help="""The bucket's name. The bucket must exist.""", config=True)

    prefix = Unicode(
        help="""A folder in the bucket for all objects, like ``kbatch/prod``. Default: none.""",
        config=True,
    )

    endpoint = Unicode(
        help="""The URL of the storage service, if it is not the public cloud: ``https://s3.example.org``.""",
        config=True,
    )

    endpoint_for_jobs = Unicode(
        help="""The URL of the storage service from inside a job, for signed URLs. Default: ``endpoint``.""",
        config=True,
    )

    allow_http = Bool(
        False,
        help="""Allow an ``endpoint`` that begins with ``http:``. Code and logs are then sent unencrypted.""",
        config=True,
    )

    ca_file = Unicode(
        help="""A PEM file with the CA certificates for the endpoint, in addition to the system's.""",
        config=True,
    )

    sign_urls = Bool(
        help="""Let jobs fetch their code from the bucket directly, with a URL that can only read this one
        object.

        If jobs cannot reach the bucket, set this to False: then they fetch their code from the service.
        Default: True if the service has a permanent key. A URL that is signed with temporary credentials,
        such as those of a workload identity, expires with them, which may be before the job starts.
        """,
        config=True,
    )

    timeout_seconds = Integer(
        60,
        min=1,
        help="""Seconds after which a request to the storage service fails, including its retries.""",
        config=True,
    )

    service = ""
    """The name of the service in errors; each subclass has its own."""

    _obstore: Any = None
    _store: Any = None
    _store_for_jobs: Any = None

    async def open(self) -> None:
        """Create the client; raises StorageError for a missing or wrong setting, or the missing package."""
        name = type(self).__name__
        try:
            import obstore
        except ImportError as error:
            raise StorageError(f"{name} needs more packages: pip install kbatch-server[s3,gcs]") from error
        self._obstore = obstore
        if not self.bucket:
            raise StorageError(f"{name}.bucket must be set")
        for trait in ("endpoint", "endpoint_for_jobs"):
            url = getattr(self, trait)
            if url and not url.startswith(("https://", "http://") if self.allow_http else "https://"):
                raise StorageError(f"{name}.{trait} must begin with https:// (or allow_http must be set)")
        self._store = await self._make_store(self.endpoint)
        self._store_for_jobs = self._store
        if self.endpoint_for_jobs:
            self._store_for_jobs = await self._make_store(self.endpoint_for_jobs)

    async def _make_store(self, endpoint: str) -> Any:
        try:
            client_options = await asyncio.to_thread(self._make_client_options)
            return self._make_client(
                endpoint.rstrip("/"),
                prefix=self.prefix.strip("/") or None,
                client_options=client_options,
                retry_config={
                    "max_retries": 3,
                    "retry_timeout": timedelta(seconds=self.timeout_seconds),
                    "backoff": {
                        "init_backoff": timedelta(seconds=0.2),
                        "max_backoff": timedelta(seconds=5),
                        "base": 2,
                    },
                },
            )
        except OSError as error:
            raise StorageError(f"{type(self).__name__}.ca_file: {error.strerror}") from error
        except (self._obstore.exceptions.BaseError, ValueError):
            # the error's text may quote the invalid setting, perhaps a key
            raise StorageError(f"{type(self).__name__}: its settings are invalid") from None

    def _make_client(self, endpoint: str, **kwargs: Any) -> Any:
        raise NotImplementedError

    def _make_client_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "allow_http": self.allow_http,
            "connect_timeout": timedelta(seconds=min(10, self.timeout_seconds)),
            # half of it, so that there is time for a second try
            "timeout": timedelta(seconds=self.timeout_seconds / 2),
        }
        if self.ca_file:
            options["root_certificate"] = Path(self.ca_file).read_bytes()
        return options

    async def write(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        """Store the data of ``chunks`` under ``key`` and return its size in bytes."""
        check_key(key)
        pieces = regroup(chunks, FED_BYTES)
        first: deque[bytes] = deque()
        async for piece in pieces:
            first.append(piece)
            if len(first) * FED_BYTES > PART_BYTES:
                return await self._write_parts(key, _chain(first, pieces))
        content = b"".join(first)
        with self._mapped_errors():
            await finish(self._obstore.put_async(self._store, key, content, use_multipart=False))
        return len(content)

    async def _write_parts(self, key: str, pieces: AsyncIterator[bytes]) -> int:
        feed = PartFeed()
        putting = asyncio.ensure_future(
            # one part at a time: see PartFeed
            self._obstore.put_async(self._store, key, feed, chunk_size=PART_BYTES, max_concurrency=1)
        )
        size = 0
        try:
            async for piece in pieces:
                await feed.send(piece, putting)
                if putting.done():
                    break
                size += len(piece)
            await feed.send(None, putting)
        except BaseException:
            feed.abandon()
            with contextlib.suppress(Exception):  # the first error is raised
                await finish(putting)
            raise
        with self._mapped_errors():
            await finish(putting)
        return size

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield the object's bytes, or raise ObjectNotFound."""
        check_key(key)
        if length == 0:
            await self.get_size(key)
            return
        at = start
        end = None if length is None else start + length
        while end is None or at < end:
            piece, size = await self._get(
                key, at, at + READ_BYTES if end is None else min(at + READ_BYTES, end)
            )
            if piece:
                yield piece
            at += len(piece)
            if at >= size or not piece:
                break

    async def _get(self, key: str, start: int, end: int) -> tuple[bytes, int]:
        """Return the existing bytes from start to end, and the object's size."""
        try:
            with self._mapped_errors():
                found = await self._obstore.get_async(self._store, key, options={"range": (start, end)})
                return (await found.bytes_async()).to_bytes(), found.meta["size"]
        except ServiceRefused as error:
            if error.status != 416:
                raise
            return b"", 0  # nothing is there from start on

    async def get_size(self, key: str) -> int:
        """Return the object's size in bytes, or raise ObjectNotFound."""
        check_key(key)
        try:
            with self._mapped_errors():
                return int((await self._obstore.head_async(self._store, key))["size"])
        except ObjectNotFound:
            # a response to HEAD has no body, which would tell whether the object or the bucket is missing
            return (await self._get(key, 0, 1))[1]

    async def delete(self, key: str) -> None:
        """Delete the object with that key, if it exists."""
        with contextlib.suppress(ObjectNotFound), self._mapped_errors():
            await self._obstore.delete_async(self._store, check_key(key))

    async def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        """Yield the objects in a folder like ``uploads/``, or all of them (``""``), in any order."""
        folder = check_prefix(prefix) or None
        with self._mapped_errors():
            pages = self._obstore.list(self._store, prefix=folder, chunk_size=PAGE_OBJECTS)
            async for page in pages:
                for found in page:
                    if is_key(found["path"]):
                        yield StoredObject(found["path"], found["size"], found["last_modified"])

    async def make_url(self, key: str, *, expires_in_seconds: int) -> str | None:
        """Return a URL that reads this one object, for a week at most, or None unless ``sign_urls``."""
        check_key(key)
        if not self.sign_urls:
            return None
        expires_in = timedelta(seconds=min(expires_in_seconds, MAX_URL_SECONDS))
        with self._mapped_errors():
            url: str = await self._obstore.sign_async(self._store_for_jobs, "GET", key, expires_in)
        return url

    @contextlib.contextmanager
    def _mapped_errors(self) -> Iterator[None]:
        """Turn obstore's errors into ours, without their text, which contains signed URLs and more."""
        try:
            yield
        except (self._obstore.exceptions.BaseError, OSError, ValueError) as error:
            raise self._make_error(error) from None

    def _make_error(self, error: Exception) -> StorageError:
        text = str(error)
        status, code, host = (
            found[1] if (found := pattern.search(text)) else "" for pattern in (_STATUS, _CODE, _HOST)
        )
        if isinstance(error, FileNotFoundError) and code != "NoSuchBucket":
            return ObjectNotFound("the object is not in the storage")
        service = f"{self.service} at {host}" if host else self.service
        if status:
            return make_error(service, int(status), code)
        return StorageError(f"{service} does not respond ({type(error).__name__})")


async def _chain(first: deque[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the pieces in ``first``, releasing each, and then the rest."""
    while first:
        yield first.popleft()
    async for piece in rest:
        yield piece
