"""Receives the users' code, checks it, and keeps it for as long as jobs may need it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from traitlets import Instance, Integer
from traitlets.config import LoggingConfigurable

from ..audit import AuditEntry
from ..bytesize import ByteSize
from ..errors import InsufficientStorage, TooLarge, TooManyRequests, Unavailable
from ..metrics import LIMITS_HELD, UPLOADED_BYTES, UPLOADS
from ..models.times import utcnow
from ..models.upload import Upload, make_upload_key
from ..models.user import User
from ..ratelimit import ConcurrencyLimit, FairLimit, RateLimit
from ..slugs import make_upload_id
from ..storage.base import ObjectNotFound, Storage, StorageError, StorageFull
from ..storage.diskspace import DiskSpace
from ..store.uploads import UploadStore
from .zipcheck import Archive, Reader, check_archive, rewrite_archive

CHECKS = 2
"""The number of ZIPs to check at the same time: each check inflates one, which needs a CPU."""

CHECK_SECONDS = 600
"""Maximum duration of a check: ten times what 10 GiB need."""

CHECK_WAIT_SECONDS = 600
"""Seconds that a ZIP may wait for its turn to be checked."""

HOUR_SECONDS = 3600

DECODINGS = 2
"""The number of large JSON bodies with code that may be in memory in several forms at the same time."""

SETTLE_SECONDS = 10
"""Seconds to wait, when the service stops, for interrupted uploads to be cleaned up."""


class Uploads(LoggingConfigurable):
    """The ZIPs of code: each has an object in the storage and a row in the store, never only one of them."""

    max_upload_bytes = ByteSize(
        2**30,
        min=1,
        help="""The maximum size, in bytes, of one ZIP. The service streams it: a larger ZIP needs no more
        memory.
        """,
        config=True,
    )

    upload_ttl_seconds = Integer(
        7 * 24 * 3600,
        min=60,
        help="""Seconds until the service removes an upload that no job uses, counted from when a user last
        sent it.
        """,
        config=True,
    )

    max_upload_seconds = Integer(
        3600,
        min=1,
        help="""Seconds within which a client must send a ZIP; the service rejects slower ones.""",
        config=True,
    )

    concurrent_uploads_per_user = Integer(
        4,
        min=1,
        help="""The maximum number of ZIPs that a user may send at the same time; one more gets 429.

        The JSON of a job with code in it counts as well if it is larger than a megabyte.
        """,
        config=True,
    )

    concurrent_uploads = Integer(
        32,
        min=1,
        help="""The maximum number of ZIPs that all users may send at the same time; one more gets 503.

        Each takes a few megabytes of memory, with some storages up to 16.
        """,
        config=True,
    )

    inflated_bytes_per_hour = ByteSize(
        100 * 2**30,
        help="""The average size, in bytes, of unpacked ZIPs that the service checks for one user per hour.

        An integer, or a string like ``100G``. A ZIP that would exceed it gets 429. Each replica counts
        separately. A check inflates the whole ZIP, which takes about four seconds per GiB. Users take turns,
        and the service checks one ZIP per user at a time.
        """,
        config=True,
    )

    disk = Instance(DiskSpace)
    storage = Instance(Storage)
    records = Instance(UploadStore)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._places = ConcurrencyLimit(
            per_user=self.concurrent_uploads_per_user,
            total=self.concurrent_uploads,
            limit="concurrent_uploads",
            what="uploads",
        )
        self._checks = FairLimit(per_user=1, total=CHECKS, limit="concurrent_checks", what="uploads to check")
        bytes_per_hour = self.inflated_bytes_per_hour
        self._inflated = RateLimit(per_second=bytes_per_hour / HOUR_SECONDS, burst=bytes_per_hour)
        self._under_way: set[asyncio.Task[Any]] = set()
        self.decoding = asyncio.Semaphore(DECODINGS)
        """Held while a job's JSON with code is in memory in more than one form."""

    def place(self, user: User) -> AbstractContextManager[None]:
        """Count an upload of a user while it arrives.

        Raises TooManyRequests at the user's limit, and Unavailable at the limit of all users.
        """
        return self._places.take(user.name)

    async def receive(
        self, user: User, chunks: AsyncIterable[bytes], *, declared_size: int | None = None
    ) -> Upload:
        """Store the ZIP that ``chunks`` yields, and return its upload.

        If the same user sends the same content again, it returns the earlier upload, whose time to live
        starts again. Raises TooLarge, InvalidRequest (with the problem of the ZIP), Forbidden (the user
        stores too much), InsufficientStorage, Unavailable (of the storage) and TooManyRequests. If it raises
        or is cancelled, it leaves nothing behind.
        """
        if declared_size is not None and declared_size > self.max_upload_bytes:
            raise TooLarge.of_body(self.max_upload_bytes, size=declared_size)
        await self.disk.check(user.name, declared_size or 0)
        counted = _Counted(chunks, self.max_upload_bytes)
        upload = self._make_upload(user, counted)
        task = asyncio.current_task()
        if task is not None:
            self._under_way.add(task)
        try:
            with _unavailable():
                await self.storage.write(upload.key, counted)
                upload = self._make_upload(user, counted, upload_id=upload.id)
                kept = await self._accept(upload)
        except BaseException:
            await self._discard(upload)
            raise
        finally:
            if task is not None:
                self._under_way.discard(task)
        UPLOADS.inc()
        UPLOADED_BYTES.inc(kept.size)
        self.log.info("upload %s: %d bytes from %s", kept.id, kept.size, kept.user)
        return kept

    async def _accept(self, upload: Upload) -> Upload:
        """Return the upload for the new object: a new one, or the user's earlier one of this content."""
        earlier = await self.records.renew(upload)
        if earlier is not None and await self._is_whole(earlier):
            await self._delete(upload)
            return earlier
        upload, plain = await self._check(upload)
        if plain is None:
            return await self._keep(upload)
        try:
            kept = await self._keep(plain)
            await self._delete(upload)
        except BaseException:
            await self._discard(plain)
            raise
        return kept

    async def settle(self) -> None:
        """Wait for the cleanup of interrupted uploads; to be called at the end, when no more can arrive."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=SETTLE_SECONDS)

    async def get(self, user: User, upload_id: str) -> Upload:
        """Return an upload of this user, or raise NotFound."""
        return await self.records.get(upload_id, user=user.name)

    def read(self, upload: Upload, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield ``length`` bytes of the ZIP (or all) from ``start`` on; raises StorageError."""
        return self.storage.read(upload.key, start=start, length=length)

    async def delete_expired(self, upload_id: str, *, audit: AuditEntry | None = None) -> bool:
        """Delete an expired upload and return True; False if a job uses it, or it was sent again.

        Raises StorageError; then no job can use the upload any more, and the caller must call this again.
        """
        if not await self.records.begin_delete(upload_id, now=utcnow(), audit=audit):
            return False
        await self.storage.delete(make_upload_key(upload_id))
        await self.records.delete(upload_id)
        return True

    def _make_upload(self, user: User, counted: _Counted, *, upload_id: str = "") -> Upload:
        """Return the upload of the counted bytes."""
        now = utcnow()
        return Upload(
            upload_id or make_upload_id(),
            user.name,
            counted.size,
            counted.sha256,
            now,
            now + timedelta(seconds=self.upload_ttl_seconds),
            code_size=counted.size,
            code_sha256=counted.sha256,
        )

    def _reader(self, upload: Upload) -> Reader:
        """Return a function that reads a part of an upload's object."""
        return lambda start, length: self.read(upload, start=start, length=length)

    async def _check(self, upload: Upload) -> tuple[Upload, Upload | None]:
        """Return the upload with facts from its ZIP, and another if the ZIP had to be rewritten.

        Raises InvalidRequest, TooManyRequests, Unavailable, StorageError.
        """

        def admit(size: int) -> None:
            wait_seconds = self._inflated.take(upload.user, size)
            if wait_seconds:
                LIMITS_HELD.labels("inflated_bytes_per_hour").inc()
                raise TooManyRequests(
                    (
                        f"Your ZIPs of this hour exceed the limit of {self.inflated_bytes_per_hour} "
                        f"unpacked bytes: send this one again in {wait_seconds} s."
                    ),
                    details={"limit": self.inflated_bytes_per_hour},
                    retry_after_seconds=wait_seconds,
                )

        with self._in_time(upload):
            async with self._checks.take(upload.user, wait_seconds=CHECK_WAIT_SECONDS):
                async with asyncio.timeout(CHECK_SECONDS):
                    archive = await check_archive(upload.size, self._reader(upload), admit=admit)
                # in a thread: both look at each entry, of which a ZIP may have very many
                top_folder = await asyncio.to_thread(archive.directory.tree.find_top_folder)
                is_plain = await asyncio.to_thread(lambda: archive.directory.is_plain)
                upload = replace(upload, top_folder=top_folder)
                if is_plain:
                    return upload, None
                return upload, await self._write_plain(upload, archive)

    async def _write_plain(self, upload: Upload, archive: Archive) -> Upload:
        """Write a ZIP again in a plain form, and return its upload."""
        plain = replace(upload, id=make_upload_id())
        counted = _Counted(rewrite_archive(archive, self._reader(upload)))
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self.storage.write(plain.key, counted)
        except BaseException:
            await self._discard(plain)
            raise
        return replace(plain, code_size=counted.size, code_sha256=counted.sha256)

    @contextlib.contextmanager
    def _in_time(self, upload: Upload) -> Iterator[None]:
        """Turn a timeout into an error for the user."""
        try:
            yield
        except TimeoutError:
            self.log.warning("upload %s: not checked in time", upload.id)
            raise Unavailable("The ZIP could not be checked in time. Send it again later.") from None

    async def _keep(self, upload: Upload) -> Upload:
        """Record an upload and return it, or the earlier one with the same content, with its object."""
        kept = await self.records.add(upload)
        if kept.id != upload.id:
            if kept.code_sha256 == upload.code_sha256 and not await self._is_whole(kept):
                self.log.warning("upload %s: its object was missing, and is restored", kept.id)
                await self.storage.write(kept.key, self.read(upload))
            await self._delete(upload)
        return kept

    async def _is_whole(self, upload: Upload) -> bool:
        try:
            return await self.storage.get_size(upload.key) == upload.code_size
        except ObjectNotFound:
            return False

    async def _discard(self, upload: Upload) -> None:
        """Remove everything of an upload that was not accepted, even if this is cancelled."""
        task = asyncio.create_task(self._withdraw(upload), name=f"discard-{upload.id}")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        await asyncio.shield(task)

    async def _withdraw(self, upload: Upload) -> None:
        try:
            if await self.records.withdraw(upload):
                await self._delete(upload)
        except Unavailable as error:  # a row expires; an object without one is deleted later
            self.log.warning("upload %s: rejected, but its record could not be removed: %s", upload.id, error)

    async def _delete(self, upload: Upload) -> None:
        """Delete an object without a row; if that fails, the retention deletes it later."""
        try:
            await self.storage.delete(upload.key)
        except StorageError as error:
            self.log.warning(
                "upload %s: rejected, but its object could not be deleted yet: %s", upload.id, error
            )


class _Counted:
    """Passes on chunks, and counts their size and SHA-256."""

    def __init__(self, chunks: AsyncIterable[bytes], limit: int | None = None) -> None:
        self._chunks = chunks
        self._limit = limit
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            self.size += len(chunk)
            if self._limit is not None and self.size > self._limit:
                raise TooLarge.of_body(self._limit, received=self.size)
            self._hash.update(chunk)
            yield chunk


@contextlib.contextmanager
def _unavailable() -> Iterator[None]:
    """Turn an error of the storage into one for the user."""
    try:
        yield
    except StorageFull as error:
        raise InsufficientStorage(
            "The storage is full. Tell an admin of the hub.", retry_after_seconds=600
        ) from error
    except StorageError as error:
        raise Unavailable("The storage does not respond. Try again in a moment.") from error
